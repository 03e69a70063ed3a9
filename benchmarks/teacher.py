"""Score wall detectors that the map taught, beside the package's and one fitted to labels.

Run: python benchmarks/teacher.py [--data DATA] [--work FOLDER] [--heading known|unknown ...]

Drive 0009 of KITTI-360 is cut into halves. Each half is scored with

- package: the detector of the package,
- labels: the same, refitted to the labelled points of the other half,
- map: the same, taught by the map on the other half, as maptile adapt --walls does,
- raw 0005: the same, taught by the map on KITTI raw 0005, another drive of a sensor of this kind,
- walls given: no detector, points labelled building are the walls; for recall only.

Scans within 50 m of a scan of the teaching half are not scored. Average precision is that of
benchmarks/walls.py: judged cells, tiles turned at random. Recall is the share of the scored scans
whose aligned pose is within 5 m of the truth, each scan alone on the whole map. The first table has
the log-loss of the map's labels, in nats, in the blocks held out of the teaching part, and the
reason where maptile adapt --walls would write nothing; the detector is scored nevertheless.

About ten scans per half are few: differences of some hundredths are no finding.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from inputs import KITTI, city
from labelled import SETS, TABLES
from numpy.typing import NDArray
from precision import average_precision, precision_recall
from stamp import head, row, stamp
from walls import drive_cells, together

from data_prep.city.folder import City, open_city
from data_prep.drive import Drive, ScanSlice
from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from maptile_loc.learn.sensor_profile import adapt_detector, check_better, check_fit, check_sure
from maptile_loc.learn.teacher import TeachSettings, make_lessons
from maptile_loc.learn.walls import EXACT, fit_detector, labelled_samples
from maptile_loc.map_search import MapSearch, prepare_search
from maptile_loc.perceive.detector import SHIPPED, read_detector, write_detector
from maptile_loc.perceive.query_tile import survey
from maptile_loc.perceive.walls import FEATURES
from maptile_loc.pipeline import drive_tiles, localize
from maptile_loc.recipe import LocalizeSettings, load_recipe, with_profile
from maptile_loc.report.metrics import pose_errors, truth_in_map
from maptile_loc.types import HeadingKnowledge, Queries

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

APART_M = 50.0
"""Scans this close to a scan of the teaching half are not scored, metres."""

NEAR_M = 5.0
"""Largest error of a scan that is recalled, metres."""

SINGLE = Queries(0.0, 0.0)
"""Every scan is a query; the heading is known."""

SHORT = TeachSettings(block_m=20.0, least_m=50.0)
"""Recipe for KITTI raw 0005, which is 69 m long."""


def recipe(profile: Path | None, labels: bool = False) -> LocalizeSettings:
    """The recipe with a detector, and with or without the labels of points."""
    settings = load_recipe()
    table = {**TABLES, **settings.submap.labels} if labels else {}
    submap = settings.submap.model_copy(update={"labels": table})
    return with_profile(settings.model_copy(update={"submap": submap}), profile)


def some_scans(drive: Drive, first: int, stop: int) -> Drive:
    """The drive with its scans ``first`` to ``stop`` (exclusive)."""
    return replace(drive, scans=ScanSlice(drive.scans, first, drive.scans.t_ns[first:stop]))


def teach(where: City, drive: Drive, settings: TeachSettings, folder: Path) -> Path:
    """Teach the detector by the map of ``where``, write it, and print a row about it."""
    plain = recipe(None)
    tiles = drive_tiles(where, drive.without_truth(), SINGLE, plain)
    start = read_detector(SHIPPED, FEATURES)
    lessons = make_lessons(tiles, prepare_search(where, plain), start, settings, plain)
    adapted, losses = adapt_detector(start, lessons, plain.query.size, settings)
    refused = "no"
    try:
        check_sure(lessons, tiles, settings)
        check_fit(lessons, tiles, where, settings)
        check_better(losses, folder)
    except MaptileError as error:
        refused = str(error).partition(": ")[2]
    write_detector(folder, adapted, FEATURES, {})
    row(folder.name, f"{len(lessons)}", *(f"{loss:.4f}" for loss in losses.values()), refused)
    return folder


def refit(where: City, drive: Drive, folder: Path) -> Path:
    """Refit the detector to the labelled points of a drive, as long as by the map; write it."""
    settings = recipe(None, labels=True)
    tiles, samples = drive_tiles(where, drive, SINGLE, settings), []
    for query, rotation in enumerate(tiles.rotation.tolist()):
        seen = survey(tiles.submap(query), rotation, settings.query)
        samples += labelled_samples(seen, settings.query)
    fit = TeachSettings().fit.model_copy(update={"noise": EXACT})
    start = read_detector(SHIPPED, FEATURES)
    write_detector(folder, fit_detector(samples, settings.query.size, fit, start), FEATURES, {})
    return folder


def precision(drives: list[Drive], profile: Path | None) -> float:
    """Average precision of a detector on the judged cells of all scans of some drives."""
    settings = recipe(profile, labels=True)
    turned = Queries(0.0, 0.0, heading=HeadingKnowledge("unknown"), seed=1)
    cells = together([c for drive in drives for c in drive_cells(drive, turned, settings)])
    return average_precision(precision_recall(cells.evidence, cells.wall))


def recall(
    drive: Drive, engine: MapSearch, profile: Path | None, heading: str, labels: bool = False
) -> float:
    """Share of the scans of a drive whose aligned pose is within ``NEAR_M`` of the truth."""
    assert drive.truth is not None
    settings = recipe(profile, labels)
    where = City(None, "map", engine.raster, engine.raster.centre, "", None, ())
    queries = Queries(0.0, 0.0, heading=HeadingKnowledge.parse(heading))
    found = localize(drive_tiles(where, drive, queries, settings), engine, settings)
    truth = truth_in_map(drive.truth, engine.raster, found.t_ns)
    return float((pose_errors(found.stages["aligned"].poses, truth)[0] <= NEAR_M).mean())


def scored(positions: NDArray[np.float64], mine: range, other: range) -> range:
    """The scans of a half, without those near the other half; they stay in one piece."""
    apart = [
        i
        for i in mine
        if np.linalg.norm(positions[i] - positions[other.start : other.stop], axis=1).min()
        > APART_M
    ]
    return range(apart[0], apart[-1] + 1)


def report(given: argparse.Namespace) -> None:
    """Teach, score, and print the tables."""
    source = SETS["kitti360_0009"]
    folder = given.data / source.source
    where = open_city(folder / "map.tif")
    drive = open_drive(source.paths(folder, given.work, 1)[0])
    karlsruhe = given.data / KITTI.parent / "2011_09_26_drive_0005.osm"
    home = open_city(city(karlsruhe, given.work / "karlsruhe"))
    count, half = len(drive.scans.t_ns), len(drive.scans.t_ns) // 2
    parts = {"first": range(half), "second": range(half, count)}
    assert drive.truth is not None
    positions = truth_in_map(drive.truth, where.raster, drive.scans.t_ns)[:, :2]

    head("taught", "scans", "log-loss before", "log-loss after", "refused")
    raw = teach(home, open_drive(given.data / KITTI), SHORT, given.work / "raw 0005")
    by_map, by_labels = {}, {}
    for name, part in parts.items():
        taught = some_scans(drive, part.start, part.stop)
        by_map[name] = teach(where, taught, TeachSettings(), given.work / f"map, {name} half")
        by_labels[name] = refit(where, taught, given.work / f"labels, {name} half")
    print()
    engine = prepare_search(where, recipe(None))
    recalls = [f"<= {NEAR_M:g} m, heading {heading}" for heading in given.heading]
    head("scored half", "scans", "detector", "average precision", *recalls)
    for name, other in (("first", "second"), ("second", "first")):
        judged = scored(positions, parts[name], parts[other])
        some = some_scans(drive, judged.start, judged.stop)
        detectors = {"package": None, "labels": by_labels[other], "map": by_map[other]}
        for detector, profile in (detectors | {"raw 0005": raw}).items():
            shares = [recall(some, engine, profile, heading) for heading in given.heading]
            figures = [precision([some], profile), *shares]
            row(name, f"{len(judged)}", detector, *(f"{figure:.3f}" for figure in figures))
        shares = [recall(some, engine, None, heading, labels=True) for heading in given.heading]
        row(name, f"{len(judged)}", "walls given", "", *(f"{share:.3f}" for share in shares))
    print()
    odometry = SETS["kitti_odometry"]
    paths = odometry.paths(given.data / odometry.source, given.work, 1)
    drives = [open_drive(path) for path in paths]
    head("data", "detector", "average precision")
    for detector, profile in {"package": None, "raw 0005": raw}.items():
        row("kitti_odometry", detector, f"{precision(drives, profile):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "teacher", metavar="FOLDER")
    parser.add_argument("--heading", nargs="+", default=["known", "unknown"], metavar="KIND")
    given = parser.parse_args()
    print(stamp(), end="\n\n")
    report(given)


if __name__ == "__main__":
    main()
