"""How much simulated HDL-64E scans look like real ones of the same street; prints a markdown table.

Run: python benchmarks/realism.py [DATA] [--worlds NUMBER] [--set KEY=VALUE ...]

DATA is the folder of real data (default: ../shared/data). A drive is simulated along the real one,
KITTI's 2011_09_26_drive_0005, in a world made from OpenStreetMap; ``--set`` changes the recipe
configs/simulate.yaml, as ``maptile simulate`` does. The street and its houses are the same; what no
map shows stands elsewhere, so that only the statistics can agree; they are means over some worlds.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open3d as o3d
import shapely
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from stamp import stamp

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.drive import Drive
from data_prep.geometry import Array
from data_prep.osm.footprints import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_drive
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.plan import QueryPlan, plan_queries
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries

ROOT = Path(__file__).parent.parent
KITTI = Path("kitti_raw/2011_09_26")
OSM, DRIVE = KITTI / "2011_09_26_drive_0005.osm", KITTI / "2011_09_26_drive_0005_sync"
MAP_OFF = np.array([-1.25, 3.25])
"""East, north: by so much the real drive's truth is off the map, with 0.5 m of drift."""

COLUMNS = 2083
"""Firings of an HDL-64E in a turn, 10 Hz."""

BANDS = {"above 0°": (0.0, 9.0), "0 to -8.3°": (-8.3, 0.0), "below -8.3°": (-30.0, -8.3)}
NEAR_M, VOXEL_M, RAY_STEP_M = 20.0, 0.4, 0.15
SEEN_M = 25.0


@dataclass(frozen=True)
class Scan:
    """One scan, in the sensor's frame with z up: (N, 3) points, (N,) intensity 0..1 and ring."""

    points: Array
    intensity: Array
    ring: NDArray[np.int64]


def real_scan(file: Path) -> Scan:
    """A scan of KITTI raw: ring after ring, each counter-clockwise from straight ahead."""
    rows = np.fromfile(file, "<f4").reshape(-1, 4).astype(np.float64)
    azimuth = np.arctan2(rows[:, 1], rows[:, 0]) % (2 * np.pi)
    ring = np.cumsum(np.diff(azimuth, prepend=azimuth[0]) < -np.pi, dtype=np.int64)
    return Scan(rows[:, :3], rows[:, 3], ring)


def simulated_scan(file: Path) -> Scan:
    """A Velodyne scan of a simulated drive: z is down, and x backward."""
    rows = np.fromfile(file, "<f4").reshape(4, -1).T.astype(np.float64)
    points = rows[:, :3] * (-1, 1, -1)
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    ring = np.unique(np.round(-elevation, 5), return_inverse=True)[1]
    azimuth = np.arctan2(points[:, 1], points[:, 0]) % (2 * np.pi)
    order = np.lexsort((azimuth, ring))
    return Scan(points[order], rows[order, 3] / 255, ring[order])


# --- Single scans ---------------------------------------------------------------------------------


def scan_statistics(scan: Scan) -> dict[str, float]:
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
    height = near[:, 2] - _ground(near)
    near = near[(height > 0.5) & (height < 5)]
    return result | _shapes(near, 0.5, "in a scan") | _shapes(near, 1.5, "in a scan")


def _along_rings(scan: Scan, distance: Array) -> dict[str, float]:
    """How ranges change from one firing of a beam to the next, above the ground."""
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
    """Of the beams that reach a voxel in which something is, how many leave it again."""
    near = (distance > 2) & (distance < 60)
    hit = points[near & (distance < NEAR_M) & (points[:, 2] > -1.1)]
    hits = _Voxels.of(hit)
    ray, reach = points[near] / distance[near, None], distance[near]
    passes = np.zeros(len(hits.key))
    for along in np.arange(2, NEAR_M, RAY_STEP_M):
        on = reach > along + VOXEL_M
        at = ray[on] * along
        at = at[at[:, 2] > -1.1]
        # Steps are shorter than a voxel: a ray counts once for each voxel that it is in.
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


def submap_statistics(drive: Drive, plan: QueryPlan, query: int) -> dict[str, float]:
    settings = SubmapSettings(max_range_m=SEEN_M)
    cloud = build_submap(drive, plan, query, Queries(submap_m=15.0), settings).points.astype(np.float64)
    cloud = _thinned(cloud, 0.1)
    height = cloud[:, 2] - _ground(cloud)
    bounds = (-9.0, -0.3, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 40.0)
    names = ("below -0.3", "-0.3 to 0.2", "0.2-0.5", "0.5-1", "1-2", "2-4", "4-7", "above 7")
    share = 100 * np.histogram(height, bounds)[0] / len(height)
    result = {f"height {n} m, %": float(s) for n, s in zip(names, share, strict=True)}
    wall_high = cloud[(height > 0.5) & (height < 5)]
    return result | _shapes(wall_high, 1.5, "in 15 m of travel")


