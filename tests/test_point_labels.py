from __future__ import annotations

import io
import struct
from pathlib import Path

import laspy
import lazrs
import numpy as np
import open3d as o3d
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_checks import EDITS, edited, fuzz

from data_prep.errors import MaptileError
from data_prep.sources.points.las_files import MAX_PACKED_POINTS, read_las
from data_prep.sources.points.pointfiles import read_cloud

T0 = 1_317_384_506_407_123_456
RNG = np.random.default_rng(5)
POINTS = RNG.uniform(-50, 50, size=(40, 3))
CLASSES = RNG.integers(0, 20, size=40)
NAN = float("nan")


def write_ply(file: Path, **fields: np.ndarray) -> None:
    """A binary .ply of points with more properties, named and typed as given."""
    names = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int", "u4": "uint"}
    rows = np.zeros(
        len(POINTS), [(n, "<f4") for n in "xyz"] + [(n, v.dtype) for n, v in fields.items()]
    )
    for axis, name in enumerate("xyz"):
        rows[name] = POINTS[:, axis]
    for name, values in fields.items():
        rows[name] = values
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    head += [f"property {names[rows.dtype[n].str[1:]]} {n}" for n in rows.dtype.names or ()]
    file.write_bytes(("\n".join([*head, "end_header"]) + "\n").encode() + rows.tobytes())


def write_pcd(file: Path, name: str, values: np.ndarray, binary: bool, count: int = 1) -> None:
    kind, size = {"i": "I", "u": "U", "f": "F"}[values.dtype.kind], values.dtype.itemsize
    head = (
        f"FIELDS x y z {name}\nSIZE 4 4 4 {size}\nTYPE F F F {kind}\nCOUNT 1 1 1 {count}\n"
        f"WIDTH {len(values)}\nHEIGHT 1\nPOINTS {len(values)}\nDATA "
    )
    if binary:
        rows = [
            p.tobytes() + v.tobytes() for p, v in zip(POINTS.astype("<f4"), values, strict=True)
        ]
        file.write_bytes(f"{head}binary\n".encode() + b"".join(rows))
    else:
        pairs = zip(POINTS.tolist(), values.reshape(len(values), -1).tolist(), strict=True)
        lines = [" ".join(map(repr, [*point, *value])) for point, value in pairs]
        file.write_text(f"{head}ascii\n" + "\n".join(lines) + "\n", "ascii")


def las_bytes(point_format: int, packed: bool, extra: bool = False, flags: bool = False) -> bytes:
    header = laspy.LasHeader(
        point_format=point_format,
        version="1.4" if point_format > 5 else "1.3" if point_format > 3 else "1.2",
    )
    header.scales = np.full(3, 0.001)
    header.offsets = np.array([10.0, -20.0, 3.0])
    if extra:
        header.add_extra_dim(laspy.ExtraBytesParams("more", "f4"))
    las = laspy.LasData(header)
    las.x, las.y, las.z = POINTS.T
    las.classification = CLASSES
    if flags:
        las.synthetic = las.withheld = np.ones(len(POINTS), np.uint8)
    if "gps_time" in header.point_format.dimension_names:
        las.gps_time = np.linspace(0.0, 0.1, len(POINTS))
    stream = io.BytesIO()
    las.write(stream, do_compress=packed, laz_backend=laspy.LazBackend.Lazrs if packed else None)
    return stream.getvalue()


# --- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("label", "u1"),
        ("semantic", "<i4"),
        ("class", "<u4"),
        ("Classification", "<f4"),
        ("scalar_Label", "<f4"),
        ("scalar_classification", "<f8"),
    ],
)
def test_labels_of_ply(tmp_path: Path, name: str, kind: str) -> None:
    write_ply(
        tmp_path / "a.ply", intensity=POINTS[:, 0].astype("f4"), **{name: CLASSES.astype(kind)}
    )
    cloud = read_cloud(tmp_path / "a.ply")
    assert cloud.label is not None
    assert cloud.label.dtype == np.int32
    assert np.array_equal(cloud.label, CLASSES)
    assert np.allclose(cloud.points, POINTS, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["u1", "<i4", "<f4"])
def test_labels_of_pcd(tmp_path: Path, binary: bool, kind: str) -> None:
    write_pcd(tmp_path / "a.pcd", "label", CLASSES.astype(kind), binary)
    cloud = read_cloud(tmp_path / "a.pcd")
    assert cloud.label is not None
    assert np.array_equal(cloud.label, CLASSES)
    assert np.allclose(cloud.points, POINTS, atol=1e-5)


