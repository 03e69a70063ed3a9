"""Drives in ROS bags: ROS 1, db3 and mcap, and clouds of any layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_bag import BagMaker
from reader_checks import arrays, check_same, damaged, fuzz, read
from scipy.spatial.transform import Rotation

from data_prep.errors import MaptileError
from data_prep.sources import detect_format, open_drive
from data_prep.sources.ros.pointcloud2 import livox_points, point_times

T0 = 1_700_000_000_000_000_000
STEP_NS = 100_000_000
SCANS = 6
KINDS = ("ros1", "db3", "mcap")
LAYOUTS = ("ouster", "velodyne", "hesai")


def cloud_of(scan: int, layout: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Records in a driver's layout, and their (N, 3) points and (N,) seconds since the scan."""
    rng = np.random.default_rng(scan)
    count = 128
    xyz = rng.uniform(-40, 40, (count, 3)).astype(np.float32)
    seconds = np.linspace(0, 0.0996, count)
    names = ["x", "y", "z"]
    if layout == "ouster":  # organised, time in ns, a hole between the fields
        names += ["intensity", "t"]
        spec = (["<f4"] * 4 + ["<u4"], [0, 4, 8, 16, 20], 48)
        stamp = np.round(seconds * 1e9)
    elif layout == "velodyne":  # seconds before the end of the scan
        names += ["intensity", "ring", "time"]
        spec = (["<f4"] * 4 + ["<u2", "<f4"], [0, 4, 8, 12, 16, 18], 22)
        seconds = seconds - seconds[-1]
        stamp = seconds
    else:  # fields in another order, double precision, time since 1970
        names = ["timestamp", "z", "y", "x"]
        spec = (["<f8", "<f8", "<f8", "<f8"], [0, 8, 16, 24], 32)
        stamp = (T0 + scan * STEP_NS) * 1e-9 + seconds
    dtype = np.dtype({"names": names, "formats": spec[0], "offsets": spec[1], "itemsize": spec[2]})
    table = np.zeros(count, dtype)
    for name, column in zip("xyz", xyz.T, strict=True):
        table[name] = column
    table[names[-1] if layout != "hesai" else "timestamp"] = stamp
    return (table.reshape(8, 16) if layout == "ouster" else table), xyz, seconds


def pose_of(scan: int) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("z", 0.05 * scan).as_matrix()
    pose[:3, 3] = [1.5 * scan, 0.1 * scan, 0.02 * scan]
    return pose


MOUNT = np.eye(4)
MOUNT[:3, :3] = Rotation.from_euler("zyx", [0.3, 0.1, 0.02]).as_matrix()
MOUNT[:3, 3] = [1.2, -0.3, 1.9]


def make(
    folder: Path, kind: str, layout: str = "ouster", packed: str | None = None, **how: object
) -> Path:
    with BagMaker(folder, kind, packed) as bag:
        half = MOUNT.copy()
        half[:3, :3] = np.eye(3)
        turn = np.eye(4)
        turn[:3, :3] = MOUNT[:3, :3]
        bag.transform("/tf_static", T0 - 1, "base_link", "/mast", half)
        bag.transform("/tf_static", T0 - 1, "mast", "lidar", turn)
        for scan in range(SCANS):
            t_ns = T0 + scan * STEP_NS
            table, _, _ = cloud_of(scan, layout)
            bag.odometry("/odom", t_ns - 5_000_000, pose_of(scan), "base_link")
            bag.cloud("/points", t_ns, "lidar", table, record_ns=t_ns + 40_000_000, **how)
    return bag.path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bag_is_the_drive_that_was_recorded(tmp_path: Path, kind: str, layout: str) -> None:
    path = make(tmp_path, kind, layout)
    drive = open_drive(path)
    assert drive.format == "rosbag"
    np.testing.assert_array_equal(drive.scans.t_ns, T0 + STEP_NS * np.arange(SCANS))
    assert drive.odometry is not None
    assert drive.truth is None
    np.testing.assert_allclose(drive.odometry.poses[3], pose_of(3), atol=1e-6)
    np.testing.assert_array_equal(drive.odometry.t_ns, drive.scans.t_ns - 5_000_000)
    block = drive.scans.read(2, 5)
    for scan in range(3):
        _, xyz, seconds = cloud_of(scan + 2, layout)
        mine = block.scan == scan
        expected = xyz.astype(np.float64) @ MOUNT[:3, :3].T + MOUNT[:3, 3]
        np.testing.assert_allclose(block.points[mine], expected, atol=1e-4)
        assert block.seconds is not None
        np.testing.assert_allclose(block.seconds[mine], seconds, atol=1e-6)
        np.testing.assert_allclose(block.origin[scan], MOUNT[:3, 3], atol=1e-6)
    assert any(note.startswith("/points: times of points") for note in drive.notes)


