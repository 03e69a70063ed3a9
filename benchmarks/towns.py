"""How often the right one of many towns is found, without any prior.

Run: python benchmarks/towns.py MODEL [DATA] [--work FOLDER] [--drives N] [--seed N]

The maps at hand are cut into towns of 1 km2. In N of those with roads and LEAST_BUILDINGS buildings
or more, drawn at random, a drive of 500 m along a random route is simulated, and looked for in all
towns with an unknown heading. MODEL is a descriptor (maptile train --config retrieval). All is kept
in FOLDER: a second run goes on where the first one ended.

Tables: how often the right town is the first, and among the first five, and how often the votes
locate the drive within 50 m; the same among fewer towns, which are drawn at random, with the scores
of the whole index; and what the index costs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from doubt import SCAN_EVERY_M, SOURCES
from inputs import city as prepared
from kept_tiles import KeptTiles, tile_folder
from labelled_streets import raster_tables
from numpy.typing import NDArray
from stamp import head, peak_mb, row, stamp

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.city.raster import read_raster
from data_prep.errors import MaptileError
from data_prep.files import read_json, write_json
from data_prep.geometry import Array
from data_prep.osm.source import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import Trajectory, trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.tiles import query_tiles
from maptile_loc.recipe import load_recipe
from maptile_loc.towns.index import kept_index
from maptile_loc.towns.locate import LocateSettings, rank_towns, read_describer
from maptile_loc.types import HeadingKnowledge, Queries

ROOT = Path(__file__).parent.parent
OVERLAPPING = ("kitti00", "kitti06", "kitti08")
"""Maps that hold positions of others."""

SIDE_M = 1000.0
"""Side of a town, metres."""

LEAST_BUILDINGS = 30
"""Buildings of a town that a drive is simulated in, at least."""

DRIVE_M = 500.0
"""Length of a drive, metres."""

ROUTES = 30
"""Routes in a town that are tried: most reach its edge too soon where there are few roads."""

LIMIT_KM2 = 10_000.0
"""Area to which the size of the index is extrapolated, km2."""


def tables(source: Path, work: Path) -> tuple[gpd.GeoDataFrame, gpd.GeoDataFrame]:
    """The buildings and the roads of a map, with OSM's tags."""
    if source.suffix == ".tif":
        buildings, roads = raster_tables(read_raster(source))
        return buildings, roads
    city = open_city(prepared(source, work / "whole" / source.stem.split(".")[0]))
    buildings, roads = city.buildings(), city.roads()
    kept = roads[["highway", "name", "geometry"]].assign(width=roads["width"].map("{:.2f}".format))
    return buildings[["geometry"]].assign(building="yes"), kept


def cut(name: str, source: Path, work: Path) -> list[Path]:
    """The towns of a map: folders of prepared cities, made where they are missing."""
    listed = work / "towns" / f"{name}.json"
    if listed.exists():
        return [work / "towns" / town for town in read_json(listed)["towns"]]
    buildings, roads = tables(source, work)
    west, south, east, north = np.array(roads.total_bounds)
    counts = np.maximum(np.round([(north - south) / SIDE_M, (east - west) / SIDE_M]), 1).astype(int)
    size = np.array([(north - south) / counts[0], (east - west) / counts[1]])
    made = []
    for r, c in np.ndindex(*counts):
        low = np.array([west + c * size[1], south + r * size[0]])
        box = shapely.box(*low, *(low + size[::-1]))
        houses = buildings[buildings.intersects(box)]
        ways = gpd.clip(roads[roads.geom_type.str.contains("Line")], box)
        if houses.empty or ways.empty:
            continue
        town, file = f"{name}_{r}_{c}", work / "towns" / f"{name}_{r}_{c}.gpkg"
        file.parent.mkdir(parents=True, exist_ok=True)
        houses.to_file(file, layer="buildings")
        ways.explode().to_file(file, layer="roads")
        prepare_city(OsmSource(path=file), work / "towns" / town, CitySettings(name=town))
        made.append(town)
    write_json(listed, {"towns": made})
    return [work / "towns" / town for town in made]


def drawn(cities: list[City], count: int, seed: int) -> list[tuple[int, int]]:
    """Number of the town and seed of each of ``count`` drives: towns in turn, in random order."""
    built = [i for i, city in enumerate(cities) if len(city.buildings()) >= LEAST_BUILDINGS]
    order = np.random.default_rng(seed).permutation(built)
    return [(int(order[i % len(order)]), seed + i) for i in range(count)]


def route(city: City, seed: int) -> Trajectory:
    """A route of DRIVE_M in a town: the first of some that does not leave it before.

    Raises:
        MaptileError: There is none.
    """
    for number in range(ROUTES):
        made = trajectory_from_route(city, DRIVE_M, seed + 1000 * number)
        if np.hypot(*np.diff(made.poses[:, :2], axis=0).T).sum() >= 0.9 * DRIVE_M:
            return made
    raise MaptileError(f"no route of {DRIVE_M:g} m")


