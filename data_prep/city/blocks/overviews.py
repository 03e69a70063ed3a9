"""The overviews of a map: how much of 8 x 8, 32 x 32, ... pixels is covered, block by block."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window

from data_prep.city.blocks.bigtiff import append_overview
from data_prep.city.geotiff import (
    FINEST_OVERVIEW,
    OVERVIEW_STEP,
    Layout,
    creation,
    overview_factors,
)


class Overviews:
    """The overviews of a file of flags, which are added strip by strip.

    The finest one is compressed as it is made; of the next one, a 32nd along a side, all pixels are
    in memory. The pixels of an overview stand for exactly as many of the map's; those beyond its
    edge count as not covered. A context manager: leaving it drops the overviews.

    Args:
        layout: The layout of the file.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        size = layout.height, layout.width
        self._factors = overview_factors(*size) if layout.overviews else []
        self._row = 0
        self._counts: list[NDArray[np.uint16]] = []
        self._open = ExitStack()
        if self._factors:
            self._memory = self._open.enter_context(rasterio.MemoryFile())
            described = creation(self._reduced(self._factors[0]))
            self._finest: Any = self._open.enter_context(
                self._memory.open(**described, bigtiff="YES")
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def add(self, bits: NDArray[np.uint8]) -> None:
        """Add the next rows of flags, from north, as ``packed``; a multiple of 32, but the last."""
        if not self._factors:
            return
        covered = _summed(np.bitwise_count(bits), FINEST_OVERVIEW, 1)
        window = Window(0, self._row, covered.shape[2], covered.shape[1])
        self._finest.write(_shares(covered, FINEST_OVERVIEW), window=window)
        self._row += covered.shape[1]
        if len(self._factors) > 1:
            self._counts.append(_summed(covered, OVERVIEW_STEP, OVERVIEW_STEP))

    def append_to(self, file: BinaryIO) -> None:
        """Append the overviews to a BigTIFF that is open for reading and writing."""
        if not self._factors:
            return
        self._finest.close()
        append_overview(file, bytes(self._memory.getbuffer()))
        if len(self._factors) == 1:
            return
        counts = np.concatenate(self._counts, axis=1)
        shares = counts.astype(np.float32) / self._factors[1] ** 2
        for factor in self._factors[1:]:
            with rasterio.MemoryFile() as memory:
                with memory.open(**creation(self._reduced(factor)), bigtiff="YES") as overview:
                    overview.write(np.round(255 * shares).astype(np.uint8))
                append_overview(file, bytes(memory.getbuffer()))
            shares = _summed(shares, OVERVIEW_STEP, OVERVIEW_STEP) / OVERVIEW_STEP**2

    def _reduced(self, factor: int) -> Layout:
        """The layout of the overview by a factor."""
        height, width = (-(-side // factor) for side in (self._layout.height, self._layout.width))
        return self._layout._replace(height=height, width=width)


def _summed(values: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """(B, ceil(H / rows), ceil(W / columns)) sums of (B, H, W) values, 0 beyond the edges."""
    bands, height, width = values.shape
    spare = (0, 0), (0, -height % rows), (0, -width % columns)
    padded = np.pad(values, spare) if height % rows or width % columns else values
    blocks = padded.reshape(bands, -1, rows, padded.shape[2] // columns, columns)
    kind = np.uint16 if values.dtype.kind == "u" else values.dtype
    return np.asarray(blocks.sum(axis=(2, 4), dtype=kind))


def _shares(covered: NDArray[np.uint16], factor: int) -> NDArray[np.uint8]:
    """255 times the covered share of squares, from the covered pixels of each."""
    return np.round(covered * np.float32(255 / factor**2)).astype(np.uint8)
