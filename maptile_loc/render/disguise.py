"""Worlds that differ from the map as real ones do: what the training tiles are rendered from.

All coordinates are plane coordinates of ``view``: metres east, north of the city's reference.
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
from maptile_loc.render.view import CLUTTER, EDGE, FREE, SOLID

Cells = NDArray[np.uint8]


class DisguiseSettings(Settings):
    """How a world differs from the map. Zeros leave the map as it is."""

    resolution: float = Field(0.75, gt=0)
    """Metres per cell."""
    shift_m: float = Field(0.7, ge=0)
    """Standard deviation per axis by which each building is displaced."""
    missing: float = Field(0.04, ge=0, le=1)
    """Share of buildings that no longer stand."""
    new_per_km2: float = Field(40.0, ge=0)
    """Buildings that the map lacks."""
    trunks_per_km2: float = Field(800.0, ge=0)
    """Trees, poles: they stop every ray."""
    clutter_per_km2: float = Field(2500.0, ge=0)
    """Parked cars, hedges, bushes: they stop the rays that look low."""

    def nothing(self) -> DisguiseSettings:
        """A world that is the map."""
        zeros = ("shift_m", "missing", "new_per_km2", "trunks_per_km2", "clutter_per_km2")
        return self.model_copy(update=dict.fromkeys(zeros, 0.0))


def build_world(
    buildings: NDArray[np.object_],
    roads: Array,
    bounds: tuple[float, float, float, float],
    settings: DisguiseSettings,
    rng: np.random.Generator,
) -> Cells:
    """One variant of the city's ground.

    Args:
        buildings: (N,) shapely polygons.
        roads: (M, 2) points along the middle of the roads, some metres apart; nothing new is built
            upon them.
        bounds: West, south, east, north of the world.
        settings: How it differs from the map.
        rng: Source of all randomness.

    Returns:
        (H, W) uint8 of ``view``'s ``FREE``, ``CLUTTER``, ``SOLID``, with ``EDGE`` outermost. Row 0
        is north; cell (0, 0) begins at the western and northern bound.
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
    new = _boxes(_clear_of(scatter(settings.new_per_km2), roads, 14.0), rng)
    cells = np.full(shape, FREE, np.uint8)
    _stamp(cells, scatter(settings.clutter_per_km2), 2, bounds, step, CLUTTER)
    _stamp(cells, _clear_of(scatter(settings.trunks_per_km2), roads, 3.0), 1, bounds, step, SOLID)
    solid = np.concatenate([moved, new])
    if len(solid):
        rasterize(
            ((shape, SOLID) for shape in solid),
            out=cells,
            transform=Affine(step, 0, west, 0, -step, north),
        )
    cells[[0, -1]] = EDGE
    cells[:, [0, -1]] = EDGE
    return cells


def _shifted(shapes: NDArray[np.object_], by: Array) -> NDArray[np.object_]:
    coordinates, owner = shapely.get_coordinates(shapes, return_index=True)
    return shapely.set_coordinates(shapes.copy(), coordinates + by[owner])


def _clear_of(points: Array, roads: Array, distance: float) -> Array:
    if len(points) == 0 or len(roads) == 0:
        return points
    return points[cKDTree(roads).query(points)[0] >= distance]


def _boxes(centres: Array, rng: np.random.Generator) -> NDArray[np.object_]:
    """Rectangular buildings of 5 to 16 m a side, turned at random."""
    half = rng.uniform(2.5, 8.0, (len(centres), 1, 2))
    angle = rng.uniform(0, np.pi, len(centres))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    c, s = np.cos(angle), np.sin(angle)
    turn = np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
    turned = np.einsum("nij,nkj->nki", turn, corners) + centres[:, None]
    return np.asarray(shapely.polygons(turned), dtype=object)


def _stamp(
    cells: Cells,
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
