"""A smooth path from GPS that jumps and visual odometry that drifts.

The path is a chain of SE(2) poses a few metres apart. Visual odometry ties neighbours together; GPS
ties each to the map, with a robust loss that is tightened step by step, so that a fix tens of
metres off counts for nothing in the end.
"""

from __future__ import annotations

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
_WINDOW = 15  # nodes to each side that the first guess of a heading is made from
_SCALE_WINDOW_S, _SCALE_WAY_M = 30.0, 80.0
_SIGMA_STEP = np.array([0.15, 0.05, 0.006])  # per node: along, across (m), turn (rad)
_SIGMA_LOST = np.array([5.0, 5.0, 1.0])  # where odometry is missing between two nodes
_GPS_SHARED = 1.0
_TIGHTEN = (40.0, 20.0, 10.0, 5.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0)  # metres, Cauchy's scale


def fuse(gps: Gps, vo: Vo, projection: Projection) -> tuple[Times, Array]:
    """Fuse GPS and visual odometry.

    Args:
        gps: The fixes, with what they say of their own accuracy.
        vo: Motion from frame to frame; after a pause of over two seconds only the GPS tells where
            the path goes on.
        projection: The map frame.

    Returns:
        (N,) int64 nanoseconds of the frames and (N, 3) float64 east, north (metres, map frame) and
        heading (radians from grid east).
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
    share = 1 / (_GPS_SHARED * np.bincount(owner, minlength=len(node))[owner])
    base = np.sqrt(share) / np.clip(sigma, 1.5, None)
    for scale in _TIGHTEN:
        poses = _improve(poses, step, weight, owner, ahead, fixes, base, scale)
    return track.t_ns, _between_nodes(poses, dead, node, travelled)


def _scale(t_ns: Times, dead: Array, gps_ns: Times, fixes: Array) -> float:
    """What to multiply the odometry by: the GPS's way over its own, in windows of half a minute."""
    seconds, fix_seconds = (t_ns - t_ns[0]) / 1e9, (gps_ns - t_ns[0]) / 1e9
    at_fixes = np.stack([np.interp(fix_seconds, seconds, dead[:, i]) for i in (0, 1)], axis=1)
    later = np.searchsorted(fix_seconds, fix_seconds + _SCALE_WINDOW_S)
    window = later < len(fixes)
    ends = later[window]
    own = np.linalg.norm(at_fixes[ends] - at_fixes[window], axis=1)
    true = np.linalg.norm(fixes[ends] - fixes[window], axis=1)
    far = own > _SCALE_WAY_M
    return float(np.median(true[far] / own[far])) if far.any() else 1.0


def _nodes(travelled: Array, segment: NDArray[np.int32]) -> NDArray[np.int64]:
    """Frames that become nodes: every few metres, and both ends of every piece."""
    starts = np.flatnonzero(np.diff(np.floor(travelled / _NODE_M), prepend=-1))
    breaks = np.flatnonzero(np.diff(segment))
    return np.unique(np.concatenate([starts, breaks, breaks + 1, [len(travelled) - 1]]))


def _first_guess(dead: Array, fixes: Array, owner: NDArray[np.int64]) -> Array:
    """Nodes at the GPS's running median, headings by turning pieces of odometry on to it."""
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


def _improve(
    poses: Array,
    step: Array,
    weight: Array,
    owner: NDArray[np.int64],
    ahead: Array,
    fixes: Array,
    base: Array,
    scale: float,
) -> Array:
    """One Gauss-Newton step; GPS weighted by a Cauchy loss of ``scale`` metres."""
    count = len(poses)
    a, b = poses[:-1], poses[1:]
    c, s = np.cos(a[:, 2]), np.sin(a[:, 2])
    d = b[:, :2] - a[:, :2]
    error = se2_between(a, b) - step
    error[:, 2] = wrap_angle(error[:, 2])
    first = np.zeros((count - 1, 3, 3))
    first[:, 0, 0], first[:, 0, 1], first[:, 0, 2] = -c, -s, -s * d[:, 0] + c * d[:, 1]
    first[:, 1, 0], first[:, 1, 1], first[:, 1, 2] = s, -c, -c * d[:, 0] - s * d[:, 1]
    first[:, 2, 2] = -1
    second = -first
    second[:, :, 2] = (0, 0, 1)

    seen = se2_compose(poses[owner], np.column_stack([ahead, np.zeros(len(ahead))]))[:, :2]
    miss = seen - fixes
    robust = base / np.sqrt(1 + np.sum(miss**2, axis=1) / scale**2)
    turned = seen - poses[owner, :2]
    third = np.zeros((len(fixes), 2, 3))
    third[:, 0, 0] = third[:, 1, 1] = 1
    third[:, 0, 2], third[:, 1, 2] = -turned[:, 1], turned[:, 0]

    k = np.arange(count - 1)
    rows = np.arange(3 * (count - 1)).reshape(-1, 3, 1)
    gps_rows = rows.size + np.arange(2 * len(fixes)).reshape(-1, 2, 1)
    entries = [
        (first * weight[..., None], rows, k),
        (second * weight[..., None], rows, k + 1),
        (third * robust[:, None, None], gps_rows, owner),
    ]
    values, row, column = [], [], []
    for block, where, pose in entries:
        values.append(block.ravel())
        row.append(np.broadcast_to(where, block.shape).ravel())
        column.append(np.broadcast_to(3 * pose[:, None, None] + np.arange(3), block.shape).ravel())
    shape = (rows.size + gps_rows.size, 3 * count)
    jacobian = coo_array(
        (np.concatenate(values), (np.concatenate(row), np.concatenate(column))), shape=shape
    ).tocsr()
    residual = np.concatenate([(error * weight).ravel(), (miss * robust[:, None]).ravel()])
    normal = (jacobian.T @ jacobian + diags_array(np.full(3 * count, 1e-9))).tocsc()
    change = spsolve(normal, -(jacobian.T @ residual)).reshape(-1, 3)
    better = poses + change
    better[:, 2] = wrap_angle(better[:, 2])
    return better


def _between_nodes(poses: Array, dead: Array, node: NDArray[np.int64], travelled: Array) -> Array:
    """(N, 3) every frame: from the node before it and the node after it, by the way to each."""
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
