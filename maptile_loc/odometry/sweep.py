"""The scans of one moment, made ready for matching: undone, thinned, the ground apart."""

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
_BEAMS = 1000
_ROUND_NS = 100_000_000
_CELL_M, _FLAT_M = 1.0, 0.3


@dataclass(frozen=True)
class Sweep:
    """The usable points of a moment.

    Attributes:
        points: (N, 3) float32, vehicle frame, metres.
        seconds: (N,) float32, when each was measured relative to the moment; None where unknown.
    """

    points: NDArray[np.float32]
    seconds: NDArray[np.float32] | None

    def still(self, velocity: Array) -> NDArray[np.float32]:
        """(N, 3) points as if the vehicle had stood, to first order in its motion.

        Args:
            velocity: (6,) m/s and rad/s, in the vehicle's frame.
        """
        if self.seconds is None:
            return self.points
        linear, angular = velocity[:3].astype(np.float32), velocity[3:].astype(np.float32)
        moved = np.cross(angular, self.points)
        moved += linear
        moved *= self.seconds[:, None]
        return self.points + moved


@dataclass(frozen=True)
class Parts:
    """Thinned points of a sweep: (N, 3) of what stands up from the ground, (M, 3) of the ground."""

    standing: Array
    ground: Array

    def thinned(self, most: int) -> Parts:
        """At most ``most`` points that stand, and a third as many of the ground."""
        return Parts(_some(self.standing, most), _some(self.ground, most // 3))


def moments(scans: ScanSource) -> Iterator[ScanBlock]:
    """The scans in the order of time, those of one time or of one round of all sensors together."""
    t_ns = scans.t_ns.tolist()
    start = 0
    for stop in range(1, len(t_ns) + 1):
        if stop < len(t_ns):
            full = stop - start >= len(scans.sensors) or t_ns[stop] - t_ns[start] > _ROUND_NS
            if t_ns[stop] == t_ns[start] or not full:
                continue
        yield scans.read(start, stop)
        start = stop


def in_plane(block: ScanBlock) -> NDArray[np.bool_]:
    """(S,) whether the beams of each scan lie in one plane through the sensor, to two degrees."""
    result = np.zeros(len(block.t_ns), bool)
    bounds = np.searchsorted(block.scan, np.arange(len(block.t_ns) + 1))
    for i, (start, stop) in enumerate(pairwise(bounds.tolist())):
        step = max((stop - start) // _BEAMS, 1)
        beams = block.points[start:stop:step].astype(np.float64) - block.origin[i]
        length = np.linalg.norm(beams, axis=1)
        beams = beams[length > 0] / length[length > 0, None]
        if len(beams):
            moment = np.einsum("ni,nj->ij", beams, beams) / len(beams)
            result[i] = np.linalg.eigvalsh(moment)[0] < _PLANAR_RAD**2
    return result


def sweep(block: ScanBlock, use: NDArray[np.bool_], near_m: float, far_m: float) -> Sweep:
    """The points of the (S,) scans to ``use``, as of the first one's time.

    Args:
        block: The scans of a moment.
        use: Which of them.
        near_m: Points nearer to their sensor are left out.
        far_m: And those farther away.
    """
    away = block.points - block.origin[block.scan]
    squared = np.einsum("ni,ni->n", away, away)
    keep = (squared >= near_m**2) & (squared <= far_m**2) & use[block.scan]
    seconds = None if block.seconds is None else block.seconds[keep]
    later = ((block.t_ns - block.t_ns[0]) / 1e9).astype(np.float32)
    if later.any():
        seconds = later[block.scan[keep]] + (0 if seconds is None else seconds)
    return Sweep(block.points[keep], seconds)


def parts(points: NDArray[np.float32], thin_m: float) -> Parts:
    """Thin (N, 3) points to one per voxel, what stands up from the ground and the ground apart.

    A cell in which all points are about as high is ground. There is so much of it, and it tells so
    little of the motion, that it would drown the rest.
    """
    if not len(points):
        return Parts(np.zeros((0, 3)), np.zeros((0, 3)))
    cells = np.floor(points[:, :2] / _CELL_M).astype(np.int64)
    keys = (cells[:, 0] << 32) + cells[:, 1]
    order = np.argsort(keys, kind="stable")
    start = np.flatnonzero(np.diff(keys[order], prepend=keys[order[:1]] - 1))
    height = points[order, 2]
    extent = np.maximum.reduceat(height, start) - np.minimum.reduceat(height, start)
    upright = np.zeros(len(points), bool)
    upright[order] = np.repeat(extent > _FLAT_M, np.diff(start, append=len(order)))
    return Parts(voxel_means(points[upright], thin_m), voxel_means(points[~upright], thin_m))


def _some(points: Array, most: int) -> Array:
    if len(points) <= most:
        return points
    return points[np.arange(most) * len(points) // most]
