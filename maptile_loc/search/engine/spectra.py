"""Correlation of a map's fields with many tiles by FFT, block by block (overlap-save)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from scipy.fft import next_fast_len

PART = 2**20
"""Cells that are transformed at a time, so that the work fits the processor's cache."""

ON_GPU = 64
"""On a GPU, that many times as many cells are transformed at a time."""


def spectra(images: torch.Tensor, block: int) -> torch.Tensor:
    """Transforms of images that are padded by 0 to ``block`` x ``block`` cells.

    Args:
        images: (..., H, W) float32, H and W at most ``block``.
        block: An even number of cells.

    Returns:
        (..., block // 2 + 1, block) complex64, by the frequencies along the row, then the column.
    """
    return torch.fft.fft(torch.fft.rfft(images, n=block).transpose(-1, -2), n=block)


def correlated(fields: torch.Tensor, tiles: torch.Tensor, count: int) -> torch.Tensor:
    """Correlation of tiles with fields, summed over the channels.

    Args:
        fields: (K, C, f, block) ``spectra`` of K parts of the map.
        tiles: (T, C, f, block) conjugated ``spectra`` of the tiles.
        count: Positions along a part's side that are wanted.

    Returns:
        (T, K, count, count) scores with the tiles' first cell at each of a part's first cells.
    """
    product = fields[:, 0] * tiles[:, None, 0]
    for channel in range(1, fields.shape[1]):
        product.addcmul_(fields[:, channel], tiles[:, None, channel])
    # Only the first positions are wanted of each column, and then of each row.
    columns = torch.fft.ifft(product)[..., :count].transpose(-1, -2)
    return torch.fft.irfft(columns, n=fields.shape[-1])[..., :count]


class Correlator:
    """The spectra of a map's fields, block by block, kept for every query.

    Args:
        channels: (C, H, W) fields.
        side: Cells along a tile's side.
        rows, columns: Range of positions (cell corners) that are searched, end excluded.
        device: Where to compute.

    A block of B x B cells gives (B - side)^2 positions.
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
        self.block = _block(side, len(channels), self.shape)
        step = self.block - side
        self.grid = _grid(self.shape, step)
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
        # (K, C, f, B) of all blocks, row by row.
        self.spectra = torch.empty(
            (self.grid[0] * self.grid[1], len(channels), self.block // 2 + 1, self.block),
            dtype=torch.complex64,
            device=device,
        )
        for number, fields in enumerate(cut.transpose(0, 1)):
            across = slice(number * self.grid[1], (number + 1) * self.grid[1])
            self.spectra[across] = spectra(fields.transpose(0, 1).to(device), self.block)

    def scores(self, tiles: torch.Tensor) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """Scores of (T, C, S, S) tiles with their centre at each position, part by part.

        Yields:
            Index of the part's first turn, its blocks, and its (t, b, step, step) scores.
        """
        cells = PART * ON_GPU if self.spectra.is_cuda else PART
        few = max(1, math.isqrt(cells) // self.block)
        for start in range(0, len(tiles), few):
            some = spectra(tiles[start : start + few], self.block).conj_physical_()
            for first in range(0, len(self.spectra), few):
                blocks = slice(first, first + few)
                yield start, blocks, correlated(self.spectra[blocks], some, self.block - self.side)

    def whole(self, blocks: torch.Tensor) -> torch.Tensor:
        """(B, step, step) values of all blocks -> (rows, columns) of the searched range."""
        step = self.block - self.side
        laid = blocks.reshape(*self.grid, step, step).transpose(1, 2)
        laid = laid.reshape(self.grid[0] * step, self.grid[1] * step)
        return laid[: self.shape[0], : self.shape[1]]


def _grid(shape: tuple[int, int], step: int) -> tuple[int, int]:
    """Rows and columns of blocks of ``step`` positions per side that cover ``shape``."""
    return math.ceil(shape[0] / step), math.ceil(shape[1] / step)


def _block(side: int, channels: int, shape: tuple[int, int]) -> int:
    """Side of the blocks with the least work, cells: a size whose transform is fast.

    The work per cell of a block is a product per channel and two transforms, which take as long as
    about six of them; a tile's own transforms take five per channel.
    """
    most = 8 * side + 16
    sizes = [size for size in range(16, most + 1, 16) if next_fast_len(size, real=True) == size]

    def work(size: int) -> float:
        rows, columns = _grid(shape, size - side)
        return size**2 * (5 * channels + rows * columns * (channels + 6))

    return min((size for size in sizes if size >= 1.5 * side), key=work)
