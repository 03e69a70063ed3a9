"""Cells: a posterior over the cells of a city, with a position within each.

Each cell is a class (Weyand et al., PlaNet, ECCV 2016) of several overlapping partitions, which are
combined (Seo et al., CPlaNet, ECCV 2018). The target is soft, because nearby cells look alike, and
the model regresses an offset within each cell, so that the answer is finer than the cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data_prep.settings import Settings
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.partition import PartitionSettings, make_cells
from maptile_loc.models.parts.tile_model import Batch, TileModel

SOFT_M = 5.0
"""Standard deviation of the target beyond a cell's border, and of the density about an answer."""
BOTTLENECK = 64
"""Features of the hidden layer of the head that regresses the offsets within cells."""
TARGETS = 32
"""Cells of a partition that a target has: more than come within 25 m of a position."""
MIXED = 64
"""The most probable cells of each partition, from which a tile's density is made."""
FLOOR = -12.0
"""Log-density of a partition where none of its ``MIXED`` answers is near."""


class CellsModel(TileModel):
    """Posterior over cells.

    Args:
        counts: Cells in each partition; N in total.
        common: The arguments of ``TileModel``.

    Attributes:
        centre: (N, 2) float32 metres from the reference, of the cells of all partitions.
        side: (N,) float32 metres.
    """

    centre: Tensor
    side: Tensor

    def __init__(self, counts: list[int], **common: Any) -> None:
        super().__init__(**common)
        self.save_hyperparameters()
        self.counts, total = counts, sum(counts)
        self.logits = nn.Linear(self.settings.features, total)
        self.within = nn.Sequential(
            nn.Linear(self.settings.features, BOTTLENECK), nn.Linear(BOTTLENECK, 2 * total)
        )
        self.register_buffer("centre", torch.zeros(total, 2))
        self.register_buffer("side", torch.ones(total))

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> (B, N) log-probabilities of cells, and (B, H) for ``positions``.

        The N cells are those of all partitions; the probabilities of each partition sum to 1.
        """
        features = self.features(tiles)
        return self.log_probabilities(features), self.within[0](features).float()

    def log_probabilities(self, features: Tensor) -> Tensor:
        """(B, F) features -> (B, N) log-probabilities, which sum to 1 in each partition."""
        logits = self.logits(features).float()
        parts = [functional.log_softmax(part, 1) for part in torch.split(logits, self.counts, 1)]
        return torch.cat(parts, 1)

    def positions(self, hidden: Tensor, cells: Tensor) -> Tensor:
        """(B, K, 2) positions within cells number ``cells`` (B, K), metres from the reference.

        Only these cells cost anything: a large city has tens of thousands.

        Args:
            hidden: (B, H), as of ``forward``.
            cells: (B, K) int64.
        """
        head = self.within[1]
        assert isinstance(head, nn.Linear)
        weight = head.weight.float().view(-1, 2, BOTTLENECK)[cells]
        within = torch.einsum("bkah,bh->bka", weight, hidden) + head.bias.view(-1, 2)[cells]
        return self.centre[cells] + within * self.side[cells][..., None]

    def objective(self, batch: Batch) -> Tensor:
        """The mean over partitions of cross entropy and expected position error.

        The position error is the sum of the absolute errors per axis, in units of ``SOFT_M``; its
        expectation is over the target's probabilities. The target is sparse: in each partition it
        has the ``TARGETS`` cells next to the truth, and leaves out less than 1e-6.
        """
        log_p, hidden = self(batch.tiles.flatten(0, 1))
        truth = batch.offset.flatten(0, 1)
        cells, target = self.targets(truth)
        surprise = -(target * log_p.gather(1, cells)).sum(1)
        off = (self.positions(hidden, cells) - truth[:, None]).abs().sum(2)
        return (surprise + (target * off).sum(1) / SOFT_M).mean() / len(self.counts)

    @torch.no_grad()
    def targets(self, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and their probabilities for true positions.

        Args:
            truth: (B, 2) metres from the reference.

        Returns:
            (B, K) int64 cells, up to ``TARGETS`` of each partition, and their (B, K) probabilities,
            which sum to 1 in each.
        """
        squared = torch.zeros(len(truth), len(self.centre), device=truth.device)
        for axis in (0, 1):
            off = (self.centre[:, axis] - truth[:, axis : axis + 1]).abs_()
            squared += off.sub_(self.side / 2).clamp_min_(0).square_()
        cells, target, start = [], [], 0
        for part in torch.split(squared, self.counts, 1):
            near = part.topk(min(TARGETS, part.shape[1]), 1, largest=False)
            cells.append(near.indices + start)
            target.append((-near.values / (2 * SOFT_M**2)).softmax(1))
            start += part.shape[1]
        return torch.cat(cells, 1), torch.cat(target, 1)

    def top(
        self, tiles: Tensor, count: int, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The most probable positions.

        Args:
            tiles: (B, C, S, S).
            count: Number of positions, K.
            allowed: (N,) bool, the only cells that count; None: all of them.

        Returns:
            (B, K, 2) metres from the reference and (B, K) log-scores: the mean over the partitions
            of their log-densities, 0 where all are certain of the same position. Two positions are
            at least ``2 SOFT_M`` apart; where fewer exist, the others have a score of minus
            infinity.
        """
        answers, distance, density = self._density(tiles, allowed)
        chosen, scores = [], []
        rest = density
        for _ in range(count):
            score, at = rest.max(1)
            chosen.append(answers[torch.arange(len(at)), at])
            scores.append(score)
            row = distance[torch.arange(len(at)), at]
            rest = torch.where(row < 2 * SOFT_M, -torch.inf, rest)
        return torch.stack(chosen, 1), torch.stack(scores, 1) / len(self.counts)

    def _density(
        self, tiles: Tensor, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The joint density of all partitions at the positions of their most probable cells.

        The density of a partition is a mixture of Gaussians about its cells' positions, on a floor;
        those of all partitions are multiplied.

        Returns:
            (B, M, 2) positions, (B, M, M) the distances between them, (B, M) log-densities.
        """
        log_p, hidden = self(tiles)
        if allowed is not None:
            log_p = torch.where(allowed, log_p, -torch.inf)
        best = [
            part.topk(min(MIXED, part.shape[1]), 1) for part in torch.split(log_p, self.counts, 1)
        ]
        starts = torch.tensor([0, *self.counts]).cumsum(0).tolist()
        index = torch.cat([b.indices + start for b, start in zip(best, starts, strict=False)], 1)
        answers = self.positions(hidden, index)
        sizes = [b.values.shape[1] for b in best]
        distance = torch.cdist(answers, answers)
        density = torch.zeros_like(log_p[:, : index.shape[1]])
        for values, gaps in zip(
            [b.values for b in best], torch.split(distance, sizes, 2), strict=True
        ):
            near = values[:, None] - gaps.square() / (2 * SOFT_M**2)
            floor = near.new_full((len(near), near.shape[1], 1), FLOOR)
            density = density + torch.cat([near, floor], 2).logsumexp(2)
        return answers, distance, density

    def pose(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> (B, 2) the most probable position, (B,) zeros: there is no direction."""
        positions, _ = self.top(tiles, 1)
        return positions[:, 0], torch.zeros_like(positions[:, 0, 0])


class ClassifierRecipe(Settings):
    """The keys of a recipe that this model reads."""

    cells: PartitionSettings = PartitionSettings()
    """How the city is divided into cells."""


def _make(recipe: ClassifierRecipe, blueprint: Blueprint) -> CellsModel:
    cells = make_cells(blueprint.positions, blueprint.weights, recipe.cells)
    model = CellsModel(counts=np.bincount(cells.partition).tolist(), **blueprint.common)
    model.centre.copy_(torch.from_numpy(cells.centre))
    model.side.copy_(torch.from_numpy(cells.side))
    return model


KIND = ModelKind(
    name="cells", method="cells", network=CellsModel, recipe=ClassifierRecipe, make=_make
)
