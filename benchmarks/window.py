"""Regressed poses of a drive held together by its odometry, a few at a time.

The pose-graph optimisation of MapNet (Brahmbhatt et al., CVPR 2018): the poses of a sliding window
move as little as their odometry allows, and the window's middle one is kept. Every pair of a window
is an edge. In the plane, as published otherwise: least squares, metres and radians in their own
units. Ours, and off unless asked for: what is regressed may be far off without pulling the rest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import least_squares

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from data_prep.settings import Positive, Settings

ROUNDS = 10
"""Of weighing anew, where weights are not all alike."""


class WindowSettings(Settings):
    """The window and its weights.

    Attributes:
        size: Poses in a window; at the ends of a drive it lies over the poses that there are.
        absolute: Weight of a pose's squared distance from the regressed one.
        relative: Weight of an edge's squared distance from the odometry. Published: 20 for the
            loop of 1 km, 10 for the full run.
        robust_m: A pose that is so many metres off where its window puts it counts half, one
            farther off less (Cauchy's weights). None: all count alike, as published.
    """

    size: int = Field(7, ge=1)
    absolute: Positive = 1.0
    relative: Positive = 20.0
    robust_m: Positive | None = None


def optimise(
    poses: Array,
    odometry: Array,
    segment: NDArray[np.int32],
    heading_known: bool,
    settings: WindowSettings,
) -> Array:
    """Regressed poses -> poses that agree with the odometry.

    Args:
        poses: (Q, 3) east, north, heading of consecutive queries, all finite.
        odometry: (Q, 3) the same queries in the odometry's frame.
        segment: (Q,) of the odometry; from one to the next, or where negative, nothing is known.
        heading_known: The headings of ``poses`` are right, and stay; otherwise they are regressed.
        settings: Of the window.

    Returns:
        (Q, 3) east, north, heading.
    """
    result = poses.copy()
    breaks = np.flatnonzero((np.diff(segment) != 0) | (segment[1:] < 0)) + 1
    for run in np.split(np.arange(len(poses)), breaks):
        size = min(settings.size, len(run))
        number = np.arange(len(run))
        first = np.clip(number - settings.size // 2, 0, len(run) - size)
        window = run[first[:, None] + np.arange(size)]
        if heading_known:
            result[run, :2] = _places(poses, odometry, window, run, settings)
        else:
            solved = [_solve(poses[each], odometry[each], settings) for each in window]
            result[run] = np.stack(solved)[number, number - first]
    return result


def _places(
    poses: Array,
    odometry: Array,
    window: NDArray[np.int64],
    run: NDArray[np.int64],
    settings: WindowSettings,
) -> Array:
    """(R, 2) places of queries ``run`` (R,), each the middle of its ``window`` (R, W).

    With the headings known the problem is linear, and all edges follow from one path: what is
    regressed is off that path by some shift, and the best shift lies between the query's own and
    the window's mean.
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
    """(W, 3) poses of one window, from the regressed ones and the odometry's."""
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
    return 1 if settings.robust_m is None else ROUNDS


def _weights(off: Array, settings: WindowSettings) -> Array:
    """(..., W) weights of regressed poses that are (..., W, 2) metres off."""
    share = 0.0 if settings.robust_m is None else 1 / settings.robust_m
    return settings.absolute / (1 + np.square(share * off).sum(axis=-1))


def _agreed(off: Array, settings: WindowSettings) -> NDArray[np.int64]:
    """(...,) the pose of a window that fits the others best, of (..., W, W, 2) metres off.

    Entry i, j is how far pose j is off where pose i would have it.
    """
    metres = np.square(off).sum(axis=-1) / (settings.robust_m or 1.0) ** 2
    best: NDArray[np.int64] = np.log1p(metres).sum(axis=-1).argmin(axis=-1)
    return best


def _wrapped(error: Array) -> Array:
    return np.column_stack([error[:, :2], wrap_angle(error[:, 2])])
