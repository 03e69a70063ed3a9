"""Scores, covariances and protection levels on many simulated drives, and on maps of other cities.

Run: python benchmarks/doubt.py [DATA] [--work FOLDER] [--seeds N] [--first SEED] [--only CITY ...]
                                [--picture FILE]

In each city, N vehicles with each kind of queries (SENSORS in turn, headings known and unknown in
turn) are simulated along routes through a world that differs from the map, and localized. The
settings of scores and covariances were chosen on drives in CHOSEN, and on drives in Oxford with
other seeds; --only helsinki prints their rows. Results stay in FOLDER; a finished drive is not
localized again.

Tables: by city and stage, how many fixes are right (within 5 m), how many of these are called
localized (availability), how many that are called localized are more than 10 m off (integrity), the
normalised squared errors, and the share of protection levels that hold; the same by drive, where it
is called localized in fewer than 80 %; how often scores are right (reliability); and, of FOREIGN
tiles of each drive, how many are called localized on the map of the next city or of a region. The
map's constant shift, fitted to each drive's aligned fixes, is removed but for the column KEPT.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from inputs import city as prepared
from kept_tiles import KeptTiles, tile_folder
from labelled_streets import city_of_tables, raster_tables
from numpy.typing import NDArray
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.city.raster import read_raster
from data_prep.drive import TruthTrack
from data_prep.files import read_json, write_json
from data_prep.geometry import Array
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.fuse.alone import best_candidates
from maptile_loc.map_search import MapSearch, fix_tile, prepare_search
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.pipeline import drive_tiles, localize
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.report.files import read_result, run_record
from maptile_loc.report.metrics import RIGHT_M, WRONG_M, compare, normalised_errors, pose_errors
from maptile_loc.types import HeadingKnowledge, Localization, Queries

ROOT = Path(__file__).parent.parent
CHOSEN = ("helsinki", "cambridge_ma", "kotka_fi")
"""Cities on whose simulated drives settings were chosen."""

SOURCES = {
    "helsinki": "cities/helsinki.osm.pbf",
    "cambridge_ma": "cities/cambridge_ma.osm",
    "kotka_fi": "cities/kotka_fi.osm.pbf",
    "oxford": "oxford/oxford.osm",
    "kth": "mcd_kth/kth.osm",
    "kitti00": "kitti_odometry/maps/00.tif",
    "kitti05": "kitti_odometry/maps/05.tif",
    "kitti08": "kitti_odometry/maps/08.tif",
    "kitti06": "kitti_odometry/maps/06.tif",
    "kitti360_0000": "kitti360_0000/map.tif",
    "kitti360_0009": "kitti360_0009/map.tif",
}
"""Maps in the folder of real data; roads of a raster become lines. Maps that follow each other do
not overlap: a tile of one is nowhere on the next. 05 and 06 do, and 00, 08 and kitti360_0009."""

REGION, REGION_SOURCE = "north_bayreuth", "cities/north-bayreuth.osm.gz"
"""Name and file of a map of 79 km2, on which no vehicle drives here."""

SENSORS = (
    ("hdl64", 300.0, 0.0, 20.0),
    ("robotcar", 600.0, 50.0, 40.0),
    ("hdl32", 300.0, 20.0, 20.0),
)
"""Sensor, length of the route, of submaps, and distance between queries, metres."""

SCAN_EVERY_M = 2.0
"""Distance between scans of a spinning LiDAR, metres."""

FOREIGN = 12
"""Tiles of each drive that are searched on other maps."""

REGION_EVERY = 4
"""Of these, every n-th is searched on the map of REGION, the others on that of the next city."""

LEVELS = (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 1.0)
"""Limits of the scores that the table of reliability puts together."""

KEPT = "position, shift kept"
"""The column of squared errors without the map's shift removed: where a drive has few fixes, which
share their errors, the shift that is fitted to them takes most of these away."""

STAGES = ("aligned", "fused", "smoothed")
"""Stages in the tables."""


@dataclass(frozen=True)
class Judged:
    """A localized drive with its truth.

    Attributes:
        name: Of the drive.
        city: Name of the city.
        found: The localized drive.
        truth: (Q, 3) true poses, the map's constant shift removed.
        given: (Q, 3) true poses as they are.
        counted: (Q,) bool, queries that count.
        foreign: Tiles called localized on the map of REGION (True) and of another city (False), and
            all tiles searched there.
    """

    name: str
    city: str
    found: Localization
    truth: Array
    given: Array
    counted: NDArray[np.bool_]
    foreign: dict[bool, tuple[int, int]]


class Maps:
    """The cities, each with a search that is prepared when it is first asked for.

    Args:
        data: Folder of real data.
        work: Folder of the prepared cities.
        settings: The recipe.
    """

    def __init__(self, data: Path, work: Path, settings: LocalizeSettings) -> None:
        self.data, self.work, self.settings = data, work, settings
        self._engines: dict[str, MapSearch] = {}

    def city(self, name: str) -> City:
        """The city ``name``, prepared in the work folder."""
        listed = SOURCES | {REGION: REGION_SOURCE}
        source, folder = self.data / listed[name], self.work / name
        if source.suffix != ".tif" or folder.exists():
            return open_city(prepared(source, folder))
        raster = read_raster(source)
        box = (raster.west, raster.south, raster.east, raster.north)
        return city_of_tables(raster_tables(raster), box, folder)

    def engine(self, name: str) -> MapSearch:
        """The search of the map of ``name``; those of the last three are kept."""
        if name not in self._engines:
            while len(self._engines) > 2:
                self._engines.pop(next(iter(self._engines)))
            self._engines[name] = prepare_search(self.city(name), self.settings)
        return self._engines[name]


def simulated(maps: Maps, name: str, seed: int) -> Path:
    """The folder of a drive in the city ``name``, simulated if it is not there yet."""
    sensor, metres, *_ = SENSORS[seed % len(SENSORS)]
    folder, city = maps.work / "drives" / f"{name}_{sensor}_{seed}", maps.city(name)
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        changes = [f"seed={seed}", f"every_m={0.0 if sensor == 'robotcar' else SCAN_EVERY_M}"]
        recipe = load_settings(SimulateSettings, "simulate", changes)
        simulate(city, trajectory_from_route(city, metres, seed), folder, sensor, recipe)
    return folder


def judged(maps: Maps, name: str, seed: int, other: str) -> Judged:
    """Localize one drive in the city ``name``, and some of its tiles on the map of ``other``."""
    sensor, _, submap_m, every_m = SENSORS[seed % len(SENSORS)]
    heading = HeadingKnowledge("known" if seed // len(SENSORS) % 2 == 0 else "unknown")
    label = f"{name}_{sensor}_{seed}"
    out, city = maps.work / "found" / f"{label}_{heading.kind}", maps.city(name)
    folder = simulated(maps, name, seed)
    drive = open_drive(folder)
    assert drive.truth is not None
    queries = Queries(submap_m, every_m, heading=heading, seed=seed)
    settings, note = maps.settings, out / "foreign.json"
    if not note.exists():
        kept = KeptTiles(tile_folder(maps.work, Path(name), folder, queries, settings))
        tiles = drive_tiles(city, drive, queries, settings, kept)
        found = localize(tiles, maps.engine(name), settings)
        record = run_record(city, drive, queries, None, settings) | {"method": "match"}
        replace(found, record=record).save(out, drive.truth)
        write_json(note, searched_elsewhere(maps, tiles, queries, other))
    return judge(f"{label} {heading.kind}", name, out, city, drive.truth)


def searched_elsewhere(
    maps: Maps, tiles: QueryTiles, queries: Queries, other: str
) -> dict[str, dict[str, int]]:
    """Of FOREIGN tiles, how many are localized on the maps of ``other`` and REGION."""
    chosen = np.unique(np.linspace(0, len(tiles) - 1, FOREIGN).astype(int))
    found = {}
    for name, some in (
        (other, np.delete(chosen, np.s_[::REGION_EVERY])),
        (REGION, chosen[::REGION_EVERY]),
    ):
        shown = [tile for query in some.tolist() if (tile := tiles.tile(query)) is not None]
        engine = maps.engine(name)
        fixes = [fix_tile(tile, queries, engine, maps.settings)[1] for tile in shown]
        sure = int(best_candidates(fixes, maps.settings.fuse).localized.sum())
        found[name] = {"localized": sure, "tiles": len(fixes)}
    return found


def judge(label: str, name: str, out: Path, city: City, truth: TruthTrack) -> Judged:
    """Read a finished drive and bring the truth to it."""
    found, foreign = read_result(out, city.raster), read_json(out / "foreign.json")
    comparison = compare(found, truth)
    moved = comparison.truth + np.append(comparison.shift, 0.0)
    counts = {
        on == REGION: (int(one["localized"]), int(one["tiles"])) for on, one in foreign.items()
    }
    return Judged(label, name, found, moved, comparison.truth, comparison.counted, counts)


# --- Tables --------------------------------------------------------------------------------------


def figures(drives: Iterable[Judged], stage: str) -> list[str]:
    """The cells of a row: fixes of all drives put together."""
    parts = [(one, one.found.stages[stage]) for one in drives]
    metres = np.concatenate(
        [pose_errors(got.poses[one.counted], one.truth[one.counted])[0] for one, got in parts]
    )
    sure = np.concatenate([got.localized[one.counted] for one, got in parts])
    level = np.concatenate([got.protection_m[one.counted] for one, got in parts])
    errors = [normalised_errors(got, one.truth, one.counted & got.localized) for one, got in parts]
    ratios = [mean(np.concatenate(column)) for column in zip(*errors, strict=True)]
    kept = [normalised_errors(got, one.given, one.counted & got.localized)[0] for one, got in parts]
    right, wrong, bounded = metres <= RIGHT_M, sure & (metres > WRONG_M), np.isfinite(level)
    held = metres[bounded] <= level[bounded]
    close = level[sure] <= WRONG_M
    usual = float(np.median(level[sure])) if sure.any() else np.nan
    shares = (
        *(mean(sure[right]), *ratios, mean(np.concatenate(kept))),
        *(mean(held), usual, mean(close)),
    )
    return [
        f"{len(metres)}",
        f"{right.mean():.3f}",
        f"{sure.sum()}",
        f"{wrong.sum()}",
        *(f"{value:.3f}" for value in shares),
    ]


def mean(values: NDArray[Any]) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else np.nan


def reliability(drives: list[Judged]) -> None:
    """Print how often fixes are right, by their scores."""
    head("score", *(f"{stage}: n, right" for stage in STAGES))
    for low, high in pairwise(LEVELS):
        cells = []
        for stage in STAGES:
            those = np.concatenate(
                [right[(score > low) & (score <= high)] for score, right in scored(drives, stage)]
            )
            cells.append(f"{len(those)}, {those.mean():.3f}" if len(those) else "0")
        row(f"{low:g} to {high:g}", *cells)


def diagram(drives: list[Judged], file: Path) -> None:
    """Draw how often fixes are right by their scores, with a step per tenth of the fixes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for stage in STAGES:
        score, right = (
            np.concatenate(column) for column in zip(*scored(drives, stage), strict=True)
        )
        order = np.array_split(np.argsort(score), 10)
        points = [(score[part].mean(), right[part].mean()) for part in order]
        axes.plot(*np.transpose(points), marker="o", label=stage)
    axes.set(
        xlabel="score", ylabel="share of fixes within 5 m", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03)
    )
    axes.legend()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def scored(drives: list[Judged], stage: str) -> list[tuple[Array, NDArray[np.bool_]]]:
    """Scores of each drive's fixes that count, and whether they are right."""
    parts = [(one, one.found.stages[stage]) for one in drives]
    return [
        (
            got.score[one.counted],
            pose_errors(got.poses[one.counted], one.truth[one.counted])[0] <= RIGHT_M,
        )
        for one, got in parts
    ]


