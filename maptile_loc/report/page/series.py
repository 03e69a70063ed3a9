"""What changes along the drive, as the page's script reads it: poses, beliefs, candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.report.findings import REASON_TEXT
from maptile_loc.report.page.packed import packed
from maptile_loc.report.pictures import ellipses
from maptile_loc.types import Estimates, ScanPoses

POSITION_M = 0.001
"""Resolution of positions, metres."""
HEADING_DEG = 360 / 2**16
"""Resolution of headings, degrees."""
AXIS_M = 0.01
"""Resolution of the half-axes of ellipses, metres; they end at 655 m."""
TURN_DEG = 1.0
"""Resolution of the direction of ellipses, degrees."""
LEVEL_M = 0.1
"""Resolution of protection levels, metres; they end at 6.5 km."""
SHARE = 0.004
"""Resolution of scores and probabilities."""
SECONDS = 0.001
"""Resolution of times, seconds."""
SCANS = 72_000
"""Scans that the page plays, at most: of longer drives, one in two or more."""
REASONS = tuple(REASON_TEXT.values())
"""Texts of the reasons: number k of a series is text k - 1, 0 is localized."""


def stage_series(stage: Estimates, centre: Array) -> dict[str, Any]:
    """Return one stage: a row per query or scan.

    Args:
        stage: Its estimates.
        centre: (2,) east, north of the map's centre, from which positions count.

    Returns:
        ``x``, ``y`` (metres from ``centre``), ``h`` (degrees), ``long``, ``short`` (half-axes of
        the 95 % ellipse, metres) and ``turn`` (direction of the long one, degrees from east),
        ``score``, ``level`` (protection level, metres), and ``reason``.
    """
    axes = ellipses(stage.covariance)
    codes = {name: number + 1 for number, name in enumerate(REASON_TEXT)}
    reason = np.array([codes.get(str(name), len(codes) + 1) for name in stage.reason], np.int64)
    reason[stage.localized & stage.has_pose] = 0
    return {
        **pose_series(stage.poses, centre),
        "long": packed(axes[:, 0], "u2", AXIS_M),
        "short": packed(axes[:, 1], "u2", AXIS_M),
        "turn": packed(np.degrees(axes[:, 2]) % 180, "u1", TURN_DEG),
        "score": packed(stage.score, "u1", SHARE),
        "level": packed(stage.protection_m, "u2", LEVEL_M),
        "reason": packed(reason, "u1", 1),
    }


def scan_series(scans: ScanPoses | None, start_ns: int, centre: Array) -> dict[str, Any] | None:
    """Return the poses of all scans as ``stage_series``, and ``t``: seconds from ``start_ns``.

    None where they are unknown, or where the scans have no increasing times.
    """
    if scans is None or len(scans.t_ns) == 0 or (np.diff(scans.t_ns) <= 0).any():
        return None
    every = slice(None, None, -(-len(scans.t_ns) // SCANS))
    thinned = Estimates(
        poses=scans.poses[every],
        covariance=scans.covariance[every],
        score=scans.score[every],
        localized=scans.localized[every],
        protection_m=scans.protection_m[every],
        reason=scans.reason[every],
    )
    times = seconds_from(start_ns, scans.t_ns[every])
    return {**stage_series(thinned, centre), "t": packed(times, "i4", SECONDS)}


def pose_series(poses: Array, centre: Array) -> dict[str, Any]:
    """Return ``x``, ``y`` (metres from ``centre``) and ``h`` (degrees) of (N, 3) poses.

    Args:
        poses: East, north (metres), heading (radians); NaN where there is none.
        centre: (2,) east, north of the map's centre.
    """
    return {
        "x": packed(poses[:, 0] - centre[0], "i4", POSITION_M),
        "y": packed(poses[:, 1] - centre[1], "i4", POSITION_M),
        "h": packed(np.degrees(poses[:, 2]) % 360 % (360 - HEADING_DEG), "u2", HEADING_DEG),
    }


def seconds_from(start_ns: int, t_ns: NDArray[np.int64]) -> Array:
    """Return (N,) seconds from ``start_ns``; 0, 1, 2, ... where the times do not increase.

    Args:
        start_ns: Time 0, nanoseconds.
        t_ns: (N,) int64 times, nanoseconds.
    """
    if (np.diff(t_ns) <= 0).any():
        return np.arange(len(t_ns), dtype=np.float64)
    return (t_ns - start_ns) / 1e9


def candidate_series(candidates: Array | None, centre: Array) -> dict[str, Any] | None:
    """Return the candidates of each query; None where they are unknown.

    Args:
        candidates: (Q, K, 4) as in ``Localization``.
        centre: (2,) east, north of the map's centre.

    Returns:
        ``each`` (K), ``x``, ``y``, ``h`` as ``pose_series`` of (Q * K) rows, and ``share``: the
        probability of each among those of its query.
    """
    if candidates is None or candidates.shape[1] == 0:
        return None
    score = np.where(np.isfinite(candidates[..., 3]), candidates[..., 3], -np.inf)
    best = score.max(axis=1, keepdims=True)
    weight = np.exp(score - np.where(np.isfinite(best), best, 0.0))
    share = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
    return {
        "each": candidates.shape[1],
        **pose_series(candidates[..., :3].reshape(-1, 3), centre),
        "share": packed(share.ravel(), "u1", SHARE),
    }
