"""What the search for candidates costs, by the size of the map; prints a markdown table.

Run: python benchmarks/speed.py [DATA] [--work FOLDER] [--maps MAP ...] [--device auto|cpu|cuda]
                                [--model FOLDER]

Tiles are rendered from the maps at random places on roads, with noise, 50 m of travel each. Every
row is a process of its own: its memory is what the search adds at most to that of the opened map.
The floor is the time of the Fourier transforms that a search on the same grid takes if each is of
the size of what is searched, and of nothing else: for every heading that is tried one of each
channel of evidence and one back. Its bytes are those of two passes over each of them. Transforms of
smaller blocks may need less. Query and floor are compared by the best of their rounds.
Tracking is a search in a circle of 50 m, a new one for each query, with the heading known to a
standard deviation of 10 degrees. With --model, a model of cells or descriptors names the places to
search instead; what it names is not judged here.
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
from stamp import peak_mb, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.files import read_json
from data_prep.geometry import Array
from maptile_loc.config import load_settings
from maptile_loc.device import pick_device
from maptile_loc.models.parts.published import CARD
from maptile_loc.pipeline import Coarse, HeadingKnowledge, LocalizeSettings, heading_turns
from maptile_loc.render.raycast import EDGE_CELL, SOLID_CELL, Worlds
from maptile_loc.render.view import ViewSettings, render
from maptile_loc.score.evidence import CHANNELS
from maptile_loc.score.likelihood import LikelihoodFields, make_fields
from maptile_loc.search.cells import CellsLocator
from maptile_loc.search.engine.hypotheses import FEW_TURNS
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.match import Disc, Matcher
from maptile_loc.search.retrieval import RetrievalLocator
from maptile_loc.types import QueryTile

ROOT = Path(__file__).parent.parent
MAPS = {
    "oxford": "oxford/oxford.osm",
    "kitti360": "kitti360_0000/map.tif",
    "kotka-3": "cities/kotka_fi.osm.pbf",
    "kotka": "cities/kotka_fi.osm.pbf",
    "bayreuth": "cities/north-bayreuth.osm.gz",
}
CUT_KM2 = {"kotka-3": 3.0}
MODES = {
    "known": HeadingKnowledge(),
    "unknown": HeadingKnowledge(kind="unknown"),
    "tracking": HeadingKnowledge(kind="prior", std_deg=10.0),
}
DISC_M = 50.0
QUERIES = 7
PATIENCE_S = 30.0
"""No further query after so long; one is always made."""
NEAR_HOUSE_M = 15.0
FOUND_M = 5.0


@dataclass(frozen=True)
class Cost:
    """Of one kind of search on one map.

    Attributes:
        area_km2, searched_km2: Of the map, and what is searched of it.
        setup_s: Making the map ready, once, with a first query where it is searched as a whole.
        queries, found: How many tiles, and how many of them were found within 5 m.
        query_s, cpu_s: The median query, by the clock and by processor time of all threads.
        best_s: The fastest by the clock.
        peak_mb: Memory that the search adds (of the device, on a GPU).
        headings: How many are tried.
        floor_s, floor_gb: The Fourier transforms of as many headings: their time, and the bytes
            that they read and write.
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
    """The city that the map called ``name`` is, or is cut from."""
    source = data / MAPS[name]
    path = source
    if source.suffix != ".tif":
        path = city(source, work / source.name.partition(".")[0])
    return open_city(path)


def cut_map(name: str, raster: MapRaster) -> MapRaster:
    """The middle of the map, where ``CUT_KM2`` says so."""
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


def places(raster: MapRaster, count: int, rng: np.random.Generator) -> Array:
    """(N, 2) places on roads with houses near them."""
    thin = 4  # half a metre is finer than it need be
    road = raster.data[ROAD, ::thin, ::thin] > 0
    house = raster.data[BUILDING, ::thin, ::thin] > 0
    near = ndimage.distance_transform_edt(~house) * raster.resolution * thin < NEAR_HOUSE_M
    margin = round(100.0 / raster.resolution / thin)
    usable = np.argwhere((road & near & ~house)[margin:-margin, margin:-margin]) + margin
    return raster.world_from_pixel(usable[rng.choice(len(usable), count)] * float(thin) + 0.5)


