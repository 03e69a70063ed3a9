"""Fitting of the wall detector to cells whose classes are known, or known to be walls or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pydantic
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_prep.settings import Count, Fraction, NotNegative, Positive, Settings
from maptile_loc.learn.runtime import interruptible, quiet
from maptile_loc.perceive.detector import (
    BUILDING_CLASS,
    CLASS_OF_KIND,
    CLASSES,
    DILATIONS,
    Cells,
    WallDetector,
    make_cells,
)
from maptile_loc.perceive.labels import BUILDING, UNLABELLED
from maptile_loc.perceive.query_tile import QuerySettings, Survey, upright_groups
from maptile_loc.perceive.rays import pixels
from maptile_loc.perceive.walls import Upright, wall_features

UNKNOWN = -1
"""Target of a cell whose class is not known."""

NO_WALL = -2
"""Target of a cell that is no wall, whatever else it is."""

LEAST_SPREAD = 1e-3
"""Smallest standard deviation by which a feature is normalised."""


class LabelNoise(Settings):
    """How often labels are wrong: the matrix T of forward correction for walls and other cells.

    The fit compares T p with the labels, where p is what the detector states, so that its minimum
    is the detector that clean labels give (Patrini et al., CVPR 2017, theorem 2).

    Attributes:
        missed: Share of the walls that are labelled no walls.
        invented: Share of the other cells that are labelled walls.
    """

    missed: float = pydantic.Field(default=0.0, ge=0, lt=0.5)
    invented: float = pydantic.Field(default=0.0, ge=0, lt=0.5)


EXACT = LabelNoise()
"""Labels without errors."""


class FitSettings(Settings):
    """How a detector is fitted.

    Attributes:
        width: Channels of a new detector.
        epochs: Times that every tile is seen.
        batch: Tiles per step.
        learning_rate: At its peak; one cycle.
        weight_decay: Of AdamW.
        dropout: Share of the features that is hidden in each step, for all cells alike.
        anchor: Weight of half the squared distance of the weights from those of the detector that
            the fit continues from (L2-SP; Li, Grandvalet and Davoine, ICML 2018).
        noise: How often the labels of walls and of no walls are wrong.
        seed: Seed of weights and order.
    """

    width: Count = 32
    epochs: Count = 20
    batch: Count = 8
    learning_rate: Positive = 0.003
    weight_decay: NotNegative = 0.01
    dropout: Fraction = 0.1
    anchor: NotNegative = 0.0
    noise: LabelNoise = EXACT
    seed: int = 0


class Sample(NamedTuple):
    """The cells of one tile, or of one group of scans of a tile.

    Attributes:
        cell: (M,) int64 flat indices.
        features: (M, F) float32 ``walls.FEATURES``.
        target: (M,) int64 index into ``detector.CLASSES``, ``UNKNOWN`` or ``NO_WALL``.
    """

    cell: NDArray[np.int64]
    features: NDArray[np.float32]
    target: NDArray[np.int64]


def featured_groups(
    seen: Survey, settings: QuerySettings
) -> Iterator[tuple[Upright, NDArray[np.int64], NDArray[np.float32]]]:
    """The upright points of each group of scans, their (M,) cells, and the cells' (M, F) features.

    Args:
        seen: The points.
        settings: How tiles are made.
    """
    size = settings.size
    for points in upright_groups(seen, settings.wall.may_be_wall(seen.height)):
        cell, features = wall_features(points, seen.bins, size, settings.resolution, settings.wall)
        yield points, cell, features.astype(np.float32)


def labelled_samples(seen: Survey, settings: QuerySettings) -> list[Sample]:
    """Samples of a labelled submap, one per group of scans.

    A cell with an upright point on a building is a wall. Other cells have the class of most of
    their labelled upright points; cells most of whose points have no label are unknown.

    Args:
        seen: The points, with their kinds.
        settings: How tiles are made.
    """
    assert seen.kind is not None
    size, samples = settings.size, []
    for points, cell, features in featured_groups(seen, settings):
        pixel, inside = pixels(points.xy, size, settings.resolution)
        kind = seen.kind[points.ray][inside]
        votes = np.zeros((len(CLASSES), size * size))
        number = np.array([CLASS_OF_KIND.get(one, 0) for one in range(256)])[kind]
        known = kind != UNLABELLED
        for one in range(len(CLASSES)):
            votes[one] = np.bincount(pixel[known & (number == one)], minlength=size * size)
        blank = np.bincount(pixel[~known], minlength=size * size)
        target = np.where(votes.sum(axis=0) > blank, votes.argmax(axis=0), UNKNOWN)
        target[pixel[kind == BUILDING]] = BUILDING_CLASS
        samples.append(Sample(cell, features, target[cell]))
    return samples


class _Batch(NamedTuple):
    """Cells of several tiles, and their targets."""

    cells: Cells
    target: torch.Tensor


def _collate(samples: Sequence[Sample], size: int) -> _Batch:
    """One batch of the samples, whose tiles are (size, size)."""
    total = sum(len(sample.cell) for sample in samples)
    around: dict[int, list[torch.Tensor]] = {step: [] for step in set(DILATIONS)}
    first = 0
    for sample in samples:
        made = make_cells(sample.cell, sample.features, size)
        for step, index in made.around.items():
            none = index == len(sample.cell)
            around[step].append(torch.where(none, total, index + first))
        first += len(sample.cell)
    features = torch.from_numpy(np.concatenate([sample.features for sample in samples]))
    target = torch.from_numpy(np.concatenate([sample.target for sample in samples]))
    cells = Cells(features, {step: torch.cat(parts) for step, parts in around.items()})
    return _Batch(cells, target)


class _Fit(pl.LightningModule):
    """Cross-entropy of classes, and of being a wall or not where that is all that is known."""

    def __init__(self, detector: WallDetector, settings: FitSettings, steps: int) -> None:
        super().__init__()
        self.detector, self.settings, self.steps = detector, settings, steps
        self.start = [weight.detach().clone() for weight in detector.parameters()]

    def training_step(self, batch: _Batch, _: int) -> torch.Tensor:
        """The mean loss of a batch."""
        shown = torch.rand(1, self.detector.features) >= self.settings.dropout
        features = torch.where(shown, batch.cells.features, self.detector.mean)
        odds = self.detector(Cells(features, batch.cells.around))
        loss = wall_loss(odds, batch.target, self.settings.noise)
        return loss + self.settings.anchor / 2 * self._moved() if self.settings.anchor else loss

    def _moved(self) -> torch.Tensor:
        """Squared distance of the weights from those at the start."""
        pairs = zip(self.detector.parameters(), self.start, strict=True)
        return torch.stack([(weight - before).square().sum() for weight, before in pairs]).sum()

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate."""
        rate, decay = self.settings.learning_rate, self.settings.weight_decay
        optimizer = torch.optim.AdamW(self.detector.parameters(), rate, weight_decay=decay)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


