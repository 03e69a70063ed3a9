"""Training and validation batches of one city or several, for Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from maptile_loc.learn.processes import SharedBatches, Team
from maptile_loc.learn.runtime import quiet_worker
from maptile_loc.learn.settings import DataSettings
from maptile_loc.learn.tiles.supply import TRAINING_STREAM, VALIDATION_STREAM, Supply, batches
from maptile_loc.models.parts.tile_model import Batch, Heading

ALONE = Team()
"""A training in one process."""
PREFETCHED = 4
"""Batches that each process makes in advance."""


class SeveralCities(Dataset[Batch]):
    """The batches of several cities, in turn."""

    def __init__(self, cities: list[Dataset[Batch]]) -> None:
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
        team: The processes that train, which take turns to make batches.
    """

    def __init__(self, batches: int, trained: Callable[[], int], team: Team = ALONE) -> None:
        self.batches, self.trained, self.team = batches, trained, team

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[int]:
        first = self.trained()
        numbers = range(first, first + self.batches)
        return (number for number in numbers if number % self.team.size == self.team.rank)


class TileDataModule(pl.LightningDataModule):
    """Training and validation batches of one city or several, for a Lightning ``Trainer``.

    Validation batches show other positions, and worlds that training does not use. They are the
    same in every validation.

    Args:
        maps: The cities' maps.
        settings: The tiles and tuples.
        heading: Whether tiles are north-up or turned at random.
        seed: Of all randomness.
        epoch_steps: Batches per epoch.
        paired: Whether tuples are pairs of a vehicle's view and the map's own.
        team: The processes that train; each gets its part of each batch.

    Attributes:
        workers: Number of processes that make batches for this one.
    """

    def __init__(
        self,
        maps: list[Supply],
        settings: DataSettings,
        heading: Heading,
        seed: int,
        epoch_steps: int,
        paired: bool = False,
        team: Team = ALONE,
    ) -> None:
        super().__init__()
        self.training, self.held_out = (
            SeveralCities([batches(each, settings, heading, seed, stream, paired) for each in maps])
            for stream in (TRAINING_STREAM, VALIDATION_STREAM)
        )
        self.sampler = EpochSampler(epoch_steps, self._trained, team)
        self.settings, self.team = settings, team
        self.workers = settings.processes() // team.size
        self._validation: list[Batch] | None = None

    def train_dataloader(self) -> DataLoader[Batch] | SharedBatches:
        """Batches of the current epoch; of several processes, this one's part of each batch."""
        made: DataLoader[Batch] = DataLoader(
            self.training,
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            prefetch_factor=PREFETCHED if self.workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=quiet_worker,
        )
        if self.team.size == 1:
            return made
        return SharedBatches(made, self._trained, len(self.sampler), self.team)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation batches."""
        return DataLoader(_Kept(self.validation()), batch_size=None)

    def validation(self) -> list[Batch]:
        """The validation batches; they are made at the first call and kept."""
        if self._validation is None:
            count = math.ceil(self.settings.validation_tuples / self.settings.batch_tuples)
            self._validation = [self.held_out[number] for number in range(count)]
        return self._validation

    def _trained(self) -> int:
        """The number of batches that the trainer has used so far."""
        return self.trainer.global_step if self.trainer is not None else 0


class _Kept(Dataset[Batch]):
    """Batches in memory."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        return self.batches[number]
