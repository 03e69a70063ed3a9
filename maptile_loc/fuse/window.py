"""Pose-graph optimisation of regressed poses with odometry, in a sliding window.

MapNet+PGO (Brahmbhatt et al., CVPR 2018, section 3.3), in the plane: in each window, the poses
minimise their squared distances from the regressed poses and from the odometry between every pair,
and the middle pose is kept. As in the authors' code, translations are normalised. One difference:
with ``robust_m`` (off by default) an outlier among the regressed poses has little weight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import least_squares

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from data_prep.settings import Positive, Settings

ROUNDS = 10
"""Iterations of the reweighting with ``robust_m``."""


class WindowSettings(Settings):
    """The window and its weights.

    Attributes:
        size: Poses in a window. At the ends of a segment, the window is shifted inwards.
        absolute: Weight of a pose's squared distance from the regressed one.
        relative: Weight of an edge's squared distance from the odometry. Published: 20 for the
            RobotCar loop of 1 km, 10 for the full run.
        robust_m: Scale of Cauchy's weights: a regressed pose at this distance in metres from the
            optimised one has half the weight. None: all have the same weight, as published.
    """

    size: int = Field(7, ge=1)
    absolute: Positive = 1.0
    relative: Positive = 20.0
    robust_m: Positive | None = None


def window_poses(
    poses: Array,
    odometry: Array,
    segment: NDArray[np.int32],
    heading_known: bool,
    settings: WindowSettings,
    unit_m: float = 1.0,
) -> Array:
    """The regressed poses of a drive, optimised with its odometry.

    Args:
        poses: (Q, 3) regressed east, north, heading of consecutive queries; those that are NaN are
            left out, and stay NaN.
        odometry: (Q, 3) poses of the same queries in the odometry's frame.
        segment: (Q,) segment of the odometry; no edge connects two segments, and a negative
            number has no odometry.
        heading_known: Whether the headings of ``poses`` are exact; then they are not changed.
        settings: The window.
        unit_m: Metres that count as much as a radian: those by which translations are normalised.

    Returns:
        (Q, 3) east, north, heading.
    """
    result, unit = poses.copy(), np.array([unit_m, unit_m, 1.0])
    seen = np.isfinite(poses).all(axis=1)
    if not seen.any():
        return result
    centre = np.array([*poses[seen, :2].mean(axis=0), 0.0])
    scaled = settings
    if settings.robust_m is not None:
        scaled = settings.model_copy(update={"robust_m": settings.robust_m / unit_m})
    result[seen] = centre + unit * _optimised(
        (poses[seen] - centre) / unit, odometry[seen] / unit, segment[seen], heading_known, scaled
    )
    return result


def _optimised(
    poses: Array,
    odometry: Array,
    segment: NDArray[np.int32],
    heading_known: bool,
    settings: WindowSettings,
) -> Array:
    """As ``window_poses``, of poses that are all finite, in units in which they are compared."""
    result = poses.copy()
    breaks = np.flatnonzero((np.diff(segment) != 0) | (segment[1:] < 0)) + 1
    for run in np.split(np.arange(len(poses)), breaks):
        size = min(settings.size, len(run))
        number = np.arange(len(run))
        first = np.clip(number - settings.size // 2, 0, len(run) - size)
        window = run[first[:, None] + np.arange(size)]
        if heading_known:
            result[run, :2] = _positions(poses, odometry, window, run, settings)
        else:
            solved = [_solve(poses[each], odometry[each], settings) for each in window]
            result[run] = np.stack(solved)[number, number - first]
    return result


def _positions(
    poses: Array,
    odometry: Array,
    window: NDArray[np.int64],
    run: NDArray[np.int64],
    settings: WindowSettings,
) -> Array:
    """(R, 2) positions of the queries ``run`` (R,), each the middle of its ``window`` (R, W).

    With known headings, the problem is linear. The odometry gives one path, up to a shift, and each
    regressed position a shift of its own. The optimum of a query lies between its own shift and the
    weighted mean of its window's.
    """
    step = se2_between(odometry[run[:-1]], odometry[run[1:]])
    ahead = se2_compose(np.pad(poses[run[:-1], 2:], ((0, 0), (2, 0))), step)[:, :2]
    path = np.zeros((len(poses), 2))
    path[run[1:]] = np.cumsum(ahead, axis=0)
    shift = poses[:, :2] - path
    around, own = shift[window], shift[run]
    stiff = settings.relative * window.shape[1]
    centre = around[np.arange(len(run)), _agreed(around[:, :, None] - around[:, None], settings)]
    for _ in range(_rounds(settings)):
        weight = _weights(around - centre[:, None], settings)
        pull = (weight / (weight + stiff))[..., None]
        centre = (pull * around).sum(axis=1) / pull.sum(axis=1)
    weight = _weights(own - centre, settings)[:, None]
    return path[run] + (weight * own + stiff * centre) / (weight + stiff)


def _solve(seen: Array, driven: Array, settings: WindowSettings) -> Array:
    """(W, 3) optimised poses of one window, from its regressed poses and its odometry (W, 3)."""
    i, j = np.triu_indices(len(seen), 1)
    edges = se2_between(driven[i], driven[j])
    weight = np.ones(len(seen))

    def off(flat: Array) -> Array:
        poses = flat.reshape(-1, 3)
        absolute = np.sqrt(weight)[:, None] * _wrapped(poses - seen)
        relative = _wrapped(se2_between(poses[i], poses[j]) - edges)
        return np.concatenate([absolute, np.sqrt(settings.relative) * relative]).ravel()

    paths = se2_compose(seen[:, None], se2_between(driven[:, None], driven))
    poses = paths[_agreed((paths - seen)[..., :2], settings)]
    for _ in range(_rounds(settings)):
        weight = _weights((poses - seen)[:, :2], settings)
        poses = least_squares(off, poses.ravel(), method="lm").x.reshape(-1, 3)
    poses[:, 2] = wrap_angle(poses[:, 2])
    return poses


def _rounds(settings: WindowSettings) -> int:
    """The number of iterations of the reweighting."""
    return 1 if settings.robust_m is None else ROUNDS


def _weights(off: Array, settings: WindowSettings) -> Array:
    """(..., W) weights of regressed positions with errors of (..., W, 2) metres."""
    share = 0.0 if settings.robust_m is None else 1 / settings.robust_m
    return settings.absolute / (1 + np.square(share * off).sum(axis=-1))


def _agreed(off: Array, settings: WindowSettings) -> NDArray[np.int64]:
    """(...,) the number of the pose of a window that agrees best with the others.

    Args:
        off: (..., W, W, 2) metres. Entry i, j is the error of regressed position j, if pose i and
            the odometry are exact.
        settings: The window.
    """
    metres = np.square(off).sum(axis=-1) / (settings.robust_m or 1.0) ** 2
    best: NDArray[np.int64] = np.log1p(metres).sum(axis=-1).argmin(axis=-1)
    return best


def _wrapped(error: Array) -> Array:
    """(N, 3) pose errors with the angle wrapped to -pi..pi."""
    return np.column_stack([error[:, :2], wrap_angle(error[:, 2])])
