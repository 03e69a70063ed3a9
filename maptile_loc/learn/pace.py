"""The pace of a training: the learning rate, the end, and the progress."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytorch_lightning as pl

from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from maptile_loc.models.parts.tile_model import TileModel

FIRST_RATE = 0.01
"""The learning rate of the first step, as a share of the peak."""
PERCENT = 100
"""Parts that the progress of a training is reported in."""

log = logging.getLogger(__name__)


def seconds_of(minutes: float | None) -> float:
    """The seconds that a training may last; inf where ``minutes`` is None.

    Raises:
        MaptileError: It is no time.
    """
    if minutes is None:
        return math.inf
    if not minutes > 0:
        raise MaptileError(f"minutes={minutes}: expected more than 0, or none for no limit")
    return minutes * 60


class Pace(pl.Callback):
    """Sets the learning rate and ends the training, by steps or by minutes, whichever is first.

    Args:
        steps: Steps of the whole training.
        minutes: Minutes of the whole training; None: no limit.
        warmup: Share of the training during which the rate rises to its peak.
        peak: The greatest learning rate.
        report: Is called with the percentage that is done.

    Attributes:
        elapsed: Seconds trained so far, those before an interruption included.
        waited: Seconds of them spent waiting for a batch.
    """

    def __init__(
        self,
        steps: int,
        minutes: float | None,
        warmup: float,
        peak: float,
        report: Progress = silent,
    ) -> None:
        self.steps, self.seconds = steps, seconds_of(minutes)
        self.warmup, self.peak, self.report = warmup, peak, report
        self.elapsed = self.waited = 0.0
        self._since = self._idle_since = 0.0

    def share(self, step: int) -> float:
        """0..1, the share of the training done after ``step`` steps and ``elapsed`` seconds."""
        return min(1.0, max(step / self.steps, self.elapsed / self.seconds))

    def rate(self, share: float) -> float:
        """The learning rate at this share: a linear warm-up, then a cosine down to zero."""
        if share < self.warmup:
            return self.peak * (FIRST_RATE + (1 - FIRST_RATE) * share / self.warmup)
        return self.peak * (1 + math.cos(math.pi * share)) / 2

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed training needs."""
        return {"elapsed": self.elapsed, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from that state."""
        self.elapsed, self.waited = float(state_dict["elapsed"]), float(state_dict["waited"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._since = time.monotonic() - self.elapsed
        self._report(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start waiting for a batch."""
        self._idle_since = time.monotonic()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate."""
        now = time.monotonic()
        self.elapsed = trainer.strategy.broadcast(now - self._since)
        self.waited += now - self._idle_since
        share = self.share(trainer.global_step)
        assert isinstance(pl_module, TileModel)
        pl_module.trained_share = share
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = self.rate(share)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Stop at the end of the training."""
        trainer.should_stop = trainer.should_stop or self.share(trainer.global_step) >= 1
        self._report(trainer)
        self._idle_since = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the error."""
        error = float(trainer.callback_metrics["val_median_m"])
        log.info("step %d: median error %.1f m", trainer.global_step, error)

    def _report(self, trainer: pl.Trainer) -> None:
        """Report the percentage that is done."""
        self.report("train", int(PERCENT * self.share(trainer.global_step)), PERCENT)
