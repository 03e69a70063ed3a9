"""A smooth path from a GPS that jumps and a visual odometry that drifts.

The path is a pose graph: a chain of SE(2) poses (nodes) a few metres apart. Visual odometry gives
the motion between neighbours, each GPS fix the position of a point near a node. Least squares with
a Cauchy loss on the fixes is solved by Gauss-Newton; the scale of the loss decreases step by step
(graduated non-convexity), so that a fix tens of metres off has almost no weight in the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import spsolve

from data_prep.drive import Times
from data_prep.geometry import (
    Array,
    Projection,
    se2_between,
    se2_compose,
    se2_from_se3,
    wrap_angle,
)
from data_prep.sources.formats.robotcar_tables import Gps, Vo
from data_prep.sources.formats.robotcar_tracks import odometry_from_vo

_NODE_M = 5.0
"""Distance of two nodes along the path, metres."""

_WINDOW = 15
"""A node's first heading is fitted to this number of nodes on each side."""

_SCALE_WINDOW_S = 30.0
"""The scale of the odometry is found by comparing lengths over this time, seconds."""

_SCALE_LENGTH_M = 80.0
"""Windows in which the odometry is shorter are not used to find its scale, metres."""

_SIGMA_STEP = np.array([0.15, 0.05, 0.006])
"""Standard deviation of the motion between two nodes: along, across (metres), turn (radians)."""

_SIGMA_LOST = np.array([5.0, 5.0, 1.0])
"""The same where odometry is missing between two nodes."""

_SMALLEST_GPS_SIGMA_M = 1.5
"""The GPS's own standard deviation is taken as at least this, metres."""

_CAUCHY_M = (40.0, 20.0, 10.0, 5.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0)
"""Scale of the Cauchy loss in each Gauss-Newton step, metres."""


def fuse(gps: Gps, vo: Vo, projection: Projection) -> tuple[Times, Array]:
    """Return the path that fits GPS and visual odometry best.

    Args:
        gps: The fixes, with the accuracy that the receiver reports.
        vo: Motion from frame to frame; across a gap of more than two seconds, the path follows the
            GPS alone.
        projection: The map frame.

    Returns:
        (N,) int64 nanoseconds of the frames; and (N, 3) float64 east, north (map frame, metres) and
        heading (radians counter-clockwise from grid east).
    """
    track = odometry_from_vo(vo, [])
    dead = se2_from_se3(track.poses)
    fixes = projection.forward(gps.latitude, gps.longitude)
    during = (gps.t_ns >= track.t_ns[0]) & (gps.t_ns <= track.t_ns[-1])
    fixes, gps_ns, sigma = fixes[during], gps.t_ns[during], gps.sigma[during, :2].mean(axis=1)
    scale = _scale(track.t_ns, dead, gps_ns, fixes)
    dead[:, :2] *= scale
    travelled = track.travelled() * scale
    node = _nodes(travelled, track.segment)
    frame = np.clip(np.searchsorted(track.t_ns, gps_ns), 0, len(dead) - 1)
    owner = np.clip(np.searchsorted(node, frame, side="right") - 1, 0, len(node) - 1)
    ahead = se2_between(dead[node[owner]], dead[frame])[:, :2]

    poses = _first_guess(dead[node], fixes, owner)
    step = se2_between(dead[node[:-1]], dead[node[1:]])
    lost = np.diff(track.segment[node]) != 0
    weight = 1 / np.where(lost[:, None], _SIGMA_LOST, _SIGMA_STEP)
    # All fixes of a node together count as one: their errors are the same over a few metres.
    share = 1 / np.bincount(owner, minlength=len(node))[owner]
    base = np.sqrt(share) / np.clip(sigma, _SMALLEST_GPS_SIGMA_M, None)
    graph = _PoseGraph(step, weight, owner, ahead, fixes, base)
    for cauchy_m in _CAUCHY_M:
        poses = graph.improved(poses, cauchy_m)
    return track.t_ns, _between_nodes(poses, dead, node, travelled)