def see(raster: MapRaster, place: Array, size_m: float, seed: int) -> QueryTile:
    """The tile that a vehicle would see around ``place``, north-up."""
    half = round(size_m / raster.resolution)
    row, column = np.floor(raster.pixel_from_world(place)).astype(int) - half
    solid = raster.window(row, column, 2 * half, 2 * half)[BUILDING] > 0
    cells = torch.from_numpy(np.where(solid, SOLID_CELL, 0).astype(np.uint8))
    cells[[0, -1]], cells[:, [0, -1]] = EDGE_CELL, EDGE_CELL
    corner = raster.world_from_pixel(np.array([row, column])) - place
    world = Worlds(cells[None], float(corner[0]), float(corner[1]), raster.resolution)
    size = round(size_m / raster.resolution)
    view = ViewSettings(size_px=size, resolution=raster.resolution, rays=8192, angle_noise_deg=0.0)
    angle = np.random.default_rng(seed).uniform(0, np.pi)
    along = np.linspace(-0.5, 0.5, 11) * view.travel_m
    path = np.stack([along * np.cos(angle), along * np.sin(angle)], axis=1)
    generator = torch.Generator().manual_seed(seed)
    zero = torch.zeros(1, dtype=torch.int64)
    paths = torch.from_numpy(path.astype(np.float32))[None]
    seen = render(world, zero, paths, torch.zeros(1, 2), torch.zeros(1), view, generator)
    wall, ground, observed = seen[0].numpy()
    return QueryTile(wall, ground, observed, raster.resolution, 0.0)


def locator(
    where: City, model: Path, fields: LikelihoodFields, settings: LocalizeSettings, device: str
) -> Coarse:
    """The locator that a model's card asks for."""
    search = NearSearch(fields, settings.query.size_m, settings.match, device)
    if read_json(model / CARD)["method"] == "cells":
        return CellsLocator(model, where, search, settings.cells, device)
    return RetrievalLocator(model, where, search, settings.retrieval, device)


def measure(name: str, where: City, model: Path | None, mode: str, device: str) -> Cost:
    """Search for some tiles, and time the transforms."""
    raster = cut_map(name, where.raster)
    settings = load_recipe()
    size = settings.query.size_m
    turns, log_prior = heading_turns(MODES[mode], settings)
    truth = places(raster, QUERIES, np.random.default_rng(0))
    tiles = [see(raster, place, size, number) for number, place in enumerate(truth)]
    seconds: list[float] = []
    cpu: list[float] = []
    found = 0
    forget_peak(device)
    before = memory_mb(device)
    begun = time.perf_counter()
    fields = make_fields(raster, settings.search.resolution, settings.likelihood)
    whole_map: Coarse = Matcher(fields, size, settings.match, None, device)
    if model is not None:
        whole_map = locator(where, model, fields, settings, device)
    if mode != "tracking":
        whole_map.candidates(tiles[0], turns, log_prior)  # readies what is made when first needed
    wait(device)
    setup = time.perf_counter() - begun
    for place, tile in zip(truth, tiles, strict=True):
        begun, worked = time.perf_counter(), time.process_time()
        matcher = whole_map
        if mode == "tracking":
            disc = Disc(float(place[0]), float(place[1]), DISC_M)
            matcher = Matcher(fields, size, settings.match, disc, device)
        best = matcher.candidates(tile, turns, log_prior).poses[:1]
        wait(device)
        seconds.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - worked)
        found += bool((np.hypot(*(best[:, :2] - place).T) < FOUND_M).any())
        if sum(seconds) > PATIENCE_S:
            break
    peak = memory_mb(device) - before
    wide = settings.match.coarser if len(turns) > FEW_TURNS else 1
    step = settings.search.resolution * wide
    whole = (raster.height * raster.resolution, raster.width * raster.resolution)
    reach = (2 * DISC_M, 2 * DISC_M) if mode == "tracking" else whole
    padded = [next_fast_len(round((side + size) / step), real=True) for side in reach]
    floor_s = len(turns) * transforms(padded, device)
    return Cost(
        raster.area_km2,
        matcher.area_km2,
        setup,
        len(seconds),
        found,
        float(np.median(seconds)),
        float(np.median(cpu)),
        min(seconds),
        peak,
        len(turns),
        floor_s,
        len(turns) * (len(CHANNELS) + 1) * 16 * padded[0] * padded[1] / 1e9,
    )


def transforms(padded: list[int], device: str) -> float:
    """Seconds that one heading's Fourier transforms take, the best of some rounds."""
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
    """Until a GPU has done what it was given."""
    if device != "cpu":
        torch.cuda.synchronize()


def forget_peak(device: str) -> None:
    """Let the largest use of memory so far be that of now."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def memory_mb(device: str) -> float:
    """The largest use of memory so far."""
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
    parser.add_argument(
        "--model", type=Path, help="of cells or descriptors, in place of the search"
    )
    parser.add_argument("--row", action="store_true", help="only this map and mode, as JSON")
    given = parser.parse_args()
    device = pick_device(given.device)
    if given.row:
        where = open_map(given.maps[0], given.data, given.work)
        cost = measure(given.maps[0], where, given.model, given.modes[0], device)
        print(json.dumps(asdict(cost)))
        return
    print(f"{stamp()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    heads = ["map", "km2", "heading", "headings", "s per query", "CPU s", "queries per s"]
    heads += ["floor s", "times the floor", "floor GB", "peak MB", "set-up s", "found"]
    row(*heads)
    print("|" + "---|" * len(heads))
    for name in given.maps:
        for mode in given.modes:
            print_cost(name, mode, given.limit)


def print_cost(name: str, mode: str, limit: float) -> None:
    """Measure one row in a process of its own, with this one's other options, and print it."""
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