@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
@pytest.mark.parametrize("ascii_text", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_labels_as_open3d_writes_them(
    tmp_path: Path, suffix: str, ascii_text: bool, compressed: bool
) -> None:
    cloud = o3d.t.geometry.PointCloud(POINTS.astype(np.float32))
    cloud.point["label"] = CLASSES.astype(np.int32)[:, None]
    file = tmp_path / f"a{suffix}"
    assert o3d.t.io.write_point_cloud(
        str(file), cloud, write_ascii=ascii_text, compressed=compressed
    )
    got = read_cloud(file)
    assert got.label is not None
    assert np.array_equal(got.label, CLASSES)
    assert np.allclose(got.points, POINTS, atol=1e-4)


def test_a_label_that_is_nan_is_0(tmp_path: Path) -> None:
    values = np.where(CLASSES > 10, NAN, CLASSES)
    write_ply(tmp_path / "a.ply", scalar_Label=values.astype("<f4"))
    label = read_cloud(tmp_path / "a.ply").label
    assert label is not None
    assert np.array_equal(label, np.where(CLASSES > 10, 0, CLASSES))


@pytest.mark.parametrize("value", [0.5, 2.0**31, -(2.0**40), float("inf")])
def test_numbers_out_of_range_are_not_labels(tmp_path: Path, value: float) -> None:
    values = CLASSES.astype("<f8")
    values[3] = value
    write_ply(tmp_path / "a.ply", label=values)
    assert read_cloud(tmp_path / "a.ply").label is None


@pytest.mark.parametrize("binary", [True, False])
def test_a_field_of_several_numbers_is_not_a_label(tmp_path: Path, binary: bool) -> None:
    write_pcd(tmp_path / "a.pcd", "label", RNG.random((40, 3)).astype("<f4"), binary, count=3)
    cloud = read_cloud(tmp_path / "a.pcd")
    assert cloud.label is None
    assert np.allclose(cloud.points, POINTS, atol=1e-5)


# --- times ---------------------------------------------------------------------------------------

SWEEP = np.linspace(0.0, 0.1, 40)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("time", SWEEP.astype("<f4"), SWEEP),
        ("time", (SWEEP - 0.1).astype("<f4"), SWEEP - 0.1),
        ("t", (SWEEP * 1e9).astype("<u4"), SWEEP),
        ("offset_ns", (SWEEP * 1e9).astype("<i4"), SWEEP),
        ("offset_time", (SWEEP * 1e9).astype("<u4"), SWEEP),
        ("timestamp", T0 / 1e9 + SWEEP, SWEEP),
        ("gps_time", T0 / 1e9 + SWEEP - 0.7, SWEEP - 0.7),
        ("scalar_Time", np.where(SWEEP > 0.09, NAN, SWEEP), np.where(SWEEP > 0.09, 0, SWEEP)),
        # Milliseconds, microseconds; parts of a sweep; another clock; float32 since 1970; no time.
        ("time", SWEEP * 1e3, None),
        ("t", (SWEEP * 1e6).astype("<u4"), None),
        ("time", SWEEP * 10, None),
        ("timestamp", T0 / 1e9 + SWEEP + 18, None),
        ("gps_time", 345_600.0 + SWEEP, None),
        ("timestamp", (T0 / 1e9 + SWEEP).astype("<f4"), None),
        ("time", np.zeros(40), None),
        ("time", np.full(40, NAN), None),
        ("time", np.where(SWEEP > 0.05, 1e308, -1e308), None),
        ("moment", SWEEP, None),
    ],
)
def test_times_of_points(
    tmp_path: Path, name: str, values: np.ndarray, expected: np.ndarray | None
) -> None:
    write_ply(tmp_path / "a.ply", **{name: values})
    seconds = read_cloud(tmp_path / "a.ply", T0).seconds
    if expected is None:
        assert seconds is None
    else:
        assert seconds is not None
        assert seconds.dtype == np.float32
        assert np.allclose(seconds, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["<i8", "<u8", "<f8"])
def test_times_since_1970_in_pcd(tmp_path: Path, binary: bool, kind: str) -> None:
    whole = kind != "<f8"
    stamps = T0 + (SWEEP * 1e9).astype(np.int64) if whole else T0 / 1e9 + SWEEP
    write_pcd(tmp_path / "a.pcd", "timestamp", stamps.astype(kind), binary)
    seconds = read_cloud(tmp_path / "a.pcd", T0).seconds
    assert seconds is not None
    assert np.allclose(seconds, SWEEP, rtol=0, atol=1e-6)
    assert read_cloud(tmp_path / "a.pcd").seconds is None
    assert read_cloud(tmp_path / "a.pcd", T0 + 2 * 10**9).seconds is None


