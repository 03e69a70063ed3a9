from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
import small_gicp
from hypothesis import given
from hypothesis import strategies as st
from made_kitti import (
    KARLSRUHE,
    NOON,
    SECOND,
    SHIFT,
    TURN,
    circle,
    oxts_row,
    tenths,
    write_calibration,
    write_labels,
    write_oxts,
    write_scan,
    write_stamps,
    zipped,
)
from reader_checks import arrays, check_same, check_same_but_truth, often, read_damaged
from scipy.spatial import cKDTree

from data_prep.drive import Drive, ScanBlock, ScanSource, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Projection, se3_inverse, utm_crs, wrap_angle
from data_prep.sources import open_drive
from data_prep.sources.formats.kitti_files import read_timestamps
from maptile_loc.perceive.labels import BUILDING, ROAD, VEGETATION
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries

GEOD = pyproj.Geod(ellps="WGS84")


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """A drive of three scans without oxts."""
    path = tmp_path / "2011_09_26" / "2011_09_26_drive_0001_sync"
    write_calibration(path.parent)
    for i in range(3):
        write_scan(path, i, [[10.0 + i, 2, 1, 0.5]])
    write_stamps(
        path / "velodyne_points/timestamps.txt", [NOON + SECOND // 10 * i for i in range(3)]
    )
    return path


# --- scans ---------------------------------------------------------------------------------------


def test_velodyne_files_are_rows_of_x_y_z_reflectance(drive: Path) -> None:
    imu = np.random.default_rng(0).uniform(-50, 50, size=(9, 3))
    velodyne = imu @ TURN.T + SHIFT  # the calibration takes the IMU's points to the Velodyne
    write_scan(drive, 0, np.column_stack([velodyne, np.full(9, 99.0)]))
    scans = open_drive(drive).scans
    assert scans.sensors == ("velodyne",)
    block = scans.read(0, 1)
    assert block.points.dtype == np.float32
    assert np.allclose(block.points, imu, atol=1e-4)
    assert np.allclose(block.origin, [-SHIFT @ TURN], atol=1e-6)


def test_a_block_of_scans_is_its_scans(drive: Path) -> None:
    write_scan(drive, 1, [])
    nan = float("nan")
    write_scan(drive, 2, [[1, 2, 3, 0], [nan, 2, 3, 0], [0, 0, 0, 1], [1, float("inf"), 3, 0]])
    scans = open_drive(drive).scans
    block = scans.read(0, 3)
    assert block.scan.tolist() == [0, 2]
    assert len(block.origin) == 3
    assert block.t_ns.tolist() == [NOON, NOON + SECOND // 10, NOON + SECOND // 5]
    parts = [scans.read(i, i + 1).points for i in range(3)]
    assert np.array_equal(np.concatenate(parts), block.points)
    assert scans.read(1, 1).points.shape == (0, 3)


@pytest.mark.parametrize("cut", [1, 4, 12])
def test_a_scan_cut_short_names_its_file(drive: Path, cut: int) -> None:
    file = write_scan(drive, 1, np.ones((5, 4)))
    file.write_bytes(file.read_bytes()[:-cut])
    scans = open_drive(drive).scans
    assert len(scans.read(0, 1).points) == 1
    with pytest.raises(MaptileError, match=f"{file}: .*cut short"):
        scans.read(0, 3)


def test_file_numbers_are_kept_where_scans_are_missing(drive: Path) -> None:
    stamps = [NOON + SECOND // 10 * i for i in range(7)]
    write_stamps(drive / "velodyne_points/timestamps.txt", stamps, end="")
    (drive / "velodyne_points/data/0000000001.bin").unlink()
    write_scan(drive, 4, [[14.0, 2, 1, 0.5]])
    opened = open_drive(drive)
    assert opened.scans.t_ns.tolist() == [stamps[0], stamps[2], stamps[4]]
    in_velodyne = opened.scans.read(0, 3).points @ TURN.T + SHIFT
    assert np.allclose(in_velodyne[:, 0], [10, 12, 14], atol=1e-5)
    assert any("4 of 7 scans are missing" in note for note in opened.notes)


def test_names_of_six_and_of_ten_digits_may_be_mixed(drive: Path) -> None:
    write_oxts(drive, circle(3, 20.0, 0.4), tenths(3))
    write_labels(drive / "velodyne_points/labels/0000000001.label", [50])
    known = open_drive(drive)
    expected = arrays(known)
    data = drive / "velodyne_points" / "data"
    (data / "0000000001.bin").rename(data / "000001.bin")
    (data / "0000000002.bin").rename(data / "2.bin")
    labels = drive / "velodyne_points" / "labels"
    (labels / "0000000001.label").rename(labels / "000001.label")
    rows = drive / "oxts" / "data"
    (rows / "0000000001.txt").rename(rows / "000001.txt")
    drive_of_both = open_drive(drive)
    assert drive_of_both.notes == known.notes
    check_same(expected, arrays(drive_of_both))


def test_scans_without_a_time_are_left_out(drive: Path) -> None:
    write_scan(drive, 3, [[13.0, 2, 1, 0.5]])
    opened = open_drive(drive)
    assert len(opened.scans.t_ns) == 3
    assert any("1 scan without a time stamp" in note for note in opened.notes)


def test_an_empty_line_is_a_frame_that_was_lost(drive: Path) -> None:
    """Drive 2011_09_26_drive_0009 has some: the lines after them keep their numbers."""
    stamps = tenths(7)
    write_stamps(drive / "velodyne_points/timestamps.txt", [stamps[0], None, *stamps[2:]])
    write_scan(drive, 4, [[14.0, 2, 1, 0.5]])
    write_oxts(drive, [oxts_row(0.0, 5.0) for _ in range(7)], stamps)
    write_stamps(drive / "oxts/timestamps.txt", [*stamps[:3], None, None, *stamps[5:]])
    opened = open_drive(drive)
    assert opened.scans.t_ns.tolist() == [stamps[0], stamps[2], stamps[4]]
    in_velodyne = opened.scans.read(0, 3).points @ TURN.T + SHIFT
    assert np.allclose(in_velodyne[:, 0], [10, 12, 14], atol=1e-5)
    assert any("velodyne: 1 scan without a time stamp" in note for note in opened.notes)
    assert opened.odometry is not None
    assert opened.odometry.t_ns.tolist() == [*stamps[:3], *stamps[5:]]
    assert any("oxts: 2 of 7 rows are missing" in note for note in opened.notes)


def test_no_scan_at_all_is_an_error(drive: Path) -> None:
    for file in (drive / "velodyne_points/data").iterdir():
        file.rename(file.with_suffix(".old"))
    with pytest.raises(MaptileError, match="no scan"):
        open_drive(drive)


def test_archives_as_they_are_downloaded(drive: Path, tmp_path: Path) -> None:
    write_oxts(drive, circle(5, 20.0, 0.3), tenths(5))
    write_labels(drive / "velodyne_points/labels/0000000001.label", [50])
    here, day = open_drive(drive), drive.parent.name
    folder = tmp_path / "archives"
    zipped(folder / f"{drive.name}.zip", tmp_path, f"{day}/{drive.name}")
    zipped(folder / f"{day}_calib.zip", tmp_path, f"{day}/calib_imu_to_velo.txt")
    for path in (folder, folder / day / drive.name, folder / f"{drive.name}.zip"):
        there = open_drive(path)
        assert (there.name, there.format, there.labels) == (drive.name, "kitti", "semantickitti")
        assert there.odometry is not None
        assert here.odometry is not None
        assert np.array_equal(there.odometry.poses, here.odometry.poses)
        blocks = here.scans.read(0, 3), there.scans.read(0, 3)
        assert blocks[0].seconds is not None
        assert blocks[1].seconds is not None
        assert np.array_equal(blocks[0].points, blocks[1].points)
        assert np.array_equal(blocks[0].seconds, blocks[1].seconds)
        assert np.array_equal(blocks[0].label, blocks[1].label)


def test_unknown_sensor(drive: Path) -> None:
    assert open_drive(drive, sensors=("velodyne",)).scans.sensors == ("velodyne",)
    with pytest.raises(MaptileError, match="no sensor lms_front; choose from velodyne"):
        open_drive(drive, sensors=("lms_front",))


# --- times and labels of points ------------------------------------------------------------------


def test_a_turn_begins_at_the_back_and_covers_the_left_first(drive: Path) -> None:
    around = np.radians([179.9, 90, 45, 0, -45, -90, -179.9])
    rows = [[10 * math.cos(a), 10 * math.sin(a), 0, 0.5] for a in around]
    write_scan(drive, 1, [[0, 0, 0, 0], *rows])  # a point without return is removed with its time
    block = open_drive(drive).scans.read(1, 2)
    expected = [-0.05, -0.025, -0.0125, 0, 0.0125, 0.025, 0.05]
    assert block.seconds is not None
    assert block.seconds.dtype == np.float32
    assert np.allclose(block.seconds, expected, atol=5e-5)


def test_the_duration_of_a_turn_is_its_end_minus_its_begin(drive: Path) -> None:
    for i in range(3):
        write_scan(drive, i, [[0.0, -10, 0, 0.5]])
    facing, half = tenths(3), [50_000_000, 52_000_000, 51_000_000]
    folder = drive / "velodyne_points"

    def quarters() -> list[float]:
        seconds = open_drive(drive).scans.read(0, 3).seconds
        assert seconds is not None
        return seconds.tolist()

    write_stamps(
        folder / "timestamps_start.txt", [t - h for t, h in zip(facing, half, strict=True)]
    )
    assert quarters() == pytest.approx([0.025] * 3)  # the end of a turn is unknown
    ends = [t + h for t, h in zip(facing, half, strict=True)]
    write_stamps(folder / "timestamps_end.txt", ends)
    assert quarters() == pytest.approx([0.025, 0.026, 0.0255])
    # For an empty, missing or wrong line, the median time between two turns is used.
    write_stamps(folder / "timestamps_end.txt", [ends[0] + SECOND, None])
    assert quarters() == pytest.approx([0.025] * 3)
    (folder / "timestamps_end.txt").write_text("noon", "ascii")
    with pytest.raises(MaptileError, match=r"timestamps_end\.txt: not a list of times"):
        open_drive(drive)


def test_labels_are_those_of_semantickitti(drive: Path) -> None:
    write_scan(drive, 1, [[10.0, 2, 1, 0.5], [0, 0, 0, 0], [11, 2, 1, 0.5], [12, 2, 1, 0.5]])
    folder = drive / "velodyne_points/labels"
    write_labels(folder / "0000000001.label", [50, 40, 40, 70], instance=7)
    opened = open_drive(drive)
    assert opened.labels == "semantickitti"
    label = opened.scans.read(1, 2).label
    assert label is not None
    assert label.tolist() == [50, 40, 70]
    assert opened.scans.read(0, 3).label is None
    submap = build_submap(
        opened,
        plan_queries(opened, Queries(submap_m=0.0, every_m=0.0)),
        1,
        Queries(submap_m=0.0),
        SubmapSettings(),
    )
    assert submap.kind is not None
    assert submap.kind.tolist() == [BUILDING, ROAD, VEGETATION]
    file = write_labels(folder / "0000000001.label", [50, 40])
    with pytest.raises(MaptileError, match=f"{file}: 2 labels for the 4 points"):
        opened.scans.read(1, 2)


# --- small files ---------------------------------------------------------------------------------


def test_nanoseconds_are_exact(tmp_path: Path) -> None:
    file = tmp_path / "timestamps.txt"
    file.write_text("2011-09-26 13:04:32.349659964\n2011-09-26 13:04:32.459792166", "ascii")
    # 1317042272 = date -u -d "2011-09-26 13:04:32" +%s
    assert read_timestamps(file).tolist() == [1317042272349659964, 1317042272459792166]


@pytest.mark.parametrize("text", ["13 o'clock\n", "2011-13-26 13:04:32.3\n", "\xff\n"])
def test_invalid_times_are_one_clear_line(drive: Path, text: str) -> None:
    file = drive / "velodyne_points/timestamps.txt"
    file.write_text(text, "latin-1")
    with pytest.raises(MaptileError, match=f"{file}: not a (list of times|text file)"):
        open_drive(drive)
    file.unlink()
    with pytest.raises(MaptileError, match=f"{file}: no such file"):
        open_drive(drive)


def test_calibration_is_in_the_folder_of_the_day(drive: Path) -> None:
    file = drive.parent / "calib_imu_to_velo.txt"
    for text in ("", "R: 1 2 3\nT: 1 2 3\n", "R: x 0 0 0 1 0 0 0 1\nT: 0 0 0\n"):
        file.write_text(text, "ascii")
        with pytest.raises(MaptileError, match=f"{file}: (expected lines R: .* and T:|no line R)"):
            open_drive(drive)
    file.write_text("R: 1 0 0 0 1 0 0 0 2\nT: 1 2 3\n", "ascii")
    with pytest.raises(MaptileError, match=f"{file}: .* is not rigid"):
        open_drive(drive)
    file.unlink()
    with pytest.raises(MaptileError, match=f"{file}: no such file; unpack the calibration"):
        open_drive(drive)


@pytest.mark.parametrize("text", ["", "1 2 3", "x " * 30, "nan " * 30, "1e300 " * 30])
def test_a_damaged_row_names_its_file(drive: Path, text: str) -> None:
    write_oxts(drive, circle(5, 20.0, 0.0), [NOON + SECOND // 10 * i for i in range(5)])
    file = drive / "oxts/data/0000000003.txt"
    file.write_text(text, "ascii")
    with pytest.raises(MaptileError, match=f"{file}: expected 30 numbers"):
        open_drive(drive)


def test_without_oxts_there_are_only_scans(drive: Path) -> None:
    opened = open_drive(drive)
    assert opened.odometry is None
    assert opened.heading is None
    assert opened.truth is None
    assert any("no odometry, heading and truth" in note for note in opened.notes)


# --- tracks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw", [-3.0, 0.0, 1.2])
@pytest.mark.parametrize("left", [0.0, 0.4])
def test_a_circle_is_integrated_from_velocity_and_gyro(
    drive: Path, yaw: float, left: float
) -> None:
    radius = 25.0
    write_oxts(drive, circle(200, radius, yaw, left), tenths(200))
    track = open_drive(drive).odometry
    assert track is not None
    assert track.t_ns.tolist() == tenths(200)
    angle = 0.02 * np.arange(200)
    forward, side = 5.0 / 0.2, left / 0.2
    expected = np.stack(
        [
            forward * np.sin(angle) - side * (1 - np.cos(angle)),
            forward * (1 - np.cos(angle)) + side * np.sin(angle),
            np.zeros(200),
        ],
        axis=1,
    )
    assert np.allclose(track.poses[:, :3, 3], expected, atol=0.01)
    assert np.allclose(np.arctan2(track.poses[:, 1, 0], track.poses[:, 0, 0]), wrap_angle(angle))
    assert track.segment.tolist() == [0] * 200


def test_the_gyro_and_not_the_yaw_turns_the_odometry(drive: Path) -> None:
    """An INS that corrects its yaw by 10 degrees must not turn the odometry."""
    rows = [oxts_row(0.0 if i < 50 else 0.17, 5.0) for i in range(100)]
    write_oxts(drive, rows, tenths(100))
    track = open_drive(drive).odometry
    assert track is not None
    assert np.abs(track.poses[:, 1, 3]).max() < 1e-6
    assert track.poses[-1, 0, 3] == pytest.approx(5.0 * 9.9)


@pytest.mark.parametrize(("roll", "pitch"), [(0.05, 0.0), (0.0, 0.04), (-0.03, 0.02)])
def test_z_is_up_though_the_vehicle_leans(drive: Path, roll: float, pitch: float) -> None:
    write_oxts(drive, circle(50, 30.0, 0.7, roll=roll, pitch=pitch), tenths(50))
    track = open_drive(drive).odometry
    assert track is not None
    assert np.abs(track.poses[:, 2, 3]).max() < 1e-9
    # Third row of Rz(yaw) Ry(pitch) Rx(roll): the vertical in the vehicle frame.
    up = [-math.sin(pitch), math.cos(pitch) * math.sin(roll), math.cos(pitch) * math.cos(roll)]
    assert np.allclose(track.poses[:, 2, :3], up)


def test_climbing_shows_in_z(drive: Path) -> None:
    write_oxts(drive, [oxts_row(0.3, 5.0, up=0.25) for _ in range(41)], tenths(41))
    track = open_drive(drive).odometry
    assert track is not None
    assert track.poses[-1, 2, 3] == pytest.approx(1.0)


def test_a_vehicle_that_stands_still_goes_nowhere(drive: Path) -> None:
    write_oxts(drive, [oxts_row(2.0) for _ in range(40)], tenths(40))
    track = open_drive(drive).odometry
    assert track is not None
    assert np.array_equal(track.poses, np.tile(np.eye(4), (40, 1, 1)))


def test_a_long_gap_begins_a_new_segment_and_a_short_one_does_not(drive: Path) -> None:
    write_oxts(drive, [oxts_row(0.0, 5.0) for _ in range(100)], tenths(100))
    gone = [*range(20, 35), *range(50, 80)]  # 1.6 s and 3.1 s
    for i in gone:
        (drive / f"oxts/data/{i:010d}.txt").unlink()
    opened = open_drive(drive)
    track = opened.odometry
    assert track is not None
    left = [i for i in range(100) if i not in gone]
    assert track.t_ns.tolist() == [tenths(100)[i] for i in left]
    assert track.segment.tolist() == [int(i >= 80) for i in left]
    assert track.travelled()[-1] == pytest.approx(5.0 * (4.9 + 1.9))
    assert any("45 of 100 rows are missing" in note for note in opened.notes)
    assert any("odometry has 2 segments" in note for note in opened.notes)


def test_rows_that_repeat_a_time_are_left_out(drive: Path) -> None:
    stamps = tenths(6)
    stamps[3] = stamps[2]
    stamps[4] = stamps[1]
    write_oxts(drive, [oxts_row(0.0, 5.0) for _ in range(6)], stamps)
    track = open_drive(drive).odometry
    assert track is not None
    assert track.t_ns.tolist() == [stamps[0], stamps[1], stamps[2], stamps[5]]


@pytest.mark.parametrize("yaw", [-2.0, 0.0, 1.0, 3.1])
def test_heading_and_truth_follow_the_yaw_from_east(drive: Path, yaw: float) -> None:
    ahead = GEOD.fwd(KARLSRUHE[1], KARLSRUHE[0], 90 - math.degrees(yaw), 5.0)
    places = [KARLSRUHE, (ahead[1], ahead[0])]
    write_oxts(drive, [oxts_row(yaw, 5.0, place=place) for place in places], tenths(2))
    opened = open_drive(drive)
    assert opened.heading is not None
    assert opened.truth is not None
    assert np.allclose(opened.heading.heading, yaw)
    assert np.allclose(opened.truth.heading, yaw)
    assert opened.truth.latitude.tolist() == [place[0] for place in places]
    assert opened.truth.longitude.tolist() == [place[1] for place in places]


# --- truth stays out -----------------------------------------------------------------------------


def move_away(drive: Path) -> None:
    """Shift every position of a drive by hundreds of kilometres."""
    for file in (drive / "oxts/data").iterdir():
        words = file.read_text("ascii").split()
        words[0], words[1], words[2] = str(float(words[0]) - 4), str(float(words[1]) + 2.5), "999"
        file.chmod(0o644)
        file.write_text(" ".join(words), "ascii")


def check_moved(here: Drive, away: Drive) -> None:
    check_same_but_truth(here, away, scans=min(5, len(here.scans.t_ns)))
    assert here.truth is not None
    assert away.truth is not None
    assert np.allclose(here.truth.latitude - away.truth.latitude, 4)


def test_moving_the_truth_away_changes_nothing_else(drive: Path) -> None:
    write_oxts(drive, circle(60, 20.0, 1.0, left=0.1), tenths(60))
    other = drive.parent / "2011_09_26_drive_0002_sync"
    shutil.copytree(drive, other)
    move_away(other)
    check_moved(open_drive(drive), open_drive(other))


@pytest.mark.realdata
def test_moving_the_real_truth_away_changes_nothing_else(data_dir: Path, tmp_path: Path) -> None:
    day = data_dir / "kitti_raw/2011_09_26"
    name = "2011_09_26_drive_0005_sync"
    copy = tmp_path / name
    shutil.copytree(day / name / "oxts", copy / "oxts")
    (copy / "velodyne_points").symlink_to(day / name / "velodyne_points")
    shutil.copy(day / "calib_imu_to_velo.txt", tmp_path)
    for folder in (copy / "oxts", copy / "oxts/data"):
        folder.chmod(0o755)
    move_away(copy)
    check_moved(open_drive(day / name), open_drive(copy))


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "2011_09_26" / "2011_09_26_drive_0001_sync"
    write_calibration(path.parent)
    write_scan(path, 1, [[10.0, 2, 1, 0.5], [11, 2, 1, 0.5]])
    for name in ("timestamps", "timestamps_start", "timestamps_end"):
        write_stamps(path / f"velodyne_points/{name}.txt", tenths(4))
    write_labels(path / "velodyne_points/labels/0000000001.label", [50, 40])
    write_oxts(path, circle(4, 20.0, 1.0), tenths(4))
    return path


FILES = (
    "velodyne_points/timestamps.txt",
    "velodyne_points/timestamps_start.txt",
    "velodyne_points/timestamps_end.txt",
    "velodyne_points/data/0000000001.bin",
    "velodyne_points/labels/0000000001.label",
    "oxts/timestamps.txt",
    "oxts/data/0000000002.txt",
    "../calib_imu_to_velo.txt",
)


@often
@given(choices=st.data())
def test_damage_is_an_error_or_a_sound_drive(sound: Path, choices: st.DataObject) -> None:
    file = sound / choices.draw(st.sampled_from(FILES))
    read = read_damaged(sound, file, choices)
    if read is None:
        return
    opened, block = read
    assert block.seconds is not None
    assert block.label is not None
    assert np.abs(block.seconds).max(initial=0) <= 0.1001
    assert opened.odometry is not None


# --- the real drive ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(data_dir: Path) -> Drive:
    return open_drive(data_dir / "kitti_raw/2011_09_26/2011_09_26_drive_0005_sync")


def grid(truth: TruthTrack) -> tuple[np.ndarray, np.ndarray]:
    """(N, 2) positions in UTM and (N,) meridian convergence."""
    projection = Projection(utm_crs(*KARLSRUHE))
    return (
        projection.forward(truth.latitude, truth.longitude),
        projection.convergence(truth.latitude, truth.longitude),
    )


@pytest.mark.realdata
def test_every_second_real_scan_keeps_its_own_time(real: Drive) -> None:
    assert len(real.scans.t_ns) == 77
    assert real.scans.t_ns[0] == 1317042272335337762
    assert np.allclose(np.diff(real.scans.t_ns) / 1e9, 0.2066, atol=0.002)


@pytest.mark.realdata
def test_the_real_ground_lies_under_the_imu(real: Drive) -> None:
    block = real.scans.read(0, 10)
    assert len(block.points) > 1_000_000
    near = np.linalg.norm(block.points[:, :2], axis=1) < 12
    heights, edges = np.histogram(block.points[near, 2], bins=np.arange(-3, 3, 0.1))
    # The Velodyne, 1.73 m above the ground, is 0.8 m above the IMU.
    assert edges[heights.argmax()] == pytest.approx(-0.93, abs=0.15)


@pytest.mark.realdata
def test_real_heading_points_along_the_motion_on_the_grid(real: Drive) -> None:
    assert real.truth is not None
    places, convergence = grid(real.truth)
    assert np.degrees(convergence) == pytest.approx(-0.435, abs=0.01)
    step = places[20:] - places[:-20]
    course = np.arctan2(step[:, 1], step[:, 0])
    off = np.degrees(wrap_angle(course - (real.truth.heading + convergence)[10:-10]))
    assert abs(np.median(off)) < 1.5


@pytest.mark.realdata
def test_real_odometry_has_the_shape_of_the_oxts_positions(real: Drive) -> None:
    assert real.truth is not None
    assert real.odometry is not None
    places, convergence = grid(real.truth)
    path = real.odometry.poses[:, :2, 3]
    assert real.odometry.travelled()[-1] == pytest.approx(69.4, rel=0.04)
    # The best rigid fit, by the angle that maximises the correlation of the two paths.
    a, b = path - path.mean(0), places - places.mean(0)
    cross = a.T @ b
    angle = math.atan2(cross[0, 1] - cross[1, 0], cross[0, 0] + cross[1, 1])
    c, s = math.cos(angle), math.sin(angle)
    rms = float(np.sqrt((((a @ [[c, s], [-s, c]]) - b) ** 2).sum(axis=1).mean()))
    assert rms < 1.0
    assert math.degrees(angle) == pytest.approx(
        math.degrees(real.truth.heading[0] + convergence[0]), abs=1.5
    )


@pytest.mark.realdata
def test_the_leftward_velocity_of_oxts_points_right(data_dir: Path, real: Drive) -> None:
    """The reader ignores it, because it contradicts the other velocities and the positions."""
    assert real.truth is not None
    folder = data_dir / "kitti_raw/2011_09_26/2011_09_26_drive_0005_sync/oxts/data"
    rows = np.array([file.read_text("ascii").split() for file in sorted(folder.iterdir())], float)
    yaw, north, east, in_file = rows[:, 5], rows[:, 6], rows[:, 7], rows[:, 9]
    left = north * np.cos(yaw) - east * np.sin(yaw)
    assert np.corrcoef(left, in_file)[0, 1] < -0.9
    places, convergence = grid(real.truth)
    velocity = np.gradient(places, (real.truth.t_ns - real.truth.t_ns[0]) / 1e9, axis=0)
    heading = real.truth.heading + convergence
    seen = velocity[:, 1] * np.cos(heading) - velocity[:, 0] * np.sin(heading)
    assert np.abs(seen + in_file)[5:-5].mean() < np.abs(seen - in_file)[5:-5].mean()


@dataclass(frozen=True)
class Signed:
    """Scans whose points' times are multiplied by ``sign``."""

    source: ScanSource
    sign: float

    @property
    def t_ns(self) -> Times:
        return self.source.t_ns

    @property
    def sensors(self) -> tuple[str, ...]:
        return self.source.sensors

    def read(self, start: int, stop: int) -> ScanBlock:
        block = self.source.read(start, stop)
        assert block.seconds is not None
        return replace(block, seconds=np.float32(self.sign) * block.seconds)


@pytest.mark.realdata
def test_real_scans_agree_best_when_motion_compensated(real: Drive) -> None:
    """Pairs of scans 2.5 s apart, registered, confirm the direction of the turn."""

    def cloud(scan: int, sign: float) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
        drive = replace(real, scans=Signed(real.scans, sign))
        submap = build_submap(
            drive,
            plan_queries(drive, Queries(submap_m=0, every_m=0)),
            scan,
            Queries(submap_m=0),
            SubmapSettings(),
        )
        away = np.linalg.norm(submap.points - submap.origin[0], axis=1)
        points = submap.points[(away > 5) & (away < 40) & (submap.points[:, 2] > -0.2)]
        return small_gicp.preprocess_points(points.astype(float), 0.2, 12)

    def apart(first: int, second: int, sign: float) -> float:
        """Median distance of points of the second scan from planes of the first."""
        (here, tree), (there, _) = cloud(first, sign), cloud(second, sign)
        assert real.odometry is not None
        poses = real.odometry.at(real.scans.t_ns[[first, second]])
        fit = small_gicp.align(
            here, there, tree, se3_inverse(poses[0]) @ poses[1], "PLANE_ICP", 0.6, 1, 40
        )
        moved = there.points() @ fit.T_target_source.T
        distance, index = cKDTree(here.points()[:, :3]).query(moved[:, :3])
        close = distance < 0.5
        gap = moved[close] - here.points()[index[close]]
        return float(np.median(np.abs((gap * here.normals()[index[close]]).sum(axis=1))))

    for scan in (18, 32, 60):
        undone, as_is, twice = (apart(scan, scan + 12, sign) for sign in (1, 0, -1))
        assert undone < 0.85 * as_is
        assert undone < 0.75 * twice
