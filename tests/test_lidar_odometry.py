from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_scene import (
    HEIGHT_M,
    PERIOD_NS,
    START_NS,
    SceneScans,
    made_drive,
    off,
    poles,
    scan_scene,
    scene_drive,
    square,
    straight,
    street,
    times,
    turning,
)

from data_prep.drive import TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import se3_from_xyzrpy, se3_inverse
from data_prep.sources import open_drive
from maptile_loc.odometry.levelling import Leveller
from maptile_loc.odometry.lidar_odometry import lidar_odometry
from maptile_loc.odometry.odometry_settings import OdometrySettings

SETTINGS = OdometrySettings()
STREET = street()
KITTI = "kitti_raw/2011_09_26/2011_09_26_drive_0005_sync"


def made(drive):
    return lidar_odometry(drive, SETTINGS)


@pytest.fixture(scope="module")
def street_drive():
    """Two seconds at 8 m/s."""
    return scene_drive(straight(8.0), STREET, 20)


@pytest.fixture(scope="module")
def street_track(street_drive):
    return made(street_drive)


def one_piece(track, count):
    assert len(track.t_ns) == count
    assert not track.segment.any()


# --- motions known in closed form ----------------------------------------------------------------


def test_straight_motion(street_track):
    one_piece(street_track, 20)
    metres, turned = off(street_track, straight(8.0))
    assert metres.max() < 0.05
    assert turned.max() < np.radians(0.1)
    assert street_track.travelled()[-1] == pytest.approx(8.0 * 1.9, rel=0.003)


def test_a_bend():
    poses = turning(8.0, 0.4)
    track = made(scene_drive(poses, square(20.0), 25))
    one_piece(track, 25)
    metres, turned = off(track, poses)
    assert metres.max() < 0.1
    assert turned.max() < np.radians(0.3)


def test_a_bend_without_the_times_of_points():
    poses = turning(6.0, 0.3)
    drive = scene_drive(poses, square(20.0), 20, sweep=False)
    blocks = drive.scans

    class Plain(SceneScans):
        def read(self, start, stop):
            return replace(super().read(start, stop), seconds=None)

    track = made(replace(drive, scans=Plain(blocks.t_ns, blocks.scans)))
    one_piece(track, 20)
    metres, turned = off(track, poses)
    assert metres.max() < 0.1
    assert turned.max() < np.radians(0.3)


def test_a_vehicle_that_stands_does_not_move_at_all():
    track = made(scene_drive(straight(0.0), STREET, 12))
    one_piece(track, 12)
    np.testing.assert_array_equal(track.poses, np.tile(np.eye(4), (12, 1, 1)))


def test_a_drive_that_starts_at_full_speed():
    track = made(scene_drive(straight(30.0), STREET, 12))
    one_piece(track, 12)
    assert off(track, straight(30.0))[0].max() < 0.1


def test_reversed_scans_give_the_reversed_motion(street_drive, street_track):
    scans = [(p, -s, o) for p, s, o in reversed(street_drive.scans.scans)]
    track = made(made_drive(street_drive.scans.t_ns, scans))
    one_piece(track, 20)
    back = se3_inverse(street_track.poses[-1]) @ street_track.poses[::-1]
    np.testing.assert_allclose(track.poses[:, :3, 3], back[:, :3, 3], atol=0.08)


def test_the_mounting_of_the_sensor_does_not_matter(street_track):
    mount = se3_from_xyzrpy([-0.8, 0.4, HEIGHT_M, np.pi, 0.05, 2.0])
    track = made(scene_drive(straight(8.0), STREET, 12, sensor=mount))
    one_piece(track, 12)
    assert off(track, straight(8.0))[0].max() < 0.1


