from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_kitti import (
    LATITUDE,
    LONGITUDE,
    NOON,
    SECOND,
    VELODYNE,
    imu_pose,
    mercator,
    tenths,
    write_calibration_360,
    write_kitti360,
    write_labels,
    write_points,
    write_poses_360,
    write_stamps,
    zipped,
)
from reader_checks import arrays, check_same, check_same_but_truth, often, read_damaged

from data_prep.errors import MaptileError
from data_prep.geometry import wrap_angle
from data_prep.sources import detect_format, open_drive
from maptile_loc.perceive.labels import BUILDING, CAR, ROAD
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries

NAME = "2013_05_28_drive_0000_sync"
GEOD = pyproj.Geod(ellps="WGS84")


def circle(count: int, radius: float, heading: float, centre: tuple[float, float, float]):
    """Poses at 0.5 m of arc each, turning left from ``centre``, by frame."""
    angle = 0.5 / radius * np.arange(count)
    x, y = radius * np.sin(angle), radius * (1 - np.cos(angle))
    c, s = math.cos(heading), math.sin(heading)
    return {
        i: imu_pose(
            [centre[0] + c * x[i] - s * y[i], centre[1] + s * x[i] + c * y[i], centre[2]],
            heading + angle[i],
            0.02,
            0.03,
        )
        for i in range(count)
    }


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Twenty frames on a circle, three scans of one point each."""
    scans = {i: [[10.0 + i, 2, 1]] for i in range(3)}
    return write_kitti360(
        tmp_path / "KITTI-360", circle(20, 25.0, 0.7, (900.0, 3700.0, 115.0)), scans, tenths(20)
    )


def root_of(drive: Path) -> Path:
    return drive.parent.parent


# --- opening -------------------------------------------------------------------------------------


def test_the_drive_or_the_folder_above_its_one_drive(drive: Path) -> None:
    assert detect_format(drive) == "kitti360"
    for path in (drive, root_of(drive)):
        opened = open_drive(path)
        assert opened.name == NAME
        assert opened.format == "kitti360"
        assert opened.scans.sensors == ("velodyne",)
        assert len(opened.scans.t_ns) == 3


def test_several_drives_are_listed(drive: Path) -> None:
    other = drive.parent / "2013_05_28_drive_0003_sync"
    shutil.copytree(drive, other)
    with pytest.raises(MaptileError, match=f"holds 2 drives; .*{drive.name}, .*{other.name}"):
        open_drive(root_of(drive))
    assert open_drive(other).odometry is None


def test_poses_beside_the_scans_and_drives_beside_the_calibration(drive: Path) -> None:
    """The layout of the archives if each is unpacked into the same folder."""
    here = open_drive(drive)
    points = here.scans.read(0, 3).points
    root = root_of(drive)
    shutil.move(root / "data_poses" / NAME / "poses.txt", drive)
    shutil.rmtree(root / "data_poses")
    beside = open_drive(drive)
    shutil.move(drive, root / NAME)
    shutil.rmtree(root / "data_3d_raw")
    flat = open_drive(root / NAME)
    for other in (beside, flat, open_drive(root)):
        assert other.format == "kitti360"
        assert np.array_equal(other.odometry.poses, here.odometry.poses)
    assert np.array_equal(flat.scans.read(0, 3).points, points)


def test_archives_as_they_are_downloaded(drive: Path, tmp_path: Path) -> None:
    write_labels(drive / "labels/0000000001.label", [11])
    here = open_drive(drive)
    folder, root = tmp_path / "archives", root_of(drive)
    zipped(folder / f"{NAME}_velodyne.zip", drive.parent, f"{NAME}/velodyne_points/data")
    zipped(
        folder / "data_timestamps_velodyne.zip",
        drive.parent,
        f"{NAME}/velodyne_points/timestamps.txt",
    )
    zipped(folder / "labels.zip", drive.parent, f"{NAME}/labels")
    zipped(folder / "calibration.zip", root, "calibration")
    for poses in (root, root / "data_poses"):  # with and without a folder of their own
        zipped(folder / "data_poses.zip", poses, "data_poses" if poses == root else NAME)
        for path in (folder, folder / NAME):
            there = open_drive(path)
            assert (there.name, there.format, there.labels) == (NAME, "kitti360", "kitti360")
            check_same(arrays(here), arrays(there))
            assert np.array_equal(there.scans.read(1, 2).label, [11])
            assert np.array_equal(there.truth.latitude, here.truth.latitude)
    shutil.rmtree(folder)
    zipped(tmp_path / "all.zip", root.parent, root.name)
    check_same(arrays(here), arrays(open_drive(tmp_path / "all.zip")))
    check_same(
        arrays(here), arrays(open_drive(tmp_path / "all.zip" / root.name / "data_3d_raw" / NAME))
    )


def test_a_drive_of_kitti_raw_is_not_recognised_as_kitti360(drive: Path, tmp_path: Path) -> None:
    shutil.copytree(drive, tmp_path / "2011_09_26" / "2011_09_26_drive_0005_sync")
    assert detect_format(tmp_path / "2011_09_26" / "2011_09_26_drive_0005_sync") == "kitti"


def test_unknown_sensor(drive: Path) -> None:
    assert open_drive(drive, sensors=("velodyne",)).scans.sensors == ("velodyne",)
    with pytest.raises(MaptileError, match="no sensor sick; choose from velodyne"):
        open_drive(drive, sensors=("sick",))


# --- scans ---------------------------------------------------------------------------------------


def test_points_are_transformed_from_the_velodyne_to_the_imu(drive: Path) -> None:
    block = open_drive(drive).scans.read(0, 2)
    assert np.allclose(block.origin, [VELODYNE] * 2, atol=1e-6)
    assert np.allclose(block.points, [[10.7, 1.6, 1.8], [11.7, 1.6, 1.8]], atol=1e-5)


def test_left_was_measured_before_and_right_after(drive: Path) -> None:
    around = np.radians([179.9, 90, 45, 0, -45, -90, -179.9])
    rows = np.column_stack([10 * np.cos(around), 10 * np.sin(around), np.zeros(7)])
    write_points(drive / "velodyne_points/data/0000000001.bin", rows)
    scans = open_drive(drive).scans
    seconds = scans.read(1, 2).seconds
    assert seconds.dtype == np.float32
    expected = [-0.05, -0.025, -0.0125, 0, 0.0125, 0.025, 0.05]
    assert np.allclose(seconds, expected, atol=5e-5)
    assert len(scans.read(0, 3).seconds) == 9


def test_the_duration_of_a_turn_is_the_time_between_two(drive: Path) -> None:
    times = [NOON + 104_000_000 * i for i in range(20)]
    write_points(drive / "velodyne_points/data/0000000001.bin", [[0.0, -10, 0]])
    for step, quarter in ((104, 0.026), (208, 0.025), (10, 0.025)):
        # The sensor turns 5 to 20 times per second; times farther apart are of lost lines.
        write_stamps(
            drive / "velodyne_points/timestamps.txt",
            [NOON + (t - NOON) // 104 * step for t in times],
        )
        assert open_drive(drive).scans.read(1, 2).seconds[0] == pytest.approx(quarter, rel=1e-5)


def test_motion_compensation_straightens_a_wall(tmp_path: Path) -> None:
    """At 15 m/s and 0.3 rad/s, the wall is straight in the vehicle frame at the scan's time."""
    speed, turn = 15.0, 0.3
    t_ns = tenths(11)
    angle = turn * 0.1 * np.arange(11)
    track = speed / turn * np.column_stack([np.sin(angle), 1 - np.cos(angle)])
    poses = {i: imu_pose([*track[i], 0], angle[i]) for i in range(11)}
    # What the sensor meets at each azimuth, at the moment it points there, on a wall 12 m left of
    # where the vehicle was at the middle scan and parallel to it.
    azimuth = np.radians(np.linspace(20, 160, 200))
    seconds = -azimuth / (2 * np.pi) * 0.1
    yaw = turn * seconds
    at = speed / turn * np.column_stack([np.sin(yaw), 1 - np.cos(yaw)])
    c, s = np.cos(yaw), np.sin(yaw)
    sensor = at + np.column_stack([c, s]) * VELODYNE[0] + np.column_stack([-s, c]) * VELODYNE[1]
    reach = (12 - sensor[:, 1]) / np.sin(azimuth + yaw)
    rows = np.column_stack([reach * np.cos(azimuth), reach * np.sin(azimuth), np.zeros(200)])
    drive = open_drive(write_kitti360(tmp_path, poses, {5: rows}, t_ns))
    raw = drive.scans.read(0, 1)
    assert np.abs(raw.points[:, 1] - 12).max() > 0.3
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    points = build_submap(drive, plan, 0, Queries(submap_m=0.0), SubmapSettings()).points
    # Motion is assumed constant within a turn, which leaves an error of a centimetre.
    assert np.abs(points[:, 1] - 12).max() < 0.02
    expected = sensor[:, 0] + reach * np.cos(azimuth + yaw)
    assert np.abs(points[:, 0] - expected).max() < 0.02


