"""Roads and paths of simulated worlds, and positions for objects beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.simulate.scene.meshes import Mesh
from data_prep.simulate.scene.terrain import REACH_M, Terrain
from data_prep.simulate.scene.world_settings import WorldSettings

_CORNER_M = 3.0
"""Radius of the kerbs at junctions, metres; narrower gaps between roads are paved."""

_UNMAPPED_WIDTH_M = 6.0
"""Width of the road along the driven path where the map has no roads, metres."""

Objects = tuple[list[Mesh], int]
"""The meshes of some objects, and the number of objects."""


@dataclass(frozen=True)
class Roadside:
    """R roads and paths, and what decides where objects may stand beside them.

    Attributes:
        lines: (R,) centre lines in the map frame.
        width: (R,) metres.
        is_road: (R,) False for paths.
        asphalt: Polygons of the roads.
        driven: The driven path, a geometry in the map frame.
        terrain: The ground.
        walls: Two (W, 2), the ends of the buildings' walls, metres; outside is on the right of the
            line from the first to the second.
    """

    lines: NDArray[Any]
    width: Array
    is_road: NDArray[np.bool_]
    asphalt: NDArray[Any]
    driven: Any
    terrain: Terrain
    walls: tuple[Array, Array] = (np.empty((0, 2)), np.empty((0, 2)))

    @classmethod
    def of(
        cls,
        city: City,
        driven: NDArray[Any],
        clearance_m: float,
        terrain: Terrain,
        settings: WorldSettings,
        rng: np.random.Generator,
    ) -> Roadside:
        """Return the city's roads and paths, displaced and with other widths than on the map.

        The ground below the driven path is asphalt everywhere. Where the map has no roads at all,
        the driven path is the only one.

        Args:
            city: The map.
            driven: The driven lines, in the map frame.
            clearance_m: The ground this close to them is asphalt, metres.
            terrain: The ground without roads.
            settings: ``road_shift_m`` and ``road_width`` are used.
            rng: Draws displacements and widths.
        """
        table = near(city.roads(), driven)
        if table.empty:
            lines = driven
            width, is_road = np.full(len(lines), _UNMAPPED_WIDTH_M), np.ones(len(lines), bool)
        else:
            lines = np.asarray(table.geometry.values, object)
            width = table["width"].to_numpy(np.float64)
            is_road = table["kind"].to_numpy() == "road"
            xy, owner = shapely.get_coordinates(lines, return_index=True)
            shift = rng.normal(0, 1, (len(lines), 2)) * settings.road_shift_m
            lines = shapely.set_coordinates(lines.copy(), xy + shift[owner])
            width = width * np.exp(rng.normal(0, 1, len(lines)) * settings.road_width)
        asphalt = shapely.buffer(lines[is_road], width[is_road] / 2)
        under = shapely.buffer(driven, clearance_m)
        paved = shapely.union_all(np.concatenate([asphalt, under]))
        asphalt = shapely.get_parts(shapely.buffer(shapely.buffer(paved, _CORNER_M), -_CORNER_M))
        terrain = terrain.with_roads(asphalt)
        return cls(lines, width, is_road, asphalt, shapely.union_all(driven), terrain)

    def count(self, per_100m: float, rng: np.random.Generator, *, paths: bool) -> int:
        """Return a random number of objects along the roads, and along the paths with ``paths``.

        Args:
            per_100m: Expected number per 100 m.
            rng: Draws from a Poisson distribution.
            paths: Whether paths count as well.
        """
        length = shapely.length(self.lines[self.is_road | paths]).sum()
        return int(rng.poisson(per_100m * length / 100))

    def spots(
        self,
        count: int,
        beside: tuple[float, float],
        rng: np.random.Generator,
        *,
        paths: bool = False,
        row: tuple[int, int] = (1, 1),
        step_m: float = 0.0,
    ) -> tuple[Array, Array]:
        """Return random positions beside roads, and the direction of the road at each.

        Args:
            count: Approximate number of positions.
            beside: Least and largest distance from the edge of the road, metres.
            rng: Draws the positions.
            paths: Whether positions may also be beside paths.
            row: Least and largest number of positions in a row along the road.
            step_m: Distance between two positions in a row, metres.

        Returns:
            (N, 2) east, north in the map frame, metres; and (N,) headings, radians.
        """
        lines = self.lines[self.is_road | paths]
        width = self.width[self.is_road | paths]
        length = shapely.length(lines)
        if not length.sum():
            return np.empty((0, 2)), np.empty(0)
        size = rng.integers(row[0], row[1] + 1, count)
        size = size[: np.searchsorted(np.cumsum(size), count) + 1]
        start = rng.choice(len(lines), len(size), p=length / length.sum())
        at = rng.uniform(0, length[start])
        offset = (width[start] / 2 + rng.uniform(*beside, len(size))) * rng.choice(
            [-1, 1], len(size)
        )
        number = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        chosen, offset = np.repeat(start, size), np.repeat(offset, size)
        at = np.repeat(at, size) + number * step_m
        on = at <= length[chosen]
        chosen, offset, at = chosen[on], offset[on], at[on]
        here = shapely.get_coordinates(shapely.line_interpolate_point(lines[chosen], at))
        ends = [
            shapely.get_coordinates(
                shapely.line_interpolate_point(lines[chosen], np.clip(at + d, 0, length[chosen]))
            )
            for d in (-0.5, 0.5)
        ]
        along = np.arctan2(*(ends[1] - ends[0]).T[::-1])
        aside = np.stack([-np.sin(along), np.cos(along)], axis=1)
        return here + offset[:, None] * aside, along

    def spots_at_walls(
        self, count: int, out_m: tuple[float, float], rng: np.random.Generator
    ) -> tuple[Array, Array]:
        """Return random positions outside walls, and the direction of the wall at each.

        Args:
            count: N, or none where there are no walls.
            out_m: Least and largest distance from the wall, metres.
            rng: Draws the positions.

        Returns:
            (N, 2) east, north in the map frame, metres; and (N,) headings, radians.
        """
        a, b = self.walls
        length = np.hypot(*(b - a).T)
        if not length.sum():
            return np.empty((0, 2)), np.empty(0)
        chosen = rng.choice(len(a), count, p=length / length.sum())
        along = (b - a)[chosen] / length[chosen, None]
        at, out = rng.random(count) * length[chosen], rng.uniform(*out_m, count)
        xy = a[chosen] + at[:, None] * along + out[:, None] * along[:, ::-1] * (1, -1)
        return xy, np.arctan2(*along.T[::-1])

    def path_distance(self, xy: Array) -> Array:
        """Return (N,) distances of (N, 2) positions from the driven path, metres."""
        return np.asarray(shapely.distance(self.driven, shapely.points(xy)))

    def surface_height(self, xy: Array) -> Array:
        """Return (N,) heights of the road or the ground at (N, 2) positions, metres."""
        on = np.zeros(len(xy), bool)
        on[shapely.STRtree(self.asphalt).query(shapely.points(xy), predicate="within")[0]] = True
        return np.where(on, self.terrain.road_height(xy), self.terrain.height(xy))


def near(table: gpd.GeoDataFrame, driven: NDArray[Any]) -> gpd.GeoDataFrame:
    """Return the rows of a table of the map within ``REACH_M`` of the driven lines."""
    path = shapely.union_all(driven)
    shapely.prepare(path)
    return table[shapely.dwithin(table.geometry.to_numpy(), path, REACH_M)]


def is_free(shapes: NDArray[Any], blocked: shapely.STRtree) -> NDArray[np.bool_]:
    """Return (N,) whether each of the (N,) shapes intersects none of those in ``blocked``."""
    result = np.ones(len(shapes), bool)
    result[blocked.query(shapes, predicate="intersects")[0]] = False
    return result


def clear_of_earlier(shapes: NDArray[Any]) -> NDArray[np.bool_]:
    """Return (N,) whether each of the (N,) shapes intersects none of those before it."""
    result = np.ones(len(shapes), bool)
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    result[one[other < one]] = False
    return result
