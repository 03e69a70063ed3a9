from __future__ import annotations

import io
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_kitti import zipped
from PIL import Image

from data_prep.drive import PoseTrack
from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.sources.formats.velodyne_png import ELEVATION, MAX_COLUMNS, decode_scan
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries

START = 1_547_120_789_640_420  # microseconds, as in the data set
COLUMNS = 1085


# --- writing scans, from the description of the format only --------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: np.ndarray, width: int | None = None) -> bytes:
    """A grey picture of 8 bits, put together by hand; ``width`` is the one in its header."""
    head = struct.pack(">IIBBBBB", width or rows.shape[1], len(rows), 8, 0, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(np.uint8).tobytes() for line in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def raw_scan(ranges: np.ndarray, azimuth: np.ndarray, times: np.ndarray) -> bytes:
    """Rows of the picture: 32 intensities, 32 ranges, azimuth, time; their bytes downwards.

    Args:
        ranges: (32, N) in units of 2 mm.
        azimuth: (N,) in hundredths of a degree.
        times: (N,) microseconds.
    """
    rows = [np.full((32, len(times)), 7)]
    rows += [np.array([[r & 255 for r in line], [r >> 8 for r in line]]) for line in ranges]
    rows += [np.array([[a & 255 for a in azimuth], [a >> 8 for a in azimuth]])]
    rows += [np.array([[(t >> 8 * byte) & 255 for t in times] for byte in range(8)])]
    return png(np.vstack(rows))


def turning(columns: int = COLUMNS, start: int = START) -> tuple[np.ndarray, np.ndarray]:
    """Azimuths and times of one turn, packets of 12 columns every 553 microseconds."""
    azimuth = np.round(np.arange(columns) * 36_000 / columns).astype(int) % 36_000
    return azimuth, start + (np.arange(columns) * 553) // 12


# --- decoding ------------------------------------------------------------------------------------


def test_a_scan_comes_back_as_it_was_measured() -> None:
    rng = np.random.default_rng(3)
    azimuth, times = turning(60)
    ranges = rng.integers(0, 2**16, (32, 60))
    ranges[:, 5] = 0  # no return
    ranges[3, 6] = 500  # just a metre: the sensor's own
    ranges[3, 7] = 501
    points, seconds = decode_scan(raw_scan(ranges, azimuth, times), START)
    expected, when = [], []
    for column in range(60):
        for laser in range(32):
            metres, turn = ranges[laser, column] * 0.002, math.radians(azimuth[column] / 100)
            if metres <= 1.0:
                continue
            flat = metres * math.cos(ELEVATION[laser])
            down = metres * math.sin(ELEVATION[laser]) - 0.090805
            expected.append((flat * math.sin(turn), -flat * math.cos(turn), down))
            when.append((times[column] - START) / 1e6)
    assert points.dtype == seconds.dtype == np.float32
    assert np.allclose(points, expected, atol=1e-4)
    assert np.allclose(seconds, when, atol=1e-8)


def test_the_lasers_range_from_11_degrees_up_to_31_degrees_down() -> None:
    """From 10.67 to -30.67 degrees in steps of 1.33, as in the HDL-32E's manual."""
    assert np.allclose(np.degrees(ELEVATION), np.linspace(-10.67, 30.67, 32), atol=0.01)


def test_a_turn_takes_a_twentieth_of_a_second() -> None:
    azimuth, times = turning()
    _, seconds = decode_scan(raw_scan(np.full((32, COLUMNS), 5000), azimuth, times), START)
    assert len(seconds) == 32 * COLUMNS
    assert seconds[0] == 0
    assert (np.diff(seconds) >= 0).all()
    assert seconds[-1] == pytest.approx(0.05, abs=1e-4)


@given(
    st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=8),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 35_999),
)
@settings(max_examples=100, deadline=None)
def test_any_content_is_decoded_to_its_ranges(ranges: list[int], time: int, azimuth: int) -> None:
    columns = len(ranges)
    data = raw_scan(
        np.tile(ranges, (32, 1)), np.full(columns, azimuth), np.array([time] * columns, object)
    )
    points, seconds = decode_scan(data, START)
    points = points - [0, 0, -0.090805]
    returns = [r * 0.002 for r in ranges if r > 500]
    assert np.allclose(np.linalg.norm(points, axis=1), np.repeat(returns, 32), rtol=1e-6)
    away = (time - START) / 1e6
    assert np.allclose(seconds, away if abs(away) <= 1 else 0, rtol=1e-6)


