"""The ground below a point cloud, by region growing: it follows slopes, kerbs and gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

F32 = NDArray[np.float32]

STEP_M = 0.5
"""Largest step of the ground between neighbouring cells, relative to the plane at the vehicle."""

PLANE_CELLS = 150
"""Number of cells nearest to the vehicle that the plane is fitted to."""


def height_above_ground(points: F32, start: F32, cell_m: float) -> F32:
    """(N,) height of (N, 3) points above the ground below them, metres.

    A plane is fitted to the cells near the vehicle, and the ground is grown from these, cell by
    cell. A cell's lowest points (tenth percentile of z) are ground if they continue the ground of
    its neighbours. Otherwise (a wall, a roof, a reflection from below the street, or no points at
    all) the cell takes the height of its neighbours.

    Args:
        points: (N, 3) metres, N > 0, z axis about vertical.
        start: (2,) position of the vehicle, metres in the same frame.
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
    """(cells,) tenth percentile of the (N,) values in each cell, NaN in empty cells."""
    bottom = values.min()
    # Cell and height (millimetres, up to a kilometre) share one integer.
    millimetres = np.clip((values - bottom) * 1000, 0, 2**20 - 1).astype(np.int64)
    key = np.sort((index << 20) | millimetres)
    count = np.bincount(index, minlength=cells)
    first = np.cumsum(count) - count
    filled = count > 0
    result = np.full(cells, np.nan, np.float32)
    result[filled] = bottom + (key[first[filled] + count[filled] // 10] & (2**20 - 1)) / 1000
    return result


def _plane(low: F32, start: F32) -> tuple[F32, NDArray[np.bool_]]:
    """Plane z = a row + b column + c at the vehicle, and the (R, C) cells that lie in it.

    Up to half of the cells around a vehicle may be no ground: the plane is a least trimmed squares
    fit to the better half, by repeated concentration steps (Rousseeuw and Van Driessen 2006).
    """
    row, column = np.nonzero(~np.isnan(low))
    nearest = np.argsort(np.hypot(row - start[0], column - start[1]))[:PLANE_CELLS]
    row, column = row[nearest], column[nearest]
    z = low[row, column]
    design = np.column_stack([row, column, np.ones(len(row))])
    plane = np.array([0.0, 0.0, np.median(z)])
    for _ in range(10):
        residual = np.abs(z - design @ plane)
        best = residual <= np.median(residual)
        plane = np.linalg.lstsq(design[best], z[best], rcond=None)[0]
    residual = np.abs(z - design @ plane)
    seed = np.zeros(low.shape, bool)
    flat = residual <= max(STEP_M, residual.min())
    seed[row[flat], column[flat]] = True
    return plane.astype(np.float32), seed


def _grown(low: F32, seed: NDArray[np.bool_]) -> F32:
    """(R, C) ground, grown from the (R, C) seeds over the cells' lowest points ``low``.

    Cells without points (NaN in ``low``) that are not reached before all others are 0.
    """
    known = seed.astype(np.float32)
    ground = np.where(seed, low, np.float32(0))
    filled = ~np.isnan(low)
    while not known[filled].all():
        both = np.stack([known, ground])
        beside, mean = ndimage.uniform_filter(both, (1, 3, 3), mode="constant")
        edge = (known == 0) & (beside > 0.05)
        expected = mean[edge] / beside[edge]
        # The comparison is false for empty cells, which are NaN.
        ground[edge] = np.where(np.abs(low[edge] - expected) <= STEP_M, low[edge], expected)
        known[edge] = 1
    return ground
