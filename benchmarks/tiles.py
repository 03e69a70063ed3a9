"""How well query tiles of a real drive fit the map, and how fast tiles are made; markdown tables.

Run: python benchmarks/tiles.py [DATA] [--work FOLDER] [--only fit|speed]

Fit: KITTI raw drive 0005, without labels. The wall evidence of every cell is moved to where the
truth puts it. The share of all evidence within 1 m of an edge of OSM's buildings is counted: as it
is, with the constant shift between map and truth removed (the best within 6 m, in steps of 0.25 m),
and with a shift that changes linearly along the drive. Buildings that touch have no edge between
them; cells beyond the map's border are left out. Then the same drive is localized scan by scan.

Speed: HDL-64E scans of that drive, from file to tile, in two processes of one thread each;
simulated LMS drives, from files to tiles of 50 m every 20 m, in one process, relative to the
drive's own duration; and the peak memory of that process after a tenth of the drive and after all
of it.
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
from data_prep.geometry import Array
from data_prep.sources import open_drive
from maptile_loc import api
from maptile_loc.perceive.tiles import QueryTiles, query_tiles
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.report.metrics import truth_in_map
from maptile_loc.types import HeadingKnowledge, Queries

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

NEAR_M = 1.0
"""Largest distance of evidence that fits an edge, metres."""

REACH_M = 6.0
"""Largest constant shift that is tried, metres, per axis."""

STEP_M = 0.25
"""Step between the shifts that are tried, metres."""

DRIFT_M = 4.0
"""Largest change of the shift along the drive that is tried, metres, per axis."""

GRID_M = 0.1
"""Side of the cells in which edges are drawn, metres."""

TRIALS = (Queries(0.0, 0.0), Queries(50.0, 5.0))
"""Queries whose tiles are compared with the map."""

LMS_QUERIES = Queries(50.0, 20.0, heading=HeadingKnowledge("unknown"))
"""Queries of the simulated LMS drives."""

COLUMNS = ("recall_1m", "recall_2m", "recall_5m", "median_m")
"""Metrics that are printed."""

ROUNDS = 3
"""Rounds, of which the fastest counts."""


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
        """(N, 2) positions, moved by a (2,) shift and its (2,) change along the drive."""
        return self.xy + bias + self.along[:, None] * drift


@dataclass(frozen=True)
class Near:
    """The cells near building edges.

    Attributes:
        cells: (H, W) bool; row 0 is south, and a cell's side ``GRID_M``.
        west: East coordinate of the outer corner of cell (0, 0), metres.
        south: North coordinate of that corner, metres.
    """

    cells: NDArray[np.bool_]
    west: float
    south: float

    def share(self, xy: Array, weight: Array) -> float:
        """The share of the (N,) weights at (N, 2) positions that is near an edge."""
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
    """The (2,) shift and its (2,) change along the drive, searched in turns from ``bias``."""
    drift, still = np.zeros(2), np.ones_like(walls.along)
    for _ in range(3):
        drift = _best(walls.xy + bias, walls.weight, walls.along, near, DRIFT_M)
        bias = bias + _best(walls.moved(bias, drift), walls.weight, still, near, 1.0)
    return bias, drift


def _best(xy: Array, weight: Array, scale: Array, near: Near, reach: float) -> Array:
    """The (2,) shift, times (N,) ``scale``, that moves most weight near an edge."""
    steps = np.arange(-reach, reach + STEP_M / 2, STEP_M)
    tried = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    # The smallest shift first, so that it is chosen among equals.
    tried = tried[np.argsort(np.linalg.norm(tried, axis=1), kind="stable")]
    shares = [near.share(xy + scale[:, None] * shift, weight) for shift in tried]
    return tried[int(np.argmax(shares))]


def edge_distance(edges: shapely.Geometry, xy: Array) -> Array:
    """(N,) exact distances of (N, 2) positions from the nearest edge, metres."""
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
    track: Drive, where: City, queries: Queries, settings: LocalizeSettings
) -> tuple[int, Walls]:
    """The number of tiles, and their wall evidence at its true position.

    Args:
        track: A drive with truth and headings.
        where: Its city.
        queries: How tiles are made, with known headings.
        settings: The recipe.
    """
    assert track.truth is not None
    tiles = drive_tiles(where, track, queries, settings)
    truth = truth_in_map(track.truth, where.raster, tiles.t_ns)
    along = np.linspace(-0.5, 0.5, len(tiles))
    xy, weight, part = [], [], []
    for query, tile in enumerate(tiles):
        if tile is None:
            continue
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
    return len(tiles), Walls(walls.xy[inside], walls.weight[inside], walls.along[inside])


def fit(data: Path, work: Path) -> None:
    """Print how well the real drive's tiles fit the map, and the accuracy of localizing it."""
    settings = load_recipe()
    folder = city(data / KITTI.parent / "2011_09_26_drive_0005.osm", work / "karlsruhe")
    where, track = open_city(folder), open_drive(data / KITTI)
    edges = shapely.boundary(shapely.union_all(where.buildings().geometry.to_numpy()))
    raster, margin = where.raster, REACH_M + DRIFT_M + 2.0
    bounds = (raster.west - margin, raster.south - margin)
    near = near_edges(edges, (*bounds, raster.east + margin, raster.north + margin))
    print("Required: 0.75 of the evidence within 1 m with the shift removed.\n")
    head("query", "tiles", "wall m2", "shift", "within 1 m", "median m", "east, north m")
    for queries in TRIALS:
        count, walls = wall_cells(track, where, queries, settings)
        area = f"{walls.weight.sum() * settings.query.resolution**2 / count:.0f}"
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
            median = f"{weighted_median(distance, walls.weight):.2f}"
            row(called(queries), f"{count}", area, name, f"{share:.3f}", median, shifts)
    print("\nLocalized, heading known, every scan. Required: recall_2m 0.90, bias removed.\n")
    head("query", "aligned", "n", *COLUMNS)
    found = api.localize(where, track, heading="known", submap_m=0.0, every_m=0.0)
    metrics = found.evaluate(track.truth)
    for part, name in (("stages", "as it is"), ("bias_removed", "map bias removed")):
        figures = metrics[part]["aligned"]
        values = (f"{figures[column]:.3f}" for column in COLUMNS)
        row(called(TRIALS[0]), name, f"{figures['frames']}", *values)


