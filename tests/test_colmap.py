from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_checks import EDITS, edited, fuzz, read
from scipy.spatial.transform import Rotation

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.colmap import image_times, level_attitudes, upward
from data_prep.sources.formats.colmap_files import read_model

T0 = 1_317_384_506_407_123
COUNT = 12
FLU_TO_CAMERA = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


@dataclass(frozen=True)
class World:
    """A model of cameras on a curved street, with the points that each of them observes."""

    names: tuple[str, ...]
    pose: np.ndarray  # (S, 4, 4) world -> camera
    points: np.ndarray  # (P, 3)
    seen: tuple[np.ndarray, ...]  # rows of points

    def moved(self, turn: Rotation, shift: np.ndarray) -> World:
        """The same model in another world frame."""
        to_old = np.eye(4)
        to_old[:3, :3] = turn.inv().as_matrix()
        to_old[:3, 3] = -turn.inv().apply(shift)
        return replace(self, pose=self.pose @ to_old, points=turn.apply(self.points) + shift)


def headings() -> np.ndarray:
    return np.linspace(0.3, 1.5, COUNT)


def centres() -> np.ndarray:
    """Images are 4 m apart, along the chord of the bend."""
    chord = headings() - 0.5 * (headings()[1] - headings()[0])
    step = 4.0 * np.stack([np.cos(chord), np.sin(chord), 0 * chord], axis=1)
    return np.cumsum(step, axis=0) - step[0] + [0, 0, 1.5]


def street(pitch_deg: float = 0.0, names: tuple[str, ...] | None = None) -> World:
    """Cameras that look ahead, and ``pitch_deg`` down; z is up."""
    rng = np.random.default_rng(8)
    yaw = np.column_stack([headings(), np.full(COUNT, np.radians(pitch_deg)), np.zeros(COUNT)])
    attitude = Rotation.from_euler("ZYX", yaw).as_matrix()
    pose = np.tile(np.eye(4), (COUNT, 1, 1))
    pose[:, :3, :3] = FLU_TO_CAMERA @ np.swapaxes(attitude, 1, 2)
    pose[:, :3, 3] = -np.einsum("nij,nj->ni", pose[:, :3, :3], centres())
    points = np.concatenate([centres() + rng.uniform(-9, 9, (COUNT, 3)) for _ in range(8)])
    seen = tuple(np.unique(rng.integers(0, len(points), 30)) for _ in range(COUNT))
    names = names or tuple(f"{T0 + i * 100_000}.jpg" for i in range(COUNT))
    return World(names, pose, points, seen)


# --- writers -------------------------------------------------------------------------------------


def number(row: int) -> int:
    """The number of a point: with gaps, and not in the order of the file."""
    return 7 + 3 * row


def quaternion(pose: np.ndarray) -> np.ndarray:
    return Rotation.from_matrix(pose[:3, :3]).as_quat()[[3, 0, 1, 2]]


