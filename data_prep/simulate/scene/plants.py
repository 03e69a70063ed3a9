"""The plants of simulated worlds: trees, hedges and shrubs, whose leaves let some beams pass.

Each function returns the meshes of its plants and their number. ``blocked`` is a tree of the shapes
that plants keep clear of.
"""

from __future__ import annotations

import numpy as np
import shapely

from data_prep.geometry import Array
from data_prep.simulate.scene.meshes import Mesh, copies, leaves, prism, rectangles
from data_prep.simulate.scene.roadside import Objects, Roadside, is_free
from data_prep.simulate.scene.surfaces import REFLECTANCE, Surface
from data_prep.simulate.scene.world_settings import WorldSettings

_VISIBLE_M = 80.0
"""Plants farther from the driven path have no leaves, metres: submaps end at 60 m."""

_LEAF_M = 0.2
"""Least side of a leaf, metres."""

_LEAF_PER_M = 0.012
"""Side of a leaf per metre of distance to the driven path: far plants have fewer, larger leaves."""

_SHRUB_DENSITY = 4.0
"""Extinction coefficient of shrubs, as a multiple of that of trees."""

_HEDGE_DENSITY = 8.0
"""Extinction coefficient of hedges, as a multiple of that of trees."""

_EVERGREEN_DENSITY = 2.5
"""Extinction coefficient of evergreens, as a multiple of that of other trees."""

_EVERGREEN_SHARE = 0.35
"""Share of the trees in gardens that are evergreens, with branches down to the ground."""

_GARDEN_SHARE = 0.6
"""Share of the trees that stand in gardens, not along roads and paths."""

_GARDEN_M = (5.0, 30.0)
"""Least and largest distance of gardens' plants from the edge of the road, metres."""

_SHRUB_GROUP = (1, 6)
"""Least and largest number of shrubs in a group."""

_SHRUB_TO_WALL_M = (0.6, 1.6)
"""Least and largest distance of a shrub from the wall behind it, metres."""

_CLIMBER_HALF_M = 0.35
"""Half of the largest depth of plants that grow on fences, metres."""

_THICKET = (4, 14)
"""Least and largest number of bushes in a thicket."""

_THICKET_STEP_M = 1.7
"""Distance between two bushes of a thicket, metres."""

_CUT_M = 3.0
"""Trees that reach over the driven path have no leaves below this height, metres."""

_OPAQUE = 4.0
"""Optical depth below a plant's surface from which no leaves are needed: few beams get there."""


