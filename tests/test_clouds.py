from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import laspy
import numpy as np
import open3d as o3d
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_checks import EDITS, check_same_but_truth, edited, fuzz

from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.points.pointfiles import read_cloud

T0 = 1_317_384_506_407_123_456
RNG = np.random.default_rng(4)
POINTS = RNG.uniform(-50, 50, size=(300, 3))


# --- files of points, written by other programs or by hand ---------------------------------------


def by_open3d(file: Path, points: np.ndarray, **how: bool) -> None:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    assert o3d.io.write_point_cloud(str(file), cloud, **how)


def by_laspy(file: Path, points: np.ndarray) -> None:
    header = laspy.LasHeader(point_format=3, version="1.2")
    header.scales = np.full(3, 0.001)
    las = laspy.LasData(header)
    las.x, las.y, las.z = points.T
    las.write(file)


def as_kitti(file: Path, points: np.ndarray) -> None:
    file.write_bytes(np.column_stack([points, np.full(len(points), 9)]).astype("<f4").tobytes())


def as_big_endian_ply(file: Path, points: np.ndarray) -> None:
    """With fields between and around the coordinates, and faces after the points."""
    head = (
        f"ply\r\nformat binary_big_endian 1.0\r\ncomment x y z\r\nelement vertex {len(points)}\r\n"
        "property uchar label\r\nproperty float z\r\nproperty short ring\r\nproperty double x\r\n"
        "property float y\r\nelement face 1\r\nproperty list uchar int vertex_indices\r\n"
        "end_header\r\n"
    )
    rows = [struct.pack(">Bfhdf", 7, z, -3, x, y) for x, y, z in points]
    file.write_bytes(head.encode() + b"".join(rows) + struct.pack(">Biii", 3, 0, 1, 2))


def as_padded_pcd(file: Path, points: np.ndarray) -> None:
    """As PCL writes XYZI: padding fields of the same name, one of several bytes."""
    head = (
        "# .PCD v0.7\nVERSION 0.7\nFIELDS x y z _ intensity _\nSIZE 4 4 4 1 4 1\n"
        f"TYPE F F F U F U\nCOUNT 1 1 1 4 1 12\nWIDTH {len(points)}\nHEIGHT 1\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(points)}\nDATA binary\n"
    )
    rows = [struct.pack("<fff4xf12x", *point, 5.0) for point in points]
    file.write_bytes(head.encode() + b"".join(rows))


def as_lower_case_pcd(file: Path, points: np.ndarray) -> None:
    """Keywords and types in lower case, fields in upper case, other fields between them."""
    head = (
        "version 0.7\nfields Intensity X RING Y Z\nsize 4 8 2 4 4\ntype f f u f f\n"
        f"count 1 1 1 1 1\nwidth {len(points)}\nheight 1\nPOINTS {len(points)}\ndata BINARY\n"
    )
    rows = [struct.pack("<fdHff", 5.0, x, 3, y, z) for x, y, z in points]
    file.write_bytes(head.encode() + b"".join(rows))


WRITERS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "ply": (".ply", by_open3d),
    "ply-ascii": (".ply", lambda f, p: by_open3d(f, p, write_ascii=True)),
    "ply-big-endian": (".ply", as_big_endian_ply),
    "pcd": (".pcd", by_open3d),
    "pcd-ascii": (".pcd", lambda f, p: by_open3d(f, p, write_ascii=True)),
    "pcd-compressed": (".pcd", lambda f, p: by_open3d(f, p, compressed=True)),
    "pcd-padded": (".pcd", as_padded_pcd),
    "pcd-lower-case": (".pcd", as_lower_case_pcd),
    "las": (".las", by_laspy),
    "laz": (".laz", by_laspy),
    "bin": (".bin", as_kitti),
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    suffix, write = WRITERS[request.param]
    file = tmp_path / f"cloud{suffix}"
    write(file, POINTS)
    return file


def test_points_come_back_from_every_format(written: Path) -> None:
    got = read_cloud(written).points
    assert got.shape == POINTS.shape
    assert np.allclose(got, POINTS, atol=6e-4)  # LAS has millimetres, ASCII six digits


