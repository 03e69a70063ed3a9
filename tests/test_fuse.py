from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from data_prep.geometry import se2_between, se2_compose, wrap_angle
from maptile_loc.fuse.filter import Fixes, filter_causal
from maptile_loc.fuse.motion import FuseSettings, make_steps
from maptile_loc.fuse.smoother import smooth
from maptile_loc.types import Candidates

SETTINGS = FuseSettings()
AREA_M2 = 1e6


def drive(count=40, step=20.0, seed=0, scale=1.015, turn_deg_per_m=0.0, noise=0.0):
    """True poses on a winding road, and steps of odometry with errors of scale, turn and noise.

    ``noise`` scales the random walk of the settings. The odometry is integrated over ten pieces per
    step, like that of a real vehicle.
    """
    rng = np.random.default_rng(seed)
    poses = [np.array([500.0, 500.0, 0.3])]
    for _ in range(count - 1):
        poses.append(se2_compose(poses[-1], [step, 0.0, rng.normal(0, 0.2)]))
    truth = np.array(poses)
    pieces = 10
    metres = step / pieces
    spread = np.array([SETTINGS.walk_m, SETTINGS.walk_m, np.radians(SETTINGS.walk_deg)])
    odometry = [np.zeros(3)]
    for a, b in pairwise(truth):
        piece = se2_between(a, b) / pieces
        here = odometry[-1]
        for k in range(pieces):
            c, s = np.cos(k * piece[2]), np.sin(k * piece[2])
            x, y, turn = piece
            motion = np.array([c * x + s * y, c * y - s * x, turn])
            motion *= [scale, scale, 1.0]
            motion[2] += np.radians(turn_deg_per_m) * metres
            motion += noise * spread * np.sqrt(metres) * rng.normal(size=3)
            here = se2_compose(here, motion)
        odometry.append(here)
    segment = np.zeros(count, np.int32)
    travelled = scale * step * np.arange(count)
    return truth, make_steps(np.array(odometry), segment, travelled, step, SETTINGS)


def fixes_at(truth, rng, std=0.5, right=0.7, clutter=4, common=0.0, step=20.0, turn_std=0.01):
    """Candidates of each query: the true pose with probability ``right``, and random outliers.

    A share ``common`` of the errors' variance is correlated over ``SETTINGS.common_m``.
    """
    fixes = []
    shared = rng.normal(size=3)
    kept = np.exp(-step / SETTINGS.common_m)
    for pose in truth:
        shared = kept * shared + np.sqrt(1 - kept**2) * rng.normal(size=3)
        stray = np.column_stack([rng.uniform(0, 1000, (clutter, 2)), rng.uniform(-3, 3, clutter)])
        scores = rng.uniform(0.01, 0.1, clutter)
        poses = stray
        if rng.random() < right:
            error = np.sqrt(common) * shared + np.sqrt(1 - common) * rng.normal(size=3)
            noisy = pose + error * [std, std, turn_std]
            poses, scores = np.vstack([noisy, stray]), np.append(rng.uniform(0.05, 0.6), scores)
        covariance = np.tile(np.diag([std**2, std**2, turn_std**2]), (len(poses), 1, 1))
        fixes.append(Fixes(Candidates(poses, np.log(scores)), covariance))
    return fixes


def both(fixes, steps):
    fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    return fused, smooth(fixes, steps, fused, AREA_M2, SETTINGS)


def nees(estimates, truth):
    """Normalised squared errors of localized fixes per degree of freedom: position, and pose."""
    error = estimates.poses - truth
    error[:, 2] = wrap_angle(error[:, 2])
    error, covariance = error[estimates.localized], estimates.covariance[estimates.localized]
    return [
        np.einsum("qi,qij,qj->q", e, np.linalg.inv(c), e) / e.shape[1]
        for e, c in [(error[:, :2], covariance[:, :2, :2]), (error, covariance)]
    ]


NONE = Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)))


def errors(estimates, truth):
    return np.hypot(*(estimates.poses[:, :2] - truth[:, :2]).T)


def test_the_filter_finds_the_track_among_outliers_and_keeps_it():
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1))
    fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    assert np.mean(fused.localized[8:]) > 0.8
    assert errors(fused, truth)[8:].max() < 3.0


def test_the_filter_uses_no_later_query():
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1))
    changed = fixes[:20] + fixes_at(truth[::-1][:20], np.random.default_rng(7))
    a = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    b = filter_causal(changed, steps, AREA_M2, SETTINGS)
    np.testing.assert_array_equal(a.poses[:20], b.poses[:20])


def test_reversed_steps_lead_back_to_the_start():
    truth, steps = drive(scale=1.0)
    back = steps.reversed()
    for i in range(1, len(truth)):
        here = se2_compose(truth[::-1][i - 1], back.motion[i])
        np.testing.assert_allclose(here, truth[::-1][i], atol=1e-9)
    assert back.known.tolist() == steps.known.tolist()


