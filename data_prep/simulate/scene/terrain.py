"""The ground of simulated worlds: hills, gardens, lowered roads with a camber, and kerbs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array
from data_prep.simulate.scene.meshes import Mesh, panels
from data_prep.simulate.scene.surfaces import REFLECTANCE, Surface
from data_prep.simulate.scene.world_settings import WorldSettings

REACH_M = 1500.0
"""A world contains what the map holds within this distance of the driven path, metres."""

_WAVES = 16
"""Number of waves that the height field is the sum of."""

_WAVELENGTH_M = (80.0, 800.0)
"""Shortest and longest wavelength, metres."""

_GARDEN_WAVELENGTH_M = (8.0, 40.0)
"""Shortest and longest wavelength of the ground of gardens, metres."""

_GARDEN_RAMP_M = (1.5, 5.0)
"""Gardens rise between these distances from the road, metres; pavements do not."""

_CROWN_M = 4.0
"""The crown of a road is at most this far from its edge, metres."""

_CROWN_STEP_M = 4.0
"""Distance of the vertices along the centre lines of roads, metres."""

_CROWN_TO_KERB_M = 1.2
"""Least distance of these from kerbs, metres."""

_FINE_M = 6.0
"""Spacing of the ground mesh near the driven path, metres."""

_COARSE_M = 48.0
"""Spacing of the ground mesh elsewhere, metres."""

_KERB_STEP_M = 2.0
"""Distance of the vertices along kerbs, metres."""

_FINE_REACH_M = 150.0
"""The mesh is fine, and has roads and kerbs, within this distance of the driven path, metres."""

_MARGIN_M = 300.0
"""The ground extends this far beyond the map, or beyond ``REACH_M``, metres."""


@dataclass(frozen=True)
class Waves:
    """A sum of K cosine waves: a smooth surface, zero on average.

    Attributes:
        wave: (K, 2) wave vectors, radians per metre.
        phase: (K,) radians at the origin.
        amplitude: (K,) metres.
    """

    wave: Array
    phase: Array
    amplitude: Array

    @classmethod
    def drawn(
        cls, wavelength_m: tuple[float, float], slope: float, rng: np.random.Generator
    ) -> Waves:
        """Return random waves.

        Args:
            wavelength_m: Shortest and longest wavelength, metres.
            slope: Root mean square of the slope, metres per metre.
            rng: Draws the waves.
        """
        shortest, longest = wavelength_m
        length = shortest * (longest / shortest) ** rng.random(_WAVES)
        course = rng.uniform(0, 2 * np.pi, _WAVES)
        number = 2 * np.pi / length
        wave = number[:, None] * np.stack([np.cos(course), np.sin(course)], axis=1)
        # The mean square slope of a wave with amplitude a and wave number k is (a k)^2 / 2, and
        # those of independent waves add up.
        amplitude = slope * np.sqrt(2 / _WAVES) / number
        return cls(wave, rng.uniform(0, 2 * np.pi, _WAVES), amplitude)

    def height(self, xy: Array) -> Array:
        """Return (N,) heights at (N, 2) positions, metres."""
        return np.asarray(np.cos(xy @ self.wave.T + self.phase) @ self.amplitude)


@dataclass(frozen=True)
class Terrain:
    """The height of the ground: hills, roads that are lower and have a camber, uneven gardens.

    Attributes:
        origin: (2,) east, north in the map frame, metres.
        hills: The ground without roads and gardens.
        gardens: Unevenness of the ground beside roads.
        kerb_m: The edges of roads lie lower than the ground beside them by this, metres.
        camber: Slope of roads from their crown to their edges, metres per metre.
        edges: Tree of the edges of the roads, short lines in the map frame.
    """

    origin: Array
    hills: Waves
    gardens: Waves
    kerb_m: float
    camber: float
    edges: shapely.STRtree

    @classmethod
    def drawn(cls, origin: Array, settings: WorldSettings, rng: np.random.Generator) -> Terrain:
        """Return a random terrain without roads.

        Args:
            origin: (2,) east, north in the map frame, metres.
            settings: ``slope``, ``garden_slope``, ``kerb_m`` and ``camber`` are used.
            rng: Draws the waves.
        """
        hills = Waves.drawn(_WAVELENGTH_M, settings.slope, rng)
        gardens = Waves.drawn(_GARDEN_WAVELENGTH_M, settings.garden_slope, rng)
        return cls(origin, hills, gardens, settings.kerb_m, settings.camber, shapely.STRtree([]))

    def with_roads(self, asphalt: NDArray[Any]) -> Terrain:
        """Return the terrain with roads, whose asphalt is given as polygons in the map frame."""
        edge = shapely.get_parts(shapely.boundary(asphalt))
        xy, line = shapely.get_coordinates(edge, return_index=True)
        same = np.flatnonzero(line[1:] == line[:-1])
        parts = shapely.linestrings(np.stack([xy[same], xy[same + 1]], axis=1))
        return replace(self, edges=shapely.STRtree(parts))

    def height(self, xy: Array) -> Array:
        """Return (N,) heights of the ground beside roads, metres.

        Args:
            xy: (N, 2) east, north in the map frame, metres.
        """
        near, far = _GARDEN_RAMP_M
        ramp = np.clip((self._to_edge(xy) - near) / (far - near), 0, 1)
        local = xy - self.origin
        return self.hills.height(local) + ramp * np.abs(self.gardens.height(local))

    def road_height(self, xy: Array) -> Array:
        """Return (N,) heights of the roads' surface, metres.

        Args:
            xy: (N, 2) positions on roads: east, north in the map frame, metres.
        """
        crown = self.camber * np.minimum(self._to_edge(xy), _CROWN_M)
        return self.hills.height(xy - self.origin) - self.kerb_m + crown

    def _to_edge(self, xy: Array) -> Array:
        """Return (N,) distances from the nearest edge of a road, metres."""
        if not len(self.edges):
            return np.full(len(xy), _CROWN_M)
        found, distance = self.edges.query_nearest(
            shapely.points(xy), return_distance=True, all_matches=False
        )
        result = np.empty(len(xy))
        result[found[0]] = distance
        return result


def ground_meshes(
    terrain: Terrain,
    raster: MapRaster,
    roads: NDArray[Any],
    crowns: NDArray[Any],
    path: NDArray[Any],
) -> list[Mesh]:
    """Return meshes of the ground and, near the driven path, of roads and kerbs.

    Within ``_FINE_REACH_M`` of the path the triangles are small; beyond, all is coarse ground.

    Args:
        terrain: The height of the ground.
        raster: The map.
        roads: Polygons of the roads' asphalt, in the map frame.
        crowns: The roads' centre lines.
        path: The driven lines, in the map frame.
    """
    m = _MARGIN_M
    reach = shapely.union_all(path).buffer(_FINE_REACH_M, quad_segs=4)
    bounds = np.array(reach.bounds)
    spare = REACH_M - _FINE_REACH_M
    low = np.maximum(bounds[:2] - spare, (raster.west, raster.south)) - m
    high = np.minimum(bounds[2:] + spare, (raster.east, raster.north)) + m
    coarse = _grid(low, high, _COARSE_M)
    asphalt = shapely.intersection(shapely.union_all(roads), reach)
    line = shapely.segmentize(shapely.boundary(asphalt), _KERB_STEP_M)
    kerb = shapely.get_coordinates(line)
    fine = _grid(bounds[:2], bounds[2:], _FINE_M)
    shapely.prepare(reach)
    fine = fine[shapely.contains_xy(reach, *fine.T)]
    crown = shapely.get_coordinates(shapely.segmentize(crowns, _CROWN_STEP_M))
    crown = crown[shapely.contains_xy(reach, *crown.T)]
    crown = _away(crown, kerb, _CROWN_TO_KERB_M)
    fine = _away(_away(fine, kerb, _KERB_STEP_M), crown, _CROWN_STEP_M)
    local = np.concatenate([coarse, fine, crown, kerb]) - terrain.origin
    mesh = Delaunay(local)
    corners = mesh.simplices.astype(np.int64)
    middle = local[corners].mean(axis=1) + terrain.origin
    shapely.prepare(asphalt)
    is_road = shapely.contains_xy(asphalt, *middle.T)
    xy = local + terrain.origin
    z, road = terrain.height(xy), terrain.road_height(xy)
    result = [
        _ground_mesh(np.c_[xy, z], corners[~is_road], Surface.GROUND),
        _ground_mesh(np.c_[xy, road], corners[is_road], Surface.ROAD),
    ]
    if terrain.kerb_m:
        a, b = _road_edges(corners, mesh.neighbors, is_road)
        reflectance = np.full(len(a), REFLECTANCE[Surface.GROUND])
        bottom = np.stack([road[a], road[b]], axis=1)
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


def _away(xy: Array, others: Array, distance: float) -> Array:
    """Return the ones of (N, 2) positions with none of (M, 2) others within ``distance`` metres."""
    near = shapely.STRtree(shapely.points(others)).query(
        shapely.points(xy), predicate="dwithin", distance=distance
    )
    return np.delete(xy, np.unique(near[0]), axis=0)


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
