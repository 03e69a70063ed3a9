"""A regressor whose answer is a mixture of densities on the plane, and one on the circle (MvMF).

The equations are in ``heads.mixture``. The paper answers with one position; this one is the mean of
the component where the whole mixture is densest, and the others follow in this order.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from data_prep.settings import Settings
from maptile_loc.models.heads.mixture import CircleMixture, PlaneMixture
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.partition import PartitionSettings, make_cells
from maptile_loc.models.parts.rotation import cosine_sine
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.models.regressor import Answer, MapNet


class MixtureModel(MapNet):
    """Tile -> mixture on the plane and, where the heading is unknown, on the circle.

    Args:
        components: Of the mixture on the plane, M.
        directions: Of the mixture on the circle, H.
        arguments: Those of ``MapNet``.
    """

    def __init__(self, components: int, directions: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.save_hyperparameters()
        del self.translation, self.loss
        features = self.settings.features
        self.plane, self.circle = PlaneMixture(components), CircleMixture(directions)
        self.weights = nn.Linear(features, components)
        if self.rotation is not None:
            self.rotation = nn.Linear(features, directions)

    @property
    def adaptable(self) -> bool:
        """False: the loss has no relative term."""
        return False

    def mixtures(self, tiles: Tensor) -> tuple[Tensor, Tensor | None]:
        """(B, C, S, S) -> (B, M) log-weights on the plane, and (B, H) on the circle or None."""
        features = self.features(tiles)
        plane = functional.log_softmax(self.weights(features).float(), 1)
        if self.rotation is None:
            return plane, None
        return plane, functional.log_softmax(self.rotation(features).float(), 1)

    def top(self, tiles: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The densest positions.

        Args:
            tiles: (B, C, S, S).
            count: Number of positions, K; no more than there are components.

        Returns:
            (B, K, 2) metres from the reference, (B, K) log-densities per square metre, best first,
            and (B, K) metres, the widths of the components.
        """
        log_weights, _ = self.mixtures(tiles)
        means = self.plane.means
        found = self.plane.log_density(log_weights, means[None]).topk(min(count, len(means)), 1)
        return means[found.indices], found.values, self.plane.deviations[found.indices]

    def _directions(self, tiles: Tensor) -> Tensor:
        """(B,) radians, the mean of the component where the mixture on the circle is densest."""
        _, log_weights = self.mixtures(tiles)
        if log_weights is None:
            return torch.zeros(len(tiles), device=tiles.device)
        means = self.circle.means
        return means[self.circle.log_density(log_weights, means[None]).argmax(1)]

    def pose(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> (B, 2) offsets in metres and (B,) directions of the tiles in radians."""
        return self.top(tiles, 1)[0][:, 0], self._directions(tiles)

    def answer(self, tiles: Tensor, before: Tensor | None = None) -> Answer:
        """As ``MapNet.answer``; the covariance is that of the densest component."""
        places, _, width = self.top(tiles, 1)
        log_weights, _ = self.mixtures(tiles)
        squared = (self.plane.means - places).square().sum(2)
        near = squared <= width.square()
        probability = torch.where(near, log_weights.exp(), 0.0).sum(1).clamp(max=1.0)
        spread = width[:, :, None].square() * torch.eye(2, device=tiles.device)
        return Answer(places[:, 0], self._directions(tiles), spread, probability)

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 2 or 4) float32: normalised offset, cosine and sine."""
        offset, angle = self.pose(tiles)
        normalised = (offset - self.mean) / self.deviation
        if self.rotation is None:
            return normalised
        return torch.cat([normalised, cosine_sine(angle)], 1)

    def objective(self, batch: Batch) -> Tensor:
        """The mean negative log-density of the true positions and, if unknown, headings."""
        plane, circle = self.mixtures(batch.tiles.flatten(0, 1))
        loss = -self.plane.log_density(plane, batch.offset.flatten(0, 1)[:, None]).mean()
        if circle is not None:
            loss = loss - self.circle.log_density(circle, batch.angle.flatten()[:, None]).mean()
        return loss


class MixtureSettings(Settings):
    """The mixtures of an MvMF."""

    directions: int = Field(12, ge=1)
    """Components on the circle."""
    cells: PartitionSettings = PartitionSettings(partitions=1)
    """The cells on which the components of the plane begin."""


class MixtureRecipe(Settings):
    """The keys of a recipe that MvMF reads: ``mixture``."""

    mixture: MixtureSettings = MixtureSettings()
    """The mixtures."""


def _make(recipe: MixtureRecipe, blueprint: Blueprint) -> MixtureModel:
    cells = make_cells(blueprint.positions, blueprint.weights, recipe.mixture.cells)
    model = MixtureModel(
        components=len(cells.centre),
        directions=recipe.mixture.directions,
        relative=False,
        relative_from=blueprint.relative_from,
        **blueprint.common,
    )
    model.plane.start.copy_(torch.from_numpy(cells.centre))
    model.plane.width.copy_(torch.from_numpy(cells.side) / 2)
    return model


KIND = ModelKind(
    name="mvmf", method="mapnet", network=MixtureModel, recipe=MixtureRecipe, make=_make
)
