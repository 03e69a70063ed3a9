"""Tiles of unknown heading, turned to a few headings for a model."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data_prep.geometry import Array, wrap_angle


def spaced_turns(turns: Array, log_prior: Array, step: float) -> Array:
    """Some of (T,) ``turns``, most probable first, about ``step`` radians apart."""
    kept: list[float] = []
    for turn in turns[np.argsort(-log_prior, kind="stable")]:
        if not (np.abs(wrap_angle(np.array(kept) - turn)) < 0.75 * step).any():
            kept.append(float(turn))
    return np.array(kept)


def turned_tiles(tile: Tensor, turns: Array) -> Tensor:
    """(T, 3, S, S) copies of a tile (3, S, S), turned counter-clockwise by (T,) radians."""
    every = tile.expand(len(turns), -1, -1, -1)
    if not turns.any():
        return every
    turn = torch.tensor(turns, dtype=torch.float32)
    c, s, zero = torch.cos(turn), torch.sin(turn), torch.zeros_like(turn)
    # Maps the output's (x right, y down) to the input's.
    rows = torch.stack([torch.stack([c, -s, zero], 1), torch.stack([s, c, zero], 1)], 1)
    grid = functional.affine_grid(rows, list(every.shape), align_corners=False)
    return functional.grid_sample(every, grid, align_corners=False)


def best_apart(places: Array, scores: Array, count: int, apart_m: float) -> Array:
    """Indices of the ``count`` best of (K, 2) positions, no two nearer than ``apart_m``."""
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        gap = places[kept] - places[index]
        if not (np.hypot(gap[:, 0], gap[:, 1]) < apart_m).any():
            kept.append(int(index))
        if len(kept) == count:
            break
    return np.array(kept, int)