@pytest.mark.parametrize(
    "kind", ["ply", "ply-ascii", "pcd", "pcd-ascii", "pcd-compressed", "pcd-padded"]
)
def test_points_equal_those_of_open3d(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    written = tmp_path / f"cloud{suffix}"
    write(written, POINTS)
    theirs = np.asarray(o3d.io.read_point_cloud(str(written)).points)
    assert np.allclose(read_cloud(written).points, theirs, rtol=0, atol=1e-9)


def test_compressible_clouds_are_unpacked(tmp_path: Path) -> None:
    """Long runs and references that overlap what they write."""
    points = np.zeros((5000, 3))
    points[::7, 0] = 1.5
    points[2500:, 1] = np.repeat(RNG.uniform(size=25), 100)
    by_open3d(tmp_path / "a.pcd", points, compressed=True)
    assert (tmp_path / "a.pcd").stat().st_size < 6000
    assert np.allclose(read_cloud(tmp_path / "a.pcd").points, points, atol=1e-6)


@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6, 0.9, 0.995])
def test_a_file_cut_short_is_never_half_a_cloud(written: Path, keep: float) -> None:
    data = written.read_bytes()
    cut = int(keep * len(data))
    if written.suffix == ".bin":
        cut -= cut % 16 - 3
    if written.name == "cloud.ply" and b"element face" in data:
        cut = min(cut, len(data) - 14)  # the faces are not read
    written.write_bytes(data[: max(cut, 0)])
    with pytest.raises(MaptileError, match=str(written)) as error:
        read_cloud(written)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [b"99999999999999", b"-1", b"many"])
def test_a_wrong_number_of_points_in_a_header_is_an_error(written: Path, count: bytes) -> None:
    data = written.read_bytes()
    for field in (b"element vertex 300", b"POINTS 300"):
        data = data.replace(field, field[:-3] + count)
    if written.suffix in (".las", ".laz"):
        data = data[:107] + struct.pack("<I", 4_000_000_000) + data[111:]
    if written.suffix == ".bin":
        data += b"\0"
    written.write_bytes(data)
    with pytest.raises(MaptileError, match=str(written)):
        read_cloud(written)


@fuzz(200)
@given(kind=st.sampled_from(sorted(WRITERS)), edits=EDITS)
def test_damage_gives_points_or_one_clear_line(
    tmp_path: Path, kind: str, edits: list[tuple[float, bytes]]
) -> None:
    suffix, write = WRITERS[kind]
    file = tmp_path / f"damaged{suffix}"
    write(file, POINTS[:5])
    file.write_bytes(edited(file.read_bytes(), edits))
    try:
        points = read_cloud(file).points
    except MaptileError as error:
        assert str(file) in str(error)
    else:
        assert points.ndim == 2
        assert points.shape[1] == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "a.ply",
            b"ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int v\nend_header\n",
        ),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n"),
        ("a.ply", b"ply\nformat ascii 1.0\nelement vertex 1\nproperty half x\nend_header\n1\n"),
        ("a.ply", b"ply\nelement vertex 1\nproperty float x\nend_header\n1\n"),
        ("a.pcd", b"FIELDS a b c\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1\nDATA ascii\n1 2 3\n"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nPOINTS 1\nDATA rot13\n1 2 3\n"),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4\nTYPE F F F\nPOINTS 1\nDATA binary\n123412341234"),
        (
            "a.pcd",
            b"FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 9999999999\nPOINTS 1\nDATA ascii\n",
        ),
        ("a.pcd", b"FIELDS x y z\nSIZE 4 4 4\nTYPE \0 F F\nPOINTS 1\nDATA binary\n123412341234"),
        ("a.las", b"LASF but nothing else"),
    ],
)
def test_other_damage(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MaptileError, match=name):
        read_cloud(tmp_path / name)


def test_pcd_without_a_point_count_has_width_times_height(tmp_path: Path) -> None:
    text = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nWIDTH 2\nHEIGHT 1\nDATA ascii\n1 2 3\nnan 5 6\n"
    (tmp_path / "a.pcd").write_text(text, "ascii")
    assert np.array_equal(read_cloud(tmp_path / "a.pcd").points, [[1, 2, 3], [np.nan, 5, 6]], True)