def test_scans_of_two_sensors_are_joined():
    mounts = [
        se3_from_xyzrpy([1.5, 0, HEIGHT_M, 0, 0, 0]),
        se3_from_xyzrpy([-1.5, 0, HEIGHT_M, 0, 0, np.pi]),
    ]
    t_ns = START_NS + np.arange(24) * (PERIOD_NS // 2)
    scans = [
        scan_scene(straight(8.0), (t - START_NS) / 1e9, STREET, sensor=mounts[i % 2], ahead=1.6)
        for i, t in enumerate(t_ns.tolist())
    ]
    track = made(made_drive(t_ns, scans, ("front", "rear")))
    one_piece(track, 12)
    assert off(track, straight(8.0))[0].max() < 0.1


# --- open ground with few objects ----------------------------------------------------------------


@pytest.mark.parametrize("speed", [0.0, 8.0])
def test_a_few_poles_on_open_ground_are_enough(speed):
    track = made(scene_drive(straight(speed), poles(20), 16, columns=720))
    one_piece(track, 16)
    metres, _ = off(track, straight(speed))
    assert metres.max() < 0.01 * speed * 1.5 + 0.1


def test_bare_ground_is_one_clear_error():
    with pytest.raises(MaptileError, match="no two of them fit together"):
        made(scene_drive(straight(5.0), np.zeros((0, 6)), 6))


def test_beyond_the_last_house_a_new_segment_starts():
    houses = street(length=0.0)
    drive = scene_drive(straight(25.0), houses, 50)
    track = made(drive)
    driven = straight(25.0)((track.t_ns - START_NS) / 1e9)[:, 0, 3]
    joined = track.segment == 0
    assert joined.sum() > 20
    assert track.segment[-1] > 0
    error = np.abs(track.poses[joined, 0, 3] - driven[joined])
    assert error.max() < 0.5
    # Within each segment, the motion is that of the vehicle.
    step = np.diff(track.poses[:, 0, 3])[np.diff(track.segment) == 0]
    true = np.diff(driven)[np.diff(track.segment) == 0]
    np.testing.assert_allclose(step, true, atol=0.4)


# --- gaps, empty scans, repeated scans, jumps ----------------------------------------------------


def test_after_a_gap_a_new_segment_starts(street_drive):
    scans = street_drive.scans
    later = np.where(np.arange(20) < 10, 0, 2_500_000_000)
    track = made(made_drive(scans.t_ns + later, scans.scans))
    np.testing.assert_array_equal(track.segment, np.repeat([0, 1], 10))
    assert track.segment_at(track.t_ns[9:10] + 1_000_000_000) == -1
    assert track.travelled()[-1] == pytest.approx(8.0 * 1.8, rel=0.005)


def test_empty_scans_are_skipped(street_drive, street_track):
    scans = list(street_drive.scans.scans)
    for i in (0, 7, 12, 13):
        scans[i] = tuple(part[: 3 * (i == 7)] for part in scans[i][:2]) + scans[i][2:]
    track = made(made_drive(street_drive.scans.t_ns, scans))
    one_piece(track, 16)
    both = np.isin(street_track.t_ns, track.t_ns)
    assert both.sum() == 16
    assert off(track, straight(8.0))[0].max() < 0.05


def test_two_equal_scans_at_the_same_time_are_joined(street_drive, street_track):
    scans, t_ns = street_drive.scans.scans, street_drive.scans.t_ns
    track = made(made_drive(np.repeat(t_ns, 2), [scan for scan in scans for _ in range(2)]))
    np.testing.assert_array_equal(track.t_ns, t_ns)
    np.testing.assert_allclose(track.poses, street_track.poses, atol=1e-6)


def test_a_scan_repeated_later_is_rejected(street_drive):
    scans = list(street_drive.scans.scans)
    scans[12] = scans[11]
    track = made(made_drive(street_drive.scans.t_ns, scans))
    one_piece(track, 19)
    assert street_drive.scans.t_ns[12] not in track.t_ns
    assert off(track, straight(8.0))[0].max() < 0.1


def test_a_jump_is_never_reported_as_a_motion():
    before = [scan_scene(straight(8.0), i / 10, STREET) for i in range(8)]
    after = [scan_scene(straight(8.0), i / 10 + 4.0, STREET) for i in range(8, 18)]
    track = made(made_drive(times(18), before + after))
    assert track.segment[-1] > 0
    step = np.diff(track.poses[:, 0, 3])[np.diff(track.segment) == 0]
    assert step.max() < 0.8 + 0.1
    assert len(track.t_ns) >= 16


@pytest.mark.parametrize("roll", [0.0, np.pi / 2])
def test_scans_in_a_plane_are_refused(roll):
    angle = np.radians(np.arange(-135, 135, 0.5))
    fan = 10.0 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    mount = se3_from_xyzrpy([1.0, 0.2, 1.0, roll, 0.1, 0])
    points = fan @ mount[:3, :3].T + mount[:3, 3]
    scan = (points + np.random.default_rng(0).normal(0, 0.02, points.shape), 0 * angle)
    drive = made_drive(times(300), [(*scan, mount[:3, 3])] * 300)
    done = []
    with pytest.raises(MaptileError, match="lies in a plane"):
        lidar_odometry(drive, SETTINGS, lambda step, scans, total: done.append(scans))
    assert done[-1] < 200


def test_no_points_at_all():
    scans = [(np.zeros((0, 3)), np.zeros(0), np.zeros(3))] * 5
    with pytest.raises(MaptileError, match="none has 100 points"):
        made(made_drive(times(5), scans))
    with pytest.raises(MaptileError, match="none has 100 points"):
        made(made_drive(times(0), []))


def test_one_scan_is_one_pose(street_drive):
    track = made(made_drive(times(1), street_drive.scans.scans[:1]))
    np.testing.assert_array_equal(track.poses, np.eye(4)[None])


# --- independence of truth, order and threads ----------------------------------------------------


def test_progress_counts_every_scan(street_drive):
    calls = []
    lidar_odometry(street_drive, SETTINGS, lambda *call: calls.append(call))
    assert calls == [("odometry", done, 20) for done in range(21)]


def test_the_truth_does_not_matter(street_drive, street_track):
    truth = TruthTrack(times(20), np.full(20, 51.0), np.zeros(20), np.zeros(20))
    again = made(replace(street_drive, truth=truth))
    np.testing.assert_array_equal(again.poses, street_track.poses)


def test_the_order_of_the_points_does_not_matter(street_drive, street_track):
    rng = np.random.default_rng(0)
    scans = []
    for points, seconds, origin in street_drive.scans.scans:
        order = rng.permutation(len(points))
        scans.append((points[order], seconds[order], origin))
    track = made(made_drive(street_drive.scans.t_ns, scans))
    np.testing.assert_allclose(track.poses, street_track.poses, atol=1e-6)


def test_the_number_of_threads_does_not_matter():
    code = (
        "from made_scene import *; from maptile_loc.odometry.lidar_odometry import *;"
        "track = lidar_odometry(scene_drive(straight(8.0), street(), 6), OdometrySettings());"
        "print(track.poses.tobytes().hex())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ
            | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 2)
    ]
    assert found[0] == found[1] != ""


