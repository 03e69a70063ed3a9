"""The blocks between the streets of the made-up town, and the houses on them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import shapely
from shapely import LineString, Point, Polygon, affinity

from data_prep.geometry import Array
from data_prep.simulate.town.landmarks import landmarks_of, park
from data_prep.simulate.town.town_plan import (
    STREET_WIDTH_M,
    TOWN_SIZE_M,
    TownPlan,
    polygons_of,
    rectangle,
)

_PAVEMENT_M = 2.5
"""Width of the pavement between a street and a block, metres."""

_SMALLEST_BLOCK_M2 = 250
"""Smaller blocks stay empty, square metres."""

_CLOSED_WITHIN_M = 260
"""Blocks closer to the centre than this are closed, metres."""

_TERRACES_WITHIN_M = 360
"""Other blocks closer to the centre than this have terraces, metres."""

_SMALLEST_COURTYARD_M2 = 150
"""A closed block whose courtyard would be smaller is built over completely, square metres."""


def fill_blocks(plan: TownPlan) -> None:
    """Build on all blocks: perimeter blocks in the middle, terraces, then detached houses.

    The park and the landmarks, with detached houses around these, have blocks of their own. A roof
    and an underground building are added, which a reader of the map has to skip.
    """
    rng = plan.rng
    blocks = _blocks(plan)
    landmarks = landmarks_of(blocks)
    middle = Point(0, 0)
    for number, block in enumerate(blocks):
        if number in landmarks:
            landmarks[number](plan, block)
            if landmarks[number] is not park:
                _rows(plan, block, terraced=False)
            continue
        distance = block.centroid.distance(middle) + rng.normal(0, 70)
        if distance < _CLOSED_WITHIN_M:
            _closed_block(plan, block)
        elif distance < _TERRACES_WITHIN_M:
            _rows(plan, block, terraced=True)
        else:
            if rng.random() < 0.5:
                _driveway(plan, block)
            _rows(plan, block, terraced=False)
    # A roof and an underground building: a reader of the map has to skip both.
    roof = affinity.translate(Point(0, 0).buffer(6, quad_segs=1), TOWN_SIZE_M / 2 + 25, 0)
    plan.buildings += [roof, affinity.translate(roof, 0, 30)]
    plan.tags += [{"building": "roof"}, {"building": "yes", "location": "underground"}]


def _blocks(plan: TownPlan) -> list[Polygon]:
    """Return the areas between the streets, less streets and pavements, in a fixed order.

    Those smaller than ``_SMALLEST_BLOCK_M2`` are left out.
    """
    streets = [line for line, _ in plan.streets]
    faces = sorted(shapely.get_parts(shapely.polygonize(streets)), key=lambda f: f.bounds)
    widths = [STREET_WIDTH_M[tags["highway"]] / 2 + _PAVEMENT_M for _, tags in plan.streets]
    paved = shapely.unary_union(shapely.buffer(streets, np.array(widths)))
    blocks = [
        part
        for face in faces
        for part in polygons_of(face - paved)
        if part.area > _SMALLEST_BLOCK_M2
    ]
    return [max(polygons_of(block.buffer(-1).buffer(1)), key=lambda p: p.area) for block in blocks]


def _closed_block(plan: TownPlan, block: Polygon) -> None:
    """Build houses wall to wall around a courtyard: a ring, or several houses with gaps."""
    rng = plan.rng
    outer = block.buffer(-rng.uniform(0.3, 2.5), join_style="mitre")
    depth = rng.uniform(9, 14)
    court = outer.buffer(-depth, join_style="mitre")
    if court.area < _SMALLEST_COURTYARD_M2:
        plan.build(outer, "retail")
        return
    ring = outer - court
    levels = int(rng.integers(3, 6))
    if rng.random() < 0.6:
        plan.build(ring, "apartments", levels)
    else:
        centre = np.array(court.representative_point().coords[0])
        angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.dirichlet(np.full(6, 3))) * 2 * np.pi
        ends = centre + 400 * np.stack([np.cos(angles), np.sin(angles)], 1)
        gaps = [
            LineString([centre, end]).buffer(rng.choice([0.05, 1.5, 3.5]), cap_style="flat")
            for end in ends
        ]
        for part in polygons_of(ring - shapely.unary_union(gaps)):
            plan.build(part, "apartments", levels + int(rng.integers(-1, 2)))
    if rng.random() < 0.6:
        yard = court.buffer(-rng.uniform(3, 8)).simplify(2)
        cut = rectangle(
            court.centroid.coords[0], rng.uniform(8, 22), rng.uniform(6, 14), rng.uniform(0, 3)
        )
        plan.build(yard & cut, "service", 1)


def _rows(plan: TownPlan, block: Polygon, *, terraced: bool) -> None:
    """Build houses that face the street along the block's edge, as terraces or detached."""
    rng = plan.rng
    taken: list[Polygon] = [area for area, _ in plan.areas]
    setback = rng.uniform(1, 4) if terraced else rng.uniform(3, 8)
    for front in polygons_of(block.buffer(-setback, join_style="mitre")):
        corners = np.array(front.simplify(1.5).exterior.normalize().coords)[::-1]
        for a, b in pairwise(corners):
            _row(plan, front, a, b, taken, terraced=terraced)


