"""OSM XML: whether osmium reads it right, and its objects where it does not."""

from __future__ import annotations

import html
import operator
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import MaptileError
from data_prep.osm.elements import KINDS, Element, Member, Positions, position_of
from data_prep.osm.kinds import XML_REFUSED, MapFile, check_growth, examine

CHUNK = 1 << 20
"""Bytes that are examined at a time."""
OVERLAP = 4096
"""Bytes of the chunk before that are examined again, at most: a tag may lie across the border."""
OBJECT = re.compile(rb"<(n|w|r)(?:ode|ay|elation)\s[^<>]*?\bid\s*=\s*[\"'](-?\d+)")
"""The first letter of the kind, and the id, of an object."""
RANKS = {b"n": 0, b"w": 1 << 80, b"r": 2 << 80}
"""What is added to the id of an object to compare it with others, by the first letter."""
CONTROL = bytes({*range(0x20), 0x7F} - {0x09, 0x0A, 0x0D})
"""Characters that XML does not allow."""
REFERENCE = re.compile(
    rb"&#(?:[xX]0*(?:[0-8bcefBCEF]|1[0-9a-fA-F])|0*(?:[0-8]|1[124-9]|2[0-9]|3[01]));"
)
"""A control character, written as its number."""
ODD = (
    *(rb"""action\s*=\s*["']delete""", rb"""visible\s*=\s*["']false""", rb"""id\s*=\s*["']-"""),
    *(rb"<nd[^>]*\slat\s*=", rb"<bounds[^>]*>\s*<bounds", rb"<center", rb"<count"),
    REFERENCE.pattern,
    *(rb"""lat\s*=\s*["'][-.0-9]*[^-.0-9"']""", rb"""lon\s*=\s*["'][-.0-9]*[^-.0-9"']"""),
)
"""Marks of a file that has to be made plain. One by one they are found faster than together."""
NO_VERSION = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*(?:<\?[^>]*>\s*)?<osm(?![^<>]*\sversion\s*=)")
"""The beginning of a file without a version, which osmium refuses."""
LONGEST_REFERENCE = 16
"""Bytes of the longest number of a character that is searched for."""
MAX_DEPTH = 8
"""Most elements of a map that contain each other; it needs four."""
MAX_BARE = 1 << 22
"""Most bytes without a tag."""
LONGEST_ID = 24
"""Digits of an id that are read."""
REMARK = "incomplete, the server says: {}; ask it again, for a smaller area or with more time"
"""What is said of a server's answer that holds a remark."""
DIFFERENCE = re.compile(rb"<action\s+type\s*=")
"""A mark of two states of a map in one file."""


def is_odd(path: Path) -> bool:
    """Whether the file has to be made plain before osmium reads it.

    osmium needs nodes before ways before relations, each object once, with ids above 0.

    Raises:
        MaptileError: It is a change file, or a server's answer that says that it is incomplete.
    """
    source = examine(path)
    before, last, unpacked, bare = b"", 0, 0, 0
    marks = [re.compile(mark) for mark in ODD]
    with source.open() as file:
        while chunk := file.read(CHUNK):
            if not unpacked and NO_VERSION.match(chunk):
                return True
            unpacked += len(chunk)
            check_growth(source, unpacked)
            bare = _without_tag(path, chunk, bare)
            text = before + chunk
            _refuse(path, text)
            if len(chunk.translate(None, CONTROL)) < len(chunk):
                return True
            if any(mark.search(text) for mark in marks):
                return True
            # The last tag may be cut: it is examined again with the next chunk.
            before = text[max(text.rfind(b"<"), len(text) - OVERLAP, 0) :]
            found = OBJECT.findall(text, 0, len(text) - len(before))
            keys = [last, *(RANKS[kind] + int(number) for kind, number in found)]
            if not all(map(operator.lt, keys, keys[1:])):
                return True
            last = keys[-1]
    return False


def xml_objects(source: MapFile, root: dict[str, str]) -> Iterator[Element]:
    """Yield the objects of a file, all versions; its bounds and date are put into ``root``.

    So is ``count``, if the file counts objects. Bounds of an object are not those of the file.
    Characters that XML does not allow are skipped.

    Raises:
        MaptileError: It is no whole map, or a number in it is none.
        ET.ParseError: It is no XML.
    """
    positions, boxes = Positions(), []
    parser: Any = ET.XMLPullParser(("start", "end"))
    top: ET.Element | None = None
    depth = 0
    for chunk in _chunks(source):
        parser.feed(chunk)
        for event, element in parser.read_events():
            depth += 1 if event == "start" else -1
            if event == "start":
                top = element if top is None else top
                _check(source.path, element, depth)
            elif element.tag in KINDS:
                yield from _content(source.path, element, positions)
                assert top is not None
                top.clear()
            elif element.tag == "bounds" and depth == 1:
                boxes.append(_box(element))
            elif element.tag == "count":
                root["count"] = "stated"
            elif element.tag == "meta" and element.get("osm_base"):
                root["date"] = element.get("osm_base", "")
            elif element.tag == "remark":
                said = " ".join((element.text or "").split())
                raise MaptileError(f"{source.path}: {REMARK.format(said)}")
    parser.close()
    yield from positions.elements()
    known = [box for box in boxes if box is not None]
    if known:
        south, west, north, east = zip(*known, strict=True)
        edges = min(south), min(west), max(north), max(east)
        root["bounds"] = 'minlat="{}" minlon="{}" maxlat="{}" maxlon="{}"'.format(*edges)


