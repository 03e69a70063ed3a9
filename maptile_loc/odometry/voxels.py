"""Points in voxels: thinned point clouds, and a map of the surfaces that scans have seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array

_MIN_POINTS = 3
"""A voxel with fewer points is not usable."""

_MAX_POINTS = 300.0
"""A voxel's sums are scaled down to this number of points, so that old points fade."""

_EXTENT_M = 0.1
"""Points with a larger standard deviation along a direction extend in it, metres."""

_ROUGH_M = 0.05
"""Surfaces with a larger standard deviation across them have less weight, metres."""

_PLANE_RATIO = 10
"""A voxel is a plane if its second variance is more than this times its smallest."""

_NEIGHBOURS = np.array(
    [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.int32
)
"""(7, 3) steps to a voxel itself and to those that share a face with it."""

UPPER = np.triu_indices(3)
"""Rows and columns of the upper triangle of a 3 x 3 matrix."""

SYMMETRIC = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])
"""Indices that make a symmetric 3 x 3 matrix of its upper triangle."""

_NEAR_SIDES = 3.0
"""A voxel's mean is no farther than this number of sides from a point in it or beside it."""

_HEIGHT = 64
"""Number of voxels along the vertical that have different entries in the table of a map."""


def grouped(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Group points by their keys.

    Args:
        keys: (N,) keys, not negative.

    Returns:
        (N,) order that sorts the points by key, those of one key in their order, and (M,) start of
        each key in this order.
    """
    bits = len(keys).bit_length()
    if not len(keys) or int(keys.max()) >> (63 - bits):
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
    else:  # key and index in one integer: numpy sorts these faster
        packed = np.sort((keys << bits) | np.arange(len(keys)))
        order, keys = packed & ((1 << bits) - 1), packed >> bits
    return order, np.flatnonzero(np.diff(keys, prepend=-1))


def cell_keys(cells: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """Return (N,) keys of cells, whose order is that of their (N,) integer coordinates."""
    keys = np.zeros(len(cells[0]), np.int64)
    for row in cells if len(keys) else ():
        low, high = int(row.min()), int(row.max())
        keys = keys * (high - low + 1) + (row - low)
    return keys


class VoxelMap:
    """The surfaces in voxels, each described by the mean and the covariance of its points.

    The eigenvectors of the covariance are the normals of the surface, weighted by how little the
    points spread along each: one normal across a wall, two across a pole. Registration uses offsets
    along these normals only, so that neither the ground nor a wall restrains the motion along it
    (compare voxelized GICP, Koide et al., ICRA 2021).

    The table of the voxels repeats after ``reach_m`` metres: of two voxels that have the same
    entry, the later one replaces the other.

    Attributes:
        mean: (3, V) mean of the points in each voxel, metres; infinite where it has too few points,
            or is free.
        weight: (6, V) upper triangle of each voxel's symmetric matrix W: the weighted square of an
            offset d from the mean is d' W d.
    """

    def __init__(self, size_m: float, reach_m: float, ground: bool) -> None:
        """Make an empty map.

        Args:
            size_m: Side of a voxel, metres.
            reach_m: Extent of the map, metres.
            ground: Whether voxels have the normal of their plane only, and are usable only if they
                are planes. A single ring of a scan is a line on the ground that moves along with
                the vehicle; its other normals are wrong.
        """
        self._size_m = size_m
        self._ground = ground
        self._side = 1 << int(np.ceil(np.log2(reach_m / size_m)))
        self._table = np.zeros(self._side**2 * _HEIGHT, np.int32)
        self._count = 1  # voxel 0 stands for none
        self._cells = np.zeros((3, 1), np.int32)
        self._sums = np.zeros((10, 1))  # count, sum, upper triangle of the outer products
        self.mean = np.full((3, 1), np.inf)
        self.weight = np.zeros((6, 1))

    def insert(self, points: Array) -> None:
        """Add (3, N) points, metres; in a full voxel the weight of old points decreases."""
        cells = self._cells_of(points)
        order, start = grouped(cell_keys([*cells]))
        if not len(start):
            return
        cells, count = cells[:, order[start]], np.diff(start, append=len(order))
        centre = (cells + 0.5) * self._size_m
        off = np.take(points, order, axis=1) - np.repeat(centre, count, axis=1)
        at = self._make(cells)
        sums = np.take(self._sums, at, axis=1)
        sums[0] += count
        sums[1:4] += np.add.reduceat(off, start, axis=1)
        sums[4:] += np.add.reduceat(off[UPPER[0]] * off[UPPER[1]], start, axis=1)
        sums *= np.minimum(1.0, _MAX_POINTS / sums[0])
        self._sums[:, at] = sums
        enough = sums[0] >= _MIN_POINTS
        at, centre, sums = at[enough], centre[:, enough], sums[:, enough]
        mean = sums[1:4] / sums[0]
        spread = sums[4:] / sums[0] - mean[UPPER[0]] * mean[UPPER[1]]
        usable, weight = self._surfaces(spread[SYMMETRIC].transpose(2, 0, 1))
        self.mean[:, at] = np.where(usable, mean + centre, np.inf)
        self.weight[:, at] = weight[:, UPPER[0], UPPER[1]].T

    def _surfaces(self, spread: Array) -> tuple[NDArray[np.bool_], Array]:
        """Return what (M, 3, 3) covariances say of the surfaces in M voxels.

        Returns:
            (M,) whether they are surfaces, and their (M, 3, 3) matrices W, see ``weight``.
        """
        variance, axes = np.linalg.eigh(spread)
        variance = np.maximum(variance, 0.0)
        across = np.swapaxes(axes, 1, 2)
        plane = (variance[:, 1] > _PLANE_RATIO * variance[:, 0]) & (variance[:, 1] > _EXTENT_M**2)
        usable = np.ones(len(spread), bool)
        if self._ground:
            usable = plane
            across, variance = across[:, :1], variance[:, :1]
        else:
            # Of the normals only that of a plane keeps its vertical part.
            across[:, 1:, 2] = 0.0
            across[~plane, 0, 2] = 0.0
        weight = (_EXTENT_M**2 / (_EXTENT_M**2 + variance)) ** 2
        weight *= _ROUGH_M**2 / (_ROUGH_M**2 + variance)
        return usable, np.einsum("mk,mki,mkj->mij", weight, across, across)

    def keep_within(self, centre: Array, far_m: float) -> None:
        """Drop the voxels farther than ``far_m`` metres from the (3,) ``centre``."""
        cells = self._cells[:, : self._count]
        entry = self._entries(cells)
        away = (cells + 0.5) * self._size_m - centre[:, None]
        keep = (away**2).sum(axis=0) < far_m**2
        keep &= self._table[entry] == np.arange(self._count)
        keep[0] = True
        self._table[entry] = 0
        self._count = int(keep.sum())
        for name in ("_cells", "_sums", "mean", "weight"):
            values = getattr(self, name)
            setattr(self, name, np.compress(keep, values[:, : len(keep)], axis=1))
        self._table[entry[keep][1:]] = np.arange(1, self._count)

    def find(self, points: Array, neighbours: bool) -> NDArray[np.int32]:
        """Return the index of each point's voxel, 0 where there is none, or no usable one.

        Args:
            points: (3, N) metres.
            neighbours: Whether to choose, of the point's voxel and the six beside it, the one with
                the nearest mean.

        Returns:
            (N,) int32.
        """
        steps = _NEIGHBOURS if neighbours else _NEIGHBOURS[:1]
        cells = self._cells_of(points)[:, None] + steps.T[:, :, None]
        at = np.take(self._table, self._entries(cells))
        x, y, z = (points[i] - np.take(self.mean[i], at) for i in range(3))
        squared = x * x + y * y + z * z
        nearest = squared.argmin(axis=0) * len(points[0]) + np.arange(len(points[0]))
        squared, at = squared.ravel()[nearest], at.ravel()[nearest]
        return np.where(squared < (_NEAR_SIDES * self._size_m) ** 2, at, 0)

    def _make(self, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return (M,) indices of the voxels with (3, M) coordinates; missing ones are added."""
        entry = self._entries(cells)
        at = self._table[entry]
        new = (at == 0) | (np.take(self._cells, at, axis=1) != cells).any(axis=0)
        number = int(new.sum())
        if self._count + number > self._cells.shape[1]:
            more = ((0, 0), (0, self._count + 2 * number))
            self._cells, self._sums = np.pad(self._cells, more), np.pad(self._sums, more)
            self.mean = np.pad(self.mean, more, constant_values=np.inf)
            self.weight = np.pad(self.weight, more)
        at[new] = np.arange(self._count, self._count + number)
        self._cells[:, at[new]], self._sums[:, at[new]] = cells[:, new], 0.0
        self._table[entry[new]] = at[new]
        self._count += number
        return at

    def _cells_of(self, points: Array) -> NDArray[np.int32]:
        """Return the (3, N) integer coordinates of the voxels of (3, N) points."""
        return np.floor(points * (1 / self._size_m)).astype(np.int32)

    def _entries(self, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the (...,) entries of the table for voxels with (3, ...) coordinates."""
        x, y = cells[:2] & (self._side - 1)  # a power of 2
        return (x * self._side + y) * _HEIGHT + (cells[2] & (_HEIGHT - 1))
