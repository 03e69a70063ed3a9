"""Live localization: recovery from disturbances, latency, and memory.

Run: python benchmarks/live.py [DATA] [--work FOLDER] [--only TABLE ...] [--count N]

recovery: N disturbances (disturbances.py, kinds in turn) of simulated drives in the cities that
doubt.py keeps for testing; with the same --work, the same drives. Those after which less than 100 m
of the drive is left do not count. The heading is unknown, and every push waits for the search. A
vehicle has recovered at the first fix, after the disturbance, that is localized and within 5 m.
Wrong fixes are those called localized that are more than 10 m off. Where it takes more than 100 m,
a second vehicle begins there, which knows nothing. No vehicle that doubts its position can be
expected to be faster than that one.

latency: of the pushes that make a query, after the first sure fix (which GNSS helps to find), in
the background mode: single scans of an HDL-64E and submaps of 20 m; KITTI 0005 on its map of
0.2 km2, and simulated drives on maps of 3 and 79 km2. "Near" is the time of a ready tile:
candidates near the prediction, alignment and filter.

memory: of a process that localizes a simulated LMS drive again and again, its times shifted, for
two hours of driving.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from disturbances import KINDS, ChosenScans, Disturbed, disturbed, rest_of
from doubt import CHOSEN, SCAN_EVERY_M, SOURCES, Maps, simulated
from inputs import KITTI
from inputs import city as prepared
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.drive import Drive, PoseTrack
from data_prep.geometry import Array
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.fuse.filter import Bank
from maptile_loc.fuse.gnss import GnssWindow
from maptile_loc.fuse.motion import initial_states
from maptile_loc.live.localizer import Localizer
from maptile_loc.live.replay import feed
from maptile_loc.live.tracker import Answer
from maptile_loc.map_search import MapSearch, prepare_search
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.report.metrics import RIGHT_M, WRONG_M
from maptile_loc.types import Fix, HeadingKnowledge, Queries, QueryTile

ROOT = Path(__file__).parent.parent
UNKNOWN = HeadingKnowledge("unknown")

QUERIES = {"hdl64": (0.0, 6.0), "hdl32": (20.0, 6.0), "robotcar": (50.0, 10.0)}
"""Length of submaps and distance between queries, metres, by sensor."""

ROUTE_SEED = 5
"""Seed of the routes for the table of latency; on the large map, it leads through a village."""

FIRST_SEED = 100
"""Seed of the first drive in each city, as in doubt.py."""

SOON_M = 100.0
"""Metres of travel after a disturbance within which a vehicle is to recover."""

HOURS = 2.0
"""Hours of driving of the table of memory."""

RESIDENT = "VmRSS:"
"""Key of a process's memory in /proc/self/status, kB."""


# --- Recovery ------------------------------------------------------------------------------------


def recover(
    case: Disturbed, engine: MapSearch, queries: Queries, settings: LocalizeSettings
) -> tuple[float, int, int]:
    """Metres from the end of a disturbance to recovery (inf: never), wrong fixes, and all fixes."""
    found: list[Fix | None] = []
    with Localizer.on(engine, queries, settings, background=False) as localizer:
        for number, scan in enumerate(feed(localizer, case.drive)):
            if number == case.over and case.wrong_m is not None:
                mislead(localizer, case.truth[number] + [*case.wrong_m, 0.0])
            found.append(localizer.add_scan(scan))
    poses = np.array([np.full(3, np.nan) if fix is None else fix.pose for fix in found])
    sure = np.array([fix is not None and fix.localized for fix in found])
    metres = np.hypot(*(poses[:, :2] - case.truth[:, :2]).T)
    right = np.flatnonzero(sure & (metres <= RIGHT_M))
    right = right[right >= case.over]
    after = case.travelled[right[0]] - case.travelled[case.over] if len(right) else np.inf
    return float(after), int((sure & (metres > WRONG_M)).sum()), len(found)


def mislead(localizer: Localizer, pose: Array) -> None:
    """Make a vehicle sure of a pose, to 1 m and 1 degree."""
    covariance = np.eye(8)[None]
    covariance[0, 2, 2] = np.radians(1.0) ** 2
    bank = Bank(initial_states(pose[None]), covariance, np.log([0.999]), float(np.log(0.001)))
    tracker = localizer._tracker
    assert tracker._at is not None
    tracker._filter.bank = bank
    tracker._hold(tracker._at, 0.0)


