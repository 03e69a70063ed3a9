"""How well query tiles of a real drive fit the map, and how fast tiles are made; markdown tables.

Run: python benchmarks/tiles.py [DATA] [--work FOLDER] [--only fit|speed]

Fit: KITTI raw drive 0005, no labels. Every cell's wall evidence is put where the truth says that
it is, and the share of all evidence within 1 m of an edge of OSM's buildings is counted: as it is,
with the constant shift between map and truth taken out (the best of all within 6 m, in steps of
0.25 m), and with a shift that changes linearly along the drive. Buildings that touch have no edge
between them; cells beyond the map's border do not count. Then the same drive is localized scan by
scan.

Speed: HDL-64E scans of that drive from file to tile in two processes of one thread each; simulated
LMS drives from files to tiles of 50 m every 20 m in one process, against their own duration; and
the memory of that process in the first tenth of the drive and in all of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from inputs import KITTI, RUNS, city, drive
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.transform import Affine
from scipy import ndimage
from stamp import head, peak_mb, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.drive import Drive
from data_prep.files import read_json
from data_prep.geometry import Array
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.query_tile import make_tile
from maptile_loc.perceive.plan import QueryPlan, plan_queries
from maptile_loc.perceive.submap import build_submap
from maptile_loc.types import Queries
from maptile_loc.pipeline import HeadingKnowledge, LocalizeSettings, tile_rotations
from maptile_loc.report.metrics import truth_in_map
from maptile_loc.run import RunOptions, run

ROOT = Path(__file__).parent.parent
NEAR_M = 1.0
REACH_M, STEP_M = 6.0, 0.25
DRIFT_M = 4.0
GRID_M = 0.1
TRIALS = ((0.0, 0.0), (50.0, 5.0))
"""Metres of a submap, and between queries."""
COLUMNS = ("recall_1m", "recall_2m", "recall_5m", "median_m")
ROUNDS = 3
LOOP, LONG = RUNS


@dataclass(frozen=True)
class Walls:
    """Wall evidence in the map frame.

    Attributes:
        xy: (N, 2) metres.
        weight: (N,) 0..1.
        along: (N,) -0.5..0.5, from the beginning to the end of the drive.
    """

    xy: Array
    weight: Array
    along: Array

    def moved(self, bias: Array, drift: Array) -> Array:
        """(N, 2) places with a (2,) shift, and a (2,) change of it along the drive, added."""
        return self.xy + bias + self.along[:, None] * drift


@dataclass(frozen=True)
class Near:
    """Where building edges are near: (H, W) bool from (west, south) upwards, ``GRID_M`` a cell."""

    cells: NDArray[np.bool_]
    west: float
    south: float

    def share(self, xy: Array, weight: Array) -> float:
        """The share of the (N,) weights at (N, 2) places that is near an edge."""
        column = ((xy[:, 0] - self.west) / GRID_M).astype(np.int64)
        row = ((xy[:, 1] - self.south) / GRID_M).astype(np.int64)
        return float(weight[self.cells[row, column]].sum() / weight.sum())


def near_edges(edges: shapely.Geometry, bounds: tuple[float, float, float, float]) -> Near:
    """The cells less than ``NEAR_M`` from ``edges``; bounds are west, south, east, north."""
    west, south, east, north = bounds
    shape = (round((north - south) / GRID_M), round((east - west) / GRID_M))
    transform = Affine(GRID_M, 0, west, 0, GRID_M, south)
    line = rasterize([(edges, 1)], out_shape=shape, transform=transform, all_touched=True)
    return Near(ndimage.distance_transform_edt(line == 0) * GRID_M <= NEAR_M, west, south)


def fit_shift(walls: Walls, near: Near) -> Array:
    """The (2,) constant shift with the largest share of the evidence near an edge."""
    return _best(walls.xy, walls.weight, np.ones_like(walls.along), near, REACH_M)


def fit_drift(walls: Walls, near: Near, bias: Array) -> tuple[Array, Array]:
    """The (2,) shift and the (2,) change of it along the drive, searched in turns from ``bias``."""
    drift, still = np.zeros(2), np.ones_like(walls.along)
    for _ in range(3):
        drift = _best(walls.xy + bias, walls.weight, walls.along, near, DRIFT_M)
        bias = bias + _best(walls.moved(bias, drift), walls.weight, still, near, 1.0)
    return bias, drift


def _best(xy: Array, weight: Array, scale: Array, near: Near, reach: float) -> Array:
    """The (2,) shift, times ``scale`` at each place, that puts most weight near an edge."""
    steps = np.arange(-reach, reach + STEP_M / 2, STEP_M)
    tried = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    # The least shift first: of equals it is the one that is taken.
    tried = tried[np.argsort(np.linalg.norm(tried, axis=1), kind="stable")]
    shares = [near.share(xy + scale[:, None] * shift, weight) for shift in tried]
    return tried[int(np.argmax(shares))]


def edge_distance(edges: shapely.Geometry, xy: Array) -> Array:
    """(N,) exact metres from (N, 2) places to the nearest edge."""
    corners, line = shapely.get_coordinates(shapely.get_parts(edges), return_index=True)
    same = line[1:] == line[:-1]
    segments = shapely.linestrings(np.stack([corners[:-1], corners[1:]], axis=1)[same])
    index, distance = shapely.STRtree(segments).query_nearest(
        shapely.points(xy), return_distance=True, all_matches=False
    )
    result = np.empty(len(xy))
    result[index[0]] = distance
    return result


def wall_cells(
    track: Drive, where: City, submap_m: float, every_m: float, settings: LocalizeSettings
) -> tuple[int, Walls]:
    """How many tiles, and their wall evidence where the truth puts it."""
    assert track.truth is not None
    plan = plan_queries(track, Queries(submap_m=submap_m, every_m=every_m))
    truth = truth_in_map(track.truth, where.raster, track.scans.t_ns[plan.scan])
    rotation = tile_rotations(track, plan, HeadingKnowledge(), where.raster.convergence, 0)
    along = np.linspace(-0.5, 0.5, len(plan.scan))
    xy, weight, part = [], [], []
    for query in range(len(plan.scan)):
        submap = build_submap(track, plan, query, Queries(submap_m=submap_m), settings.submap)
        tile = make_tile(submap, rotation[query], settings.query)
        if not (tile.wall.min() > -1e-6 and tile.wall.max() < 1 + 1e-6):
            raise SystemExit(f"tile {query}: its wall evidence is not within 0 to 1")
        row, column = np.nonzero(tile.wall > 0)
        half = tile.size / 2
        cell = np.column_stack([column + 0.5 - half, half - row - 0.5]) * tile.resolution
        xy.append(cell + truth[query, :2])
        weight.append(tile.wall[row, column].astype(np.float64))
        part.append(np.full(len(row), along[query]))
    walls = Walls(np.concatenate(xy), np.concatenate(weight), np.concatenate(part))
    inside = where.raster.inside(walls.xy)
    return len(plan.scan), Walls(walls.xy[inside], walls.weight[inside], walls.along[inside])


def fit(data: Path, work: Path) -> None:
    """Print how well the real drive's tiles fit the map, and what that makes of localizing it."""
    settings = load_recipe()
    folder = city(data / KITTI.parent / "2011_09_26_drive_0005.osm", work / "karlsruhe")
    where, track = open_city(folder), open_drive(data / KITTI)
    edges = shapely.boundary(shapely.union_all(where.buildings().geometry.to_numpy()))
    raster, margin = where.raster, REACH_M + DRIFT_M + 2.0
    bounds = (raster.west - margin, raster.south - margin)
    near = near_edges(edges, (*bounds, raster.east + margin, raster.north + margin))
    print("Required: 0.75 of the evidence within 1 m with the shift taken out.\n")
    head("query", "tiles", "wall m2", "shift", "within 1 m", "median m", "east, north m")
    for submap_m, every_m in TRIALS:
        tiles, walls = wall_cells(track, where, submap_m, every_m, settings)
        bias = fit_shift(walls, near)
        straight, drift = fit_drift(walls, near, bias)
        nothing = np.zeros(2)
        for name, shift, change in (
            ("none", nothing, nothing),
            ("constant", bias, nothing),
            ("linear", straight, drift),
        ):
            distance = edge_distance(edges, walls.moved(shift, change))
            share = walls.weight[distance <= NEAR_M].sum() / walls.weight.sum()
            ends = [shift] if not change.any() else [shift - change / 2, shift + change / 2]
            shifts = " to ".join(f"{east:+.2f}, {north:+.2f}" for east, north in ends)
            area = f"{walls.weight.sum() * settings.query.resolution**2 / tiles:.0f}"
            median = f"{weighted_median(distance, walls.weight):.2f}"
            row(called(submap_m), f"{tiles}", area, name, f"{share:.3f}", median, shifts)
    print("\nLocalized, heading known, every scan. Required: recall_2m 0.90, bias removed.\n")
    head("query", "aligned", "n", *COLUMNS)
    out = work / "out_kitti_scans"
    run(RunOptions(folder, data / KITTI, submap_m=0.0, every_m=0.0), settings, out)
    metrics = read_json(out / "metrics.json")
    for part, name in (("stages", "as it is"), ("bias_removed", "map bias removed")):
        figures = metrics[part]["aligned"]
        row(called(0.0), name, f"{figures['frames']}", *(f"{figures[c]:.3f}" for c in COLUMNS))


