"""What no map shows: parked cars, trees, hedges, shrubs, fences, poles and people along roads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.simulate.scene.kinds import (
    CAR,
    FENCE,
    GLASS,
    LEAF,
    PERSON,
    POLE,
    REFLECTANCE,
    TRUNK,
    WorldSettings,
)
from data_prep.simulate.scene.meshes import (
    Mesh,
    box,
    cabin,
    copies,
    leaves,
    panels,
    prism,
    rectangles,
)
from data_prep.simulate.scene.terrain import Terrain

_SEEN_M = 120.0
_LEAF_M, _LEAF_PER_M = 0.2, 0.012
_SHRUB, _HEDGE = 4.0, 8.0
_CAR_ROW, _SHRUB_GROUP = (1, 7), (1, 6)
_CORNER_M = 3.0
"""Where roads meet their corners are so round; what is narrower between them is paved."""

_CUT_M = 3.0
"""Trees that reach over the way have no leaves below this."""

_VANS, _TRUCKS, _DARK = 0.08, 0.02, 0.25
_SLAT_M, _GAP_M = 0.1, 0.09


@dataclass(frozen=True)
class Roadside:
    """Where things stand along roads and paths.

    Attributes:
        lines: (R,) roads and paths, in the map frame.
        width: (R,) metres.
        is_road: (R,) False for paths.
        asphalt: Polygons of the roads.
        driven: The driven path.
        terrain: The ground.
        walls: (W, 2) both ends of the buildings' walls, with the outside on the right.
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
        """The city's roads, not quite where the map has them; where it has none, the driven path.

        That is asphalt anyway.
        """
        table = city.roads()
        if table.empty:
            lines = driven
            width, is_road = np.full(len(lines), 6.0), np.ones(len(lines), bool)
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
        return cls(lines, width, is_road, asphalt, shapely.union_all(driven), terrain)

    def number(self, per_100m: float, rng: np.random.Generator, *, paths: bool) -> int:
        """How many things stand along the roads, and along the paths too."""
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
        """(N, 2) places beside the road and (N,) the road's direction there.

        Args:
            count: How many, about.
            beside: Least and largest distance from the edge of the road, metres.
            rng: Where.
            paths: Whether also along paths.
            row: They stand in rows of so many, least and most.
            step_m: Distance of two in a row.
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
        place = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        chosen, offset = np.repeat(start, size), np.repeat(offset, size)
        at = np.repeat(at, size) + place * step_m
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

    def away(self, xy: Array) -> Array:
        """(N,) metres of (N, 2) places from the driven path."""
        return np.asarray(shapely.distance(self.driven, shapely.points(xy)))

    def road_height(self, xy: Array) -> Array:
        """(N,) height of the ground at places, the roads' where there is one."""
        on = np.zeros(len(xy), bool)
        on[shapely.STRtree(self.asphalt).query(shapely.points(xy), predicate="within")[0]] = True
        return self.terrain.height(xy) - self.terrain.kerb_m * on


Made = tuple[list[Mesh], int]
"""The surfaces of some things, and how many these are."""


def cars(roads: Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator) -> Made:
    """Parked cars with windows all around, and vans and trucks without, in rows."""
    count = roads.number(settings.cars_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (-0.9, 1.2), rng, row=_CAR_ROW, step_m=6.0)
    number = len(xy)
    half = rng.uniform((1.9, 0.82), (2.4, 0.95), (number, 2))
    height = rng.uniform(1.35, 1.75, number)
    sort = rng.random(number)
    van, truck = sort < _VANS, sort > 1 - _TRUCKS
    half[van], height[van] = half[van] * 1.15, height[van] * 1.4
    half[truck], height[truck] = (3.5, 1.25), 3.3
    xy = xy + rng.normal(0, 0.15, xy.shape)
    along = along + rng.normal(0, 0.03, number)
    brightness = np.where(
        rng.random(number) < _DARK, rng.uniform(0.03, 0.1, number), rng.uniform(0.15, 0.7, number)
    )
    shapes = rectangles(xy, along, half)
    free = _free(shapes, blocked) & _first(shapes)
    xy, along, half, height, brightness = (
        values[free] for values in (xy, along, half, height, brightness)
    )
    tall = (van | truck)[free]
    ground = roads.road_height(xy)
    body = np.c_[half, np.where(tall, height, 0.55 * height) - 0.25]
    meshes = [copies(box(), xy, ground + 0.25, along, body, brightness, CAR)]
    low = ~tall
    scale = np.c_[half * (0.62, 0.92), 0.45 * height][low]
    place = (xy[low], (ground + 0.55 * height)[low], along[low], scale)
    windows, roof = cabin()
    meshes.append(copies(windows, *place, REFLECTANCE[GLASS], GLASS))
    meshes.append(copies(roof, *place, brightness[low], CAR))
    return meshes, len(xy)


