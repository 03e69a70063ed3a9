"""The search of large maps: both ways side by side, from 1 km2 to a whole region.

Run: python benchmarks/large.py CITY [--km2 KM2 ...] [--headings known|unknown ...] [--tiles N]
                                [--ways sparse|exhaustive ...] [--seed SEED]

"exhaustive" scores all positions of the fine grid (heading known) or of the wide grid (unknown);
"sparse" first scores a sparse grid near roads, and promising squares again. Each row is measured in
a process of its own. The map is a square of KM2 square kilometres around the middle of the city's
buildings; 0 is the whole map.

Tiles are rendered with noise at random positions on roads, from a map in which 15 % of the
buildings are missing and the others are displaced (0.5 m standard deviation), with CLUTTER boxes of
the size of cars and vans around. The same tiles are searched in both ways. "set-up" is the first
query, with an empty cache and with the cache that it left. "anonymous" is the peak of the memory
that no file backs. "found" is within 5 m, by the best candidate; "sure" is the mean of its
probability, over the found and over the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from speed import FOUND_M, MODES, positions, see
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.city.raster import BUILDING, MapRaster
from data_prep.geometry import Array
from maptile_loc.map_search import city_fields, heading_turns
from maptile_loc.recipe import load_recipe
from maptile_loc.score.evidence import make_evidence
from maptile_loc.search.match import Matcher
from maptile_loc.types import QueryTile

CLUTTER = 12
"""Boxes that are not on the map, per tile."""

MISSING = 0.15
"""Share of the buildings that are not there."""

MOVED_M = 0.5
"""Standard deviation of the displacement of the others, metres, per axis."""

WAYS = {"sparse": ["search.exhaustive_km2=0"], "exhaustive": ["search.exhaustive_km2=100000"]}
"""Overrides of the recipe, by the name of the way."""


def part_of(city: City, km2: float) -> City:
    """The city with the square of its map around the middle of its buildings."""
    raster = city.raster
    if km2 <= 0:
        return city
    rows, columns = np.nonzero(raster.data[BUILDING, ::8, ::8])
    side = round(np.sqrt(km2) * 1000 / raster.resolution)
    top = int(np.clip(8 * np.median(rows) - side / 2, 0, max(raster.height - side, 0)))
    left = int(np.clip(8 * np.median(columns) - side / 2, 0, max(raster.width - side, 0)))
    part = replace(
        raster,
        data=raster.window(top, left, side, side).copy(),
        west=raster.west + left * raster.resolution,
        north=raster.north - top * raster.resolution,
    )
    return replace(city, raster=part, folder=None)


def world_of(raster: MapRaster, position: Array, size_m: float, seed: int) -> MapRaster:
    """The surroundings of a position, as they are: buildings missing, displaced, and clutter."""
    rng = np.random.default_rng([seed, 1])
    half = round(1.5 * size_m / raster.resolution)
    at = np.floor(raster.pixel_from_world(position)).astype(int) - half
    part = raster.window(int(at[0]), int(at[1]), 2 * half, 2 * half).copy()
    label, _count = ndimage.label(part[BUILDING] > 0)
    world = np.zeros_like(part[BUILDING])
    for number, box in enumerate(ndimage.find_objects(label), 1):
        if rng.random() < MISSING:
            continue
        rows, columns = np.nonzero(label[box] == number)
        move = np.rint(rng.normal(0, MOVED_M / raster.resolution, 2)).astype(int)
        rows = np.clip(rows + box[0].start + move[0], 0, 2 * half - 1)
        columns = np.clip(columns + box[1].start + move[1], 0, 2 * half - 1)
        world[rows, columns] = 255
    for _ in range(CLUTTER):
        row, column = half + rng.integers(-half // 2, half // 2, 2)
        height, width = rng.integers(3, 12, 2)
        if max(abs(row - half), abs(column - half)) > 12:
            world[row : row + height, column : column + width] = 255
    part[BUILDING] = world
    corner = raster.world_from_pixel(at.astype(float))
    return replace(raster, data=part, west=float(corner[0]), north=float(corner[1]))


class AnonymousMemory:
    """The peak of the memory that no file backs while a block runs, MB (Linux)."""

    def __enter__(self) -> AnonymousMemory:
        self.peak, self._ends = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ends.wait(0.02):
            text = Path("/proc/self/status").read_text()
            kb = int(text.partition("RssAnon:")[2].split()[0])
            self.peak = max(self.peak, kb / 1000)


def measure(city: City, heading: str, way: str, tiles: int, seed: int) -> dict[str, float]:
    """Search for tiles, and time it."""
    settings = load_recipe(overrides=WAYS[way])
    turns, log_prior = heading_turns(MODES[heading], settings)
    size = settings.query.size_m
    rng = np.random.default_rng(seed)
    truth = positions(city.raster, tiles, rng)

    def tile_at(number: int) -> QueryTile:
        return see(world_of(city.raster, truth[number], size, number), truth[number], size, number)

    setup = []
    with AnonymousMemory() as memory:
        for _ in range(2):
            begun = time.perf_counter()
            fields = city_fields(city, settings)
            search = Matcher(fields, size, settings.search)
            evidence = make_evidence(tile_at(0), fields.resolution, settings.evidence)
            search.candidates(tile_at(0), evidence, turns, log_prior)
            setup.append(time.perf_counter() - begun)
        seconds, spent, found, sure = [], [], [], []
        for number in range(tiles):
            tile = tile_at(number)
            begun, worked = time.perf_counter(), time.process_time()
            evidence = make_evidence(tile, fields.resolution, settings.evidence)
            best = search.candidates(tile, evidence, turns, log_prior)
            seconds.append(time.perf_counter() - begun)
            spent.append(time.process_time() - worked)
            found.append(bool(np.hypot(*(best.poses[0, :2] - truth[number])) < FOUND_M))
            sure.append(float(np.exp(best.log_scores[0])))
    right, probability = np.array(found), np.array(sure)
    return {
        "km2": city.raster.area_km2,
        "first_s": setup[0],
        "second_s": setup[1],
        "query_s": float(np.median(seconds)),
        "cpu_s": float(np.median(spent)),
        "anonymous_mb": memory.peak,
        "found": float(right.sum()),
        "sure_found": float(probability[right].mean()) if right.any() else np.nan,
        "sure_others": float(probability[~right].mean()) if not right.all() else np.nan,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path)
    parser.add_argument("--km2", type=float, nargs="+", default=[1.0, 3.0, 10.0, 0.0])
    parser.add_argument("--headings", nargs="+", choices=MODES, default=("known", "unknown"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=tuple(WAYS))
    parser.add_argument("--tiles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--row", action="store_true", help="only this row, as JSON")
    given = parser.parse_args()
    if given.row:
        city = part_of(open_city(given.city), given.km2[0])
        got = measure(city, given.headings[0], given.ways[0], given.tiles, given.seed)
        print(json.dumps(got))
        return
    print(f"{stamp()}, {torch.get_num_threads()} threads\n")
    head(
        *("km2", "heading", "search", "set-up s, first", "second", "s per query", "CPU s"),
        *("anonymous MB", "found", "sure, found", "sure, others"),
    )
    for km2 in given.km2:
        for heading in given.headings:
            for way in given.ways:
                print_row(given, km2, heading, way)


def print_row(given: argparse.Namespace, km2: float, heading: str, way: str) -> None:
    """Measure a row in a process of its own, with a cache of its own, and print it."""
    options = ["--row", "--km2", f"{km2}", "--headings", heading, "--ways", way]
    options += ["--tiles", f"{given.tiles}", "--seed", f"{given.seed}"]
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, __file__, str(given.city), *options],
            capture_output=True,
            text=True,
            check=True,
            env=dict(os.environ, XDG_CACHE_HOME=cache),
        )
    got = json.loads(done.stdout.splitlines()[-1])
    row(
        *(f"{got['km2']:.1f}", heading, way),
        *(f"{got[key]:.2f}" for key in ("first_s", "second_s", "query_s", "cpu_s")),
        *(f"{got['anonymous_mb']:.0f}", f"{got['found']:.0f} of {given.tiles}"),
        *(f"{got[key]:.2f}" for key in ("sure_found", "sure_others")),
    )


if __name__ == "__main__":
    main()