def weighted_median(values: Array, weight: Array) -> float:
    """The value that half of the weight does not exceed."""
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


# --- Speed ---------------------------------------------------------------------------------------

_opened: tuple[Drive, QueryPlan, LocalizeSettings]


def _open(path: Path) -> None:
    global _opened
    track = open_drive(path)
    _opened = track, plan_queries(track, Queries(submap_m=0.0, every_m=0.0)), load_recipe()


def _tile(query: int) -> int:
    track, plan, settings = _opened
    submap = build_submap(track, plan, query, Queries(submap_m=0.0), settings.submap)
    return int(np.count_nonzero(make_tile(submap, 0.3, settings.query).wall))


def scans_per_second(path: Path) -> float:
    """Tiles per second of single scans with two processes, the best of some rounds."""
    os.environ["OMP_NUM_THREADS"] = "1"
    queries = range(len(open_drive(path).scans.t_ns))
    with multiprocessing.get_context("spawn").Pool(2, _open, (path,)) as pool:
        pool.map(_tile, range(8), 1)
        rates = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            pool.map(_tile, queries, 4)
            rates.append(len(queries) / (time.perf_counter() - begun))
    return max(rates)


def drive_through(path: Path) -> dict[str, float]:
    """Make the tiles of a drive in this process: times in seconds, memory in MB."""
    settings = load_recipe()
    begun = time.perf_counter()
    track = open_drive(path)
    plan = plan_queries(track, Queries(submap_m=50.0, every_m=20.0))
    tiles, first = len(plan.scan), 0.0
    for query in range(tiles):
        submap = build_submap(track, plan, query, Queries(submap_m=50.0), settings.submap)
        make_tile(submap, 0.3, settings.query)
        if query == tiles // 10:
            first = peak_mb()
    took = time.perf_counter() - begun
    gaps = np.diff(track.scans.t_ns) / 1e9
    seconds = float(gaps[gaps < 1.0].sum())  # scans are taken only while the vehicle moves
    return {"tiles": tiles, "took": took, "drive": seconds, "first": first, "all": peak_mb()}


