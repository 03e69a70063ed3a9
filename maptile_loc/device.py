"""Where tensors live."""

from __future__ import annotations

import torch

from data_prep.errors import MaptileError


def pick_device(device: str) -> str:
    """``auto`` is cuda where there is one.

    Raises:
        MaptileError: cuda is asked for and not there, or no such device is known.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise MaptileError(f"--device {device}: there are auto, cpu and cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise MaptileError("--device cuda: torch sees no CUDA device; use --device cpu")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
