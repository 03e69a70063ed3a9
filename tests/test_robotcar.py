from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_robotcar import (
    INS_HEADER,
    NO_LEVER,
    START,
    TO_UTM,
    VO_HEADER,
    Fix,
    euler,
    left_circle,
    ned_pose,
    write_csv,
    write_extrinsics,
    write_ins,
    write_list,
    write_rtk,
    write_scan,
    write_vo,
)
from reader_checks import check_same_but_truth, often, read_damaged

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Projection, utm_crs, wrap_angle
from data_prep.sources import open_drive
from data_prep.sources.formats.robotcar_tables import (
    EXTRINSICS,
    find_extrinsics,
    read_extrinsics,
    read_gps,
    read_timestamps,
)
from data_prep.sources.robotcar import LMS


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one scan and no lever arm."""
    path = tmp_path / "runs" / "2014-06-26-09-24-58"
    write_scan(path, "lms_front", START, [[5.0, 1.0, 80.0]])
    write_list(path, "lms_front", [START])
    write_extrinsics(path / "extrinsics", "ins", NO_LEVER)
    return path


def to_vehicle(sensor: str, points: object) -> np.ndarray:
    """Sensor frame -> x forward, y left, z up, by the published extrinsics."""
    x, y, z, roll, pitch, yaw = EXTRINSICS[sensor]
    in_ned = np.asarray(points, float) @ euler(roll, pitch, yaw).T + [x, y, z]
    return in_ned * [1, -1, -1]


# --- scans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 37, 540, 541, 542])
@pytest.mark.parametrize("sensor", ["lms_front", "lms_rear"])
def test_lms_files_are_triples_of_x_y_reflectance(tmp_path: Path, sensor: str, count: int) -> None:
    rng = np.random.default_rng(count)
    rows = rng.uniform(1, 50, size=(count, 3))
    rows[:, 2] = rng.uniform(0, 1000, size=count)  # a reflectance: no z
    write_scan(tmp_path, sensor, START, rows)
    block = open_drive(tmp_path).scans.read(0, 1)
    expected = to_vehicle(sensor, np.column_stack([rows[:, :2], np.zeros(count)]))
    assert block.points.shape == (count, 3)
    assert block.points.dtype == np.float32
    assert np.allclose(block.points, expected, atol=1e-4)
    assert block.scan.tolist() == [0] * count


@pytest.mark.parametrize(("sensor", "right"), [("lms_front", -1.0), ("lms_rear", 1.0)])
def test_the_scan_plane_of_both_lms_is_vertical(tmp_path: Path, sensor: str, right: float) -> None:
    write_scan(tmp_path, sensor, START, [[10.0, 0.0, 9.0], [0.0, 10.0, 9.0]])
    block = open_drive(tmp_path).scans.read(0, 1)
    down, across = (block.points - block.origin[0]) / 10
    assert down[2] < -0.99  # the laser's x axis points to the ground
    assert across[1] == pytest.approx(right, abs=0.07)  # y: right in front, left at the rear
    normal = np.cross(down, across)
    assert abs(normal[0]) > 0.93  # the plane is across the track (push-broom)


def test_ldmrs_files_are_points_in_space(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-20, 20, size=(11, 3))
    write_scan(tmp_path, "ldmrs", START, rows)
    drive = open_drive(tmp_path)
    assert drive.scans.sensors == ("ldmrs",)
    assert np.allclose(drive.scans.read(0, 1).points, to_vehicle("ldmrs", rows), atol=1e-4)
    ahead = find_extrinsics(tmp_path, "ldmrs")[:3, :3] @ [1, 0, 0]
    assert math.degrees(math.asin(ahead[2])) == pytest.approx(4.4, abs=0.05)  # tilted up


def test_velodyne_files_are_four_blocks_of_columns(tmp_path: Path) -> None:
    x, y, z, intensity = [1.0, 2, 3], [10.0, 20, 30], [0.1, 0.2, 0.3], [7.0, 8, 9]
    write_scan(tmp_path, "velodyne_left", START, [*x, *y, *z, *intensity], "<f4")
    block = open_drive(tmp_path).scans.read(0, 1)
    expected = to_vehicle("velodyne_left", np.column_stack([x, y, z]))
    assert np.allclose(block.points, expected, atol=1e-4)
    forward = find_extrinsics(tmp_path, "velodyne_left")[:3, :3] @ [-1, 0, 0]
    assert forward[0] > 0.99  # the sensor's x axis points backward


def test_invalid_points_are_removed(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    first = [[nan, 1, 1], [5, 1, 1], [0, 0, 3]]  # the last: no return
    second = [[2, -inf, 1], [inf, 1, 1]]
    third = [[6, 2, nan], [0, 3, 1]]  # a reflectance may have any value
    for i, rows in enumerate([first, second, third]):
        write_scan(tmp_path, "lms_front", START + i, rows)
    block = open_drive(tmp_path).scans.read(0, 3)
    assert block.scan.tolist() == [0, 2, 2]
    assert np.allclose(block.points, to_vehicle("lms_front", [[5, 1, 0], [6, 2, 0], [0, 3, 0]]))
    assert len(block.t_ns) == len(block.origin) == 3


def test_empty_scans_are_scans(tmp_path: Path) -> None:
    for sensor in ("lms_front", "velodyne_left", "ldmrs"):
        write_scan(tmp_path, sensor, START, [])
        block = open_drive(tmp_path, sensors=(sensor,)).scans.read(0, 1)
        assert block.points.shape == (0, 3)
        assert block.points.dtype == np.float32
        assert len(block.t_ns) == 1


@pytest.mark.parametrize("sensor", ["lms_front", "ldmrs", "velodyne_left"])
@pytest.mark.parametrize("cut", [1, 4, 8])
def test_a_scan_cut_short_names_its_file(tmp_path: Path, sensor: str, cut: int) -> None:
    dtype = "<f4" if sensor == "velodyne_left" else "<f8"
    file = write_scan(tmp_path, sensor, START, np.ones((12, 4 if dtype == "<f4" else 3)), dtype)
    file.write_bytes(file.read_bytes()[:-cut])
    drive = open_drive(tmp_path)
    with pytest.raises(MaptileError, match=f"{file}: .*cut short"):
        drive.scans.read(0, 1)


def test_a_scan_deleted_after_opening_names_its_file(run: Path) -> None:
    drive = open_drive(run)
    (run / "lms_front" / f"{START}.bin").unlink()
    with pytest.raises(MaptileError, match=f"{START}.bin: cannot read"):
        drive.scans.read(0, 1)


def test_scans_of_several_sensors_are_merged_by_time(tmp_path: Path) -> None:
    for i in range(4):
        write_scan(tmp_path, "lms_front", START + 20_000 * i, [[10.0 + i, 1, 5]] * (i + 1))
        write_scan(tmp_path, "lms_rear", START + 20_000 * i + 7_000, [[20.0 + i, 2, 5]])
    drive = open_drive(tmp_path)
    assert drive.scans.sensors == ("lms_front", "lms_rear")
    assert (np.diff(drive.scans.t_ns) > 0).all()
    assert (drive.scans.t_ns % 1000 == 0).all()
    whole = drive.scans.read(0, 8)
    assert whole.scan.tolist() == [0, 1, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 6, 7]
    for i in range(8):
        name, sign = ("lms_rear", 20) if i % 2 else ("lms_front", 10)
        expected = to_vehicle(name, [[sign + i // 2, 2 if i % 2 else 1, 0]])
        assert np.allclose(whole.points[whole.scan == i], expected, atol=1e-4)
        assert np.allclose(whole.origin[i], to_vehicle(name, [[0, 0, 0]]), atol=1e-6)
    # Blocks of any size hold the same points.
    parts = [drive.scans.read(a, b) for a, b in ((0, 3), (3, 3), (3, 8))]
    assert np.array_equal(np.concatenate([part.points for part in parts]), whole.points)
    assert np.array_equal(np.concatenate([part.t_ns for part in parts]), whole.t_ns)


def test_sensors_can_be_chosen(tmp_path: Path) -> None:
    for sensor in ("lms_front", "lms_rear", "ldmrs"):
        write_scan(tmp_path, sensor, START, [[5.0, 1.0, 1.0]])
    write_scan(tmp_path, "velodyne_left", START, [1.0, 2, 3, 4], "<f4")
    assert open_drive(tmp_path).scans.sensors == ("lms_front", "lms_rear")
    chosen = open_drive(tmp_path, sensors=("velodyne_left", "lms_rear", "lms_rear")).scans
    assert chosen.sensors == ("velodyne_left", "lms_rear")
    block = chosen.read(0, 2)
    expected = [*to_vehicle("velodyne_left", [[1, 2, 3]]), *to_vehicle("lms_rear", [[5, 1, 0]])]
    assert np.allclose(block.points, expected, atol=1e-5)
    with pytest.raises(MaptileError, match="no sensor radar; choose from lms_front"):
        open_drive(tmp_path, sensors=("radar",))
    with pytest.raises(MaptileError, match="no folder velodyne_right"):
        open_drive(tmp_path, sensors=("velodyne_right",))


def test_default_sensors_without_lms(tmp_path: Path) -> None:
    write_scan(tmp_path, "ldmrs", START, [[5.0, 1.0, 1.0]])
    for sensor in ("velodyne_left", "velodyne_right"):
        write_scan(tmp_path, sensor, START, [1.0, 2, 3, 4], "<f4")
    assert open_drive(tmp_path).scans.sensors == ("velodyne_left", "velodyne_right")


def test_missing_and_unlisted_scans_are_noted(run: Path) -> None:
    write_scan(run, "lms_front", START + 40_000, [[5.0, 1.0, 1.0]])
    write_scan(run, "lms_front", START + 60_000, [[6.0, 1.0, 1.0]])
    (run / "lms_front" / f"._{START}.bin").write_bytes(b"of another system")
    (run / "lms_front" / "notes.txt").write_text("no scan")
    write_list(run, "lms_front", [START, START + 20_000, START + 40_000], end="")
    drive = open_drive(run)
    assert ((drive.scans.t_ns // 1000 - START) // 20_000).tolist() == [0, 2, 3]
    assert any("1 of the 3 scans listed are missing" in note for note in drive.notes)
    assert any("lms_front.timestamps does not list" in note for note in drive.notes)


def test_a_run_without_its_list_of_scans_still_opens(run: Path) -> None:
    (run / "lms_front.timestamps").unlink()
    drive = open_drive(run)
    assert drive.scans.t_ns.tolist() == [START * 1000]
    assert any("no lms_front.timestamps" in note for note in drive.notes)


def test_a_folder_without_scans_is_an_error(run: Path) -> None:
    (run / "lms_front" / f"{START}.bin").unlink()
    with pytest.raises(MaptileError, match="no scan"):
        open_drive(run)


def test_the_last_time_stamp_may_lack_its_newline(tmp_path: Path) -> None:
    file = tmp_path / "stereo.timestamps"
    file.write_text("1403774724292807 1\n1403774724355299 1\n1403774724417791 2", "ascii")
    assert read_timestamps(file).tolist() == [
        1403774724292807000,
        1403774724355299000,
        1403774724417791000,
    ]


@pytest.mark.parametrize("content", [b"yesterday 1\n", b"\xff\n", b"1403774724292807123 1\n"])
def test_a_damaged_list_of_scans_is_one_clear_line(run: Path, content: bytes) -> None:
    (run / "lms_front.timestamps").write_bytes(content)
    with pytest.raises(MaptileError, match=r"lms_front\.timestamps: .*microseconds"):
        open_drive(run)


# --- extrinsics ----------------------------------------------------------------------------------


def test_extrinsics_are_looked_for_in_the_run_then_beside_it_then_built_in(run: Path) -> None:
    def origin() -> list[float]:
        return open_drive(run).scans.read(0, 1).origin[0].round(4).tolist()

    assert origin() == pytest.approx([1.7589, -0.2268, -1.0411])
    write_extrinsics(run.parent / "extrinsics", "lms_front", "1 2 3 0 0 0")  # no newline
    assert origin() == [1, -2, -3]
    write_extrinsics(run / "extrinsics", "lms_front", "4 5 6 0 0 0\n")
    assert origin() == [4, -5, -6]


@pytest.mark.parametrize("content", ["", "1 2 3", "1 2 3 4 5 six", "1 2 3 4 5 nan"])
def test_damaged_extrinsics_are_one_clear_line(run: Path, content: str) -> None:
    write_extrinsics(run / "extrinsics", "lms_front", content)
    with pytest.raises(MaptileError, match=r"lms_front\.txt: expected the six numbers"):
        open_drive(run)


@pytest.mark.realdata
def test_the_built_in_extrinsics_are_the_data_sets(data_dir: Path) -> None:
    for sensor in EXTRINSICS:
        published = read_extrinsics(data_dir / "robotcar" / "extrinsics" / f"{sensor}.txt")
        assert np.array_equal(published, find_extrinsics(Path("/nowhere/at/all"), sensor))


# --- odometry ------------------------------------------------------------------------------------


def flu(pose: np.ndarray) -> np.ndarray:
    turn = np.diag([1.0, -1, -1, 1])
    return turn @ pose @ turn


def test_the_source_column_of_vo_is_the_newer_frame(run: Path) -> None:
    us = [START + 62_500 * i for i in range(100)]
    poses = [left_circle(0.02 * i, 20.0) for i in range(100)]
    write_vo(run, us, poses)
    track = open_drive(run).odometry
    assert track is not None
    assert track.t_ns.tolist() == [t * 1000 for t in us]
    assert np.allclose(track.poses, [flu(pose) for pose in poses], atol=1e-9)
    assert track.poses[-1, 1, 3] > 20  # to the left is +y, and ahead was +x
    assert track.segment.tolist() == [0] * 100
    assert track.travelled()[-1] == pytest.approx(99 * 2 * 20 * math.sin(0.01))


def test_rows_may_come_in_any_order_and_twice(run: Path) -> None:
    us = [START + 62_500 * i for i in range(50)]
    poses = [left_circle(0.02 * i, 20.0) for i in range(50)]
    order = [*np.random.default_rng(0).permutation(49).tolist(), 3, 17]
    write_vo(run, us, poses, keep=order)
    track = open_drive(run).odometry
    assert track is not None
    assert np.allclose(track.poses, [flu(pose) for pose in poses], atol=1e-9)


def test_rows_that_overlap_are_not_counted_twice(run: Path) -> None:
    rows = [
        [START + 100, START, 1, 0, 0, 0, 0, 0],
        [START + 150, START + 50, 1, 0, 0, 0, 0, 0],
        [START + 200, START + 100, 1, 0, 0, 0, 0, 0],
    ]
    write_csv(run / "vo/vo.csv", VO_HEADER, rows)
    track = open_drive(run).odometry
    assert track is not None
    assert track.travelled()[-1] == 2
    assert (np.diff(track.t_ns) > 0).all()


def test_a_short_gap_is_bridged_at_the_speed_beside_it(run: Path) -> None:
    us = [START + 62_500 * i for i in range(100)]
    poses = [left_circle(0.01 * i, 30.0) for i in range(100)]
    write_vo(run, us, poses, keep=[i for i in range(99) if not 40 <= i < 56])  # one second
    drive = open_drive(run)
    track = drive.odometry
    assert track is not None
    assert track.segment.max() == 0
    assert any("1 gaps of up to 2 s bridged" in note for note in drive.notes)
    expected = dict(zip([t * 1000 for t in us], [flu(pose) for pose in poses], strict=True))
    got = np.stack([expected[t] for t in track.t_ns.tolist()])
    # 0.16 rad on a circle of 30 m: the chord is 2 cm shorter than the arc at 0.4 %.
    assert np.abs(track.poses - got).max() < 0.03
    assert np.allclose(track.poses[:41], got[:41], atol=1e-9)


def test_after_a_long_gap_a_new_segment_begins(run: Path) -> None:
    us = [START + 62_500 * i for i in range(200)]
    poses = [ned_pose(0.5 * i, 0, 0) for i in range(200)]
    write_vo(run, us, poses, keep=[i for i in range(199) if not 100 <= i < 140])  # 2.5 s
    drive = open_drive(run)
    track = drive.odometry
    assert track is not None
    assert track.segment.tolist() == [0] * 101 + [1] * 60
    assert track.travelled()[-1] == pytest.approx(0.5 * (100 + 59))
    in_gap = np.array([START + 62_500 * 120], np.int64) * 1000
    assert track.segment_at(in_gap).tolist() == [-1]
    assert any("odometry has 2 segments" in note for note in drive.notes)


def test_a_jump_sideways_is_left_out(run: Path) -> None:
    us = [START + 62_500 * i for i in range(40)]
    poses = [ned_pose(0.5 * i, 0.45 if i >= 20 else 0.0, 0) for i in range(40)]  # 7 m/s
    write_vo(run, us, poses)
    drive = open_drive(run)
    assert drive.odometry is not None
    assert np.allclose(drive.odometry.poses[:, 0, 3], 0.5 * np.arange(40), atol=1e-6)
    assert np.abs(drive.odometry.poses[:, 1, 3]).max() < 1e-6
    assert any("1 row with a jump sideways" in note for note in drive.notes)


def test_a_vehicle_that_only_goes_sideways_is_refused(run: Path) -> None:
    us = [START + 62_500 * i for i in range(10)]
    write_vo(run, us, [ned_pose(0, 0.5 * i, 0) for i in range(10)])
    with pytest.raises(MaptileError, match=r"vo\.csv: every row jumps sideways"):
        open_drive(run)


def test_a_vehicle_that_stands_still_goes_nowhere(run: Path) -> None:
    us = [START + 62_500 * i for i in range(30)]
    write_vo(run, us, [np.eye(4)] * 30)
    track = open_drive(run).odometry
    assert track is not None
    assert np.array_equal(track.poses, np.tile(np.eye(4), (30, 1, 1)))
    assert track.travelled().tolist() == [0] * 30


def test_standing_for_a_while_changes_nothing(run: Path) -> None:
    def position(i: int) -> float:
        return 0.5 * min(i, 50) + 0.5 * max(i - 500, 0)

    us = [START + 62_500 * i for i in range(600)]
    write_vo(run, us, [ned_pose(position(i), 0, 0, pitch=-0.05) for i in range(600)])
    track = open_drive(run).odometry
    assert track is not None
    assert np.allclose(track.poses[:, 0, 3], [position(i) for i in range(600)], atol=1e-6)
    assert np.abs(track.poses[:, 1:3, 3]).max() < 1e-6


@pytest.mark.parametrize("pitch", [-0.055, 0.03])
def test_the_cameras_tilt_is_found_and_z_is_up(run: Path, pitch: float) -> None:
    us = [START + 62_500 * i for i in range(400)]
    poses = [left_circle(0.01 * i, 40.0, pitch=pitch) for i in range(400)]
    write_vo(run, us, poses)
    track = open_drive(run).odometry
    assert track is not None
    assert np.allclose(track.poses, [flu(pose) for pose in poses], atol=1e-3)


def test_attitude_does_not_drift_away(run: Path) -> None:
    """A steady error of 0.01 degrees per frame in roll and pitch: 20 degrees in 2000 frames."""
    motion = ned_pose(0.5, 0.0, 0.002)
    motion[:3, :3] = motion[:3, :3] @ euler(math.radians(0.01), math.radians(-0.01), 0)
    us, poses = [START], [np.eye(4)]
    for _ in range(2000):
        us.append(us[-1] + 62_500)
        poses.append(poses[-1] @ motion)
    raw_tilt = math.degrees(max(math.acos(pose[2, 2]) for pose in poses))
    assert raw_tilt > 5
    write_vo(run, us, poses)
    track = open_drive(run).odometry
    assert track is not None
    tilt = np.degrees(np.arccos(np.clip(track.poses[:, 2, 2], -1, 1)))
    assert tilt.max() < 1.0
    turned = np.unwrap(np.arctan2(track.poses[:, 1, 0], track.poses[:, 0, 0]))
    assert turned[-1] == pytest.approx(-0.002 * 2000, abs=0.05)  # the yaw is unchanged


def test_a_bump_shows_in_the_attitude(run: Path) -> None:
    us = [START + 62_500 * i for i in range(200)]
    nods = [0.03 * math.sin(math.pi * (i - 100) / 5) if 100 <= i < 110 else 0.0 for i in range(200)]
    poses = [ned_pose(0.4 * i, 0, 0, pitch=nod) for i, nod in enumerate(nods)]
    write_vo(run, us, poses)
    track = open_drive(run).odometry
    assert track is not None
    up_down = np.arcsin(track.poses[:, 2, 0])  # of the x axis, upwards
    assert np.allclose(up_down, nods, atol=0.005)


def test_vo_in_the_wrong_direction_of_time_is_refused(run: Path) -> None:
    write_csv(run / "vo/vo.csv", VO_HEADER, [[START, START + 62_500, 1, 0, 0, 0, 0, 0]])
    with pytest.raises(MaptileError, match=r"vo\.csv: no row whose source frame is the newer one"):
        open_drive(run)


def test_without_vo_there_is_no_odometry(run: Path) -> None:
    drive = open_drive(run)
    assert drive.odometry is None
    assert drive.heading is None
    assert drive.truth is None
    assert any("no odometry" in note for note in drive.notes)


def test_time_stamps_in_another_unit_are_refused(run: Path) -> None:
    row = [START * 1000 + 62_500_000, START * 1000, 1, 0, 0, 0, 0, 0]
    write_csv(run / "vo/vo.csv", VO_HEADER, [row])
    with pytest.raises(MaptileError, match=r"vo\.csv: the time stamps are not in microseconds"):
        open_drive(run)


# --- heading and truth ---------------------------------------------------------------------------

OXFORD = (51.7600, -1.2600)
LEVER = "-1.7132 0.1181 1.1948 0 0 0"


def ahead_and_left(yaw: float, truth: tuple[float, float], ins: tuple[float, float]) -> list[float]:
    """Metres from the INS to the truth, along and to the left of a yaw clockwise from north."""
    azimuth, _, distance = pyproj.Geod(ellps="WGS84").inv(ins[1], ins[0], truth[1], truth[0])
    off = math.radians(azimuth) - yaw
    return [distance * math.cos(off), -distance * math.sin(off)]


@pytest.mark.parametrize("yaw_deg", [0, 37, 90, 200, 359])
def test_truth_is_transformed_to_the_vehicle_frame(run: Path, yaw_deg: float) -> None:
    write_extrinsics(run / "extrinsics", "ins", LEVER)
    yaw = math.radians(yaw_deg)
    write_ins(run, [Fix(START + 20_000 * i, *OXFORD, yaw=yaw) for i in range(3)])
    truth = open_drive(run).truth
    assert truth is not None
    # The INS is 1.71 m behind the camera and 0.12 m right of it.
    place = (truth.latitude[0], truth.longitude[0])
    assert ahead_and_left(yaw, place, OXFORD) == pytest.approx([1.7132, 0.1181], abs=1e-3)
    assert np.degrees(truth.heading) == pytest.approx(
        float(wrap_angle(math.radians(90 - yaw_deg))) * 180 / math.pi
    )


@pytest.mark.parametrize(("roll", "pitch"), [(0.08, 0.0), (0.0, 0.06), (-0.05, 0.04)])
def test_the_lever_arm_leans_with_the_vehicle(run: Path, roll: float, pitch: float) -> None:
    write_extrinsics(run / "extrinsics", "ins", LEVER)
    write_ins(run, [Fix(START, *OXFORD, yaw=1.0, roll=roll, pitch=pitch)])
    truth = open_drive(run).truth
    assert truth is not None
    level = euler(roll, pitch, 0) @ [1.7132, -0.1181, -1.1948]
    place = (truth.latitude[0], truth.longitude[0])
    assert ahead_and_left(1.0, place, OXFORD) == pytest.approx([level[0], -level[1]], abs=1e-3)


def test_the_mounting_yaw_of_the_ins_is_compensated(run: Path) -> None:
    write_extrinsics(run / "extrinsics", "ins", "0 0 0 0 0 0.3")
    write_ins(run, [Fix(START, *OXFORD, yaw=1.0)])
    drive = open_drive(run)
    assert drive.heading is not None
    assert drive.heading.heading[0] == pytest.approx(math.pi / 2 - (1.0 - 0.3))


def test_truth_is_finer_than_the_six_decimals_of_latitude(run: Path) -> None:
    fixes = [Fix(START + i, 51.76 + 1.3e-7 * i, -1.26 - 2.1e-7 * i) for i in range(20)]
    write_ins(run, fixes)
    truth = open_drive(run).truth
    assert truth is not None
    assert np.allclose(truth.latitude, [fix.latitude for fix in fixes], atol=1e-9)
    assert np.allclose(truth.longitude, [fix.longitude for fix in fixes], atol=1e-9)


@pytest.mark.parametrize(("zone", "swap"), [("30U", True), ("??", False), ("29U", False)])
def test_contradicting_utm_columns_are_ignored(run: Path, zone: str, swap: bool) -> None:
    row = Fix(START, 51.765474, -1.258766).row(True)
    row[8] = zone
    if swap:
        row[5], row[6] = row[6], row[5]
    write_csv(run / "gps/ins.csv", INS_HEADER, [row])
    truth = open_drive(run).truth
    assert truth is not None
    assert truth.latitude[0] == pytest.approx(51.765474, abs=1e-6)
    assert truth.longitude[0] == pytest.approx(-1.258766, abs=1e-6)


def test_doubtful_ins_rows_are_no_truth_but_keep_their_heading(run: Path) -> None:
    statuses = [
        "INS_ALIGNING",
        "INS_SOLUTION_GOOD",
        "INS_BAD_GPS_AGREEMENT",
        "INS_SOLUTION_GOOD",
        "INS_INACTIVE",
    ]
    write_ins(run, [Fix(START + i, *OXFORD, yaw=0.1 * i, status=s) for i, s in enumerate(statuses)])
    drive = open_drive(run)
    assert drive.truth is not None
    assert drive.heading is not None
    assert (drive.truth.t_ns // 1000 - START).tolist() == [1, 3]
    assert (drive.heading.t_ns // 1000 - START).tolist() == [1, 2, 3]
    assert any("60.0% of the INS rows" in note for note in drive.notes)


def test_an_ins_without_good_rows_gives_no_truth(run: Path) -> None:
    write_ins(run, [Fix(START + i, *OXFORD, status="INS_INACTIVE") for i in range(3)])
    drive = open_drive(run)
    assert drive.truth is None
    assert drive.heading is None


def test_repeated_ins_rows_are_left_out_and_backward_ones_sorted(run: Path) -> None:
    write_ins(run, [Fix(START + us, *OXFORD) for us in (0, 20_000, 20_000, 10_000, 30_000)])
    drive = open_drive(run)
    assert drive.truth is not None
    assert (drive.truth.t_ns // 1000 - START).tolist() == [0, 10_000, 20_000, 30_000]
    assert "ins.csv: 1 of 5 rows have a wrong or double time stamp; left out" in drive.notes


def moving_east(count: int, yaw_off: float = 0.0) -> list[Fix]:
    """5 m/s to the east, at 10 Hz."""
    return [
        Fix(START + 100_000 * i, OXFORD[0], OXFORD[1] + 0.5 * i / 68_900, yaw=math.pi / 2 + yaw_off)
        for i in range(count)
    ]


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_rtk_yaw_is_turned_to_agree_with_the_motion(run: Path, quarter: int) -> None:
    write_extrinsics(run / "extrinsics", "ins", LEVER)
    write_rtk(run, moving_east(100, yaw_off=0.01 - quarter * math.pi / 2))  # 3: as released
    drive = open_drive(run)
    assert drive.truth is not None
    assert drive.heading is not None
    assert np.allclose(drive.truth.heading, -0.01, atol=1e-9)  # east, and a hair to the right
    assert np.allclose(drive.heading.heading, -0.01, atol=1e-9)
    place = (drive.truth.latitude[0], drive.truth.longitude[0])
    assert ahead_and_left(math.pi / 2 + 0.01, place, OXFORD) == pytest.approx(
        [1.7132, 0.1181], abs=1e-3
    )
    assert any("rtk.csv: yaw" in note for note in drive.notes) == (quarter > 0)


def test_rtk_is_the_truth_and_ins_the_heading_where_both_are_there(run: Path) -> None:
    write_rtk(run, moving_east(100, yaw_off=-3 * math.pi / 2))
    shifted = [
        Fix(fix.us, fix.latitude + 1e-4, fix.longitude, yaw=fix.yaw + 0.02)
        for fix in moving_east(100)
    ]
    write_ins(run, shifted)
    drive = open_drive(run)
    assert drive.truth is not None
    assert drive.heading is not None
    assert np.allclose(drive.truth.latitude, OXFORD[0], atol=1e-8)
    assert np.allclose(drive.heading.heading, -0.02)


@pytest.mark.parametrize("with_ins", [True, False])
def test_rtk_yaw_of_a_vehicle_that_stands_still(run: Path, with_ins: bool) -> None:
    write_rtk(run, [Fix(START + 100_000 * i, *OXFORD, yaw=1.0 + math.pi / 2) for i in range(50)])
    if with_ins:
        write_ins(run, [Fix(START + 100_000 * i, *OXFORD, yaw=1.05) for i in range(50)])
    drive = open_drive(run)
    assert drive.truth is not None
    yaw = 1.0 if with_ins else 1.0 + math.pi / 2
    assert np.allclose(drive.truth.heading, math.pi / 2 - yaw)
    assert any("could not be checked" in note for note in drive.notes) != with_ins


def test_ins_without_a_column_says_which(run: Path) -> None:
    write_csv(
        run / "gps/ins.csv", INS_HEADER.replace(",yaw", ""), [Fix(START, *OXFORD).row(True)[:-1]]
    )
    with pytest.raises(MaptileError, match=r"ins\.csv: no column yaw"):
        open_drive(run)


def test_an_ins_file_cut_in_the_middle_of_a_row_is_read_up_to_there(run: Path) -> None:
    write_ins(run, [Fix(START + i, *OXFORD) for i in range(5)])
    file = run / "gps/ins.csv"
    file.write_text(file.read_text("ascii")[:-60], "ascii")
    truth = open_drive(run).truth
    assert truth is not None
    assert len(truth.t_ns) == 4


def test_gps_rows(run: Path) -> None:
    header = (
        "timestamp,num_satellites,latitude,longitude,altitude,latitude_sigma,longitude_sigma,"
        "altitude_sigma,northing,easting,down,utm_zone"
    )
    row = (
        "1403537850806646,5,51.765478,-1.258754,65.598900,2.689300,1.923900,6.050300,"
        "5736388.874728,620156.814550,-65.598900,30U"
    )
    write_csv(run / "gps/gps.csv", header, [row.split(",")])
    gps = read_gps(run / "gps/gps.csv")
    assert gps.t_ns.tolist() == [1403537850806646000]
    assert gps.sigma.tolist() == [[2.6893, 1.9239, 6.0503]]
    assert TO_UTM.transform(gps.longitude[0], gps.latitude[0]) == pytest.approx(
        (620156.814550, 5736388.874728), abs=1e-3
    )


# --- truth stays out -----------------------------------------------------------------------------


def test_moving_the_truth_away_changes_nothing_else(run: Path) -> None:
    us = [START + 62_500 * i for i in range(100)]
    write_vo(run, us, [left_circle(0.01 * i, 50.0, pitch=-0.05) for i in range(100)])
    near = moving_east(100)
    far = [Fix(f.us, f.latitude - 3.0, f.longitude + 0.8, yaw=f.yaw) for f in near]
    other = run.parent / "other"
    shutil.copytree(run, other)
    for path, fixes in ((run, near), (other, far)):
        write_ins(path, fixes)
        write_rtk(path, fixes)
    check_same_but_truth(open_drive(run), open_drive(other))


@pytest.mark.realdata
def test_moving_the_real_truth_away_changes_nothing_else(data_dir: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "here", tmp_path / "there"]
    for path in paths:
        shutil.copytree(data_dir / "robotcar" / "2014-06-26-09-24-58", path)
        write_scan(path, "lms_front", START, [[5.0, 1.0, 3.0]])

    def moved(line: str) -> str:
        words = line.split(",")
        words[2], words[3] = f"{float(words[2]) - 2:.6f}", f"{float(words[3]) - 0.5:.6f}"
        words[5], words[6] = f"{float(words[5]) - 222_000:.6f}", f"{float(words[6]) - 35_000:.6f}"
        return ",".join(words)

    for name in ("ins", "gps"):
        file = paths[1] / "gps" / f"{name}.csv"
        file.chmod(0o644)
        header, *rows = file.read_text("ascii").splitlines()
        file.write_text("\n".join([header, *map(moved, rows)]), "ascii")
    check_same_but_truth(open_drive(paths[0]), open_drive(paths[1]))


# --- all together --------------------------------------------------------------------------------


def fan(
    to_wall: Callable[[np.ndarray, np.ndarray], np.ndarray], pose: np.ndarray, sensor: str
) -> np.ndarray:
    """Points that an LMS measures at ``pose`` (vehicle -> world, z up) in a world of surfaces."""
    mount = np.eye(4)
    x, y, z, roll, pitch, yaw = EXTRINSICS[sensor]
    mount[:3, :3], mount[:3, 3] = euler(roll, pitch, yaw), [x, y, z]
    laser = pose @ np.diag([1.0, -1, -1, 1]) @ mount
    beams = np.radians(np.arange(-135, 135.25, 0.5))
    directions = np.cos(beams)[:, None] * laser[:3, 0] + np.sin(beams)[:, None] * laser[:3, 1]
    ranges = to_wall(laser[:3, 3], directions)
    hit = np.isfinite(ranges) & (ranges > 0.5) & (ranges < 50)
    beams, ranges = beams[hit], ranges[hit]
    return np.column_stack(
        [ranges * np.cos(beams), ranges * np.sin(beams), np.full(len(beams), 99)]
    )


def test_a_street_between_two_walls_comes_out_straight(tmp_path: Path) -> None:
    """Scans at 50 Hz, odometry at 16 Hz, a winding path: the walls y = 8 and y = -6 are flat.

    Held instead of interpolated poses would smear them by a third of a metre, a reversed vo.csv or
    a scan plane that is not vertical by metres.
    """

    def ranges(origin: np.ndarray, directions: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            hits = np.stack(
                [
                    (8 - origin[1]) / directions[:, 1],
                    (-6 - origin[1]) / directions[:, 1],
                    (-2.5 - origin[2]) / directions[:, 2],
                ]
            )
        return np.where(hits > 0, hits, np.inf).min(axis=0)

    def pose(seconds: float) -> np.ndarray:
        """10 m/s along x, y = sin(x / 10) m, the camera looking down by 3 degrees."""
        x = 10 * seconds
        result = np.eye(4)
        result[:3, :3] = euler(0, 0, math.atan(0.1 * math.cos(x / 10))) @ euler(0, 0.05, 0)
        result[:3, 3] = x, math.sin(x / 10), 0
        return result

    turn = np.diag([1.0, -1, -1, 1])
    stamps = [62_500 * i for i in range(81)]
    write_vo(
        tmp_path, [START + us for us in stamps], [turn @ pose(us / 1e6) @ turn for us in stamps]
    )
    for i in range(2, 240):
        us = 20_000 * i + 3_000
        sensor = LMS[i % 2]
        write_scan(tmp_path, sensor, START + us, fan(ranges, pose(us / 1e6), sensor))
    drive = open_drive(tmp_path)
    assert drive.odometry is not None
    block = drive.scans.read(0, len(drive.scans.t_ns))
    at_scan = drive.odometry.at(block.t_ns)[block.scan]
    local = np.einsum("nij,nj->ni", at_scan[:, :3, :3], block.points) + at_scan[:, :3, 3]
    start = pose(0)
    heading = math.atan2(start[1, 0], start[0, 0])
    world = local @ euler(0, 0, heading).T + start[:3, 3]
    off = np.abs(np.stack([world[:, 1] - 8, world[:, 1] + 6, world[:, 2] + 2.5])).min(axis=0)
    assert len(world) > 40_000
    assert np.percentile(off, 99) < 0.05
    for surface, count in ((np.abs(world[:, 1] - 8), 9000), (np.abs(world[:, 1] + 6), 9000)):
        assert (surface < 0.05).sum() > count


# --- real runs -----------------------------------------------------------------------------------

LOOPS = ("2014-06-23-15-36-04", "2014-06-26-08-53-56", "2014-06-26-09-24-58")
FULL = ("2014-11-28-12-07-13", "2014-12-02-15-30-08")


def open_real(data_dir: Path, tmp_path: Path, name: str) -> Drive:
    """A real run, with a made scan added: the real data have none."""
    run = tmp_path / name
    shutil.copytree(data_dir / "robotcar" / name, run)
    write_scan(run, "lms_front", START, [[5.0, 1.0, 1.0]])
    return open_drive(run)


@pytest.mark.realdata
@pytest.mark.parametrize("name", LOOPS)
def test_real_loops_hang_together(data_dir: Path, tmp_path: Path, name: str) -> None:
    drive = open_real(data_dir, tmp_path, name)
    assert drive.odometry is not None
    assert drive.heading is not None
    assert drive.truth is not None
    projection = Projection(utm_crs(*OXFORD))
    asked = drive.odometry.t_ns
    latitude, longitude, _ = drive.truth.at(asked)
    known = np.isfinite(latitude)
    true = projection.forward(latitude[known], longitude[known])
    # The path's length agrees with visual odometry within a percent or two.
    length = np.linalg.norm(np.diff(true[::16], axis=0), axis=1).sum()
    assert drive.odometry.travelled()[-1] == pytest.approx(length, rel=0.03)
    # Direction of travel on the grid = true heading + convergence, which is 1.37 degrees.
    step = true[16:] - true[:-16]
    fast = np.linalg.norm(step, axis=1) > 3
    convergence = projection.convergence(latitude[known], longitude[known])
    middle = drive.heading.at(asked[known])[8:-8]
    course = np.arctan2(step[:, 1], step[:, 0])
    off = np.degrees(np.median(wrap_angle(course - middle - convergence[8:-8])[fast]))
    assert abs(off) < 0.6
    assert np.degrees(np.median(wrap_angle(course - middle)[fast])) > 1.0
    # Odometry turns as the INS does, and stays level.
    turned = np.unwrap(np.arctan2(drive.odometry.poses[:, 1, 0], drive.odometry.poses[:, 0, 0]))
    ins = np.unwrap(drive.heading.at(asked))
    assert np.degrees(np.abs((turned[-1] - turned[0]) - (ins[-1] - ins[0]))) < 12
    assert np.degrees(np.arccos(drive.odometry.poses[:, 2, 2])).max() < 10
    same = drive.heading.at(drive.truth.t_ns)
    assert np.abs(wrap_angle(drive.truth.heading - same)).max() < 1e-9


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "metres"), zip(FULL, (8900, 9450), strict=True))
def test_real_full_runs_have_one_level_segment_of_odometry(
    data_dir: Path, tmp_path: Path, name: str, metres: float
) -> None:
    drive = open_real(data_dir, tmp_path, name)
    assert drive.odometry is not None
    assert drive.truth is None
    assert drive.odometry.travelled()[-1] == pytest.approx(metres, rel=0.01)
    assert drive.odometry.segment.max() == 0
    assert np.degrees(np.arccos(drive.odometry.poses[:, 2, 2])).max() < 10
    assert np.ptp(drive.odometry.poses[:, 2, 3]) < 80


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one file of each kind."""
    folder = tmp_path_factory.mktemp("fuzz") / "2014-06-26-09-24-58"
    times = [START + 62_500 * i for i in range(12)]
    for stamp in times[:2]:
        write_scan(folder, "lms_front", stamp, np.arange(30.0).reshape(10, 3) + 1)
    write_list(folder, "lms_front", times[:2])
    write_extrinsics(folder / "extrinsics", "lms_front", "1 2 3 0.1 0.2 0.3")
    write_extrinsics(folder / "extrinsics", "ins", NO_LEVER)
    write_ins(folder, [Fix(t, 51.76 + 1e-6 * i, -1.26, 0.01 * i) for i, t in enumerate(times)])
    write_vo(folder, times, [left_circle(0.01 * i, 30.0) for i in range(len(times))])
    return folder


@often
@given(choices=st.data())
def test_damage_is_an_error_or_a_sound_drive(sound: Path, choices: st.DataObject) -> None:
    files = sorted(path for path in sound.rglob("*") if path.is_file())
    read_damaged(sound, choices.draw(st.sampled_from(files)), choices)
