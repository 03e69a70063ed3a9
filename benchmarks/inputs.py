"""Cities, drives and query tiles that the benchmarks share, made from the real data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.osm.source import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import open_trajectory
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.types import Queries, QueryTile

KITTI = Path("kitti_raw/2011_09_26/2011_09_26_drive_0005_sync")
RUNS = {
    "loop 2014-06-26-09-24-58": "robotcar/2014-06-26-09-24-58/gps/ins.csv",
    "full 2014-11-28-12-07-13": "robotcar/2014-11-28-12-07-13/gps/gps.csv",
}


def city(source: Path, folder: Path) -> Path:
    """The folder of a city prepared from an OSM file."""
    if not folder.exists():
        prepare_city(OsmSource(path=source), folder, CitySettings(name=folder.name))
    return folder


def drive(trajectory: Path, where: Path, folder: Path) -> Path:
    """The folder of a drive simulated along a real trajectory through the city ``where``."""
    if not folder.exists():
        opened = open_city(where)
        path = open_trajectory(str(trajectory), opened, 0.0, 0)
        simulate(opened, path, folder, "robotcar", load_settings(SimulateSettings, "simulate"))
    return folder


def some_tiles(
    where: City, folder: Path, queries: Queries, count: int, settings: LocalizeSettings
) -> Iterator[QueryTile]:
    """Up to ``count`` query tiles of a drive, evenly spaced, as the pipeline makes them."""
    tiles = drive_tiles(where, open_drive(folder), queries, settings)
    last = len(tiles) - 1
    for number in np.unique(np.linspace(0, last, min(count, last + 1)).round().astype(int)):
        tile = tiles.tile(int(number))
        if tile is not None:
            yield tile
