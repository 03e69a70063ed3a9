"""NetVLAD (Arandjelovic et al., CVPR 2016): residuals to centres, summed over a feature map.

``a_k(x) = exp(-alpha |x - c_k|^2) / sum_k' exp(-alpha |x - c_k'|^2)``
``V_k = sum_p a_k(x_p) (x_p - c_k)``, each V_k of unit length (intra-normalisation), then all of V.

The features x_p have unit length. The centres start at those of k-means; alpha is chosen there, so
that the second nearest centre gets ``SECOND`` of the nearest one's share on average, as in the
authors' code. Different: the assignment stays tied to the centres (the authors let it go after the
start); k-means sees the first batch, not images of the whole training set; there is no PCA
afterwards.
"""

from __future__ import annotations

import math
import warnings

import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional

SECOND = 0.01
"""Share of the second nearest centre relative to that of the nearest."""
LEAST_GAP = 1e-3
"""Lower bound of the mean difference of squared distances that alpha is chosen by."""


class NetVLAD(nn.Module):
    """(B, C, H, W) maps -> (B, K C) vectors of unit length.

    Args:
        channels: Of the maps, C.
        clusters: Number of centres, K.

    Attributes:
        centres: (K, C).
        alpha: How sharp the assignment is.
        started: Whether the centres were placed by ``start``.
    """

    alpha: Tensor
    started: Tensor

    def __init__(self, channels: int, clusters: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(clusters, channels) / math.sqrt(channels))
        self.register_buffer("alpha", torch.tensor(10.0))
        self.register_buffer("started", torch.tensor(False))

    def assignment(self, vectors: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, K) shares, which sum to 1."""
        # |x|^2 is the same for all centres.
        logits = 2 * vectors @ self.centres.T - self.centres.square().sum(1)
        return (self.alpha * logits).softmax(2)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K C)."""
        vectors = _vectors(maps)
        share = self.assignment(vectors)
        summed = torch.einsum("bnk,bnc->bkc", share, vectors)
        residual = summed - share.sum(1)[..., None] * self.centres
        return functional.normalize(functional.normalize(residual, dim=2).flatten(1), dim=1)

    @torch.no_grad()
    def start(self, maps: Tensor) -> None:
        """Move the centres to those of k-means over features: of maps (B, C, H, W).

        Alpha is chosen to fit. Where there are fewer features than centres, all stays as drawn.
        """
        self.started.fill_(True)
        points = _vectors(maps.float()).flatten(0, 1).cpu()
        if len(points) < len(self.centres):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a cluster without points: its centre stays
            centres, _ = kmeans2(points.double().numpy(), len(self.centres), minit="points", seed=0)
        self.centres.copy_(torch.from_numpy(centres))
        squared = torch.cdist(points.to(self.centres.device), self.centres).square()
        nearest = squared.topk(min(2, len(self.centres)), 1, largest=False).values
        gap = (nearest[:, -1] - nearest[:, 0]).mean().clamp_min(LEAST_GAP)
        self.alpha.copy_(-math.log(SECOND) / gap)


def _vectors(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H W, C) of unit length."""
    return functional.normalize(maps.flatten(2).transpose(1, 2), dim=2)
