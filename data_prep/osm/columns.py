"""OSM tags from the columns of a vector table, in any layout that programs write.

Known are OSM tags, those of GDAL's OSM driver (``other_tags``), of osmnx, of Overture (``height``,
``num_floors``, ``class``, ``subtype``, ``names``), of Geofabrik's free layers (``fclass``,
``type``), and tags in one column (osm2geojson, QuackOSM).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd

from data_prep.osm.tables import PATH_WIDTHS_M, ROAD_WIDTHS_M, TAGS_READ

OTHER_NAMES = {
    "num_floors": "building:levels",
    "levels": "building:levels",
    **{name.replace(":", "_"): name for name in TAGS_READ if ":" in name},
}
"""Other names of columns, with the tag that they stand for."""
NESTED = ("tags", "all_tags", "properties")
"""Columns whose values are objects of tags."""
YES_OR_NO = ("building", "tunnel", "indoor", "area")
"""Tags that programs write as truth values."""
TRUE = ("1", "1.0", "true", "t")
"""Texts for yes."""
FALSE = ("0", "0.0", "false", "f", "none")
"""Texts for no."""


def tags_of(table: gpd.GeoDataFrame, layer: str, building: bool) -> list[dict[str, str]]:
    """The OSM tags of each row.

    Args:
        table: The rows.
        layer: Name of the layer, which Geofabrik's layers need.
        building: Whether the rows are looked through for buildings, which need no tag.
    """
    tags: list[dict[str, str]] = [{} for _ in range(len(table))]
    if "other_tags" in table:
        for row, text in zip(tags, table["other_tags"], strict=True):
            pairs = re.findall(r'"([^"]+)"=>"([^"]*)"', text if isinstance(text, str) else "")
            row.update((key, value) for key, value in pairs if key in TAGS_READ)
    for column in NESTED:
        for row, value in zip(tags, table.get(column, ()), strict=False):
            _update(row, nested(value))
    for column, key in _columns(table, layer).items():
        for row, value in zip(tags, table[column], strict=True):
            text = text_of(key, value)
            if text is not None:
                row[key] = text
    _overture(tags, table, building)
    if building and "building" not in table and not any(name in table for name in NESTED):
        for row in tags:
            row.setdefault("building", "yes")
    return tags


def text_of(key: str, value: Any) -> str | None:
    """The value of a tag as OSM writes it; None where there is none.

    Of several values, such as those of edges that osmnx has simplified, the first counts; of
    ``highway``, the first that is a road or path.
    """
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        value = [part.strip().strip("'\"") for part in value[1:-1].split(",")]
    if isinstance(value, (list, tuple, np.ndarray)):
        texts = [text for one in value if (text := text_of(key, one))]
        known = [text for text in texts if text in ROAD_WIDTHS_M or text in PATH_WIDTHS_M]
        return next(iter((known if key == "highway" else []) + texts), None)
    if isinstance(value, dict) or value is None or pd.isna(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    if key in YES_OR_NO and text.lower() in TRUE:
        return "yes"
    if key in YES_OR_NO and text.lower() in FALSE:
        return "no"
    if key == "highway" and text.startswith("track_grade"):
        return "track"
    return text or None


def nested(value: Any) -> Any:
    """An object or a list, also where it was written as JSON; None for anything else."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if isinstance(value, np.ndarray):
        return list(value)
    return value if isinstance(value, (dict, list)) else None


def _columns(table: gpd.GeoDataFrame, layer: str) -> dict[str, str]:
    """The columns of tags, with the tag of each."""
    columns = {column: OTHER_NAMES.get(column, column) for column in table.columns}
    if "highway" not in table:
        columns["class"] = "highway"
    name = layer.lower()
    if "fclass" in table:
        columns |= {"fclass": "highway"} if "roads" in name else {}
        columns |= {"type": "building"} if "building" in name and "building" not in table else {}
    return {name: key for name, key in columns.items() if name in table and key in TAGS_READ}


def _update(row: dict[str, str], content: Any) -> None:
    """Add the tags of an object, or of a list of pairs, to a row."""
    pairs: Iterable[Any] = content.items() if isinstance(content, dict) else content or ()
    for pair in pairs:
        if isinstance(pair, (list, tuple, np.ndarray)) and len(pair) == 2 and pair[0] in TAGS_READ:
            text = text_of(pair[0], pair[1])
            if text is not None:
                row[pair[0]] = text


def _overture(tags: list[dict[str, str]], table: gpd.GeoDataFrame, building: bool) -> None:
    """Add what Overture's own columns say."""
    for row, value in zip(tags, table.get("names", ()), strict=False):
        names = nested(value)
        if isinstance(names, dict) and isinstance(names.get("primary"), str):
            row["name"] = names["primary"]
    if building and "is_underground" in table:
        for row, hidden in zip(tags, table["is_underground"], strict=True):
            if text_of("tunnel", hidden) == "yes":
                row["location"] = "underground"
    if not building and "subtype" in table:
        for row, subtype in zip(tags, table["subtype"], strict=True):
            if subtype != "road":
                row.pop("highway", None)
    if not building and "road_flags" in table:
        for row, value in zip(tags, table["road_flags"], strict=True):
            flags = [flag for flag in nested(value) or () if isinstance(flag, dict)]
            tunnel = ["is_tunnel" in (nested(flag.get("values")) or ()) for flag in flags]
            whole = [flag.get("between") is None for flag in flags]
            if any(a and b for a, b in zip(tunnel, whole, strict=True)):
                row["tunnel"] = "yes"
