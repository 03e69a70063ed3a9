"""MapNet and PoseNet for map tiles: a tile's pose regressed from its looks.

The losses are those of MapNet (Brahmbhatt et al., CVPR 2018) in the plane: the translation is the
2D offset from the city's reference tile, normalised per axis; the rotation, where it is asked for,
is the logarithm of the unit quaternion of a turn about the vertical, one number: half the angle.
PoseNet with learned weights is the same without the relative term.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maptile_loc.learn.data import Batch
from maptile_loc.models.base import TileModel, angle_of_log_quaternion, log_quaternion


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


class MapNet(TileModel):
    """Tile to 2D offset, and to the tile's direction where the heading is unknown.

    Args:
        relative: MapNet's relative term; without it the model is PoseNet.
        relative_from: Share of the training after which the relative term counts. From the very
            start it holds an untrained network at its constant answer: neighbours that agree cost
            least.
        common: The arguments of ``TileModel``.
    """

    method = "mapnet"

    def __init__(self, relative: bool, relative_from: float, **common: Any) -> None:
        super().__init__(**common)
        self.save_hyperparameters()
        self.translation = nn.Linear(self.settings.features, 2)
        turned = self.heading == "unknown"
        self.rotation = nn.Linear(self.settings.features, 1) if turned else None
        self.loss = PoseLoss(relative, turned)
        self.relative_from = relative_from

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 2 or 3) float32: normalised offset, log-quaternion."""
        features = self.features(tiles)
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

    def objective(self, batch: Batch) -> Tensor:
        """The pose loss of a batch of tuples."""
        predicted = self(batch.tiles.flatten(0, 1)).view(*batch.offset.shape[:2], -1)
        relative = self.progress >= self.relative_from
        loss: Tensor = self.loss(predicted, self.target(batch), relative)
        return loss

    def target(self, batch: Batch) -> Tensor:
        """(B, T, 2 or 3): what is to be predicted."""
        offset = (batch.offset - self.mean) / self.deviation
        if self.rotation is None:
            return offset
        return torch.cat([offset, log_quaternion(batch.angle)[..., None]], dim=-1)


def _weighed(error: Tensor, log_scale: Tensor) -> Tensor:
    return torch.exp(-log_scale) * error.abs().mean() + log_scale