def trees(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return trees along roads and paths, and trees and evergreens in gardens."""
    count = roads.count(settings.trees_per_100m, rng, paths=True)
    gardens = round(_GARDEN_SHARE * count)
    street = roads.spots(count - gardens, (1.2, 6.0), rng, paths=True)
    garden = roads.spots(gardens, _GARDEN_M, rng, paths=True)
    xy, along = (np.concatenate(pair) for pair in zip(street, garden, strict=True))
    trunk = rng.uniform((0.1, 1.4), (0.35, 3.4), (len(xy), 2))
    crown = rng.uniform((1.2, 1.2), (4.0, 4.0), (len(xy), 2))
    evergreen = (np.arange(len(xy)) >= len(street[0])) & (rng.random(len(xy)) < _EVERGREEN_SHARE)
    trunk[evergreen, 1] = rng.uniform(0.1, 0.6, evergreen.sum())
    crown[evergreen] = rng.uniform((0.7, 1.2), (2.2, 5.0), (evergreen.sum(), 2))
    free = is_free(shapely.buffer(shapely.points(xy), 0.8), blocked)
    xy, along, trunk, crown = xy[free], along[free], trunk[free], crown[free]
    evergreen = evergreen[free]
    over = ~is_free(shapely.buffer(shapely.points(xy), crown[:, 0] + 0.3), blocked)
    trunk[over, 1] = np.maximum(trunk[over, 1], _CUT_M)
    ground = roads.terrain.height(xy)
    stem = np.c_[trunk[:, :1], trunk[:, :1], trunk[:, 1] + crown[:, 1]]
    centre = np.c_[xy, ground + trunk[:, 1] + crown[:, 1]]
    half = crown[:, [0, 0, 1]]
    per_m = settings.leaves_per_m * np.where(evergreen, _EVERGREEN_DENSITY, 1.0)
    return [
        copies(prism(), xy, ground, along, stem, REFLECTANCE[Surface.TRUNK], Surface.TRUNK),
        _foliage(roads, centre, along, half, True, per_m, rng),
    ], len(xy)


def hedges(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return hedges: beside the road, and between gardens; a third of them across the road."""
    count = roads.count(settings.hedges_per_100m, rng, paths=False)
    front = roads.spots(count - count // 3, (1.0, 7.0), rng)
    garden = roads.spots(count // 3, _GARDEN_M, rng)
    xy, along = (np.concatenate(pair) for pair in zip(front, garden, strict=True))
    along = along + np.pi / 2 * (rng.random(len(xy)) < 1 / 3)
    half = rng.uniform((2.0, 0.25, 0.4), (12.0, 0.8, 1.4), (len(xy), 3))
    free = is_free(rectangles(xy, along, half[:, :2]), blocked)
    xy, along, half = xy[free], along[free], half[free]
    centre = np.c_[xy, roads.terrain.height(xy) + half[:, 2]]
    per_m = np.full(len(xy), _HEDGE_DENSITY * settings.leaves_per_m)
    return [_foliage(roads, centre, along, half, False, per_m, rng)], len(xy)


def shrubs(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return shrubs: two of three in groups beside roads and in gardens, the others at walls."""
    count = roads.count(settings.shrubs_per_100m, rng, paths=True)
    at_walls = count // 3
    groups = roads.spots(
        count - at_walls, (1.0, 14.0), rng, paths=True, row=_SHRUB_GROUP, step_m=1.2
    )
    planted = roads.spots_at_walls(at_walls, _SHRUB_TO_WALL_M, rng)
    xy, along = (np.concatenate(pair) for pair in zip(groups, planted, strict=True))
    half = rng.uniform((0.3, 0.3, 0.25), (1.3, 1.0, 1.1), (len(xy), 3))
    return _bushes(roads, blocked, xy, along, half, _SHRUB_DENSITY * settings.leaves_per_m, rng)


def thickets(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return thickets, rows of high bushes that grow into each other, and the number of bushes."""
    count = roads.count(settings.thickets_per_100m, rng, paths=True) * sum(_THICKET) // 2
    reach = (1.5, _GARDEN_M[1])
    xy, along = roads.spots(count, reach, rng, paths=True, row=_THICKET, step_m=_THICKET_STEP_M)
    xy = xy + rng.normal(0, 0.6, xy.shape)
    half = rng.uniform((0.8, 0.8, 0.7), (2.2, 2.0, 2.2), (len(xy), 3))
    dense = rng.uniform(1.0, _SHRUB_DENSITY, len(xy)) * settings.leaves_per_m
    return _bushes(roads, blocked, xy, along, half, dense, rng)


def _bushes(
    roads: Roadside,
    blocked: shapely.STRtree,
    xy: Array,
    along: Array,
    half: Array,
    per_m: Array | float,
    rng: np.random.Generator,
) -> Objects:
    """Return the ones of N bushes that touch nothing in ``blocked``, ellipsoids near the ground.

    Args:
        roads: Has the driven path and the ground.
        blocked: What they keep clear of.
        xy: (N, 2) positions in the map frame, metres.
        along: (N,) headings of their length, radians.
        half: (N, 3) half length, width and height, metres.
        per_m: (N,) or one for all, extinction coefficient, per metre.
        rng: Draws displacements and leaves.
    """
    xy = xy + rng.normal(0, 0.3, xy.shape)
    free = is_free(rectangles(xy, along, half[:, :2]), blocked)
    dense = np.broadcast_to(per_m, len(xy))[free]
    xy, along, half = xy[free], along[free], half[free]
    centre = np.c_[xy, roads.terrain.height(xy) + 0.8 * half[:, 2]]
    return [_foliage(roads, centre, along, half, True, dense, rng)], len(xy)


def climbers(
    roads: Roadside,
    xy: Array,
    along: Array,
    size: Array,
    leaves_per_m: float,
    rng: np.random.Generator,
) -> Mesh:
    """Return the plants that grow on N upright objects, such as fences, and hide parts of them.

    Args:
        roads: Has the driven path and the ground.
        xy: (N, 2) middles of the objects in the map frame, metres.
        along: (N,) headings of their length, radians.
        size: (N, 2) half of their length, and their height, metres.
        leaves_per_m: Extinction coefficient of trees, per metre.
        rng: Draws the plants.
    """
    half = rng.uniform((0.3, 0.08, 0.3), (1.0, _CLIMBER_HALF_M, 0.6), (len(xy), 3))
    half[:, [0, 2]] *= size
    aside = (size[:, 0] - half[:, 0]) * rng.uniform(-1, 1, len(xy))
    middle = xy + aside[:, None] * np.stack([np.cos(along), np.sin(along)], axis=1)
    centre = np.c_[middle, roads.terrain.height(xy) + half[:, 2]]
    per_m = rng.uniform(1.0, _SHRUB_DENSITY, len(xy)) * leaves_per_m
    return _foliage(roads, centre, along, half, False, per_m, rng)


def _foliage(
    roads: Roadside,
    centre: Array,
    along: Array,
    half: Array,
    round_: bool,
    per_m: Array,
    rng: np.random.Generator,
) -> Mesh:
    """Return the leaves of N plants; far from the path they are larger and fewer, as dense.

    Leaves are left out deep inside, below an optical depth of ``_OPAQUE``.

    Args:
        roads: Has the driven path.
        centre: (N, 3) metres, in the map frame.
        along: (N,) headings of the plants' length, radians.
        half: (N, 3) half length, width and height, metres.
        round_: Whether the plants are ellipsoids or boxes.
        per_m: (N,) extinction coefficient, per metre.
        rng: Draws the leaves.
    """
    away = roads.path_distance(centre[:, :2])
    near = away < _VISIBLE_M
    size = np.maximum(_LEAF_M, _LEAF_PER_M * away)
    hollow = hollow_share(half, per_m)
    return leaves(
        centre[near], along[near], half[near], round_, per_m[near], size[near], hollow[near],
        REFLECTANCE[Surface.LEAF], Surface.LEAF, rng,
    )  # fmt: skip


def hollow_share(half: Array, per_m: Array) -> Array:
    """Return the size of the core of N plants that no beam reaches, as a share of the plant's.

    Args:
        half: (N, 3) half axes, metres.
        per_m: (N,) extinction coefficient, per metre.

    Returns:
        (N,) 0 to 1; the optical depth from the surface to the core is at least ``_OPAQUE``.
    """
    depth = np.maximum(per_m[:, None] * half, 1e-6)
    return np.asarray(np.clip(1 - _OPAQUE / depth, 0, 1).min(axis=1))