def write_binary(folder: Path, world: World) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = [struct.pack("<Q", len(world.names))]
    for i in reversed(range(len(world.names))):
        pose = world.pose[i]
        images.append(struct.pack("<I7dI", 5 + i, *quaternion(pose), *pose[:3, 3], 1))
        images.append(world.names[i].encode() + b"\0" + struct.pack("<Q", len(world.seen[i]) + 1))
        images += [struct.pack("<ddq", 1.5, 2.5, number(row)) for row in world.seen[i]]
        images.append(struct.pack("<ddQ", 3.5, 4.5, 2**64 - 1))
    points = [struct.pack("<Q", len(world.points))]
    for row in reversed(range(len(world.points))):
        track = [(5 + i, k) for i, s in enumerate(world.seen) for k in np.flatnonzero(s == row)]
        points.append(struct.pack("<Q3d3Bd", number(row), *world.points[row], 9, 8, 7, 0.5))
        points.append(struct.pack("<Q", len(track)))
        points += [struct.pack("<II", *item) for item in track]
    (folder / "images.bin").write_bytes(b"".join(images))
    (folder / "points3D.bin").write_bytes(b"".join(points))
    (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ3d", 1, 1, 0, 640, 480, 500, 320, 240))


def write_text(folder: Path, world: World) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    images = [
        "# Image list with two lines of data per image:",
        f"# Number of images: {len(world.names)}, mean observations per image: 29.5",
    ]
    for i, pose in enumerate(world.pose):
        row = [*quaternion(pose).tolist(), *pose[:3, 3].tolist()]
        images.append(f"{5 + i} {' '.join(map(repr, row))} 1 {world.names[i]}")
        images.append(" ".join(f"1.5 2.5 {number(row)}" for row in world.seen[i]) + " 3.5 4.5 -1")
    points = [f"# Number of points: {len(world.points)}, mean track length: 3.1"]
    for row, point in enumerate(world.points.tolist()):
        points.append(f"{number(row)} {' '.join(map(repr, point))} 9 8 7 0.5 5 1 6 2")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")
    (folder / "cameras.txt").write_text("1 SIMPLE_PINHOLE 640 480 500 320 240\n")


WRITERS: dict[str, Callable[[Path, World], None]] = {".bin": write_binary, ".txt": write_text}


def same(one: Drive, other: Drive, metres: float) -> None:
    a, b = one.scans.read(0, COUNT), other.scans.read(0, COUNT)
    assert a.t_ns.tolist() == b.t_ns.tolist()
    assert a.scan.tolist() == b.scan.tolist()
    assert len(a.points) > 100
    assert np.allclose(a.points, b.points, rtol=0, atol=metres)
    assert one.odometry is not None
    assert other.odometry is not None
    assert np.allclose(one.odometry.poses, other.odometry.poses, rtol=0, atol=metres)


# --- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("pitch_deg", [0.0, 8.0])
def test_points_and_motion_are_those_of_the_world(
    tmp_path: Path, suffix: str, pitch_deg: float
) -> None:
    world = street(pitch_deg)
    WRITERS[suffix](tmp_path, world)
    drive = open_drive(tmp_path)
    assert drive.format == "colmap"
    assert drive.scans.t_ns.tolist() == [(T0 + i * 100_000) * 1000 for i in range(COUNT)]
    assert drive.scans.sensors == ("images",)
    assert drive.truth is None
    assert drive.heading is None
    for i in range(COUNT):
        c, s = np.cos(headings()[i]), np.sin(headings()[i])
        to_vehicle = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        expected = (world.points[world.seen[i]] - centres()[i]) @ to_vehicle.T
        block = drive.scans.read(i, i + 1)
        assert block.origin.tolist() == [[0, 0, 0]]
        assert np.allclose(block.points, expected, rtol=0, atol=1e-4)
    assert drive.odometry is not None
    assert np.allclose(drive.odometry.poses[0], np.eye(4))
    turned = np.arctan2(drive.odometry.poses[:, 1, 0], drive.odometry.poses[:, 0, 0])
    assert np.allclose(turned, headings() - headings()[0])
    assert np.allclose(np.diff(drive.odometry.travelled()), 4.0)


def test_both_encodings_give_the_same_drive(tmp_path: Path) -> None:
    for suffix, write in WRITERS.items():
        write(tmp_path / suffix[1:], street(3.0))
    same(open_drive(tmp_path / "bin"), open_drive(tmp_path / "txt"), 1e-6)


def test_the_binary_model_is_preferred(tmp_path: Path) -> None:
    write_binary(tmp_path, street())
    write_text(tmp_path, street(names=tuple(f"{i}.jpg" for i in range(COUNT))))
    assert open_drive(tmp_path).scans.t_ns[0] == T0 * 1000


@fuzz(40)
@given(
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-1e6, 1e6)] * 3),
    pitch_deg=st.sampled_from([0.0, 4.0]),
)
def test_the_pose_of_a_model_in_its_world_does_not_matter(
    tmp_path: Path, turn: tuple[float, ...], shift: tuple[float, ...], pitch_deg: float
) -> None:
    write_binary(tmp_path / "here", street(pitch_deg))
    elsewhere = street(pitch_deg).moved(Rotation.from_rotvec(turn), np.array(shift))
    write_binary(tmp_path / "there", elsewhere)
    same(open_drive(tmp_path / "here"), open_drive(tmp_path / "there"), 2e-5)


def test_motion_over_a_gap_is_known(tmp_path: Path) -> None:
    names = tuple(f"{T0 + (i + 100 * (i > 5)) * 100_000}.jpg" for i in range(COUNT))
    write_binary(tmp_path, street(names=names))
    odometry = open_drive(tmp_path).odometry
    assert odometry is not None
    assert odometry.segment.tolist() == [0] * COUNT