def test_t_beside_s_is_a_texture_coordinate(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", s=SWEEP.astype("<f4"), t=SWEEP.astype("<f4"))
    assert read_cloud(tmp_path / "a.ply").seconds is None


# --- LAS and LAZ ---------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("point_format", range(11))
def test_every_point_format_is_read_as_laspy_does(
    point_format: int, extra: bool, packed: bool
) -> None:
    data = las_bytes(point_format, packed, extra, flags=True)
    theirs = laspy.read(io.BytesIO(data))
    points, classes, times = read_las(data)
    assert np.array_equal(points, np.stack([theirs.x, theirs.y, theirs.z], axis=1))
    assert np.array_equal(classes, CLASSES)
    assert (times is None) == (point_format in (0, 2))
    if times is not None:
        assert np.array_equal(times, theirs.gps_time)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_classes_and_times_of_las(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(las_bytes(6, suffix == ".laz"))
    cloud = read_cloud(tmp_path / f"a{suffix}")
    assert cloud.label is not None
    assert cloud.label.dtype == np.int32
    assert np.array_equal(cloud.label, CLASSES)
    assert cloud.seconds is not None
    assert np.allclose(cloud.seconds, SWEEP, atol=1e-7)


def test_a_file_in_which_nothing_is_classified_has_no_labels(tmp_path: Path) -> None:
    las = laspy.read(io.BytesIO(las_bytes(3, packed=False)))
    las.classification = CLASSES % 2
    las.write(tmp_path / "a.las")
    assert read_cloud(tmp_path / "a.las").label is None
    las.classification[5] = 2
    las.write(tmp_path / "a.las")
    label = read_cloud(tmp_path / "a.las").label
    assert label is not None
    assert label[5] == 2


def test_more_points_than_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.sources.points.las_files.POINTS_AT_ONCE", 7)
    for packed in (False, True):
        points, classes, _ = read_las(las_bytes(7, packed))
        assert np.allclose(points, POINTS, atol=6e-4)
        assert np.array_equal(classes, CLASSES)


@pytest.mark.parametrize("point_format", [3, 6])
def test_chunks_of_many_sizes(point_format: int) -> None:
    """Chunks of several sizes, as in COPC files."""
    data = las_bytes(point_format, packed=False)
    start, record = struct.unpack_from("<I", data, 96)[0], struct.unpack_from("<H", data, 105)[0]
    vlr = lazrs.LazVlr.new_for_compression(point_format, 0, True)
    body = vlr.record_data()
    head = bytearray(data[:start])
    struct.pack_into("<II", head, 96, start + 54 + len(body), 1)
    head[104] |= 0x80
    head += struct.pack("<2x16sHH32x", b"laszip encoded", 22204, len(body)) + body
    stream = io.BytesIO(bytes(head))
    stream.seek(len(head))
    writer = lazrs.LasZipCompressor(stream, vlr)
    for first, last in ((0, 3), (3, 30), (30, 40)):
        writer.compress_many(data[start + first * record : start + last * record])
        writer.finish_current_chunk()
    writer.done()
    points, classes, _ = read_las(stream.getvalue())
    assert np.allclose(points, POINTS, atol=6e-4)
    assert np.array_equal(classes, CLASSES)
    wrong = bytearray(stream.getvalue())
    count_at = 107 if point_format < 6 else 247
    wrong[count_at] = 41
    with pytest.raises(ValueError, match="chunks do not add up"):
        read_las(bytes(wrong))


@pytest.mark.parametrize("point_format", [3, 6])
@pytest.mark.parametrize(
    ("count", "says"),
    [(2**32 - 1, "more than"), (MAX_PACKED_POINTS + 1, "more than"), (50_001, "table of chunks")],
)
def test_a_few_bytes_that_declare_many_points(point_format: int, count: int, says: str) -> None:
    data = bytearray(las_bytes(point_format, packed=True))
    struct.pack_into("<I", data, 107, count)
    if point_format == 6:
        struct.pack_into("<Q", data, 247, count)
    with pytest.raises(ValueError, match=says):
        read_las(bytes(data))


def test_a_few_bytes_that_declare_many_chunks_or_layers() -> None:
    data = las_bytes(6, packed=True)
    (start,) = struct.unpack_from("<I", data, 96)
    (table,) = struct.unpack_from("<q", data, start)
    for at, says in ((table + 4, "table of chunks"), (start + 8 + 30 + 4, "a chunk of points")):
        wrong = bytearray(data)
        struct.pack_into("<I", wrong, at, 2**32 - 1)
        with pytest.raises(ValueError, match=says):
            read_las(bytes(wrong))


def test_the_offset_of_the_chunk_table_may_be_at_the_end() -> None:
    """As written by a program that cannot seek in its output."""
    data = bytearray(las_bytes(3, packed=True))
    (start,) = struct.unpack_from("<I", data, 96)
    table = bytes(data[start : start + 8])
    struct.pack_into("<q", data, start, -1)
    assert np.allclose(read_las(bytes(data) + table)[0], POINTS, atol=6e-4)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@fuzz(150)
@given(
    point_format=st.sampled_from([3, 7]),
    edits=EDITS,
    keep=st.floats(0.9, 1.0),
)
def test_damage_gives_points_or_one_clear_line(
    tmp_path: Path,
    suffix: str,
    point_format: int,
    edits: list[tuple[float, bytes]],
    keep: float,
) -> None:
    data = edited(las_bytes(point_format, suffix == ".laz"), edits)
    file = tmp_path / f"a{suffix}"
    file.write_bytes(data[: int(keep * len(data))])
    try:
        cloud = read_cloud(file, T0)
    except MaptileError as error:
        assert str(file) in str(error)
        assert "\n" not in str(error)
    else:
        assert cloud.points.shape[1] == 3
        assert cloud.label is None or len(cloud.label) == len(cloud.points)
        assert cloud.seconds is None or len(cloud.seconds) == len(cloud.points)
