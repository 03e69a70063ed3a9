"""Localization with GNSS that lies: simulated drives, with errors of the receiver of its own.

Run: python benchmarks/gnss.py [DATA] [--work FOLDER] [--cities NAME ...] [--seeds SEED ...]
                               [--kinds KIND ...] [--live]

Vehicles with an HDL-32E (even seeds) and with two LMS-151 (odd seeds) are simulated along routes of
800 m through worlds that differ from the map, with visual odometry that drifts. Each drive is
localized without GNSS and with GNSS of every kind (degraded.py), headings known and unknown. The
settings of GNSS were chosen on CHOSEN with seeds 0 and 1; the table has HELD_OUT with 100 and 101.

The cities "loop" and "loop2" are Oxford, with scans simulated along the INS of two real runs:
there, the kind "real" is the GPS of the run itself.

--live: the drives are pushed to a Localizer; how long after it begins spoofing is noticed.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from degraded import KINDS, degraded, spoofed_ns
from doubt import Maps
from kept_tiles import KeptTiles, tile_folder
from stamp import head, row, stamp

from data_prep.drive import GnssTrack
from data_prep.files import atomic_file
from data_prep.geometry import Array
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import open_trajectory
from data_prep.sources import open_drive
from data_prep.sources.formats.robotcar_tables import read_gps
from maptile_loc.config import load_settings
from maptile_loc.live.localizer import Localizer
from maptile_loc.live.replay import feed
from maptile_loc.map_search import MapSearch
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.pipeline import drive_tiles, localize
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.report.metrics import RIGHT_M, WRONG_M, truth_in_map
from maptile_loc.score.evidence import Evidence
from maptile_loc.search.engine.method import Search
from maptile_loc.types import Candidates, HeadingKnowledge, Queries, QueryTile

ROOT = Path(__file__).parent.parent
CHOSEN = ("helsinki", "cambridge_ma")
"""Cities on whose drives settings were chosen."""

HELD_OUT = ("oxford", "kth", "kitti360_0009")
"""Cities of the table."""

SENSORS = (("hdl32", 3.0, 20.0, 20.0), ("robotcar", 0.0, 50.0, 20.0))
"""Sensor, metres between scans, length of submaps and metres between queries, by seed."""

LENGTH_M = 800.0
"""Length of a route, metres."""

HEADINGS = ("known", "unknown")
STAGES = ("aligned", "fused", "smoothed")

LOOPS = {"loop": "2014-06-26-09-24-58", "loop2": "2014-06-26-08-53-56"}
"""Real runs whose INS is the truth, and the path, of simulated scans; kind "real" is their GPS."""

CITY = {"loop": "oxford", "loop2": "oxford"}
"""The city of each."""

Judged = dict[str, Array]
"""Errors of the queries of one drive, by stage."""


class Remembered:
    """A search of the whole map that remembers what it found for a tile."""

    def __init__(self, search: Search) -> None:
        self.search, self.area_km2 = search, search.area_km2
        self.found: dict[int, tuple[QueryTile, Candidates]] = {}

    def candidates(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Candidates:
        """The candidates for a tile; see ``Search``."""
        if id(tile) not in self.found:
            self.found[id(tile)] = tile, self.search.candidates(tile, evidence, turns, log_prior)
        return self.found[id(tile)][1]


class Memory:
    """Tiles that are kept in memory, and read from a folder once."""

    def __init__(self, kept: KeptTiles) -> None:
        self.kept = kept
        self.tiles: dict[int, QueryTile | None] = {}

    def tile(self, query: int, make: Callable[[], QueryTile | None]) -> QueryTile | None:
        """The tile of a query; see ``TileCache``."""
        if query not in self.tiles:
            self.tiles[query] = self.kept.tile(query, make)
        return self.tiles[query]


def recorded(maps: Maps, name: str, seed: int) -> Path:
    """The folder of a drive in the city ``name``, simulated if it is not there yet."""
    sensor, every_m, *_ = SENSORS[seed % 2]
    folder = maps.work / "drives" / f"{name}_{sensor}_{seed}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        city = maps.city(CITY.get(name, name))
        recipe = load_settings(SimulateSettings, "simulate", [f"seed={seed}", f"every_m={every_m}"])
        track = "route"
        if name in LOOPS:
            track = str(maps.data / "robotcar" / LOOPS[name] / "gps" / "ins.csv")
        simulate(city, open_trajectory(track, city, LENGTH_M, seed), folder, sensor, recipe)
    return folder


def figures(rows: list[Judged], stage: str) -> dict[str, float]:
    """The figures of one stage over all drives."""
    metres = np.concatenate([one[f"{stage}_m"] for one in rows])
    sure = np.concatenate([one[f"{stage}_sure"] for one in rows])
    metres = np.where(np.isfinite(metres), metres, 1e4)
    first = [(one[f"{stage}_m"][0] <= RIGHT_M) & one[f"{stage}_sure"][0] for one in rows]
    return {
        "median": float(np.median(metres)),
        "p95": float(np.percentile(metres, 95)),
        "2m": float((metres <= 2).mean()),
        "localized": float(sure.mean()),
        "wrong": float((sure & (metres > WRONG_M)).sum()),
        "first": float(np.mean(first)),
        "queries": float(len(metres)),
        "left out": float(sum(one["left_out"] for one in rows)),
    }


def judged(
    maps: Maps, name: str, seed: int, kinds: list[str], settings: LocalizeSettings
) -> dict[tuple[str, str], Judged]:
    """One drive, localized with headings known and unknown, with GNSS of every kind."""
    found: dict[tuple[str, str], Judged] = {}
    sensor, _, submap_m, every_m = SENSORS[seed % 2]
    mark = hashlib.sha256(settings.gnss.model_dump_json().encode()).hexdigest()[:8]
    for kind in HEADINGS:
        queries = Queries(submap_m, every_m, heading=HeadingKnowledge.parse(kind), seed=seed)
        prepared: tuple[QueryTiles, MapSearch] | None = None
        for errs in ("none", *kinds):
            file = maps.work / "judged" / mark / f"{name}_{sensor}_{seed}_{kind}_{errs}.npz"
            if not file.exists():
                prepared = prepared or ready(maps, name, seed, queries, settings)
                one = judge(*prepared, errs, name, seed, maps, settings)
                file.parent.mkdir(parents=True, exist_ok=True)
                with atomic_file(file) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, **one)  # type: ignore[arg-type]
            with np.load(file, allow_pickle=False) as kept:
                found[kind, errs] = {key: kept[key] for key in kept.files}
    return found


def ready(
    maps: Maps, name: str, seed: int, queries: Queries, settings: LocalizeSettings
) -> tuple[QueryTiles, MapSearch]:
    """The tiles of a drive, and a search that remembers what it found."""
    folder, city = recorded(maps, name, seed), maps.city(CITY.get(name, name))
    kept = KeptTiles(tile_folder(maps.work, Path(name), folder, queries, settings))
    tiles = drive_tiles(city, open_drive(folder), queries, settings, Memory(kept))
    plain = maps.engine(CITY.get(name, name))
    searched = MapSearch(plain.raster, plain.fields, Remembered(plain.search), plain.tracked)
    return tiles, searched


def judge(
    tiles: QueryTiles,
    engine: MapSearch,
    errs: str,
    name: str,
    seed: int,
    maps: Maps,
    settings: LocalizeSettings,
) -> Judged:
    """Errors in metres, and what is localized, of each stage with GNSS of one kind."""
    truth = open_drive(recorded(maps, name, seed)).truth
    assert truth is not None
    if errs != "none":
        track = degraded(truth, errs, seed) if errs != "real" else real_gnss(maps, name)
        received, asked = replace(tiles.drive, gnss=track), replace(tiles.queries, gnss=True)
        tiles = replace(tiles, drive=received, queries=asked)
    found = localize(tiles, engine, settings)
    at = truth_in_map(truth, found.raster, found.t_ns)
    counts = found.record.get("gnss_queries", {})
    one = {"left_out": np.array(counts.get("left_out", 0))}
    for stage in STAGES:
        answer = found.stages[stage]
        one[f"{stage}_m"] = np.hypot(*(answer.poses[:, :2] - at[:, :2]).T)
        one[f"{stage}_sure"] = answer.localized
    return one


def real_gnss(maps: Maps, name: str) -> GnssTrack:
    """The positions that the receiver of a real run measured."""
    gps = read_gps(maps.data / "robotcar" / LOOPS[name] / "gps" / "gps.csv")
    return GnssTrack(gps.t_ns, gps.latitude, gps.longitude, gps.sigma[:, :2].mean(axis=1))


def accuracy(
    maps: Maps, names: list[str], seeds: list[int], kinds: list[str], settings: LocalizeSettings
) -> None:
    """Print the table of errors."""
    every: dict[tuple[str, str], list[Judged]] = {}
    for name in names:
        for seed in seeds:
            for key, one in judged(maps, name, seed, kinds, settings).items():
                every.setdefault(key, []).append(one)
            print(f"{name} {seed}", flush=True)
    print(f"\n{stamp()}\n")
    head(
        *("heading", "GNSS", "stage", "queries", "median m", "95 % m", "within 2 m", "localized"),
        *("localized, wrong", "first query sure", "left out"),
    )
    for (kind, errs), rows in sorted(every.items(), key=lambda item: item[0][0]):
        for stage in STAGES:
            all_ = figures(rows, stage)
            row(
                *(kind, errs, stage, f"{all_['queries']:.0f}", f"{all_['median']:.3f}"),
                *(f"{all_['p95']:.2f}", f"{all_['2m']:.3f}", f"{all_['localized']:.3f}"),
                *(f"{all_['wrong']:.0f}", f"{all_['first']:.2f}", f"{all_['left out']:.0f}"),
            )


def noticed(
    maps: Maps, names: list[str], seeds: list[int], kinds: list[str], settings: LocalizeSettings
) -> None:
    """Print how soon a live vehicle notices that its GNSS is spoofed."""
    print(f"\n{stamp()}\n")
    head(
        "drive", "heading", "GNSS", "sure", "noticed after s", "used again after s", "else left out"
    )
    for name in names:
        for seed in seeds:
            drive, (_, _, submap_m, every_m) = (
                open_drive(recorded(maps, name, seed)),
                SENSORS[seed % 2],
            )
            assert drive.truth is not None
            begin, end = spoofed_ns(drive.truth)
            for kind in kinds:
                heading = HEADINGS[(seed // 2) % 2]
                queries = Queries(
                    submap_m, every_m, True, HeadingKnowledge.parse(heading), seed, gnss=True
                )
                received = replace(drive, gnss=degraded(drive.truth, kind, seed))
                with Localizer.on(maps.engine(name), queries, settings, background=False) as one:
                    fixes = [one.add_scan(scan) for scan in feed(one, received)]
                rows = [(fix.t_ns, fix.gnss, fix.localized) for fix in fixes if fix is not None]
                t_ns, state, sure = (np.array(column) for column in zip(*rows, strict=True))
                out, spoofed = state == "left_out", (t_ns >= begin) & (t_ns < end)
                before = sure[t_ns < begin]
                first = t_ns[spoofed & out][:1]
                again = t_ns[(t_ns >= end) & (state == "used")][:1]
                row(
                    *(f"{name} {seed}", heading, kind, f"{before[-1:].any()}"),
                    f"{(first[0] - begin) / 1e9:.1f}" if len(first) else "never",
                    f"{(again[0] - end) / 1e9:.1f}" if len(again) else "never",
                    f"{out[t_ns < begin].mean():.3f}",
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gnss")
    parser.add_argument("--cities", nargs="+", default=list(HELD_OUT), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101], metavar="SEED")
    parser.add_argument("--kinds", nargs="+", choices=(*KINDS, "real"), metavar="KIND")
    parser.add_argument("--live", action="store_true")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    settings = load_recipe()
    maps = Maps(given.data, given.work, settings)
    if given.live:
        kinds = given.kinds or ["spoofed", "dragged"]
        noticed(maps, given.cities, given.seeds, kinds, settings)
    else:
        accuracy(maps, given.cities, given.seeds, given.kinds or list(KINDS), settings)


if __name__ == "__main__":
    main()