def test_the_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaptileError, match=r"gone\.ply: not readable as a ply"):
        read_cloud(tmp_path / "gone.ply")


@pytest.mark.realdata
def test_labelled_clouds_of_kitti_360_are_read(data_dir: Path) -> None:
    file = sorted((data_dir / "kitti360_0000/clouds").iterdir())[0]
    theirs = np.asarray(o3d.io.read_point_cloud(str(file)).points)
    assert len(theirs) > 100
    assert np.array_equal(read_cloud(file).points, theirs)


def test_the_points_of_a_colmap_model_saved_as_ply(tmp_path: Path) -> None:
    """What colmap model_converter --output_type PLY writes: float x, y, z and colours."""
    head = (
        "ply\nformat binary_little_endian 1.0\nelement vertex 300\nproperty float x\n"
        "property float y\nproperty float z\nproperty uchar red\nproperty uchar green\n"
        "property uchar blue\nend_header\n"
    )
    rows = [struct.pack("<fff3B", *point, 1, 2, 3) for point in POINTS]
    (tmp_path / "a.ply").write_bytes(head.encode() + b"".join(rows))
    cloud = read_cloud(tmp_path / "a.ply")
    assert np.allclose(cloud.points, POINTS, atol=1e-5)
    assert cloud.label is None
    assert cloud.seconds is None


# --- drives --------------------------------------------------------------------------------------


def write_cloud(drive: Path, name: str, points: object = POINTS[:4]) -> None:
    (drive / "clouds").mkdir(parents=True, exist_ok=True)
    as_kitti(drive / "clouds" / name, np.asarray(points, float))


def write_tum(drive: Path, lines: list[str]) -> None:
    (drive / "odometry.tum").write_text("# t x y z qx qy qz qw\n" + "\n".join(lines), "ascii")


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    path = tmp_path / "drive"
    for i in (2, 0, 1):
        write_cloud(path, f"{T0 + i}.bin", [[10.0 + i, 0, 0]])
    return path


def test_clouds_are_named_by_their_nanoseconds(drive: Path) -> None:
    opened = open_drive(drive)
    assert opened.format == "clouds"
    assert opened.scans.t_ns.tolist() == [T0, T0 + 1, T0 + 2]
    block = opened.scans.read(0, 3)
    assert block.points[:, 0].tolist() == [10, 11, 12]
    assert block.scan.tolist() == [0, 1, 2]
    assert block.origin.tolist() == [[0, 0, 0]] * 3
    assert opened.odometry is None
    assert opened.heading is None
    assert opened.truth is None
    assert any("no odometry" in note for note in opened.notes)


def test_invalid_points_are_removed_and_empty_clouds_kept(drive: Path) -> None:
    nan = float("nan")
    write_cloud(drive, f"{T0}.bin", [[nan, 1, 1], [1, 2, 3], [0, 0, 0], [1, 2, float("inf")]])
    write_cloud(drive, f"{T0 + 1}.bin", np.empty((0, 3)))
    block = open_drive(drive).scans.read(0, 3)
    assert block.scan.tolist() == [0, 2]
    assert block.points.tolist() == [[1, 2, 3], [12, 0, 0]]


@pytest.mark.parametrize("kind", sorted(WRITERS))
def test_empty_clouds_of_every_format(tmp_path: Path, kind: str) -> None:
    suffix, write = WRITERS[kind]
    file = tmp_path / "drive" / "clouds" / f"{T0}{suffix}"
    file.parent.mkdir(parents=True)
    if kind in {"ply", "ply-ascii", "pcd", "pcd-ascii", "pcd-compressed"}:
        write(file, POINTS[:1])  # Open3D writes no empty cloud
        data = file.read_bytes()
        head = (
            data.index(b"end_header\n") + 11
            if suffix == ".ply"
            else data.index(b"\n", data.index(b"DATA")) + 1
        )
        data = data[:head]
        for field in (b"element vertex 1", b"POINTS 1", b"WIDTH 1"):
            data = data.replace(field, field[:-1] + b"0")
        file.write_bytes(data + (bytes(8) if kind == "pcd-compressed" else b""))
    else:
        write(file, np.empty((0, 3)))
    block = open_drive(tmp_path / "drive").scans.read(0, 1)
    assert block.points.shape == (0, 3)
    assert len(block.t_ns) == 1


