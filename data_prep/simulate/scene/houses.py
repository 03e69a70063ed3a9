"""The buildings of simulated worlds: walls with bays and balconies, eaves, and gabled roofs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.simulate.scene.facades import Facades, FacadeStyle
from data_prep.simulate.scene.meshes import Mesh, box, copies, panels, quads
from data_prep.simulate.scene.surfaces import Surface
from data_prep.simulate.scene.terrain import Terrain
from data_prep.simulate.scene.world_settings import WorldSettings

_FOUNDATION_M = 1.0
"""Walls reach this far below the foot of their building, metres, for ground that slopes."""

_ROOF_THICKNESS_M = 0.2
"""Thickness of roofs, metres."""

_RECTANGLE_SHARE = 0.92
"""A footprint gets a gabled roof if it covers this share of its smallest rectangle."""

_SMALLEST_GABLED_M2 = 12.0
"""Smaller rectangles get no gabled roof, square metres."""

_BAY_OUT_M = (0.3, 1.0)
"""Least and largest depth of a bay, metres."""

_BALCONY_OUT_M = (1.0, 1.6)
"""Least and largest depth of a balcony, metres."""

_BAY_WIDTH_M = (2.0, 3.5)
"""Least and largest width of a bay, metres."""

_BALCONY_WIDTH_M = (2.5, 4.0)
"""Least and largest width of a balcony, metres."""

_BAY_REFLECTANCE = 0.4
"""Reflectance of balconies and of the floors and roofs of bays."""


@dataclass(frozen=True)
class Houses:
    """B buildings.

    Attributes:
        footprints: (B,) polygons or multipolygons in the map frame.
        height: (B,) metres above the foot.
        foot: (B,) height of the ground at the footprint's centroid, metres.
        reflectance: (B,) of the walls, 0 to 1.
    """

    footprints: NDArray[Any]
    height: Array
    foot: Array
    reflectance: Array

    @classmethod
    def on(
        cls, footprints: NDArray[Any], height: Array, terrain: Terrain, rng: np.random.Generator
    ) -> Houses:
        """Return buildings that stand on a terrain.

        Args:
            footprints: (B,) polygons or multipolygons in the map frame.
            height: (B,) metres.
            terrain: The ground.
            rng: Draws the reflectances.
        """
        middle = shapely.get_coordinates(shapely.centroid(footprints))
        foot = terrain.height(middle.reshape(-1, 2))
        return cls(footprints, height, foot, rng.uniform(0.2, 0.6, len(footprints)))


@dataclass(frozen=True)
class WallPlanes:
    """W vertical rectangles.

    Attributes:
        a: (W, 2) one end of each, east, north in the map frame, metres.
        b: (W, 2) the other end; outside is on the right of the line from ``a`` to ``b``.
        building: (W,) index of the building.
        foot: (W,) height of the lower edge, metres.
        height: (W,) height above the foot, metres.
    """

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
        """(W, 2) unit vectors from ``a`` to ``b``."""
        return np.asarray((self.b - self.a) / np.maximum(self.length, 1e-6)[:, None])

    @property
    def outward(self) -> Array:
        """(W, 2) unit vectors away from the building."""
        return self.along[:, ::-1] * (1, -1)

    def rows(self, chosen: Any) -> WallPlanes:
        """Return the planes with the given indices, or where a mask is True."""
        return WallPlanes(**{name: values[chosen] for name, values in vars(self).items()})

    @classmethod
    def of(cls, houses: Houses) -> WallPlanes:
        """Return the outer walls of buildings and the walls of their courtyards."""
        parts, owner = shapely.get_parts(houses.footprints, return_index=True)
        solid = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
        rings, part = shapely.get_rings(shapely.orient_polygons(parts[solid]), return_index=True)
        xy, ring = shapely.get_coordinates(rings, return_index=True)
        same = ring[1:] == ring[:-1]
        building = owner[solid][part[ring[:-1][same]]]
        return cls(
            xy[:-1][same], xy[1:][same], building, houses.foot[building], houses.height[building]
        )


def house_meshes(
    houses: Houses,
    origin: Array,
    corridor: Any,
    settings: WorldSettings,
    rng: np.random.Generator,
) -> tuple[list[Mesh], Facades, int]:
    """Return all surfaces of the buildings, their facades, and the number of bays and balconies.

    Args:
        houses: The buildings.
        origin: (2,) origin of the scene's coordinates in the map frame, metres.
        corridor: Polygon that bays and balconies must not reach, in the map frame.
        settings: How far the buildings differ from plain blocks.
        rng: Draws the facade styles, bays and balconies.
    """
    walls = WallPlanes.of(houses)
    styles = FacadeStyle.drawn(len(houses.footprints), settings.relief_m, rng)
    bays, boxes, count = _bays(walls, styles, corridor, settings.bays_per_100m, rng)
    planes = WallPlanes(
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
        style=styles.rows(planes.building),
        glass=settings.glass,
        dark=settings.dark,
    )
    reflectance = houses.reflectance[planes.building]
    bottom, top = planes.foot - _FOUNDATION_M, planes.foot + planes.height
    plain = panels(planes.a, planes.b, bottom, top, reflectance, Surface.BUILDING)
    wall = np.repeat(np.arange(len(planes.a), dtype=np.int32), 2)
    meshes = [replace(plain, wall=wall), *boxes]
    gabled = _nearly_rectangles(houses.footprints) & (settings.roof_deg > 0)
    meshes += _gables(houses, np.flatnonzero(gabled), settings)
    if settings.eaves_m:
        flat = walls.rows(~gabled[walls.building])
        meshes.append(_eaves(flat, houses.reflectance, settings.eaves_m))
    return meshes, facades, count


def _bays(
    walls: WallPlanes,
    styles: FacadeStyle,
    corridor: Any,
    per_100m: float,
    rng: np.random.Generator,
) -> tuple[WallPlanes, list[Mesh], int]:
    """Return the walls of bays, the meshes of bays and balconies, and the number of both.

    Args:
        walls: The walls of all buildings.
        styles: The style of each building.
        corridor: Polygon that bays and balconies must not reach.
        per_100m: Number of bays and balconies per 100 m of wall that is long and high enough.
        rng: Draws them.
    """
    length = walls.length
    roomy = np.flatnonzero((length > 6) & (walls.height > 4))
    count = int(rng.poisson(per_100m * length[roomy].sum() / 100))
    if not count:
        return walls.rows([]), [], 0
    chosen = roomy[rng.choice(len(roomy), count, p=length[roomy] / length[roomy].sum())]
    wall = walls.rows(chosen)
    is_bay = rng.random(count) < 0.5
    bay_width, balcony_width = (
        rng.uniform(*width, count) for width in (_BAY_WIDTH_M, _BALCONY_WIDTH_M)
    )
    half = np.where(is_bay, bay_width, balcony_width)[:, None] / 2
    out = np.where(is_bay, rng.uniform(*_BAY_OUT_M, count), rng.uniform(*_BALCONY_OUT_M, count))
    at = rng.uniform(2, wall.length - 2)
    middle = wall.a + at[:, None] * wall.along
    left, right = middle - half * wall.along, middle + half * wall.along
    reach = out[:, None] * wall.outward
    storey, raised = styles.storey[wall.building], styles.raised[wall.building]
    # A bay starts at the ground or above the ground floor; a balcony is at one of the upper floors.
    floors = np.maximum(np.floor((wall.height - raised - 1) / storey), 1)
    floor = np.floor(np.where(is_bay, rng.integers(0, 2, count), 1 + rng.random(count) * floors))
    low = np.where(floor > 0, raised + floor * storey, 0.0)
    ground = np.stack([left, right, right + reach, left + reach], axis=1)
    fits = ~shapely.intersects(shapely.polygons(ground), corridor)
    fits &= low + 1.2 < wall.height
    foot, height = wall.foot + low, np.maximum(0.9 * wall.height - low, 1.0)
    bay, balcony = np.flatnonzero(fits & is_bay), np.flatnonzero(fits & ~is_bay)
    planes, lids = _bay_walls(ground[bay], wall.building[bay], foot[bay], height[bay])
    turn = np.arctan2(*wall.along[balcony].T[::-1])
    scale = np.c_[half[balcony, 0], out[balcony] / 2, np.ones(len(balcony))]
    middle = (middle + reach / 2)[balcony]
    floors_of = _level(ground[balcony], foot[balcony])
    meshes = [
        lids,
        quads(floors_of, np.full(len(balcony), _BAY_REFLECTANCE), Surface.BUILDING),
        copies(box(), middle, foot[balcony], turn, scale, _BAY_REFLECTANCE, Surface.BUILDING),
    ]
    return planes, meshes, len(bay) + len(balcony)


def _bay_walls(
    ground: Array, building: NDArray[np.int64], foot: Array, height: Array
) -> tuple[WallPlanes, Mesh]:
    """Return the three walls of each of N bays, and the mesh of their floors and roofs.

    Args:
        ground: (N, 4, 2) left and right end on the wall, right and left outer corner, metres.
        building: (N,) index of the building.
        foot: (N,) height of the floor, metres.
        height: (N,) metres above the foot.
    """
    left, right, right_out, left_out = (ground[:, i] for i in range(4))
    planes = WallPlanes(
        np.concatenate([left, left_out, right_out]),
        np.concatenate([left_out, right_out, right]),
        np.tile(building, 3),
        np.tile(foot, 3),
        np.tile(height, 3),
    )
    lids = np.concatenate([_level(ground, z) for z in (foot, foot + height)])
    return planes, quads(lids, np.full(len(lids), _BAY_REFLECTANCE), Surface.BUILDING)


def _level(corners: Array, z: Array) -> Array:
    """Return (N, 4, 3): (N, 4, 2) corners at (N,) heights."""
    return np.concatenate([corners, np.broadcast_to(z[:, None, None], (len(z), 4, 1))], axis=2)


def _eaves(walls: WallPlanes, reflectance: Array, out_m: float) -> Mesh:
    """Return the undersides and the edges of flat roofs that stand out over their walls.

    Args:
        walls: The walls below the roofs.
        reflectance: (B,) of the buildings, 0 to 1.
        out_m: How far the roofs stand out, metres.
    """
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
    return quads(corners, np.tile(reflectance[walls.building], 2), Surface.BUILDING)


def _nearly_rectangles(footprints: NDArray[Any]) -> NDArray[np.bool_]:
    area = np.maximum(shapely.area(shapely.minimum_rotated_rectangle(footprints)), 1e-6)
    share = shapely.area(footprints) / area
    return np.asarray((share > _RECTANGLE_SHARE) & (area > _SMALLEST_GABLED_M2))


def _gables(houses: Houses, fits: NDArray[np.int64], settings: WorldSettings) -> list[Mesh]:
    """Return the gabled roofs of the buildings ``fits``: two slopes and two gables each.

    The slopes continue beyond the walls by ``settings.eaves_m`` (measured horizontally).
    """
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
    reflectance = houses.reflectance[fits]
    triangles = np.arange(3 * len(ends)).reshape(-1, 3)
    gable = np.tile(reflectance, 2).astype(np.float32)
    return [
        quads(slopes, np.tile(0.6 * reflectance, 2), Surface.BUILDING),
        Mesh(ends.reshape(-1, 3), triangles, gable, Surface.BUILDING),
    ]