def speed(data: Path, work: Path) -> None:
    """Print how fast tiles are made, and what memory it takes."""
    oxford = city(data / "oxford" / "oxford.osm", work / "oxford")
    head("what", "speed", "detail")
    rate = scans_per_second(data / KITTI)
    row("HDL-64E scans from file to tile, 2 processes", f"{rate:.1f} scans/s", "single scans")
    for name in (LOOP, LONG):
        folder = drive(data / RUNS[name], oxford, work / name.replace(" ", "_"))
        # A process of its own each: the peak is that of one drive.
        one = subprocess.run(
            [sys.executable, __file__, "--drive", str(folder)],
            capture_output=True,
            text=True,
            check=True,
        )
        cost = json.loads(one.stdout)
        real_time = f"{cost['drive'] / cost['took']:.1f} times real time"
        detail = (
            f"{cost['tiles']} tiles, {cost['drive']:.0f} s in {cost['took']:.0f} s; peak memory "
        )
        detail += f"{cost['first']:.0f} MB after a tenth, {cost['all']:.0f} MB in all"
        row(f"LMS drive, {name}", real_time, detail)


def called(submap_m: float) -> str:
    """How the tables call a query."""
    return f"submap {submap_m:.0f} m" if submap_m else "single scan"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--only", choices=("fit", "speed"))
    parser.add_argument("--drive", type=Path, help="only make the tiles of this drive")
    given = parser.parse_args()
    if given.drive:
        print(json.dumps(drive_through(given.drive)))
        return
    print(stamp(), end="\n\n")
    if given.only != "speed":
        fit(given.data, given.work)
    if given.only is None:
        print()
    if given.only != "fit":
        speed(given.data, given.work)


if __name__ == "__main__":
    main()
