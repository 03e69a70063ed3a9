"""Which cells of a map buildings and roads cover, read from the raster strip by strip."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.errors import MaptileError
from maptile_loc.score.fields import Bools, cut

STRIP = 256
"""Rows of cells that are read at a time, which bounds the memory."""


class Cover(NamedTuple):
    """The cells that are covered, a bit each.

    Attributes:
        bits: (2, H, ceil(W / 8)) uint8: cells of which a building covers half or more; cells that
            a road touches.
        width: Number of columns, W.
    """

    bits: NDArray[np.uint8]
    width: int

    def window(self, row: int, column: int, height: int, width: int) -> Bools:
        """(2, height, width) whether the cells from (row, column) on are covered; False off it."""
        first, last = column // 8, -(-(column + width) // 8)
        part = cut(self.bits, row, first, height, last - first)
        return np.unpackbits(part, axis=2).view(bool)[..., column - 8 * first :][..., :width]


def pixels_per_cell(raster: MapRaster, resolution: float) -> int:
    """Pixels along the side of a cell of ``resolution`` metres.

    Raises:
        MaptileError: It is no whole multiple of the raster's resolution.
    """
    factor = round(resolution / raster.resolution)
    if factor < 1 or abs(factor * raster.resolution - resolution) > 1e-6 * resolution:
        raise MaptileError(
            f"{resolution:g} m is no whole multiple of the map's {raster.resolution:g} m per "
            "pixel; choose another resolution, or prepare the city with one that fits"
        )
    return factor


def cover_of(raster: MapRaster, resolution: float) -> Cover:
    """The covered cells of a map.

    Args:
        raster: The map; its ``window`` alone is read.
        resolution: Metres per cell.

    Raises:
        MaptileError: It is no whole multiple of the raster's resolution.
    """
    factor = pixels_per_cell(raster, resolution)
    height, width = -(-raster.height // factor), -(-raster.width // factor)
    bits = np.empty((2, height, -(-width // 8)), np.uint8)
    for top in range(0, height, STRIP):
        rows = min(STRIP, height - top)
        pixels = raster.window(top * factor, 0, rows * factor, width * factor)
        share = _count(pixels[BUILDING], factor) * 2 >= factor * factor
        bits[0, top : top + rows] = np.packbits(share, axis=1)
        bits[1, top : top + rows] = np.packbits(_count(pixels[ROAD], factor) > 0, axis=1)
    return Cover(bits, width)


def _count(band: NDArray[np.uint8], factor: int) -> NDArray[np.uint32]:
    """(H / factor, W / factor) number of pixels above 0 in each cell of (H, W) pixels."""
    one = (band > 0).view(np.uint8)
    total = np.zeros((len(band) // factor, band.shape[1] // factor), np.uint32)
    for row in range(factor):
        for column in range(factor):
            total += one[row::factor, column::factor]
    return total
