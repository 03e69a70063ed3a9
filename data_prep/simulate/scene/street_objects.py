"""Objects beside the roads of simulated worlds: parked cars, poles, fences and people.

Each function returns the meshes of its objects and their number. ``blocked`` is a tree of the
shapes that objects keep clear of.
"""

from __future__ import annotations

import numpy as np
import shapely

from data_prep.simulate.scene.meshes import (
    box,
    cabin,
    copies,
    hull,
    panels,
    prism,
    rectangles,
)
from data_prep.simulate.scene.plants import climbers
from data_prep.simulate.scene.roadside import Objects, Roadside, clear_of_earlier, is_free
from data_prep.simulate.scene.surfaces import REFLECTANCE, Surface
from data_prep.simulate.scene.world_settings import WorldSettings

_CAR_ROW = (1, 7)
"""Least and largest number of cars parked in a row."""

_VAN_SHARE = 0.08
"""Share of the vehicles that are vans."""

_TRUCK_SHARE = 0.04
"""Share of the vehicles that are trucks, buses or trailers."""

_TRUCK_HALF_M = ((2.8, 1.1), (6.0, 1.28))
"""Least and largest half length and half width of these, metres."""

_TRUCK_HEIGHT_M = (2.4, 3.8)
"""Least and largest height of these, metres."""

_FENCE_KINDS = (0.4, 0.4, 0.2)
"""Shares of garden walls, of fences with slats, and of gates."""

_DARK_SHARE = 0.25
"""Share of the vehicles with a dark paint."""

_GROUND_CLEARANCE_M = 0.25
"""Height of a vehicle's underside above the road, metres."""

_FENCE_HEIGHT_M = (0.6, 2.0)
"""Least and largest height of fences, metres: local rules often allow 1.2 m in front gardens, and
2 m between neighbours."""

_OVERGROWN_SHARE = 0.4
"""Share of the garden walls and fences that plants grow on or behind."""

_SLAT_OFF_M = 0.02
"""Standard deviation of a slat's displacement across the fence, metres: its slats are fixed to both
sides of its rails, and lean."""

_SLAT_M = 0.1
"""Width of a fence's slat, metres."""

_GAP_M = 0.09
"""Gap between two slats, metres."""


