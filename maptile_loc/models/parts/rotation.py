"""Rotations about the vertical as logarithms of unit quaternions, as MapNet regresses them.

Brahmbhatt et al., Geometry-Aware Learning of Maps for Camera Localization, CVPR 2018, section 3.1:
log q = (v / |v|) arccos(u) for q = (u, v) with u >= 0. About the vertical, only the vertical part
is not zero; it is half the angle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_quaternion(angle: Tensor) -> Tensor:
    """The z component of the log-quaternion of a turn about z by ``angle`` radians.

    It is half the wrapped angle, in [-pi/2, pi/2).
    """
    return (torch.remainder(angle + math.pi, 2 * math.pi) - math.pi) / 2


def angle_of_log_quaternion(log_q: Tensor) -> Tensor:
    """The angle in [-pi, pi) of a log-quaternion: the inverse of ``log_quaternion``."""
    return torch.remainder(2 * log_q + math.pi, 2 * math.pi) - math.pi
