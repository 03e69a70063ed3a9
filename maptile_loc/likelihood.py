"""How likely a query tile is at a place of the map: the score of coarse search and alignment.

Each cell of the tile adds a log-likelihood ratio: how much more probable what it shows is, given
the map under it, than anywhere. With d the signed distance to the nearest building edge (negative
inside a building) of a cell,

    p(wall | d) = floor + peak * exp(-d^2 / (2 sigma^2)),  a lower floor inside buildings,
    p(free | d) = leak + (1 - leak) * Phi(d / sigma),

each divided by its mean over the map. The map's own errors (footprints off by a metre, buildings
missing or new) are in sigma, floor and leak.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, special

from data_prep.errors import MaptileError
from data_prep.raster import BUILDING, MapRaster
from data_prep.settings import Positive, Settings
from maptile_loc.result import QueryTile

F32 = NDArray[np.float32]
CHANNELS = ("wall", "free")
WALL, FREE = range(2)
"""The kinds of evidence: walls seen, and cells seen empty."""


class LikelihoodSettings(Settings):
    """The noise model of map and sensor together.

    Attributes:
        sigma_m: Spread of a seen wall about the map's edge.
        wall_peak: Probability of wall evidence in a cell on an edge.
        wall_floor_outside, wall_floor_inside: The same far from any edge, outside and inside
            buildings.
        free_leak: Probability that a cell seen empty lies inside a building of the map.
        wall_weight, free_weight: Independent observations per cell (1 m2) of full evidence;
            neighbouring cells tell nearly the same.
        clip_m: Distances beyond this are all alike.
    """

    sigma_m: Positive = 1.0
    wall_peak: Positive = 0.5
    wall_floor_outside: Positive = 0.03
    wall_floor_inside: Positive = 0.01
    free_leak: float = 0.3
    wall_weight: Positive = 0.25
    free_weight: Positive = 0.02
    clip_m: Positive = 8.0


@dataclass(frozen=True)
class LikelihoodFields:
    """Log-likelihood ratios of the map, on a grid of square cells.

    Attributes:
        channels: (C, H, W) float32, each added by one square metre of its kind of full evidence;
            order as in ``CHANNELS``, row 0 is north.
        west, north: Outer corner of cell (0, 0), metres.
        resolution: Metres per cell.
    """

    channels: F32
    west: float
    north: float
    resolution: float


def make_fields(
    raster: MapRaster, resolution: float, settings: LikelihoodSettings
) -> LikelihoodFields:
    """The fields of a map at ``resolution`` metres per cell (a multiple of the raster's)."""
    distance = signed_distance(raster.coverage(BUILDING, resolution), resolution, settings.clip_m)
    bell = np.exp(-0.5 * (distance / settings.sigma_m) ** 2)
    floor = np.where(distance > 0, settings.wall_floor_outside, settings.wall_floor_inside)
    wall = floor + (settings.wall_peak - floor) * bell
    free = settings.free_leak + (1 - settings.free_leak) * special.ndtr(distance / settings.sigma_m)
    ratios = [
        settings.wall_weight * np.log(wall / wall.mean()),
        settings.free_weight * np.log(free / free.mean()),
    ]
    channels = np.stack(ratios).astype(np.float32)
    return LikelihoodFields(channels, raster.west, raster.north, resolution)


def signed_distance(coverage: F32, resolution: float, clip_m: float) -> F32:
    """(H, W) share of each cell covered -> (H, W) metres to the edge, negative inside, clipped."""
    inside = coverage >= 0.5
    if not inside.any():
        return np.full(coverage.shape, clip_m, np.float32)
    outward = ndimage.distance_transform_edt(~inside).astype(np.float32)
    inward = ndimage.distance_transform_edt(inside).astype(np.float32)
    # Distances run between centres; the edge lies half a cell before the first one beyond it.
    signed = np.where(inside, 0.5 - inward, outward - 0.5) * np.float32(resolution)
    return np.clip(signed, -clip_m, clip_m)


class EvidenceCells(NamedTuple):
    """One channel of evidence as points, in the tile's frame.

    Attributes:
        xy: (N, 2) float32 metres.
        area: (N,) float32 square metres of full evidence.
    """

    xy: F32
    area: F32


@dataclass(frozen=True)
class Evidence:
    """A query tile at the fields' resolution.

    Attributes:
        channels: (C, S, S) float32 square metres of full evidence in each cell; order as in
            ``CHANNELS``.
        resolution: Metres per cell.
    """

    channels: F32
    resolution: float

    def cells(self) -> list[EvidenceCells]:
        """The cells of each channel that say anything.

        All but walls are summed four by four, for they hold no fine detail.
        """
        fine, *areas = self.channels
        coarse = [_summed(area, 4) for area in areas]
        return [
            _nonzero(fine, self.resolution),
            *(_nonzero(area, 4 * self.resolution) for area in coarse),
        ]


def _summed(values: F32, k: int) -> F32:
    """(S, S) -> (S / k, S / k) sums of blocks."""
    side = len(values) // k
    return values.reshape(side, k, side, k).sum(axis=(1, 3))


def _nonzero(values: F32, resolution: float) -> EvidenceCells:
    row, column = np.nonzero(values)
    half = len(values) / 2
    xy = np.column_stack([column + 0.5 - half, half - row - 0.5]) * resolution
    return EvidenceCells(xy.astype(np.float32), values[row, column])


def make_evidence(tile: QueryTile, resolution: float) -> Evidence:
    """Sum a tile's cells up to ``resolution`` (a multiple of the tile's)."""
    k = round(resolution / tile.resolution)
    if abs(k * tile.resolution - resolution) > 1e-6 * resolution or tile.size % (4 * k):
        raise MaptileError(
            f"query tiles of {tile.size} pixels of {tile.resolution:g} m do not fit cells of "
            f"{resolution:g} m; see query.resolution, query.size_m and match.resolution"
        )
    seen = [tile.wall, tile.observed * (1 - tile.wall)]
    area = np.float32(tile.resolution**2)
    return Evidence(np.stack([_summed(channel, k) * area for channel in seen]), resolution)
