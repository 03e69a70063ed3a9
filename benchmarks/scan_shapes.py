"""Ground and shapes in a point cloud, as ``realism.py`` compares them."""

from __future__ import annotations

import itertools

import numpy as np
import open3d as o3d

from data_prep.geometry import Array

SEEN_M = 25.0
"""Range of the statistics of submaps and walls, metres."""

ASKED = 2000
"""Neighbourhoods that are evaluated, at most."""

LEAST_POINTS = 8
"""Smallest number of points of a neighbourhood."""


def thinned(points: Array, voxel: float) -> Array:
    """One point of each voxel of (N, 3) points."""
    cell = np.floor(points / voxel).astype(np.int64)
    return np.asarray(points[np.unique(cell, axis=0, return_index=True)[1]])


def ground_height(points: Array) -> Array:
    """(N,) height of the ground below (N, 3) points: a quadratic surface through the low cells."""
    cell = np.floor(points[:, :2]).astype(np.int64)
    order = np.lexsort((points[:, 2], cell[:, 1], cell[:, 0]))
    first = np.any(np.diff(cell[order], axis=0, prepend=np.inf) != 0, axis=1)
    low = points[order[first]]
    keep = low[:, 2] < np.percentile(low[:, 2], 40)
    for _ in range(8):
        surface, *_ = np.linalg.lstsq(_powers(low[keep]), low[keep, 2], rcond=None)
        off = low[:, 2] - _powers(low) @ surface
        keep = np.abs(off) < 0.25
    return np.asarray(_powers(points) @ surface)


def _powers(points: Array) -> Array:
    """(N, 6) terms of a quadratic surface."""
    x, y = points[:, 0] / SEEN_M, points[:, 1] / SEEN_M
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def shape_statistics(points: Array, radius: float, where: str) -> dict[str, float]:
    """Shares of linear, planar and scattered neighbourhoods, and the planes' roughness.

    A neighbourhood has the shape with the largest of the features of Weinmann et al. (2015).

    Args:
        points: (N, 3).
        radius: Of the neighbourhoods, metres.
        where: What the points are, for the names.
    """
    rng = np.random.default_rng(0)
    asked = points[rng.permutation(len(points))[:ASKED]]
    search = o3d.core.nns.NearestNeighborSearch(o3d.core.Tensor.from_numpy(points))
    search.fixed_radius_index(radius)
    index, _, splits = search.fixed_radius_search(o3d.core.Tensor.from_numpy(asked), radius)
    start = splits.numpy()
    count = np.diff(start)
    away = points[index.numpy()] - np.repeat(asked, count, axis=0)
    mean = np.add.reduceat(away, start[:-1]) / count[:, None]
    spread = np.empty((len(asked), 3, 3))
    for i, j in itertools.product(range(3), range(3)):
        product = np.add.reduceat(away[:, i] * away[:, j], start[:-1]) / count
        spread[:, i, j] = product - mean[:, i] * mean[:, j]
    value, vector = np.linalg.eigh(spread[count >= LEAST_POINTS])
    deviation = np.sqrt(np.maximum(value, 0))
    shape = np.stack(
        [
            deviation[:, 2] - deviation[:, 1],
            deviation[:, 1] - deviation[:, 0],
            deviation[:, 0],
        ],
        axis=1,
    ).argmax(axis=1)
    tilt = np.abs(vector[:, 2, 0])
    upright = (shape == 1) & (tilt < 0.3)
    rough = deviation[upright, 0]
    at = f"{radius:g} m {where}"
    return {
        f"linear at {at}, %": 100 * float((shape == 0).mean()),
        f"upright plane at {at}, %": 100 * float(upright.mean()),
        f"other plane at {at}, %": 100 * float(((shape == 1) & (tilt >= 0.3)).mean()),
        f"scattered at {at}, %": 100 * float((shape == 2).mean()),
        f"roughness of upright planes at {at}, median, cm": 100 * float(np.median(rough)),
        f"roughness of upright planes at {at}, 90 %, cm": 100 * float(np.percentile(rough, 90)),
    }