def test_a_list_of_times_is_preferred_to_names(drive: Path) -> None:
    names = [f"{T0 + i}.bin" for i in range(3)]
    listing = "file,t_ns\n" + f"{names[0]},300\n{names[2]},100\ngone.bin,200\n"
    (drive / "timestamps.csv").write_text(listing, "ascii")
    opened = open_drive(drive)
    assert opened.scans.t_ns.tolist() == [100, 300]
    assert opened.scans.read(0, 2).points[:, 0].tolist() == [12, 10]
    assert any("1 cloud not in timestamps.csv" in note for note in opened.notes)
    assert any("1 of the 3 clouds listed are missing" in note for note in opened.notes)
    (drive / "timestamps.csv").write_text("file,t_ns\nother.bin,1\n", "ascii")
    with pytest.raises(MaptileError, match=r"timestamps\.csv: lists none"):
        open_drive(drive)


def test_clouds_with_frame_numbers_take_the_times_of_the_odometry(tmp_path: Path) -> None:
    for i in range(3):
        write_cloud(tmp_path, f"{i:010d}.bin", [[10.0 + i, 0, 0]])
    assert open_drive(tmp_path).apart
    write_tum(tmp_path, [f"{1317384506 + i}.5 {i} 0 0 0 0 0 1" for i in range(3)])
    opened = open_drive(tmp_path)
    assert opened.scans.t_ns.tolist() == [(1317384506 + i) * 10**9 + 5 * 10**8 for i in range(3)]
    assert opened.scans.read(0, 3).points[:, 0].tolist() == [10, 11, 12]
    write_cloud(tmp_path, "0000000003.bin")
    with pytest.raises(MaptileError, match="the times of the clouds are unknown"):
        open_drive(tmp_path)


def test_tum_times_are_exact_and_sorted(drive: Path) -> None:
    half = np.sqrt(0.5)
    write_tum(
        drive,
        [
            f"1317384506.507123457 4 5 6 0 0 {half} {half}",
            "1317384506.407123456 1 2 3 0 0 0 2",
            "1317384506.507123457 9 9 9 0 0 0 1",
            "",
        ],
    )
    track = open_drive(drive).odometry
    assert track is not None
    assert track.t_ns.tolist() == [T0, T0 + 100_000_001]
    assert np.allclose(track.poses[:, :3, 3], [[1, 2, 3], [4, 5, 6]])
    assert np.allclose(track.poses[0, :3, :3], np.eye(3))  # quaternions need not be of length 1
    assert np.allclose(track.poses[1, :3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-9)
    assert track.segment.tolist() == [0, 0]


def test_odometry_as_a_table_is_the_same(drive: Path) -> None:
    write_tum(drive, ["1317384506.4 1 2 3 0.5 0.5 0.5 0.5", "1317384507.4 4 5 6 0 0 1 0"])
    tum = open_drive(drive).odometry
    (drive / "odometry.tum").unlink()
    (drive / "odometry.csv").write_text(
        "t_ns,x,y,z,qx,qy,qz,qw\n1317384507400000000,4,5,6,0,0,1,0\n"
        "1317384506400000000,1,2,3,0.5,0.5,0.5,0.5\n",
        "ascii",
    )
    table = open_drive(drive).odometry
    assert tum is not None
    assert table is not None
    assert np.array_equal(tum.t_ns, table.t_ns)
    assert np.array_equal(tum.poses, table.poses)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "no pose in it; expected lines of eight numbers"),
        (["# a title", "1 2 3"], "line 3: expected eight numbers"),
        (["now 0 0 0 0 0 0 1"], "line 2: expected eight numbers"),
        (["1 0 0 0 0 0 0 1", "2 0 0 nan 0 0 0 1"], "line 3: expected eight numbers"),
        (["1 0 0 0 0 0 0 1 9"], "line 2: .*, found '1 0 0 0 0 0 0 1 9'"),
    ],
)
def test_a_damaged_tum_file_is_one_clear_line(drive: Path, lines: list[str], says: str) -> None:
    write_tum(drive, lines)
    with pytest.raises(MaptileError, match=rf"odometry\.tum: {says}"):
        open_drive(drive)