def test_frames_without_a_time_or_a_file(drive: Path) -> None:
    times = [*tenths(2), None, *tenths(20)[3:]]
    write_stamps(drive / "velodyne_points/timestamps.txt", times)
    write_points(drive / "velodyne_points/data/0000000019.bin", [[29.0, 2, 1]])
    write_points(drive / "velodyne_points/data/0000000020.bin", [[30.0, 2, 1]])
    opened = open_drive(drive)
    # Line numbers count, not lines: number 2 has an empty one, number 20 none.
    assert opened.scans.t_ns.tolist() == [times[0], times[1], times[19]]
    assert np.allclose(opened.scans.read(0, 3).points[:, 0], [10.7, 11.7, 29.7], atol=1e-5)
    assert any("2 scans without a time stamp" in note for note in opened.notes)
    assert any("17 of 20 scans are missing" in note for note in opened.notes)
    assert 2 not in np.searchsorted(tenths(20), opened.odometry.t_ns)
    assert len(opened.odometry.t_ns) == 19


def test_without_a_list_of_times_the_numbers_are_tenths_of_seconds(drive: Path) -> None:
    known = open_drive(drive)
    (drive / "velodyne_points/timestamps.txt").unlink()
    found = open_drive(drive)
    assert "no timestamps.txt: times are the numbers of the scans, 10 a second" in found.notes
    tenth = 100_000_000
    numbers = [int(file.stem) for file in sorted((drive / "velodyne_points/data").iterdir())]
    assert found.scans.t_ns.tolist() == [number * tenth for number in numbers]
    expected, block = known.scans.read(0, 9), found.scans.read(0, 9)
    assert np.array_equal(block.points, expected.points)
    assert found.truth is not None
    assert set(found.truth.t_ns % tenth) == {0}