def _thinned(points: Array, voxel: float) -> Array:
    cell = np.floor(points / voxel).astype(np.int64)
    return np.asarray(points[np.unique(cell, axis=0, return_index=True)[1]])


def _ground(points: Array) -> Array:
    """(N,) height of the ground under points: a quadratic surface through the low cells."""
    cell = np.floor(points[:, :2]).astype(np.int64)
    order = np.lexsort((points[:, 2], cell[:, 1], cell[:, 0]))
    first = np.any(np.diff(cell[order], axis=0, prepend=np.inf) != 0, axis=1)
    low = points[order[first]]
    keep = low[:, 2] < np.percentile(low[:, 2], 40)
    for _ in range(8):
        surface, *_ = np.linalg.lstsq(_powers(low[keep]), low[keep, 2], rcond=None)
        off = low[:, 2] - _powers(low) @ surface
        keep = np.abs(off) < 0.25
    return np.asarray(_powers(points) @ surface)


def _powers(points: Array) -> Array:
    x, y = points[:, 0] / SEEN_M, points[:, 1] / SEEN_M
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _shapes(points: Array, radius: float, where: str) -> dict[str, float]:
    """What neighbourhoods are like: a2D and so on of Weinmann et al. (2015), the largest wins."""
    rng = np.random.default_rng(0)
    asked = points[rng.permutation(len(points))[:2000]]
    search = o3d.core.nns.NearestNeighborSearch(o3d.core.Tensor.from_numpy(points))
    search.fixed_radius_index(radius)
    index, _, splits = search.fixed_radius_search(o3d.core.Tensor.from_numpy(asked), radius)
    start = splits.numpy()
    count = np.diff(start)
    away = points[index.numpy()] - np.repeat(asked, count, axis=0)
    mean = np.add.reduceat(away, start[:-1]) / count[:, None]
    spread = np.empty((len(asked), 3, 3))
    for i, j in itertools.product(range(3), range(3)):
        product = np.add.reduceat(away[:, i] * away[:, j], start[:-1]) / count
        spread[:, i, j] = product - mean[:, i] * mean[:, j]
    value, vector = np.linalg.eigh(spread[count >= 8])
    deviation = np.sqrt(np.maximum(value, 0))
    shape = np.stack(
        [
            deviation[:, 2] - deviation[:, 1],
            deviation[:, 1] - deviation[:, 0],
            deviation[:, 0],
        ],
        axis=1,
    ).argmax(axis=1)
    tilt = np.abs(vector[:, 2, 0])
    upright = (shape == 1) & (tilt < 0.3)
    rough = deviation[upright, 0]
    at = f"{radius:g} m {where}"
    return {
        f"linear at {at}, %": 100 * float((shape == 0).mean()),
        f"upright plane at {at}, %": 100 * float(upright.mean()),
        f"other plane at {at}, %": 100 * float(((shape == 1) & (tilt >= 0.3)).mean()),
        f"scattered at {at}, %": 100 * float((shape == 2).mean()),
        f"roughness of upright planes at {at}, median, cm": 100 * float(np.median(rough)),
        f"roughness of upright planes at {at}, 90 %, cm": 100 * float(np.percentile(rough, 90)),
    }


# --- Against the map ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wall:
    """A wall of the map in sight of the way: from a to b with the outside on the right."""

    a: Array
    along: Array
    outward: Array
    length: float

    def place(self, xy: Array) -> tuple[Array, Array]:
        """(N,) metres along the wall and out of it, of (N, 2) points in the map frame."""
        return (xy - self.a) @ self.along, (xy - self.a) @ self.outward


def walls_in_sight(city: City, path: Array) -> list[Wall]:
    """The walls of 6 m or more that nothing on the map hides from the way, up to ``SEEN_M`` off."""
    buildings = np.asarray(city.buildings().geometry.values, object)
    tree = shapely.STRtree(buildings)
    walls = []
    for polygon in buildings[
        tree.query(shapely.LineString(path), predicate="dwithin", distance=SEEN_M)
    ]:
        ring = shapely.get_coordinates(shapely.orient_polygons(polygon).exterior)
        for a, b in itertools.pairwise(ring):
            length = float(np.hypot(*(b - a)))
            along = (b - a) / max(length, 1e-9)
            outward = np.array([along[1], -along[0]])
            near = path[np.argmin(np.hypot(*(path - (a + b) / 2).T))]
            sight = shapely.LineString([(a + b) / 2 + 0.5 * outward, near])
            hidden = len(tree.query(sight, predicate="intersects")) > 0
            faces = (near - a) @ outward > 2 and sight.length < SEEN_M
            if length >= 6 and faces and not hidden:
                walls.append(Wall(a, along, outward, length))
    return walls


