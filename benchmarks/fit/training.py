"""Simulated drives with known truth on which the shipped parameters are fitted.

In each city of ``CITIES``, vehicles with each sensor follow a route along the roads of the map. The
simulated world differs from the map. Oxford and Karlsruhe are not among the cities: they are used
only to measure the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import KeptTiles, tile_folder

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.drive import Drive, HeadingTrack
from data_prep.geometry import Array
from data_prep.osm.source import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings
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


def training_city(source: Path, work: Path) -> City:
    """The city that an OpenStreetMap extract holds, prepared in ``work`` if it is not there yet."""
    name = source.name.split(".")[0]
    if not (work / name).exists():
        prepare_city(OsmSource(path=source), work / name, CitySettings(name=name))
    return open_city(work / name)


def training_drive(
    city: City, sensor: str, metres: float, work: Path, seed: int = 0, every_m: float = 0.0
) -> Drive:
    """A drive of ``metres`` with labelled scans, simulated in ``work`` if it is not there yet.

    Args:
        city: The city.
        sensor: The vehicle's sensor.
        metres: Length of the route.
        work: Where drives are kept.
        seed: Of the route and of the world.
        every_m: Metres of travel between scans of a spinning LiDAR; 0: every scan.
    """
    folder = work / f"{city.name}_{sensor}_{metres:g}m_{every_m:g}m_{seed}"
    if not folder.exists():
        changes = ["labels=all", f"seed={seed}", f"every_m={every_m}"]
        settings = load_settings(SimulateSettings, "simulate", changes)
        simulate(city, trajectory_from_route(city, metres, seed), folder, sensor, settings)
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
        work: Tiles are kept in ``tiles/`` below this folder.
    """
    assert drive.truth is not None
    exact = replace(drive, heading=HeadingTrack(drive.truth.t_ns, drive.truth.heading))

    def tiles(heading: HeadingKnowledge) -> QueryTiles:
        asked = replace(queries, heading=heading)
        kept = tile_folder(work, Path(city.name), Path(drive.name), asked, settings)
        return drive_tiles(city, exact, asked, settings, KeptTiles(kept))

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
