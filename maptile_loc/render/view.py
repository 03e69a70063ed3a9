"""Views of a world, as a vehicle would see it: the renderer of training tiles.

A vehicle travels a short path through the tile's centre and casts many rays, each from its own
point of the path. A ray ends at the first obstacle; what it crosses is observed to be free. The
result has channels of ``types.QueryTile``: wall evidence, ground, observed, road.

Frames: the *plane* is that of ``raycast``. The *tile* frame has its origin at the tile's centre;
its x axis points at ``angle`` (radians counter-clockwise from east), 0 for a north-up tile. Row 0
is the tile's +y side.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from data_prep.settings import Settings
from maptile_loc.render.raycast import (
    COMPACT_EVERY,
    GridRays,
    PlaneRays,
    RayEnds,
    Worlds,
    cast_rays,
)
from maptile_loc.render.surface import SurfaceSettings, UniformDraw, blocks, road_evidence
from maptile_loc.types import QueryTile

Channel = Literal["wall", "ground", "observed", "road"]
"""A channel of a tile: wall evidence; ground seen; 1 where a ray ended or passed; road evidence,
1 on a road's surface, -1 beside. All but the last are 0..1."""
PLAIN_CHANNELS: tuple[Channel, ...] = ("wall", "ground", "observed")
"""Channels of a tile of a world without road surfaces."""
WALL_CHANNEL = 0
"""Number of the wall evidence in a tile with the plain channels."""
GROUND_CHANNEL = 1
"""Number of the ground, likewise."""
OBSERVED_CHANNEL = 2
"""Number of what is observed, likewise."""
TILT_RAD = 0.2
"""The scan planes of a line scanner deviate from the perpendicular of the track by up to this."""
SHORTEST_PATH = 0.2
"""Share of ``travel_m`` that the shortest path has, of tiles with a short path."""
SPURIOUS_M = 20.0
"""Distance from the tile's centre at which spurious walls are as frequent as stated."""
SPURIOUS_WALL = (0.1, 1.0)
"""Range of the wall evidence of spurious pixels."""
WEAK_WALL = (0.1, 0.6)
"""Range of the factor by which wall evidence is weak."""
ECHOES = 3
"""Points at which a ray's hit is seen: a wall is as thick as its relief."""
GOLDEN = (math.sqrt(5) - 1) / 2
"""Step between the directions of consecutive rays, in turns: it spreads them evenly."""