def test_up_is_robust_to_wrong_camera_poses() -> None:
    world = street()
    rotation, centre = world.pose[:, :3, :3].copy(), centres()
    rotation[[2, 7]] = np.diag([-1.0, -1.0, 1.0]) @ rotation[[2, 7]]
    up = upward(rotation, centre)
    assert up is not None
    assert np.degrees(np.arccos(up[2])) < 1.0


def test_a_straight_street_is_level_though_the_camera_looks_down() -> None:
    """Only the motion determines the level: all cameras are tilted in the same direction."""
    attitude = Rotation.from_euler("y", 12, degrees=True).as_matrix()
    rotation = np.tile(FLU_TO_CAMERA @ attitude.T, (5, 1, 1))
    centre = np.arange(5.0)[:, None] * [3.0, 0.0, 0.0]
    up = upward(rotation, centre)
    assert up is not None
    assert np.allclose(up, [0, 0, 1], atol=1e-6)
    still = upward(rotation, 0 * centre)
    assert still is not None
    assert np.allclose(still, attitude[:, 2], atol=1e-6)


@pytest.mark.parametrize("looks_up", [False, True])
def test_a_camera_that_looks_straight_down_or_up_has_a_heading(looks_up: bool) -> None:
    """The image's top is forward when looking down, its bottom when looking up."""
    z = [0.0, 0.0, 1.0] if looks_up else [0.0, 0.0, -1.0]
    y = [0.0, 1.0, 0.0] if looks_up else [0.0, -1.0, 0.0]
    rotation = np.array([[np.cross(y, z), y, z]])
    assert np.isclose(np.linalg.det(rotation[0]), 1)
    attitude = level_attitudes(rotation, np.array([0.0, 0.0, 1.0]))[0]
    assert np.allclose(attitude, [[0, -1, 0], [1, 0, 0], [0, 0, 1]])


def test_cameras_without_a_common_upright_have_no_up(tmp_path: Path) -> None:
    world = street()
    turns = Rotation.random(COUNT // 2, rng=np.random.default_rng(1)).as_matrix()
    upside_down = np.diag([1.0, -1.0, -1.0])
    world.pose[:, :3, :3] = np.concatenate([turns, upside_down @ turns])
    write_binary(tmp_path, world)
    with pytest.raises(MaptileError, match="cameras have no common upright"):
        open_drive(tmp_path)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "t_ns", "rule"),
    [
        (["1317384506407123.jpg"], [1_317_384_506_407_123_000], "since 1970"),
        (["cam0/1317384506407123456.png"], [1_317_384_506_407_123_456], "since 1970"),
        (["1305031102.175304.png"], [1_305_031_102_175_304_000], "since 1970"),
        (["f_1305031102_175304999_left.png"], [1_305_031_102_175_304_999], "since 1970"),
        (["0000000012.png", "0000000007.png"], [1_200_000_000, 700_000_000], "frame numbers"),
        (["2021-05-01/img_12.jpg", "2021-05-01/img_7.jpg"], [1_200_000_000, 700_000_000], "frame"),
        (["b.jpg", "c.jpg", "a.jpg"], [100_000_000, 200_000_000, 0], "order"),
        (["left_1.jpg", "right_1.jpg"], [0, 100_000_000], "order"),
        (["1317384506407123.jpg", "7.jpg"], [0, 100_000_000], "order"),
        (["9" * 19 + ".jpg", "1.jpg"], [100_000_000, 0], "order"),
        (["9" * 19 + ".jpg"], [0], "order"),
        (["١٢.jpg"], [0], "order"),
    ],
)
def test_times_of_names(names: list[str], t_ns: list[int], rule: str) -> None:
    got, said = image_times(names)
    assert got.tolist() == t_ns
    assert rule in said


def test_one_folder_of_images_is_one_camera(tmp_path: Path) -> None:
    names = tuple(f"{'left' if i < 5 else 'right'}/{T0 + i}.jpg" for i in range(COUNT))
    write_text(tmp_path, street(names=names))
    drive = open_drive(tmp_path)
    assert drive.scans.sensors == ("right",)
    assert len(drive.scans.t_ns) == 7
    assert any("not those of left" in note for note in drive.notes)
    left = open_drive(tmp_path, sensors=("left",))
    assert left.scans.t_ns.tolist() == [(T0 + i) * 1000 for i in range(5)]
    for wrong in (("up",), ("left", "right"), ()):
        with pytest.raises(MaptileError, match=r"choose one folder of images.*left, right"):
            open_drive(tmp_path, sensors=wrong)


