"""The localization engine beside its baselines, on every drive; prints markdown tables.

Run: python benchmarks/engine.py [DATA] [--work FOLDER] [--only DRIVE ...] [--heading known|unknown]
                                 [--quick] [--again] [--methods METHOD ...]
                                 [--retrieval MODEL]

DATA is the folder of real data (default: ../shared/data). Cities, simulated drives, query tiles and
results stay in FOLDER. A finished result is not computed twice without --again; with it, the query
tiles are made anew, too. --quick takes the first 40 queries of each drive. The learned methods use
what maptile train left in the cities in FOLDER; without a model they are left out.
--retrieval names a descriptor model for all cities.

Figures are of every query whose truth is well inside the map, by its pose alone, whether or not it
was called localized. "shift" is the constant shift between map and truth; "drift" is a shift that
is linear in the distance travelled. Both are fitted to each method's aligned fixes and removed.
"GPS" is the shift again, but relative to the drive's odometry (for KITTI, the velocities of its
INS), not to its GPS. Seconds are wall time: of a tile from the scans, and of the rest.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import kitti360
import numpy as np
from baselines import PlainCorrelation, PlainSettings, RayDescriptor, oracle
from inputs import KITTI, RUNS, city, drive
from kept_tiles import KeptTiles, tile_folder
from numpy.typing import NDArray
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.errors import MaptileError
from data_prep.files import read_json, write_json
from data_prep.geometry import Array, rotate, se2_from_se3
from data_prep.sources import open_drive
from maptile_loc.device import pick_device
from maptile_loc.map_search import MapSearch, prepare_search
from maptile_loc.models.parts.published import CARD
from maptile_loc.pipeline import drive_tiles, localize
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.report.files import read_result, run_record
from maptile_loc.report.metrics import Comparison, chance, compare, pose_errors, reliability
from maptile_loc.score.map_fields import make_fields
from maptile_loc.search.engine.locator import newest_model
from maptile_loc.types import HeadingKnowledge, Localization, Queries

ROOT = Path(__file__).parent.parent
QUICK = 40
NOTE = "bench.json"
"""Written last, so a folder without it holds no finished result."""
SURE_OFF, NEES = 0.01, (0.5, 2.0)
"""Of the fixes called localized so few may be off by more, and the aligned ones' error ratio."""
DRIFT_REACH_M = 5.0
SETTLED_M = 100.0
LEARNED = ("mapnet", "cells", "retrieval")
METHODS = ("rays", "plain", *LEARNED, "ours")
BASELINE_STAGES = ("coarse", "aligned")
RECALLS = (1.0, 2.0, 5.0)
HEAD = (
    *("drive", "heading", "method", "stage", "taken out", "n", "<= 1 m", "<= 2 m", "<= 5 m"),
    *("median m", "<= 1 deg", "<= 2 m after 100 m", "tile s", "search s"),
)


@dataclass(frozen=True)
class Case:
    """A drive on a map, and how its queries are made.

    Attributes:
        name: For people.
        city, drive: Paths.
        submap_m, every_m: As in ``Queries``.
        drifts: The shift between map and GPS changes along it.
        home: The drive is on this map.
    """

    name: str
    city: Path
    drive: Path
    submap_m: float
    every_m: float
    drifts: bool = False
    home: bool = True


@dataclass(frozen=True)
class Requirement:
    """What a figure has to be: at least ``least``, at most ``most``."""

    case: str
    heading: str
    stage: str
    removed: str
    figure: str
    least: float = -np.inf
    most: float = np.inf


