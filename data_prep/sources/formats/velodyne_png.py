"""Raw Velodyne scans of Oxford Radar RobotCar: the returns of an HDL-32E as a PNG.

A column per firing of the 32 lasers holds, from top to bottom, 32 intensities (uint8), 32 ranges
(uint16), the azimuth (uint16) and the time (int64); each pixel is a byte, least significant first.
Times are microseconds since 1970, as in the file names. Every 12th column has the measured time of
a packet; the data set's authors interpolated the times between.
"""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LASERS = 32
"""Number of lasers."""

ROWS = LASERS + 2 * LASERS + 2 + 8
"""Height of a picture, pixels: bytes of intensities, ranges, azimuth and time."""

MAX_COLUMNS = 20_000
"""Largest width of a picture, pixels; a turn of a twentieth of a second has 1,085 columns."""

RANGE_M = 0.002
"""Unit of a range, metres."""

MIN_RANGE_M = 1.0
"""Shorter ranges are not returns, metres."""

AZIMUTH = 2 * np.pi / 36_000
"""Unit of an azimuth, radians."""

BELOW_M = 0.090805
"""Height of the lasers above the origin of the sensor's frame, its base, metres."""

ELEVATION = np.array(
    [-0.1862, -0.1628, -0.1396, -0.1164, -0.0930, -0.0698, -0.0466, -0.0232]
    + [0.0, 0.0232, 0.0466, 0.0698, 0.0930, 0.1164, 0.1396, 0.1628]
    + [0.1862, 0.2094, 0.2327, 0.2560, 0.2793, 0.3025, 0.3259, 0.3491]
    + [0.3723, 0.3957, 0.4189, 0.4421, 0.4655, 0.4887, 0.5119, 0.5353]
)
"""(32,) angle of each laser below the horizontal, radians."""

MAX_AWAY_S = 1.0
"""Largest plausible difference between the times of a column and of its scan, seconds."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG."""


def decode_scan(data: bytes, microseconds: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Decode a raw scan.

    Args:
        data: The content of the PNG.
        microseconds: The scan's time since 1970, from the name of its file.

    Returns:
        (N, 3) float32 points of the returns farther than ``MIN_RANGE_M``, sorted by time, in the
        sensor's frame (z down, azimuth 0 is -y, azimuth 90 degrees is x), metres; and (N,) float32
        seconds relative to the scan's time, 0 where they differ by more than ``MAX_AWAY_S``.

    Raises:
        ValueError: It is not a PNG of that shape, or damaged.
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
    """(columns, ``ROWS``) bytes of the picture; its size is checked before it is unpacked."""
    if len(data) < 29 or data[:8] != _SIGNATURE or data[12:16] != b"IHDR":
        raise ValueError("not a PNG")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    if (height, depth, colour) != (ROWS, 8, 0) or not 0 < width <= MAX_COLUMNS:
        raise ValueError(f"not a grey picture of {ROWS} rows: not a raw scan of an HDL-32E")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern metadata, not the picture
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                picture = np.asarray(image)
    except Exception as error:  # Pillow raises many kinds of errors on damage
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None
    if picture.shape != (ROWS, width) or picture.dtype != np.uint8:
        raise ValueError("the picture differs from its header")
    return np.ascontiguousarray(picture.T)