class ViewSettings(Settings):
    """What a tile shows, and the noise by which it differs from the world.

    Shares are probabilities per tile or per ray. ``without_noise`` turns all noise off.
    """

    size_px: int = Field(64, ge=8)
    """Pixels along a tile's side."""
    resolution: float = Field(1.5, gt=0)
    """Metres per pixel."""
    channels: tuple[Channel, ...] = Field(("wall", "ground", "road"), min_length=1)
    """What a network is given, in this order."""
    travel_m: float = Field(50.0, ge=0)
    """Length of the path from which a tile is seen."""
    range_m: float = Field(50.0, gt=0)
    """Greatest length of a ray."""
    rays: int = Field(512, ge=8)
    """Rays per tile."""
    line_scanner: float = Field(0.5, ge=0, le=1)
    """Share of tiles seen by line scanners across the track; the others are seen all around."""
    short_travel: float = Field(0.15, ge=0, le=1)
    """Share of tiles whose path is shorter than ``travel_m``, as at the ends of a drive."""
    low_rays: float = Field(0.4, ge=0, le=1)
    """Share of rays that clutter stops."""
    range_loss: float = Field(0.4, ge=0, lt=1)
    """The largest share by which a tile's range is reduced below ``range_m``."""
    ground_range: tuple[float, float] = (6.0, 24.0)
    """Metres up to which ground is seen: the limits of a uniform draw per tile."""
    uneven_ground: float = Field(0.3, ge=0)
    """Standard deviation of the logarithm of that range, between the rays of a tile."""
    free_rays: float = Field(0.6, ge=0, le=1)
    """The largest share of a tile's rays without a hit that show free space beyond the ground."""
    drop_rays: float = Field(0.3, ge=0, lt=1)
    """The largest share of a tile's rays that return nothing."""
    depth_noise_m: tuple[float, float] = (0.4, 1.2)
    """Standard deviation of a hit along its ray (relief of walls, drift within the submap): the
    limits of a uniform draw per tile."""
    missing_walls: float = Field(0.7, ge=0, lt=1)
    """The largest share of a tile's area that lacks its wall evidence, in square blocks."""
    weak_walls: float = Field(0.6, ge=0, le=1)
    """The largest share of a tile's area in which wall evidence is weak, in square blocks."""
    spurious: float = Field(0.06, ge=0, lt=1)
    """The largest share of a tile's observed area with wall evidence where no wall is, at
    ``SPURIOUS_M`` from its centre; nearer, there is less of it, farther, more."""
    wall_gain: tuple[float, float] = (1.5, 12.0)
    """Evidence per ray that hits a pixel (it saturates): the limits of a log-uniform draw."""
    angle_noise_deg: float = Field(1.0, ge=0)
    """Standard deviation of the tile's direction: a known heading is not exact."""
    surface: SurfaceSettings = SurfaceSettings()
    """Of the road channel."""

    @property
    def size_m(self) -> float:
        """Metres along a tile's side."""
        return self.size_px * self.resolution

    def without_noise(self) -> ViewSettings:
        """The same view with all noise turned off."""
        exact = {
            "short_travel": 0.0,
            "low_rays": 0.0,
            "range_loss": 0.0,
            "ground_range": (self.range_m, self.range_m),
            "uneven_ground": 0.0,
            "free_rays": 0.0,
            "drop_rays": 0.0,
            "depth_noise_m": (0.0, 0.0),
            "missing_walls": 0.0,
            "weak_walls": 0.0,
            "spurious": 0.0,
            "wall_gain": (20.0, 20.0),
            "angle_noise_deg": 0.0,
        }
        return self.model_copy(update=exact | {"surface": SurfaceSettings.exact()})


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
        worlds: The obstacles.
        world: (B,) int64, the variant that each tile shows.
        paths: (B, P, 2) float32 plane metres, P >= 2 points along the travelled paths, about
            ``settings.travel_m`` long.
        centre: (B, 2) float32 plane metres, the tiles' centres.
        angle: (B,) float32 radians, the direction of the tiles' x axes from east; 0 is north-up.
        settings: The view and its noise.
        generator: Source of all randomness, on the device of the worlds.

    Returns:
        (B, C, S, S) float32, the channels of ``settings``.
    """
    batch, device = len(paths), paths.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator, device=device)

    rays = _rays(paths, settings, uniform)
    reach = settings.range_m * uniform(1 - settings.range_loss, 1, 1)
    ends = cast_rays(worlds, world, rays, reach)
    kept = uniform(0, 1, settings.rays) >= uniform(0, settings.drop_rays, 1)
    uneven = torch.exp(settings.uneven_ground * normal(settings.rays))
    ground_reach, crossed = _free(ends, uneven, settings, uniform)
    noise = uniform(*settings.depth_noise_m, 1)
    depths = [ends.distance + noise * normal(settings.rays) for _ in range(ECHOES)]
    turned = angle + math.radians(settings.angle_noise_deg) * normal()
    seeing = (kept & ~ends.inside).flatten().nonzero().squeeze(1)
    lines = _in_tile(rays, seeing, centre, turned, settings)
    ground_reach, crossed = ground_reach.flatten()[seeing], crossed.flatten()[seeing]
    ground, beyond = _mark(lines, ground_reach, crossed, batch, settings)
    hit = ends.hit.flatten()[seeing]
    struck = torch.stack(
        [_count(lines, depth.flatten()[seeing], hit, batch, settings) for depth in depths]
    ).mean(0)
    wall = _evidence(struck, settings, uniform)
    observed = torch.maximum(torch.maximum(ground, beyond), (wall > 0).float())
    if settings.spurious > 0:
        wrong = _blobs(settings, uniform)
        wall = torch.maximum(wall, wrong * observed * uniform(*SPURIOUS_WALL, 1, 1))
    made = {"wall": wall, "ground": ground * (1 - wall), "observed": observed}
    if "road" in settings.channels:
        place = _places(centre, turned, settings)
        seen = made["ground"], settings.surface
        made["road"] = road_evidence(worlds, world, place, paths, *seen, uniform)
    return torch.stack([made[name] for name in settings.channels], dim=1)


def tile_from_query(query: QueryTile, settings: ViewSettings) -> Tensor:
    """A query tile with the size and resolution of the tiles that a model was trained on.

    Args:
        query: A tile of any size. It is cropped about its centre, or padded with unobserved pixels.
        settings: The view that the model was trained on.

    Returns:
        (C, S, S) float32, the channels of ``settings``. Each pixel is the maximum of the query's
        pixels within it; of the road evidence, the mean of those where it is known. Where a wall
        is, ground is reduced by the wall evidence, as in ``render``.
    """
    road = np.zeros_like(query.wall) if query.road is None else query.road
    channels = np.stack([query.wall, query.ground, query.observed, road])
    tile = torch.from_numpy(np.ascontiguousarray(channels, np.float32))
    spare = round((query.size - settings.size_m / query.resolution) / 2)
    tile = functional.pad(tile, [-spare] * 4)
    size = (settings.size_px, settings.size_px)
    wall, ground, observed = functional.adaptive_max_pool2d(tile[:3], size)
    made = {"wall": wall, "ground": ground * (1 - wall), "observed": observed}
    if "road" in settings.channels:
        known = torch.stack([tile[3], (tile[3] != 0).float()])
        total, count = functional.adaptive_avg_pool2d(known, size)
        made["road"] = total / count.clamp_min(1e-6)
    return torch.stack([made[name] for name in settings.channels])


def _rays(paths: Tensor, settings: ViewSettings, uniform: UniformDraw) -> PlaneRays:
    """(B, K) rays from points all along the (B, P, 2) paths: all around, or across the path.

    Rays across the path are those of a line scanner; which tiles have one is drawn.
    """
    count, last = settings.rays, paths.shape[1] - 1
    order = torch.arange(count, device=paths.device, dtype=torch.float32)
    short = uniform(0, 1, 1) < settings.short_travel
    part = torch.where(short, uniform(SHORTEST_PATH, 1, 1), 1.0)
    along = ((order + uniform(0, 1, count)) / count - 0.5) * part + 0.5
    at = along * last
    left = at.to(torch.int64).clamp_(0, last - 1)
    start = paths.gather(1, left[..., None].expand(-1, -1, 2))
    step = paths.gather(1, (left + 1)[..., None].expand(-1, -1, 2)) - start
    point = start + (at - left)[..., None] * step

    around = 2 * math.pi * ((order * GOLDEN) % 1 + uniform(0, 1, 1))
    side = order % 2
    tilt = torch.where(side == 0, uniform(-TILT_RAD, TILT_RAD, 1), uniform(-TILT_RAD, TILT_RAD, 1))
    across = torch.atan2(step[..., 1], step[..., 0]) + tilt + math.pi * (side - 0.5)
    line = uniform(0, 1, 1) < settings.line_scanner
    low = uniform(0, 1, count) < settings.low_rays
    return PlaneRays(point[..., 0], point[..., 1], torch.where(line, across, around), low)


def _in_tile(
    rays: PlaneRays, seeing: Tensor, centre: Tensor, angle: Tensor, settings: ViewSettings
) -> GridRays:
    """Rays number ``seeing`` (N,) in pixels of tiles that have a margin of one pixel all around."""
    side = settings.size_px + 2
    c, s = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    east, north = rays.x - centre[:, :1], rays.y - centre[:, 1:]
    x, y = c * east + s * north, c * north - s * east
    direction = rays.angle - angle[:, None]
    tile = torch.arange(len(angle), device=angle.device)[:, None].expand_as(x)
    every = GridRays(
        side / 2 - y / settings.resolution,
        side / 2 + x / settings.resolution,
        -torch.sin(direction),
        torch.cos(direction),
        tile * side**2,
    )
    return GridRays(*(part.flatten()[seeing] for part in every))


def _places(centre: Tensor, angle: Tensor, settings: ViewSettings) -> Tensor:
    """(B, S, S, 2) plane metres of the centres of the tiles' pixels."""
    size = settings.size_px
    local = (torch.arange(size, device=centre.device) + 0.5 - size / 2) * settings.resolution
    c, s = torch.cos(angle)[:, None, None], torch.sin(angle)[:, None, None]
    x, y = local[None, None, :], -local[None, :, None]
    return torch.stack([c * x - s * y, s * x + c * y], -1) + centre[:, None, None]