def tables(drives: list[Judged]) -> None:
    """Print all tables."""
    columns = (
        *("n", "right", "localized", "> 10 m off", "availability", "position", "pose", KEPT),
        *("protected", "level m", "<= 10 m"),
    )
    head("city", "stage", "drives", *columns)
    for name in [*dict.fromkeys(one.city for one in drives), "all"]:
        some = [one for one in drives if name in (one.city, "all")]
        for stage in STAGES:
            row(name, stage, f"{len(some)}", *figures(some, stage))
    print("\nDrives of which fewer than 80 % of the right smoothed fixes are called localized.\n")
    head("drive", *columns)
    for one in drives:
        cells = figures([one], "smoothed")
        if not float(cells[4]) >= 0.8:
            row(one.name, *cells)
    print("\nReliability.\n")
    reliability(drives)
    print("\nTiles called localized on the map of another city.\n")
    head("heading", "map", "localized", "tiles")
    for kind in ("known", "unknown"):
        for region, label in ((False, "next city"), (True, REGION)):
            counts = [one.foreign[region] for one in drives if one.name.endswith(f" {kind}")]
            sure, total = np.sum(counts, axis=0) if counts else (0, 0)
            row(kind, label, f"{sure}", f"{total}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "doubt")
    parser.add_argument("--seeds", type=int, default=13, metavar="N", help="drives per city")
    parser.add_argument("--first", type=int, default=100, metavar="SEED")
    parser.add_argument("--only", nargs="+", choices=SOURCES, metavar="CITY")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="reliability diagram, PNG")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    names = given.only or [name for name in SOURCES if name not in CHOSEN]
    maps, seeds = Maps(given.data, given.work, load_recipe()), range(given.seeds)
    drives = []
    for number, name in enumerate(names):
        other = names[(number + 1) % len(names)] if len(names) > 1 else "oxford"
        drives += [judged(maps, name, given.first + seed, other) for seed in seeds]
    print(f"{stamp()}\n")
    tables(drives)
    if given.picture is not None:
        diagram(drives, given.picture)


if __name__ == "__main__":
    main()
