"""VLocNet for map tiles: the pose of a tile from the tile and its predecessor.

After Valada, Radwan and Burgard, Deep Auxiliary Learning for Visual Localization and Odometry, ICRA
2018, in the plane. As published: two streams share the first layers; the pose stream fuses past
information there; the odometry stream regresses the motion between both tiles; the losses are
Euclidean norms with learned weights, with a geometric consistency of consecutive poses. Different:
the published network fuses its previous pose, this one the features of the previous tile, so that a
wrong pose is not propagated and a tile without a predecessor can be localized too. The backbone is
this project's, without the ELU of the published one, and there is no semantic stream.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_prep.errors import MaptileError
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.resnet import Block, ResNet
from maptile_loc.models.parts.rotation import COMPONENTS, angle_of_cosine_sine, cosine_sine
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.models.regressor import Answer, MapNet, RegressorRecipe, of_unknown_error

MOTION_M = 10.0
"""Unit of the translations of the odometry stream, metres."""
MOTION_FEATURES = 128
"""Features of the hidden layer of the odometry stream."""
MOTION_CELLS = 4
"""The odometry stream's feature map is pooled to this many cells along a side."""
INITIAL_WEIGHTS = {"sx": 0.0, "mx": 0.0, "sq": -3.0, "mq": -3.0, "dx": 0.0, "dq": -3.0}
"""Initial log-variances of the loss: of poses (s), motions (m) and the differences of consecutive
poses (d), translation and rotation."""

Consistency = Literal["shared", "own"]
"""Whether the geometric consistency has the weights of the poses, or weights of its own."""


