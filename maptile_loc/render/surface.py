"""The road channel of views: where the ground is a road's surface, and where it is beside one.

Query tiles have it from kerbs near the vehicle, or from labels as far as ground is seen. A vehicle
drives on a road whatever the map says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from data_prep.settings import Settings
from maptile_loc.render.raycast import Worlds

UniformDraw = Callable[..., Tensor]
"""``uniform(low, high, *shape)`` returns (B, *shape) uniform random numbers."""

BLOCKS = 16
"""A tile has this many blocks along a side that may lack evidence, or have it weak or wrong."""
DRIVEN_M = (1.0, 3.0)
"""The road reaches at least this far beside the vehicle: the limits of a uniform draw per tile."""


class SurfaceSettings(Settings):
    """Road evidence and its errors. Shares are probabilities per tile."""

    labelled: float = Field(0.2, ge=0, le=1)
    """Share of tiles of labelled scans: evidence wherever ground is seen."""
    unknown: float = Field(0.15, ge=0, le=1)
    """Share of tiles without road evidence."""
    kerb_range: tuple[float, float] = (3.0, 12.0)
    """Metres from the path up to which kerbs are found: the limits of a uniform draw per tile."""
    missing: float = Field(0.8, ge=0, le=1)
    """The largest share of a tile's area that lacks its road evidence, in square blocks."""
    wrong: float = Field(0.15, ge=0, le=1)
    """The largest share of a tile's area where road is taken to be beside it, and vice versa."""

    @classmethod
    def exact(cls) -> SurfaceSettings:
        """No errors: evidence wherever ground is seen."""
        return cls(labelled=1.0, unknown=0.0)


def road_evidence(
    worlds: Worlds,
    world: Tensor,
    place: Tensor,
    paths: Tensor,
    ground: Tensor,
    settings: SurfaceSettings,
    uniform: UniformDraw,
) -> Tensor:
    """The road channel of tiles.

    Args:
        worlds: With roads.
        world: (B,) int64, the variant that each tile shows.
        place: (B, S, S, 2) float32 plane metres, the centres of the tiles' pixels.
        paths: (B, P, 2) float32 plane metres, the travelled paths.
        ground: (B, S, S), above 0 where ground is seen.
        settings: The errors.
        uniform: Source of all randomness.

    Returns:
        (B, S, S) float32: 1 on a road's surface, -1 beside, 0 where neither is known.
    """
    size = place.shape[1]
    beside_path = _distance(place, paths)
    on_road = worlds.on_road(world, place.flatten(1, 2)).view_as(beside_path)
    driven = beside_path < uniform(*DRIVEN_M, 1, 1)
    kind = uniform(0, 1, 1, 1)
    labelled, unknown = kind < settings.labelled, kind > 1 - settings.unknown
    reach = torch.where(labelled, torch.inf, uniform(*settings.kerb_range, 1, 1))
    missing, wrong = (blocks(most, size, uniform) for most in (settings.missing, settings.wrong))
    known = (ground > 0) & (beside_path < reach) & ~unknown & (~missing | labelled)
    road = driven | (on_road ^ (wrong & ~labelled))
    return torch.where(known, torch.where(road, 1.0, -1.0), 0.0)


def blocks(most: float, size: int, uniform: UniformDraw) -> Tensor:
    """(B, S, S) bool, random square blocks: of each tile up to a share of ``most``."""
    chosen = uniform(0, 1, BLOCKS, BLOCKS) < uniform(0, most, 1, 1)
    block = torch.arange(size, device=chosen.device) * BLOCKS // size
    return chosen[:, block][:, :, block]


def _distance(place: Tensor, paths: Tensor) -> Tensor:
    """(B, S, S) metres from pixels at ``place`` (B, S, S, 2) to the nearest of (B, P, 2) points."""
    east, north = place.unbind(-1)
    nearest = torch.full_like(east, torch.inf)
    for point in paths.unbind(1):
        square = (east - point[:, 0, None, None]).square_()
        square.add_((north - point[:, 1, None, None]).square_())
        torch.minimum(nearest, square, out=nearest)
    return nearest.sqrt_()
