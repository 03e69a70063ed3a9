from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evo.tools import file_interface
from hypothesis import given
from hypothesis import strategies as st
from made_kitti import (
    CAMERA_IN_FRONT,
    numbers,
    write_labels,
    write_points,
    write_sequence,
    zipped,
)
from reader_checks import often, read_damaged
from scipy.spatial.transform import Rotation

from data_prep.errors import MaptileError
from data_prep.geometry import se3, se3_from_xyzrpy
from data_prep.sources import detect_format, open_drive
from data_prep.sources.formats.kitti_files import read_named, rigid
from data_prep.sources.kitti_odometry import USUAL_MOUNTING
from maptile_loc.perceive.labels import BUILDING, POLE, ROAD
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries

# Velodyne -> camera, which looks ahead, 0.3 m in front of the Velodyne and 0.1 m below it.
CAMERA = se3(Rotation.from_matrix(CAMERA_IN_FRONT.T), CAMERA_IN_FRONT.T @ [-0.3, 0.0, 0.1])
RADIUS = 25.0


def circle(count: int) -> np.ndarray:
    """(N, 4, 4) of a vehicle that turns left, a metre per step."""
    angle = np.arange(count) / RADIUS
    rows = np.zeros((count, 6))
    rows[:, 0], rows[:, 1] = RADIUS * np.sin(angle), RADIUS * (1 - np.cos(angle))
    rows[:, 5] = angle
    return se3_from_xyzrpy(rows)


def of_camera(track: np.ndarray) -> np.ndarray:
    """Poses of the camera in the frame of its first one."""
    return np.linalg.inv(track[0] @ np.linalg.inv(CAMERA)) @ track @ np.linalg.inv(CAMERA)


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    """Twenty poses on a circle, three scans of one point each."""
    scans = {i: [[10.0 + i, 2, 1]] for i in range(3)}
    seconds = [0.1 * i for i in range(20)]
    return write_sequence(tmp_path / "dataset", list(of_camera(circle(20))), scans, seconds, CAMERA)


# --- scans ---------------------------------------------------------------------------------------


def test_points_stay_in_the_frame_of_the_velodyne(sequence: Path) -> None:
    assert detect_format(sequence) == "kitti_odometry"
    drive = open_drive(sequence)
    assert drive.name == "odometry_00"
    assert drive.scans.sensors == ("velodyne",)
    block = drive.scans.read(0, 3)
    assert np.array_equal(block.points, [[10, 2, 1], [11, 2, 1], [12, 2, 1]])
    assert np.array_equal(block.origin, np.zeros((3, 3)))


def test_scans_are_motion_compensated_already(sequence: Path) -> None:
    assert open_drive(sequence).scans.read(0, 3).seconds is None


def test_times_are_seconds_from_the_start(sequence: Path) -> None:
    (sequence / "times.txt").write_text("0.000000e+00\n1.036224e-01\n2.072440e-01\n", "ascii")
    drive = open_drive(sequence)
    assert drive.scans.t_ns.tolist() == [0, 103_622_400, 207_244_000]
    assert drive.odometry.t_ns.tolist() == [0, 103_622_400, 207_244_000]
    assert any("20 for 3 scans; the first 3 are used" in note for note in drive.notes)


def test_missing_scans_are_noted(sequence: Path) -> None:
    (sequence / "velodyne/000001.bin").unlink()
    write_points(sequence / "velodyne/000020.bin", [[30.0, 2, 1]])
    drive = open_drive(sequence)
    assert drive.scans.t_ns.tolist() == [0, 200_000_000]
    assert drive.scans.read(0, 2).points[:, 0].tolist() == [10, 12]
    assert any("1 scan without a time stamp" in note for note in drive.notes)
    assert any("18 of 20 scans are missing" in note for note in drive.notes)


def test_no_scans_or_no_times(sequence: Path) -> None:
    (sequence / "times.txt").rename(sequence / "times.old")
    with pytest.raises(MaptileError, match=r"times\.txt: no such file; it comes with"):
        open_drive(sequence, "kitti_odometry")
    (sequence / "times.txt").write_text("", "ascii")
    with pytest.raises(MaptileError, match="no scan"):
        open_drive(sequence)
    (sequence / "times.txt").write_text("0\n1e300\n", "ascii")
    with pytest.raises(MaptileError, match=r"times\.txt: not a list of seconds"):
        open_drive(sequence)


def test_unknown_sensor(sequence: Path) -> None:
    with pytest.raises(MaptileError, match="no sensor lms_front; choose from velodyne"):
        open_drive(sequence, sensors=("lms_front",))


