"""OSM tags from the columns of a vector table, in any layout that programs write.

Known are OSM tags, those of GDAL's OSM driver (``other_tags``), of osmnx, of Overture (``height``,
``num_floors``, ``class``, ``subtype``, ``names``), of Geofabrik's free layers (``fclass``,
``type``), and tags in one column (osm2geojson, QuackOSM, pyrosm).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from data_prep.osm.tables import PATH_WIDTHS_M, ROAD_WIDTHS_M, TAGS_READ

OTHER_NAMES = {
    "num_floors": "building:levels",
    "levels": "building:levels",
    "building:l": "building:levels",
    "building_l": "building:levels",
    **{name.replace(":", "_"): name for name in TAGS_READ if ":" in name},
}
"""Other names of columns, with the tag that they stand for; Shapefiles cut names."""
NESTED = ("tags", "@tags", "all_tags", "hstore", "other_tags", "properties")
"""Columns whose values are objects of tags, or text that lists tags."""
OTHER_AREAS = (
    *("landuse", "natural", "leisure", "boundary", "water", "waterway", "place", "highway"),
    *("railway", "aeroway", "area:highway", "admin_level", "landcover", "barrier"),
    *("building:part", "building_part", "building_p"),
)
"""Tags of areas that are no buildings."""
OPEN = {
    "amenity": ("parking", "parking_space", "bicycle_parking", "grave_yard", "fountain"),
    "man_made": ("pier", "bridge", "breakwater", "groyne", "embankment", "dyke", "cutline"),
}
"""Tags of areas that are no buildings, by their value."""
PAST_OR_FUTURE = (
    *("proposed", "planned", "construction", "demolished", "razed", "removed", "destroyed"),
    *("dismantled", "abandoned", "disused", "was", "historic", "ruins"),
)
"""Prefixes of keys of what does not stand, or not any more."""
IDS = ("id", "@id", "osm_id", "osm_way_id", "@osmid", "element")
"""Columns with the identity of an object."""
VERSIONS = (
    *("@snapshottimestamp", "@validfrom", "version", "@version", "osm_version", "@timestamp"),
)
"""Columns by which versions of an object are in order, the surest first."""
STATES = ("visible", "@visible", "@deletion", "@validto", "@geometry")
"""Columns that say whether a row is an object as it is now."""
OVERTURE = (
    *("names", "is_underground", "subtype", "class", "road_flags", "level", "level_rules"),
    *("theme", "type"),
)
"""Columns of Overture."""
OTHER_KINDS = ("fclass", "highway", "building", *NESTED, *OVERTURE[:-1])
"""Columns beside which ``type`` says nothing of its own."""
OTHER_LAYERS = {"landuse", "natural", "water", "waterways", "railways", "places", "points"}
"""Words in the names of layers whose areas are no buildings."""
OVERTURE_SUBTYPES = (
    *("agricultural", "civic", "commercial", "education", "entertainment", "industrial", "medical"),
    *("military", "outbuilding", "religious", "residential", "service", "transportation"),
)
"""Values of Overture's ``subtype`` of buildings."""
NO_BUILDING = {
    name
    for prefix in PAST_OR_FUTURE
    for mark in ":_"
    # Shapefiles cut names to ten letters; "demolished" alone is a tag of its own.
    for name in (f"{prefix}{mark}building", f"{prefix}{mark}building"[:10])
    if name not in TAGS_READ and name != prefix
}
"""Columns of buildings that do not stand, or not any more."""
COLUMNS_READ = frozenset(
    (
        *(*TAGS_READ, *OTHER_NAMES, *NESTED, *OTHER_AREAS, *OPEN, *IDS, *VERSIONS, *STATES),
        *(*OVERTURE, *NO_BUILDING, "fclass", "building_1"),
    )
)
"""Columns that count, in lower case; readers may drop all others."""
PREFIXES = ("tags.", "tags_", "tag_", "tag:", "properties.")
"""What programs write before the keys of tags that they spread over columns."""

