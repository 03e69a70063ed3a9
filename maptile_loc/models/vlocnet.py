"""VLocNet for map tiles: the pose of a tile, helped by the tile before it.

After Valada, Radwan and Burgard, "Deep Auxiliary Learning for Visual Localization and Odometry",
ICRA 2018, in the plane. Kept: two streams that share the layers up to the middle of the network;
the pose stream, into which what came before is fused there; the odometry stream, which sees both
tiles and tells the motion between them; the Euclidean losses with learned weights, and the
geometric consistency of consecutive poses. Not kept: the published network is fed the pose it gave
before. Here the middle features of the tile before are fused in its place: a wrong pose is not
handed on, and a tile that has none before it can be localized too. The backbone is this project's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from maptile_loc.learn.data import Batch
from maptile_loc.models.base import angle_of_log_quaternion, log_quaternion
from maptile_loc.models.regressor import MapNet
from maptile_loc.models.resnet import Block

MOTION_M = 10.0
"""Unit of the odometry stream's answer."""
MOTION_FEATURES = 128


class PairLoss(nn.Module):
    """Euclidean pose errors, each kind weighed by a learned uncertainty.

    Of the poses (B, T, 2 or 3), ``(|x| + |dx|) exp(-sx) + sx + (|q| + |dq|) exp(-sq) + sq``: errors
    of each and, in the same bracket, of the differences between consecutive ones (the geometric
    consistency). Of the motions, ``|m| exp(-mx) + mx + |r| exp(-mq) + mq``. ``| |`` is the mean
    Euclidean norm.
    """

    def __init__(self, rotation: bool) -> None:
        super().__init__()
        start = {"sx": 0.0, "mx": 0.0} | ({"sq": -3.0, "mq": -3.0} if rotation else {})
        for name, value in start.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value)))
        self.rotation = rotation

    def poses(self, predicted: Tensor, target: Tensor, relative: bool = True) -> Tensor:
        """The loss of poses (B, T, 2 or 3): normalised east, north and the log-quaternion.

        ``relative=False`` leaves the geometric consistency out.
        """
        errors = [predicted - target]
        if relative and predicted.shape[1] > 1:
            errors.append(predicted.diff(dim=1) - target.diff(dim=1))
        return self._weighed(errors, "sx", "sq")

    def motions(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The loss of motions (N, 2 or 3): forward, left in ``MOTION_M`` and the log-quaternion."""
        return self._weighed([predicted - target], "mx", "mq")

    def _weighed(self, errors: list[Tensor], translation: str, rotation: str) -> Tensor:
        terms = [(translation, slice(0, 2))] + [(rotation, slice(2, 3))] * self.rotation
        losses = []
        for name, part in terms:
            sizes = torch.stack([error[..., part].norm(dim=-1).mean() for error in errors])
            log_scale = self.get_parameter(name)
            losses.append(torch.exp(-log_scale) * sizes.sum() + log_scale)
        return torch.stack(losses).sum()


class VLocNet(MapNet):
    """Tile, and the tile before it where there is one, to 2D offset and direction.

    In training the first tile of each tuple has none before it.

    Args:
        arguments: Those of ``MapNet``; the relative term is the geometric consistency.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.save_hyperparameters()
        self.consistent = self.loss.relative
        del self.loss
        blocks = self.settings.blocks
        self.shared = 2 + sum(blocks[:-1])  # a convolution and its ReLU come before the blocks
        width = self.settings.width * 2 ** max(len(blocks) - 2, 0)
        self.fuse = nn.Conv2d(2 * width, width, 1)
        self.odometry = nn.Sequential(
            Block(2 * width, width, 1),
            Block(width, width, 2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(16 * width, MOTION_FEATURES),
            nn.ReLU(),
            nn.Linear(MOTION_FEATURES, 2 if self.rotation is None else 3),
        )
        self.pair_loss = PairLoss(self.rotation is not None)

    def look(self, tiles: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, C, H, W), what both streams share of each tile."""
        shared = self.backbone.stages[: self.shared]
        seen: Tensor = shared(tiles.contiguous(memory_format=torch.channels_last))
        return seen

    def regress(self, seen: Tensor, before: Tensor) -> Tensor:
        """Shared features of tiles and of those before them (zeros: none) -> (B, 2 or 3) poses."""
        fused = functional.relu(self.fuse(torch.cat([seen, before], 1)))
        own = self.backbone.stages[self.shared :](fused)
        features = functional.relu(self.backbone.features(own.flatten(1)))
        heads = [self.translation(features)]
        if self.rotation is not None:
            heads.append(self.rotation(features))
        return torch.cat(heads, dim=1).float()

    def motion(self, before: Tensor, seen: Tensor) -> Tensor:
        """Shared features -> (B, 2 or 3): the second tile in the frame of the first.

        In ``MOTION_M``, and the log-quaternion of its turn.
        """
        moved: Tensor = self.odometry(torch.cat([before, seen], 1)).float()
        return moved

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, 3, S, S) with none before them -> (B, 2 or 3) float32, as ``MapNet``."""
        seen = self.look(tiles)
        return self.regress(seen, torch.zeros_like(seen))

    def pose_after(self, tiles: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """As ``pose``, of tiles (B, 3, S, S) each of which comes after its ``previous`` one."""
        poses = self.regress(self.look(tiles), self.look(previous))
        offset = poses[:, :2] * self.deviation + self.mean
        if self.rotation is None:
            return offset, torch.zeros_like(offset[:, 0])
        return offset, angle_of_log_quaternion(poses[:, 2])

    def objective(self, batch: Batch) -> Tensor:
        """The loss of poses and, where tuples have several tiles, of the motions between them."""
        count, length = batch.offset.shape[:2]
        seen = self.look(batch.tiles.flatten(0, 1))
        seen = seen.reshape(count, length, *seen.shape[1:])
        before = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)
        poses = self.regress(seen.flatten(0, 1), before.flatten(0, 1))
        poses = poses.view(count, length, -1)
        relative = self.consistent and self.progress >= self.relative_from
        loss = self.pair_loss.poses(poses, self.target(batch), relative)
        if length > 1:
            moved = self.motion(seen[:, :-1].flatten(0, 1), seen[:, 1:].flatten(0, 1))
            target = self.motion_target(batch).flatten(0, 1)
            loss = loss + self.pair_loss.motions(moved, target)
        return loss

    def motion_target(self, batch: Batch) -> Tensor:
        """(B, T - 1, 2 or 3): the motions that are to be predicted."""
        angle = batch.angle[:, :-1]
        c, s = torch.cos(angle), torch.sin(angle)
        east, north = batch.offset.diff(dim=1).unbind(-1)
        moved = torch.stack([c * east + s * north, c * north - s * east], -1) / MOTION_M
        if self.rotation is None:
            return moved
        return torch.cat([moved, log_quaternion(batch.angle.diff(dim=1))[..., None]], dim=-1)
