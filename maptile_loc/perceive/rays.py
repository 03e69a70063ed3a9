"""Visibility from rays: what they pass through, how high the sensor sees, and free space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.drive import from_sensors

F32 = NDArray[np.float32]

BIN_AZIMUTH_DEG = 1.0
"""Width of a ray bin in azimuth."""

BIN_ELEVATION_DEG = 4.0
"""Width of a ray bin in elevation."""

TILT_DEG = 5.0
"""Largest tilt of the vehicle, and of its sensor, along a submap."""

SECTORS = 36
"""Sectors of azimuth in which ``highest_view`` takes the highest return."""

BAND_EDGE_M = (5.0, 8.0, 14.0, 28.0)
"""Distances between the bands in which ``highest_view`` takes the highest return, metres."""

NEAREST_M = 3.0
"""Nearer returns count as this far when the upper edge of the view is fitted, metres."""

RIDGE = np.diag([1e-9, 0.05, 0.05, 1e-3])
"""Weights of a, b, c, s in the fit of the upper edge: inverse squares of their usual sizes by that
of its error, some tenths of a degree."""

DEGREES = 360
"""Sectors of azimuth in which free space is traced."""


@dataclass(frozen=True)
class Rays:
    """Rays from sensors to points, in axes that are level.

    Attributes:
        distance: (N,) float32 metres from the scan's sensor to the point.
        flat: (N,) float32 metres, the same in the horizontal plane.
        azimuth, elevation: (N,) float32 degrees; azimuth -180..180, elevation -90..90.
        scan: (N,) int32, sorted.
        scans: Number of scans, S.
    """

    distance: F32
    flat: F32
    azimuth: F32
    elevation: F32
    scan: NDArray[np.int32]
    scans: int


def make_rays(points: F32, scan: NDArray[np.int32], origin: F32) -> Rays:
    """Rays from (S, 3) sensors ``origin`` to (N, 3) points, where (N,) ``scan`` is each one's."""
    x, y, z = from_sensors(points, scan, origin)
    flat = np.sqrt(x * x + y * y)
    return Rays(
        distance=np.sqrt(flat * flat + z * z),
        flat=flat,
        azimuth=_degrees(y, x),
        elevation=_degrees(z, flat),
        scan=scan,
        scans=len(origin),
    )


def _degrees(y: F32, x: F32) -> F32:
    """(N,) angles of vectors (x, y); PyTorch's arctangent is several times as fast as numpy's."""
    angle: F32 = torch.atan2(torch.from_numpy(y), torch.from_numpy(x)).numpy()
    return angle * np.float32(180 / np.pi)


@dataclass(frozen=True)
class RayBins:
    """Rays in bins; within a bin, sorted by distance.

    Attributes:
        bin: (N,) int64, the bin of each ray.
        ordered: (N,) int64, bin and distance (centimetres) in one integer, sorted.
        filled: (B,) int64, the bins with rays, sorted.
        border: (B + 1,) int64, where the rays of each of these begin in ``ordered``, and end.
    """

    bin: NDArray[np.int64]
    ordered: NDArray[np.int64]
    filled: NDArray[np.int64]
    border: NDArray[np.int64]


@dataclass(frozen=True)
class Visibility:
    """Rays, binned in two ways.

    Attributes:
        directions: By scan, ``BIN_AZIMUTH_DEG`` and ``BIN_ELEVATION_DEG``; sorted by distance.
        azimuths: By scan and ``BIN_AZIMUTH_DEG`` alone; sorted by distance in the plane.
    """

    directions: RayBins
    azimuths: RayBins


def bin_rays(rays: Rays) -> Visibility:
    """Bin rays by their directions, and by their azimuths alone."""
    columns, rows = round(360 / BIN_AZIMUTH_DEG), round(180 / BIN_ELEVATION_DEG)
    row = ((rays.elevation + 90) / BIN_ELEVATION_DEG).astype(np.int32).clip(0, rows - 1)
    column = ((rays.azimuth + 180) / BIN_AZIMUTH_DEG).astype(np.int32) % columns
    direction = ((rays.scan * rows + row) * columns + column).astype(np.int64)
    azimuth = (rays.scan * columns + column).astype(np.int64)
    return Visibility(_sorted(direction, rays.distance), _sorted(azimuth, rays.flat))


def _sorted(number: NDArray[np.int64], metres: F32) -> RayBins:
    """Bins of (N,) rays by their bin's number, and by distance within each."""
    ordered = np.sort((number << 16) | _centimetres(metres))
    border = np.flatnonzero(np.diff(ordered >> 16, prepend=-1, append=-1))
    return RayBins(number, ordered, ordered[border[:-1]] >> 16, border)


def seen_through(bins: RayBins, ray: NDArray[np.integer], behind: F32) -> F32:
    """(M,) share 0..1 of the rays in the bin of each given ray that end beyond ``behind``.

    No ray passes a wall; many pass a tree, a hedge or a fence. Points of one scan are compared with
    each other, as in the visibility test of Removert (Kim and Kim, IROS 2020).

    Args:
        bins: All rays.
        ray: (M,) indices of the rays to test.
        behind: (M,) metres from the sensor, beyond the end of each tested ray.
    """
    number = bins.bin[ray]
    passed = np.searchsorted(bins.ordered, (number << 16) | _centimetres(behind))
    at = np.searchsorted(bins.filled, number)
    first, end = bins.border[at], bins.border[at + 1]
    return ((end - passed) / (end - first)).astype(np.float32)


def _centimetres(metres: F32) -> NDArray[np.int32]:
    """Distances in 16 bits: up to 655 m."""
    return (np.minimum(metres, 655) * 100).astype(np.int32)


