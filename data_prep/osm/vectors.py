"""Buildings, roads and squares from GeoPackage, GeoJSON and GeoParquet files.

Polygons are buildings; lines with a ``highway`` or ``class`` column are roads. The columns may be
OSM tags, or those of GDAL's OSM driver (``other_tags``), of osmnx, of Overture (``height``,
``num_floors``, ``class``, ``subtype``) or of this project's own tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.osm.tables import (
    TAGS_READ,
    Extract,
    Features,
    Tags,
    is_building,
    is_road,
    is_square,
)

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".parquet", ".geoparquet")
"""Suffixes of the files that are read here."""

_OTHER_NAMES = {
    "num_floors": "building:levels",
    "levels": "building:levels",
    **{name.replace(":", "_"): name for name in TAGS_READ if ":" in name},
}
"""Other names of columns, with the tag that they stand for."""


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
            buildings.add(table[dimension == 2])
        if "highway" in table or "class" in table:
            roads.add(table[dimension == 1])
        if "highway" in table or "place" in table:
            squares.add(table[dimension == 2])
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
    if table.crs is not None:
        return table.to_crs("EPSG:4326")
    west, south, east, north = table.total_bounds
    if not table.empty and not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise MaptileError(
            f"{path}: states no coordinate system, and its coordinates are not degrees; "
            "save it with one"
        )
    return table.set_crs("EPSG:4326")


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

    def add(self, table: gpd.GeoDataFrame) -> None:
        """Add the rows of a layer that are of the kind."""
        tags = _tags(table, self.wanted is is_building)
        wanted = np.array([self.wanted(t) for t in tags], bool)
        names = _names(table, len(self.names))
        self.names += [name for name, use in zip(names, wanted, strict=True) if use]
        self.tags += [t for t, use in zip(tags, wanted, strict=True) if use]
        self.geometry.append(table.geometry.to_numpy()[wanted])

    def features(self) -> Features:
        """Return all rows that were added."""
        geometry = np.concatenate([np.empty(0, object), *self.geometry])
        return Features(self.names, self.tags, geometry)


def _tags(table: gpd.GeoDataFrame, building: bool) -> list[dict[str, str]]:
    """Return the OSM tags of each row, from columns of any of the known layouts."""
    tags: list[dict[str, str]] = [{} for _ in range(len(table))]
    if "other_tags" in table:
        for row, text in zip(tags, table["other_tags"], strict=True):
            pairs = re.findall(r'"([^"]+)"=>"([^"]*)"', text if isinstance(text, str) else "")
            row.update((key, value) for key, value in pairs if key in TAGS_READ)
    columns = {column: _OTHER_NAMES.get(column, column) for column in table.columns}
    if "highway" not in table:
        columns["class"] = "highway"
    for column, key in columns.items():
        if column in table and key in TAGS_READ:
            for row, value in zip(tags, table[column], strict=True):
                if pd.api.types.is_scalar(value) and not pd.isna(value):
                    row[key] = "yes" if value is True else str(value)
    if "names" in table:
        for row, names in zip(tags, table["names"], strict=True):
            if isinstance(names, dict) and isinstance(names.get("primary"), str):
                row["name"] = names["primary"]
    if building and "building" not in table:
        for row in tags:
            row.setdefault("building", "yes")
    if building and "is_underground" in table:
        for row, hidden in zip(tags, table["is_underground"], strict=True):
            if hidden is True:
                row["location"] = "underground"
    if not building and "subtype" in table:
        for row, subtype in zip(tags, table["subtype"], strict=True):
            if subtype != "road":
                row.pop("highway", None)
    if not building and "road_flags" in table:
        for row, flags in zip(tags, table["road_flags"], strict=True):
            if flags is not None and any(
                "is_tunnel" in flag["values"] and flag["between"] is None for flag in flags
            ):
                row["tunnel"] = "yes"
    return tags


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