def recovery(data: Path, work: Path, count: int) -> None:
    """Print the table of recovery."""
    settings = load_recipe()
    maps = Maps(data, work, settings)
    names = [name for name in SOURCES if name not in CHOSEN]
    results: dict[str, list[tuple[float, int, int]]] = {kind: [] for kind in KINDS}
    # All pairs of a city and one of 13 seeds, with the sensors in turn.
    drives = ((names[i % len(names)], FIRST_SEED + i % 13) for i in itertools.count())
    engines: dict[str, MapSearch] = {}
    while sum(map(len, results.values())) < count:
        name, seed = next(drives)
        kind = min(results, key=lambda kind: len(results[kind]))
        city, drive = maps.city(name), open_drive(simulated(maps, name, seed))
        case = disturbed(drive, city.raster, kind, seed)
        if case is None:
            kind = "blinded"
            case = disturbed(drive, city.raster, kind, seed)
        assert case is not None
        if case.travelled[-1] - case.travelled[case.over] < SOON_M:
            continue
        if case.raster is city.raster:
            if name not in engines:
                engines[name] = prepare_search(city, settings)
            engine = engines[name]
        else:
            engine = prepare_search(
                City(None, name, case.raster, city.reference, name, None, ()), settings
            )
        sensor = drive.name.split("_")[-2]
        submap_m, every_m = QUERIES[sensor]
        queries = Queries(submap_m, every_m, True, UNKNOWN, seed)
        result = recover(case, engine, queries, settings)
        said = f"{name} {sensor} {seed} {kind}: {result[0]:.0f} m, wrong {result[1]} of {result[2]}"
        if result[0] > SOON_M:
            rest = rest_of(case)
            begun = recover(rest, engine, queries, settings)[0]
            said += f"; a vehicle that begins there: {begun:.0f} m (of {rest.travelled[-1]:.0f})"
        print(said, flush=True)
        results[kind].append(result)
    print(f"\n{stamp()}\n")
    head("disturbance", "n", "recovered within 100 m", "median m", "90 % m", "wrong fixes", "fixes")
    for kind, rows in [
        *results.items(),
        ("all", [one for some in results.values() for one in some]),
    ]:
        metres, wrong, total = (np.array(column) for column in zip(*rows, strict=True))
        row(
            kind,
            f"{len(metres)}",
            f"{(metres <= SOON_M).sum()}",
            f"{np.median(metres):.0f}",
            f"{np.percentile(metres, 90, method='higher'):.0f}",
            f"{wrong.sum()} ({wrong.sum() / total.sum():.2%})",
            f"{total.sum()}",
        )


# --- Latency -------------------------------------------------------------------------------------


def latencies(
    engine: MapSearch, drive: Drive, submap_m: float, every_m: float, settings: LocalizeSettings
) -> tuple[Array, Array]:
    """Seconds of pushes that make a query after the first sure fix, and of their ready tiles."""
    pushes: list[float] = []
    near: list[float] = []
    queries = Queries(submap_m, every_m, True, UNKNOWN)
    with Localizer.on(engine, queries, settings, background=True) as localizer:
        tracker = localizer._tracker
        plain = tracker.query

        def timed(
            make: Callable[[float], QueryTile], at: Motion, gnss: GnssWindow | None, now_s: float
        ) -> Answer:
            ready = make(np.inf)
            begun = time.perf_counter()
            answer = plain(lambda _: ready, at, gnss, now_s)
            near.append(time.perf_counter() - begun)
            return answer

        setattr(tracker, "query", timed)  # noqa: B010
        sure, gnss, pushed = False, drive.gnss, 0
        for scan in feed(localizer, drive):
            while not sure and gnss is not None and gnss.t_ns[pushed] <= scan.last_ns:
                position = gnss.latitude[pushed], gnss.longitude[pushed], gnss.std_m[pushed]
                localizer.add_gnss(int(gnss.t_ns[pushed]), *(float(value) for value in position))
                pushed += 1
            begun = time.perf_counter()
            fix = localizer.add_scan(scan)
            seconds = time.perf_counter() - begun
            if fix is not None and fix.is_query and sure:
                pushes.append(seconds)
            elif not sure:
                near.clear()
                while tracker.searching and not tracker.background.job.found.done():
                    time.sleep(0.01)  # the vehicle waits for its first fix
            sure = sure or (fix is not None and fix.localized)
    return np.array(pushes), np.array(near)