REQUIRED = (
    Requirement("kitti", "known", "aligned", "shift", "recall_2m", 0.95),
    Requirement("kitti", "known", "aligned", "shift", "median_m", most=0.8),
    Requirement("kitti", "known", "aligned", "GPS", "recall_2m", 0.95),
    Requirement("kitti50", "known", "aligned", "shift", "median_m", most=0.8),
    Requirement("kitti50", "unknown", "aligned", "shift", "recall_5m", 0.95),
    Requirement("kitti360", "known", "aligned", "nothing", "recall_1m", 0.90),
    Requirement("kitti360", "known", "aligned", "nothing", "recall_5m", 0.95),
    Requirement("kitti360", "unknown", "aligned", "nothing", "recall_5m", 0.92),
    Requirement("kitti360-80", "unknown", "aligned", "nothing", "recall_5m", 0.99),
    Requirement("kitti360", "unknown", "fused", "nothing", "settled_2m", 1.0),
    Requirement("full", "known", "aligned", "nothing", "recall_5m", 0.97),
    Requirement("full", "known", "aligned", "nothing", "median_m", most=0.7),
    Requirement("full", "known", "aligned", "nothing", "heading_recall_1deg", 0.9),
    Requirement("full", "unknown", "aligned", "nothing", "recall_5m", 0.90),
    Requirement("full", "known", "fused", "nothing", "recall_2m", 0.99),
    Requirement("full", "unknown", "fused", "nothing", "recall_2m", 0.99),
)


def make_cases(data: Path, work: Path) -> dict[str, Case]:
    """All cases by their short names; cities and drives are made where they are missing."""
    karlsruhe = city(data / KITTI.parent / "2011_09_26_drive_0005.osm", work / "karlsruhe")
    oxford = city(data / "oxford" / "oxford.osm", work / "oxford")
    source, frames = data / "kitti360_0000", work / "kitti360_0000"
    if not frames.exists():
        kitti360.write_drive(source, frames)
    plane = city(source / "map.tif", work / "kitti360")
    loop, full = (drive(data / RUNS[name], oxford, work / name.replace(" ", "_")) for name in RUNS)
    kitti = data / KITTI
    return {
        "kitti": Case("KITTI 0005, single scan", karlsruhe, kitti, 0.0, 0.0, drifts=True),
        "kitti50": Case("KITTI 0005, 50 m", karlsruhe, kitti, 50.0, 2.0, drifts=True),
        "kitti360": Case("KITTI-360 0000, single frame", plane, frames, 0.0, 0.0),
        "kitti360-80": Case("KITTI-360 0000, 80 m", plane, frames, 80.0, 0.0),
        "loop": Case("Oxford loop, 50 m", oxford, loop, 50.0, 20.0),
        "full": Case("Oxford full run, 50 m", oxford, full, 50.0, 20.0),
        "kitti-away": Case("KITTI 0005 on Oxford", oxford, kitti, 50.0, 5.0, home=False),
        "loop-away": Case("Oxford loop on Karlsruhe", karlsruhe, loop, 50.0, 20.0, home=False),
    }


