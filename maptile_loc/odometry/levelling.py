"""Corrections of a track of LiDAR odometry: standing still, and level on average."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from data_prep.geometry import Array, se3, se3_inverse
from maptile_loc.odometry.velocity import motion_size

_STILL_M = 0.02
"""A vehicle that moves less between two scans may stand, metres."""

_STILL_RAD = 0.004
"""A vehicle that turns less between two scans may stand, radians."""


class Leveller:
    """Corrects the poses of one segment, one after the other.

    A pose stays exactly the same while the vehicle stands. Roll and pitch decay exponentially with
    the distance travelled; the first pose is level, and the motions keep their lengths.

    Args:
        first: (4, 4) raw pose of the segment's first scan, vehicle -> fixed frame, metres, z up.
        over_m: Roll and pitch decay by a factor of e over this distance, metres.
    """

    def __init__(self, first: Array, over_m: float) -> None:
        self._held = first
        self._over_m = over_m
        self.pose = upright(first)

    def add(self, raw: Array) -> Array:
        """Take the next (4, 4) raw pose, and return the corrected one."""
        motion = se3_inverse(self._held) @ raw
        metres, turn = motion_size(motion)
        if metres >= _STILL_M or turn >= _STILL_RAD:
            self._held = raw
            self.pose = self._drawn(self.pose @ motion, metres)
        return self.pose

    def _drawn(self, pose: Array, metres: float) -> Array:
        """Return a pose, turned towards level by its share of ``metres`` of travel."""
        share = 1 - np.exp(-metres / self._over_m)
        up = pose[:3, 2]
        axis = np.cross(up, [0.0, 0.0, 1.0])
        sine = np.linalg.norm(axis)
        if sine > 1e-9:
            turn = Rotation.from_rotvec(axis / sine * (share * np.arctan2(sine, up[2])))
            pose[:3, :3] = turn.as_matrix() @ pose[:3, :3]
        return pose


def upright(pose: Array) -> Array:
    """Return a (4, 4) pose with its roll and pitch set to zero."""
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return se3(Rotation.from_euler("z", yaw), pose[:3, 3])
