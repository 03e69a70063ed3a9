"""How many queries are called localized on maps where the drive is not; prints a markdown table.

Run: python benchmarks/off_map.py [DATA] [--work FOLDER] [--queries N]

Of each drive, N evenly spaced queries are searched and aligned on all maps, with known and with
unknown headings. On the drive's own map, marked (home), many should be called localized; on the
others, none. DATA and FOLDER are those of engine.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from engine import make_cases
from inputs import some_tiles
from stamp import head, row, stamp

from data_prep.city.folder import open_city
from maptile_loc.fuse.alone import best_candidates
from maptile_loc.map_search import MapSearch, fix_tile, prepare_search
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.types import HeadingKnowledge, Queries, QueryTile

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

DRIVES = ("kitti", "kitti50", "kitti360", "kitti360-80", "loop", "full")
"""Short names of the drives, as in engine.py."""

HEADINGS = ("known", "unknown")
"""Kinds of knowledge of the heading."""


def localized(
    tiles: list[QueryTile], queries: Queries, engine: MapSearch, settings: LocalizeSettings
) -> int:
    """The number of tiles whose best aligned candidate is called localized on a map."""
    fixes = [fix_tile(tile, queries, engine, settings)[1] for tile in tiles]
    return int(best_candidates(fixes, settings.fuse).localized.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--queries", type=int, default=24)
    given = parser.parse_args()
    cases = make_cases(given.data, given.work)
    settings = load_recipe()
    cities = {path: open_city(path) for path in dict.fromkeys(cases[key].city for key in DRIVES)}
    engines = {path: prepare_search(city, settings) for path, city in cities.items()}
    print(f"{stamp()}\n")
    head("drive", "heading", *(path.stem for path in cities))
    for key in DRIVES:
        case = cases[key]
        for kind in HEADINGS:
            queries = Queries(case.submap_m, case.every_m, heading=HeadingKnowledge.parse(kind))
            home = cities[case.city]
            tiles = list(some_tiles(home, case.drive, queries, given.queries, settings))
            words = []
            for path, engine in engines.items():
                count = localized(tiles, queries, engine, settings)
                words.append(f"{count} of {len(tiles)}" + (" (home)" if path == case.city else ""))
            row(case.name, kind, *words)


if __name__ == "__main__":
    main()
