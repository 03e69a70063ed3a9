"""Strategies of hypothesis that build plausible maps and break them, per kind of file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import geopandas as gpd
import osmium
import shapely
from hypothesis import strategies as st

LATITUDE, LONGITUDE = 51.75, -1.26

ODD_NUMBERS: list[Any] = [0, -1, 1e300, 91, 181, -5, 2**31, 2**63, 10**25, 1e-9, True, 0.5]
ODD_TEXTS = ["", "abc", "nan", "inf", "-0", "1e9", "12,5", "\x01", "é", "9" * 5000, "1;2", "null"]
ODD_VALUES: list[Any] = [*ODD_NUMBERS, *ODD_TEXTS, None, [], {}, ["a", 1], {"a": [1]}, "[1, 2", "{"]
TAG_VALUES = {
    "building": ["yes", "house", "no", "roof", "proposed", "true", "1", "True"],
    "highway": ["residential", "service", "footway", "construction", "['service', 'primary']"],
    "building:levels": ["2", "-3", "2-3", "1e6"],
    "height": ["12", "12 m", "40'", "-5", "1e9", "3 storeys", "9" * 400],
    "layer": ["-1", "1", "a"],
    "location": ["surface", "underground"],
    "tunnel": ["yes", "no", "F"],
    "area": ["yes", "no"],
    "place": ["square"],
    "name": ["Lane", "", "\x02", "<&>", "\ud800"],
    "type": ["multipolygon", "boundary"],
    "width": ["7", "7 m", "-1"],
}
"""Values of tags that occur, and some that should not."""

numbers = st.sampled_from([*range(-3, 14), 2**40, 2**62, 10**25])
tags = st.dictionaries(st.sampled_from([*TAG_VALUES]), st.integers(0, 9), max_size=4).map(
    lambda drawn: {key: TAG_VALUES[key][at % len(TAG_VALUES[key])] for key, at in drawn.items()}
)
positions = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(
    lambda cell: (LATITUDE + cell[0] * 1e-4, LONGITUDE + cell[1] * 1e-4)
)
odd = st.sampled_from(ODD_VALUES)


def sometimes(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> Any:
    """Mostly a usual value, one time in eight another one."""
    return st.integers(0, 7).flatmap(lambda dice: usual if dice else other)


@st.composite
def elements(draw: Callable[[Any], Any], wild: bool) -> list[dict[str, Any]]:
    """A village as elements of Overpass; ``wild`` allows values of other types."""
    number = sometimes(numbers, odd) if wild else st.integers(1, 13)
    found: list[dict[str, Any]] = []
    for index in range(1, draw(st.integers(4, 12))):
        latitude, longitude = draw(positions)
        node = {"type": "node", "id": index, "lat": latitude, "lon": longitude}
        if wild and not draw(st.integers(0, 9)):
            node[draw(st.sampled_from([*node]))] = draw(odd)
        found.append(node)
    for index in range(draw(st.integers(0, 4))):
        nodes = draw(st.lists(number, max_size=6))
        way = {"type": "way", "id": 20 + index, "nodes": nodes + nodes[:1], "tags": draw(tags)}
        if wild and not draw(st.integers(0, 4)):
            way["geometry"] = draw(st.lists(st.none() | places, max_size=7))
        if wild and not draw(st.integers(0, 9)):
            way[draw(st.sampled_from([*way]))] = draw(odd)
        found.append(way)
    for index in range(draw(st.integers(0, 2))):
        roles = st.sampled_from(["outer", "inner", "", "x"])
        ways = st.integers(20, 24) | number
        members = draw(st.lists(st.tuples(st.sampled_from(["way", "node"]), ways, roles)))
        drawn = draw(tags)
        relation = {
            "type": "relation",
            "id": 40 + index,
            "tags": {"type": "multipolygon", "building": "yes"} | drawn,
            "members": [dict(zip(("type", "ref", "role"), m, strict=True)) for m in members],
        }
        if wild and not draw(st.integers(0, 9)):
            relation[draw(st.sampled_from([*relation]))] = draw(odd)
        found.append(relation)
    for element in found if wild else ():
        if not draw(st.integers(0, 9)):
            element[draw(st.sampled_from(["version", "visible", "action"]))] = draw(odd)
    return draw(st.permutations(found)) if wild and draw(st.booleans()) else found


places = st.fixed_dictionaries({"lat": st.just(LATITUDE) | odd, "lon": st.just(LONGITUDE) | odd})


@st.composite
def broken_bytes(draw: Callable[[Any], Any], content: bytes, most: int = 3) -> bytes:
    """The content with some bytes cut, lost, repeated, changed or added."""
    for _ in range(draw(st.integers(0, most))):
        at, length = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
        part = content[at : at + length]
        how = draw(st.integers(0, 4))
        added = draw(st.binary(min_size=1, max_size=6))
        content = (
            content[:at],
            content[:at] + content[at + length :],
            content[: at + length] + part + content[at + length :],
            content[:at] + added + content[at + len(added) :],
            content[:at] + added + content[at:],
        )[how]
    return content


@st.composite
def overpass_files(draw: Callable[[Any], Any], folder: Path) -> Path:
    content: dict[str, Any] = {"version": 0.6, "osm3s": {}, "elements": draw(elements(True))}
    if not draw(st.integers(0, 9)):
        content[draw(st.sampled_from([*content, "remark"]))] = draw(odd)
    text = json.dumps(content).encode("utf-8", "replace")
    return write(folder / "made.json", draw(broken_bytes(text)))


@st.composite
def xml_files(draw: Callable[[Any], Any], folder: Path) -> Path:
    text = xml_of(draw(elements(True)))
    content = draw(broken_bytes(text.encode("utf-8", "surrogatepass")))
    return write(folder / "made.osm", content)


@st.composite
def pbf_files(draw: Callable[[Any], Any], folder: Path) -> Path:
    source, target = folder / "source.osm", folder / "made.osm.pbf"
    text = xml_of(draw(elements(False))).replace("\x02", "")
    source.write_text(text, "utf-8", "replace")
    target.unlink(missing_ok=True)
    packing = draw(st.sampled_from(["none", "none", "zlib"]))
    file = osmium.io.File(str(target), f"pbf,pbf_compression={packing}")
    with osmium.SimpleWriter(file) as writer:
        for thing in osmium.FileProcessor(str(source)):
            writer.add(thing)
    return write(target, draw(broken_bytes(target.read_bytes())))


def xml_of(found: list[dict[str, Any]]) -> str:
    """Elements as OSM XML; values of any type are written as they are."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>\n<osm version="0.6">']
    for element in found:
        kind = element["type"] if isinstance(element["type"], str) else "node"
        kind = kind if kind.isalpha() else "way"
        about = {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in element.items()
            if key not in ("type", "nodes", "members", "tags", "geometry")
        }
        lines.append(f"<{kind} {' '.join(f'{k}={quoteattr(v)}' for k, v in about.items())}>")
        nodes, geometry = listed(element.get("nodes")), listed(element.get("geometry"))
        for index, node in enumerate(nodes):
            where = geometry[index] if index < len(geometry) and geometry[index] else {}
            pairs = " ".join(f"{key}={quoteattr(str(value))}" for key, value in where.items())
            lines.append(f"<nd ref={quoteattr(str(node))} {pairs}/>")
        for member in listed(element.get("members")):
            if isinstance(member, dict):
                pairs = " ".join(f"{k}={quoteattr(str(v))}" for k, v in member.items())
                lines.append(f"<member {pairs}/>")
        tags_of = element.get("tags")
        for key, value in tags_of.items() if isinstance(tags_of, dict) else ():
            lines.append(f"<tag k={quoteattr(str(key))} v={quoteattr(str(value))}/>")
        lines.append(f"</{kind}>")
    return "\n".join([*lines, "</osm>"])


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# --- tables -------------------------------------------------------------------------------------