def test_the_smoother_covers_the_start_and_is_better():
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1))
    fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    smoothed = smooth(fixes, steps, fused, AREA_M2, SETTINGS)
    assert np.mean(smoothed.localized) >= 0.95
    assert errors(smoothed, truth).max() < 2.0
    later = fused.localized
    assert np.mean(errors(smoothed, truth)[later]) < np.mean(errors(fused, truth)[later])


@pytest.mark.parametrize(
    ("step", "scale", "turn"), [(5.0, 1.05, 0.01), (20.0, 1.05, 0.01), (20.0, 0.96, -0.02)]
)
def test_errors_agree_with_their_covariance(step, scale, turn):
    found = {"fused": [[], []], "smoothed": [[], []]}
    for seed in range(8):
        truth, steps = drive(60, step, seed, scale, turn, noise=1.0)
        fixes = fixes_at(truth, np.random.default_rng(seed), common=SETTINGS.common, step=step)
        for stage, estimates in zip(found, both(fixes, steps), strict=True):
            for all_, new in zip(found[stage], nees(estimates, truth), strict=True):
                all_.extend(new)
    for stage, values in found.items():
        for squared in values:
            assert 0.6 < np.mean(squared) < 1.6, stage


def test_outliers_alone_are_never_localized():
    truth, steps = drive(count=60)
    for seed in range(5):
        fixes = fixes_at(truth, np.random.default_rng(seed), right=0.0)
        fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
        smoothed = smooth(fixes, steps, fused, AREA_M2, SETTINGS)
        assert fused.localized.sum() == 0
        assert smoothed.localized.sum() == 0


def test_scale_and_turn_of_the_odometry_are_estimated():
    """200 m without a fix: uncorrected, the odometry is 10 m too long and turns by 4 degrees."""
    off = []
    for seed in range(5):
        truth, steps = drive(60, seed=seed, scale=1.05, turn_deg_per_m=0.02)
        fixes = fixes_at(truth, np.random.default_rng(seed), right=1.0)
        fixes[40:50] = [NONE] * 10
        fused, smoothed = both(fixes, steps)
        assert fused.localized[40:47].all()
        off.append((errors(fused, truth)[49], errors(smoothed, truth)[40:50].max()))
    assert np.mean(off, axis=0)[0] < 4.0
    assert np.mean(off, axis=0)[1] < 1.0


def test_it_recovers_after_the_vehicle_has_jumped():
    for seed in range(5):
        truth, steps = drive(60, seed=seed)
        moved = truth.copy()
        moved[30:, :2] += [250.0, -120.0]
        fixes = fixes_at(moved, np.random.default_rng(seed), right=0.9)
        fused, smoothed = both(fixes, steps)
        assert errors(fused, moved)[45:].max() < 3.0
        assert np.sum(fused.localized & (errors(fused, moved) > 10)) <= 6
        # The poses after the jump do not bend those before it.
        assert np.mean(errors(smoothed, moved) < 2.0) > 0.9
        assert np.sum(smoothed.localized & (errors(smoothed, moved) > 10)) <= 2


def test_wrong_fixes_at_the_start_are_overcome():
    truth, steps = drive(count=40)
    fixes = fixes_at(truth, np.random.default_rng(2), right=1.0)
    wrong = truth[:4] + [150.0, 80.0, 0.0]
    covariance = np.tile(np.diag([0.25, 0.25, 1e-4]), (1, 1, 1))
    fixes[:4] = [Fixes(Candidates(pose[None], np.log([0.99])), covariance) for pose in wrong]
    fused, smoothed = both(fixes, steps)
    assert errors(fused, truth)[15:].max() < 3.0
    assert np.mean(errors(smoothed, truth) < 2.0) >= 0.9


def test_leaving_and_reentering_the_map_is_noticed():
    truth, steps = drive(count=100)
    for seed in range(5):
        fixes = fixes_at(truth, np.random.default_rng(seed), right=1.0)
        fixes[40:70] = fixes_at(truth[40:70], np.random.default_rng(seed), right=0.0)
        fused, smoothed = both(fixes, steps)
        assert not fused.localized[46:70].any()
        assert not smoothed.localized[47:63].any()
        assert fused.localized[76:].all()
        assert errors(smoothed, truth)[:40].max() < 2.0
        assert errors(smoothed, truth)[70:].max() < 2.0


def test_improbable_fixes_that_agree_over_100_m_are_believed_unless_any_position_is_as_probable():
    truth, steps = drive(count=60)
    for probability, believed in ((0.0003, False), (0.001, False), (0.003, False), (0.03, True)):
        fixes = fixes_at(truth, np.random.default_rng(4), right=0.0)
        for i in range(20, 26):
            poses = np.vstack([truth[i], fixes[i].candidates.poses])
            scores = np.append(np.log(probability), fixes[i].candidates.log_scores)
            covariance = np.concatenate([fixes[i].covariance[:1], fixes[i].covariance])
            fixes[i] = Fixes(Candidates(poses, scores), covariance)
        fused, smoothed = both(fixes, steps)
        assert not fused.localized[:22].any()
        assert fused.localized[25] == believed
        assert smoothed.localized[20:26].any() == believed


