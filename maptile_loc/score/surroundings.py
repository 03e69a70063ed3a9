"""Distances and directions of the map's building edges and roads, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maptile_loc.score.settings import LikelihoodSettings

F32 = NDArray[np.float32]
REACH_M = 48.0
"""Largest distance from a road that is computed; edges matter up to a quarter of it."""


class Surroundings(NamedTuple):
    """The nearest building edge and road of each cell; all arrays (H, W) float32, row 0 is north.

    Attributes:
        edge: Signed distance to the nearest building edge, metres, negative inside a building.
        east: East component of that edge's unit normal, which points out of the building.
        north: North component of the normal.
        road: Distance to the nearest road, metres, 0 on a road.
        course_cos: Cosine of twice the course of the roads nearby, radians from grid east; the
            vector (course_cos, course_sin) is shorter than 1 where roads cross.
        course_sin: Sine of twice the course.
    """

    edge: F32
    east: F32
    north: F32
    road: F32
    course_cos: F32
    course_sin: F32


def surroundings(
    building: F32, road: F32, resolution: float, settings: LikelihoodSettings
) -> Surroundings:
    """The surroundings of each cell of a map.

    Args:
        building: (H, W) float32, share of each cell that buildings cover.
        road: (H, W) float32, share of each cell that roads cover.
        resolution: Metres per cell.
        settings: ``smooth_m`` and ``crossroads_m`` are read.
    """
    edge = signed_distance(building, resolution, REACH_M / 4)
    smooth = ndimage.gaussian_filter(edge, settings.smooth_m / resolution)
    east, south = ndimage.sobel(smooth, 1), ndimage.sobel(smooth, 0)
    steep = np.maximum(np.hypot(east, south), 1e-6)
    distance = signed_distance(np.ceil(road), resolution, REACH_M)
    cos, sin = _course(road > 0, resolution, settings.crossroads_m)
    return Surroundings(edge, east / steep, -south / steep, np.maximum(distance, 0), cos, sin)


def signed_distance(coverage: F32, resolution: float, clip_m: float) -> F32:
    """(H, W) float32 distance of each cell to the edge of what is covered, metres.

    Args:
        coverage: (H, W) share of each cell that is covered; from 0.5 on a cell is inside.
        resolution: Metres per cell.
        clip_m: Largest absolute distance, metres.

    Returns:
        Negative inside, positive outside, ``clip_m`` everywhere if nothing is covered.
    """
    inside = coverage >= 0.5
    if not inside.any():
        return np.full(coverage.shape, clip_m, np.float32)
    outward = ndimage.distance_transform_edt(~inside).astype(np.float32)
    inward = ndimage.distance_transform_edt(inside).astype(np.float32)
    # Distances run between centres; the edge lies half a cell before the first centre beyond it.
    signed = np.where(inside, 0.5 - inward, outward - 0.5) * np.float32(resolution)
    return np.clip(signed, -clip_m, clip_m)


def local_moments(
    weight: NDArray[np.floating], window: int, resolution: float, least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Variance east, variance north and covariance of the weight in a square around each cell.

    Args:
        weight: (H, W), row 0 is north.
        window: Side of the square, cells.
        resolution: Metres per cell.
        least: Lower bound of the mean weight that the moments are divided by.

    Returns:
        Three (H, W) float64 arrays, m2.
    """
    return central_moments(local_means(weight, window, resolution), least)


def local_means(
    weight: NDArray[np.floating], window: int, resolution: float, top: int = 0, left: int = 0
) -> list[NDArray[np.float64]]:
    """Means of the weight w in a square around each cell, and of w times each monomial.

    Args:
        weight: (H, W), as all that follow but the corner, as for ``local_moments``.
        window: Cells.
        resolution: Metres per cell.
        top: Row of the weight's first row in the image of which it is a part.
        left: Column of its first column.

    Returns:
        Six (H, W) float64 means: of w, wx, wy, wxx, wyy and wxy, with x and y from the image's
        first cell, metres.
    """
    height, width = weight.shape
    x = np.arange(left, left + width)[None] * resolution
    y = -np.arange(top, top + height)[:, None] * resolution
    across, up = weight * x, weight * y
    return [
        ndimage.uniform_filter(values.astype(np.float64, copy=False), window, mode="constant")
        for values in (weight, across, up, across * x, up * y, across * y)
    ]


def central_moments(
    means: Sequence[NDArray[np.float64]], least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The moments that ``local_moments`` returns, from some cells of what ``local_means`` does."""
    total = np.maximum(means[0], least)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (mean / total for mean in means[1:])
    return mean_xx - mean_x**2, mean_yy - mean_y**2, mean_xy - mean_x * mean_y


def _course(road: NDArray[np.bool_], resolution: float, crossroads_m: float) -> tuple[F32, F32]:
    """(H, W) cosine and sine of twice the principal direction of the roads around each cell."""
    window = 2 * round(crossroads_m / resolution / 2) + 1
    # At least half a pixel: far from roads, the rounding errors of the sums give no direction.
    weight = road.astype(np.float32)
    var_x, var_y, covariance = local_moments(weight, window, resolution, 0.5 / window**2)
    size = np.maximum(var_x + var_y, 1.0)
    return ((var_x - var_y) / size).astype(np.float32), (2 * covariance / size).astype(np.float32)
