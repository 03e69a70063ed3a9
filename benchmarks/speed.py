"""The time and memory of the search for candidates, by the size of the map; prints a table.

Run: python benchmarks/speed.py [DATA] [--work FOLDER] [--maps MAP ...] [--modes MODE ...]
                                [--device auto|cpu|cuda] [--model FOLDER]

Tiles are rendered from the maps at random positions on roads, with noise, each for 50 m of travel.
Every row is measured in a process of its own; its memory is the peak that the search adds to the
opened map. A query is a tile's evidence and the search for its candidates.

The floor is the time of the Fourier transforms that a search on the same grid needs: for every
heading, one per channel of evidence and one back, each of the size of the searched area. Its bytes
are those of two passes over each transform. Transforms of smaller blocks may need less. Query and
floor are compared by their fastest rounds.

Tracking is a search in a circle of 50 m, a new one for each query, with the heading known to a
standard deviation of 10 degrees. With --model, a model of method cells or retrieval selects the
positions that are searched; the quality of its selection is not measured here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from inputs import city
from scipy import ndimage
from scipy.fft import next_fast_len
from stamp import head, peak_mb, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.files import read_json
from data_prep.geometry import Array
from maptile_loc.device import pick_device
from maptile_loc.map_search import heading_turns
from maptile_loc.models.parts.published import CARD
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.render.raycast import EDGE_CELL, SOLID_CELL, Worlds
from maptile_loc.render.view import PLAIN_CHANNELS, ViewSettings, render
from maptile_loc.score.channels import CHANNELS
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.score.map_fields import make_fields
from maptile_loc.search import METHODS
from maptile_loc.search.engine.area import Area
from maptile_loc.search.engine.method import Method, Search, SearchTask
from maptile_loc.search.match import Matcher
from maptile_loc.types import HeadingKnowledge, QueryTile

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

MAPS = {
    "oxford": "oxford/oxford.osm",
    "kitti360": "kitti360_0000/map.tif",
    "kotka-3": "cities/kotka_fi.osm.pbf",
    "kotka": "cities/kotka_fi.osm.pbf",
    "bayreuth": "cities/north-bayreuth.osm.gz",
}
"""Files below DATA, by the name of the map."""

CUT_KM2 = {"kotka-3": 3.0}
"""Area of the maps that are cut from a city, km2."""

MODES = {
    "known": HeadingKnowledge(),
    "unknown": HeadingKnowledge("unknown"),
    "tracking": HeadingKnowledge("prior", 10.0),
}
"""Knowledge of the heading, by the name of the kind of search."""

DISC_M = 50.0
"""Radius of the circle that is searched when tracking, metres."""

QUERIES = 7
"""Query tiles of a row, at most."""

PATIENCE_S = 30.0
"""No further query is made after this time, seconds; one is always made."""

NEAR_HOUSE_M = 15.0
"""Largest distance of a tile's position from a building, metres."""

FOUND_M = 5.0
"""Largest error of a query that counts as found, metres."""

THIN = 4
"""Every fourth pixel is considered as a position: half a metre is finer than needed."""


@dataclass(frozen=True)
class Cost:
    """The cost of one kind of search on one map.

    Attributes:
        area_km2: Area of the map.
        searched_km2: Area that is searched.
        setup_s: Seconds to prepare the map, once, with a first query where all of it is searched.
        queries: Number of tiles.
        found: Number of tiles that were found within ``FOUND_M``.
        query_s: Median wall time of a query, seconds.
        cpu_s: Median processor time of a query, all threads, seconds.
        best_s: Smallest wall time of a query, seconds.
        peak_mb: Memory that the search adds (on a GPU: of the device).
        headings: Number of headings that are tried.
        floor_s: Seconds of the Fourier transforms for that number of headings.
        floor_gb: Bytes that these transforms read and write.
    """

    area_km2: float
    searched_km2: float
    setup_s: float
    queries: int
    found: int
    query_s: float
    cpu_s: float
    best_s: float
    peak_mb: float
    headings: int
    floor_s: float
    floor_gb: float


def open_map(name: str, data: Path, work: Path) -> City:
    """The city of the map ``name``, or the city from which that is cut."""
    source = data / MAPS[name]
    path = source
    if source.suffix != ".tif":
        path = city(source, work / source.name.partition(".")[0])
    return open_city(path)