def test_roll_and_pitch_that_drift_are_levelled():
    # Pitch drifts by 0.1 degrees per metre and decays over 10 m: it converges to a degree.
    motion = se3_from_xyzrpy([0.5, 0, 0, 0, np.radians(0.05), np.radians(1.0)])
    poses = [np.eye(4)]
    for _ in range(400):
        poses.append(poses[-1] @ motion)
    leveller = Leveller(poses[0], 10.0)
    drawn = np.stack([leveller.pose, *(leveller.add(pose) for pose in poses[1:])])
    tilt = np.degrees(np.arccos(drawn[:, 2, 2]))
    turned = np.degrees(np.unwrap(np.arctan2(drawn[:, 1, 0], drawn[:, 0, 0]))[-1])
    assert tilt[200:] == pytest.approx(0.97, abs=0.1)
    assert turned == pytest.approx(400.0, abs=0.5)
    assert np.abs(np.diff(drawn[:, 2, 3])).max() < 0.5 * np.sin(np.radians(1.1))


# --- real and simulated drives -------------------------------------------------------------------


@pytest.mark.realdata
def test_real_drive_against_its_inertial_sensors(data_dir):
    drive = open_drive(data_dir / KITTI)
    track = made(drive)
    one_piece(track, 77)
    reference = drive.odometry.at(track.t_ns)
    steps = np.linalg.norm(np.diff(reference[:, :3, 3], axis=0), axis=1)
    driven = steps.sum()
    assert driven == pytest.approx(70.6, abs=0.1)
    assert track.travelled()[-1] == pytest.approx(driven, rel=0.01)
    error = se3_inverse(se3_inverse(reference[0]) @ reference[-1]) @ (
        se3_inverse(track.poses[0]) @ track.poses[-1]
    )
    assert np.linalg.norm(error[:2, 3]) < 0.015 * driven
    heading = np.unwrap(drive.heading.at(track.t_ns))
    turned = heading[-1] - heading[0]
    found = np.arctan2(track.poses[:, 1, 0], track.poses[:, 0, 0])
    assert np.degrees(abs(np.unwrap(found)[-1] - found[0] - turned)) < 0.5


@pytest.mark.realdata
def test_real_scans_against_another_library(data_dir):
    small_gicp = pytest.importorskip("small_gicp")
    drive = open_drive(data_dir / KITTI, end=3.0)
    track = made(drive)
    clouds = [drive.scans.read(i, i + 1).points.astype(np.float64) for i in range(8)]
    for i in range(1, 8):
        motion = se3_inverse(track.poses[i - 1]) @ track.poses[i]
        theirs = small_gicp.align(
            clouds[i - 1],
            clouds[i],
            init_T_target_source=motion,
            downsampling_resolution=0.4,
            max_correspondence_distance=1.0,
        ).T_target_source
        np.testing.assert_allclose(motion[:2, 3], theirs[:2, 3], atol=0.06)
        np.testing.assert_allclose(motion[:3, :3], theirs[:3, :3], atol=0.006)
