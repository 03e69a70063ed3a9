"""The contents of a city as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_prep.city.folder import City
from data_prep.files import read_json
from maptile_loc.report.inspect.drive_text import line


def describe_city(city: City) -> list[str]:
    """Return lines that describe a city."""
    raster, tiles, buildings, roads = city.raster, city.tiles(), city.buildings(), city.roads()
    corners = np.array([[raster.west, raster.south], [raster.east, raster.north], raster.centre])
    latitude, longitude = raster.projection.inverse(corners)
    count = sum(np.count_nonzero(strip, axis=(1, 2)) for strip in raster.strips())
    covered = (number / (raster.height * raster.width) for number in np.atleast_1d(count))
    paths = int((roads["kind"] == "path").sum())
    known = buildings["height"].dropna()
    heights = "no heights known"
    if len(known):
        heights = f"heights of {len(known)} known, {known.min():.0f} to {known.max():.0f} m"
    reference = raster.projection.inverse(city.reference)
    box = (
        f"latitude {latitude[0]:.5f} to {latitude[1]:.5f}, "
        f"longitude {longitude[0]:.5f} to {longitude[1]:.5f}"
    )
    side = tiles["size"].iloc[0] * raster.resolution
    size = f"{raster.width} x {raster.height} pixels of {raster.resolution:g} m"
    rows = [
        ("city", city.name),
        ("source", f"{city.source}, as of {city.source_date or 'an unknown date'}"),
        ("centre", f"{latitude[2]:.5f}, {longitude[2]:.5f}; CRS {raster.crs.name}"),
        ("extent", box),
        ("raster", f"{size}, {raster.area_km2:.2f} km2"),
        ("covered", "buildings {:.1%}, roads {:.1%}, paths {:.1%}".format(*covered)),
        ("buildings", f"{len(buildings)}, {heights}"),
        (
            "roads",
            f"{len(roads) - paths}, and {paths} paths" if len(roads) else "no lines, pixels only",
        ),
        ("tiles", f"{len(tiles)} of {side:g} m, {int(tiles['empty'].sum())} of them empty"),
        ("reference", f"the tile at {reference[0]:.5f}, {reference[1]:.5f}"),
        *(("model", text) for text in _models(city)),
        ("hash", city.content_hash),
        *(("note", note) for note in city.notes),
    ]
    return [line(name, text) for name, text in rows]


def _models(city: City) -> Iterator[str]:
    """Yield a text per model of the city, or that there is none."""
    cards = [] if city.folder is None else sorted((city.folder / "models").glob("*/model.json"))
    if not cards:
        yield "none; --method match needs no model, --method mapnet needs one: maptile train"
    for card in cards:
        content = read_json(card)
        trained_for = content.get("city")
        fits = isinstance(trained_for, dict) and trained_for.get("content_hash")
        stale = "" if fits == city.content_hash else "; trained for another map: train it again"
        yield f"{card.parent.name}, --method {content.get('method', 'unknown')}{stale}"
