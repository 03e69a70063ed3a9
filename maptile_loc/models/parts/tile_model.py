"""The base of all models of map tiles: the backbone, the training step, the validation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor

from maptile_loc.models.parts.backbone import make_backbone
from maptile_loc.models.parts.resnet import NetworkSettings

Heading = Literal["known", "unknown"]
"""Whether tiles are north-up ("known") or turned by any angle ("unknown")."""

LOG_EVERY = 20
"""Batches between logged values of the loss."""


class Batch(NamedTuple):
    """Tuples of tiles and their poses.

    Attributes:
        tiles: (B, T, C, S, S) float32, the channels of ``render.view`` or ``render.window``.
        offset: (B, T, 2) float32 east, north of the tiles' centres from the reference, metres.
        angle: (B, T) float32, direction of the tiles' x axes from grid east, radians.
    """

    tiles: Tensor
    offset: Tensor
    angle: Tensor


class TileModel(pl.LightningModule, ABC):
    """A network that estimates the pose of a tile in its city.

    Args:
        size: Pixels along a tile's side.
        network: ``NetworkSettings`` as a plain dictionary.
        heading: "known" if tiles are north-up, "unknown" if they are turned by any angle.
        mean, deviation: Metres per axis, by which offsets are normalised.
        learning_rate: The peak rate of AdamW.
        weight_decay: Of AdamW.
        channels: Of the tiles, C.

    Attributes:
        size: Pixels along a tile's side.
        inputs: Channels of the tiles.
        judged_by: The validation metric whose minimum selects the published weights.
        trained_share: 0..1, the share of the training that is done; the trainer keeps it current.
    """

    judged_by = "val_median_m"
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        size: int,
        network: dict[str, Any],
        heading: Heading,
        mean: list[float],
        deviation: list[float],
        learning_rate: float,
        weight_decay: float,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.settings = NetworkSettings.model_validate(network)
        self.size, self.inputs = size, channels
        self.backbone = make_backbone(size, self.settings, channels)
        self.heading: Heading = heading
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.trained_share = 0.0
        self._errors: list[Tensor] = []

    def features(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) tiles -> (B, F) feature vectors of the backbone."""
        seen: Tensor = self.backbone(tiles.contiguous(memory_format=torch.channels_last))
        return seen

    def pose(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> (B, 2) offsets in metres and (B,) directions of the tiles in radians.

        Raises:
            TypeError: The model is a descriptor, which estimates no pose.
        """
        raise TypeError(f"{type(self).__name__} gives no poses")

    @abstractmethod
    def objective(self, batch: Batch) -> Tensor:
        """The loss of a batch of tuples."""

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """The loss of batch ``number`` of the epoch; every ``LOG_EVERY``-th is logged."""
        loss = self.objective(Batch(*batch))
        if number % LOG_EVERY == 0:
            self.log("loss", loss)
        return loss

    def validation_step(self, batch: Batch, number: int) -> None:
        """Collect the position errors of one batch."""
        batch = Batch(*batch)
        offset, _ = self.pose(batch.tiles.flatten(0, 1))
        self._errors.append((offset - batch.offset.flatten(0, 1)).norm(dim=1))

    def on_validation_epoch_end(self) -> None:
        """Log the median and the mean position error in metres."""
        errors = torch.cat(self._errors)
        self._errors.clear()
        self.log_dict({"val_median_m": errors.median(), "val_mean_m": errors.mean()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW, without decay of biases, norms and the learned weights of the loss."""
        decaying = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": decaying, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)
