"""Metrics of a localized drive against its truth: recall, medians, and the map's constant shift.

Errors are taken against the truth as it is: trajectories are not aligned first. The same metrics
without the map's constant shift are given too. Every query counts by its pose, localized or not; a
query without a pose is a miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.city.raster import MapRaster
from data_prep.drive import Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from maptile_loc.fuse.gnss_windows import OFF_MAP
from maptile_loc.report.recall import recall_at_n
from maptile_loc.types import Estimates, Localization

RECALL_M = (1, 2, 5, 10)
"""Position errors for which recall is given, metres."""
RECALL_DEG = (1, 5)
"""Heading errors for which recall is given, degrees."""
RIGHT_M = 5.0
"""A fix is right if its position is at most this far off, metres."""
WRONG_M = 10.0
"""A fix is wrong if its position is farther off than this, metres."""
MARGIN_M = 30.0
"""A query counts if its truth is at least this far inside the map, metres."""
BIAS_REACH_M = 10.0
"""The map's shift is the median error of the queries with errors below this, metres."""

StageMetrics = dict[str, float | int | None]
"""Metrics of one stage by name."""


@dataclass(frozen=True)
class Comparison:
    """The truth at every query, in the map frame.

    Attributes:
        truth: (Q, 3) float64 east, north (metres), heading (radians from grid east); NaN unknown.
        counted: (Q,) bool, the truth is known and at least ``MARGIN_M`` inside the map.
        outside: (Q,) bool, the truth is known, and outside the map or closer to its edge.
        map_bias: (2,) float64 east, north (metres) to be added to the truth to fit the map best;
            NaN if no query is within ``BIAS_REACH_M`` of its truth.
    """

    truth: Array
    counted: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    map_bias: Array

    @property
    def shift(self) -> Array:
        """(2,) float64 ``map_bias``, or zero if it is unknown."""
        return np.nan_to_num(self.map_bias)


ALONE = ("coarse", "aligned")
"""Stages whose answers come from each query by itself, unless the vehicle is tracked."""


class Metrics(dict[str, Any]):
    """The content of ``metrics.json``; printed, it is a table with a row per stage.

    Keys:
        ``stages`` and ``bias_removed``, each with, per stage, ``frames``, ``localized``,
        ``recall_1m`` .. ``recall_10m`` (0..1), ``median_m``, ``mean_m`` (of those with a pose),
        ``p95_m``, ``heading_recall_1deg``, ``heading_recall_5deg`` (0..1), ``median_heading_deg``,
        ``availability`` (share of the right fixes, within ``RIGHT_M``, that are called localized),
        ``localized_wrong_10m`` (number of those called localized that are farther off),
        ``integrity`` (their share of all that are called localized), ``nees`` and ``nees_pose``
        (squared errors of position and of pose, normalised by their covariances, over what is
        expected, of those called localized: 1 is calibrated), ``protected`` (share of the finite
        protection levels that hold the error), ``median_protection_m`` (of those called localized);
        of a live run, the stages of ``ALONE`` have ``tracked``, the share of queries that were
        searched near their predicted pose only: such figures do not compare with others;
        ``recall_at_n``, as ``recall.recall_at_n`` (empty if candidates are unknown, or tracked);
        ``dense`` and ``dense_bias_removed``, as a stage, of the poses of all scans (empty if there
        are none); ``radii_m``, the errors for which recall is given; ``map_bias_m`` (east, north),
        ``query_seconds_median``, ``search_area_km2``, ``outside_queries``, ``outside_localized``;
        ``notes``, lines for the user. None is unknown: no query counts, or a median falls on a
        query without a pose.
    """

    def __str__(self) -> str:
        from maptile_loc.report.number_text import metrics_table

        return metrics_table(self)

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
        MaptileError: ``truth`` is None: the drive has none; or it is no truth.
    """
    if truth is None:
        raise MaptileError(f"{found.drive_name}: the drive has no truth to evaluate against")
    return evaluate_queries(found, truth).metrics


def evaluate_queries(
    found: Localization, truth: TruthTrack, radii_m: Sequence[float] = ()
) -> Evaluation:
    """Return the metrics of a localized drive, with the truth and the errors of every query.

    Args:
        found: The localized drive.
        truth: Its truth.
        radii_m: More position errors than ``RECALL_M`` for which recall is given, metres.

    Raises:
        MaptileError: ``truth`` is no truth, but a drive, say.
    """
    if not isinstance(truth, TruthTrack):
        kind = type(truth).__name__
        raise MaptileError(f"{found.drive_name}: expected the truth, drive.truth, not a {kind}")
    comparison, radii = compare(found, truth), sorted({*RECALL_M, *radii_m})
    metrics = _metrics(found, truth, comparison, radii)
    return Evaluation(metrics, comparison, _error_table(found, comparison))


def compare(found: Localization, truth: TruthTrack) -> Comparison:
    """Return the truth at the queries, in the map frame, and the map's shift against it."""
    raster = found.raster
    poses = truth_in_map(truth, raster, found.t_ns)
    latitude, longitude, _ = truth.at(found.t_ns)
    known = np.isfinite(latitude) & np.isfinite(longitude)
    counted = raster.inside(poses[:, :2], MARGIN_M)
    stage = found.stages.get("aligned", found.trajectory)
    difference = (stage.poses - poses)[counted, :2]
    close = difference[np.linalg.norm(difference, axis=1) < BIAS_REACH_M]
    bias = np.median(close, axis=0) if len(close) else np.full(2, np.nan)
    return Comparison(poses, counted, known & ~counted, bias)


