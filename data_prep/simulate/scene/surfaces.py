"""The surfaces of simulated worlds: their classes, labels and reflectances."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Surface(IntEnum):
    """The class of a surface; ``INSIDE`` is anything seen through a window of a building."""

    GROUND = 0
    ROAD = 1
    BUILDING = 2
    INSIDE = 3
    CAR = 4
    GLASS = 5
    TRUNK = 6
    LEAF = 7
    POLE = 8
    FENCE = 9
    PERSON = 10


_SEMANTIC_KITTI = {
    Surface.GROUND: 72,
    Surface.ROAD: 40,
    Surface.BUILDING: 50,
    Surface.INSIDE: 99,
    Surface.CAR: 10,
    Surface.GLASS: 10,
    Surface.TRUNK: 71,
    Surface.LEAF: 70,
    Surface.POLE: 80,
    Surface.FENCE: 51,
    Surface.PERSON: 30,
}
"""Label number of each class in SemanticKITTI; what is inside buildings is "other object"."""

SURFACE_LABELS = np.array([_SEMANTIC_KITTI[surface] for surface in Surface], "<u4")
"""(11,) little-endian uint32, the SemanticKITTI label number of each ``Surface``."""

REFLECTANCE = {
    Surface.GROUND: 0.22,
    Surface.ROAD: 0.18,
    Surface.GLASS: 0.1,
    Surface.TRUNK: 0.35,
    Surface.LEAF: 0.4,
    Surface.POLE: 0.4,
    Surface.FENCE: 0.3,
    Surface.PERSON: 0.4,
}
"""Reflectance, 0 to 1, of the classes whose surfaces all have the same."""
