"""Depth panoramas of tiles, and their circular correlation.

Along the ray of azimuth a, sampled every dr from the tile's centre, wall evidence w stops the share
``T_j w_j`` of the ray at distance r_j, where ``T_j = prod_{i < j} (1 - w_i)`` has come so far. The
panorama's depth is ``sum_j r_j T_j w_j + R T_end`` with the reach R, its opacity ``1 - T_end``; of
each other channel g it holds the mean ``sum_j T_j g_j / sum_j T_j`` of what the ray passes.

A tile that is turned by s has the panorama ``q(a) = m(a + s)``. The circular correlation ``c(s) =
sum_a q(a) m(a + s)`` is the inverse Fourier transform of ``conj(Q) M``; its maximum finds s.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

LEAST_SHARE = 1e-6
"""Lower bound of the share of a ray that is divided by."""


def depth_panorama(tiles: Tensor, azimuths: int) -> Tensor:
    """Panoramas seen from the centres of tiles.

    Args:
        tiles: (B, C, S, S); channel 0 is wall evidence, 0..1.
        azimuths: Directions, A; the first is along the tile's x axis, counter-clockwise.

    Returns:
        (B, C + 1, A): depth as a share of the reach S / 2 pixels, opacity, and the means of the
        other channels.
    """
    half = tiles.shape[-1] // 2
    radius = (torch.arange(half, device=tiles.device) + 0.5) / half
    angle = torch.arange(azimuths, device=tiles.device) * (2 * math.pi / azimuths)
    grid = torch.stack([torch.cos(angle), -torch.sin(angle)], 1) * radius[:, None, None]
    every = grid.expand(len(tiles), -1, -1, -1)
    seen = functional.grid_sample(tiles, every, align_corners=False)
    wall, others = seen[:, 0].clamp(0, 1), seen[:, 1:]
    behind = torch.cumprod(1 - wall, 1)
    before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], 1)
    depth = (before * wall * radius[:, None]).sum(1) + behind[:, -1]
    passed = (before[:, None] * others).sum(2) / before.sum(1).clamp_min(LEAST_SHARE)[:, None]
    return torch.cat([depth[:, None], 1 - behind[:, -1:], passed], 1)


def correlation(seen: Tensor, shown: Tensor) -> Tensor:
    """(Q, N, A) circular correlations of panoramas (Q, F, A) with panoramas (N, F, A)."""
    one, other = torch.fft.rfft(seen), torch.fft.rfft(shown)
    product = torch.einsum("qfk,nfk->qnk", one.conj(), other)
    return torch.fft.irfft(product, n=seen.shape[2])
