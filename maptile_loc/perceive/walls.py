"""Walls of buildings among points: thin, long, tall, solid, and standing on the ground."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import open3d as o3d
import pydantic
from numpy.typing import NDArray
from scipy import ndimage, special

from data_prep.settings import Positive, Settings
from maptile_loc.perceive.rays import BIN_DEG, Sheaves, pixels, seen_through

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Shape = tuple[int, int]
FEATURES = (
    "across",
    "along",
    "through",
    "through_twice",
    "reach",
    "reach_high",
    "foot",
    "around",
    "flat",
    "range",
    "top",
)
FITTED = (-1.411, 0.642, -4.651, 0.811, 1.276, 2.448, -0.962, 1.575, 0.922, 1.270, 0.587)
FITTED_CONSTANT = -20.597
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
MANY = 60
"""More points, evened out, around a cell tell no more."""
TYPICAL = 38.0
"""The upper quarter of the cells of a LiDAR's scan has mostly more around it. In a sparser cloud (a
structure from motion, say) each point counts for as many as the quarter's least cell lacks."""
MOST_LACKING = 15.0
FLAT_M = 0.75
ROUGH_M = 0.06
"""Standard deviation across a surface at which it counts as flat by 1/e; leaves are rougher."""


class WallSettings(Settings):
    """What counts as the wall of a building.

    Attributes:
        min_height_m, max_height_m: Walls are looked for this high above the ground.
        voxel_m: Side of the voxels that even out the density of points.
        house_m: A building is at least so high, where the sensor can see that high.
        support_m2: Evidence within ``SUPPORT_M`` a cell needs to count in full: walls go on.
        weights: One per feature, and
        constant: of the logistic regression that tells walls from the rest, fitted to labelled
            simulated scans by ``benchmarks/fit_walls.py``.
    """

    min_height_m: float = 1.0
    max_height_m: float = 20.0
    voxel_m: Positive = 0.2
    house_m: float = pydantic.Field(default=3.0, ge=CAR_M)
    support_m2: Positive = 1.5
    weights: tuple[float, ...] = pydantic.Field(
        default=FITTED, min_length=len(FEATURES), max_length=len(FEATURES)
    )
    constant: float = FITTED_CONSTANT

    def looked_for(self, height: F32) -> NDArray[np.bool_]:
        """(N,) which points, (N,) metres above the ground, may be walls."""
        return (height > self.min_height_m) & (height < self.max_height_m)


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

    def take(self, which: NDArray[np.bool_] | slice) -> Upright:
        """Some of the points."""
        return Upright(*(getattr(self, field.name)[which] for field in fields(self)))


def wall_evidence(
    points: Upright, sheaves: Sheaves, size: int, resolution: float, settings: WallSettings
) -> F32:
    """(size, size) evidence 0..1 of building walls.

    The odds of each cell are those of a logistic regression on its features. What is rather no wall
    than one counts nothing, what is very likely one in full, where it goes on for some metres.

    Args:
        points: Where walls are looked for.
        sheaves: Of all rays.
        size: Pixels along a side.
        resolution: Metres per pixel.
        settings: What counts.
    """
    cell, features = wall_features(points, sheaves, size, resolution, settings)
    probability = special.expit(features @ np.array(settings.weights) + settings.constant)
    evidence = np.zeros((size, size))
    evidence.ravel()[cell] = np.clip(2 * probability - 0.8, 0, 1)
    support = box_sum(evidence, odd_cells(SUPPORT_M, resolution)) * resolution**2
    return (evidence * np.clip(support / settings.support_m2, 0, 1)).astype(np.float32)