def _pixel(lines: GridRays, distance: Tensor, side: int) -> Tensor:
    """(N,) flat index of the pixel at ``distance`` (pixels) along each ray; outside: a margin's."""
    row = torch.addcmul(lines.row, lines.d_row, distance).to(torch.int64).clamp_(0, side - 1)
    column = torch.addcmul(lines.column, lines.d_column, distance).to(torch.int64)
    return row.mul_(side).add_(column.clamp_(0, side - 1)).add_(lines.base)


def _mark(
    lines: GridRays, ground: Tensor, crossed: Tensor, batch: int, settings: ViewSettings
) -> tuple[Tensor, Tensor]:
    """(B, S, S) pixels crossed up to ``ground`` metres, and those from there to ``crossed``."""
    side = settings.size_px + 2
    planes = torch.zeros(2 * batch * side**2, dtype=torch.uint8, device=lines.row.device)
    ground, crossed = ground / settings.resolution, crossed / settings.resolution
    for k in range(math.ceil(float(crossed.max())) + 1 if len(crossed) else 0):
        distance = crossed.clamp(max=k)
        second = (distance > ground) * (batch * side**2)
        planes.scatter_(0, _pixel(lines, distance, side).add_(second), 1)
        if k % COMPACT_EVERY == COMPACT_EVERY - 1:
            longer = (crossed > k).nonzero().squeeze(1)
            lines = lines.subset(longer)
            ground, crossed = ground[longer], crossed[longer]
    marked = planes.view(2, batch, side, side)[..., 1:-1, 1:-1].float()
    return marked[0], marked[1]


