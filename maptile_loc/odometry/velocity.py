"""Motions of constant velocity and turn rate."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from data_prep.geometry import Array, se3


def velocity_of(motion: Array, seconds: float) -> Array:
    """Return the constant velocity and turn rate that give a motion.

    The path is a circular arc. Its chord points half of the turn away from the vehicle's first
    heading; the length of the chord is taken for the length of the arc.

    Args:
        motion: (4, 4) pose at the end in the frame of the pose at the start, metres.
        seconds: Duration.

    Returns:
        (6,) velocity in metres per second, and turn rate in radians per second, both in the
        vehicle frame.
    """
    turn = Rotation.from_matrix(motion[:3, :3]).as_rotvec()
    travel = Rotation.from_rotvec(-0.5 * turn).apply(motion[:3, 3])
    return np.concatenate([travel, turn]) / seconds


def motion_of(velocity: Array, seconds: float) -> Array:
    """Return the (4, 4) motion of a (6,) constant velocity and turn rate.

    It is the inverse of ``velocity_of``.
    """
    travel, turn = velocity[:3] * seconds, Rotation.from_rotvec(velocity[3:] * seconds)
    return se3(turn, Rotation.from_rotvec(velocity[3:] * (0.5 * seconds)).apply(travel))


def motion_size(motion: Array) -> tuple[float, float]:
    """Return the length (metres) and the turn (radians) of a (4, 4) motion."""
    turn = Rotation.from_matrix(motion[:3, :3]).magnitude()
    return float(np.linalg.norm(motion[:3, 3])), float(turn)
