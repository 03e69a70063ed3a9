"""Walls of buildings among points: thin, long, tall, solid, and standing on the ground."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import open3d as o3d
import pydantic
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.settings import Positive, Settings
from maptile_loc.rays import BIN_DEG, Sheaves, pixels, seen_through

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
NEIGHBOURHOOD_M = 1.5
"""Wide enough for the points of a wall, narrow beside its length."""
SUPPORT_M = 4.5
BEHIND_M = 1.5
FARTHEST_BEHIND_M = 6.0
"""What stands this far behind a wall tells that it is none, however grazing the view."""
CAR_M = 1.7
"""What is no higher is no wall, however little of it could be seen."""
TOP_M = 0.35
"""A sensor's uppermost rays are so far apart that this much of what it could see may go unseen."""


class WallSettings(Settings):
    """What counts as the wall of a building.

    Attributes:
        min_height_m, max_height_m: Walls are looked for this high above the ground.
        voxel_m: Side of the voxels that even out the density of points.
        thickness_m: Spread across a wall (standard deviation) at which its evidence has fallen to
            1/e; vegetation spreads more.
        seen_through: Share of the rays passing at which evidence has fallen to 1/e.
        house_m: A building is at least so high, where the sensor can see that high.
        foot_m: A wall shows from this height above the ground, or lower.
        support_m2: Evidence within ``SUPPORT_M`` a cell needs to count in full: walls go on.
    """

    min_height_m: float = 1.0
    max_height_m: float = 20.0
    voxel_m: Positive = 0.2
    thickness_m: Positive = 0.2
    seen_through: Positive = 0.06
    house_m: float = pydantic.Field(default=3.0, ge=CAR_M)
    foot_m: Positive = 2.0
    support_m2: Positive = 1.5


@dataclass(frozen=True)
class Upright:
    """Points that may be walls.

    Attributes:
        xy: (N, 2) float32 in the tile's frame.
        height: (N,) float32 above the ground.
        view: (N,) float32, height above the ground up to which its sensor could see there.
        ray: (N,) int64, the ray that each is the end of.
        azimuth: (N,) float32 radians, and
        distance: (N,) float32 metres, of that ray.
    """

    xy: F32
    height: F32
    view: F32
    ray: NDArray[np.int64]
    azimuth: F32
    distance: F32

    def take(self, which: NDArray[np.bool_]) -> Upright:
        """Some of the points."""
        return Upright(*(getattr(self, field.name)[which] for field in fields(self)))


def wall_evidence(
    points: Upright, sheaves: Sheaves, size: int, resolution: float, settings: WallSettings
) -> F32:
    """(size, size) evidence 0..1 of building walls.

    A cell's points and its neighbours' make a 2D covariance: a wall is long one way and thin the
    other, vegetation is thick both ways, a pole thin both ways. The rays do not pass it, it is as
    high as a house or as the sensor can see, and it is seen down to its foot.

    Args:
        points: Where walls are looked for.
        sheaves: Of all rays.
        size: Pixels along a side.
        resolution: Metres per pixel.
        settings: What counts.
    """
    pixel, inside = pixels(points.xy, size, resolution)
    if not inside.any():
        return np.zeros((size, size), np.float32)
    points = points.take(inside)
    window = odd_cells(NEIGHBOURHOOD_M, resolution)
    spread = _spread(points, size, resolution, settings.voxel_m, window)
    thin = np.exp(-spread.across / settings.thickness_m**2)
    long = np.clip(spread.along / 0.1 - 1, 0, 1)
    through = seen_through(sheaves, points.ray, _behind(points, spread.direction.ravel()[pixel]))
    count = box_sum(np.bincount(pixel, minlength=size * size).reshape(size, size), window)
    passed = box_sum(np.bincount(pixel, through, size * size).reshape(size, size), window)
    solid = np.exp(-((passed / np.maximum(count, 1) / settings.seen_through) ** 2))
    top = _extreme(np.maximum, points.height, pixel, size, window)
    foot = _extreme(np.minimum, points.height, pixel, size, window)
    seen_up_to = _extreme(np.minimum, points.view, pixel, size, window)
    needed = np.clip(seen_up_to - TOP_M, CAR_M, settings.house_m)
    tall = np.clip((top / needed - 0.8) / 0.2, 0, 1)
    grounded = np.clip((settings.foot_m + 0.5 - foot) / 0.5, 0, 1)
    enough = (spread.here >= 2) & (spread.around >= 6)
    # No cell of a real wall is perfect in every respect: half of the product is all there is.
    evidence = np.where(enough, np.minimum(2 * thin * long * solid * tall * grounded, 1), 0)
    support = box_sum(evidence, odd_cells(SUPPORT_M, resolution)) * resolution**2
    return (evidence * np.minimum(support / settings.support_m2, 1)).astype(np.float32)


