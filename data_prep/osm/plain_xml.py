"""OSM XML: whether osmium reads it right, and its objects where it does not."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from data_prep.errors import MaptileError
from data_prep.osm.elements import KINDS, Element, Member, Positions, position_of
from data_prep.osm.kinds import XML_REFUSED, MapFile, check_growth, examine

CHUNK = 1 << 20
"""Bytes that are examined at a time."""
OVERLAP = 4096
"""Bytes of the chunk before that are examined again, at most: a tag may lie across the border."""
OBJECT = re.compile(rb"<(node|way|relation)\s[^<>]*?\bid\s*=\s*[\"'](-?\d+)")
"""The kind and the id of an object."""
CONTROL = bytes({*range(0x20), 0x7F} - {0x09, 0x0A, 0x0D})
"""Characters that XML does not allow."""
ODD = re.compile(
    rb"""action\s*=\s*["']delete|visible\s*=\s*["']false|\sid\s*=\s*["']-|<nd[^>]*\slat\s*=|<center"""
    rb"""|[\x00-\x08\x0b\x0c\x0e-\x1f]|\A\s*<osm(?![^<>]*\sversion\s*=)|<bounds[^>]*>\s*<bounds"""
)
"""Marks of a file that has to be made plain."""
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
    before, last, unpacked = b"", (0, 0), 0
    with source.open() as file:
        while chunk := file.read(CHUNK):
            unpacked += len(chunk)
            check_growth(source, unpacked)
            text = before + chunk
            _refuse(path, text)
            start = re.sub(rb"\A(\xef\xbb\xbf)?\s*<\?[^>]*>", b"", text) if not before else text
            if ODD.search(start) is not None:
                return True
            # The last tag may be cut: it is examined again with the next chunk.
            before = text[max(text.rfind(b"<"), len(text) - OVERLAP, 0) :]
            found = [
                (KINDS.index(match[1].decode()), int(match[2]))
                for match in OBJECT.finditer(text, 0, len(text) - len(before))
            ]
            found = [last, *found]
            if any(one >= other for one, other in pairwise(found)):
                return True
            last = found[-1]
    return False


def xml_objects(source: MapFile, root: dict[str, str]) -> Iterator[Element]:
    """Yield the objects of a file, all versions; its bounds and date are put into ``root``.

    Characters that XML does not allow are skipped.

    Raises:
        MaptileError: It is no whole map, or a number in it is none.
        ET.ParseError: It is no XML.
    """
    positions, boxes = Positions(), []
    parser: Any = ET.XMLPullParser(("start", "end"))
    top: ET.Element | None = None
    for chunk in _chunks(source):
        parser.feed(chunk)
        for event, element in parser.read_events():
            if event == "start":
                top = element if top is None else top
                _check(source.path, element)
            elif element.tag in KINDS:
                yield from _content(source.path, element, positions)
                assert top is not None
                top.clear()
            elif element.tag == "bounds":
                boxes.append(_box(element))
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


def _chunks(source: MapFile) -> Iterator[bytes]:
    """The content in parts, without control characters unless it is UTF-16, which needs them."""
    unpacked, wide = 0, False
    with source.open() as file:
        while chunk := file.read(CHUNK):
            wide = wide or (not unpacked and chunk[:2] in (b"\xff\xfe", b"\xfe\xff"))
            unpacked += len(chunk)
            check_growth(source, unpacked)
            yield chunk if wide else chunk.translate(None, CONTROL)


def _refuse(path: Path, text: bytes) -> None:
    if b"<osmChange" in text:
        raise MaptileError(f"{path}: {XML_REFUSED['osmchange']}")
    if DIFFERENCE.search(text):
        raise MaptileError(f"{path}: {XML_REFUSED['osmaugmenteddiff']}")
    remark = re.search(rb"<remark>(.*?)</remark>", text, re.DOTALL)
    if remark:
        said = " ".join(remark[1].decode("utf-8", "replace").split())
        raise MaptileError(f"{path}: {REMARK.format(said)}")


def _check(path: Path, element: ET.Element) -> None:
    """Refuse what ``_refuse`` does not see: its text is in UTF-16."""
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
    kind = str(element.tag)
    what = f"{path}: {kind} {element.get('id', '?')[:30]}"
    members: list[Member] = []
    for member in element.iterfind("member"):
        if member.get("type") in KINDS:
            number = _number(what, member, "ref")
            members.append((member.get("type", ""), number, member.get("role", "")))
            if member.get("type") == "way" and member.find("nd") is not None:
                yield Element("way", number, nodes=_nodes(what, member, positions))
    yield Element(
        kind,
        _number(what, element, "id"),
        _number(what, element, "version"),
        element.get("action") == "delete" or element.get("visible") == "false",
        {tag.get("k", ""): tag.get("v", "") for tag in element.iterfind("tag")},
        position_of(what, element.get("lat"), element.get("lon")) if kind == "node" else None,
        _nodes(what, element, positions),
        tuple(members),
    )


def _nodes(what: str, holder: ET.Element, positions: Positions) -> tuple[int, ...]:
    """The ids of the nodes of a way; their positions, where it states them, are kept."""
    return tuple(
        positions.add(
            _number(what, node, "ref") if "ref" in node.attrib else None,
            position_of(what, node.get("lat"), node.get("lon")),
        )
        for node in holder.iterfind("nd")
    )


def _number(what: str, holder: ET.Element, key: str) -> int:
    text = holder.get(key, "0").strip()
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise MaptileError(
            f"{what}: its {key} {text[:30]!r} is no whole number; download the map again"
        )
    return int(text)


_AXES = ("lat", "lon")
"""Ends of the names of the attributes of the element ``bounds``."""
