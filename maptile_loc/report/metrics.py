"""A localized drive against the truth: recall, medians, and the constant bias of the map.

Errors are taken against truth as it is, without aligning the trajectories first; the same figures
with the map's constant shift taken out stand beside them. Every query counts by its pose, whether
or not it was called localized; a query without a pose is a miss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.city.raster import MapRaster
from data_prep.drive import Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from maptile_loc.types import Estimates, Localization

RECALL_M = (1, 2, 5, 10)
RECALL_DEG = (1, 5)
MARGIN_M = 30.0
"""A query counts where its truth is at least this far inside the map."""
BIAS_REACH_M = 10.0
"""Only queries localized this well tell the constant shift between map and truth."""

Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class Comparison:
    """The truth at every query, in the map frame.

    Attributes:
        truth: (Q, 3) float64 east, north (metres), heading (radians from grid east); NaN unknown.
        counted: (Q,) bool, the truth is known and far enough inside the map.
        outside: (Q,) bool, the truth is known and is not.
        map_bias: (2,) float64 east, north (metres) to be added to the truth to fit the map; NaN
            where no query is close enough to tell.
    """

    truth: Array
    counted: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    map_bias: Array

    @property
    def shift(self) -> Array:
        """(2,) the map's bias, zero where it is unknown."""
        return np.nan_to_num(self.map_bias)


def truth_in_map(truth: TruthTrack, raster: MapRaster, t_ns: Times) -> Array:
    """(Q,) times -> (Q, 3) east, north, grid heading of the truth; NaN where it is not known."""
    latitude, longitude, heading = truth.at(t_ns)
    known = np.isfinite(latitude) & np.isfinite(longitude)
    poses = np.full((len(t_ns), 3), np.nan)
    if known.any():
        place = latitude[known], longitude[known]
        poses[known, :2] = raster.projection.forward(*place)
        poses[known, 2] = wrap_angle(heading[known] + raster.projection.convergence(*place))
    return poses


def compare(found: Localization, truth: TruthTrack) -> Comparison:
    """Return the truth at the queries, in the map frame, and the map's bias against it."""
    raster = found.raster
    poses = truth_in_map(truth, raster, found.t_ns)
    known = np.isfinite(poses[:, :2]).all(axis=1)
    counted = raster.inside(poses[:, :2], MARGIN_M)
    stage = found.stages.get("aligned", found.trajectory)
    difference = (stage.poses - poses)[counted, :2]
    close = difference[np.linalg.norm(difference, axis=1) < BIAS_REACH_M]
    bias = np.median(close, axis=0) if len(close) else np.full(2, np.nan)
    return Comparison(poses, counted, known & ~counted, bias)


def pose_errors(poses: Array, truth: Array) -> tuple[Array, Array]:
    """(Q, 3) and (Q, 3) -> (Q,) metres and (Q,) radians, both >= 0.

    Infinite where there is no pose, NaN where there is no truth.
    """
    distance = np.linalg.norm(poses[:, :2] - truth[:, :2], axis=1)
    angle = np.abs(wrap_angle(poses[:, 2] - truth[:, 2]))
    return (
        np.where(np.isnan(distance) & ~np.isnan(truth[:, 0]), np.inf, distance),
        np.where(np.isnan(angle) & ~np.isnan(truth[:, 2]), np.inf, angle),
    )


class Metrics(dict[str, Any]):
    """The content of ``metrics.json``; printed, it is a table with a row per stage.

    Keys:
        ``stages`` and ``bias_removed``, each with, per stage, ``frames``, ``localized``,
        ``recall_1m`` .. ``recall_10m`` (0..1), ``median_m``, ``mean_m`` (of those with a pose),
        ``p95_m``, ``heading_recall_1deg``, ``heading_recall_5deg`` (0..1), ``median_heading_deg``;
        ``map_bias_m`` (east, north), ``query_seconds_median``, ``search_area_km2``,
        ``outside_queries``, ``outside_localized``; ``notes``, lines for the user. None is unknown:
        no query to judge by, or a median that falls on a query without a pose.
    """

    def __str__(self) -> str:
        return summary(self)

    __repr__ = __str__


class Evaluation(NamedTuple):
    """A localized drive compared with its truth.

    Attributes:
        metrics: The content of ``metrics.json``.
        comparison: The truth at every query.
        errors: The table of ``errors.csv``: a row per stage and query.
    """

    metrics: Metrics
    comparison: Comparison
    errors: pd.DataFrame


def evaluate(found: Localization, truth: TruthTrack | None) -> Metrics:
    """Compare every stage of a localized drive with ``truth``; nothing is read from disk.

    Raises:
        MaptileError: ``truth`` is None: the drive has none.
    """
    if truth is None:
        raise MaptileError(f"{found.drive_name}: the drive has no truth to evaluate against")
    return evaluate_queries(found, truth).metrics


def evaluate_queries(found: Localization, truth: TruthTrack) -> Evaluation:
    """As ``evaluate``, with the truth and the errors of every query."""
    comparison = compare(found, truth)
    return Evaluation(_metrics(found, comparison), comparison, _error_table(found, comparison))


def chance(radius_m: float, area_km2: float) -> float:
    """How probable it is that a random point of the search area is within ``radius_m`` of truth."""
    return float(min(1.0, np.pi * radius_m**2 / (area_km2 * 1e6)))


