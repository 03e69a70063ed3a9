"""Preparation of scans for registration: joined, motion-compensated, thinned, ground apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import ScanBlock, ScanSource
from data_prep.geometry import Array
from maptile_loc.odometry.voxels import voxel_means

_PLANAR_RAD = 0.03
"""Beams lie in a plane if the root mean square of their angles to it is smaller, radians."""

_PLANAR_BEAMS = 1000
"""About this number of a scan's beams are tested for a common plane."""

_ROUND_NS = 100_000_000
"""A round of scans of several sensors ends after this time at the latest, nanoseconds."""

_CELL_M = 1.0
"""Side of the cells in which points are standing or ground, metres."""

_FLAT_M = 0.3
"""A cell whose points differ less in height is ground, metres."""


@dataclass(frozen=True)
class Sweep:
    """The points of one scan, or of the joined scans of several sensors.

    Attributes:
        points: (N, 3) float32 metres, each in the vehicle frame at the time when it was measured;
            where ``seconds`` is None, in that at the time of the scan.
        seconds: (N,) float32, when each was measured, relative to the time of the (first) scan;
            None where unknown.
    """

    points: NDArray[np.float32]
    seconds: NDArray[np.float32] | None

    def at_rest(self, velocity: Array) -> NDArray[np.float32]:
        """Return (N, 3) points as if the vehicle had stood still, to first order in its motion.

        Args:
            velocity: (6,) metres per second and radians per second, in the vehicle frame.
        """
        if self.seconds is None:
            return self.points
        linear, angular = velocity[:3].astype(np.float32), velocity[3:].astype(np.float32)
        moved = np.cross(angular, self.points)
        moved += linear
        moved *= self.seconds[:, None]
        return self.points + moved


@dataclass(frozen=True)
class ScanParts:
    """The thinned points of a scan, in the vehicle frame, metres.

    Attributes:
        standing: (N, 3) float64, points of objects that stand on the ground.
        ground: (M, 3) float64, points of the ground.
    """

    standing: Array
    ground: Array

    def thinned(self, count: int) -> ScanParts:
        """Return at most ``count`` points of objects, and a third as many of the ground."""
        return ScanParts(
            _evenly_chosen(self.standing, count), _evenly_chosen(self.ground, count // 3)
        )


def rounds(scans: ScanSource) -> Iterator[ScanBlock]:
    """Yield scans in the order of time, those of the same time or the same round together.

    A round has one scan per sensor, and lasts 0.1 s at most.
    """
    t_ns = scans.t_ns.tolist()
    start = 0
    for stop in range(1, len(t_ns) + 1):
        if stop < len(t_ns):
            full = stop - start >= len(scans.sensors) or t_ns[stop] - t_ns[start] > _ROUND_NS
            if t_ns[stop] == t_ns[start] or not full:
                continue
        yield scans.read(start, stop)
        start = stop


def is_planar(block: ScanBlock) -> NDArray[np.bool_]:
    """Return (S,) whether the beams of each scan lie in one plane through the sensor.

    The smallest eigenvalue of the beams' second moments is their mean squared sine to the plane
    that fits them best; it must be below that of about two degrees.
    """
    result = np.zeros(len(block.t_ns), bool)
    bounds = np.searchsorted(block.scan, np.arange(len(block.t_ns) + 1))
    for i, (start, stop) in enumerate(pairwise(bounds.tolist())):
        step = max((stop - start) // _PLANAR_BEAMS, 1)
        beams = block.points[start:stop:step].astype(np.float64) - block.origin[i]
        length = np.linalg.norm(beams, axis=1)
        beams = beams[length > 0] / length[length > 0, None]
        if len(beams):
            moment = np.einsum("ni,nj->ij", beams, beams) / len(beams)
            result[i] = np.linalg.eigvalsh(moment)[0] < _PLANAR_RAD**2
    return result


def gather(block: ScanBlock, use: NDArray[np.bool_], near_m: float, far_m: float) -> Sweep:
    """Return the points of some scans within range, with times relative to the first scan's.

    Args:
        block: S scans of one round.
        use: (S,) which of them to use.
        near_m: Points closer to their sensor are ignored, metres.
        far_m: Points farther from their sensor are ignored, metres.
    """
    away = block.points - block.origin[block.scan]
    squared = np.einsum("ni,ni->n", away, away)
    keep = (squared >= near_m**2) & (squared <= far_m**2) & use[block.scan]
    seconds = None if block.seconds is None else block.seconds[keep]
    later = ((block.t_ns - block.t_ns[0]) / 1e9).astype(np.float32)
    if later.any():
        seconds = later[block.scan[keep]] + (0 if seconds is None else seconds)
    return Sweep(block.points[keep], seconds)


def split_ground(points: NDArray[np.float32], thin_m: float) -> ScanParts:
    """Return thinned points, those of standing objects and those of the ground apart.

    A cell of 1 m is ground if its points differ by less than 0.3 m in height. Most points of a scan
    are ground, which says little about the motion and would outweigh the rest.

    Args:
        points: (N, 3) float32, vehicle frame, metres.
        thin_m: Side of the voxels that keep one point each, metres.
    """
    if not len(points):
        return ScanParts(np.zeros((0, 3)), np.zeros((0, 3)))
    cells = np.floor(points[:, :2] / _CELL_M).astype(np.int64)
    keys = (cells[:, 0] << 32) + cells[:, 1]
    order = np.argsort(keys, kind="stable")
    start = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] - 1))
    height = points[order, 2]
    extent = np.maximum.reduceat(height, start) - np.minimum.reduceat(height, start)
    standing = np.zeros(len(points), bool)
    standing[order] = np.repeat(extent > _FLAT_M, np.diff(start, append=len(order)))
    return ScanParts(voxel_means(points[standing], thin_m), voxel_means(points[~standing], thin_m))


def _evenly_chosen(points: Array, count: int) -> Array:
    """Return at most ``count`` of (N, 3) points, at even steps of their order."""
    if len(points) <= count:
        return points
    return points[np.arange(count) * len(points) // count]
