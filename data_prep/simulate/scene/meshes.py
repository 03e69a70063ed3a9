"""Triangle meshes of simple things, many at a time: panels, boxes, prisms, cars, leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.geometry import Array

Shape = tuple[Array, NDArray[np.int64]]
"""(V, 3) vertices and (T, 3) corners."""


@dataclass(frozen=True)
class Mesh:
    """Triangles of one kind.

    Attributes:
        vertices: (V, 3) metres.
        triangles: (T, 3) int64 corners.
        reflectance: (T,) float32.
        kind: Index into ``kinds.KINDS``.
        wall: (T,) int32, row of the facade that a triangle belongs to; None: of none.
    """

    vertices: Array
    triangles: NDArray[np.int64]
    reflectance: NDArray[np.float32]
    kind: int
    wall: NDArray[np.int32] | None = None


def panels(a: Array, b: Array, bottom: Array, top: Array, brightness: Array, kind: int) -> Mesh:
    """Upright panels between (N, 2) places ``a`` and ``b``.

    ``bottom`` and ``top`` are (N,) heights, or (N, 2): those at ``a`` and at ``b``.
    """
    low, high = (np.broadcast_to(np.transpose(z), (2, len(a))) for z in (bottom, top))
    corners = [np.c_[a, low[0]], np.c_[b, low[1]], np.c_[b, high[1]], np.c_[a, high[0]]]
    return quads(np.stack(corners, axis=1), brightness, kind)


def quads(corners: Array, brightness: Array, kind: int) -> Mesh:
    """Two triangles for each of (N, 4, 3) corners in order, (N,) as bright."""
    first = 4 * np.arange(len(corners))[:, None, None]
    triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    bright = np.repeat(brightness, 2).astype(np.float32)
    return Mesh(corners.reshape(-1, 3), triangles, bright, kind)


def rectangles(xy: Array, along: Array, half: Array) -> NDArray[Any]:
    """Polygons around (N, 2) centres: (N,) headings of their length, (N, 2) half length, width."""
    c, s = np.cos(along), np.sin(along)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half[:, None, :]
    turn = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], axis=1)
    return np.asarray(shapely.polygons(corners @ turn + xy[:, None, :]), object)


def box() -> Shape:
    """From -1 to 1 in the plane, 0 to 1 in height; open below."""
    plane = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    return _frustum(plane, plane)


def cabin() -> tuple[Shape, Shape]:
    """A car's windows all around and its roof, from 0 to 1 in height, narrower above."""
    below = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
    vertices, corners = _frustum(below, below * (0.6, 0.8))
    return (vertices, corners[:-2]), (vertices, corners[-2:])


def _frustum(below: Array, above: Array) -> Shape:
    """Walls and lid of four-cornered (4, 2) outlines at heights 0 and 1; the lid comes last."""
    vertices = np.concatenate([np.c_[below, np.zeros(4)], np.c_[above, np.ones(4)]])
    sides = [[i, (i + 1) % 4, (i + 1) % 4 + 4] for i in range(4)]
    sides += [[i, (i + 1) % 4 + 4, i + 4] for i in range(4)]
    return vertices, np.array([*sides, [4, 5, 6], [4, 6, 7]], np.int64)


def prism() -> Shape:
    """Eight upright sides of radius 1 from 0 to 1 in height."""
    angle = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vertices = np.concatenate([np.c_[ring, np.zeros(8)], np.c_[ring, np.ones(8)]])
    sides = [[i, (i + 1) % 8, (i + 1) % 8 + 8] for i in range(8)]
    return vertices, np.array([*sides, *[[i, (i + 1) % 8 + 8, i + 8] for i in range(8)]], np.int64)


def copies(
    shape: Shape,
    xy: Array,
    z: Array,
    along: Array,
    scale: Array,
    brightness: Array | float,
    kind: int,
) -> Mesh:
    """N copies of a shape: scaled (N, 3), turned (N,) radians, put at (N, 2) and (N,) height."""
    vertices, triangles = shape
    count = len(xy)
    placed = _placed(vertices * scale[:, None, :], along, np.c_[xy, z])
    corners = triangles + len(vertices) * np.arange(count)[:, None, None]
    each = np.repeat(np.broadcast_to(brightness, count), len(triangles)).astype(np.float32)
    return Mesh(placed.reshape(-1, 3), corners.reshape(-1, 3), each, kind)


def _placed(vertices: Array, along: Array, centre: Array) -> Array:
    """(N, V, 3) vertices turned by (N,) radians and moved to (N, 3) centres."""
    c, s = np.cos(along)[:, None], np.sin(along)[:, None]
    turned = np.stack(
        [
            c * vertices[..., 0] - s * vertices[..., 1],
            s * vertices[..., 0] + c * vertices[..., 1],
            vertices[..., 2],
        ],
        axis=-1,
    )
    return turned + centre[:, None, :]


def leaves(
    centre: Array,
    along: Array,
    half: Array,
    round_: bool,
    per_m: Array | float,
    size: Array,
    brightness: float,
    kind: int,
    rng: np.random.Generator,
) -> Mesh:
    """Plants as triangles that hang in their volume at random, each turned at random.

    Of beams through such a volume the share exp(-per_m * metres) meets no leaf: flat leaves of area
    A, n of them in a cubic metre and turned every way, cover n A / 2 of each metre (Beer-Lambert).

    Args:
        centre: (N, 3) middles of the plants, metres.
        along: (N,) headings of their length, radians.
        half: (N, 3) half their length, width and height, metres.
        round_: Whether they fill the ellipsoid with these half axes, or the box.
        per_m: (N,) leaves met per metre.
        size: (N,) lengths of the leaves' sides, metres.
        brightness: Reflectance.
        kind: Of the triangles.
        rng: Where the leaves are.
    """
    volume = np.prod(2 * half, axis=1) * (np.pi / 6 if round_ else 1.0)
    area = np.sqrt(3) / 4 * size**2
    count = rng.poisson(volume * per_m * 2 / area)
    plant = np.repeat(np.arange(len(centre)), count)
    at = rng.uniform(-1, 1, (len(plant), 3))
    if round_:
        at = rng.standard_normal((len(plant), 3))
        at *= (rng.random(len(plant)) ** (1 / 3) / np.linalg.norm(at, axis=1))[:, None]
    middle = _placed((at * half[plant])[:, None, :], along[plant], centre[plant])
    first, second = rng.standard_normal((2, len(plant), 3))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second -= np.sum(first * second, axis=1, keepdims=True) * first
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    angle = np.arange(3) * 2 * np.pi / 3
    corner = (size / np.sqrt(3))[plant, None, None] * (
        np.cos(angle)[None, :, None] * first[:, None, :]
        + np.sin(angle)[None, :, None] * second[:, None, :]
    )
    corners = np.arange(3 * len(plant)).reshape(-1, 3)
    bright = np.full(len(plant), brightness, np.float32)
    return Mesh((middle + corner).reshape(-1, 3), corners, bright, kind)
