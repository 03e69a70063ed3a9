"""The picture of a city that ``maptile inspect`` draws."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from data_prep.city.folder import City
from data_prep.city.raster import ATTRIBUTION
from maptile_loc.report.marks import (
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
GRID_TILES = 2000
"""The grid of more tiles is too dense to be drawn."""
GROUND, PATH, ROAD, BUILDING = "#f6f4ef", "#d9c08f", "#7fa8cf", "#39434f"


def draw_city(city: City) -> Figure:
    """Draw a city's map, with the tile that offsets count from."""
    raster = city.raster
    view = map_view(raster, np.zeros((0, 2)), 0.0)
    width_m, height_m = raster.width * raster.resolution, raster.height * raster.resolution
    inch = LONGER_SIDE_IN / max(width_m, height_m)
    width, height = max(width_m * inch, 5.0), max(height_m * inch, 2.0)
    across, up = width + 0.5, height + 1.55
    figure = Figure(figsize=(across, up), dpi=DOTS_PER_INCH)
    axes = figure.add_axes((0.25 / across, 0.6 / up, width / across, height / up))
    tiles = city.tiles()
    day = "" if city.source_date is None else f" as of {city.source_date[:10]}"
    facts = [
        f"{width_m:,.0f} x {height_m:,.0f} m ({raster.area_km2:.2f} km\N{SUPERSCRIPT TWO})",
        f"{raster.resolution:g} m pixels",
        f"{len(tiles):,} tiles",
        f"{city.source}{day}",
    ]
    title(figure, city.name, facts)
    axes.imshow(
        paint(view.data, GROUND, PATH, ROAD, BUILDING),
        extent=(view.west, view.east, view.south, view.north),
        interpolation="antialiased",
    )
    axes.set(xlim=(raster.west, raster.east), ylim=(raster.south, raster.north))
    axes.set(aspect="equal", xticks=[], yticks=[])
    row, column = (np.unique(tiles[name]) for name in ("row", "col"))
    if len(tiles) <= GRID_TILES:
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
    draw_north(axes)
    draw_scale(axes)
    swatches: list[Any] = [
        Patch(facecolor=colour, edgecolor=GREY, linewidth=0.6, label=label)
        for colour, label in ((BUILDING, "building"), (ROAD, "road"), (PATH, "path"))
    ]
    if len(tiles) <= GRID_TILES:
        swatches.append(Line2D([], [], color=INK, alpha=0.3, linewidth=1, label="a tile begins"))
    figure.legend(
        handles=swatches,
        loc="lower left",
        bbox_to_anchor=(0.25 / across, 0.08 / up),
        ncols=4,
        fontsize=9,
        frameon=False,
        borderaxespad=0,
    )
    figure.text(
        1 - 0.25 / across,
        0.2 / up,
        ATTRIBUTION.replace("(c)", "\N{COPYRIGHT SIGN}"),
        ha="right",
        fontsize=9,
        color=INK,
    )
    return figure
