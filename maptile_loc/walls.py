"""Walls of buildings among points: thin, long, tall, solid, and standing on the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import open3d as o3d
import pydantic
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.settings import Positive, Settings
from maptile_loc.rays import pixels

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
NEIGHBOURHOOD_M = 1.5
"""Wide enough for the points of a wall, narrow beside its length."""
SUPPORT_M = 4.5
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
    seen_through: Positive = 0.08
    house_m: float = pydantic.Field(default=2.8, ge=CAR_M)
    foot_m: Positive = 2.0
    support_m2: Positive = 1.5


@dataclass(frozen=True)
class Upright:
    """Points that may be walls.

    Attributes:
        xy: (N, 2) float32 in the tile's frame.
        height: (N,) float32 above the ground.
        through: (N,) float32, share of the rays beside that went on behind.
        view: (N,) float32, height above the ground up to which its sensor could see there.
    """

    xy: F32
    height: F32
    through: F32
    view: F32

    def take(self, which: NDArray[np.bool_]) -> Upright:
        """Some of the points."""
        return Upright(self.xy[which], self.height[which], self.through[which], self.view[which])


def wall_evidence(points: Upright, size: int, resolution: float, settings: WallSettings) -> F32:
    """(size, size) evidence 0..1 of building walls.

    A cell's points and its neighbours' make a 2D covariance: a wall is long one way and thin the
    other, vegetation is thick both ways, a pole thin both ways. The rays do not pass it, it is as
    high as a house or as the sensor can see, and it is seen down to its foot.
    """
    if len(points.xy) == 0:
        return np.zeros((size, size), np.float32)
    even = _even_out(points, size * resolution / 2, settings.voxel_m)
    pixel, inside = pixels(even.xy, size, resolution)
    x, y = even.xy[inside].T.astype(np.float64)
    height, through, view = even.height[inside], even.through[inside], even.view[inside]
    window = odd_cells(NEIGHBOURHOOD_M, resolution)

    def total(values: NDArray[np.floating] | None) -> F64:
        return box_sum(np.bincount(pixel, values, size * size).reshape(size, size), window)

    n = np.maximum(total(None), 1e-9)
    mean_x, mean_y = total(x) / n, total(y) / n
    var_x, var_y = total(x * x) / n - mean_x**2, total(y * y) / n - mean_y**2
    covariance = total(x * y) / n - mean_x * mean_y
    half, root = (var_x + var_y) / 2, np.hypot((var_x - var_y) / 2, covariance)
    thin = np.exp(-np.maximum(half - root, 0) / settings.thickness_m**2)
    long = np.clip((half + root) / 0.1 - 1, 0, 1)
    solid = np.exp(-((total(through) / n / settings.seen_through) ** 2))
    top = _extreme(np.maximum, height, pixel, size, window)
    foot = _extreme(np.minimum, height, pixel, size, window)
    seen_up_to = _extreme(np.minimum, view, pixel, size, window)
    needed = np.clip(seen_up_to - TOP_M, CAR_M, settings.house_m)
    tall = np.clip((top / needed - 0.8) / 0.2, 0, 1)
    grounded = np.clip((settings.foot_m + 0.5 - foot) / 0.5, 0, 1)
    here = np.bincount(pixel, minlength=size * size).reshape(size, size) >= 2
    evidence = np.where(here & (n >= 6), thin * long * solid * tall * grounded, 0)
    # No cell of a real wall is perfect in every respect: half of the product is all there is.
    evidence = np.minimum(2 * evidence, 1)
    support = box_sum(evidence, odd_cells(SUPPORT_M, resolution)) * resolution**2
    return (evidence * np.minimum(support / settings.support_m2, 1)).astype(np.float32)


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


def _even_out(points: Upright, reach_m: float, voxel_m: float) -> Upright:
    """One point per voxel, of a lattice that does not move with the points."""
    near = (np.abs(points.xy) < reach_m).all(axis=1)
    xyz = np.column_stack([points.xy, points.height])[near].astype(np.float64)
    more = np.column_stack([points.through, points.view, points.view])[near].astype(np.float64)
    corner = np.full((1, 3), -np.ceil(reach_m))  # Open3D's lattice begins at the least coordinates
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.vstack([corner, xyz])))
    cloud.colors = o3d.utility.Vector3dVector(np.vstack([np.zeros((1, 3)), more]))
    cloud = cloud.voxel_down_sample(voxel_m)
    values = np.hstack([np.asarray(cloud.points), np.asarray(cloud.colors)]).astype(np.float32)
    values = values[values[:, 0] > -reach_m]
    return Upright(values[:, :2], values[:, 2], values[:, 3], values[:, 4])
