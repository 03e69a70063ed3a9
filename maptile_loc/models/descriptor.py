"""Tile -> descriptor: tiles of the same position have descriptors of the same direction.

One network describes views of vehicles and views of the map alike, as in CrossLocate (Tomesek et
al., WACV 2022), or one network each. It is trained on pairs: a vehicle's view has to be more
similar to the map's view of the same position than to all others. With InfoNCE (van den Oord et
al., 2018) these include views of the last batches (cross-batch memory, Wang et al., CVPR 2020), and
the most similar of the others have the greatest weight; ``losses.triplet`` holds the published
triplet losses. The model is bound to no city.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from data_prep.settings import Settings
from maptile_loc.models.heads.netvlad import NetVLAD
from maptile_loc.models.heads.pooled import GlobalPool
from maptile_loc.models.heads.transport import FeatureTransport
from maptile_loc.models.losses.triplet import margin_triplet, soft_margin_triplet
from maptile_loc.models.parts.backbone import Backbone, make_backbone
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.tile_model import Batch, TileModel

SAME_M = 25.0
"""Two positions nearer than this are no negative example for each other."""
FAR_M = 1e6
"""Coordinate of the empty rows of the memory: far from every position."""
CLUSTERS = 16
"""Clusters of the NetVLAD head."""

Head = Literal["layout", "max", "sum", "netvlad", "transport"]
"""How a feature map becomes a descriptor. ``layout`` and ``transport`` keep positions in the tile;
``max``, ``sum`` and ``netvlad`` do not."""
Loss = Literal["infonce", "triplet", "squared_triplet", "soft_margin"]
"""The loss of pairs."""


class DescriptorSettings(Settings):
    """The descriptor and its loss."""

    head: Head = "layout"
    """How the feature map is pooled: layout keeps positions in the tile (all but max, sum and
    netvlad do); transport is CVFT's, of the vehicle's branch."""
    projected: bool = True
    """Whether a linear layer with batch normalisation makes the descriptor; false: the head does,
    and ``length`` has no meaning."""
    branches: Literal[1, 2] = 1
    """Networks: one for both kinds of views, or one each."""
    length: int = Field(256, ge=2)
    """Length of the descriptor."""
    loss: Loss = "infonce"
    """infonce, or one of the triplet losses of ``losses.triplet``."""
    margin: float = Field(0.1, gt=0)
    """Of the triplet losses with a margin."""
    hardest: int = Field(10, ge=1)
    """Negative examples of each query that count there."""
    gamma: float = Field(10.0, gt=0)
    """Of the soft-margin loss."""
    temperature: float = Field(0.05, gt=0)
    """Of the softmax over similarities."""
    memory: int = Field(4096, ge=1)
    """Map views of the last batches that are negative examples too (infonce)."""


class DescriptorModel(TileModel):
    """Descriptors of unit length.

    Args:
        head: How a feature map becomes a descriptor: a ``Head``.
        length: Of the descriptor, where it is projected.
        temperature: Of the softmax over similarities.
        memory: Number of map views of the last batches that are negative examples too.
        projected: As in ``DescriptorSettings``, as are the next five.
        branches: 1 or 2.
        loss: A ``Loss``.
        margin: Of the triplet losses.
        hardest: Negative examples per query.
        gamma: Of the soft margin.
        common: The arguments of ``TileModel``.
    """

    judged_by = "val_mean_m"

    def __init__(
        self,
        head: str,
        length: int,
        temperature: float,
        memory: int,
        projected: bool = True,
        branches: int = 1,
        loss: str = "infonce",
        margin: float = 0.1,
        hardest: int = 10,
        gamma: float = 10.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.save_hyperparameters()
        self.head, self.loss = head, loss
        self.margin, self.hardest, self.gamma = margin, hardest, gamma
        self.pool, width = self._pool(head)
        if head != "layout":
            del self.backbone.features
        self.map_backbone = self._second_backbone() if branches == 2 else None
        # Without the norm, all descriptors begin almost equal and separate only slowly.
        self.project = (
            nn.Sequential(nn.Linear(width, length), nn.BatchNorm1d(length)) if projected else None
        )
        self.temperature = temperature
        length = length if projected else width
        kept = memory if loss == "infonce" else 0
        self.register_buffer("kept", torch.zeros(kept, length), persistent=False)
        self.register_buffer("kept_at", torch.full((kept, 2), math.inf), persistent=False)
        self._next = 0
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def _pool(self, head: str) -> tuple[nn.Module, int]:
        """The head's module, and the number of values that it makes of a tile."""
        channels = self.backbone.channels
        if head == "layout":
            return nn.Identity(), self.settings.features
        if head == "netvlad":
            return NetVLAD(channels, CLUSTERS), CLUSTERS * channels
        if head == "transport":
            side = self.backbone.side
            return FeatureTransport(channels, side), channels * side**2
        return GlobalPool("sum" if head == "sum" else "max"), channels

    def _second_backbone(self) -> Backbone:
        """A network of its own for the map's views."""
        made = make_backbone(self.size, self.settings, self.inputs)
        if self.head != "layout":
            del made.features
        return made

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) views of vehicles -> (B, length) float32 unit vectors."""
        return self._described(tiles, self.backbone, of_map=False)

    def of_map(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) views of the map -> (B, length) float32 unit vectors."""
        return self._described(tiles, self.map_backbone or self.backbone, of_map=True)

    def _described(self, tiles: Tensor, backbone: Backbone, of_map: bool) -> Tensor:
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        if self.head == "layout":
            pooled = backbone(tiles)
        else:
            maps = backbone.stages(tiles)
            moved = self.head == "transport"
            pooled = (maps if moved and of_map else self.pool(maps)).flatten(1)
        made = pooled if self.project is None else self.project(pooled)
        return functional.normalize(made.float(), dim=1)

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, length) descriptors of the vehicles' views, tiles 0, and of the map's, tiles 1."""
        if isinstance(self.pool, NetVLAD) and not self.pool.started:
            with torch.no_grad():
                every = batch.tiles.flatten(0, 1).contiguous(memory_format=torch.channels_last)
                self.pool.start(self.backbone.stages(every))
        if self.map_backbone is not None or self.head == "transport":
            return self(batch.tiles[:, 0]), self.of_map(batch.tiles[:, 1])
        # Together, because batch normalisation is over both kinds of views.
        both = self(torch.cat([batch.tiles[:, 0], batch.tiles[:, 1]]))
        return both[: len(batch.offset)], both[len(batch.offset) :]

    def objective(self, batch: Batch) -> Tensor:
        """The loss of pairs: tile 0 is the vehicle's view, tile 1 the map's.

        Views of positions closer than ``SAME_M`` are no negatives of each other.
        """
        seen, shown = self.pairs(batch)
        at, other = batch.offset[:, 0], batch.offset[:, 1]
        if self.loss == "infonce":
            return self._infonce(seen, shown, at, other)
        negative = torch.cdist(at, other) >= SAME_M
        if self.loss == "soft_margin":
            return soft_margin_triplet(seen, shown, negative, self.gamma)
        squared = self.loss == "squared_triplet"
        return margin_triplet(seen, shown, negative, self.margin, self.hardest, squared)

    def _infonce(self, seen: Tensor, shown: Tensor, at: Tensor, other: Tensor) -> Tensor:
        """Return InfoNCE of the vehicles' views against the map's views, plus that of the reverse.

        Map views of the last batches are further negatives of the former.

        Args:
            seen: (B, D) descriptors of the vehicles' views.
            shown: (B, D) of the map's.
            at: (B, 2) metres, positions of the vehicles' views.
            other: (B, 2) of the map's.
        """
        same = torch.arange(len(seen), device=seen.device)
        within = seen @ shown.T / self.temperature
        alike = torch.cdist(at, other) < SAME_M
        alike[same, same] = False
        within = within.masked_fill(alike, -torch.inf)
        kept = seen @ self.kept.T.clone() / self.temperature
        known = torch.isfinite(self.kept_at[:, 0])
        near = torch.cdist(at, torch.nan_to_num(self.kept_at, posinf=FAR_M)) < SAME_M
        kept = kept.masked_fill(near | ~known, -torch.inf)
        loss = functional.cross_entropy(torch.cat([within, kept], 1), same)
        loss = loss + functional.cross_entropy(within.T, same)
        self._keep(shown.detach(), other)
        return loss

    def _keep(self, shown: Tensor, at: Tensor) -> None:
        """Replace the oldest rows of the memory by (B, length) descriptors at (B, 2) positions."""
        index = (self._next + torch.arange(len(shown), device=shown.device)) % len(self.kept)
        self.kept[index], self.kept_at[index] = shown, at
        self._next = (self._next + len(shown)) % len(self.kept)

    def validation_step(self, batch: Batch, number: int) -> None:
        """Collect the descriptors of one batch."""
        batch = Batch(*batch)
        seen, shown = self(batch.tiles[:, 0]), self.of_map(batch.tiles[:, 1])
        # Batches alternate between cities, so views are compared within a batch only.
        self._seen.append((seen, shown, torch.stack([batch.offset[:, 0], batch.offset[:, 1]], 1)))

    def on_validation_epoch_end(self) -> None:
        """Log the distance to the most similar map view of the same batch, in metres."""
        errors = []
        for seen, shown, at in self._seen:
            best = (seen @ shown.T).argmax(1)
            errors.append((at[best, 1] - at[:, 0]).norm(dim=1))
        self._seen.clear()
        every = torch.cat(errors)
        self.log_dict({"val_median_m": every.median(), "val_mean_m": every.mean()})


class DescriptorRecipe(Settings):
    """The keys of a recipe that descriptor models read: ``retrieval``."""

    retrieval: DescriptorSettings = DescriptorSettings()
    """The descriptor and its loss."""


def _make(recipe: DescriptorRecipe, blueprint: Blueprint) -> DescriptorModel:
    return DescriptorModel(**recipe.retrieval.model_dump(mode="json"), **blueprint.common)


KIND = ModelKind(
    name="retrieval",
    method="retrieval",
    network=DescriptorModel,
    recipe=DescriptorRecipe,
    make=_make,
    bound=False,
    paired=True,
)