COLUMNS = [
    *("building", "highway", "height", "layer", "location", "tunnel", "name", "width", "lanes"),
    *("class", "subtype", "road_flags", "level_rules", "names", "tags", "other_tags", "fclass"),
    *("type", "id", "@id", "osm_id", "osm_way_id", "element", "is_underground", "num_floors"),
    *("building:levels", "building_levels", "Building", "landuse", "theme", "demolished:building"),
]
CELLS: list[Any] = [
    *("yes", "no", "residential", "road", "building", "12 m", '{"building": "yes"}', "T", "-1"),
    *("['service', 'primary']", '"building"=>"yes"', "{'building': 'yes'}", "[" * 300, "way/1"),
    '[{"values": ["is_tunnel"], "between": null}]',
]
NESTED_CELLS: list[Any] = [
    {"building": "yes"},
    [["building", "yes"]],
    ["residential", "service"],
    [{"values": ["is_tunnel"], "between": None}],
    [{"value": -1}],
    {"primary": None},
]
SYSTEMS = ["EPSG:4326", "OGC:CRS84", "EPSG:3857", "EPSG:32630", "EPSG:4979", None]


def box(x: float, y: float) -> shapely.Geometry:
    return shapely.box(x, y, x + 1e-4, y + 1e-4)


@st.composite
def shapes(draw: Callable[[Any], Any]) -> shapely.Geometry | None:
    """A geometry in degrees near one point, also an odd one."""
    latitude, longitude = draw(positions)
    house = box(longitude, latitude)
    line = shapely.LineString([(longitude, latitude), (longitude + 1e-3, latitude)])
    crossed = shapely.Polygon([(longitude + x, latitude + y) for x, y in CROSSED])
    usual = [house, house, house, line, line]
    others: list[Any] = [
        *(None, shapely.Polygon(), shapely.Point(longitude, latitude), crossed),
        *(shapely.GeometryCollection([house, line]), shapely.GeometryCollection()),
        *(shapely.force_3d(house, 7.0), shapely.MultiPolygon([house, crossed])),
        *(shapely.box(-180, -90, 180, 90), shapely.box(179.9999, 0, 180, 0.0001)),
        *(shapely.box(200, 300, 201, 301), shapely.box(0, 89.9999, 0.0001, 90)),
        shapely.MultiLineString([line, line]),
        shapely.Polygon([(longitude, latitude)] * 4),
    ]
    return draw(sometimes(st.sampled_from(usual), st.sampled_from(others)))


