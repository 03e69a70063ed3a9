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


def held(poses: Array) -> Array:
    """Return (N, 4, 4) poses that stay exactly the same while the vehicle stands."""
    result = poses.copy()
    for i in range(1, len(poses)):
        metres, turn = motion_size(se3_inverse(result[i - 1]) @ poses[i])
        if metres < _STILL_M and turn < _STILL_RAD:
            result[i] = result[i - 1]
    return result


def levelled(poses: Array, over_m: float) -> Array:
    """Return poses whose roll and pitch decay exponentially with the distance travelled.

    Args:
        poses: (N, 4, 4) vehicle poses in a fixed frame, z up, metres.
        over_m: Roll and pitch decay by a factor of e over this distance, metres.

    Returns:
        (N, 4, 4); the first pose is level, and the motions keep their lengths.
    """
    motions = se3_inverse(poses[:-1]) @ poses[1:]
    drawn = [upright(poses[0])]
    for motion in motions:
        pose = drawn[-1] @ motion
        share = 1 - np.exp(-np.linalg.norm(motion[:3, 3]) / over_m)
        up = pose[:3, 2]
        axis = np.cross(up, [0.0, 0.0, 1.0])
        sine = np.linalg.norm(axis)
        if sine > 1e-9:
            turn = Rotation.from_rotvec(axis / sine * (share * np.arctan2(sine, up[2])))
            pose[:3, :3] = turn.as_matrix() @ pose[:3, :3]
        drawn.append(pose)
    return np.stack(drawn)


def upright(pose: Array) -> Array:
    """Return a (4, 4) pose with its roll and pitch set to zero."""
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return se3(Rotation.from_euler("z", yaw), pose[:3, 3])
