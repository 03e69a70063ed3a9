"""Training tiles cut out of the map raster at the offsets of the city's tiles.

Like rendered batches, batch number n depends on the settings and the seed only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_prep.city.folder import City
from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from maptile_loc.learn.settings import DataSettings
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.render.window import MapWindowSettings, cut_windows, read_windows, window_planes

WHOLE = 400_000_000
"""Pixels of a map up to which it is kept in memory: 100 km2 of 0.5 m, a byte per channel."""

POSITIONS_EVERY_M = 5.0
"""Spacing of the positions that stand for all centres of windows."""
STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""Row and column of a tile's neighbours, relative to it."""
CORE_SHARE = 1 / 12
"""Half the side of the core of a kept-out square, where validation windows are centred, as a share
of the square's side: 10 m from the nearest training window where the side is 24 m."""


@dataclass(frozen=True)
class WindowMap:
    """A city's map raster, and the tiles whose offsets are learned.

    Attributes:
        raster: The map raster.
        planes: (C, H, W) uint8, as of ``render.window.window_planes``; None for a map of more than
            ``WHOLE`` pixels, which is read window by window.
        corner: (2,) east, north of the raster's corner in the north-west, metres from the
            reference.
        present: (R, K) bool, which tiles of the grid exist and are not empty.
        first: (2,) row and column of the centre of tile (0, 0), pixels.
        stride: Pixels between the centres of neighbouring tiles.
        jitter: Pixels by which a window may be displaced from its tile: the overlap of two tiles
            is shared equally by both.
    """

    raster: MapRaster
    planes: Tensor | None
    corner: Array
    present: Tensor
    first: Array
    stride: int
    jitter: float

    def positions(self) -> tuple[Array, Array]:
        """(P, 2) a grid of the windows' possible centres, metres, and their equal (P,) weights."""
        count = max(1, round(2 * self.jitter * self.raster.resolution / POSITIONS_EVERY_M))
        aside = (np.arange(count) + 0.5 - count / 2) * (2 * self.jitter / count)
        tiles = self.present.nonzero().double().numpy() * self.stride + self.first
        row, column = np.meshgrid(aside, aside, indexing="ij")
        pixel = (tiles[:, None] + np.stack([row.ravel(), column.ravel()], -1)).reshape(-1, 2)
        return self.metres(pixel), np.ones(len(pixel))

    def metres(self, pixel: Array) -> Array:
        """(..., 2) row, column -> (..., 2) east, north from the reference."""
        metres: Array = self.corner + pixel[..., ::-1] * (
            self.raster.resolution,
            -self.raster.resolution,
        )
        return metres

    @cached_property
    def tiles(self) -> Tensor:
        """(N, 2) int64 row and column, in the grid of tiles, of those that are not empty."""
        return self.present.nonzero()


def window_map(city: City, settings: MapWindowSettings) -> WindowMap:
    """The map and the tiles of a city.

    Raises:
        MaptileError: All tiles of the city are empty.
    """
    table = city.tiles()
    size = int(table["size"].iloc[0])
    rows, columns = (np.unique(table[name].to_numpy()) for name in ("row", "col"))
    present = ~table["empty"].to_numpy(bool).reshape(len(rows), len(columns))
    if not present.any():
        raise MaptileError(f"{city.folder or city.name}: all its tiles are empty")
    steps = np.concatenate([np.diff(rows), np.diff(columns)])
    stride = int(steps[0]) if len(steps) else size
    raster = city.raster
    return WindowMap(
        raster,
        window_planes(raster, settings) if raster.height * raster.width <= WHOLE else None,
        np.array([raster.west, raster.north]) - city.reference,
        torch.from_numpy(present),
        np.array([rows[0], columns[0]]) + size / 2,
        stride,
        max(size - stride, 0) / 2,
    )


