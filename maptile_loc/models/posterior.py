"""MapNet over a posterior: the regressed offset is an expectation over a grid of positions.

For a tile that fits two positions, a regressor returns a position between them. This model
estimates the probability of each position of a grid. It is trained with MapNet's loss on the
expectation and with the cross entropy of the grid; its answer is the expectation near the most
probable position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pydantic import Field
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn import functional

from data_prep.geometry import Array
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.rotation import angle_of_cosine_sine
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.models.regressor import Answer, MapNet, RegressorRecipe

SOFT_M = 8.0
"""Standard deviation of the target about the true position: nearby positions look alike."""
DECIDED_M = 25.0
"""The answer is the expectation over the positions this near to the most probable one."""


class PosteriorMapNet(MapNet):
    """MapNet whose offset is an expectation over a grid.

    Args:
        places: Number of positions in the grid, N.
        arguments: Those of ``MapNet``.

    Attributes:
        grid: (N, 2) float32, the positions, metres from the reference.
    """

    grid: Tensor

    def __init__(self, places: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.save_hyperparameters()
        del self.translation
        self.logits = nn.Linear(self.settings.features, places)
        self.register_buffer("grid", torch.zeros(places, 2))

    def posterior(self, tiles: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C, S, S) -> (B, N) log-probabilities, and cosine and sine (B, 2) or None."""
        features = self.features(tiles)
        log_p = functional.log_softmax(self.logits(features).float(), dim=1)
        return log_p, None if self.rotation is None else self.rotation(features).float()

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 2 or 4) float32: normalised offset, cosine and sine.

        The offset is the expectation within ``DECIDED_M`` of the most probable position.
        """
        log_p, rotation = self.posterior(tiles)
        return self._joined(self._decided(log_p)[0] @ self.grid, rotation)

    def _decided(self, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior (B, N) within ``DECIDED_M`` of its peak, and its (B,) probability there."""
        peak = self.grid[log_p.argmax(1)]
        near = torch.cdist(peak, self.grid) < DECIDED_M
        kept = torch.where(near, log_p, -torch.inf)
        return kept.softmax(1), kept.logsumexp(1).exp().clamp(max=1.0)

    def answer(self, tiles: Tensor, before: Tensor | None = None) -> Answer:
        """As ``MapNet.answer``, with the posterior's moments near its most probable position."""
        log_p, rotation = self.posterior(tiles)
        share, probability = self._decided(log_p)
        offset = share @ self.grid
        off = self.grid - offset[:, None]
        covariance = torch.einsum("bn,bni,bnj->bij", share, off, off)
        # A position of the grid stands for all that are nearest to it.
        steps = torch.cat([axis.unique().diff() for axis in self.grid.T])
        within = steps.min().square() / 12 if len(steps) else torch.zeros(())
        covariance = covariance + within * torch.eye(2, device=offset.device)
        zero = torch.zeros_like(offset[:, 0])
        angle = zero if rotation is None else angle_of_cosine_sine(rotation)
        return Answer(offset, angle, covariance, probability)

    def expectation(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 2 or 4): as ``forward``, with the expectation over the whole grid.

        It distinguishes two positions by the probability of each, so its gradient reaches both.
        """
        log_p, rotation = self.posterior(tiles)
        return self._joined(log_p.exp() @ self.grid, rotation)

    def objective(self, batch: Batch) -> Tensor:
        """The pose loss of the expectation over the whole grid, and the posterior's cross entropy.

        The target of the cross entropy is a Gaussian of ``SOFT_M`` about the true position.
        """
        log_p, rotation = self.posterior(batch.tiles.flatten(0, 1))
        expected = self._joined(log_p.exp() @ self.grid, rotation)
        relative = self.trained_share >= self.relative_from
        predicted = expected.view(*batch.offset.shape[:2], -1)
        loss: Tensor = self.loss(predicted, self.target(batch), relative)
        distance = torch.cdist(batch.offset.flatten(0, 1), self.grid)
        target = (-distance.square() / (2 * SOFT_M**2)).softmax(1)
        return loss - (target * log_p).sum(1).mean()

    def _joined(self, offset: Tensor, rotation: Tensor | None) -> Tensor:
        """(B, 2 or 4) of offsets (B, 2) in metres, which are normalised, and of rotations."""
        normalised = (offset - self.mean) / self.deviation
        return normalised if rotation is None else torch.cat([normalised, rotation], 1)


class PosteriorRecipe(RegressorRecipe):
    """The keys of a recipe that posterior models read: MapNet's, and ``grid_m``."""

    grid_m: float = Field(10.0, gt=0)
    """Spacing of the grid of positions, metres."""
    reach_m: float = Field(15.0, ge=0)
    """How far from where training tiles lie the grid reaches, metres: car parks and wide roads lie
    beside the middle of a road."""


def _make(recipe: PosteriorRecipe, blueprint: Blueprint) -> PosteriorMapNet:
    grid = _grid(blueprint.positions[blueprint.weights > 0], recipe.grid_m, recipe.reach_m)
    model = PosteriorMapNet(
        places=len(grid),
        relative=recipe.relative,
        relative_from=blueprint.relative_from,
        **blueprint.common,
    )
    model.grid.copy_(torch.from_numpy(grid))
    return model


def _grid(positions: Array, spacing: float, reach: float) -> Array:
    """(N, 2) the points of a square grid that are the nearest to, or near, one of (P, 2) positions.

    Near are those up to ``reach`` away.
    """
    nearest: Array = np.unique(np.round(positions / spacing), axis=0)
    steps = np.arange(-np.ceil(reach / spacing), np.ceil(reach / spacing) + 1)
    around = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    index = np.unique((nearest[:, None] + around).reshape(-1, 2), axis=0)
    within = cKDTree(positions).query(index * spacing)[0] <= reach
    grid: Array = np.unique(np.concatenate([nearest, index[within]]), axis=0) * spacing
    return grid


KIND = ModelKind(
    name="posterior",
    method="mapnet",
    network=PosteriorMapNet,
    recipe=PosteriorRecipe,
    make=_make,
)
