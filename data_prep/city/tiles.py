"""The overlapping tiles of a city. A tile's pose is its 2D offset from the reference tile."""

from __future__ import annotations

import math
from typing import Literal

import geopandas as gpd
import numpy as np
import pydantic
import shapely
from numpy.typing import NDArray

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
    size = round(settings.size_m / raster.resolution)
    if size < 1:
        raise MaptileError(
            f"tiles of {settings.size_m} m are less than a pixel of {raster.resolution} m; "
            "raise tiles.size_m"
        )
    rows, columns = _starts(raster.height, size, settings), _starts(raster.width, size, settings)
    row, column = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    centre = raster.world_from_pixel(np.stack([row, column], -1) + size / 2)
    reference = int(np.argmin(np.linalg.norm(centre - _reference(raster, settings), axis=1)))
    offset = (centre - centre[reference]).astype(np.float32)
    half = size * raster.resolution / 2
    west, south = (centre - half).T
    east, north = (centre + half).T
    return gpd.GeoDataFrame(
        {
            "id": np.arange(len(row)),
            "row": row,
            "col": column,
            "size": size,
            "offset_east": offset[:, 0],
            "offset_north": offset[:, 1],
            "empty": _empty(raster.data, rows, columns, size).ravel(),
        },
        geometry=shapely.box(west, south, east, north),
        crs=raster.crs,
    )


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


def _empty(
    data: NDArray[np.uint8], rows: NDArray[np.int64], columns: NDArray[np.int64], size: int
) -> NDArray[np.bool_]:
    """Return which windows hold no set pixel in any band: (len(rows), len(columns)) bool."""
    width = data.shape[2]
    left, right = np.minimum(columns, width), np.minimum(columns + size, width)
    empty = np.empty((len(rows), len(columns)), np.bool_)
    for index, row in enumerate(rows):
        set_pixels = data[:, row : row + size].any(axis=(0, 1))
        count = np.concatenate([[0], np.cumsum(set_pixels)])
        empty[index] = count[right] == count[left]
    return empty
