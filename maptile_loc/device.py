"""The device on which tensors are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from data_prep.errors import MaptileError

DEVICES = ("auto", "cpu", "cuda")
"""The devices that a user may name; ``auto`` is cuda where torch finds it, else cpu."""


def pick_device(device: str) -> str:
    """Return the torch device (``cpu`` or ``cuda``) for one of ``DEVICES``.

    Raises:
        MaptileError: ``device`` is none of them, or is cuda and torch finds none.
    """
    import torch  # Takes seconds, and the command line needs DEVICES only.

    if device not in DEVICES:
        raise MaptileError(f"--device {device}: there are {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise MaptileError("--device cuda: torch finds no CUDA device; use --device cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


@contextmanager
def at_most(threads: int) -> Iterator[None]:
    """Context manager that limits torch's threads on the CPU.

    Threads of one computation wait for each other, so one without a core delays all.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, threads)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