class PairLoss(nn.Module):
    """VLocNet's loss: Euclidean pose and motion errors with learned weights.

    Of poses: ``(|x| + |dx|) exp(-sx) + sx + (|q| + |dq|) exp(-sq) + sq``, with the errors x, q of
    each pose and dx, dq of the differences between consecutive poses (the geometric consistency).
    With weights of its own, the consistency is a term of its own, as in VLocNet++ (Radwan et al.,
    RA-L 2018): ``|x| exp(-sx) + sx + |dx| exp(-dx) + dx``, and the same of the rotation.
    Of motions: ``|m| exp(-mx) + mx + |r| exp(-mq) + mq``. ``| |`` is the mean Euclidean norm.
    (Valada et al. 2018, section III.)

    Args:
        rotation: Whether poses have a rotation.
        own: Whether the geometric consistency has weights of its own.
    """

    def __init__(self, rotation: bool, own: bool = False) -> None:
        super().__init__()
        self.own = own
        kinds = ["s", "m"] + ["d"] * own
        for name in [f"{kind}{part}" for part in ["x"] + ["q"] * rotation for kind in kinds]:
            self.register_parameter(name, nn.Parameter(torch.tensor(INITIAL_WEIGHTS[name])))
        self.rotation = rotation

    def poses(self, predicted: Tensor, target: Tensor, relative: bool = True) -> Tensor:
        """The loss of poses (B, T, 2 or 4): normalised east, north, cosine and sine.

        ``relative=False`` omits the geometric consistency.
        """
        error = predicted - target
        if not relative or predicted.shape[1] < 2:
            return self._weighted([error], "sx", "sq")
        if self.own:
            alone = self._weighted([error], "sx", "sq")
            return alone + self._weighted([error.diff(dim=1)], "dx", "dq")
        return self._weighted([error, error.diff(dim=1)], "sx", "sq")

    def motions(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The loss of motions (N, 2 or 4): forward, left in ``MOTION_M``, cosine and sine."""
        return self._weighted([predicted - target], "mx", "mq")

    def _weighted(self, errors: list[Tensor], translation: str, rotation: str) -> Tensor:
        """Return the weighted sum of the errors' mean norms, for translation and rotation.

        Each part is ``exp(-s) e + s``, with e the sum over ``errors`` and s a learned weight.

        Args:
            errors: (..., 2 or 4) each: predicted less true values; the last two are the rotation.
            translation: Name of the weight of the translation.
            rotation: Name of the weight of the rotation.
        """
        terms = [(translation, slice(0, 2))] + [(rotation, slice(2, 4))] * self.rotation
        losses = []
        for name, part in terms:
            sizes = torch.stack([error[..., part].norm(dim=-1).mean() for error in errors])
            log_scale = self.get_parameter(name)
            losses.append(torch.exp(-log_scale) * sizes.sum() + log_scale)
        return torch.stack(losses).sum()


class VLocNet(MapNet):
    """Tile, and its predecessor where there is one -> 2D offset and direction.

    In training, the first tile of each tuple has no predecessor.

    Args:
        consistency: Whether the geometric consistency has weights of its own.
        arguments: Those of ``MapNet``; the relative term is the geometric consistency.

    Raises:
        MaptileError: The backbone is no residual network.
    """

    def __init__(self, consistency: Consistency = "shared", **arguments: Any) -> None:
        super().__init__(**arguments)
        self.save_hyperparameters()
        self.consistent = self.loss.relative
        del self.loss
        if not isinstance(self.backbone, ResNet):
            raise MaptileError("network.backbone: VLocNet shares the stages of a resnet")
        blocks = self.settings.blocks
        self.shared = 2 + sum(blocks[:-1])  # a convolution and its ReLU come before the blocks
        width = self.settings.width * 2 ** max(len(blocks) - 2, 0)
        self.fuse = nn.Conv2d(2 * width, width, 1)
        self.odometry = nn.Sequential(
            Block(2 * width, width, 1),
            Block(width, width, 2),
            nn.AdaptiveAvgPool2d(MOTION_CELLS),
            nn.Flatten(),
            nn.Linear(MOTION_CELLS**2 * width, MOTION_FEATURES),
            nn.ReLU(),
            nn.Linear(MOTION_FEATURES, 2 if self.rotation is None else 2 + COMPONENTS),
        )
        self.pair_loss = PairLoss(self.rotation is not None, consistency == "own")

    @property
    def residual(self) -> ResNet:
        """The backbone, whose stages are shared in part."""
        assert isinstance(self.backbone, ResNet)
        return self.backbone

    @property
    def adaptable(self) -> bool:
        """False: MapNet+ needs the weights of MapNet's relative term, and the loss differs."""
        return False

    def shared_features(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, C, H, W), the features of each tile that both streams share."""
        shared = self.residual.stages[: self.shared]
        seen: Tensor = shared(tiles.contiguous(memory_format=torch.channels_last))
        return seen

    def regress(self, seen: Tensor, before: Tensor) -> Tensor:
        """Shared features of tiles and of their predecessors (zeros: none) -> (B, 2 or 4) poses."""
        fused = functional.relu(self.fuse(torch.cat([seen, before], 1)))
        own = self.residual.stages[self.shared :](fused)
        features = functional.relu(self.residual.features(own.flatten(1)))
        heads = [self.translation(features)]
        if self.rotation is not None:
            heads.append(self.rotation(features))
        return torch.cat(heads, dim=1).float()

    def motion(self, before: Tensor, seen: Tensor) -> Tensor:
        """Shared features -> (B, 2 or 4): the pose of the second tile in the frame of the first.

        Forward and left in ``MOTION_M``, and cosine and sine of the turn.
        """
        moved: Tensor = self.odometry(torch.cat([before, seen], 1)).float()
        return moved

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) without predecessors -> (B, 2 or 4) float32, as ``MapNet``."""
        seen = self.shared_features(tiles)
        return self.regress(seen, torch.zeros_like(seen))

    def pose_after(self, tiles: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """As ``pose``, of tiles (B, C, S, S) with their predecessors ``previous`` (B, C, S, S)."""
        poses = self.regress(self.shared_features(tiles), self.shared_features(previous))
        offset = poses[:, :2] * self.deviation + self.mean
        if self.rotation is None:
            return offset, torch.zeros_like(offset[:, 0])
        return offset, angle_of_cosine_sine(poses[:, 2:])

    def answer(self, tiles: Tensor, before: Tensor | None = None) -> Answer:
        """As ``MapNet.answer``; the tiles before are read where there are any."""
        if before is None:
            return super().answer(tiles)
        return of_unknown_error(*self.pose_after(tiles, before))

    def objective(self, batch: Batch) -> Tensor:
        """The loss of the poses and, in tuples of several tiles, of the motions between them."""
        count, length = batch.offset.shape[:2]
        seen = self.shared_features(batch.tiles.flatten(0, 1))
        seen = seen.reshape(count, length, *seen.shape[1:])
        before = torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)
        poses = self.regress(seen.flatten(0, 1), before.flatten(0, 1))
        poses = poses.view(count, length, -1)
        relative = self.consistent and self.trained_share >= self.relative_from
        loss = self.pair_loss.poses(poses, self.target(batch), relative)
        if length > 1:
            moved = self.motion(seen[:, :-1].flatten(0, 1), seen[:, 1:].flatten(0, 1))
            target = self.motion_target(batch).flatten(0, 1)
            loss = loss + self.pair_loss.motions(moved, target)
        return loss

    def motion_target(self, batch: Batch) -> Tensor:
        """(B, T - 1, 2 or 4) the true motions between the tiles of a tuple, as of ``motion``."""
        angle = batch.angle[:, :-1]
        c, s = torch.cos(angle), torch.sin(angle)
        east, north = batch.offset.diff(dim=1).unbind(-1)
        moved = torch.stack([c * east + s * north, c * north - s * east], -1) / MOTION_M
        if self.rotation is None:
            return moved
        return torch.cat([moved, cosine_sine(batch.angle.diff(dim=1))], dim=-1)


class VLocNetRecipe(RegressorRecipe):
    """The keys of a recipe that VLocNet reads: MapNet's, and ``consistency``."""

    consistency: Consistency = "shared"
    """Whether the geometric consistency has the weights of the poses, or weights of its own."""


def _make(recipe: VLocNetRecipe, blueprint: Blueprint) -> VLocNet:
    return VLocNet(
        consistency=recipe.consistency,
        relative=recipe.relative,
        relative_from=blueprint.relative_from,
        **blueprint.common,
    )


KIND = ModelKind(name="vlocnet", method="mapnet", network=VLocNet, recipe=VLocNetRecipe, make=_make)
