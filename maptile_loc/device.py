"""The device on which tensors are computed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
    """Context manager that limits the threads of torch and of numpy's linear algebra on the CPU.

    Threads of one computation wait for each other, so one without a core delays all.
    """
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    count = max(1, min(before, threads))
    with threadpool_limits(count, "blas"):
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


_LOCK = threading.Lock()
_LIMIT = ExitStack()
_inside = _unlimited = 0


def all_threads() -> int:
    """Torch's threads where ``one_thread`` does not limit them."""
    import torch

    with _LOCK:
        return _unlimited if _inside else torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Context manager that gives each computation of this process one thread.

    The limit is the process's, not this thread's: of contexts that overlap, the last one to end
    lifts it.
    """
    import torch

    global _inside, _unlimited
    with _LOCK:
        if _inside == 0:
            _unlimited = torch.get_num_threads()
            _LIMIT.enter_context(at_most(1))
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                _LIMIT.close()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Context manager that gives torch ``count`` threads, also within ``one_thread``."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
