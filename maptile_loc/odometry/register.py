"""Fit a scan to a map of surfaces: Gauss-Newton with a robust weight.

A point pulls only across the surface that it lies on (see ``VoxelMap``); its residual is weighed
down with a Geman-McClure kernel that narrows from a metre to decimetres. What the fit can tell is
read off its normal equations: in a direction in which no surface holds, nothing is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from data_prep.geometry import Array
from maptile_loc.odometry.voxels import VoxelMap

_KERNEL_M = (1.0, 1.0, 0.6, 0.4, 0.3, 0.2)
_LOOK_AROUND = 3
_ITERATIONS = 15
_STOP_M, _STOP_RAD = 1e-3, 1e-4
_NOISE_M = 0.05
_DAMPING = 1e-3


@dataclass(frozen=True)
class Fit:
    """Where a scan fits.

    Attributes:
        pose: (4, 4) scan -> map.
        share: How many of the first part's points lie on its map's surfaces, 0 to 1.
        agree: The same, of the points where the map has a surface to lie on.
        std_m: Standard deviation of the position in the horizontal direction that is known worst,
            were the points' errors independent; infinite where nothing holds.
    """

    pose: Array
    share: float
    agree: float
    std_m: float


def register(
    parts: Sequence[tuple[VoxelMap, Array]], guess: Array, guess_std_m: float | None = None
) -> Fit:
    """Fit a scan.

    Args:
        parts: Maps, each with the (N, 3) points of the scan, in its own frame, that belong to it.
        guess: (4, 4) scan -> map, good to about a voxel.
        guess_std_m: How well its position is known, where that is to count beside the scan.
    """
    trust = 0.0 if guess_std_m is None else (_NOISE_M / guess_std_m) ** 2
    prior = np.diag([trust] * 3 + [0.0] * 3) + _DAMPING * np.eye(6)
    pose = guess.copy()
    for i in range(_ITERATIONS):
        kernel = _KERNEL_M[min(i, len(_KERNEL_M) - 1)]
        sums = [_equations(*part, pose, kernel, i < _LOOK_AROUND) for part in parts]
        left = sum((one[0] for one in sums), np.zeros((6, 6)))
        right = sum((one[1] for one in sums), np.zeros(6))
        right[:3] += trust * (pose[:3, 3] - guess[:3, 3])
        step = np.linalg.solve(left + prior, -right)
        pose[:3, :3] = Rotation.from_rotvec(step[3:]).as_matrix() @ pose[:3, :3]
        pose[:3, 3] += step[:3]
        small = np.linalg.norm(step[:3]) < _STOP_M and np.linalg.norm(step[3:]) < _STOP_RAD
        if small and i + 1 >= len(_KERNEL_M):
            break
    _, _, found, good = sums[0]
    return Fit(pose, good / max(len(parts[0][1]), 1), good / max(found, 1), _worst_std(left))


def _equations(
    surfaces: VoxelMap, points: Array, pose: Array, kernel_m: float, neighbours: bool
) -> tuple[Array, Array, int, float]:
    """(6, 6) and (6,) of the normal equations (shift, then turn about the scan's origin).

    And how many points have a surface, and how many lie on it: the sum of the robust weights.
    """
    turned = points @ pose[:3, :3].T
    found = surfaces.find(turned + pose[:3, 3], neighbours)
    seen = found >= 0
    found, turned = found[seen], turned[seen]
    hold = surfaces.hold[found]
    off = np.einsum("nki,ni->nk", hold, turned + pose[:3, 3] - surfaces.mean[found])
    robust = (kernel_m**2 / (kernel_m**2 + np.einsum("nk,nk->n", off, off))) ** 2
    x, y, z = turned.T[:, :, None]
    a, b, c = hold[:, :, 0], hold[:, :, 1], hold[:, :, 2]
    slope = np.stack([a, b, c, y * c - z * b, z * a - x * c, x * b - y * a], axis=-1)
    pulled = slope * robust[:, None, None]
    # einsum, and not a matrix product, whose rounding may depend on the number of threads
    left = np.einsum("nki,nkj->ij", pulled, slope)
    right = np.einsum("nki,nk->i", pulled, off)
    return left, right, len(found), float(robust.sum())


def _worst_std(left: Array) -> float:
    """From the normal equations, with height and turns left free."""
    free = left[2:, 2:] + 1e-9 * np.eye(4)
    held = left[:2, :2] - left[:2, 2:] @ np.linalg.solve(free, left[2:, :2])
    weakest = max(float(np.linalg.eigvalsh(held)[0]), 0.0)
    return _NOISE_M / np.sqrt(weakest) if weakest > 1e-12 else float("inf")
