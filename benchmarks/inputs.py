"""Cities and drives that the benchmarks share, made from the real data where they are missing."""

from __future__ import annotations

from pathlib import Path

from data_prep.city import CitySettings, open_city, prepare_city
from data_prep.osm import OsmSource
from data_prep.simulate import SimulateSettings, simulate
from data_prep.trajectory import open_trajectory
from maptile_loc.config import load_settings

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
