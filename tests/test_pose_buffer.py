from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data_prep.drive import PoseTrack
from data_prep.errors import MaptileError
from data_prep.geometry import se3_from_xyzrpy
from maptile_loc.odometry.pose_buffer import PoseBuffer

START = 1_700_000_000_000_000_000


def track(seed: int, count: int = 40, gap_at: int | None = None) -> PoseTrack:
    """A random walk of poses, 50 to 200 ms apart; a gap of 5 s before pose ``gap_at``."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(50_000_000, 200_000_000, count)
    if gap_at is not None:
        steps[gap_at] = 5_000_000_000
    poses = se3_from_xyzrpy(np.cumsum(rng.normal(0, 0.1, (count, 6)), axis=0))
    segment = np.zeros(count, np.int32) if gap_at is None else np.arange(count) >= gap_at
    return PoseTrack(START + np.cumsum(steps), poses, segment.astype(np.int32))


def pushed(poses: PoseTrack, count: int | None = None) -> PoseBuffer:
    """A buffer with the first ``count`` poses."""
    buffer = PoseBuffer()
    for t_ns, pose in zip(poses.t_ns[:count], poses.poses[:count], strict=True):
        buffer.add(int(t_ns), pose)
    return buffer


@given(st.integers(0, 1000), st.floats(0, 1))
def test_between_two_poses_it_agrees_with_the_track(seed: int, share: float) -> None:
    poses = track(seed)
    buffer = pushed(poses)
    recent = poses.t_ns[-10]  # within the last seconds, which are kept
    t_ns = int(recent) + round(share * int(poses.t_ns[-1] - recent))
    found = buffer.at(t_ns)
    assert found is not None
    np.testing.assert_allclose(found.pose, poses.at(np.array([t_ns]))[0], atol=1e-9)
    travelled = np.interp(t_ns - START, poses.t_ns - START, poses.travelled())
    assert found.travelled == pytest.approx(travelled, abs=1e-6)


@given(st.integers(0, 1000))
def test_all_rotations_are_interpolated_as_by_the_track(seed: int) -> None:
    """Also those by about half a turn, around any axis."""
    some = track(seed, count=8)
    rotations = Rotation.random(8, np.random.default_rng(seed))
    poses = some.poses.copy()
    poses[:, :3, :3] = (rotations[0] ** 0.1 * rotations).as_matrix()
    poses[1::2, :3, :3] = (Rotation.from_rotvec([0.3, 0.0, 0.1]) * rotations[::2]).as_matrix()
    turning = PoseTrack(some.t_ns, poses, some.segment)
    t_ns = (turning.t_ns[:-1] + turning.t_ns[1:]) // 2
    expected, buffer = turning.at(t_ns)[::2], pushed(turning)
    found = [buffer.at(int(one)).pose for one in t_ns[::2]]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_steady_motion_goes_on_after_the_last_pose() -> None:
    """On a straight line and on a circle, to first order, with the metres of travel."""
    seconds = np.arange(11) * 0.1
    for turn in (0.0, 0.2):
        heading = turn * seconds
        xy = np.cumsum(np.column_stack([np.cos(heading), np.sin(heading)]), axis=0)
        poses = se3_from_xyzrpy(np.column_stack([xy, np.zeros((11, 3)), heading]))
        buffer = pushed(PoseTrack(START + (seconds * 1e9).astype(np.int64), poses, np.zeros(11)))
        found = buffer.at(START + 1_050_000_000)
        ahead = xy[-1] + 0.5 * np.array([np.cos(heading[-1]), np.sin(heading[-1])])
        np.testing.assert_allclose(found.pose[:2, 3], ahead, atol=0.02)
        yaw = np.arctan2(found.pose[1, 0], found.pose[0, 0])
        assert yaw == pytest.approx(heading[-1] + 0.05 * turn, abs=1e-6)
        assert found.travelled == pytest.approx(10.5, abs=1e-6)


def test_a_gap_ends_a_segment_and_adds_no_travel() -> None:
    poses = track(1, gap_at=20)
    buffer = pushed(poses, 20)
    before = buffer.at(int(poses.t_ns[19]))
    assert buffer.at(int(poses.t_ns[19]) + 2_000_000_000) is None  # too far ahead
    buffer = pushed(poses)
    in_the_gap = int(poses.t_ns[19]) + 1_000_000_000
    assert buffer.at(in_the_gap) is None
    after = buffer.at(int(poses.t_ns[20]))
    assert (before.segment, after.segment) == (0, 1)
    assert after.travelled == pytest.approx(before.travelled)


def test_a_restart_ends_a_segment_without_a_gap() -> None:
    buffer = PoseBuffer()
    buffer.add(START, np.eye(4))
    buffer.add(START + 100, np.eye(4), restart=True)
    assert buffer.at(START + 50) is None
    assert buffer.at(START + 100).segment == 1


def test_before_the_first_pose_nothing_is_known() -> None:
    assert PoseBuffer().at(START) is None
    assert pushed(track(0)).at(START - 1) is None


def test_the_buffer_does_not_grow() -> None:
    buffer = PoseBuffer()
    for i in range(20_000):  # 200 s at 100 Hz
        buffer.add(START + i * 10_000_000, np.eye(4))
    assert len(buffer._t_ns) < 2000
    assert buffer.at(buffer.last_ns).segment == 0


@pytest.mark.parametrize(
    ("t_ns", "pose", "message"),
    [
        (START, np.eye(4), "not after the pose before"),
        (START + 1, np.eye(3), r"not a \(4, 4\) matrix"),
        (START + 1, 2 * np.eye(4), "rigid"),
        (START + 1, np.full((4, 4), np.nan), "rigid"),
    ],
)
def test_bad_poses_are_refused(t_ns: int, pose: np.ndarray, message: str) -> None:
    buffer = PoseBuffer()
    buffer.add(START, np.eye(4))
    with pytest.raises(MaptileError, match=message):
        buffer.add(t_ns, pose)
    assert buffer.last_ns == START
