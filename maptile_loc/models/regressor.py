"""MapNet and PoseNet for map tiles: the pose of a tile is regressed from its channels.

After Brahmbhatt et al., Geometry-Aware Learning of Maps for Camera Localization (MapNet), CVPR
2018, in the plane: the translation is the 2D offset from the city's reference tile, normalised per
axis; the rotation, where the heading is unknown, is the cosine and the sine of the heading, because
the published log-quaternion jumps at 180 degrees. As in the authors' code, the relative pose of two
tiles is the difference of their pose vectors. PoseNet with learned weights (Kendall and Cipolla,
CVPR 2017) is the same without the relative term; with a fixed weight (Kendall, Grimes and Cipolla,
ICCV 2015) its loss is ``losses.pose.BetaLoss``.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from data_prep.errors import MaptileError
from data_prep.settings import Settings
from maptile_loc.models.losses.pose import BetaLoss
from maptile_loc.models.parts.kind import Blueprint, ModelKind
from maptile_loc.models.parts.rotation import COMPONENTS, angle_of_cosine_sine, cosine_sine
from maptile_loc.models.parts.tile_model import Batch, TileModel

INITIAL_WEIGHTS = {"sx": 0.0, "sq": -3.0, "srx": 0.0, "srq": -3.0}
"""Initial log-variances of the loss, as published: the rotation's are the beta and gamma of -3."""


class PoseLoss(nn.Module):
    """MapNet's loss: absolute and relative pose errors with learned weights.

    ``|t| exp(-sx) + sx + |q| exp(-sq) + sq`` over all tiles of a tuple, and the same with ``srx``
    and ``srq`` over the differences of consecutive tiles (Brahmbhatt et al. 2018, section 3.1; the
    weights are those of Kendall and Cipolla 2017). ``| |`` is the mean absolute error.

    Args:
        relative: Whether the loss has the relative term.
        rotation: Whether poses have a rotation.
    """

    def __init__(self, relative: bool, rotation: bool) -> None:
        super().__init__()
        names = ["sx"] + ["sq"] * rotation + ["srx"] * relative + ["srq"] * (relative and rotation)
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.tensor(INITIAL_WEIGHTS[name])))
        self.relative, self.rotation = relative, rotation

    def forward(self, predicted: Tensor, target: Tensor, relative: bool = True) -> Tensor:
        """The loss of poses (B, T, 2 or 4): normalised east, north, cosine and sine.

        ``relative=False`` omits the relative term.
        """
        loss = self._terms(predicted - target, "sx", "sq")
        if self.relative and relative and predicted.shape[1] > 1:
            motion = predicted.diff(dim=1) - target.diff(dim=1)
            loss = loss + self._terms(motion, "srx", "srq")
        return loss

    def _terms(self, error: Tensor, translation: str, rotation: str) -> Tensor:
        """Return the weighted error of the translation plus, where poses have one, of the rotation.

        Args:
            error: (..., 2 or 4) predicted less true poses.
            translation: Name of the learned weight of the translation: "sx" or "srx".
            rotation: Name of the learned weight of the rotation: "sq" or "srq".
        """
        loss = weighted(error[..., :2], self.get_parameter(translation))
        if self.rotation:
            loss = loss + weighted(error[..., 2:], self.get_parameter(rotation))
        return loss


def weighted(error: Tensor, log_variance: Tensor) -> Tensor:
    """``|error| exp(-s) + s``: an error with the learned weight s (Kendall and Cipolla 2017)."""
    return torch.exp(-log_variance) * error.abs().mean() + log_variance


class Answer(NamedTuple):
    """What a model says of B tiles.

    Attributes:
        offset: (B, 2) metres from the reference, east and north.
        angle: (B,) directions of the tiles' x axes from grid east, radians.
        covariance: (B, 2, 2) of the offset, square metres; NaN where the model estimates none.
        probability: (B,) of the position; 0 where the model estimates none.
    """

    offset: Tensor
    angle: Tensor
    covariance: Tensor
    probability: Tensor


def of_unknown_error(offset: Tensor, angle: Tensor) -> Answer:
    """The answer of a model that does not estimate how far off it is."""
    unknown = torch.full((len(offset), 2, 2), torch.nan, device=offset.device)
    return Answer(offset, angle, unknown, torch.zeros_like(angle))


