"""The buildings of simulated worlds: walls with bays and balconies, eaves, and gabled roofs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.simulate.scene.facades import Facades, Style
from data_prep.simulate.scene.kinds import BUILDING, WorldSettings
from data_prep.simulate.scene.meshes import Mesh, box, copies, panels, quads
from data_prep.simulate.scene.terrain import Terrain

_FOUNDATION_M = 1.0
_ROOF_THICKNESS_M = 0.2
_RECTANGLE = 0.92
"""Of its smallest rectangle's area a footprint has to cover this to get a gabled roof."""

_SMALLEST_M2 = 12.0

_BAY_OUT_M, _BALCONY_OUT_M = (0.3, 1.0), (1.0, 1.6)
_BAY_WIDTH_M, _BALCONY_WIDTH_M = (2.0, 3.5), (2.5, 4.0)


@dataclass(frozen=True)
class Houses:
    """B buildings: (B,) footprints in the map frame, heights, feet (metres) and reflectances."""

    footprints: NDArray[Any]
    height: Array
    foot: Array
    brightness: Array

    @classmethod
    def on(
        cls, footprints: NDArray[Any], height: Array, terrain: Terrain, rng: np.random.Generator
    ) -> Houses:
        """Put buildings on the ground, each as high as it is in its middle."""
        middle = shapely.get_coordinates(shapely.centroid(footprints))
        foot = terrain.height(middle.reshape(-1, 2))
        return cls(footprints, height, foot, rng.uniform(0.2, 0.6, len(footprints)))


@dataclass(frozen=True)
class Edges:
    """W upright planes: (W, 2) ends with the outside on the right, (W,) building, foot, height."""

    a: Array
    b: Array
    building: NDArray[np.int64]
    foot: Array
    height: Array

    @property
    def length(self) -> Array:
        """(W,) metres."""
        return np.asarray(np.hypot(*(self.b - self.a).T))

    @property
    def along(self) -> Array:
        """(W, 2) unit vectors from a to b."""
        return np.asarray((self.b - self.a) / np.maximum(self.length, 1e-6)[:, None])

    @property
    def outward(self) -> Array:
        """(W, 2) unit vectors away from the building."""
        return self.along[:, ::-1] * (1, -1)

    def at(self, rows: Any) -> Edges:
        """Some of them."""
        return Edges(**{name: values[rows] for name, values in vars(self).items()})


def house_meshes(
    houses: Houses,
    origin: Array,
    corridor: Any,
    settings: WorldSettings,
    rng: np.random.Generator,
) -> tuple[list[Mesh], Facades, int]:
    """All surfaces of the buildings, the patterns of their walls, and how many bays there are.

    Args:
        houses: The buildings.
        origin: (2,) of the scene's coordinates in the map frame.
        corridor: Where no bay or balcony may reach.
        settings: How far they are from plain blocks.
        rng: What the map does not tell.
    """
    walls = _edges(houses)
    styles = Style.drawn(len(houses.footprints), settings.relief_m, rng)
    bays, boxes, count = _bays(walls, styles, corridor, settings.bays_per_100m, rng)
    planes = Edges(
        **{
            name: np.concatenate([values, getattr(bays, name)])
            for name, values in vars(walls).items()
        }
    )
    facades = Facades(
        a=(planes.a - origin).astype(np.float32),
        along=planes.along.astype(np.float32),
        length=planes.length.astype(np.float32),
        base=planes.foot.astype(np.float32),
        height=planes.height.astype(np.float32),
        style=styles.of(planes.building),
        glass=settings.glass,
    )
    bright = houses.brightness[planes.building]
    bottom, top = planes.foot - _FOUNDATION_M, planes.foot + planes.height
    plain = panels(planes.a, planes.b, bottom, top, bright, BUILDING)
    number = np.repeat(np.arange(len(planes.a), dtype=np.int32), 2)
    meshes = [Mesh(plain.vertices, plain.triangles, plain.reflectance, BUILDING, number)]
    meshes += boxes
    gabled = _nearly_rectangles(houses.footprints) & (settings.roof_deg > 0)
    meshes += _gables(houses, np.flatnonzero(gabled), settings)
    if settings.eaves_m:
        level = walls.at(~gabled[walls.building])
        meshes.append(_eaves(level, houses.brightness, settings.eaves_m))
    return meshes, facades, count


