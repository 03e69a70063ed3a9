"""The blocks of a BigTIFF as they are in the file: compressed, each with its offset and size."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

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


class Blocks(NamedTuple):
    """Where the blocks of a file's first image are; parts of the file's content.

    Attributes:
        offset: (B,) bytes from the start of the file, row by row of blocks; 0 for one that is left
            out.
        size: (B,) bytes.
    """

    offset: NDArray[Any]
    size: NDArray[Any]


def blocks_of(content: bytes | bytearray) -> Blocks:
    """The blocks of the content of a little-endian BigTIFF, as GDAL writes it.

    Where ``content`` can be written, so can the arrays, and they change it.
    """
    first = int(np.frombuffer(content, "<u8", 1, 8)[0])
    count = int(np.frombuffer(content, "<u8", 1, first)[0])
    found = {}
    for number in range(count):
        entry = first + 8 + number * ENTRY.size
        tag, kind, length, value = ENTRY.unpack_from(content, entry)
        if tag in (TILE_OFFSETS, TILE_SIZES):
            values = np.dtype(TYPES[kind])
            inline = values.itemsize * length <= VALUE_BYTES
            at = entry + ENTRY.size - VALUE_BYTES if inline else value
            found[tag] = np.frombuffer(content, values, length, at)
    return Blocks(found[TILE_OFFSETS], found[TILE_SIZES])
