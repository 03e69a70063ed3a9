"""A raster whose strips are burnt and compressed by workers, and put together by one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import lz4.block
import numpy as np
import rasterio
from numpy.typing import NDArray

from data_prep.city.blocks.bigtiff import blocks_of
from data_prep.city.blocks.writing import Seen, finished_tiff
from data_prep.city.geotiff import STRIP, Layout, creation
from data_prep.city.pixels import packed
from data_prep.cluster import Workers
from data_prep.progress import Progress, tracked


class Rows(Protocol):
    """Shapes that are burnt when rows of pixels are needed; objects can be sent to workers."""

    def reaching(self, top: int, bottom: int) -> Self:
        """The same with only those shapes that rows ``top`` to ``bottom`` need."""
        ...

    def rows(self, top: int, bottom: int) -> NDArray[Any]:
        """(bands, bottom - top, width) the pixels of these rows."""
        ...


class _Strip(NamedTuple):
    """A strip as a worker made it.

    Attributes:
        blocks: Its blocks, compressed, row by row; empty where one is left out.
        flags: The pixels as ``packed``, compressed; empty where they are no flags.
    """

    blocks: list[bytes]
    flags: bytes


def write_shared(
    path: Path,
    layout: Layout,
    burning: Rows,
    workers: Workers,
    seen: Seen | None,
    progress: Progress,
) -> None:
    """Write a GeoTIFF with the pixels of ``writing.write_tiff``, whole or not at all.

    Args:
        path: The file.
        layout: Its layout.
        burning: What is burnt.
        workers: They burn and compress the strips.
        seen: Called with each strip, from north; for pixels that are flags (0 or 255).
        progress: Called after each strip.

    Raises:
        MaptileError: The file cannot be written, or a worker fails.
    """
    tops = range(0, layout.height, STRIP)
    parts = (
        (burning.reaching(top, bottom), top, bottom)
        for top, bottom in ((top, min(top + STRIP, layout.height)) for top in tops)
    )
    strips = workers.each(_burn, layout, parts)
    step = tracked(strips, f"write {path.name}", len(tops), progress)

    def fill(temporary: Path, see: Seen) -> bool:
        _put_together(temporary, layout, step, see)
        return True  # Python reports what cannot be written, other than GDAL

    finished_tiff(path, layout, fill, seen)


def _burn(layout: Layout, part: tuple[Rows, int, int]) -> _Strip:
    """A strip; runs on a worker."""
    burning, top, bottom = part
    pixels = burning.rows(top, bottom)
    strip = layout._replace(height=bottom - top)
    with rasterio.MemoryFile() as memory:
        with memory.open(**creation(strip), bigtiff="YES") as file:
            file.write(pixels)
        content = bytes(memory.getbuffer())
    found = blocks_of(content)
    blocks = [
        content[at : at + size]
        for at, size in zip(found.offset.tolist(), found.size.tolist(), strict=True)
    ]
    flags = pixels.dtype == np.uint8
    return _Strip(blocks, lz4.block.compress(packed(pixels)) if flags else b"")


def _put_together(path: Path, layout: Layout, strips: Iterator[_Strip], see: Seen) -> None:
    """Write a file without overviews: first all but its blocks, then these one after the other."""
    with rasterio.open(path, "w", **creation(layout, sparse=True), bigtiff="YES") as file:
        layout.describe(file)
    content = bytearray(path.read_bytes())
    blocks, number, top = blocks_of(content), 0, 0
    with path.open("r+b") as file:
        end = file.seek(len(content))
        for strip in strips:
            for block in strip.blocks:
                blocks.offset[number] = end if block else 0
                blocks.size[number] = len(block)
                end += file.write(block)
                number += 1
            height = min(STRIP, layout.height - top)
            if strip.flags:
                bits = np.frombuffer(lz4.block.decompress(strip.flags), np.uint8)
                see(bits.reshape(len(layout.names), height, -1))
            top += height
        file.seek(0)
        file.write(content)
