"""Evidence of building walls: thin, long, tall, solid structures that reach down to the ground."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import open3d as o3d
import pydantic
from numpy.typing import NDArray

from data_prep.settings import Count, Positive, Settings
from maptile_loc.perceive.detector import SHIPPED, cached_detector
from maptile_loc.perceive.neighbourhood import (
    Neighbourhoods,
    Spread,
    make_crop,
    make_spread,
    odd_cells,
)
from maptile_loc.perceive.rays import BIN_AZIMUTH_DEG, Visibility, pixels, seen_through

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

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
    "beyond",
    "beyond_far",
)
"""Names of a cell's features; see ``wall_features``."""

BEYOND_M = (2.0, 6.0)
"""Distances behind a point, metres, of the features ``beyond`` and ``beyond_far``."""


class WallSettings(Settings):
    """Which points may belong to walls, and the features by which the detector finds walls.

    The detector is fitted for the defaults of all fields that define features: after a change of
    one of these, fit it again (``benchmarks/fit/fit_walls.py``).

    Attributes:
        profile: Folder of a detector that ``maptile adapt --walls`` adapted to a sensor; None: the
            detector of the package.
        min_height_m, max_height_m: Points between these heights above the ground may be walls.
        voxel_m: Side of the voxels that make the density of points even.
        house_m: Smallest height of a building, where the sensor can see that high.
        neighbourhood_m: Side of the square around a cell whose points make the cell's features:
            wide enough for the points of a wall, narrow compared with its length.
        behind_m: A ray that ends this far behind a point, or farther, has passed it.
        max_behind_m: Largest addition to ``behind_m`` for walls seen at grazing angles.
        car_m: Height of a car: objects that are not higher are no walls, even where the sensor sees
            no higher.
        view_gap_m: Height below the upper edge of the view that may show no points, since the
            uppermost beams are far apart.
        most_points: Largest number of points, after voxels, that counts in a cell's neighbourhood.
        typical_points: Typical 75th percentile of that number for LiDAR scans. The points of a
            sparser cloud (from images, say) are weighted by typical_points / percentile.
        max_weight: Largest such weight.
        flat_m: Side of the cubes in which the flatness of surfaces is measured.
        rough_m: Standard deviation across a surface at which its flatness is 1/e; foliage is
            rougher.
    """

    profile: Path | None = None
    min_height_m: float = 1.0
    max_height_m: float = 20.0
    voxel_m: Positive = 0.2
    house_m: Positive = 3.0
    neighbourhood_m: Positive = 1.5
    behind_m: Positive = 1.5
    max_behind_m: Positive = 6.0
    car_m: Positive = 1.7
    view_gap_m: Positive = 0.35
    most_points: Count = 60
    typical_points: Positive = 38.0
    max_weight: float = pydantic.Field(default=15.0, ge=1)
    flat_m: Positive = 0.75
    rough_m: Positive = 0.06

    @pydantic.model_validator(mode="after")
    def _houses_above_cars(self) -> WallSettings:
        if self.house_m < self.car_m:
            raise ValueError(f"house_m has to be at least car_m ({self.car_m:g})")
        return self

    def may_be_wall(self, height: F32) -> NDArray[np.bool_]:
        """(N,) whether points (N,) metres above the ground may belong to walls."""
        return (height > self.min_height_m) & (height < self.max_height_m)


@dataclass(frozen=True)
class Upright:
    """Points that may belong to walls.

    Attributes:
        xy: (N, 2) float32 metres in the tile's frame.
        height: (N,) float32 metres above the ground.
        view: (N,) float32 metres above the ground up to which the point's sensor sees there.
        ray: (N,) int64, index of the ray that ends at the point.
        azimuth: (N,) float32 radians of that ray.
        distance: (N,) float32 metres from the sensor to the point.
        flat: (N,) float32 metres, the same in the horizontal plane.
    """

    xy: F32
    height: F32
    view: F32
    ray: NDArray[np.int64]
    azimuth: F32
    distance: F32
    flat: F32

    def take(self, which: NDArray[np.bool_] | slice) -> Upright:
        """The points that ``which`` selects."""
        return Upright(*(getattr(self, field.name)[which] for field in fields(self)))


