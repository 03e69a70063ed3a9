"""What all models of map tiles share: the backbone, how they are trained and judged."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from maptile_loc.learn.data import Batch, Heading
from maptile_loc.models.resnet import NetworkSettings, ResNet


class TileModel(pl.LightningModule, ABC):
    """A network that tells where in its city a tile is.

    Args:
        size: Pixels along a tile's side.
        network: ``NetworkSettings`` as a plain dictionary.
        heading: Whether tiles are north-up ("known") or turned by any angle ("unknown").
        mean, deviation: Metres, per axis, for normalising offsets.
        learning_rate, weight_decay: Of AdamW; the rate is its peak.

    Attributes:
        method: The ``--method`` of ``maptile localize`` that its answers go to.
        bound: Whether it knows one city only.
        judged_by: The figure of validation that the best weights have the least of.
        progress: 0..1, the share of the training that is done; whoever trains keeps it.
    """

    method: str
    bound = True
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
    ) -> None:
        super().__init__()
        self.settings = NetworkSettings.model_validate(network)
        self.backbone = ResNet(size, self.settings)
        self.heading: Heading = heading
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.progress = 0.0
        self._errors: list[Tensor] = []

    def features(self, tiles: Tensor) -> Tensor:
        """(B, 3, S, S) tiles -> (B, F) vectors."""
        seen: Tensor = self.backbone(tiles.contiguous(memory_format=torch.channels_last))
        return seen

    def pose(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> (B, 2) offsets in metres and (B,) directions of the tiles in radians.

        Raises:
            TypeError: A descriptor, which names no place by itself.
        """
        raise TypeError(f"{type(self).__name__} gives no poses")

    @abstractmethod
    def objective(self, batch: Batch) -> Tensor:
        """The loss of a batch of tuples."""

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """The loss of one batch of tuples."""
        loss = self.objective(Batch(*batch))
        if number % 20 == 0:
            self.log("loss", loss)
        return loss

    def validation_step(self, batch: Batch, number: int) -> None:
        """Note the errors of one batch."""
        batch = Batch(*batch)
        offset, _ = self.pose(batch.tiles.flatten(0, 1))
        self._errors.append((offset - batch.offset.flatten(0, 1)).norm(dim=1))

    def on_validation_epoch_end(self) -> None:
        """Log the median and the mean error in metres."""
        errors = torch.cat(self._errors)
        self._errors.clear()
        self.log_dict({"val_median_m": errors.median(), "val_mean_m": errors.mean()})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW; neither biases, norms nor the loss's weights decay."""
        decaying = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": decaying, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.learning_rate, fused=True)


def log_quaternion(angle: Tensor) -> Tensor:
    """Radians -> the vertical part of the log-quaternion with w >= 0: half the wrapped angle."""
    return (torch.remainder(angle + math.pi, 2 * math.pi) - math.pi) / 2


def angle_of_log_quaternion(log_q: Tensor) -> Tensor:
    """The angle in [-pi, pi) that ``log_quaternion`` turns into ``log_q``."""
    return torch.remainder(2 * log_q + math.pi, 2 * math.pi) - math.pi