@pytest.mark.parametrize("how", [{"padding": 12}, {"big": True}], ids=["padded rows", "big endian"])
@pytest.mark.parametrize("kind", ["ros1", "mcap"])
def test_rows_may_be_padded_and_bytes_swapped(tmp_path: Path, kind: str, how: dict) -> None:
    plain = open_drive(make(tmp_path, kind)).scans.read(0, SCANS)
    (tmp_path / "other").mkdir()
    other = open_drive(make(tmp_path / "other", kind, **how)).scans.read(0, SCANS)
    np.testing.assert_array_equal(plain.points, other.points)
    np.testing.assert_array_equal(plain.seconds, other.seconds)


def test_all_kinds_of_bags_give_the_same_bits(tmp_path: Path) -> None:
    blocks = [open_drive(make(tmp_path, kind)).scans.read(0, SCANS) for kind in KINDS]
    for block in blocks[1:]:
        np.testing.assert_array_equal(block.points, blocks[0].points)
        np.testing.assert_array_equal(block.seconds, blocks[0].seconds)


@pytest.mark.parametrize(
    ("kind", "packed"), [("ros1", "lz4"), ("ros1", "bz2"), ("db3", "message"), ("db3", "file")]
)
def test_packed_bags_give_the_same_bits(tmp_path: Path, kind: str, packed: str) -> None:
    plain = open_drive(make(tmp_path, kind))
    (tmp_path / "packed").mkdir()
    drive = open_drive(make(tmp_path / "packed", kind, packed=packed))
    check_same(arrays(plain), arrays(drive))
    assert drive.notes == plain.notes


@pytest.mark.parametrize("kind", KINDS)
def test_opening_a_bag_reads_one_cloud_only(tmp_path: Path, kind: str) -> None:
    """Of the others it needs the headers; the kernel counts the bytes that a process reads."""
    table = np.zeros(100_000, [(axis, "<f4") for axis in "xyz"])
    table["x"] = 5.0
    with BagMaker(tmp_path, kind) as bag:
        for scan in range(SCANS):
            bag.cloud("/points", T0 + scan * STEP_NS, "lidar", table)
    open_drive(make(_new(tmp_path), kind))  # modules are read, too
    before = bytes_read()
    drive = open_drive(bag.path)
    assert bytes_read() - before < 3 * table.nbytes
    assert len(drive.scans.read(0, SCANS).points) == SCANS * len(table)


def bytes_read() -> int:
    counters = Path("/proc/self/io")
    if not counters.is_file():
        pytest.skip("the kernel counts no bytes here")
    return int(counters.read_text().split()[1])


def test_single_files_of_ros2_are_bags(tmp_path: Path) -> None:
    for kind in ("db3", "mcap"):
        folder = make(tmp_path, kind)
        file = next(folder.glob(f"*.{kind}"))
        assert detect_format(folder) == "rosbag"
        np.testing.assert_array_equal(
            open_drive(file).scans.read(0, 2).points, open_drive(folder).scans.read(0, 2).points
        )


def test_another_folder_with_metadata_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / "clouds").mkdir()
    (tmp_path / "metadata.yaml").write_text("sensor: lidar")
    assert detect_format(tmp_path) == "clouds"


def test_messages_recorded_late_or_twice_are_sorted_by_their_stamps(tmp_path: Path) -> None:
    with BagMaker(tmp_path, "ros1") as bag:
        for place, scan in enumerate([1, 0, 2, 2, 3]):
            table, _, _ = cloud_of(scan, "ouster")
            record = T0 + place * STEP_NS
            bag.cloud("/points", T0 + scan * STEP_NS, "lidar", table, record_ns=record)
    scans = open_drive(bag.path).scans
    np.testing.assert_array_equal(scans.t_ns, T0 + STEP_NS * np.arange(4))
    whole = scans.read(0, 4)
    assert np.bincount(whole.scan).tolist() == [128] * 4
    for scan in range(4):
        one = scans.read(scan, scan + 1)
        np.testing.assert_array_equal(one.points, whole.points[whole.scan == scan])
        np.testing.assert_allclose(one.points, cloud_of(scan, "ouster")[1], atol=1e-6)


