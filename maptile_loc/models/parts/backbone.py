"""The backbones of all models, by the name in their recipes."""

from __future__ import annotations

from maptile_loc.models.parts.plain import Plain
from maptile_loc.models.parts.resnet import NetworkSettings, ResNet
from maptile_loc.models.parts.two_branch import TwoBranch

Backbone = ResNet | Plain | TwoBranch
"""(B, C, S, S) tiles -> (B, features) vectors. ``stages`` makes the (B, channels, H, W) feature map
that ``features`` flattens."""


def make_backbone(size: int, settings: NetworkSettings, inputs: int) -> Backbone:
    """A backbone whose weights are drawn by torch's global generator.

    Args:
        size: Pixels along a tile's side, S.
        settings: Kind and size of the network.
        inputs: Channels of the tiles, C.

    Raises:
        MaptileError: The tiles do not fit the backbone.
    """
    kinds: dict[str, type[Backbone]] = {
        "resnet": ResNet,
        "plain": Plain,
        "two_branch": TwoBranch,
    }
    return kinds[settings.backbone](size, settings, inputs)
