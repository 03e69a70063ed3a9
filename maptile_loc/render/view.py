"""What a vehicle at a place would see of the map: the renderer of training tiles.

A vehicle travels a short path through the tile's centre and looks around with many rays, each from
its own point of the path. A ray ends at the first solid thing; what it crosses is seen to be free.
The result has the look of ``result.QueryTile``: wall evidence, ground, observed.

Frames: the *plane* is metres east, north of any origin (training uses the city's reference tile, so
float32 is enough). The *tile* frame has its origin at the tile's centre; its x axis points at
``angle`` (radians counter-clockwise from east), 0 for a north-up tile. Row 0 is the tile's +y side.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from data_prep.settings import Settings
from maptile_loc.types import QueryTile

WALL, GROUND, OBSERVED = range(3)
"""Channels of a rendered tile."""

FREE, CLUTTER, SOLID, EDGE = range(4)
"""What a cell of a world holds. Clutter (cars, bushes) stops only the rays that look low."""

Draw = Callable[..., Tensor]
"""``draw(low, high, *shape)`` gives (B, *shape) random numbers."""

_GOLDEN = (math.sqrt(5) - 1) / 2
_COMPACT_EVERY = 12  # steps after which rays that have ended are dropped from the work


class ViewSettings(Settings):
    """How a tile is seen, and how what is seen differs from the map.

    Shares are probabilities per tile or per ray; every noise can be turned off (``without_noise``).
    """

    size_px: int = Field(64, ge=8)
    resolution: float = Field(1.5, gt=0)
    travel_m: float = Field(50.0, ge=0)
    range_m: float = Field(50.0, gt=0)
    rays: int = Field(512, ge=8)
    line_scanner: float = Field(0.5, ge=0, le=1)
    """Share of tiles seen by scanners that look across the track, not all around."""
    short_travel: float = Field(0.15, ge=0, le=1)
    """Share of tiles whose path is shorter than ``travel_m``, as at a drive's ends."""
    low_rays: float = Field(0.4, ge=0, le=1)
    """Share of rays that clutter stops."""
    range_loss: float = Field(0.4, ge=0, lt=1)
    """The largest share by which a tile's range falls short of ``range_m``."""
    ground_range: tuple[float, float] = (8.0, 30.0)
    """Metres up to which ground is seen, from the worst tile to the best."""
    drop_rays: float = Field(0.3, ge=0, lt=1)
    """The largest share of a tile's rays that see nothing."""
    depth_noise_m: float = Field(0.5, ge=0)
    """Standard deviation of a hit along its ray: relief of walls, drift within the submap."""
    missing_walls: float = Field(0.25, ge=0, lt=1)
    """The largest share of a tile's area where wall evidence is missing, in connected pieces."""
    spurious: float = Field(0.02, ge=0, lt=1)
    """The largest share of a tile's observed pixels with wall evidence that the map lacks."""
    wall_gain: tuple[float, float] = (0.5, 4.0)
    """Evidence per ray that hits a pixel (it saturates), from the faintest tile to the firmest."""
    angle_noise_deg: float = Field(1.0, ge=0)
    """Standard deviation of the tile's direction: a known heading is not exact."""

    @property
    def size_m(self) -> float:
        """Metres along a tile's side."""
        return self.size_px * self.resolution

    def without_noise(self) -> ViewSettings:
        """The same view where everything is seen exactly as it is."""
        exact = {
            "short_travel": 0.0,
            "low_rays": 0.0,
            "range_loss": 0.0,
            "ground_range": (self.range_m, self.range_m),
            "drop_rays": 0.0,
            "depth_noise_m": 0.0,
            "missing_walls": 0.0,
            "spurious": 0.0,
            "wall_gain": (20.0, 20.0),
            "angle_noise_deg": 0.0,
        }
        return self.model_copy(update=exact)


