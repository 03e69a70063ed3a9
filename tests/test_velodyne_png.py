from __future__ import annotations

import io
import math
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.sources.velodyne_png import ELEVATION, MAX_COLUMNS, decode_scan

START = 1_547_120_789_640_420  # microseconds, as in the data set
COLUMNS = 1085


# --- writing scans, from the description of the format only --------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: np.ndarray, width: int | None = None) -> bytes:
    """A grey picture of 8 bits, put together by hand; ``width`` is what its header claims."""
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


def test_the_lasers_fan_from_11_degrees_up_to_31_degrees_down() -> None:
    """As the HDL-32E's manual says: 10.67 to -30.67 degrees in steps of 1.33."""
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


def test_an_unbelievable_time_is_no_time() -> None:
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
def test_what_is_no_raw_scan_is_refused(data: bytes) -> None:
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