def cars(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return the meshes of parked vehicles in rows along roads, and the number of vehicles.

    Cars have a glazed cabin; vans and trucks have none.
    """
    count = roads.count(settings.cars_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (-0.9, 1.2), rng, row=_CAR_ROW, step_m=6.0)
    number = len(xy)
    half = rng.uniform((1.9, 0.82), (2.4, 0.95), (number, 2))
    height = rng.uniform(1.35, 1.75, number)
    draw = rng.random(number)
    van, truck = draw < _VAN_SHARE, draw > 1 - _TRUCK_SHARE
    half[van], height[van] = half[van] * 1.15, height[van] * 1.4
    half[truck] = rng.uniform(*_TRUCK_HALF_M, (truck.sum(), 2))
    height[truck] = rng.uniform(*_TRUCK_HEIGHT_M, truck.sum())
    xy = xy + rng.normal(0, 0.15, xy.shape)
    along = along + rng.normal(0, 0.03, number)
    is_dark = rng.random(number) < _DARK_SHARE
    reflectance = np.where(is_dark, rng.uniform(0.03, 0.1, number), rng.uniform(0.15, 0.7, number))
    shapes = rectangles(xy, along, half)
    free = is_free(shapes, blocked) & clear_of_earlier(shapes)
    xy, along, half, height, reflectance = (
        values[free] for values in (xy, along, half, height, reflectance)
    )
    tall = (van | truck)[free]
    ground = roads.surface_height(xy)
    body = np.c_[half, np.where(tall, height, 0.55 * height) - _GROUND_CLEARANCE_M]
    bottom = ground + _GROUND_CLEARANCE_M
    low = ~tall
    meshes = [
        copies(
            shape, xy[kind], bottom[kind], along[kind], body[kind], reflectance[kind], Surface.CAR
        )
        for shape, kind in ((hull(), low), (box(), tall))
    ]
    scale = np.c_[half * (0.62, 0.92), 0.45 * height][low]
    pose = (xy[low], (ground + 0.55 * height)[low], along[low], scale)
    windows, roof = cabin()
    meshes.append(copies(windows, *pose, REFLECTANCE[Surface.GLASS], Surface.GLASS))
    meshes.append(copies(roof, *pose, reflectance[low], Surface.CAR))
    return meshes, len(xy)


def poles(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return posts, signs and lamps, all as bare poles."""
    count = roads.count(settings.poles_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (0.3, 1.2), rng)
    free = is_free(shapely.points(xy), blocked)
    xy, along = xy[free], along[free]
    scale = rng.uniform((0.04, 2.5), (0.12, 8.0), (len(xy), 2))[:, [0, 0, 1]]
    ground = roads.terrain.height(xy)
    mesh = copies(prism(), xy, ground, along, scale, REFLECTANCE[Surface.POLE], Surface.POLE)
    return [mesh], len(xy)


def fences(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return garden walls, fences of vertical slats, and solid gates between posts."""
    count = roads.count(settings.fences_per_100m, rng, paths=False)
    xy, along = roads.spots(count, (0.5, 9.0), rng)
    along = along + np.pi / 2 * (rng.random(len(xy)) < 0.25)
    kind = rng.choice(3, len(xy), p=_FENCE_KINDS)
    half = np.c_[rng.uniform(2, 12, len(xy)), np.full(len(xy), 0.1)]
    half[kind == 2] = np.c_[rng.uniform(0.5, 2.2, len(xy)), np.full(len(xy), 0.03)][kind == 2]
    height = rng.uniform(*_FENCE_HEIGHT_M, len(xy))
    free = is_free(rectangles(xy, along, half), blocked)
    ground = roads.terrain.height(xy)
    wall, open_ = free & (kind != 1), free & (kind == 1)
    scale = np.c_[half, height][wall]
    reflectance = REFLECTANCE[Surface.FENCE]
    solid = copies(box(), xy[wall], ground[wall], along[wall], scale, reflectance, Surface.FENCE)
    step = _SLAT_M + _GAP_M
    number = np.floor(2 * half[open_, 0] / step).astype(np.int64)
    fence = np.repeat(np.flatnonzero(open_), number)
    at = step * (np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number))
    course = np.stack([np.cos(along), np.sin(along)], axis=1)[fence]
    a = xy[fence] + (at - half[fence, 0])[:, None] * course
    a += rng.normal(0, _SLAT_OFF_M, len(a))[:, None] * course[:, ::-1] * (-1, 1)
    b = a + _SLAT_M * course
    foot = ground[fence]
    each = np.full(len(a), reflectance)
    slats = panels(a, b, foot, foot + height[fence], each, Surface.FENCE)
    grown = free & (rng.random(len(xy)) < _OVERGROWN_SHARE)
    hidden = np.c_[half[grown, 0], height[grown]]
    plants = climbers(roads, xy[grown], along[grown], hidden, settings.leaves_per_m, rng)
    return [solid, slats, plants], int(free.sum())


def people(
    roads: Roadside, blocked: shapely.STRtree, settings: WorldSettings, rng: np.random.Generator
) -> Objects:
    """Return the meshes of people who stand beside roads and paths, and their number."""
    count = roads.count(settings.people_per_100m, rng, paths=True)
    xy, along = roads.spots(count, (0.3, 3.0), rng, paths=True)
    free = is_free(shapely.buffer(shapely.points(xy), 0.3), blocked)
    xy, along = xy[free], along[free]
    scale = rng.uniform((0.18, 1.2), (0.28, 1.95), (len(xy), 2))[:, [0, 0, 1]]
    ground = roads.terrain.height(xy)
    mesh = copies(prism(), xy, ground, along, scale, REFLECTANCE[Surface.PERSON], Surface.PERSON)
    return [mesh], len(xy)
