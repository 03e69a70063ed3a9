"""The limit of a map raster's size."""

from __future__ import annotations

import math

from data_prep.errors import MaptileError

MAX_PIXELS = 2_000_000_000
"""Most pixels of a raster: 500 km2 at 0.5 m/px, 6 GB of memory for three bands."""


def check_pixels(what: object, width: int, height: int, resolution: float) -> None:
    """Check that a raster fits into memory, before it is made.

    Args:
        what: What is too large, for the message.
        width: Pixels.
        height: Pixels.
        resolution: Metres per pixel.

    Raises:
        MaptileError: It has more than ``MAX_PIXELS``; the message states what would fit.
    """
    if width * height <= MAX_PIXELS:
        return
    finest = resolution * math.sqrt(width * height / MAX_PIXELS)
    step = 10.0 ** math.floor(math.log10(finest))
    fits = math.ceil(finest / step * 10) * step / 10
    area = width * height * resolution**2 / 1e6
    raise MaptileError(
        f"{what}: {area:,.{0 if area >= 10 else 2}f} km2 at {resolution:g} m per pixel, "
        f"{width} x {height} pixels, does not fit into memory; at {fits:.2g} m per pixel it does "
        f"(--set resolution={fits:.2g}), or choose a smaller area"
    )