@dataclass(frozen=True)
class Worlds:
    """Variants of one city's ground, all with the same georeference.

    Attributes:
        cells: (W, H, N) uint8 of ``FREE``, ``CLUTTER``, ``SOLID``; the outermost are ``EDGE``.
        west, north: Plane coordinates of the outer corner of cell (0, 0), metres.
        resolution: Metres per cell.
    """

    cells: Tensor
    west: float
    north: float
    resolution: float

    def free(self, world: Tensor, places: Tensor) -> Tensor:
        """(B, T) bool: nothing solid, nor the map's edge, at (B, T, 2) places of (B,) worlds."""
        _, rows, columns = self.cells.shape
        row = ((self.north - places[..., 1]) / self.resolution).floor().long().clamp(0, rows - 1)
        column = ((places[..., 0] - self.west) / self.resolution).floor().long()
        return self.cells[world[:, None], row, column.clamp(0, columns - 1)] < SOLID


class Rays(NamedTuple):
    """Rays in the plane, all tensors (B, K).

    Attributes:
        x, y: float32 metres, the origin.
        angle: float32 radians counter-clockwise from east.
        low: bool, clutter stops the ray.
    """

    x: Tensor
    y: Tensor
    angle: Tensor
    low: Tensor


class Hits(NamedTuple):
    """Where rays end, all tensors (B, K).

    Attributes:
        distance: float32 metres to what stopped the ray, or how far it could see.
        hit: bool, something solid or clutter stopped it.
        inside: bool, it starts within something solid or off the map, and sees nothing.
    """

    distance: Tensor
    hit: Tensor
    inside: Tensor


def render(
    worlds: Worlds,
    world: Tensor,
    paths: Tensor,
    centre: Tensor,
    angle: Tensor,
    settings: ViewSettings,
    generator: torch.Generator,
) -> Tensor:
    """Render what is seen from paths.

    Args:
        worlds: The ground that is looked at.
        world: (B,) int64, which variant each tile looks at.
        paths: (B, P, 2) float32 plane metres, P >= 2 points along the travelled paths, about
            ``settings.travel_m`` long.
        centre: (B, 2) float32 plane metres, the tiles' centres.
        angle: (B,) float32 radians, the direction of the tiles' x axes from east; 0 is north-up.
        settings: The view and its noise.
        generator: Source of all randomness, on the device of the worlds.

    Returns:
        (B, 3, S, S) float32 in 0..1: wall evidence, ground, observed.
    """
    batch, device = len(paths), paths.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, device=device)

    rays = _rays(paths, settings, uniform)
    reach = settings.range_m * uniform(1 - settings.range_loss, 1, 1)
    hits = cast(worlds, world, rays, reach)
    kept = uniform(0, 1, settings.rays) >= uniform(0, settings.drop_rays, 1)
    ground_reach = torch.minimum(hits.distance, uniform(*settings.ground_range, 1))
    # A ray that meets nothing tells of free ground only as far as ground gives echoes.
    crossed = torch.where(hits.hit, hits.distance, ground_reach)
    depth = hits.distance + settings.depth_noise_m * normal(settings.rays)

    turned = angle + math.radians(settings.angle_noise_deg) * normal()
    seeing = (kept & ~hits.inside).flatten().nonzero().squeeze(1)
    walk = _in_tile(rays, seeing, centre, turned, settings)
    ground_reach, crossed = ground_reach.flatten()[seeing], crossed.flatten()[seeing]
    ground, beyond = _mark(walk, ground_reach, crossed, batch, settings)
    struck = _count(walk, depth.flatten()[seeing], hits.hit.flatten()[seeing], batch, settings)
    faint, firm = settings.wall_gain
    gain = torch.exp(uniform(math.log(faint), math.log(firm), 1, 1))
    wall = 1 - torch.exp(-gain * struck)
    if settings.missing_walls > 0:
        wall = wall * _remaining(settings, uniform)
    observed = torch.maximum(torch.maximum(ground, beyond), (wall > 0).float())
    if settings.spurious > 0:
        size = (settings.size_px, settings.size_px)
        wrong = uniform(0, 1, *size) < uniform(0, settings.spurious, 1, 1)
        wall = torch.maximum(wall, wrong * observed * uniform(0.2, 1, 1, 1))
    return torch.stack([wall, ground * (1 - wall), observed], dim=1)


