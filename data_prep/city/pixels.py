"""The pixels of a map that are read or made when they are needed, and the limit of their number."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError

MAX_PIXELS = 8_000_000_000
"""Most pixels of a raster: 2,000 km2 at 0.5 m/px."""


class Pixels(ABC):
    """Pixels that are not in memory. Like an array, they are indexed by band, row and column.

    Attributes:
        shape: Bands (3), rows and columns.
    """

    shape: tuple[int, int, int]

    @abstractmethod
    def read(
        self, bands: range, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """(B, height, width) pixels, 0 or 255, of a window that lies inside the raster."""

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """The part of the array (3, H, W) that whole numbers and slices select."""
        keys = key if isinstance(key, tuple) else (key,)
        spans, inside = [], []
        for number, length in enumerate(self.shape):
            one = keys[number] if number < len(keys) else slice(None)
            if not isinstance(one, slice | SupportsIndex):
                return np.asarray(self)[key]
            every = range(length)[one] if isinstance(one, slice) else [range(length)[one]]
            low, high = (min(every), max(every) + 1) if len(every) else (0, 0)
            spans.append(range(low, high))
            step = every.step if isinstance(every, range) else 1
            inside.append(slice(None, None, step) if isinstance(one, slice) else 0)
        bands, rows, columns = spans
        if not (bands and rows and columns):
            return np.broadcast_to(np.uint8(0), self.shape)[key]
        return self.read(bands, rows.start, columns.start, len(rows), len(columns))[tuple(inside)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All pixels: for small maps."""
        bands, height, width = self.shape
        return np.asarray(self.read(range(bands), 0, 0, height, width), dtype)


def packed(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(..., W) pixels, 0 or 255, as (..., ceil(W / 8)) bytes with a bit per pixel."""
    return np.packbits(pixels, axis=-1)


def check_pixels(what: object, width: int, height: int, resolution: float) -> None:
    """Check that a raster can be handled, before it is made.

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
