"""The ground under a cloud, wherever it lies: slopes, kerbs, and the gaps between them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F32 = NDArray[np.float32]
STEP_M = 0.5
"""From one cell to the next the ground leaves the plane under the vehicle by no more."""
_NEAREST = 150  # cells that the plane is laid through


def height_above_ground(points: F32, start: F32, cell_m: float) -> F32:
    """(N,) height of (N, 3) points above the ground under them, metres.

    A plane is laid under the vehicle, and the ground is grown from there, cell by cell: the low end
    (tenth percentile) of a cell is ground where it continues that of its neighbours; where it does
    not (a wall, a roof, a reflection from below the street) or where nothing was hit, theirs is
    carried on.

    Args:
        points: (N, 3), N > 0.
        start: (2,) where the vehicle stands.
        cell_m: Side of a cell.
    """
    corner = points[:, :2].min(axis=0)
    cell = ((points[:, :2] - corner) / np.float32(cell_m)).astype(np.int32)
    rows, columns = (cell.max(axis=0) + 1).tolist()
    index = cell[:, 0].astype(np.int64) * columns + cell[:, 1]
    low = _tenth_percentile(points[:, 2], index, rows * columns).reshape(rows, columns)
    plane, seed = _plane(low, (start - corner) / cell_m - 0.5)
    row, column = np.indices(low.shape, np.float32)
    tilt = plane[0] * row + plane[1] * column + plane[2]
    ground = _grown(low - tilt, seed) + tilt
    return points[:, 2] - np.take(ground, index)


def _tenth_percentile(values: F32, index: NDArray[np.int64], cells: int) -> F32:
    """(cells,) tenth percentile of the (N,) values in each cell, NaN where there are none."""
    bottom = values.min()
    # Cell and height (millimetres, up to a kilometre) in one integer, and as neighbours among the
    # points are neighbours in space, a merge sort (stable) finds little to do.
    millimetres = np.clip((values - bottom) * 1000, 0, 2**20 - 1).astype(np.int64)
    key = np.sort((index << 20) | millimetres, kind="stable")
    count = np.bincount(index, minlength=cells)
    first = np.cumsum(count) - count
    filled = count > 0
    result = np.full(cells, np.nan, np.float32)
    result[filled] = bottom + (key[first[filled] + count[filled] // 10] & (2**20 - 1)) / 1000
    return result


def _plane(low: F32, start: F32) -> tuple[F32, NDArray[np.bool_]]:
    """The plane z = a row + b column + c under the vehicle, and the (R, C) cells that lie in it.

    Half of the cells around a vehicle may be something else: least squares, trimmed again and again
    to the half that fits best (Rousseeuw's concentration steps).
    """
    row, column = np.nonzero(~np.isnan(low))
    nearest = np.argsort(np.hypot(row - start[0], column - start[1]))[:_NEAREST]
    row, column = row[nearest], column[nearest]
    z = low[row, column]
    places = np.column_stack([row, column, np.ones(len(row))])
    plane = np.array([0.0, 0.0, np.median(z)])
    for _ in range(10):
        off = np.abs(z - places @ plane)
        best = off <= np.median(off)
        plane = np.linalg.lstsq(places[best], z[best], rcond=None)[0]
    off = np.abs(z - places @ plane)
    seed = np.zeros(low.shape, bool)
    flat = off <= max(STEP_M, off.min())
    seed[row[flat], column[flat]] = True
    return plane.astype(np.float32), seed


def _grown(low: F32, seed: NDArray[np.bool_]) -> F32:
    """(R, C) ground, grown from the (R, C) seeds through the low ends of all cells."""
    known = seed.astype(np.float32)
    ground = np.where(seed, low, np.float32(0))
    while not known.all():
        beside = ndimage.uniform_filter(known, 3, mode="constant")
        edge = (known == 0) & (beside > 0.05)
        expected = ndimage.uniform_filter(ground, 3, mode="constant")[edge] / beside[edge]
        # A comparison with NaN, no hit, is false.
        ground[edge] = np.where(np.abs(low[edge] - expected) <= STEP_M, low[edge], expected)
        known[edge] = 1
    return ground
