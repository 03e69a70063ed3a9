from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from data_prep.geometry import se2_between, se2_compose, wrap_angle
from maptile_loc.fuse import Fixes, FuseSettings, filter_causal, make_steps, smooth
from maptile_loc.result import Candidates

SETTINGS = FuseSettings()
AREA_M2 = 1e6


def drive(count=40, step=20.0, seed=0, scale=1.015):
    """True poses on a winding road, and steps whose odometry is 1.5 % long."""
    rng = np.random.default_rng(seed)
    poses = [np.array([500.0, 500.0, 0.3])]
    for _ in range(count - 1):
        poses.append(se2_compose(poses[-1], [step, 0.0, rng.normal(0, 0.2)]))
    truth = np.array(poses)
    odometry = [np.zeros(3)]
    for a, b in pairwise(truth):
        motion = se2_between(a, b) * [scale, scale, 1.0]
        odometry.append(se2_compose(odometry[-1], motion))
    metres = np.arange(count) * step
    segment = np.zeros(count, np.int32)
    return truth, make_steps(np.array(odometry), segment, metres, step, SETTINGS)


def fixes_at(truth, rng, std=0.5, right=0.7, clutter=4):
    """Candidates: the true place most of the time, and stray ones anywhere."""
    fixes = []
    for pose in truth:
        stray = np.column_stack([rng.uniform(0, 1000, (clutter, 2)), rng.uniform(-3, 3, clutter)])
        scores = rng.uniform(0.01, 0.1, clutter)
        poses = stray
        if rng.random() < right:
            noisy = pose + rng.normal(0, [std, std, 0.01])
            poses, scores = np.vstack([noisy, stray]), np.append(rng.uniform(0.05, 0.6), scores)
        covariance = np.tile(np.diag([std**2, std**2, 0.01**2]), (len(poses), 1, 1))
        fixes.append(Fixes(Candidates(poses, np.log(scores)), covariance))
    return fixes


def errors(estimates, truth):
    return np.hypot(*(estimates.poses[:, :2] - truth[:, :2]).T)


def test_the_filter_finds_the_track_among_strays_and_keeps_it():
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1))
    fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    assert fused.localized[8:].all()
    assert errors(fused, truth)[fused.localized].max() < 3.0


def test_the_filter_uses_nothing_later():
    truth, steps = drive()
    fixes = fixes_at(truth, np.random.default_rng(1))
    changed = fixes[:20] + fixes_at(truth[::-1][:20], np.random.default_rng(7))
    a = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    b = filter_causal(changed, steps, AREA_M2, SETTINGS)
    np.testing.assert_array_equal(a.poses[:20], b.poses[:20])


def test_steps_reversed_lead_back():
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
    assert smoothed.localized.all()
    assert errors(smoothed, truth).max() < 2.0
    later = fused.localized
    assert np.mean(errors(smoothed, truth)[later]) < np.mean(errors(fused, truth)[later])


def test_smoothed_errors_are_as_large_as_their_covariance_says():
    squared = []
    for seed in range(10):
        truth, steps = drive(seed=seed, scale=1.0)
        rng = np.random.default_rng(seed)
        fixes = fixes_at(truth, rng)
        fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
        smoothed = smooth(fixes, steps, fused, AREA_M2, SETTINGS)
        gap = (smoothed.poses - truth)[:, :2]
        information = np.linalg.inv(smoothed.covariance[:, :2, :2])
        squared.append(np.einsum("qi,qij,qj->q", gap, information, gap))
    # Odometry without drift is better than the settings say, so somewhat below 2.
    assert 0.5 < np.mean(squared) < 3.0


def test_strays_alone_are_never_called_localized():
    truth, steps = drive(count=60)
    for seed in range(5):
        fixes = fixes_at(truth, np.random.default_rng(seed), right=0.0)
        fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
        smoothed = smooth(fixes, steps, fused, AREA_M2, SETTINGS)
        assert fused.localized.sum() == 0
        assert smoothed.localized.sum() == 0


def test_it_recovers_when_the_vehicle_is_somewhere_else():
    truth, steps = drive(count=60)
    moved = truth.copy()
    moved[30:, :2] += [250.0, -120.0]
    fixes = fixes_at(moved, np.random.default_rng(3), right=0.9)
    fused = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    assert errors(fused, moved)[45:].max() < 3.0


def test_a_gap_in_the_odometry_starts_afresh():
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
    none = Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)))
    fixes[20:24] = [none] * 4
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

    here = filter_causal(fixes, steps, AREA_M2, SETTINGS)
    there = filter_causal([turned(fix) for fix in fixes], steps, AREA_M2, SETTINGS)
    expected = se2_compose(turn, here.poses)
    np.testing.assert_allclose(there.poses[:, :2], expected[:, :2], atol=1e-6)
    np.testing.assert_allclose(wrap_angle(there.poses[:, 2] - expected[:, 2]), 0, atol=1e-6)
    assert there.score == pytest.approx(here.score)