def test_a_standing_vehicle_gains_no_evidence():
    poses = np.tile([500.0, 500.0, 0.3], (200, 1))
    steps = make_steps(poses, np.zeros(200, np.int32), np.zeros(200), 50.0, SETTINGS)
    covariance = np.diag([0.25, 0.25, 1e-4])[None]
    fused, _ = both([Fixes(Candidates(poses[:1], np.log([0.6])), covariance)] * 200, steps)
    assert not fused.localized.any()
    np.testing.assert_allclose(fused.score, fused.score[0], atol=0.01)


def test_a_gap_in_the_odometry_starts_a_new_track():
    truth, _ = drive()
    odometry = np.zeros((40, 3))
    odometry[1:] = truth[1:] - truth[:1]
    segment = np.repeat([0, 1], 20).astype(np.int32)
    steps = make_steps(truth, segment, np.arange(40) * 20.0, 20.0, SETTINGS)
    assert steps.known.tolist() == [False] + [True] * 19 + [False] + [True] * 19
    fixes = fixes_at(truth, np.random.default_rng(1), right=1.0)
    fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    smoothed = smooth(fixes, steps, fused, AREA_M2, SETTINGS)
    assert errors(smoothed, truth).max() < 2.0


def test_queries_without_candidates_are_bridged():
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1), right=1.0)
    fixes[20:24] = [NONE] * 4
    fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    assert errors(fused, truth)[20:24].max() < 4.0
    std = np.sqrt(fused.covariance[:, 0, 0])
    assert std[23] > std[19]


def test_rotating_the_world_rotates_the_result():
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1))
    turn = np.array([100.0, -50.0, 0.7])

    def turned(fix):
        c, s = np.cos(0.7), np.sin(0.7)
        rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        poses = se2_compose(turn, fix.candidates.poses)
        return Fixes(
            Candidates(poses, fix.candidates.log_scores), rotation @ fix.covariance @ rotation.T
        )

    stages = zip(both(fixes, steps), both([turned(fix) for fix in fixes], steps), strict=True)
    for here, there in stages:
        expected = se2_compose(turn, here.poses)
        np.testing.assert_allclose(there.poses[:, :2], expected[:, :2], atol=1e-5)
        np.testing.assert_allclose(wrap_angle(there.poses[:, 2] - expected[:, 2]), 0, atol=1e-6)
        np.testing.assert_allclose(there.score, here.score, atol=1e-6)


def test_the_drive_backwards_gives_the_same_positions():
    truth, steps = drive(60, scale=1.04, turn_deg_per_m=0.01, noise=1.0)
    fixes = fixes_at(truth, np.random.default_rng(1), right=0.9, common=SETTINGS.common)
    _, here = both(fixes, steps)
    _, back = both(fixes[::-1], steps.reversed())
    np.testing.assert_allclose(back.poses[::-1, :2], here.poses[:, :2], atol=0.05)
    np.testing.assert_allclose(back.covariance[::-1], here.covariance, rtol=0.1, atol=2e-3)
    np.testing.assert_allclose(back.score[::-1], here.score, atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_the_smoother_is_never_behind_the_filter(seed):
    rng = np.random.default_rng(seed)
    truth, steps = drive(60, seed=seed)
    fixes = fixes_at(truth, rng, right=rng.uniform(0.1, 1.0))
    if seed % 3 == 0:
        fixes[20:35] = [NONE] * 15
    fused, smoothed = both(fixes, steps)
    assert (smoothed.has_pose | ~fused.has_pose).all()
    assert smoothed.localized.sum() >= fused.localized.sum()
    assert not (smoothed.localized & (errors(smoothed, truth) > 10)).any()


def test_a_sure_segment_does_not_vouch_for_one_without_odometry_to_it():
    truth, _ = drive(count=4)
    steps = make_steps(truth, np.array([0, 0, 1, 1], np.int32), 20.0 * np.arange(4), 20.0, SETTINGS)
    covariance = np.diag([0.25, 0.25, 1e-4])[None]
    scores = (0.3, 0.001, 0.999, 0.999)  # doubtful before the gap, sure after it
    fixes = [
        Fixes(Candidates(pose[None], np.log([score])), covariance, 100.0)
        for pose, score in zip(truth, scores, strict=True)
    ]
    _, smoothed = both(fixes, steps)
    assert smoothed.localized.tolist() == [False, False, True, True]
    assert smoothed.score[:2].max() < 0.6
