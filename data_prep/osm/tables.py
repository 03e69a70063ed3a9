"""The tables of a city (buildings, roads, squares), from tagged geometries in degrees.

All sources (OSM files, vector files, Overpass) use this module, so buildings, roads, heights and
widths have one definition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from data_prep.osm.rings import repaired

Tags = Mapping[str, str]
"""OSM tags: key to value."""

LEVEL_HEIGHT_M = 3.0
"""Height of a storey, for buildings without a height tag."""
LANE_WIDTH_M = 3.2
"""Width of a lane, for roads without a width tag."""
ROAD_WIDTHS_M = {
    "motorway": 14.0,
    "trunk": 12.0,
    "primary": 11.0,
    "secondary": 9.0,
    "tertiary": 7.5,
    "unclassified": 6.0,
    "residential": 6.0,
    "road": 6.0,
    "unknown": 6.0,
    "busway": 6.0,
    "bus_guideway": 6.0,
    "raceway": 6.0,
    "living_street": 5.0,
    "motorway_link": 6.0,
    "trunk_link": 6.0,
    "primary_link": 6.0,
    "secondary_link": 6.0,
    "tertiary_link": 6.0,
    "service": 4.0,
    "track": 3.0,
}
"""Values of ``highway`` for vehicles, with the width of roads that have no width or lanes tag."""
PATH_WIDTHS_M = {
    "pedestrian": 4.0,
    "cycleway": 2.0,
    "footway": 2.0,
    "steps": 2.0,
    "bridleway": 2.0,
    "path": 1.5,
}
"""Values of ``highway`` for pedestrians and cyclists, with the width as above."""

TAGS_READ = {
    *("building", "building:levels", "height", "indoor", "layer", "level", "location", "tunnel"),
    *("area", "highway", "lanes", "width", "name", "place", "demolished", "razed", "proposed"),
}
"""The tags that the tables depend on; readers may drop all others."""

NOT_STANDING = {
    *("proposed", "planned", "construction", "demolished", "razed", "removed", "destroyed"),
    *("dismantled", "collapsed"),
}
"""Values of ``building`` of what has no walls yet, or not any more."""
IN_SIGHT = {"surface", "overground", "outdoor", "overhead", "roof", "rooftop"}
"""Values of ``location`` of what can be seen, whatever its layer."""

BUILDING_COLUMNS = ("osm_id", "name", "height", "levels", "geometry")
"""Columns of a building table: see ``buildings_table``."""
ROAD_COLUMNS = ("osm_id", "name", "highway", "width", "kind", "geometry")
"""Columns of a road table: see ``roads_table``."""

_MIN_AREA_M2 = 0.1
"""Smaller buildings are none: points, lines, or coordinates that are no metres."""
_LONGEST_NUMBER = 40
"""Longest text that is read as a length."""
_MAX_HEIGHT_M = 900.0
"""Heights from here on are typing errors."""
_MAX_LEVELS = 300.0
"""Numbers of storeys from here on are typing errors."""
_WIDTHS_M = (0.5, 60.0)
"""Widths outside this range are typing errors."""


class Features(NamedTuple):
    """Tagged geometries of a source.

    Attributes:
        osm_id: N identifiers such as ``way/123``.
        tags: N sets of OSM tags (at least those of ``TAGS_READ``).
        geometry: (N,) shapely geometries, WGS 84 degrees (longitude, latitude).
    """

    osm_id: list[str]
    tags: list[Tags]
    geometry: NDArray[Any]


class Extract(NamedTuple):
    """The content of a source, before the projection to the map frame.

    Attributes:
        buildings: Polygons, degrees.
        roads: Lines, degrees.
        squares: Polygons, degrees.
        bounds: West, south, east, north of the mapped area in degrees; None if not stated.
        date: Date of the map data (ISO 8601); None if not stated.
        dropped: Number of objects that were left out, by reason.
    """

    buildings: Features
    roads: Features
    squares: Features
    bounds: tuple[float, float, float, float] | None
    date: str | None
    dropped: dict[str, int]


def is_building(tags: Tags) -> bool:
    """Return whether ``tags`` describe a building with walls, on the ground or above it.

    One that is planned, under construction or demolished has none.
    """
    value = tags.get("building", "no").strip().lower()
    if value in {"", "no", "false", "0", "roof"} or value in NOT_STANDING:
        return False
    gone = any(tags.get(key) == "yes" for key in ("demolished", "razed", "proposed"))
    return not gone and not _is_hidden(tags)


def is_road(tags: Tags) -> bool:
    """Return whether ``tags`` describe a road or path at ground level, outdoors.

    Its ``highway`` class must be one that has a width in ``ROAD_WIDTHS_M`` or ``PATH_WIDTHS_M``;
    areas (``area=yes``) do not count. A passage through a building (``tunnel=building_passage``)
    is at ground level and counts.
    """
    highway = tags.get("highway")
    if highway not in ROAD_WIDTHS_M and highway not in PATH_WIDTHS_M:
        return False
    passage = tags.get("tunnel") == "building_passage"
    return tags.get("area") != "yes" and not _is_hidden(tags, tunnel=not passage)


def is_square(tags: Tags) -> bool:
    """Return whether ``tags`` describe a square with a name: a public space that streets border."""
    pedestrian = tags.get("highway") == "pedestrian" and tags.get("area") == "yes"
    return bool(tags.get("name")) and (pedestrian or tags.get("place") == "square")


def metres(text: str | None) -> float:
    """Return the length tag ``text`` in metres; NaN if it is no length.

    Examples: ``12``, ``12.5 m``, ``12,5``, ``40 ft``, ``40'6"``.
    """
    if text is None:
        return float("nan")
    if len(text) > _LONGEST_NUMBER:
        return float("nan")
    feet = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:'|ft|feet)\s*(?:(\d+(?:\.\d+)?)\s*\"?)?\s*", text)
    if feet:
        return float(feet[1]) * 0.3048 + float(feet[2] or 0) * 0.0254
    plain = re.fullmatch(r"\s*~?\s*(\d+(?:[.,]\d+)?)\s*(?:m|metres?|meters?)?\.?\s*", text, re.I)
    return float(plain[1].replace(",", ".")) if plain else float("nan")


def buildings_table(features: Features, crs: pyproj.CRS) -> tuple[gpd.GeoDataFrame, int]:
    """Return the building table in ``crs``, sorted by ``osm_id``.

    Invalid polygons are repaired; those without an area are left out.

    Returns:
        A table with the columns ``osm_id``, ``name`` (may be empty), ``height`` (metres: the
        height tag, else the levels times ``LEVEL_HEIGHT_M``, else NaN), ``levels`` (NaN if unknown)
        and ``geometry`` ((Multi)Polygon, metres); and the number of polygons that were left out.
    """
    geometry = repaired(_project(features.geometry, crs))
    keep = shapely.area(geometry) > _MIN_AREA_M2
    levels = np.array([_levels(tags) for tags in features.tags], np.float64)
    height = np.array([_height(tags) for tags in features.tags], np.float64)
    height = np.where(np.isnan(height), levels * LEVEL_HEIGHT_M, height)
    table = gpd.GeoDataFrame(
        {
            "osm_id": np.array(features.osm_id, object)[keep],
            "name": _given_names(features)[keep],
            "height": height[keep],
            "levels": levels[keep],
        },
        geometry=geometry[keep],
        crs=crs,
    )
    return _sorted(table), int((~keep).sum())


def roads_table(features: Features, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """Return the road table in ``crs``, sorted by ``osm_id``.

    Returns:
        A table with a row per line. Columns: ``osm_id``; ``name`` (may be empty) and
        ``highway``, the tags; ``width`` (metres: the width tag, else the lanes times
        ``LANE_WIDTH_M``, else the width of the class); ``kind`` (``road`` or ``path``);
        ``geometry`` (LineString, metres).
    """
    lines, index = shapely.get_parts(_project(features.geometry, crs), return_index=True)
    keep = (shapely.get_type_id(lines) == shapely.GeometryType.LINESTRING) & (
        shapely.length(lines) > 0
    )
    lines, index = lines[keep], index[keep]
    highway = np.array([tags["highway"] for tags in features.tags], object)
    kind = np.where(np.isin(highway, list(PATH_WIDTHS_M)), "path", "road").astype(object)
    width = np.array([_width(tags) for tags in features.tags], np.float64)
    table = gpd.GeoDataFrame(
        {
            "osm_id": np.array(features.osm_id, object)[index],
            "name": _given_names(features)[index],
            "highway": highway[index],
            "width": width[index],
            "kind": kind[index],
        },
        geometry=lines,
        crs=crs,
    )
    return _sorted(table)


def squares_table(features: Features, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """Return the table of squares in ``crs``, sorted by ``osm_id``.

    Returns:
        A table with the columns ``osm_id``, ``name`` and ``geometry`` ((Multi)Polygon, metres).
    """
    columns = {"osm_id": np.array(features.osm_id, object), "name": _given_names(features)}
    geometry = repaired(_project(features.geometry, crs))
    return _sorted(gpd.GeoDataFrame(columns, geometry=geometry, crs=crs))


def _given_names(features: Features) -> NDArray[np.object_]:
    """(N,) the names of features, empty without one."""
    return np.array([tags.get("name", "") for tags in features.tags], object)


def _is_hidden(tags: Tags, tunnel: bool = True) -> bool:
    """Return whether an object is underground or indoors; ``tunnel`` says if tunnels count.

    A layer below 0 only orders objects: what is said to be in sight is.
    """
    location = tags.get("location")
    levels = [_number(text) for text in re.split(r"[;,]", tags.get("level", ""))]
    return (
        location in {"underground", "indoor", "underwater"}
        or (tunnel and tags.get("tunnel", "no") != "no")
        or tags.get("indoor", "no") != "no"
        or (location not in IN_SIGHT and _number(tags.get("layer")) < 0)
        or (location not in IN_SIGHT and all(level < 0 for level in levels))
    )


def _number(text: str | None) -> float:
    """Return ``text`` as a number; NaN if it is None or anything else, such as "3 m"."""
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")


def _height(tags: Tags) -> float:
    """Return the tag ``height`` in metres; NaN if it is missing or implausible."""
    height = metres(tags.get("height"))
    return height if 0 < height < _MAX_HEIGHT_M else float("nan")


def odd_heights(features: Features) -> int:
    """Return the number of objects whose tag ``height`` is no plausible length."""
    return sum("height" in tags and math.isnan(_height(tags)) for tags in features.tags)


def _levels(tags: Tags) -> float:
    """Return the number in the tag ``building:levels``; NaN if it is missing or implausible."""
    levels = _number(tags.get("building:levels"))
    return levels if 0 < levels < _MAX_LEVELS else float("nan")


def _width(tags: Tags) -> float:
    """Return the width of a road or path, metres.

    It is that of the tag ``width``, else of ``lanes``, if plausible; else that of the class.
    """
    for width in (metres(tags.get("width")), _number(tags.get("lanes")) * LANE_WIDTH_M):
        if _WIDTHS_M[0] <= width <= _WIDTHS_M[1]:
            return width
    return (ROAD_WIDTHS_M | PATH_WIDTHS_M)[tags["highway"]]


def _project(geometry: NDArray[Any], crs: pyproj.CRS) -> NDArray[Any]:
    """Convert geometries from degrees to ``crs``, without their z coordinates."""
    transformer = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)

    def project(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(transformer.transform(degrees[:, 0], degrees[:, 1]), axis=-1)

    return np.asarray(shapely.transform(shapely.force_2d(geometry), project), object)


def _sorted(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return ``table`` sorted by ``osm_id``, with a new index."""
    return table.sort_values("osm_id", kind="stable", ignore_index=True)


def features(rows: Iterable[tuple[str, Tags, Any]]) -> Features:
    """Return (osm_id, tags, geometry) rows as ``Features``."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    geometry = np.empty(len(columns[2]), object)
    geometry[:] = columns[2]
    return Features(list(columns[0]), list(columns[1]), geometry)
