"""The world of a simulated drive: similar to the map, but not equal to it.

Buildings are displaced from their footprints, some are missing, some are new. The world also has
what no map shows: slopes and kerbs, windows and bays, parked cars, trees, hedges, fences, people.
All surfaces are triangles of one Open3D ray casting scene, except windows (see ``facades``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.simulate.scene.facades import Facades
from data_prep.simulate.scene.houses import Houses, WallPlanes, house_meshes
from data_prep.simulate.scene.meshes import Mesh, rectangles
from data_prep.simulate.scene.plants import hedges, shrubs, thickets, trees
from data_prep.simulate.scene.rays import Scene
from data_prep.simulate.scene.roadside import Roadside, near
from data_prep.simulate.scene.street_objects import cars, fences, people, poles
from data_prep.simulate.scene.terrain import Terrain, ground_meshes
from data_prep.simulate.scene.world_settings import WorldSettings

_CORRIDOR_M = 1.3
"""No object stands closer to the driven path, metres: half a car's width and a margin."""

_ASPHALT_M = 2.0
"""The ground this close to the driven path is asphalt, metres."""

_GARAGE_M2 = 45.0
"""Smaller buildings are garages or sheds, square metres."""

_GARAGE_HEIGHT_M = (2.1, 3.0)
"""Least and largest height of the walls of garages and sheds, metres."""

_HEIGHT_PER_SIDE = 0.8
"""Largest height of the other buildings' walls, as a multiple of the root of their area."""


@dataclass(frozen=True)
class World:
    """A world to cast rays in.

    Attributes:
        scene: Its surfaces.
        terrain: The height of the ground.
        buildings: (B,) footprints of the buildings, in the map frame.
        counts: Number of objects by their kind; and the number of buildings that are ``missing``,
            ``new``, and ``cut`` back because they stood on the driven path.
    """

    scene: Scene
    terrain: Terrain
    buildings: NDArray[Any]
    counts: dict[str, int]


_OBJECTS = {
    "car": cars,
    "tree": trees,
    "hedge": hedges,
    "shrub": shrubs,
    "thicket": thickets,
    "pole": poles,
    "fence": fences,
    "person": people,
}
"""Functions that make the objects beside roads, by the name used in ``counts`` and as a seed."""


def build_world(city: City, path: list[Array], settings: WorldSettings, seed: int) -> World:
    """Return the world of a city around a driven path.

    Args:
        city: The map.
        path: Segments of the path, each (N, 2) east, north in the map frame, metres. No object
            stands on the path; buildings there are cut back.
        settings: How far the world differs from the map.
        seed: The same seed gives the same world, except for objects on the path.
    """
    lines = np.array(
        [shapely.simplify(shapely.LineString(xy), 0.05) for xy in path if len(xy) > 1], object
    )
    corridor = shapely.union_all(shapely.buffer(lines, _CORRIDOR_M))
    origin = city.raster.centre
    terrain = Terrain.drawn(origin, settings, _rng(seed, "terrain"))
    roads = Roadside.of(city, lines, _ASPHALT_M, terrain, settings, _rng(seed, "roads"))
    footprints, heights, counts = _buildings(city, lines, corridor, roads, settings, seed)
    houses = Houses.on(footprints, heights, roads.terrain, _rng(seed, "walls"))
    meshes, facades, counts["bay"] = house_meshes(
        houses, origin, corridor, settings, _rng(seed, "bays")
    )
    crowns = roads.lines[roads.is_road]
    meshes += ground_meshes(roads.terrain, city.raster, roads.asphalt, crowns, lines)
    blocked = shapely.STRtree([*footprints, corridor])
    walls = WallPlanes.of(houses)
    roads = replace(roads, walls=(walls.a, walls.b))
    for name, make in _OBJECTS.items():
        objects, counts[name] = make(roads, blocked, settings, _rng(seed, name))
        meshes += objects
    return _assemble(meshes, origin, facades, roads.terrain, footprints, counts)


def _rng(seed: int, part: str) -> np.random.Generator:
    """Return the random stream of a part: turning one part off does not change the others."""
    return np.random.default_rng([seed, *part.encode()])


# --- Footprints ---------------------------------------------------------------------------------