class WindowBatches(Dataset[Batch]):
    """Batches of tuples of neighbouring, overlapping windows, each displaced from its tile.

    Squares of ``kept_out_m`` hold no centre of a training window; with ``held_out``, all centres
    lie in the middle of these.

    Args:
        window_map: The city's map.
        settings: The tuples; ``settings.windows`` is not None.
        heading: Whether windows are north-up or turned at random.
        seed: Of all randomness.
        stream: Datasets of different streams share no random numbers.
        held_out: Whether windows are those of the validation.
    """

    def __init__(
        self,
        window_map: WindowMap,
        settings: DataSettings,
        heading: Heading,
        seed: int,
        stream: int,
        held_out: bool,
    ) -> None:
        assert settings.windows is not None
        self.map, self.settings, self.heading = window_map, settings, heading
        self.windows = settings.windows
        self.seed, self.stream, self.held_out = seed, stream, held_out

    def __getitem__(self, number: int) -> Batch:
        """Cut batch ``number``, any integer from 0."""
        sequence = np.random.SeedSequence([self.seed, self.stream, number])
        generator = torch.Generator().manual_seed(
            int(sequence.generate_state(1, np.uint64)[0] >> 1)
        )
        tile = self._neighbours(generator)
        jitter = (2 * torch.rand(tile.shape, generator=generator, dtype=torch.float64) - 1).numpy()
        pixel = np.round(tile.double().numpy() * self.map.stride + jitter * self.map.jitter)
        centre = self.map.metres(pixel + self.map.first)
        centre = self._in_cores(centre, jitter) if self.held_out else self._outside(centre)
        pixel = (centre - self.map.corner)[..., ::-1] * (-1, 1) / self.map.raster.resolution
        angle = torch.zeros(tile.shape[:2])
        if self.heading == "unknown":
            angle = (2 * torch.rand(angle.shape, generator=generator) - 1) * math.pi
        at = torch.from_numpy(np.ascontiguousarray(pixel)).flatten(0, 1)
        planes, resolution = self.map.planes, self.map.raster.resolution
        if planes is None:
            cut = read_windows(self.map.raster, at, angle.flatten(), self.windows)
        else:
            cut = cut_windows(planes, resolution, at, angle.flatten(), self.windows)
        offset = torch.from_numpy(centre.astype(np.float32))
        return Batch(cut.view(*angle.shape, *cut.shape[1:]), offset, angle)

    def _neighbours(self, generator: torch.Generator) -> Tensor:
        """(B, T, 2) tuples of tiles in a row; where the next does not exist, a tile is repeated."""
        present = self.map.present
        count, limit = self.settings.batch_tuples, torch.tensor(present.shape) - 1
        tiles = self.map.tiles
        tile = tiles[torch.randint(len(tiles), (count,), generator=generator)]
        step = torch.tensor(STEPS)[torch.randint(len(STEPS), (count,), generator=generator)]
        row = [tile]
        for _ in range(self.settings.tuple_size - 1):
            after = (tile + step).clamp(torch.zeros_like(limit), limit)
            tile = torch.where(present[after[:, 0], after[:, 1]][:, None], after, tile)
            row.append(tile)
        return torch.stack(row, 1)

    def _outside(self, centre: Array) -> Array:
        """Centres (B, T, 2), those in a kept-out square displaced to the east by its side."""
        every, side = self.windows.kept_out_every_m, self._side()
        within = ((centre + every / 2) % every - every / 2 + side / 2) % every < side
        inside = within.all(-1)
        centre[..., 0] += inside * side
        return centre

    def _in_cores(self, centre: Array, jitter: Array) -> Array:
        """Centres (B, T, 2), moved to the middle of the nearest kept-out squares."""
        every, step = self.windows.kept_out_every_m, self.map.raster.resolution
        aside = np.round(jitter * CORE_SHARE * self._side() / step) * step
        moved: Array = np.round(centre / every) * every + aside
        return moved

    def _side(self) -> float:
        """Metres of a kept-out square's side: whole pixels."""
        step = self.map.raster.resolution
        return max(1, round(self.windows.kept_out_m / step)) * step
