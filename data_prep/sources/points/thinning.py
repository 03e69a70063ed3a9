"""Large clouds: thinned while they are read, so that memory does not grow with the file.

Of every k consecutive points one is kept, at a pseudo-random position among them: a fixed position
could hit the same beams of a sensor again and again.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.regular import MAX_FILE_BYTES, open_regular
from data_prep.sources.storage.tree import Node, read_node

MOST_POINTS = 1_000_000
"""Largest number of points of a cloud that are kept."""
LARGE_BYTES = 64 << 20
"""Files from this size on are mapped, not read."""

_ROWS = 1_000_000
"""Number of rows that are visited at once."""
_TEXT_BYTES = 8 << 20
"""Number of bytes of text that are visited at once."""

Data = bytes | mmap.mmap
"""The content of a file."""


def content_of(node: Node) -> Data:
    """The content of a file; that of a large one is mapped into memory, not read.

    Raises:
        OSError: It cannot be read.
        MaptileError: It is no regular file, or is too large.
    """
    if not isinstance(node, Path) or node.stat().st_size < LARGE_BYTES:
        return read_node(node)
    with open_regular(node, MAX_FILE_BYTES) as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def kept(count: int) -> NDArray[np.int64] | None:
    """Sorted indices of the points of a cloud of ``count`` that are kept; None: all of them."""
    if count <= MOST_POINTS:
        return None
    every = -(-count // MOST_POINTS)
    number = np.arange(count // every, dtype=np.int64)
    mixed = number.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Knuth's multiplicative hash
    return number * every + ((mixed >> np.uint64(33)) % np.uint64(every)).astype(np.int64)


def rows_kept(data: Data, start: int, dtype: np.dtype[np.void], count: int) -> NDArray[np.void]:
    """The kept ones of ``count`` rows of a table that begins at byte ``start``."""
    chosen = kept(count)
    if chosen is None:
        return np.frombuffer(data, dtype, count, start).copy()
    result = np.empty(len(chosen), dtype)
    for first in range(0, count, _ROWS):
        rows = np.frombuffer(data, dtype, min(_ROWS, count - first), start + first * dtype.itemsize)
        low, high = np.searchsorted(chosen, [first, first + len(rows)])
        result[low:high] = rows[chosen[low:high] - first]
        del rows
        release(data, start + (first + _ROWS) * dtype.itemsize)
    return result


def lines_kept(data: Data, start: int, count: int) -> list[bytes]:
    """The kept ones of ``count`` lines of text from byte ``start`` on, without empty lines.

    Raises:
        ValueError: There are fewer lines.
    """
    chosen = kept(count)
    assert chosen is not None
    result: list[bytes] = []
    at, seen, rest = start, 0, b""
    while seen < count and (block := bytes(data[at : at + _TEXT_BYTES])):
        at += len(block)
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if at >= len(data):
            whole, rest = whole + newline + rest, b""
        lines = [line for line in whole.splitlines() if line and not line.isspace()]
        low, high = np.searchsorted(chosen, [seen, seen + len(lines)])
        result += [lines[i] for i in (chosen[low:high] - seen).tolist()]
        seen += len(lines)
        release(data, at)
    if seen < count:
        raise ValueError(f"fewer than the {count} points in its header: cut short")
    return result


def release(data: Data, stop: int) -> None:
    """Drop the pages of a mapped file before byte ``stop`` from memory."""
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        length = min(stop, len(data)) // mmap.PAGESIZE * mmap.PAGESIZE
        if length:
            data.madvise(mmap.MADV_DONTNEED, 0, length)