def test_labels_are_the_low_half_of_their_numbers(drive: Path) -> None:
    rows = [[10.0, 2, 1], [0, 0, 0], [11, 2, 1], [float("nan"), 2, 1], [12, 2, 1]]
    write_points(drive / "velodyne_points/data/0000000001.bin", rows)
    write_labels(drive / "labels/0000000001.label", [11, 7, 7, 7, 26], instance=9)
    opened = open_drive(drive)
    assert opened.labels == "kitti360"
    # Points without return are removed with their labels; a block needs labels of all scans.
    assert opened.scans.read(1, 2).label.tolist() == [11, 7, 26]
    assert opened.scans.read(0, 3).label is None
    assert opened.scans.read(0, 1).label is None
    assert any("2 of 3 scans have none" in note for note in opened.notes)
    plan = plan_queries(opened, Queries(submap_m=0.0, every_m=0.0))
    submap = build_submap(opened, plan, 1, Queries(submap_m=0.0), SubmapSettings())
    assert submap.kind.tolist() == [BUILDING, ROAD, CAR]
    together = build_submap(opened, plan, 1, Queries(submap_m=1e3), SubmapSettings())
    assert len(together.origin) == 3 and together.kind is None


def test_a_drive_without_labels_has_none(drive: Path) -> None:
    opened = open_drive(drive)
    assert opened.labels is None
    assert opened.scans.read(0, 3).label is None


@pytest.mark.parametrize("count", [0, 1, 3])
def test_labels_of_another_scan_are_an_error(drive: Path, count: int) -> None:
    write_points(drive / "velodyne_points/data/0000000001.bin", [[10.0, 2, 1], [11, 2, 1]])
    file = write_labels(drive / "labels/0000000001.label", [11] * count)
    scans = open_drive(drive).scans
    with pytest.raises(MaptileError, match=f"{file}: {count} labels for the 2 points"):
        scans.read(1, 2)