def wall_features(
    points: Upright, sheaves: Sheaves, size: int, resolution: float, settings: WallSettings
) -> tuple[NDArray[np.int64], F64]:
    """What tells a wall from other upright things, for each cell with points.

    A cell's points and its neighbours' make a 2D covariance: a wall is long one way (``along``) and
    thin the other (``across``), vegetation is thick both ways, a pole thin both ways. The rays do
    not pass it (``through``), it is as high as a house or as the sensor can see (``reach``), it is
    seen down to its ``foot``, in many points (``around``) for its ``range`` and for how dense the
    cloud is, and it is ``flat``.

    Args:
        points: As for ``wall_evidence``, and the others.
        sheaves: Of all rays.
        size: Pixels along a side.
        resolution: Metres per pixel.
        settings: What counts.

    Returns:
        (M,) flat index of the cells with points, and their (M, F) ``FEATURES``.
    """
    pixel, inside = pixels(points.xy, size, resolution)
    if not inside.any():
        return np.zeros(0, np.int64), np.zeros((0, len(FEATURES)))
    points = points.take(inside)
    window = odd_cells(NEIGHBOURHOOD_M, resolution)
    # All that follows happens in the part of the tile that has points.
    row, column = np.divmod(pixel, size)
    first = int(row.min()), int(column.min())
    shape = int(row.max()) - first[0] + 1, int(column.max()) - first[1] + 1
    pixel = (row - first[0]) * shape[1] + column - first[1]
    even = _even_out(points, size * resolution / 2, settings.voxel_m)
    place, inside = pixels(even[:, :2], size, resolution)
    even = even[inside]
    place = (place // size - first[0]) * shape[1] + place % size - first[1]
    spread = _spread(even, place, shape, window)
    cell = np.flatnonzero(spread.here)

    def total(values: NDArray[np.floating] | None) -> F64:
        summed = np.bincount(pixel, values, spread.here.size).reshape(shape)
        return box_sum(summed, window).ravel()[cell]

    count = np.maximum(total(None), 1)

    def mean(values: NDArray[np.floating]) -> F64:
        """(M,) mean of the points around each cell."""
        return total(values) / count

    direction = spread.direction.ravel()[pixel]
    through = np.clip(mean(seen_through(sheaves, points.ray, _behind(points, direction))), 0, 1)
    top = _extreme(np.maximum, points.height, pixel, shape, window).ravel()[cell]
    foot = _extreme(np.minimum, points.height, pixel, shape, window).ravel()[cell]
    view = _extreme(np.minimum, points.view, pixel, shape, window).ravel()[cell]
    reach = np.clip(top / np.clip(view - TOP_M, CAR_M, settings.house_m), 0.3, 1.1)
    flat, known = flatness(points, even)
    flat_points = mean(known)  # the share of the points around whose surface is known
    dense = np.percentile(spread.around.ravel()[cell], 75)
    lacking = np.clip(TYPICAL / dense, 1, MOST_LACKING)
    features = {
        "across": np.log(spread.across.ravel()[cell] + 0.003),
        "along": 4 * np.minimum(spread.along.ravel()[cell], 0.25),
        "through": np.sqrt(np.minimum(through, 0.5)),
        "through_twice": np.minimum(through, 0.3),
        "reach": reach,
        "reach_high": reach**4,
        "foot": np.clip(foot, 1, 3),
        "around": np.log(np.minimum(lacking * spread.around.ravel()[cell], MANY) + 1),
        "flat": np.where(flat_points > 0.01, mean(flat) / np.maximum(flat_points, 0.01), 0.4),
        "range": np.log(mean(points.distance) + 3),
        "top": np.clip(top, 1, 5),
    }
    row, column = np.divmod(cell, shape[1])
    where = (row + first[0]) * size + column + first[1]
    return where, np.column_stack([features[name] for name in FEATURES])


def flatness(points: Upright, even: F64) -> tuple[F64, F64]:
    """How flat and upright the surface at each point is: (N,) 0..1, and (N,) 1 where it is known.

    Points are put together in cubes of ``FLAT_M``; the least spread of all directions (the smallest
    eigenvalue of the covariance) is that across the surface, and its direction has to be level.

    Args:
        points: N points.
        even: (E, 3) the same, evened out; a cube needs some of these.
    """
    xyz = np.column_stack([points.xy, points.height]).astype(np.float64)
    cube, key = _cubes(xyz)
    keys, which, count = np.unique(key, return_inverse=True, return_counts=True)
    kept, distinct = np.unique(_cubes(even)[1], return_counts=True)
    place = np.minimum(np.searchsorted(kept, keys), len(kept) - 1)
    enough = (kept[place] == keys) & (distinct[place] >= 5)
    xyz -= (cube + 0.5) * FLAT_M
    mean = np.stack([np.bincount(which, axis) for axis in xyz.T]) / count
    covariance = np.empty((len(count), 3, 3))
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        product = np.bincount(which, xyz[:, i] * xyz[:, j]) / count - mean[i] * mean[j]
        covariance[:, i, j] = covariance[:, j, i] = product
    value, vector = np.linalg.eigh(covariance[enough])
    flat = np.zeros(len(count))
    upright = np.abs(vector[:, 2, 0]) < 0.35
    flat[enough] = upright * np.exp(-np.maximum(value[:, 0], 0) / ROUGH_M**2)
    return flat[which], enough[which].astype(np.float64)


def _cubes(xyz: F64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N, 3) indices of the cubes of ``FLAT_M`` that points are in, and (N,) in one integer."""
    cube = np.floor(xyz / FLAT_M).astype(np.int64)
    return cube, (cube[:, 0] << 40) + (cube[:, 1] << 20) + cube[:, 2]


def _even_out(points: Upright, reach_m: float, voxel_m: float) -> F64:
    """(E, 3) x, y, height: one point per voxel of a lattice that does not move with the points."""
    # A first point in the corner: Open3D's voxels begin at the least coordinates.
    corner = np.full((1, 3), -reach_m - voxel_m)
    xyz = np.vstack([corner, np.column_stack([points.xy, points.height])]).astype(np.float64)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz)).voxel_down_sample(voxel_m)
    even: F64 = np.asarray(cloud.points)
    return even[even[:, 2] > corner[0, 2] + voxel_m]


class Spread(NamedTuple):
    """How the points around each cell lie; all (R, C) float64.

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


def _spread(even: F64, place: NDArray[np.int64], shape: Shape, window: int) -> Spread:
    """Of (E, 3) evened out points in the cells (E,) ``place`` of a grid of ``shape``."""
    x, y = even[:, :2].T
    here = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)

    def total(values: F64) -> F64:
        return box_sum(np.bincount(place, values, here.size).reshape(shape), window)

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


def _extreme(
    which: np.ufunc, values: F32, pixel: NDArray[np.int64], shape: Shape, window: int
) -> F32:
    """The greatest or least value in each cell's neighbourhood, on a grid of ``shape``."""
    worst = -np.inf if which is np.maximum else np.inf
    cells = np.full(shape[0] * shape[1], worst, np.float32)
    which.at(cells, pixel, values)
    filtered = ndimage.maximum_filter if which is np.maximum else ndimage.minimum_filter
    return filtered(cells.reshape(shape), window, mode="nearest")
