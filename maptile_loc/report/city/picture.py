"""The picture of what a city can tell: places red to blue, and pairs of places that look alike."""

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
from data_prep.city.raster import ATTRIBUTION
from data_prep.geometry import Array
from maptile_loc.report.marks import (
    DOTS_PER_INCH,
    GREY,
    ORANGE,
    draw_north,
    draw_scale,
    halo,
    title,
)
from maptile_loc.report.pictures import INK, Picture, map_crop, map_view, paint, rgb

MAP_IN, PAIR_IN = 9.0, 1.44
"""Inches along the map's longer side and across each tile of a pair."""
CROP_M = 96.0
COLOURS = colormaps["RdYlBu"]
_PAPER, _ROAD, _BUILDING = "#fbfaf7", "#eceae4", "#c9ccd1"


class Pair(NamedTuple):
    """Two places that look alike.

    Attributes:
        place: (2,) east, north of the place where the vehicle was, metres.
        alike: (2,) of that which looks like it.
        probability: That the vehicle is there, as the search says.
        walls: (S, S) bool, walls seen at ``place``, north up.
        resolution: Metres per pixel of them.
    """

    place: Array
    alike: Array
    probability: float
    walls: NDArray[np.bool_]
    resolution: float


def draw_report(city: City, places: pd.DataFrame, pairs: list[Pair], facts: list[str]) -> Figure:
    """Draw a city's places by ``distinctiveness``, and ``pairs`` below."""
    raster = city.raster
    width_m, height_m = raster.width * raster.resolution, raster.height * raster.resolution
    inch = MAP_IN / max(width_m, height_m)
    width, height = max(width_m * inch, 2 * PAIR_IN * 3 + 0.8), max(height_m * inch, 2.0)
    below = PAIR_IN + 0.75 if pairs else 0.0
    across, up = width + 0.5, height + below + 1.75
    figure = Figure(figsize=(across, up), dpi=DOTS_PER_INCH)
    title(figure, f"What {city.name} can tell", facts[:2])
    figure.text(0.025, 1 - 0.72 / up, facts[2], fontsize=10, color=GREY, va="top")
    axes = figure.add_axes((0.25 / across, (below + 0.7) / up, width / across, height / up))
    view = map_view(raster, np.zeros((0, 2)), 0.0)
    axes.imshow(
        paint(view.data, _PAPER, _PAPER, _ROAD, _BUILDING),
        extent=(view.west, view.east, view.south, view.north),
        interpolation="antialiased",
    )
    points = axes.get_window_extent().width / width_m * 20 * 72 / DOTS_PER_INCH
    # The places that look like others are drawn on top.
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
    for number, pair in enumerate(pairs, 1):
        axes.plot(*np.array([pair.place, pair.alike]).T, color=INK, linewidth=0.8, linestyle=":")
        for letter, (east, north) in zip("ab", (pair.place, pair.alike), strict=True):
            _label(axes, f"{number}{letter}", east, north)
    draw_north(axes)
    draw_scale(axes)
    bar = figure.add_axes((0.25 / across, (below + 0.42) / up, 2.6 / across, 0.13 / up))
    figure.colorbar(ScalarMappable(Normalize(0, 1), COLOURS), cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=8, colors=GREY)
    figure.text(
        3.0 / across,
        (below + 0.43) / up,
        "probability of the true place: red looks like others, blue is unmistakable",
        fontsize=9,
        color=INK,
    )
    _draw_pairs(figure, city, pairs)
    figure.text(
        1 - 0.25 / across,
        0.06 / up,
        ATTRIBUTION.replace("(c)", "\N{COPYRIGHT SIGN}"),
        ha="right",
        fontsize=8,
        color=INK,
    )
    return figure


def _draw_pairs(figure: Figure, city: City, pairs: list[Pair]) -> None:
    """Below the map, what was seen at one place of each pair, laid on both."""
    across, up = figure.get_size_inches()
    step = (across - 0.5) / 3
    for number, pair in enumerate(pairs, 1):
        for side, letter in enumerate("ab"):
            left = 0.25 + (number - 1) * step + side * (PAIR_IN + 0.05)
            place = (left / across, 0.3 / up, PAIR_IN / across, PAIR_IN / up)
            axes = figure.add_axes(place)
            axes.imshow(seen_on_map(city, pair, pair.alike if side else pair.place))
            axes.set(xticks=[], yticks=[])
            text = (
                f"{number}{letter}  {100 * pair.probability:.0f} %" if side else f"{number}{letter}"
            )
            axes.set_title(text, fontsize=9, color=INK, pad=3, loc="left")
    if pairs:
        text = "Walls seen at a (orange), on the map at a and at the place b that the search took "
        text += f"for it, with its probability; {CROP_M:g} m wide"
        figure.text(0.25 / across, 0.1 / up, text, fontsize=8, color=GREY)


def seen_on_map(city: City, pair: Pair, centre: Array) -> Picture:
    """(S, S, 3) the map around ``centre``, and on it the walls that were seen at ``pair.place``."""
    size = round(CROP_M / pair.resolution)
    spare = (len(pair.walls) - size) // 2
    walls = pair.walls[spare : spare + size, spare : spare + size]
    crop = map_crop(city.raster, centre[:, None, None], size, pair.resolution)
    picture = paint(crop, _PAPER, _PAPER, _ROAD, _BUILDING)
    picture[walls] = rgb(ORANGE).astype(np.uint8)
    return picture


def _label(axes: Any, text: str, east: float, north: float) -> None:
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
