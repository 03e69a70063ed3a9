"""A query tile as the channels that the map's likelihood is summed over.

Walls count by where they are, which way they face and which way they run; the facing is the side
that was seen free. Both are held as cosine and sine of one and of two times an angle (a Fourier
series of the angle between a seen wall and the map's), so that a place's score stays a correlation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.errors import MaptileError
from maptile_loc.types import QueryTile

F32 = NDArray[np.float32]
CHANNELS = (
    *("wall", "facing_east", "facing_north", "line_cos", "line_sin"),
    *("free", "ground", "surface", "beside", "path", "course_cos", "course_sin"),
)
SPINS = ((1, 2, 1), (3, 4, 2), (10, 11, 2))
"""Channels that turn with the tile: the first and second component, and by how many of its angle.

Lines and courses are the same from both ends, so they turn twice."""
WALL, FREE, GROUND, SURFACE, BESIDE, PATH = 0, 5, 6, 7, 8, 9
"""Where these channels, or groups of them, begin; those before the path are the tile's cells."""
NEIGHBOURHOOD_M = 3.5
WORTH = 0.7
"""What a wall cell tells is its evidence to this power: a doubtful one tells more than its share.
Of 0.6, 0.7, 0.8 and 1, with this the truth of simulated drives is likeliest."""
LOOK_M = 50.0
"""A way so long tells about roads once more than a point does."""


@dataclass(frozen=True)
class Evidence:
    """What a query tile says, at some resolution.

    Attributes:
        images: (9, S, S) float32, the first of ``CHANNELS``: square metres of full evidence in each
            cell, those of walls times the cosine or sine of their angles.
        path: (P, 2) float32 metres, where the vehicle was, in the tile's frame.
        looks: (P, 3) float32: what each of these counts, and that times cosine and sine of twice
            the course there.
        resolution: Metres per cell.
    """

    images: F32
    path: F32
    looks: F32
    resolution: float


class Points(NamedTuple):
    """Some channels of evidence as points.

    Attributes:
        first: Index of the first of the channels.
        xy: (N, 2) float32 metres in the tile's frame.
        values: (N, C) float32.
    """

    first: int
    xy: F32
    values: F32


def make_evidence(tile: QueryTile, resolution: float) -> Evidence:
    """Sum a tile's cells up to ``resolution`` (a multiple of the tile's)."""
    k = round(resolution / tile.resolution)
    if abs(k * tile.resolution - resolution) > 1e-6 * resolution or tile.size % (4 * k):
        raise MaptileError(
            f"query tiles of {tile.size} pixels of {tile.resolution:g} m do not fit cells of "
            f"{resolution:g} m; see query.resolution, query.size_m and match.resolution"
        )
    wall = tile.wall**WORTH
    free = tile.observed * (1 - wall)
    east, north, straight = facing(wall, free, tile.resolution)
    line = wall * straight
    road = np.zeros_like(wall) if tile.road is None else tile.road
    images = [
        *(wall, wall * east, wall * north),
        *(line * (east**2 - north**2), line * 2 * east * north),
        *(free, tile.ground, np.maximum(road, 0), np.maximum(-road, 0)),
    ]
    area = np.float32(tile.resolution**2)
    summed = np.stack([_summed(image.astype(np.float32), k) * area for image in images])
    return Evidence(summed, tile.path, _looks(tile.path), resolution)


def facing(wall: F32, free: F32, resolution: float) -> tuple[F32, F32, F32]:
    """The way that each cell's wall faces: (S, S) east, north of a unit vector, and 0..1.

    The last is how straight the wall is there. Across the wall is the lesser axis of the evidence
    around a cell; which of its ends the wall faces is where more was seen free.
    """
    window = 2 * round(NEIGHBOURHOOD_M / resolution / 2 - 0.5) + 1
    var_x, var_y, covariance = spread(wall, window, resolution, 1e-9)
    half, root = (var_x + var_y) / 2, np.hypot((var_x - var_y) / 2, covariance)
    along = np.arctan2(2 * covariance, var_x - var_y) / 2
    across = -np.sin(along), np.cos(along)
    smooth = ndimage.gaussian_filter(free.astype(np.float64), window / 3)
    uphill = across[0] * ndimage.sobel(smooth, 1) - across[1] * ndimage.sobel(smooth, 0)
    side = np.sign(uphill)
    straight = np.clip(root / np.maximum(half, 0.3 * resolution**2), 0, 1)
    # Where neither side is freer the wall faces nowhere.
    return tuple(v.astype(np.float32) for v in (side * across[0], side * across[1], straight))  # type: ignore[return-value]


