"""Views of one moment of a drive from above: the submap and the query tile."""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from data_prep.drive import Drive
from data_prep.geometry import rotate
from maptile_loc.perceive.ground import height_above_ground
from maptile_loc.perceive.query_tile import QuerySettings
from maptile_loc.report.inspect.moment import Moment
from maptile_loc.report.marks import GREY, draw_north, draw_scale, draw_vehicle, halo
from maptile_loc.report.pictures import INK, SEEN_COLOURS, seen_picture

LOWEST_M = -2.0
"""Height above the ground at the lower end of the colour scale, metres."""
HIGHEST_M = 8.0
"""Height above the ground at the upper end of the colour scale, metres."""
CLOUD_PIXELS = 512
"""Pixels along each side of the picture of a submap."""
CLOUD_BACKGROUND = "#11151c"
"""Colour where a submap has no points."""


def draw_cloud(
    figure: Figure, axes: Any, moment: Moment, drive: Drive, settings: QuerySettings
) -> None:
    """Draw the submap from above, coloured by the height above the ground."""
    half = settings.size_m / 2
    seconds = (drive.scans.t_ns[moment.scan] - drive.scans.t_ns[0]) / 1e9
    what = f"{moment.submap_m:g} m of travel" if moment.submap_m > 0 else "one scan"
    axes.set_title(f"Submap from above: {what}, {seconds:.1f} s after the start", loc="left")
    axes.set_facecolor(CLOUD_BACKGROUND)
    if moment.submap is not None:
        points = moment.submap.points.copy()
        points[:, :2] = rotate(points[:, :2], moment.rotation)
        height = height_above_ground(points, np.zeros(2, np.float32), settings.ground_cell_m)
        image = axes.imshow(
            highest_points(points[:, :2], height, half),
            extent=(-half, half, -half, half),
            cmap="viridis",
            vmin=LOWEST_M,
            vmax=HIGHEST_M,
            interpolation="nearest",
        )
        _draw_heights(figure, axes, image)
    _finish(axes, moment, half, "white")


def draw_tile(axes: Any, moment: Moment, side_m: float) -> None:
    """Draw the query tile, ``side_m`` metres wide, with a legend of its channels."""
    axes.set_title(f"Query tile, {side_m:g} x {side_m:g} m: matched with the map", loc="left")
    axes.set_facecolor(SEEN_COLOURS["unobserved"])
    if moment.tile is not None:
        axes.imshow(
            seen_picture(moment.tile),
            extent=(-side_m / 2, side_m / 2, -side_m / 2, side_m / 2),
            interpolation="nearest",
        )
        swatches = [
            Patch(facecolor=colour, edgecolor=GREY, linewidth=0.6, label=label)
            for label, colour in SEEN_COLOURS.items()
        ]
        axes.legend(
            handles=swatches,
            loc="lower right",
            fontsize=9,
            ncols=5,
            framealpha=0.9,
            columnspacing=0.9,
            handlelength=1.3,
            handletextpad=0.5,
        )
    _finish(axes, moment, side_m / 2, INK)


def highest_points(
    xy: NDArray[np.floating], height: NDArray[np.float32], half_m: float
) -> NDArray[np.float32]:
    """Return (512, 512) heights of the highest point in each pixel, NaN without one; row 0 is +y.

    Args:
        xy: (N, 2) metres from the centre.
        height: (N,) metres.
        half_m: Metres from the centre to the edges.
    """
    step = 2 * half_m / CLOUD_PIXELS
    column = np.floor((xy[:, 0] + half_m) / step).astype(np.int64)
    row = np.floor((half_m - xy[:, 1]) / step).astype(np.int64)
    inside = (row >= 0) & (row < CLOUD_PIXELS) & (column >= 0) & (column < CLOUD_PIXELS)
    top = np.full(CLOUD_PIXELS**2, -np.inf, np.float32)
    np.maximum.at(top, (row * CLOUD_PIXELS + column)[inside], height[inside])
    top[np.isinf(top)] = np.nan
    return top.reshape(CLOUD_PIXELS, CLOUD_PIXELS)


def _draw_heights(figure: Figure, axes: Any, image: Any) -> None:
    """Draw the colour scale of the heights inside the view."""
    inset = axes.inset_axes((0.66, 0.03, 0.3, 0.02))
    ticks = [LOWEST_M, 0.0, HIGHEST_M / 2, HIGHEST_M]
    bar = figure.colorbar(image, cax=inset, orientation="horizontal", ticks=ticks)
    inset.set_xticklabels([*(f"{tick:g}" for tick in ticks[:-1]), f"{HIGHEST_M:g}+"])
    inset.tick_params(length=0, pad=2, labeltop=True, labelbottom=False)
    inset.set_title("metres above the ground", pad=4)
    for text in (inset.title, *inset.get_xticklabels()):
        text.set(fontsize=9, color="white", path_effects=halo("white"))
    bar.outline.set_edgecolor("white")


def _finish(axes: Any, moment: Moment, half_m: float, colour: str) -> None:
    """Draw the vehicle, the scale bar and the north arrow, or the reason why there is no view."""
    axes.set(xlim=(-half_m, half_m), ylim=(-half_m, half_m), aspect="equal", xticks=[], yticks=[])
    if moment.submap is None:
        trouble = textwrap.fill(moment.trouble, 60)
        axes.text(0, 0, trouble, ha="center", color=colour, parse_math=False)
        return
    draw_vehicle(axes, moment.rotation)
    draw_scale(axes, colour)
    if moment.heading is not None:
        draw_north(axes, colour)
        return
    axes.annotate(
        "forward is up; north is unknown",
        (0, 1),
        (8, -8),
        "axes fraction",
        "offset points",
        va="top",
        color=colour,
        path_effects=halo(colour),
    )