def overpass_date(source: MapFile) -> str | None:
    """Return the date in the ``meta`` element of a file from Overpass, which osmium skips."""
    if source.kind != "xml":
        return None
    with source.open() as file:
        found = re.search(rb'osm_base="([^"]+)"', file.read(4096))
    return found[1].decode("utf-8", "replace") if found else None


def _chunks(source: MapFile) -> Iterator[bytes]:
    """The content in parts, without control characters unless it is UTF-16, which needs them."""
    unpacked, bare, wide, held = 0, 0, False, b""
    with source.open() as file:
        while chunk := file.read(CHUNK):
            wide = wide or (not unpacked and chunk[:2] in (b"\xff\xfe", b"\xfe\xff"))
            unpacked += len(chunk)
            check_growth(source, unpacked)
            bare = _without_tag(source.path, chunk, bare)
            if not wide:
                chunk = held + chunk.translate(None, CONTROL)
                # The last number of a character may be cut: it comes with the next part.
                begin = chunk.find(b"&", max(len(chunk) - LONGEST_REFERENCE, 0))
                chunk, held = (chunk, b"") if begin < 0 else (chunk[:begin], chunk[begin:])
                chunk = REFERENCE.sub(b"", chunk)
            yield chunk
    yield held


def _without_tag(path: Path, chunk: bytes, before: int) -> int:
    """The number of bytes since the last tag; an endless text takes parsers minutes."""
    last = chunk.rfind(b"<")
    bare = before + len(chunk) if last < 0 else len(chunk) - last
    if bare > MAX_BARE:
        raise MaptileError(
            f"{path}: a text in it is longer than {MAX_BARE >> 20} MB, as in no map; download it "
            "again"
        )
    return bare


def _refuse(path: Path, text: bytes) -> None:
    if b"<osmChange" in text:
        raise MaptileError(f"{path}: {XML_REFUSED['osmchange']}")
    if DIFFERENCE.search(text):
        raise MaptileError(f"{path}: {XML_REFUSED['osmaugmenteddiff']}")
    remark = re.search(rb"<remark>(.*?)</remark>", text, re.DOTALL)
    if remark:
        said = html.unescape(" ".join(remark[1].decode("utf-8", "replace").split()))
        raise MaptileError(f"{path}: {REMARK.format(said)}")


def _check(path: Path, element: ET.Element, depth: int) -> None:
    """Refuse what ``_refuse`` does not see, as in UTF-16, and what is nested deeper than a map."""
    if depth > MAX_DEPTH:
        raise MaptileError(f"{path}: its XML is nested too deeply for a map; download it again")
    said = XML_REFUSED.get(str(element.tag).lower())
    if element.tag == "action" and element.get("type"):
        said = XML_REFUSED["osmaugmenteddiff"]
    if said is not None:
        raise MaptileError(f"{path}: {said}")


def _box(element: ET.Element) -> tuple[float, ...] | None:
    """South, west, north and east that an element ``bounds`` states; None if it does not."""
    try:
        return tuple(float(element.get(f"{a}{b}", "")) for a in ("min", "max") for b in _AXES)
    except ValueError:
        return None


def _content(path: Path, element: ET.Element, positions: Positions) -> Iterator[Element]:
    """An object, and the ways that it states as coordinates of its members."""
    kind, about = element.tag, element.attrib
    what = f"{path}: {kind} {about.get('id', '?')[:30]}"
    tags: dict[str, str] = {}
    nodes: list[int] = []
    members: list[Member] = []
    for child in element:
        if child.tag == "tag":
            tags[child.get("k", "")] = child.get("v", "")
        elif child.tag == "nd":
            nodes.append(_node(what, child, positions))
        elif child.tag == "member" and child.get("type") in KINDS:
            number = _number(what, child.attrib, "ref")
            members.append((child.get("type", ""), number, child.get("role", "")))
            if child.get("type") == "way" and len(child):
                stated = tuple(_node(what, one, positions) for one in child if one.tag == "nd")
                yield Element("way", number, nodes=stated)
    yield Element(
        kind,
        _number(what, about, "id"),
        _number(what, about, "version"),
        about.get("action") == "delete" or about.get("visible") == "false",
        tags or None,
        position_of(what, about.get("lat"), about.get("lon")) if kind == "node" else None,
        tuple(nodes),
        tuple(members),
    )


def _node(what: str, node: ET.Element, positions: Positions) -> int:
    """The id of a node of a way; its position, where the way states it, is kept."""
    number = _number(what, node.attrib, "ref") if "ref" in node.attrib else None
    if number is not None and "lat" not in node.attrib:
        return number
    return positions.add(number, position_of(what, node.get("lat"), node.get("lon")))


def _number(what: str, attributes: dict[str, str], key: str) -> int:
    text = attributes.get(key, "0")
    try:
        # Longer numbers than this are no ids, and slow to read.
        return int(text[:LONGEST_ID])
    except ValueError:
        raise MaptileError(
            f"{what}: its {key} {text[:30]!r} is no whole number; download the map again"
        ) from None


_AXES = ("lat", "lon")
"""Ends of the names of the attributes of the element ``bounds``."""
