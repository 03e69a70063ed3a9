"""Triangle meshes of simple objects, many at a time: panels, boxes, prisms, cars, leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.simulate.scene.surfaces import Surface

Shape = tuple[Array, NDArray[np.int64]]
"""(V, 3) vertices and (T, 3) vertex indices of the triangles of one object at the origin."""

_SQUARE = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64)
"""(4, 2) corners of the square from -1 to 1, counter-clockwise."""


_ROUNDED = np.array(
    [[0.8, -1], [1, -0.6], [1, 0.6], [0.8, 1], [-0.8, 1], [-1, 0.6], [-1, -0.6], [-0.8, -1]]
)
"""(8, 2) corners of the same square with its corners cut, counter-clockwise."""


@dataclass(frozen=True)
class Mesh:
    """Triangles of one surface class, in the map frame.

    Attributes:
        vertices: (V, 3) east, north, height, metres.
        triangles: (T, 3) int64 indices into ``vertices``.
        reflectance: (T,) float32, 0 to 1.
        kind: The surface class of all triangles.
        wall: (T,) int32, row of ``Facades`` that each triangle belongs to; None: no facade.
    """

    vertices: Array
    triangles: NDArray[np.int64]
    reflectance: NDArray[np.float32]
    kind: Surface
    wall: NDArray[np.int32] | None = None


def panels(
    a: Array, b: Array, bottom: Array, top: Array, reflectance: Array, kind: Surface
) -> Mesh:
    """Return N vertical panels.

    Args:
        a: (N, 2) one end of each panel, east, north, metres.
        b: (N, 2) the other end.
        bottom: (N,) height of the lower edge, metres; or (N, 2), at ``a`` and at ``b``.
        top: (N,) or (N, 2) height of the upper edge.
        reflectance: (N,) 0 to 1.
        kind: Surface class.
    """
    low, high = (np.broadcast_to(np.transpose(z), (2, len(a))) for z in (bottom, top))
    corners = [np.c_[a, low[0]], np.c_[b, low[1]], np.c_[b, high[1]], np.c_[a, high[0]]]
    return quads(np.stack(corners, axis=1), reflectance, kind)


def quads(corners: Array, reflectance: Array, kind: Surface) -> Mesh:
    """Return N quadrilaterals as two triangles each.

    Args:
        corners: (N, 4, 3) corners in order around each quadrilateral, metres.
        reflectance: (N,) 0 to 1.
        kind: Surface class.
    """
    first = 4 * np.arange(len(corners))[:, None, None]
    triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    each = np.repeat(reflectance, 2).astype(np.float32)
    return Mesh(corners.reshape(-1, 3), triangles, each, kind)


def rectangles(xy: Array, along: Array, half: Array) -> NDArray[Any]:
    """Return (N,) rectangles as polygons.

    Args:
        xy: (N, 2) centres, metres.
        along: (N,) headings of their length, radians counter-clockwise from east.
        half: (N, 2) half of their length and width, metres.
    """
    c, s = np.cos(along), np.sin(along)
    corners = _SQUARE * half[:, None, :]
    turn = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], axis=1)
    return np.asarray(shapely.polygons(corners @ turn + xy[:, None, :]), object)


def box() -> Shape:
    """Return a box from -1 to 1 in the plane and 0 to 1 in height, open below."""
    return _loft(_SQUARE, ((0, 1, 1), (1, 1, 1)))


def hull() -> Shape:
    """Return the body of a car without its cabin, rounded, from 0 to 1 in height, open below."""
    return _loft(_ROUNDED, ((0, 0.96, 0.95), (0.5, 1, 1), (0.85, 0.98, 0.97), (1, 0.92, 0.86)))


def cabin() -> tuple[Shape, Shape]:
    """Return the windows and the roof of a car, from 0 to 1 in height, narrower above, rounded."""
    vertices, corners = _loft(
        _ROUNDED, ((0, 1, 1), (0.72, 0.7, 0.87), (0.93, 0.6, 0.78), (1, 0.45, 0.55))
    )
    windows = 2 * len(_ROUNDED)
    return (vertices, corners[:windows]), (vertices, corners[windows:])


def _loft(outline: Array, levels: tuple[tuple[float, float, float], ...]) -> Shape:
    """Return the sides between copies of an outline and, last, the lid on the uppermost.

    Args:
        outline: (K, 2) corners, counter-clockwise around a convex shape.
        levels: Height, and factors of the length and the width, of each copy.
    """
    count = len(outline)
    vertices = np.concatenate(
        [np.c_[outline * (length, width), np.full(count, z)] for z, length, width in levels]
    )
    one = np.arange(count)
    other = (one + 1) % count
    sides = [
        np.concatenate([np.c_[one, other, other + count], np.c_[one, other + count, one + count]])
        + count * level
        for level in range(len(levels) - 1)
    ]
    fan = np.arange(1, count - 1)
    lid = np.c_[0 * fan, fan, fan + 1] + count * (len(levels) - 1)
    return vertices, np.concatenate([*sides, lid]).astype(np.int64)


def prism() -> Shape:
    """Return the sides of an octagonal prism of radius 1 from 0 to 1 in height."""
    angle = np.arange(8) * np.pi / 4
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vertices, corners = _loft(ring, ((0, 1, 1), (1, 1, 1)))
    return vertices, corners[: 2 * len(ring)]


def copies(
    shape: Shape,
    xy: Array,
    z: Array,
    along: Array,
    scale: Array,
    reflectance: Array | float,
    kind: Surface,
) -> Mesh:
    """Return N copies of a shape.

    Args:
        shape: The shape at the origin.
        xy: (N, 2) where each copy's origin is, metres.
        z: (N,) its height, metres.
        along: (N,) heading of its x axis, radians counter-clockwise from east.
        scale: (N, 3) factors along its axes, before the turn.
        reflectance: (N,) or one for all, 0 to 1.
        kind: Surface class.
    """
    vertices, triangles = shape
    count = len(xy)
    placed = _placed(vertices * scale[:, None, :], along, np.c_[xy, z])
    corners = triangles + len(vertices) * np.arange(count)[:, None, None]
    each = np.repeat(np.broadcast_to(reflectance, count), len(triangles)).astype(np.float32)
    return Mesh(placed.reshape(-1, 3), corners.reshape(-1, 3), each, kind)


def _placed(vertices: Array, along: Array, centre: Array) -> Array:
    """Return (N, V, 3) vertices turned by (N,) radians about z and moved to (N, 3) centres."""
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
    hollow: Array | float,
    reflectance: float,
    kind: Surface,
    rng: np.random.Generator,
) -> Mesh:
    """Return plants as equilateral triangles at random positions and orientations.

    The share exp(-per_m * d) of the beams passes d metres of a plant (Beer-Lambert law). Flat
    leaves with random orientations have a mean projected area of half their area (Ross' G function
    of the spherical leaf angle distribution), so that n leaves of area A per cubic metre give
    per_m = n A / 2.

    Args:
        centre: (N, 3) centres of the plants, metres.
        along: (N,) headings of their length, radians counter-clockwise from east.
        half: (N, 3) half of their length, width and height, metres.
        round_: Whether leaves fill the ellipsoid with these half axes, or the box.
        per_m: (N,) or one for all, extinction coefficient, per metre.
        size: (N,) side of a leaf, metres.
        hollow: (N,) or one for all, size of the core without leaves, as a share of the plant's.
        reflectance: Of all leaves, 0 to 1.
        kind: Surface class.
        rng: Draws the leaves.
    """
    volume = np.prod(2 * half, axis=1) * (np.pi / 6 if round_ else 1.0)
    area = np.sqrt(3) / 4 * size**2
    core = np.broadcast_to(hollow, len(centre)) ** 3
    count = rng.poisson(volume * (1 - core) * per_m * 2 / area)
    plant = np.repeat(np.arange(len(centre)), count)
    at = rng.standard_normal((len(plant), 3)) if round_ else rng.uniform(-1, 1, (len(plant), 3))
    # Uniform in volume outside the core: the cube of the distance to the centre is uniform.
    away = np.linalg.norm(at, axis=1) if round_ else np.abs(at).max(axis=1)
    share = core[plant] + rng.random(len(plant)) * (1 - core[plant])
    at *= (share ** (1 / 3) / away)[:, None]
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
    each = np.full(len(plant), reflectance, np.float32)
    return Mesh((middle + corner).reshape(-1, 3), corners, each, kind)
