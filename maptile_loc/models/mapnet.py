"""MapNet and PoseNet for map tiles: a tile's pose regressed from its looks.

The losses are those of MapNet (Brahmbhatt et al., CVPR 2018) in the plane: the translation is the
2D offset from the city's reference tile, normalised per axis; the rotation, where it is asked for,
is the logarithm of the unit quaternion of a turn about the vertical, one number: half the angle.
PoseNet with learned weights is the same without the relative term.
"""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from maptile_loc.datamodule import Batch, Heading
from maptile_loc.models.resnet import NetworkSettings, ResNet


def log_quaternion(angle: Tensor) -> Tensor:
    """Radians -> the vertical part of the log-quaternion with w >= 0: half the wrapped angle."""
    return (torch.remainder(angle + math.pi, 2 * math.pi) - math.pi) / 2


def angle_of_log_quaternion(log_q: Tensor) -> Tensor:
    """The angle in [-pi, pi) that ``log_quaternion`` turns into ``log_q``."""
    return torch.remainder(2 * log_q + math.pi, 2 * math.pi) - math.pi


class PoseLoss(nn.Module):
    """Absolute and relative pose errors, each weighed by a learned uncertainty.

    ``exp(-sx) |t| + sx + exp(-sq) |q| + sq`` over all tiles of a tuple, and the same with ``srx``,
    ``srq`` over the differences of consecutive tiles. ``| |`` is the mean absolute error.
    """

    def __init__(self, relative: bool, rotation: bool) -> None:
        super().__init__()
        names = ["sx"] + ["sq"] * rotation + ["srx"] * relative + ["srq"] * (relative and rotation)
        start = {"sx": 0.0, "sq": -3.0, "srx": 0.0, "srq": -3.0}
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.tensor(start[name])))
        self.relative, self.rotation = relative, rotation

    def forward(self, predicted: Tensor, target: Tensor, relative: bool = True) -> Tensor:
        """The loss of poses (B, T, 2 or 3): normalised east, north and the log-quaternion.

        ``relative=False`` leaves the relative term out.
        """
        loss = self._terms(predicted - target, "sx", "sq")
        if self.relative and relative and predicted.shape[1] > 1:
            motion = predicted.diff(dim=1) - target.diff(dim=1)
            loss = loss + self._terms(motion, "srx", "srq")
        return loss

    def _terms(self, error: Tensor, translation: str, rotation: str) -> Tensor:
        loss = _weighed(error[..., :2], self.get_parameter(translation))
        if self.rotation:
            loss = loss + _weighed(error[..., 2:], self.get_parameter(rotation))
        return loss


class MapNet(pl.LightningModule):
    """Tile to 2D offset, and to the tile's direction where the heading is unknown.

    Args:
        size: Pixels along a tile's side.
        network: ``NetworkSettings`` as a plain dictionary.
        heading: Whether tiles are north-up ("known") or turned by an angle that is to be learned.
        relative: MapNet's relative term; without it the model is PoseNet.
        relative_from: Share of the training after which the relative term counts. From the very
            start it holds an untrained network at its constant answer: neighbours that agree cost
            least.
        mean, deviation: Metres, per axis, for normalising offsets.
        learning_rate, weight_decay: Of AdamW; the rate is its peak.

    Attributes:
        progress: 0..1, the share of the training that is done; whoever trains keeps it.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        size: int,
        network: dict[str, Any],
        heading: Heading,
        relative: bool,
        relative_from: float,
        mean: list[float],
        deviation: list[float],
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        settings = NetworkSettings.model_validate(network)
        self.backbone = ResNet(size, settings)
        self.translation = nn.Linear(settings.features, 2)
        self.rotation = nn.Linear(settings.features, 1) if heading == "unknown" else None
        self.loss = PoseLoss(relative, heading == "unknown")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32))
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.relative_from, self.progress = relative_from, 0.0
        self._errors: list[Tensor] = []

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 2 or 3) float32: normalised offset, log-quaternion."""
        features = self.backbone(tiles.contiguous(memory_format=torch.channels_last))
        heads = [self.translation(features)]
        if self.rotation is not None:
            heads.append(self.rotation(features))
        return torch.cat(heads, dim=1).float()

    def pose(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) -> (B, 2) offsets in metres and (B,) directions of the tiles in radians."""
        predicted = self(tiles)
        offset = predicted[:, :2] * self.deviation + self.mean
        if self.rotation is None:
            return offset, torch.zeros_like(offset[:, 0])
        return offset, angle_of_log_quaternion(predicted[:, 2])

    def training_step(self, batch: Batch, number: int) -> Tensor:
        """The loss of one batch of tuples."""
        batch = Batch(*batch)
        predicted = self(batch.tiles.flatten(0, 1)).view(*batch.offset.shape[:2], -1)
        relative = self.progress >= self.relative_from
        loss: Tensor = self.loss(predicted, self._target(batch), relative)
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
        return torch.optim.AdamW(groups, lr=self.learning_rate)

    def _target(self, batch: Batch) -> Tensor:
        offset = (batch.offset - self.mean) / self.deviation
        if self.rotation is None:
            return offset
        return torch.cat([offset, log_quaternion(batch.angle)[..., None]], dim=-1)


def _weighed(error: Tensor, log_scale: Tensor) -> Tensor:
    return torch.exp(-log_scale) * error.abs().mean() + log_scale
