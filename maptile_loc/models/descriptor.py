"""Tile -> descriptor: tiles of the same position have descriptors of the same direction.

One network describes views of vehicles and views of the map alike, as in CrossLocate (Tomesek et
al., WACV 2022). It is trained on pairs: a vehicle's view has to be more similar to the map's view
of the same position than to all others, those of the last batches included (cross-batch memory,
Wang et al., CVPR 2020). The softmax of the loss (InfoNCE, van den Oord et al., 2018) gives the
most similar of the others the greatest weight. The model is bound to no city.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from data_prep.settings import Settings
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.tile_model import Batch, TileModel

SAME_M = 25.0
"""Two positions nearer than this are no negative example for each other."""
FAR_M = 1e6
"""Coordinate of the empty rows of the memory: far from every position."""
CLUSTERS = 16
"""Clusters of the NetVLAD head."""


class DescriptorSettings(Settings):
    """The descriptor and its loss."""

    head: Literal["layout", "max", "netvlad"] = "layout"
    """How the feature map is pooled: layout keeps positions in the tile; max and netvlad do not."""
    length: int = Field(256, ge=2)
    """Length of the descriptor."""
    temperature: float = Field(0.05, gt=0)
    """Of the softmax over similarities."""
    memory: int = Field(4096, ge=1)
    """Map views of the last batches that are negative examples too."""


class NetVLAD(nn.Module):
    """(B, C, H, W) maps -> (B, clusters * C) (Arandjelovic et al., NetVLAD, CVPR 2016).

    Residuals to learned centres, summed by soft assignment; those of each cluster, and then all,
    are normalised to length 1.
    """

    def __init__(self, channels: int, clusters: int) -> None:
        super().__init__()
        self.assign = nn.Conv2d(channels, clusters, 1)
        self.centres = nn.Parameter(torch.randn(clusters, channels) / math.sqrt(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, clusters * C), the residuals of each cluster of length 1."""
        share = self.assign(maps).softmax(1).flatten(2)
        summed = torch.einsum("bkn,bcn->bkc", share, maps.flatten(2))
        residual = summed - share.sum(2)[..., None] * self.centres
        return functional.normalize(residual, dim=2).flatten(1)


class DescriptorModel(TileModel):
    """Descriptors of unit length.

    Args:
        head: "layout" keeps the layout of the tile; "max" is CrossLocate's global maximum of each
            feature; "netvlad" sums residuals over the tile.
        length: Of the descriptor.
        temperature: Of the softmax over similarities.
        memory: Number of map views of the last batches that are negative examples too.
        common: The arguments of ``TileModel``.
    """

    judged_by = "val_mean_m"

    def __init__(
        self, head: str, length: int, temperature: float, memory: int, **common: Any
    ) -> None:
        super().__init__(**common)
        self.save_hyperparameters()
        channels = self.backbone.channels
        pools: dict[str, tuple[nn.Module, int]] = {
            "layout": (nn.Identity(), self.settings.features),
            "max": (nn.AdaptiveMaxPool2d(1), channels),
            "netvlad": (NetVLAD(channels, CLUSTERS), CLUSTERS * channels),
        }
        self.head = head
        self.pool, width = pools[head]
        # Without the norm, all descriptors begin almost equal and separate only slowly.
        self.project = nn.Sequential(nn.Linear(width, length), nn.BatchNorm1d(length))
        self.temperature = temperature
        self.register_buffer("kept", torch.zeros(memory, length), persistent=False)
        self.register_buffer("kept_at", torch.full((memory, 2), math.inf), persistent=False)
        self._next = 0
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, length) float32 unit vectors."""
        if self.head == "layout":
            pooled = self.features(tiles)
        else:
            maps = self.backbone.stages(tiles.contiguous(memory_format=torch.channels_last))
            pooled = self.pool(maps).flatten(1)
        return functional.normalize(self.project(pooled).float(), dim=1)

    def objective(self, batch: Batch) -> Tensor:
        """Return InfoNCE of the vehicles' views against the map's views, plus that of the reverse.

        Map views of the last batches are further negatives of the former. Views of positions closer
        than ``SAME_M`` are no negatives of each other.

        Args:
            batch: Pairs: tile 0 is the vehicle's view, tile 1 the map's.
        """
        count = len(batch.offset)
        both = self(torch.cat([batch.tiles[:, 0], batch.tiles[:, 1]]))
        seen, shown = both[:count], both[count:]
        at, other = batch.offset[:, 0], batch.offset[:, 1]
        same = torch.arange(count, device=seen.device)
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
        seen, shown = self(batch.tiles[:, 0]), self(batch.tiles[:, 1])
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
