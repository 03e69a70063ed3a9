"""The map raster of a city: the only place that knows the pixels' georeference.

Row 0 is north; pixel (row, column) covers [row, row + 1) x [column, column + 1), so its centre is at
+0.5. Bands: 0 building, 1 road, 2 path; 0 or 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray

from data_prep.geometry import Array, Projection

BANDS = ("building", "road", "path")
BUILDING, ROAD, PATH = range(3)
ATTRIBUTION = "(c) OpenStreetMap contributors, ODbL"


@dataclass(frozen=True)
class MapRaster:
    """Burnt footprints with their georeference.

    Attributes:
        data: (3, H, W) uint8, 0 or 255, bands as in ``BANDS``.
        west, north: World coordinates of the outer corner of pixel (0, 0), metres.
        resolution: Metres per pixel.
        crs: The map frame.
    """

    data: NDArray[np.uint8]
    west: float
    north: float
    resolution: float
    crs: pyproj.CRS

    @property
    def height(self) -> int:
        """Rows."""
        return int(self.data.shape[1])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self.data.shape[2])

    @property
    def east(self) -> float:
        """World x of the eastern edge, metres."""
        return self.west + self.width * self.resolution

    @property
    def south(self) -> float:
        """World y of the southern edge, metres."""
        return self.north - self.height * self.resolution

    @property
    def centre(self) -> Array:
        """(2,) east, north of the middle, metres."""
        return np.array([(self.west + self.east) / 2, (self.south + self.north) / 2])

    @property
    def area_km2(self) -> float:
        """Area in square kilometres."""
        return self.height * self.width * self.resolution**2 / 1e6

    @cached_property
    def projection(self) -> Projection:
        """The map frame's projection."""
        return Projection(self.crs)

    @cached_property
    def convergence(self) -> float:
        """Meridian convergence at the centre (radians): grid heading = true heading + this."""
        latitude, longitude = self.projection.inverse(self.centre)
        return float(self.projection.convergence(latitude, longitude))

    def pixel_from_world(self, east_north: ArrayLike) -> Array:
        """(..., 2) east, north in metres -> (..., 2) continuous row, column."""
        xy = np.asarray(east_north, np.float64)
        return np.stack(
            [
                (self.north - xy[..., 1]) / self.resolution,
                (xy[..., 0] - self.west) / self.resolution,
            ],
            axis=-1,
        )

    def world_from_pixel(self, row_column: ArrayLike) -> Array:
        """(..., 2) continuous row, column -> (..., 2) east, north in metres."""
        rc = np.asarray(row_column, np.float64)
        return np.stack(
            [self.west + rc[..., 1] * self.resolution, self.north - rc[..., 0] * self.resolution],
            axis=-1,
        )

    def inside(self, east_north: ArrayLike, margin_m: float = 0.0) -> NDArray[np.bool_]:
        """(..., 2) -> (...): at least ``margin_m`` metres inside the raster's edge (NaN: False)."""
        xy = np.asarray(east_north, np.float64)
        return (
            (xy[..., 0] >= self.west + margin_m)
            & (xy[..., 0] <= self.east - margin_m)
            & (xy[..., 1] >= self.south + margin_m)
            & (xy[..., 1] <= self.north - margin_m)
        )

    def coverage(self, band: int, resolution: float) -> NDArray[np.float32]:
        """One band at a coarser resolution: the share 0..1 of each cell that is covered.

        (ceil(H / k), ceil(W / k)) float32 with k = resolution / self.resolution, a whole number;
        what lies beyond the edge counts as not covered.
        """
        factor = round(resolution / self.resolution)
        data = self.data[band]
        if factor == 1:
            return (data / np.float32(255)).astype(np.float32)
        padded = np.pad(data, ((0, -self.height % factor), (0, -self.width % factor)))
        blocks = padded.reshape(padded.shape[0] // factor, factor, -1, factor)
        return (blocks.mean(axis=(1, 3), dtype=np.float32) / np.float32(255)).astype(np.float32)