def wall_statistics(drive: Drive, plan: QueryPlan, city: City, off: Array) -> dict[str, float]:
    """How a scan's points lie about the map's walls, and how much of the walls is seen at all.

    Each wall is laid, scan by scan, through the points that are nearest to it in number: the map's,
    the INS's and the sweep's errors are not what is measured.
    """
    clouds, path = _in_the_map(drive, plan, city, off)
    walls = walls_in_sight(city, path)
    aside: list[Array] = []
    beside = [np.zeros(int(wall.length)) for wall in walls]
    for cloud in clouds:
        high = cloud[(cloud[:, 2] > 1.0) & (cloud[:, 2] < 5.0), :2]
        for wall, met in zip(walls, beside, strict=True):
            s, t = wall.place(high)
            local = (s > 0.5) & (s < wall.length - 0.5) & (np.abs(t) < 3.5)
            s, t = s[local], _from_the_wall(s[local], t[local])
            met += np.bincount(s[np.abs(t) < 0.3].astype(int), minlength=len(met))[: len(met)]
            if np.count_nonzero(np.abs(t) < 0.3) > 100:
                aside.append(t[np.abs(t) < 2])
    t = np.concatenate(aside)
    bounds = (-2.0, -0.5, -0.15, -0.05, 0.05, 0.15, 0.5, 2.0)
    behind = ("0.5-2 m behind", "15-50 cm behind", "5-15 cm behind")
    names = (*behind, "within 5 cm of", "5-15 cm before", "15-50 cm before", "0.5-2 m before")
    share = 100 * np.histogram(t, bounds)[0] / len(t)
    inner = np.concatenate([met[1:-1] for met in beside])
    return {
        "metres of the map's walls in sight": float(len(inner)),
        "of these seen by 100 points or more, %": 100 * float((inner >= 100).mean()),
    } | {f"points {n} a wall, %": float(v) for n, v in zip(names, share, strict=True)}


def _from_the_wall(s: Array, t: Array) -> Array:
    """(N,) metres out of the line that most points are on."""
    edges = np.arange(-1.5, 1.525, 0.05)
    smooth = gaussian_filter1d(np.histogram(t, edges)[0].astype(float), 1.5)
    t = t - (edges[np.argmax(smooth)] + 0.025)
    for width in (0.4, 0.25, 0.15, 0.1):
        on = np.abs(t) < width
        if np.count_nonzero(on) < 10:
            break
        slope, height = np.polyfit(s[on], t[on], 1)
        t = t - np.clip(slope, -0.1, 0.1) * (s - s[on].mean()) - (height + slope * s[on].mean())
    return t


def _in_the_map(drive: Drive, plan: QueryPlan, city: City, off: Array) -> tuple[list[Array], Array]:
    """(N, 3) points of each scan, height above ground, and (S, 2) whence, on the map."""
    projection = city.raster.projection
    assert drive.truth is not None
    clouds, path = [], []
    for scan in plan.scan:
        block = drive.scans.read(int(scan), int(scan) + 1)
        latitude, longitude, heading = (v[0] for v in drive.truth.at(block.t_ns))
        if not np.isfinite(latitude):
            continue
        heading = heading + projection.convergence(latitude, longitude)
        points = block.points[np.hypot(*block.points[:, :2].T) < SEEN_M + 5].astype(np.float64)
        turn = np.exp(1j * heading) * (points[:, 0] + 1j * points[:, 1])
        here = projection.forward(np.array([latitude]), np.array([longitude]))[0] + off
        path.append(here)
        height = points[:, 2] - _ground(points)
        clouds.append(np.column_stack([turn.real + here[0], turn.imag + here[1], height]))
    return clouds, np.array(path)


# --- Table ----------------------------------------------------------------------------------------


def statistics(folder: Path, city: City, off: Array) -> dict[str, float]:
    drive = open_drive(folder)
    velodyne = folder / "velodyne_points" / "data"
    read = real_scan if velodyne.is_dir() else simulated_scan
    files = sorted((velodyne if velodyne.is_dir() else folder / "velodyne_left").iterdir())
    every = max(1, len(files) // 8)
    plan = plan_queries(drive, Queries(submap_m=15.0, every_m=15.0))
    result = _mean([scan_statistics(read(file)) for file in files[::every]])
    result |= _mean([submap_statistics(drive, plan, q) for q in range(len(plan.scan))])
    return result | wall_statistics(drive, plan_queries(drive, Queries(submap_m=0.0, every_m=3.0)), city, off)


def _mean(tables: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([table[key] for table in tables])) for key in tables[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--worlds", type=int, default=3, help="how many, each of another seed")
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
    print("| | real | simulated |\n|---|---|---|")
    for name, value in _mean(made).items():
        print(f"| {name} | {real[name]:.3g} | {value:.3g} |")


if __name__ == "__main__":
    main()
