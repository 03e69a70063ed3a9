"""OSM XML as osmium reads it: nodes before ways, each object once, no ids below 1.

Overpass writes ways before their nodes, or with their coordinates (``out geom``); JOSM gives new
objects negative ids and marks deleted ones; history files have every version of an object. osmium
would lose or double these without a word.
"""

from __future__ import annotations

import bz2
import gzip
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast
from xml.sax.saxutils import quoteattr

from data_prep.errors import MaptileError

CHUNK = 1 << 20
"""Bytes that are examined at a time."""
OVERLAP = 4096
"""Bytes of the chunk before that are examined again, at most: a tag may lie across the border."""
WAY = re.compile(rb"<way\s[^>]*?\bid\s*=\s*[\"'](-?\d+)")
"""A way and its id."""
ODD = re.compile(
    rb"""action\s*=\s*["']delete|visible\s*=\s*["']false|\sid\s*=\s*["']-|<nd[^>]*\slat\s*="""
)
"""Marks of a file that has to be made plain."""
ORDER = {"node": 0, "way": 1, "relation": 2}
"""Kinds of objects, in the order in which they are written."""

Element = dict[str, Any]
"""An object as in Overpass's JSON: ``type``, ``id``, ``lat``, ``lon``, ``nodes``, ``members``,
``tags``."""


def is_odd(path: Path) -> bool:
    """Whether the file has to be made plain before osmium reads it.

    Raises:
        MaptileError: It is a change file, or a server's answer that says that it is incomplete.
    """
    before, last, ways = b"", b"", False
    with _open(path) as file:
        while chunk := file.read(CHUNK):
            text = before + chunk
            _refuse(path, text)
            if ODD.search(text) is not None:
                return True
            first = 0 if ways else text.find(b"<way ")
            ways = ways or first >= 0
            if ways and text.rfind(b"<node ") > first:
                return True
            # The last tag may be cut: it is examined again with the next chunk.
            before = text[max(text.rfind(b"<"), len(text) - OVERLAP, 0) :]
            found = WAY.findall(text)
            found = [last, *(found[:-1] if WAY.match(before) else found)]
            if any(one == other for one, other in pairwise(found) if one):
                return True
            last = found[-1]
    return False


def write_plain(path: Path, target: Path) -> None:
    """Write the objects of a file that stand today, in the order that osmium needs.

    Of several versions of an object the last one counts; those that are deleted or not visible are
    left out. Ids below 1 get numbers of their own.

    Raises:
        ET.ParseError: The file is no XML.
        ValueError: A number in it is none.
    """
    newest: dict[tuple[str, int], tuple[int, Element | None]] = {}
    root: dict[str, str] = {}
    places: dict[int, Element] = {}
    for element in _objects(path, root):
        kind, number = element.tag, int(element.get("id", "0"))
        version = int(element.get("version", "0"))
        gone = element.get("action") == "delete" or element.get("visible") == "false"
        if version >= newest.get((kind, number), (-1, None))[0]:
            newest[kind, number] = version, None if gone else _content(element, places)
    standing = {key: content for key, (_, content) in newest.items() if content is not None}
    for number, node in places.items():
        standing.setdefault(("node", number), node)
    fresh = _fresh_ids(standing)
    lines = osm_xml(_renamed(standing, fresh), root.get("bounds"), root.get("date"))
    target.write_text("\n".join(lines), "utf-8")


def osm_xml(elements: Iterable[Element], bounds: str | None, date: str | None) -> Iterator[str]:
    """Yield objects as lines of OSM XML, sorted by kind and id.

    Args:
        elements: The objects.
        bounds: The attributes of the element ``bounds``, or None.
        date: Date of the data (ISO 8601), or None.
    """
    yield '<osm version="0.6">'
    if date is not None:
        yield f"<meta osm_base={quoteattr(date)}/>"
    if bounds is not None:
        yield f"<bounds {bounds}/>"
    for element in sorted(elements, key=lambda e: (ORDER[e["type"]], e["id"])):
        kind, number = element["type"], element["id"]
        position = f' lat="{element["lat"]}" lon="{element["lon"]}"' if kind == "node" else ""
        yield f'<{kind} id="{number}"{position}>'
        for node in element.get("nodes", []):
            yield f'<nd ref="{node}"/>'
        for member in element.get("members", []):
            role = quoteattr(member["role"])
            yield f'<member type="{member["type"]}" ref="{member["ref"]}" role={role}/>'
        for key, value in element.get("tags", {}).items():
            yield f"<tag k={quoteattr(key)} v={quoteattr(value)}/>"
        yield f"</{kind}>"
    yield "</osm>"


