"""The surroundings of a training: threads, precision, warnings and errors of the disk."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pytorch_lightning.utilities.warnings import PossibleUserWarning

from data_prep.files import write_error


def has_bf16(on_gpu: bool) -> bool:
    """Whether the processor computes in bfloat16; where it only emulates it, float32 is faster."""
    if on_gpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


@contextmanager
def threads(on_gpu: bool, workers: int) -> Iterator[None]:
    """Context manager that limits torch's threads, so that each process that renders has a core.

    Threads of one computation wait for each other, so one without a core delays all. On a GPU
    nothing is limited.
    """
    before = torch.get_num_threads()
    if not on_gpu:
        torch.set_num_threads(max(1, min(before, (os.cpu_count() or 1) - workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's messages about its own configuration."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        log.setLevel(level)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an error of the disk, such as a full one, into a ``MaptileError`` about ``folder``."""
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from error
