"""The networks: residual, from scratch; they regress a pose or a sample's binary code."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from maptile_loc.models.parts.resnet import NetworkSettings, ResNet

NETWORK = NetworkSettings(width=32, blocks=(1, 1, 1), features=1024)
"""The backbone; the paper's is ResNet50."""

POSE_SIZE = 6
"""Length of a pose vector: x, y and a quaternion."""

CODE_BITS = 17
"""Bits of a sample's code, as in the paper."""

Answer = Literal["pose", "code"]
"""What a network answers with."""


class LeanNetwork(pl.LightningModule):
    """(B, C, S, S) images, 0..1 -> (B, 6) pose vectors or (B, 17) logits of a code's bits.

    Args:
        size: Pixels along an image's side, S.
        channels: Channels of the images, C.
        answer: What it learns.
        learning_rate: Of AdamW.
    """

    def __init__(self, size: int, channels: int, answer: Answer, learning_rate: float) -> None:
        super().__init__()
        self.backbone = ResNet(size, NETWORK, channels)
        self.head = nn.Linear(NETWORK.features, POSE_SIZE if answer == "pose" else CODE_BITS)
        self.loss = pose_loss if answer == "pose" else code_loss
        self.learning_rate = learning_rate

    def forward(self, images: Tensor) -> Tensor:
        """The answers to images."""
        answers: Tensor = self.head(self.backbone(images))
        return answers

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The mean loss of a batch of images and targets."""
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Log the mean loss."""
        self.log("val_loss", self.loss(self(batch[0]), batch[1]), batch_size=len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW without weight decay: a network that memorises is not regularised."""
        return torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=0.0)


def pose_loss(answers: Tensor, vectors: Tensor) -> Tensor:
    """Mean of |x - x'| + |q - q'|: Euclidean norms of position and quaternion, without a weight.

    The paper, section 5: x in shares of the area's side needs none.
    """
    off = answers.float() - vectors
    return (off[:, :2].norm(dim=1) + off[:, 2:].norm(dim=1)).mean()


def code_loss(logits: Tensor, bits: Tensor) -> Tensor:
    """Mean binary cross-entropy of a code's bits."""
    return functional.binary_cross_entropy_with_logits(logits.float(), bits)


def codes(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N, 17) bits of (N,) sample numbers, the lowest first."""
    return (numbers[:, None] >> np.arange(CODE_BITS) & 1).astype(np.float32)


def numbers_of(logits: NDArray[np.floating]) -> NDArray[np.int64]:
    """(N,) numbers whose bits (N, 17) logits call most probable."""
    return ((logits > 0) << np.arange(CODE_BITS)).sum(axis=1)
