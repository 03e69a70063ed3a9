from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from data_prep.geometry import se2_between, se2_compose, wrap_angle
from maptile_loc.fuse.motion import FuseSettings, make_steps, move, observe
from maptile_loc.fuse.posegraph import relax, solve_chain

SETTINGS = FuseSettings()


def block_tridiagonal(n, size, rng):
    root = np.zeros((size * n, size * n))
    for i in range(n):
        for j in (i, i - 1):
            if j >= 0:
                block = rng.normal(size=(size, size))
                root[size * i : size * (i + 1), size * j : size * (j + 1)] = block
    return root @ root.T + np.eye(size * n)


@pytest.mark.parametrize(("n", "size"), [(1, 8), (2, 3), (7, 3), (30, 8)])
def test_solve_chain_equals_a_dense_solve(n, size):
    rng = np.random.default_rng(0)
    matrix = block_tridiagonal(n, size, rng)
    blocks = matrix.reshape(n, size, n, size).swapaxes(1, 2)
    diagonal = blocks[np.arange(n), np.arange(n)]
    upper = blocks[np.arange(n - 1), np.arange(1, n)]
    right = rng.normal(size=(n, size))
    solution, covariance = solve_chain(diagonal, upper, right)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(solution.ravel(), inverse @ right.ravel(), atol=1e-9)
    expected = inverse.reshape(n, size, n, size).swapaxes(1, 2)[np.arange(n), np.arange(n)]
    np.testing.assert_allclose(covariance, expected, atol=1e-9)


def chain(count=9, seed=0):
    """A winding drive, odometry with errors of scale (4 %) and turn, and fixes at some queries."""
    rng = np.random.default_rng(seed)
    truth, odometry = [np.array([50.0, -20.0, 0.4])], [np.zeros(3)]
    for _ in range(count - 1):
        truth.append(se2_compose(truth[-1], [20.0, rng.normal(0, 1), rng.normal(0, 0.3)]))
        motion = se2_between(truth[-2], truth[-1]) * [1.04, 1.04, 1.0] + [0.0, 0.0, 0.004]
        odometry.append(se2_compose(odometry[-1], motion))
    truth = np.array(truth)
    metres = 20.8 * np.arange(count)
    steps = make_steps(np.array(odometry), np.zeros(count, np.int32), metres, 20.0, SETTINGS)
    fixed = np.flatnonzero(np.arange(count) % 3 != 1)
    covariance = np.tile(np.diag([0.3, 0.2, 1e-4]), (len(fixed), 1, 1))
    covariance[:, 0, 1] = covariance[:, 1, 0] = rng.uniform(-0.2, 0.2, len(fixed))
    seen = truth[fixed] + rng.normal(0, [0.5, 0.5, 0.01], (len(fixed), 3))
    return truth, steps, fixed, seen, covariance


def test_relax_agrees_with_a_dense_least_squares_solver():
    truth, steps, fixed, seen, covariance = chain()
    jacobian, rest = observe(covariance, SETTINGS)
    kept = np.exp(-20.8 / np.array([SETTINGS.drift_m] * 2 + [SETTINGS.common_m] * 3))

    def whitened(error, covariance):
        return np.linalg.solve(np.linalg.cholesky(covariance), error)

    def residuals(flat):
        """Residuals of the model as ``motion.py`` describes it, without move() or relax()."""
        states = flat.reshape(-1, 8)
        parts = [states[0, 3:]]
        for k, i in enumerate(fixed):
            error = seen[k] - states[i, :3] - jacobian[k, :, 5:] @ states[i, 5:]
            parts.append(whitened(np.append(error[:2], wrap_angle(error[2])), rest[k]))
        for i in range(1, len(states)):
            before, after = states[i - 1], states[i]
            turn = np.radians(SETTINGS.turn_deg_per_m) * before[4] * 20.8
            x, y, heading = steps.motion[i]
            shrunk = np.exp(-SETTINGS.scale * before[3])
            c, s = np.cos(-turn / 2) * shrunk, np.sin(-turn / 2) * shrunk
            expected = np.array([c * x - s * y, s * x + c * y, heading - turn])
            error = se2_between(before[:3], after[:3]) - expected
            error[2] = wrap_angle(error[2])
            parts.append(whitened(error, steps.covariance[i]))
            parts.append((after[3:] - kept * before[3:]) / np.sqrt(1 - kept**2))
        return np.concatenate(parts)

    states = np.hstack([truth, np.zeros((len(truth), 5))])
    found = least_squares(residuals, states.ravel(), xtol=1e-12, ftol=1e-12, gtol=1e-12)
    for _ in range(8):
        states, covariances = relax(states, fixed, seen, covariance, steps, SETTINGS)
    # relax() neglects the derivative of the noise with respect to the heading.
    np.testing.assert_allclose(states[:, :3], found.x.reshape(-1, 8)[:, :3], atol=1e-4)
    np.testing.assert_allclose(states[:, 3:], found.x.reshape(-1, 8)[:, 3:], atol=1e-3)
    inverse = np.linalg.inv(found.jac.T @ found.jac).reshape(len(states), 8, len(states), 8)
    expected = inverse[np.arange(len(states)), :, np.arange(len(states))]
    np.testing.assert_allclose(covariances, expected, atol=2e-3)
    np.testing.assert_allclose(covariances[:, :3, :3], expected[:, :3, :3], rtol=0.02, atol=1e-4)


def test_the_jacobian_is_the_derivative():
    _, steps, *_ = chain()
    rng = np.random.default_rng(3)
    states = rng.normal(0, 1, (4, 8))
    _, jacobian, _ = move(states, steps, 5, SETTINGS)
    for column in range(8):
        nudge = 1e-6 * np.eye(8)[column]
        ahead, behind = (move(states + s * nudge, steps, 5, SETTINGS)[0] for s in (1, -1))
        np.testing.assert_allclose(jacobian[:, :, column], (ahead - behind) / 2e-6, atol=1e-5)


def test_a_single_fix_keeps_its_covariance():
    covariance = np.diag([0.3, 0.2, 1e-4])[None]
    steps = make_steps(np.zeros((1, 3)), np.zeros(1, np.int32), np.zeros(1), 20.0, SETTINGS)
    seen = np.array([[1.0, 2.0, 0.5]])
    states, doubt = relax(np.zeros((1, 8)), np.array([0]), seen, covariance, steps, SETTINGS)
    np.testing.assert_allclose(states[0, :3], seen[0], atol=1e-6)
    np.testing.assert_allclose(doubt[0, :3, :3], covariance[0], rtol=1e-6, atol=1e-12)


def test_a_long_chain_is_solved_in_linear_space():
    """20,000 queries, whose dense information matrix would take 200 GB."""
    count = 20_000
    poses = np.column_stack([10.0 * np.arange(count), np.zeros((count, 2))])
    steps = make_steps(poses, np.zeros(count, np.int32), poses[:, 0], 20.0, SETTINGS)
    fixed = np.arange(0, count, 5)
    covariance = np.tile(np.diag([0.25, 0.25, 1e-4]), (len(fixed), 1, 1))
    states = np.hstack([poses, np.zeros((count, 5))])
    relaxed, doubt = relax(states, fixed, poses[fixed], covariance, steps, SETTINGS)
    np.testing.assert_allclose(relaxed[:, :3], poses, atol=1e-6)
    # Far from the ends, the covariance is the same everywhere.
    np.testing.assert_allclose(doubt[5000], doubt[15000], rtol=1e-5, atol=1e-12)
    assert 0.05 < np.sqrt(doubt[10_000, 0, 0]) < 0.5
