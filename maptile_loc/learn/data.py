"""An endless supply of training tiles, rendered during training; no two are equal.

Batch number n depends on the settings and the seed only, not on the process or the order in which
it is rendered. So a resumed training uses the batches that an uninterrupted one would have used.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from maptile_loc.learn.settings import DataSettings
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.render.raycast import Worlds
from maptile_loc.render.routes import RouteSamples
from maptile_loc.render.vector_map import VectorMap, render_exact
from maptile_loc.render.view import render

TRAINING_STREAM = 0
"""Stream of random numbers of the training batches."""
VALIDATION_STREAM = 1
"""Stream of random numbers of the validation batches."""
BATCH_SEED = 0
"""Purpose of a seed: the content of a batch."""
WORLD_SEED = 1
"""Purpose of a seed: a variant of the city."""
WORLD_BYTES = 512_000_000
"""Greatest size of the variants of one city, at a byte per cell."""
PREFETCHED = 4
"""Batches that each process renders in advance."""


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
        """(B, T, 3, S, S) views of worlds number ``which`` (B,), turned by (B, T) ``angle``."""
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
            new = self.city_map.world(self.settings.disguise, rng)
            if self._worlds is None:
                empty = torch.zeros((self.slots, *new.cells.shape[1:]), dtype=torch.uint8)
                self._worlds = Worlds(empty, new.west, new.north, new.resolution)
            self._worlds.cells[slot] = new.cells[0]
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
        return self.city_map.exact_world(self.settings.disguise.resolution)


class SeveralCities(Dataset[Batch]):
    """The batches of several cities, in turn."""

    def __init__(self, cities: list[RenderedBatches]) -> None:
        self.cities = cities

    def __getitem__(self, number: int) -> Batch:
        """Batch ``number``, any integer from 0."""
        turn, city = divmod(number, len(self.cities))
        return self.cities[city][turn]


class EpochSampler(Sampler[int]):
    """The numbers of an epoch's batches, from the first that was not trained on yet.

    Args:
        batches: Batches per epoch.
        trained: Returns the number of batches that were trained on so far.
    """

    def __init__(self, batches: int, trained: Callable[[], int]) -> None:
        self.batches, self.trained = batches, trained

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[int]:
        first = self.trained()
        return iter(range(first, first + self.batches))


class TileDataModule(pl.LightningDataModule):
    """Training and validation batches of one city or several, for a Lightning ``Trainer``.

    Validation batches show other positions, in worlds that training does not use. They are the same
    in every validation.

    Args:
        maps: The cities' maps.
        settings: The tiles and tuples.
        heading: Whether tiles are north-up or turned at random.
        seed: Of all randomness.
        epoch_steps: Batches per epoch.
        paired: Whether batches are ``PairedBatches``.

    Attributes:
        workers: Number of processes that render.
    """

    def __init__(
        self,
        maps: list[VectorMap],
        settings: DataSettings,
        heading: Heading,
        seed: int,
        epoch_steps: int,
        paired: bool = False,
    ) -> None:
        super().__init__()
        batches = PairedBatches if paired else RenderedBatches
        self.training, self.held_out = (
            SeveralCities([batches(each, settings, heading, seed, stream) for each in maps])
            for stream in (TRAINING_STREAM, VALIDATION_STREAM)
        )
        self.sampler = EpochSampler(epoch_steps, self._trained)
        self.settings = settings
        self.workers = settings.processes()
        self._validation: list[Batch] | None = None

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the current epoch."""
        return DataLoader(
            self.training,
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            prefetch_factor=PREFETCHED if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_ignore_interrupts,
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation batches."""
        return DataLoader(_Kept(self.validation()), batch_size=None)

    def validation(self) -> list[Batch]:
        """The validation batches; they are rendered at the first call and kept."""
        if self._validation is None:
            batches = math.ceil(self.settings.validation_tuples / self.settings.batch_tuples)
            self._validation = [self.held_out[number] for number in range(batches)]
        return self._validation

    def _trained(self) -> int:
        """The number of batches that the trainer has used so far."""
        return self.trainer.global_step if self.trainer is not None else 0


def _ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C, which a terminal sends to all processes, to the one that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Kept(Dataset[Batch]):
    """Batches in memory."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        return self.batches[number]
