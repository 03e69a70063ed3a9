"""Small pictures of a drive's query tiles, for its replay: one byte per pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.types import QueryTile

PIXELS = 128
"""Largest number of pixels along a side."""
KEPT = 2000
"""Small tiles that are kept of a drive, at most: beyond that, every second one is left out."""
UNOBSERVED = 0
"""Code of a pixel that was not observed."""
FREE = 1
"""Code of a pixel that a ray crossed."""
GROUND = 2
"""Code of ground."""
ROAD = 3
"""Code of road surface; larger codes are walls."""
WALL_SHADES = 7
"""Codes of walls: ``ROAD`` + 1 is the faintest, ``ROAD`` + 7 the clearest."""
CLEAR_WALL = 2 / 3
"""Wall evidence from which on a wall is drawn as the clearest."""


@dataclass(frozen=True, eq=False)
class SmallTiles:
    """Query tiles of a drive, reduced.

    Attributes:
        query: (N,) int64, numbers of the queries, increasing.
        codes: (N, S, S) uint8, ``UNOBSERVED``, ``FREE``, ``GROUND``, ``ROAD``, or a wall.
        rotation: (N,) float64, as in ``QueryTile``, radians.
        side_m: Side of a tile, metres.
    """

    query: NDArray[np.int64]
    codes: NDArray[np.uint8]
    rotation: Array
    side_m: float


class SmallPicture(NamedTuple):
    """One query tile, reduced.

    Attributes:
        codes: (S, S) uint8, as of ``SmallTiles``.
        rotation: As in ``QueryTile``, radians.
        side_m: Side of the tile, metres.
    """

    codes: NDArray[np.uint8]
    rotation: float
    side_m: float


class SmallTileStore:
    """Collects the small tiles of a drive; its size does not grow with the drive."""

    def __init__(self) -> None:
        self._pictures: dict[int, SmallPicture] = {}
        self._every = 1

    def add(self, query: int, picture: SmallPicture) -> None:
        """Keep a query's tile, unless too many of the drive are kept already."""
        if query % self._every:
            return
        self._pictures[query] = picture
        if len(self._pictures) > KEPT:
            self._every *= 2
            self._pictures = {q: one for q, one in self._pictures.items() if q % self._every == 0}

    def tiles(self) -> SmallTiles | None:
        """What is kept; None where there is nothing."""
        if not self._pictures:
            return None
        query = np.array(sorted(self._pictures), np.int64)
        pictures = [self._pictures[q] for q in query.tolist()]
        codes = np.stack([one.codes for one in pictures])
        rotation = np.array([one.rotation for one in pictures], np.float64)
        return SmallTiles(query, codes, rotation, pictures[-1].side_m)


def small_tiles(tiles: dict[int, QueryTile]) -> SmallTiles | None:
    """Reduce query tiles, by number of the query; None where there is none."""
    store = SmallTileStore()
    for query, tile in tiles.items():
        store.add(query, small_picture(tile))
    return store.tiles()


def small_picture(tile: QueryTile) -> SmallPicture:
    """Reduce one query tile."""
    return SmallPicture(tile_codes(tile), tile.rotation, tile.size * tile.resolution)


def tile_codes(tile: QueryTile) -> NDArray[np.uint8]:
    """Return (S, S) codes of a query tile: of a pixel's parts, the clearest wall counts."""
    factor = 1
    while tile.size // factor > PIXELS and tile.size % (2 * factor) == 0:
        factor *= 2
    small = tile.size // factor

    def blocks(channel: NDArray[np.float32]) -> NDArray[np.float32]:
        return channel.reshape(small, factor, small, factor)

    codes = np.full((small, small), UNOBSERVED, np.uint8)
    codes[blocks(tile.observed).mean(axis=(1, 3)) >= 0.5] = FREE
    codes[blocks(tile.ground).mean(axis=(1, 3)) >= 0.5] = GROUND
    if tile.road is not None:
        codes[blocks(tile.road).mean(axis=(1, 3)) >= 0.5] = ROAD
    share = np.clip(blocks(tile.wall).max(axis=(1, 3)) / CLEAR_WALL, 0, 1)
    shade = np.round(share * WALL_SHADES).astype(np.uint8)
    return np.where(shade > 0, ROAD + shade, codes)