def highest_view(rays: Rays, ray: NDArray[np.integer]) -> F32:
    """(M,) tangent of the highest elevation that the sensor covers, at the end of each ray.

    A spinning LiDAR covers a few degrees above the horizon: of a nearby house, the ground floor
    only. The upper edge of its field of view is a cone, tilted with the vehicle. Its beams may
    start above the sensor's origin, so that from there the edge appears higher at short distances:
    it has the elevation a + b cos(azimuth) + c sin(azimuth) + s / distance. This is fitted to the
    highest return of each sector and band of distances. Returns below the edge, where the beams
    above them hit nothing, have a small weight (expectile regression, Newey and Powell 1987). A
    line scanner may have nothing high beside it for a while: the edge is at most ``TILT_DEG`` below
    the highest return of all scans.

    Args:
        rays: All rays.
        ray: (M,) indices of the rays to evaluate and to fit: those that end well above the ground.
    """
    if not len(ray):
        return np.zeros(0, np.float32)
    azimuth, scan, elevation = np.radians(rays.azimuth[ray]), rays.scan[ray], rays.elevation[ray]
    inverse = np.float32(1) / np.maximum(rays.flat[ray], np.float32(NEAREST_M))
    shape = np.column_stack([np.ones_like(azimuth), np.cos(azimuth), np.sin(azimuth), inverse])
    sector = ((rays.azimuth[ray] + 180) / (360 / SECTORS)).astype(np.int64) % SECTORS
    bands = len(BAND_EDGE_M) + 1
    part = sector * bands + np.searchsorted(BAND_EDGE_M, rays.flat[ray])
    key = scan.astype(np.int64) * (SECTORS * bands) + part
    top = np.full(rays.scans * SECTORS * bands, -np.inf, np.float32)
    np.maximum.at(top, key, elevation)
    highest = np.flatnonzero(elevation == top[key])
    highest = highest[np.unique(key[highest], return_index=True)[1]]
    edge = np.zeros((rays.scans, 4))
    edge[np.unique(scan)] = _upper_edges(
        shape[highest].astype(np.float64), elevation[highest].astype(np.float64), scan[highest]
    )
    edge = edge.astype(np.float32)[scan]
    far, near = np.einsum("ni,ni->n", shape[:, :3], edge[:, :3]), edge[:, 3] * inverse
    far = np.maximum(far, (elevation - near).max() - TILT_DEG)
    return np.tan(np.radians(np.minimum(far + near, 80)))


def _upper_edges(
    shape: NDArray[np.float64], top: NDArray[np.float64], scan: NDArray[np.integer]
) -> NDArray[np.float64]:
    """(S, 4) a, b, c, s of the scans' upper edges, degrees and degrees times metres.

    Args:
        shape: (K, 4) their factors at the highest returns.
        top: (K,) elevations of these, degrees.
        scan: (K,) their scans, sorted; S are different.
    """
    start = np.flatnonzero(np.diff(scan, prepend=-1))
    count = np.diff(start, append=len(scan))
    squares = shape[:, :, None] * shape[:, None]
    weight = np.ones(len(top))
    for _ in range(12):
        normal = np.add.reduceat(weight[:, None, None] * squares, start) + RIDGE
        right = np.add.reduceat((weight * top)[:, None] * shape, start)
        edge = np.linalg.solve(normal, right[..., None])[..., 0]
        fitted = np.einsum("ki,ki->k", shape, np.repeat(edge, count, axis=0))
        last, weight = weight, np.where(top > fitted, 1.0, 0.03)
        if np.array_equal(weight, last):
            break
    return np.asarray(edge, np.float64)


def farthest(rays: Rays, reach: F32) -> F32:
    """(S, 360) largest ``reach`` of each scan's rays by degree of azimuth, 0 where there is none.

    Args:
        rays: All rays.
        reach: (N,) metres in the plane up to which each ray shows free space; 0 if it shows none.
    """
    far = np.zeros(rays.scans * DEGREES, np.float32)
    np.maximum.at(far, rays.scan * DEGREES + _degree(rays), reach)
    return far.reshape(rays.scans, DEGREES)


def _degree(rays: Rays) -> NDArray[np.int32]:
    """(N,) index of each ray's degree of azimuth, 0..359: 0 begins at -180 degrees, 180 at 0."""
    return (rays.azimuth + 180).astype(np.int32) % DEGREES


def free_space(far: F32, origin: F32, size: int, resolution: float) -> F32:
    """(size, size) float32, 1 in the pixels that rays cross, 0 elsewhere.

    The last metre of each ray is left out.

    Args:
        far: (S, 360) metres that rays reach from each sensor; column k is the azimuth from k - 180
            to k - 179 degrees, see ``farthest``.
        origin: (S, 3) sensor of each scan, in the tile's frame, metres.
        size: Pixels along a side.
        resolution: Metres per pixel.
    """
    # Two samples per pixel; the last metre before the hit is left out.
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
    """Flat pixel index of the points inside the tile, and (N,) whether each point is inside.

    Args:
        xy: (N, 2) metres in the tile's frame.
        size: Pixels along a side.
        resolution: Metres per pixel.
    """
    column = np.floor(xy[:, 0] / resolution + size / 2).astype(np.int32)
    row = np.floor(size / 2 - xy[:, 1] / resolution).astype(np.int32)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    return (row * size + column)[inside].astype(np.int64), inside


def selected(xy: F32, which: NDArray[np.bool_]) -> F32:
    """(M, 2) those of (N, 2) points that (N,) ``which`` selects; fast if ``xy`` is by column."""
    return np.compress(which, xy.T, axis=1).T