def test_tum_files_of_other_programs_are_read(drive: Path) -> None:
    expected = None
    for text in (
        "1317384506.407123456 1 2 3 0.5 0.5 0.5 0.5\n1317384507.4 4 5 6 0 0 1 0\n",
        "\ufeff1317384506.407123456\t1\t2\t3\t0.5\t0.5\t0.5\t0.5\r\n1317384507.4 4 5 6 0 0 1 0",
        "1317384506.407123456,1,2,3,0.5,0.5,0.5,0.5\n1317384507.4, 4, 5, 6, 0, 0, 1, 0\n",
        "  # Überschrift\n1317384506407123456 1 2 3 .5 .5 .5 .5\n1317384507400000000 4 5 6 0 0 1 0",
    ):
        (drive / "odometry.tum").write_text(text, encoding="utf-8")
        track = open_drive(drive).odometry
        assert track is not None
        expected = track if expected is None else expected
        assert track.t_ns.tolist() == [1_317_384_506_407_123_456, 1_317_384_507_400_000_000]
        np.testing.assert_array_equal(track.poses, expected.poses)


def test_a_quaternion_of_zeros_is_refused(drive: Path) -> None:
    write_tum(drive, ["1 0 0 0 0 0 0 0"])
    with pytest.raises(MaptileError, match=r"odometry\.tum: a quaternion is zero"):
        open_drive(drive)


@pytest.mark.parametrize("column", ["heading", "heading_deg"])
def test_heading_and_truth(drive: Path, column: str) -> None:
    headings = [2.0, -1.5] if column == "heading" else np.degrees([2.0, -1.5]).tolist()
    (drive / "heading.csv").write_text(
        f"t_ns,{column}\n{T0 + 5},{headings[1]}\n{T0},{headings[0]}\n", "ascii"
    )
    (drive / "truth.csv").write_text(
        f"t_ns,latitude,longitude,{column}\n{T0},51.5,-1.2,{headings[0]}\n"
        f"{T0 + 5},51.6,-1.1,{headings[1]}\n",
        "ascii",
    )
    opened = open_drive(drive)
    assert opened.heading is not None
    assert opened.truth is not None
    assert opened.heading.t_ns.tolist() == opened.truth.t_ns.tolist() == [T0, T0 + 5]
    assert np.allclose(opened.heading.heading, [2.0, -1.5])
    assert np.allclose(opened.truth.heading, [2.0, -1.5])
    assert opened.truth.latitude.tolist() == [51.5, 51.6]
    assert opened.truth.longitude.tolist() == [-1.2, -1.1]


def test_moving_the_truth_away_changes_nothing_else(drive: Path) -> None:
    write_tum(drive, [f"{1317384506 + i}.5 {i} 0 0 0 0 0 1" for i in range(3)])
    (drive / "heading.csv").write_text(f"t_ns,heading\n{T0},1\n", "ascii")
    opened = []
    for latitude in (51.5, -33.0):
        (drive / "truth.csv").write_text(
            f"t_ns,latitude,longitude,heading\n{T0},{latitude},-1.2,1\n", "ascii"
        )
        opened.append(open_drive(drive))
    here, away = opened
    assert here.truth is not None
    assert away.truth is not None
    assert here.truth.latitude[0] - away.truth.latitude[0] == 84.5
    check_same_but_truth(here, away)


def test_no_clouds_or_another_sensor_is_an_error(drive: Path) -> None:
    with pytest.raises(MaptileError, match="no sensor velodyne; choose from clouds"):
        open_drive(drive, sensors=("velodyne",))
    for file in (drive / "clouds").iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(MaptileError, match=r"no point cloud \(\.ply, \.pcd, .*\.e57\)"):
        open_drive(drive)


# --- labels and times of drives ------------------------------------------------------------------

SMALL = POINTS[:40]
CLASSES = RNG.integers(0, 20, size=len(SMALL))


