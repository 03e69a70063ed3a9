"""The tables of a city, in metres, from any map source."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from data_prep.errors import MaptileError
from data_prep.geometry import utm_crs
from data_prep.osm.files import read_osm_file
from data_prep.osm.kinds import examine, one_line
from data_prep.osm.rings import swapped_axes
from data_prep.osm.source import Bounds, OnlineSettings, OsmSource
from data_prep.osm.tables import (
    Extract,
    Features,
    buildings_table,
    odd_heights,
    roads_table,
    squares_table,
)
from data_prep.osm.vectors import read_vector_file
from data_prep.progress import Progress, silent

__all__ = ["OnlineSettings", "OsmData", "OsmSource", "read_osm"]

MARGIN_M = 50.0
"""Margin of the mapped area around the buildings, where the source does not state the area."""
MAX_EMPTY_M = 5000.0
"""Greatest distance of the mapped area's edge from the outermost buildings: a larger area that a
source states is cut."""
MAX_ONLINE_KM2 = 500.0
"""Largest area that Overpass is asked for, as its operators request."""
MAX_EXTENT_DEG = 3.0
"""Greatest extent of a city, degrees; a longitude is up to four times shorter than a latitude."""

_EARTH_RADIUS_M = 6_371_000.0
"""Mean radius of the Earth, to convert metres to degrees of latitude."""


@dataclass(frozen=True)
class OsmData:
    """The tables of a city.

    Attributes:
        buildings: Columns osm_id, name, height (metres, NaN if unknown), levels (NaN if unknown)
            and geometry ((Multi)Polygon), in ``crs``, sorted by osm_id.
        roads: Columns osm_id, name, highway, width (metres), kind (``road`` or ``path``) and
            geometry (LineString), in ``crs``, sorted by osm_id.
        squares: Columns osm_id, name and geometry ((Multi)Polygon), likewise.
        crs: The map frame, metres.
        bounds: West, south, east, north of the mapped area in ``crs``, metres: the area that the
            source states, cut ``MAX_EMPTY_M`` from the outermost buildings; if it states none, the
            extent of the buildings plus ``MARGIN_M`` (roads may reach beyond it).
        source: The file name, or the area that was requested from OpenStreetMap.
        source_date: Date of the map data (ISO 8601); None if unknown.
        notes: What a user should know about the data, one line each.
        dropped: Number of objects that were left out, by reason.
    """

    buildings: gpd.GeoDataFrame
    roads: gpd.GeoDataFrame
    squares: gpd.GeoDataFrame
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
    *,
    progress: Progress = silent,
) -> OsmData:
    """Read the buildings and roads of a city.

    Args:
        source: The map source.
        crs: The map frame; by default the UTM zone of the map's centre, for all of the city.
        online: The servers to ask; the public ones by default.
        progress: Called after each part of a step.

    Raises:
        MaptileError: The source cannot be read or reached, or holds no building.
    """
    with one_line(source.path or "OpenStreetMap"):
        name, extract = _extract(source, online or OnlineSettings(), progress)
        return _tables(name, extract, crs)


def _tables(name: str, extract: Extract, crs: pyproj.CRS | None) -> OsmData:
    """Return the tables of a source's content."""
    if not len(extract.buildings.geometry):
        lost = "".join(f"; {count} {what}" for what, count in extract.dropped.items() if count)
        remedy = "take another area"
        if len(extract.roads.geometry):
            remedy = "take a file with the buildings beside the roads, or another area"
        raise MaptileError(f"{name}: no buildings in it{lost}; a city needs them: {remedy}")
    built_up = _built_up(extract)
    _check_extent(name, extract.buildings, built_up)
    mapped = _mapped(extract.bounds, built_up)
    west, south, east, north = mapped or built_up
    own_crs = crs or utm_crs((south + north) / 2, (west + east) / 2)
    buildings, collapsed = buildings_table(extract.buildings, own_crs)
    roads = roads_table(extract.roads, own_crs)
    if buildings.empty:
        raise MaptileError(
            f"{name}: its {collapsed} buildings have an area of 0 m2, or outlines that cross "
            "themselves everywhere; are its coordinates right?"
        )
    if not np.isfinite(buildings.total_bounds).all():
        remedy = "leave the CRS out" if crs else "take an area further from the poles"
        raise MaptileError(f"{name}: outside the area of use of {own_crs.name}; {remedy}")
    if mapped is not None:
        transformer = pyproj.Transformer.from_crs("EPSG:4326", own_crs, always_xy=True)
        bounds = transformer.transform_bounds(*mapped)
    else:
        west, south, east, north = (float(value) for value in buildings.total_bounds)
        bounds = (west - MARGIN_M, south - MARGIN_M, east + MARGIN_M, north + MARGIN_M)
    dropped = extract.dropped | {"buildings without an area": collapsed}
    dropped = {what: count for what, count in dropped.items() if count}
    notes = [f"{count} {what}" for what, count in dropped.items()]
    if odd := odd_heights(extract.buildings):
        notes.append(f"{odd} heights of buildings that are no plausible length (left unknown)")
    if swapped_axes(extract.buildings.geometry):
        notes.append(
            "latitude and longitude look swapped: the corners of buildings would be right angles "
            "if they were exchanged"
        )
    if roads.empty:
        notes.append("no roads in it: nothing to train or drive along")
    squares = squares_table(extract.squares, own_crs)
    about = name, extract.date, tuple(notes), dropped
    return OsmData(buildings, roads, squares, own_crs, bounds, *about)


