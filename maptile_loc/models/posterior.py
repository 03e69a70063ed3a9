"""MapNet over a posterior: the regressed pose is an expectation over a grid of places.

A regressor that sees two places alike answers with a third between them. This one says how probable
each place of a grid is, is trained with MapNet's loss on the expectation and with the grid's cross
entropy, and answers with the expectation about the likeliest place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from maptile_loc.learn.data import Batch
from maptile_loc.models.regressor import MapNet

SOFT_M = 8.0
"""Standard deviation of the target about the truth: near places look alike."""
DECIDED_M = 25.0
"""The answer is the expectation over the places so near to the likeliest one."""


class PosteriorMapNet(MapNet):
    """MapNet whose offset is an expectation.

    Args:
        places: How many places the grid has.
        arguments: Those of ``MapNet``.

    Attributes:
        grid: (N, 2) float32, the places, metres from the reference.
    """

    grid: Tensor

    def __init__(self, places: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.save_hyperparameters()
        del self.translation
        self.logits = nn.Linear(self.settings.features, places)
        self.register_buffer("grid", torch.zeros(places, 2))

    def posterior(self, tiles: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, 3, S, S) -> (B, N) log-probabilities; the log-quaternion (B, 1) or None."""
        features = self.features(tiles)
        log_p = functional.log_softmax(self.logits(features).float(), dim=1)
        return log_p, None if self.rotation is None else self.rotation(features).float()

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 2 or 3) float32: the decided offset normalised, log-quaternion."""
        log_p, rotation = self.posterior(tiles)
        peak = self.grid[log_p.argmax(1)]
        near = torch.cdist(peak, self.grid) < DECIDED_M
        share = torch.where(near, log_p, -torch.inf).softmax(1)
        return self._together(share @ self.grid, rotation)

    def objective(self, batch: Batch) -> Tensor:
        """The pose loss of the expectation over all places, and the posterior's cross entropy."""
        log_p, rotation = self.posterior(batch.tiles.flatten(0, 1))
        expected = self._together(log_p.exp() @ self.grid, rotation)
        relative = self.progress >= self.relative_from
        predicted = expected.view(*batch.offset.shape[:2], -1)
        loss: Tensor = self.loss(predicted, self.target(batch), relative)
        distance = torch.cdist(batch.offset.flatten(0, 1), self.grid)
        target = (-distance.square() / (2 * SOFT_M**2)).softmax(1)
        return loss - (target * log_p).sum(1).mean()

    def _together(self, offset: Tensor, rotation: Tensor | None) -> Tensor:
        normalised = (offset - self.mean) / self.deviation
        return normalised if rotation is None else torch.cat([normalised, rotation], 1)
