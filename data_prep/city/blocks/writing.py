"""GeoTIFFs that are written strip by strip, whole or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from errno import EIO
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from data_prep.city.blocks.overviews import Overviews
from data_prep.city.geotiff import STRIP, Layout, bound_cache, creation
from data_prep.city.pixels import packed
from data_prep.files import atomic_file
from data_prep.progress import Progress, tracked

Seen = Callable[[NDArray[np.uint8]], None]
"""Is called with each strip of flags, from north, as ``packed``: (bands, rows, bytes)."""

_PROBE_BYTES = 2**20
"""Bytes that are appended to a file that could not be written, to learn the reason."""


def write_tiff(
    path: Path,
    layout: Layout,
    rows: Callable[[int, int], NDArray[Any]],
    progress: Progress,
    seen: Seen | None = None,
) -> None:
    """Write a tiled GeoTIFF strip by strip, whole or not at all.

    A strip is made while the one before is compressed. GDAL does not report a disk that is full at
    the end of a file. So all blocks are read again and compared.

    Args:
        path: The file.
        layout: Its layout.
        rows: ``rows(top, bottom)`` returns the pixels (bands, bottom - top, width).
        progress: Called after each strip.
        seen: Called with each strip, for pixels that are flags (0 or 255).

    Raises:
        MaptileError: The file cannot be written.
    """

    def fill(temporary: Path, see: Seen) -> bool:
        sums = _write_strips(temporary, layout, rows, see, f"write {path.name}", progress)
        return _is_same(temporary, layout, sums)

    finished_tiff(path, layout, fill, seen)


def finished_tiff(
    path: Path, layout: Layout, fill: Callable[[Path, Seen], bool], seen: Seen | None
) -> None:
    """Write a GeoTIFF and its overviews, whole or not at all.

    Args:
        path: The file.
        layout: Its layout.
        fill: Writes all blocks to a path, calls a function with each strip of flags, and returns
            whether the blocks are there.
        seen: Called likewise.

    Raises:
        MaptileError: The file cannot be written.
    """
    bound_cache()
    overviews = Overviews(layout)

    def see(bits: NDArray[np.uint8]) -> None:
        overviews.add(bits)
        if seen is not None:
            seen(bits)

    with atomic_file(path) as temporary, overviews:
        try:
            complete = fill(temporary, see)
        except rasterio.errors.RasterioError:
            complete = False
        with temporary.open("r+b" if complete else "ab") as file:
            if complete:
                overviews.append_to(file)
            else:
                file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        if not complete:
            raise OSError(EIO, os.strerror(EIO))


def _strips(layout: Layout) -> list[Window]:
    tops = range(0, layout.height, STRIP)
    return [Window(0, top, layout.width, min(STRIP, layout.height - top)) for top in tops]


def _write_strips(
    path: Path,
    layout: Layout,
    rows: Callable[[int, int], NDArray[Any]],
    see: Seen,
    step: str,
    progress: Progress,
) -> list[int]:
    """Write all blocks; returns the checksum of each strip."""
    sums = []
    with rasterio.open(path, "w", **creation(layout), bigtiff="YES") as file:
        layout.describe(file)
        windows = _strips(layout)

        def make(window: Window) -> tuple[NDArray[Any], int]:
            strip = rows(window.row_off, window.row_off + window.height)
            content = _content(strip)
            if strip.dtype == np.uint8:
                see(content)
            return strip, zlib.crc32(content.data)

        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(make, windows[0])
            steps = zip(windows, [*windows[1:], None], strict=True)
            for window, following in tracked(steps, step, len(windows), progress):
                strip, checksum = made.result()
                if following is not None:
                    made = pool.submit(make, following)
                sums.append(checksum)
                file.write(strip, window=window)
    return sums


def _is_same(path: Path, layout: Layout, sums: list[int]) -> bool:
    """Whether a file holds the strips with some checksums."""
    half = len(sums) // 2
    every = list(zip(_strips(layout), sums, strict=True))

    def same(part: list[tuple[Window, int]]) -> bool:
        with rasterio.open(path) as file:
            strips = ((file.read(window=window), expected) for window, expected in part)
            return all(zlib.crc32(_content(strip).data) == expected for strip, expected in strips)

    with ThreadPoolExecutor(2) as pool:
        return all(pool.map(same, (every[:half], every[half:])))


def _content(strip: NDArray[Any]) -> NDArray[Any]:
    """What is compared: the pixels; of flags, one bit each."""
    return packed(strip) if strip.dtype == np.uint8 else np.ascontiguousarray(strip)
