"""The pose graph of a drive: odometry links each state to the next, fixes hold some of them.

Such a chain's normal equations are banded, and solved by LAPACK's banded Cholesky factorisation.
"""

from __future__ import annotations

import numpy as np
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
) -> tuple[Array, Array]:
    """One Gauss-Newton step of a chain of N queries.

    Args:
        states: (N, 8) to start from.
        fixed: (M,) int, which of them have a fix.
        seen: (M, 3) poses of the fixes.
        covariance: (M, 3, 3) of the fixes.
        steps: N of them, the first of which means nothing.
        settings: Noise.

    Returns:
        (N, 8) states and the (N, 8, 8) covariances of each.
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
    """Solve a positive definite block-tridiagonal system, with the diagonal blocks of its inverse.

    Args:
        diagonal: (N, D, D) diagonal blocks.
        upper: (N - 1, D, D), block (i, i + 1) in row i.
        right: (N, D).

    Returns:
        (N, D) solution and (N, D, D) diagonal blocks of the inverse (the marginal covariances).
    """
    factor = _factor(diagonal, upper)
    solution = cho_solve_banded((factor, True), right.ravel()).reshape(right.shape)
    # Block i, once those before it are eliminated, once those after it are: less the block itself,
    # which both hold, they are the information of the whole chain.
    back = _factor(diagonal[::-1], np.swapaxes(upper[::-1], 1, 2))
    size = right.shape[1]
    information = _pivots(factor, size) + _pivots(back, size)[::-1] - diagonal
    return solution, np.asarray(np.linalg.inv(information), np.float64)


def _factor(diagonal: Array, upper: Array) -> Array:
    """(2 D, N D) banded Cholesky factor, in LAPACK's lower form: row i - j, column j."""
    count, size = diagonal.shape[:2]
    banded = np.zeros((2 * size, count, size))
    i, j = np.tril_indices(size)
    banded[i - j, :, j] = diagonal[:, i, j].T
    i, j = np.indices((size, size)).reshape(2, -1)
    banded[size + i - j, :-1, j] = upper[:, j, i].T
    return np.asarray(cholesky_banded(banded.reshape(2 * size, -1), lower=True), np.float64)


def _pivots(factor: Array, size: int) -> Array:
    """(N, D, D) diagonal blocks of a banded factor, times their own transpose."""
    i, j = np.tril_indices(size)
    root = np.zeros((factor.shape[1] // size, size, size))
    root[:, i, j] = factor.reshape(2 * size, -1, size)[i - j, :, j].T
    return root @ np.swapaxes(root, 1, 2)
