"""The query tile: a submap, projected to the ground plane."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.geometry import Array, rotate
from data_prep.settings import Count, Positive, Settings
from maptile_loc.perceive.ground import height_above_ground
from maptile_loc.perceive.kerbs import KerbSettings, kerb_votes, road_evidence
from maptile_loc.perceive.labels import BUILDING, GROUND, ROAD
from maptile_loc.perceive.rays import (
    Rays,
    Visibility,
    bin_rays,
    farthest,
    free_space,
    highest_view,
    make_rays,
    pixels,
    selected,
)
from maptile_loc.perceive.submap import Submap
from maptile_loc.perceive.walls import Upright, WallSettings, wall_evidence
from maptile_loc.types import QueryTile

F32 = NDArray[np.float32]
PATH_POINTS = 11
"""Points of the trajectory that a tile keeps, at most."""

GROUND_BAND_M = 0.3
"""Points within this height of the ground are ground."""

ABOVE_SENSOR_M = 0.5
"""A ray indicates free space up to this height above its sensor, or up to ``low_m``."""


class QuerySettings(Settings):
    """How a cloud becomes a tile.

    Attributes:
        size_m: Side of the tile, metres.
        resolution: Metres per pixel of the tile.
        ground_cell_m: Side of the cells in which the ground's height is estimated, metres.
        low_m: Height above the ground below which a ray that passes shows that there is no
            building, metres.
        group_points: Consecutive scans form a group until it has this number of points; walls are
            detected per group and averaged. A group is one scan of a spinning LiDAR, or some metres
            of a push-broom one.
        wall: How walls are detected.
        kerb: How kerbs are detected.
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

    @property
    def size(self) -> int:
        """Pixels along a side of the tile."""
        return round(self.size_m / self.resolution)


@dataclass(frozen=True)
class Survey:
    """The points of a submap in the tile's frame, with their heights and rays.

    Attributes:
        xy: (N, 2) float32, metres.
        height: (N,) float32, metres above the ground.
        sensor: (N,) float32, height of the point's sensor above the ground at the point, metres.
        origin: (S, 3) float32, position of each scan's sensor, metres.
        rays: Rays from the sensors to the points.
        bins: The rays, binned.
        group: (N,) index of the point's group of scans.
        kind: (N,) uint8, class of each point (``labels``), or None.
    """

    xy: F32
    height: F32
    sensor: F32
    origin: F32
    rays: Rays
    bins: Visibility
    group: NDArray[np.int64]
    kind: NDArray[np.uint8] | None

    def upright(self, which: NDArray[np.bool_]) -> Upright:
        """The points selected by (N,) ``which``, as candidates of walls."""
        ray = np.flatnonzero(which)
        view = self.sensor[ray] + self.rays.flat[ray] * highest_view(self.rays, ray)
        azimuth = np.radians(self.rays.azimuth[ray])
        distance, flat = self.rays.distance[ray], self.rays.flat[ray]
        xy = np.take(self.xy.T, ray, axis=1).T
        return Upright(xy, self.height[ray], view, ray, azimuth, distance, flat)


def survey(submap: Submap, rotation: float, settings: QuerySettings) -> Survey:
    """A submap, turned by ``rotation`` radians, with heights above ground and rays."""
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


def groups(seen: Survey) -> list[tuple[int, int]]:
    """First point, and the point after the last one, of each group of scans."""
    borders = np.flatnonzero(np.diff(seen.group, prepend=-1, append=-1))
    return list(itertools.pairwise(borders.tolist()))


def upright_groups(seen: Survey, which: NDArray[np.bool_]) -> Iterator[Upright]:
    """The points selected by (N,) ``which``, as candidates of walls, one group after the other."""
    upright = seen.upright(which)
    for group in groups(seen):
        yield upright.take(slice(*np.searchsorted(upright.ray, group)))