def write_ply(drive: Path, name: str, points: np.ndarray = SMALL, **fields: np.ndarray) -> None:
    (drive / "clouds").mkdir(parents=True, exist_ok=True)
    cloud = o3d.t.geometry.PointCloud(np.asarray(points, np.float64))
    for field, values in fields.items():
        cloud.point[field] = np.ascontiguousarray(values)[:, None]
    assert o3d.t.io.write_point_cloud(str(drive / "clouds" / name), cloud)


def write_las(drive: Path, name: str, classes: np.ndarray) -> None:
    (drive / "clouds").mkdir(parents=True, exist_ok=True)
    las = laspy.LasData(laspy.LasHeader(point_format=6, version="1.4"))
    las.x, las.y, las.z = SMALL.T
    las.classification = classes
    las.write(drive / "clouds" / name)


def write_labels(drive: Path, stem: object, labels: np.ndarray) -> None:
    (drive / "labels").mkdir(exist_ok=True)
    (drive / "labels" / f"{stem}.label").write_bytes(labels.astype("<u4").tobytes())


def test_labels_in_the_clouds(tmp_path: Path) -> None:
    for i in range(5):
        write_ply(tmp_path, f"{T0 + i}.ply", label=((CLASSES + i) % 20).astype(np.uint8))
    drive = open_drive(tmp_path)
    assert drive.labels == "kitti360"
    label = drive.scans.read(1, 3).label
    assert label is not None
    assert label.tolist() == [*((CLASSES + 1) % 20), *((CLASSES + 2) % 20)]


def test_labels_stay_with_their_points_where_some_are_removed(tmp_path: Path) -> None:
    points = SMALL.copy()
    points[::3] = np.nan
    write_ply(tmp_path, f"{T0}.ply", points, label=CLASSES.astype(np.int32))
    block = open_drive(tmp_path).scans.read(0, 1)
    assert block.label is not None
    kept = np.isfinite(points[:, 0])
    assert block.label.tolist() == CLASSES[kept].tolist()
    assert np.allclose(block.points, points[kept], atol=1e-5)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_classes_of_las_are_those_of_asprs(tmp_path: Path, suffix: str) -> None:
    for i in range(4):
        write_las(tmp_path, f"{T0 + i}{suffix}", CLASSES if i else np.ones(40))
    drive = open_drive(tmp_path)
    assert drive.labels == "las"
    label = drive.scans.read(0, 2).label
    assert label is not None
    assert label.tolist() == [0] * 40 + CLASSES.tolist()


def test_labels_beside_the_clouds(drive: Path) -> None:
    for i in range(3):
        write_cloud(drive, f"{T0 + i}.bin", SMALL)
        write_labels(drive, T0 + i, CLASSES + 65536 * 7 * i)  # an instance in the high bits
    opened = open_drive(drive)
    assert opened.labels == "semantickitti"
    label = opened.scans.read(0, 3).label
    assert label is not None
    assert label.tolist() == 3 * CLASSES.tolist()
    (drive / "labels" / f"{T0 + 1}.label").unlink()
    opened = open_drive(drive)
    assert any("1 cloud without labels" in note for note in opened.notes)
    assert opened.scans.read(1, 2).label is None
    assert opened.scans.read(0, 2).label is None
    assert opened.scans.read(0, 1).label is not None


@pytest.mark.parametrize("cut", [4, 3])
def test_a_file_of_labels_fits_its_cloud(drive: Path, cut: int) -> None:
    for i in range(3):
        write_cloud(drive, f"{T0 + i}.bin", SMALL)
        write_labels(drive, T0 + i, CLASSES)
    file = drive / "labels" / f"{T0 + 1}.label"
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(MaptileError, match=str(file)):
        open_drive(drive).scans.read(0, 3)


