"""The blocks of a BigTIFF as they are in the file: compressed, each with its offset and size."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

TILE_OFFSETS = 324
"""The tag with the offsets of the blocks."""
TILE_SIZES = 325
"""The tag with their sizes."""
TYPES = {3: "<u2", 4: "<u4", 16: "<u8"}
"""The types of values that these tags have, as numpy names them."""

ENTRY = struct.Struct("<HHQQ")
"""An entry of the directory: the tag, the type and the number of its values, and where they are."""
VALUE_BYTES = 8
"""Values that take no more bytes stand in the entry itself."""
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 16: 8}
"""Bytes of a value of each type."""

SUBFILE = 254
"""The tag that says what an image is for."""
REDUCED = 1
"""Its value for a smaller version of another image."""
DESCRIBING = frozenset({*range(256, 260), 262, 277, 284, 317, *range(322, 326), 338, 339})
"""The tags that say how an image's pixels are stored."""
WORD = struct.Struct("<Q")
"""An offset, or the number of a directory's entries."""
FIRST = 8
"""Where the offset of the first directory stands."""


class Blocks(NamedTuple):
    """Where the blocks of a file's first image are; parts of the file's content.

    Attributes:
        offset: (B,) bytes from the start of the file, row by row of blocks; 0 for one that is left
            out.
        size: (B,) bytes.
    """

    offset: NDArray[Any]
    size: NDArray[Any]


class _Entry(NamedTuple):
    """An entry of a directory.

    Attributes:
        tag: What it states.
        kind: The type of its values.
        length: Their number.
        value: The values themselves, or where they are: bytes from the start of the file.
    """

    tag: int
    kind: int
    length: int
    value: int

    @property
    def inline(self) -> bool:
        """Whether the values stand in the entry."""
        return SIZES[self.kind] * self.length <= VALUE_BYTES


def _entries(content: bytes | bytearray) -> Iterator[tuple[_Entry, int]]:
    """The entries of the first directory of a BigTIFF's content, and where their values are."""
    first = WORD.unpack_from(content, FIRST)[0]
    for number in range(WORD.unpack_from(content, first)[0]):
        at = first + WORD.size + number * ENTRY.size
        entry = _Entry(*ENTRY.unpack_from(content, at))
        yield entry, at + ENTRY.size - VALUE_BYTES if entry.inline else entry.value


def blocks_of(content: bytes | bytearray) -> Blocks:
    """The blocks of the content of a little-endian BigTIFF, as GDAL writes it.

    Where ``content`` can be written, so can the arrays, and they change it.
    """
    found = {
        one.tag: np.frombuffer(content, TYPES[one.kind], one.length, at)
        for one, at in _entries(content)
        if one.tag in (TILE_OFFSETS, TILE_SIZES)
    }
    return Blocks(found[TILE_OFFSETS], found[TILE_SIZES])


def append_overview(file: BinaryIO, overview: bytes) -> None:
    """Append the first image of a BigTIFF to another one, as its next coarser overview.

    Args:
        file: The other one, open for reading and writing.
        overview: The content of the first one, as GDAL writes it, with all its blocks.
    """
    base, moved = _padded(file), bytearray(overview)
    offset = blocks_of(moved).offset
    offset += np.uint64(base)
    entries = [ENTRY.pack(SUBFILE, 4, 1, REDUCED)]
    for one, _ in _entries(moved):
        if one.tag in DESCRIBING:
            value = one.value if one.inline else one.value + base
            entries.append(ENTRY.pack(one.tag, one.kind, one.length, value))
    file.write(moved)
    directory = _padded(file)
    file.write(WORD.pack(len(entries)) + b"".join(entries) + WORD.pack(0))
    # The last directory before this one leads to it.
    at = FIRST
    while following := _word(file, at):
        at = following + WORD.size + _word(file, following) * ENTRY.size
    file.seek(at)
    file.write(WORD.pack(directory))


def _padded(file: BinaryIO) -> int:
    """The end of a file, after padding it to whole words."""
    end = file.seek(0, 2)
    return end + file.write(bytes(-end % WORD.size))


def _word(file: BinaryIO, at: int) -> int:
    file.seek(at)
    return int(WORD.unpack(file.read(WORD.size))[0])