def looked_up(work: Path, cities: list[City], town: int, seed: int, asked: Any) -> dict[str, Any]:
    """What the votes say of one drive, which is simulated if it is not there yet."""
    index, describer, recipe, settings = asked
    city = cities[town]
    folder, note = work / "drives" / f"{city.name}_{seed}", work / "found" / f"{seed}.json"
    if note.exists():
        return read_json(note)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        changes = load_settings(
            SimulateSettings, "simulate", [f"seed={seed}", f"every_m={SCAN_EVERY_M}"]
        )
        simulate(city, route(city, seed), folder, "hdl32", changes)
    drive = open_drive(folder)
    truth = drive.truth
    assert truth is not None
    queries = Queries(50.0, 20.0, False, HeadingKnowledge("unknown"), seed, False)
    kept = KeptTiles(tile_folder(work, city.folder or work, folder, queries, recipe))
    tiles = query_tiles(drive, queries, 0.0, recipe.submap, recipe.query, kept)
    begun = time.process_time()
    towns = rank_towns(cities, tiles, index, describer, recipe, settings)
    seconds = time.process_time() - begun - sum(kept.spent.values())
    names = [one.city.name for one in towns]
    away = None
    if city.name in names:
        one = towns[names.index(city.name)]
        at = city.raster.projection.forward(one.latitude, one.longitude)
        latitude, longitude, _ = truth.at(tiles.t_ns)
        places = city.raster.projection.forward(latitude, longitude)
        middle = (np.nanmin(places, axis=0) + np.nanmax(places, axis=0)) / 2
        away = float(np.hypot(*(np.asarray(at) - middle)))
    found = {"town": city.name, "names": names, "scores": [one.score for one in towns]}
    found |= {"away_m": away, "probability": towns[0].probability, "seconds": seconds}
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, found)
    return found


def ranks(found: list[dict[str, Any]]) -> NDArray[np.int64]:
    """The rank of the right town of each drive, 0 for the first; a large one where it has none."""
    return np.array(
        [one["names"].index(one["town"]) if one["town"] in one["names"] else 10**6 for one in found]
    )


def among_fewer(found: list[dict[str, Any]], towns: int, count: int, seed: int) -> Array:
    """(2,) share of the drives whose town is first, and among five, of ``count`` random towns."""
    rng = np.random.default_rng(seed)
    rank = ranks(found)
    # Those before the right town are drawn with the same chance as all others.
    ahead = rng.hypergeometric(
        np.minimum(rank, towns - 1), np.maximum(towns - 1 - rank, 0), count - 1, (200, len(rank))
    )
    return np.array([(ahead < 1).mean(), (ahead < 5).mean()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "towns")
    parser.add_argument("--drives", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sources = {name: source for name, source in SOURCES.items() if name not in OVERLAPPING}
    sources |= {"bayreuth": "cities/north-bayreuth.osm.gz"}
    folders = [
        town
        for name, source in sources.items()
        for town in cut(name, given.data / source, given.work)
    ]
    cities = [open_city(folder) for folder in folders]
    recipe, settings = load_recipe(), load_settings(LocateSettings, "locate")
    describer = read_describer(given.model, cities[0], settings, "cpu")
    begun = time.process_time()
    index = kept_index(given.work / "index", cities, describer)
    made = time.process_time() - begun
    asked, found = (index, describer, recipe, settings), []
    for town, seed in drawn(cities, given.drives, given.seed):
        try:
            found.append(looked_up(given.work, cities, town, seed, asked))
        except MaptileError as error:
            print(f"{cities[town].name}: left out, {error}")
    area = sum(city.area_km2 for city in cities)
    size = (given.work / "index" / "index.faiss").stat().st_size
    print(stamp(), end="\n\n")
    head("towns", "km2", "views", "index, MB", f"MB for {LIMIT_KM2:,.0f} km2", "s to make", "MB")
    row(
        f"{len(cities)}",
        f"{area:.0f}",
        f"{len(index.town)}",
        f"{size / 1e6:.0f}",
        f"{size / 1e6 * LIMIT_KM2 / area:.0f}",
        f"{made:.0f}",
        f"{peak_mb():.0f}",
    )
    print()
    rank, away = ranks(found), np.array([one["away_m"] or np.nan for one in found])
    head("drives", "first", "among five", "within 50 m", "s per drive")
    row(
        f"{len(found)}",
        f"{(rank < 1).mean():.3f}",
        f"{(rank < 5).mean():.3f}",
        f"{(away < 50).mean():.3f}",
        f"{np.median([one['seconds'] for one in found]):.1f}",
    )
    print()
    head("towns", "first", "among five")
    for count in sorted({5, 10, 20, 40, 80, len(cities)}):
        if count <= len(cities):
            first, five = among_fewer(found, len(cities), count, given.seed)
            row(f"{count}", f"{first:.3f}", f"{five:.3f}")
    missed = [one["town"] for one, place in zip(found, rank, strict=True) if place >= 5]
    print(f"\nnot among five: {json.dumps(missed)}")


if __name__ == "__main__":
    main()
