"""The overview of an evaluated drive as one figure: map, truth, estimate, recall table."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from data_prep.geometry import Array
from maptile_loc.report.marks import CREDIT
from maptile_loc.report.metrics import RECALL_M, chance, pose_errors
from maptile_loc.report.number_text import number, percent
from maptile_loc.report.pictures import (
    ERROR_COLOURS,
    ERROR_LIMITS_M,
    INK,
    broken_line,
    coloured_map,
    map_view,
)
from maptile_loc.types import Localization

MARGIN_M = 60.0
"""Metres of map around the drive."""
TABLE_WIDTH_IN = 4.6
"""Width of the legend and the table beside the map, inches."""


def draw_overview(
    found: Localization,
    metrics: dict[str, Any] | None,
    truth: Array | None,
    positions: Array,
) -> Figure:
    """Draw the overview of a localized drive.

    Args:
        found: The localized drive.
        metrics: The content of ``metrics.json``; None without truth.
        truth: (Q, 3) true east, north, heading; None without truth.
        positions: (N, 2) east, north that the map has to show.
    """
    view = map_view(found.raster, positions, MARGIN_M)
    height = float(np.clip(9 * view.height / view.width, 4.5, 7.5))
    width = float(np.clip(height * view.width / view.height, 3.5, 9.5))
    size = width + TABLE_WIDTH_IN, height
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=[width, TABLE_WIDTH_IN])
    beside.axis("off")
    origin = found.raster.centre
    west, east = np.array([view.west, view.east]) - origin[0]
    south, north = np.array([view.south, view.north]) - origin[1]
    axes.imshow(coloured_map(view), extent=(west, east, south, north), interpolation="antialiased")
    _draw_trajectories(axes, found, truth, origin)
    if metrics is not None:
        _draw_table(beside, found, metrics)
    axes.set(xlim=(west, east), ylim=(south, north), aspect="equal")
    axes.set(xlabel="east, m", ylabel="north, m")
    name = f"{found.drive_name} on {found.city_name}"
    method = found.record.get("method", "unknown")
    axes.set_title(f"{name}, method {method}, {found.final}", loc="left", parse_math=False)
    handles = axes.get_legend_handles_labels()
    beside.legend(*handles, loc="upper left", bbox_to_anchor=(0, 0.57), frameon=False, fontsize=9)
    axes.annotate(CREDIT, (1, 0), (-4, 4), "axes fraction", "offset points", ha="right", fontsize=7)
    return figure


def _draw_trajectories(axes: Any, found: Localization, truth: Array | None, origin: Array) -> None:
    """Draw the truth as a line, and the localized queries coloured by their errors."""
    final = found.trajectory
    shown = final.localized & final.has_pose
    positions = final.poses[shown, :2] - origin
    if truth is None:
        label = f"localized ({shown.sum()})"
        axes.scatter(*positions.T, s=14, color=ERROR_COLOURS[0], label=label, zorder=3)
        return
    x, y = broken_line(truth[:, :2] - origin).T
    axes.plot(x, y, color="#20242c", linewidth=1.4, label="truth", zorder=2)
    metres = pose_errors(final.poses, truth)[0][shown]
    positions, metres = positions[~np.isnan(metres)], metres[~np.isnan(metres)]
    level = np.searchsorted(ERROR_LIMITS_M, metres)
    names = [*(f"within {limit} m" for limit in ERROR_LIMITS_M), f"over {ERROR_LIMITS_M[-1]} m"]
    for i, (name, colour) in enumerate(zip(names, ERROR_COLOURS, strict=True)):
        axes.scatter(
            *positions[level == i].T,
            s=16,
            color=colour,
            edgecolors=INK,
            linewidths=0.4,
            label=f"{name} ({(level == i).sum()})",
            zorder=3,
        )


def _draw_table(axes: Any, found: Localization, metrics: dict[str, Any]) -> None:
    """Draw the recall of every stage as a table."""
    head = ["", *(f"≤ {r} m" for r in RECALL_M), "median"]
    rows = [
        [name, *(percent(row[f"recall_{r}m"]) for r in RECALL_M), number(row["median_m"], "m")]
        for name, row in metrics["stages"].items()
    ]
    chances = [f"{100 * chance(r, found.search_area_km2):.2g} %" for r in RECALL_M]
    table = axes.table(
        [*rows, ["chance", *chances, ""]],
        colLabels=head,
        colWidths=[0.2, 0.16, 0.16, 0.16, 0.16, 0.16],
        bbox=(0.0, 0.6, 1.0, 0.4),
        cellLoc="right",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    for cell in table.get_celld().values():
        cell.set_edgecolor("#d9dee6")
