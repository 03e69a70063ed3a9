"""A convolutional network without normalisation, as VGG (Simonyan and Zisserman, ICLR 2015).

CrossLocate (Tomesek et al., WACV 2022, section 4.1) uses five blocks of two or three convolutions
with ReLU. Max-pooling ends each block but the last. The last convolution has no ReLU, so that
features may be negative, and there is no batch normalisation, which differs between rendered and
observed images. Different here: the recipe sets the width (that of VGG-16 is 64), and the weights
are drawn, not those of a network trained on photographs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from maptile_loc.models.parts.resnet import NetworkSettings


class Plain(nn.Module):
    """(B, C, S, S) tiles -> (B, features) vectors.

    Args:
        size: Pixels along a tile's side, S; halved after each block but the last.
        settings: Size of the network; ``blocks`` are convolutions per block.
        inputs: Channels of the tiles, C.

    Attributes:
        channels: Of the last feature map.
        side: Pixels along the side of the last feature map.
    """

    def __init__(self, size: int, settings: NetworkSettings, inputs: int = 3) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        channels, side = inputs, size
        for number, count in enumerate(settings.blocks):
            if number > 0:
                stages.append(nn.MaxPool2d(2, ceil_mode=True))
                side = -(-side // 2)
            outputs = settings.width * 2**number
            for _ in range(count):
                stages += [_convolution(channels, outputs), nn.ReLU()]
                channels = outputs
        self.stages = nn.Sequential(*stages[:-1])
        self.channels, self.side = channels, side
        self.features = nn.Linear(channels * side**2, settings.features)

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, features), not negative."""
        return functional.relu(self.features(self.stages(tiles).flatten(1)))


def _convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose outputs have the variance of its inputs after a ReLU."""
    made = nn.Conv2d(inputs, outputs, 3, padding=1)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return made
