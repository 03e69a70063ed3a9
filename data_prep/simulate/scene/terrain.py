"""The ground of simulated worlds: a smooth height field, roads in it, and kerbs beside these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array
from data_prep.simulate.scene.kinds import GROUND, REFLECTANCE, ROAD
from data_prep.simulate.scene.meshes import Mesh, panels

_WAVES = 16
_WAVELENGTH_M = (80.0, 800.0)
_FINE_M, _COARSE_M, _KERB_STEP_M = 6.0, 48.0, 2.0
_FINE_REACH_M = 150.0
_MARGIN_M = 300.0


@dataclass(frozen=True)
class Terrain:
    """The height of the ground, a sum of K waves: smooth, and zero on average.

    Attributes:
        origin: (2,) east, north in the map frame.
        wave: (K, 2) wave vectors, radians per metre.
        phase: (K,) radians at ``origin``.
        swell: (K,) amplitudes, metres.
        kerb_m: Roads lie lower by this.
    """

    origin: Array
    wave: Array
    phase: Array
    swell: Array
    kerb_m: float

    @classmethod
    def rolling(
        cls, origin: Array, slope: float, kerb_m: float, rng: np.random.Generator
    ) -> Terrain:
        """Waves of 80 to 800 m in all directions, with a root mean square slope of ``slope``."""
        shortest, longest = _WAVELENGTH_M
        length = shortest * (longest / shortest) ** rng.random(_WAVES)
        course = rng.uniform(0, 2 * np.pi, _WAVES)
        number = 2 * np.pi / length
        wave = number[:, None] * np.stack([np.cos(course), np.sin(course)], axis=1)
        # A wave's slope is a k sin(.): its mean square is (a k)^2 / 2, and they add up.
        swell = slope * np.sqrt(2 / _WAVES) / number
        return cls(origin, wave, rng.uniform(0, 2 * np.pi, _WAVES), swell, kerb_m)

    def height(self, xy: Array) -> Array:
        """(N,) metres of the ground beside roads at (N, 2) places in the map frame."""
        return np.asarray(np.cos(self._angle(xy)) @ self.swell)

    def gradient(self, xy: Array) -> Array:
        """(N, 2) slope to the east and to the north at (N, 2) places."""
        return np.asarray(-np.sin(self._angle(xy)) * self.swell @ self.wave)

    def _angle(self, xy: Array) -> Array:
        return np.asarray((xy - self.origin) @ self.wave.T + self.phase)


def ground_meshes(
    terrain: Terrain, raster: MapRaster, roads: NDArray[Any], path: NDArray[Any]
) -> list[Mesh]:
    """Roads, what is beside them, and the kerbs between, as far as a vehicle on ``path`` sees them.

    Args:
        terrain: Its height.
        raster: The map; the ground goes on beyond its edge.
        roads: Polygons of asphalt, in the map frame.
        path: Lines that are driven.
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
    xy = np.concatenate([coarse, fine[keep], kerb]) - terrain.origin
    mesh = Delaunay(xy)
    corners = mesh.simplices.astype(np.int64)
    middle = xy[corners].mean(axis=1) + terrain.origin
    shapely.prepare(asphalt)
    is_road = shapely.contains_xy(asphalt, *middle.T)
    place = xy + terrain.origin
    z = terrain.height(place)
    result = [
        _flat(np.c_[place, z], corners[~is_road], GROUND),
        _flat(np.c_[place, z - terrain.kerb_m], corners[is_road], ROAD),
    ]
    if terrain.kerb_m:
        a, b = _borders(corners, mesh.neighbors, is_road)
        bright = np.full(len(a), REFLECTANCE[GROUND])
        bottom = np.stack([z[a], z[b]], axis=1) - terrain.kerb_m
        top = np.stack([z[a], z[b]], axis=1)
        result.append(panels(place[a], place[b], bottom, top, bright, GROUND))
    return result


def _grid(low: Any, high: Any, step: float) -> Array:
    """(N, 2) points of a grid, half a step turned at every second row so that none is square."""
    x, y = (np.arange(low[i], high[i] + step, step) for i in (0, 1))
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    grid[::2, :, 0] += step / 2
    return grid.reshape(-1, 2)


def _flat(vertices: Array, corners: NDArray[np.int64], kind: int) -> Mesh:
    return Mesh(vertices, corners, np.full(len(corners), REFLECTANCE[kind], np.float32), kind)


def _borders(
    corners: NDArray[np.int64], neighbours: NDArray[np.int32], is_road: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both ends of the edges between a road's triangle and another's."""
    there = (neighbours >= 0) & ~is_road[neighbours]
    triangle, opposite = np.nonzero(is_road[:, None] & there)
    # The neighbour of number i lies across the edge opposite to corner i.
    ends = [corners[triangle, (opposite + step) % 3] for step in (1, 2)]
    return ends[0], ends[1]
