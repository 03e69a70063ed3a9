"""Keep a driven path clear of the map's buildings.

A recorded path may cut through a building where its GPS is metres off. The vehicle drove on the
street, so the path is moved, not the building.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, map_coordinates

from data_prep.city.raster import BUILDING, MapRaster
from data_prep.geometry import Array, wrap_angle

_CLEARANCE_M = 2.0
"""Distance that a path keeps from buildings, metres."""

_BLOCK_M = 256.0
"""Side of the blocks in which distances are computed, metres."""

_REACH_M = 64.0
"""Distances up to this are exact, metres."""

_NEIGHBOURS = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
"""Row and column of a pixel and of those below, above, right and left of it."""

_SMOOTH_M = 3.0
"""Standard deviation of the Gaussian that smooths the displacement along the path, metres."""

_ITERATIONS = 400
"""Most iterations of push and smooth."""

_SMALL_M = 0.05
"""The iteration ends when no push is longer, metres."""


class BuildingDistance:
    """The distance of positions to the map's buildings, metres: positive outside, negative inside.

    It also moves paths away from buildings. Distances are computed block by block, where they are
    asked for; beyond ``_REACH_M`` they are not exact.
    """

    def __init__(self, raster: MapRaster) -> None:
        self._raster = raster
        self._side = round(_BLOCK_M / raster.resolution)
        self._spare = round(_REACH_M / raster.resolution) + 2
        self._blocks: dict[tuple[int, int], NDArray[np.float32]] = {}

    def keep_out(self, poses: Array) -> Array:
        """Return a path that is pushed away from buildings, smoothly.

        Positions closer than 2 m to a building are pushed along the gradient of the distance; the
        displacement is smoothed along the path; both are repeated until no push is needed. The
        headings turn with the path.

        Args:
            poses: (N, 3) east, north (map frame, metres) and heading (radians) along the path.

        Returns:
            (N, 3) poses.
        """
        travelled = np.insert(np.cumsum(np.hypot(*np.diff(poses[:, :2], axis=0).T)), 0, 0.0)
        count = max(4, int(travelled[-1]) + 1)
        s = np.linspace(0, travelled[-1], count)
        xy = np.stack([np.interp(s, travelled, poses[:, i]) for i in (0, 1)], axis=1)
        offset = np.zeros_like(xy)
        for _ in range(_ITERATIONS):
            distance, away = self.at(xy + offset)
            push = np.maximum(_CLEARANCE_M - distance, 0.0)[:, None] * away
            if np.abs(push).max() < _SMALL_M:
                break
            offset = offset + gaussian_filter1d(push, _SMOOTH_M, axis=0, mode="nearest")
        offset = gaussian_filter1d(offset, _SMOOTH_M, axis=0, mode="nearest")
        bend = np.gradient(offset, s[1], axis=0)
        tangent = np.gradient(xy, s[1], axis=0)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
        sideways = tangent[:, 0] * bend[:, 1] - tangent[:, 1] * bend[:, 0]
        turn = np.arctan2(sideways, 1 + np.sum(tangent * bend, axis=1))
        change = np.column_stack([offset, turn])
        moved = poses + np.stack([np.interp(travelled, s, c) for c in change.T], axis=1)
        moved[:, 2] = wrap_angle(moved[:, 2])
        return moved

    def at(self, xy: Array) -> tuple[Array, Array]:
        """Return the distance to the nearest wall, and the direction away from it.

        Args:
            xy: (N, 2) east, north in the map frame, metres.

        Returns:
            (N,) signed distances, metres; and (N, 2) unit vectors.
        """
        pixel = self._raster.pixel_from_world(xy) - 0.5
        block = np.floor(pixel / self._side).astype(np.int64)
        blocks, member = np.unique(block, axis=0, return_inverse=True)
        values = np.empty((len(xy), 5))
        for number, (row, column) in enumerate(blocks.tolist()):
            chosen = member.ravel() == number
            local = pixel[chosen] - (row * self._side - 2, column * self._side - 2)
            around = local[:, None] + _NEIGHBOURS
            field = self._block(row, column)
            values[chosen] = (
                map_coordinates(field, around.T.reshape(2, -1), order=1).reshape(5, -1).T
            )
        distance, below, above, right, left = values.T
        away = np.stack([right - left, above - below], axis=1)
        return distance, away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)

    def _block(self, row: int, column: int) -> NDArray[np.float32]:
        """The distances of a block's pixels, and of the two next to it on each side."""
        if (row, column) not in self._blocks:
            corner = row * self._side - self._spare, column * self._side - self._spare
            size = self._side + 2 * self._spare
            built = self._raster.window(*corner, size, size)[BUILDING] > 0
            outside = distance_transform_edt(~built) if built.any() else np.full(built.shape, size)
            inside = (
                distance_transform_edt(built) if not built.all() else np.full(built.shape, size)
            )
            cut = slice(self._spare - 2, self._spare + self._side + 2)
            distance = (outside - inside)[cut, cut] * self._raster.resolution
            self._blocks[row, column] = distance.astype(np.float32)
        return self._blocks[row, column]