def test_damaged_scans_and_labels_name_their_file(drive: Path) -> None:
    file = write_labels(drive / "labels/0000000001.label", [11])
    file.write_bytes(b"abc")
    with pytest.raises(MaptileError, match=f"{file}: .*cut short"):
        open_drive(drive).scans.read(1, 2)
    scan = drive / "velodyne_points/data/0000000001.bin"
    scan.write_bytes(b"abc")
    with pytest.raises(MaptileError, match=f"{scan}: .*cut short"):
        open_drive(drive).scans.read(1, 2)


# --- tracks --------------------------------------------------------------------------------------


def test_the_world_frame_at_its_origin_and_around_it(drive: Path) -> None:
    latitude = np.degrees(LATITUDE) + np.array([0, 0.05, 0.02, -0.01])
    longitude = np.degrees(LONGITUDE) + np.array([0, 0.02, -0.03, 0.06])
    places = mercator(latitude, longitude)
    assert places[0].tolist() == [0, 0]
    poses = {i: imu_pose([*place, 100], 0.3) for i, place in enumerate(places)}
    write_poses_360(root_of(drive), NAME, poses)
    truth = open_drive(drive).truth
    assert np.abs(truth.latitude - latitude).max() < 1e-10
    assert np.abs(truth.longitude - longitude).max() < 1e-10


@pytest.mark.parametrize("heading", [-2.5, -0.9, 0.0, 1.2, 3.1])
def test_the_heading_is_from_true_east(drive: Path, heading: float) -> None:
    """The heading between two positions is the azimuth of the geodesic between them."""
    latitude, longitude = 49.017, 8.441
    azimuth = 90 - math.degrees(heading)
    there = GEOD.fwd(longitude, latitude, azimuth, 100.0)
    places = mercator(np.array([latitude, there[1]]), np.array([longitude, there[0]]))
    step = places[1] - places[0]
    course = math.atan2(step[1], step[0])
    write_poses_360(
        root_of(drive), NAME, {i: imu_pose([*p, 0], course) for i, p in enumerate(places)}
    )
    opened = open_drive(drive)
    # The data set's Earth is a sphere, which bends directions by up to 0.08 degrees.
    assert np.abs(np.degrees(wrap_angle(opened.heading.heading - heading))).max() < 0.1
    assert np.array_equal(opened.truth.heading, opened.heading.heading)


def test_odometry_is_the_motion_from_the_first_pose(drive: Path) -> None:
    track = open_drive(drive).odometry
    assert track.t_ns.tolist() == tenths(20)
    angle = 0.5 / 25.0 * np.arange(20)
    expected = 25.0 * np.column_stack([np.sin(angle), 1 - np.cos(angle), 0 * angle])
    assert np.allclose(track.poses[:, :3, 3], expected, atol=1e-5)
    assert np.allclose(np.arctan2(track.poses[:, 1, 0], track.poses[:, 0, 0]), angle, atol=1e-6)
    # Third row of Rz(yaw) Ry(pitch) Rx(roll): the vertical in the vehicle frame.
    up = [-math.sin(0.03), math.cos(0.03) * math.sin(0.02), math.cos(0.03) * math.cos(0.02)]
    assert np.allclose(track.poses[:, 2, :3], up, atol=1e-6)
    assert track.segment.tolist() == [0] * 20


def test_climbing_shows_in_z(drive: Path) -> None:
    poses = {i: imu_pose([i, 2 * i, 100 + 0.1 * i], math.atan2(2, 1)) for i in range(10)}
    write_poses_360(root_of(drive), NAME, poses)
    track = open_drive(drive).odometry
    assert np.allclose(track.poses[-1, :3, 3], [9 * math.sqrt(5), 0, 0.9], atol=1e-5)


def test_poses_are_interpolated_but_not_in_a_long_gap(tmp_path: Path) -> None:
    frames = [0, 1, 2, 5, 6, 30, 31]
    poses = {i: imu_pose([500.0, 200.0 + i, 0], math.pi / 2) for i in frames}
    scans = {i: [[10.0, 0, 0]] for i in range(35)}
    opened = open_drive(write_kitti360(tmp_path, poses, scans, tenths(35)))
    track = opened.odometry
    assert track.t_ns.tolist() == [tenths(35)[i] for i in frames]
    assert track.segment.tolist() == [0] * 5 + [1] * 2
    assert any("odometry has 2 segments" in note for note in opened.notes)
    times = opened.scans.t_ns
    assert track.segment_at(times).tolist() == [0] * 7 + [-1] * 23 + [1] * 2 + [-1] * 3
    assert np.allclose(track.at(times[:7])[:, :2, 3], [[i, 0] for i in range(7)], atol=1e-5)
    assert track.travelled()[-1] == pytest.approx(7)