class Spread(NamedTuple):
    """How the points around each cell lie; all (size, size) float64.

    Attributes:
        across, along: Variance in square metres, the least and the greatest of all directions.
        direction: Radians, of the greatest.
        here, around: Points, evened out, in the cell and in its neighbourhood.
    """

    across: F64
    along: F64
    direction: F64
    here: F64
    around: F64


def _spread(points: Upright, size: int, resolution: float, voxel_m: float, window: int) -> Spread:
    # A first point in the corner: Open3D's voxels begin at the least coordinates.
    corner = np.full((1, 3), -size * resolution / 2 - voxel_m)
    xyz = np.vstack([corner, np.column_stack([points.xy, points.height])]).astype(np.float64)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz)).voxel_down_sample(voxel_m)
    even = np.asarray(cloud.points)
    pixel, inside = pixels(even[:, :2], size, resolution)
    x, y = even[inside, :2].T
    here = np.bincount(pixel, minlength=size * size).reshape(size, size).astype(np.float64)

    def total(values: F64) -> F64:
        return box_sum(np.bincount(pixel, values, size * size).reshape(size, size), window)

    around = box_sum(here, window)
    n = np.maximum(around, 1e-9)
    mean_x, mean_y = total(x) / n, total(y) / n
    var_x, var_y = total(x * x) / n - mean_x**2, total(y * y) / n - mean_y**2
    covariance = total(x * y) / n - mean_x * mean_y
    half, root = (var_x + var_y) / 2, np.hypot((var_x - var_y) / 2, covariance)
    direction = np.arctan2(2 * covariance, var_x - var_y) / 2
    return Spread(np.maximum(half - root, 0), half + root, direction, here, around)


def _behind(points: Upright, direction: F64) -> F32:
    """(N,) metres from the sensor: a ray that ends there or farther has passed what it hit.

    Args:
        points: What was hit.
        direction: (N,) radians, of the line that the points around lie on. Seen at a grazing angle
            it goes on behind itself, by as much as a sheaf is wide.
    """
    grazing = np.abs(np.tan(direction - points.azimuth))
    width = np.radians(BIN_DEG[0]) * points.distance
    further = np.minimum(width / np.maximum(grazing, 1e-3), FARTHEST_BEHIND_M)
    return (points.distance + BEHIND_M + further).astype(np.float32)


def odd_cells(metres: float, resolution: float) -> int:
    """The odd number of cells next to ``metres``."""
    return 2 * int(metres / resolution / 2) + 1


def box_sum(cells: NDArray[np.generic], window: int) -> F64:
    """Sum over the square of ``window`` cells around each cell."""
    return ndimage.uniform_filter(cells.astype(np.float64), window, mode="constant") * window**2


def _extreme(which: np.ufunc, values: F32, pixel: NDArray[np.int64], size: int, window: int) -> F32:
    """The (size, size) greatest or least value in each cell's neighbourhood."""
    worst = -np.inf if which is np.maximum else np.inf
    cells = np.full(size * size, worst, np.float32)
    which.at(cells, pixel, values)
    filtered = ndimage.maximum_filter if which is np.maximum else ndimage.minimum_filter
    return filtered(cells.reshape(size, size), window, mode="nearest")