def test_labels_txt_names_the_table(tmp_path: Path) -> None:
    for i in range(3):
        write_ply(tmp_path, f"{T0 + i}.ply", label=CLASSES.astype(np.uint8))
    (tmp_path / "labels.txt").write_text("nuscenes\n")
    drive = open_drive(tmp_path)
    assert drive.labels == "nuscenes"
    assert drive.scans.read(0, 1).label is not None
    (tmp_path / "labels.txt").write_text("none")
    drive = open_drive(tmp_path)
    assert drive.labels is None
    assert drive.scans.read(0, 1).label is None
    for wrong in ("two words", "", "\xe4", "x" * 99):
        (tmp_path / "labels.txt").write_text(wrong, "latin-1")
        with pytest.raises(MaptileError, match=r"labels\.txt: expected one word"):
            open_drive(tmp_path)


def test_a_table_named_without_labels_is_noted(drive: Path) -> None:
    (drive / "labels.txt").write_text("las")
    opened = open_drive(drive)
    assert opened.labels is None
    assert opened.scans.read(0, 3).label is None
    assert any("names las, but there are no labels" in note for note in opened.notes)


def test_mixed_drives_are_one_clear_line(tmp_path: Path) -> None:
    labelled = CLASSES.astype(np.uint8)
    for kind in ("none", "late", "las"):
        for i in range(9):
            write_ply(tmp_path / kind, f"{T0 + i}.ply", label=labelled)
    write_ply(tmp_path / "none", f"{T0 + 8}.ply")
    (tmp_path / "las" / "clouds" / f"{T0}.ply").unlink()
    write_las(tmp_path / "las", f"{T0}.las", CLASSES)
    for kind in ("none", "las"):
        with pytest.raises(MaptileError, match=r"labels\.txt"):
            open_drive(tmp_path / kind)
    # It is not one of the clouds that are read when the drive is opened.
    write_ply(tmp_path / "late", f"{T0 + 1}.ply")
    drive = open_drive(tmp_path / "late")
    assert drive.scans.read(0, 1).label is not None
    with pytest.raises(MaptileError, match=rf"{T0 + 1}\.ply: some clouds"):
        drive.scans.read(0, 9)
    # With labels.txt, the points of a cloud without labels are 0.
    (tmp_path / "late" / "labels.txt").write_text("kitti360")
    label = open_drive(tmp_path / "late").scans.read(1, 3).label
    assert label is not None
    assert label.tolist() == [0] * 40 + CLASSES.tolist()


def test_labels_in_two_places_are_one_clear_line(tmp_path: Path) -> None:
    write_ply(tmp_path, f"{T0}.ply", label=CLASSES.astype(np.uint8))
    write_labels(tmp_path, T0, CLASSES + 1)
    with pytest.raises(MaptileError, match="both in the clouds and in labels/"):
        open_drive(tmp_path)
    (tmp_path / "labels.txt").write_text("semantickitti")
    label = open_drive(tmp_path).scans.read(0, 1).label
    assert label is not None
    assert label.tolist() == (CLASSES + 1).tolist()


def test_times_of_points(tmp_path: Path) -> None:
    sweep = np.linspace(0, 0.1, 40)
    write_ply(tmp_path, f"{T0}.ply", time=sweep)
    write_ply(tmp_path, f"{T0 + 10**8}.ply", time=1e3 * sweep)  # an unknown unit
    drive = open_drive(tmp_path)
    assert any("clouds are motion-compensated" in note for note in drive.notes)
    blocks = [drive.scans.read(i, i + 1) for i in range(2)]
    assert blocks[0].seconds is not None
    assert np.allclose(blocks[0].seconds, sweep, atol=1e-6)
    assert blocks[1].seconds is not None
    assert not blocks[1].seconds.any()


def test_without_times_there_is_no_motion_compensation(drive: Path) -> None:
    opened = open_drive(drive)
    assert opened.scans.read(0, 3).seconds is None
    assert not any("motion" in note for note in opened.notes)


# --- frames --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [[620_000.0, 5_736_000.0, 60.0], [0.0, -1200.0, 0.0]])
def test_clouds_of_a_map_are_refused(tmp_path: Path, place: list[float]) -> None:
    for i in range(3):
        write_ply(tmp_path, f"{T0 + i}.ply", SMALL + place)
    with pytest.raises(MaptileError, match=r"in the sensor's frame.*Transform each cloud") as error:
        open_drive(tmp_path)
    assert "\n" not in str(error.value)


