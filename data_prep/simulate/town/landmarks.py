"""The blocks of the made-up town with a use of their own: park, church, school, factory, hall."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from shapely import LineString, MultiPolygon, Point, Polygon, affinity
from shapely.geometry.base import BaseGeometry

from data_prep.simulate.town.town_plan import TownPlan, rectangle

Landmark = Callable[[TownPlan, Polygon], None]
"""Adds a landmark to the plan, on the block given as a polygon (metres from the town's centre)."""


def landmarks_of(blocks: list[Polygon]) -> dict[int, Landmark]:
    """Return which landmark stands on which block, by the block's index.

    The park takes the largest block away from the centre, the church the block nearest to the
    centre that is large enough; the other landmarks take the next largest blocks.
    """
    far = [i for i, block in enumerate(blocks) if block.centroid.distance(Point(0, 0)) > 120]
    by_area = sorted(far, key=lambda i: -blocks[i].area)
    near = min(
        (i for i, block in enumerate(blocks) if block.area > 4000 and i != by_area[0]),
        key=lambda i: blocks[i].centroid.distance(Point(0, 0)),
    )
    rest = [i for i in by_area[1:] if i != near]
    return {
        by_area[0]: park,
        near: _church,
        rest[0]: _school,
        rest[2]: _factory,
        rest[4]: _round_hall,
    }


def park(plan: TownPlan, block: Polygon) -> None:
    """Add a park: grass with a ring path and two crossing paths, a pavilion and a few huts."""
    rng = plan.rng
    plan.areas.append((block, {"leisure": "park", "name": "Town Park"}))
    ring = block.buffer(-12).simplify(1).exterior
    plan.paths.append((LineString(ring.coords), {"highway": "footway"}))
    for angle in rng.uniform(0, np.pi) + np.array([0, np.pi / 2]):
        step = 400 * np.array([np.cos(angle), np.sin(angle)])
        bent = np.array(block.centroid.coords[0]) + rng.normal(0, 6, 2)
        across = LineString([bent - step, bent, bent + step @ [[0.98, 0.2], [-0.2, 0.98]]])
        for part in shapely.get_parts(across & block.buffer(-12)):
            plan.paths.append((part, {"highway": "path"}))
    pavilion = block.centroid.buffer(8, quad_segs=2)
    plan.build(pavilion, "public", 1)
    inside = shapely.get_coordinates(block.buffer(-25).simplify(5))
    for spot in inside[:: max(1, len(inside) // 4)]:
        hut = rectangle(spot, rng.uniform(4, 9), rng.uniform(3, 6), rng.uniform(0, 3))
        plan.build(hut, "hut", 1)


def _church(plan: TownPlan, block: Polygon) -> None:
    """Add a church with nave, transept, round apse and tower."""
    nave = rectangle((0, 0), 38, 13, 0)
    transept, tower = rectangle((7, 0), 10, 28, 0), rectangle((-20, 0), 8, 8, 0)
    shape = shapely.union_all([nave, transept, Point(19, 0).buffer(6.5), tower])
    _fit_into(plan, block, shape, "church", 5)


def _school(plan: TownPlan, block: Polygon) -> None:
    """Add an E-shaped school with three wings, and a gym."""
    wings = [rectangle((x, 14), 10, 22, 0) for x in (-25, 0, 25)]
    shape = shapely.union_all([rectangle((0, 0), 60, 11, 0), *wings])
    gym = rectangle((12, 42), 30, 16, 0)
    _fit_into(plan, block, MultiPolygon([shape, gym]), "school", 3)


def _factory(plan: TownPlan, block: Polygon) -> None:
    """Add a factory: a hall with a saw-toothed side and two yards, and a shed."""
    tooth = np.array([[0, 0], [0, 10], [9, 6]])
    teeth = [Polygon(tooth + np.array([-30, -20 + 10 * i])) for i in range(4)]
    hall = shapely.union_all([rectangle((-5, 0), 52, 42, 0), *teeth])
    yards = [rectangle((-15, 0), 10, 24, 0), rectangle((6, 5), 12, 16, 0)]
    shape = hall - shapely.union_all(yards)
    shed = rectangle((32, -8), 10, 26, 0.1)
    _fit_into(plan, block, MultiPolygon([shape, shed]), "industrial", 2)


def _round_hall(plan: TownPlan, block: Polygon) -> None:
    """Add a round hall with a round courtyard, and half a ring around it."""
    ring = Point(0, 0).buffer(30, quad_segs=6) - Point(0, 0).buffer(22, quad_segs=6)
    hall = Point(0, 0).buffer(14) - Point(0, 0).buffer(6)
    shape = (ring - rectangle((25, 0), 50, 80, 0), hall)
    _fit_into(plan, block, MultiPolygon(shape), "civic", 3)


def _fit_into(
    plan: TownPlan, block: Polygon, shape: BaseGeometry, building: str, levels: int
) -> None:
    """Build a landmark: ``shape``, turned along the block's longer side and scaled to fit into it.

    The scales 1.3, 1.2, ..., 0.4 are tried; the last one is used if none fits. Houses keep clear of
    the landmark (``TownPlan.areas``).

    Args:
        plan: The town; the landmark is added to it.
        block: Where the landmark stands.
        shape: The landmark around (0, 0), metres, its length along the x axis.
        building: Value of the OSM tag ``building``.
        levels: Number of storeys.
    """
    box = np.array(shapely.minimum_rotated_rectangle(block).exterior.coords)
    sides = np.diff(box[:3], axis=0)
    longest = sides[np.argmax(np.hypot(*sides.T))]
    turned = affinity.rotate(shape, np.degrees(np.arctan2(longest[1], longest[0])), origin=(0, 0))
    centre = block.buffer(-0.3 * np.sqrt(block.area)) or block
    x, y = centre.representative_point().coords[0]
    room = block.buffer(-2)
    for scale in np.arange(1.3, 0.3, -0.1):
        placed = affinity.translate(affinity.scale(turned, scale, scale, origin=(0, 0)), x, y)
        if room.covers(placed):
            break
    plan.build(placed, building, levels)
    plan.areas.append((shapely.convex_hull(placed).buffer(3), {}))
