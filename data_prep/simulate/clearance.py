"""Keep a driven path clear of the map's buildings.

A recorded path may cut through a building where its GPS is metres off. The vehicle drove on the
street, so the path is moved, not the building.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter1d, map_coordinates

from data_prep.city.raster import BUILDING, MapRaster
from data_prep.geometry import Array, wrap_angle

_CLEARANCE_M = 2.0
"""Distance that a path keeps from buildings, metres."""

_SMOOTH_M = 3.0
"""Standard deviation of the Gaussian that smooths the displacement along the path, metres."""

_ITERATIONS = 400
"""Most iterations of push and smooth."""

_SMALL_M = 0.05
"""The iteration ends when no push is longer, metres."""


class BuildingDistance:
    """The distance of positions to the map's buildings, metres: positive outside, negative inside.

    It also moves paths away from buildings.
    """

    def __init__(self, raster: MapRaster) -> None:
        built = raster.data[BUILDING] > 0
        outside = distance_transform_edt(~built)
        inside = distance_transform_edt(built)
        self._raster = raster
        self._distance = ((outside - inside) * raster.resolution).astype(np.float32)
        self._gradient = np.gradient(self._distance, raster.resolution)

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
        pixel = self._raster.pixel_from_world(xy).T - 0.5
        distance, down, right = (
            map_coordinates(field, pixel, order=1, mode="nearest")
            for field in (self._distance, *self._gradient)
        )
        away = np.stack([right, -down], axis=1)
        return distance, away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