def test_every_segment_of_odometry_starts_at_the_origin(tmp_path: Path) -> None:
    poses = {i: imu_pose([100.0 + i, 300, 40], 0.0) for i in range(3)}
    poses |= {i: imu_pose([500.0, 700 + i, 60], math.pi / 2) for i in range(40, 43)}
    drive = write_kitti360(tmp_path, poses, {0: [[1.0, 2, 3]]}, tenths(50))
    track = open_drive(drive).odometry
    straight = [[0, 0, 0], [1, 0, 0], [2, 0, 0]]
    assert np.allclose(track.poses[:, :3, 3], straight * 2, atol=1e-5)
    assert np.allclose(track.poses[:, :3, :3], np.eye(3), atol=1e-9)


def test_poses_out_of_order_or_twice(drive: Path) -> None:
    here = open_drive(drive)
    file = root_of(drive) / "data_poses" / NAME / "poses.txt"
    lines = file.read_text("ascii").splitlines()
    file.write_text("\n".join([*lines[::-1], "", lines[4]]), "ascii")
    again = open_drive(drive)
    assert np.array_equal(again.odometry.t_ns, here.odometry.t_ns)
    assert np.array_equal(again.odometry.poses, here.odometry.poses)
    assert np.array_equal(again.truth.latitude, here.truth.latitude)


def test_poses_of_frames_without_a_time_are_left_out(drive: Path) -> None:
    write_stamps(drive / "velodyne_points/timestamps.txt", tenths(12))
    opened = open_drive(drive)
    assert len(opened.odometry.t_ns) == 12
    assert any("8 of 20 have no time stamp" in note for note in opened.notes)
    write_poses_360(root_of(drive), NAME, {99: imu_pose([0, 0, 0], 0)})
    with pytest.raises(MaptileError, match="no pose of a frame"):
        open_drive(drive)


def test_without_poses_there_are_only_scans(drive: Path) -> None:
    shutil.rmtree(root_of(drive) / "data_poses")
    opened = open_drive(drive)
    assert opened.odometry is opened.heading is opened.truth is None
    assert len(opened.scans.read(0, 3).points) == 3
    assert any("no odometry, heading and truth: " in note for note in opened.notes)


@pytest.mark.parametrize(
    "row",
    [
        "1 2 3",
        "1 " + "x " * 12,
        "1 " + "nan " * 12,
        "0.5 1 0 0 0 0 1 0 0 0 0 1 0",
        "-1 1 0 0 0 0 1 0 0 0 0 1 0",
        "1e300 1 0 0 0 0 1 0 0 0 0 1 0",
        "1 2 0 0 0 0 2 0 0 0 0 2 0",
        "1 1 0 0 0 0 1 0 0 0 0 -1 0",
        "1 1e300 0 0 0 0 1 0 0 0 0 1 0",
        "1 1 0 0 1e300 0 1 0 0 0 0 1 0",
    ],
)
def test_damaged_poses_name_their_file(drive: Path, row: str) -> None:
    file = root_of(drive) / "data_poses" / NAME / "poses.txt"
    file.write_text(file.read_text("ascii") + row + "\n", "ascii")
    with pytest.raises(MaptileError, match=f"^{file}: ") as caught:
        open_drive(drive)
    assert "\n" not in str(caught.value)


def test_damaged_or_missing_calibration(drive: Path) -> None:
    folder = root_of(drive) / "calibration"
    for name in ("calib_cam_to_pose.txt", "calib_cam_to_velo.txt"):
        for text in ("", "image_00: 1 2 3\n", "1 2 3\n", "image_00: " + "1 " * 12, "\xff"):
            (folder / name).write_text(text, "latin-1")
            with pytest.raises(MaptileError, match=f"^{folder / name}: "):
                open_drive(drive)
        (folder / name).unlink()
        with pytest.raises(MaptileError, match=f"{name}: no such file; unpack calibration.zip"):
            open_drive(drive)
        write_calibration_360(root_of(drive))


# --- truth stays out -----------------------------------------------------------------------------


