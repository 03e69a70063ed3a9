"""The figure of a localized drive that ``Localization.plot`` returns."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from data_prep.counted import counted
from data_prep.geometry import Array
from maptile_loc.report.marks import BLUE, CREDIT, GREY, ORANGE, draw_north, draw_scale
from maptile_loc.report.pictures import INK, broken_line, coloured_map, ellipses, map_view
from maptile_loc.types import Estimates, Localization

MARGIN_M = 60.0
"""Metres of map shown around the trajectory."""
LONGER_SIDE_IN = 8.0
"""Length of the map's longer side in inches."""
SHORTEST_SIDE_IN = 3.5
"""Smallest width and height of the figure in inches."""


class TrajectoryFigure(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def draw_trajectory(found: Localization) -> Figure:
    """Return a figure of the final stage on the map, in metres from the map's centre.

    Localized queries are filled, the others hollow; a line joins consecutive localized queries;
    ellipses hold 95 % of each localized position's probability.
    """
    final = found.trajectory
    localized = final.localized & final.has_pose
    shown = localized if localized.any() else final.has_pose
    view = map_view(found.raster, final.poses[shown, :2], MARGIN_M)
    inch = LONGER_SIDE_IN / max(view.width, view.height)
    size = [max(side * inch, SHORTEST_SIDE_IN) for side in (view.width, view.height)]
    figure = TrajectoryFigure(figsize=(size[0] + 0.2, size[1] + 1.1), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    origin = found.raster.centre
    west, east = np.array([view.west, view.east]) - origin[0]
    south, north = np.array([view.south, view.north]) - origin[1]
    axes.imshow(coloured_map(view), extent=(west, east, south, north), interpolation="antialiased")
    _draw_queries(axes, final, origin)
    axes.set(xlim=(west, east), ylim=(south, north), aspect="equal", xticks=[], yticks=[])
    draw_north(axes)
    draw_scale(axes)
    axes.set_title(
        f"{found.drive_name} on {found.city_name}: {localized.sum()} of "
        f"{counted(len(localized), 'query')} localized, stage {found.final}",
        loc="left",
        fontsize=10,
        wrap=True,
        parse_math=False,
    )
    figure.legend(loc="outside lower left", ncols=4, fontsize=9, frameon=False)
    axes.annotate(CREDIT, (1, 0), (-4, 4), "axes fraction", "offset points", ha="right", fontsize=7)
    return figure


def _draw_queries(axes: Any, final: Estimates, origin: Array) -> None:
    """Draw one stage's positions, their 95 % ellipses and the line through the localized ones."""
    localized = final.localized & final.has_pose
    others = final.has_pose & ~final.localized
    position = final.poses[:, :2] - origin
    long, short, angle = ellipses(final.covariance[localized]).T
    axes.add_collection(
        EllipseCollection(
            2 * long,
            2 * short,
            np.degrees(angle),
            units="xy",
            offsets=position[localized],
            offset_transform=axes.transData,
            facecolor=ORANGE,
            edgecolor=ORANGE,
            linewidth=0.6,
            alpha=0.35,
            zorder=2,
        )
    )
    axes.fill([], [], color=ORANGE, alpha=0.35, label="95 % ellipse")
    line = broken_line(np.where(localized[:, None], position, np.nan))
    axes.plot(*line.T, color=BLUE, linewidth=1.2, zorder=3)
    axes.scatter(
        *position[localized].T,
        s=16,
        color=BLUE,
        edgecolors=INK,
        linewidths=0.4,
        zorder=4,
        label=f"localized ({localized.sum()})",
    )
    axes.scatter(
        *position[others].T,
        s=16,
        facecolors="none",
        edgecolors=GREY,
        linewidths=1.0,
        zorder=3,
        label=f"not localized ({others.sum()})",
    )
