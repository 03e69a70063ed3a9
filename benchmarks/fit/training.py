"""Simulated drives with known truth on which the shipped parameters are fitted.

In each city of ``CITIES``, vehicles with each sensor follow a route along the roads of the map. The
simulated world differs from the map. Oxford and Karlsruhe are not among the cities: they are used
only to measure the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.drive import Drive, HeadingTrack
from data_prep.files import atomic_file
from data_prep.geometry import Array
from data_prep.osm.source import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.pipeline import LocalizeSettings, drive_tiles
from maptile_loc.types import HeadingKnowledge, Queries, QueryTile

CITIES = ("helsinki.osm.pbf", "cambridge_ma.osm", "kotka_fi.osm.pbf")
"""OpenStreetMap extracts of the training cities, in ``cities/`` of the data folder."""

KNOWN = HeadingKnowledge("known")
"""The tile is north-up."""

UNKNOWN = HeadingKnowledge("unknown")
"""The tile is turned by a random angle."""

MARGIN_M = 30.0
"""Smallest distance of an example's true position from the edge of the map, metres."""


class Example(NamedTuple):
    """A query tile with its true pose.

    Attributes:
        tile: The query tile.
        truth: (3,) east, north (metres, map frame), heading (radians from grid east).
        queries: How the tile was made, and what is known of its heading.
        sensor: Name of the simulated sensor.
    """

    tile: QueryTile
    truth: Array
    queries: Queries
    sensor: str

    @property
    def known(self) -> bool:
        """Whether the heading counts as known."""
        return self.queries.heading.kind == "known"


@dataclass(frozen=True)
class TileFolder:
    """Query tiles that are stored in a folder, one file each: a ``TileCache``.

    Attributes:
        folder: Is made when the first tile is stored.
    """

    folder: Path

    def tile(self, query: int, make: Callable[[], QueryTile | None]) -> QueryTile | None:
        """The stored tile of a query; if there is none, what ``make`` returns is stored first."""
        file = self.folder / f"{query}.npz"
        if not file.exists():
            made = make()
            if made is None:
                return None
            self.folder.mkdir(parents=True, exist_ok=True)
            parts = {name: part for name, part in asdict(made).items() if part is not None}
            with atomic_file(file) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(stream, **parts)
        with np.load(file, allow_pickle=False) as stored:
            content: dict[str, Any] = {name: stored[name] for name in stored.files}
        scalars = {name: float(content[name]) for name in ("resolution", "rotation")}
        return QueryTile(**content | scalars)


def training_city(source: Path, work: Path) -> City:
    """The city that an OpenStreetMap extract holds, prepared in ``work`` if it is not there yet."""
    name = source.name.split(".")[0]
    if not (work / name).exists():
        prepare_city(OsmSource(path=source), work / name, CitySettings(name=name))
    return open_city(work / name)


def training_drive(city: City, sensor: str, metres: float, work: Path) -> Drive:
    """A drive of ``metres`` with labelled scans, simulated in ``work`` if it is not there yet."""
    folder = work / f"{city.name}_{sensor}_{metres:g}m"
    if not folder.exists():
        settings = load_settings(SimulateSettings, "simulate", ["labels=all"])
        simulate(city, trajectory_from_route(city, metres), folder, sensor, settings)
    return open_drive(folder)


def make_examples(
    city: City,
    drive: Drive,
    sensor: str,
    queries: Queries,
    count: int,
    settings: LocalizeSettings,
    work: Path,
) -> Iterator[Example]:
    """Up to ``count`` examples, spread evenly over a drive; every second heading is unknown.

    Args:
        city: The city of the drive.
        drive: A simulated drive.
        sensor: Its sensor.
        queries: Length of the submaps, and distance between queries.
        count: Number of examples, at most.
        settings: How tiles are made.
        work: Tiles are stored below this folder, in one whose name depends on these settings.
    """
    assert drive.truth is not None
    made_by = settings.submap.model_dump_json() + settings.query.model_dump_json()
    digest = hashlib.sha256(f"{made_by} {queries}".encode()).hexdigest()[:12]
    kept = work / f"tiles_{digest}" / f"{drive.name}_{queries.submap_m:g}m"
    exact = replace(drive, heading=HeadingTrack(drive.truth.t_ns, drive.truth.heading))

    def tiles(heading: HeadingKnowledge) -> QueryTiles:
        asked, cache = replace(queries, heading=heading), TileFolder(kept / heading.kind)
        return drive_tiles(city, exact, asked, settings, cache)

    known, unknown = tiles(KNOWN), tiles(UNKNOWN)
    latitude, longitude, _ = drive.truth.at(known.t_ns)
    position = city.raster.projection.forward(latitude, longitude)
    truth = np.column_stack([position, known.rotation])
    inside = np.flatnonzero(city.raster.inside(position, MARGIN_M))
    chosen = inside[np.unique(np.linspace(0, len(inside) - 1, count).astype(int))]
    for number, query in enumerate(chosen.tolist()):
        source = known if number % 2 == 0 else unknown
        tile = source.tile(query)
        if tile is not None:
            yield Example(tile, truth[query], source.queries, sensor)