def summary(metrics: Metrics) -> str:
    """The metrics as a table for a terminal, with the chance level beside them."""
    header = ["", "frames", "localized", *(f"<={r}m %" for r in RECALL_M)]
    header += ["median m", "mean m", "p95 m", *(f"<={a}deg %" for a in RECALL_DEG), "median deg"]
    rows = [_row(name, figures) for name, figures in metrics["stages"].items()]
    chances = [f"{100 * chance(r, metrics['search_area_km2']):.2g}" for r in RECALL_M]
    rows.append(["chance", "", "", *chances, *[""] * 6])
    rows.append(["map bias removed", *[""] * (len(header) - 1)])
    rows += [_row(name, figures) for name, figures in metrics["bias_removed"].items()]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in [header, *rows]
    ]
    east, north = metrics["map_bias_m"]
    seconds = metrics["query_seconds_median"]
    facts = [f"search area {metrics['search_area_km2']:.3g} km2"]
    if east is not None:
        facts.append(f"map - truth {east:+.2f} m east, {north:+.2f} m north")
    if seconds is not None:
        facts.append(f"{seconds:.3g} s per query")
    outside = (
        f"{metrics['outside_queries']} queries outside the map or less than {MARGIN_M:.0f} m "
        f"inside it, {metrics['outside_localized']} of them called localized"
    )
    return "\n".join([*lines, "", "; ".join(facts), outside, *metrics["notes"]])


def _metrics(result: Localization, comparison: Comparison) -> Metrics:
    truth, counted = comparison.truth, comparison.counted
    moved = truth + np.append(comparison.shift, 0.0)
    localized = result.stages[result.final].localized
    unknown = len(truth) - int((counted | comparison.outside).sum())
    heading_unknown = int(np.isnan(truth[counted, 2]).sum())
    notes = []
    if unknown:
        notes.append(f"{unknown} of {len(truth)} queries are left out: no truth at their times")
    if heading_unknown:
        notes.append(f"{heading_unknown} queries are left out of the heading figures: no true one")
    if counted.any() and np.isnan(comparison.map_bias).any():
        notes.append(f"map bias unknown: no query within {BIAS_REACH_M:.0f} m of its truth")
    content = {
        "stages": {name: _figures(stage, truth, counted) for name, stage in result.stages.items()},
        "bias_removed": {
            name: _figures(stage, moved, counted) for name, stage in result.stages.items()
        },
        "map_bias_m": [_known(value) for value in comparison.map_bias],
        "query_seconds_median": result.seconds_per_query,
        "search_area_km2": result.search_area_km2,
        "outside_queries": int(comparison.outside.sum()),
        "outside_localized": int((comparison.outside & localized).sum()),
        "notes": notes,
    }
    return Metrics(content)


def _figures(stage: Estimates, truth: Array, counted: NDArray[np.bool_]) -> Figures:
    metres, angle = pose_errors(stage.poses[counted], truth[counted])
    degrees = np.degrees(angle[~np.isnan(angle)])
    found = metres[np.isfinite(metres)]
    return {
        "frames": int(counted.sum()),
        "localized": int(stage.localized[counted].sum()),
        **{f"recall_{r}m": _share(metres <= r) for r in RECALL_M},
        "median_m": _known(_quantile(metres, 0.5)),
        "mean_m": float(found.mean()) if len(found) else None,
        "p95_m": _known(_quantile(metres, 0.95)),
        **{f"heading_recall_{a}deg": _share(degrees <= a) for a in RECALL_DEG},
        "median_heading_deg": _known(_quantile(degrees, 0.5)),
    }


def _share(mask: NDArray[np.bool_]) -> float | None:
    return float(mask.mean()) if len(mask) else None


def _quantile(values: Array, share: float) -> float:
    """As ``np.quantile``, but sound where some values are infinite; NaN of none."""
    if not len(values):
        return np.nan
    position = share * (len(values) - 1)
    low, high = np.sort(values)[[int(np.floor(position)), int(np.ceil(position))]]
    return float(low if low == high else low + (position - np.floor(position)) * (high - low))


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _row(name: str, figures: Figures) -> list[str]:
    def cell(key: str, scale: float, digits: int) -> str:
        value = figures[key]
        return "-" if value is None else f"{scale * value:.{digits}f}"

    return [
        name,
        str(figures["frames"]),
        str(figures["localized"]),
        *(cell(f"recall_{r}m", 100, 1) for r in RECALL_M),
        *(cell(key, 1, 2) for key in ("median_m", "mean_m", "p95_m")),
        *(cell(f"heading_recall_{a}deg", 100, 1) for a in RECALL_DEG),
        cell("median_heading_deg", 1, 2),
    ]


def _error_table(result: Localization, comparison: Comparison) -> pd.DataFrame:
    parts = []
    for name, stage in result.stages.items():
        metres, angle = pose_errors(stage.poses, comparison.truth)
        columns = {
            "stage": name,
            "frame": result.frame,
            "t_ns": result.t_ns,
            "truth_east": comparison.truth[:, 0].round(4),
            "truth_north": comparison.truth[:, 1].round(4),
            "truth_heading_deg": np.degrees(comparison.truth[:, 2]).round(5),
            "error_m": np.where(np.isfinite(metres), metres, np.nan).round(4),
            "heading_error_deg": np.degrees(np.where(np.isfinite(angle), angle, np.nan)).round(5),
            "counted": comparison.counted,
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)