# --- Runs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """The settings that all runs share."""

    work: Path
    settings: LocalizeSettings
    device: str
    quick: bool
    again: bool
    descriptors: Path | None
    done: set[Path] = field(default_factory=set)

    def out(self, key: str, heading: str, method: str) -> Path:
        """The folder of one run's result."""
        return self.work / ("quick" if self.quick else "out") / f"{key}_{heading}_{method}"

    def run(self, key: str, case: Case, heading: str, method: str) -> Path | None:
        """Localize, unless that is done already; None where the method is not for this case."""
        out = self.out(key, heading, method)
        kept_result = not self.again or out in self.done
        if kept_result and (out / NOTE).exists():
            return out
        where, track = opened_city(case.city), opened_drive(case.drive)
        model = self.model(where, heading, method)
        if model is None and method in LEARNED:
            return None
        queries = Queries(case.submap_m, case.every_m, heading=HeadingKnowledge.parse(heading))
        folder = tile_folder(self.work, case.city, case.drive, queries, self.settings)
        if self.again and folder not in self.done:
            shutil.rmtree(folder, ignore_errors=True)
        self.done.add(folder)
        kept = KeptTiles(folder)
        tiles = drive_tiles(where, track, queries, self.settings, kept)
        if self.quick:
            first = replace(tiles.plan, scan=tiles.plan.scan[:QUICK])
            tiles = replace(tiles, plan=first, rotation=tiles.rotation[:QUICK])
        engine = self.engine(where, method, model)
        found = localize(tiles, engine, self.settings)
        record = run_record(where, track, queries, model, self.settings) | {"method": method}
        shutil.rmtree(out, ignore_errors=True)
        replace(found, record=record).save(out, track.truth)
        spent = [kept.spent[number] for number in range(len(tiles))]
        note = {
            "made": stamp(),
            "tile_seconds": kept.seconds(),
            "search_seconds": float(np.median(found.query_seconds - spent)),
        }
        write_json(out / NOTE, note)
        self.done.add(out)
        return out

    def engine(self, where: City, method: str, model: Path | None) -> MapSearch:
        """A method made ready for a city."""
        settings, device = self.settings, self.device
        if method not in ("plain", "rays"):
            name = "match" if method == "ours" else method
            return prepare_search(where, settings, name, model=model, device=device)
        fields = make_fields(where.raster, settings.search.resolution, settings.likelihood)
        size = settings.query.size_m
        if method == "plain":
            plain = PlainCorrelation(where.raster, size, PlainSettings(), device)
            return MapSearch(where.raster, fields, plain)
        return MapSearch(where.raster, fields, RayDescriptor(where.raster))

    def model(self, where: City, heading: str, method: str) -> Path | None:
        """The model of a learned method; None where there is none for this city and heading."""
        if method == "retrieval" and self.descriptors is not None:
            return self.descriptors
        if method not in LEARNED or where.folder is None:
            return None
        try:
            folder = newest_model(where, method)
        except MaptileError:
            return None
        trained_for = read_json(folder / CARD)["model"]["heading"]
        return None if method == "mapnet" and trained_for != heading else folder


# --- Figures -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """A result with the truth beside it.

    Attributes:
        result: The localized drive.
        note: When it was made, and its seconds.
        comparison: The truth at the queries.
        truth: The (Q, 3) true poses, by what is taken out of them: nothing, shift, drift, GPS.
        travelled: (Q,) metres from the start of the drive.
    """

    result: Localization
    note: dict[str, Any]
    comparison: Comparison
    truth: dict[str, Array]
    travelled: Array


def judge(out: Path, case: Case) -> Judged:
    """Read a result and bring the truth to it."""
    localized = read_result(out, opened_city(case.city).raster)
    track = opened_drive(case.drive)
    assert track.truth is not None
    assert track.odometry is not None
    comparison = compare(localized, track.truth)
    seconds = (track.odometry.t_ns - localized.t_ns[0]) / 1e9
    way = track.odometry.travelled()
    travelled = np.interp((localized.t_ns - localized.t_ns[0]) / 1e9, seconds, way)
    truth = {"nothing": comparison.truth, "shift": comparison.truth.copy()}
    truth["shift"][:, :2] += comparison.shift
    if case.drifts:
        fixes = localized.stages["aligned"].poses
        truth["drift"] = without_drift(fixes, truth["shift"], travelled)
        moves = se2_from_se3(track.odometry.at(localized.t_ns))
        truth["GPS"] = dead_reckoned(fixes, truth["shift"], moves)
    return Judged(localized, read_json(out / NOTE), comparison, truth, travelled)


opened_city = cache(open_city)
opened_drive = cache(open_drive)


def without_drift(poses: Array, truth: Array, travelled: Array) -> Array:
    """(Q, 3) truth moved by the shift, linear in (Q,) metres travelled, that fits poses best.

    Least squares on the queries that are within ``DRIFT_REACH_M`` already.
    """
    off = (poses - truth)[:, :2]
    near = np.linalg.norm(off, axis=1) < DRIFT_REACH_M
    design = np.column_stack([np.ones(len(off)), travelled])
    moved = truth.copy()
    if near.sum() > 2:
        moved[:, :2] += design @ np.linalg.lstsq(design[near], off[near], rcond=None)[0]
    return moved


def dead_reckoned(poses: Array, truth: Array, moves: Array) -> Array:
    """(Q, 3) truth with its positions those of the odometry's (Q, 3) poses, laid on the map.

    These are turned by the mean of the true headings, and moved by the median of what brings those
    near the truth to ``poses``.
    """
    known = np.isfinite(truth).all(axis=1) & np.isfinite(moves).all(axis=1)
    turn = float(np.angle(np.exp(1j * (truth - moves)[known, 2]).mean()))
    laid = np.column_stack([rotate(moves[:, :2], turn), truth[:, 2]])
    near = known & (np.linalg.norm((poses - truth)[:, :2], axis=1) < DRIFT_REACH_M)
    if near.any():
        laid[:, :2] += np.median((poses - laid)[near, :2], axis=0)
    return laid


def figures(poses: Array, truth: Array, counted: NDArray[np.bool_], way: Array) -> dict[str, float]:
    """Recalls (0..1), the median error, and the recall within 2 m after the first 100 m."""
    metres, angle = pose_errors(poses[counted], truth[counted])
    settled = way[counted] >= SETTLED_M
    return {
        "n": float(len(metres)),
        **{f"recall_{r:.0f}m": share(metres <= r) for r in RECALLS},
        "median_m": float(np.sort(metres)[(len(metres) - 1) // 2]) if len(metres) else np.nan,
        "heading_recall_1deg": share(np.degrees(angle[~np.isnan(angle)]) <= 1),
        "settled_2m": share(metres[settled] <= 2),
    }


def share(mask: NDArray[np.bool_]) -> float:
    """How much of it is True; NaN of nothing."""
    return float(mask.mean()) if len(mask) else np.nan


# --- Tables --------------------------------------------------------------------------------------


def accuracy(bench: Bench, key: str, case: Case, heading: str, methods: tuple[str, ...]) -> None:
    """Print the rows of a case: chance, the oracle, and every method's stages."""
    names = [case.name, heading]
    done = bench.run(key, case, heading, "ours")
    assert done is not None
    limits(names, judge(done, case), bench.settings, heading, case)
    for method in methods:
        out = bench.run(key, case, heading, method)
        if out is None:
            continue
        judged = judge(out, case)
        took = [judged.note["tile_seconds"], judged.note["search_seconds"]]
        stages = tuple(judged.result.stages) if method == "ours" else BASELINE_STAGES
        for stage in stages:
            poses = judged.result.stages[stage].poses
            for removed, truth in judged.truth.items():
                got = figures(poses, truth, judged.comparison.counted, judged.travelled)
                settled = "fused" if stage == "fused" else ""
                row(*names, method, stage, removed, *cells(got, settled != ""), *map(number, took))