def _count(
    lines: GridRays, distance: Tensor, hit: Tensor, batch: int, settings: ViewSettings
) -> Tensor:
    """(B, S, S) float32, the number of rays with a hit in each pixel."""
    side = settings.size_px + 2
    pixel = _pixel(lines, distance / settings.resolution, side)[hit]
    count = torch.bincount(pixel, minlength=batch * side**2)
    return count.view(batch, side, side)[:, 1:-1, 1:-1].float()


def _free(
    ends: RayEnds, uneven: Tensor, settings: ViewSettings, uniform: UniformDraw
) -> tuple[Tensor, Tensor]:
    """(B, K) metres up to which rays show ground, and up to which they show free space.

    Most rays without a hit observe free space only as far as the ground returns echoes.
    """
    ground = torch.minimum(ends.distance, uniform(*settings.ground_range, 1) * uneven)
    free = uniform(0, 1, settings.rays) < uniform(0, settings.free_rays, 1)
    beyond = torch.maximum(ground, ends.distance * free * uniform(0, 1, settings.rays))
    return ground, torch.where(ends.hit, ends.distance, beyond)


def _evidence(struck: Tensor, settings: ViewSettings, uniform: UniformDraw) -> Tensor:
    """(B, S, S) wall evidence of pixels by the rays that struck them; some of it is missing."""
    weakest, strongest = settings.wall_gain
    gain = torch.exp(uniform(math.log(weakest), math.log(strongest), 1, 1))
    wall = 1 - torch.exp(-gain * struck)
    if settings.missing_walls > 0:
        wall = wall * ~blocks(settings.missing_walls, settings.size_px, uniform)
    if settings.weak_walls > 0:
        weak = blocks(settings.weak_walls, settings.size_px, uniform)
        wall = torch.where(weak, wall * uniform(*WEAK_WALL, 1, 1), wall)
    return wall


def _blobs(settings: ViewSettings, uniform: UniformDraw) -> Tensor:
    """(B, S, S) bool, squares of 2 x 2 pixels: of each tile up to a share of ``spurious``."""
    half = math.ceil(settings.size_px / 2)
    along = (np.arange(half) + 0.5 - half / 2) * 2 * settings.resolution
    away = torch.from_numpy(np.hypot(along, along[:, None])).float() / SPURIOUS_M
    drawn = uniform(0, 1, half, half)
    chosen = drawn < away.to(drawn.device) * uniform(0, settings.spurious, 1, 1)
    large = chosen.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return large[:, : settings.size_px, : settings.size_px]
