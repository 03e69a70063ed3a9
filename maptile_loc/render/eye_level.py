"""What a pinhole camera at eye level sees of a city of blocks: depth, faces, edges, the skyline."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.render.extruded import NOTHING, Blocks

SKY_SHARE = 0.5
"""Share of the uppermost row of pixels that is sky in a view with a skyline."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that is held upright.

    Attributes:
        size_px: Pixels along the sides of its square image, S.
        field_rad: Angle of view between opposite sides, radians.
        height_m: Height of its centre above the ground, metres.
    """

    size_px: int
    field_rad: float
    height_m: float

    def rays(self, yaw: Array, pitch: Array) -> NDArray[np.float32]:
        """Return (N, S, S, 3) rays of length 1 along the optical axis, one per pixel's centre.

        Rows go down, columns to the right. Axes are east, north, up.

        Args:
            yaw: (N,) heading of the optical axis, radians counter-clockwise from grid east.
            pitch: (N,) its elevation above the horizon, radians.
        """
        half = math.tan(self.field_rad / 2)
        at = half * ((2 * np.arange(self.size_px) + 1) / self.size_px - 1)
        right, down = np.meshgrid(at, at)
        c, s = (f(pitch)[:, None, None] for f in (np.cos, np.sin))
        ahead, up = c + s * down, s - c * down
        c, s = (f(yaw)[:, None, None] for f in (np.cos, np.sin))
        parts = [c * ahead + s * right, s * ahead - c * right, up]
        return np.stack(parts, axis=-1).astype(np.float32)


@dataclass(frozen=True)
class EyeViews:
    """N views of S x S pixels.

    Attributes:
        depth: (N, S, S) float32, metres along the optical axis, infinite where no wall is seen.
        face: (N, S, S) int32, the wall that each pixel shows, or ``NOTHING``.
    """

    depth: NDArray[np.float32]
    face: NDArray[np.int32]

    @property
    def facade(self) -> NDArray[np.bool_]:
        """(N, S, S) whether a pixel shows a wall."""
        return self.face != NOTHING

    @property
    def edge(self) -> NDArray[np.bool_]:
        """(N, S, S) whether the pixel to the right or the one below shows another face."""
        edge = np.zeros(self.face.shape, bool)
        edge[:, :, :-1] |= self.face[:, :, 1:] != self.face[:, :, :-1]
        edge[:, :-1] |= self.face[:, 1:] != self.face[:, :-1]
        return edge

    def edge_count(self) -> NDArray[np.int64]:
        """(N,) number of visible edges: of pairs of faces that adjoin, by which is left or above.

        Something that hides the middle of an edge does not make two of it. An edge in front of
        several faces is counted once for each.
        """
        faces = self.face.astype(np.int64) - NOTHING
        count = faces.max(initial=0) + 1
        pairs = []
        for across, one, other in (
            (0, faces[:, :, :-1], faces[:, :, 1:]),
            (1, faces[:, :-1], faces[:, 1:]),
        ):
            at = np.nonzero(one != other)
            pairs.append(((2 * at[0] + across) * count + one[at]) * count + other[at])
        view = np.unique(np.concatenate(pairs)) // (2 * count**2)
        return np.bincount(view, minlength=len(faces))

    def has_skyline(self) -> NDArray[np.bool_]:
        """(N,) whether at least ``SKY_SHARE`` of the uppermost row is sky."""
        return (self.face[:, 0] == NOTHING).mean(axis=1) >= SKY_SHARE


def eye_views(blocks: Blocks, camera: Camera, poses: Array) -> EyeViews:
    """Return what a camera sees.

    Args:
        blocks: The city.
        camera: The camera.
        poses: (N, 4) east, north in the map frame, metres; yaw and pitch as for ``Camera.rays``.
    """
    rays = camera.rays(poses[:, 2], poses[:, 3])
    centres = np.column_stack([poses[:, :2], np.full(len(poses), camera.height_m)])
    origins = np.repeat(centres, camera.size_px**2, axis=0)
    depth, face = blocks.cast(origins, rays.reshape(-1, 3))
    return EyeViews(depth.reshape(rays.shape[:3]), face.reshape(rays.shape[:3]))
