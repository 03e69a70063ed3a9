"""Worlds that differ from the map as real ones do: training tiles are rendered from them.

All coordinates are plane coordinates of ``raycast``: metres east, north of the city's reference.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import Field
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy.spatial import cKDTree

from data_prep.geometry import Array
from data_prep.settings import Settings
from maptile_loc.render.raycast import CLUTTER_CELL, EDGE_CELL, FREE_CELL, SOLID_CELL

CELL_M = 0.75
"""Default side of a world's cells, metres."""
HOUSE_CLEARANCE_M = 14.0
"""Least distance of a new building's centre from the middle of a road."""
TRUNK_CLEARANCE_M = 3.0
"""Least distance of a trunk from the middle of a road."""
HALF_SIDE_M = (2.5, 8.0)
"""Range of half the side lengths of new buildings."""
CLUTTER_CELLS = 2
"""Cells along the side of a piece of clutter."""
TRUNK_CELLS = 1
"""Cells along the side of a trunk."""


class DisguiseSettings(Settings):
    """How a world differs from the map. With zeros it equals the map."""

    resolution: float = Field(CELL_M, gt=0)
    """Metres per cell."""
    shift_m: float = Field(0.7, ge=0)
    """Standard deviation per axis by which each building is displaced."""
    missing: float = Field(0.04, ge=0, le=1)
    """Share of the map's buildings that are missing."""
    new_per_km2: float = Field(40.0, ge=0)
    """Buildings per square kilometre that the map lacks."""
    trunks_per_km2: float = Field(800.0, ge=0)
    """Trees and poles per square kilometre: they stop every ray."""
    clutter_per_km2: float = Field(2500.0, ge=0)
    """Parked cars, hedges and bushes per square kilometre: they stop low rays only."""
    road_shift_m: float = Field(0.7, ge=0)
    """Standard deviation per axis by which each road is displaced."""
    road_edge_m: float = Field(0.5, ge=0)
    """Standard deviation by which the edges of each road are displaced outwards."""

    def nothing(self) -> DisguiseSettings:
        """The settings of a world that equals the map, at the same resolution."""
        buildings = ("shift_m", "missing", "new_per_km2", "trunks_per_km2", "clutter_per_km2")
        zeros = (*buildings, "road_shift_m", "road_edge_m")
        return self.model_copy(update=dict.fromkeys(zeros, 0.0))


def build_world(
    buildings: NDArray[np.object_],
    roads: Array,
    bounds: tuple[float, float, float, float],
    settings: DisguiseSettings,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """The cells of one random variant of the city.

    Args:
        buildings: (N,) shapely polygons.
        roads: (M, 2) points along the middle of the roads, some metres apart. New buildings and
            trunks keep their distance from them.
        bounds: West, south, east, north of the world.
        settings: How it differs from the map.
        rng: Source of all randomness.

    Returns:
        (H, W) uint8 of ``raycast``'s kinds of cells, with ``EDGE_CELL`` outermost. Row 0 is north;
        the outer corner of cell (0, 0) lies on the western and northern bound.
    """
    west, south, east, north = bounds
    step = settings.resolution
    shape = (max(3, round((north - south) / step)), max(3, round((east - west) / step)))
    area_km2 = (east - west) * (north - south) / 1e6

    def scatter(per_km2: float) -> Array:
        count = rng.poisson(per_km2 * area_km2)
        return rng.uniform((west, south), (east, north), (count, 2))

    standing = buildings[rng.random(len(buildings)) >= settings.missing]
    moved = _shifted(standing, settings.shift_m * rng.standard_normal((len(standing), 2)))
    new = _boxes(_clear_of(scatter(settings.new_per_km2), roads, HOUSE_CLEARANCE_M), rng)
    cells = np.full(shape, FREE_CELL, np.uint8)
    clutter = scatter(settings.clutter_per_km2)
    _stamp(cells, clutter, CLUTTER_CELLS, bounds, step, CLUTTER_CELL)
    trunks = _clear_of(scatter(settings.trunks_per_km2), roads, TRUNK_CLEARANCE_M)
    _stamp(cells, trunks, TRUNK_CELLS, bounds, step, SOLID_CELL)
    solid = np.concatenate([moved, new])
    if len(solid):
        rasterize(
            ((shape, SOLID_CELL) for shape in solid),
            out=cells,
            transform=Affine(step, 0, west, 0, -step, north),
        )
    cells[[0, -1]] = EDGE_CELL
    cells[:, [0, -1]] = EDGE_CELL
    return cells


def build_roads(
    surfaces: NDArray[np.object_],
    bounds: tuple[float, float, float, float],
    settings: DisguiseSettings,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """The road surface in one random variant of the city.

    Args:
        surfaces: (R,) shapely polygons of the roads.
        bounds: West, south, east, north of the world.
        settings: How it differs from the map.
        rng: Source of all randomness.

    Returns:
        (H, W) uint8, 1 on roads; the cells are those of ``build_world``.
    """
    west, south, east, north = bounds
    step = settings.resolution
    shape = (max(3, round((north - south) / step)), max(3, round((east - west) / step)))
    cells = np.zeros(shape, np.uint8)
    moved = _shifted(surfaces, settings.road_shift_m * rng.standard_normal((len(surfaces), 2)))
    moved = shapely.buffer(moved, settings.road_edge_m * rng.standard_normal(len(surfaces)))
    moved = moved[~shapely.is_empty(moved)]
    if len(moved):
        transform = Affine(step, 0, west, 0, -step, north)
        rasterize(((shape, 1) for shape in moved), out=cells, transform=transform)
    return cells


def _shifted(shapes: NDArray[np.object_], by: Array) -> NDArray[np.object_]:
    """(N,) shapes, each displaced by its row of ``by`` (N, 2) metres."""
    coordinates, owner = shapely.get_coordinates(shapes, return_index=True)
    return shapely.set_coordinates(shapes.copy(), coordinates + by[owner])


def _clear_of(points: Array, roads: Array, distance: float) -> Array:
    """Those of (N, 2) points that are ``distance`` metres or more from all (M, 2) road points."""
    if len(points) == 0 or len(roads) == 0:
        return points
    return points[cKDTree(roads).query(points)[0] >= distance]


def _boxes(centres: Array, rng: np.random.Generator) -> NDArray[np.object_]:
    """Rectangular buildings at (N, 2) centres, of random size and direction."""
    half = rng.uniform(*HALF_SIDE_M, (len(centres), 1, 2))
    angle = rng.uniform(0, np.pi, len(centres))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    c, s = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    turned = np.einsum("nij,nkj->nki", turn, corners) + centres[:, None]
    return np.asarray(shapely.polygons(turned), dtype=object)


def _stamp(
    cells: NDArray[np.uint8],
    points: Array,
    across: int,
    bounds: tuple[float, float, float, float],
    step: float,
    value: int,
) -> None:
    """Set squares of ``across`` x ``across`` cells whose upper left cell holds a point."""
    row = ((bounds[3] - points[:, 1]) / step).astype(np.int64)
    column = ((points[:, 0] - bounds[0]) / step).astype(np.int64)
    for i in range(across):
        for j in range(across):
            cells[
                np.clip(row + i, 0, cells.shape[0] - 1), np.clip(column + j, 0, cells.shape[1] - 1)
            ] = value
