"""The picture of a city that ``maptile inspect`` draws."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from data_prep.city.folder import City
from maptile_loc.report.marks import (
    CREDIT,
    DOTS_PER_INCH,
    GREY,
    ORANGE,
    draw_north,
    draw_scale,
    halo,
    title,
)
from maptile_loc.report.pictures import INK, map_view, paint

LONGER_SIDE_IN = 10.0
"""Length of the map's longer side, inches."""
GRID_TILES = 2000
"""Largest number of tiles whose grid is drawn; a larger grid is too dense."""
BACKGROUND = "#f6f4ef"
"""Colour of the map where it holds nothing."""
PATH_COLOUR = "#d9c08f"
"""Colour of paths."""
ROAD_COLOUR = "#7fa8cf"
"""Colour of roads."""
BUILDING_COLOUR = "#39434f"
"""Colour of buildings."""


def draw_city(city: City) -> Figure:
    """Draw the map of a city, its tile grid and the reference tile from which offsets count."""
    raster = city.raster
    width_m, height_m = raster.width * raster.resolution, raster.height * raster.resolution
    inch = LONGER_SIDE_IN / max(width_m, height_m)
    width, height = max(width_m * inch, 5.0), max(height_m * inch, 2.0)
    size = width + 0.5, height + 1.55
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0.25 / size[0], 0.6 / size[1], width / size[0], height / size[1]))
    tiles = city.tiles()
    day = "" if city.source_date is None else f" as of {city.source_date[:10]}"
    facts = [
        f"{width_m:,.0f} x {height_m:,.0f} m ({raster.area_km2:.2f} km\N{SUPERSCRIPT TWO})",
        f"{raster.resolution:g} m pixels",
        f"{len(tiles):,} tiles",
        f"{city.source}{day}",
    ]
    title(figure, city.name, facts)
    view = map_view(raster, np.zeros((0, 2)), 0.0)
    axes.imshow(
        paint(np.asarray(view.data), BACKGROUND, PATH_COLOUR, ROAD_COLOUR, BUILDING_COLOUR),
        extent=(view.west, view.east, view.south, view.north),
        interpolation="antialiased",
    )
    axes.set(xlim=(raster.west, raster.east), ylim=(raster.south, raster.north))
    axes.set(aspect="equal", xticks=[], yticks=[])
    _draw_tiles(axes, city, tiles)
    draw_north(axes)
    draw_scale(axes)
    figure.legend(
        handles=_legend(len(tiles) <= GRID_TILES),
        loc="lower left",
        bbox_to_anchor=(0.25 / size[0], 0.08 / size[1]),
        ncols=4,
        fontsize=9,
        frameon=False,
        borderaxespad=0,
    )
    position = 1 - 0.25 / size[0], 0.2 / size[1]
    figure.text(*position, CREDIT, ha="right", fontsize=9, color=INK)
    return figure


def _draw_tiles(axes: Any, city: City, tiles: gpd.GeoDataFrame) -> None:
    """Draw the grid of the tiles' edges, and the reference tile."""
    raster = city.raster
    if len(tiles) <= GRID_TILES:
        row, column = (np.unique(tiles[name]) for name in ("row", "col"))
        grid: dict[str, Any] = {"color": INK, "alpha": 0.12, "linewidth": 0.6}
        axes.vlines(raster.west + column * raster.resolution, raster.south, raster.north, **grid)
        axes.hlines(raster.north - row * raster.resolution, raster.west, raster.east, **grid)
    side = float(tiles["size"].iloc[0]) * raster.resolution
    corner = city.reference - side / 2
    axes.add_patch(Rectangle(tuple(corner), side, side, fill=False, edgecolor=ORANGE, linewidth=2))
    axes.annotate(
        "reference tile",
        (corner[0], corner[1] + side),
        (0, 4),
        textcoords="offset points",
        color=ORANGE,
        weight="bold",
        fontsize=9,
        path_effects=halo(ORANGE),
    )


def _legend(with_grid: bool) -> list[Any]:
    """Return the entries of the legend."""
    named = ((BUILDING_COLOUR, "building"), (ROAD_COLOUR, "road"), (PATH_COLOUR, "path"))
    swatches: list[Any] = [
        Patch(facecolor=colour, edgecolor=GREY, linewidth=0.6, label=label)
        for colour, label in named
    ]
    if with_grid:
        swatches.append(Line2D([], [], color=INK, alpha=0.3, linewidth=1, label="edge of a tile"))
    return swatches