def _row(
    plan: TownPlan, front: Polygon, a: Array, b: Array, taken: list[Polygon], *, terraced: bool
) -> None:
    """Build houses along one side of a block.

    Args:
        plan: The town.
        front: The part of the block that may be built on.
        a: (2,) start of the side, metres; the block is on the left.
        b: (2,) end of the side.
        taken: Polygons that a house must not overlap; new houses are appended.
        terraced: Whether houses stand wall to wall in groups, or each on a plot of its own.
    """
    rng = plan.rng
    length = float(np.hypot(*(b - a)))
    along = (b - a) / length
    inward = np.array([-along[1], along[0]])
    heading = np.degrees(np.arctan2(along[1], along[0]))
    position = rng.uniform(0, 6)
    left, width, depth = 0, 0.0, 0.0
    while True:
        if left == 0:
            left = int(rng.integers(3, 9)) if terraced else 1
            width = rng.uniform(5, 8) if terraced else rng.uniform(8, 16)
            depth = rng.uniform(8, 12) if terraced else rng.uniform(7, 13)
        if position + width > length:
            break
        if not terraced and rng.random() < 0.12:
            position += rng.uniform(10, 25)
            continue
        back = 0.0 if terraced else rng.uniform(0, 4)
        middle = a + along * (position + width / 2) + inward * (depth / 2 + back)
        turn = heading if terraced else heading + rng.normal(0, 4)
        house = rectangle(middle, width, depth, np.radians(turn))
        if not terraced:
            house = _with_wing(rng, house, middle, width, depth, turn)
        if front.covers(house.buffer(-0.5)) and not any(
            house.buffer(-0.2).intersects(other) for other in taken
        ):
            taken.append(house)
            plan.build(house, "terrace" if terraced else "house", 2)
        left -= 1
        position += width
        if left == 0:
            position += rng.uniform(2, 7) if terraced else rng.uniform(4, 14)


def _with_wing(
    rng: np.random.Generator, house: Polygon, middle: Array, width: float, depth: float, turn: float
) -> Polygon:
    """Return a detached house as it is, with a wing (L-shaped), or with a garage beside it.

    Args:
        rng: Draws which of the three.
        house: The rectangle of ``width`` and ``depth`` metres.
        middle: (2,) centre of the house, metres.
        width: Side along the street, metres.
        depth: Side away from the street, metres.
        turn: Degrees counter-clockwise from east to the side along the street.
    """
    draw = rng.random()
    side = rng.choice([-1, 1])
    if draw < 0.35:
        wing = rectangle((side * width * 0.25, depth * 0.6), width * 0.5, depth * 0.8, 0)
    elif draw < 0.55:
        wing = rectangle((side * (width / 2 + 1.5), depth * 0.1), 3.2, 6, 0)
    else:
        return house
    wing = affinity.translate(affinity.rotate(wing, turn, origin=(0, 0)), *middle)
    return shapely.union(house, wing)


def _driveway(plan: TownPlan, block: Polygon) -> None:
    """Add a dead-end lane from the nearest street into the block; houses keep clear of it."""
    target = block.representative_point()
    streets = [line for line, _ in plan.streets]
    nearest = int(np.argmin(shapely.distance(streets, target)))
    corners = np.array(plan.streets[nearest][0].coords)
    if len(corners) < 3:
        return
    inner = corners[1:-1]
    root = inner[np.argmin(np.hypot(*(inner - np.array(target.coords[0])).T))]
    lane = LineString([root, (root + target.coords[0]) / 2 + plan.rng.normal(0, 4, 2), target])
    plan.streets.append((lane, {"highway": "service"}))
    plan.areas.append((lane.buffer(4), {}))
