"""PoseNet's loss with a fixed weight (Kendall, Grimes and Cipolla, ICCV 2015).

``|x' - x| + beta |q' - q / |q||``, Euclidean norms, with the translation x in metres and the
rotation q. In the plane, x is the 2D offset, and the cosine and sine of the heading are in place of
the quaternion: they are of length 1, and change twice as fast with the heading.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BetaLoss(nn.Module):
    """PoseNet's loss with a fixed weight of the rotation.

    Args:
        beta: Metres of translation error that cost as much as a rotation error of 1.
        deviation: (2,) metres per axis, by which translations are normalised.
        rotation: Whether poses have a rotation.
    """

    deviation: Tensor

    def __init__(self, beta: float, deviation: Tensor, rotation: bool) -> None:
        super().__init__()
        self.register_buffer("deviation", deviation.detach().clone(), persistent=False)
        self.beta, self.rotation, self.relative = beta, rotation, False

    def forward(self, predicted: Tensor, target: Tensor, relative: bool = True) -> Tensor:
        """The mean loss in metres of poses (B, T, 2 or 4): normalised east, north, cosine and sine.

        ``relative`` changes nothing: there is no relative term.
        """
        off = (predicted[..., :2] - target[..., :2]) * self.deviation
        loss = off.norm(dim=-1).mean()
        if self.rotation:
            true = functional.normalize(target[..., 2:], dim=-1)
            loss = (
                loss
                + self.beta * torch.linalg.vector_norm(predicted[..., 2:] - true, dim=-1).mean()
            )
        return loss
