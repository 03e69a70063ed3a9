"""The device on which tensors are computed."""

from __future__ import annotations

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