def cut_map(name: str, raster: MapRaster) -> MapRaster:
    """The middle of the map if ``CUT_KM2`` has an area for it, else the map itself."""
    if name not in CUT_KM2:
        return raster
    share = np.sqrt(CUT_KM2[name] / raster.area_km2)
    height, width = round(raster.height * share), round(raster.width * share)
    top, left = (raster.height - height) // 2, (raster.width - width) // 2
    return replace(
        raster,
        data=np.ascontiguousarray(raster.window(top, left, height, width)),
        west=raster.west + left * raster.resolution,
        north=raster.north - top * raster.resolution,
    )


def positions(raster: MapRaster, count: int, rng: np.random.Generator) -> Array:
    """(N, 2) random positions on roads with buildings near them."""
    road = raster.data[ROAD, ::THIN, ::THIN] > 0
    house = raster.data[BUILDING, ::THIN, ::THIN] > 0
    near = ndimage.distance_transform_edt(~house) * raster.resolution * THIN < NEAR_HOUSE_M
    margin = round(100.0 / raster.resolution / THIN)
    usable = np.argwhere((road & near & ~house)[margin:-margin, margin:-margin]) + margin
    return raster.world_from_pixel(usable[rng.choice(len(usable), count)] * float(THIN) + 0.5)


def see(raster: MapRaster, position: Array, size_m: float, seed: int) -> QueryTile:
    """A rendered query tile at a (2,) position, north-up."""
    half = round(size_m / raster.resolution)
    row, column = np.floor(raster.pixel_from_world(position)).astype(int) - half
    solid = raster.window(row, column, 2 * half, 2 * half)[BUILDING] > 0
    cells = torch.from_numpy(np.where(solid, SOLID_CELL, 0).astype(np.uint8))
    cells[[0, -1]], cells[:, [0, -1]] = EDGE_CELL, EDGE_CELL
    corner = raster.world_from_pixel(np.array([row, column])) - position
    world = Worlds(cells[None], float(corner[0]), float(corner[1]), raster.resolution)
    size = round(size_m / raster.resolution)
    view = ViewSettings(
        size_px=size,
        resolution=raster.resolution,
        channels=PLAIN_CHANNELS,
        rays=8192,
        angle_noise_deg=0.0,
    )
    angle = np.random.default_rng(seed).uniform(0, np.pi)
    along = np.linspace(-0.5, 0.5, 11) * view.travel_m
    path = np.stack([along * np.cos(angle), along * np.sin(angle)], axis=1)
    generator = torch.Generator().manual_seed(seed)
    zero = torch.zeros(1, dtype=torch.int64)
    paths = torch.from_numpy(path.astype(np.float32))[None]
    seen = render(world, zero, paths, torch.zeros(1, 2), torch.zeros(1), view, generator)
    wall, ground, observed = seen[0].numpy()
    return QueryTile(wall, ground, observed, raster.resolution, 0.0)


def build_search(
    where: City, fields: LikelihoodFields, model: Path | None, settings: LocalizeSettings, on: str
) -> Search:
    """The search of the whole map, or the method of a model."""
    name = "match" if model is None else read_json(model / CARD)["method"]
    method: Method = METHODS.load(name)
    size_m = settings.query.size_m
    task = SearchTask(where, fields, size_m, settings.search, on, None, model)
    return method.build(task, settings.method(name))


def measure(name: str, where: City, model: Path | None, mode: str, device: str) -> Cost:
    """Search for some tiles, and time the transforms."""
    raster, settings = cut_map(name, where.raster), load_recipe()
    size = settings.query.size_m
    turns, log_prior = heading_turns(MODES[mode], settings)
    truth = positions(raster, QUERIES, np.random.default_rng(0))
    tiles = [see(raster, position, size, number) for number, position in enumerate(truth)]
    forget_peak(device)
    before, begun = memory_mb(device), time.perf_counter()
    fields = make_fields(raster, settings.search.resolution, settings.likelihood)
    search = build_search(where, fields, model, settings, device)

    def query(tile: QueryTile) -> Array:
        """(K, 2) positions of the candidates."""
        evidence = make_evidence(tile, fields.resolution, settings.evidence)
        return search.candidates(tile, evidence, turns, log_prior).poses[:, :2]

    if mode != "tracking":
        query(tiles[0])  # computes what is computed once
    wait(device)
    setup = time.perf_counter() - begun
    seconds: list[float] = []
    cpu: list[float] = []
    found = 0
    for position, tile in zip(truth, tiles, strict=True):
        begun, worked = time.perf_counter(), time.process_time()
        if mode == "tracking":
            disc = Area.disc(float(position[0]), float(position[1]), DISC_M)
            search = Matcher(fields, size, settings.search, disc, device)
        best = query(tile)[:1]
        wait(device)
        seconds.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - worked)
        found += bool((np.hypot(*(best - position).T) < FOUND_M).any())
        if sum(seconds) > PATIENCE_S:
            break
    peak = memory_mb(device) - before
    areas = raster.area_km2, search.area_km2
    times = float(np.median(seconds)), float(np.median(cpu)), min(seconds)
    lower = floor(raster, mode, len(turns), settings, device)
    return Cost(*areas, setup, len(seconds), found, *times, peak, len(turns), *lower)