def wall_ends(houses: Houses) -> tuple[Array, Array]:
    """(W, 2) both ends of each wall, with the outside on the right."""
    edges = _edges(houses)
    return edges.a, edges.b


def _edges(houses: Houses) -> Edges:
    """The outer and the courtyards' walls."""
    parts, owner = shapely.get_parts(houses.footprints, return_index=True)
    solid = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    rings, part = shapely.get_rings(shapely.orient_polygons(parts[solid]), return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    building = owner[solid][part[ring[:-1][same]]]
    return Edges(
        xy[:-1][same], xy[1:][same], building, houses.foot[building], houses.height[building]
    )


def _bays(
    walls: Edges, styles: Style, corridor: Any, per_100m: float, rng: np.random.Generator
) -> tuple[Edges, list[Mesh], int]:
    """Bays' walls, bays' floors and roofs and balconies, before walls of some length; how many."""
    length = walls.length
    roomy = np.flatnonzero((length > 6) & (walls.height > 4))
    count = int(rng.poisson(per_100m * length[roomy].sum() / 100))
    if not count:
        return walls.at([]), [], 0
    chosen = roomy[rng.choice(len(roomy), count, p=length[roomy] / length[roomy].sum())]
    wall = walls.at(chosen)
    is_bay = rng.random(count) < 0.5
    half = (
        np.where(is_bay, rng.uniform(*_BAY_WIDTH_M, count), rng.uniform(*_BALCONY_WIDTH_M, count))[
            :, None
        ]
        / 2
    )
    out = np.where(is_bay, rng.uniform(*_BAY_OUT_M, count), rng.uniform(*_BALCONY_OUT_M, count))
    at = rng.uniform(2, wall.length - 2)
    middle = wall.a + at[:, None] * wall.along
    left, right = middle - half * wall.along, middle + half * wall.along
    reach = out[:, None] * wall.outward
    storey, raised = styles.storey[wall.building], styles.raised[wall.building]
    # A bay begins at the ground or above the ground floor; a balcony is at one of the floors.
    floors = np.maximum(np.floor((wall.height - raised - 1) / storey), 1)
    floor = np.floor(np.where(is_bay, rng.integers(0, 2, count), 1 + rng.random(count) * floors))
    low = np.where(floor > 0, raised + floor * storey, 0.0)
    ground = np.stack([left, right, right + reach, left + reach], axis=1)
    fits = ~shapely.intersects(shapely.polygons(ground), corridor)
    fits &= low + 1.2 < wall.height
    bay, balcony = np.flatnonzero(fits & is_bay), np.flatnonzero(fits & ~is_bay)
    ends = [(left, left + reach), (left + reach, right + reach), (right + reach, right)]
    foot, height = wall.foot + low, np.maximum(0.9 * wall.height - low, 1.0)
    bays = Edges(
        np.concatenate([a[bay] for a, _ in ends]),
        np.concatenate([b[bay] for _, b in ends]),
        np.tile(wall.building[bay], 3),
        np.tile(foot[bay], 3),
        np.tile(height[bay], 3),
    )
    lids = np.concatenate([_level(ground[bay], z[bay]) for z in (foot, foot + height)])
    turn = np.arctan2(*wall.along[balcony].T[::-1])
    scale = np.c_[half[balcony, 0], out[balcony] / 2, np.ones(len(balcony))]
    middle = (middle + reach / 2)[balcony]
    meshes = [
        quads(lids, np.full(len(lids), 0.4), BUILDING),
        quads(_level(ground[balcony], foot[balcony]), np.full(len(balcony), 0.4), BUILDING),
        copies(box(), middle, foot[balcony], turn, scale, 0.4, BUILDING),
    ]
    return bays, meshes, len(bay) + len(balcony)


def _level(corners: Array, z: Array) -> Array:
    """(N, 4, 3) of (N, 4, 2) corners at (N,) heights."""
    return np.concatenate([corners, np.broadcast_to(z[:, None, None], (len(z), 4, 1))], axis=2)


def _eaves(walls: Edges, brightness: Array, out_m: float) -> Mesh:
    """The undersides and the edges of roofs that stand out over the walls."""
    top = (walls.foot + walls.height)[:, None]
    reach = out_m * walls.outward
    inner = [np.c_[walls.a, top], np.c_[walls.b, top]]
    outer = [np.c_[walls.a + reach, top], np.c_[walls.b + reach, top]]
    above = [corner + (0, 0, _ROOF_THICKNESS_M) for corner in outer]
    corners = np.concatenate(
        [
            np.stack([inner[0], inner[1], outer[1], outer[0]], axis=1),
            np.stack([outer[0], outer[1], above[1], above[0]], axis=1),
        ]
    )
    return quads(corners, np.tile(brightness[walls.building], 2), BUILDING)


def _nearly_rectangles(footprints: NDArray[Any]) -> NDArray[np.bool_]:
    area = np.maximum(shapely.area(shapely.minimum_rotated_rectangle(footprints)), 1e-6)
    return np.asarray((shapely.area(footprints) / area > _RECTANGLE) & (area > _SMALLEST_M2))


def _gables(houses: Houses, fits: NDArray[np.int64], settings: WorldSettings) -> list[Mesh]:
    """Two slopes that reach over the long sides, and a gable at each end, of some buildings."""
    if not len(fits):
        return []
    boxes = shapely.minimum_rotated_rectangle(houses.footprints[fits])
    corner = shapely.get_coordinates(boxes).reshape(-1, 5, 2)[:, :4]
    long = np.hypot(*(corner[:, 1] - corner[:, 0]).T) >= np.hypot(*(corner[:, 2] - corner[:, 1]).T)
    corner = np.where(long[:, None, None], corner, np.roll(corner, 1, axis=1))
    width = np.hypot(*(corner[:, 3] - corner[:, 0]).T)
    rise = np.tan(np.radians(settings.roof_deg)) * width / 2
    top = (houses.foot + houses.height)[fits]
    ridge = [(corner[:, 3] + corner[:, 0]) / 2, (corner[:, 1] + corner[:, 2]) / 2]
    down = settings.eaves_m / np.maximum(width / 2, 1e-6)

    def eave(i: int, end: int) -> Array:
        # The slope goes on beyond the wall, and down.
        xy = corner[:, i] + down[:, None] * (corner[:, i] - ridge[end])
        return np.c_[xy, top - down * rise + _ROOF_THICKNESS_M]

    peak = [np.c_[r, top + rise + _ROOF_THICKNESS_M] for r in ridge]
    slopes = np.concatenate(
        [
            np.stack([eave(0, 0), eave(1, 1), peak[1], peak[0]], axis=1),
            np.stack([eave(3, 0), eave(2, 1), peak[1], peak[0]], axis=1),
        ]
    )
    ends = np.concatenate(
        [
            np.stack([np.c_[corner[:, i], top], np.c_[corner[:, j], top], peak[e]], axis=1)
            for i, j, e in ((0, 3, 0), (1, 2, 1))
        ]
    )
    bright = houses.brightness[fits]
    triangles = np.arange(3 * len(ends)).reshape(-1, 3)
    gable = np.tile(bright, 2).astype(np.float32)
    return [
        quads(slopes, np.tile(0.6 * bright, 2), BUILDING),
        Mesh(ends.reshape(-1, 3), triangles, gable, BUILDING),
    ]
