"""Poses per scan: odometry bent between the queries, against closed forms and the smoother."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.drive import PoseTrack
from data_prep.geometry import se2_between, se2_compose, se3_from_xyzrpy, wrap_angle
from maptile_loc.fuse.certainty import make_estimates
from maptile_loc.fuse.dense import scan_poses
from maptile_loc.fuse.filter import filter_causal
from maptile_loc.fuse.motion import FuseSettings, make_steps
from maptile_loc.fuse.smoother import smooth
from maptile_loc.odometry.scan_motion import ScanMotion, scan_motion
from maptile_loc.types import Candidates, Estimates, Fixes, ScanPoses

SETTINGS = FuseSettings()
SECOND = 1_000_000_000
SPREAD = np.diag([0.3**2, 0.4**2, np.radians(0.5) ** 2])
NONE = Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)))


def driven(turn: np.ndarray, step_m: float = 0.5) -> np.ndarray:
    """(S, 3) poses of a vehicle that turns by (S,) radians at each scan and goes ahead."""
    heading = np.cumsum(turn)
    middle = heading[:-1] + 0.5 * turn[1:]
    steps = step_m * np.column_stack([np.cos(middle), np.sin(middle)])
    return np.column_stack([np.vstack([[0.0, 0.0], np.cumsum(steps, axis=0)]), heading])


def chained(steps: np.ndarray) -> np.ndarray:
    """(S, 3) poses from the origin along (S - 1, 3) motions."""
    poses = [np.zeros(3)]
    for step in steps:
        poses.append(se2_compose(poses[-1], step))
    return np.array(poses)


def drifting(truth: np.ndarray, scale: float, turn_per_m: float) -> np.ndarray:
    """(S, 3) odometry of a drive with constant errors of scale and turn."""
    steps = se2_between(truth[:-1], truth[1:])
    metres = np.hypot(steps[:, 0], steps[:, 1])
    steps[:, :2] *= 1 + scale
    steps[:, 2] += turn_per_m * metres
    return chained(steps)


def motion_of(odometry: np.ndarray, segment: np.ndarray | None = None) -> ScanMotion:
    count = len(odometry)
    t_ns = np.arange(count) * SECOND // 10
    travelled = np.append(0.0, np.hypot(*np.diff(odometry[:, :2], axis=0).T).cumsum())
    segment = np.zeros(count, np.int32) if segment is None else segment.astype(np.int32)
    return ScanMotion(t_ns, odometry, travelled, segment, np.zeros(count))


def sure(poses: np.ndarray, spread: np.ndarray = SPREAD) -> Estimates:
    count = len(poses)
    covariance = np.tile(spread, (count, 1, 1))
    covariance[np.isnan(poses[:, 0])] = np.nan
    score = np.where(np.isnan(poses[:, 0]), 0.0, 0.9999)
    return make_estimates(poses, covariance, score, np.full(count, "off_map", "U16"), SETTINGS)


def errors(found: ScanPoses, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    off = np.hypot(*(found.poses - truth)[:, :2].T)
    return off, np.abs(wrap_angle(found.poses[:, 2] - truth[:, 2]))


STRAIGHT = driven(np.zeros(201))
CURVE = driven(np.full(201, 0.5 / 40))
WINDING = driven(0.03 * np.sin(np.arange(201) / 12))
EVERY_20 = np.arange(0, 201, 40)


@pytest.mark.parametrize(
    ("truth", "scale", "turn", "metres"),
    [
        (STRAIGHT, 0.05, 0.0, 1e-9),
        (STRAIGHT, 0.0, np.radians(0.3), 0.03),
        (CURVE, 0.03, 0.0, 0.03),
        (CURVE, -0.02, np.radians(0.2), 0.05),
        (WINDING, 0.03, np.radians(-0.2), 0.05),
    ],
)
def test_constant_drift_is_taken_out(truth, scale, turn, metres) -> None:
    odometry = drifting(truth, scale, turn)
    found = scan_poses(sure(truth[EVERY_20]), EVERY_20, motion_of(odometry), SETTINGS)
    off, angle = errors(found, truth)
    np.testing.assert_array_equal(found.poses[EVERY_20], truth[EVERY_20])
    assert off.max() < metres
    assert angle.max() < 2e-3
    only = se2_compose(truth[0], se2_between(odometry[0], odometry))
    assert np.hypot(*(only - truth)[:, :2].T).max() > 1.0
    assert found.localized.all()
    assert found.reason.tolist() == [""] * len(truth)


def test_scans_of_queries_are_the_queries_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    queries = sure(WINDING[EVERY_20] + rng.normal(size=(6, 3)) * [0.3, 0.3, 0.01])
    found = scan_poses(queries, EVERY_20, motion_of(drifting(WINDING, 0.01, 0.0)), SETTINGS)
    for name in ("poses", "covariance", "score", "localized", "protection_m", "reason"):
        np.testing.assert_array_equal(getattr(found, name)[EVERY_20], getattr(queries, name))
    assert np.flatnonzero(found.query >= 0).tolist() == EVERY_20.tolist()
    assert found.query[EVERY_20].tolist() == list(range(6))
    np.testing.assert_array_equal(found.frame, np.arange(201))


@given(
    x=st.floats(-1e4, 1e4), y=st.floats(-1e4, 1e4), heading=st.floats(-3, 3), seed=st.integers(0, 9)
)
def test_the_odometrys_frame_means_nothing(x, y, heading, seed) -> None:
    rng = np.random.default_rng(seed)
    odometry = drifting(WINDING, 0.02, 1e-3)
    queries = sure(WINDING[EVERY_20] + rng.normal(size=(6, 3)) * [0.3, 0.3, 0.01])
    found = scan_poses(queries, EVERY_20, motion_of(odometry), SETTINGS)
    moved = motion_of(odometry)._replace(poses=se2_compose([x, y, heading], odometry))
    other = scan_poses(queries, EVERY_20, moved, SETTINGS)
    np.testing.assert_allclose(other.poses, found.poses, atol=1e-8)
    np.testing.assert_allclose(other.covariance, found.covariance, atol=1e-9)


def test_the_map_may_be_turned() -> None:
    odometry, turn = motion_of(drifting(WINDING, 0.02, 1e-3)), np.array([70.0, -20.0, 2.0])
    queries = sure(WINDING[EVERY_20])
    c, s = np.cos(turn[2]), np.sin(turn[2])
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    spread = rotation @ queries.covariance @ rotation.T
    turned = make_estimates(
        *(se2_compose(turn, queries.poses), spread, queries.score, queries.reason, SETTINGS)
    )
    found, other = (scan_poses(one, EVERY_20, odometry, SETTINGS) for one in (queries, turned))
    expected = se2_compose(turn, found.poses)
    np.testing.assert_allclose(other.poses[:, :2], expected[:, :2], atol=1e-8)
    expected = rotation @ found.covariance @ rotation.T
    np.testing.assert_allclose(other.covariance, expected, atol=1e-9)


def test_fewer_scans_have_the_same_poses() -> None:
    motion = motion_of(drifting(CURVE, 0.02, 1e-3))
    found = scan_poses(sure(CURVE[EVERY_20]), EVERY_20, motion, SETTINGS)
    kept = np.union1d(EVERY_20, np.arange(0, 201, 7))
    fewer = ScanMotion(*(column[kept] for column in motion))
    at = np.searchsorted(kept, EVERY_20)
    other = scan_poses(sure(CURVE[EVERY_20]), at, fewer, SETTINGS)
    np.testing.assert_allclose(other.poses, found.poses[kept], atol=1e-12)
    np.testing.assert_allclose(other.covariance, found.covariance[kept], atol=1e-12)


def test_backwards_is_the_same() -> None:
    motion, queries = motion_of(drifting(WINDING, 0.01, 3e-4)), sure(WINDING[EVERY_20])
    found = scan_poses(queries, EVERY_20, motion, SETTINGS)
    back = ScanMotion(
        *(-motion.t_ns[::-1], motion.poses[::-1], -motion.travelled[::-1]),
        *(motion.segment, motion.beyond_s),
    )
    backwards = Estimates(*(getattr(queries, name)[::-1] for name in Estimates.__annotations__))
    other = scan_poses(backwards, EVERY_20, back, SETTINGS)
    np.testing.assert_allclose(other.poses[::-1], found.poses, atol=1e-2)
    np.testing.assert_allclose(other.covariance[::-1], found.covariance, atol=2e-3)


def test_covariance_grows_between_and_beyond_the_queries() -> None:
    at = np.array([60, 100, 140])
    found = scan_poses(sure(WINDING[at]), at, motion_of(WINDING), SETTINGS)
    assert np.linalg.eigvalsh(found.covariance).min() > 0
    np.testing.assert_array_equal(found.covariance, np.swapaxes(found.covariance, 1, 2))
    area = np.linalg.det(found.covariance[:, :2, :2])
    assert area[60] == area[100] == area[140] == pytest.approx(np.linalg.det(SPREAD[:2, :2]))
    assert np.diff(area[140:]).min() > 0
    assert np.diff(area[:61]).max() < 0
    assert area[61:100].min() > area[60]
    assert 78 <= 61 + area[61:100].argmax() <= 82


def test_a_straight_bridge_in_closed_form() -> None:
    """Along a straight line, the walk of 20 m has a quarter of its variance in the middle."""
    settings = FuseSettings(scale=1e-9, walk_deg=1e-9, turn_deg_per_m=1e-9, walk_m=0.2)
    exact = np.diag([1e-8, 1e-8, 1e-12])
    found = scan_poses(sure(STRAIGHT[EVERY_20], exact), EVERY_20, motion_of(STRAIGHT), settings)
    metres = np.arange(41) * 0.5
    expected = 0.2**2 * metres * (20 - metres) / 20
    np.testing.assert_allclose(found.covariance[:41, 0, 0], expected, atol=2e-3 * 0.2)
    np.testing.assert_allclose(found.covariance[:41, 1, 1], expected, atol=2e-3 * 0.2)


def noisy(seed: int, count: int, step_m: float, settings: FuseSettings) -> tuple:
    """True poses and an odometry with the errors that the settings state."""
    rng = np.random.default_rng(seed)
    truth = driven(0.02 * step_m * np.sin(np.arange(count) * step_m / 15), step_m)
    steps = se2_between(truth[:-1], truth[1:])
    scale, turn = rng.normal(size=2) * [settings.scale, np.radians(settings.turn_deg_per_m)]
    walk = np.array([settings.walk_m, settings.walk_m, np.radians(settings.walk_deg)])
    steps[:, :2] *= np.exp(scale)
    steps[:, 2] += turn * step_m
    return truth, chained(steps + rng.normal(size=steps.shape) * walk * np.sqrt(step_m))


def fixes_at(truth: np.ndarray, seed: int) -> list[Fixes]:
    """A fix at each pose, nine tenths of whose variance the neighbours share (over 25 m)."""
    rng = np.random.default_rng([seed, 1])
    kept, shared, fixes = np.exp(-20 / SETTINGS.common_m), rng.normal(size=3), []
    root = np.sqrt(np.diag(SPREAD))
    for pose in truth:
        error = np.sqrt(0.9) * shared + np.sqrt(0.1) * rng.normal(size=3)
        fixes.append(Fixes(Candidates((pose + root * error)[None], np.zeros(1)), SPREAD[None], 99))
        shared = kept * shared + np.sqrt(1 - kept**2) * rng.normal(size=3)
    return fixes


def smoothed(fixes: list[Fixes], motion: ScanMotion, settings: FuseSettings) -> Estimates:
    steps = make_steps(motion.poses, motion.segment, motion.travelled, 50.0, settings)
    return smooth(fixes, steps, filter_causal(fixes, steps, 1e6, settings), 1e6, settings)


def test_the_smoother_with_a_state_per_scan_agrees() -> None:
    """Scans as queries without candidates are smoothed to the same poses."""
    settings = FuseSettings(floor_m=1e-4, floor_deg=1e-4)
    truth, odometry = noisy(3, 241, 0.5, settings)
    motion, at = motion_of(odometry), np.arange(0, 241, 40)
    fixes = fixes_at(truth[at], 3)
    every = [NONE] * len(truth)
    for query, fix in zip(at.tolist(), fixes, strict=True):
        every[query] = fix
    expected = smoothed(every, motion, settings)
    own = Estimates(*(getattr(expected, name)[at] for name in Estimates.__annotations__))
    found = scan_poses(own, at, motion, settings)
    assert np.hypot(*(found.poses - expected.poses)[:, :2].T).max() < 0.03
    assert np.abs(found.poses - expected.poses)[:, 2].max() < 1e-3
    ratio = np.diagonal(found.covariance / expected.covariance, axis1=1, axis2=2)
    assert ratio.min() > 0.95
    assert ratio.max() < 1.6


def test_errors_are_as_large_as_the_covariance_says() -> None:
    total, count = 0.0, 0
    for seed in range(30):
        truth, odometry = noisy(seed, 301, 1.0, SETTINGS)
        motion, at = motion_of(odometry), np.arange(10, 301, 20)
        found = scan_poses(
            *(smoothed(fixes_at(truth[at], seed), at_scans(motion, at), SETTINGS), at),
            *(motion, SETTINGS),
        )
        error = found.poses - truth
        error[:, 2] = wrap_angle(error[:, 2])
        solved = np.linalg.solve(found.covariance, error[..., None])[..., 0]
        between = found.query < 0
        total += (error * solved).sum(axis=1)[between].sum() / 3
        count += between.sum()
    assert 0.5 < total / count < 2.0


def at_scans(motion: ScanMotion, scans: np.ndarray) -> ScanMotion:
    return ScanMotion(*(column[scans] for column in motion))


def test_no_pose_where_the_motion_is_unknown() -> None:
    segment = np.repeat([0, -1, 1, 2], [81, 20, 60, 40])
    at = np.array([0, 40, 80, 101, 141, 161])
    poses = STRAIGHT[at].copy()
    poses[5] = np.nan
    found = scan_poses(sure(poses), at, motion_of(STRAIGHT, segment), SETTINGS)
    assert np.flatnonzero(np.isnan(found.poses[:, 0])).tolist() == [
        *range(81, 101),
        *range(161, 201),
    ]
    assert set(found.reason[81:101]) == {"no_odometry"}
    assert set(found.reason[161:]) == {"off_map"}
    assert (found.score[81:101] == 0).all()
    assert not found.localized[81:101].any()
    np.testing.assert_allclose(found.poses[101:161], STRAIGHT[101:161], atol=1e-9)


def test_before_a_segments_only_query_its_reason_counts() -> None:
    segment = np.repeat([0, 1, 2], [81, 60, 60])
    poses = STRAIGHT[[0, 100]].copy()
    poses[1] = np.nan
    found = scan_poses(sure(poses), np.array([0, 100]), motion_of(STRAIGHT, segment), SETTINGS)
    assert found.localized[:81].all()
    assert set(found.reason[81:141]) == {"off_map"}
    assert set(found.reason[141:]) == {"no_odometry"}


def test_no_pose_where_queries_and_odometry_contradict_each_other() -> None:
    poses = STRAIGHT[EVERY_20].copy()
    poses[3:, 1] += 30.0
    found = scan_poses(sure(poses), EVERY_20, motion_of(STRAIGHT), SETTINGS)
    assert np.flatnonzero(np.isnan(found.poses[:, 0])).tolist() == list(range(81, 120))
    assert set(found.reason[81:120]) == {"no_odometry"}
    wide = np.diag([100.0, 100.0, 0.01])  # of regressed poses: what looks like a jump is noise
    found = scan_poses(sure(poses, wide), EVERY_20, motion_of(STRAIGHT), SETTINGS)
    assert np.isfinite(found.poses).all()


def test_a_query_without_a_pose_is_bridged() -> None:
    poses = STRAIGHT[EVERY_20].copy()
    poses[2] = np.nan
    found = scan_poses(sure(poses), EVERY_20, motion_of(STRAIGHT), SETTINGS)
    np.testing.assert_allclose(found.poses, STRAIGHT, atol=1e-9)
    assert found.query[80] == 2


def test_doubt_of_a_query_is_doubt_of_the_scans_around_it() -> None:
    queries = sure(STRAIGHT[EVERY_20])
    score = queries.score.copy()
    score[2] = 0.5
    doubted = make_estimates(queries.poses, queries.covariance, score, queries.reason, SETTINGS)
    doubted.reason[2] = "look_alikes"
    found = scan_poses(doubted, EVERY_20, motion_of(STRAIGHT), SETTINGS)
    assert np.flatnonzero(~found.localized).tolist() == list(range(41, 120))
    assert set(found.reason[41:120]) == {"look_alikes"}
    assert (found.score[41:120] == 0.5).all()


def test_far_from_every_query_drift_is_the_reason() -> None:
    track = driven(np.zeros(2001))
    found = scan_poses(sure(track[:1]), np.array([0]), motion_of(track), SETTINGS)
    assert found.localized[:100].all()
    assert not found.localized[1000:].any()
    assert set(found.reason[1000:]) == {"drift"}
    assert np.isfinite(found.poses).all()


def test_without_odometry_and_without_any_pose() -> None:
    t_ns = np.arange(9) * SECOND
    at, motion = np.array([0, 4, 8]), scan_motion(None, t_ns)
    found = scan_poses(sure(STRAIGHT[at]), at, motion, SETTINGS)
    assert np.flatnonzero(np.isfinite(found.poses[:, 0])).tolist() == [0, 4, 8]
    assert found.reason[1] == "no_odometry"
    found = scan_poses(sure(np.full((3, 3), np.nan)), at, motion, SETTINGS)
    assert np.isnan(found.poses).all()


def test_scans_at_one_time_and_a_vehicle_that_stands_still() -> None:
    still = np.zeros((60, 3))
    motion = motion_of(still)._replace(t_ns=np.repeat(np.arange(20) * SECOND // 20, 3))
    found = scan_poses(sure(np.zeros((2, 3))), np.array([0, 58]), motion, SETTINGS)
    np.testing.assert_allclose(found.poses, 0.0, atol=1e-9)
    assert np.linalg.eigvalsh(found.covariance).min() > 0
    motion = motion_of(still[:5])._replace(t_ns=np.zeros(5, np.int64))
    found = scan_poses(sure(np.zeros((2, 3))), np.array([1, 3]), motion, SETTINGS)
    np.testing.assert_allclose(found.covariance, np.tile(SPREAD, (5, 1, 1)), atol=1e-12)


def test_without_covariances_there_are_poses() -> None:
    unknown = np.full((3, 3), np.nan)
    queries = sure(STRAIGHT[EVERY_20], unknown)
    found = scan_poses(queries, EVERY_20, motion_of(drifting(STRAIGHT, 0.05, 0.0)), SETTINGS)
    np.testing.assert_allclose(found.poses, STRAIGHT, atol=1e-9)
    assert np.isnan(found.covariance).all()
    assert not found.localized.any()


# --- the odometry at the scans -------------------------------------------------------------------


def circle(t_ns: np.ndarray, radius_m: float = 40.0, speed: float = 10.0) -> np.ndarray:
    """(N, 3) poses on a circle at constant speed."""
    angle = t_ns / SECOND * speed / radius_m
    return np.column_stack([radius_m * np.sin(angle), radius_m * (1 - np.cos(angle)), angle])


def track_of(t_ns: np.ndarray, poses: np.ndarray, segment: np.ndarray | None = None) -> PoseTrack:
    zero = np.zeros(len(poses))
    rows = np.column_stack([poses[:, :2], zero, zero, zero, poses[:, 2]])
    segment = np.zeros(len(poses), np.int32) if segment is None else segment.astype(np.int32)
    return PoseTrack(t_ns, se3_from_xyzrpy(rows), segment)


@pytest.mark.parametrize("hertz", [5, 10, 100])
def test_beyond_its_ends_the_motion_goes_on(hertz: int) -> None:
    t_ns = 2 * SECOND + np.arange(3 * hertz + 1) * (SECOND // hertz)
    scans = np.arange(0, 8 * SECOND, SECOND // 4)
    found = scan_motion(track_of(t_ns, circle(t_ns)), scans)
    reached = (scans >= SECOND) & (scans <= 6 * SECOND)
    np.testing.assert_array_equal(found.segment >= 0, reached)
    late = np.maximum(2 * SECOND - scans, scans - 5 * SECOND).clip(0) / SECOND
    np.testing.assert_allclose(found.beyond_s[reached], late[reached])
    off = found.poses - circle(scans)
    assert np.hypot(*off[reached, :2].T).max() < 0.02
    assert np.abs(wrap_angle(off[reached, 2])).max() < 1e-6
    metres = np.diff(found.travelled[reached])
    np.testing.assert_allclose(metres, 2.5, atol=0.02)


def test_nothing_is_taken_over_from_another_segment() -> None:
    t_ns = np.array([0, 1, 2, 12, 13, 14, 30]) * SECOND // 10
    poses = np.column_stack([np.array([0, 1, 2, 50, 50, 50, 9.0]), np.zeros((7, 2))])
    track = track_of(t_ns, poses, np.array([0, 0, 0, 1, 1, 1, 2]))
    scans = np.array([4, 6, 8, 11, 16, 29, 31]) * SECOND // 10
    found = scan_motion(track, scans)
    assert found.segment.tolist() == [0, 0, 1, 1, 1, -1, -1]
    np.testing.assert_allclose(found.poses[:5, 0], [4, 6, 50, 50, 50], atol=1e-9)
