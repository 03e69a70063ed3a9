"""GeoTIFFs: pixels that are read window by window, and the layout of files that are written."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyproj
import rasterio
import rasterio.env
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from data_prep.city.pixels import Pixels
from data_prep.errors import MaptileError

STRIP = 512
"""Rows of a raster that are read, made or written at a time; a multiple of ``BLOCK``."""
FINEST_OVERVIEW = 8
"""Pixels along a side that a pixel of the finest overview stands for."""
OVERVIEW_STEP = 4
"""Pixels along a side of an overview that a pixel of the next one stands for."""
BLOCK = 256
"""Side of a GeoTIFF's internal tiles, pixels."""

_CACHE_BYTES = 2**26
"""Size of GDAL's cache of decoded blocks, for all files and threads of the process."""


@cache
def bound_cache() -> None:
    """Bound GDAL's cache, which is a twentieth of the memory by default."""
    if "GDAL_CACHEMAX" not in os.environ:
        rasterio.env.set_gdal_config("GDAL_CACHEMAX", _CACHE_BYTES)


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Yield an opened raster file; what GDAL raises names the file.

    Raises:
        MaptileError: The file, or a part that is read, is damaged.
    """
    bound_cache()
    with _readable(path), rasterio.open(path) as file:
        yield file


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (rasterio.errors.RasterioError, OSError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as a raster: {reason}") from None


class TiffPixels(Pixels):
    """The pixels of a GeoTIFF, read when they are needed: 255 where the file's value is above 0.

    Objects may be shared by threads, sent to other processes, and survive a fork: each thread of
    each process opens the file for itself.

    Args:
        path: The file.
        shape: Bands, rows and columns.
        indexes: The file's number, from 1, of each band; None for a band that it does not have.
        shares: Whether the file's values are 0 and 255, and those of its overviews their means.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        indexes: tuple[int | None, ...],
        shares: bool = False,
    ) -> None:
        self.path, self.shape, self.indexes, self.shares = path, shape, indexes, shares
        self._place, self._version = path.absolute(), _version(path)
        self._opened = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_opened"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _opened=threading.local())

    def read(
        self, bands: range, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """As ``Pixels.read``.

        Raises:
            MaptileError: The file is damaged, or was replaced after it was opened.
        """
        wanted = [self.indexes[band] for band in bands]
        found = [index for index in wanted if index is not None]
        if not found:
            return np.zeros((len(bands), height, width), np.uint8)
        with _readable(self.path):
            values = _flags(self._file().read(found, window=Window(column, row, width, height)))
        if len(found) == len(bands):
            return values
        result = np.zeros((len(bands), height, width), np.uint8)
        result[[number for number, index in enumerate(wanted) if index is not None]] = values
        return result

    def read_shares(
        self, row: int, column: int, height: int, width: int, factor: int
    ) -> NDArray[np.uint8]:
        """(3, height / factor, width / factor) 255 times the covered share, by the overviews.

        Height and width are multiples of ``factor``; the file has ``shares``.

        Raises:
            MaptileError: As ``read``.
        """
        shape = self.shape[0], height // factor, width // factor
        with _readable(self.path):
            there = len(self._file().overviews(1))  # GDAL's factors are not exact
            factors = [1, *overview_factors(*self.shape[1:])[:there]]
            level = sum(one <= factor for one in factors) - 2
            side = factors[level + 1]
            window = Window(column / side, row / side, width / side, height / side)
            found: NDArray[np.uint8] = self._file(level).read(
                self.indexes, window=window, out_shape=shape, resampling=Resampling.average
            )
        return found

    def _file(self, level: int = -1) -> Any:
        """The file, or one of its overviews, as this thread of this process opened it."""
        opened = vars(self._opened).setdefault("files", {})
        key = os.getpid(), level
        if key not in opened:
            bound_cache()
            if _version(self._place) != self._version:
                raise MaptileError(f"{self.path}: was replaced while it was in use; start again")
            how = {} if level < 0 else {"OVERVIEW_LEVEL": level}
            opened[key] = rasterio.open(self._place, **how)
        return opened[key]


def _version(path: Path) -> tuple[int, int, int]:
    """What differs between a file and another one that replaces it."""
    with _readable(path):
        stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _flags(values: NDArray[Any]) -> NDArray[np.uint8]:
    """255 where a value is above 0; NaN is not."""
    if values.dtype != np.uint8:
        values = (values > 0).view(np.uint8)
    else:
        np.not_equal(values, 0, out=values.view(np.bool_))
    return np.negative(values, out=values)


class Layout(NamedTuple):
    """The layout of a GeoTIFF that is written.

    Attributes:
        names: Names of the bands.
        dtype: Type of the pixels.
        height: Rows.
        width: Columns.
        crs: The map frame.
        transform: From (column, row) to (east, north).
        notice: The copyright notice.
        nodata: Value of pixels without data.
        overviews: Whether to add means of 8 x 8, 32 x 32, ... pixels.
    """

    names: tuple[str, ...]
    dtype: str
    height: int
    width: int
    crs: pyproj.CRS
    transform: rasterio.Affine
    notice: str
    nodata: float | None = None
    overviews: bool = False

    def describe(self, file: Any) -> None:
        """Write the names of the bands and the notice to an opened file."""
        file.update_tags(TIFFTAG_COPYRIGHT=self.notice, attribution=self.notice)
        for index, name in enumerate(self.names, 1):
            file.set_band_description(index, name)


def creation(layout: Layout, sparse: bool = False) -> dict[str, Any]:
    """The arguments with which rasterio creates a file of a layout.

    Args:
        layout: The layout.
        sparse: Whether blocks are left out that nobody writes; those without data always are.
    """
    return {
        "driver": "GTiff",
        "dtype": layout.dtype,
        "count": len(layout.names),
        "height": layout.height,
        "width": layout.width,
        "crs": layout.crs.to_wkt(),
        "transform": layout.transform,
        "nodata": layout.nodata,
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "ZSTD",
        "zstd_level": 1,
        "interleave": "pixel",
        "sparse_ok": sparse or layout.nodata is not None,
    }


def overview_factors(height: int, width: int) -> list[int]:
    """The factors of a map's overviews: 8 times a power of 4, until one block holds the map."""
    factors: list[int] = []
    while max(height, width) > BLOCK * OVERVIEW_STEP ** len(factors):
        factors.append(FINEST_OVERVIEW * OVERVIEW_STEP ** len(factors))
    return factors


def has_blocks(file: Any, path: Path) -> bool:
    """Whether the blocks of a GeoTIFF lie within the file, which may have been cut.

    Args:
        file: The opened file; of other formats nothing is known, and the answer is True.
        path: The file.
    """
    size = path.stat().st_size
    for (row, column), _ in file.block_windows(1):
        offset = int(file.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1) or 0)
        length = int(file.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1) or 0)
        if offset + length > size:
            return False
    return True
