from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import least_squares

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from maptile_loc.fuse.window import WindowSettings
from maptile_loc.fuse.window import window_poses as optimise

SETTINGS = WindowSettings()


def drive(count: int = 15, seed: int = 0) -> tuple[Array, Array]:
    """(Q, 3) poses on the map, and the same in the odometry's frame."""
    rng = np.random.default_rng(seed)
    poses = np.zeros((count, 3))
    poses[0] = [620_000.0, 5_735_000.0, 0.7]
    for i in range(1, count):
        step = [20.0, rng.normal(0, 2), rng.normal(0, 0.4)]
        poses[i] = se2_compose(poses[i - 1], step)
    return poses, se2_compose([5.0, -3.0, 2.1], se2_between(poses[0], poses))


def regressed(poses: Array, metres: float = 10.0, radians: float = 0.0, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    off = rng.normal(0, 1, poses.shape) * [metres, metres, radians]
    return poses + off


def one_segment(poses: Array) -> np.ndarray:
    return np.zeros(len(poses), np.int32)


@pytest.mark.parametrize("known", [True, False])
def test_consistent_poses_do_not_change(known: bool) -> None:
    poses, odometry = drive()
    found = optimise(poses, odometry, one_segment(poses), known, SETTINGS)
    np.testing.assert_allclose(found[:, :2], poses[:, :2], atol=1e-4)
    np.testing.assert_allclose(wrap_angle(found[:, 2] - poses[:, 2]), 0, atol=1e-6)


def test_the_closed_form_is_the_least_squares_of_every_edge() -> None:
    poses, odometry = drive(7)
    seen = regressed(poses)
    settings = WindowSettings(absolute=0.7, relative=0.3)
    i, j = np.triu_indices(7, 1)
    ahead = se2_between(odometry[i], odometry[j])
    turned = se2_compose(np.column_stack([np.zeros((len(i), 2)), poses[i, 2]]), ahead)[:, :2]

    def off(flat: Array) -> Array:
        xy = flat.reshape(-1, 2)
        absolute, relative = xy - seen[:, :2], xy[j] - xy[i] - turned
        return np.concatenate([np.sqrt(0.7) * absolute, np.sqrt(0.3) * relative]).ravel()

    best = least_squares(off, seen[:, :2].ravel()).x.reshape(-1, 2)
    found = optimise(seen, odometry, one_segment(poses), True, settings)
    np.testing.assert_allclose(found[:, :2], best, atol=1e-3)  # a single window


def test_translations_are_compared_in_units() -> None:
    """A problem in a unit of metres is that in metres, scaled; a robust scale stays in metres."""
    poses, odometry = drive(9)
    seen = regressed(poses, 8.0, 0.1)
    unit, scale = 50.0, np.array([50.0, 50.0, 1.0])
    for robust_m in (None, 10.0):
        settings = WindowSettings(robust_m=robust_m)
        found = optimise(seen, odometry, one_segment(poses), False, settings, unit)
        small = WindowSettings(robust_m=None if robust_m is None else robust_m / unit)
        centre = np.append(seen[:, :2].mean(axis=0), 0.0)
        scaled = optimise(
            (seen - centre) / scale, odometry / scale, one_segment(poses), False, small
        )
        np.testing.assert_allclose(found, centre + scaled * scale, atol=1e-3)
    metres = optimise(seen, odometry, one_segment(poses), False, SETTINGS)
    assert np.abs(found - metres).max() > 0.01  # the unit matters


def test_poses_that_are_missing_stay_so() -> None:
    poses, odometry = drive(9)
    seen = regressed(poses)
    seen[4] = np.nan
    found = optimise(seen, odometry, one_segment(poses), True, SETTINGS)
    assert np.isnan(found[4]).all()
    kept = np.arange(9) != 4
    alone = optimise(seen[kept], odometry[kept], one_segment(poses)[kept], True, SETTINGS)
    np.testing.assert_allclose(found[kept], alone)
    nothing = np.full((3, 3), np.nan)
    np.testing.assert_array_equal(
        optimise(nothing, odometry[:3], np.zeros(3, np.int32), True, SETTINGS), nothing
    )


def test_a_pose_depends_on_its_own_window_only() -> None:
    poses, odometry = drive(15)
    seen = regressed(poses)
    found = optimise(seen, odometry, one_segment(poses), True, SETTINGS)
    for middle in range(3, 12):
        part = slice(middle - 3, middle + 4)
        alone = optimise(seen[part], odometry[part], one_segment(seen[part]), True, SETTINGS)
        np.testing.assert_allclose(found[middle], alone[3], atol=1e-6)
    moved = seen.copy()
    moved[14, :2] += 100.0
    again = optimise(moved, odometry, one_segment(poses), True, SETTINGS)
    changed = np.linalg.norm(again - found, axis=1) > 1e-6
    assert changed.tolist() == [False] * 11 + [True] * 4


@pytest.mark.parametrize(("known", "metres", "radians"), [(True, 10.0, 0.0), (False, 2.0, 0.2)])
def test_independent_errors_are_averaged(known: bool, metres: float, radians: float) -> None:
    poses, odometry = drive(30)
    seen = regressed(poses, metres, radians)
    found = optimise(seen, odometry, one_segment(poses), known, SETTINGS)

    def error(guess: Array) -> float:
        return float(np.sqrt(np.square(guess - poses)[:, :2].sum(1).mean()))

    assert error(found) < 0.6 * error(seen)  # a mean of seven: 0.38, one-sided at the ends
    if known:
        np.testing.assert_array_equal(found[:, 2], seen[:, 2])
    else:
        turn = np.abs(wrap_angle(np.stack([found, seen])[:, :, 2] - poses[:, 2])).mean(axis=1)
        assert turn[0] < 0.6 * turn[1]


def test_weights_decide_between_regression_and_odometry() -> None:
    poses, odometry = drive()
    seen = regressed(poses)
    trusting = WindowSettings(absolute=1e6, relative=1e-3)
    found = optimise(seen, odometry, one_segment(poses), True, trusting)
    np.testing.assert_allclose(found, seen, atol=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_segments_are_optimised_separately(known: bool) -> None:
    poses, odometry = drive(9)
    seen = regressed(poses, 3.0)
    segment = np.array([0, 0, 0, 0, 1, 1, 1, -1, -1], np.int32)
    odometry[4:] = se2_compose([400.0, 50.0, 1.0], odometry[4:])  # another frame
    found = optimise(seen, odometry, segment, known, SETTINGS)
    for part in (slice(0, 4), slice(4, 7)):
        alone = optimise(seen[part], odometry[part], segment[part], known, SETTINGS)
        np.testing.assert_allclose(found[part], alone, atol=1e-6)
    np.testing.assert_allclose(found[7:], seen[7:], atol=1e-6)  # no odometry at all


@pytest.mark.parametrize("known", [True, False])
def test_outliers_have_little_weight_with_robust_weights(known: bool) -> None:
    poses, odometry = drive(21)
    seen = regressed(poses, 2.0)
    wrong = np.array([1, 4, 5, 10, 13, 14, 19])
    seen[wrong, :2] += np.random.default_rng(2).normal(0, 400, (len(wrong), 2))
    robust = SETTINGS.model_copy(update={"robust_m": 10.0})
    plain, held = (
        np.linalg.norm(
            (optimise(seen, odometry, one_segment(seen), known, s) - poses)[:, :2], axis=1
        )
        for s in (SETTINGS, robust)
    )
    assert np.median(plain) > 50
    assert held.max() < 6


def test_without_outliers_robust_weights_change_little() -> None:
    poses, odometry = drive(21)
    seen = regressed(poses, 1.0)
    plain, held = (
        optimise(seen, odometry, one_segment(seen), True, s)
        for s in (SETTINGS, SETTINGS.model_copy(update={"robust_m": 20.0}))
    )
    np.testing.assert_allclose(plain, held, atol=0.05)


def test_a_single_query_does_not_change() -> None:
    poses, odometry = drive(1)
    np.testing.assert_allclose(optimise(poses, odometry, one_segment(poses), True, SETTINGS), poses)