@dataclass(frozen=True)
class View:
    """What one group of scans shows in the cells of a tile around a pose of the vehicle.

    Attributes:
        wall: (S, S) float32, evidence of walls.
        hit: (S, S) bool, where upright objects were hit.
        seen: (3, S, S) bool, where a ray passed so low that there is no building, where a ray
            passed, and where ground was hit.
        votes: (2, S, S) uint16, votes that a cell is road, and that it is beside one; with labels,
            whether it is.
        xy: (N, 2) float32, points on upright objects, metres.
        evidence: (N,) float32, evidence of walls in the cells of these points.
        origin: (K, 3) float32, position of each scan's sensor, metres.
        labelled: Whether the points have labels.
    """

    wall: F32
    hit: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    votes: NDArray[np.uint16]
    xy: F32
    evidence: F32
    origin: F32
    labelled: bool

    def moved(self, pose: Array, resolution: float) -> View:
        """The same in the cells of another tile.

        A cell has the mean evidence of the points that lie in it there; of ``seen`` and ``votes``,
        it takes the values at its centre.

        Args:
            pose: (3,) of this tile in the other one: x, y (metres), turn (radians).
            resolution: Metres per pixel of both.
        """
        size = len(self.wall)
        half = np.float32(size / 2)
        centre = (np.arange(size, dtype=np.float32) + np.float32(0.5) - half) * np.float32(
            resolution
        )
        x, y = centre - np.float32(pose[0]), -centre[:, None] - np.float32(pose[1])
        cos, sin = (np.float32(f(pose[2]) / resolution) for f in (np.cos, np.sin))
        column = np.floor((half + cos * x) + sin * y).astype(np.int32)
        row = np.floor((half + sin * x) - cos * y).astype(np.int32)
        inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        source = np.where(inside, row * size + column, 0)
        seen, votes = (
            np.stack([image.ravel()[source] * inside for image in images])
            for images in (self.seen, self.votes)
        )
        xy = rotate(self.xy, pose[2]) + pose[:2].astype(np.float32)
        pixel, within = pixels(xy, size, resolution)
        count = np.bincount(pixel, minlength=size * size).reshape(size, size)
        total = np.bincount(pixel, self.evidence[within], size * size).reshape(size, size)
        wall = (total / np.maximum(count, 1)).astype(np.float32)
        origin = self.origin.copy()
        origin[:, :2] = rotate(self.origin[:, :2], pose[2]) + pose[:2].astype(np.float32)
        return replace(self, wall=wall, hit=count > 0, seen=seen, votes=votes, xy=xy, origin=origin)


def make_views(submap: Submap, rotation: float, settings: QuerySettings) -> Iterator[View]:
    """What each group of a submap's scans shows, one after the other.

    Labelled points give walls, ground and roads by their labels; without labels, roads are found by
    their kerbs.

    Args:
        submap: Cloud in the vehicle frame, at least one point.
        rotation: Radians by which the cloud is turned counter-clockwise.
        settings: Size and resolution, and how walls and kerbs are detected.
    """
    size, resolution = settings.size, settings.resolution
    seen = survey(submap, rotation, settings)
    labelled = seen.kind is not None
    if seen.kind is None:
        tall, low = settings.wall.may_be_wall(seen.height), np.abs(seen.height) < GROUND_BAND_M
    else:
        tall, low = seen.kind == BUILDING, np.isin(seen.kind, (GROUND, ROAD))
    # Points on upright objects use the object's height as the ray's height.
    level = farthest(seen.rays, seen.rays.flat * (tall & (seen.height < settings.low_m)))
    # A ray that ends higher shows free space until it rises above the lowest building.
    limit = np.maximum(settings.low_m, seen.sensor + ABOVE_SENSOR_M)
    low_until = (limit - seen.sensor) / np.maximum(seen.height - seen.sensor, 1e-3)
    reach = farthest(seen.rays, seen.rays.flat * np.clip(low_until, 0, 1))
    for mine, (start, stop) in zip(upright_groups(seen, tall), groups(seen), strict=True):
        some, scans = slice(start, stop), slice(seen.rays.scan[start], seen.rays.scan[stop - 1] + 1)
        origin, xy = seen.origin[scans], seen.xy[some]
        wall = hit = _touched(mine.xy, size, resolution)
        if seen.kind is None:
            wall = wall_evidence(mine, seen.bins, size, resolution, settings.wall)
            cloud = xy, submap.points[some, 2], seen.height[some]
            surface = kerb_votes(*cloud, origin, size, resolution, settings.kerb)
        else:
            which = (selected(xy, seen.kind[some] == one) for one in (ROAD, GROUND))
            surface = np.stack([_touched(one, size, resolution) for one in which])
        passed, free = (free_space(far[scans], origin, size, resolution) for far in (level, reach))
        ground = _touched(selected(xy, low[some]), size, resolution)
        pixel, within = pixels(mine.xy, size, resolution)
        yield View(
            wall,
            hit > 0,
            np.stack([passed, free, ground]) > 0,
            surface.astype(np.uint16),
            mine.xy[within],
            wall.ravel()[pixel],
            origin,
            labelled,
        )


