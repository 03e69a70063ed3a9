from __future__ import annotations

import math
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_checks import arrays, check_same, check_same_but_truth, fuzz

from data_prep.errors import MaptileError
from data_prep.sources import detect_format, open_drive
from data_prep.sources.formats.feather import read_feather

START = 315_966_265_259_836_000
TENTH = 100_000_000
UP_LIDAR = (1.35, 0.01, 1.64)
GEOD = pyproj.Geod(ellps="WGS84")
RNG = np.random.default_rng(8)

# --- writing logs, from the description of the format only ---------------------------------------


def write_feather(file: Path, compression: str = "zstd", **columns: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.feather.write_feather(pa.table(columns), str(file), compression=compression)


def write_sweep(log: Path, t_ns: int, points: np.ndarray, compression: str = "zstd") -> Path:
    file = log / f"sensors/lidar/{t_ns}.feather"
    half = points.astype(np.float16)
    write_feather(
        file,
        compression,
        x=half[:, 0],
        y=half[:, 1],
        z=half[:, 2],
        intensity=np.full(len(points), 9, np.uint8),
        laser_number=np.arange(len(points)).astype(np.uint8),
        offset_ns=np.arange(len(points), dtype=np.int32),
    )
    return file


def write_calibration(log: Path) -> None:
    places = np.array([(1.6, 0.0, 1.4), (1.36, 0.02, 1.55), UP_LIDAR])
    write_feather(
        log / "calibration/egovehicle_SE3_sensor.feather",
        sensor_name=["ring_front_center", "down_lidar", "up_lidar"],
        **{name: np.array([0.5, 0.0, 1.0]) for name in ("qw", "qx", "qy", "qz")},
        **{f"t{axis}_m": places[:, i] for i, axis in enumerate("xyz")},
    )


def write_poses(log: Path, t_ns: list[int], xyz: np.ndarray, yaw: np.ndarray) -> None:
    zero = np.zeros(len(t_ns))
    write_feather(
        log / "city_SE3_egovehicle.feather",
        timestamp_ns=np.array(t_ns, np.int64),
        qw=np.cos(yaw / 2),
        qx=zero,
        qy=zero,
        qz=np.sin(yaw / 2),
        **{f"t{axis}_m": xyz[:, i] for i, axis in enumerate("xyz")},
    )


def write_map(log: Path, city: str) -> None:
    (log / "map").mkdir()
    (log / f"map/log_map_archive_{log.name}____{city}_city_47896.json").write_text("{}", "ascii")
    (log / f"map/{log.name}_ground_height_surface____{city}.npy").write_bytes(b"")


def tenths(count: int) -> list[int]:
    return [START + TENTH * i for i in range(count)]


def driven(count: int, x: float, y: float, yaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions and yaws on a left turn of 40 m radius at 5 m/s."""
    angle = 0.5 / 40 * np.arange(count)
    course = yaw + angle
    xy = 40 * np.stack([np.sin(course) - math.sin(yaw), math.cos(yaw) - np.cos(course)], axis=1)
    return np.column_stack([xy + [x, y], np.full(count, 12.5)]), course


SWEEP = RNG.uniform(-60, 60, size=(200, 3)).astype(np.float16).astype(np.float32)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    folder = tmp_path / "7fab2350-7eaf-3b7e-a39d-6937a4c1bede"
    for t in tenths(5):
        write_sweep(folder, t, SWEEP)
    write_calibration(folder)
    write_poses(folder, tenths(60), *driven(60, 1745.37, -1421.37, 0.3))
    write_map(folder, "ATX")
    return folder


# --- scans ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["zstd", "lz4", "uncompressed"])
def test_sweeps_are_in_the_vehicle_frame_already(log: Path, compression: str) -> None:
    other = SWEEP[:50] + 1
    write_sweep(log, START + TENTH, other, compression)
    assert detect_format(log) == "argoverse2"
    drive = open_drive(log)
    assert drive.name == log.name
    assert drive.scans.t_ns.tolist() == tenths(5)
    block = drive.scans.read(0, 3)
    assert block.scan.tolist() == [0] * 200 + [1] * 50 + [2] * 200
    expected = np.concatenate([SWEEP, other.astype(np.float16), SWEEP])
    assert np.allclose(block.points, expected, atol=1e-5)
    assert np.allclose(block.origin, UP_LIDAR)
    assert block.seconds is None
    assert block.label is None


def test_invalid_points_are_removed(log: Path) -> None:
    points = SWEEP.copy()
    points[3] = np.nan
    points[5, 1] = np.inf
    write_sweep(log, START, points)
    assert np.allclose(open_drive(log).scans.read(0, 1).points, np.delete(points, [3, 5], 0))


def test_only_the_lidar_is_a_sensor(log: Path) -> None:
    assert open_drive(log, sensors=("lidar",)).scans.sensors == ("lidar",)
    with pytest.raises(MaptileError, match="no sensor up_lidar; choose from lidar"):
        open_drive(log, sensors=("up_lidar",))


# --- tracks --------------------------------------------------------------------------------------


def test_odometry_is_relative_motion(log: Path) -> None:
    track = open_drive(log).odometry
    assert track is not None
    assert track.t_ns.tolist() == tenths(60)
    places, course = driven(60, 0.0, 0.0, 0.0)
    assert np.allclose(track.poses[:, :2, 3], places[:, :2], atol=1e-5)
    assert np.allclose(track.poses[:, 2, 3], 0)
    assert np.allclose(np.arctan2(track.poses[:, 1, 0], track.poses[:, 0, 0]), course)
    assert track.segment.tolist() == [0] * 60


def test_poses_may_be_out_of_order_and_have_gaps(log: Path) -> None:
    places, course = driven(60, 5.0, 7.0, 1.0)
    order = [*range(30, 60), *range(30), 29]
    t_ns = [t + (TENTH * 25 if i >= 30 else 0) for i, t in enumerate(tenths(60))]
    write_poses(log, [t_ns[i] for i in order], places[order], course[order])
    track = open_drive(log).odometry
    assert track is not None
    assert track.t_ns.tolist() == t_ns
    assert track.segment.tolist() == [0] * 30 + [1] * 30
    assert np.allclose(track.poses[0], np.eye(4), atol=1e-12)


# (x, y), and latitude and longitude there, from the tests of the data set's API
PUBLISHED = {
    "ATX": [
        ((1745.37, -1421.37), (30.261642967615092, -97.72246957081633)),
        ((1731.53, -1410.81), (30.261739638233472, -97.72261222631731)),
    ],
    "WDC": [
        ((1716.85, 4470.38), (38.9299801515994, -77.0168603173312)),
        ((2139.70, 4606.14), (38.931286945069985, -77.0120195048271)),
    ],
}


@pytest.mark.parametrize("city", PUBLISHED)
def test_truth_agrees_with_the_data_set(log: Path, city: str) -> None:
    shutil.rmtree(log / "map")
    write_map(log, city)
    xyz = np.array([[*place, 0.0] for place, _ in PUBLISHED[city]])
    write_poses(log, tenths(2), xyz, np.zeros(2))
    truth = open_drive(log).truth
    assert truth is not None
    expected = np.array([place for _, place in PUBLISHED[city]])
    assert np.allclose(np.stack([truth.latitude, truth.longitude], 1), expected, atol=1e-9)


@pytest.mark.parametrize("city", ["ATX", "DTW", "MIA", "PAO", "PIT", "WDC"])
def test_headings_are_from_true_east(log: Path, city: str) -> None:
    """Headings agree with the azimuths of geodesics between consecutive positions."""
    shutil.rmtree(log / "map")
    write_map(log, city)
    yaw = 0.7
    along = 10.0 * np.arange(30)[:, None] * [math.cos(yaw), math.sin(yaw)]
    xyz = np.column_stack([along + [3000, -2000], np.zeros(30)])
    write_poses(log, tenths(30), xyz, np.full(30, yaw))
    drive = open_drive(log)
    assert drive.truth is not None
    assert drive.heading is not None
    places = (drive.truth.longitude, drive.truth.latitude)
    azimuth, _, metres = GEOD.inv(*(v[:-1] for v in places), *(v[1:] for v in places))
    course = math.pi / 2 - np.radians(azimuth)
    assert np.allclose(metres, 10.0, rtol=1e-3)
    assert np.allclose(drive.truth.heading[:-1], course, atol=np.radians(0.002))
    assert np.allclose(drive.heading.heading, drive.truth.heading, atol=np.radians(0.05))
    assert drive.heading.t_ns.tolist() == drive.truth.t_ns.tolist() == tenths(30)


def test_without_a_map_there_is_no_truth(log: Path) -> None:
    shutil.rmtree(log / "map")
    drive = open_drive(log)
    assert drive.odometry is not None
    assert drive.truth is None
    assert drive.heading is None
    assert any("no heading and truth" in note for note in drive.notes)


def test_an_unknown_city_has_no_truth(log: Path) -> None:
    shutil.rmtree(log / "map")
    write_map(log, "XYZ")
    assert open_drive(log).truth is None


def test_without_poses_there_are_only_scans(log: Path) -> None:
    (log / "city_SE3_egovehicle.feather").unlink()
    drive = open_drive(log)
    assert (drive.odometry, drive.heading, drive.truth) == (None, None, None)
    assert len(drive.scans.read(0, 1).points) == 200
    assert any("no odometry, heading and truth" in note for note in drive.notes)


def test_moving_the_truth_away_changes_nothing_else(log: Path) -> None:
    here = open_drive(log)
    places, course = driven(60, 1745.37, -1421.37, 0.3)
    write_poses(log, tenths(60), places + [4000.0, -2500.0, 30.0], course)
    away = open_drive(log)
    check_same_but_truth(here, away)
    assert here.truth is not None
    assert away.truth is not None
    assert (here.truth.longitude < away.truth.longitude - 0.03).all()


def test_a_log_may_lie_in_an_archive(log: Path, tmp_path: Path) -> None:
    expected = arrays(open_drive(log))
    with tarfile.open(tmp_path / "val-000.tar", "w") as archive:
        archive.add(log, f"val/{log.name}")
    with zipfile.ZipFile(tmp_path / "log.zip", "w") as zipped:
        for file in log.rglob("*.*"):
            zipped.write(file, file.relative_to(log.parent))
    shutil.rmtree(log)
    for path in (tmp_path / "val-000.tar", tmp_path / "log.zip" / log.name):
        drive = open_drive(path)
        assert drive.name == log.name
        check_same(arrays(drive), expected)
        assert drive.truth is not None


# --- errors --------------------------------------------------------------------------------------


def no_columns(log: Path) -> Path:
    file = log / f"sensors/lidar/{START}.feather"
    write_feather(file, x=np.zeros(3), y=np.zeros(3))
    return file


def text_for_numbers(log: Path) -> Path:
    file = log / "city_SE3_egovehicle.feather"
    names = ("timestamp_ns", "qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
    write_feather(file, **{name: ["a"] for name in names})
    return file


def no_rotation(log: Path) -> Path:
    file = log / "city_SE3_egovehicle.feather"
    names = ("timestamp_ns", "qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m")
    write_feather(file, **{name: np.zeros(3, np.int64) for name in names})
    return file


def infinite_place(log: Path) -> Path:
    write_poses(log, tenths(2), np.array([[0, 0, 0], [np.inf, 0, 0]]), np.zeros(2))
    return log / "city_SE3_egovehicle.feather"


def no_poses(log: Path) -> Path:
    write_poses(log, [], np.zeros((0, 3)), np.zeros(0))
    return log / "city_SE3_egovehicle.feather"


def no_calibration(log: Path) -> Path:
    file = log / "calibration/egovehicle_SE3_sensor.feather"
    file.unlink()
    return file


def no_lidar_calibrated(log: Path) -> Path:
    file = log / "calibration/egovehicle_SE3_sensor.feather"
    write_feather(file, sensor_name=["x"], tx_m=[0.0], ty_m=[0.0], tz_m=[0.0])
    return file


def no_sweeps(log: Path) -> Path:
    shutil.rmtree(log / "sensors/lidar")
    (log / "sensors/lidar").mkdir()
    return log / "sensors/lidar"


def version_one(log: Path) -> Path:
    file = log / f"sensors/lidar/{START}.feather"
    file.write_bytes(b"FEA1" + bytes(200) + b"FEA1")
    return file


@pytest.mark.parametrize(
    "damage",
    [
        no_columns,
        text_for_numbers,
        no_rotation,
        infinite_place,
        no_poses,
        no_calibration,
        no_lidar_calibrated,
        no_sweeps,
        version_one,
    ],
)
def test_damage_names_its_file(log: Path, damage: Callable[[Path], Path]) -> None:
    file = damage(log)
    with pytest.raises(MaptileError, match=str(file)):
        open_drive(log).scans.read(0, 5)


def test_a_wrong_declared_size_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "a.feather"
    write_feather(file, "zstd", x=np.zeros(10_000))
    data = file.read_bytes()
    claim = struct.pack("<q", 80_000)
    assert data.count(claim) == 1
    for size in (2**62, 2**40, 2**28 + 1):
        file.write_bytes(data.replace(claim, struct.pack("<q", size)))
        with pytest.raises(MaptileError, match="unpack to more than 256 MiB"):
            read_feather(file, ["x"])


def test_text_may_be_a_dictionary_and_numbers_may_be_missing(tmp_path: Path) -> None:
    file = tmp_path / "a.feather"
    text = pa.array(["up", "down", "up"]).dictionary_encode()
    write_feather(file, name=text, x=pa.array([1.0, None, 3.0]), n=pa.array([1, None, 3]))
    rows = read_feather(file, ["x"], ["name"])
    assert rows["name"].tolist() == ["up", "down", "up"]
    assert np.allclose(rows["x"], [1, np.nan, 3], equal_nan=True)
    with pytest.raises(MaptileError, match="values are missing"):
        read_feather(file, ["n"])


def a_table(compression: str) -> bytes:
    rows = pa.table(
        {
            "x": np.arange(40).astype(np.float16),
            "t": np.arange(40),
            "s": pa.array(["a", "bc"] * 20).dictionary_encode(),
        }
    )
    sink = pa.BufferOutputStream()
    pyarrow.feather.write_feather(rows, sink, compression=compression)
    return sink.getvalue().to_pybytes()


TABLES = [a_table(compression) for compression in ("zstd", "lz4", "uncompressed")]
BITS = st.sampled_from([b"\0", b"\xff", b"\x7f", b"\xff" * 4, b"\xff" * 7 + b"\x7f", b"\0" * 8])


@given(st.data())
@fuzz(300)
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(TABLES)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        bits = data.draw(BITS | st.binary(min_size=1, max_size=4))
        content[at : at + len(bits)] = bits
    cut = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    file = tmp_path / "a.feather"
    file.write_bytes(content[:cut])
    try:
        rows = read_feather(file, ["x", "t"], ["s"])
    except MaptileError as error:
        assert str(file) in str(error)
        return
    assert len({len(column) for column in rows.values()}) == 1
    assert rows["t"].dtype == np.int64
