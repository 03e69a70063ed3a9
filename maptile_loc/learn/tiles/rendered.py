"""An endless supply of training tiles, rendered during training; no two are equal.

Batch number n depends on the settings and the seed only, not on the process or the order in which
it is rendered. So a resumed training uses the batches that an uninterrupted one would have used.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from maptile_loc.learn.settings import DataSettings
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.render.raycast import Worlds
from maptile_loc.render.routes import RouteSamples
from maptile_loc.render.vector_map import VectorMap, render_exact
from maptile_loc.render.view import render

BATCH_SEED = 0
"""Purpose of a seed: the content of a batch."""
WORLD_SEED = 1
"""Purpose of a seed: a variant of the city."""
WORLD_BYTES = 512_000_000
"""Greatest size of the variants of one city, at a byte per cell."""


class RenderedBatches(Dataset[Batch]):
    """Batches of tuples along routes, rendered on demand.

    Args:
        city_map: The city's map.
        settings: The tiles and tuples.
        heading: Whether tiles are north-up or turned at random.
        seed: Of all randomness.
        stream: Datasets of different streams share no random numbers.

    Attributes:
        slots: Variants of the city in use at a time.
    """

    def __init__(
        self,
        city_map: VectorMap,
        settings: DataSettings,
        heading: Heading,
        seed: int,
        stream: int,
    ) -> None:
        self.city_map, self.settings, self.heading = city_map, settings, heading
        self.seed, self.stream = seed, stream
        west, south, east, north = city_map.bounds
        cells = (east - west) * (north - south) / settings.disguise.resolution**2
        self.slots = int(np.clip(WORLD_BYTES / cells, 1, settings.worlds))
        self._standing: dict[int, int] = {}
        self._worlds: Worlds | None = None

    def __getitem__(self, number: int) -> Batch:
        """Render batch ``number``, any integer from 0."""
        data = self.settings
        generator = torch.Generator().manual_seed(self._seed(BATCH_SEED, number))
        worlds = self.worlds(number)
        samples = self._draw(data.beside_m, generator)
        which = torch.randint(self.slots, samples.centre.shape[:1], generator=generator)
        if data.yards:
            yards = self._draw(data.yard_m, generator)
            off_road = torch.rand(len(which), generator=generator) < data.yards
            off_road &= worlds.free(which, yards.centre).all(1)
            samples = RouteSamples(
                torch.where(off_road[:, None, None], yards.centre, samples.centre),
                torch.where(off_road[:, None, None, None], yards.paths, samples.paths),
            )
        angle = torch.zeros(samples.centre.shape[:2])
        if self.heading == "unknown":
            angle = (2 * torch.rand(angle.shape, generator=generator) - 1) * math.pi
        return Batch(self._tiles(samples, which, angle, generator), samples.centre, angle)

    def _draw(self, beside_m: float, generator: torch.Generator) -> RouteSamples:
        """Return the positions of one batch and the paths about them.

        They lie up to ``beside_m`` metres beyond the roads' edges.
        """
        data = self.settings
        return self.city_map.roads.draw(
            data.batch_tuples,
            self.city_map.weights,
            data.tuple_size,
            data.spacing_m,
            data.view.travel_m,
            beside_m,
            generator,
        )

    def _tiles(
        self, samples: RouteSamples, which: Tensor, angle: Tensor, generator: torch.Generator
    ) -> Tensor:
        """(B, T, C, S, S) views of worlds number ``which`` (B,), turned by (B, T) ``angle``."""
        assert self._worlds is not None
        tiles = render(
            self._worlds,
            which.repeat_interleave(angle.shape[1]),
            samples.paths.flatten(0, 1),
            samples.centre.flatten(0, 1),
            angle.flatten(),
            self.settings.view,
            generator,
        )
        return tiles.view(*angle.shape, *tiles.shape[1:])

    def worlds(self, number: int) -> Worlds:
        """The variants of the city that batch ``number`` is rendered from."""
        first = number // self.settings.batches_per_world
        for world in range(first, first + self.slots):
            slot = world % self.slots
            if self._standing.get(slot) == world:
                continue
            rng = np.random.default_rng(self._seed(WORLD_SEED, world))
            roads = "road" in self.settings.view.channels
            new = self.city_map.world(self.settings.disguise, rng, roads)
            if self._worlds is None:
                empty = torch.zeros((self.slots, *new.cells.shape[1:]), dtype=torch.uint8)
                surface = torch.zeros_like(empty) if roads else None
                self._worlds = Worlds(empty, new.west, new.north, new.resolution, surface)
            self._worlds.cells[slot] = new.cells[0]
            if self._worlds.roads is not None and new.roads is not None:
                self._worlds.roads[slot] = new.roads[0]
            self._standing[slot] = world
        assert self._worlds is not None
        return self._worlds

    def _seed(self, purpose: int, number: int) -> int:
        """A seed of 63 bits for batch or world ``number``."""
        sequence = np.random.SeedSequence([self.seed, self.stream, purpose, number])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class PairedBatches(RenderedBatches):
    """Tuples of two: a vehicle's view, and the map's own view of the second position, north-up."""

    def _tiles(
        self, samples: RouteSamples, which: Tensor, angle: Tensor, generator: torch.Generator
    ) -> Tensor:
        first = RouteSamples(samples.centre[:, :1], samples.paths[:, :1])
        seen = super()._tiles(first, which, angle[:, :1], generator)
        angle[:, 1] = 0
        paths, centre = samples.paths[:, 1], samples.centre[:, 1]
        own = render_exact(self._exact, paths, centre, self.settings.view, generator)
        return torch.cat([seen, own[:, None]], 1)

    @cached_property
    def _exact(self) -> Worlds:
        return self.city_map.exact_world(
            self.settings.disguise.resolution, "road" in self.settings.view.channels
        )
