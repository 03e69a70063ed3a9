"""Regressed poses of a drive held together by its odometry, a few at a time.

The pose-graph optimisation of MapNet (Brahmbhatt et al., CVPR 2018): the poses of a sliding window
move as little as their odometry allows, and the window's middle one is kept. Every pair of a window
is an edge. In the plane, as published otherwise: least squares, nothing robust, metres and radians
in their own units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import least_squares

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from data_prep.settings import Positive, Settings


class WindowSettings(Settings):
    """The window and its weights.

    Attributes:
        size: Poses in a window; at the ends of a drive it lies over the poses that there are.
        absolute: Weight of a pose's squared distance from the regressed one.
        relative: Weight of an edge's squared distance from the odometry. Published: 20 for the
            loop of 1 km, 10 for the full run.
    """

    size: int = Field(7, ge=1)
    absolute: Positive = 1.0
    relative: Positive = 20.0


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
    stiff = settings.relative * window.shape[1]
    total = settings.absolute * shift[run] + stiff * shift[window].mean(axis=1)
    return path[run] + total / (settings.absolute + stiff)


def _solve(seen: Array, driven: Array, settings: WindowSettings) -> Array:
    """(W, 3) poses of one window, from the regressed ones and the odometry's."""
    i, j = np.triu_indices(len(seen), 1)
    edges = se2_between(driven[i], driven[j])
    weight = np.sqrt([settings.absolute, settings.relative])

    def off(flat: Array) -> Array:
        poses = flat.reshape(-1, 3)
        absolute, relative = poses - seen, se2_between(poses[i], poses[j]) - edges
        both = np.concatenate([weight[0] * _wrapped(absolute), weight[1] * _wrapped(relative)])
        return both.ravel()

    solved: Array = least_squares(off, seen.ravel(), method="lm").x.reshape(-1, 3)
    solved[:, 2] = wrap_angle(solved[:, 2])
    return solved


def _wrapped(error: Array) -> Array:
    return np.column_stack([error[:, :2], wrap_angle(error[:, 2])])
