"""Registration of a scan to a map of surfaces: robust point-to-plane ICP.

The error of a point is its offset from the nearest surface, measured along the directions in which
that surface is known (see ``VoxelMap``). For a plane this is point-to-plane ICP (Chen and Medioni,
"Object modelling by registration of multiple range images", 1992); weighting all three directions
by the spread of the points follows Generalized-ICP (Segal, Haehnel and Thrun, RSS 2009). Errors
have a Geman-McClure loss whose scale decreases from a metre to decimetres (graduated non-convexity,
as in Zhou, Park and Koltun, "Fast Global Registration", ECCV 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from data_prep.geometry import Array
from maptile_loc.odometry.voxels import SYMMETRIC, UPPER, VoxelMap

_KERNEL_M = (1.0, 1.0, 0.6, 0.4, 0.3, 0.2)
"""Scale of the Geman-McClure loss in each iteration, metres; the last one is kept."""

_NEIGHBOUR_ITERATIONS = 3
"""In the first iterations a point may also be matched to one of the six neighbouring voxels."""

_ITERATIONS = 15
"""Most Gauss-Newton iterations."""

_STOP_M = 1e-3
"""The iteration ends after a step shorter than this that turns less than ``_STOP_RAD``, metres."""

_STOP_RAD = 1e-4
"""Turn of the last step, see ``_STOP_M``, radians."""

_NOISE_M = 0.05
"""Standard deviation of a point's offset from its surface, metres."""

_DAMPING = 1e-3
"""Added to the diagonal of the normal equations."""

_CROSS = np.zeros((3, 3, 3))
"""The Levi-Civita symbol: component a of u x v is the sum of ``_CROSS[a, k, m]`` u[k] v[m]."""
_CROSS[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1.0
_CROSS[[0, 1, 2], [2, 0, 1], [1, 2, 0]] = -1.0


@dataclass(frozen=True)
class Fit:
    """A registered scan.

    Attributes:
        pose: (4, 4) scan -> map, metres.
        share: Sum of the robust weights of the first of ``register``'s ``parts``, divided by the
            number of its points, 0 to 1: about the share that lies on the map's surfaces.
        agree: The same sum divided by the number of those points that have a surface nearby.
        std_m: Standard deviation of the position, metres, in the horizontal direction that is known
            worst, if the errors of the points were independent; infinite where nothing is known.
    """

    pose: Array
    share: float
    agree: float
    std_m: float


def register(
    parts: Sequence[tuple[VoxelMap, Array]], guess: Array, guess_std_m: float | None = None
) -> Fit:
    """Return the pose at which a scan fits the map.

    Args:
        parts: Maps, each with the (3, N) points of the scan that belong to it, scan frame, metres.
        guess: (4, 4) scan -> map, correct to about a voxel.
        guess_std_m: Standard deviation of the guess's position as a prior, metres; None: no prior.
    """
    trust = 0.0 if guess_std_m is None else (_NOISE_M / guess_std_m) ** 2
    prior = np.diag([trust] * 3 + [0.0] * 3) + _DAMPING * np.eye(6)
    pose = guess.copy()
    for i in range(_ITERATIONS):
        kernel = _KERNEL_M[min(i, len(_KERNEL_M) - 1)]
        sums = [_equations(*part, pose, kernel, i < _NEIGHBOUR_ITERATIONS) for part in parts]
        hessian = sum((one[0] for one in sums), np.zeros((6, 6)))
        gradient = sum((one[1] for one in sums), np.zeros(6))
        gradient[:3] += trust * (pose[:3, 3] - guess[:3, 3])
        step = np.linalg.solve(hessian + prior, -gradient)
        pose[:3, :3] = Rotation.from_rotvec(step[3:]).as_matrix() @ pose[:3, :3]
        pose[:3, 3] += step[:3]
        small = np.linalg.norm(step[:3]) < _STOP_M and np.linalg.norm(step[3:]) < _STOP_RAD
        if small and i + 1 >= len(_KERNEL_M):
            break
    _, _, found, good = sums[0]
    return Fit(pose, good / max(parts[0][1].shape[1], 1), good / max(found, 1), _worst_std(hessian))


def _equations(
    surfaces: VoxelMap, points: Array, pose: Array, kernel_m: float, neighbours: bool
) -> tuple[Array, Array, int, float]:
    """Return the normal equations of one Gauss-Newton step.

    The six unknowns are a shift in the map frame and a rotation vector about the scan's origin; the
    rotation is linearised (Low, "Linear least-squares optimization for point-to-plane ICP surface
    registration", 2004). So the derivative of a point q is (1, -[q]), and the Hessian consists of
    sums of products of the surfaces' weights and the points' coordinates.

    Args:
        surfaces: The map.
        points: (3, N) scan frame, metres.
        pose: (4, 4) scan -> map.
        kernel_m: Scale of the Geman-McClure loss, metres.
        neighbours: Whether neighbouring voxels are searched as well.

    Returns:
        (6, 6) approximate Hessian, (6,) gradient, the number of points with a surface, and the sum
        of the robust weights.
    """
    turned = pose[:3, :3] @ points
    found = surfaces.find(turned + pose[:3, 3:], neighbours)
    seen = found > 0
    found, turned = found[seen], np.compress(seen, turned, axis=1)
    off = turned + pose[:3, 3:] - np.take(surfaces.mean, found, axis=1)
    weight = np.take(surfaces.weight, found, axis=1)
    pull = np.stack([(weight[row] * off).sum(axis=0) for row in SYMMETRIC])
    robust = (kernel_m**2 / (kernel_m**2 + (off * pull).sum(axis=0))) ** 2
    weight *= robust
    pull *= robust
    # einsum instead of a matrix product, whose rounding may depend on the number of threads.
    first = np.einsum("an,kn->ak", weight, turned)[SYMMETRIC]
    second = np.einsum("an,kn->ak", weight, turned[UPPER[0]] * turned[UPPER[1]])
    hessian = np.empty((6, 6))
    hessian[:3, :3] = weight.sum(axis=1)[SYMMETRIC]
    hessian[3:, :3] = np.einsum("akm,mjk->aj", _CROSS, first)
    hessian[:3, 3:] = hessian[3:, :3].T
    hessian[3:, 3:] = np.einsum(
        "akm,bln,mnkl->ab", _CROSS, _CROSS, second[SYMMETRIC][:, :, SYMMETRIC]
    )
    turning = np.einsum("akm,km->a", _CROSS, np.einsum("kn,mn->km", turned, pull))
    gradient = np.concatenate([pull.sum(axis=1), turning])
    return hessian, gradient, len(found), float(robust.sum())


def _worst_std(hessian: Array) -> float:
    """Return the standard deviation of the position in the worst horizontal direction, metres.

    Height and rotation are marginalised by the Schur complement.
    """
    rest = hessian[2:, 2:] + 1e-9 * np.eye(4)
    information = hessian[:2, :2] - hessian[:2, 2:] @ np.linalg.solve(rest, hessian[2:, :2])
    weakest = max(float(np.linalg.eigvalsh(information)[0]), 0.0)
    return _NOISE_M / np.sqrt(weakest) if weakest > 1e-12 else float("inf")
