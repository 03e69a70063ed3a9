"""The map raster of a city. No other module converts between pixels and the map frame.

Row 0 is north. Pixel (row, column) covers [row, row + 1) x [column, column + 1), so its centre is
at +0.5. Bands: 0 building, 1 road, 2 path; values are 0 or 255.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from numpy.typing import ArrayLike, NDArray

from data_prep.city.blocks.writing import Seen, write_tiff
from data_prep.city.geotiff import (
    STRIP,
    Layout,
    TiffPixels,
    has_blocks,
    open_tiff,
)
from data_prep.city.pixels import MAX_PIXELS, Pixels
from data_prep.errors import MaptileError
from data_prep.geometry import Array, Projection
from data_prep.progress import Progress, silent, tracked
from data_prep.regular import check_regular

BANDS = ("building", "road", "path")
"""Names of the bands, in the order of a raster's first axis."""
ATTRIBUTION = "(c) OpenStreetMap contributors, ODbL"
"""The notice that the licence of OpenStreetMap asks for, in every product made of its data."""

BUILDING = 0
"""Index of the band of buildings."""

ROAD = 1
"""Index of the band of roads."""

PATH = 2
"""Index of the band of paths."""


FAR_M = 50_000.0
"""Positions that are farther from the map than this are not of its region, metres."""

_MANY_PIXELS = 2**25
"""Larger windows are reduced by overviews."""