def wall_loss(odds: torch.Tensor, target: torch.Tensor, noise: LabelNoise = EXACT) -> torch.Tensor:
    """Mean negative log-probability of the targets, nats; unknown cells do not count.

    Args:
        odds: (M, len(CLASSES)) log-odds.
        target: (M,) as in ``Sample``.
        noise: How often walls are labelled ``NO_WALL``, and other cells walls.
    """
    known = target != UNKNOWN
    log_p = torch.log_softmax(odds[known], 1)
    target = target[known]
    others = [k for k in range(odds.shape[1]) if k != BUILDING_CLASS]
    wall, no_wall = log_p[:, BUILDING_CLASS], torch.logsumexp(log_p[:, others], 1)
    missed, invented = torch.tensor([noise.missed, noise.invented])
    as_wall = torch.logaddexp(wall + torch.log1p(-missed), no_wall + torch.log(invented))
    as_no_wall = torch.logaddexp(no_wall + torch.log1p(-invented), wall + torch.log(missed))
    named = log_p.gather(1, target.clamp(min=0)[:, None])[:, 0]
    named = torch.where(target == BUILDING_CLASS, as_wall, named)
    return -torch.where(target == NO_WALL, as_no_wall, named).mean()


def fit_detector(
    samples: Sequence[Sample],
    size: int,
    settings: FitSettings,
    start: WallDetector | None = None,
    progress: bool = False,
) -> WallDetector:
    """Return a detector fitted to samples.

    Args:
        samples: The cells.
        size: Pixels along a side of their tiles.
        settings: How it is fitted.
        start: A detector to continue from; it stays as it is. None: a new one.
        progress: Whether a progress bar is shown.
    """
    pl.seed_everything(settings.seed, verbose=False)
    detector = _new_detector(samples, settings.width)
    if start is not None:
        detector = WallDetector(start.features, start.width)
        detector.load_state_dict(start.state_dict())
    loader: DataLoader[Any] = DataLoader(
        list(samples),  # type: ignore[arg-type]
        batch_size=min(settings.batch, len(samples)),
        shuffle=True,
        drop_last=True,
        collate_fn=lambda part: _collate(part, size),
    )
    with quiet(), interruptible():
        trainer = pl.Trainer(
            max_epochs=settings.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
        )
        trainer.fit(_Fit(detector, settings, settings.epochs * len(loader)), loader)
    return detector.eval().requires_grad_(False)


def _new_detector(samples: Sequence[Sample], width: int) -> WallDetector:
    """A detector with random weights that normalises features by the samples' mean and spread."""
    features = np.concatenate([sample.features for sample in samples])
    detector = WallDetector(features.shape[1], width)
    detector.mean.copy_(torch.from_numpy(features.mean(axis=0)))
    spread = np.maximum(features.std(axis=0), LEAST_SPREAD)
    detector.spread.copy_(torch.from_numpy(spread))
    return detector
