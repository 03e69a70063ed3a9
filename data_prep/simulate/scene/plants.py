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

_VISIBLE_M = 120.0
"""Plants farther from the driven path have no leaves, metres."""

_LEAF_M = 0.2
"""Least side of a leaf, metres."""

_LEAF_PER_M = 0.012
"""Side of a leaf per metre of distance to the driven path: far plants have fewer, larger leaves."""

_SHRUB_DENSITY = 4.0
"""Extinction coefficient of shrubs, as a multiple of that of trees."""

_HEDGE_DENSITY = 8.0
"""Extinction coefficient of hedges, as a multiple of that of trees."""

_SHRUB_GROUP = (1, 6)
"""Least and largest number of shrubs in a group."""

_SHRUB_TO_WALL_M = (0.6, 1.6)
"""Least and largest distance of a shrub from the wall behind it, metres."""

_CUT_M = 3.0
"""Trees that reach over the driven path have no leaves below this height, metres."""


def trees(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return trees: two of three along roads and paths, the others in gardens."""
    count = roads.count(settings.trees_per_100m, rng, paths=True)
    gardens = count // 3
    street = roads.spots(count - gardens, (1.2, 6.0), rng, paths=True)
    garden = roads.spots(gardens, (6.0, 25.0), rng, paths=True)
    xy, along = (np.concatenate(pair) for pair in zip(street, garden, strict=True))
    trunk = rng.uniform((0.1, 1.6), (0.3, 3.6), (len(xy), 2))
    crown = rng.uniform((1.2, 1.2), (3.5, 3.5), (len(xy), 2))
    free = is_free(shapely.buffer(shapely.points(xy), 0.8), blocked)
    xy, along, trunk, crown = xy[free], along[free], trunk[free], crown[free]
    over = ~is_free(shapely.buffer(shapely.points(xy), crown[:, 0] + 0.3), blocked)
    trunk[over, 1] = np.maximum(trunk[over, 1], _CUT_M)
    ground = roads.terrain.height(xy)
    stem = np.c_[trunk[:, :1], trunk[:, :1], trunk[:, 1] + crown[:, 1]]
    centre = np.c_[xy, ground + trunk[:, 1] + crown[:, 1]]
    half = crown[:, [0, 0, 1]]
    return [
        copies(prism(), xy, ground, along, stem, REFLECTANCE[Surface.TRUNK], Surface.TRUNK),
        _foliage(roads, centre, along, half, True, settings.leaves_per_m, rng),
    ], len(xy)


def hedges(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return hedges: three of four along the road, the others across."""
    count = roads.count(settings.hedges_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (1.5, 7.0), rng)
    along = along + np.pi / 2 * (rng.random(len(xy)) < 0.25)
    half = rng.uniform((2.0, 0.25, 0.4), (9.0, 0.7, 1.2), (len(xy), 3))
    free = is_free(rectangles(xy, along, half[:, :2]), blocked)
    xy, along, half = xy[free], along[free], half[free]
    centre = np.c_[xy, roads.terrain.height(xy) + half[:, 2]]
    dense = _HEDGE_DENSITY * settings.leaves_per_m
    return [_foliage(roads, centre, along, half, False, dense, rng)], len(xy)


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
    xy = xy + rng.normal(0, 0.3, xy.shape)
    half = rng.uniform((0.3, 0.3, 0.25), (1.3, 1.0, 1.1), (len(xy), 3))
    free = is_free(rectangles(xy, along, half[:, :2]), blocked)
    xy, along, half = xy[free], along[free], half[free]
    centre = np.c_[xy, roads.terrain.height(xy) + 0.8 * half[:, 2]]
    dense = _SHRUB_DENSITY * settings.leaves_per_m
    return [_foliage(roads, centre, along, half, True, dense, rng)], len(xy)


def _foliage(
    roads: Roadside,
    centre: Array,
    along: Array,
    half: Array,
    round_: bool,
    per_m: float,
    rng: np.random.Generator,
) -> Mesh:
    """Return the leaves of N plants; far from the path they are larger and fewer, as dense.

    Args:
        roads: Has the driven path.
        centre: (N, 3) metres, in the map frame.
        along: (N,) headings of the plants' length, radians.
        half: (N, 3) half length, width and height, metres.
        round_: Whether the plants are ellipsoids or boxes.
        per_m: Extinction coefficient, per metre.
        rng: Draws the leaves.
    """
    away = roads.path_distance(centre[:, :2])
    near = away < _VISIBLE_M
    size = np.maximum(_LEAF_M, _LEAF_PER_M * away)
    return leaves(
        centre[near], along[near], half[near], round_, per_m, size[near],
        REFLECTANCE[Surface.LEAF], Surface.LEAF, rng,
    )  # fmt: skip
