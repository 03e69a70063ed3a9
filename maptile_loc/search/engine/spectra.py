"""Correlation of a map's fields with many tiles by FFT, block by block (overlap-save)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len

from maptile_loc.score.fields import LikelihoodFields, in_threads

PART = 2**20
"""Cells that are transformed at a time, so that the work fits the processor's cache."""

ON_GPU = 64
"""On a GPU, that many times as many cells are transformed at a time."""


KEPT_MB = 1024
"""Memory for the spectra of a map's blocks, MB; those beyond it are made for each query."""

TILES_MB = 256
"""Memory for the spectra of the turned tiles, MB."""


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
    """The spectra of a map's fields, block by block, kept for the next query while there is room.

    Args:
        fields: The map's fields, or others on a grid of cells.
        side: Cells along a tile's side.
        rows, columns: Range of positions (cell corners) that are searched, end excluded.
        device: Where to compute.
        allowed: (R, C) bool, the positions that are searched; None: all. Blocks without one are
            left out.

    A block of B x B cells gives (B - side)^2 positions.
    """

    def __init__(
        self,
        fields: LikelihoodFields,
        side: int,
        rows: tuple[int, int],
        columns: tuple[int, int],
        device: torch.device,
        allowed: torch.Tensor | None = None,
    ) -> None:
        self.fields, self.device = fields, device
        self.rows, self.columns, self.side = rows, columns, side
        self.shape = rows[1] - rows[0], columns[1] - columns[0]
        self.block = _block(side, fields.count, self.shape)
        self.step = self.block - side
        self.grid = _grid(self.shape, self.step)
        self.used = self._used(allowed)
        """(K,) numbers of the blocks that are searched, row by row."""
        cells = PART * ON_GPU if device.type == "cuda" else PART
        self.few = max(1, math.isqrt(cells) // self.block)
        """Blocks, and turns, that are correlated at a time."""
        size = self.few * fields.count * (self.block // 2 + 1) * self.block * 8
        self._room = int(KEPT_MB * 1e6 / size)
        self._kept: dict[int, torch.Tensor] = {}

    def _used(self, allowed: torch.Tensor | None) -> torch.Tensor:
        if allowed is None:
            return torch.arange(self.grid[0] * self.grid[1])
        below, right = (
            across * self.step - size for across, size in zip(self.grid, self.shape, strict=True)
        )
        padded = torch.nn.functional.pad(allowed.cpu(), (0, right, 0, below))
        laid = padded.reshape(self.grid[0], self.step, self.grid[1], self.step)
        return torch.nonzero(laid.any(3).any(1).flatten()).flatten()

    def spectra(self, first: int) -> torch.Tensor:
        """(b, C, f, B) spectra of the ``few`` used blocks from number ``first`` on."""
        if first in self._kept:
            return self._kept[first]

        def cut(number: int) -> NDArray[np.float32]:
            row, column = number // self.grid[1], number % self.grid[1]
            top = self.rows[0] - self.side // 2 + row * self.step
            left = self.columns[0] - self.side // 2 + column * self.step
            return self.fields.window(top, left, self.block, self.block)

        cells = in_threads(cut, self.used[first : first + self.few].tolist())
        made = spectra(torch.from_numpy(np.stack(cells)).to(self.device), self.block)
        if len(self._kept) < self._room:
            self._kept[first] = made
        return made

    def scores(self, tiles: torch.Tensor) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """Scores of (T, C, S, S) tiles with their centre at each position, part by part.

        Yields:
            Index of the part's first turn, its blocks among those used, and its (t, b, step, step)
            scores.
        """
        size = self.few * self.fields.count * (self.block // 2 + 1) * self.block * 8
        some = max(1, int(TILES_MB * 1e6 / size)) * self.few
        for begin in range(0, len(tiles), some):
            turned = [
                spectra(part, self.block).conj_physical_()
                for part in torch.split(tiles[begin : begin + some], self.few)
            ]
            for first in range(0, len(self.used), self.few):
                fields = self.spectra(first)
                for number, tile in enumerate(turned):
                    scores = correlated(fields, tile, self.step)
                    yield begin + number * self.few, slice(first, first + self.few), scores

    def whole(self, blocks: torch.Tensor, fill: float) -> torch.Tensor:
        """(K, step, step) values of the used blocks -> (rows, columns) of the searched range.

        Args:
            blocks: The values.
            fill: Value of the other blocks.
        """
        laid = blocks.new_full((self.grid[0] * self.grid[1], self.step, self.step), fill)
        laid[self.used.to(blocks.device)] = blocks
        laid = laid.reshape(*self.grid, self.step, self.step).transpose(1, 2)
        laid = laid.reshape(self.grid[0] * self.step, self.grid[1] * self.step)
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