@pytest.mark.parametrize("place", ["", "sparse", "sparse/0"])
def test_the_model_may_be_in_sparse(tmp_path: Path, place: str) -> None:
    write_binary(tmp_path / "trip" / place, street())
    (tmp_path / "trip" / "images").mkdir()
    drive = open_drive(tmp_path / "trip")
    assert (drive.format, drive.name) == ("colmap", "trip")
    assert not any("is used, not" in note for note in drive.notes)


def test_other_models_beside_it_are_noted(tmp_path: Path) -> None:
    write_binary(tmp_path / "sparse" / "0", street())
    write_text(tmp_path / "sparse" / "1", street(names=tuple(f"{i}.jpg" for i in range(COUNT))))
    drive = open_drive(tmp_path)
    assert drive.scans.t_ns[0] == T0 * 1000
    assert any("0 is used, not 1" in note for note in drive.notes)
    assert open_drive(tmp_path / "sparse" / "1").scans.t_ns[0] == 0


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("place", ["", "trip/sparse/0"])
def test_a_model_in_an_archive_is_the_same(tmp_path: Path, suffix: str, place: str) -> None:
    WRITERS[suffix](tmp_path / "tree" / place, street(3.0))
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "tree").rglob("*")):
            archive.write(file, file.relative_to(tmp_path / "tree"))
    packed = open_drive(tmp_path / "model.zip")
    assert packed.format == "colmap"
    same(open_drive(tmp_path / "tree"), packed, 0.0)


# --- damage --------------------------------------------------------------------------------------

FILES = [f"{name}{suffix}" for suffix in WRITERS for name in ("images", "points3D")]


@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_anywhere_is_one_clear_line(tmp_path: Path, file: str) -> None:
    WRITERS[Path(file).suffix](tmp_path, street())
    data = (tmp_path / file).read_bytes()
    cuts = np.unique(np.linspace(0, len(data) - 1, 300).astype(int))
    for cut in cuts.tolist():
        (tmp_path / file).write_bytes(data[:cut])
        with pytest.raises(MaptileError) as error:
            open_drive(tmp_path)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", FILES)
def test_bytes_after_the_end_are_an_error(tmp_path: Path, file: str) -> None:
    WRITERS[Path(file).suffix](tmp_path, street())
    with (tmp_path / file).open("ab") as stream:
        stream.write(b"1 2 3\n")
    with pytest.raises(MaptileError, match=file):
        open_drive(tmp_path)


@pytest.mark.parametrize("count", [2**64 - 1, 2**63, 2**40, 2**31, 100_000])
@pytest.mark.parametrize(
    ("file", "at"),
    [
        ("images.bin", 0),
        ("images.bin", 8 + 64 + len(f"{T0}.jpg") + 1),  # keypoints of the first image
        ("points3D.bin", 0),
        ("points3D.bin", 8 + 43),  # the first track
    ],
)
def test_declared_sizes_are_checked(tmp_path: Path, file: str, at: int, count: int) -> None:
    write_binary(tmp_path, street())
    data = bytearray((tmp_path / file).read_bytes())
    assert struct.unpack_from("<Q", data, at)[0] < 1000
    struct.pack_into("<Q", data, at, count)
    (tmp_path / file).write_bytes(data)
    with pytest.raises(MaptileError, match=rf"{file}: not readable as COLMAP's"):
        open_drive(tmp_path)