def test_without_stamps_the_time_of_the_record_counts(tmp_path: Path) -> None:
    with BagMaker(tmp_path, "db3") as bag:
        for scan in range(3):
            table, _, _ = cloud_of(scan, "ouster")
            bag.cloud("/points", 0, "lidar", table, record_ns=T0 + scan)
    np.testing.assert_array_equal(open_drive(bag.path).scans.t_ns, T0 + np.arange(3))


def test_odometry_may_be_a_transform(tmp_path: Path) -> None:
    with BagMaker(tmp_path, "mcap") as bag:
        for scan in range(SCANS):
            t_ns = T0 + scan * STEP_NS
            bag.transform("/tf", t_ns, "odom", "base_link", pose_of(scan))
            bag.transform("/tf", t_ns, "base_link", "wheel", pose_of(scan))
            bag.cloud("/points", t_ns, "base_link", cloud_of(scan, "ouster")[0])
    drive = open_drive(bag.path)
    assert drive.odometry is not None
    np.testing.assert_allclose(drive.odometry.poses[4], pose_of(4), atol=1e-6)
    assert "odometry: the transforms of base_link in tf" in drive.notes


def test_where_several_topics_would_do_the_choice_is_reported_and_changed(tmp_path: Path) -> None:
    with BagMaker(tmp_path, "ros1") as bag:
        for scan in range(SCANS):
            t_ns = T0 + scan * STEP_NS
            bag.cloud("/many", t_ns, "lidar", cloud_of(scan, "ouster")[0])
            if scan % 2:
                bag.cloud("/few", t_ns + 7, "other", cloud_of(scan, "velodyne")[0])
    drive = open_drive(bag.path)
    assert len(drive.scans.t_ns) == SCANS
    assert any("point clouds of /many; others are /few" in note for note in drive.notes)
    few = open_drive(bag.path, sensors=("/few",))
    np.testing.assert_array_equal(few.scans.t_ns, T0 + STEP_NS * np.array([1, 3, 5]) + 7)
    both = open_drive(bag.path, sensors=("/few", "/many"))
    assert len(both.scans.t_ns) == SCANS + SCANS // 2
    block = both.scans.read(1, 3)  # one of each
    assert len(np.unique(block.t_ns % 10)) == 2
    with pytest.raises(MaptileError, match="no topic /none; there are /few, /many"):
        open_drive(bag.path, sensors=("/none",))


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    path = make(tmp_path, "ros1")
    cut = tmp_path / "cut.bag"
    cut.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(MaptileError, match="not readable as a bag"):
        open_drive(cut)
    (tmp_path / "text.mcap").write_text("no bag")
    with pytest.raises(MaptileError, match="not readable as a bag"):
        open_drive(tmp_path / "text.mcap")
    with BagMaker(_new(tmp_path), "db3") as bag:
        bag.odometry("/odom", T0, np.eye(4), "base_link")
    with pytest.raises(MaptileError, match="no topic with point clouds"):
        open_drive(bag.path)
    with BagMaker(_new(tmp_path), "mcap") as bag:
        bag.cloud("/flat", T0, "lidar", np.zeros(3, [("x", "<f4"), ("y", "<f4")]))
    with pytest.raises(MaptileError, match=r"/flat at .* without a field z"):
        open_drive(bag.path)


def _new(folder: Path) -> Path:
    made = folder / f"bag{len(list(folder.iterdir()))}"
    made.mkdir()
    return made


@settings(max_examples=60, deadline=None)
@given(
    unit=st.sampled_from([1.0, 1e-3, 1e-6, 1e-9]),
    length=st.floats(0.02, 0.4),
    absolute=st.booleans(),
    shift=st.floats(-1.0, 0.0),
)
def test_the_unit_and_origin_of_times_follow_from_their_range(
    unit: float, length: float, absolute: bool, shift: float
) -> None:
    seconds = np.linspace(0, length, 50) + shift * length
    values = (seconds + (T0 * 1e-9 if absolute else 0)) / unit
    found, clock = point_times(values, T0, "t")
    assert found is not None
    # A float64 resolves 2023 to a quarter of a microsecond.
    np.testing.assert_allclose(found, seconds, atol=1e-6 if absolute else 1e-9)
    assert ("1970" in clock) == absolute


