"""Likelihood fields: what a unit of each channel's evidence adds to the score, cell by cell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.progress import Progress, silent, tracked

F32 = NDArray[np.float32]
Bools = NDArray[np.bool_]
T = TypeVar("T")
R = TypeVar("R")


class LikelihoodFields(ABC):
    """Log-likelihood ratios of a map, on a grid of square cells; row 0 is north.

    Attributes:
        count: Number of channels.
        shape: Rows and columns of the grid.
        west: East coordinate of the outer corner of cell (0, 0), metres.
        north: North coordinate of that corner, metres.
        resolution: Metres per cell.
    """

    def __init__(
        self, count: int, shape: tuple[int, int], west: float, north: float, resolution: float
    ) -> None:
        self.count, self.shape = count, shape
        self.west, self.north, self.resolution = west, north, resolution

    @abstractmethod
    def window(self, row: int, column: int, height: int, width: int) -> F32:
        """(C, height, width) values of the cells from (row, column) on, 0 beyond the map's edge.

        A channel per row of ``channels.CHANNELS``: what one unit of its evidence adds to the score.
        The result may be a view that must not be changed.
        """

    @abstractmethod
    def buildings(self, row: int, column: int, height: int, width: int) -> Bools:
        """(height, width) whether a building covers half of a cell or more; False off the map."""

    @abstractmethod
    def roads(self, row: int, column: int, height: int, width: int) -> Bools:
        """(height, width) whether a road touches a cell; False off the map."""

    @abstractmethod
    def coarser(self, factor: int) -> LikelihoodFields:
        """The means of ``factor`` x ``factor`` cells, of which those off the map are 0."""

    @property
    def channels(self) -> F32:
        """(C, H, W) all values."""
        return self.window(0, 0, *self.shape)

    @property
    def building(self) -> Bools:
        """(H, W) ``buildings`` of the whole map."""
        return self.buildings(0, 0, *self.shape)

    @abstractmethod
    def expect_all(self, progress: Progress = silent) -> None:
        """Make ready for a search of the whole map.

        Args:
            progress: Called after each block of the map.
        """

    def around(self, low: Array, high: Array) -> FieldArrays:
        """The part of the map between two corners, and a cell more on each side.

        Args:
            low: (2,) east, north, metres.
            high: (2,) likewise, at least ``low``.
        """
        left, bottom = low - [self.west, self.north]
        right, top = high - [self.west, self.north]
        column, row = (int(at // self.resolution) - 1 for at in (left, -top))
        width = int(right // self.resolution) + 2 - column
        height = int(-bottom // self.resolution) + 2 - row
        return FieldArrays(
            self.window(row, column, height, width),
            self.west + column * self.resolution,
            self.north - row * self.resolution,
            self.resolution,
            self.buildings(row, column, height, width),
        )


class FieldArrays(LikelihoodFields):
    """Fields that lie in memory as a whole.

    Args:
        channels: (C, H, W) float32.
        west, north, resolution: As in ``LikelihoodFields``.
        building: (H, W) bool.
        road: (H, W) bool; None: no roads are known.
    """

    def __init__(
        self,
        channels: F32,
        west: float,
        north: float,
        resolution: float,
        building: Bools,
        road: Bools | None = None,
    ) -> None:
        height, width = channels.shape[1:]
        super().__init__(len(channels), (height, width), west, north, resolution)
        self._channels, self._building = channels, building
        self._road = np.zeros_like(building) if road is None else road

    def window(self, row: int, column: int, height: int, width: int) -> F32:
        """As ``LikelihoodFields.window``."""
        return cut(self._channels, row, column, height, width)

    def buildings(self, row: int, column: int, height: int, width: int) -> Bools:
        """As ``LikelihoodFields.buildings``."""
        return cut(self._building[None], row, column, height, width)[0]

    def roads(self, row: int, column: int, height: int, width: int) -> Bools:
        """As ``LikelihoodFields.roads``."""
        return cut(self._road[None], row, column, height, width)[0]

    def around(self, low: Array, high: Array) -> FieldArrays:
        """The whole map."""
        return self

    def expect_all(self, progress: Progress = silent) -> None:
        """As ``LikelihoodFields.expect_all``: all is there."""

    def coarser(self, factor: int) -> FieldArrays:
        """As ``LikelihoodFields.coarser``."""
        edge = (0, -self.shape[0] % factor), (0, -self.shape[1] % factor)
        padded = np.pad(self._channels, ((0, 0), *edge)) if any(map(any, edge)) else self._channels
        building, road = (
            np.pad(one, edge).reshape(padded.shape[1] // factor, factor, -1, factor)
            for one in (self._building, self._road)
        )
        return FieldArrays(
            means(padded, factor),
            self.west,
            self.north,
            self.resolution * factor,
            building.mean(axis=(1, 3)) >= 0.5,
            np.asarray(road.any(axis=(1, 3))),
        )


def in_threads(
    function: Callable[[T], R], items: Iterable[T], step: str = "", progress: Progress = silent
) -> list[R]:
    """The results for all items, in their order, with as many threads as torch has."""
    every, count = list(items), torch.get_num_threads()
    if count == 1 or len(every) < 2:
        return list(tracked(map(function, every), step, len(every), progress))
    with ThreadPoolExecutor(count) as threads:
        return list(tracked(threads.map(function, every), step, len(every), progress))


def means(values: F32, factor: int) -> F32:
    """(..., H / factor, W / factor) means of squares of (..., H, W) values."""
    rows = values[..., ::factor, :].copy()
    for row in range(1, factor):
        rows += values[..., row::factor, :]
    sums = rows[..., ::factor].copy()
    for column in range(1, factor):
        sums += rows[..., column::factor]
    return sums / np.float32(factor * factor)


def cut(values: NDArray[Any], row: int, column: int, height: int, width: int) -> NDArray[Any]:
    """(C, height, width) part of (C, H, W) from (row, column) on, 0 beyond the edges.

    A view where the part lies inside, else a copy.
    """
    count, rows, columns = values.shape
    if 0 <= row <= rows - height and 0 <= column <= columns - width:
        return values[:, row : row + height, column : column + width]
    part = np.zeros((count, height, width), values.dtype)
    top, left = max(row, 0), max(column, 0)
    inner = values[:, top : max(row + height, 0), left : max(column + width, 0)]
    top, left = top - row, left - column
    part[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return part
