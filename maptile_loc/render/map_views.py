"""Where the map's own views lie: along the roads, or on a grid.

All coordinates are plane coordinates of ``raycast``: metres east, north of the city's reference.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from data_prep.errors import MaptileError
from maptile_loc.render.raycast import Worlds
from maptile_loc.render.routes import BESIDE_M
from maptile_loc.render.vector_map import VectorMap

PATH_POINTS = 3
"""Points of the straight paths of views on a grid."""


COMPACT_M = 15.0
"""Largest distance of a compact grid's positions from the middle of a road, metres."""

Database = Literal["roads", "grid", "compact"]
"""Where views lie: along the roads, on a grid, or on its positions near a road."""


class MapViews(NamedTuple):
    """Positions from which the map is seen.

    Attributes:
        paths: (N, P, 2) float32, the paths through the positions.
        centre: (N, 2) float32, the positions.
    """

    paths: Tensor
    centre: Tensor


def along_roads(city_map: VectorMap, every_m: float, travel_m: float) -> MapViews:
    """Views at random distances to either side of the roads, one per ``every_m`` metres of road.

    Args:
        city_map: The city's map.
        every_m: Metres of road between two views.
        travel_m: Length of the path about each.
    """
    roads, half = city_map.roads, len(city_map.roads.start) // 2
    generator = torch.Generator().manual_seed(0)
    length = roads.length()[:half] / city_map.repeats
    counted = torch.where(city_map.weights[:half] > 0, length, 0).cumsum(0)
    marks = torch.arange(every_m / 2, max(float(counted[-1]), every_m), every_m)
    pieces = torch.searchsorted(counted, marks).clamp_max(half - 1)
    aside = roads.aside(pieces, BESIDE_M, generator)
    at = roads.routes(pieces, aside, 1, (0.0, 0.0), travel_m, generator)
    return MapViews(at.paths[:, 0], at.centre[:, 0])


def on_grid(
    city_map: VectorMap, world: Worlds, step_m: float, travel_m: float, near_m: float | None = None
) -> MapViews:
    """Views on a uniform grid, outside buildings; their paths are parallel to the nearest road.

    Args:
        city_map: The city's map.
        world: The city as it is mapped.
        step_m: Spacing of the grid.
        travel_m: Length of the path about each.
        near_m: Largest distance from the middle of a road; None: any.

    Raises:
        MaptileError: No position is left.
    """
    west, south, east, north = city_map.bounds
    x, y = np.meshgrid(np.arange(west, east, step_m), np.arange(south, north, step_m))
    places = np.column_stack([x.ravel(), y.ravel()]) + step_m / 2
    away, nearest = cKDTree(city_map.roads.middle()).query(places)
    centre = torch.from_numpy(places).float()
    free = world.free(torch.zeros(len(centre), dtype=torch.int64), centre[:, None])[:, 0]
    inside = torch.from_numpy((places < (east, north)).all(1))
    kept = free & inside
    if near_m is not None:
        kept &= torch.from_numpy(away <= near_m)
    if not kept.any():
        raise MaptileError(
            f"no position of a grid of {step_m:g} m is near a road; choose a finer one"
        )
    piece = torch.from_numpy(nearest)[kept]
    ahead = city_map.roads.end[piece] - city_map.roads.start[piece]
    ahead = ahead / torch.linalg.vector_norm(ahead, dim=1, keepdim=True).clamp_min(1e-6)
    along = torch.linspace(-travel_m / 2, travel_m / 2, PATH_POINTS)
    paths = centre[kept][:, None] + along[:, None] * ahead[:, None]
    return MapViews(paths, centre[kept])
