"""A source of OSM data -> the buildings and roads of a city, in metres."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from data_prep.errors import MaptileError
from data_prep.geometry import utm_crs
from data_prep.osm.files import OSM_SUFFIXES, read_osm_file
from data_prep.osm.source import Bounds, OnlineSettings, OsmSource
from data_prep.osm.tables import Extract, buildings_table, roads_table
from data_prep.osm.vectors import VECTOR_SUFFIXES, read_vector_file

__all__ = ["OnlineSettings", "OsmData", "OsmSource", "read_osm"]

MARGIN_M = 50.0
"""Ground around the buildings that counts as mapped where the source does not say what is."""
MAX_EMPTY_M = 5000.0
"""Ground beyond the last building that is left out, whatever the source says is mapped."""
MAX_ONLINE_KM2 = 500.0
"""Largest area to ask Overpass for, as its operators wish."""

_EARTH_RADIUS_M = 6_371_000.0


@dataclass(frozen=True)
class OsmData:
    """The two tables of a city.

    Attributes:
        buildings: Columns osm_id, height (m, NaN unknown), levels (NaN unknown) and geometry
            ((Multi)Polygon), in ``crs``, sorted by osm_id.
        roads: Columns osm_id, highway, width (m), kind (``road`` or ``path``) and geometry
            (LineString), in ``crs``, sorted by osm_id.
        crs: The map frame, metres.
        bounds: West, south, east, north of the mapped ground in ``crs``, metres: what the source
            says, up to 5 km from the outermost building; else the extent of the buildings and a
            margin (roads may reach far out of it).
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


def read_osm(
    source: OsmSource,
    crs: pyproj.CRS | None = None,
    online: OnlineSettings | None = None,
) -> OsmData:
    """Read the buildings and roads of a city.

    Args:
        source: Where to look.
        crs: The map frame; the UTM zone of the middle by default (one for all of the city).
        online: Which servers to ask; the public ones by default.

    Raises:
        MaptileError: The source cannot be read or reached, or holds no building.
    """
    name, extract = _extract(source, online or OnlineSettings())
    if not len(extract.buildings.geometry):
        lost = "".join(f"; {count} {what}" for what, count in extract.dropped.items() if count)
        raise MaptileError(
            f"{name}: no buildings in it{lost}; a city needs them: take another area"
        )
    built_up = _built_up(extract)
    mapped = _mapped(extract.bounds, built_up)
    west, south, east, north = mapped or built_up
    crs = crs or utm_crs((south + north) / 2, (west + east) / 2)
    buildings, collapsed = buildings_table(extract.buildings, crs)
    roads = roads_table(extract.roads, crs)
    if not np.isfinite(buildings.total_bounds).all():
        raise MaptileError(f"{name}: outside the area of use of {crs.name}; leave the CRS out")
    if mapped is not None:
        transformer = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
        bounds = transformer.transform_bounds(*mapped)
    else:
        west, south, east, north = (float(value) for value in buildings.total_bounds)
        bounds = (west - MARGIN_M, south - MARGIN_M, east + MARGIN_M, north + MARGIN_M)
    dropped = extract.dropped | {"buildings without an area": collapsed}
    dropped = {what: count for what, count in dropped.items() if count}
    notes = [f"{count} {what}" for what, count in dropped.items()]
    if roads.empty:
        notes.append("no roads in it: nothing to train or drive along")
    return OsmData(buildings, roads, crs, bounds, name, extract.date, tuple(notes), dropped)


def _extract(source: OsmSource, online: OnlineSettings) -> tuple[str, Extract]:
    """What to call the source, and what it holds."""
    path = source.path
    if path is not None:
        if path.name.endswith(OSM_SUFFIXES):
            return path.name, read_osm_file(path)
        if path.name.endswith(VECTOR_SUFFIXES):
            return path.name, read_vector_file(path)
        raise MaptileError(
            f"{path}: not a kind of map file that is known "
            f"({', '.join((*OSM_SUFFIXES, *VECTOR_SUFFIXES))}, .tif)"
        )
    # osmnx takes a second to import, and who has a file does not need it.
    from data_prep.osm.online import find_place, read_overpass

    if source.bbox is not None:
        name, bounds = f"bbox {','.join(map(str, source.bbox))}", source.bbox
    elif source.point is not None and source.radius_m is not None:
        latitude, longitude = source.point
        name = f"point {latitude},{longitude} radius {source.radius_m:g} m"
        bounds = _square(latitude, longitude, source.radius_m)
    else:
        assert source.place is not None
        name, bounds = source.place, find_place(source.place, online)
    area_km2 = (
        abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.box(*bounds))[0]) / 1e6
    )
    if area_km2 > MAX_ONLINE_KM2:
        raise MaptileError(
            f"{name}: {area_km2:,.0f} km2 is more than Overpass should be asked for "
            f"({MAX_ONLINE_KM2:.0f}); download an extract and give the file"
        )
    return f"OpenStreetMap, {name}", read_overpass(bounds, source.date, online)


def _square(latitude: float, longitude: float, radius_m: float) -> Bounds:
    geod = pyproj.Geod(ellps="WGS84")
    longitudes, latitudes, _ = geod.fwd(
        [longitude] * 4, [latitude] * 4, [270, 180, 90, 0], [radius_m] * 4
    )
    return longitudes[0], latitudes[1], longitudes[2], latitudes[3]


def _built_up(extract: Extract) -> Bounds:
    """The extent of the buildings in degrees; across the 180th meridian east counts on from 180."""
    west, south, east, north = (float(x) for x in shapely.total_bounds(extract.buildings.geometry))
    if east - west > 180:
        box = shapely.bounds(extract.buildings.geometry)
        middle = (box[:, 0] + box[:, 2]) / 2 % 360
        west, east = float(middle.min()), float(middle.max())
    return west, south, east, north


def _mapped(declared: Bounds | None, built_up: Bounds) -> Bounds | None:
    """What a source says is mapped (degrees), less what is far from any building.

    None where it says nothing of use; headers that speak of the whole planet are seen.
    """
    if declared is None or built_up[2] > 180:
        return None
    reach = np.degrees(MAX_EMPTY_M / _EARTH_RADIUS_M)
    reach_east = reach / np.cos(np.radians(built_up[1]))
    west, south = max(declared[0], built_up[0] - reach_east), max(declared[1], built_up[1] - reach)
    east, north = min(declared[2], built_up[2] + reach_east), min(declared[3], built_up[3] + reach)
    return (west, south, east, north) if west < east and south < north else None