def truth_in_map(truth: TruthTrack, raster: MapRaster, t_ns: Times) -> Array:
    """Return the truth at (Q,) times: (Q, 3) east, north, grid heading.

    NaN where it is unknown, or where the map frame does not reach.
    """
    latitude, longitude, heading = truth.at(t_ns)
    poses = np.full((len(t_ns), 3), np.nan)
    position = raster.projection.forward(latitude, longitude)
    known = np.isfinite(position).all(axis=1)
    if known.any():
        turn = raster.projection.convergence(latitude[known], longitude[known])
        poses[known, :2] = position[known]
        poses[known, 2] = wrap_angle(heading[known] + turn)
    return poses


def pose_errors(poses: Array, truth: Array) -> tuple[Array, Array]:
    """Return the absolute errors of (Q, 3) poses: (Q,) metres and (Q,) radians.

    Infinite where there is no pose, NaN where there is no truth.
    """
    distance = np.linalg.norm(poses[:, :2] - truth[:, :2], axis=1)
    angle = np.abs(wrap_angle(poses[:, 2] - truth[:, 2]))
    return (
        np.where(np.isnan(distance) & ~np.isnan(truth[:, 0]), np.inf, distance),
        np.where(np.isnan(angle) & ~np.isnan(truth[:, 2]), np.inf, angle),
    )


def quantile(values: Array, share: float) -> float:
    """Return a quantile as ``np.quantile`` does, also of values some of which are infinite.

    NaN without values; infinite where the quantile falls on or next to an infinite value.
    """
    if not len(values):
        return np.nan
    position = share * (len(values) - 1)
    low, high = np.sort(values)[[int(np.floor(position)), int(np.ceil(position))]]
    return float(low if low == high else low + (position - np.floor(position)) * (high - low))


def chance(radius_m: float, area_km2: float) -> float:
    """Return the probability that a random point of the search area is within ``radius_m``."""
    return float(min(1.0, np.pi * radius_m**2 / (area_km2 * 1e6)))


def _metrics(
    found: Localization, track: TruthTrack, comparison: Comparison, radii_m: Sequence[float]
) -> Metrics:
    truth, counted = comparison.truth, comparison.counted
    shift = np.append(comparison.shift, 0.0)

    def stages(true: Array) -> dict[str, StageMetrics]:
        return {
            name: _stage_metrics(stage, true, counted, radii_m) | _tracked(found, name)
            for name, stage in found.stages.items()
        }

    known = found.candidates_alone
    content = {
        "stages": stages(truth),
        "bias_removed": stages(truth + shift),
        "dense": _dense(found, track, np.zeros(3), radii_m),
        "dense_bias_removed": _dense(found, track, shift, radii_m),
        "recall_at_n": {} if known is None else recall_at_n(known, truth, counted),
        "radii_m": list(radii_m),
        "map_bias_m": [_known(value) for value in comparison.map_bias],
        "query_seconds_median": found.seconds_per_query,
        "search_area_km2": found.search_area_km2,
        "outside_queries": int(comparison.outside.sum()),
        "outside_localized": int((comparison.outside & found.trajectory.localized).sum()),
        "notes": _notes(found.raster, track, comparison),
    }
    return Metrics(content)


def _dense(
    found: Localization, track: TruthTrack, shift: Array, radii_m: Sequence[float]
) -> StageMetrics:
    """The metrics of all scans, of the truth moved by ``shift``; none without poses per scan."""
    if found.dense is None:
        return {}
    truth = truth_in_map(track, found.raster, found.dense.t_ns)
    counted = found.raster.inside(truth[:, :2], MARGIN_M)
    return _stage_metrics(found.dense, truth + shift, counted, radii_m)


def _tracked(found: Localization, stage: str) -> StageMetrics:
    """What marks a stage whose queries were not searched each by itself over the whole map."""
    if stage not in ALONE or found.tracked is None or not found.tracked.any():
        return {}
    return {"tracked": float(found.tracked.mean())}


