"""Weights of networks as safetensors files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import nn

from data_prep.files import atomic_file, write_error


def save_weights(file: Path, network: nn.Module) -> str:
    """Write the weights of a network to ``file``, and return the file's SHA-256 digest.

    Raises:
        MaptileError: The file cannot be written.
    """
    weights = {name: value.contiguous().cpu() for name, value in network.state_dict().items()}
    with atomic_file(file) as path:
        try:
            save_file(weights, path)
        except safetensors.SafetensorError as error:  # how it reports a full disk
            raise write_error(file, OSError(str(error))) from error
        return hashlib.sha256(path.read_bytes()).hexdigest()
