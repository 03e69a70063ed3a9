"""The tables of a city that is only a raster."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import pyproj
import rasterio.features
import shapely
from numpy.typing import NDArray

from data_prep.city.raster import BUILDING, MapRaster
from data_prep.osm.tables import BUILDING_COLUMNS, ROAD_COLUMNS


def building_outlines(raster: MapRaster) -> gpd.GeoDataFrame:
    """Return a building table (columns ``BUILDING_COLUMNS``) of a raster.

    The polygons are the outlines of its connected building pixels; they have no name, height or
    levels.
    """
    band = raster.data[BUILDING]
    shapes = rasterio.features.shapes(band, band > 0, transform=raster.transform)
    geometry: NDArray[Any] = np.array(
        [shapely.geometry.shape(shape) for shape, _ in shapes], object
    )
    unknown = np.full(len(geometry), np.nan)
    names = [f"raster/{index}" for index in range(len(geometry))]
    columns = {"osm_id": np.array(names, object), "name": np.full(len(names), "")}
    columns |= {"height": unknown, "levels": unknown}
    table = gpd.GeoDataFrame(columns, geometry=geometry, crs=raster.crs)
    return table[list(BUILDING_COLUMNS)]


def no_squares(crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """Return an empty table of squares in ``crs``."""
    text = np.empty(0, str)
    return gpd.GeoDataFrame({"osm_id": text, "name": text}, geometry=[], crs=crs)


def no_roads(crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """Return an empty road table (columns ``ROAD_COLUMNS``) in ``crs``."""
    text, number = np.empty(0, str), np.empty(0)
    columns = {"osm_id": text, "name": text, "highway": text, "width": number, "kind": text}
    return gpd.GeoDataFrame(columns, geometry=[], crs=crs)[list(ROAD_COLUMNS)]
