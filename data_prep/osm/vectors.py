"""Buildings, roads and squares from GeoPackage, GeoJSON and GeoParquet files.

Polygons are buildings; lines with a ``highway`` or ``class`` column are roads. The columns may be
those that ``columns`` knows, or those of this project's own tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.osm.columns import tags_of
from data_prep.osm.tables import (
    Extract,
    Features,
    Tags,
    is_building,
    is_road,
    is_square,
)

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".parquet", ".geoparquet")
"""Suffixes of the files that are read here."""


def read_vector_file(path: Path) -> Extract:
    """Read the buildings, roads and squares of a GeoPackage, GeoJSON or GeoParquet file.

    Raises:
        MaptileError: The file is missing or damaged, or states no coordinate system and its
            coordinates are not degrees.
    """
    if not path.is_file():
        raise MaptileError(f"{path}: no such file")
    try:
        layers = _layers(path)
    except (OSError, ValueError, RuntimeError, shapely.errors.GEOSException) as error:
        # GDAL adds a hint for programmers after a semicolon.
        reason = " ".join(str(error).split()).partition(".;")[0]
        raise MaptileError(f"{path}: not readable as a map file: {reason}") from None
    layers = {name: _degrees(path, table) for name, table in layers.items()}
    # If some layers name buildings, the polygons of the others are something else.
    named = {
        name for name, table in layers.items() if "building" in table or "building" in name.lower()
    }
    buildings, roads, squares = _Rows(is_building), _Rows(is_road), _Rows(is_square)
    for name, table in layers.items():
        geometry = table.geometry.to_numpy()
        dimension = shapely.get_dimensions(geometry)
        if name in named or not named:
            buildings.add(table[dimension == 2], name)
        roads.add(table[dimension == 1], name)
        squares.add(table[dimension == 2], name)
    return Extract(buildings.features(), roads.features(), squares.features(), None, None, {})


def _layers(path: Path) -> dict[str, gpd.GeoDataFrame]:
    """Return the layers of a file that have geometries, by name."""
    if path.suffix in {".parquet", ".geoparquet"}:
        return {path.stem: gpd.read_parquet(path)}
    names = [name for name, kind in pyogrio.list_layers(path) if kind is not None]
    return {name: pyogrio.read_dataframe(path, layer=name, on_invalid="fix") for name in names}


def _degrees(path: Path, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return the rows of ``table`` that have a geometry, in WGS 84 degrees."""
    table = table[table.geometry.notna() & ~table.geometry.is_empty]
    if table.empty:
        return table.set_crs("EPSG:4326", allow_override=True)
    stated = table.crs
    looks = _are_degrees(table.total_bounds)
    if stated is None and not looks:
        raise MaptileError(
            f"{path}: states no coordinate system, and its coordinates are not degrees; "
            "save it with one"
        )
    if stated is not None and stated.is_geographic and not looks:
        raise MaptileError(
            f"{path}: its coordinates are no degrees, as those of {stated.name} are: the north of "
            f"it is {table.total_bounds[3]:g}; save it with its coordinate system, or, if latitude "
            "and longitude are swapped, exchange them"
        )
    if stated is not None and stated.is_projected and looks:
        raise MaptileError(
            f"{path}: states {stated.name}, which is in metres, but its coordinates look like "
            "degrees; save it with the coordinate system that it has"
        )
    if stated is None:
        return table.set_crs("EPSG:4326")
    try:
        return table.to_crs("EPSG:4326")
    except (pyproj.exceptions.ProjError, pyproj.exceptions.CRSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MaptileError(
            f"{path}: its coordinate system {stated.name!r} cannot be converted to degrees "
            f"({reason}); save it with one that has an EPSG code"
        ) from None


def _are_degrees(bounds: NDArray[np.float64]) -> bool:
    """Whether west, south, east, north are those of longitudes and latitudes."""
    west, south, east, north = bounds
    return bool(-180 <= west <= east <= 180 and -90 <= south <= north <= 90)


class _Rows:
    """The objects of one kind in several layers: their OSM ids, tags and geometries.

    Args:
        wanted: Whether tags are those of the kind.
    """

    def __init__(self, wanted: Callable[[Tags], bool]) -> None:
        self.wanted = wanted
        self.names: list[str] = []
        self.tags: list[Tags] = []
        self.geometry: list[NDArray[Any]] = []

    def add(self, table: gpd.GeoDataFrame, layer: str) -> None:
        """Add the rows of a layer that are of the kind."""
        tags = tags_of(table, layer, self.wanted is is_building)
        wanted = np.array([self.wanted(t) for t in tags], bool)
        names = _names(table, len(self.names))
        self.names += [name for name, use in zip(names, wanted, strict=True) if use]
        self.tags += [t for t, use in zip(tags, wanted, strict=True) if use]
        self.geometry.append(table.geometry.to_numpy()[wanted])

    def features(self) -> Features:
        """Return all rows that were added."""
        geometry = np.concatenate([np.empty(0, object), *self.geometry])
        return Features(self.names, self.tags, geometry)


def _names(table: gpd.GeoDataFrame, count: int) -> list[str]:
    """Return an identifier for each row: its OSM id, or else its number, counted from ``count``.

    osmnx has the columns ``element`` and ``id``, GDAL ``osm_way_id`` or ``osm_id``.
    """
    names = [f"row/{count + index}" for index in range(len(table))]
    kinds = table["element"] if "element" in table else [None] * len(table)
    gdal = "way/" if "other_tags" in table else ""
    gdal = "relation/" if "osm_way_id" in table else gdal
    for column, prefix in (("id", ""), ("@id", ""), ("osm_id", gdal), ("osm_way_id", "way/")):
        if column in table:
            for index, (value, kind) in enumerate(zip(table[column], kinds, strict=True)):
                if not pd.isna(value):
                    value = int(value) if isinstance(value, float) else value
                    names[index] = f"{kind}/{value}" if kind else f"{prefix}{value}"
    return names
