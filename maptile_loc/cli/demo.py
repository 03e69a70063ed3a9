"""All three jobs on a made-up town, with nothing to download."""

from __future__ import annotations

from pathlib import Path

from data_prep.city.folder import CitySettings, open_city, prepare_city
from data_prep.osm.footprints import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.town import write_town
from data_prep.simulate.trajectory import trajectory_from_route
from maptile_loc.config import load_settings
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import ModelSettings
from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.report.report import overview_png, write_report
from maptile_loc.run import RunOptions, run

ROUTE_M = 2000.0


def demo(folder: Path, minutes: float) -> str:
    """Run the demo in ``folder``; returns where to look.

    Args:
        folder: Made if need be; what is in it is made anew.
        minutes: Of training.
    """
    town, city_folder, drive = folder / "town.osm", folder / "city", folder / "drive"
    print("1/5 prepare a made-up town from its OSM file")
    write_town(town)
    prepare_city(OsmSource(path=town), city_folder, CitySettings(name="demo town"))
    city = open_city(city_folder)
    print(f"2/5 simulate a drive of {ROUTE_M:.0f} m in a world that is not quite the map")
    trajectory = trajectory_from_route(city, ROUTE_M, seed=1)
    simulate(city, trajectory, drive, "robotcar", load_settings(SimulateSettings, "simulate"))
    print(f"3/5 train a MapNet (posterior) on the map alone, for {minutes:g} minutes")
    train(city, load_settings(ModelSettings, "posterior"), minutes=minutes, device="auto")
    settings = load_settings(LocalizeSettings, "localize")
    for number, method in ((4, "mapnet"), (5, "match")):
        print(f"{number}/5 localize the drive, --method {method}")
        out = folder / method
        print(run(RunOptions(city=city_folder, drive=drive, method=method), settings, out))
    page = write_report(folder / "match")
    overview_png(folder / "match", folder / "overview.png")
    return f"look at {page} and {folder / 'overview.png'}"