@fuzz(200)
@given(
    file=st.sampled_from(FILES),
    edits=EDITS,
    swap=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_damage_gives_a_drive_or_one_clear_line(
    tmp_path: Path,
    file: str,
    edits: list[tuple[float, bytes]],
    swap: tuple[float, float],
) -> None:
    folder = tmp_path / file
    WRITERS[folder.suffix](folder, street())
    data = edited((folder / file).read_bytes(), edits)
    low, high = sorted(int(where * len(data)) for where in swap)
    data = data[:low] + data[high:] + data[low:high]
    (folder / file).write_bytes(data)
    opened = read(folder, within=folder)
    assert opened is None or opened[0].odometry is not None


def test_files_of_two_models_are_an_error(tmp_path: Path) -> None:
    write_text(tmp_path, street())
    text = (tmp_path / "points3D.txt").read_text()
    moved = re.sub(r"(?m)^(\d+) ", lambda match: f"{int(match[1]) + 1} ", text)
    (tmp_path / "points3D.txt").write_text(moved)
    with pytest.raises(MaptileError, match=r"points it names are not in points3D\.txt"):
        open_drive(tmp_path)


@pytest.mark.parametrize("writer", [write_binary, write_text])
def test_points_that_are_missing_are_left_out(
    tmp_path: Path, writer: Callable[[Path, World], None]
) -> None:
    """The other points of each image are as in the model that has all."""
    world = street()
    writer(tmp_path / "whole", world)
    writer(tmp_path / "part", replace(world, points=world.points[:-20]))
    for name in ("images", "points3D"):
        source = tmp_path / ("whole" if name == "images" else "part")
        for file in source.glob(f"{name}.*"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    rows = [seen[seen < len(world.points) - 20] for seen in world.seen]
    lacking = sum(map(len, world.seen)) - sum(map(len, rows))
    assert lacking > 0
    drive = open_drive(tmp_path)
    total = sum(map(len, world.seen))
    assert drive.notes[0].startswith(f"{lacking} of {total} observations name points that are")
    expected = open_drive(tmp_path / "whole").scans.read(0, COUNT)
    for scan, (kept, seen) in enumerate(zip(rows, world.seen, strict=True)):
        here = drive.scans.read(scan, scan + 1).points
        np.testing.assert_array_equal(
            here, expected.points[expected.scan == scan][np.isin(seen, kept)]
        )


def test_a_repeated_point_is_damage(tmp_path: Path) -> None:
    write_text(tmp_path, street())
    text = (tmp_path / "points3D.txt").read_text()
    (tmp_path / "points3D.txt").write_text(text.replace("\n10 ", "\n7 "))
    with pytest.raises(MaptileError, match=r"points3D\.txt: two points have the same number"):
        open_drive(tmp_path)


@pytest.mark.parametrize("word", [b"nan", b"1e300", b"7", b"inf"])
def test_invalid_poses_are_damage(tmp_path: Path, word: bytes) -> None:
    write_text(tmp_path, street())
    lines = (tmp_path / "images.txt").read_bytes().split(b"\n")
    words = lines[2].split(b" ")
    words[2] = word
    lines[2] = b" ".join(words)
    (tmp_path / "images.txt").write_bytes(b"\n".join(lines))
    with pytest.raises(MaptileError, match=r"images\.txt: 1 poses are invalid"):
        open_drive(tmp_path)


def test_a_model_without_images_is_an_error(tmp_path: Path) -> None:
    write_text(tmp_path, street())
    (tmp_path / "images.txt").write_text("# Image list\n")
    with pytest.raises(MaptileError, match="no image in it"):
        open_drive(tmp_path)


def test_an_image_without_points_is_an_empty_scan(tmp_path: Path) -> None:
    world = street()
    nothing = np.zeros(0, np.int64)
    world = replace(world, seen=(nothing, *world.seen[1:-1], nothing))
    drives = []
    for suffix, write in WRITERS.items():
        write(tmp_path / suffix[1:], world)
        if suffix == ".txt":  # COLMAP's empty line for an image without keypoints
            text = (tmp_path / "txt" / "images.txt").read_text()
            (tmp_path / "txt" / "images.txt").write_text(text.replace("\n 3.5 4.5 -1", "\n"))
        drives.append(open_drive(tmp_path / suffix[1:]))
    same(*drives, metres=1e-6)
    block = drives[0].scans.read(0, COUNT)
    assert len(block.t_ns) == COUNT
    assert not np.isin(block.scan, [0, COUNT - 1]).any()


def test_points_that_are_not_finite_are_removed(tmp_path: Path) -> None:
    world = street()
    seen = world.seen[0][0]
    world.points[seen] = [np.nan, np.inf, 1e308]
    write_binary(tmp_path, world)
    model = read_model(tmp_path, ".bin")
    assert np.isnan(model.points).any()
    assert len(open_drive(tmp_path).scans.read(0, 1).points) == len(world.seen[0]) - 1
