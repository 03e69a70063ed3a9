"""The training of a network on images in memory-mapped files; it resumes where it was stopped."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from lean.network import LeanNetwork
from maptile_loc.device import pick_device
from maptile_loc.learn.keeper import Keeper
from maptile_loc.learn.loop import read_checkpoint
from maptile_loc.learn.pace import Pace
from maptile_loc.learn.runtime import disk_errors, has_bf16, quiet, threads

BATCH = 256
"""Images of a training step."""

RATE = 2e-3
"""Greatest learning rate."""

WARMUP = 0.05
"""Share of the training during which the learning rate rises."""

BEST, END, LAST = "best.ckpt", "end.ckpt", "last.ckpt"
"""Checkpoints: with the least validation loss, at the end, and the one to resume from."""


class Targets(Dataset[tuple[Tensor, Tensor]]):
    """Images and what a network is to answer; an index is an array of rows.

    Args:
        images: (N, C', S, S) uint8.
        channels: The C channels that are used.
        targets: (N, T) float32.
        rows: (M,) rows that belong to the set.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        channels: tuple[int, ...],
        targets: NDArray[np.float32],
        rows: NDArray[np.int64],
    ) -> None:
        self.images, self.channels, self.targets, self.rows = images, channels, targets, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) float32 images, 0..1, and (B, T) targets."""
        rows = self.rows[chosen]
        images = self.images[rows][:, self.channels]
        return torch.from_numpy(images).float() / 255, torch.from_numpy(self.targets[rows])

    def loader(self, shuffled: bool) -> DataLoader[tuple[Tensor, Tensor]]:
        """Batches, in order or shuffled."""
        sampler = RandomSampler(self) if shuffled else SequentialSampler(self)
        return DataLoader(self, batch_size=None, sampler=BatchSampler(sampler, BATCH, False))


class Clock(Pace):
    """The pace of a training: a warm-up, a cosine down to zero, and the end.

    Args:
        steps: Number of batches.
    """

    def __init__(self, steps: int) -> None:
        super().__init__(steps, None, WARMUP, RATE)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate."""
        self.elapsed = time.monotonic() - self._since
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(self.share(trainer.global_step))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing: the loss is logged."""


def trained(
    network: LeanNetwork, train: Targets, validation: Targets, steps: int, folder: Path
) -> None:
    """Train a network for ``steps`` batches, or go on; leaves ``BEST`` and ``END`` in ``folder``.

    Raises:
        MaptileError: It was interrupted, or the disk failed.
    """
    on_gpu = pick_device("auto") == "cuda"
    keeper = Keeper(folder / LAST)
    best = ModelCheckpoint(
        folder,
        BEST.removesuffix(".ckpt"),
        monitor="val_loss",
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    with quiet(), threads(on_gpu, 0), disk_errors(folder), keeper.explained():
        trainer = pl.Trainer(
            accelerator="cuda" if on_gpu else "cpu",
            devices=1,
            precision="bf16-mixed" if has_bf16(on_gpu) else "32-true",
            max_epochs=-1,
            num_sanity_val_steps=0,
            logger=False,
            callbacks=[Clock(steps), keeper, best],
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(
            network.to(memory_format=torch.channels_last),
            train.loader(shuffled=True),
            validation.loader(shuffled=False),
            ckpt_path=keeper.path if keeper.path.is_file() else None,
            weights_only=True,
        )
        trainer.save_checkpoint(folder / END, weights_only=True)


def answers(network: LeanNetwork, images: Targets, checkpoint: Path) -> NDArray[np.float32]:
    """(N, T) float32: what the network of a checkpoint answers to N images."""
    network.load_state_dict(read_checkpoint(checkpoint)["state_dict"])
    network.eval().to(pick_device("auto"))
    with torch.inference_mode():
        parts = [network(batch[0].to(network.device)).cpu() for batch in images.loader(False)]
    return torch.cat(parts).float().numpy()
