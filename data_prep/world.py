"""The world that simulated drives are driven through: like the map, but not the map.

Buildings stand a little off their footprints, some are missing, some are new, and there is what no
map shows: parked cars, trees, poles, garden walls, people. Everything is a triangle of one Open3D
ray casting scene; courtyards are open and the ground is flat.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
import pydantic
import shapely
from numpy.typing import NDArray

from data_prep.city import City
from data_prep.geometry import Array
from data_prep.meshes import Mesh, ball, box, copies, panels, prisms, rectangles
from data_prep.settings import Settings

KINDS = ("ground", "building", "car", "trunk", "crown", "pole", "fence", "person")
GROUND, BUILDING, CAR, TRUNK, CROWN, POLE, FENCE, PERSON = range(len(KINDS))

LABEL = np.array([40, 50, 10, 71, 70, 80, 51, 30], "<u4")
"""SemanticKITTI's number of each of ``KINDS``."""

CLEARANCE_M = 1.3
"""Nothing stands closer than this to the driven path: half a car's width and a little."""

_REFLECTANCE = {CAR: 0.4, TRUNK: 0.35, CROWN: 0.4, POLE: 0.4, FENCE: 0.3, PERSON: 0.4}
_GROUND_REFLECTANCE = 0.18
_GROUND_MARGIN_M = 300.0


class WorldSettings(Settings):
    """How far the world is from the map; zeros make it the map.

    Attributes:
        shift_m: Standard deviation of each building's displacement, east and north alike.
        missing: Share of the map's buildings that do not stand.
        new: Buildings that the map lacks, as a share of those it has.
        height_m: Buildings whose height the map does not tell are between these, metres.
        cars_per_100m: Parked cars per 100 m of road, both sides together.
        trees_per_100m, poles_per_100m, fences_per_100m, people_per_100m: Likewise; trees and
            people also along paths.
    """

    shift_m: float = pydantic.Field(default=0.7, ge=0)
    missing: float = pydantic.Field(default=0.03, ge=0, le=1)
    new: float = pydantic.Field(default=0.03, ge=0, le=1)
    height_m: tuple[float, float] = (3.0, 15.0)
    cars_per_100m: float = pydantic.Field(default=5.0, ge=0)
    trees_per_100m: float = pydantic.Field(default=2.5, ge=0)
    poles_per_100m: float = pydantic.Field(default=2.5, ge=0)
    fences_per_100m: float = pydantic.Field(default=1.5, ge=0)
    people_per_100m: float = pydantic.Field(default=1.0, ge=0)


@dataclass(frozen=True)
class Hits:
    """What N rays met.

    Attributes:
        distance: (N,) float32 metres, infinite where a ray met nothing.
        kind: (N,) uint8, index into ``KINDS``.
        reflectance: (N,) float32, 0..1.
        cosine: (N,) float32, of the angle between ray and surface normal, 0..1.
    """

    distance: NDArray[np.float32]
    kind: NDArray[np.uint8]
    reflectance: NDArray[np.float32]
    cosine: NDArray[np.float32]


@dataclass(frozen=True)
class World:
    """A world to cast rays in.

    Attributes:
        scene: Coordinates are metres from ``origin``; z is height above the ground.
        origin: (2,) east, north in the map frame.
        kind, reflectance: (T,) per triangle of the scene.
        buildings: (B,) the footprints that stand, in the map frame.
        counts: How many of each kind there are, and what was done to make them.
    """

    scene: Any
    origin: Array
    kind: NDArray[np.uint8]
    reflectance: NDArray[np.float32]
    buildings: NDArray[Any]
    counts: dict[str, int]

    def cast(self, origins: Array, directions: Array) -> Hits:
        """Cast rays: (N, 3) origins (east, north, height in the map frame) and unit directions."""
        rays = np.empty((len(origins), 6), np.float32)
        rays[:, :2] = origins[:, :2] - self.origin
        rays[:, 2] = origins[:, 2]
        rays[:, 3:] = directions
        answer = self.scene.cast_rays(o3d.core.Tensor.from_numpy(rays))
        distance = answer["t_hit"].numpy()
        hit = np.isfinite(distance)
        triangle = np.where(hit, answer["primitive_ids"].numpy(), 0).astype(np.int64)
        normals = answer["primitive_normals"].numpy()
        cosine = np.abs(np.einsum("ij,ij->i", normals, rays[:, 3:]))
        return Hits(distance, self.kind[triangle], self.reflectance[triangle], cosine)


