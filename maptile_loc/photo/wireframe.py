"""The edges of a city of blocks, and those that a camera sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.geometry import Array
from maptile_loc.photo.camera import PhotoCamera
from maptile_loc.render.extruded import Blocks

REACH_M = 150.0
"""Edges that are farther from the camera are left out, metres."""

SAMPLES = 12
"""Points of an edge whose visibility is tested."""

LEAST_SHOWN = 3
"""Points of an edge that have to be visible."""

SHORTEST_PX = 12.0
"""Shorter edges in the image are left out, pixels."""

SPARE_M = 0.2
"""A wall this close in front of a point of an edge does not hide it, metres."""


@dataclass(frozen=True)
class Edges:
    """E edges and what is visible of them.

    Attributes:
        space: (E, 2, 3) both ends in the map frame, metres.
        image: (E, 2, 2) the visible part's ends: column and row, pixels.
        depth: (E,) mean depth of the visible part, metres.
    """

    space: Array
    image: Array
    depth: Array


def wireframe(blocks: Blocks) -> Array:
    """Return (E, 2, 3) the corners of walls, upright, and their upper and lower edges."""
    walls = blocks.walls
    low, high = walls.foot, walls.foot + walls.height
    ends = [
        (np.c_[walls.a, low], np.c_[walls.a, high]),
        (np.c_[walls.a, high], np.c_[walls.b, high]),
        (np.c_[walls.a, low], np.c_[walls.b, low]),
    ]
    return np.concatenate([np.stack(pair, axis=1) for pair in ends])


def visible_edges(blocks: Blocks, frame: Array, camera: PhotoCamera, pose: Array) -> Edges:
    """Return the edges that a camera sees.

    Args:
        blocks: The city; its walls hide edges.
        frame: (E, 2, 3) edges, from ``wireframe``.
        camera: The camera.
        pose: (4, 4) of the camera.
    """
    eye = pose[:3, 3]
    share = (np.arange(SAMPLES) + 0.5) / SAMPLES
    close = _distance(frame[:, :, :2], eye[:2]) < REACH_M
    frame = frame[close]
    points = frame[:, :1] + share[:, None] * (frame[:, 1:] - frame[:, :1])
    image, depth = camera.project(pose, points)
    shown = (depth > 0.5) & (depth < REACH_M)
    shown &= ((image >= 0) & (image < (camera.width, camera.height))).all(axis=-1)
    edge, sample = np.nonzero(shown)
    ray = points[edge, sample] - eye
    reached, _ = blocks.cast(np.broadcast_to(eye, ray.shape), ray)
    shown[edge, sample] = (1 - reached) * np.linalg.norm(ray, axis=1) < SPARE_M
    kept = shown.sum(axis=1) >= LEAST_SHOWN
    shown, image, depth, frame = shown[kept], image[kept], depth[kept], frame[kept]
    rows = np.arange(len(shown))
    first, last = shown.argmax(axis=1), SAMPLES - 1 - shown[:, ::-1].argmax(axis=1)
    ends = np.stack([image[rows, first], image[rows, last]], axis=1)
    mean = (depth * shown).sum(axis=1) / np.maximum(shown.sum(axis=1), 1)
    long = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) >= SHORTEST_PX
    return Edges(frame[long], ends[long], mean[long])


def _distance(segments: Array, point: Array) -> Array:
    """(N,) distances of a (2,) point from (N, 2, 2) segments."""
    along = segments[:, 1] - segments[:, 0]
    squared = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip(((point - segments[:, 0]) * along).sum(axis=1) / squared, 0, 1)
    return np.linalg.norm(segments[:, 0] + share[:, None] * along - point, axis=1)
