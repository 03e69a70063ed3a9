"""How often the search with an unknown heading misses the best pose; prints a markdown table.

Run: python benchmarks/exact.py [DATA] [--work FOLDER] [--only DRIVE ...] [--queries N]

Of each drive, N evenly spaced queries are searched twice: as by default, and with match.exact,
which proves that no pose of the fine grid has a higher score. "missed" is the number of queries for
which the default search did not find the best pose, and "by at most" the largest difference of
scores. DATA and FOLDER are those of engine.py.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from engine import Case, make_cases
from inputs import some_tiles
from stamp import head, row, stamp

from data_prep.city.folder import open_city
from maptile_loc.map_search import heading_turns
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import log_likelihood
from maptile_loc.score.map_fields import make_fields
from maptile_loc.search.match import Matcher
from maptile_loc.types import HeadingKnowledge, Queries

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

DRIVES = ("kitti", "kitti360", "loop", "full")
"""Short names of the drives, as in engine.py."""

SAME = 1e-2
"""Largest difference of two scores that count as equal."""


def measure(case: Case, queries: int, settings: LocalizeSettings) -> None:
    """Print the row of a drive."""
    city, unknown = open_city(case.city), HeadingKnowledge("unknown")
    turns, log_prior = heading_turns(unknown, settings)
    fields = make_fields(city.raster, settings.search.resolution, settings.likelihood)
    size_m = settings.query.size_m
    searches = [Matcher(fields, size_m, settings.search, prove=prove) for prove in (False, True)]
    gained, seconds = [], []
    asked = Queries(case.submap_m, case.every_m, heading=unknown)
    for tile in some_tiles(city, case.drive, asked, queries + 1, settings):
        evidence = make_evidence(tile, fields.resolution, settings.evidence)
        best, took = [], []
        for search in searches:
            begun = time.perf_counter()
            poses = search.candidates(tile, evidence, turns, log_prior).poses
            took.append(time.perf_counter() - begun)
            score = log_likelihood(poses[None], evidence.points, tile.rotation, fields)
            best.append(score.max())
        gained.append(best[1] - best[0])
        seconds.append(took)
    # The first query computes what all share.
    usual, proven = np.median(seconds[1:], axis=0)
    slowest = np.max(seconds[1:], axis=0)[1]
    missed = np.array(gained[1:]) > SAME
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
