"""What a scan's rays tell beyond where they ended: what they passed, how high they could see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
BIN_DEG = (1.0, 4.0)
"""Rays within so many degrees of azimuth and of elevation of each other look the same way."""
TILT_DEG = 5.0
"""A vehicle, and its sensor's view with it, tilts no further on the way."""
_DEGREES = 360
_SECTORS = 36
_SECTOR_DEG = 360 / _SECTORS


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
    x, y, z = points.T - np.take(origin.T, scan, axis=1)
    flat = np.hypot(x, y)
    return Rays(
        distance=np.hypot(flat, z),
        flat=flat,
        azimuth=np.degrees(np.arctan2(y, x)),
        elevation=np.degrees(np.arctan2(z, flat)),
        scan=scan,
        scans=len(origin),
    )


@dataclass(frozen=True)
class Sheaves:
    """Rays of one scan that look the same way, sorted by where they end.

    Attributes:
        sheaf: (N,) int64, which one each ray is in.
        ordered: (N,) int64, sheaf and centimetres in one integer, sorted.
    """

    sheaf: NDArray[np.int64]
    ordered: NDArray[np.int64]


def make_sheaves(rays: Rays) -> Sheaves:
    """Rays put together by scan and by ``BIN_DEG``."""
    columns, rows = round(360 / BIN_DEG[0]), round(180 / BIN_DEG[1])
    row = ((rays.elevation + 90) / BIN_DEG[1]).astype(np.int32).clip(0, rows - 1)
    column = ((rays.azimuth + 180) / BIN_DEG[0]).astype(np.int32) % columns
    sheaf = ((rays.scan * rows + row) * columns + column).astype(np.int64)
    # Neighbours among the points mostly share a sheaf: a merge sort (stable) finds little to do.
    return Sheaves(sheaf, np.sort((sheaf << 16) | _centimetres(rays.distance), kind="stable"))


def seen_through(sheaves: Sheaves, asked: NDArray[np.integer], behind: F32) -> F32:
    """(M,) share 0..1 of the rays beside each of the rays ``asked`` that went on past ``behind``.

    Nothing passes a wall; a good part passes a tree, a hedge, a fence. The points of one scan are
    compared, as in the visibility test of Removert (Kim and Kim 2020).

    Args:
        sheaves: Of all rays.
        asked: (M,) index of the rays that are asked about.
        behind: (M,) metres from the sensor, beyond where each of them ended.
    """
    mine = sheaves.sheaf[asked] << 16
    first = np.searchsorted(sheaves.ordered, mine)
    passed = np.searchsorted(sheaves.ordered, mine | _centimetres(behind))
    end = np.searchsorted(sheaves.ordered, mine + (1 << 16))
    return ((end - passed) / (end - first)).astype(np.float32)


def _centimetres(metres: F32) -> NDArray[np.int32]:
    """In 16 bits: up to 655 m."""
    return (np.minimum(metres, 655) * 100).astype(np.int32)


def highest_view(rays: Rays, asked: NDArray[np.integer]) -> F32:
    """(M,) tangent of the highest elevation at which a sensor sees, in the direction of each ray.

    A spinning LiDAR sees a few degrees up: of a house nearby, no more than the ground floor. Its
    view ends on a cone, tilted with the vehicle: a + b cos(azimuth) + c sin(azimuth), laid on the
    highest returns of all sectors by least squares that hardly count what is below the cone
    (expectile regression, Newey and Powell 1987), for there no return came back from the sky. A
    line scanner may have nothing high beside it for a while: by what all scans together saw, the
    view is no more than ``TILT_DEG`` lower.

    Args:
        rays: All rays.
        asked: (M,) the ones that are asked about, and that tell: those that end well above ground.
    """
    azimuth, scan = rays.azimuth[asked], rays.scan[asked]
    sector = ((azimuth + 180) / _SECTOR_DEG).astype(np.int64) % _SECTORS
    highest = np.full(rays.scans * _SECTORS, -np.inf, np.float32)
    np.maximum.at(highest, scan * _SECTORS + sector, rays.elevation[asked])
    top = highest.reshape(-1, _SECTORS).astype(np.float64)
    seen = np.isfinite(top)
    top[~seen] = 0
    middle = np.radians((np.arange(_SECTORS) + 0.5) * _SECTOR_DEG - 180)
    shape = np.column_stack([np.ones(_SECTORS), np.cos(middle), np.sin(middle)])
    product = np.einsum("ki,kj->kij", shape, shape)
    weight = seen.astype(np.float64)
    for _ in range(12):
        normal = np.tensordot(weight, product, 1) + np.diag([1e-9, 0.5, 0.5])
        cone = np.linalg.solve(normal, ((weight * top) @ shape)[..., None])[..., 0]
        last, weight = weight, np.where(top > cone @ shape.T, 1.0, 0.03) * seen
        if np.array_equal(weight, last):
            break
    level, ahead, left = cone.astype(np.float32)[scan].T
    turn = np.radians(azimuth)
    elevation = level + ahead * np.cos(turn) + left * np.sin(turn)
    if len(asked):
        elevation = np.maximum(elevation, rays.elevation[asked].max() - TILT_DEG)
    return np.tan(np.radians(np.minimum(elevation, 80)))


def farthest(rays: Rays, reach: F32) -> F32:
    """(S, 360) metres in the plane: how far a ray of each scan and degree tells, 0 where none does.

    Args:
        rays: All rays.
        reach: (N,) metres in the plane up to which each ray tells; 0 for one that does not.
    """
    far = np.zeros(rays.scans * _DEGREES, np.float32)
    np.maximum.at(far, rays.scan * _DEGREES + _degree(rays), reach)
    return far.reshape(rays.scans, _DEGREES)


def _degree(rays: Rays) -> NDArray[np.int32]:
    """(N,) whole degrees of azimuth, 0..359."""
    return (rays.azimuth + 180).astype(np.int32) % _DEGREES


def free_space(far: F32, origin: F32, size: int, resolution: float) -> F32:
    """(size, size) 1 where a ray passed: from each scan's sensor as far as a ray of each degree.

    Args:
        far: (S, 360) metres, as of ``farthest``.
        origin: (S, 3) sensor of each scan, in the tile's frame.
        size: Pixels along a side.
        resolution: Metres per pixel.
    """
    # Two samples a pixel; the last metre before the hit is left to the hit itself.
    step = resolution / 2
    scan, degree = np.nonzero(far >= 1.0 + step)
    counts = ((far[scan, degree] - 1.0) / step).astype(np.int64)
    along = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)) * step
    angle = np.radians(degree - 179.5)
    start = np.repeat(origin[scan, :2].T, counts, axis=1)
    direction = np.repeat(np.stack([np.cos(angle), np.sin(angle)]), counts, axis=1)
    pixel, _ = pixels((start + along * direction).T, size, resolution)
    crossed = np.zeros(size * size, np.float32)
    crossed[pixel] = 1.0
    return crossed.reshape(size, size)


def pixels(
    xy: NDArray[np.floating], size: int, resolution: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Flat pixel index of the points inside the tile, and which of all points those are."""
    column = np.floor(xy[:, 0] / resolution + size / 2).astype(np.int32)
    row = np.floor(size / 2 - xy[:, 1] / resolution).astype(np.int32)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    return (row * size + column)[inside].astype(np.int64), inside
