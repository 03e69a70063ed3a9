"""Classifiers of cells as published: PlaNet, CPlaNet and ISN, by their recipes.

The loss is the cross entropy of the cell that contains the true position, summed over partitions;
``heads.intersections`` holds the equations of how partitions are combined. The answer is the
centre of the best cell (PlaNet), or the mean position of the training samples in the best
intersection (CPlaNet, ISN).

Different: cells are squares of the plane, not S2 cells; their thresholds are shares of the city's
road length instead of numbers of photographs; there is no scene type that chooses or trains a
network (ISN); the partitions of CPlaNet are quadtrees of different sizes and origins, not merged
cells.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data_prep.settings import Settings
from maptile_loc.models.classifier import CellsModel
from maptile_loc.models.heads.intersections import cells_of, intersect, scores
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.partition import PartitionSettings, make_cells
from maptile_loc.models.parts.tile_model import Batch


class GeoCellsModel(CellsModel):
    """Cells as classes.

    Args:
        combine: "sum" or "product" of the partitions' probabilities.
        classes: Number of intersections, I.
        arguments: Those of ``CellsModel``.

    Attributes:
        member: (I, P) int64, the cell of each partition.
        answers: (I, 2) float32 metres from the reference.
    """

    member: Tensor
    answers: Tensor

    def __init__(self, combine: str, classes: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.save_hyperparameters()
        del self.within
        self.combine = combine
        self.register_buffer("member", torch.zeros(classes, len(self.counts), dtype=torch.int64))
        self.register_buffer("answers", torch.zeros(classes, 2))

    def forward(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> (B, N) log-probabilities of cells, and (B, 0): no offsets within cells.

        The probabilities of each partition sum to 1.
        """
        return self.log_probabilities(self.features(tiles)), tiles.new_zeros(len(tiles), 0)

    def objective(self, batch: Batch) -> Tensor:
        """The sum over partitions of the mean cross entropy; positions in no cell do not count."""
        log_p, _ = self(batch.tiles.flatten(0, 1))
        truth = cells_of(batch.offset.flatten(0, 1), self.centre, self.side, self.counts)
        known = truth >= 0
        surprise = torch.where(known, -log_p.gather(1, truth.clamp_min(0)), 0.0)
        return (surprise.sum(0) / known.sum(0).clamp_min(1)).sum()

    def top(
        self, tiles: Tensor, count: int, allowed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best intersections.

        Args:
            tiles: (B, C, S, S).
            count: Number of positions, K, at most.
            allowed: (N,) bool, the only cells that count; None: all of them.

        Returns:
            (B, K, 2) metres from the reference and (B, K) log-scores, best first.
        """
        found = scores(self(tiles)[0], self.member, self.combine)
        if allowed is not None:
            found = torch.where(allowed[self.member].all(1), found, -torch.inf)
        best = found.topk(min(count, found.shape[1]), 1)
        return self.answers[best.indices], best.values


class GeoCellsSettings(Settings):
    """How partitions are combined."""

    combine: Literal["sum", "product"] = "sum"
    """Of the partitions' probabilities: sum as CPlaNet, product as ISN."""
    answer: Literal["mean", "centre"] = "mean"
    """Mean of the training positions in an intersection, or centre of its first cell."""


class GeoCellsRecipe(Settings):
    """The keys of a recipe that this model reads."""

    cells: PartitionSettings = PartitionSettings()
    """How the city is divided into cells."""
    classes: GeoCellsSettings = GeoCellsSettings()
    """How partitions are combined."""


def _make(recipe: GeoCellsRecipe, blueprint: Blueprint) -> GeoCellsModel:
    cells = make_cells(blueprint.positions, blueprint.weights, recipe.cells)
    both = intersect(cells, blueprint.positions, blueprint.weights)
    model = GeoCellsModel(
        combine=recipe.classes.combine,
        classes=len(both.member),
        counts=np.bincount(cells.partition).tolist(),
        **blueprint.common,
    )
    model.centre.copy_(torch.from_numpy(cells.centre))
    model.side.copy_(torch.from_numpy(cells.side))
    model.member.copy_(torch.from_numpy(both.member))
    centres = cells.centre[both.member[:, 0]]
    answers = both.mean if recipe.classes.answer == "mean" else centres
    model.answers.copy_(torch.from_numpy(answers))
    return model


KIND = ModelKind(
    name="geocells", method="cells", network=GeoCellsModel, recipe=GeoCellsRecipe, make=_make
)
