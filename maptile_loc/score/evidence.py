"""The evidence of a query tile: one image per channel of the table, and the trajectory's points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.errors import MaptileError
from data_prep.geometry import Array
from maptile_loc.score.channels import (
    CELL_CHANNELS,
    CELL_GROUPS,
    CHANNELS,
    PATH_GROUP,
    SPINS,
    Group,
    PathPoints,
    TileCells,
    index,
)
from maptile_loc.score.settings import EvidenceSettings
from maptile_loc.score.surroundings import central_moments, local_means
from maptile_loc.types import QueryTile

F32 = NDArray[np.float32]
MOVING_M = 0.5
"""Shortest step between two points of the trajectory that has a course."""


class Points(NamedTuple):
    """One group of channels as points.

    Attributes:
        group: Row group of the table.
        xy: (N, 2) float32 metres, in the tile's frame.
        values: (N, C) float32, a column per channel of the group.
    """

    group: Group
    xy: F32
    values: F32


@dataclass(frozen=True)
class Evidence:
    """The evidence of a query tile at some resolution.

    Attributes:
        images: (C, S, S) float32, one per row of ``CELL_CHANNELS``: square metres of full evidence
            in each cell, times the cosine or sine where the channel is a direction.
        path: (P, 2) float32 metres, the trajectory in the tile's frame.
        path_values: (P, 3) float32, one column per channel of the trajectory's group.
        resolution: Metres per cell.
    """

    images: F32
    path: F32
    path_values: F32
    resolution: float

    def total(self, name: str) -> float:
        """Sum of the image of channel ``name``, square metres: evidence times area."""
        return float(self.images[index(name)].sum(dtype=np.float64))

    @cached_property
    def points(self) -> tuple[Points, ...]:
        """The evidence as points, by group: blocks of cells that are not empty; the trajectory."""
        groups = []
        for group in CELL_GROUPS:
            assert group.block is not None
            images = _summed(self.images[group.span], group.block)
            groups.append(_nonzero(group, images, group.block * self.resolution))
        return (*groups, Points(PATH_GROUP, self.path, self.path_values))


def make_evidence(
    tile: QueryTile, resolution: float, settings: EvidenceSettings | None = None
) -> Evidence:
    """The evidence of a query tile, summed over cells of ``resolution`` metres.

    Args:
        tile: The query tile.
        resolution: Metres per cell of the evidence, a multiple of the tile's.
        settings: How cells become evidence; None: the defaults.

    Raises:
        MaptileError: ``resolution`` is no multiple of the tile's, or the tile's side is no multiple
            of four such cells.
    """
    settings = settings or EvidenceSettings()
    k = round(resolution / tile.resolution)
    if abs(k * tile.resolution - resolution) > 1e-6 * resolution or tile.size % (4 * k):
        raise MaptileError(
            f"query tiles of {tile.size} pixels of {tile.resolution:g} m do not fit cells of "
            f"{resolution:g} m; see query.resolution, query.size_m and search.resolution"
        )
    free = tile.observed * (1 - tile.wall)
    normal = facing(tile.wall, free, tile.resolution, settings.neighbourhood_m)
    road = np.zeros_like(tile.wall) if tile.road is None else tile.road
    cells = TileCells(tile.wall, *normal, free, tile.ground, road)
    area = np.float32(tile.resolution**2)
    summed = [
        _summed(channel.source(cells).astype(np.float32, copy=False), k) * area
        for channel in CELL_CHANNELS
    ]
    return Evidence(
        np.stack(summed), tile.path, _path_values(tile.path, settings.path_m), resolution
    )


def facing(wall: F32, free: F32, resolution: float, neighbourhood_m: float) -> tuple[F32, F32, F32]:
    """The normal of the wall in each cell, and how straight the wall is there.

    The normal is the minor principal axis of the wall evidence in the neighbourhood. It points to
    the side on which more cells were seen free.

    Args:
        wall: (S, S) wall evidence.
        free: (S, S) evidence of free space.
        resolution: Metres per cell.
        neighbourhood_m: Side of the neighbourhood, metres.

    Returns:
        (S, S) float32 east and north of the unit normal, 0 where neither side is freer, and 0..1
        the straightness; all 0 in cells without wall evidence.
    """
    east, north, straightness = np.zeros((3, *wall.shape), np.float32)
    cell = np.nonzero(wall != 0)
    if len(cell[0]) == 0:
        return east, north, straightness
    window = 2 * round(neighbourhood_m / resolution / 2 - 0.5) + 1
    rows, columns = (
        _part(index, 2 * window, size) for index, size in zip(cell, wall.shape, strict=True)
    )
    at = cell[0] - rows.start, cell[1] - columns.start
    means = local_means(wall[rows, columns], window, resolution, rows.start, columns.start)
    var_x, var_y, covariance = central_moments([mean[at] for mean in means], 1e-9)
    half, root = (var_x + var_y) / 2, np.hypot((var_x - var_y) / 2, covariance)
    along = np.arctan2(2 * covariance, var_x - var_y) / 2
    across = -np.sin(along), np.cos(along)
    smooth = ndimage.gaussian_filter(free[rows, columns].astype(np.float64), window / 3)
    slope = _slope(smooth, *at)
    side = np.sign(across[0] * slope[0] + across[1] * slope[1])
    straight = np.clip(root / np.maximum(half, 0.3 * resolution**2), 0, 1)
    east[cell], north[cell], straightness[cell] = side * across[0], side * across[1], straight
    return east, north, straightness


def _part(index: NDArray[np.int_], margin: int, size: int) -> slice:
    """The range of some indices and of ``margin`` more on either side, within 0..size."""
    return slice(max(int(index.min()) - margin, 0), min(int(index.max()) + margin + 1, size))


def _slope(values: Array, row: NDArray[np.int_], column: NDArray[np.int_]) -> tuple[Array, Array]:
    """(N,) slopes to the east and to the north in some cells of an image, as by Sobel's filter.

    Args:
        values: (H, W), row 0 is north; continued beyond its edges by its outermost cells.
        row: (N,) rows of the cells.
        column: (N,) columns.
    """
    rows = [np.clip(row + step, 0, values.shape[0] - 1) for step in (-1, 0, 1)]
    columns = [np.clip(column + step, 0, values.shape[1] - 1) for step in (-1, 0, 1)]
    (nw, n, ne), (w, _, e), (sw, s, se) = ([values[r, c] for c in columns] for r in rows)
    return 2 * (e - w) + ((ne - nw) + (se - sw)), -(2 * (s - n) + ((sw - nw) + (se - ne)))


def turned(
    evidence: Evidence, turns: Array, resolution: float, device: torch.device
) -> torch.Tensor:
    """(T, C, S, S) images of all channels, turned counter-clockwise.

    Args:
        evidence: The tile's.
        turns: (T,) radians.
        resolution: Metres per cell of the result, a multiple of the evidence's.
        device: Where to compute.
    """
    turn = torch.tensor(turns, dtype=torch.float32, device=device)
    c, s = torch.cos(turn), torch.sin(turn)
    images = torch.from_numpy(evidence.images).to(device)
    k = round(resolution / evidence.resolution)
    side = images.shape[-1] // k
    channels = torch.zeros((len(turns), len(CHANNELS), side, side), device=device)
    if len(turns) == 1 and turns[0] == 0.0:
        rim, images = 0, images[None]
    else:
        rim = _rim(evidence.images) // k
        images = _turned_images(images, c, s, rim * k)
    inner = slice(rim, side - rim)
    sums = torch.nn.functional.avg_pool2d(images, k, divisor_override=1)
    channels[:, : len(CELL_CHANNELS), inner, inner] = sums
    xy = torch.from_numpy(evidence.path).to(device)
    column = torch.floor((c[:, None] * xy[:, 0] - s[:, None] * xy[:, 1]) / resolution + side / 2)
    row = torch.floor(side / 2 - (s[:, None] * xy[:, 0] + c[:, None] * xy[:, 1]) / resolution)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    cell = (row * side + column).long().clamp(0, side * side - 1)
    values = torch.from_numpy(evidence.path_values).to(device).T
    for number, value in enumerate(values, PATH_GROUP.first):
        channels[:, number].view(len(turns), -1).scatter_add_(1, cell, value * inside)
    for first, second, spin in SPINS:
        a, b = channels[:, first].clone(), channels[:, second]
        cos, sin = (f(spin * turn)[:, None, None] for f in (torch.cos, torch.sin))
        channels[:, first], channels[:, second] = cos * a - sin * b, sin * a + cos * b
    return channels


def _rim(images: F32) -> int:
    """Number of cells along each edge of (C, S, S) images that no turn brings evidence to."""
    half = images.shape[-1] / 2
    row, column = np.nonzero(images.any(axis=0))
    farthest = np.hypot(row + 0.5 - half, column + 0.5 - half).max(initial=0.0)
    # Interpolation spreads a cell to those whose centres are less than a diagonal away.
    return max(int(half - farthest - 1.5), 0)


def _turned_images(
    images: torch.Tensor, c: torch.Tensor, s: torch.Tensor, rim: int
) -> torch.Tensor:
    """(T, C, S - 2 rim, S - 2 rim) inner part of (C, S, S) images, turned counter-clockwise.

    Args:
        images: Row 0 is north.
        c: (T,) cosines of the turns.
        s: (T,) sines.
        rim: Cells along each edge that are left out.
    """
    size = images.shape[-1]
    x = (torch.arange(rim, size - rim, device=images.device) + 0.5) * (2 / size) - 1
    y, c, s = x[:, None], c[:, None, None], s[:, None, None]
    # From the output's x (right) and y (down), -1..1, to the input's.
    grid = torch.stack([c * x - s * y, s * x + c * y], -1)
    every = images.expand(len(grid), -1, -1, -1)
    return torch.nn.functional.grid_sample(every, grid, align_corners=False)


def _path_values(path: F32, path_m: float) -> F32:
    """(P, 3) float32 values of the trajectory's channels at each of its (P, 2) points."""
    if len(path) == 0:
        return np.zeros((0, len(PATH_GROUP.channels)), np.float32)
    step = np.diff(path, axis=0, append=path[-1:])
    step[-1] = step[-2] if len(path) > 1 else 0
    length = np.hypot(*step.T)
    weight = (1 + length[:-1].sum() / path_m) / len(path)
    course = 2 * np.arctan2(step[:, 1], step[:, 0])
    moving = length > MOVING_M
    points = PathPoints(np.ones(len(path)), moving * np.cos(course), moving * np.sin(course))
    columns = [channel.source(points) for channel in PATH_GROUP.channels]
    return (weight * np.column_stack(columns)).astype(np.float32)


def _summed(values: F32, k: int) -> F32:
    """(..., S, S) -> (..., S / k, S / k) sums of blocks."""
    if k == 1:
        return values
    rows = values[..., ::k, :].copy()
    for row in range(1, k):
        rows += values[..., row::k, :]
    sums = rows[..., ::k].copy()
    for column in range(1, k):
        sums += rows[..., column::k]
    return sums


def _nonzero(group: Group, images: F32, resolution: float) -> Points:
    """The cells in which the group's first channel is not 0."""
    row, column = np.nonzero(images[0] != 0)
    half = images.shape[-1] / 2
    xy = np.column_stack([column + 0.5 - half, half - row - 0.5]) * resolution
    return Points(group, xy.astype(np.float32), images[:, row, column].T.copy())
