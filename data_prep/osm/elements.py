"""Nodes, ways and relations of OpenStreetMap as data: of several versions, those that stand.

Overpass writes ways before their nodes, or with their coordinates (``out geom``); JOSM gives new
objects negative ids and marks deleted ones; history files have every version of an object. osmium
would lose or double these without a word, so they are written anew as it expects them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from data_prep.errors import MaptileError

KINDS = ("node", "way", "relation")
"""Kinds of objects, in the order in which they are written."""
MAX_ELEMENTS = 3_000_000
"""Most objects that are put in order in memory."""
LARGEST_ID = 1 << 40
"""Ids from here on, or below 1, are replaced: those of OpenStreetMap are far from it."""

LONGEST_TEXT = 255
"""Most characters of a key or a value in OpenStreetMap."""

Member = tuple[str, int, str]
"""Kind, id and role of a member of a relation."""


@dataclass(frozen=True, slots=True)
class Element:
    """A version of an object.

    Attributes:
        kind: One of ``KINDS``.
        number: Its id.
        version: Its version; 0 if the file states none.
        gone: Whether this version says that the object is deleted.
        tags: Its tags.
        position: Latitude and longitude of a node, degrees; None where the file lacks them.
        nodes: Ids of the nodes of a way.
        members: The members of a relation.
    """

    kind: str
    number: int
    version: int = 0
    gone: bool = False
    tags: dict[str, str] | None = None
    position: tuple[float, float] | None = None
    nodes: tuple[int, ...] = ()
    members: tuple[Member, ...] = ()


class Positions:
    """Nodes that a file only states as the coordinates of a way (``out geom``).

    Nodes without an id get one below 0, equal ones the same.
    """

    def __init__(self) -> None:
        self.known: dict[int, tuple[float, float]] = {}
        self._numbers: dict[tuple[float, float], int] = {}

    def add(self, number: int | None, position: tuple[float, float] | None) -> int:
        """Return the id of a node of a way, and keep its position if it is known.

        A node with neither gets the id of no object: the way has a gap there.
        """
        if position is None:
            return LARGEST_ID if number is None else number
        if number is None:
            number = self._numbers.setdefault(position, -LARGEST_ID - len(self._numbers) - 1)
        self.known[number] = position
        return number

    def elements(self) -> Iterator[Element]:
        """The nodes."""
        for number, position in self.known.items():
            yield Element("node", number, position=position)


def position_of(what: str, latitude: Any, longitude: Any) -> tuple[float, float] | None:
    """Latitude and longitude as numbers; None where there are none, or none on Earth.

    Args:
        what: The object, for messages.
        latitude: As it was read: a number, text or None.
        longitude: Likewise.

    Raises:
        MaptileError: They are something else than numbers.
    """
    if latitude is None or longitude is None:
        return None
    try:
        position = float(latitude), float(longitude)
    except (TypeError, ValueError):
        raise MaptileError(
            f"{what}: its latitude {str(latitude)[:20]!r} or longitude {str(longitude)[:20]!r} is "
            "no number; write them with a decimal point"
        ) from None
    return position if abs(position[0]) <= 90 and abs(position[1]) <= 180 else None


def standing(path: Path, elements: Iterable[Element]) -> list[Element]:
    """The objects that stand today, by kind and id.

    Of several versions of an object the newest one counts. What it lacks (as in Overpass's
    ``out skel``) is taken from others, if one of them has no version.

    Args:
        path: The file, for messages.
        elements: All versions of all objects, in any order.

    Raises:
        MaptileError: They are too many to be put in order in memory.
    """
    newest: dict[tuple[str, int], Element] = {}
    for element in elements:
        key = element.kind, element.number
        newest[key] = _newer(newest.get(key), element)
        if len(newest) > MAX_ELEMENTS:
            raise MaptileError(
                f"{path}: more than {MAX_ELEMENTS:,} objects in no order, or with several versions "
                "or ids below 1; first use osmium sort, osmium time-filter or osmium renumber"
            )
    whole = [element for element in newest.values() if not element.gone]
    numbers = [element.number for element in whole if 0 < element.number < LARGEST_ID]
    fresh = max(numbers, default=0) + 1
    others = {(e.kind, e.number) for e in whole if not 0 < e.number < LARGEST_ID}
    renamed = {key: fresh + rank for rank, key in enumerate(sorted(others))}
    whole = [_renamed(element, renamed) for element in whole] if renamed else whole
    return sorted(whole, key=lambda e: (KINDS.index(e.kind), e.number))


def osm_xml(elements: Iterable[Element], bounds: str | None, date: str | None) -> Iterator[str]:
    """Yield objects as lines of OSM XML.

    Args:
        elements: The objects, as ``standing`` returns them.
        bounds: The attributes of the element ``bounds``, or None.
        date: Date of the data (ISO 8601), or None.
    """
    yield '<osm version="0.6">'
    if date is not None:
        yield f"<meta osm_base={quoteattr(date)}/>"
    if bounds is not None:
        yield f"<bounds {bounds}/>"
    for element in elements:
        position = ""
        if element.kind == "node":
            if element.position is None:
                continue
            position = ' lat="{:.9f}" lon="{:.9f}"'.format(*element.position)
        yield f'<{element.kind} id="{element.number}"{position}>'
        for node in element.nodes:
            yield f'<nd ref="{_reference(node)}"/>'
        for kind, number, role in element.members:
            yield f'<member type="{kind}" ref="{_reference(number)}" role={quoteattr(role)}/>'
        for key, value in (element.tags or {}).items():
            yield f"<tag k={quoteattr(_printable(key))} v={quoteattr(_printable(value))}/>"
        yield f"</{element.kind}>"
    yield "</osm>"


def _newer(before: Element | None, after: Element) -> Element:
    """Of two versions of an object, the one that counts."""
    if before is None:
        return after
    if before.version and after.version and before.version != after.version:
        return max(before, after, key=lambda element: element.version)
    first, second = sorted((before, after), key=lambda element: element.version)
    return replace(
        second,
        gone=first.gone or second.gone,
        tags=second.tags or first.tags,
        position=second.position or first.position,
        nodes=second.nodes or first.nodes,
        members=second.members or first.members,
    )


def _renamed(element: Element, renamed: dict[tuple[str, int], int]) -> Element:
    """An object with the new ids, also where it refers to others."""
    return replace(
        element,
        number=renamed.get((element.kind, element.number), element.number),
        nodes=tuple(renamed.get(("node", node), node) for node in element.nodes),
        members=tuple(
            (kind, renamed.get((kind, number), number), role)
            for kind, number, role in element.members
        ),
    )


def _reference(number: int) -> int:
    """An id that osmium can read; of no object, if the id of the object was not replaced."""
    return min(max(number, 0), LARGEST_ID)


def _printable(text: str) -> str:
    """A text without the control characters, which XML cannot hold, as long as OSM allows."""
    text = text[:LONGEST_TEXT]
    return text if text.isprintable() else "".join(c for c in text if c.isprintable() or c == " ")