def test_an_implausible_time_is_ignored() -> None:
    azimuth, times = turning(24)
    times[12:] += 3_000_000
    _, seconds = decode_scan(raw_scan(np.full((32, 24), 5000), azimuth, times), START)
    assert seconds.max() < 0.001
    assert (seconds[12 * 32 :] == 0).all()


# --- damage --------------------------------------------------------------------------------------


SOUND = raw_scan(np.full((32, 24), 5000), *turning(24))


def other_picture(mode: str, size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a picture",
        other_picture("L", (24, 105)),
        other_picture("RGB", (24, 106)),
        other_picture("I;16", (24, 106)),
        other_picture("P", (24, 106)),
        other_picture("1", (24, 106)),
        png(np.zeros((106, 1)), width=MAX_COLUMNS + 1),
        png(np.zeros((106, 1)), width=2**31 - 1),
        png(np.zeros((106, 24)), width=4000),
        SOUND[: len(SOUND) // 2],
        SOUND[:40],
    ],
    ids=range(12),
)
def test_a_file_that_is_not_a_raw_scan_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_scan(data, START)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_refused_or_read(data: st.DataObject) -> None:
    content = bytearray(SOUND)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    try:
        points, seconds = decode_scan(bytes(content[:cut]), START)
    except ValueError:
        return
    assert len(points) == len(seconds)
    assert np.isfinite(points).all()
    assert np.isfinite(seconds).all()


# --- in a run ------------------------------------------------------------------------------------


def write_raw(run: Path, sensor: str, microseconds: int, data: bytes) -> Path:
    (run / sensor).mkdir(parents=True, exist_ok=True)
    file = run / sensor / f"{microseconds}.png"
    file.write_bytes(data)
    return file


def write_bin(run: Path, sensor: str, microseconds: int, points: np.ndarray) -> None:
    (run / sensor).mkdir(parents=True, exist_ok=True)
    blocks = np.column_stack([points, np.ones(len(points))]).T
    (run / sensor / f"{microseconds}.bin").write_bytes(blocks.astype("<f4").tobytes())


def write_mount(run: Path, sensor: str) -> None:
    """The sensor's frame is the data set's vehicle frame: x forward, y right, z down."""
    (run / "extrinsics").mkdir(parents=True, exist_ok=True)
    (run / f"extrinsics/{sensor}.txt").write_text("0 0 0 0 0 0", "ascii")


@pytest.mark.parametrize("sensor", ["velodyne_left", "velodyne_right"])
def test_a_run_may_hold_raw_scans(tmp_path: Path, sensor: str) -> None:
    run = tmp_path / "2019-01-10-11-46-21-radar-oxford-10k"
    write_mount(run, sensor)
    stamps = [START, START + 50_000]
    for stamp in stamps:
        write_raw(run, sensor, stamp, raw_scan(np.full((32, 24), 5000), *turning(24, stamp)))
    drive = open_drive(run)
    assert drive.format == "robotcar"
    assert drive.scans.sensors == (sensor,)
    assert drive.scans.t_ns.tolist() == [stamp * 1000 for stamp in stamps]
    block = drive.scans.read(0, 2)
    points, seconds = decode_scan(SOUND, START)
    assert block.scan.tolist() == [0] * len(points) + [1] * len(points)
    assert np.allclose(block.points, np.tile(points * [1, -1, -1], (2, 1)))
    assert block.seconds is not None
    assert np.allclose(block.seconds, np.tile(seconds, 2))
    assert not any("motion-compensated" in note for note in drive.notes)


@pytest.mark.parametrize("raw", [True, False])
def test_a_run_is_read_out_of_its_archive(tmp_path: Path, raw: bool) -> None:
    run = tmp_path / "unpacked" / "2019-01-10-11-46-21-radar-oxford-10k"
    for stamp in (START, START + 50_000):
        if raw:
            scan = raw_scan(np.full((32, 24), 5000), *turning(24, stamp))
            write_raw(run, "velodyne_left", stamp, scan)
        else:
            write_bin(run, "velodyne_left", stamp, np.random.default_rng(0).uniform(1, 9, (7, 3)))
    zipped(tmp_path / f"{run.name}_velodyne_left.zip", run.parent, run.name)
    here, there = open_drive(run), open_drive(tmp_path / f"{run.name}_velodyne_left.zip")
    assert there.scans.sensors == ("velodyne_left",)
    assert np.array_equal(there.scans.t_ns, here.scans.t_ns)
    blocks = here.scans.read(0, 2), there.scans.read(0, 2)
    assert np.array_equal(blocks[0].points, blocks[1].points)
    assert len(blocks[0].points) == 2 * (24 * 32 if raw else 7)


