"""Tagged geometries in degrees -> the two tables of a city, in metres.

Every source (OSM files, vector files, Overpass) ends here, so all of them mean the same by a
building, a road, its height and its width.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

Tags = Mapping[str, str]

LEVEL_HEIGHT_M = 3.0
LANE_WIDTH_M = 3.2
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
"""Classes that vehicles drive on, with the width where the map gives none."""
PATH_WIDTHS_M = {
    "pedestrian": 4.0,
    "cycleway": 2.0,
    "footway": 2.0,
    "steps": 2.0,
    "bridleway": 2.0,
    "path": 1.5,
}
"""Classes for those on foot or bicycle."""

TAGS_READ = {"building", "building:levels", "height", "indoor", "layer", "location", "tunnel"}
TAGS_READ |= {"area", "highway", "lanes", "width"}
"""The tags that the tables depend on; readers need not keep others."""

BUILDING_COLUMNS = ("osm_id", "height", "levels", "geometry")
ROAD_COLUMNS = ("osm_id", "highway", "width", "kind", "geometry")


class Features(NamedTuple):
    """Tagged geometries of a source.

    Attributes:
        osm_id: (N) names such as ``way/123``.
        tags: (N) OSM tags (at least those of ``TAGS_READ``).
        geometry: (N,) shapely geometries, WGS 84 degrees (longitude, latitude).
    """

    osm_id: list[str]
    tags: list[Tags]
    geometry: NDArray[Any]


class Extract(NamedTuple):
    """What a source holds, before it is brought to the map frame.

    Attributes:
        buildings: Polygons, degrees.
        roads: Lines, degrees.
        bounds: West, south, east, north of the mapped ground in degrees, where the source says so.
        date: The state of the map (ISO 8601), where the source says so.
        dropped: What could not be used, and how often.
    """

    buildings: Features
    roads: Features
    bounds: tuple[float, float, float, float] | None
    date: str | None
    dropped: dict[str, int]


def is_building(tags: Tags) -> bool:
    """Whether these tags are those of a building that stands on the ground and has walls."""
    return tags.get("building", "no") not in {"no", "roof"} and not _is_hidden(tags)


def is_road(tags: Tags) -> bool:
    """Whether these tags are those of a road or path in the open.

    A passage through a building (``tunnel=building_passage``) lies at ground level and stays.
    """
    highway = tags.get("highway")
    if highway not in ROAD_WIDTHS_M and highway not in PATH_WIDTHS_M:
        return False
    passage = tags.get("tunnel") == "building_passage"
    return tags.get("area") != "yes" and not _is_hidden(tags, tunnel=not passage)


def metres(text: str | None) -> float:
    """A length tag in metres (``12``, ``12.5 m``, ``12,5``, ``40 ft``, ``40'6"``); NaN if none."""
    if text is None:
        return float("nan")
    feet = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:'|ft|feet)\s*(?:(\d+(?:\.\d+)?)\s*\"?)?\s*", text)
    if feet:
        return float(feet[1]) * 0.3048 + float(feet[2] or 0) * 0.0254
    plain = re.fullmatch(r"\s*~?\s*(\d+(?:[.,]\d+)?)\s*(?:m|metres?|meters?)?\s*", text)
    return float(plain[1].replace(",", ".")) if plain else float("nan")


def buildings_table(features: Features, crs: pyproj.CRS) -> tuple[gpd.GeoDataFrame, int]:
    """The building table (columns as ``BUILDING_COLUMNS``) in ``crs``, sorted by ``osm_id``.

    Heights (metres) come from ``height``, else three metres a level, else NaN. Invalid polygons are
    repaired.

    Returns:
        The table, and how many geometries had no area left after the repair.
    """
    geometry = _polygons(_project(features.geometry, crs))
    keep = shapely.area(geometry) > 0
    levels = np.array([_levels(tags) for tags in features.tags], np.float64)
    height = np.array([metres(tags.get("height")) for tags in features.tags], np.float64)
    height = np.where((height > 0) & (height < 1000), height, levels * LEVEL_HEIGHT_M)
    table = gpd.GeoDataFrame(
        {
            "osm_id": np.array(features.osm_id, object)[keep],
            "height": height[keep],
            "levels": levels[keep],
        },
        geometry=geometry[keep],
        crs=crs,
    )
    return _sorted(table), int((~keep).sum())


def roads_table(features: Features, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """The road table (columns as ``ROAD_COLUMNS``) in ``crs``, a line a row, sorted by ``osm_id``.

    ``width`` (metres) is the tag's, else 3.2 m a lane, else that of the class; ``kind`` is ``road``
    or ``path``.
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
            "highway": highway[index],
            "width": width[index],
            "kind": kind[index],
        },
        geometry=lines,
        crs=crs,
    )
    return _sorted(table)


def _is_hidden(tags: Tags, tunnel: bool = True) -> bool:
    return (
        tags.get("location") == "underground"
        or (tunnel and tags.get("tunnel", "no") != "no")
        or tags.get("indoor", "no") != "no"
        or _number(tags.get("layer")) < 0
    )


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else float("nan")
    except ValueError:
        return float("nan")


def _levels(tags: Tags) -> float:
    levels = _number(tags.get("building:levels"))
    return levels if 0 < levels < 300 else float("nan")


def _width(tags: Tags) -> float:
    for width in (metres(tags.get("width")), _number(tags.get("lanes")) * LANE_WIDTH_M):
        if 0.5 <= width <= 60:
            return width
    return (ROAD_WIDTHS_M | PATH_WIDTHS_M)[tags["highway"]]


def _project(geometry: NDArray[Any], crs: pyproj.CRS) -> NDArray[Any]:
    transformer = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)

    def project(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack(transformer.transform(degrees[:, 0], degrees[:, 1]), axis=-1)

    return np.asarray(shapely.transform(shapely.force_2d(geometry), project), object)


def _polygons(geometry: NDArray[Any]) -> NDArray[Any]:
    """Repair what is invalid; "structure" never opens a hole where two parts overlap."""
    invalid = ~shapely.is_valid(geometry)
    geometry[invalid] = shapely.make_valid(
        geometry[invalid], method="structure", keep_collapsed=False
    )
    return geometry


def _sorted(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    return table.sort_values("osm_id", kind="stable", ignore_index=True)


def features(rows: Iterable[tuple[str, Tags, Any]]) -> Features:
    """Collect (osm_id, tags, geometry) rows."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    geometry = np.empty(len(columns[2]), object)
    geometry[:] = columns[2]
    return Features(list(columns[0]), list(columns[1]), geometry)
