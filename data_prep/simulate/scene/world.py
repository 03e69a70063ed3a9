"""The world that simulated drives are driven through: like the map, but not the map.

Buildings stand a little off their footprints, some are missing, some are new, and there is what no
map shows: slopes and kerbs, windows and bays, parked cars, trees, hedges, fences, people.
Everything is a triangle of one Open3D ray casting scene, but for the windows (``facades.py``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import open3d as o3d
import shapely
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.simulate.scene import roadside
from data_prep.simulate.scene.facades import Facades
from data_prep.simulate.scene.houses import Houses, house_meshes, wall_ends
from data_prep.simulate.scene.kinds import INSIDE, WorldSettings
from data_prep.simulate.scene.meshes import Mesh, rectangles
from data_prep.simulate.scene.roadside import Roadside
from data_prep.simulate.scene.terrain import Terrain, ground_meshes

CLEARANCE_M = 1.3
"""Nothing stands closer than this to the driven path: half a car's width and a little."""

_ASPHALT_M = 2.0
_DARK_INSIDE = 0.3


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
        scene: Coordinates are metres from ``origin``; z is height above the mean ground.
        origin: (2,) east, north in the map frame.
        kind, reflectance: (T,) per triangle of the scene.
        wall: (T,) int32, row of ``facades``, or -1.
        facades: The patterns of the buildings' walls.
        terrain: The height of the ground.
        buildings: (B,) the footprints that stand, in the map frame.
        counts: How many of each kind there are, and what was done to make them.
    """

    scene: Any
    origin: Array
    kind: NDArray[np.uint8]
    reflectance: NDArray[np.float32]
    wall: NDArray[np.int32]
    facades: Facades
    terrain: Terrain
    buildings: NDArray[Any]
    counts: dict[str, int]

    def cast(self, origins: NDArray[np.floating], directions: NDArray[np.floating]) -> Hits:
        """Cast rays: (N, 3) origins (east, north, height in the map frame) and unit directions."""
        rays = np.empty((len(origins), 6), np.float32)
        rays[:, :2] = origins[:, :2] - self.origin
        rays[:, 2] = origins[:, 2]
        rays[:, 3:] = directions
        answer = self.scene.cast_rays(o3d.core.Tensor.from_numpy(rays))
        distance = answer["t_hit"].numpy()
        hit = np.isfinite(distance)
        triangle = np.where(hit, answer["primitive_ids"].numpy(), 0)
        normals = answer["primitive_normals"].numpy()
        cosine = np.abs(np.einsum("ij,ij->i", normals, rays[:, 3:]))
        kind, reflectance = self.kind[triangle], self.reflectance[triangle]
        wall = self.wall[triangle]
        at = np.flatnonzero(hit & (wall >= 0))
        ray = rays[at]
        point = ray[:, :3] + distance[at, None] * ray[:, 3:]
        further, met = self.facades.meet(wall[at], point, ray[:, 3:])
        distance[at] += further
        kind[at] = met
        reflectance[at[met == INSIDE]] *= _DARK_INSIDE
        return Hits(distance, kind, reflectance, cosine)


def build_world(city: City, path: list[Array], settings: WorldSettings, seed: int) -> World:
    """Build the world of a city around a driven path.

    Args:
        city: The map.
        path: The stretches driven, (N, 2) east, north each; the world keeps clear of them. What
            still stands in the way there is cut back and counted as ``cut``.
        settings: How far the world is from the map.
        seed: The same seed gives the same world, but for what the path pushes aside.
    """
    lines = np.array(
        [shapely.simplify(shapely.LineString(xy), 0.05) for xy in path if len(xy) > 1], object
    )
    corridor = shapely.union_all(shapely.buffer(lines, CLEARANCE_M))
    origin = city.raster.centre
    terrain = Terrain.rolling(origin, settings.slope, settings.kerb_m, _rng(seed, "terrain"))
    roads = Roadside.of(city, lines, _ASPHALT_M, terrain, settings, _rng(seed, "roads"))
    footprints, heights, counts = _buildings(city, corridor, roads, settings, seed)
    houses = Houses.on(footprints, heights, terrain, _rng(seed, "walls"))
    meshes, facades, counts["bay"] = house_meshes(
        houses, origin, corridor, settings, _rng(seed, "bays")
    )
    meshes += ground_meshes(terrain, city.raster, roads.asphalt, lines)
    blocked = shapely.STRtree([*footprints, corridor])
    roads = replace(roads, walls=wall_ends(houses))
    for name, place in (
        ("car", roadside.cars),
        ("tree", roadside.trees),
        ("hedge", roadside.hedges),
        ("shrub", roadside.shrubs),
        ("pole", roadside.poles),
        ("fence", roadside.fences),
        ("person", roadside.people),
    ):
        things, counts[name] = place(roads, blocked, settings, _rng(seed, name))
        meshes += things
    return _assemble(meshes, origin, facades, terrain, footprints, counts)


def _rng(seed: int, what: str) -> np.random.Generator:
    """A stream of its own for each part, so that turning one off leaves the others as they are."""
    return np.random.default_rng([seed, *what.encode()])


# --- Footprints ---------------------------------------------------------------------------------


def _buildings(
    city: City, corridor: Any, roads: Roadside, settings: WorldSettings, seed: int
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
    roads: Roadside, footprints: NDArray[Any], corridor: Any, count: int, rng: np.random.Generator
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


# --- Scene --------------------------------------------------------------------------------------


def _assemble(
    meshes: list[Mesh],
    origin: Array,
    facades: Facades,
    terrain: Terrain,
    buildings: NDArray[Any],
    counts: dict[str, int],
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
    size = [len(mesh.triangles) for mesh in meshes]
    kind = np.repeat([mesh.kind for mesh in meshes], size).astype(np.uint8)
    reflectance = np.concatenate([mesh.reflectance for mesh in meshes])
    wall = np.concatenate(
        [
            np.full(n, -1, np.int32) if mesh.wall is None else mesh.wall
            for n, mesh in zip(size, meshes, strict=True)
        ]
    )
    return World(scene, origin, kind, reflectance, wall, facades, terrain, buildings, counts)