def weighted_median(values: Array, weight: Array) -> float:
    """The smallest value with at least half of the weight at or below it."""
    order = np.argsort(values)
    total = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


# --- Speed ---------------------------------------------------------------------------------------

_opened: QueryTiles
"""The drive's single scans in a process of the pool."""


def _open(path: Path) -> None:
    global _opened
    _opened = tiles_of(path, Queries(0.0, 0.0, heading=HeadingKnowledge("unknown")))


def _wall_cells(query: int) -> int:
    tile = _opened.tile(query)
    return 0 if tile is None else int(np.count_nonzero(tile.wall))


def tiles_of(path: Path, queries: Queries) -> QueryTiles:
    """The query tiles of a drive, without a map."""
    settings = load_recipe()
    return query_tiles(open_drive(path), queries, 0.0, settings.submap, settings.query)


def scans_per_second(path: Path) -> float:
    """Tiles of single scans per second with two processes, the best of some rounds."""
    os.environ["OMP_NUM_THREADS"] = "1"
    queries = range(len(open_drive(path).scans.t_ns))
    with multiprocessing.get_context("spawn").Pool(2, _open, (path,)) as pool:
        pool.map(_wall_cells, range(8), 1)
        rates = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            pool.map(_wall_cells, queries, 4)
            rates.append(len(queries) / (time.perf_counter() - begun))
    return max(rates)


def drive_through(path: Path) -> dict[str, float]:
    """Make the tiles of a drive in this process.

    Returns:
        ``tiles``; ``took`` and ``drive`` (seconds); ``first`` and ``all`` (peak memory after a
        tenth of the tiles and after all, MB).
    """
    begun, first = time.perf_counter(), 0.0
    tiles = tiles_of(path, LMS_QUERIES)
    for query, _ in enumerate(tiles):
        if query == len(tiles) // 10:
            first = peak_mb()
    took = time.perf_counter() - begun
    gaps = np.diff(tiles.drive.scans.t_ns) / 1e9
    # Scans are recorded only while the vehicle moves.
    seconds = float(gaps[gaps < 1.0].sum())
    return {"tiles": len(tiles), "took": took, "drive": seconds, "first": first, "all": peak_mb()}


def speed(data: Path, work: Path) -> None:
    """Print the speed at which tiles are made, and the memory in use."""
    oxford = city(data / "oxford" / "oxford.osm", work / "oxford")
    head("what", "speed", "detail")
    rate = scans_per_second(data / KITTI)
    row("HDL-64E scans from file to tile, 2 processes", f"{rate:.1f} scans/s", "single scans")
    for name in RUNS:
        folder = drive(data / RUNS[name], oxford, work / name.replace(" ", "_"))
        # In a process of its own, the peak memory is that of one drive.
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


def called(queries: Queries) -> str:
    """The name of a kind of queries in the tables."""
    return f"submap {queries.submap_m:.0f} m" if queries.submap_m else "single scan"


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
