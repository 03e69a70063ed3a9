"""The map of a city's distinctive positions, with pairs of positions that look alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.geometry import Array
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
from maptile_loc.report.pictures import INK, Picture, map_crop, map_view, paint, rgb

MAP_IN = 9.0
"""Length of the map's longer side, inches."""
PAIR_IN = 1.44
"""Side of each tile of a pair, inches."""
PAIRS_PER_ROW = 3
"""Number of pairs below the map."""
CROP_M = 96.0
"""Side of each tile of a pair, metres."""
DOT_M = 20.0
"""Approximate distance between positions, which limits the size of their dots, metres."""
COLOURS = colormaps["RdYlBu"]
"""Colours of distinctiveness from 0 (red) to 1 (blue)."""
MAP_COLOURS = ("#fbfaf7", "#fbfaf7", "#eceae4", "#c9ccd1")
"""Colours of background, paths, roads and buildings."""


class Pair(NamedTuple):
    """Two positions that look alike.

    Attributes:
        position: (2,) true east, north of the vehicle, metres.
        alike: (2,) east, north of its look-alike.
        probability: Probability that the search gives to the look-alike.
        walls: (S, S) bool, walls observed at ``position``, north up.
        resolution: Metres per pixel of ``walls``.
    """

    position: Array
    alike: Array
    probability: float
    walls: NDArray[np.bool_]
    resolution: float


def draw_report(city: City, places: pd.DataFrame, pairs: list[Pair], facts: list[str]) -> Figure:
    """Return a figure: the city's positions coloured by distinctiveness, and look-alikes below.

    Args:
        city: The city.
        places: Table with ``east``, ``north`` and ``distinctiveness``.
        pairs: At most ``PAIRS_PER_ROW`` pairs.
        facts: Three texts for the title.
    """
    raster = city.raster
    width_m, height_m = raster.width * raster.resolution, raster.height * raster.resolution
    inch = MAP_IN / max(width_m, height_m)
    width = max(width_m * inch, 2 * PAIR_IN * PAIRS_PER_ROW + 0.8)
    height = max(height_m * inch, 2.0)
    below = PAIR_IN + 0.75 if pairs else 0.0
    size = width + 0.5, height + below + 1.75
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH)
    title(figure, f"Distinctive positions in {city.name}", facts[:2])
    figure.text(0.025, 1 - 0.72 / size[1], facts[2], fontsize=10, color=GREY, va="top")
    position = 0.25 / size[0], (below + 0.7) / size[1]
    axes = figure.add_axes((*position, width / size[0], height / size[1]))
    _draw_map(axes, city, places)
    for number, pair in enumerate(pairs, 1):
        ends = (pair.position, pair.alike)
        axes.plot(*np.array(ends).T, color=INK, linewidth=0.8, linestyle=":")
        for letter, (east, north) in zip("ab", ends, strict=True):
            _label(axes, f"{number}{letter}", east, north)
    _draw_colours(figure, below)
    _draw_pairs(figure, city, pairs)
    position = 1 - 0.25 / size[0], 0.06 / size[1]
    figure.text(*position, CREDIT, ha="right", fontsize=8, color=INK)
    return figure


def walls_on_map(city: City, pair: Pair, centre: Array) -> Picture:
    """Return an (S, S, 3) picture of the map around ``centre`` with the walls of a pair."""
    size = round(CROP_M / pair.resolution)
    spare = (len(pair.walls) - size) // 2
    walls = pair.walls[spare : spare + size, spare : spare + size]
    crop = map_crop(city.raster, centre[:, None, None], size, pair.resolution)
    picture = paint(crop, *MAP_COLOURS)
    picture[walls] = rgb(ORANGE).astype(np.uint8)
    return picture


def _draw_map(axes: Any, city: City, places: pd.DataFrame) -> None:
    """Draw the map and a dot per position."""
    raster = city.raster
    view = map_view(raster, np.zeros((0, 2)), 0.0)
    axes.imshow(
        paint(np.asarray(view.data), *MAP_COLOURS),
        extent=(view.west, view.east, view.south, view.north),
        interpolation="antialiased",
    )
    width_m = raster.width * raster.resolution
    points = axes.get_window_extent().width / width_m * DOT_M * 72 / DOTS_PER_INCH
    # Less distinctive positions are drawn on top.
    order = np.argsort(-places["distinctiveness"].to_numpy(), kind="stable")
    shown = places.iloc[order]
    axes.scatter(
        shown["east"],
        shown["north"],
        c=shown["distinctiveness"],
        cmap=COLOURS,
        vmin=0,
        vmax=1,
        s=float(np.clip(points * 0.8, 2.0, 7.0)) ** 2,
        linewidths=0.3,
        edgecolors=INK,
    )
    axes.set(xlim=(raster.west, raster.east), ylim=(raster.south, raster.north))
    axes.set(aspect="equal", xticks=[], yticks=[])
    draw_north(axes)
    draw_scale(axes)


def _draw_colours(figure: Figure, below: float) -> None:
    """Draw the colour scale, ``below`` inches above the figure's lower edge."""
    across, up = figure.get_size_inches()
    bar = figure.add_axes((0.25 / across, (below + 0.42) / up, 2.6 / across, 0.13 / up))
    figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=8, colors=GREY)
    figure.text(
        3.0 / across,
        (below + 0.43) / up,
        "probability of the true position: red looks like others, blue is unmistakable",
        fontsize=9,
        color=INK,
    )


def _draw_pairs(figure: Figure, city: City, pairs: list[Pair]) -> None:
    """Draw the walls observed at each pair's position on the map there and at its look-alike."""
    across, up = figure.get_size_inches()
    step = (across - 0.5) / PAIRS_PER_ROW
    for number, pair in enumerate(pairs, 1):
        for side, letter in enumerate("ab"):
            left = 0.25 + (number - 1) * step + side * (PAIR_IN + 0.05)
            corner = left / across, 0.3 / up
            axes = figure.add_axes((*corner, PAIR_IN / across, PAIR_IN / up))
            axes.imshow(walls_on_map(city, pair, pair.alike if side else pair.position))
            axes.set(xticks=[], yticks=[])
            text = f"{number}{letter}"
            text += f"  {100 * pair.probability:.0f} %" if side else ""
            axes.set_title(text, fontsize=9, color=INK, pad=3, loc="left")
    if pairs:
        text = "Walls observed at a (orange), on the map at a and at its look-alike b, with the "
        text += f"probability that the search gives to b; {CROP_M:g} m wide"
        figure.text(0.25 / across, 0.1 / up, text, fontsize=8, color=GREY)


def _label(axes: Any, text: str, east: float, north: float) -> None:
    """Draw a circle around a position, and its label."""
    axes.plot(east, north, "o", color="none", markeredgecolor=INK, markersize=11)
    axes.annotate(
        text,
        (east, north),
        (7, 5),
        textcoords="offset points",
        fontsize=10,
        weight="bold",
        color=INK,
        path_effects=halo(INK),
    )
