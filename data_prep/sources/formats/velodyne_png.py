"""The raw Velodyne scans of Oxford Radar RobotCar: an HDL-32E's returns as a PNG.

One column per firing of the 32 lasers, from above: 32 intensities, 32 ranges (uint16), the azimuth
(uint16), the time (int64), of which the bytes stand one below the other, least significant first.
Times are microseconds since 1970, as in the names of the files; those of the packets (every 12th
column) were measured, those between were interpolated by the makers of the data set.
"""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LASERS = 32
ROWS = LASERS + 2 * LASERS + 2 + 8
MAX_COLUMNS = 20_000
"""A turn of a twentieth of a second has 1,085 columns."""

RANGE_M = 0.002
MIN_RANGE_M = 1.0
AZIMUTH = 2 * np.pi / 36_000
BELOW_M = 0.090805
"""The lasers are so far above the sensor's base."""

ELEVATION = np.array(
    [-0.1862, -0.1628, -0.1396, -0.1164, -0.0930, -0.0698, -0.0466, -0.0232]
    + [0.0, 0.0232, 0.0466, 0.0698, 0.0930, 0.1164, 0.1396, 0.1628]
    + [0.1862, 0.2094, 0.2327, 0.2560, 0.2793, 0.3025, 0.3259, 0.3491]
    + [0.3723, 0.3957, 0.4189, 0.4421, 0.4655, 0.4887, 0.5119, 0.5353]
)
"""Radians below the horizontal of each laser."""

MAX_AWAY_S = 1.0
"""A column measured farther than this from its scan's time has no believable time."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def decode_scan(data: bytes, microseconds: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points of a raw scan, and when they were measured.

    Args:
        data: The PNG.
        microseconds: The scan's time, which is its file's name.

    Returns:
        (N, 3) points of the returns farther than a metre, in the sensor's frame (z down, azimuth 0
        is -y, azimuth 90 degrees is x), metres, in the order of time; and (N,) seconds relative to
        the scan's time, 0 where the column's time is more than ``MAX_AWAY_S`` away from it.

    Raises:
        ValueError: Not a PNG of that shape, or damaged.
    """
    columns = _columns(data)
    ranges = columns[:, LASERS : 3 * LASERS].copy().view("<u2") * RANGE_M
    azimuth = columns[:, 3 * LASERS : 3 * LASERS + 2].copy().view("<u2") * AZIMUTH
    times = columns[:, 3 * LASERS + 2 :].copy().view("<i8").astype(np.float64)
    flat = ranges * np.cos(ELEVATION)
    points = np.stack(
        [np.sin(azimuth) * flat, -np.cos(azimuth) * flat, np.sin(ELEVATION) * ranges - BELOW_M],
        axis=-1,
    )
    seconds = (times - microseconds) * 1e-6
    seconds[np.abs(seconds) > MAX_AWAY_S] = 0.0
    real = ranges > MIN_RANGE_M
    each = np.broadcast_to(seconds, ranges.shape)[real]
    return points[real].astype(np.float32), each.astype(np.float32)


def _columns(data: bytes) -> NDArray[np.uint8]:
    """(columns, ``ROWS``) bytes of the picture, whose size is checked before it is unpacked."""
    if len(data) < 29 or data[:8] != _SIGNATURE or data[12:16] != b"IHDR":
        raise ValueError("no PNG")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if (height, depth, colour) != (ROWS, 8, 0) or not 0 < width <= MAX_COLUMNS:
        raise ValueError(f"no grey picture of {ROWS} rows: not a raw scan of an HDL-32E")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd remarks in the file, not of the picture
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                picture = np.asarray(image)
    except Exception as error:  # damage surfaces as errors of a dozen kinds
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    if picture.shape != (ROWS, width) or picture.dtype != np.uint8:
        raise ValueError("the picture is not what its header says")
    return np.ascontiguousarray(picture.T)
