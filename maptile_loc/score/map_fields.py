"""The likelihood fields of a map, block by block, each made when it is first needed.

Of a block, the surroundings of its cells are kept: six whole numbers per cell. What is asked for is
computed from these. The fields of a small map are kept as they are.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.city.raster import MapRaster
from data_prep.progress import Progress, silent
from maptile_loc.score.channels import CHANNELS, Profiles
from maptile_loc.score.cover import Cover, cover_of, pixels_per_cell
from maptile_loc.score.fields import F32, Bools, FieldArrays, LikelihoodFields, in_threads, means
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.score.store import FieldStore
from maptile_loc.score.surroundings import Scale, Surroundings, surroundings

BLOCK = 512
"""Cells along the side of a block."""

WHOLE = 6_000_000
"""Cells of a map up to which its fields are kept as they are, 48 bytes each."""

KEPT_MB = 256
"""Memory for the blocks of a larger map, MB; as much again for each coarser grid of it."""


STORED_FROM = 4
"""Means of squares of at least this number of cells along a side are kept; others are computed."""

VERSION = 1
"""Number of the way in which fields are computed; files of another number are not read."""


def make_fields(
    raster: MapRaster,
    resolution: float,
    settings: LikelihoodSettings,
    store: FieldStore | None = None,
) -> LikelihoodFields:
    """The likelihood fields of a map.

    Args:
        raster: The map; its ``window`` alone is read.
        resolution: Metres per cell, a multiple of the raster's.
        settings: The profiles.
        store: Files that keep what is computed, which the map's content and ``made_of`` determine;
            None: nothing is kept.

    Returns:
        The fields. Those without a direction have a mean of 0 over the map, so that evidence off
        the map adds nothing.

    Raises:
        MaptileError: ``resolution`` is no multiple of the raster's.
    """
    fields = MapFields(raster, resolution, settings, store)
    if fields.shape[0] * fields.shape[1] > WHOLE:
        return fields
    corner = fields.west, fields.north, fields.resolution
    building, road = fields.cover.window(0, 0, *fields.shape)
    return FieldArrays(fields.channels, *corner, building, road)


def made_of(resolution: float, settings: LikelihoodSettings) -> str:
    """What fields follow from, beside the map."""
    return f"{VERSION} {resolution!r} {settings.model_dump_json()}"


class Kept:
    """Arrays that are kept up to an amount of memory; those not used for longest are dropped.

    Args:
        megabytes: The amount.
    """

    def __init__(self, megabytes: float) -> None:
        self._left, self._lock = megabytes * 1e6, threading.Lock()
        self._arrays: OrderedDict[Any, NDArray[Any]] = OrderedDict()

    def get(self, key: Any, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of ``key``, made if it is not kept."""
        with self._lock:
            if key in self._arrays:
                self._arrays.move_to_end(key)
                return self._arrays[key]
        made = make()
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = made
                self._left -= made.nbytes
            while self._left < 0 and len(self._arrays) > 1:
                self._left += self._arrays.popitem(last=False)[1].nbytes
        return made


class Overlap(NamedTuple):
    """The part of a window that lies in a block.

    Attributes:
        block: Row and column of the block among the blocks.
        inside: Its rows and columns in the block.
        at: Its rows and columns in the window.
    """

    block: tuple[int, int]
    inside: tuple[slice, slice]
    at: tuple[slice, slice]


