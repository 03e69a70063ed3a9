"""Points in voxels: thinned clouds, and a map of the surfaces that scans have seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array

_BITS = 21
_HALF = 1 << (_BITS - 1)
_FEWEST = 3
_FULL = 300.0
_EXTENT_M = 0.1
_ROUGH_M = 0.05
_NEIGHBOURS = np.array(
    [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]
)
_UPPER = np.triu_indices(3)


def voxel_means(points: NDArray[np.floating], size_m: float) -> Array:
    """(M, 3) mean of the (N, 3) ``points`` in each voxel, in an order that theirs has no part in.

    Args:
        points: Metres, within a million voxels of the origin.
        size_m: Side of a voxel.
    """
    _, order, start = _grouped(_cells(points, size_m))
    if not len(start):
        return np.zeros((0, 3))
    count = np.diff(start, append=len(order))
    return np.add.reduceat(points[order].astype(np.float64), start) / count[:, None]


class VoxelMap:
    """What surfaces look like, one voxel at a time.

    A voxel is known by the mean of its points and by the directions in which they do not spread:
    one across a wall, two across a pole. A point is held there in these directions only, so that
    neither the ground nor a wall holds a vehicle in the directions along it.

    Attributes:
        mean: (M, 3) of the points in each voxel.
        hold: (M, 3, 3), or (M, 1, 3) for ground: rows of unit vectors across the surface, each
            shortened by how much the points spread in its direction.
        usable: (M,) whether there is enough in a voxel to tell.
    """

    def __init__(self, size_m: float, ground: bool) -> None:
        """Make an empty map of voxels ``size_m`` metres a side.

        With ``ground`` a voxel holds across its plane alone, and only once it is known to be one:
        a single ring of a scan is a line on the ground, which moves along with the vehicle.
        """
        self._size_m = size_m
        self._ground = ground
        self._keys = np.zeros(0, np.int64)
        self._sums = np.zeros((0, 10))  # count, sum, upper triangle of the outer products
        self.mean = np.zeros((0, 3))
        self.hold = np.zeros((0, 1 if ground else 3, 3))
        self.usable = np.zeros(0, bool)

    def __len__(self) -> int:
        return len(self._keys)

    def insert(self, points: Array) -> None:
        """Add (N, 3) points; a voxel that is full forgets its oldest little by little."""
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
        sums *= np.minimum(1.0, _FULL / sums[:, :1])
        self._sums[at] = sums
        mean = sums[:, 1:4] / sums[:, :1]
        spread = np.zeros((len(at), 3, 3))
        spread[:, _UPPER[0], _UPPER[1]] = sums[:, 4:] / sums[:, :1]
        spread[:, _UPPER[1], _UPPER[0]] = spread[:, _UPPER[0], _UPPER[1]]
        variance, axes = np.linalg.eigh(spread - mean[:, :, None] * mean[:, None, :])
        variance = np.maximum(variance, 0.0)
        self.mean[at] = mean + centre
        self.usable[at] = sums[:, 0] >= _FEWEST
        across = np.swapaxes(axes, 1, 2)
        plane = (variance[:, 1] > 10 * variance[:, 0]) & (variance[:, 1] > _EXTENT_M**2)
        if self._ground:
            self.usable[at] &= plane
            across, variance = across[:, :1], variance[:, :1]
        else:
            across[:, 1:, 2] = 0.0
            across[~plane, 0, 2] = 0.0
        weight = (_EXTENT_M**2 / (_EXTENT_M**2 + variance)) ** 2
        weight *= _ROUGH_M**2 / (_ROUGH_M**2 + variance)
        self.hold[at] = across * np.sqrt(weight)[:, :, None]

    def keep_within(self, place: Array, far_m: float) -> None:
        """Forget what is farther than ``far_m`` metres from the (3,) ``place``."""
        keep = np.sum((self.mean - place) ** 2, axis=1) < far_m**2
        self._keys, self._sums = self._keys[keep], self._sums[keep]
        self.mean, self.hold, self.usable = self.mean[keep], self.hold[keep], self.usable[keep]

    def find(self, points: Array, neighbours: bool) -> NDArray[np.intp]:
        """(N,) index of the voxel of each of the (N, 3) points, -1 where it is not usable.

        With ``neighbours`` of the point's voxel and the six beside it the one with the nearest
        mean.
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
        """Index of each of the sorted ``keys``, after voxels are made for those without."""
        at = np.searchsorted(self._keys, keys)
        new = np.ones(len(keys), bool)
        inside = at < len(self)
        new[inside] = self._keys[at[inside]] != keys[inside]
        if new.any():
            where = at[new]
            self._keys = np.insert(self._keys, where, keys[new])
            self._sums = np.insert(self._sums, where, 0.0, axis=0)
            self.mean = np.insert(self.mean, where, 0.0, axis=0)
            self.hold = np.insert(self.hold, where, 0.0, axis=0)
            self.usable = np.insert(self.usable, where, False)
            at = np.searchsorted(self._keys, keys)
        return at


def _cells(points: NDArray[np.floating], size_m: float) -> NDArray[np.int64]:
    return np.floor(points / size_m).astype(np.int64)


def _keys(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    x, y, z = (cells + _HALF).T
    return (x << 2 * _BITS) + (y << _BITS) + z


def _grouped(
    cells: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.intp]]:
    """Sorted keys of the cells, the order that sorts the points by them, where each one begins."""
    keys = _keys(cells)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    start = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1) != 0)
    return keys[start], order, start