def _notes(raster: MapRaster, track: TruthTrack, comparison: Comparison) -> list[str]:
    """Return lines about what the metrics leave out, and why."""
    truth, counted = comparison.truth, comparison.counted
    unknown = len(truth) - int((counted | comparison.outside).sum())
    heading_unknown = int(np.isnan(truth[counted, 2]).sum())
    notes = []
    if raster.far_from(track.latitude, track.longitude):
        notes.append(f"the truth lies {OFF_MAP}")
    if unknown:
        notes.append(f"{unknown} of {len(truth)} queries are left out: no truth at their times")
    if heading_unknown:
        notes.append(
            f"{heading_unknown} queries are left out of the heading metrics: "
            "their true heading is unknown"
        )
    if counted.any() and np.isnan(comparison.map_bias).any():
        notes.append(f"map bias unknown: no query within {BIAS_REACH_M:.0f} m of its truth")
    return notes


def _stage_metrics(
    stage: Estimates, truth: Array, counted: NDArray[np.bool_], radii_m: Sequence[float]
) -> StageMetrics:
    metres, angle = pose_errors(stage.poses[counted], truth[counted])
    degrees = np.degrees(angle[~np.isnan(angle)])
    finite = metres[np.isfinite(metres)]
    return {
        "frames": int(counted.sum()),
        "localized": int(stage.localized[counted].sum()),
        **{f"recall_{r:g}m": _share(metres <= r) for r in radii_m},
        "median_m": _known(quantile(metres, 0.5)),
        "mean_m": float(finite.mean()) if len(finite) else None,
        "p95_m": _known(quantile(metres, 0.95)),
        **{f"heading_recall_{a}deg": _share(degrees <= a) for a in RECALL_DEG},
        "median_heading_deg": _known(quantile(degrees, 0.5)),
        **reliability(stage, truth, counted),
    }


def reliability(stage: Estimates, truth: Array, counted: NDArray[np.bool_]) -> StageMetrics:
    """How far the scores, covariances and protection levels of a stage are to be trusted.

    Args:
        stage: Estimates of Q queries.
        truth: (Q, 3) true poses.
        counted: (Q,) queries that count.

    Returns:
        The metrics from ``availability`` on, as in ``Metrics``.
    """
    metres, _ = pose_errors(stage.poses[counted], truth[counted])
    sure, level = stage.localized[counted], stage.protection_m[counted]
    right, wrong = metres <= RIGHT_M, sure & (metres > WRONG_M)
    bounded = np.isfinite(level)
    expected = [
        _known(float(value.mean())) if len(value) else None
        for value in normalised_errors(stage, truth, counted & stage.localized)
    ]
    return {
        "availability": _share(sure[right]),
        "localized_wrong_10m": int(wrong.sum()),
        "integrity": _share(wrong[sure]),
        "nees": expected[0],
        "nees_pose": expected[1],
        "protected": _share(metres[bounded] <= level[bounded]),
        "median_protection_m": _known(quantile(level[sure], 0.5)),
    }


def normalised_errors(
    stage: Estimates, truth: Array, chosen: NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Normalised squared errors of chosen estimates: of the (N,) positions, of the (M,) poses.

    Each is divided by its degrees of freedom, so that 1 is expected (Bar-Shalom, Li and
    Kirubarajan 2001, section 5.4). Poses without a true heading are left out of the second.
    """
    error = stage.poses[chosen] - truth[chosen]
    error[:, 2] = wrap_angle(error[:, 2])
    covariance = stage.covariance[chosen]
    result = []
    for size in (2, 3):
        known = np.isfinite(error[:, :size]).all(axis=1) & np.isfinite(covariance).all(axis=(1, 2))
        part, spread = error[known, :size], covariance[known, :size, :size]
        solved = np.linalg.solve(spread, part[..., None])[..., 0]
        result.append((part * solved).sum(axis=1) / size)
    return result[0], result[1]


def _share(mask: NDArray[np.bool_]) -> float | None:
    return float(mask.mean()) if len(mask) else None


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _error_table(found: Localization, comparison: Comparison) -> pd.DataFrame:
    parts = []
    for name, stage in found.stages.items():
        metres, angle = pose_errors(stage.poses, comparison.truth)
        columns = {
            "stage": name,
            "frame": found.frame,
            "t_ns": found.t_ns,
            "truth_east": comparison.truth[:, 0].round(4),
            "truth_north": comparison.truth[:, 1].round(4),
            "truth_heading_deg": np.degrees(comparison.truth[:, 2]).round(5),
            "error_m": np.where(np.isfinite(metres), metres, np.nan).round(4),
            "heading_error_deg": np.degrees(np.where(np.isfinite(angle), angle, np.nan)).round(5),
            "counted": comparison.counted,
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)