def cast(worlds: Worlds, world: Tensor, rays: Rays, reach: Tensor) -> Hits:
    """Follow rays until something stops them.

    Args:
        worlds: The ground.
        world: (B,) int64 variant per tile.
        rays: (B, K) rays in the plane.
        reach: (B, 1) metres that the rays go at most.

    Returns:
        The hits; a distance is exact to half a cell.
    """
    _, rows, columns = worlds.cells.shape
    flat = worlds.cells.reshape(-1)
    step, shape = worlds.resolution, rays.x.shape
    # Everything in cells: sample k of a ray is at its origin + k * its direction.
    every = _Walk(
        ((worlds.north - rays.y) / step).reshape(-1),
        ((rays.x - worlds.west) / step).reshape(-1),
        -torch.sin(rays.angle).reshape(-1),
        torch.cos(rays.angle).reshape(-1),
        (world[:, None] * (rows * columns)).expand(shape).reshape(-1),
    )
    needs = torch.where(rays.low, CLUTTER, SOLID).to(torch.uint8).reshape(-1)

    def cell(walk: _Walk, k: int | Tensor) -> Tensor:
        row = (walk.row + k * walk.d_row).to(torch.int64).clamp_(0, rows - 1)
        column = (walk.column + k * walk.d_column).to(torch.int64).clamp_(0, columns - 1)
        return flat.take(row.mul_(columns).add_(column).add_(walk.base))

    free = torch.zeros(needs.numel(), dtype=torch.int32, device=flat.device)
    walk, index = every, torch.arange(free.numel(), device=flat.device)
    alive, steps = torch.ones_like(needs, dtype=torch.bool), torch.zeros_like(free)
    threshold = needs
    last = math.ceil(float(reach.max()) / step)
    for k in range(last + 1):
        alive &= cell(walk, k) < threshold
        steps += alive
        if k % _COMPACT_EVERY == _COMPACT_EVERY - 1 or k == last:
            free[index] = steps
            kept = alive.nonzero().squeeze(1)
            index, steps, threshold, alive = index[kept], steps[kept], threshold[kept], alive[kept]
            walk = _Walk(*(part[kept] for part in walk))
    distance = (free.view(shape) - 0.5) * step
    stopped_by = cell(every, free).view(shape)
    hit = (stopped_by < EDGE) & (distance < reach)
    return Hits(torch.minimum(distance, reach), hit, free.view(shape) == 0)


def tile_from_query(query: QueryTile, settings: ViewSettings) -> Tensor:
    """A query tile at the size and resolution that a model was trained with.

    Args:
        query: Any size; cut, or filled up with unobserved pixels, round its centre.
        settings: The view that the model knows.

    Returns:
        (3, S, S) float32: the most that was seen anywhere within each pixel, and no ground where
        a wall is, as ``render`` does.
    """
    channels = np.stack([query.wall, query.ground, query.observed])
    tile = torch.from_numpy(np.ascontiguousarray(channels, np.float32))
    spare = round((query.size - settings.size_m / query.resolution) / 2)
    tile = functional.pad(tile, [-spare] * 4)
    size = (settings.size_px, settings.size_px)
    wall, ground, observed = functional.adaptive_max_pool2d(tile, size)
    return torch.stack([wall, ground * (1 - wall), observed])


class _Walk(NamedTuple):
    """Rays on a grid, flat (N,): row, column and direction in its cells, where its plane begins."""

    row: Tensor
    column: Tensor
    d_row: Tensor
    d_column: Tensor
    base: Tensor


