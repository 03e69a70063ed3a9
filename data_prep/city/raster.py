"""The map raster of a city. No other module converts between pixels and the map frame.

Row 0 is north. Pixel (row, column) covers [row, row + 1) x [column, column + 1), so its centre is
at +0.5. Bands: 0 building, 1 road, 2 path; values are 0 or 255.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import rasterio
import rasterio.features
import shapely
from numpy.typing import ArrayLike, NDArray
from rasterio.windows import Window

from data_prep.city.pixels import MAX_PIXELS, check_pixels
from data_prep.errors import MaptileError
from data_prep.files import atomic_file
from data_prep.geometry import Array, Projection
from data_prep.progress import Progress, silent, tracked
from data_prep.regular import check_regular

BANDS = ("building", "road", "path")
"""Names of the bands, in the order of a raster's first axis."""
BUILDING = 0
"""Index of the band of buildings."""

ROAD = 1
"""Index of the band of roads."""

PATH = 2
"""Index of the band of paths."""

ATTRIBUTION = "(c) OpenStreetMap contributors, ODbL"
"""The notice that the licence of OpenStreetMap asks for, in every product made of its data."""

_BLOCK = 256
"""Side of a GeoTIFF's internal tiles, pixels."""
_STRIP = 4 * _BLOCK
"""Rows read or written at a time."""
_CACHE_BYTES = 2**28
"""Size of GDAL's block cache."""