def make_tile(submap: Submap, rotation: float, settings: QuerySettings) -> QueryTile:
    """The query tile of a submap.

    Args:
        submap: Cloud in the vehicle frame.
        rotation: Radians by which the cloud is turned counter-clockwise: the heading where it is
            known, so that the tile is north-up.
        settings: Size and resolution, and how walls and kerbs are detected.
    """
    if len(submap.points) == 0:
        warnings.warn("a cloud without points makes an empty tile", RuntimeWarning, stacklevel=2)
        return put_together([], rotation, settings)
    return put_together(make_views(submap, rotation, settings), rotation, settings)


def put_together(views: Iterable[View], rotation: float, settings: QuerySettings) -> QueryTile:
    """The query tile of views in the same cells, in the order of time.

    The wall evidence of a cell is the mean over the groups of scans that observed it: an object
    that one group shows and another looks through has moved, or is no wall.

    Args:
        views: The views; labels count only if all have them.
        rotation: The tile's ``rotation``, radians.
        settings: Size and resolution, and how kerbs are detected.
    """
    wall, looks = np.zeros((2, settings.size, settings.size), np.float32)
    free, ground = np.zeros((2, *wall.shape), bool)
    votes = np.zeros((2, *wall.shape), np.int64)
    origin, labelled = [np.zeros((0, 3), np.float32)], True
    for view in views:
        wall += view.wall
        looks += view.seen[0] | view.hit | (view.wall > 0)
        free |= view.seen[1]
        ground |= view.seen[2]
        votes += view.votes
        origin.append(view.origin)
        labelled &= view.labelled
    wall /= np.maximum(looks, 1)
    if labelled:
        road, beside = votes > 0
        surface = np.where(road, 1, -1 * beside) * road.any()
    else:
        surface = road_evidence(votes, settings.kerb)
    return QueryTile(
        wall,
        ground.astype(np.float32),
        (free | ground | (wall > 0)).astype(np.float32),
        settings.resolution,
        rotation,
        _path(np.concatenate(origin)),
        surface.astype(np.float32),
    )


def _path(origin: F32) -> F32:
    """(P, 2) mean sensor positions of at most ``PATH_POINTS`` parts of the trajectory, metres."""
    if len(origin) == 0:
        return np.zeros((0, 2), np.float32)
    parts = np.array_split(origin[:, :2], min(PATH_POINTS, len(origin)))
    return np.array([part.mean(axis=0) for part in parts], np.float32)


def _touched(xy: F32, size: int, resolution: float) -> F32:
    """(size, size) float32, 1 in cells with a point, else 0."""
    touched = np.zeros(size * size, np.float32)
    touched[pixels(xy, size, resolution)[0]] = 1.0
    return touched.reshape(size, size)