def limits(
    names: list[str], judged: Judged, settings: LocalizeSettings, heading: str, case: Case
) -> None:
    """Print the rows that no method makes: chance, and the search grid's nearest point."""
    area = judged.result.search_area_km2
    by_chance = [number(chance(radius, area)) for radius in RECALLS]
    counted = judged.comparison.counted
    blank = ["", "", ""]
    turn = "" if heading == "known" else number(2 / 360)
    row(*names, "chance", "", "", f"{counted.sum()}", *by_chance, "", turn, *blank)
    truth = judged.comparison.truth
    step = 0.0 if heading == "known" else np.radians(settings.search.heading_step_deg)
    nearest = oracle(truth, opened_city(case.city).raster, settings.search.resolution, step)
    got = figures(nearest, truth, counted, judged.travelled)
    row(*names, "oracle", "coarse", "", *cells(got, False), "", "")


def cells(got: dict[str, float], settled: bool) -> list[str]:
    """A row's figures as text."""
    keys = [*(f"recall_{r:.0f}m" for r in RECALLS), "median_m", "heading_recall_1deg"]
    return [
        f"{got['n']:.0f}",
        *(number(got[key]) for key in keys),
        number(got["settled_2m"]) if settled else "",
    ]


def doubt(bench: Bench, cases: dict[str, Case], heading: str) -> None:
    """Print how errors compare with covariances, and what is called localized off its map."""
    for key, case in cases.items():
        out = bench.run(key, case, heading, "ours")
        assert out is not None
        judged = judge(out, case)
        for stage in ("aligned", "fused", "smoothed"):
            estimates, names = judged.result.stages[stage], [case.name, heading, stage]
            if not case.home:
                called, total = int(estimates.localized.sum()), len(estimates.localized)
                row(*names, "", f"{called} of {total}", *[""] * 6, "NO" if called else "yes")
                continue
            counted = judged.comparison.counted
            for removed in [name for name in judged.truth if name != "nothing"]:
                truth = judged.truth[removed]
                got = reliability(estimates, truth, counted & np.isfinite(truth).all(axis=1))
                called, off = int((estimates.localized & counted).sum()), got["localized_wrong_10m"]
                ratios = [np.nan if got[key] is None else got[key] for key in ("nees", "nees_pose")]
                fits = all(NEES[0] <= ratio <= NEES[1] for ratio in ratios)
                holds = fits and off <= SURE_OFF * called
                shares = [
                    np.nan if got[key] is None else got[key]
                    for key in ("availability", "protected", "median_protection_m")
                ]
                row(
                    *names,
                    removed,
                    f"{called} of {counted.sum()}",
                    f"{off}",
                    *map(number, (*ratios, *shares)),
                    "yes" if holds else "NO",
                )


