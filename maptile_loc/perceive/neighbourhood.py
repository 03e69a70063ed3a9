"""Statistics of points in the square around each cell of a tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Shape = tuple[int, int]


class Crop(NamedTuple):
    """The part of a tile that has points.

    Attributes:
        row, column: Its first row and column in the tile.
        shape: Its rows and columns.
        size: Pixels along a side of the tile.
    """

    row: int
    column: int
    shape: Shape
    size: int

    def inner(self, pixel: NDArray[np.int64]) -> NDArray[np.int64]:
        """Flat indices in the part, of flat indices in the tile."""
        row, column = np.divmod(pixel, self.size)
        return (row - self.row) * self.shape[1] + column - self.column

    def outer(self, pixel: NDArray[np.int64]) -> NDArray[np.int64]:
        """Flat indices in the tile, of flat indices in the part."""
        row, column = np.divmod(pixel, self.shape[1])
        return (row + self.row) * self.size + column + self.column


def make_crop(pixel: NDArray[np.int64], size: int) -> Crop:
    """The smallest part of a tile that holds the flat indices ``pixel``."""
    row, column = np.divmod(pixel, size)
    first = int(row.min()), int(column.min())
    shape = int(row.max()) - first[0] + 1, int(column.max()) - first[1] + 1
    return Crop(*first, shape, size)


@dataclass(frozen=True)
class Neighbourhoods:
    """Statistics of the N points in the squares around M cells.

    Attributes:
        pixel: (N,) int64, flat index of each point's cell in a grid of ``shape``.
        cell: (M,) int64, flat indices of the cells.
        shape: Rows and columns of the grid.
        window: Cells along a side of a square, odd.
    """

    pixel: NDArray[np.int64]
    cell: NDArray[np.int64]
    shape: Shape
    window: int

    def total(self, values: NDArray[np.floating] | None) -> F64:
        """(M,) sum of the (N,) values in each square; with None, the number of points."""
        summed = np.bincount(self.pixel, values, self.shape[0] * self.shape[1])
        return box_sum(summed.reshape(self.shape), self.window).ravel()[self.cell]

    @cached_property
    def count(self) -> F64:
        """(M,) number of points in each square, at least 1."""
        return np.maximum(self.total(None), 1)

    def mean(self, values: NDArray[np.floating]) -> F64:
        """(M,) mean of the (N,) values in each square, 0 in a square without points."""
        return self.total(values) / self.count

    def extreme(self, which: np.ufunc, values: F32) -> F32:
        """(M,) ``np.maximum`` or ``np.minimum`` of the (N,) values in each square."""
        worst = -np.inf if which is np.maximum else np.inf
        cells = np.full(self.shape[0] * self.shape[1], worst, np.float32)
        which.at(cells, self.pixel, values)
        filtered = ndimage.maximum_filter if which is np.maximum else ndimage.minimum_filter
        return filtered(cells.reshape(self.shape), self.window, mode="nearest").ravel()[self.cell]


class Spread(NamedTuple):
    """Spread of the points in the square around each cell; all (R, C) float64.

    Attributes:
        across, along: Smallest and largest variance over all directions, square metres.
        direction: Direction of the largest variance, radians.
        here: Number of points in the cell.
        around: Number of points in the square.
    """

    across: F64
    along: F64
    direction: F64
    here: F64
    around: F64


def make_spread(even: F64, pixel: NDArray[np.int64], shape: Shape, window: int) -> Spread:
    """Spread of the (E, 3) points in the cells (E,) ``pixel`` of a grid of ``shape``."""
    x, y = even[:, :2].T
    here = np.bincount(pixel, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)

    def total(values: F64) -> F64:
        return box_sum(np.bincount(pixel, values, here.size).reshape(shape), window)

    around = box_sum(here, window)
    n = np.maximum(around, 1e-9)
    mean_x, mean_y = total(x) / n, total(y) / n
    var_x, var_y = total(x * x) / n - mean_x**2, total(y * y) / n - mean_y**2
    covariance = total(x * y) / n - mean_x * mean_y
    half, root = (var_x + var_y) / 2, np.hypot((var_x - var_y) / 2, covariance)
    direction = np.arctan2(2 * covariance, var_x - var_y) / 2
    return Spread(np.maximum(half - root, 0), half + root, direction, here, around)


def odd_cells(metres: float, resolution: float) -> int:
    """Number of cells that ``metres`` span, rounded to an odd number."""
    return 2 * int(metres / resolution / 2) + 1


def box_sum(cells: NDArray[np.generic], window: int) -> F64:
    """Sum over the square of ``window`` cells around each cell."""
    return ndimage.uniform_filter(cells.astype(np.float64), window, mode="constant") * window**2
