"""Footprints burnt into the pixels of a map, strip by strip."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray

from data_prep.city.blocks.shared import write_shared
from data_prep.city.blocks.writing import Seen, write_tiff
from data_prep.city.geotiff import STRIP
from data_prep.city.pixels import Pixels, check_pixels
from data_prep.city.raster import BANDS, MapRaster
from data_prep.cluster import Workers
from data_prep.progress import Progress, silent


class Burnt(Pixels):
    """Pixels that are burnt when they are read: 255 where a shape covers the pixel's centre.

    Args:
        shapes: Of each band, polygons in the map frame.
        shape: Bands, rows and columns.
        west: East coordinate of the western edge, metres.
        north: North coordinate of the northern edge, metres.
        resolution: Metres per pixel.
    """

    def __init__(
        self,
        shapes: Iterable[NDArray[Any]],
        shape: tuple[int, int, int],
        west: float,
        north: float,
        resolution: float,
    ) -> None:
        self.shape = shape
        self.west, self.north, self.resolution = west, north, resolution
        self._shapes = [_RowIndex(one) for one in shapes]

    def read(
        self, bands: range, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """As ``Pixels.read``. Whole rows are burnt, so that pixels do not depend on the window."""
        result = np.zeros((len(bands), height, self.shape[2]), np.uint8)
        for top in range(0, height, STRIP):
            strip = result[:, top : top + STRIP]
            north = self.north - (row + top) * self.resolution
            south = north - strip.shape[1] * self.resolution
            transform = rasterio.Affine(self.resolution, 0, self.west, 0, -self.resolution, north)
            for out, band in zip(strip, bands, strict=True):
                shapes = self._shapes[band].between(south, north)
                if shapes:
                    rasterio.features.rasterize(
                        shapes, out=out, transform=transform, default_value=255
                    )
        return result[:, :, column : column + width]

    def rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """(bands, bottom - top, columns) the pixels of some rows."""
        return self.read(range(self.shape[0]), top, 0, bottom - top, self.shape[2])

    def reaching(self, top: int, bottom: int) -> Burnt:
        """The same raster with only those shapes that reach into some rows."""
        shapes = [
            index.only(self.north, self.resolution, top, bottom).shapes for index in self._shapes
        ]
        return Burnt(shapes, self.shape, self.west, self.north, self.resolution)


class BurntHeights:
    """Heights of buildings that are burnt when rows are needed: metres, NaN where none is known.

    Args:
        index: The buildings' shapes and heights; where they overlap, the last one counts.
        width: Columns.
        west: East coordinate of the western edge, metres.
        north: North coordinate of the northern edge, metres.
        resolution: Metres per pixel.
    """

    def __init__(
        self, index: _RowIndex, width: int, west: float, north: float, resolution: float
    ) -> None:
        self.index, self.width = index, width
        self.west, self.north, self.resolution = west, north, resolution

    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        """(1, bottom - top, columns) the pixels of some rows."""
        strip = np.full((1, bottom - top, self.width), np.nan, np.float32)
        north, south = (self.north - row * self.resolution for row in (top, bottom))
        found = self.index.between(south, north)
        if found:
            transform = rasterio.Affine(self.resolution, 0, self.west, 0, -self.resolution, north)
            rasterio.features.rasterize(found, out=strip[0], transform=transform)
        return strip

    def reaching(self, top: int, bottom: int) -> BurntHeights:
        """The same with only those buildings that reach into some rows."""
        index = self.index.only(self.north, self.resolution, top, bottom)
        return BurntHeights(index, self.width, self.west, self.north, self.resolution)


class _RowIndex:
    """An index of shapes by their extent from south to north.

    Args:
        shapes: The shapes.
        values: A value of each, if any.
    """

    def __init__(self, shapes: NDArray[Any], values: NDArray[Any] | None = None) -> None:
        self.shapes, self.values = shapes, values
        bounds = shapely.bounds(shapes)
        self._south, self._north = bounds[:, 1], bounds[:, 3]

    def between(self, south: float, north: float) -> list[Any]:
        """Shapes, or pairs of a shape and its value, that reach between two coordinates."""
        found = self._found(south, north)
        shapes = self.shapes[found].tolist()
        return shapes if self.values is None else list(zip(shapes, self.values[found], strict=True))

    def only(self, edge: float, resolution: float, top: int, bottom: int) -> _RowIndex:
        """Those that reach into rows of a raster with a northern edge, and one row beyond."""
        found = self._found(edge - (bottom + 1) * resolution, edge - (top - 1) * resolution)
        return _RowIndex(self.shapes[found], None if self.values is None else self.values[found])

    def _found(self, south: float, north: float) -> NDArray[np.intp]:
        return np.flatnonzero((self._south <= north) & (self._north >= south))


def burnt(
    buildings: gpd.GeoDataFrame,
    roads: gpd.GeoDataFrame,
    bounds: tuple[float, float, float, float],
    resolution: float,
    crs: pyproj.CRS,
) -> MapRaster:
    """Return a raster of footprints: a pixel is set if its centre is covered.

    The pixels are burnt when they are read, whole rows of them.

    Args:
        buildings: Polygons in ``crs``.
        roads: Lines in ``crs`` with columns ``width`` (metres) and ``kind`` (``road``, ``path``).
        bounds: West, south, east, north in ``crs``, metres; grown outwards to whole pixels, whose
            edges are multiples of ``resolution``.
        resolution: Metres per pixel.
        crs: The map frame.

    Raises:
        MaptileError: The raster would be too large.
    """
    west, south, east, north = bounds
    left, top = math.floor(west / resolution), math.ceil(north / resolution)
    width = math.ceil(east / resolution) - left
    height = top - math.floor(south / resolution)
    check_pixels("the map", width, height, resolution)
    wide = shapely.buffer(
        roads.geometry.to_numpy(), roads["width"].to_numpy() / 2, cap_style="flat", quad_segs=4
    )
    kind = roads["kind"].to_numpy()
    shapes = buildings.geometry.to_numpy(), wide[kind == "road"], wide[kind == "path"]
    corner = left * resolution, top * resolution, resolution
    return MapRaster(Burnt(shapes, (len(BANDS), height, width), *corner), *corner, crs)


def rasterise(
    buildings: gpd.GeoDataFrame,
    roads: gpd.GeoDataFrame,
    bounds: tuple[float, float, float, float],
    resolution: float,
    crs: pyproj.CRS,
) -> MapRaster:
    """Return ``burnt`` footprints as pixels in memory."""
    raster = burnt(buildings, roads, bounds, resolution, crs)
    return replace(raster, data=np.asarray(raster.data))


def write_heights(
    path: Path,
    buildings: gpd.GeoDataFrame,
    raster: MapRaster,
    *,
    workers: Workers | None = None,
    progress: Progress = silent,
) -> None:
    """Write the buildings' heights (metres, float32) as a GeoTIFF on the grid of ``raster``.

    A pixel is NaN where there is no building, or only such of unknown height. Where buildings
    overlap, the greatest height counts.

    Args:
        path: The file.
        buildings: A building table.
        raster: The map.
        workers: They burn the strips; None: this process does.
        progress: Called after each strip.

    Raises:
        MaptileError: The file cannot be written.
    """
    known = buildings[buildings["height"].notna()].sort_values("height", kind="stable")
    index = _RowIndex(known.geometry.to_numpy(), known["height"].to_numpy())
    burning = BurntHeights(index, raster.width, raster.west, raster.north, raster.resolution)
    layout = raster.layout(("height",), "float32", nodata=math.nan)
    if workers is None or workers.alone:
        write_tiff(path, layout, burning.rows, progress)
    else:
        write_shared(path, layout, burning, workers, None, progress)


def write_map(
    path: Path, raster: MapRaster, seen: Seen, workers: Workers, progress: Progress = silent
) -> None:
    """Write a map as ``MapRaster.write``; what is burnt is burnt by the workers.

    Args:
        path: The file.
        raster: The map.
        seen: Called with each strip of pixels, from north, as ``packed``.
        workers: The workers.
        progress: Called after each strip.

    Raises:
        MaptileError: The file cannot be written.
    """
    if workers.alone or not isinstance(raster.data, Burnt):
        raster.write(path, seen=seen, progress=progress)
        return
    layout = raster.layout(BANDS, "uint8", overviews=True)
    write_shared(path, layout, raster.data, workers, seen, progress)