def latency(data: Path, work: Path) -> None:
    """Print the table of latency."""
    settings = load_recipe()
    karlsruhe = open_city(
        prepared(data / KITTI.parent / "2011_09_26_drive_0005.osm", work / "karlsruhe")
    )
    medium = Maps(data, work, settings).city("kitti360_0009")
    large = open_city(prepared(data / "cities" / "north-bayreuth.osm.gz", work / "bayreuth"))
    pairs = [(karlsruhe, open_drive(data / KITTI))]
    for city in (medium, large):
        route = work / f"{city.name}_hdl64"
        if not route.exists():
            recipe = load_settings(SimulateSettings, "simulate", [f"every_m={SCAN_EVERY_M / 2}"])
            simulate(city, trajectory_from_route(city, 250.0, ROUTE_SEED), route, "hdl64", recipe)
        pairs.append((city, open_drive(route)))
    print(f"{stamp()}\n")
    head(
        "map",
        "km2",
        "queries",
        "n",
        "push, median ms",
        "push, 95 % ms",
        "near, median ms",
        "near, 95 % ms",
    )
    for city, drive in pairs:
        engine = prepare_search(city, settings)
        for name, submap_m, every_m in (("single scans", 0.0, 0.0), ("submaps of 20 m", 20.0, 5.0)):
            pushes, near = latencies(engine, drive, submap_m, every_m, settings)
            cells = [
                f"{1e3 * value:.0f}"
                for some in (pushes, near)
                for value in (np.median(some), np.percentile(some, 95))
            ]
            row(city.name, f"{engine.search.area_km2:.1f}", name, f"{len(pushes)}", *cells)


# --- Memory --------------------------------------------------------------------------------------


def resident_mb() -> float:
    """Memory of this process now."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition(RESIDENT)[2].split()[0]) / 1e3


def again(drive: Drive, number: int) -> Drive:
    """The drive, begun after ``number`` others like it; its odometry starts a new segment."""
    assert drive.odometry is not None
    t_ns, track = drive.scans.t_ns, drive.odometry
    shift = number * (int(t_ns[-1] - t_ns[0]) + 10_000_000_000)
    every = np.arange(len(t_ns))
    scans = ChosenScans(drive.scans, every, t_ns + shift, np.zeros(len(every), bool))
    odometry = PoseTrack(track.t_ns + shift, track.poses, track.segment)
    return replace(drive, scans=scans, odometry=odometry)


def memory(data: Path, work: Path) -> None:
    """Print the table of memory."""
    settings = load_recipe()
    maps = Maps(data, work, settings)
    drive = open_drive(simulated(maps, "oxford", FIRST_SEED)).without_truth()
    seconds = float(drive.scans.t_ns[-1] - drive.scans.t_ns[0]) / 1e9
    engine = prepare_search(maps.city("oxford"), settings)
    print(f"{stamp()}\n")
    head("hours driven", "scans", "memory, MB")
    scans = number = 0
    with Localizer.on(
        engine, Queries(50.0, 20.0, True, UNKNOWN), settings, background=False
    ) as one:
        while number * seconds < 3600 * HOURS:
            for scan in feed(one, again(drive, number)):
                one.add_scan(scan)
                scans += 1
            number += 1
            row(f"{number * seconds / 3600:.2f}", f"{scans}", f"{resident_mb():.0f}")


def main() -> None:
    tables = ("recovery", "latency", "memory")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "doubt")
    parser.add_argument("--only", nargs="+", choices=tables, default=tables, metavar="TABLE")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="disturbances")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    if "recovery" in given.only:
        recovery(given.data, given.work, given.count)
    if "latency" in given.only:
        latency(given.data, given.work)
    if "memory" in given.only:
        memory(given.data, given.work)


if __name__ == "__main__":
    main()
