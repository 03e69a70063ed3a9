"""Rays cast through worlds, which are grids of free and solid cells.

Frame: the *plane*, metres east and north of any origin. Training uses the city's reference tile as
the origin, so that float32 is precise enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

FREE_CELL = 0
"""A cell without an obstacle."""
CLUTTER_CELL = 1
"""A cell with a low obstacle (a car, a bush): it stops only rays whose ``low`` is set."""
SOLID_CELL = 2
"""A cell with a high obstacle (a building, a trunk): it stops all rays."""
EDGE_CELL = 3
"""A cell on the border of the world: it stops all rays, but without a hit."""
COMPACT_EVERY = 12
"""Steps along the rays after which finished rays are removed from the computation."""


@dataclass(frozen=True)
class Worlds:
    """N variants of one city's obstacles, all with the same georeference.

    Attributes:
        cells: (N, H, W) uint8 of ``FREE_CELL``, ``CLUTTER_CELL``, ``SOLID_CELL``; the outermost
            are ``EDGE_CELL``. Row 0 is north.
        west, north: Plane coordinates of the outer corner of cell (0, 0), metres.
        resolution: Metres per cell.
        roads: (N, H, W) uint8, 1 on the surface of roads; None where no view shows roads.
    """

    cells: Tensor
    west: float
    north: float
    resolution: float
    roads: Tensor | None = None

    def free(self, world: Tensor, positions: Tensor) -> Tensor:
        """(B, T) bool: whether the cell at each position is free or holds clutter only.

        Args:
            world: (B,) int64, the variant that each tuple belongs to.
            positions: (B, T, 2) float32 east, north in metres.
        """
        return self._at(self.cells, world, positions) < SOLID_CELL

    def on_road(self, world: Tensor, positions: Tensor) -> Tensor:
        """(B, T) bool: whether each position is on a road's surface; arguments as in ``free``."""
        assert self.roads is not None
        return self._at(self.roads, world, positions) > 0

    def _at(self, grid: Tensor, world: Tensor, positions: Tensor) -> Tensor:
        """The cells of a (N, H, W) grid at positions; beyond the edge, those at the edge."""
        _, rows, columns = grid.shape
        row = ((self.north - positions[..., 1]) / self.resolution).floor().long()
        column = ((positions[..., 0] - self.west) / self.resolution).floor().long()
        row, column = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
        return grid[world[:, None], row, column]


class PlaneRays(NamedTuple):
    """Rays in the plane, all tensors (B, K).

    Attributes:
        x, y: float32 metres, the origin.
        angle: float32 radians counter-clockwise from east.
        low: bool, whether clutter stops the ray.
    """

    x: Tensor
    y: Tensor
    angle: Tensor
    low: Tensor


class RayEnds(NamedTuple):
    """Where rays end, all tensors (B, K).

    Attributes:
        distance: float32 metres to the obstacle, or the ray's reach where it meets none.
        hit: bool, whether an obstacle stopped the ray.
        inside: bool, whether the ray starts within an obstacle or off the map.
    """

    distance: Tensor
    hit: Tensor
    inside: Tensor


class GridRays(NamedTuple):
    """Rays in the units of a grid, all tensors (N,). A point of a ray is origin + k * direction.

    Attributes:
        row, column: float32, the origin.
        d_row, d_column: float32, the direction, of length 1.
        base: int64, index of the first cell of the ray's grid in the flat tensor of all grids.
    """

    row: Tensor
    column: Tensor
    d_row: Tensor
    d_column: Tensor
    base: Tensor

    def subset(self, index: Tensor) -> GridRays:
        """The rays number ``index`` (M,)."""
        return GridRays(*(part[index] for part in self))


def cast_rays(worlds: Worlds, world: Tensor, rays: PlaneRays, reach: Tensor) -> RayEnds:
    """Follow rays until an obstacle stops them.

    Args:
        worlds: The obstacles.
        world: (B,) int64, the variant per tile.
        rays: (B, K) rays.
        reach: (B, 1) metres, the greatest length of the rays.

    Returns:
        (B, K) ends; a distance is exact to half a cell.
    """
    _, rows, columns = worlds.cells.shape
    flat = worlds.cells.reshape(-1)
    step, shape = worlds.resolution, rays.x.shape
    every = GridRays(
        ((worlds.north - rays.y) / step).reshape(-1),
        ((rays.x - worlds.west) / step).reshape(-1),
        -torch.sin(rays.angle).reshape(-1),
        torch.cos(rays.angle).reshape(-1),
        (world[:, None] * (rows * columns)).expand(shape).reshape(-1),
    )
    stops = torch.where(rays.low, CLUTTER_CELL, SOLID_CELL).to(torch.uint8).reshape(-1)

    def cell(some: GridRays, k: int | Tensor) -> Tensor:
        row = (some.row + k * some.d_row).to(torch.int64).clamp_(0, rows - 1)
        column = (some.column + k * some.d_column).to(torch.int64).clamp_(0, columns - 1)
        return flat.take(row.mul_(columns).add_(column).add_(some.base))

    free = torch.zeros(stops.numel(), dtype=torch.int32, device=flat.device)
    some, index = every, torch.arange(free.numel(), device=flat.device)
    alive, steps = torch.ones_like(stops, dtype=torch.bool), torch.zeros_like(free)
    threshold = stops
    last = math.ceil(float(reach.max()) / step)
    for k in range(last + 1):
        alive &= cell(some, k) < threshold
        steps += alive
        if k % COMPACT_EVERY == COMPACT_EVERY - 1 or k == last:
            free[index] = steps
            kept = alive.nonzero().squeeze(1)
            index, steps, threshold, alive = index[kept], steps[kept], threshold[kept], alive[kept]
            some = some.subset(kept)
    distance = (free.view(shape) - 0.5) * step
    stopped_by = cell(every, free).view(shape)
    hit = (stopped_by < EDGE_CELL) & (distance < reach)
    return RayEnds(torch.minimum(distance, reach), hit, free.view(shape) == 0)