def build_world(city: City, path: list[Array], settings: WorldSettings, seed: int) -> World:
    """Build the world of a city around a driven path.

    Args:
        city: The map.
        path: The stretches driven, (N, 2) east, north each; the world keeps clear of them. What
            still stands in the way there is cut back and counted as ``cut``.
        settings: How far the world is from the map.
        seed: The same seed gives the same world, but for what the path pushes aside.
    """
    lines = [shapely.simplify(shapely.LineString(xy), 0.05) for xy in path if len(xy) > 1]
    corridor = shapely.union_all([line.buffer(CLEARANCE_M) for line in lines])
    roads = _Roadside.of(city, lines)
    footprints, heights, counts = _buildings(city, corridor, roads, settings, seed)
    meshes = [_ground(city), _walls(footprints, heights, _rng(seed, "walls"))]
    blocked = shapely.STRtree([*footprints, corridor])
    for kind, place in (
        (CAR, _cars),
        (TRUNK, _trees),
        (POLE, _poles),
        (FENCE, _fences),
        (PERSON, _people),
    ):
        new = place(roads, blocked, settings, _rng(seed, KINDS[kind]))
        meshes += new[0]
        counts[KINDS[kind]] = new[1]
    return _assemble(meshes, city.raster.centre, footprints, counts)


def _rng(seed: int, what: str) -> np.random.Generator:
    """A stream of its own for each part, so that turning one off leaves the others as they are."""
    return np.random.default_rng([seed, *what.encode()])


# --- Buildings ----------------------------------------------------------------------------------


def _buildings(
    city: City, corridor: Any, roads: _Roadside, settings: WorldSettings, seed: int
) -> tuple[NDArray[Any], Array, dict[str, int]]:
    """Footprints that stand, their heights, and what was done to them."""
    table = city.buildings()
    footprints = np.asarray(table.geometry.values, object)
    rng = _rng(seed, "buildings")
    missing = rng.random(len(footprints)) < settings.missing
    shift = rng.normal(0, 1, (len(footprints), 2)) * settings.shift_m
    drawn = rng.uniform(*settings.height_m, len(footprints))
    known = table["height"].to_numpy(np.float64)
    heights = np.where(np.isnan(known), drawn, known)
    footprints = np.array([_moved(f, *s) for f, s in zip(footprints, shift, strict=True)], object)
    footprints, heights = footprints[~missing], heights[~missing]
    new = _new_buildings(
        roads, footprints, corridor, round(settings.new * len(table)), _rng(seed, "new")
    )
    footprints = np.concatenate([footprints, new])
    heights = np.concatenate([heights, _rng(seed, "tall").uniform(*settings.height_m, len(new))])
    in_the_way = shapely.intersects(footprints, corridor)
    footprints[in_the_way] = shapely.difference(footprints[in_the_way], corridor)
    counts = {
        "building": len(footprints),
        "missing": int(missing.sum()),
        "new": len(new),
        "cut": int(in_the_way.sum()),
    }
    standing = ~shapely.is_empty(footprints)
    return footprints[standing], heights[standing], counts


def _moved(shape: Any, east: float, north: float) -> Any:
    return shapely.transform(shape, lambda xy: xy + np.array([east, north]))


def _new_buildings(
    roads: _Roadside, footprints: NDArray[Any], corridor: Any, count: int, rng: np.random.Generator
) -> NDArray[Any]:
    xy, along = roads.spots(30 * count + 30, (8, 20), rng)
    half = rng.uniform(3, 8, (len(xy), 2))
    boxes = rectangles(xy, along, half)
    free = ~_touching(boxes, footprints, 1.0) & ~_touching(boxes, roads.asphalt, 1.0)
    free &= ~shapely.dwithin(boxes, corridor, 2.0)
    chosen = boxes[free][:count]
    apart = [b for i, b in enumerate(chosen) if not _touching([b], chosen[:i], 0.5)[0]]
    return np.array(apart, object)


