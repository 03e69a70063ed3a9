"""The objects of a saved answer of Overpass in JSON, read element by element."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from data_prep.errors import MaptileError
from data_prep.osm.columns import text_of
from data_prep.osm.elements import KINDS, Element, Member, Positions, position_of
from data_prep.osm.kinds import MapFile, check_growth
from data_prep.osm.plain_xml import REMARK

CHUNK = 1 << 20
"""Bytes that are read at a time, at least."""
ELEMENTS = re.compile(r'"elements"\s*:\s*\[')
"""The beginning of the list of objects."""
SAID = re.compile(r'"remark"\s*:\s*"((?:[^"\\]|\\.)*)"')
"""What the server says about its answer."""
DATE = re.compile(r'"timestamp_osm_base"\s*:\s*"([^"]+)"')
"""The date of the data."""


def json_objects(source: MapFile, root: dict[str, str]) -> Iterator[Element]:
    """Yield the objects of an answer; the date of its data is put into ``root``.

    So is ``count``, if the answer counts objects. Areas and whatever else is no object are skipped.

    Raises:
        MaptileError: It is cut off, the server says that it is incomplete, it holds no list of
            objects, or a number in it is none.
    """
    positions = Positions()
    for one in _listed(source, root):
        if isinstance(one, dict) and one.get("type") in KINDS:
            yield from _content(source.path, one, positions)
        elif isinstance(one, dict) and one.get("type") == "count":
            root["count"] = "stated"
    yield from positions.elements()


def _listed(source: MapFile, root: dict[str, str]) -> Iterator[Any]:
    """Yield the items of the list of elements; date and bounds are put into ``root``."""
    decoder, size, unpacked = json.JSONDecoder(), CHUNK, 0
    with source.open() as binary:
        wide = binary.read(2) in (b"\xff\xfe", b"\xfe\xff")
    with source.open() as binary, _as_text(binary, wide) as file:

        def more(text: str) -> str:
            nonlocal unpacked
            content = file.read(size)
            unpacked += len(content)
            check_growth(source, unpacked)
            return text + content

        text = more("")
        begin = ELEMENTS.search(text)
        _about(source.path, text[: begin.start()] if begin else text, root)
        if begin is None:
            raise MaptileError(
                f"{source.path}: an answer of Overpass without a list of elements; ask it again, "
                "and save the whole answer"
            )
        at = begin.end()
        while True:
            at = _skip(text, at)
            if text[at : at + 1] == "]":
                break
            try:
                one, end = decoder.raw_decode(text, at)
                closed = end < len(text)
            except json.JSONDecodeError:
                closed = False
            if closed:
                yield one
                at = end
                continue
            before = len(text) - at
            text, at = more(text[at:]), 0
            if len(text) == before:
                raise MaptileError(f"{source.path}: cut off or damaged; download it again")
            # An element that is longer than a part is not tried once more with each part.
            size = max(CHUNK, len(text))
        rest = text[at:]
        while len(rest) < CHUNK and (longer := more(rest)) != rest:
            rest = longer
        _about(source.path, rest, root)


def _as_text(binary: IO[bytes], wide: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(binary, "utf-16" if wide else "utf-8-sig", "replace")


def _skip(text: str, at: int) -> int:
    """The position of the next character that is no blank or comma."""
    found = re.compile(r"[\s,]*").match(text, at)
    return found.end() if found else at


def _about(path: Path, text: str, root: dict[str, str]) -> None:
    """Read what an answer says about itself, before and after the elements."""
    said = SAID.search(text)
    if said is not None:
        words = str(json.loads(f'"{said[1]}"', strict=False)).split()
        raise MaptileError(f"{path}: {REMARK.format(' '.join(words))}")
    date = DATE.search(text)
    if date is not None:
        root["date"] = date[1]


def _content(path: Path, one: dict[str, Any], positions: Positions) -> Iterator[Element]:
    """An object, and the ways that it states as coordinates of its members."""
    what = f"{path}: {one['type']} {str(one.get('id', '?'))[:30]}"
    members: list[Member] = []
    for member in _items(one.get("members")):
        if isinstance(member, dict) and member.get("type") in KINDS:
            number = _number(what, member.get("ref", 0))
            members.append((member["type"], number, str(member.get("role") or "")))
            if member["type"] == "way" and _items(member.get("geometry")):
                nodes = _nodes(what, [], _items(member["geometry"]), positions)
                yield Element("way", number, nodes=nodes)
    tags = one.get("tags")
    where = (one.get("lat"), one.get("lon")) if one["type"] == "node" else (None, None)
    yield Element(
        one["type"],
        _number(what, one.get("id", 0)),
        _number(what, one.get("version", 0)),
        one.get("action") == "delete" or one.get("visible") is False,
        _tags(tags) if isinstance(tags, dict) else None,
        position_of(what, *where),
        _nodes(what, _items(one.get("nodes")), _items(one.get("geometry")), positions),
        tuple(members),
    )


def _tags(tags: dict[str, Any]) -> dict[str, str]:
    """Tags as texts, also where their values are truth values, numbers or lists."""
    texts = {
        key: value if isinstance(value, str) else text_of(key, value) for key, value in tags.items()
    }
    return {key: text for key, text in texts.items() if text is not None}


def _nodes(
    what: str, numbers: list[Any], geometry: list[Any], positions: Positions
) -> tuple[int, ...]:
    """The ids of the nodes of a way; their positions, where it states them, are kept."""
    known = [_number(what, number) for number in numbers]
    if not geometry or (known and len(known) != len(geometry)):
        return tuple(known)
    points = [point if isinstance(point, dict) else {} for point in geometry]
    places = [position_of(what, point.get("lat"), point.get("lon")) for point in points]
    ids: list[int | None] = [*known] or [None] * len(places)
    return tuple(positions.add(*pair) for pair in zip(ids, places, strict=True))


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(what: str, value: Any) -> int:
    """A whole number, also where it is written as text or with a decimal point."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    text = str(value)
    if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.0)?", text):
        raise MaptileError(
            f"{what}: {text[:30]!r} is no whole number, as ids and versions are; download the map "
            "again"
        )
    return int(text.partition(".")[0])