def wall_evidence(
    points: Upright, seen: Visibility, size: int, resolution: float, settings: WallSettings
) -> F32:
    """(size, size) float32 probability 0..1 of building walls; 0 in cells without upright points.

    Args:
        points: Points that may belong to walls.
        seen: All rays, binned.
        size: Pixels along a side.
        resolution: Metres per pixel.
        settings: Features, and the detector.

    Raises:
        MaptileError: ``settings.profile`` is not the folder of a detector for these features.
    """
    detector = cached_detector(settings.profile or SHIPPED, FEATURES)
    cell, features = wall_features(points, seen, size, resolution, settings)
    evidence = np.zeros(size * size, np.float32)
    evidence[cell] = detector.building(cell, features, size)
    return evidence.reshape(size, size)


def wall_features(
    points: Upright, seen: Visibility, size: int, resolution: float, settings: WallSettings
) -> tuple[NDArray[np.int64], F64]:
    """Features of the cells with points that distinguish walls from other upright objects.

    The features of a cell describe the points in the square of ``neighbourhood_m`` around it:

    - ``across``, ``along``: logarithm of the smallest, and the largest, eigenvalue of the points'
      2D covariance. A wall is thin and long, vegetation is thick, a pole is thin and short.
    - ``through``, ``through_twice``: share of rays that pass the points, of those in the same
      direction; no ray passes a wall.
    - ``beyond``, ``beyond_far``: the same of all rays of this azimuth, low or high, that end 2 and
      6 m farther: a house hides what is behind it, a hedge or a car does not.
    - ``reach``, ``reach_high``: the points' height by that of a house, or by what the sensor sees.
    - ``foot``, ``top``: smallest and largest height; a wall is seen down to the ground.
    - ``around``: logarithm of the number of points, corrected for the density of the cloud.
    - ``flat``: mean flatness of the upright surfaces.
    - ``range``: logarithm of the mean distance from the sensor.

    Args:
        points: Points that may belong to walls.
        seen: All rays, binned.
        size: Pixels along a side.
        resolution: Metres per pixel.
        settings: Parameters of the features.

    Returns:
        (M,) flat index of the cells with points, and their (M, F) ``FEATURES``.
    """
    pixel, inside = pixels(points.xy, size, resolution)
    if not inside.any():
        return np.zeros(0, np.int64), np.zeros((0, len(FEATURES)))
    points = points.take(inside)
    crop = make_crop(pixel, size)
    even = _even_out(points, size * resolution / 2, settings.voxel_m)
    even_pixel, inside = pixels(even[:, :2], size, resolution)
    even = even[inside]
    window = odd_cells(settings.neighbourhood_m, resolution)
    spread = make_spread(even, crop.inner(even_pixel), crop.shape, window)
    cell = np.flatnonzero(spread.here)
    around = Neighbourhoods(crop.inner(pixel), cell, crop.shape, window)
    features = _features(points, seen, even, spread, around, settings)
    return crop.outer(cell), np.column_stack([features[name] for name in FEATURES])


def _features(
    points: Upright,
    seen: Visibility,
    even: F64,
    spread: Spread,
    around: Neighbourhoods,
    settings: WallSettings,
) -> dict[str, F64]:
    """(M,) values of each feature, by name."""
    cell = around.cell
    behind = _behind(points, spread.direction.ravel()[around.pixel], settings)
    through = np.clip(around.mean(seen_through(seen.directions, points.ray, behind)), 0, 1)
    beyond, beyond_far = (
        np.clip(around.mean(seen_through(seen.azimuths, points.ray, points.flat + metres)), 0, 1)
        for metres in BEYOND_M
    )
    top = around.extreme(np.maximum, points.height)
    foot = around.extreme(np.minimum, points.height)
    view = around.extreme(np.minimum, points.view)
    expected = np.clip(view - settings.view_gap_m, settings.car_m, settings.house_m)
    reach = np.clip(top / expected, 0.3, 1.1)
    flat, known = flatness(points, even, settings)
    known_share = around.mean(known)
    flat_mean = around.mean(flat) / np.maximum(known_share, 0.01)
    dense = np.percentile(spread.around.ravel()[cell], 75)
    weight = np.clip(settings.typical_points / dense, 1, settings.max_weight)
    number = np.minimum(weight * spread.around.ravel()[cell], settings.most_points)
    return {
        "across": np.log(spread.across.ravel()[cell] + 0.003),
        "along": 4 * np.minimum(spread.along.ravel()[cell], 0.25),
        "through": np.sqrt(np.minimum(through, 0.5)),
        "through_twice": np.minimum(through, 0.3),
        "reach": reach,
        "reach_high": reach**4,
        "foot": np.clip(foot, 1, 3),
        "around": np.log(number + 1),
        "flat": np.where(known_share > 0.01, flat_mean, 0.4),
        "range": np.log(around.mean(points.distance) + 3),
        "top": np.clip(top, 1, 5),
        "beyond": beyond,
        "beyond_far": beyond_far,
    }