def required(bench: Bench, cases: dict[str, Case], headings: tuple[str, ...]) -> None:
    """Print what has to hold, and whether it does."""
    for need in REQUIRED:
        if need.case not in cases or need.heading not in headings:
            continue
        case = cases[need.case]
        judged = judge(bench.out(need.case, need.heading, "ours"), case)
        poses = judged.result.stages[need.stage].poses
        counted = judged.comparison.counted
        got = figures(poses, judged.truth[need.removed], counted, judged.travelled)
        value = got[need.figure]
        limit = f">= {need.least}" if np.isfinite(need.least) else f"<= {need.most}"
        holds = "yes" if need.least <= value <= need.most else "NO"
        removed = "" if need.removed == "nothing" else need.removed
        words = [case.name, need.heading, need.stage, removed, need.figure]
        row(*words, f"{got['n']:.0f}", number(value), limit, holds)


def number(value: float) -> str:
    """Three digits, or a dash."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--only", nargs="+", metavar="DRIVE", help="short names, as kitti loop")
    parser.add_argument("--heading", choices=("known", "unknown"), help="both without")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} queries only")
    parser.add_argument("--again", action="store_true", help="repeat what is done")
    parser.add_argument("--retrieval", type=Path, metavar="MODEL", help="for all cities")
    given = parser.parse_args()
    cases = make_cases(given.data, given.work)
    unknown = set(given.only or ()) - set(cases)
    if unknown:
        parser.error(f"no drive {', '.join(sorted(unknown))}; there are {', '.join(cases)}")
    cases = {key: case for key, case in cases.items() if not given.only or key in given.only}
    settings = load_recipe()
    device = pick_device("auto")
    bench = Bench(given.work, settings, device, given.quick, given.again, given.retrieval)
    headings = (given.heading,) if given.heading else ("known", "unknown")
    print(stamp(), end="\n\n")
    head(*HEAD)
    for key, case in cases.items():
        for heading in headings if case.home else ():
            accuracy(bench, key, case, heading, tuple(given.methods))
    print("\nFixes called localized, and their normalised squared errors over expectation.\n")
    heads = ("drive", "heading", "stage", "taken out", "localized", "> 10 m off")
    head(*heads, "position", "pose", "availability", "protected", "level m", "holds")
    for heading in headings:
        doubt(bench, cases, heading)
    print("\nRequired.\n")
    head("drive", "heading", "stage", "taken out", "figure", "n", "value", "limit", "holds")
    required(bench, cases, headings)
    kept = sorted(
        f"{out.name}: {read_json(out / NOTE)['made']}"
        for key in cases
        for heading in headings
        for method in sorted({*given.methods, "ours"})
        if (out := bench.out(key, heading, method)) not in bench.done and (out / NOTE).exists()
    )
    if kept:
        print("\nKept from earlier:\n")
        print("\n".join(f"- {line}" for line in kept))


if __name__ == "__main__":
    main()
