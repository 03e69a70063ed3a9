"""CVFT (Shi et al., AAAI 2020): the features of a query are transported to the map's layout.

A small network estimates the cost C of moving each position of the query's feature map to each of
the map's. The transport is ``P = argmin <P, C> - h(P) / lambda`` over doubly stochastic P, with the
entropy h. Sinkhorn's iterations solve it: rows and columns of ``exp(-lambda C)`` are divided by
their sums in turn. The transported feature at j is ``sum_i P_ij x_i``.

Different: the feature maps are smaller (4 x 4) and no panorama is unrolled, since both are seen
from above; the cost network and lambda are not in the sources that were at hand.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LAMBDA = 10.0
"""Weight of the cost relative to the entropy."""
STEPS = 20
"""Sinkhorn iterations."""
SQUEEZED = 8
"""Channels from which the cost is estimated."""


def sinkhorn(cost: Tensor, sharpness: float = LAMBDA, steps: int = STEPS) -> Tensor:
    """(B, N, N) costs -> (B, N, N) transports whose columns, and nearly whose rows, sum to 1."""
    log_p = -sharpness * cost
    for _ in range(steps):
        log_p = log_p - log_p.logsumexp(2, keepdim=True)
        log_p = log_p - log_p.logsumexp(1, keepdim=True)
    return log_p.exp()


def transported(maps: Tensor, transport: Tensor) -> Tensor:
    """Move the features of maps (B, C, H, W) by (B, H W, H W) transports, from rows to columns."""
    return torch.einsum("bci,bij->bcj", maps.flatten(2), transport).view_as(maps)


class FeatureTransport(nn.Module):
    """(B, C, H, W) maps of queries -> the same in the layout of map tiles.

    Args:
        channels: Of the maps, C.
        side: Positions along a side, H and W.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.count = side**2
        self.cost = nn.Sequential(
            nn.Conv2d(channels, SQUEEZED, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(SQUEEZED * self.count, self.count**2),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        cost = self.cost(functional.normalize(maps, dim=1)).view(-1, self.count, self.count)
        return transported(maps, sinkhorn(cost))
