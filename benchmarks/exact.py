"""Whether the search with an unknown heading finds the best place of all; prints a markdown table.

Run: python benchmarks/exact.py [DATA] [--work FOLDER] [--only DRIVE ...] [--queries N]

Of each drive N queries, evenly spaced, are searched as always and then with match.exact, which
proves that no pose of the fine grid is better. "missed" are those whose best pose the search did
not look at, and the most that one of them lost. DATA and FOLDER are those of engine.py.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from engine import Case, make_cases
from inputs import query_tiles
from stamp import head, row, stamp

from data_prep.city.folder import open_city
from maptile_loc.config import load_settings
from maptile_loc.pipeline import HeadingKnowledge, LocalizeSettings, heading_turns
from maptile_loc.score.evidence import make_evidence, points
from maptile_loc.score.likelihood import log_likelihood, make_fields
from maptile_loc.search.match import Matcher

ROOT = Path(__file__).parent.parent
DRIVES = ("kitti", "kitti360", "loop", "full")


def measure(case: Case, queries: int, settings: LocalizeSettings) -> None:
    """Print the row of a drive."""
    raster = open_city(case.city).raster
    unknown = HeadingKnowledge(kind="unknown")
    turns, log_prior = heading_turns(unknown, settings)
    fields = make_fields(raster, settings.search.resolution, settings.likelihood)
    exact = settings.match.model_copy(update={"exact": True})
    searches = [Matcher(fields, settings.query.size_m, how) for how in (settings.match, exact)]
    gained, seconds = [], []
    way = case.every_m, case.submap_m
    for tile in query_tiles(case.drive, *way, raster.convergence, unknown, queries + 1, settings):
        seen = make_evidence(tile, fields.resolution).points
        best, took = [], []
        for search in searches:
            begun = time.perf_counter()
            poses = search.candidates(tile, turns, log_prior).poses
            took.append(time.perf_counter() - begun)
            best.append(log_likelihood(poses[None], seen, tile.rotation, fields).max())
        gained.append(best[1] - best[0])
        seconds.append(took)
    # The first query readies what is made once.
    usual, proven = np.median(seconds[1:], axis=0)
    slowest = np.max(seconds[1:], axis=0)[1]
    missed = np.array(gained[1:]) > 1e-2
    row(
        case.name,
        f"{searches[0].area_km2:.2f}",
        f"{len(missed)}",
        f"{missed.sum()}",
        f"{max(0.0, max(gained[1:])):.2f}",
        *(f"{value:.2f}" for value in (usual, proven, slowest)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--only", nargs="+", choices=DRIVES, default=DRIVES)
    parser.add_argument("--queries", type=int, default=16)
    given = parser.parse_args()
    cases = make_cases(given.data, given.work)
    settings = load_recipe()
    print(f"{stamp()}\n")
    head(
        *("drive", "km2", "queries", "missed", "by at most", "s per query"),
        *("s proven, median", "s proven, slowest"),
    )
    for key in given.only:
        measure(cases[key], given.queries, settings)


if __name__ == "__main__":
    main()
