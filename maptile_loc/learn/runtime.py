"""The surroundings of a training: threads, precision, warnings and errors of the disk."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType

import torch
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from data_prep.files import write_error
from maptile_loc.device import at_most


def has_bf16(on_gpu: bool) -> bool:
    """Whether the processor computes in bfloat16; where it only emulates it, float32 is faster."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def threads(on_gpu: bool, workers: int, processes: int = 1) -> AbstractContextManager[None]:
    """Limits torch's threads, so that each process that renders has a core; none on a GPU.

    Args:
        on_gpu: Whether the training is on a GPU.
        workers: Processes that render, per process that trains.
        processes: Processes that train.
    """
    return nullcontext() if on_gpu else at_most((os.cpu_count() or 1) // processes - workers)


def quiet_worker(worker: int) -> None:
    """Let a process that makes batches say nothing when the one that trains is stopped or killed.

    A terminal sends Ctrl-C to all processes, and a connection that is lost is that to a process
    that has ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    show = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, ConnectionError | EOFError):
            show(kind, error, trace)

    sys.excepthook = hook


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's messages about its own configuration."""
    logs = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise an interruption as it is, where Lightning would end the process without a word."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)  # Lightning ignores it from then on
        raise KeyboardInterrupt from None


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an error of the disk, such as a full one, into a ``MaptileError`` about ``folder``."""
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from error
