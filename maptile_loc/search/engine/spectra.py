"""Correlation of a map's fields with many tiles by FFT, block by block (overlap-save)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

TURNS = 16
"""Turns that are correlated at a time, so that the work fits the processor's cache."""

BLOCKS = 64
"""Blocks that are correlated at a time, for the same reason."""


class Correlator:
    """The spectra of a map's fields, block by block, kept for every query.

    Args:
        channels: (C, H, W) fields.
        side: Cells along a tile's side.
        rows, columns: Range of positions (cell corners) that are searched, end excluded.
        device: Where to compute.

    A block of B x B cells gives (B - side)^2 positions. The sum over channels is a matrix product
    per frequency: (blocks, channels) times (channels, turns).
    """

    def __init__(
        self,
        channels: torch.Tensor,
        side: int,
        rows: tuple[int, int],
        columns: tuple[int, int],
        device: torch.device,
    ) -> None:
        self.rows, self.columns, self.side = rows, columns, side
        self.shape = rows[1] - rows[0], columns[1] - columns[0]
        self.block = _block(side, len(channels), self.shape[0] * self.shape[1])
        step = self.block - side
        self.grid = math.ceil(self.shape[0] / step), math.ceil(self.shape[1] / step)
        half, (height, width) = side // 2, channels.shape[1:]
        top, left = rows[0] - half, columns[0] - half
        below = top + self.grid[0] * step + side - height
        right = left + self.grid[1] * step + side - width
        inner = channels[
            :, max(top, 0) : height + min(below, 0), max(left, 0) : width + min(right, 0)
        ]
        margins = (max(-left, 0), max(right, 0), max(-top, 0), max(below, 0))
        padded = torch.nn.functional.pad(inner, margins)
        cut = padded.unfold(1, self.block, step).unfold(2, self.block, step)
        count = self.grid[0] * self.grid[1]
        frequencies = self.block * (self.block // 2 + 1)
        # One matrix per frequency: (F, B, C).
        self.spectra = torch.empty(
            (frequencies, count, len(channels)), dtype=torch.complex64, device=device
        )
        for channel, blocks in enumerate(cut):
            for row, across in enumerate(blocks):
                spectrum = torch.fft.rfft2(across.to(device)).reshape(self.grid[1], -1)
                at = slice(row * self.grid[1], (row + 1) * self.grid[1])
                self.spectra[:, at, channel] = spectrum.T

    def scores(self, tiles: torch.Tensor) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """Scores of (T, C, S, S) tiles with their centre at each position, part by part.

        Yields:
            Index of the part's first turn, its blocks, and its (t, b, step, step) scores.
        """
        step, b = self.block - self.side, self.block
        for start in range(0, len(tiles), TURNS):
            some = tiles[start : start + TURNS]
            spectrum = torch.fft.rfft2(some, s=(b, b)).conj().flatten(2)
            matrices = spectrum.permute(2, 1, 0).contiguous()
            for first in range(0, self.spectra.shape[1], BLOCKS):
                blocks = slice(first, first + BLOCKS)
                product = torch.bmm(self.spectra[:, blocks], matrices)
                product = product.permute(2, 1, 0).reshape(len(some), -1, b, b // 2 + 1)
                yield start, blocks, torch.fft.irfft2(product, s=(b, b))[..., :step, :step]

    def whole(self, blocks: torch.Tensor) -> torch.Tensor:
        """(B, step, step) values of all blocks -> (rows, columns) of the searched range."""
        step = self.block - self.side
        laid = blocks.reshape(*self.grid, step, step).transpose(1, 2)
        laid = laid.reshape(self.grid[0] * step, self.grid[1] * step)
        return laid[: self.shape[0], : self.shape[1]]


def _block(side: int, channels: int, places: int) -> int:
    """Side of the blocks with the least work: map spectra against tile spectra, cells."""
    sizes = 2 ** np.arange(math.ceil(math.log2(1.5 * side)), math.ceil(math.log2(8 * side)) + 1)
    work = sizes**2 * (channels + np.ceil(places / (sizes - side) ** 2))
    return int(sizes[work.argmin()])