class MapNet(TileModel):
    """Tile -> 2D offset and, where the heading is unknown, direction.

    Args:
        relative: Whether the loss has MapNet's relative term; without it the model is PoseNet.
        relative_from: Share of the training after which the relative term counts. From the start,
            it would keep an untrained network at a constant answer, which makes neighbours agree.
        beta: Weight of the rotation in PoseNet's first loss, metres; None: weights are learned.
        common: The arguments of ``TileModel``.
    """

    def __init__(
        self, relative: bool, relative_from: float, beta: float | None = None, **common: Any
    ) -> None:
        super().__init__(**common)
        self.save_hyperparameters()
        self.translation = nn.Linear(self.settings.features, 2)
        turned = self.heading == "unknown"
        self.rotation = nn.Linear(self.settings.features, COMPONENTS) if turned else None
        self.loss: PoseLoss | BetaLoss = (
            PoseLoss(relative, turned) if beta is None else BetaLoss(beta, self.deviation, turned)
        )
        self.relative_from = relative_from

    @property
    def adaptable(self) -> bool:
        """Whether MapNet+ can adapt it: its loss has the weights of a relative term."""
        return self.loss.relative

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 2 or 4) float32: normalised offset, cosine and sine."""
        features = self.features(tiles)
        heads = [self.translation(features)]
        if self.rotation is not None:
            heads.append(self.rotation(features))
        return torch.cat(heads, dim=1).float()

    def pose(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> (B, 2) offsets in metres and (B,) directions of the tiles in radians."""
        predicted = self(tiles)
        offset = predicted[:, :2] * self.deviation + self.mean
        if self.rotation is None:
            return offset, torch.zeros_like(offset[:, 0])
        return offset, angle_of_cosine_sine(predicted[:, 2:])

    def answer(self, tiles: Tensor, before: Tensor | None = None) -> Answer:
        """The model's answer to tiles (B, C, S, S).

        Args:
            tiles: The tiles.
            before: The tiles before them on the drive, likewise, which only VLocNet reads.
        """
        return of_unknown_error(*self.pose(tiles))

    def expectation(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 2 or 4): the normalised poses that the loss is made of.

        Here they are those of ``forward``.
        """
        poses: Tensor = self(tiles)
        return poses

    def objective(self, batch: Batch) -> Tensor:
        """The pose loss of a batch of tuples."""
        predicted = self(batch.tiles.flatten(0, 1)).view(*batch.offset.shape[:2], -1)
        relative = self.trained_share >= self.relative_from
        loss: Tensor = self.loss(predicted, self.target(batch), relative)
        return loss

    def target(self, batch: Batch) -> Tensor:
        """(B, T, 2 or 4) the true poses: normalised offset; with a rotation, cosine and sine."""
        offset = (batch.offset - self.mean) / self.deviation
        if self.rotation is None:
            return offset
        return torch.cat([offset, cosine_sine(batch.angle)], dim=-1)


class RegressorRecipe(Settings):
    """The keys of a recipe that MapNet and its variants read."""

    relative: bool = True
    """MapNet's relative term; without it, the model is PoseNet."""


class PoseLossSettings(Settings):
    """How PoseNet weighs the rotation against the translation."""

    weights: Literal["learned", "beta"] = "learned"
    """Learned (Kendall and Cipolla 2017), or fixed (Kendall, Grimes and Cipolla 2015)."""
    beta: float = Field(500.0, gt=0)
    """The fixed weight, metres."""


class MapNetRecipe(RegressorRecipe):
    """The keys of a recipe that MapNet and PoseNet read."""

    pose_loss: PoseLossSettings = PoseLossSettings()
    """How the rotation is weighed; ``relative`` has to be false with a fixed weight."""


def _make(recipe: MapNetRecipe, blueprint: Blueprint) -> MapNet:
    fixed = recipe.pose_loss.weights == "beta"
    if fixed and recipe.relative:
        raise MaptileError(
            "pose_loss.weights=beta: MapNet's relative term has learned weights only"
        )
    return MapNet(
        relative=recipe.relative,
        relative_from=blueprint.relative_from,
        beta=recipe.pose_loss.beta if fixed else None,
        **blueprint.common,
    )


KIND = ModelKind(name="mapnet", method="mapnet", network=MapNet, recipe=MapNetRecipe, make=_make)