def _touching(shapes: Any, others: NDArray[Any], distance: float) -> NDArray[np.bool_]:
    near = shapely.STRtree(others).query(shapes, predicate="dwithin", distance=distance)
    result = np.zeros(len(shapes), bool)
    result[near[0]] = True
    return result


def _walls(footprints: NDArray[Any], heights: Array, rng: np.random.Generator) -> Mesh:
    """The outer and the courtyards' walls; no roofs, which no vehicle sees."""
    parts, owner = shapely.get_parts(footprints, return_index=True)
    solid = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    rings, part = shapely.get_rings(parts[solid], return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    a, b = xy[:-1][same], xy[1:][same]
    building = owner[solid][part[ring[:-1][same]]]
    brightness = rng.uniform(0.2, 0.6, len(footprints))[building]
    return panels(a, b, heights[building], brightness, BUILDING)


def _ground(city: City) -> Mesh:
    raster, m = city.raster, _GROUND_MARGIN_M
    west, east = raster.west - m, raster.east + m
    south, north = raster.south - m, raster.north + m
    vertices = np.array([[west, south, 0], [east, south, 0], [east, north, 0], [west, north, 0]])
    reflectance = np.full(2, _GROUND_REFLECTANCE, np.float32)
    return Mesh(vertices, np.array([[0, 1, 2], [0, 2, 3]]), reflectance, GROUND)


# --- What no map shows --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Roadside:
    """Where things stand along roads and paths: (R,) lines, their widths, and which are roads."""

    lines: NDArray[Any]
    width: Array
    is_road: NDArray[np.bool_]
    asphalt: NDArray[Any]

    @classmethod
    def of(cls, city: City, driven: list[Any]) -> _Roadside:
        """The city's roads; the driven path where the map has none."""
        table = city.roads()
        if table.empty:
            lines = np.array(driven, object)
            width, is_road = np.full(len(lines), 6.0), np.ones(len(lines), bool)
        else:
            lines = np.asarray(table.geometry.values, object)
            width = table["width"].to_numpy(np.float64)
            is_road = table["kind"].to_numpy() == "road"
        return cls(lines, width, is_road, shapely.buffer(lines[is_road], width[is_road] / 2))

    def number(self, per_100m: float, rng: np.random.Generator, *, paths: bool) -> int:
        length = shapely.length(self.lines[self.is_road | paths]).sum()
        return int(rng.poisson(per_100m * length / 100))

    def spots(
        self,
        count: int,
        beside: tuple[float, float],
        rng: np.random.Generator,
        *,
        paths: bool = False,
    ) -> tuple[Array, Array]:
        """(N, 2) places beside the road and (N,) the road's direction there.

        ``beside``: least and largest distance from the edge of the road, metres.
        """
        lines = self.lines[self.is_road | paths]
        width = self.width[self.is_road | paths]
        length = shapely.length(lines)
        if not length.sum():
            return np.empty((0, 2)), np.empty(0)
        chosen = rng.choice(len(lines), count, p=length / length.sum())
        at = rng.uniform(0, length[chosen])
        here = shapely.get_coordinates(shapely.line_interpolate_point(lines[chosen], at))
        ends = [
            shapely.get_coordinates(
                shapely.line_interpolate_point(lines[chosen], np.clip(at + d, 0, length[chosen]))
            )
            for d in (-0.5, 0.5)
        ]
        along = np.arctan2(*(ends[1] - ends[0]).T[::-1])
        offset = width[chosen] / 2 + rng.uniform(*beside, count)
        offset *= rng.choice([-1, 1], count)
        aside = np.stack([-np.sin(along), np.cos(along)], axis=1)
        return here + offset[:, None] * aside, along


def _cars(
    roads: _Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> tuple[list[Mesh], int]:
    count = roads.number(settings.cars_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (-0.9, 1.2), rng)
    half = rng.uniform((1.9, 0.82), (2.4, 0.95), (len(xy), 2))
    along = along + rng.normal(0, 0.03, len(xy))
    free = _free(rectangles(xy, along, half), blocked)
    xy, along, half = xy[free], along[free], half[free]
    height = rng.uniform(1.35, 1.75, len(xy))
    body = np.c_[half, 0.55 * height - 0.25]
    cabin = np.c_[half * (0.55, 0.9), 0.45 * height]
    brightness = rng.uniform(0.1, 0.7, len(xy))
    return [
        copies(box(), xy, 0.25, along, body, brightness, CAR),
        copies(box(), xy, 0.55 * height, along, cabin, brightness, CAR),
    ], len(xy)


def _trees(
    roads: _Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> tuple[list[Mesh], int]:
    count = roads.number(settings.trees_per_100m, rng, paths=True)
    xy, along = roads.spots(count, (1.2, 6.0), rng, paths=True)
    free = _free(shapely.buffer(shapely.points(xy), 0.8), blocked)
    xy, along = xy[free], along[free]
    trunk = rng.uniform((0.12, 2.2), (0.35, 4.0), (len(xy), 2))
    crown = rng.uniform((1.2, 1.5), (3.5, 3.5), (len(xy), 2))
    scale = np.c_[crown[:, 0], crown[:, 0], crown[:, 1]]
    return [
        prisms(xy, along, trunk[:, 0], trunk[:, 1] + 1, _REFLECTANCE[TRUNK], TRUNK),
        copies(ball(), xy, trunk[:, 1] + crown[:, 1], along, scale, _REFLECTANCE[CROWN], CROWN),
    ], len(xy)


def _poles(
    roads: _Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> tuple[list[Mesh], int]:
    count = roads.number(settings.poles_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (0.3, 1.2), rng)
    free = _free(shapely.points(xy), blocked)
    xy, along = xy[free], along[free]
    radius, height = rng.uniform((0.04, 2.5), (0.12, 8.0), (len(xy), 2)).T
    return [prisms(xy, along, radius, height, _REFLECTANCE[POLE], POLE)], len(xy)


def _fences(
    roads: _Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> tuple[list[Mesh], int]:
    count = roads.number(settings.fences_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (2.0, 6.0), rng)
    half = np.c_[rng.uniform(2, 12, len(xy)), np.full(len(xy), 0.1)]
    free = _free(rectangles(xy, along, half), blocked)
    xy, along, half = xy[free], along[free], half[free]
    scale = np.c_[half, rng.uniform(0.6, 2.2, len(xy))]
    return [copies(box(), xy, 0.0, along, scale, _REFLECTANCE[FENCE], FENCE)], len(xy)


def _people(
    roads: _Roadside, blocked: Any, settings: WorldSettings, rng: np.random.Generator
) -> tuple[list[Mesh], int]:
    count = roads.number(settings.people_per_100m, rng, paths=True)
    xy, along = roads.spots(count, (0.3, 3.0), rng, paths=True)
    free = _free(shapely.buffer(shapely.points(xy), 0.3), blocked)
    xy, along = xy[free], along[free]
    radius, height = rng.uniform((0.18, 1.2), (0.28, 1.95), (len(xy), 2)).T
    return [prisms(xy, along, radius, height, _REFLECTANCE[PERSON], PERSON)], len(xy)


def _free(shapes: NDArray[Any], blocked: Any) -> NDArray[np.bool_]:
    result = np.ones(len(shapes), bool)
    result[blocked.query(shapes, predicate="intersects")[0]] = False
    return result


def _assemble(
    meshes: list[Mesh], origin: Array, buildings: NDArray[Any], counts: dict[str, int]
) -> World:
    start = np.cumsum([0, *[len(mesh.vertices) for mesh in meshes[:-1]]])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    vertices[:, :2] -= origin
    triangles = np.concatenate([m.triangles + s for m, s in zip(meshes, start, strict=True)])
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(vertices.astype(np.float32)),
        o3d.core.Tensor.from_numpy(triangles.astype(np.uint32)),
    )
    kind = np.repeat([mesh.kind for mesh in meshes], [len(mesh.triangles) for mesh in meshes])
    reflectance = np.concatenate([mesh.reflectance for mesh in meshes])
    return World(scene, origin, kind.astype(np.uint8), reflectance, buildings, counts)
