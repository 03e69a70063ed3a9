"""Preparation of scans for registration: joined, motion-compensated, thinned, ground apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import ScanBlock, ScanSource, from_sensors
from data_prep.geometry import Array
from maptile_loc.odometry.voxels import cell_keys, grouped

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


@dataclass(frozen=True)
class ScanParts:
    """The thinned points of a scan, in the vehicle frame, metres.

    Attributes:
        standing: (3, N) float64, points of objects that stand on the ground.
        ground: (3, M) float64, points of the ground.
        standing_s: (N,) when each was measured, seconds relative to the scan's time; 0: at that
            time, or compensated for the motion since.
        ground_s: (M,) likewise.
    """

    standing: Array
    ground: Array
    standing_s: Array
    ground_s: Array

    def at_rest(self, velocity: Array) -> ScanParts:
        """Return the points as if the vehicle had stood still, to first order in its motion.

        Args:
            velocity: (6,) metres per second and radians per second, in the vehicle frame.
        """
        turn = np.cross(np.eye(3), velocity[3:])
        standing, ground = (
            points + seconds * (turn @ points + velocity[:3, None])
            for points, seconds in (
                (self.standing, self.standing_s),
                (self.ground, self.ground_s),
            )
        )
        return ScanParts(standing, ground, 0 * self.standing_s, 0 * self.ground_s)

    def thinned(self, count: int) -> tuple[Array, Array]:
        """Return at most ``count`` points of objects, and a third as many of the ground."""
        return _evenly_chosen(self.standing, count), _evenly_chosen(self.ground, count // 3)


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
    x, y, z = from_sensors(block.points, block.scan, block.origin)
    squared = x * x + y * y + z * z
    keep = (squared >= near_m**2) & (squared <= far_m**2) & use[block.scan]
    seconds = None if block.seconds is None else block.seconds[keep]
    later = ((block.t_ns - block.t_ns[0]) / 1e9).astype(np.float32)
    if later.any():
        seconds = later[block.scan[keep]] + (0 if seconds is None else seconds)
    return Sweep(np.compress(keep, block.points, axis=0), seconds)


def split_ground(scan: Sweep, thin_m: float) -> ScanParts:
    """Return the thinned points of a scan, those of standing objects and those of the ground apart.

    A cell of about 1 m is ground if its points differ by less than 0.3 m in height. Most points of
    a scan are ground, which says little about the motion and would outweigh the rest.

    Args:
        scan: N points.
        thin_m: Side of the voxels that keep one point each, the mean of their points, metres.
    """
    per_cell = max(round(_CELL_M / thin_m), 1)
    x, y, z = np.floor(scan.points.T * np.float32(1 / thin_m)).astype(np.int32)
    column, row = x // per_cell, y // per_cell
    cells = (column, row, x - per_cell * column, y - per_cell * row, z)
    order, start = grouped(cell_keys(cells))
    if not len(start):
        return ScanParts(*np.zeros((2, 3, 0)), *np.zeros((2, 0)))
    values = [*scan.points.T] if scan.seconds is None else [*scan.points.T, scan.seconds]
    sorted_values = [value[order] for value in values]
    count = np.diff(start, append=len(order))
    means = np.zeros((4, len(start)))
    for mean, one in zip(means, sorted_values, strict=False):
        mean[:] = np.add.reduceat(one.astype(np.float64), start) / count
    low, high = (f.reduceat(sorted_values[2], start) for f in (np.minimum, np.maximum))
    first = order[start]
    new = (np.diff(column[first], prepend=0) != 0) | (np.diff(row[first], prepend=0) != 0)
    new[0] = True
    border = np.flatnonzero(new)
    extent = np.maximum.reduceat(high, border) - np.minimum.reduceat(low, border)
    standing = np.repeat(extent > _FLAT_M, np.diff(border, append=len(new)))
    above, ground = (np.compress(which, means, axis=1) for which in (standing, ~standing))
    return ScanParts(above[:3], ground[:3], above[3], ground[3])


def _evenly_chosen(points: Array, count: int) -> Array:
    """Return at most ``count`` of (3, N) points, at even steps of their order."""
    have = points.shape[1]
    return points if have <= count else points[:, np.arange(count) * have // count]