def test_bin_files_are_preferred_to_raw_scans(tmp_path: Path) -> None:
    write_raw(tmp_path, "velodyne_left", START, SOUND)
    write_bin(tmp_path, "velodyne_left", START + 10, np.ones((5, 3)))
    block = open_drive(tmp_path).scans.read(0, 9)
    assert block.t_ns.tolist() == [(START + 10) * 1000]
    assert len(block.points) == 5
    assert block.seconds is None


def test_sensors_may_differ_in_their_kind_of_file(tmp_path: Path) -> None:
    write_raw(tmp_path, "velodyne_left", START, SOUND)
    write_bin(tmp_path, "velodyne_right", START + 10, np.ones((5, 3)))
    block = open_drive(tmp_path).scans.read(0, 2)
    assert block.seconds is not None
    assert (block.seconds[block.scan == 1] == 0).all()
    assert (block.seconds[block.scan == 0] > 0).any()


def test_times_in_another_unit_are_noted(tmp_path: Path) -> None:
    azimuth, times = turning(24)
    data = raw_scan(np.full((32, 24), 5000), azimuth, times.astype(object) * 1000)
    write_raw(tmp_path, "velodyne_left", START, data)
    drive = open_drive(tmp_path)
    seconds = drive.scans.read(0, 1).seconds
    assert seconds is not None
    assert not seconds.any()
    assert any("the scans are not motion-compensated" in note for note in drive.notes)


def test_a_damaged_raw_scan_names_its_file(tmp_path: Path) -> None:
    write_raw(tmp_path, "velodyne_left", START, SOUND)
    file = write_raw(tmp_path, "velodyne_left", START + 50_000, SOUND[:-60])
    drive = open_drive(tmp_path)
    with pytest.raises(MaptileError, match=f"{file}: not readable as a raw scan"):
        drive.scans.read(0, 2)


def test_other_pictures_are_not_scans(tmp_path: Path) -> None:
    (tmp_path / "velodyne_left").mkdir()
    (tmp_path / "velodyne_left/preview.png").write_bytes(SOUND)
    (tmp_path / "lms_front").mkdir()
    write_raw(tmp_path, "lms_front", START, SOUND)
    for sensor in ("velodyne_left", "lms_front"):
        with pytest.raises(MaptileError, match="no scan"):
            open_drive(tmp_path, sensors=(sensor,))


def test_motion_compensation_straightens_a_wall(tmp_path: Path) -> None:
    """At 10 m/s towards a wall 20 m ahead, the car travels half a metre during one turn."""
    write_mount(tmp_path, "velodyne_left")
    azimuth, times = turning()
    turn, moved = np.radians(azimuth / 100), 10.0 * (times - START) / 1e6
    ahead = np.sin(turn)  # the forward component of the ray
    metres = np.where(ahead > 0.5, (20.0 - moved) / np.maximum(ahead, 0.5), 0.0)
    ranges = np.zeros((32, COLUMNS), int)
    ranges[8] = np.round(metres / 0.002)  # the level laser
    write_raw(tmp_path, "velodyne_left", START, raw_scan(ranges, azimuth, times))
    t_ns = START * 1000 + np.array([-1, 1]) * 1_000_000_000
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[:, 0, 3] = [-10.0, 10.0]
    odometry = PoseTrack(t_ns, poses, np.zeros(2, np.int32))
    drive = replace(open_drive(tmp_path), odometry=odometry)
    as_seen = drive.scans.read(0, 1).points
    assert np.ptp(as_seen[:, 0]) > 0.15
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    points = build_submap(drive, plan, 0, Queries(submap_m=0.0), SubmapSettings()).points
    assert len(points) == len(as_seen) > 300
    assert np.allclose(points[:, 0], 20.0, atol=0.005)