def _scale(t_ns: Times, dead: Array, gps_ns: Times, fixes: Array) -> float:
    """Return the factor that corrects the length of the odometry.

    It is the median of GPS distance / odometry distance, in a straight line, over 30 s each.

    Args:
        t_ns: (N,) nanoseconds of ``dead``.
        dead: (N, 3) poses by dead reckoning.
        gps_ns: (M,) nanoseconds of ``fixes``.
        fixes: (M, 2) east, north, metres.
    """
    seconds, fix_seconds = (t_ns - t_ns[0]) / 1e9, (gps_ns - t_ns[0]) / 1e9
    at_fixes = np.stack([np.interp(fix_seconds, seconds, dead[:, i]) for i in (0, 1)], axis=1)
    later = np.searchsorted(fix_seconds, fix_seconds + _SCALE_WINDOW_S)
    window = later < len(fixes)
    ends = later[window]
    own = np.linalg.norm(at_fixes[ends] - at_fixes[window], axis=1)
    true = np.linalg.norm(fixes[ends] - fixes[window], axis=1)
    far = own > _SCALE_LENGTH_M
    return float(np.median(true[far] / own[far])) if far.any() else 1.0


def _nodes(travelled: Array, segment: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the frames that become nodes: one every 5 m, and both ends of each segment."""
    starts = np.flatnonzero(np.diff(np.floor(travelled / _NODE_M), prepend=-1))
    breaks = np.flatnonzero(np.diff(segment))
    return np.unique(np.concatenate([starts, breaks, breaks + 1, [len(travelled) - 1]]))


def _first_guess(dead: Array, fixes: Array, owner: NDArray[np.int64]) -> Array:
    """Return (K, 3) first poses of the nodes.

    Positions are a running median of the GPS. A heading is the odometry's, turned by the angle that
    fits the odometry around the node to these positions best (the 2D Kabsch algorithm with complex
    numbers).

    Args:
        dead: (K, 3) poses of the nodes by dead reckoning.
        fixes: (M, 2) east, north, metres.
        owner: (M,) node of each fix.
    """
    count = len(dead)
    number = np.bincount(owner, minlength=count)
    filled = np.flatnonzero(number)
    means = [np.bincount(owner, fixes[:, i], count)[filled] / number[filled] for i in (0, 1)]
    xy = np.stack([np.interp(np.arange(count), filled, mean) for mean in means], axis=1)
    xy = median_filter(xy, size=(9, 1), mode="nearest")
    here, there = dead[:, 0] + 1j * dead[:, 1], xy[:, 0] + 1j * xy[:, 1]
    turn = np.zeros(count)
    for k in range(count):
        window = slice(max(0, k - _WINDOW), k + _WINDOW + 1)
        a, b = here[window] - here[window].mean(), there[window] - there[window].mean()
        turn[k] = np.angle(np.sum(np.conj(a) * b))
    return np.column_stack([xy, wrap_angle(dead[:, 2] + turn)])


@dataclass(frozen=True)
class _PoseGraph:
    """K nodes, the motions between them, and the M GPS fixes.

    Attributes:
        step: (K - 1, 3) measured motion from node to node, in the frame of the first.
        weight: (K - 1, 3) inverse standard deviations of ``step``.
        owner: (M,) node of each fix.
        ahead: (M, 2) measured position of each fix in the frame of its node, metres.
        fixes: (M, 2) east, north, metres.
        base: (M,) inverse standard deviations of the fixes.
    """

    step: Array
    weight: Array
    owner: NDArray[np.int64]
    ahead: Array
    fixes: Array
    base: Array

    def improved(self, poses: Array, cauchy_m: float) -> Array:
        """Return (K, 3) poses after one Gauss-Newton step with a Cauchy loss on the fixes."""
        count = len(poses)
        error, first, second = self._motion_errors(poses)
        miss, third = self._gps_errors(poses)
        robust = self.base / np.sqrt(1 + np.sum(miss**2, axis=1) / cauchy_m**2)
        k = np.arange(count - 1)
        rows = np.arange(3 * (count - 1)).reshape(-1, 3, 1)
        gps_rows = rows.size + np.arange(2 * len(self.fixes)).reshape(-1, 2, 1)
        entries = [
            (first * self.weight[..., None], rows, k),
            (second * self.weight[..., None], rows, k + 1),
            (third * robust[:, None, None], gps_rows, self.owner),
        ]
        values, row, column = [], [], []
        for block, where, pose in entries:
            values.append(block.ravel())
            row.append(np.broadcast_to(where, block.shape).ravel())
            columns = 3 * pose[:, None, None] + np.arange(3)
            column.append(np.broadcast_to(columns, block.shape).ravel())
        shape = (rows.size + gps_rows.size, 3 * count)
        jacobian = coo_array(
            (np.concatenate(values), (np.concatenate(row), np.concatenate(column))), shape=shape
        ).tocsr()
        residual = np.concatenate([(error * self.weight).ravel(), (miss * robust[:, None]).ravel()])
        normal = (jacobian.T @ jacobian + diags_array(np.full(3 * count, 1e-9))).tocsc()
        change = spsolve(normal, -(jacobian.T @ residual)).reshape(-1, 3)
        better = poses + change
        better[:, 2] = wrap_angle(better[:, 2])
        return better

    def _motion_errors(self, poses: Array) -> tuple[Array, Array, Array]:
        """Return (K - 1, 3) errors and their (K - 1, 3, 3) derivatives by both nodes' poses."""
        a, b = poses[:-1], poses[1:]
        c, s = np.cos(a[:, 2]), np.sin(a[:, 2])
        d = b[:, :2] - a[:, :2]
        error = se2_between(a, b) - self.step
        error[:, 2] = wrap_angle(error[:, 2])
        first = np.zeros((len(a), 3, 3))
        first[:, 0, 0], first[:, 0, 1], first[:, 0, 2] = -c, -s, -s * d[:, 0] + c * d[:, 1]
        first[:, 1, 0], first[:, 1, 1], first[:, 1, 2] = s, -c, -c * d[:, 0] - s * d[:, 1]
        first[:, 2, 2] = -1
        second = -first
        second[:, :, 2] = (0, 0, 1)
        return error, first, second

    def _gps_errors(self, poses: Array) -> tuple[Array, Array]:
        """Return (M, 2) errors, metres, and their (M, 2, 3) derivatives by the node's pose."""
        owner = poses[self.owner]
        flat = np.column_stack([self.ahead, np.zeros(len(self.ahead))])
        predicted = se2_compose(owner, flat)[:, :2]
        turned = predicted - owner[:, :2]
        third = np.zeros((len(self.fixes), 2, 3))
        third[:, 0, 0] = third[:, 1, 1] = 1
        third[:, 0, 2], third[:, 1, 2] = -turned[:, 1], turned[:, 0]
        return predicted - self.fixes, third


def _between_nodes(poses: Array, dead: Array, node: NDArray[np.int64], travelled: Array) -> Array:
    """Return (N, 3) poses of all frames, blended from the nodes before and after each.

    Args:
        poses: (K, 3) poses of the nodes.
        dead: (N, 3) poses of the frames by dead reckoning.
        node: (K,) frames that are nodes.
        travelled: (N,) metres.
    """
    frames = np.arange(len(dead))
    before = np.clip(np.searchsorted(node, frames, side="right") - 1, 0, len(node) - 2)
    after = before + 1
    length = travelled[node[after]] - travelled[node[before]]
    share = (travelled - travelled[node[before]]) / np.maximum(length, 1e-9)
    from_before = se2_compose(poses[before], se2_between(dead[node[before]], dead))
    from_after = se2_compose(poses[after], se2_between(dead[node[after]], dead))
    gap = from_after - from_before
    gap[:, 2] = wrap_angle(gap[:, 2])
    result = from_before + np.clip(share, 0, 1)[:, None] * gap
    result[:, 2] = wrap_angle(result[:, 2])
    return result