CROSSED = [(0, 0), (1e-4, 1e-4), (1e-4, 0), (0, 1e-4)]


@st.composite
def tables(draw: Callable[[Any], Any], cells: list[Any]) -> gpd.GeoDataFrame:
    """A table whose columns hold values of one or of several types."""
    geometry = draw(st.lists(shapes(), min_size=1, max_size=8))
    columns = {}
    for name in draw(st.lists(st.sampled_from(COLUMNS), unique=True, max_size=5)):
        cell = st.sampled_from([None, *cells, *ODD_NUMBERS[:6], *ODD_TEXTS, True, False])
        columns[name] = draw(st.lists(cell, min_size=len(geometry), max_size=len(geometry)))
        if draw(st.booleans()):
            columns[name] = [columns[name][0]] * len(geometry)
    system = draw(sometimes(st.just("EPSG:4326"), st.sampled_from(SYSTEMS)))
    table = gpd.GeoDataFrame(columns, geometry=geometry, crs="EPSG:4326")
    if draw(st.booleans()):
        return table.set_crs(system, allow_override=True)
    return table.to_crs(system) if system else table


@st.composite
def geojson_files(draw: Callable[[Any], Any], folder: Path) -> Path:
    table = draw(tables([*CELLS, *NESTED_CELLS]))
    features = []
    for row in table.to_dict("records"):
        shape = row.pop("geometry")
        geometry = json.loads(shapely.to_geojson(shape)) if shape is not None else None
        if geometry and not draw(st.integers(0, 9)):
            geometry[draw(st.sampled_from(["type", "coordinates"]))] = draw(odd)
        feature = {"type": "Feature", "geometry": geometry, "properties": row}
        if not draw(st.integers(0, 19)):
            feature[draw(st.sampled_from([*feature, "id"]))] = draw(odd)
        features.append(feature)
    content: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if not draw(st.integers(0, 3)):
        name = draw(st.sampled_from(["EPSG:4326", "urn:ogc:def:crs:EPSG::32630", "EPSG:9", "x"]))
        content["crs"] = {"type": "name", "properties": {"name": name}}
    text = json.dumps(content, default=str).encode("utf-8", "replace")
    return write(folder / "made.geojson", draw(broken_bytes(text, 2)))


@st.composite
def table_files(draw: Callable[[Any], Any], folder: Path) -> Path | None:
    """A GeoPackage, Shapefile, FlatGeobuf or GeoParquet file; None if it cannot be written."""
    suffix = draw(st.sampled_from([".gpkg", ".shp", ".fgb", ".parquet"]))
    nested = suffix == ".parquet" and draw(st.booleans())
    table = draw(tables(NESTED_CELLS[:1] if nested else CELLS))
    path = folder / f"made{suffix}"
    for old in folder.glob("made.*"):
        old.unlink()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if suffix == ".parquet":
                table.to_parquet(path)
            else:
                table.to_file(path, layer=draw(st.sampled_from(["buildings", "made", "roads"])))
    except Exception:  # the writer refuses what no file of this kind can hold
        return None
    if draw(st.booleans()):
        files = sorted(folder.glob("made.*"))
        one = draw(st.sampled_from(files))
        write(one, draw(broken_bytes(one.read_bytes())))
        if suffix == ".shp" and one != path and not draw(st.integers(0, 5)):
            one.unlink()
    return path


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
