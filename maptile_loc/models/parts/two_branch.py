"""Two transformers, of a tile's evidence and of its semantics, joined by attention.

After Translocator (Pramanick et al., ECCV 2022). Each branch is a vision transformer whose class
token stands for the whole tile. After every layer, the class tokens of both branches are replaced
by their sum: ``c <- c_evidence + c_semantics``. At the end, attention weights a = softmax(M(c_e,
c_s)), one per branch, weight the concatenation: ``f = [a_e c_e ; a_s c_s]``. The weights per branch
also apply to the patches' features, as the attention of SAANE (Seymour et al., BMVC 2019) does.

What tiles do not allow: there is no photograph and no segmentation of it. Evidence is the wall
channel; semantics are the other channels, which state ground and road. There are two or three
classes, not 150, and no scene types (indoors, nature, city), so the published scene head is
missing. SAANE's attention differs per position; here it differs per branch. The transformers are
small, and trained from scratch. The form of M is not in the sources that were at hand: it is a
perceptron with one hidden layer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from data_prep.errors import MaptileError
from maptile_loc.models.parts.resnet import NetworkSettings

PATCH_PX = 8
"""Pixels along the side of a patch."""
HEADS = 4
"""Heads of the self-attention."""
EVIDENCE = 1
"""Channels of the evidence branch, the first of a tile; the rest are semantics."""


class Branch(nn.Module):
    """One vision transformer, which runs layer by layer.

    Args:
        inputs: Channels of its part of the tiles.
        patches: Number of patches of a tile, P.
        width: Length of a token, D.
        layers: Number of layers.
    """

    def __init__(self, inputs: int, patches: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(inputs, width, PATCH_PX, PATCH_PX)
        self.token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.position = nn.Parameter(torch.randn(1, patches + 1, width) / math.sqrt(width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, HEADS, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )

    def tokens(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, P + 1, D), the class token first."""
        patches = self.embed(tiles).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(tiles), -1, -1), patches], 1) + self.position


class TwoBranch(nn.Module):
    """(B, C, S, S) tiles -> (B, features) vectors.

    Args:
        size: Pixels along a tile's side, S, a multiple of ``PATCH_PX``.
        settings: Size of the network.
        inputs: Channels of the tiles, C, at least 2.

    Attributes:
        channels: Of the feature map: twice the width.
        side: Patches along a tile's side.

    Raises:
        MaptileError: The tiles have too few channels or do not consist of whole patches, or the
            width is no multiple of the number of heads.
    """

    def __init__(self, size: int, settings: NetworkSettings, inputs: int = 3) -> None:
        super().__init__()
        width, layers = settings.width, sum(settings.blocks)
        if inputs <= EVIDENCE or size % PATCH_PX or width % HEADS:
            raise MaptileError(
                f"network.backbone two_branch: needs more than {EVIDENCE} channel, tiles of a "
                f"multiple of {PATCH_PX} pixels and a width that is a multiple of {HEADS}"
            )
        self.side = size // PATCH_PX
        self.evidence, self.semantics = (
            Branch(channels, self.side**2, width, layers)
            for channels in (EVIDENCE, inputs - EVIDENCE)
        )
        self.channels = 2 * width
        self.attention = nn.Sequential(
            nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 2), nn.Softmax(1)
        )
        self.features = nn.Linear(2 * width, settings.features)

    def tokens(self, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, P + 1, D) of both branches, and their (B, 2) attention weights.

        The class tokens are those of each branch before the last sum.
        """
        one = self.evidence.tokens(tiles[:, :EVIDENCE])
        two = self.semantics.tokens(tiles[:, EVIDENCE:])
        last = len(self.evidence.layers) - 1
        pairs = zip(self.evidence.layers, self.semantics.layers, strict=True)
        for number, (layer_one, layer_two) in enumerate(pairs):
            one, two = layer_one(one), layer_two(two)
            if number < last:
                joint = one[:, :1] + two[:, :1]
                one, two = torch.cat([joint, one[:, 1:]], 1), torch.cat([joint, two[:, 1:]], 1)
        return one, two, self.attention(torch.cat([one[:, 0], two[:, 0]], 1))

    def stages(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, 2 D, side, side): the weighted features of both branches' patches."""
        one, two, weight = self.tokens(tiles)
        joint = torch.cat([weight[:, :1, None] * one, weight[:, 1:, None] * two], 2)[:, 1:]
        return joint.transpose(1, 2).reshape(len(tiles), -1, self.side, self.side)

    def forward(self, tiles: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, features), not negative."""
        one, two, weight = self.tokens(tiles)
        joint = torch.cat([weight[:, :1] * one[:, 0], weight[:, 1:] * two[:, 0]], 1)
        return functional.relu(self.features(joint))
