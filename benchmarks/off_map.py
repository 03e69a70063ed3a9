"""What is called localized on maps where the drive is not; prints a markdown table.

Run: python benchmarks/off_map.py [DATA] [--work FOLDER] [--queries N]

Of each drive N queries, evenly spaced, are searched and aligned on every map that it does not lie
on, with the heading known and unknown. On its own map the same tiles are called localized as often
as the last columns say. DATA and FOLDER are those of engine.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from engine import make_cases
from inputs import query_tiles
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from maptile_loc.config import load_settings
from maptile_loc.fuse.filter import is_sure
from maptile_loc.pipeline import HeadingKnowledge, LocalizeSettings, heading_turns
from maptile_loc.score.align import align
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import make_fields
from maptile_loc.search.match import Matcher
from maptile_loc.types import QueryTile

ROOT = Path(__file__).parent.parent
DRIVES = ("kitti", "kitti50", "kitti360", "kitti360-80", "loop", "full")
HEADINGS = ("known", "unknown")


def called(
    tiles: list[QueryTile], where: City, heading: HeadingKnowledge, settings: LocalizeSettings
) -> int:
    """How many of the tiles are called localized there."""
    fields = make_fields(where.raster, settings.search.resolution, settings.likelihood)
    search = Matcher(fields, settings.query.size_m, settings.match)
    turns, log_prior = heading_turns(heading, settings)
    std = np.radians(settings.known_heading_std_deg) if heading.kind == "known" else None
    count = 0
    for tile in tiles:
        found = search.candidates(tile, turns, log_prior)
        evidence = make_evidence(tile, fields.resolution)
        fixes, spread = align(found, evidence, tile.rotation, fields, std, True, settings.align)
        if len(fixes.poses):
            best = int(fixes.log_scores.argmax())
            score = float(np.exp(fixes.log_scores[best]))
            count += is_sure(score, spread[best], settings.fuse)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--queries", type=int, default=24)
    given = parser.parse_args()
    cases = make_cases(given.data, given.work)
    settings = load_recipe()
    cities = {path: open_city(path) for path in dict.fromkeys(cases[key].city for key in DRIVES)}
    print(f"{stamp()}\n")
    head("drive", "heading", *(path.stem for path in cities))
    for key in DRIVES:
        case = cases[key]
        for kind in HEADINGS:
            heading = HeadingKnowledge(kind=kind)
            home = cities[case.city].raster.convergence
            way = case.every_m, case.submap_m
            tiles = list(query_tiles(case.drive, *way, home, heading, given.queries, settings))
            counts = [called(tiles, where, heading, settings) for where in cities.values()]
            words = [
                f"{count} of {len(tiles)}" + (" (home)" if path == case.city else "")
                for path, count in zip(cities, counts, strict=True)
            ]
            row(case.name, kind, *words)


if __name__ == "__main__":
    main()
