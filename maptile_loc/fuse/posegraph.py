"""The pose graph of a drive: odometry links consecutive states, fixes measure some of them.

A Gauss-Newton step is an information smoother: the normal equations of a chain, its information
matrix and vector, are block-tridiagonal. LAPACK's banded Cholesky factorisation solves them in a
time that is linear in the length of the drive.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve_banded, cholesky_banded

from data_prep.geometry import Array, wrap_angle
from maptile_loc.fuse.motion import SIZE, FuseSettings, Steps, move, observe


def relax(
    states: Array,
    fixed: Array,
    seen: Array,
    covariance: Array,
    steps: Steps,
    settings: FuseSettings,
    pulls: tuple[NDArray[np.int64], Array, Array] | None = None,
) -> tuple[Array, Array]:
    """One Gauss-Newton step of the pose graph of N queries.

    Args:
        states: (N, 8) states to linearise at, as in ``motion.py``.
        fixed: (M,) int, indices of the queries that have a fix.
        seen: (M, 3) poses of the fixes.
        covariance: (M, 3, 3) of the fixes.
        steps: N steps, the first of which is not used.
        settings: Noise.
        pulls: (G,) indices of the queries whose positions are measured besides, (G, 2) east and
            north, and (G, 2, 2) information, 1/m2; None: none are.

    Returns:
        (N, 8) new states and their (N, 8, 8) marginal covariances.
    """
    diagonal = np.zeros((len(states), SIZE, SIZE))
    right = np.zeros((len(states), SIZE))
    prior = np.diag([1e-9] * 3 + [1.0] * 5)
    diagonal[0] += prior
    right[0, 3:] -= states[0, 3:]

    jacobian, rest = observe(covariance, settings)
    weight = np.swapaxes(jacobian, 1, 2) @ np.linalg.inv(rest)
    error = seen - np.einsum("mij,mj->mi", jacobian, states[fixed])
    error[:, 2] = wrap_angle(error[:, 2])
    diagonal[fixed] += weight @ jacobian
    right[fixed] += np.einsum("mij,mj->mi", weight, error)

    if pulls is not None:
        at, position, pull = pulls
        diagonal[at, :2, :2] += pull
        right[at, :2] += np.einsum("gij,gj->gi", pull, position - states[at, :2])

    moved, jacobian, noise = move(states[:-1], steps, slice(1, None), settings)
    error = states[1:] - moved
    error[:, 2] = wrap_angle(error[:, 2])
    information = np.linalg.inv(noise)
    weight = np.swapaxes(jacobian, 1, 2) @ information
    diagonal[:-1] += weight @ jacobian
    diagonal[1:] += information
    right[:-1] += np.einsum("nij,nj->ni", weight, error)
    right[1:] -= np.einsum("nij,nj->ni", information, error)

    step, covariances = solve_chain(diagonal, -weight, right)
    relaxed = states + step
    relaxed[:, 2] = wrap_angle(relaxed[:, 2])
    return relaxed, covariances


def solve_chain(diagonal: Array, upper: Array, right: Array) -> tuple[Array, Array]:
    """Solve a positive definite block-tridiagonal system.

    The marginal covariances are those of the two-filter smoother (Fraser and Potter 1969): the
    information of a block after elimination from the front, plus that from the back, minus the
    block itself, which both contain.

    Args:
        diagonal: (N, D, D) diagonal blocks.
        upper: (N - 1, D, D) blocks (i, i + 1) of row i.
        right: (N, D) right-hand side.

    Returns:
        (N, D) solution and (N, D, D) diagonal blocks of the inverse (the marginal covariances).
    """
    factor = _factor(diagonal, upper)
    solution = cho_solve_banded((factor, True), right.ravel()).reshape(right.shape)
    back = _factor(diagonal[::-1], np.swapaxes(upper[::-1], 1, 2))
    size = right.shape[1]
    information = _pivots(factor, size) + _pivots(back, size)[::-1] - diagonal
    return solution, np.asarray(np.linalg.inv(information), np.float64)


def _factor(diagonal: Array, upper: Array) -> Array:
    """(2 D, N D) banded Cholesky factor in LAPACK's lower form: entry (i, j) in row i - j."""
    count, size = diagonal.shape[:2]
    banded = np.zeros((2 * size, count, size))
    i, j = np.tril_indices(size)
    banded[i - j, :, j] = diagonal[:, i, j].T
    i, j = np.indices((size, size)).reshape(2, -1)
    banded[size + i - j, :-1, j] = upper[:, j, i].T
    return np.asarray(cholesky_banded(banded.reshape(2 * size, -1), lower=True), np.float64)


def _pivots(factor: Array, size: int) -> Array:
    """(N, D, D) diagonal blocks of a banded factor, each times its own transpose."""
    i, j = np.tril_indices(size)
    root = np.zeros((factor.shape[1] // size, size, size))
    root[:, i, j] = factor.reshape(2 * size, -1, size)[i - j, :, j].T
    return root @ np.swapaxes(root, 1, 2)