def flatness(points: Upright, even: F64, settings: WallSettings) -> tuple[F64, F64]:
    """(N,) flatness 0..1 of the upright surface at each point, and (N,) 1 where it is known.

    Points are grouped in cubes of ``flat_m``. The smallest eigenvalue of a cube's covariance is the
    variance across the surface, and its eigenvector, the normal, is about horizontal for a wall.

    Args:
        points: N points.
        even: (E, 3) x, y, height of the same points after voxels; a cube needs five of these.
        settings: Side of the cubes, and the roughness of walls.
    """
    xyz = np.column_stack([points.xy, points.height]).astype(np.float64)
    cube, key = _cubes(xyz, settings.flat_m)
    keys, which, count = np.unique(key, return_inverse=True, return_counts=True)
    kept, distinct = np.unique(_cubes(even, settings.flat_m)[1], return_counts=True)
    found = np.minimum(np.searchsorted(kept, keys), len(kept) - 1)
    enough = (kept[found] == keys) & (distinct[found] >= 5)
    xyz -= (cube + 0.5) * settings.flat_m
    mean = np.stack([np.bincount(which, axis) for axis in xyz.T]) / count
    covariance = np.empty((len(count), 3, 3))
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)):
        product = np.bincount(which, xyz[:, i] * xyz[:, j]) / count - mean[i] * mean[j]
        covariance[:, i, j] = covariance[:, j, i] = product
    value, vector = np.linalg.eigh(covariance[enough])
    flat = np.zeros(len(count))
    upright = np.abs(vector[:, 2, 0]) < 0.35
    flat[enough] = upright * np.exp(-np.maximum(value[:, 0], 0) / settings.rough_m**2)
    return flat[which], enough[which].astype(np.float64)


def _cubes(xyz: F64, side_m: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N, 3) indices of the cubes that points are in, and the same as one integer each, (N,)."""
    cube = np.floor(xyz / side_m).astype(np.int64)
    return cube, (cube[:, 0] << 40) + (cube[:, 1] << 20) + cube[:, 2]


def _even_out(points: Upright, reach_m: float, voxel_m: float) -> F64:
    """(E, 3) x, y, height of one point per voxel; the voxels' lattice is fixed in the tile."""
    # Open3D's lattice starts at the smallest coordinates: an extra point in the corner fixes it.
    corner = np.full((1, 3), -reach_m - voxel_m)
    xyz = np.vstack([corner, np.column_stack([points.xy, points.height])]).astype(np.float64)
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(xyz)).voxel_down_sample(voxel_m)
    even: F64 = np.asarray(cloud.points)
    return even[even[:, 2] > corner[0, 2] + voxel_m]


def _behind(points: Upright, direction: F64, settings: WallSettings) -> F32:
    """(N,) metres from the sensor: rays that end there or farther have passed the point.

    Args:
        points: The points.
        direction: (N,) radians, of the line through the points around. At a grazing angle, rays of
            one bin end along that line, over a length that grows with the bin's width.
        settings: Smallest and largest distance behind the point.
    """
    grazing = np.abs(np.tan(direction - points.azimuth))
    width = np.radians(BIN_AZIMUTH_DEG) * points.distance
    further = np.minimum(width / np.maximum(grazing, 1e-3), settings.max_behind_m)
    return (points.distance + settings.behind_m + further).astype(np.float32)
