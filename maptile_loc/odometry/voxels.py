"""Points in voxels: thinned point clouds, and a map of the surfaces that scans have seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array

_BITS = 21
"""Bits per coordinate of a voxel's key: three of them fit into an int64."""

_HALF = 1 << (_BITS - 1)
"""Offset that makes the coordinates of voxels positive; a million voxels to each side."""

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
    [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]
)
"""(7, 3) steps to a voxel itself and to those that share a face with it."""

_UPPER = np.triu_indices(3)
"""Rows and columns of the upper triangle of a 3 x 3 matrix."""


def voxel_means(points: NDArray[np.floating], size_m: float) -> Array:
    """Return the mean of the points in each voxel, in an order that does not depend on theirs.

    Args:
        points: (N, 3) metres, within a million voxels of the origin.
        size_m: Side of a voxel, metres.

    Returns:
        (M, 3) float64, sorted by voxel.
    """
    _, order, start = _grouped(_cells(points, size_m))
    if not len(start):
        return np.zeros((0, 3))
    count = np.diff(start, append=len(order))
    return np.add.reduceat(points[order].astype(np.float64), start) / count[:, None]


class VoxelMap:
    """The surfaces in M voxels, each described by the mean and the covariance of its points.

    The eigenvectors of the covariance are the normals of the surface, scaled by how little the
    points spread along each: one normal across a wall, two across a pole. Registration uses offsets
    along these normals only, so that neither the ground nor a wall restrains the motion along it
    (compare voxelized GICP, Koide et al., ICRA 2021).

    Attributes:
        mean: (M, 3) mean of the points in each voxel, metres.
        normals: (M, 3, 3), or (M, 1, 3) for ground: rows are scaled unit vectors.
        usable: (M,) whether a voxel has enough points.
    """

    def __init__(self, size_m: float, ground: bool) -> None:
        """Make an empty map.

        Args:
            size_m: Side of a voxel, metres.
            ground: Whether voxels have the normal of their plane only, and are usable only if they
                are planes. A single ring of a scan is a line on the ground that moves along with
                the vehicle; its other normals are wrong.
        """
        self._size_m = size_m
        self._ground = ground
        self._keys = np.zeros(0, np.int64)
        self._sums = np.zeros((0, 10))  # count, sum, upper triangle of the outer products
        self.mean = np.zeros((0, 3))
        self.normals = np.zeros((0, 1 if ground else 3, 3))
        self.usable = np.zeros(0, bool)

    def __len__(self) -> int:
        return len(self._keys)

    def insert(self, points: Array) -> None:
        """Add (N, 3) points, metres; in a full voxel the weight of old points decreases."""
        cells = _cells(points, self._size_m)
        keys, order, start = _grouped(cells)
        if not len(keys):
            return
        centre = (cells[order[start]] + 0.5) * self._size_m
        count = np.diff(start, append=len(order))
        off = points[order] - np.repeat(centre, count, axis=0)
        values = np.concatenate(
            [np.ones((len(off), 1)), off, off[:, _UPPER[0]] * off[:, _UPPER[1]]], axis=1
        )
        at = self._make(keys)
        sums = self._sums[at] + np.add.reduceat(values, start)
        sums *= np.minimum(1.0, _MAX_POINTS / sums[:, :1])
        self._sums[at] = sums
        mean = sums[:, 1:4] / sums[:, :1]
        spread = np.zeros((len(at), 3, 3))
        spread[:, _UPPER[0], _UPPER[1]] = sums[:, 4:] / sums[:, :1]
        spread[:, _UPPER[1], _UPPER[0]] = spread[:, _UPPER[0], _UPPER[1]]
        variance, axes = np.linalg.eigh(spread - mean[:, :, None] * mean[:, None, :])
        variance = np.maximum(variance, 0.0)
        self.mean[at] = mean + centre
        self.usable[at] = sums[:, 0] >= _MIN_POINTS
        across = np.swapaxes(axes, 1, 2)
        plane = (variance[:, 1] > _PLANE_RATIO * variance[:, 0]) & (variance[:, 1] > _EXTENT_M**2)
        if self._ground:
            self.usable[at] &= plane
            across, variance = across[:, :1], variance[:, :1]
        else:
            # Of the normals only that of a plane keeps its vertical part.
            across[:, 1:, 2] = 0.0
            across[~plane, 0, 2] = 0.0
        weight = (_EXTENT_M**2 / (_EXTENT_M**2 + variance)) ** 2
        weight *= _ROUGH_M**2 / (_ROUGH_M**2 + variance)
        self.normals[at] = across * np.sqrt(weight)[:, :, None]

    def keep_within(self, centre: Array, far_m: float) -> None:
        """Drop the voxels farther than ``far_m`` metres from the (3,) ``centre``."""
        keep = np.sum((self.mean - centre) ** 2, axis=1) < far_m**2
        self._keys, self._sums = self._keys[keep], self._sums[keep]
        self.mean, self.normals = self.mean[keep], self.normals[keep]
        self.usable = self.usable[keep]

    def find(self, points: Array, neighbours: bool) -> NDArray[np.intp]:
        """Return the index of each point's voxel, -1 where it is not usable.

        Args:
            points: (N, 3) metres.
            neighbours: Whether to choose, of the point's voxel and the six beside it, the one with
                the nearest mean.

        Returns:
            (N,) int.
        """
        best = np.full(len(points), -1)
        if not len(self):
            return best
        nearest = np.full(len(points), np.inf)
        cells = np.floor(points / self._size_m).astype(np.int64)
        for step in _NEIGHBOURS if neighbours else _NEIGHBOURS[:1]:
            keys = _keys(cells + step)
            at = np.minimum(np.searchsorted(self._keys, keys), len(self) - 1)
            there = np.flatnonzero((self._keys[at] == keys) & self.usable[at])
            away = points[there] - self.mean[at[there]]
            distance = np.einsum("ni,ni->n", away, away)
            nearer = distance < nearest[there]
            nearest[there[nearer]] = distance[nearer]
            best[there[nearer]] = at[there[nearer]]
        return best

    def _make(self, keys: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return (K,) indices of the voxels with the sorted (K,) keys; missing ones are added."""
        at = np.searchsorted(self._keys, keys)
        new = np.ones(len(keys), bool)
        inside = at < len(self)
        new[inside] = self._keys[at[inside]] != keys[inside]
        if new.any():
            where = at[new]
            self._keys = np.insert(self._keys, where, keys[new])
            self._sums = np.insert(self._sums, where, 0.0, axis=0)
            self.mean = np.insert(self.mean, where, 0.0, axis=0)
            self.normals = np.insert(self.normals, where, 0.0, axis=0)
            self.usable = np.insert(self.usable, where, False)
            at = np.searchsorted(self._keys, keys)
        return at


def _cells(points: NDArray[np.floating], size_m: float) -> NDArray[np.int64]:
    """Return (N, 3) integer coordinates of the voxels of (N, 3) points."""
    return np.floor(points / size_m).astype(np.int64)


def _keys(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (N,) int64 keys of voxels: the (N, 3) integer coordinates, packed into one."""
    x, y, z = (cells + _HALF).T
    return (x << 2 * _BITS) + (y << _BITS) + z


def _grouped(
    cells: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Group points by their voxels.

    Args:
        cells: (N, 3) integer coordinates of the points' voxels.

    Returns:
        (M,) sorted keys of the voxels, (N,) order that sorts the points by voxel, and (M,) start of
        each voxel in this order.
    """
    keys = _keys(cells)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    start = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1) != 0)
    return keys[start], order, start