def spread(
    weight: NDArray[np.floating], window: int, resolution: float, least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Variance east, variance north and covariance (m2) of the weight in a square around each cell.

    Args:
        weight: (H, W), row 0 is north.
        window: Cells along the square's side.
        resolution: Metres per cell.
        least: Mean weight below which there is taken to be no more than that.
    """
    x = np.arange(weight.shape[1])[None] * resolution
    y = -np.arange(weight.shape[0])[:, None] * resolution

    def mean(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return ndimage.uniform_filter(values.astype(np.float64), window, mode="constant")

    total = np.maximum(mean(weight), least)
    mean_x, mean_y = mean(weight * x) / total, mean(weight * y) / total
    var_x, var_y = (
        mean(weight * x * x) / total - mean_x**2,
        mean(weight * y * y) / total - mean_y**2,
    )
    return var_x, var_y, mean(weight * x * y) / total - mean_x * mean_y


def _looks(path: F32) -> F32:
    """What each point of the way counts: the points tell nearly the same."""
    if len(path) == 0:
        return np.zeros((0, 3), np.float32)
    step = np.diff(path, axis=0, append=path[-1:])
    step[-1] = step[-2] if len(path) > 1 else 0
    length = np.hypot(*step.T)
    weight = (1 + length[:-1].sum() / LOOK_M) / len(path)
    course = 2 * np.arctan2(step[:, 1], step[:, 0])
    moving = length > 0.5
    looks = [np.ones(len(path)), moving * np.cos(course), moving * np.sin(course)]
    return (weight * np.column_stack(looks)).astype(np.float32)


def points(evidence: Evidence) -> list[Points]:
    """The evidence as points: walls by cell, the rest by some cells together, and the way."""
    walls = evidence.images[WALL:FREE]
    groups = [_nonzero(WALL, walls, np.abs(walls[0]) > 0, evidence.resolution)]
    for first, k in ((FREE, 4), (GROUND, 4), (SURFACE, 2), (BESIDE, 2)):
        coarse = _summed(evidence.images[first : first + 1], k)
        groups.append(_nonzero(first, coarse, coarse[0] > 0, k * evidence.resolution))
    return [*groups, Points(PATH, evidence.path, evidence.looks)]


def turned(
    evidence: Evidence, turns: NDArray[np.float64], resolution: float, device: torch.device
) -> torch.Tensor:
    """(T, 12, S, S) channels of evidence turned counter-clockwise by (T,) ``turns`` radians.

    ``resolution`` is that of the result, a multiple of the evidence's.
    """
    turn = torch.tensor(turns, dtype=torch.float32, device=device)
    c, s, zero = torch.cos(turn), torch.sin(turn), torch.zeros_like(turn)
    images = torch.from_numpy(evidence.images).to(device)
    if len(turns) == 1 and turns[0] == 0.0:
        images = images[None]
    else:
        # Maps the output's (x right, y down) to where in the input it comes from.
        rows = torch.stack([torch.stack([c, -s, zero], 1), torch.stack([s, c, zero], 1)], 1)
        size = [len(turns), *images.shape]
        grid = torch.nn.functional.affine_grid(rows, size, align_corners=False)
        images = torch.nn.functional.grid_sample(images.expand(size), grid, align_corners=False)
    k = round(resolution / evidence.resolution)
    if k > 1:
        images = torch.nn.functional.avg_pool2d(images, k) * k**2
    side = images.shape[-1]
    xy = torch.from_numpy(evidence.path).to(device)
    column = torch.floor((c[:, None] * xy[:, 0] - s[:, None] * xy[:, 1]) / resolution + side / 2)
    row = torch.floor(side / 2 - (s[:, None] * xy[:, 0] + c[:, None] * xy[:, 1]) / resolution)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    cell = (row * side + column).long().clamp(0, side * side - 1)
    looks = torch.from_numpy(evidence.looks).to(device).T
    way = torch.zeros(3, len(turns), side * side, device=device)
    for channel, value in zip(way, looks, strict=True):
        channel.scatter_add_(1, cell, value * inside)
    channels = torch.cat([images, way.reshape(3, -1, side, side).transpose(0, 1)], 1)
    for first, second, spin in SPINS:
        a, b = channels[:, first].clone(), channels[:, second]
        cos, sin = (f(spin * turn)[:, None, None] for f in (torch.cos, torch.sin))
        channels[:, first], channels[:, second] = cos * a - sin * b, sin * a + cos * b
    return channels


def _summed(values: F32, k: int) -> F32:
    """(..., S, S) -> (..., S / k, S / k) sums of blocks."""
    side = values.shape[-1] // k
    return values.reshape(*values.shape[:-2], side, k, side, k).sum(axis=(-3, -1))


def _nonzero(first: int, images: F32, which: NDArray[np.bool_], resolution: float) -> Points:
    row, column = np.nonzero(which)
    half = which.shape[-1] / 2
    xy = np.column_stack([column + 0.5 - half, half - row - 0.5]) * resolution
    return Points(first, xy.astype(np.float32), images[:, row, column].T.copy())
