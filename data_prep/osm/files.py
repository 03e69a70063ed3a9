"""Buildings and roads from OSM files (XML, PBF, o5m, answers of Overpass), by pyosmium.

This project closes rings and assembles multipolygons itself: osmium's assembler drops
self-crossing rings that can be repaired, and refuses files whose ids are not in order. The outer
ways of a multipolygon are not buildings of their own: they would fill its courtyards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import osmium
import shapely

from data_prep.errors import MaptileError
from data_prep.osm.elements import KINDS, Element, osm_xml, standing
from data_prep.osm.kinds import MapFile
from data_prep.osm.overpass import json_objects
from data_prep.osm.plain_xml import is_odd, xml_objects
from data_prep.osm.rings import assembled, joined_rings, ring_of
from data_prep.osm.source import Bounds
from data_prep.osm.tables import (
    TAGS_READ,
    Extract,
    Tags,
    features,
    is_building,
    is_road,
    is_square,
)
from data_prep.progress import Progress, silent, tracked

_UNINTERESTING = {
    *("area", "created_by", "converted_by", "source", "note", "todo", "fixme", "FIXME"),
    *("name", "type", "wikidata"),
}
"""Tags that do not describe what a relation is. A relation without other tags takes the tags of its
outer ways."""


class _Relation(NamedTuple):
    """Tags and member ways of a multipolygon.

    Attributes:
        tags: Those of ``TAGS_READ``.
        outer, inner: Ids of the ways with these roles.
    """

    tags: Tags
    outer: tuple[int, ...]
    inner: tuple[int, ...]


def read_osm_file(source: MapFile, *, progress: Progress = silent) -> Extract:
    """Read the buildings, roads and squares of an OSM file.

    Args:
        source: The file.
        progress: Called after each way; their total is not known (0).

    Raises:
        MaptileError: The file is truncated, or no whole map.
    """
    if source.kind == "xml" and not is_odd(source.path):
        # What osmium does not accept is read once more below, where errors name the object.
        with suppress(RuntimeError, ValueError, osmium.InvalidLocationError):
            return _read(source, progress)
    elif source.kind in ("pbf", "o5m") and not _is_disordered(source):
        return _read(source, progress)
    root: dict[str, str] = {}
    if source.kind == "xml":
        elements = xml_objects(source, root)
    elif source.kind == "overpass":
        elements = json_objects(source, root)
    else:
        elements = _osmium_objects(source)
    whole = standing(source.path, elements)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{source.path.name.partition('.')[0]}.osm"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(
                f"{line}\n" for line in osm_xml(whole, root.get("bounds"), root.get("date"))
            )
        del whole
        try:
            return _read(MapFile(path, "xml", ""), progress)
        except MaptileError as error:
            raise MaptileError(str(error).replace(str(path), str(source.path))) from error


def _osmium_file(source: MapFile) -> osmium.io.File:
    """A file as osmium opens it, whatever its name."""
    packing = f".{source.packing}" if source.packing else ""
    kind = "osm" if source.kind == "xml" else source.kind
    return osmium.io.File(str(source.path), f"{kind}{packing}")


def _is_disordered(source: MapFile) -> bool:
    """Whether the ways and relations of a binary file are in no order, or have ids below 1.

    Raises:
        MaptileError: It is a history file.
    """
    with osmium.io.Reader(_osmium_file(source), osmium.osm.NOTHING) as reader:
        header = reader.header()
        if header.has_multiple_object_versions:
            raise MaptileError(
                f"{source.path}: a history file, with every version of its objects; take those of "
                "one day first: osmium time-filter"
            )
        if header.get("sorting") == "Type_then_ID":
            return False
    last = (0, 0)
    for one in osmium.FileProcessor(_osmium_file(source), osmium.osm.WAY | osmium.osm.RELATION):
        key = (1 if one.is_way() else 2, one.id)
        if key <= last or not one.visible or one.id < 1:
            return True
        last = key
    return False


def _osmium_objects(source: MapFile) -> Iterator[Element]:
    """Yield the objects of a binary file."""
    for one in osmium.FileProcessor(_osmium_file(source)):
        tags = {tag.k: tag.v for tag in one.tags}
        about = one.version, not one.visible, tags
        if one.is_node():
            valid = one.location.valid()
            position = (one.location.lat, one.location.lon) if valid else None
            yield Element("node", one.id, *about, position=position)
        elif one.is_way():
            yield Element("way", one.id, *about, nodes=tuple(node.ref for node in one.nodes))
        else:
            kinds = {kind[0]: kind for kind in KINDS}
            members = tuple((kinds[m.type], m.ref, m.role) for m in one.members)
            yield Element("relation", one.id, *about, members=members)


def _read(source: MapFile, progress: Progress) -> Extract:
    """Read a file that is in order."""
    relations, multipolygons, missing = _multipolygons(source)
    replaced = {way for name in multipolygons for way in relations[name].outer}
    buildings = [
        (f"relation/{name}", relations[name].tags, polygon)
        for name, polygon in multipolygons.items()
    ]
    member = {way for relation in relations.values() for way in relation.outer}
    roads: list[tuple[str, Tags, shapely.Geometry]] = []
    squares: list[tuple[str, Tags, shapely.Geometry]] = []
    cut = unclosed = pieces = bare = 0
    ways = _ways(source, osmium.filter.KeyFilter("building", "highway", "place"))
    for way, tags, line in tracked(ways, f"read {source.path.name}", 0, progress):
        bare += not any(node.location.valid() for node in way.nodes)
        if is_building(tags) and way.id not in replaced:
            if not len(way.nodes) or not way.is_closed():
                # An open outer way of a relation is a part of a building's ring.
                unclosed += way.id not in member
            elif line is None:
                cut += 1
            elif (ring := ring_of(line)) is not None:
                buildings.append((f"way/{way.id}", tags, ring))
            else:
                unclosed += 1
        elif is_road(tags):
            if line is None:
                line = _usable_runs(way)
                pieces += 1
            if not line.is_empty:
                roads.append((f"way/{way.id}", tags, line))
        elif is_square(tags) and line is not None and line.is_closed and ring_of(line):
            squares.append((f"way/{way.id}", tags, shapely.Polygon(line)))
    if bare and not buildings and not roads:
        raise MaptileError(
            f"{source.path}: {bare} buildings and roads without the positions of their nodes; ask "
            "Overpass for them: out body; >; out skel; or out geom;"
        )
    dropped = {
        "buildings cut by the edge of the extract": cut,
        "buildings whose ring does not close": unclosed,
        "multipolygons with a ring that does not close": missing,
        "roads cut by the edge of the extract (the part inside is kept)": pieces,
    }
    bounds, date = _header(source)
    tables = features(buildings), features(roads), features(squares)
    return Extract(*tables, bounds, date, dropped)


def _ways(
    source: MapFile, which: Any
) -> Iterator[tuple[osmium.osm.Way, Tags, shapely.LineString | None]]:
    """Yield each way that passes the osmium filter ``which``, with its tags and its line.

    The line is in degrees (longitude, latitude); None where none can be made, as where the file
    lacks nodes of the way. osmium reuses the memory of a way: keep no reference to it.
    """
    factory = osmium.geom.WKBFactory()
    for way in (
        osmium.FileProcessor(_osmium_file(source))
        .with_locations()
        .with_filter(osmium.filter.EntityFilter(osmium.osm.WAY))
        .with_filter(which)
    ):
        try:
            line = shapely.from_wkb(factory.create_linestring(way))
        except (RuntimeError, osmium.InvalidLocationError):
            line = None
        yield way, _tags(way), line


def _tags(element: Any) -> Tags:
    """Return the tags of an osmium object that the tables depend on."""
    return {tag.k: tag.v for tag in element.tags if tag.k in TAGS_READ}


def _multipolygons(
    source: MapFile,
) -> tuple[dict[int, _Relation], dict[int, shapely.Geometry], int]:
    """Read the multipolygons that are buildings.

    A relation is a building by its own tags or, in the old style of OSM, by those of its outer
    ways.

    Returns:
        The relations by id; the polygons of those with a closed outer ring, by id; and the number
        of relations with a ring that does not close.
    """
    relations: dict[int, _Relation] = {}
    for relation in osmium.FileProcessor(_osmium_file(source), osmium.osm.RELATION).with_filter(
        osmium.filter.TagFilter(("type", "multipolygon"))
    ):
        tags = _tags(relation)
        old_style = all(tag.k in _UNINTERESTING for tag in relation.tags)
        if is_building(tags) or old_style:
            ways = [member for member in relation.members if member.type == "w"]
            relations[relation.id] = _Relation(
                tags,
                tuple(way.ref for way in ways if way.role != "inner"),
                tuple(way.ref for way in ways if way.role == "inner"),
            )
    wanted = {way for relation in relations.values() for way in relation.outer + relation.inner}
    ways_tags: dict[int, Tags] = {}
    lines: dict[int, shapely.LineString | None] = {}
    if wanted:
        for way, tags, line in _ways(source, osmium.filter.IdFilter(wanted)):
            ways_tags[way.id], lines[way.id] = tags, line
    polygons = {}
    missing = 0
    for name, relation in list(relations.items()):
        if "building" not in relation.tags:
            outer_tags = [
                tags for way in relation.outer if is_building(tags := ways_tags.get(way, {}))
            ]
            if not outer_tags:
                del relations[name]
                continue
            relations[name] = relation._replace(tags=outer_tags[0])
        outer, outer_whole = joined_rings([lines.get(way) for way in relation.outer])
        inner, inner_whole = joined_rings([lines.get(way) for way in relation.inner])
        missing += not (outer_whole and inner_whole)
        if outer:
            polygons[name] = assembled(outer, inner)
    return relations, polygons, missing


def _usable_runs(way: osmium.osm.Way) -> shapely.MultiLineString:
    """Return the parts of a way that the file has nodes of, in degrees (longitude, latitude).

    Each part has two nodes or more.
    """
    runs: list[list[tuple[float, float]]] = [[]]
    for node in way.nodes:
        if node.location.valid():
            runs[-1].append((node.location.lon, node.location.lat))
        elif runs[-1]:
            runs.append([])
    return shapely.MultiLineString([run for run in runs if len(run) > 1])


def _header(source: MapFile) -> tuple[Bounds | None, str | None]:
    """Return the mapped area (degrees) and the date that the file's header states."""
    with osmium.io.Reader(_osmium_file(source), osmium.osm.NOTHING) as reader:
        header = reader.header()
        box, date = header.box(), header.get("osmosis_replication_timestamp") or None
    bounds = None
    if box.valid():
        west, east = box.bottom_left.lon, box.top_right.lon
        bounds = (west, box.bottom_left.lat, east, box.top_right.lat)
    return bounds, date or _overpass_date(source)


def _overpass_date(source: MapFile) -> str | None:
    """Return the date in the ``meta`` element of a file from Overpass, which osmium skips."""
    if source.kind != "xml":
        return None
    with source.open() as file:
        found = re.search(rb'osm_base="([^"]+)"', file.read(4096))
    return found[1].decode("utf-8", "replace") if found else None
