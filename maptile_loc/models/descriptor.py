"""Tile to descriptor: two tiles of one place have descriptors that point the same way.

One branch describes what vehicles see and what the map shows alike, as in CrossLocate (Tomesek et
al., WACV 2022). It learns from pairs: a seen tile has to be nearer to the map's view of its place
than to the views of all others, those of the last batches included (cross-batch memory, Wang et
al., CVPR 2020). Among them are the places that look most alike, and the softmax weighs those most
(InfoNCE, van den Oord et al., 2018). It knows no city, so it serves in those that it never saw.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from maptile_loc.learn.data import Batch
from maptile_loc.models.base import TileModel

SAME_M = 25.0
"""Two places nearer than that are no examples of different ones."""
FAR_M = 1e6
"""Keeps the places of different cities apart."""


class NetVLAD(nn.Module):
    """(B, C, H, W) maps to (B, clusters * C): residuals to learned centres (Arandjelovic 2016)."""

    def __init__(self, channels: int, clusters: int) -> None:
        super().__init__()
        self.assign = nn.Conv2d(channels, clusters, 1)
        self.centres = nn.Parameter(torch.randn(clusters, channels) / math.sqrt(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Residuals summed by soft assignment, each cluster's and then all of length 1."""
        share = self.assign(maps).softmax(1).flatten(2)
        held = torch.einsum("bkn,bcn->bkc", share, maps.flatten(2))
        residual = held - share.sum(2)[..., None] * self.centres
        return functional.normalize(residual, dim=2).flatten(1)


class DescriptorModel(TileModel):
    """Descriptors of unit length.

    Args:
        head: "layout" keeps where in the tile a thing is; "max" is CrossLocate's global maximum of
            each feature; "netvlad" sums residuals over the tile.
        length: Of the descriptor.
        temperature: Of the softmax over similarities.
        memory: So many of the last map views are kept to tell the next ones from.
        common: The arguments of ``TileModel``.
    """

    method = "retrieval"
    bound = False
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
            "netvlad": (NetVLAD(channels, 16), 16 * channels),
        }
        self.head = head
        self.pool, width = pools[head]
        # Without the norm all descriptors begin as nearly one, and stay so for long.
        self.project = nn.Sequential(nn.Linear(width, length), nn.BatchNorm1d(length))
        self.temperature = temperature
        self.register_buffer("kept", torch.zeros(memory, length), persistent=False)
        self.register_buffer("kept_at", torch.full((memory, 2), math.inf), persistent=False)
        self._next = 0
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, length) float32 unit vectors."""
        if self.head == "layout":
            pooled = self.features(tiles)
        else:
            maps = self.backbone.stages(tiles.contiguous(memory_format=torch.channels_last))
            pooled = self.pool(maps).flatten(1)
        return functional.normalize(self.project(pooled).float(), dim=1)

    def objective(self, batch: Batch) -> Tensor:
        """InfoNCE of seen tiles against the map's views, and back."""
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
        index = (self._next + torch.arange(len(shown), device=shown.device)) % len(self.kept)
        self.kept[index], self.kept_at[index] = shown, at
        self._next = (self._next + len(shown)) % len(self.kept)

    def validation_step(self, batch: Batch, number: int) -> None:
        """Describe one batch."""
        batch = Batch(*batch)
        seen, shown = self(batch.tiles[:, 0]), self(batch.tiles[:, 1])
        # Cities take turns; what is of another one is no answer.
        self._seen.append((seen, shown, torch.stack([batch.offset[:, 0], batch.offset[:, 1]], 1)))

    def on_validation_epoch_end(self) -> None:
        """Log how far the most similar views of the same batches are, in metres."""
        errors = []
        for seen, shown, at in self._seen:
            best = (seen @ shown.T).argmax(1)
            errors.append((at[best, 1] - at[:, 0]).norm(dim=1))
        self._seen.clear()
        every = torch.cat(errors)
        self.log_dict({"val_median_m": every.median(), "val_mean_m": every.mean()})