def trees(roads: Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator) -> Made:
    """Trees: two of three along roads and paths, the others in gardens."""
    count = roads.number(settings.trees_per_100m, rng, paths=True)
    gardens = count // 3
    street = roads.spots(count - gardens, (1.2, 6.0), rng, paths=True)
    garden = roads.spots(gardens, (6.0, 25.0), rng, paths=True)
    xy, along = (np.concatenate(pair) for pair in zip(street, garden, strict=True))
    trunk = rng.uniform((0.1, 1.6), (0.3, 3.6), (len(xy), 2))
    crown = rng.uniform((1.2, 1.2), (3.5, 3.5), (len(xy), 2))
    free = _free(shapely.buffer(shapely.points(xy), 0.8), blocked)
    xy, along, trunk, crown = xy[free], along[free], trunk[free], crown[free]
    over = ~_free(shapely.buffer(shapely.points(xy), crown[:, 0] + 0.3), blocked)
    trunk[over, 1] = np.maximum(trunk[over, 1], _CUT_M)
    ground = roads.terrain.height(xy)
    stem = np.c_[trunk[:, :1], trunk[:, :1], trunk[:, 1] + crown[:, 1]]
    centre = np.c_[xy, ground + trunk[:, 1] + crown[:, 1]]
    half = crown[:, [0, 0, 1]]
    return [
        copies(prism(), xy, ground, along, stem, REFLECTANCE[TRUNK], TRUNK),
        _plants(roads, centre, along, half, True, settings.leaves_per_m, rng),
    ], len(xy)