def floor(
    raster: MapRaster, mode: str, headings: int, settings: LocalizeSettings, device: str
) -> tuple[float, float]:
    """Seconds, and gigabytes, of the Fourier transforms that a search needs at least."""
    wide = settings.search.coarser if headings > settings.search.few_turns else 1
    step = settings.search.resolution * wide
    sides = (raster.height * raster.resolution, raster.width * raster.resolution)
    if mode == "tracking":
        sides = (2 * DISC_M, 2 * DISC_M)
    size = settings.query.size_m
    padded = [next_fast_len(round((side + size) / step), real=True) for side in sides]
    gigabytes = headings * (len(CHANNELS) + 1) * 16 * padded[0] * padded[1] / 1e9
    return headings * transforms(padded, device), gigabytes


def transforms(padded: list[int], device: str) -> float:
    """Seconds of one heading's Fourier transforms, the fastest of some rounds."""
    image = torch.rand(len(CHANNELS), *padded, device=device)
    best = np.inf
    for _ in range(5 if image.numel() < 2e7 else 2):
        wait(device)
        begun = time.perf_counter()
        spectrum = torch.fft.rfft2(image)
        torch.fft.irfft2(spectrum[0], s=padded)
        wait(device)
        best = min(best, time.perf_counter() - begun)
    return best


def wait(device: str) -> None:
    """Wait until a GPU has finished."""
    if device != "cpu":
        torch.cuda.synchronize()


def forget_peak(device: str) -> None:
    """Reset the peak of the memory in use."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def memory_mb(device: str) -> float:
    """Peak of the memory in use, MB."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_mb()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=tuple(MAPS))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=tuple(MODES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one row")
    parser.add_argument("--model", type=Path, help="of cells or retrieval; default: whole map")
    parser.add_argument("--row", action="store_true", help="only this map and mode, as JSON")
    given = parser.parse_args()
    device = pick_device(given.device)
    if given.row:
        where = open_map(given.maps[0], given.data, given.work)
        cost = measure(given.maps[0], where, given.model, given.modes[0], device)
        print(json.dumps(asdict(cost)))
        return
    print(f"{stamp()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    head(
        *("map", "km2", "heading", "headings", "s per query", "CPU s", "queries per s"),
        *("floor s", "times the floor", "floor GB", "peak MB", "set-up s", "found"),
    )
    for name in given.maps:
        for mode in given.modes:
            print_cost(name, mode, given.limit)


def print_cost(name: str, mode: str, limit: float) -> None:
    """Measure a row in a process of its own, with the same options, and print it."""
    command = [sys.executable, __file__, *sys.argv[1:], "--row", "--maps", name, "--modes", mode]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=limit)
    except subprocess.TimeoutExpired:
        row(name, "", mode, "", f"> {limit:.0f}", *[""] * 8)
        return
    cost = Cost(**json.loads(done.stdout.splitlines()[-1]))
    row(
        name,
        f"{cost.area_km2:.2f}",
        mode,
        f"{cost.headings}",
        f"{cost.query_s:.4f}",
        f"{cost.cpu_s:.3f}",
        f"{1 / cost.query_s:.1f}",
        f"{cost.floor_s:.4f}",
        f"{cost.best_s / cost.floor_s:.2f}",
        f"{cost.floor_gb:.2f}",
        f"{cost.peak_mb:.0f}",
        f"{cost.setup_s:.2f}",
        f"{cost.found} of {cost.queries}",
    )


if __name__ == "__main__":
    main()