def test_moving_the_truth_away_changes_nothing_else(drive: Path) -> None:
    here = open_drive(drive)
    moved = circle(20, 25.0, 0.7, (900.0 + 300_000, 3700.0 - 500_000, 115.0 + 64))
    write_poses_360(root_of(drive), NAME, moved)
    away = open_drive(drive)
    check_same_but_truth(here, away)
    assert (here.truth.latitude - away.truth.latitude).min() > 4
    assert (away.truth.longitude - here.truth.longitude).min() > 4


def test_turning_the_world_turns_only_heading_and_truth(drive: Path) -> None:
    here = open_drive(drive)
    write_poses_360(root_of(drive), NAME, circle(20, 25.0, 2.7, (-90.0, 370.0, 11.0)))
    away = open_drive(drive)
    assert np.allclose(away.odometry.poses, here.odometry.poses, atol=1e-5)
    assert np.allclose(wrap_angle(away.heading.heading - here.heading.heading), 2.0)
    check_same(arrays(here), arrays(replace(away, odometry=here.odometry, heading=here.heading)))


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "KITTI-360"
    poses = circle(6, 25.0, 0.7, (900.0, 3700.0, 115.0))
    drive = write_kitti360(folder, poses, {1: [[10.0, 2, 1], [11, 2, 1]]}, tenths(6))
    write_labels(drive / "labels/0000000001.label", [11, 7])
    return drive


FILES = (
    "velodyne_points/timestamps.txt",
    "velodyne_points/data/0000000001.bin",
    "labels/0000000001.label",
    f"../../data_poses/{NAME}/poses.txt",
    "../../calibration/calib_cam_to_pose.txt",
    "../../calibration/calib_cam_to_velo.txt",
)


@often
@given(choices=st.data())
def test_damage_is_an_error_or_a_sound_drive(sound: Path, choices: st.DataObject) -> None:
    file = sound / choices.draw(st.sampled_from(FILES))
    read = read_damaged(sound, file, choices)
    if read is None:
        return
    opened, block = read
    assert np.abs(block.seconds).max(initial=0) <= 0.1001
    assert (block.label >= 0).all()
    assert opened.odometry is not None
    assert opened.truth is not None


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_frames_come_back_from_the_published_layout(data_dir: Path, tmp_path: Path) -> None:
    """Real clouds in the world frame, written as scans with poses, are read back unchanged."""
    source = data_dir / "kitti360_0000"
    table = pd.read_csv(source / "poses.csv")[20:26]
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    places = mercator(latitude, longitude)
    course = np.arctan2(*np.gradient(places, axis=0).T[::-1])
    poses = {i: imu_pose([*places[i], 110.0], course[i], 0.01, -0.02) for i in range(6)}
    clouds, scans = [], {}
    for i, frame in enumerate(table["frame"]):
        body = (source / "clouds" / f"{frame:010d}.ply").read_bytes().partition(b"end_header\n")[2]
        kind = np.dtype([("xyz", "<f8", 3), ("intensity", "<f4"), ("label", "u1")])
        rows = np.frombuffer(body, kind)
        clouds.append(rows["xyz"])
        # The sensor is parallel to the vehicle: x forward, y left, z up.
        in_imu = (rows["xyz"] - poses[i][:3, 3]) @ poses[i][:3, :3]
        scans[i] = in_imu * [1, -1, -1] - VELODYNE
    drive = open_drive(write_kitti360(tmp_path, poses, scans, tenths(6)))
    assert np.abs(drive.truth.latitude - latitude).max() < 1e-9
    assert np.abs(drive.truth.longitude - longitude).max() < 1e-9
    assert np.allclose(drive.heading.heading, course)
    # The clouds lie around the car's position, known from latitude and longitude alone.
    for cloud, place in zip(clouds, mercator(latitude, longitude), strict=True):
        assert np.linalg.norm(cloud[:, :2] - place, axis=1).min() < 6
    c, s = math.cos(course[0]), math.sin(course[0])
    for i, pose in enumerate(drive.odometry.poses):
        there = drive.scans.read(i, i + 1).points @ pose[:3, :3].T + pose[:3, 3]
        turned = there @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        assert np.abs(turned + poses[0][:3, 3] - clouds[i]).max() < 0.001


def test_time_is_int64_nanoseconds(drive: Path) -> None:
    assert open_drive(drive).scans.t_ns.dtype == np.int64
    assert open_drive(drive).scans.t_ns[1] - NOON == SECOND // 10
