"""Where a city comes from: OSM by place, box, point or file -> buildings and roads in metres."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from data_prep.errors import MaptileError
from data_prep.geometry import utm_crs
from data_prep.osm_files import OSM_SUFFIXES, OsmFile, read_osm_file
from data_prep.osm_tables import Features, buildings_table, roads_table

Bounds = tuple[float, float, float, float]


@dataclass(frozen=True)
class OsmSource:
    """Exactly one of ``path``, ``place``, ``bbox`` and ``point`` (with ``radius_m``).

    Attributes:
        path: An OSM file (.osm, .osm.gz, .osm.bz2, .osm.pbf), GeoPackage, GeoJSON or GeoParquet.
        place: A name that Nominatim knows, such as ``Oxford, UK``.
        bbox: West, south, east, north in degrees.
        point: Latitude, longitude in degrees.
        radius_m: Half the side of the square around ``point``, metres.
        date: The map as of this day (YYYY-MM-DD); online sources only.
    """

    path: Path | None = None
    place: str | None = None
    bbox: Bounds | None = None
    point: tuple[float, float] | None = None
    radius_m: float | None = None
    date: str | None = None


@dataclass(frozen=True)
class OsmData:
    """The two tables of a city.

    Attributes:
        buildings: Columns osm_id, height (m, NaN unknown), levels (NaN unknown) and geometry
            ((Multi)Polygon), in ``crs``, sorted by osm_id.
        roads: Columns osm_id, highway, width (m), kind (``road`` or ``path``) and geometry
            (LineString), in ``crs``, sorted by osm_id.
        crs: The map frame, metres.
        bounds: West, south, east, north of the mapped ground in ``crs``, metres.
        source: Where the data came from, in words.
        source_date: The state of the map (ISO 8601), where known.
        notes: What the user should know, one line each.
        dropped: What could not be used, and how often.
    """

    buildings: gpd.GeoDataFrame
    roads: gpd.GeoDataFrame
    crs: pyproj.CRS
    bounds: Bounds
    source: str
    source_date: str | None
    notes: tuple[str, ...]
    dropped: dict[str, int]


def read_osm(source: OsmSource, crs: pyproj.CRS | None = None) -> OsmData:
    """Read the buildings and roads of a city.

    Args:
        source: Where to look.
        crs: The map frame; the UTM zone of the middle by default.

    Raises:
        MaptileError: The source cannot be read, or holds no building.
    """
    path = source.path
    assert path is not None
    if not path.name.endswith(OSM_SUFFIXES):
        raise MaptileError(f"{path}: unknown kind of map file")
    return _tables(read_osm_file(path), crs, path.name)


def _tables(raw: OsmFile, crs: pyproj.CRS | None, name: str) -> OsmData:
    if not len(raw.buildings.geometry):
        raise MaptileError(f"{name}: no buildings in it; a city needs them, choose another area")
    crs = crs or utm_crs(*_middle(raw.bounds, raw.buildings))
    buildings, collapsed = buildings_table(raw.buildings, crs)
    roads = roads_table(raw.roads, crs)
    dropped = raw.dropped | {"buildings without an area": collapsed}
    dropped = {what: count for what, count in dropped.items() if count}
    if raw.bounds is not None:
        transformer = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        bounds = transformer.transform_bounds(*raw.bounds)
    else:
        bounds = tuple(buildings.total_bounds + np.array([-50.0, -50.0, 50.0, 50.0]))
    notes = tuple(f"{count} {what}" for what, count in dropped.items())
    return OsmData(buildings, roads, crs, bounds, name, raw.date, notes, dropped)


def _middle(bounds: Bounds | None, buildings: Features) -> tuple[float, float]:
    """Latitude and longitude of the middle, degrees."""
    west, south, east, north = bounds or shapely.total_bounds(buildings.geometry)
    return (south + north) / 2, (west + east) / 2
