"""Buildings and roads from OSM files (.osm, .osm.gz, .osm.bz2, .osm.pbf), by pyosmium.

This module closes rings and assembles multipolygons itself: osmium's assembler drops
self-crossing rings that can be repaired, and refuses files whose ids are not in order. The outer
ways of a multipolygon are not buildings of their own: they would fill its courtyards.
"""

from __future__ import annotations

import bz2
import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import osmium
import shapely

from data_prep.errors import MaptileError
from data_prep.osm.plain_xml import is_odd, write_plain
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

OSM_SUFFIXES = (".osm", ".osm.gz", ".osm.bz2", ".pbf")
"""Suffixes of the files that are read here."""

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


def read_osm_file(path: Path, *, progress: Progress = silent) -> Extract:
    """Read the buildings, roads and squares of an OSM file.

    Args:
        path: The file.
        progress: Called after each way; their total is not known (0).

    Raises:
        MaptileError: The file is missing, truncated, or not an OSM file.
    """
    if not path.is_file():
        raise MaptileError(f"{path}: no such file")
    try:
        if path.suffix == ".pbf" or not is_odd(path):
            return _read(path, progress)
        with TemporaryDirectory() as folder:
            plain = Path(folder) / f"{path.name.partition('.')[0]}.osm"
            write_plain(path, plain)
            return _read(plain, progress)
    except osmium.InvalidLocationError:
        raise MaptileError(
            f"{path}: a node's latitude or longitude is no number; write them with a decimal point"
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(
            f"{path}: not readable as an OSM file: {reason}; download it again, or convert it "
            "to .osm.pbf"
        ) from None


def _read(path: Path, progress: Progress) -> Extract:
    """Read a file in which all errors are those of the libraries."""
    with osmium.io.Reader(path, osmium.osm.NOTHING) as reader:
        if reader.header().has_multiple_object_versions:
            raise MaptileError(
                f"{path}: a history file, with every version of its objects; take those of one "
                "day first: osmium time-filter"
            )
    relations, multipolygons, missing = _multipolygons(path)
    replaced = {way for name in multipolygons for way in relations[name].outer}
    buildings = [
        (f"relation/{name}", relations[name].tags, polygon)
        for name, polygon in multipolygons.items()
    ]
    member = {way for relation in relations.values() for way in relation.outer}
    roads: list[tuple[str, Tags, shapely.Geometry]] = []
    squares: list[tuple[str, Tags, shapely.Geometry]] = []
    cut = unclosed = pieces = 0
    ways = _ways(path, osmium.filter.KeyFilter("building", "highway", "place"))
    for way, tags, line in tracked(ways, f"read {path.name}", 0, progress):
        if is_building(tags) and way.id not in replaced:
            if not way.is_closed():
                # An open outer way of a relation is a part of a building's ring.
                unclosed += way.id not in member
            elif line is None:
                cut += 1
            elif (ring := _ring(line)) is not None:
                buildings.append((f"way/{way.id}", tags, ring))
            else:
                unclosed += 1
        elif is_road(tags):
            if line is None:
                line = _usable_runs(way)
                pieces += 1
            if not line.is_empty:
                roads.append((f"way/{way.id}", tags, line))
        elif is_square(tags) and line is not None and line.is_closed:
            squares.append((f"way/{way.id}", tags, shapely.Polygon(line)))
    dropped = {
        "buildings cut by the edge of the extract": cut,
        "buildings whose ring does not close": unclosed,
        "multipolygons with a ring that does not close": missing,
        "roads cut by the edge of the extract (the part inside is kept)": pieces,
    }
    bounds, date = _header(path)
    tables = features(buildings), features(roads), features(squares)
    return Extract(*tables, bounds, date, dropped)


def _ways(
    path: Path, which: Any
) -> Iterator[tuple[osmium.osm.Way, Tags, shapely.LineString | None]]:
    """Yield each way that passes the osmium filter ``which``, with its tags and its line.

    The line is in degrees (longitude, latitude); None where none can be made, as where the file
    lacks nodes of the way. osmium reuses the memory of a way: keep no reference to it.
    """
    factory = osmium.geom.WKBFactory()
    for way in (
        osmium.FileProcessor(path)
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


def _multipolygons(path: Path) -> tuple[dict[int, _Relation], dict[int, shapely.Geometry], int]:
    """Read the multipolygons that are buildings.

    A relation is a building by its own tags or, in the old style of OSM, by those of its outer
    ways.

    Returns:
        The relations by id; the polygons of those with a closed outer ring, by id; and the number
        of relations with a ring that does not close.
    """
    relations: dict[int, _Relation] = {}
    for relation in osmium.FileProcessor(path, osmium.osm.RELATION).with_filter(
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
        for way, tags, line in _ways(path, osmium.filter.IdFilter(wanted)):
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
        outer, outer_whole = _rings([lines.get(way) for way in relation.outer])
        inner, inner_whole = _rings([lines.get(way) for way in relation.inner])
        missing += not (outer_whole and inner_whole)
        if outer:
            polygons[name] = assembled(outer, inner)
    return relations, polygons, missing


def _rings(lines: list[shapely.LineString | None]) -> tuple[list[shapely.Polygon], bool]:
    """Join the member ways of a multipolygon to rings.

    Returns:
        The rings as polygons without holes, and whether they use all the ways.
    """
    known = [line for line in lines if line is not None]
    rings = [_ring(line) for line in known if line.is_closed]
    open_lines = [line for line in known if not line.is_closed]
    faces, cuts, dangles, invalid = shapely.polygonize_full(open_lines)
    rings += [shapely.Polygon(face.exterior) for face in faces.geoms]
    whole = len(known) == len(lines) and None not in rings
    whole = whole and cuts.is_empty and dangles.is_empty and invalid.is_empty
    valid = shapely.make_valid(
        [ring for ring in rings if ring is not None], method="structure", keep_collapsed=False
    )
    return list(valid), whole


def assembled(outer: list[shapely.Polygon], inner: list[shapely.Polygon]) -> shapely.Geometry:
    """The area of a multipolygon.

    The even-odd rule is right also for an island in a courtyard, or an inner ring whose role says
    outer. Rings that are there twice count once, outer rings that overlap are parts of one area,
    and an inner ring that reaches beyond them adds nothing.
    """
    outer, inner = (
        list({ring.normalize().wkb: ring for ring in rings}.values()) for rings in (outer, inner)
    )
    apart: list[shapely.Geometry] = []
    for ring in outer:
        overlapping = [other for other in apart if shapely.overlaps(other, ring)]
        apart = [other for other in apart if not shapely.overlaps(other, ring)]
        apart.append(shapely.union_all([ring, *overlapping]))
    whole = shapely.union_all(apart)
    return shapely.symmetric_difference_all([*apart, *shapely.intersection(inner, whole)])


def _ring(line: shapely.LineString) -> shapely.Polygon | None:
    """Return the polygon inside a closed line; None if it has fewer than three corners."""
    return shapely.Polygon(line) if shapely.get_num_points(line) > 3 else None


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


def _header(path: Path) -> tuple[Bounds | None, str | None]:
    """Return the mapped area (degrees) and the date that the file's header states."""
    with osmium.io.Reader(path, osmium.osm.NOTHING) as reader:
        header = reader.header()
        box, date = header.box(), header.get("osmosis_replication_timestamp") or None
    bounds = None
    if box.valid():
        west, east = box.bottom_left.lon, box.top_right.lon
        bounds = (west, box.bottom_left.lat, east, box.top_right.lat)
    return bounds, date or _overpass_date(path)


def _overpass_date(path: Path) -> str | None:
    """Return the date in the ``meta`` element of a file from Overpass, which osmium skips."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    if path.suffix == ".pbf":
        return None
    try:
        with openers.get(path.suffix, open)(path, "rb") as file:
            found = re.search(rb'osm_base="([^"]+)"', file.read(4096))
    except (OSError, EOFError):
        # Not compressed in spite of its suffix, which osmium accepts.
        return None
    return found[1].decode() if found else None
