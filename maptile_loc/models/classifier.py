"""Tile to cell: a posterior over the cells of a city, with the place within each.

A cell is a class (Weyand et al., PlaNet, ECCV 2016) of several overlapping partitions that are
combined (Seo et al., CPlaNet, ECCV 2018); the target is soft, for near cells look alike, and each
cell has an offset of its own, so that the answer is finer than the cells.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from maptile_loc.learn.data import Batch
from maptile_loc.models.base import TileModel

SOFT_M = 5.0
"""Standard deviation of the target beyond a cell's border, and of the density about an answer."""
BOTTLENECK = 64
MIXED = 64
"""Cells per partition of which a tile's density is made."""


class CellsModel(TileModel):
    """Posterior over cells.

    Args:
        counts: Cells in each partition.
        common: The arguments of ``TileModel``.

    Attributes:
        centre: (N, 2) float32 metres from the reference, of all partitions' cells.
        side: (N,) float32 metres.
    """

    method = "cells"
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
        """(B, 3, S, S) -> (B, N) log-probabilities within each partition, (B, N, 2) places."""
        features = self.features(tiles)
        logits = self.logits(features).float()
        parts = [functional.log_softmax(part, 1) for part in torch.split(logits, self.counts, 1)]
        within = self.within(features).float().view(len(tiles), -1, 2)
        return torch.cat(parts, 1), self.centre + within * self.side[:, None]

    def objective(self, batch: Batch) -> Tensor:
        """Cross entropy of each partition, and the distance of the likely cells' places."""
        log_p, place = self(batch.tiles.flatten(0, 1))
        truth = batch.offset.flatten(0, 1)[:, None]
        outside = ((self.centre - truth).abs() - self.side[:, None] / 2).clamp_min(0)
        closeness = -outside.square().sum(2) / (2 * SOFT_M**2)
        target = torch.cat([part.softmax(1) for part in torch.split(closeness, self.counts, 1)], 1)
        surprise = -(target * log_p).sum(1)
        astray = (target * (place - truth).abs().sum(2)).sum(1) / SOFT_M
        return (surprise + astray).mean() / len(self.counts)

    def top(self, tiles: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The likeliest places.

        Args:
            tiles: (B, 3, S, S).
            count: How many places, K.

        Returns:
            (B, K, 2) metres from the reference and (B, K) log-scores, 0 where all partitions are
            sure of the same place. Two places are ``2 SOFT_M`` apart or more; where fewer are
            found, the rest have scores of minus infinity.
        """
        log_p, place = self(tiles)
        best = [
            part.topk(min(MIXED, part.shape[1]), 1) for part in torch.split(log_p, self.counts, 1)
        ]
        starts = torch.tensor([0, *self.counts]).cumsum(0).tolist()
        index = torch.cat([b.indices + start for b, start in zip(best, starts, strict=False)], 1)
        answers = place.gather(1, index[..., None].expand(-1, -1, 2))
        # Each partition is a density, a Gaussian about each cell's answer; together they say where.
        sizes = [b.values.shape[1] for b in best]
        distance = torch.cdist(answers, answers)
        density = torch.zeros_like(log_p[:, : index.shape[1]])
        for values, gaps in zip(
            [b.values for b in best], torch.split(distance, sizes, 2), strict=True
        ):
            near = values[:, None] - gaps.square() / (2 * SOFT_M**2)
            floor = near.new_full((len(near), near.shape[1], 1), -12.0)
            density = density + torch.cat([near, floor], 2).logsumexp(2)
        chosen, scores = [], []
        rest = density
        for _ in range(count):
            score, at = rest.max(1)
            chosen.append(answers[torch.arange(len(at)), at])
            scores.append(score)
            row = distance[torch.arange(len(at)), at]
            rest = torch.where(row < 2 * SOFT_M, -torch.inf, rest)
        return torch.stack(chosen, 1), torch.stack(scores, 1) / len(self.counts)

    def pose(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> (B, 2) the likeliest place, (B,) zeros: cells know no direction."""
        places, _ = self.top(tiles, 1)
        return places[:, 0], torch.zeros_like(places[:, 0, 0])
