"""The sweeps of a simulated LiDAR: its rays, and what they hit."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import Times
from data_prep.geometry import NED_TO_FLU, Array, interpolate_se3, se3_from_xyzrpy
from data_prep.simulate.lidar import Lidar
from data_prep.simulate.scene.rays import Hits, Scene


class Sweeps(NamedTuple):
    """All that the rays of a LiDAR depend on, besides the times of its scans.

    Attributes:
        lidar: The LiDAR.
        reach_us: Microseconds from the middle of a sweep to its end; 0: the vehicle does not move.
        t_ns: (N,) nanoseconds, the times of ``poses``.
        poses: (N, 4, 4) exact poses of the vehicle frame.
        scene: The surfaces.
        threads: Threads that cast the rays; 0: as many as there are cores.
    """

    lidar: Lidar
    reach_us: int
    t_ns: Times
    poses: Array
    scene: Scene
    threads: int


def cast(sweeps: Sweeps, t_us: Times) -> Hits:
    """Return what the rays of whole scans hit: of S scans, S * B rays.

    Args:
        sweeps: The LiDAR, its motion and the world.
        t_us: (S,) microseconds, the middles of the sweeps.
    """
    mount = NED_TO_FLU @ se3_from_xyzrpy(sweeps.lidar.mount)
    begin, end = (
        interpolate_se3(sweeps.t_ns, sweeps.poses, (t_us + d) * 1000) @ mount
        for d in (-sweeps.reach_us, sweeps.reach_us)
    )
    return sweeps.scene.cast(*_rays(sweeps.lidar, begin, end), sweeps.threads)


def _rays(
    lidar: Lidar, begin: Array, end: Array
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the rays of S sweeps, interpolated between the poses at both ends of each.

    Args:
        lidar: Has B beams.
        begin: (S, 4, 4) poses of the sensor at the start of each sweep.
        end: (S, 4, 4) poses at its end.

    Returns:
        (S * B, 3) origins, metres, and (S * B, 3) float32 unit directions.
    """
    share = ((lidar.when + 1) / 2)[None, :, None]
    origins = begin[:, None, :3, 3] + share * (end - begin)[:, None, :3, 3]
    origins += np.einsum("sij,bj->sbi", begin[:, :3, :3], lidar.starts)
    directions = _beams(lidar, begin)
    directions += share.astype(np.float32) * (_beams(lidar, end) - directions)
    directions /= np.sqrt(np.einsum("sbi,sbi->sb", directions, directions))[..., None]
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def _beams(lidar: Lidar, poses: Array) -> NDArray[np.float32]:
    """Return (S, B, 3) directions of the beams in the map frame at (S, 4, 4) sensor poses."""
    # Written out, because BLAS is slow for 3 x 3 matrices.
    x, y, z = (np.ascontiguousarray(axis, np.float32) for axis in lidar.directions.T)
    result = np.empty((len(poses), len(x), 3), np.float32)
    for turned, pose in zip(result, poses.astype(np.float32), strict=True):
        for i in range(3):
            turned[:, i] = x * pose[i, 0] + y * pose[i, 1] + z * pose[i, 2]
    return result