def test_labels_are_the_low_half_of_their_numbers(sequence: Path) -> None:
    write_points(sequence / "velodyne/000001.bin", [[10.0, 2, 1], [11, 2, 1], [0, 0, 0], [9, 9, 9]])
    write_labels(sequence / "labels/000001.label", [50, 40, 40, 71], instance=3)
    drive = open_drive(sequence)
    assert drive.labels == "semantickitti"
    assert drive.scans.read(1, 2).label.tolist() == [50, 40, 71]
    assert drive.scans.read(0, 3).label is None  # the scans beside it have none
    submap = build_submap(
        drive,
        plan_queries(drive, Queries(submap_m=0.0, every_m=0.0)),
        1,
        Queries(submap_m=0.0),
        SubmapSettings(),
    )
    assert submap.kind.tolist() == [BUILDING, ROAD, POLE]
    file = write_labels(sequence / "labels/000001.label", [50, 40, 40])
    with pytest.raises(MaptileError, match=f"{file}: 3 labels for the 4 points"):
        drive.scans.read(1, 2)


def test_moving_things_are_left_out_of_submaps(sequence: Path) -> None:
    write_points(sequence / "velodyne/000001.bin", [[10.0, 2, 1], [11, 2, 1]])
    write_labels(sequence / "labels/000001.label", [252, 50])
    drive = open_drive(sequence)
    submap = build_submap(
        drive,
        plan_queries(drive, Queries(submap_m=0.0, every_m=0.0)),
        1,
        Queries(submap_m=0.0),
        SubmapSettings(),
    )
    assert submap.points.tolist() == [[11, 2, 1]]


def test_archives_as_they_are_downloaded(sequence: Path, tmp_path: Path) -> None:
    write_labels(sequence / "labels/000001.label", [50])
    here = open_drive(sequence)
    root, inside = tmp_path, "dataset/sequences/00"
    folder = tmp_path / "archives"
    zipped(folder / "data_odometry_velodyne.zip", root, f"{inside}/velodyne")
    zipped(folder / "data_odometry_calib.zip", root, f"{inside}/calib.txt", f"{inside}/times.txt")
    zipped(folder / "data_odometry_poses.zip", root, "dataset/poses")
    zipped(folder / "data_odometry_labels.zip", root, f"{inside}/labels")
    for path in (folder, folder / inside):
        there = open_drive(path)
        assert (there.name, there.labels) == (here.name, "semantickitti")
        assert np.array_equal(there.odometry.poses, here.odometry.poses)
        blocks = here.scans.read(0, 3), there.scans.read(0, 3)
        assert np.array_equal(blocks[0].points, blocks[1].points)
        assert np.array_equal(blocks[0].label, blocks[1].label)


# --- tracks --------------------------------------------------------------------------------------


def test_odometry_is_the_motion_of_the_velodyne(sequence: Path) -> None:
    drive = open_drive(sequence)
    assert np.allclose(drive.odometry.poses, circle(20), atol=1e-5)
    assert drive.odometry.segment.tolist() == [0] * 20
    assert drive.heading is drive.truth is drive.labels is None
    assert any("data set's own poses" in note for note in drive.notes)
    assert any("no heading and no truth" in note for note in drive.notes)


def test_a_post_is_one_point_in_the_submap(sequence: Path) -> None:
    post = np.array([12.0, 3, 1])
    for i, pose in enumerate(circle(20)):
        seen = (post - pose[:3, 3]) @ pose[:3, :3]
        write_points(sequence / f"velodyne/{i:06d}.bin", [seen])
    drive = open_drive(sequence)
    plan = plan_queries(drive, Queries(submap_m=10.0, every_m=5.0))
    submap = build_submap(drive, plan, 1, Queries(submap_m=10.0), SubmapSettings())
    assert len(submap.points) == 11
    assert np.ptp(submap.points, axis=0).max() < 1e-4


def test_camera_motion_equals_that_of_evo(sequence: Path) -> None:
    file = sequence.parent.parent / "poses" / "00.txt"
    theirs = np.array(file_interface.read_kitti_poses_file(file).poses_se3)
    ours = open_drive(sequence).odometry.poses @ np.linalg.inv(CAMERA)
    for a, b in ((theirs[:-1], theirs[1:]), (theirs[:-5], theirs[5:])):
        step = len(theirs) - len(a)
        left = np.linalg.inv(a) @ b
        right = np.linalg.inv(ours[:-step]) @ ours[step:]
        assert np.allclose(left, right, atol=1e-5)


def test_poses_of_semantickitti_lie_in_the_sequence(sequence: Path) -> None:
    here = open_drive(sequence)
    (sequence.parent.parent / "poses" / "00.txt").rename(sequence / "poses.txt")
    there = open_drive(sequence)
    assert np.array_equal(there.odometry.poses, here.odometry.poses)
    assert any("sequences/00/poses.txt" in note for note in there.notes)


