"""A photograph's camera, and its poses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.geometry import Array, se3_inverse

AHEAD_TO_CAMERA = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""Rotation from x ahead, y left, z up to the camera's x right, y down, z ahead."""


@dataclass(frozen=True)
class PhotoCamera:
    """A pinhole camera without distortion. Pixels' centres are at +0.5, row 0 is at the top.

    A pose of it is (4, 4), from axes x ahead, y left, z up at its centre to the map frame.

    Attributes:
        width: Pixels.
        height: Pixels.
        focal: Focal length, pixels; the principal point is the image's centre.
    """

    width: int
    height: int
    focal: float

    @property
    def centre(self) -> Array:
        """(2,) column and row of the principal point, pixels."""
        return np.array([self.width, self.height]) / 2

    def rays(self, pose: Array) -> Array:
        """(height, width, 3) unit vectors of the pixels' rays in the map frame."""
        column, row = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        flat = (np.stack([column, row], axis=-1) - self.centre) / self.focal
        local = np.concatenate([flat, np.ones((*flat.shape[:2], 1))], axis=-1) @ AHEAD_TO_CAMERA
        return local / np.linalg.norm(local, axis=-1, keepdims=True) @ pose[:3, :3].T

    def project(self, pose: Array, points: Array) -> tuple[Array, Array]:
        """Return where points of the map frame are in the image.

        Args:
            pose: (4, 4) of the camera.
            points: (..., 3) east, north, height, metres.

        Returns:
            (..., 2) column and row, pixels, and (...) depth, metres; where the depth is not
            positive, the position in the image has no meaning.
        """
        back = se3_inverse(pose)
        local = (points @ back[:3, :3].T + back[:3, 3]) @ AHEAD_TO_CAMERA.T
        depth = local[..., 2]
        flat = local[..., :2] / np.where(depth == 0, 1.0, depth)[..., None]
        return self.centre + self.focal * flat, depth
