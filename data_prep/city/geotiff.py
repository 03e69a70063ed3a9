"""GeoTIFFs: pixels that are read window by window, and files that are written strip by strip."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from errno import EIO
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
from data_prep.files import atomic_file
from data_prep.progress import Progress, tracked

STRIP = 512
"""Rows of a raster that are read, made or written at a time; a multiple of ``BLOCK``."""
FINEST_OVERVIEW = 8
"""Pixels along a side that a pixel of the finest overview stands for."""
BLOCK = 256
"""Side of a GeoTIFF's internal tiles, pixels."""

_CACHE_BYTES = 2**26
"""Size of GDAL's cache of decoded blocks, for all files and threads of the process."""
_PROBE_BYTES = 2**20
"""Bytes that are appended to a file that could not be written, to learn the reason."""


@cache
def _bound_cache() -> None:
    """Bound GDAL's cache, which is a twentieth of the memory by default."""
    if "GDAL_CACHEMAX" not in os.environ:
        rasterio.env.set_gdal_config("GDAL_CACHEMAX", _CACHE_BYTES)


@contextmanager
def open_tiff(path: Path) -> Iterator[Any]:
    """Yield an opened raster file; what GDAL raises names the file.

    Raises:
        MaptileError: The file, or a part that is read, is damaged.
    """
    _bound_cache()
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
        window = Window(column, row, width, height)
        with _readable(self.path):
            found: NDArray[np.uint8] = self._file().read(
                self.indexes, window=window, out_shape=shape, resampling=Resampling.average
            )
        return found

    def _file(self) -> Any:
        """The file as this thread of this process opened it."""
        opened = getattr(self._opened, "file", None)
        if opened is None or opened[0] != os.getpid():
            _bound_cache()
            if _version(self._place) != self._version:
                raise MaptileError(f"{self.path}: was replaced while it was in use; start again")
            opened = self._opened.file = (os.getpid(), rasterio.open(self._place))
        return opened[1]


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


def write_tiff(
    path: Path, layout: Layout, rows: Callable[[int, int], NDArray[Any]], progress: Progress
) -> None:
    """Write a tiled GeoTIFF strip by strip, whole or not at all.

    A strip is made while the one before is compressed. GDAL does not report a disk that is full at
    the end of a file. So all blocks are read again and compared, while overviews are made.

    Args:
        path: The file.
        layout: Its layout.
        rows: ``rows(top, bottom)`` returns the pixels (bands, bottom - top, width).
        progress: Called after each strip.

    Raises:
        MaptileError: The file cannot be written.
    """

    def fill(temporary: Path) -> Callable[[], bool]:
        sums = _write_strips(temporary, layout, rows, f"write {path.name}", progress)
        return lambda: _is_same(temporary, layout, sums)

    finished_tiff(path, layout, fill)


def finished_tiff(path: Path, layout: Layout, fill: Callable[[Path], Callable[[], bool]]) -> None:
    """Write a GeoTIFF and add its overviews, whole or not at all.

    Args:
        path: The file.
        layout: Its layout.
        fill: Writes all blocks to a path, and returns a function that says whether they are there.

    Raises:
        MaptileError: The file cannot be written.
    """
    _bound_cache()
    with atomic_file(path) as temporary:
        try:
            check = fill(temporary)
            with ThreadPoolExecutor(1) as pool:
                same = pool.submit(check)
                factors = overview_factors(layout)
                if factors:
                    _add_overviews(temporary, factors)
                complete = same.result() and _has_overviews(temporary, factors)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        except rasterio.errors.RasterioError:
            complete = False
        if not complete:
            with temporary.open("ab") as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
            raise OSError(EIO, os.strerror(EIO))


def overview_factors(layout: Layout) -> list[int]:
    """The factors of the overviews: 8 times a power of 4, until one block holds the map."""
    factors: list[int] = []
    while layout.overviews and max(layout.height, layout.width) > BLOCK * 4 ** len(factors):
        factors.append(FINEST_OVERVIEW * 4 ** len(factors))
    return factors


def _add_overviews(path: Path, factors: list[int]) -> None:
    with rasterio.Env(ZSTD_LEVEL_OVERVIEW=1), rasterio.open(path, "r+") as file:
        file.build_overviews(factors, Resampling.average)


def _has_overviews(path: Path, factors: list[int]) -> bool:
    """Whether a file has all blocks of its overviews."""
    for level in range(len(factors)):
        with rasterio.open(path, OVERVIEW_LEVEL=level) as file:
            if not has_blocks(file, path, all_of_them=True):
                return False
    return True


def _strips(layout: Layout) -> list[Window]:
    tops = range(0, layout.height, STRIP)
    return [Window(0, top, layout.width, min(STRIP, layout.height - top)) for top in tops]


def _sum(strip: NDArray[Any]) -> int:
    """A checksum of pixels; of flags, of one bit each."""
    flags = strip.dtype == np.uint8
    return zlib.crc32((np.packbits(strip) if flags else np.ascontiguousarray(strip)).data)


def _write_strips(
    path: Path,
    layout: Layout,
    rows: Callable[[int, int], NDArray[Any]],
    step: str,
    progress: Progress,
) -> list[int]:
    """Write all blocks; returns the checksum of each strip."""
    sums = []
    with rasterio.open(path, "w", **creation(layout), bigtiff="IF_SAFER") as file:
        layout.describe(file)
        windows = _strips(layout)

        def make(window: Window) -> NDArray[Any]:
            return rows(window.row_off, window.row_off + window.height)

        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(make, windows[0])
            steps = zip(windows, [*windows[1:], None], strict=True)
            for window, following in tracked(steps, step, len(windows), progress):
                strip = made.result()
                if following is not None:
                    made = pool.submit(make, following)
                sums.append(_sum(strip))
                file.write(strip, window=window)
    return sums


def _is_same(path: Path, layout: Layout, sums: list[int]) -> bool:
    """Whether a file holds the strips with some checksums."""
    with rasterio.open(path) as file:
        windows = zip(_strips(layout), sums, strict=True)
        return all(_sum(file.read(window=window)) == expected for window, expected in windows)


def has_blocks(file: Any, path: Path, all_of_them: bool = False) -> bool:
    """Whether the blocks of a GeoTIFF lie within the file, which may have been cut.

    Args:
        file: The opened file; of other formats nothing is known, and the answer is True.
        path: The file.
        all_of_them: Whether blocks that were never written count as missing.
    """
    size = path.stat().st_size
    for (row, column), _ in file.block_windows(1):
        offset = int(file.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=1) or 0)
        length = int(file.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=1) or 0)
        if offset + length > size or (all_of_them and not (offset and length)):
            return False
    return True
