"""The ground of simulated worlds: a smooth height field, lowered roads, and kerbs between both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array
from data_prep.simulate.scene.meshes import Mesh, panels
from data_prep.simulate.scene.surfaces import REFLECTANCE, Surface

_WAVES = 16
"""Number of waves that the height field is the sum of."""

_WAVELENGTH_M = (80.0, 800.0)
"""Shortest and longest wavelength, metres."""

_FINE_M = 6.0
"""Spacing of the ground mesh near the driven path, metres."""

_COARSE_M = 48.0
"""Spacing of the ground mesh elsewhere, metres."""

_KERB_STEP_M = 2.0
"""Distance of the vertices along kerbs, metres."""

_FINE_REACH_M = 150.0
"""The mesh is fine, and has roads and kerbs, within this distance of the driven path, metres."""

_MARGIN_M = 300.0
"""The ground extends this far beyond the map, metres."""


@dataclass(frozen=True)
class Terrain:
    """The height of the ground: a sum of K cosine waves, so smooth and zero on average.

    Attributes:
        origin: (2,) east, north in the map frame, metres.
        wave: (K, 2) wave vectors, radians per metre.
        phase: (K,) radians at ``origin``.
        amplitude: (K,) metres.
        kerb_m: Roads lie lower than the ground beside them by this, metres.
    """

    origin: Array
    wave: Array
    phase: Array
    amplitude: Array
    kerb_m: float

    @classmethod
    def rolling(
        cls, origin: Array, slope: float, kerb_m: float, rng: np.random.Generator
    ) -> Terrain:
        """Return a terrain of random waves 80 to 800 m long.

        Args:
            origin: (2,) east, north in the map frame, metres.
            slope: Root mean square of the slope, metres per metre.
            kerb_m: Height of kerbs, metres.
            rng: Draws the waves.
        """
        shortest, longest = _WAVELENGTH_M
        length = shortest * (longest / shortest) ** rng.random(_WAVES)
        course = rng.uniform(0, 2 * np.pi, _WAVES)
        number = 2 * np.pi / length
        wave = number[:, None] * np.stack([np.cos(course), np.sin(course)], axis=1)
        # The mean square slope of a wave with amplitude a and wave number k is (a k)^2 / 2, and
        # those of independent waves add up.
        amplitude = slope * np.sqrt(2 / _WAVES) / number
        return cls(origin, wave, rng.uniform(0, 2 * np.pi, _WAVES), amplitude, kerb_m)

    def height(self, xy: Array) -> Array:
        """Return (N,) heights of the ground beside roads, metres.

        Args:
            xy: (N, 2) east, north in the map frame, metres.
        """
        return np.asarray(np.cos(self._angle(xy)) @ self.amplitude)

    def gradient(self, xy: Array) -> Array:
        """Return (N, 2) slopes to the east and to the north, metres per metre.

        Args:
            xy: (N, 2) east, north in the map frame, metres.
        """
        return np.asarray(-np.sin(self._angle(xy)) * self.amplitude @ self.wave)

    def _angle(self, xy: Array) -> Array:
        return np.asarray((xy - self.origin) @ self.wave.T + self.phase)


def ground_meshes(
    terrain: Terrain, raster: MapRaster, roads: NDArray[Any], path: NDArray[Any]
) -> list[Mesh]:
    """Return meshes of the ground and, near the driven path, of roads and kerbs.

    Within ``_FINE_REACH_M`` of the path the triangles are small; beyond, all is coarse ground.

    Args:
        terrain: The height of the ground.
        raster: The map.
        roads: Polygons of the roads' asphalt, in the map frame.
        path: The driven lines, in the map frame.
    """
    m = _MARGIN_M
    low, high = (raster.west - m, raster.south - m), (raster.east + m, raster.north + m)
    coarse = _grid(low, high, _COARSE_M)
    reach = shapely.union_all(path).buffer(_FINE_REACH_M, quad_segs=4)
    asphalt = shapely.intersection(shapely.union_all(roads), reach)
    line = shapely.segmentize(shapely.boundary(asphalt), _KERB_STEP_M)
    kerb = shapely.get_coordinates(line)
    bounds = np.array(reach.bounds)
    fine = _grid(bounds[:2], bounds[2:], _FINE_M)
    shapely.prepare(reach)
    fine = fine[shapely.contains_xy(reach, *fine.T)]
    near = shapely.STRtree(shapely.points(kerb)).query(
        shapely.points(fine), predicate="dwithin", distance=_KERB_STEP_M
    )
    keep = np.ones(len(fine), bool)
    keep[near[0]] = False
    local = np.concatenate([coarse, fine[keep], kerb]) - terrain.origin
    mesh = Delaunay(local)
    corners = mesh.simplices.astype(np.int64)
    middle = local[corners].mean(axis=1) + terrain.origin
    shapely.prepare(asphalt)
    is_road = shapely.contains_xy(asphalt, *middle.T)
    xy = local + terrain.origin
    z = terrain.height(xy)
    result = [
        _ground_mesh(np.c_[xy, z], corners[~is_road], Surface.GROUND),
        _ground_mesh(np.c_[xy, z - terrain.kerb_m], corners[is_road], Surface.ROAD),
    ]
    if terrain.kerb_m:
        a, b = _road_edges(corners, mesh.neighbors, is_road)
        reflectance = np.full(len(a), REFLECTANCE[Surface.GROUND])
        bottom = np.stack([z[a], z[b]], axis=1) - terrain.kerb_m
        top = np.stack([z[a], z[b]], axis=1)
        result.append(panels(xy[a], xy[b], bottom, top, reflectance, Surface.GROUND))
    return result


def _grid(low: Any, high: Any, step: float) -> Array:
    """Return (N, 2) points of a grid with every second row shifted by half a step.

    The shift avoids four points on one circle, whose Delaunay triangulation is ambiguous.
    """
    x, y = (np.arange(low[i], high[i] + step, step) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    grid[::2, :, 0] += step / 2
    return grid.reshape(-1, 2)


def _ground_mesh(vertices: Array, corners: NDArray[np.int64], kind: Surface) -> Mesh:
    return Mesh(vertices, corners, np.full(len(corners), REFLECTANCE[kind], np.float32), kind)


def _road_edges(
    corners: NDArray[np.int64], neighbours: NDArray[np.int32], is_road: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the two ends of each edge between a triangle of a road and one that is none.

    Args:
        corners: (T, 3) vertex indices of the triangles.
        neighbours: (T, 3) index of the triangle opposite to each corner, -1 where there is none.
        is_road: (T,) whether the triangle is part of a road.

    Returns:
        Two (E,) arrays of vertex indices; edges on the mesh's border are left out.
    """
    there = (neighbours >= 0) & ~is_road[neighbours]
    triangle, opposite = np.nonzero(is_road[:, None] & there)
    ends = [corners[triangle, (opposite + step) % 3] for step in (1, 2)]
    return ends[0], ends[1]