def _open(path: Path) -> IO[bytes]:
    """The content of a file, unpacked where its first bytes say that it is packed."""
    with path.open("rb") as file:
        start = file.read(3)
    openers: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open}
    opener = next((one for mark, one in openers.items() if start.startswith(mark)), open)
    return cast(IO[bytes], opener(path, "rb"))


def _refuse(path: Path, text: bytes) -> None:
    if b"<osmChange" in text:
        raise MaptileError(
            f"{path}: a change file (osmChange), no map; apply it to the map that it belongs to "
            "(osmium apply-changes) and use the result"
        )
    remark = re.search(rb"<remark>(.*?)</remark>", text, re.DOTALL)
    if remark:
        said = " ".join(remark[1].decode("utf-8", "replace").split())
        raise MaptileError(
            f"{path}: incomplete, the server says: {said}; ask it again, for a smaller area or "
            "with more time"
        )


def _objects(path: Path, root: dict[str, str]) -> Iterator[ET.Element]:
    """Yield the nodes, ways and relations of a file; its bounds and date are put into ``root``."""
    with _open(path) as file:
        top: ET.Element | None = None
        for event, element in ET.iterparse(file, ("start", "end")):
            top = element if top is None else top
            if event == "start":
                continue
            if element.tag == "bounds":
                pairs = element.attrib.items()
                root["bounds"] = " ".join(f"{key}={quoteattr(value)}" for key, value in pairs)
            elif element.tag == "meta" and element.get("osm_base"):
                root["date"] = element.get("osm_base", "")
            elif element.tag in ORDER:
                yield element
                top.clear()


def _content(element: ET.Element, places: dict[int, Element]) -> Element:
    """An object; the positions of a way's nodes, where it states them, are put into ``places``."""
    tags = {tag.get("k", ""): tag.get("v", "") for tag in element.findall("tag")}
    content: Element = {"type": element.tag, "id": int(element.get("id", "0")), "tags": tags}
    if element.tag == "node":
        content |= {"lat": element.get("lat", ""), "lon": element.get("lon", "")}
    if element.tag == "way":
        content["nodes"] = [int(node.get("ref", "0")) for node in element.findall("nd")]
        for node, number in zip(element.findall("nd"), content["nodes"], strict=True):
            if node.get("lat") is not None:
                where = {"lat": node.get("lat"), "lon": node.get("lon")}
                places[number] = {"type": "node", "id": number, "tags": {}, **where}
    if element.tag == "relation":
        members = element.findall("member")
        content["members"] = [
            {"type": m.get("type", ""), "ref": int(m.get("ref", "0")), "role": m.get("role", "")}
            for m in members
        ]
    return content


def _fresh_ids(standing: dict[tuple[str, int], Element]) -> dict[tuple[str, int], int]:
    """Positive ids for the objects that have none; they follow after all others."""
    highest = max((number for _, number in standing), default=0)
    below = sorted(key for key in standing if key[1] < 1)
    return {key: max(highest, 0) + 1 + rank for rank, key in enumerate(below)}


def _renamed(
    standing: dict[tuple[str, int], Element], fresh: dict[tuple[str, int], int]
) -> Iterator[Element]:
    """The objects with the new ids, also where they refer to each other."""
    for (kind, number), content in standing.items():
        content["id"] = fresh.get((kind, number), number)
        if "nodes" in content:
            content["nodes"] = [fresh.get(("node", node), node) for node in content["nodes"]]
        for member in content.get("members", []):
            member["ref"] = fresh.get((member["type"], member["ref"]), member["ref"])
        yield content
