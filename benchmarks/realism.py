"""Compare simulated HDL-64E scans with real ones of the same street; prints a markdown table.

Run: python benchmarks/realism.py [DATA] [--worlds NUMBER] [--set KEY=VALUE ...]

DATA is the folder of real data (default: ../shared/data). A drive is simulated along the real one,
KITTI's 2011_09_26_drive_0005, in a world made from OpenStreetMap. ``--set`` changes the recipe
configs/simulate.yaml, as in ``maptile simulate``. The street and its houses are the same; objects
that no map contains are at other positions. So only statistics can agree; they are means over some
worlds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from map_walls import wall_statistics
from numpy.typing import NDArray
from scan_shapes import SEEN_M, ground_height, shape_statistics, thinned
from stamp import head, row, stamp

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.geometry import Array
from data_prep.osm.source import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_drive
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.query_tile import QuerySettings
from maptile_loc.perceive.submap import SubmapSettings
from maptile_loc.perceive.tiles import QueryTiles, query_tiles
from maptile_loc.types import HeadingKnowledge, Queries

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

KITTI = Path("kitti_raw/2011_09_26")
"""Folder of the real drive's day in the data folder."""

OSM = KITTI / "2011_09_26_drive_0005.osm"
"""Map of the real drive."""

DRIVE = KITTI / "2011_09_26_drive_0005_sync"
"""The real drive."""

MAP_OFF = np.array([-1.25, 3.25])
"""East, north shift of the real drive's truth to the map, metres; it drifts by 0.5 m."""

COLUMNS = 2083
"""Firings of an HDL-64E in a revolution at 10 Hz."""

BANDS = {"above 0°": (0.0, 9.0), "0 to -8.3°": (-8.3, 0.0), "below -8.3°": (-30.0, -8.3)}
"""Elevations of beams, degrees."""

NEAR_M = 20.0
"""Range of the statistics of voxels and of shapes in single scans, metres."""

VOXEL_M = 0.4
"""Side of the voxels, metres."""

RAY_STEP_M = 0.15
"""Step along the rays through voxels, metres: shorter than a voxel."""

SUBMAPS = Queries(15.0, 15.0, heading=HeadingKnowledge("unknown"))
"""Queries whose submaps are compared."""

WALL_SCANS = Queries(0.0, 3.0)
"""Queries whose scans are compared with the map's walls."""


@dataclass(frozen=True)
class Scan:
    """One scan.

    Attributes:
        points: (N, 3) metres, in the sensor's frame, z up.
        intensity: (N,) 0..1.
        ring: (N,) number of the beam, from the top.
    """

    points: Array
    intensity: Array
    ring: NDArray[np.int64]


def real_scan(file: Path) -> Scan:
    """A scan of KITTI raw, whose file has ring after ring, counter-clockwise from ahead."""
    rows = np.fromfile(file, "<f4").reshape(-1, 4).astype(np.float64)
    azimuth = np.arctan2(rows[:, 1], rows[:, 0]) % (2 * np.pi)
    ring = np.cumsum(np.diff(azimuth, prepend=azimuth[0]) < -np.pi, dtype=np.int64)
    return Scan(rows[:, :3], rows[:, 3], ring)


def simulated_scan(file: Path) -> Scan:
    """A scan of a simulated Velodyne, whose file has z down and x backward."""
    rows = np.fromfile(file, "<f4").reshape(4, -1).T.astype(np.float64)
    points = rows[:, :3] * (-1, 1, -1)
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    ring = np.unique(np.round(-elevation, 5), return_inverse=True)[1]
    azimuth = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    order = np.lexsort((azimuth, ring))
    return Scan(points[order], rows[order, 3] / 255, ring[order])


# --- Single scans ---------------------------------------------------------------------------------


def scan_statistics(scan: Scan) -> dict[str, float]:
    """All statistics of a single scan, by name."""
    distance = np.linalg.norm(scan.points, axis=1)
    elevation = np.degrees(np.arcsin(scan.points[:, 2] / distance))
    middle = np.array([np.median(elevation[scan.ring == k]) for k in range(scan.ring.max() + 1)])
    count = np.bincount(scan.ring)
    result = {"points a scan": float(len(distance))}
    for name, (low, high) in BANDS.items():
        rings = (middle >= low) & (middle < high)
        result[f"returns of beams {name}, %"] = 100 * count[rings].mean() / COLUMNS
    upper = distance[elevation > -2]
    for q in (10, 50, 90, 99):
        result[f"range of beams above -2°, {q} % quantile, m"] = float(np.percentile(upper, q))
    is_low = scan.points[:, 2] < -1.5
    for name, kind in (("low", is_low), ("high", ~is_low)):
        for near, far in ((5, 10), (10, 20), (20, 40)):
            part = kind & (distance > near) & (distance < far)
            result[f"mean intensity, {name}, {near}-{far} m"] = float(scan.intensity[part].mean())
    result |= _along_rings(scan, distance) | _see_through(scan.points, distance)
    near = scan.points[distance < NEAR_M]
    height = near[:, 2] - ground_height(near)
    near = near[(height > 0.5) & (height < 5)]
    for radius in (0.5, 1.5):
        result |= shape_statistics(near, radius, "in a scan")
    return result


def _along_rings(scan: Scan, distance: Array) -> dict[str, float]:
    """Changes of the range from one firing of a beam to the next, above the ground."""
    azimuth = np.arctan2(scan.points[:, 1], scan.points[:, 0])
    turn = np.abs(np.angle(np.exp(1j * np.diff(azimuth))))
    beside = (np.diff(scan.ring) == 0) & (turn < 1.6 * 2 * np.pi / COLUMNS)
    high = (scan.points[:, 2] > -1.0) & (distance < 30)
    step = np.abs(np.diff(distance))[beside & high[1:] & high[:-1]]
    bounds = (0.0, 0.05, 0.15, 0.5, 2.0, 200.0)
    share = np.histogram(step, bounds)[0] / len(step) * 100
    names = ("below 5 cm", "5-15 cm", "15-50 cm", "0.5-2 m", "above 2 m")
    return {
        f"range step to the next firing {n}, %": float(s) for n, s in zip(names, share, strict=True)
    }


