"""A submap seen from above: the query tile."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.geometry import rotate
from data_prep.settings import Count, Positive, Settings
from maptile_loc.perceive.ground import height_above_ground
from maptile_loc.perceive.kerbs import KerbSettings, kerb_votes, road_evidence
from maptile_loc.perceive.labels import BUILDING, GROUND, ROAD
from maptile_loc.perceive.rays import (
    RayBins,
    Rays,
    bin_rays,
    farthest,
    free_space,
    highest_view,
    make_rays,
    pixels,
)
from maptile_loc.perceive.submap import Submap
from maptile_loc.perceive.walls import Upright, WallSettings, wall_evidence
from maptile_loc.types import QueryTile

F32 = NDArray[np.float32]
PATH_POINTS = 11


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
        kerb: What counts as a kerb.
    """

    size_m: Positive = 128.0
    resolution: Positive = 0.5
    ground_cell_m: Positive = 2.0
    low_m: Positive = 3.0
    group_points: Count = 60_000
    wall: WallSettings = WallSettings()
    kerb: KerbSettings = KerbSettings()

    @pydantic.model_validator(mode="after")
    def _whole(self) -> QuerySettings:
        if self.size_m / self.resolution % 16:
            raise ValueError("size_m has to be a multiple of 16 times resolution")
        return self


@dataclass(frozen=True)
class Survey:
    """A submap's points in the tile's frame, with what is known of each.

    Attributes:
        xy: (N, 2) float32.
        height: (N,) float32 metres above the ground.
        sensor: (N,) float32, the same of the sensor that saw the point.
        origin: (S, 3) float32, sensor of each scan.
        rays: From the sensors to the points.
        bins: The same, binned by scan and direction.
        group: (N,) the group of scans that are looked at together.
        kind: (N,) uint8 of ``labels``, or None.
    """

    xy: F32
    height: F32
    sensor: F32
    origin: F32
    rays: Rays
    bins: RayBins
    group: NDArray[np.int64]
    kind: NDArray[np.uint8] | None

    def upright(self, which: NDArray[np.bool_]) -> Upright:
        """Some of the points, as those among which walls are looked for."""
        ray = np.flatnonzero(which)
        view = self.sensor[ray] + self.rays.flat[ray] * highest_view(self.rays, ray)
        azimuth = np.radians(self.rays.azimuth[ray])
        return Upright(self.xy[ray], self.height[ray], view, ray, azimuth, self.rays.distance[ray])


def survey(submap: Submap, rotation: float, settings: QuerySettings) -> Survey:
    """Turn the cloud by ``rotation`` radians, find the ground, and follow the rays."""
    points, origin = np.copy(submap.points), np.copy(submap.origin)
    points[:, :2] = rotate(submap.points[:, :2], rotation)
    origin[:, :2] = rotate(submap.origin[:, :2], rotation)
    centre = np.median(origin[:, :2], axis=0)
    height = height_above_ground(points, centre, settings.ground_cell_m)
    rays = make_rays(points, submap.scan, origin)
    count = np.bincount(rays.scan, minlength=rays.scans)
    group = ((np.cumsum(count) - count) // settings.group_points)[rays.scan]
    sensor = np.take(origin[:, 2], rays.scan) - points[:, 2] + height
    return Survey(points[:, :2], height, sensor, origin, rays, bin_rays(rays), group, submap.kind)


def make_tile(submap: Submap, rotation: float, settings: QuerySettings) -> QueryTile:
    """Turn the cloud by ``rotation`` radians and look at it from above.

    Args:
        submap: Cloud in the vehicle frame.
        rotation: The heading where that is known, so that the tile is north-up.
        settings: How.

    Returns:
        The tile. Its wall evidence is the mean over the groups of scans that saw a cell: what one
        shows and another looks through has moved, or is no wall. Where points are labelled, the
        labels say what is a wall, what is ground, and what of it is road; where not, kerbs do.
    """
    size, resolution = round(settings.size_m / settings.resolution), settings.resolution
    if len(submap.points) == 0:
        warnings.warn("a cloud without points makes an empty tile", RuntimeWarning, stacklevel=2)
        nothing = np.zeros((size, size), np.float32)
        return QueryTile(nothing, nothing, nothing, resolution, rotation, road=nothing)
    seen = survey(submap, rotation, settings)
    if seen.kind is None:
        tall, low = settings.wall.may_be_wall(seen.height), np.abs(seen.height) < 0.3
    else:
        tall, low = seen.kind == BUILDING, np.isin(seen.kind, (GROUND, ROAD))
    # A ray that ends on something upright was upright's height above the ground all the way.
    level = farthest(seen.rays, seen.rays.flat * (tall & (seen.height < settings.low_m)))
    # One that ends high up tells about buildings until it rises above the lowest of them.
    limit = np.maximum(settings.low_m, seen.sensor + 0.5)
    low_until = (limit - seen.sensor) / np.maximum(seen.height - seen.sensor, 1e-3)
    reach = farthest(seen.rays, seen.rays.flat * np.clip(low_until, 0, 1))
    wall, looks, free = np.zeros((3, size, size), np.float32)
    kerbs = np.zeros((2, size, size), np.int64)
    upright = seen.upright(tall)
    borders = np.flatnonzero(np.diff(seen.group, prepend=-1, append=-1))
    for start, stop in itertools.pairwise(borders):
        mine = upright.take(slice(*np.searchsorted(upright.ray, (start, stop))))
        hit = shown = _touched(mine.xy, size, resolution)
        if seen.kind is None:
            shown = wall_evidence(mine, seen.bins, size, resolution, settings.wall)
        scans = slice(seen.rays.scan[start], seen.rays.scan[stop - 1] + 1)
        if seen.kind is None:
            some = slice(start, stop)
            cloud = seen.xy[some], submap.points[some, 2], seen.height[some]
            kerbs += kerb_votes(*cloud, seen.origin[scans], size, resolution, settings.kerb)
        passed = free_space(level[scans], seen.origin[scans], size, resolution)
        wall += shown
        looks += np.maximum(passed, np.maximum(hit, shown > 0))
        free = np.maximum(free, free_space(reach[scans], seen.origin[scans], size, resolution))
    wall /= np.maximum(looks, 1)
    ground = _touched(np.compress(low, seen.xy, axis=0), size, resolution)
    observed = np.maximum(np.maximum(free, ground), wall > 0).astype(np.float32)
    if seen.kind is None:
        road = road_evidence(kerbs, settings.kerb)
    else:
        road = _labelled_road(seen.xy, seen.kind, size, resolution)
    return QueryTile(wall, ground, observed, resolution, rotation, _path(seen.origin), road)


def _labelled_road(xy: F32, kind: NDArray[np.uint8], size: int, resolution: float) -> F32:
    """(size, size) 1 where a road was seen, -1 where other ground was; 0 if no road was."""
    road, beside = (
        _touched(np.compress(kind == one, xy, axis=0), size, resolution) for one in (ROAD, GROUND)
    )
    return np.where(road > 0, road, -beside) if road.any() else road


def _path(origin: F32) -> F32:
    """(P, 2) where (S, 3) sensors were on average, in at most ``PATH_POINTS`` parts of the way."""
    parts = np.array_split(origin[:, :2], min(PATH_POINTS, len(origin)))
    return np.array([part.mean(axis=0) for part in parts], np.float32)


def _touched(xy: F32, size: int, resolution: float) -> F32:
    """(size, size) 1 where there is a point."""
    touched = np.zeros(size * size, np.float32)
    touched[pixels(xy, size, resolution)[0]] = 1.0
    return touched.reshape(size, size)
