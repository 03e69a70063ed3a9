"""Mixtures of von Mises-Fisher densities as an output (MvMF; Izbicki et al., ECML PKDD 2019).

The network estimates the weights w(x) of a mixture whose components all inputs share:
``p(y | x) = sum_i w_i(x) f(y; mu_i, kappa_i)``; the loss is ``-log p(y | x)``. mu and kappa are
learned, too. On a sphere of radius R, f is the von Mises-Fisher density. On a piece as small as a
city it is a Gaussian on the plane: ``f = exp(-|y - mu_i|^2 / (2 s_i^2)) / (2 pi s_i^2)``, with
``kappa_i = (R / s_i)^2``; the exponents differ by a share of ``|y - mu_i|^2 / (12 R^2)``, which is
1e-8 at 2 km on the earth. On the circle of headings f is von Mises':
``f = exp(kappa_i cos(y - mu_i)) / (2 pi I0(kappa_i))``.

Different: components start on the cells of a city's roads, with half a cell's side as s_i.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PlaneMixture(nn.Module):
    """Gaussians on the plane, whose means and widths are learned.

    Args:
        count: Number of components, M.

    Attributes:
        start: (M, 2) metres, where the means begin.
        width: (M,) metres, the widths s at the beginning.
    """

    start: Tensor
    width: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.register_buffer("start", torch.zeros(count, 2))
        self.register_buffer("width", torch.ones(count))
        self.shift = nn.Parameter(torch.zeros(count, 2))
        self.log_scale = nn.Parameter(torch.zeros(count))

    @property
    def means(self) -> Tensor:
        """(M, 2) metres."""
        return self.start + self.shift * self.width[:, None]

    @property
    def deviations(self) -> Tensor:
        """(M,) metres, the widths s."""
        return self.width * self.log_scale.exp()

    def log_density(self, log_weights: Tensor, at: Tensor) -> Tensor:
        """(B, N) log-densities per square metre.

        Args:
            log_weights: (B, M) logarithms of the mixture's weights.
            at: (B or 1, N, 2) metres.
        """
        squared = (at[:, :, None] - self.means).square().sum(3)
        variance = self.deviations.square()
        each = -squared / (2 * variance) - torch.log(2 * math.pi * variance)
        return (log_weights[:, None] + each).logsumexp(2)


class CircleMixture(nn.Module):
    """Von Mises densities on the circle, whose directions and concentrations are learned.

    Args:
        count: Number of components, H; they begin evenly spaced, as wide as their spacing.
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        spacing = 2 * math.pi / count
        self.means = nn.Parameter(torch.arange(count) * spacing)
        self.log_kappa = nn.Parameter(torch.full((count,), -2 * math.log(spacing)))

    def log_density(self, log_weights: Tensor, at: Tensor) -> Tensor:
        """(B, N) log-densities per radian.

        Args:
            log_weights: (B, H) logarithms of the mixture's weights.
            at: (B or 1, N) radians.
        """
        kappa = self.log_kappa.exp()
        # log I0(kappa) = kappa + log(exp(-kappa) I0(kappa)), which does not overflow.
        peak = -torch.log(2 * math.pi * torch.special.i0e(kappa))
        each = kappa * (torch.cos(at[:, :, None] - self.means) - 1) + peak
        return (log_weights[:, None] + each).logsumexp(2)
