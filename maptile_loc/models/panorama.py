"""Tile -> depth panorama -> descriptor that turns with the tile.

As CrossLocate (Tomesek et al., WACV 2022), one network describes what a vehicle sees and what the
map shows, both as depth panoramas (``heads.panorama``). All its layers are circular in the azimuth,
so that a turn of the vehicle is a shift of the descriptor: two are compared by the maximum of their
circular correlation, and its position is the heading. The loss is the cross entropy of the right
view among those of the batch (InfoNCE), plus that of the right shift.

Different: the panorama is one row, seen from the tile's centre in the plane, because the map knows
few heights; of a vehicle it shows the wall detector's evidence, not single returns. Trained on maps
and rendered views only; bound to no city.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from data_prep.settings import Settings
from maptile_loc.models.descriptor import SAME_M
from maptile_loc.models.heads.panorama import correlation, depth_panorama
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.tile_model import Batch, TileModel

KERNEL = 5
"""Azimuths that a convolution covers."""
POOLED = 2
"""Neighbouring azimuths of the panorama per shift of the descriptor."""


class PanoramaSettings(Settings):
    """The panorama and its descriptor."""

    shifts: int = Field(72, ge=8)
    """Shifts of a descriptor: one per heading."""
    width: int = Field(8, ge=1)
    """Values of the descriptor per shift."""
    temperature: float = Field(0.05, gt=0)
    """Of the softmax over similarities."""


class PanoramaModel(TileModel):
    """Descriptors that turn with the tile.

    Args:
        shifts: Of a descriptor, A.
        width: Values per shift, F.
        temperature: Of the softmax over similarities.
        common: The arguments of ``TileModel``.
    """

    judged_by = "val_mean_m"

    def __init__(self, shifts: int, width: int, temperature: float, **common: Any) -> None:
        super().__init__(**common)
        self.save_hyperparameters()
        del self.backbone
        hidden = self.settings.width
        self.shifts, self.width, self.temperature = shifts, width, temperature
        self.layers = nn.Sequential(
            _circular(self.inputs + 1, hidden),
            nn.ReLU(),
            _circular(hidden, hidden),
            nn.ReLU(),
            nn.AvgPool1d(POOLED),
            _circular(hidden, 2 * hidden),
            nn.ReLU(),
            _circular(2 * hidden, width),
        )
        self._errors_m: list[Tensor] = []

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, F A) float32 unit vectors."""
        panorama = depth_panorama(tiles.contiguous(), POOLED * self.shifts)
        made = self.layers(panorama).float()
        # A constant would be as similar at every shift.
        centred = made - made.mean(2, keepdim=True)
        return functional.normalize(centred.flatten(1), dim=1)

    def of_map(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) views of the map -> (B, F A): one network describes both."""
        described: Tensor = self(tiles)
        return described

    def similarity(self, seen: Tensor, shown: Tensor) -> Tensor:
        """(Q, N, A) similarities, -1..1, of descriptors (Q, F A) and (N, F A) at each shift.

        Shift a is that of a tile whose x axis points 2 pi a / A counter-clockwise from the view's.
        """
        shape = (-1, self.width, self.shifts)
        return correlation(seen.view(shape), shown.view(shape))

    def objective(self, batch: Batch) -> Tensor:
        """InfoNCE over the batch's map views, plus the cross entropy of the true shift.

        Views of positions closer than ``SAME_M`` are no negatives of each other.
        """
        scores = self._scores(batch) / self.temperature
        same = torch.arange(len(scores), device=scores.device)
        alike = torch.cdist(batch.offset[:, 0], batch.offset[:, 1]) < SAME_M
        alike[same, same] = False
        best = scores.amax(2).masked_fill(alike, -torch.inf)
        turn = batch.angle[:, 0] * (self.shifts / (2 * math.pi))
        shift = turn.round().long() % self.shifts
        loss = functional.cross_entropy(best, same) + functional.cross_entropy(best.T, same)
        return loss + functional.cross_entropy(scores[same, same], shift)

    def _scores(self, batch: Batch) -> Tensor:
        """(B, B, A) similarities of the vehicles' views, tiles 0, and the map's, tiles 1."""
        both = self(torch.cat([batch.tiles[:, 0], batch.tiles[:, 1]]))
        return self.similarity(both[: len(batch.offset)], both[len(batch.offset) :])

    def validation_step(self, batch: Batch, number: int) -> None:
        """Collect the distances to the most similar map view of the same batch."""
        batch = Batch(*batch)
        best = self._scores(batch).amax(2).argmax(1)
        self._errors_m.append((batch.offset[best, 1] - batch.offset[:, 0]).norm(dim=1))

    def on_validation_epoch_end(self) -> None:
        """Log their median and mean, in metres."""
        every = torch.cat(self._errors_m)
        self._errors_m.clear()
        self.log_dict({"val_median_m": every.median(), "val_mean_m": every.mean()})


def _circular(inputs: int, outputs: int) -> nn.Conv1d:
    """A convolution around the circle of azimuths."""
    return nn.Conv1d(inputs, outputs, KERNEL, padding=KERNEL // 2, padding_mode="circular")


class PanoramaRecipe(Settings):
    """The keys of a recipe that panorama models read: ``panorama``."""

    panorama: PanoramaSettings = PanoramaSettings()
    """The panorama and its descriptor."""


def _make(recipe: PanoramaRecipe, blueprint: Blueprint) -> PanoramaModel:
    return PanoramaModel(**recipe.panorama.model_dump(mode="json"), **blueprint.common)


KIND = ModelKind(
    name="panorama",
    method="panorama",
    network=PanoramaModel,
    recipe=PanoramaRecipe,
    make=_make,
    bound=False,
    paired=True,
)
