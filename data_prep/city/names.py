"""Streets, squares and buildings of a city by their names."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence

import shapely

from data_prep.city.folder import City
from data_prep.errors import MaptileError

SHOWN = 5
"""Names that an error lists, at most."""
TOGETHER = "&"
"""Separates names in a text that stands for what is near all of them."""


def named_area(city: City, texts: Sequence[str], within_m: float) -> shapely.Geometry:
    """The area within some metres of what has one of several names.

    Args:
        city: A city with named streets or buildings.
        texts: Names as people write them: case, accents and spaces do not matter, and a part of a
            name is enough where only one name has it. ``Banbury Road & Parks Road`` is the area
            near both.
        within_m: Metres.

    Returns:
        A polygon or several, in the map frame.

    Raises:
        MaptileError: The city has no names; a name is unknown or ambiguous; names that are joined
            have no area in common.
    """
    table = _names(city)
    areas = []
    for text in texts:
        parts = [_shape(table, part.strip()).buffer(within_m) for part in text.split(TOGETHER)]
        area = shapely.intersection_all(parts)
        if area.is_empty:
            raise MaptileError(f"--near {text!r}: nothing is within {within_m:g} m of all of them")
        areas.append(area)
    return shapely.union_all(areas)


def _names(city: City) -> dict[str, list[shapely.Geometry]]:
    """What has each name of a city."""
    found: dict[str, list[shapely.Geometry]] = {}
    for table in (city.roads(), city.squares(), city.buildings()):
        if "name" not in table:
            raise MaptileError(
                f"{city.folder}: made without names; prepare it again: maptile prepare SOURCE "
                f"{city.folder}"
            )
        named = table[table["name"] != ""]
        for name, shape in zip(named["name"], named.geometry, strict=True):
            found.setdefault(name, []).append(shape)
    if not found:
        raise MaptileError(f"{city.folder or city.name}: no street, square or building has a name")
    return found


def _shape(table: dict[str, list[shapely.Geometry]], text: str) -> shapely.Geometry:
    """Everything that has the name ``text``, or the only name of which it is a part."""
    plain = {name: _plain(name) for name in table}
    asked = _plain(text)
    fitting = [name for name in table if plain[name] == asked]
    if not fitting and asked:
        fitting = [name for name in table if asked in plain[name]]
        if len(set(map(plain.__getitem__, fitting))) > 1:
            listed = ", ".join(sorted(fitting, key=len)[:SHOWN])
            raise MaptileError(f"--near {text!r}: {len(fitting)} names have it, such as {listed}")
    if not fitting:
        near = difflib.get_close_matches(asked, list(plain.values()), SHOWN, 0.5)
        names = [next(name for name in table if plain[name] == one) for one in near]
        nearest = f"; the most similar names are {', '.join(names)}" if names else ""
        raise MaptileError(f"--near {text!r}: nothing on this map has that name{nearest}")
    return shapely.union_all([shape for name in fitting for shape in table[name]])


def _plain(text: str) -> str:
    """A name without case, accents, punctuation and superfluous spaces."""
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(kept.split())
