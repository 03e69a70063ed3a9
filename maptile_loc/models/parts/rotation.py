"""Rotations about the vertical as regressed by the networks: cosine and sine of the angle.

MapNet regresses the logarithm of a quaternion (Brahmbhatt et al., CVPR 2018, section 3.1), which
about the vertical is half the angle. It jumps between two headings that differ by little about
180 degrees. Cosine and sine are continuous.
"""

from __future__ import annotations

import torch
from torch import Tensor

COMPONENTS = 2
"""Numbers that represent a rotation."""


def cosine_sine(angle: Tensor) -> Tensor:
    """(...) radians -> (..., 2) cosine and sine."""
    return torch.stack([torch.cos(angle), torch.sin(angle)], -1)


def angle_of_cosine_sine(pair: Tensor) -> Tensor:
    """(..., 2) regressed cosine and sine, of any length -> (...) the angle in [-pi, pi]."""
    return torch.atan2(pair[..., 1], pair[..., 0])
