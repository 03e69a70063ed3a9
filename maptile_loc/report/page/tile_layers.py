"""Query tiles as the replay shows them under the vehicle: small pictures."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maptile_loc.small_tiles import small_tiles
from maptile_loc.types import Localization

SHADE = 20
"""Brightness of a picture per code of a small tile."""


def tile_layers(found: Localization) -> dict[str, Any]:
    """Return the small tiles of a result, in the order of their queries.

    Returns:
        ``side_m``, and ``each``: ``query``, ``rotation_deg`` and ``src`` (a ``data:`` address of a
        picture whose brightness is ``SHADE`` times the code of ``SmallTiles``) of every tile.
    """
    tiles = found.small_tiles or small_tiles(found.tiles)
    if tiles is None:
        return {"side_m": 0, "each": []}
    angles = np.degrees(tiles.rotation).round(3).tolist()
    each = [
        {
            "query": query,
            "rotation_deg": angle,
            "src": grey_png(codes * np.uint8(SHADE)),
        }
        for query, angle, codes in zip(tiles.query.tolist(), angles, tiles.codes, strict=True)
    ]
    return {"side_m": tiles.side_m, "each": each}


def grey_png(grey: NDArray[np.uint8]) -> str:
    """Return (H, W) grey values as a ``data:`` address that holds a PNG.

    It is written here since a drive has thousands of them, and a general writer takes 30 times as
    long. Source: the PNG specification, ISO/IEC 15948.
    """
    height, width = grey.shape
    rows = np.pad(grey, ((0, 0), (1, 0))).tobytes()  # each row begins with its filter: none

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 6)), chunk(b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
