"""A submap seen from above: the query tile."""

from __future__ import annotations

import numpy as np
import open3d as o3d
import pydantic
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.geometry import rotate
from data_prep.settings import Positive, Settings
from maptile_loc.result import QueryTile
from maptile_loc.submap import Submap

F32 = NDArray[np.float32]
NEIGHBOURHOOD_M = 1.5  # wide enough for the points of a wall, narrow beside its length


class QuerySettings(Settings):
    """How a cloud becomes a tile.

    Attributes:
        size_m: Side of the tile.
        resolution: Metres per pixel of the tile.
        voxel_m: Side of the voxels that even out the density of points.
        ground_cell_m: Side of the cells in which the ground's height is estimated.
        min_height_m, max_height_m: Walls are looked for this high above the ground.
        thickness_m: Spread across a wall (standard deviation) at which its evidence has fallen to
            1/e; vegetation spreads more.
        min_extent_m: Height that a wall must span for full evidence.
    """

    size_m: Positive = 128.0
    resolution: Positive = 0.5
    voxel_m: Positive = 0.2
    ground_cell_m: Positive = 2.0
    min_height_m: float = 1.0
    max_height_m: float = 20.0
    thickness_m: Positive = 0.2
    min_extent_m: Positive = 2.0

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
    """
    size = round(settings.size_m / settings.resolution)
    points = submap.points.copy()
    points[:, :2] = rotate(submap.points[:, :2], rotation)
    origin = rotate(submap.origin[:, :2], rotation)
    if len(points) == 0:
        nothing = np.zeros((size, size), np.float32)
        return QueryTile(nothing, nothing, nothing, settings.resolution, rotation)
    height = height_above_ground(points, settings.ground_cell_m)
    tall = (height > settings.min_height_m) & (height < settings.max_height_m)
    wall = wall_evidence(np.column_stack([points[:, :2], height])[tall], size, settings)
    low = np.abs(height) < 0.3
    ground = np.minimum(_counts(points[low, :2], size, settings.resolution), 1.0)
    crossed = free_space(points[height < 3.0], submap.scan[height < 3.0], origin, size, settings)
    observed = np.maximum(np.maximum(crossed, ground), wall > 0).astype(np.float32)
    return QueryTile(wall, ground, observed, settings.resolution, rotation)


def height_above_ground(points: F32, cell_m: float) -> F32:
    """(N,) height of (N, 3) points above the ground under them, metres.

    The ground is the low end (tenth percentile) of each cell, then a morphological opening: a cell
    that shows nothing but a wall takes the height of the street beside it, and slopes stay as
    they are.
    """
    low = points[:, :2].min(axis=0)
    cell = ((points[:, :2] - low) / cell_m).astype(np.int64)
    rows, columns = cell.max(axis=0) + 1
    index = cell[:, 0] * columns + cell[:, 1]
    bottom = points[:, 2].min()
    # Cell and height (millimetres, up to a kilometre) in one integer: sorted at memory speed.
    millimetres = np.clip((points[:, 2] - bottom) * 1000, 0, 2**20 - 1).astype(np.int64)
    key = np.sort((index << 20) | millimetres)
    count = np.bincount(index, minlength=rows * columns)
    first = np.cumsum(count) - count
    filled = count > 0
    ground = np.full(rows * columns, np.inf, np.float32)
    tenth = key[first[filled] + count[filled] // 10] & (2**20 - 1)
    ground[filled] = bottom + tenth / 1000
    lowest = ndimage.minimum_filter(ground.reshape(rows, columns), size=5, mode="nearest")
    lowest[np.isinf(lowest)] = -np.inf
    opened = ndimage.maximum_filter(lowest, size=5, mode="nearest")
    return (points[:, 2] - opened.ravel()[index]).astype(np.float32)


def wall_evidence(points: F32, size: int, settings: QuerySettings) -> F32:
    """(size, size) evidence 0..1 of vertical planes among (N, 3) x, y, height-above-ground points.

    A cell's points and its neighbours' make a 2D covariance: a wall is long one way and thin the
    other, vegetation is thick both ways, a pole thin both ways. Height spanned scales the evidence.
    """
    if len(points) == 0:
        return np.zeros((size, size), np.float32)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points.astype(np.float64)))
    even = np.asarray(cloud.voxel_down_sample(settings.voxel_m).points)
    pixel, inside = _pixels(even[:, :2], size, settings.resolution)
    x, y, z = even[inside].T
    shape = (size, size)
    window = 2 * max(1, int(NEIGHBOURHOOD_M / 2 / settings.resolution)) + 1

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        summed = np.bincount(pixel, values, size * size).reshape(shape)
        return ndimage.uniform_filter(summed, window, mode="constant") * window**2

    n = np.maximum(total(np.ones_like(x)), 1e-9)
    mean_x, mean_y = total(x) / n, total(y) / n
    var_x, var_y = total(x * x) / n - mean_x**2, total(y * y) / n - mean_y**2
    covariance = total(x * y) / n - mean_x * mean_y
    half, root = (var_x + var_y) / 2, np.hypot((var_x - var_y) / 2, covariance)
    across, along = np.maximum(half - root, 0), half + root
    thin = np.exp(-across / settings.thickness_m**2)
    long = np.clip(along / 0.1 - 1, 0, 1)
    top = np.full(size * size, -np.inf)
    bottom = np.full(size * size, np.inf)
    np.maximum.at(top, pixel, z)
    np.minimum.at(bottom, pixel, z)
    extent = ndimage.maximum_filter(top.reshape(shape), window) - ndimage.minimum_filter(
        bottom.reshape(shape), window
    )
    tall = np.clip(extent / settings.min_extent_m, 0, 1)
    here = np.bincount(pixel, minlength=size * size).reshape(shape) >= 2
    return np.where(here & (n >= 6), thin * long * tall, 0).astype(np.float32)


def free_space(
    points: F32, scan: NDArray[np.int32], origin: F32, size: int, settings: QuerySettings
) -> F32:
    """(size, size) 1 where a ray passed: from each scan's sensor to the farthest hit per degree.

    Args:
        points: (N, 3) hits that are low enough for the ray to tell about buildings.
        scan: (N,) scan of each hit.
        origin: (S, 2) sensor of each scan, in the tile's frame.
        size: Pixels along a side.
        settings: Resolution of the tile.
    """
    away = points[:, :2] - origin[scan]
    distance = np.hypot(away[:, 0], away[:, 1])
    sector = (np.degrees(np.arctan2(away[:, 1], away[:, 0])) + 180).astype(np.int64) % 360
    farthest = np.zeros(len(origin) * 360, np.float32)
    np.maximum.at(farthest, scan.astype(np.int64) * 360 + sector, distance)
    ray = np.flatnonzero(farthest > 0)
    angle = np.radians(ray % 360 - 179.5)
    # Two samples a pixel; the last metre before the hit is left to the hit itself.
    step = settings.resolution / 2
    counts = np.maximum((farthest[ray] - 1.0) / step, 0).astype(np.int64)
    along = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * step
    start = np.repeat(origin[ray // 360], counts, axis=0)
    direction = np.repeat(np.column_stack([np.cos(angle), np.sin(angle)]), counts, axis=0)
    crossed = start + along[:, None] * direction
    return np.minimum(_counts(crossed, size, settings.resolution), 1.0)


def _pixels(
    xy: NDArray[np.floating], size: int, resolution: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Flat pixel index of the points inside the tile, and which of all points those are."""
    column = np.floor(xy[:, 0] / resolution + size / 2).astype(np.int64)
    row = np.floor(size / 2 - xy[:, 1] / resolution).astype(np.int64)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    return (row * size + column)[inside], inside


def _counts(xy: NDArray[np.floating], size: int, resolution: float) -> F32:
    pixel, _ = _pixels(xy, size, resolution)
    return np.bincount(pixel, minlength=size * size).reshape(size, size).astype(np.float32)