def test_the_first_pose_does_not_matter(sequence: Path) -> None:
    here = open_drive(sequence)
    moved = se3_from_xyzrpy([5e5, -3e5, 120.0, 0.3, -1.0, 2.0]) @ of_camera(circle(20))
    file = sequence.parent.parent / "poses" / "00.txt"
    file.write_text("".join(f"{numbers(pose)}\n" for pose in moved), "ascii")
    assert np.allclose(open_drive(sequence).odometry.poses, here.odometry.poses, atol=1e-5)


def test_without_poses_there_are_only_scans(sequence: Path) -> None:
    (sequence.parent.parent / "poses" / "00.txt").unlink()
    (sequence / "calib.txt").unlink()
    drive = open_drive(sequence)
    assert drive.odometry is None
    assert any(note.startswith("no odometry: neither ") for note in drive.notes)
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    submap = build_submap(drive, plan, 0, Queries(submap_m=0.0), SubmapSettings())
    assert submap.points.tolist() == [[10, 2, 1]]


def test_a_long_gap_begins_a_new_segment(sequence: Path) -> None:
    seconds = [0.1 * i + (2.5 if i >= 10 else 0) for i in range(20)]
    (sequence / "times.txt").write_text("\n".join(map(str, seconds)), "ascii")
    track = open_drive(sequence).odometry
    assert track.segment.tolist() == [0] * 10 + [1] * 10
    assert np.allclose(track.poses[10], np.eye(4), atol=1e-9)
    assert track.travelled()[-1] == pytest.approx(18, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("calib.txt", ""),
        ("calib.txt", "P0: 1 2 3\n"),
        ("calib.txt", "Tr: 1 2 3\n"),
        ("calib.txt", "Tr: " + "1 " * 12),
        ("calib.txt", "Tr: " + "x " * 12),
        ("calib.txt", "\xff"),
        ("../../poses/00.txt", ""),
        ("../../poses/00.txt", "1 2 3\n"),
        ("../../poses/00.txt", "nan " * 12),
        ("../../poses/00.txt", "2 0 0 0 0 2 0 0 0 0 2 0\n"),
        ("times.txt", "0 1\n"),
        ("times.txt", "noon\n"),
    ],
)
def test_damaged_text_names_its_file(sequence: Path, name: str, text: str) -> None:
    (sequence / name).write_text(text, "latin-1")
    with pytest.raises(MaptileError, match=f"{Path(name).name}: ") as caught:
        open_drive(sequence)
    assert "\n" not in str(caught.value)


def test_a_calibration_without_tr_is_replaced_by_the_usual_one(sequence: Path) -> None:
    known = open_drive(sequence).odometry
    (sequence / "calib.txt").write_text("P0: " + "1 " * 12 + "\n", "ascii")
    drive = open_drive(sequence)
    assert "calib.txt has no line Tr: the usual mounting of the camera is taken" in drive.notes
    assert drive.odometry is not None
    steps = [np.diff(track.poses[:, :3, 3], axis=0) for track in (known, drive.odometry)]
    lengths = [np.linalg.norm(step, axis=1) for step in steps]
    np.testing.assert_allclose(*lengths, atol=0.02)
    assert abs(drive.odometry.poses[:, 2, 3]).max() < 0.02  # level


@pytest.mark.realdata
def test_the_usual_mounting_is_that_of_a_real_calibration(data_dir: Path) -> None:
    file = data_dir / "kitti_odometry/sequences/00/calib.txt"
    real = rigid(read_named(file, "Tr", "")[None], file)[0]
    turn = Rotation.from_matrix(real[:3, :3].T @ USUAL_MOUNTING[:3, :3]).magnitude()
    assert np.degrees(turn) < 1.5
    assert np.linalg.norm(real[:3, 3] - USUAL_MOUNTING[:3, 3]) < 0.1


def test_poses_without_calibration(sequence: Path) -> None:
    (sequence / "calib.txt").unlink()
    with pytest.raises(MaptileError, match=r"calib\.txt: no such file; unpack .*calib\.zip"):
        open_drive(sequence)


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fuzz") / "dataset"
    scans = {1: [[10.0, 2, 1], [11, 2, 1]]}
    seconds = [0.1 * i for i in range(6)]
    folder = write_sequence(root, list(of_camera(circle(6))), scans, seconds, CAMERA)
    write_labels(folder / "labels/000001.label", [50, 40])
    return folder


FILES = (
    "times.txt",
    "calib.txt",
    "velodyne/000001.bin",
    "labels/000001.label",
    "../../poses/00.txt",
)


@often
@given(choices=st.data())
def test_damage_is_an_error_or_a_sound_drive(sound: Path, choices: st.DataObject) -> None:
    file = sound / choices.draw(st.sampled_from(FILES))
    read = read_damaged(sound, file, choices)
    if read is None:
        return
    drive, block = read
    assert block.label is not None
    assert drive.odometry is not None
