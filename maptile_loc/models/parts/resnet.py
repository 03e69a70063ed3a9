"""A small residual network (He et al., CVPR 2016) whose features keep the layout of the tile."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from data_prep.settings import Settings

STEM_STRIDE = 4
"""Stride of the first convolution."""


class NetworkSettings(Settings):
    """Kind and size of the backbone."""

    backbone: Literal["resnet", "plain", "two_branch"] = "resnet"
    """``resnet``: residual blocks; ``plain``: convolutions without normalisation, as VGG;
    ``two_branch``: two transformers, of wall evidence and of the other channels."""
    width: int = Field(32, ge=1)
    """Channels of the first stage; each further stage has twice as many at half the resolution.
    Of transformers, the length of a token."""
    blocks: tuple[int, ...] = Field((1, 1, 1), min_length=1)
    """Residual blocks (plain: convolutions) per stage; of transformers, their sum is the number of
    layers."""
    features: int = Field(1024, ge=1)
    """Length of the feature vector."""


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, outputs, 3, stride)
        self.second = _convolution(outputs, outputs, 3, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, outputs, 1, 1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        inner = self.second(functional.relu(self.first(x)))
        # Pixels are left out beforehand: the gradient of a 1x1 convolution with a stride writes
        # beyond its memory in oneDNN where there are fewer than 16 channels (issue 6035).
        kept = x[..., :: self.stride, :: self.stride]
        return functional.relu(inner + self.shortcut(kept))


class ResNet(nn.Module):
    """(B, C, S, S) tiles -> (B, features) vectors.

    The last feature map is flattened, not averaged, because the position of a wall in the tile
    carries the position of the tile.

    Args:
        size: Pixels along a tile's side, S.
        settings: Size of the network.
        inputs: Channels of the tiles, C.

    Attributes:
        channels: Of the last feature map.
        side: Pixels along the side of the last feature map.
    """

    def __init__(self, size: int, settings: NetworkSettings, inputs: int = 3) -> None:
        super().__init__()
        width = settings.width
        stages: list[nn.Module] = [_convolution(inputs, width, 7, STEM_STRIDE), nn.ReLU()]
        side = math.ceil(size / STEM_STRIDE)
        for number, blocks in enumerate(settings.blocks):
            outputs = settings.width * 2**number
            for block in range(blocks):
                stride = 2 if number > 0 and block == 0 else 1
                stages.append(Block(width, outputs, stride))
                width, side = outputs, math.ceil(side / stride)
        self.stages = nn.Sequential(*stages)
        self.channels, self.side = width, side
        self.features = nn.Linear(width * side**2, settings.features)

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, features), not negative."""
        return functional.relu(self.features(self.stages(tiles).flatten(1)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