def _buildings(
    city: City,
    lines: NDArray[Any],
    corridor: Any,
    roads: Roadside,
    settings: WorldSettings,
    seed: int,
) -> tuple[NDArray[Any], Array, dict[str, int]]:
    """Return the buildings of the world.

    Returns:
        (B,) footprints in the map frame, (B,) heights in metres, and the counts of buildings:
        ``building``, ``missing``, ``new`` and ``cut``.
    """
    table = near(city.buildings(), lines)
    footprints = np.asarray(table.geometry.values, object)
    rng = _rng(seed, "buildings")
    missing = rng.random(len(footprints)) < settings.missing
    shift = rng.normal(0, 1, (len(footprints), 2)) * settings.shift_m
    drawn = drawn_heights(footprints, settings, rng)
    known = table["height"].to_numpy(np.float64)
    heights = np.where(np.isnan(known), drawn, known)
    footprints = np.array([_moved(f, *s) for f, s in zip(footprints, shift, strict=True)], object)
    footprints, heights = footprints[~missing], heights[~missing]
    new = _new_buildings(
        roads, footprints, corridor, round(settings.new * len(table)), _rng(seed, "new")
    )
    footprints = np.concatenate([footprints, new])
    heights = np.concatenate([heights, drawn_heights(new, settings, _rng(seed, "tall"))])
    on_path = shapely.intersects(footprints, corridor)
    footprints[on_path] = shapely.difference(footprints[on_path], corridor)
    counts = {
        "building": len(footprints),
        "missing": int(missing.sum()),
        "new": len(new),
        "cut": int(on_path.sum()),
    }
    left = ~shapely.is_empty(footprints)
    return footprints[left], heights[left], counts


def drawn_heights(
    footprints: NDArray[Any], settings: WorldSettings, rng: np.random.Generator
) -> Array:
    """Return (N,) random heights of the walls of (N,) footprints, metres.

    Garages and sheds are low, and no building is much higher than it is wide.
    """
    low, high = settings.height_m
    area = shapely.area(footprints)
    most = np.clip(_HEIGHT_PER_SIDE * np.sqrt(area), low, high)
    small = rng.uniform(*_GARAGE_HEIGHT_M, len(footprints))
    return np.where(area < _GARAGE_M2, np.minimum(small, high), rng.uniform(low, most))


def _moved(shape: Any, east: float, north: float) -> Any:
    return shapely.transform(shape, lambda xy: xy + np.array([east, north]))


def _new_buildings(
    roads: Roadside, footprints: NDArray[Any], corridor: Any, count: int, rng: np.random.Generator
) -> NDArray[Any]:
    """Return up to ``count`` rectangles beside roads that touch no building and no road."""
    xy, along = roads.spots(30 * count + 30, (8, 20), rng)
    half = rng.uniform(3, 8, (len(xy), 2))
    boxes = rectangles(xy, along, half)
    free = ~_touching(boxes, footprints, 1.0) & ~_touching(boxes, roads.asphalt, 1.0)
    free &= ~shapely.dwithin(boxes, corridor, 2.0)
    chosen = boxes[free][:count]
    apart = [b for i, b in enumerate(chosen) if not _touching([b], chosen[:i], 0.5)[0]]
    return np.array(apart, object)


def _touching(shapes: Any, others: NDArray[Any], distance: float) -> NDArray[np.bool_]:
    """Return (N,) whether each of the (N,) shapes is within ``distance`` metres of another."""
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
    """Return the world of the given meshes (map frame), with ``origin`` as the scene's origin."""
    start = np.cumsum([0, *[len(mesh.vertices) for mesh in meshes[:-1]]])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    vertices[:, :2] -= origin
    triangles = np.concatenate([m.triangles + s for m, s in zip(meshes, start, strict=True)])
    size = [len(mesh.triangles) for mesh in meshes]
    kind = np.repeat([mesh.kind for mesh in meshes], size).astype(np.uint8)
    reflectance = np.concatenate([mesh.reflectance for mesh in meshes])
    wall = np.concatenate(
        [
            np.full(n, -1, np.int32) if mesh.wall is None else mesh.wall
            for n, mesh in zip(size, meshes, strict=True)
        ]
    )
    scene = Scene(
        vertices.astype(np.float32),
        triangles.astype(np.uint32),
        origin,
        kind,
        reflectance,
        wall,
        facades,
    )
    return World(scene, terrain, buildings, counts)
