"""One page about a localized drive, and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from data_prep.city.raster import ATTRIBUTION
from data_prep.errors import MaptileError
from data_prep.files import atomic_file, read_json, write_text
from maptile_loc.report.files import evaluate_run, read_result
from maptile_loc.report.metrics import RECALL_M, chance, pose_errors
from maptile_loc.report.page import number, percent, places_shown, render, truth_at_queries
from maptile_loc.report.pictures import (
    ERROR_COLOURS,
    ERROR_LIMITS_M,
    INK,
    broken_line,
    coloured_map,
    map_view,
)
from maptile_loc.types import Localization


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a result folder.

    A result that has not been evaluated yet is evaluated first; where that is impossible (no truth)
    the page shows no errors and says why.

    Returns:
        The page's path.

    Raises:
        MaptileError: No result is there, its city is gone, or the folder cannot be written.
    """
    result = read_result(folder)
    metrics, errors, reason = _evaluation(folder)
    page = render(result, metrics, errors, reason)
    path = folder / "report.html"
    write_text(path, page)
    return path


def overview_png(folder: Path, path: Path) -> None:
    """Draw the drive of a result folder as one picture: map, truth, estimate, recall table.

    Raises:
        MaptileError: As ``write_report``.
    """
    result = read_result(folder)
    metrics, errors, _ = _evaluation(folder)
    truth = None if errors is None else truth_at_queries(errors, result)
    final = result.stages[result.final]
    shown = final.localized & np.isfinite(final.poses[:, 0])
    view = map_view(result.raster, places_shown(result, truth), 60.0)
    height = float(np.clip(9 * view.height / view.width, 4.5, 7.5))
    width = float(np.clip(height * view.width / view.height, 3.5, 9.5))
    figure = Figure(figsize=(width + 4.6, height), dpi=130, layout="constrained")
    axes, beside = figure.subplots(1, 2, width_ratios=[width, 4.6])
    beside.axis("off")
    origin = result.raster.centre
    axes.imshow(
        coloured_map(view),
        extent=(
            view.west - origin[0],
            view.east - origin[0],
            view.south - origin[1],
            view.north - origin[1],
        ),
        interpolation="antialiased",
    )
    if truth is not None:
        x, y = broken_line(truth[:, :2] - origin).T
        axes.plot(x, y, color="#20242c", linewidth=1.4, label="truth", zorder=2)
    places = final.poses[shown, :2] - origin
    if metrics is None or truth is None:
        label = f"localized ({shown.sum()})"
        axes.scatter(
            places[:, 0], places[:, 1], s=14, color=ERROR_COLOURS[0], label=label, zorder=3
        )
    else:
        metres = pose_errors(final.poses, truth)[0][shown]
        places, metres = places[~np.isnan(metres)], metres[~np.isnan(metres)]
        level = np.searchsorted(ERROR_LIMITS_M, metres)
        names = [*(f"within {limit} m" for limit in ERROR_LIMITS_M), f"over {ERROR_LIMITS_M[-1]} m"]
        for i, (name, colour) in enumerate(zip(names, ERROR_COLOURS, strict=True)):
            axes.scatter(
                places[level == i, 0],
                places[level == i, 1],
                s=16,
                color=colour,
                edgecolors=INK,
                linewidths=0.4,
                label=f"{name} ({(level == i).sum()})",
                zorder=3,
            )
        _draw_table(beside, result, metrics)
    axes.set_aspect("equal")
    axes.set_xlim(view.west - origin[0], view.east - origin[0])
    axes.set_ylim(view.south - origin[1], view.north - origin[1])
    axes.set_xlabel("east, m")
    axes.set_ylabel("north, m")
    name = f"{result.drive_name} on {result.city_name}"
    method = result.record.get("method", "unknown")
    axes.set_title(f"{name}, method {method}, {result.final}", loc="left", parse_math=False)
    handles = axes.get_legend_handles_labels()
    beside.legend(*handles, loc="upper left", bbox_to_anchor=(0, 0.57), frameon=False, fontsize=9)
    credit = ATTRIBUTION.replace("(c)", "\N{COPYRIGHT SIGN}")
    axes.annotate(credit, (1, 0), (-4, 4), "axes fraction", "offset points", ha="right", fontsize=7)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", pad_inches=0.15)


def _evaluation(folder: Path) -> tuple[dict[str, Any] | None, pd.DataFrame | None, str | None]:
    """Metrics and errors, made now where they are missing; or why there are none."""
    if not (folder / "metrics.json").is_file() or not (folder / "errors.csv").is_file():
        try:
            evaluate_run(folder)
        except MaptileError as error:
            return None, None, str(error)
    return read_json(folder / "metrics.json"), pd.read_csv(folder / "errors.csv"), None


def _draw_table(axes: Any, result: Localization, metrics: dict[str, Any]) -> None:
    head = ["", *(f"≤ {r} m" for r in RECALL_M), "median"]
    rows = [
        [
            name,
            *(percent(row[f"recall_{r}m"]) for r in RECALL_M),
            number(row["median_m"], "m"),
        ]
        for name, row in metrics["stages"].items()
    ]
    chances = [f"{100 * chance(r, result.search_area_km2):.2g} %" for r in RECALL_M]
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
