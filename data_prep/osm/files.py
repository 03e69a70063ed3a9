"""Buildings and roads from OSM files (XML, PBF, o5m, answers of Overpass), by pyosmium.

This project closes rings and assembles multipolygons itself: osmium's assembler drops
self-crossing rings that can be repaired, and refuses files whose ids are not in order. The outer
ways of a multipolygon are not buildings of their own: they would fill its courtyards.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import osmium
import shapely

from data_prep.errors import MaptileError
from data_prep.osm.columns import YES_OR_NO, text_of
from data_prep.osm.elements import KINDS, Element, osm_xml, standing
from data_prep.osm.kinds import MapFile
from data_prep.osm.overpass import json_objects
from data_prep.osm.plain_xml import is_odd, overpass_date, xml_objects
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
WRITTEN_OTHERWISE = frozenset((*YES_OR_NO, "highway"))
"""Tags whose values programs also write as truth values or lists."""
FIRST_NODES = 100_000
"""Nodes of a binary file whose ids are checked. In order, negative ids come first."""
UNTAGGED = "no buildings in it: no tags, only ids, positions or the number of objects"
"""What is said of an answer to ``out ids``, ``out skel`` or ``out count``."""


class _DisorderError(Exception):
    """Nodes of a binary file have ids below 1."""


@dataclass
class _Lost:
    """What a file lacks, and the objects that this concerns.

    Attributes:
        cut: Buildings that lack nodes.
        unclosed: Buildings whose ring does not close.
        multipolygons: Those that are buildings, with a ring that does not close, or without one.
        pieces: Roads that lack nodes.
        bare: Buildings and roads of which no node has a position.
    """

    cut: int = 0
    unclosed: int = 0
    multipolygons: int = 0
    pieces: int = 0
    bare: int = 0

    def by_reason(self) -> dict[str, int]:
        """The number of objects that are left out, or out in part, by reason."""
        return {
            "buildings cut by the edge of the extract": self.cut,
            "buildings whose ring does not close": self.unclosed,
            "multipolygons with a ring that does not close": self.multipolygons,
            "roads cut by the edge of the extract (the part inside is kept)": self.pieces,
        }


class _Relation(NamedTuple):
    """Tags and member ways of a multipolygon.

    Attributes:
        tags: Those of ``TAGS_READ``.
        outer, inner: Ids of the ways with these roles.
        is_empty: Whether it has no members of any kind.
    """

    tags: Tags
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    is_empty: bool


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
            return _read(source, source, progress)
    elif source.kind in ("pbf", "o5m") and not _is_disordered(source):
        with suppress(_DisorderError):
            return _read(source, source, progress)
    root: dict[str, str] = {}
    if source.kind == "xml":
        elements = xml_objects(source, root)
    elif source.kind == "overpass":
        elements = json_objects(source, root)
    else:
        elements = _osmium_objects(source)
    whole = standing(source.path, elements)
    if (whole or "count" in root) and not any(element.tags for element in whole):
        raise MaptileError(f"{source.path}: {UNTAGGED}; {source.remedy}")
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{source.path.name.partition('.')[0]}.osm"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(
                f"{line}\n" for line in osm_xml(whole, root.get("bounds"), root.get("date"))
            )
        del whole
        return _read(MapFile(path, "xml", ""), source, progress)


def _osmium_file(source: MapFile) -> osmium.io.File:
    """A file as osmium opens it, whatever its name."""
    packing = f".{source.packing}" if source.packing else ""
    kind = "osm" if source.kind == "xml" else source.kind
    return osmium.io.File(str(source.path), f"{kind}{packing}")


def _is_disordered(source: MapFile) -> bool:
    """Whether a binary file has to be put in order: by its ids, whatever the header says.

    All ways and relations are checked, and the first ``FIRST_NODES`` nodes. Ids below 1, deleted
    objects and several versions of an object count, and ways or relations in no order.

    Raises:
        MaptileError: It is a history file.
    """
    file = _osmium_file(source)
    with osmium.io.Reader(file, osmium.osm.NOTHING) as reader:
        if reader.header().has_multiple_object_versions:
            raise MaptileError(
                f"{source.path}: a history file, with every version of its objects; take those of "
                "one day first: osmium time-filter"
            )
    known: set[int] = set()
    for node in itertools.islice(osmium.FileProcessor(file, osmium.osm.NODE), FIRST_NODES):
        if node.id in known or not node.visible or node.id < 1:
            return True
        known.add(node.id)
    last = (0, 0)
    for one in osmium.FileProcessor(file, osmium.osm.WAY | osmium.osm.RELATION):
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


def _read(source: MapFile, origin: MapFile, progress: Progress) -> Extract:
    """Read a file whose objects are in order; its nodes may come last.

    Args:
        source: The file.
        origin: The file that it was made from, or itself; for messages.
        progress: Called after each way.

    Raises:
        MaptileError: It has no tags or no positions.
        _DisorderError: It is a binary file with ids below 1.
    """
    lost, nodes = _Lost(), osmium.NodeLocationsForWays(osmium.index.create_map("flex_mem"))
    nodes.ignore_errors()
    relations, multipolygons = _multipolygons(source, nodes, lost)
    replaced = {way for name in multipolygons for way in relations[name].outer}
    buildings = [
        (f"relation/{name}", relations[name].tags, polygon)
        for name, polygon in multipolygons.items()
    ]
    member = {way for relation in relations.values() for way in relation.outer}
    roads: list[tuple[str, Tags, shapely.Geometry]] = []
    squares: list[tuple[str, Tags, shapely.Geometry]] = []
    ways = _ways(source, osmium.filter.KeyFilter("building", "highway", "place"), nodes)
    for way, tags, line in tracked(ways, f"read {origin.path.name}", 0, progress):
        lost.bare += not any(node.location.valid() for node in way.nodes)
        if is_building(tags) and way.id not in replaced:
            if not _is_closed(way, line):
                # An open outer way of a relation is a part of a building's ring.
                lost.unclosed += way.id not in member
            elif line is None:
                lost.cut += 1
            elif (ring := ring_of(line)) is not None:
                buildings.append((f"way/{way.id}", tags, ring))
            else:
                lost.unclosed += 1
        elif is_road(tags):
            if line is None:
                line = _usable_runs(way)
                lost.pieces += 1
            if not line.is_empty:
                roads.append((f"way/{way.id}", tags, line))
        elif is_square(tags) and line is not None and line.is_closed and ring_of(line):
            squares.append((f"way/{way.id}", tags, shapely.Polygon(line)))
    if not buildings and not roads:
        _refuse_partial(source, origin, lost)
    bounds, date = _header(source)
    tables = features(buildings), features(roads), features(squares)
    return Extract(*tables, bounds, date, lost.by_reason())


def _refuse_partial(source: MapFile, origin: MapFile, lost: _Lost) -> None:
    """Refuse a file that has objects, but not their tags, or not the positions of their nodes."""
    if lost.bare:
        raise MaptileError(
            f"{origin.path}: {lost.bare} buildings and roads without the positions of their nodes"
            f"; {origin.remedy}"
        )
    objects = osmium.FileProcessor(_osmium_file(source))
    tagged = osmium.FileProcessor(_osmium_file(source)).with_filter(osmium.filter.EmptyTagFilter())
    if any(True for _ in objects) and not any(True for _ in tagged):
        raise MaptileError(f"{origin.path}: {UNTAGGED}; {origin.remedy}")


def _is_closed(way: osmium.osm.Way, line: shapely.LineString | None) -> bool:
    """Whether a way ends where it begins: at the same node, or at another one in its position."""
    if line is not None:
        return bool(line.is_closed)
    return len(way.nodes) > 0 and way.is_closed()


def _ways(
    source: MapFile, which: Any, nodes: osmium.NodeLocationsForWays
) -> Iterator[tuple[osmium.osm.Way, Tags, shapely.LineString | None]]:
    """Yield each way that passes the osmium filter ``which``, with its tags and its line.

    The line is in degrees (longitude, latitude); None where none can be made, as where the file
    lacks nodes of the way. osmium reuses the memory of a way: keep no reference to it.

    Args:
        source: The file.
        which: The filter.
        nodes: The positions of the file's nodes.

    Raises:
        _DisorderError: It is a binary file, and a way lacks a node whose id is below 1.
    """
    factory = osmium.geom.WKBFactory()
    for way in (
        osmium.FileProcessor(_osmium_file(source), osmium.osm.WAY)
        .with_filter(which)
        .with_filter(nodes)
    ):
        try:
            line = shapely.from_wkb(factory.create_linestring(way))
        except (RuntimeError, osmium.InvalidLocationError):
            line = None
            if source.kind != "xml" and any(node.ref < 1 for node in way.nodes):
                raise _DisorderError from None
        yield way, _tags(way), line


def _tags(element: Any) -> Tags:
    """Return the tags of an osmium object that the tables depend on, as OSM writes them."""
    tags = {tag.k: tag.v for tag in element.tags if tag.k in TAGS_READ}
    for key in WRITTEN_OTHERWISE & tags.keys():
        text = _text_of(key, tags.pop(key))
        if text is not None:
            tags[key] = text
    return tags


_text_of = lru_cache(maxsize=4096)(text_of)
"""``text_of``, for the few values that most objects have."""


def _multipolygons(
    source: MapFile, nodes: osmium.NodeLocationsForWays, lost: _Lost
) -> tuple[dict[int, _Relation], dict[int, shapely.Geometry]]:
    """Read the multipolygons that are buildings, and the positions of all nodes.

    A relation is a building by its own tags or, in the old style of OSM, by those of its outer
    ways.

    Args:
        source: The file.
        nodes: The positions are put into this.
        lost: What the relations lack is put into this.

    Returns:
        The relations by id; and the polygons of those with a closed outer ring, by id.
    """
    relations: dict[int, _Relation] = {}
    for relation in (
        osmium.FileProcessor(_osmium_file(source), osmium.osm.NODE | osmium.osm.RELATION)
        .with_filter(nodes)
        .with_filter(osmium.filter.EntityFilter(osmium.osm.RELATION))
        .with_filter(osmium.filter.TagFilter(("type", "multipolygon")))
    ):
        tags = _tags(relation)
        old_style = all(tag.k in _UNINTERESTING for tag in relation.tags)
        if is_building(tags) or old_style:
            ways = [member for member in relation.members if member.type == "w"]
            relations[relation.id] = _Relation(
                tags,
                tuple(way.ref for way in ways if way.role != "inner"),
                tuple(way.ref for way in ways if way.role == "inner"),
                not len(relation.members),
            )
    wanted = {way for relation in relations.values() for way in relation.outer + relation.inner}
    ways_tags: dict[int, Tags] = {}
    lines: dict[int, shapely.LineString | None] = {}
    if wanted:
        for way, tags, line in _ways(source, osmium.filter.IdFilter(wanted), nodes):
            ways_tags[way.id], lines[way.id] = tags, line
    polygons = {}
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
        whole = outer_whole and inner_whole and (bool(outer) or relation.is_empty)
        lost.multipolygons += not whole
        members = relation.outer + relation.inner
        lost.bare += bool(members) and all(lines.get(way) is None for way in members)
        if outer:
            polygons[name] = assembled(outer, inner)
    return relations, polygons


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
    return bounds, date or overpass_date(source)