def hedges(
    roads: Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> Made:
    """Hedges along the road, and one of four across it."""
    count = roads.number(settings.hedges_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (1.5, 7.0), rng)
    along = along + np.pi / 2 * (rng.random(len(xy)) < 0.25)
    half = rng.uniform((2.0, 0.25, 0.4), (9.0, 0.7, 1.2), (len(xy), 3))
    free = _free(rectangles(xy, along, half[:, :2]), blocked)
    xy, along, half = xy[free], along[free], half[free]
    centre = np.c_[xy, roads.terrain.height(xy) + half[:, 2]]
    dense = _HEDGE * settings.leaves_per_m
    return [_plants(roads, centre, along, half, False, dense, rng)], len(xy)


def shrubs(
    roads: Roadside,
    blocked: Any,
    settings: WorldSettings,
    rng: np.random.Generator,
) -> Made:
    """Shrubs in groups beside roads and in gardens, and, one of three, close to walls."""
    count = roads.number(settings.shrubs_per_100m, rng, paths=True)
    at_walls = count // 3
    groups = roads.spots(
        count - at_walls, (1.0, 14.0), rng, paths=True, row=_SHRUB_GROUP, step_m=1.2
    )
    planted = _before(roads.walls, at_walls, rng)
    xy, along = (np.concatenate(pair) for pair in zip(groups, planted, strict=True))
    xy = xy + rng.normal(0, 0.3, xy.shape)
    half = rng.uniform((0.3, 0.3, 0.25), (1.3, 1.0, 1.1), (len(xy), 3))
    free = _free(rectangles(xy, along, half[:, :2]), blocked)
    xy, along, half = xy[free], along[free], half[free]
    centre = np.c_[xy, roads.terrain.height(xy) + 0.8 * half[:, 2]]
    dense = _SHRUB * settings.leaves_per_m
    return [_plants(roads, centre, along, half, True, dense, rng)], len(xy)


def _before(
    walls: tuple[Array, Array], count: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """(N, 2) places 0.6 to 1.6 m before walls and (N,) the walls' directions."""
    a, b = walls
    length = np.hypot(*(b - a).T)
    if not length.sum():
        return np.empty((0, 2)), np.empty(0)
    chosen = rng.choice(len(a), count, p=length / length.sum())
    along = (b - a)[chosen] / length[chosen, None]
    at, out = rng.random(count) * length[chosen], rng.uniform(0.6, 1.6, count)
    xy = a[chosen] + at[:, None] * along + out[:, None] * along[:, ::-1] * (1, -1)
    return xy, np.arctan2(*along.T[::-1])


def _plants(
    roads: Roadside,
    centre: Array,
    along: Array,
    half: Array,
    round_: bool,
    per_m: float,
    rng: np.random.Generator,
) -> Mesh:
    """Leaves of plants; the farther from the path, the larger and fewer: as dense for a beam."""
    away = roads.away(centre[:, :2])
    seen = away < _SEEN_M
    size = np.maximum(_LEAF_M, _LEAF_PER_M * away)
    return leaves(
        centre[seen], along[seen], half[seen], round_, per_m, size[seen],
        REFLECTANCE[LEAF], LEAF, rng,
    )  # fmt: skip


def poles(roads: Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator) -> Made:
    """Posts, signs and lamps as bare poles."""
    count = roads.number(settings.poles_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (0.3, 1.2), rng)
    free = _free(shapely.points(xy), blocked)
    xy, along = xy[free], along[free]
    scale = rng.uniform((0.04, 2.5), (0.12, 8.0), (len(xy), 2))[:, [0, 0, 1]]
    ground = roads.terrain.height(xy)
    return [copies(prism(), xy, ground, along, scale, REFLECTANCE[POLE], POLE)], len(xy)


def fences(
    roads: Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> Made:
    """Garden walls, and fences of upright slats."""
    count = roads.number(settings.fences_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (2.0, 6.0), rng)
    half = np.c_[rng.uniform(2, 12, len(xy)), np.full(len(xy), 0.1)]
    height = rng.uniform(0.6, 2.2, len(xy))
    slatted = rng.random(len(xy)) < 0.5
    free = _free(rectangles(xy, along, half), blocked)
    ground = roads.terrain.height(xy)
    wall, open_ = free & ~slatted, free & slatted
    scale = np.c_[half, height][wall]
    bright = REFLECTANCE[FENCE]
    solid = copies(box(), xy[wall], ground[wall], along[wall], scale, bright, FENCE)
    step = _SLAT_M + _GAP_M
    number = np.floor(2 * half[open_, 0] / step).astype(np.int64)
    fence = np.repeat(np.flatnonzero(open_), number)
    at = step * (np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number))
    course = np.stack([np.cos(along), np.sin(along)], axis=1)[fence]
    a = xy[fence] + (at - half[fence, 0])[:, None] * course
    foot = ground[fence]
    slats = panels(
        a, a + _SLAT_M * course, foot, foot + height[fence], np.full(len(a), bright), FENCE
    )
    return [solid, slats], int(free.sum())


def people(
    roads: Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> Made:
    """People standing about."""
    count = roads.number(settings.people_per_100m, rng, paths=True)
    xy, along = roads.spots(count, (0.3, 3.0), rng, paths=True)
    free = _free(shapely.buffer(shapely.points(xy), 0.3), blocked)
    xy, along = xy[free], along[free]
    scale = rng.uniform((0.18, 1.2), (0.28, 1.95), (len(xy), 2))[:, [0, 0, 1]]
    ground = roads.terrain.height(xy)
    return [copies(prism(), xy, ground, along, scale, REFLECTANCE[PERSON], PERSON)], len(xy)


def _free(shapes: NDArray[Any], blocked: Any) -> NDArray[np.bool_]:
    result = np.ones(len(shapes), bool)
    result[blocked.query(shapes, predicate="intersects")[0]] = False
    return result


def _first(shapes: NDArray[Any]) -> NDArray[np.bool_]:
    """Which shapes touch none before them in the list."""
    result = np.ones(len(shapes), bool)
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    result[one[other < one]] = False
    return result
