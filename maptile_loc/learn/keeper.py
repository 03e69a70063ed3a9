"""Keeps the state of a training on disk, and ends it between two batches when asked to."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from data_prep.errors import MaptileError

KEEP_EVERY_S = 30.0
"""Seconds between checkpoints: a training that is killed loses no more, and its last batch."""


class Stopped(Exception):
    """The training was asked to stop, and its state is on disk."""


class Keeper(pl.Callback):
    """Writes a checkpoint twice a minute, and when Ctrl-C or SIGTERM asks to stop.

    It is written between two batches, beside the old one, and replaces it in one step. So a resumed
    training goes on exactly where this one was. A second Ctrl-C or SIGTERM stops at once.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept = 0.0
        self._ended_by: BaseException | None = None
        self._asked = False
        self._before: dict[int, Any] = {}

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Context manager around what Lightning does, for errors that say what happened.

        Lightning ends the process when a model is judged and Ctrl-C interrupts it. When something
        fails before the first batch, it fails to clean up, and raises that.

        Raises:
            MaptileError: It was interrupted.
        """
        before = signal.getsignal(signal.SIGINT)
        try:
            yield
        except (Stopped, SystemExit, RuntimeError) as error:
            cause = self._ended_by or error
            if not isinstance(cause, Stopped | KeyboardInterrupt):
                raise cause from None
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
            again = "starts again: nothing was kept"
            if self.path.is_file():
                again = "continues from the last checkpoint"
            folder = self.path.parent.parent
            raise MaptileError(f"{folder}: interrupted; the same command {again}") from None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, in the main thread."""
        self._kept = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write what the batches before led to.

        Raises:
            Stopped: A signal asked for it.
        """
        due = self._asked or time.monotonic() - self._kept >= KEEP_EVERY_S
        due, asked = trainer.strategy.broadcast((due, self._asked))  # the first process decides
        if not due:
            return
        new = self.path.with_name(self.path.name + ".new")
        trainer.save_checkpoint(new)
        if trainer.is_global_zero:
            new.replace(self.path)
        self._kept = time.monotonic()
        if asked:
            raise Stopped

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen no longer: before Lightning restores the handlers that were there before."""
        self._restore()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Listen no longer."""
        self._ended_by = exception
        self._restore()

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