@dataclass(frozen=True)
class MapRaster:
    """Rasterised footprints with their georeference.

    Attributes:
        data: (3, H, W) uint8, 0 or 255, bands as in ``BANDS``: an array, or ``Pixels`` that are
            read when they are indexed. ``window`` reads a part of either.
        west, north: Map coordinates of the outer (north-west) corner of pixel (0, 0), metres.
        resolution: Metres per pixel.
        crs: The map frame, a projected CRS in metres.
    """

    data: NDArray[np.uint8] | Pixels = field(repr=False)
    west: float
    north: float
    resolution: float
    crs: pyproj.CRS

    @property
    def height(self) -> int:
        """Number of rows, H."""
        return int(self.data.shape[1])

    @property
    def width(self) -> int:
        """Number of columns, W."""
        return int(self.data.shape[2])

    @property
    def east(self) -> float:
        """East coordinate of the eastern edge, metres."""
        return self.west + self.width * self.resolution

    @property
    def south(self) -> float:
        """North coordinate of the southern edge, metres."""
        return self.north - self.height * self.resolution

    @property
    def centre(self) -> Array:
        """(2,) east, north of the raster's centre, metres."""
        return np.array([(self.west + self.east) / 2, (self.south + self.north) / 2])

    @property
    def area_km2(self) -> float:
        """Area of the whole raster, square kilometres."""
        return self.height * self.width * self.resolution**2 / 1e6

    @property
    def transform(self) -> rasterio.Affine:
        """Affine transform from continuous (column, row) to (east, north), as in GDAL."""
        return self.transform_from(0)

    def transform_from(self, row: int) -> rasterio.Affine:
        """Return the ``transform`` of the part of the raster that begins at ``row``."""
        north = self.north - row * self.resolution
        return rasterio.Affine(self.resolution, 0, self.west, 0, -self.resolution, north)

    @cached_property
    def projection(self) -> Projection:
        """Conversion between the map frame and latitude, longitude."""
        return Projection(self.crs)

    @cached_property
    def convergence(self) -> float:
        """Meridian convergence at the centre (radians): grid heading = true heading + this."""
        latitude, longitude = self.projection.inverse(self.centre)
        return float(self.projection.convergence(latitude, longitude))

    def pixel_from_world(self, east_north: ArrayLike) -> Array:
        """Convert (..., 2) east, north (metres, map frame) to (..., 2) continuous row, column."""
        xy = np.asarray(east_north, np.float64)
        return np.stack(
            [
                (self.north - xy[..., 1]) / self.resolution,
                (xy[..., 0] - self.west) / self.resolution,
            ],
            axis=-1,
        )

    def world_from_pixel(self, row_column: ArrayLike) -> Array:
        """Convert (..., 2) continuous row, column to (..., 2) east, north (metres, map frame)."""
        rc = np.asarray(row_column, np.float64)
        return np.stack(
            [self.west + rc[..., 1] * self.resolution, self.north - rc[..., 0] * self.resolution],
            axis=-1,
        )

    def inside(self, east_north: ArrayLike, margin_m: float = 0.0) -> NDArray[np.bool_]:
        """Return which positions are at least ``margin_m`` metres inside the raster's edge.

        Args:
            east_north: (..., 2) metres, map frame; NaN counts as outside.
            margin_m: Least distance from the edge, metres.

        Returns:
            (...) bool.
        """
        xy = np.asarray(east_north, np.float64)
        return (
            (xy[..., 0] >= self.west + margin_m)
            & (xy[..., 0] <= self.east - margin_m)
            & (xy[..., 1] >= self.south + margin_m)
            & (xy[..., 1] <= self.north - margin_m)
        )

    def far_from(self, latitude: Array, longitude: Array) -> bool:
        """Return whether positions are known, and each is more than ``FAR_M`` off the map.

        Args:
            latitude: (N,) degrees, WGS 84; NaN where unknown.
            longitude: (N,) likewise.
        """
        known = np.isfinite(latitude) & np.isfinite(longitude)
        places = self.projection.forward(latitude[known], longitude[known])
        return bool(known.any()) and not self.inside(places, -FAR_M).any()

    def coverage(
        self,
        band: int,
        resolution: float,
        rows: slice = slice(None),
        columns: slice = slice(None),
    ) -> NDArray[np.float32]:
        """Return the covered fraction of each cell of a coarser grid, for one band.

        Args:
            band: Index of the band.
            resolution: Side of a cell, metres: k times the raster's own, k a whole number.
            rows: The rows of the grid that are wanted, a slice of step 1.
            columns: Its columns, likewise.

        Returns:
            The part of a (ceil(H / k), ceil(W / k)) float32 array in 0..1. Pixels beyond the edge
            count as not covered.

        Raises:
            MaptileError: k is not a whole number.
        """
        factor = round(resolution / self.resolution)
        if abs(factor * self.resolution - resolution) > 1e-6 * resolution:
            raise MaptileError(
                f"{resolution:g} m is no whole multiple of the map's {self.resolution:g} m per "
                "pixel; choose another resolution, or prepare the city with one that fits"
            )
        top, bottom, _ = rows.indices(-(-self.height // factor))
        left, right, _ = columns.indices(-(-self.width // factor))
        height, width = max(bottom - top, 0), max(right - left, 0)
        inside = top * factor, left * factor, height * factor, width * factor
        pixels = self._read(slice(band, band + 1), *inside)[0]
        if factor == 1:
            return (pixels / np.float32(255)).astype(np.float32)
        blocks = pixels.reshape(height, factor, width, factor)
        return (blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255)).astype(np.float32)

    def window(self, row: int, column: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the (3, height, width) pixels whose north-west one is (row, column).

        Pixels beyond the raster's edge are 0. The result may be a view of ``data``. Threads may
        read at the same time.

        Raises:
            MaptileError: A file that is read is damaged, or was replaced while it is in use.
        """
        return self._read(slice(None), row, column, height, width)

    def _read(
        self, bands: slice, row: int, column: int, height: int, width: int
    ) -> NDArray[np.uint8]:
        """The pixels of ``window``, of some bands."""
        if 0 <= row <= self.height - height and 0 <= column <= self.width - width:
            return self.data[bands, row : row + height, column : column + width]
        top, left = max(row, 0), max(column, 0)
        inner = self.data[bands, top : max(row + height, 0), left : max(column + width, 0)]
        result = np.zeros((len(inner), height, width), np.uint8)
        top, left = top - row, left - column
        result[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
        return result

    def strips(self) -> Iterator[NDArray[np.uint8]]:
        """Yield all pixels, a (3, h, W) strip of at most ``STRIP`` rows at a time, from north."""
        for top in range(0, self.height, STRIP):
            yield self.window(top, 0, min(STRIP, self.height - top), self.width)

    def reduced(
        self,
        row: int,
        column: int,
        height: int,
        width: int,
        factor: int,
        progress: Progress = silent,
    ) -> NDArray[np.uint8]:
        """Return 255 times the covered share of each block of pixels of a window.

        Args:
            row: Of the window's north-west pixel.
            column: Of that pixel.
            height: Rows of the window.
            width: Columns of the window.
            factor: Side of a block, pixels.
            progress: Called after each strip, where the pixels are read.

        Returns:
            (3, ceil(height / factor), ceil(width / factor)) uint8. Pixels beyond the window count
            as not covered. Overviews of a city's map are used for large windows: they blur edges by
            a part of a block.
        """
        whole = height - height % factor, width - width % factor
        inside = 0 <= row <= self.height - whole[0] and 0 <= column <= self.width - whole[1]
        inside &= height * width > _MANY_PIXELS
        if isinstance(self.data, TiffPixels) and self.data.shares and inside and all(whole):
            found = self.data.read_shares(row, column, *whole, factor)
            edge = height - whole[0], width - whole[1]
            right = self._means(row, column + whole[1], whole[0], edge[1], factor)
            below = self._means(row + whole[0], column, edge[0], width, factor)
            return np.concatenate([np.concatenate([found, right], axis=2), below], axis=1)
        return self._means(row, column, height, width, factor, progress)

    def _means(
        self,
        row: int,
        column: int,
        height: int,
        width: int,
        factor: int,
        progress: Progress = silent,
    ) -> NDArray[np.uint8]:
        """As ``reduced``, from the pixels."""
        result = np.zeros((len(BANDS), -(-height // factor), -(-width // factor)), np.uint8)
        rows = max(STRIP // factor, 1)
        starts = range(0, result.shape[1] if width else 0, rows)
        for start in tracked(starts, "reduce map", len(starts), progress):
            top, count = start * factor, min(rows, result.shape[1] - start)
            strip = self.window(row + top, column, min(count * factor, height - top), width)
            spare = (0, 0), (0, -strip.shape[1] % factor), (0, -width % factor)
            blocks = np.pad(strip, spare).reshape(len(BANDS), count, factor, -1, factor)
            result[:, start : start + count] = np.round(blocks.mean(axis=(2, 4), dtype=np.float32))
        return result

    def write(
        self,
        path: Path,
        *,
        seen: Seen | None = None,
        progress: Progress = silent,
    ) -> None:
        """Write the raster as a tiled GeoTIFF with named bands and overviews, whole or not at all.

        Args:
            path: The file.
            seen: Called with each strip of pixels, as of ``strips``, but ``packed``.
            progress: Called after each strip.

        Raises:
            MaptileError: The file cannot be written.
        """

        def rows(top: int, bottom: int) -> NDArray[np.uint8]:
            return self.window(top, 0, bottom - top, self.width)

        write_tiff(path, self.layout(BANDS, "uint8", overviews=True), rows, progress, seen)

    def layout(
        self,
        names: tuple[str, ...],
        dtype: str,
        nodata: float | None = None,
        overviews: bool = False,
    ) -> Layout:
        """Return the layout of a file on this raster's grid."""
        where = self.height, self.width, self.crs, self.transform
        return Layout(names, dtype, *where, ATTRIBUTION, nodata, overviews)


def read_raster(path: Path, *, is_whole: bool = False) -> MapRaster:
    """Open a GeoTIFF with bands named building, road and, optionally, path, in any order.

    Its pixels are read when they are needed; they are set (255) where the file's value is above 0.

    Args:
        path: The file.
        is_whole: Whether the caller makes sure that the file was not cut off.

    Raises:
        MaptileError: The file is not a readable raster, a band is missing, its CRS is not in
            metres, or it is not north-up with square pixels.
    """
    if not path.is_file():
        raise MaptileError(f"{path}: no such file")
    check_regular(path)
    with open_tiff(path) as file:
        names = [(name or "").lower() for name in file.descriptions]
        missing = [name for name in BANDS[:2] if name not in names]
        if missing:
            raise MaptileError(
                f"{path}: no band named {' or '.join(missing)} (bands: "
                f"{', '.join(name or '?' for name in names)}); name the bands building, road "
                "and path"
            )
        crs, transform = _crs(path, file.crs), file.transform
        if file.width * file.height > MAX_PIXELS:
            raise MaptileError(
                f"{path}: {file.width} x {file.height} pixels do not fit into memory; cut it "
                "to the city (gdalwarp -te)"
            )
        square = math.isclose(transform.a, -transform.e, rel_tol=1e-6) and transform.a > 0
        square = square and math.isfinite(transform.c) and math.isfinite(transform.f)
        if not square or transform.b or transform.d:
            raise MaptileError(f"{path}: not north-up with square pixels; use gdalwarp first")
        indexes = tuple(names.index(name) + 1 if name in names else None for name in BANDS)
        own = file.tags().get("attribution") == ATTRIBUTION and None not in indexes
        shares = own and set(file.dtypes) == {"uint8"}
        if not is_whole and not has_blocks(file, path):
            raise MaptileError(f"{path}: not readable as a raster: cut off; copy it again")
        pixels = TiffPixels(path, (len(BANDS), file.height, file.width), indexes, shares)
    return MapRaster(pixels, transform.c, transform.f, transform.a, crs)


def _crs(path: Path, crs: Any) -> pyproj.CRS:
    """Return the CRS of a raster file, which must be projected and in metres."""
    if crs is None or not crs.is_projected or crs.linear_units_factor[1] != 1.0:
        raise MaptileError(
            f"{path}: its coordinates are not in metres; reproject it to its UTM zone first "
            "(gdalwarp -t_srs)"
        )
    found = pyproj.CRS.from_user_input(crs)
    # Of a system with heights, or with a shift of its datum, the horizontal part counts.
    found = found.source_crs if found.is_bound and found.source_crs else found
    return found.sub_crs_list[0] if found.is_compound else found
