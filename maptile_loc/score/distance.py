"""Distances between cells of a grid, up to a limit: whole numbers, since they are few."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Codes = NDArray[np.unsignedinteger]


class Distances(NamedTuple):
    """The distances that two cells of a grid can have, up to a limit, in ascending order.

    Attributes:
        metres: (n,) float32, from a cell's centre to the edge of the nearest cell of a kind, which
            lies half a cell before that cell's centre; the last one is the limit.
        number: (m,) index of the distance whose square, in cells, is 0..m-1.
    """

    metres: F32
    number: Codes

    @property
    def reach(self) -> int:
        """The limit, cells, rounded up."""
        return int(np.sqrt(len(self.number) - 2))

    @classmethod
    def up_to(cls, limit_m: float, resolution: float) -> Distances:
        """The distances of less than ``limit_m`` metres on a grid of ``resolution`` metres."""
        reach = int(np.ceil(limit_m / resolution + 0.5))
        square = np.arange(reach + 1) ** 2
        sums = np.unique(square[:, None] + square)
        sums = sums[sums <= reach**2]
        cells = np.append(np.sqrt(sums), np.inf).astype(np.float32)
        metres = np.minimum((cells - np.float32(0.5)) * np.float32(resolution), np.float32(limit_m))
        number = np.searchsorted(sums, np.arange(reach**2 + 2))
        return cls(metres, number.astype(np.min_scalar_type(len(metres) - 1)))


def squared_distance(inside: NDArray[np.bool_], reach: int) -> NDArray[np.uint16]:
    """(H, W) squared distance of each cell's centre to that of the nearest cell inside, in cells.

    Args:
        inside: (H, W).
        reach: Distances of more than this number of cells, 180 at most, are reach^2 + 1.
    """
    squares = np.full(inside.shape, reach * reach + 1, np.uint16)
    if inside.any():
        near = bounds(inside, reach)
        squares[near] = _squares(inside[near], reach)
    return squares


def bounds(inside: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Rows and columns of all cells inside, of which there are some, and ``margin`` around them."""
    spans = []
    for axis in (1, 0):
        some = np.flatnonzero(inside.any(axis))
        spans.append(slice(max(int(some[0]) - margin, 0), int(some[-1]) + margin + 1))
    return spans[0], spans[1]


def _squares(inside: NDArray[np.bool_], reach: int) -> NDArray[np.uint16]:
    """As ``squared_distance``, where some cells are inside."""
    height, width = inside.shape
    column = np.full((height, width), reach + 1, np.uint16)
    column[inside] = 0
    for row in range(1, height):
        np.minimum(column[row], column[row - 1] + 1, out=column[row])
    for row in range(height - 2, -1, -1):
        np.minimum(column[row], column[row + 1] + 1, out=column[row])
    square = column * column
    least, sum_ = square.copy(), np.empty_like(square)
    for step in range(1, min(reach, width - 1) + 1):
        moved = np.add(square, np.uint16(step * step), out=sum_)
        np.minimum(least[:, step:], moved[:, :-step], out=least[:, step:])
        np.minimum(least[:, :-step], moved[:, step:], out=least[:, :-step])
    return np.minimum(least, np.uint16(reach * reach + 1), out=least)
