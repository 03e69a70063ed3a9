"""The straight lines of a photograph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.geometry import Array

SHORTEST_PX = 15.0
"""Shorter lines are left out, pixels."""


def image_lines(grey: NDArray[np.uint8]) -> Array:
    """Return (N, 2, 2) ends of the lines of a (H, W) image: column and row, pixels.

    LSD (von Gioi et al., PAMI 2010), as OpenCV has it; pixels' centres are moved to +0.5.

    Raises:
        MaptileError: OpenCV is not installed.
    """
    found = _opencv().createLineSegmentDetector().detect(np.ascontiguousarray(grey))[0]
    if found is None:
        return np.zeros((0, 2, 2))
    lines = np.asarray(found, np.float64).reshape(-1, 2, 2) + 0.5
    return lines[np.linalg.norm(lines[:, 1] - lines[:, 0], axis=1) >= SHORTEST_PX]


def _opencv() -> Any:
    """The library OpenCV.

    Raises:
        MaptileError: It is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise MaptileError(
            "lines of photographs need OpenCV: pip install 'maptile-loc[photo]'"
        ) from None
    return cv2
