"""What a scan's rays tell beyond where they ended: what they passed, how high they could see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
BIN_DEG = (1.0, 4.0)
"""Rays within so many degrees of azimuth and of elevation of each other look the same way. Narrow,
for a wall seen at a grazing angle goes on behind itself."""
BEHIND_M = 1.5
BEHIND_PER_M = 0.02
"""A ray that ends this much farther (and 2 cm more per metre) has passed what another one hit."""
_FINE = 4  # bins of elevation per degree, where the edge of a sensor's view is looked for


@dataclass(frozen=True)
class Rays:
    """Rays of a cloud, in axes that are level.

    Attributes:
        distance: (N,) float32 metres from the scan's sensor to the point.
        flat: (N,) float32, the same in the plane.
        azimuth, elevation: (N,) float32 degrees; azimuth -180..180, elevation -90..90.
        scan: (N,) int32, sorted.
        scans: How many scans there are.
    """

    distance: F32
    flat: F32
    azimuth: F32
    elevation: F32
    scan: NDArray[np.int32]
    scans: int


def make_rays(points: F32, scan: NDArray[np.int32], origin: F32) -> Rays:
    """Rays from (S, 3) sensors to (N, 3) points of the scans (N,) ``scan``."""
    x, y, z = (points - origin[scan]).T
    flat = np.hypot(x, y)
    return Rays(
        distance=np.hypot(flat, z),
        flat=flat,
        azimuth=np.degrees(np.arctan2(y, x)),
        elevation=np.degrees(np.arctan2(z, flat)),
        scan=scan,
        scans=len(origin),
    )


def seen_through(rays: Rays, asked: NDArray[np.bool_]) -> F32:
    """(M,) share 0..1 of the rays beside each asked one that went on well behind its end.

    Nothing passes a wall; a good part passes a tree, a hedge, a fence. The points of one scan are
    compared, as in the visibility test of Removert (Kim and Kim 2020).

    Args:
        rays: All rays.
        asked: (N,) which of them are asked about, M of them.
    """
    columns, rows = round(360 / BIN_DEG[0]), round(180 / BIN_DEG[1])
    row = ((rays.elevation + 90) / BIN_DEG[1]).astype(np.int64).clip(0, rows - 1)
    column = ((rays.azimuth + 180) / BIN_DEG[0]).astype(np.int64) % columns
    bins = (rays.scan.astype(np.int64) * rows + row) * columns + column
    # Bin and distance (centimetres, up to 655 m) in one integer: sorted at memory speed.
    centimetres = (np.minimum(rays.distance, 655) * 100).astype(np.int64)
    ordered = np.sort((bins << 16) | centimetres)
    mine = bins[asked]
    behind = rays.distance[asked] * (1 + BEHIND_PER_M) + BEHIND_M
    limit = (np.minimum(behind, 655) * 100).astype(np.int64)
    first = np.searchsorted(ordered, mine << 16)
    passed = np.searchsorted(ordered, (mine << 16) | limit)
    end = np.searchsorted(ordered, (mine + 1) << 16)
    return ((end - passed) / (end - first)).astype(np.float32)


def highest_view(rays: Rays) -> F32:
    """(S,) tangent of the highest elevation at which each scan's sensor sees, for a few rays do.

    A spinning LiDAR sees a few degrees up: of a house nearby, no more than the ground floor.
    """
    step = ((rays.elevation + 90) * _FINE).astype(np.int64).clip(0, 180 * _FINE - 1)
    rows = rays.scan.astype(np.int64) * (180 * _FINE) + step
    count = np.bincount(rows, minlength=rays.scans * 180 * _FINE).reshape(rays.scans, -1)
    enough = count > count.sum(axis=1, keepdims=True) // 2000
    top = 180 * _FINE - np.argmax(enough[:, ::-1], axis=1)
    return np.tan(np.radians(np.minimum(top / _FINE - 90, 80))).astype(np.float32)


def free_space(
    rays: Rays, origin: F32, use: NDArray[np.bool_], size: int, resolution: float
) -> F32:
    """(size, size) 1 where a ray passed: from each scan's sensor to the farthest hit per degree.

    Args:
        rays: All rays.
        origin: (S, 2) sensor of each scan, in the tile's frame.
        use: (N,) rays that end low enough to tell about buildings.
        size: Pixels along a side.
        resolution: Metres per pixel.
    """
    sector = (rays.azimuth[use] + 180).astype(np.int64) % 360
    farthest = np.zeros(len(origin) * 360, np.float32)
    np.maximum.at(farthest, rays.scan[use].astype(np.int64) * 360 + sector, rays.flat[use])
    ray = np.flatnonzero(farthest > 0)
    angle = np.radians(ray % 360 - 179.5)
    # Two samples a pixel; the last metre before the hit is left to the hit itself.
    step = resolution / 2
    counts = np.maximum((farthest[ray] - 1.0) / step, 0).astype(np.int64)
    along = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * step
    start = np.repeat(origin[ray // 360], counts, axis=0)
    direction = np.repeat(np.column_stack([np.cos(angle), np.sin(angle)]), counts, axis=0)
    pixel, _ = pixels(start + along[:, None] * direction, size, resolution)
    crossed = np.zeros(size * size, np.float32)
    crossed[pixel] = 1.0
    return crossed.reshape(size, size)


def pixels(
    xy: NDArray[np.floating], size: int, resolution: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Flat pixel index of the points inside the tile, and which of all points those are."""
    column = np.floor(xy[:, 0] / resolution + size / 2).astype(np.int64)
    row = np.floor(size / 2 - xy[:, 1] / resolution).astype(np.int64)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    return (row * size + column)[inside], inside