YES_OR_NO = ("building", "tunnel", "indoor", "area", "demolished", "razed", "proposed")
"""Tags that programs write as truth values."""
TRUE = ("1", "1.0", "true", "t", "yes", "y")
"""Texts for yes, in lower case."""
FALSE = ("0", "0.0", "false", "f", "no", "n")
"""Texts for no, in lower case."""
NOTHING = ("", "none", "null", "nan", "<na>", "nat", "[]", "{}")
"""Texts for no value, in lower case."""
MAX_TEXT = 1 << 16
"""Longest text that is read as an object."""
BRACKETS = (("[", "]"), ("(", ")"), ("{", "}"))
"""What lists begin and end with where they were written as text."""
PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"\s*=>\s*(?:"((?:[^"\\]|\\.)*)"|NULL)')
"""A tag in the text form of PostgreSQL's hstore, which GDAL writes too."""


def known_as(name: str) -> str | None:
    """The name of a column among ``COLUMNS_READ``; None if it does not count."""
    lower = name.lower()
    for prefix in PREFIXES:
        if lower.startswith(prefix) and lower.removeprefix(prefix) in TAGS_READ:
            return lower.removeprefix(prefix)
    return lower if lower in COLUMNS_READ else None


def tags_of(table: gpd.GeoDataFrame, layer: str, building: bool) -> list[dict[str, str]]:
    """The OSM tags of each row.

    Args:
        table: The rows; columns have the names of ``known_as``.
        layer: Name of the layer.
        building: Whether the rows are looked through for buildings, which need no tag.
    """
    tags: list[dict[str, str]] = [{} for _ in range(len(table))]
    for column in NESTED:
        for row, value in zip(tags, table.get(column, ()), strict=False):
            _update(row, nested(value))
    for column, key in _columns(table).items():
        for row, value in zip(tags, table[column], strict=True):
            text = text_of(key, value)
            if text is not None:
                row[key] = text
    _overture(tags, table, building)
    if "type" in table and not any(name in table for name in OTHER_KINDS):
        _by_type(tags, table, layer)
    if "fclass" in table:
        _geofabrik(tags, table)
    elif building and "building" not in table and not any(name in table for name in NESTED):
        for row, other in zip(tags, _is_other(table), strict=True):
            if not other:
                row.setdefault("building", "yes")
    return tags


def text_of(key: str, value: Any) -> str | None:
    """The value of a tag as OSM writes it; None where there is none.

    Of several values, such as those of edges that osmnx has simplified, the first counts; of
    ``highway``, the first that is a road or path.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str) and (value[:1], value[-1:]) in BRACKETS:
        value = _listed(key, value)
    if isinstance(value, str) and key == "highway" and re.search(r"[;|,]", value):
        value = [part.strip() for part in re.split(r"[;|,]", value)]
    if isinstance(value, (list, tuple, set, np.ndarray)):
        texts = [text for one in value if (text := _single_text(key, one))]
        known = [text for text in texts if text in ROAD_WIDTHS_M or text in PATH_WIDTHS_M]
        return next(iter((known if key == "highway" else []) + texts), None)
    return _single_text(key, value)


def _listed(key: str, text: str) -> list[str] | str:
    """The values of a list that was written as text; other text in brackets as it is."""
    quoted = [one or other for one, other in re.findall(r"'([^']*)'|\"([^\"]*)\"", text)]
    if quoted:
        return quoted
    if text.startswith("[") or key == "highway":
        return [part.strip() for part in text[1:-1].split(",")]
    return text


def nested(value: Any) -> Any:
    """An object or a list, also where it was written as text; None for anything else.

    Known texts are JSON, hstore, and the way in which Python shows an object.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        value = value.strip()
        if value[:1] in ("{", "["):
            return _parsed(value)
        return [[re.sub(r"\\(.)", r"\1", text) for text in pair] for pair in PAIR.findall(value)]
    if isinstance(value, np.ndarray):
        return list(value)
    return value if isinstance(value, (dict, list, tuple)) else None


def _single_text(key: str, value: Any) -> str | None:
    """The value of a tag that has one value."""
    if value is None or isinstance(value, (dict, list, tuple, set, np.ndarray, shapely.Geometry)):
        return None
    if value is pd.NA or value is pd.NaT or value != value:
        return None
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    lower = text.lower()
    if lower in NOTHING:
        return None
    if key in YES_OR_NO and lower in TRUE:
        return "yes"
    if key in YES_OR_NO and lower in FALSE:
        return "no"
    if key == "highway" and text.startswith("track_grade"):
        return "track"
    return text


def _parsed(text: str) -> Any:
    """An object or a list that a text holds; None if it holds none."""
    if len(text) > MAX_TEXT:
        return None
    for parse in (json.loads, ast.literal_eval):
        try:
            value = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return value if isinstance(value, (dict, list)) else None
    return None


def _columns(table: gpd.GeoDataFrame) -> dict[str, str]:
    """The columns of tags, with the tag of each."""
    columns = {column: OTHER_NAMES.get(column, column) for column in table.columns}
    if "highway" not in table and "fclass" not in table:
        columns["class"] = "highway"
    if "building_1" in table:  # one of the two is "building:levels:underground", cut
        columns.pop("building_l", None)
    return {name: key for name, key in columns.items() if name in table and key in TAGS_READ}


def _update(row: dict[str, str], content: Any) -> None:
    """Add the tags of an object, or of a list of pairs, to a row."""
    pairs: Iterable[Any] = content.items() if isinstance(content, dict) else content or ()
    for pair in pairs:
        if isinstance(pair, dict):
            # Arrow and JavaScript write maps as lists of {"key": ..., "value": ...}.
            pair = pair.get("key", pair.get("k")), pair.get("value", pair.get("v"))
        if not (isinstance(pair, (list, tuple, np.ndarray)) and len(pair) == 2):
            continue
        key = pair[0].decode() if isinstance(pair[0], bytes) else pair[0]
        text = text_of(key, pair[1]) if isinstance(key, str) and key in TAGS_READ else None
        if text is not None:
            row[key] = text


def _is_other(table: gpd.GeoDataFrame) -> list[bool]:
    """Whether each row has a tag of something else than a building that stands."""
    other = [False] * len(table)
    for name in (*OTHER_AREAS, *NO_BUILDING, *OPEN):
        for row, value in enumerate(table.get(name, ())):
            text = text_of(name, value)
            is_said = text is not None and text.lower() not in FALSE
            other[row] |= is_said and (name not in OPEN or text in OPEN[name])
    return other


def _geofabrik(tags: list[dict[str, str]], table: gpd.GeoDataFrame) -> None:
    """Add what Geofabrik's columns say: ``fclass`` of every layer, ``type`` of buildings."""
    types = table["type"] if "type" in table else [None] * len(table)
    lines = shapely.get_dimensions(table.geometry.to_numpy()) == 1
    for row, value, kind, line in zip(tags, table["fclass"], types, lines, strict=True):
        text = text_of("highway", value)
        if line and text is not None:
            row["highway"] = text
        elif text == "building":
            row["building"] = text_of("building", kind) or row.get("building", "yes")
        else:
            row.pop("building", None)


def _by_type(tags: list[dict[str, str]], table: gpd.GeoDataFrame, layer: str) -> None:
    """Add what layers say that have no other column of kinds than ``type``, as BBBike's have.

    The name of a layer states whether its areas are buildings.
    """
    words = set(re.split(r"[^a-z]+", layer.lower()))
    lines = shapely.get_dimensions(table.geometry.to_numpy()) == 1
    for row, value, line in zip(tags, table["type"], lines, strict=True):
        text = text_of("highway", value)
        if line and (text in ROAD_WIDTHS_M or text in PATH_WIDTHS_M):
            row["highway"] = str(text)
        elif not line and "building" in layer.lower() and text is not None:
            row["building"] = text
        elif not line and words & OTHER_LAYERS:
            row["building"] = "no"


def _overture(tags: list[dict[str, str]], table: gpd.GeoDataFrame, building: bool) -> None:
    """Add what Overture's own columns say."""

    def rows(column: str) -> Iterable[tuple[dict[str, str], Any]]:
        return zip(tags, table[column], strict=True) if column in table else ()

    for row, value in rows("names"):
        names = nested(value)
        if isinstance(names, dict) and isinstance(names.get("primary"), str):
            row["name"] = names["primary"]
    if building:
        for row, hidden in rows("is_underground"):
            if text_of("tunnel", hidden) == "yes":
                row["location"] = "underground"
        for row, theme in rows("theme"):
            if text_of("theme", theme) not in (None, "buildings"):
                row["building"] = "no"
        for row, kind in rows("type"):
            if text_of("type", kind) == "building_part":
                row["building"] = "no"
        if "building" not in table:
            for row, kind in rows("class"):
                if text_of("class", kind) == "roof":
                    row["building"] = "roof"
            for row, kind in rows("subtype"):
                if text_of("subtype", kind) not in (None, *OVERTURE_SUBTYPES):
                    row["building"] = "no"
        return
    for row, subtype in rows("subtype"):
        if text_of("subtype", subtype) != "road":
            row.pop("highway", None)
    for row, value in rows("road_flags"):
        if any("is_tunnel" in _values(flag) for flag in _whole(value)):
            row["tunnel"] = "yes"
    for row, value in rows("level_rules"):
        if any(text_of("layer", rule.get("value", 0)) in _BELOW for rule in _whole(value)):
            row["layer"] = "-1"


_BELOW = {str(-level) for level in range(1, 10)}
"""Levels below the ground."""


def _whole(value: Any) -> list[dict[str, Any]]:
    """The rules of a segment that hold for all of it."""
    rules = [rule for rule in nested(value) or () if isinstance(rule, dict)]
    return [rule for rule in rules if rule.get("between") is None]


def _values(flag: dict[str, Any]) -> list[Any]:
    return list(nested(flag.get("values")) or ())
