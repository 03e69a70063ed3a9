"""A submap seen from above: the query tile."""

from __future__ import annotations

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.geometry import rotate
from data_prep.settings import Positive, Settings
from maptile_loc.ground import height_above_ground
from maptile_loc.labels import BUILDING, GROUND
from maptile_loc.rays import Rays, free_space, highest_view, make_rays, make_sheaves, pixels
from maptile_loc.result import QueryTile
from maptile_loc.submap import Submap
from maptile_loc.walls import Upright, WallSettings, wall_evidence

F32 = NDArray[np.float32]


class QuerySettings(Settings):
    """How a cloud becomes a tile.

    Attributes:
        size_m: Side of the tile.
        resolution: Metres per pixel of the tile.
        ground_cell_m: Side of the cells in which the ground's height is estimated.
        low_m: Rays tell where no building is while they are lower than this above the ground.
        group_points: Scans are looked at together until they have so many points, and what they
            show is then averaged: one scan of a spinning LiDAR, some metres of a push-broom one.
        wall: What counts as a wall.
    """

    size_m: Positive = 128.0
    resolution: Positive = 0.5
    ground_cell_m: Positive = 2.0
    low_m: Positive = 3.0
    group_points: int = pydantic.Field(default=60_000, gt=0)
    wall: WallSettings = WallSettings()

    @pydantic.model_validator(mode="after")
    def _whole(self) -> QuerySettings:
        if self.size_m / self.resolution % 16:
            raise ValueError("size_m has to be a multiple of 16 times resolution")
        return self


def make_tile(submap: Submap, rotation: float, settings: QuerySettings) -> QueryTile:
    """Turn the cloud by ``rotation`` radians and look at it from above.

    Args:
        submap: Cloud in the vehicle frame.
        rotation: The heading where that is known, so that the tile is north-up.
        settings: How.

    Returns:
        The tile. Its wall evidence is the mean over the groups of scans that saw a cell: what one
        shows and another looks through has moved, or is no wall. Where points are labelled, the
        labels say what is a wall and what is ground.
    """
    size = round(settings.size_m / settings.resolution)
    if len(submap.points) == 0:
        nothing = np.zeros((size, size), np.float32)
        return QueryTile(nothing, nothing, nothing, settings.resolution, rotation)
    points, origin = submap.points.copy(), submap.origin.copy()
    points[:, :2] = rotate(submap.points[:, :2], rotation)
    origin[:, :2] = rotate(submap.origin[:, :2], rotation)
    centre = np.median(origin[:, :2], axis=0)
    height = height_above_ground(points, centre, settings.ground_cell_m)
    rays = make_rays(points, submap.scan, origin)
    if submap.kind is None:
        tall = (height > settings.wall.min_height_m) & (height < settings.wall.max_height_m)
        low = np.abs(height) < 0.3
    else:
        tall, low = submap.kind == BUILDING, submap.kind == GROUND
    xy = points[:, :2]
    # A ray that ends on something upright was upright's height above the ground all the way.
    level = tall & (height < settings.low_m)
    wall = np.zeros((size, size), np.float32)
    looks = np.zeros((size, size), np.float32)
    group = _groups(rays, settings.group_points)
    upright = _upright(points, height, rays, origin, tall)
    sheaves = make_sheaves(rays)
    for number in np.unique(group):
        mine = group == number
        hit = _touched(xy[mine & tall], size, settings.resolution)
        passed = free_space(
            rays, origin[:, :2], rays.flat * (mine & level), size, settings.resolution
        )
        shown = hit
        if submap.kind is None:
            part = upright.take(mine[tall])
            shown = wall_evidence(part, sheaves, size, settings.resolution, settings.wall)
        wall += shown
        looks += np.maximum(passed, np.maximum(hit, shown > 0))
    wall /= np.maximum(looks, 1)
    # A ray that ends high up tells about buildings until it rises above the lowest of them.
    sensor = origin[rays.scan, 2] - points[:, 2] + height
    limit = np.maximum(settings.low_m, sensor + 0.5)
    low_until = (limit - sensor) / np.maximum(height - sensor, 1e-3)
    reach = rays.flat * np.clip(low_until, 0, 1)
    free = free_space(rays, origin[:, :2], reach, size, settings.resolution)
    ground = _touched(xy[low], size, settings.resolution)
    observed = np.maximum(np.maximum(free, ground), wall > 0).astype(np.float32)
    return QueryTile(wall, ground, observed, settings.resolution, rotation)


def _groups(rays: Rays, points: int) -> NDArray[np.int64]:
    """(N,) number of the group of scans, of about so many ``points`` each, that a ray is of."""
    count = np.bincount(rays.scan, minlength=rays.scans)
    return ((np.cumsum(count) - count) // points)[rays.scan]


def _upright(points: F32, height: F32, rays: Rays, origin: F32, tall: NDArray[np.bool_]) -> Upright:
    """The ``tall`` ones of the points, with what their rays tell."""
    ray = np.flatnonzero(tall)
    scan = rays.scan[ray]
    sensor_height = origin[scan, 2] - points[ray, 2] + height[ray]
    return Upright(
        points[ray, :2],
        height[ray],
        sensor_height + rays.flat[ray] * highest_view(rays, ray),
        ray,
        np.radians(rays.azimuth[ray]),
        rays.distance[ray],
    )


def _touched(xy: F32, size: int, resolution: float) -> F32:
    """(size, size) 1 where there is a point."""
    touched = np.zeros(size * size, np.float32)
    touched[pixels(xy, size, resolution)[0]] = 1.0
    return touched.reshape(size, size)
