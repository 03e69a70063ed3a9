"""Triangle meshes of simple things: upright panels, boxes, balls and prisms, many at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
import shapely
from numpy.typing import NDArray

from data_prep.geometry import Array


@dataclass(frozen=True)
class Mesh:
    """Triangles of one kind: (V, 3) vertices, (T, 3) int64 corners, (T,) float32 reflectance."""

    vertices: Array
    triangles: NDArray[np.int64]
    reflectance: NDArray[np.float32]
    kind: int


def panels(a: Array, b: Array, height: Array, brightness: Array, kind: int) -> Mesh:
    """Upright rectangles between (N, 2) ground points ``a`` and ``b``."""
    zero = np.zeros(len(a))
    corners = [np.c_[a, zero], np.c_[b, zero], np.c_[b, height], np.c_[a, height]]
    vertices = np.stack(corners, axis=1).reshape(-1, 3)
    first = 4 * np.arange(len(a))[:, None, None]
    triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return Mesh(vertices, triangles, np.repeat(brightness, 2).astype(np.float32), kind)


def rectangles(xy: Array, along: Array, half: Array) -> NDArray[Any]:
    """Polygons around (N, 2) centres: (N,) headings of their length, (N, 2) half length, width."""
    c, s = np.cos(along), np.sin(along)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half[:, None, :]
    turn = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], axis=1)
    return np.asarray(shapely.polygons(corners @ turn + xy[:, None, :]), object)


def box() -> tuple[Array, NDArray[np.int64]]:
    """From -1 to 1 in the plane, 0 to 1 in height; open below."""
    plane = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    vertices = np.concatenate([np.c_[plane, np.zeros(4)], np.c_[plane, np.ones(4)]])
    sides = [[i, (i + 1) % 4, (i + 1) % 4 + 4] for i in range(4)]
    sides += [[i, (i + 1) % 4 + 4, i + 4] for i in range(4)]
    return vertices, np.array([*sides, [4, 5, 6], [4, 6, 7]], np.int64)


def ball() -> tuple[Array, NDArray[np.int64]]:
    """Of radius 1 around the origin."""
    sphere = o3d.geometry.TriangleMesh.create_sphere(1.0, resolution=5)
    return np.asarray(sphere.vertices), np.asarray(sphere.triangles, np.int64)


def prism() -> tuple[Array, NDArray[np.int64]]:
    """Eight upright sides of radius 1 from 0 to 1 in height."""
    angle = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vertices = np.concatenate([np.c_[ring, np.zeros(8)], np.c_[ring, np.ones(8)]])
    sides = [[i, (i + 1) % 8, (i + 1) % 8 + 8] for i in range(8)]
    return vertices, np.array([*sides, *[[i, (i + 1) % 8 + 8, i + 8] for i in range(8)]], np.int64)


def prisms(
    xy: Array, along: Array, radius: Array, height: Array, brightness: float, kind: int
) -> Mesh:
    """N upright posts on the ground: (N, 2) places, (N,) radii and heights in metres."""
    return copies(prism(), xy, 0.0, along, np.c_[radius, radius, height], brightness, kind)


def copies(
    shape: tuple[Array, NDArray[np.int64]],
    xy: Array,
    z: Array | float,
    along: Array,
    scale: Array,
    brightness: Array | float,
    kind: int,
) -> Mesh:
    """N copies of a shape: scaled (N, 3), turned (N,) radians, put at (N, 2) and height."""
    vertices, triangles = shape
    count = len(xy)
    scaled = vertices * scale[:, None, :]
    c, s = np.cos(along)[:, None], np.sin(along)[:, None]
    placed = np.stack(
        [
            c * scaled[..., 0] - s * scaled[..., 1] + xy[:, :1],
            s * scaled[..., 0] + c * scaled[..., 1] + xy[:, 1:],
            scaled[..., 2] + np.broadcast_to(z, count)[:, None],
        ],
        axis=-1,
    )
    corners = triangles + len(vertices) * np.arange(count)[:, None, None]
    each = np.repeat(np.broadcast_to(brightness, count), len(triangles)).astype(np.float32)
    return Mesh(placed.reshape(-1, 3), corners.reshape(-1, 3), each, kind)
