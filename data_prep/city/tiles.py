"""The overlapping tiles of a city. A tile's pose is its 2D offset from the reference tile."""

from __future__ import annotations

import math
from typing import Literal

import geopandas as gpd
import numpy as np
import pydantic
import shapely
from numpy.typing import NDArray

from data_prep.city.pixels import packed
from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.settings import Settings


class TileSettings(Settings):
    """How a city is cut into tiles.

    Attributes:
        size_m: Side of a tile, metres.
        overlap: Overlap of neighbouring tiles, as a fraction of the side.
        reference: The reference tile is the one whose centre is nearest to the map's centre
            (``centre``) or to a latitude, longitude (degrees).
    """

    size_m: float = pydantic.Field(default=96.0, gt=0)
    overlap: float = pydantic.Field(default=0.5, ge=0, lt=1)
    reference: Literal["centre"] | tuple[float, float] = "centre"


class Tiling:
    """The tiles of a map: where they are and, once all pixels were added, which are empty.

    Args:
        raster: The map; its pixels are not read.
        settings: How it is cut.

    Attributes:
        reference: The centre of the reference tile: (2,) east, north, metres, map frame.

    Raises:
        MaptileError: A tile is smaller than a pixel, or the reference lies outside the map.
    """

    def __init__(self, raster: MapRaster, settings: TileSettings) -> None:
        size = round(settings.size_m / raster.resolution)
        if size < 1:
            raise MaptileError(
                f"tiles of {settings.size_m} m are less than a pixel of {raster.resolution} m; "
                "raise tiles.size_m"
            )
        self._raster, self._size = raster, size
        rows = _starts(raster.height, size, settings)
        columns = _starts(raster.width, size, settings)
        self._row, self._column = (a.ravel() for a in np.meshgrid(rows, columns, indexing="ij"))
        corner = np.stack([self._row, self._column], -1)
        self._centre = raster.world_from_pixel(corner + size / 2)
        away = np.linalg.norm(self._centre - _reference(raster, settings), axis=1)
        self.reference = self._centre[int(np.argmin(away))]
        # The edges of all tiles cut the map into pieces; a tile consists of whole pieces.
        self._top, self._bottom, self._row_cuts = _cuts(rows, size, raster.height)
        self._left, self._right, self._column_cuts = _cuts(columns, size, raster.width)
        self._covered = np.zeros((len(self._row_cuts), len(self._column_cuts)), np.uint8)
        self._added = 0

    def add(self, bits: NDArray[np.uint8]) -> None:
        """Add the next rows of pixels, from north: (3, h, ceil(W / 8)), as ``packed``."""
        stop = self._added + bits.shape[1]
        first, last = np.searchsorted(self._row_cuts, [self._added + 1, stop]) - [1, 0]
        cuts = np.maximum(self._row_cuts[first:last] - self._added, 0)
        union = np.bitwise_or.reduceat(np.bitwise_or.reduce(bits, axis=0), cuts, axis=0)
        rows = np.unpackbits(union, axis=1, count=self._raster.width)
        self._covered[first:last] |= np.bitwise_or.reduceat(rows, self._column_cuts, axis=1)
        self._added = stop

    def table(self) -> gpd.GeoDataFrame:
        """The tiles, as ``tile_grid`` returns them."""
        raster, size = self._raster, self._size
        offset = (self._centre - self.reference).astype(np.float32)
        half = size * raster.resolution / 2
        west, south = (self._centre - half).T
        east, north = (self._centre + half).T
        sums = np.pad(np.cumsum(np.cumsum(self._covered > 0, axis=0), axis=1), ((1, 0), (1, 0)))
        inside = (
            sums[self._bottom[:, None], self._right]
            - sums[self._top[:, None], self._right]
            - sums[self._bottom[:, None], self._left]
            + sums[self._top[:, None], self._left]
        )
        return gpd.GeoDataFrame(
            {
                "id": np.arange(len(self._row)),
                "row": self._row,
                "col": self._column,
                "size": size,
                "offset_east": offset[:, 0],
                "offset_north": offset[:, 1],
                "empty": inside.ravel() == 0,
            },
            geometry=shapely.box(west, south, east, north),
            crs=raster.crs,
        )


def tile_grid(raster: MapRaster, settings: TileSettings) -> gpd.GeoDataFrame:
    """Cut ``raster`` into tiles that cover all of it.

    Returns:
        A table with a row per tile, row by row from the north-west corner. Columns: ``id`` (0, 1,
        ...); the window ``row``, ``col``, ``size`` in pixels (the last tiles may reach beyond the
        raster); ``offset_east``, ``offset_north`` (float32, metres), the offset of the tile's
        centre from that of the reference tile; ``empty``, whether no pixel of the tile is set;
        ``geometry``, the tile's square in the map frame.

    Raises:
        MaptileError: A tile is smaller than a pixel, or the reference lies outside the map.
    """
    tiling = Tiling(raster, settings)
    for strip in raster.strips():
        tiling.add(packed(strip))
    return tiling.table()


def reference_centre(raster: MapRaster, tiles: gpd.GeoDataFrame) -> Array:
    """Return the centre of the tile whose offset is 0: (2,) east, north, metres, map frame."""
    tile = tiles[(tiles["offset_east"] == 0) & (tiles["offset_north"] == 0)].iloc[0]
    return raster.world_from_pixel(np.array([tile["row"], tile["col"]]) + tile["size"] / 2)


def _starts(length: int, size: int, settings: TileSettings) -> NDArray[np.int64]:
    """Return the first pixels of the tiles of ``size`` pixels along an axis of ``length``."""
    stride = max(round(size * (1 - settings.overlap)), 1)
    return np.arange(max(math.ceil((length - size) / stride), 0) + 1) * stride


def _reference(raster: MapRaster, settings: TileSettings) -> Array:
    """Return the position next to which the reference tile lies: (2,) east, north, metres."""
    if settings.reference == "centre":
        return raster.centre
    position = raster.projection.forward(*settings.reference)
    if not raster.inside(position):
        latitude, longitude = settings.reference
        raise MaptileError(
            f"tiles.reference {latitude}, {longitude} is outside the map; give a latitude and "
            "longitude inside it"
        )
    return position


def _cuts(
    starts: NDArray[np.int64], size: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut an axis at the edges of its tiles.

    Args:
        starts: First pixel of each tile.
        size: Pixels of a tile.
        length: Pixels of the axis.

    Returns:
        The first piece of each tile, the piece after its last one, and the first pixel of each
        piece.
    """
    edges = np.minimum(np.stack([starts, starts + size]), length)
    cuts, piece = np.unique(edges, return_inverse=True)
    first, last = piece.reshape(edges.shape)
    return first, last, cuts[cuts < length]