def test_clouds_in_a_map_frame_are_refused_when_read_far_from_the_start(tmp_path: Path) -> None:
    for i in range(9):
        write_ply(tmp_path, f"{T0 + i}.ply", SMALL + [1200.0 * (i == 5), 0, 0])
    scans = open_drive(tmp_path).scans
    assert len(scans.read(0, 5).points)
    with pytest.raises(MaptileError, match=rf"{T0 + 5}\.ply: its points are 1\d\d\d m"):
        scans.read(5, 6)


@pytest.mark.parametrize("placed", [False, True])
def test_clouds_around_the_odometry_position_are_refused(tmp_path: Path, placed: bool) -> None:
    """Scans in a map's frame, as mapping programs write them, also near the start."""
    for i in range(3):
        write_ply(tmp_path, f"{T0 + i * 10**9}.ply", SMALL + [250.0 * i * placed, 0, 0])
    seconds = [f"{(T0 + i * 10**9) / 1e9:.9f}" for i in range(3)]
    write_tum(tmp_path, [f"{t} {250 * i} 0 0 0 0 0 1" for i, t in enumerate(seconds)])
    if placed:
        with pytest.raises(MaptileError, match="around the odometry's position, 250 m from"):
            open_drive(tmp_path)
    else:
        assert len(open_drive(tmp_path).scans.read(0, 3).points) == 120


def test_organised_clouds_with_few_returns_are_accepted(tmp_path: Path) -> None:
    """Clouds of a depth camera: most points are NaN, and some are far."""
    points = np.full((4000, 3), np.nan)
    points[::7] = RNG.uniform(-50, 50, size=(572, 3))
    points[1::70] = 1e9
    write_ply(tmp_path, f"{T0}.ply", points)
    write_ply(tmp_path, f"{T0 + 1}.ply", np.full((10, 3), np.nan))
    block = open_drive(tmp_path).scans.read(0, 2)
    assert (block.scan == 0).sum() == 572 + 58
    assert not (block.scan == 1).any()


def test_one_damaged_cloud_does_not_stop_the_others(drive: Path) -> None:
    (drive / "clouds" / f"{T0}.bin").write_bytes(b"123")
    scans = open_drive(drive).scans
    assert len(scans.read(1, 3).points) == 2
    with pytest.raises(MaptileError, match=rf"{T0}\.bin"):
        scans.read(0, 1)


@pytest.mark.realdata
def test_frames_of_kitti_360_in_the_world_are_refused(data_dir: Path, tmp_path: Path) -> None:
    frames = sorted((data_dir / "kitti360_0000/clouds").iterdir())
    (tmp_path / "clouds").mkdir()
    for i, frame in enumerate(frames):
        (tmp_path / "clouds" / f"{T0 + i}.ply").symlink_to(frame)
    with pytest.raises(MaptileError, match="in the sensor's frame"):
        open_drive(tmp_path)


def test_a_drive_in_an_archive_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "drive"
    sweep = np.linspace(0, 0.1, 40)
    for i, suffix in enumerate((".ply", ".las", ".bin", ".laz", ".pcd")):
        name = f"{T0 + i}{suffix}"
        if suffix in (".las", ".laz"):
            write_las(path, name, CLASSES)
        elif suffix == ".bin":
            write_cloud(path, name, SMALL)
        else:
            write_ply(path, name, time=sweep)
        write_labels(path, T0 + i, CLASSES + i)
    (path / "labels.txt").write_text("semantickitti")
    write_tum(path, [f"{1317384506 + i}.5 {i} 0 0 0 0 0 1" for i in range(3)])
    with zipfile.ZipFile(tmp_path / "drive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path.rglob("*")):
            archive.write(file, file.relative_to(tmp_path))
    here, packed = open_drive(path), open_drive(tmp_path / "drive.zip")
    assert (packed.format, packed.labels) == ("clouds", "semantickitti")
    one, other = here.scans.read(0, 5), packed.scans.read(0, 5)
    assert len(one.points) == 200
    for name in ("t_ns", "points", "scan", "label", "seconds"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert here.odometry is not None
    assert packed.odometry is not None
    assert np.array_equal(here.odometry.poses, packed.odometry.poses)
    assert here.notes == packed.notes
