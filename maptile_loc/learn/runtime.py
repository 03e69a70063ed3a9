"""The surroundings of a training: threads, precision, warnings and errors of the disk."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

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


def threads(on_gpu: bool, workers: int) -> AbstractContextManager[None]:
    """Limits torch's threads, so that each process that renders has a core; none on a GPU."""
    return nullcontext() if on_gpu else at_most((os.cpu_count() or 1) - workers)


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