def test_times_that_last_no_scan_are_left_out() -> None:
    assert point_times(np.zeros(10), T0, "t") == (None, "")
    assert point_times(np.linspace(0, 20, 10), T0, "t")[0] is not None  # 20 ms
    assert point_times(np.array([np.nan, np.nan]), T0, "t")[0] is None


@pytest.mark.parametrize("ros1", [True, False])
@pytest.mark.parametrize("frame", ["", "livox", "livox_frame"])
def test_livox_messages_are_read_as_they_are_aligned(ros1: bool, frame: str) -> None:
    """The bytes are put together by hand, after the definitions of ROS 1 and of CDR."""
    xyz = np.random.default_rng(0).uniform(-9, 9, (5, 3)).astype(np.float32)
    raw = bytearray(b"" if ros1 else b"\x00\x01\x00\x00")

    def put(value: np.generic, align: int = 1) -> None:
        while not ros1 and (len(raw) - 4) % align:
            raw.append(0)
        raw.extend(value.tobytes())

    for number in ([0] if ros1 else []) + [1, 2]:
        put(np.uint32(number), 4)
    text = frame.encode() + (b"" if ros1 else b"\0")
    put(np.uint32(len(text)), 4)
    raw.extend(text)
    begin = len(raw)
    put(np.uint64(77), 8)
    put(np.uint32(5), 4)
    raw.extend(b"\x01\0\0\0")
    put(np.uint32(5), 4)
    for number, point in enumerate(xyz):
        put(np.uint32(number * 20_000_000), 4)
        for value in point:
            put(value, 4)
        raw.extend(b"\x09\x08\x07")
    points = livox_points(bytes(raw), begin, ros1)
    np.testing.assert_array_equal(points.xyz, xyz.astype(np.float64))
    assert points.seconds is not None
    np.testing.assert_allclose(points.seconds, np.arange(5) * 0.02)
    with pytest.raises(ValueError, match="cut short"):
        livox_points(bytes(raw)[:-8], begin, ros1)


SIGNALLING_NAN = np.frombuffer(bytes.fromhex("000000000000f47f"))[0]


@pytest.mark.parametrize("shift_m", [1e250, -2e6, 150.0, SIGNALLING_NAN, np.inf])
def test_no_sensor_is_far_from_its_vehicle(tmp_path: Path, shift_m: float) -> None:
    mount = MOUNT.copy()
    mount[1, 3] = shift_m
    with BagMaker(tmp_path, "mcap") as bag:
        bag.transform("/tf_static", T0 - 1, "base_link", "lidar", mount)
        bag.odometry("/odom", T0, pose_of(0), "base_link")
        bag.cloud("/points", T0, "lidar", cloud_of(0, LAYOUTS[0])[0])
    wrong = r"tf_static (puts lidar \S+ m from base_link, farther|.* is no rigid motion)"
    with pytest.raises(MaptileError, match=wrong):
        open_drive(bag.path)


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bags of all kinds, plain and packed, with odometry, transforms and positions."""
    found = {}
    for kind, packed in (("ros1", None), ("ros1", "lz4"), ("db3", None), ("mcap", None)):
        folder = tmp_path_factory.mktemp("bags")
        with BagMaker(folder, kind, packed) as bag:
            bag.transform("/tf_static", T0 - 1, "base_link", "lidar", MOUNT)
            for scan in range(3):
                t_ns = T0 + scan * STEP_NS
                bag.odometry("/odom", t_ns, pose_of(scan), "base_link")
                bag.position("/fix", t_ns, (48.1, 11.5), 2.0)
                bag.cloud("/points", t_ns, "lidar", cloud_of(scan, LAYOUTS[scan])[0][:3])
        found[f"{kind} {packed}"] = bag.path
    return found


@fuzz(100)
@given(choices=st.data())
def test_damage_is_an_error_or_a_sound_drive(
    sound: dict[str, Path], choices: st.DataObject
) -> None:
    path = sound[choices.draw(st.sampled_from(sorted(sound)))]
    files = [path] if path.is_file() else sorted(path.iterdir())
    file = choices.draw(st.sampled_from(files))
    before = file.read_bytes()
    file.write_bytes(choices.draw(damaged(before)))
    try:
        read(path, within=path)
    finally:
        file.write_bytes(before)