def overlaps(
    row: int, column: int, height: int, width: int, shape: tuple[int, int], side: int
) -> Iterator[Overlap]:
    """The parts of a window that lie in the blocks, ``side`` cells wide, of a grid of ``shape``."""
    for across in range(max(row, 0) // side, -(-min(row + height, shape[0]) // side)):
        for down in range(max(column, 0) // side, -(-min(column + width, shape[1]) // side)):
            spans = []
            for number, first, count, most in (
                (across, row, height, shape[0]),
                (down, column, width, shape[1]),
            ):
                start = max(number * side, first)
                stop = min((number + 1) * side, first + count, most)
                spans.append((start, stop, number * side, first))
            inside = tuple(slice(a - block, b - block) for a, b, block, _ in spans)
            at = tuple(slice(a - first, b - first) for a, b, _, first in spans)
            yield Overlap((across, down), (inside[0], inside[1]), (at[0], at[1]))


class MapFields(LikelihoodFields):
    """The likelihood fields of a map, made block by block; arguments as for ``make_fields``."""

    def __init__(
        self,
        raster: MapRaster,
        resolution: float,
        settings: LikelihoodSettings,
        store: FieldStore | None = None,
    ) -> None:
        factor = pixels_per_cell(raster, resolution)
        shape = -(-raster.height // factor), -(-raster.width // factor)
        super().__init__(len(CHANNELS), shape, raster.west, raster.north, resolution)
        self.raster, self.settings, self._store = raster, settings, store
        self.scale = Scale.on(resolution, settings)
        self.margin = self.scale.margin(settings)
        self._kept = Kept(KEPT_MB)
        self._coarser: dict[int, CoarserFields] = {}
        self._level: F32 | None = None
        self._lock = threading.Lock()

    @cached_property
    def cover(self) -> Cover:
        """Which cells buildings and roads cover."""
        shape = 2, self.shape[0], -(-self.shape[1] // 8)

        def make() -> NDArray[np.uint8]:
            return cover_of(self.raster, self.resolution).bits

        return Cover(self.stored("cover", np.uint8, shape, make), self.shape[1])

    @property
    def level(self) -> F32:
        """(C,) mean of each channel over the map before it is removed; 0 where it is not."""
        return self._leveled(keep_blocks=False)

    def expect_all(self, progress: Progress = silent) -> None:
        """Make ready for a search of all blocks: those that files keep are made at once."""
        self._leveled(keep_blocks=self._store is not None, progress=progress)

    def _leveled(self, keep_blocks: bool, progress: Progress = silent) -> F32:
        with self._lock:
            if self._level is None:
                self._level = self.stored(
                    "level",
                    np.float32,
                    (len(CHANNELS),),
                    lambda: self._means(keep_blocks, progress),
                )
            return self._level

    def _means(self, keep_blocks: bool, progress: Progress) -> F32:
        """The level, from blocks that are kept, or without what later searches need of them."""

        def sums(number: tuple[int, int]) -> list[float]:
            if keep_blocks:
                around = self.block(number)
            else:
                rows, columns, inner = self._cells(number)
                around = self._made(rows, columns, directed=False).cut(inner)
            profiles = Profiles(around, self.settings)
            return [
                float(channel.profile(profiles).sum(dtype=np.float64)) if channel.centred else 0.0
                for channel in CHANNELS
            ]

        assert self.cover.width == self.shape[1]  # it is read before the threads need it
        rows, columns = (range(side) for side in self._grid)
        blocks = itertools.product(rows, columns)
        total = np.sum(in_threads(sums, blocks, "read the map", progress), axis=0)
        return np.asarray(total / (self.shape[0] * self.shape[1]), np.float32)

    def stored(
        self,
        name: str,
        kind: type[Any],
        shape: tuple[int, ...],
        make: Callable[[], NDArray[Any]],
    ) -> NDArray[Any]:
        """An array by its name, from the files where there are any, else made."""
        if self._store is None:
            return make()
        count = math.prod(shape) * np.dtype(kind).itemsize
        return self._store.get(name, count, make).view(kind).reshape(shape)

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.shape[0] // BLOCK), -(-self.shape[1] // BLOCK)

    def _cells(self, block: tuple[int, int]) -> tuple[slice, slice, tuple[slice, slice]]:
        """Rows and columns of a block with its margin, and where the block lies in these."""
        spans, inner = [], []
        for number, most in zip(block, self.shape, strict=True):
            first, last = number * BLOCK, min((number + 1) * BLOCK, most)
            start = max(first - self.margin, 0)
            spans.append(slice(start, min(last + self.margin, most)))
            inner.append(slice(first - start, last - start))
        return spans[0], spans[1], (inner[0], inner[1])

    def _made(self, rows: slice, columns: slice, directed: bool = True) -> Surroundings:
        size = rows.stop - rows.start, columns.stop - columns.start
        building, road = self.cover.window(rows.start, columns.start, *size)
        return surroundings(building, road, self.resolution, self.settings, directed)

    def block(self, number: tuple[int, int]) -> Surroundings:
        """The surroundings of the cells of a block, given by its row and column."""

        def make() -> NDArray[np.uint8]:
            rows, columns, inner = self._cells(number)
            return self._made(rows, columns).cut(inner).packed()

        shape = [min(BLOCK, most - BLOCK * at) for at, most in zip(number, self.shape, strict=True)]
        size = (shape[0] * shape[1] * self.scale.cell_bytes,)
        name = f"block-{number[0]}-{number[1]}"
        packed = self._kept.get(number, lambda: self.stored(name, np.uint8, size, make))
        return Surroundings.unpacked(packed, (shape[0], shape[1]), self.scale)

    def window(self, row: int, column: int, height: int, width: int) -> F32:
        """As ``LikelihoodFields.window``."""
        result = np.zeros((self.count, height, width), np.float32)
        around = Surroundings.nowhere((height, width), self.scale)
        for part in overlaps(row, column, height, width, self.shape, BLOCK):
            around.put(part.at, self.block(part.block).cut(part.inside))
        top, left = max(-row, 0), max(-column, 0)
        on_map = (
            slice(top, max(self.shape[0] - row, top)),
            slice(left, max(self.shape[1] - column, left)),
        )
        profiles = Profiles(around.cut(on_map), self.settings)
        for field, channel, level in zip(result, CHANNELS, self.level, strict=True):
            field[on_map] = channel.profile(profiles) - level
        return result

    def buildings(self, row: int, column: int, height: int, width: int) -> Bools:
        """As ``LikelihoodFields.buildings``."""
        return self.cover.window(row, column, height, width)[0]

    def roads(self, row: int, column: int, height: int, width: int) -> Bools:
        """As ``LikelihoodFields.roads``."""
        return self.cover.window(row, column, height, width)[1]

    def coarser(self, factor: int) -> LikelihoodFields:
        """As ``LikelihoodFields.coarser``."""
        if factor not in self._coarser:
            self._coarser[factor] = CoarserFields(self, factor)
        return self._coarser[factor]


class CoarserFields(LikelihoodFields):
    """The means of squares of cells of a map's fields, made block by block.

    Args:
        fine: The map's fields.
        factor: Cells along the side of a square.
    """

    def __init__(self, fine: MapFields, factor: int) -> None:
        shape = -(-fine.shape[0] // factor), -(-fine.shape[1] // factor)
        corner = fine.west, fine.north, fine.resolution * factor
        super().__init__(fine.count, shape, *corner)
        self._fine, self._factor = fine, factor
        self._side = max(BLOCK // factor, 1)
        self._kept = Kept(KEPT_MB)

    def block(self, number: tuple[int, int]) -> NDArray[np.float16]:
        """(C, n, n) values of a block, given by its row and column; 0 off the map."""
        side = self._side * self._factor

        def make() -> NDArray[np.float16]:
            first, last = (at * side for at in number)
            return means(self._fine.window(first, last, side, side), self._factor).astype(
                np.float16
            )

        shape = self.count, self._side, self._side
        name = f"means-{self._factor}-{number[0]}-{number[1]}"
        return self._kept.get(number, lambda: self._fine.stored(name, np.float16, shape, make))

    def window(self, row: int, column: int, height: int, width: int) -> F32:
        """As ``LikelihoodFields.window``."""
        if self._factor < STORED_FROM:
            factor = self._factor
            size = height * factor, width * factor
            return means(self._fine.window(row * factor, column * factor, *size), factor)
        result = np.zeros((self.count, height, width), np.float32)
        for part in overlaps(row, column, height, width, self.shape, self._side):
            result[:, *part.at] = self.block(part.block)[:, *part.inside]
        return result

    def buildings(self, row: int, column: int, height: int, width: int) -> Bools:
        """As ``LikelihoodFields.buildings``."""
        factor = self._factor
        size = height * factor, width * factor
        fine = self._fine.buildings(row * factor, column * factor, *size)
        return means(fine[None].astype(np.float32), factor)[0] >= 0.5

    def roads(self, row: int, column: int, height: int, width: int) -> Bools:
        """As ``LikelihoodFields.roads``."""
        factor = self._factor
        fine = self._fine.roads(row * factor, column * factor, height * factor, width * factor)
        return np.asarray(fine.reshape(height, factor, width, factor).any(axis=(1, 3)))

    def expect_all(self, progress: Progress = silent) -> None:
        """As ``LikelihoodFields.expect_all``."""
        self._fine.expect_all(progress)

    def coarser(self, factor: int) -> LikelihoodFields:
        """As ``LikelihoodFields.coarser``."""
        return self._fine.coarser(self._factor * factor)