def _rays(paths: Tensor, settings: ViewSettings, uniform: Draw) -> Rays:
    """Rays spread over the paths: all around, or across the track for a line scanner's tiles."""
    count, last = settings.rays, paths.shape[1] - 1
    order = torch.arange(count, device=paths.device, dtype=torch.float32)
    short = uniform(0, 1, 1) < settings.short_travel
    part = torch.where(short, uniform(0.2, 1, 1), 1.0)
    along = ((order + uniform(0, 1, count)) / count - 0.5) * part + 0.5
    at = along * last
    left = at.to(torch.int64).clamp_(0, last - 1)
    start = paths.gather(1, left[..., None].expand(-1, -1, 2))
    step = paths.gather(1, (left + 1)[..., None].expand(-1, -1, 2)) - start
    point = start + (at - left)[..., None] * step

    # Golden-ratio steps spread the directions evenly over every stretch of the path.
    around = 2 * math.pi * ((order * _GOLDEN) % 1 + uniform(0, 1, 1))
    side = order % 2
    tilt = torch.where(side == 0, uniform(-0.2, 0.2, 1), uniform(-0.2, 0.2, 1))
    across = torch.atan2(step[..., 1], step[..., 0]) + tilt + math.pi * (side - 0.5)
    line = uniform(0, 1, 1) < settings.line_scanner
    low = uniform(0, 1, count) < settings.low_rays
    return Rays(point[..., 0], point[..., 1], torch.where(line, across, around), low)


def _in_tile(
    rays: Rays, seeing: Tensor, centre: Tensor, angle: Tensor, settings: ViewSettings
) -> _Walk:
    """Rays number ``seeing`` (N,) in pixels of tiles with a margin of one pixel all round."""
    side = settings.size_px + 2
    c, s = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    east, north = rays.x - centre[:, :1], rays.y - centre[:, 1:]
    x, y = c * east + s * north, c * north - s * east
    direction = rays.angle - angle[:, None]
    tile = torch.arange(len(angle), device=angle.device)[:, None].expand_as(x)
    walk = _Walk(
        side / 2 - y / settings.resolution,
        side / 2 + x / settings.resolution,
        -torch.sin(direction),
        torch.cos(direction),
        tile * side**2,
    )
    return _Walk(*(part.flatten()[seeing] for part in walk))


def _pixel(walk: _Walk, distance: Tensor, side: int) -> Tensor:
    """(N,) flat pixel of each ray's point at ``distance`` (pixels); outside, one of the margin."""
    row = torch.addcmul(walk.row, walk.d_row, distance).to(torch.int64).clamp_(0, side - 1)
    column = torch.addcmul(walk.column, walk.d_column, distance).to(torch.int64)
    return row.mul_(side).add_(column.clamp_(0, side - 1)).add_(walk.base)


def _mark(
    walk: _Walk, ground: Tensor, crossed: Tensor, batch: int, settings: ViewSettings
) -> tuple[Tensor, Tensor]:
    """(B, S, S) pixels crossed up to ``ground`` metres, and on from there to ``crossed``."""
    side = settings.size_px + 2
    planes = torch.zeros(2 * batch * side**2, dtype=torch.uint8, device=walk.row.device)
    ground, crossed = ground / settings.resolution, crossed / settings.resolution
    for k in range(math.ceil(float(crossed.max())) + 1 if len(crossed) else 0):
        distance = crossed.clamp(max=k)
        second = (distance > ground) * (batch * side**2)
        planes.scatter_(0, _pixel(walk, distance, side).add_(second), 1)
        if k % _COMPACT_EVERY == _COMPACT_EVERY - 1:
            longer = (crossed > k).nonzero().squeeze(1)
            walk = _Walk(*(part[longer] for part in walk))
            ground, crossed = ground[longer], crossed[longer]
    marked = planes.view(2, batch, side, side)[..., 1:-1, 1:-1].float()
    return marked[0], marked[1]


def _count(
    walk: _Walk, distance: Tensor, hit: Tensor, batch: int, settings: ViewSettings
) -> Tensor:
    """(B, S, S) float32, the number of rays that hit something within each pixel."""
    side = settings.size_px + 2
    pixel = _pixel(walk, distance / settings.resolution, side)[hit]
    count = torch.bincount(pixel, minlength=batch * side**2)
    return count.view(batch, side, side)[:, 1:-1, 1:-1].float()


def _remaining(settings: ViewSettings, uniform: Draw) -> Tensor:
    """(B, S, S) of 1 where walls keep their evidence, 0 in random square pieces."""
    missing = uniform(0, 1, 1, 16, 16) < uniform(0, settings.missing_walls, 1, 1, 1)
    size = (settings.size_px, settings.size_px)
    return functional.interpolate((~missing).float(), size, mode="nearest")[:, 0]