def _extract(source: OsmSource, online: OnlineSettings, progress: Progress) -> tuple[str, Extract]:
    """Return the name of a source, and its content."""
    path = source.path
    if path is not None:
        file = examine(path)
        if file.kind in ("vector", "parquet"):
            return path.name, read_vector_file(file)
        return path.name, read_osm_file(file, progress=progress)
    # osmnx takes a second to import; files do not need it.
    from data_prep.osm.online import find_place, read_overpass

    if source.bbox is not None:
        name, bounds = f"bbox {','.join(map(str, source.bbox))}", source.bbox
    elif source.point is not None and source.radius_m is not None:
        latitude, longitude = source.point
        name = f"point {latitude},{longitude} radius {source.radius_m:g} m"
        bounds = _square(latitude, longitude, source.radius_m)
    else:
        assert source.place is not None
        name, bounds = source.place, find_place(source.place, online, progress=progress)
    area_km2 = (
        abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(shapely.box(*bounds))[0]) / 1e6
    )
    if area_km2 > MAX_ONLINE_KM2:
        raise MaptileError(
            f"{name}: {area_km2:,.0f} km2 is more than Overpass may be asked for "
            f"({MAX_ONLINE_KM2:.0f} km2); download an extract and use the file"
        )
    return f"OpenStreetMap, {name}", read_overpass(bounds, source.date, online, progress=progress)


def _square(latitude: float, longitude: float, radius_m: float) -> Bounds:
    """Return the bounds (degrees) of the square of side 2 ``radius_m`` around a point."""
    geod = pyproj.Geod(ellps="WGS84")
    longitudes, latitudes, _ = geod.fwd(
        [longitude] * 4, [latitude] * 4, [270, 180, 90, 0], [radius_m] * 4
    )
    return longitudes[0], latitudes[1], longitudes[2], latitudes[3]


def _built_up(extract: Extract) -> Bounds:
    """Return west, south, east and north of the buildings, degrees.

    Where buildings lie on both sides of the 180th meridian, west and east are those of the middles
    of the buildings, in 0..360.
    """
    west, south, east, north = (float(x) for x in shapely.total_bounds(extract.buildings.geometry))
    if east - west > 180:
        box = shapely.bounds(extract.buildings.geometry)
        middle = (box[:, 0] + box[:, 2]) / 2 % 360
        west, east = float(middle.min()), float(middle.max())
    return west, south, east, north


def _mapped(declared: Bounds | None, built_up: Bounds) -> Bounds | None:
    """Return the mapped area that a source declares, cut ``MAX_EMPTY_M`` from the buildings.

    Headers may declare the whole planet, hence the cut.

    Returns:
        Bounds in degrees; None if none are declared, or they are of no use.
    """
    if declared is None or built_up[2] > 180:
        return None
    reach = np.degrees(MAX_EMPTY_M / _EARTH_RADIUS_M)
    reach_east = reach / np.cos(np.radians(built_up[1]))
    west, south = max(declared[0], built_up[0] - reach_east), max(declared[1], built_up[1] - reach)
    east, north = min(declared[2], built_up[2] + reach_east), min(declared[3], built_up[3] + reach)
    return (west, south, east, north) if west < east and south < north else None


def _check_extent(name: str, buildings: Features, built_up: Bounds) -> None:
    """Refuse buildings that do not lie in one city: some coordinates are wrong."""
    west, south, east, north = built_up
    if max(east - west, north - south) <= MAX_EXTENT_DEG:
        return
    box = shapely.bounds(buildings.geometry)
    middle = (box[:, :2] + box[:, 2:]) / 2
    away = np.abs(middle - np.median(middle, axis=0)).max(axis=1)
    first = int(np.argmax(away))
    longitude, latitude = middle[first]
    raise MaptileError(
        f"{name}: its buildings spread over {max(east - west, north - south):.1f} degrees, more "
        f"than a city; {buildings.osm_id[first]} lies furthest out, at latitude {latitude:.4f}, "
        f"longitude {longitude:.4f}; correct it, or cut the map to the city"
    )