def _see_through(points: Array, distance: Array) -> dict[str, float]:
    """Shares of occupied voxels that let beams pass."""
    near = (distance > 2) & (distance < 60)
    hit = points[near & (distance < NEAR_M) & (points[:, 2] > -1.1)]
    hits = _Voxels.of(hit)
    ray, reach = points[near] / distance[near, None], distance[near]
    passes = np.zeros(len(hits.key))
    for along in np.arange(2, NEAR_M, RAY_STEP_M):
        on = reach > along + VOXEL_M
        at = ray[on] * along
        at = at[at[:, 2] > -1.1]
        # Steps are shorter than a voxel, so a ray counts once for each voxel on it.
        voxel = np.floor(at / VOXEL_M)
        before = np.floor(at * (1 - RAY_STEP_M / along) / VOXEL_M)
        passes += hits.count(at[(voxel != before).any(axis=1)])
    total = passes + hits.hits
    known = total >= 8
    share = passes[known] / total[known]
    return {
        "voxels that let > 10 % of the beams on, %": 100 * float((share > 0.1).mean()),
        "voxels that let > 50 % of the beams on, %": 100 * float((share > 0.5).mean()),
        "voxels that let > 80 % of the beams on, %": 100 * float((share > 0.8).mean()),
    }


@dataclass(frozen=True)
class _Voxels:
    """Occupied voxels: their (V,) keys, sorted, and the (V,) number of points in each."""

    key: NDArray[np.int64]
    hits: NDArray[np.int64]

    @classmethod
    def of(cls, points: Array) -> _Voxels:
        return cls(*np.unique(_key(points), return_counts=True))

    def count(self, points: Array) -> NDArray[np.int64]:
        key = _key(points)
        at = np.clip(np.searchsorted(self.key, key), 0, len(self.key) - 1)
        return np.bincount(at[self.key[at] == key], minlength=len(self.key))


def _key(points: Array) -> NDArray[np.int64]:
    cell = np.floor(points / VOXEL_M).astype(np.int64) + 1000
    return (cell[:, 0] * 2000 + cell[:, 1]) * 2000 + cell[:, 2]


# --- Some metres of travel ------------------------------------------------------------------------


def submap_statistics(tiles: QueryTiles, query: int) -> dict[str, float]:
    """All statistics of a submap, by name."""
    cloud = thinned(tiles.submap(query).points.astype(np.float64), 0.1)
    height = cloud[:, 2] - ground_height(cloud)
    bounds = (-9.0, -0.3, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 40.0)
    names = ("below -0.3", "-0.3 to 0.2", "0.2-0.5", "0.5-1", "1-2", "2-4", "4-7", "above 7")
    share = 100 * np.histogram(height, bounds)[0] / len(height)
    result = {f"height {n} m, %": float(s) for n, s in zip(names, share, strict=True)}
    wall_high = cloud[(height > 0.5) & (height < 5)]
    return result | shape_statistics(wall_high, 1.5, "in 15 m of travel")


# --- Table ----------------------------------------------------------------------------------------


def statistics(folder: Path, city: City, off: Array) -> dict[str, float]:
    """All statistics of a drive, by name.

    Args:
        folder: The drive.
        city: The city.
        off: (2,) shift of the drive's truth to the map, metres.
    """
    drive = open_drive(folder)
    velodyne = folder / "velodyne_points" / "data"
    read = real_scan if velodyne.is_dir() else simulated_scan
    files = sorted((velodyne if velodyne.is_dir() else folder / "velodyne_left").iterdir())
    every = max(1, len(files) // 8)
    settings = SubmapSettings(max_range_m=SEEN_M)
    tiles = query_tiles(drive, SUBMAPS, 0.0, settings, QuerySettings())
    result = _mean([scan_statistics(read(file)) for file in files[::every]])
    result |= _mean([submap_statistics(tiles, query) for query in range(len(tiles))])
    scans = plan_queries(drive, WALL_SCANS).scan
    return result | wall_statistics(drive, scans, city, off)


def _mean(tables: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each statistic."""
    return {key: float(np.mean([table[key] for table in tables])) for key in tables[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--worlds", type=int, default=3, help="number of worlds, each with its own seed"
    )
    parser.add_argument("--set", action="append", default=[], help="as for maptile simulate")
    given = parser.parse_args()
    made, scans, seconds = [], 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare_city(OsmSource(path=given.data / OSM), work / "city", CitySettings())
        city = open_city(work / "city")
        path = trajectory_from_drive(open_drive(given.data / DRIVE), city)
        for seed in range(given.worlds):
            settings = load_settings(SimulateSettings, "simulate", [f"seed={seed}", *given.set])
            start = time.perf_counter()
            simulate(city, path, work / "drive", "hdl64", settings)
            seconds += time.perf_counter() - start
            scans += len(list((work / "drive" / "velodyne_left").iterdir()))
            made.append(statistics(work / "drive", city, np.zeros(2)))
        real = statistics(given.data / DRIVE, city, MAP_OFF)
    print(stamp(), end="\n\n")
    print(f"{scans} scans simulated, {scans / seconds:.1f} a second\n")
    head("", "real", "simulated")
    for name, value in _mean(made).items():
        row(name, f"{real[name]:.3g}", f"{value:.3g}")


if __name__ == "__main__":
    main()
