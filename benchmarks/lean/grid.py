"""The grid of camera poses: positions in a square area, yaw and pitch in fixed steps."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from data_prep.geometry import Array

YAWS = 72
"""Number of yaw angles: 5 degrees apart, as in the paper."""

YAW_STEP = 2 * np.pi / YAWS
"""Step of the yaw, radians."""

PITCH_STEP = np.radians(3.0)
"""Step of the pitch from 0 upwards, radians, as in the paper, which has 6 of them."""


@dataclass(frozen=True)
class PoseGrid:
    """A grid of poses: x, y, yaw, pitch.

    *Units* are (N, 4) float64 coordinates in steps of the grid: its samples have integers, and a
    cell's index is the floor. Yaw repeats after ``YAWS``.

    Attributes:
        west: Of the area, metres, map frame.
        south: Likewise.
        area_m: Side of the square area, metres.
        step_m: Step of x and y, metres.
        pitches: Number of pitch angles; with 1, all views are level, and the pitch is no part of a
            cell.
    """

    west: float
    south: float
    area_m: float
    step_m: float
    pitches: int

    def samples(self) -> Array:
        """(N, 4) units of the training poses."""
        count = self._cells + 1
        return _product(
            np.arange(count), np.arange(count), np.arange(YAWS), np.arange(self.pitches)
        )

    def midpoints(self) -> Array:
        """(M, 4) units of the middles of all cells, farthest from the samples."""
        side, yaw = np.arange(self._cells) + 0.5, np.arange(YAWS) + 0.5
        pitch = np.arange(self.pitches - 1) + 0.5 if self.pitches > 1 else np.zeros(1)
        return _product(side, side, yaw, pitch)

    @property
    def _cells(self) -> int:
        return round(self.area_m / self.step_m)

    def poses(self, units: Array) -> Array:
        """(N, 4) east, north (metres, map frame), yaw, pitch (radians) of units."""
        steps = (self.step_m, self.step_m, YAW_STEP, PITCH_STEP)
        return units * steps + (self.west, self.south, 0.0, 0.0)

    def vectors(self, units: Array) -> NDArray[np.float32]:
        """(N, 6) float32: the vectors that a network regresses.

        x and y from the area's centre in shares of its side; and the quaternion w, x, y, z of yaw
        and pitch with w >= 0. The paper normalises x and y likewise.
        """
        poses = self.poses(units)
        turn = Rotation.from_euler("ZY", poses[:, 2:] * (1, -1))
        quaternion = turn.as_quat(canonical=True, scalar_first=True)
        xy = units[:, :2] * self.step_m / self.area_m - 0.5
        return np.concatenate([xy, quaternion], axis=1).astype(np.float32)

    def units(self, vectors: NDArray[np.floating]) -> Array:
        """(N, 4) units of (N, 6) vectors; quaternions need not have length 1, and roll is lost."""
        vectors = vectors.astype(np.float64)
        vectors[(vectors[:, 2:] == 0).all(axis=1), 2] = 1  # no quaternion at all: no rotation
        ahead = Rotation.from_quat(vectors[:, 2:], scalar_first=True).apply([1.0, 0.0, 0.0])
        yaw = np.arctan2(ahead[:, 1], ahead[:, 0]) / YAW_STEP % YAWS
        pitch = np.arcsin(np.clip(ahead[:, 2], -1, 1)) / PITCH_STEP
        xy = (vectors[:, :2] + 0.5) * self.area_m / self.step_m
        return np.column_stack([xy, yaw % YAWS, pitch])

    def nearest(self, known: Array, units: Array, count: int) -> NDArray[np.int64]:
        """Return the samples nearest to poses, by Euclidean distance in units.

        Args:
            known: (K, 4) units of the samples.
            units: (N, 4) units of the poses.
            count: Samples per pose, at most K.

        Returns:
            (N, count) rows of ``known``, the nearest first.
        """
        tree = cKDTree(self._measured(known), boxsize=(0, 0, YAWS, 0))
        return tree.query(self._measured(units), np.arange(1, count + 1))[1]

    def apart(self, one: Array, other: Array) -> NDArray[np.int64]:
        """(N, 2) D, the Manhattan distances between the cells of (N, 4) units: in 2D and in 4D."""
        cells = np.floor(self._measured(one)) - np.floor(self._measured(other))
        steps = np.abs(cells).astype(np.int64)
        steps[:, 2] = np.minimum(steps[:, 2], YAWS - steps[:, 2])
        return np.column_stack([steps[:, :2].sum(axis=1), steps.sum(axis=1)])

    def errors(self, one: Array, other: Array) -> Array:
        """(N, 2) Euclidean errors between (N, 4) units: x, y in metres; yaw, pitch in degrees."""
        off = self._measured(one) - self._measured(other)
        off[:, 2] = (off[:, 2] + YAWS / 2) % YAWS - YAWS / 2
        off *= (self.step_m, self.step_m, np.degrees(YAW_STEP), np.degrees(PITCH_STEP))
        return np.column_stack([np.linalg.norm(off[:, at], axis=1) for at in ([0, 1], [2, 3])])

    def _measured(self, units: Array) -> Array:
        """(N, 4) units, without the pitch where all views are level."""
        return units * (1, 1, 1, self.pitches > 1)


def _product(*axes: NDArray[np.generic]) -> Array:
    """(N, len(axes)) all combinations, the last axis fastest."""
    return np.array(list(itertools.product(*axes)), np.float64)
