"""The likelihood of a query tile at a pose on the map: the score of search and alignment.

Each piece of evidence adds a log-likelihood ratio: how much more probable it is there, given the
map under it, than anywhere. For a wall observed at the signed distance d from the nearest building
edge (negative inside a building), with an angle a between its normal and the edge's, it is

    wall(d) + facing(d) cos a + line(d) cos 2a.

Free space adds free(d), ground adds ground(r) with r the distance to the nearest road, surface(r)
more on a road's surface and beside(r) beside one. The trajectory adds path(r) + course cos 2b, with
b the angle between its course and the road's. The profiles are piecewise linear. They are a
conditional logit (McFadden 1974), fitted so that the true pose is the most probable of all poses.
So they contain the errors of sensors and map, and the correlation of neighbouring cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.score.evidence import Points
from maptile_loc.score.fields import F32, FieldArrays, LikelihoodFields, in_threads

PART = 1024
"""Poses that are scored at a time, each time by a thread of its own."""

NEAR_M = 64.0
"""Side of the squares whose poses are scored together, on one part of the map, metres."""


def log_likelihood(
    poses: Array, evidence: Sequence[Points], rotation: float, fields: LikelihoodFields
) -> Array:
    """(K, P) float64 log-likelihood ratio of a tile's evidence at each pose.

    The fields are interpolated bilinearly. Evidence outside the map adds nothing.

    Args:
        poses: (K, P, 3) east, north (metres, map frame), heading (radians) of the vehicle.
        evidence: The tile's, as ``Evidence.points`` gives it.
        rotation: The tile's ``rotation``, radians.
        fields: The map's.
    """
    every = poses.reshape(-1, 3)

    def scores(start: int) -> Array:
        part = every[start : start + PART]
        return total(sample(part, evidence, rotation, fields), part[:, 2] - rotation)

    parts = in_threads(scores, range(0, len(every), PART))
    return np.concatenate([np.zeros(0), *parts]).reshape(poses.shape[:-1])


class Sample(NamedTuple):
    """The fields of one group of channels under the group's N points, at P poses.

    Attributes:
        points: The points.
        values: (C, P, N) float32, one field per channel of the group.
    """

    points: Points
    values: F32


def sample(
    poses: Array, evidence: Sequence[Points], rotation: float, fields: LikelihoodFields
) -> list[Sample]:
    """The map's fields under a tile's points, for each group that has points.

    Args:
        poses: (P, 3) east, north (metres, map frame), heading (radians) of the vehicle.
        evidence: As all that follow, as for ``log_likelihood``.
        rotation: Radians.
        fields: The map's.
    """
    seen = [points for points in evidence if len(points.xy)]
    if not seen:
        return []
    groups = together(poses, fields)
    parts = [_sampled(poses[group], seen, rotation, fields) for group in groups]
    if len(groups) == 1:
        return [Sample(points, values) for points, values in zip(seen, parts[0], strict=True)]
    order = np.argsort(np.concatenate(groups), kind="stable")
    return [
        Sample(points, np.concatenate(values, axis=1)[:, order])
        for points, values in zip(seen, zip(*parts, strict=True), strict=True)
    ]


def together(poses: Array, fields: LikelihoodFields) -> list[NDArray[np.int_]]:
    """Indices of (P, 3) poses in groups, each of which lies in one part of the map."""
    if isinstance(fields, FieldArrays) or len(poses) == 0:
        return [np.arange(len(poses))]
    square = np.floor(poses[:, :2] / NEAR_M).astype(np.int64)
    _, number = np.unique(square, axis=0, return_inverse=True)
    order = np.argsort(number.ravel(), kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number.ravel()[order])) + 1)


def part_under(
    poses: Array, evidence: Sequence[Points], fields: LikelihoodFields, margin_m: float = 0.0
) -> LikelihoodFields:
    """The part of a map under a tile's points at any of some poses, however it is turned.

    Args:
        poses: (P, 3) east, north (metres), heading.
        evidence: As for ``log_likelihood``.
        fields: The map's.
        margin_m: Metres more on each side.
    """
    farthest = max((np.hypot(*one.xy.T).max(initial=0.0) for one in evidence), default=0.0)
    at = poses[:, :2] if len(poses) else np.array([[fields.west, fields.north]])
    reach = float(farthest) + margin_m
    return fields.around(at.min(axis=0) - reach, at.max(axis=0) + reach)


def _sampled(
    poses: Array, seen: Sequence[Points], rotation: float, fields: LikelihoodFields
) -> list[F32]:
    """(C, P, N) values of each group's fields under its points, at poses near each other.

    Args:
        poses: (P, 3), as all but the following as for ``sample``.
        seen: The groups with points.
        rotation: Radians.
        fields: The map's.
    """
    part = part_under(poses, seen, fields)
    xy = np.concatenate([points.xy for points in seen])
    grid = _grid(poses, poses[:, 2] - rotation, xy, part)
    grids = torch.split(grid, [len(points.xy) for points in seen], 2)
    images = torch.from_numpy(part.channels)[None]
    return [
        _interpolated(images[:, points.group.span], grid)
        for points, grid in zip(seen, grids, strict=True)
    ]


def total(samples: Sequence[Sample], turn: Array) -> Array:
    """(P,) float64 log-likelihood ratio of all points of some samples, at each of P poses.

    Args:
        samples: Of all groups.
        turn: (P,) radians by which the tile is turned at each pose.
    """
    result = np.zeros(len(turn))
    for points, values in samples:
        group = points.group
        # (C, P, C): the sum over the points of each field times each channel.
        with np.errstate(invalid="ignore"):  # OpenBLAS may raise this flag though all is finite
            product = (values @ points.values).astype(np.float64)
        for number, channel in enumerate(group.channels):
            if channel.spin == 0:
                result += product[number, :, number]
        for a, b, spin in group.spins:
            result += np.cos(spin * turn) * (product[a, :, a] + product[b, :, b])
            result += np.sin(spin * turn) * (product[b, :, a] - product[a, :, b])
    return result


def of_each_point(one: Sample, turn: Array) -> F32:
    """(P, N) float32 log-likelihood ratio of each point of a sample, at each pose.

    Args:
        one: Of one group.
        turn: (P,) radians by which the tile is turned at each pose.
    """
    group, fields, values = one.points.group, one.values, one.points.values.T
    result = np.zeros(fields.shape[1:], np.float32)
    for number, channel in enumerate(group.channels):
        if channel.spin == 0:
            result += fields[number] * values[number]
    for a, b, spin in group.spins:
        cos, sin = (f(spin * turn).astype(np.float32)[:, None] for f in (np.cos, np.sin))
        result += fields[a] * (cos * values[a] - sin * values[b])
        result += fields[b] * (sin * values[a] + cos * values[b])
    return result


def _grid(poses: Array, turn: Array, xy: F32, fields: LikelihoodFields) -> torch.Tensor:
    """(1, P, N, 2) where a tile's points (N, 2) lie on the map at (P, 3) poses: -1..1, the edges.

    Args:
        poses: East, north (metres, map frame); the heading is not read.
        turn: (P,) radians by which the tile is turned at each pose.
        xy: Metres, in the tile's frame.
        fields: The map's.
    """
    c, s = np.cos(turn).astype(np.float32)[:, None], np.sin(turn).astype(np.float32)[:, None]
    x, y = np.ascontiguousarray(xy.T)
    # Relative to the raster's corner, float32 holds a city's coordinates to a millimetre.
    east = (poses[:, :1] - fields.west).astype(np.float32)
    south = (fields.north - poses[:, 1:2]).astype(np.float32)
    height, width = fields.shape
    grid = np.empty((1, len(poses), len(xy), 2), np.float32)
    across = c * x
    across += east
    across -= s * y
    across *= 2 / (width * fields.resolution)
    np.subtract(across, 1, out=grid[0, ..., 0])
    down = s * x
    np.subtract(south, down, out=down)
    down -= c * y
    down *= 2 / (height * fields.resolution)
    np.subtract(down, 1, out=grid[0, ..., 1])
    return torch.from_numpy(grid)


def _interpolated(image: torch.Tensor, grid: torch.Tensor) -> F32:
    """(C, P, N) values of a (1, C, H, W) image, interpolated bilinearly; 0 beyond its edges."""
    values: F32 = torch.nn.functional.grid_sample(image, grid, align_corners=False)[0].numpy()
    return values