@dataclass(frozen=True)
class MapRaster:
    """Rasterised footprints with their georeference.

    Attributes:
        data: (3, H, W) uint8, 0 or 255, bands as in ``BANDS``.
        west, north: Map coordinates of the outer (north-west) corner of pixel (0, 0), metres.
        resolution: Metres per pixel.
        crs: The map frame, a projected CRS in metres.
    """

    data: NDArray[np.uint8] = field(repr=False)
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
        pixels = self.window(top * factor, left * factor, height * factor, width * factor)[band]
        if factor == 1:
            return (pixels / np.float32(255)).astype(np.float32)
        blocks = pixels.reshape(height, factor, width, factor)
        return (blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255)).astype(np.float32)

    def window(self, row: int, column: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return the (3, height, width) pixels whose north-west one is (row, column).

        Pixels beyond the raster's edge are 0. The result may be a view of ``data``.
        """
        bands, rows, columns = self.data.shape
        if 0 <= row <= rows - height and 0 <= column <= columns - width:
            return self.data[:, row : row + height, column : column + width]
        result = np.zeros((bands, height, width), np.uint8)
        top, left = max(row, 0), max(column, 0)
        inner = self.data[:, top : max(row + height, 0), left : max(column + width, 0)]
        top, left = top - row, left - column
        result[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
        return result

    def write(self, path: Path, *, progress: Progress = silent) -> None:
        """Write the raster as a tiled GeoTIFF with named bands, whole or not at all.

        Raises:
            MaptileError: The file cannot be written.
        """
        _write(path, self, BANDS, "uint8", self._rows, progress=progress)

    def _rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        return self.data[:, top:bottom]


def rasterise(
    buildings: gpd.GeoDataFrame,
    roads: gpd.GeoDataFrame,
    bounds: tuple[float, float, float, float],
    resolution: float,
    crs: pyproj.CRS,
) -> MapRaster:
    """Rasterise footprints: a pixel is set if its centre is covered.

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
    data = np.zeros((len(BANDS), height, width), np.uint8)
    raster = MapRaster(data, left * resolution, top * resolution, resolution, crs)
    wide = shapely.buffer(
        roads.geometry.to_numpy(), roads["width"].to_numpy() / 2, cap_style="flat", quad_segs=4
    )
    kind = roads["kind"].to_numpy()
    _burn(data[BUILDING], buildings.geometry.to_numpy(), raster)
    _burn(data[ROAD], wide[kind == "road"], raster)
    _burn(data[PATH], wide[kind == "path"], raster)
    return raster


def write_heights(
    path: Path, buildings: gpd.GeoDataFrame, raster: MapRaster, *, progress: Progress = silent
) -> None:
    """Write the buildings' heights (metres, float32) as a GeoTIFF on the grid of ``raster``.

    A pixel is NaN where there is no building, or only such of unknown height. Where buildings
    overlap, the greatest height counts.

    Raises:
        MaptileError: The file cannot be written.
    """
    known = buildings[buildings["height"].notna()].sort_values("height", kind="stable")
    geometry, heights = known.geometry.to_numpy(), known["height"].to_numpy()
    bounds = shapely.bounds(geometry)

    def rows(top: int, bottom: int) -> NDArray[np.float32]:
        strip = np.full((1, bottom - top, raster.width), np.nan, np.float32)
        north = raster.north - top * raster.resolution
        south = raster.north - bottom * raster.resolution
        inside = (bounds[:, 1] < north) & (bounds[:, 3] > south)
        if inside.any():
            rasterio.features.rasterize(
                zip(geometry[inside], heights[inside], strict=True),
                out=strip[0],
                transform=raster.transform_from(top),
            )
        return strip

    _write(path, raster, ("height",), "float32", rows, nodata=math.nan, progress=progress)


def read_raster(path: Path) -> MapRaster:
    """Read a GeoTIFF with bands named building, road and, optionally, path, in any order.

    A pixel is set (255) where the file's value is above 0.

    Raises:
        MaptileError: The file is not a readable raster, a band is missing, its CRS is not in
            metres, or it is not north-up with square pixels.
    """
    if not path.is_file():
        raise MaptileError(f"{path}: no such file")
    check_regular(path)
    try:
        with (
            rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES),
            rasterio.open(path, num_threads="ALL_CPUS") as file,
        ):
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
            data = np.zeros((len(BANDS), file.height, file.width), np.uint8)
            found = [band for band, name in enumerate(BANDS) if name in names]
            indexes = [names.index(BANDS[band]) + 1 for band in found]
            for top in range(0, file.height, _STRIP):
                rows = Window(0, top, file.width, min(_STRIP, file.height - top))
                data[found, top : top + _STRIP] = file.read(indexes, window=rows) > 0
    except (rasterio.errors.RasterioError, OSError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as a raster: {reason}") from None
    data *= np.uint8(255)
    return MapRaster(data, transform.c, transform.f, transform.a, crs)


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


def _burn(band: NDArray[np.uint8], shapes: NDArray[Any], raster: MapRaster) -> None:
    """Set the pixels of ``band`` whose centres ``shapes`` cover."""
    if len(shapes):
        rasterio.features.rasterize(shapes, out=band, transform=raster.transform, default_value=255)


def _write(
    path: Path,
    raster: MapRaster,
    names: tuple[str, ...],
    dtype: str,
    rows: Callable[[int, int], NDArray[Any]],
    nodata: float | None = None,
    *,
    progress: Progress,
) -> None:
    """Write a GeoTIFF strip by strip; ``rows(top, bottom)`` returns (bands, bottom - top, W)."""
    profile = {
        "driver": "GTiff",
        "dtype": dtype,
        "count": len(names),
        "height": raster.height,
        "width": raster.width,
        "crs": raster.crs.to_wkt(),
        "transform": raster.transform,
        "nodata": nodata,
        "tiled": True,
        "blockxsize": _BLOCK,
        "blockysize": _BLOCK,
        "compress": "ZSTD",
        "zstd_level": 1,
        "interleave": "pixel",
        "num_threads": "ALL_CPUS",
        "bigtiff": "IF_SAFER",
    }
    # GDAL does not report a disk that is full at the end of a file. So it makes the (compressed)
    # file in memory.
    with rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES), rasterio.MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.update_tags(TIFFTAG_COPYRIGHT=ATTRIBUTION, attribution=ATTRIBUTION)
            for index, name in enumerate(names, 1):
                file.set_band_description(index, name)
            tops = range(0, raster.height, _STRIP)
            for top in tracked(tops, f"write {path.name}", len(tops), progress):
                bottom = min(top + _STRIP, raster.height)
                window = Window(0, top, raster.width, bottom - top)
                file.write(rows(top, bottom), window=window)
        with atomic_file(path) as temporary:
            temporary.write_bytes(memory.getbuffer())
