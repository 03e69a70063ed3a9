"""LiDAR odometry: its drift, its speed, and where the time goes; prints two tables.

Run: python benchmarks/odometry.py [DATA] [--work FOLDER] [--drives DRIVE ...] [--scans N]

Drives: KITTI 0005 (HDL-64E; against its inertial sensors), Oxford Radar RobotCar (HDL-32E; against
poses that were laid on the map, good to a metre), and simulated drives, whose truth is exact. Drift
is the mean error of the motion over all stretches of 10 and of 50 m that begin at every second
scan. Times are processor seconds of one thread, with reading from memory that holds the files.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from inputs import KITTI, city
from stamp import head, row, stamp

from data_prep.city.folder import open_city
from data_prep.drive import Drive, PoseTrack, ScanSlice, Times
from data_prep.geometry import Array, se2_between, se2_from_se3, wrap_angle
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.odometry import lidar_odometry as motion
from maptile_loc.odometry import scan_tracker
from maptile_loc.odometry.local_map import LocalMap
from maptile_loc.odometry.odometry_settings import OdometrySettings

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

RADAR = Path("radar_robotcar/2019-01-10-14-36-48-radar-oxford-10k-partial")
"""The drive of Oxford Radar RobotCar, below DATA."""

RADAR_POSES = Path("radar_robotcar/poses_mapmatched.csv")
"""Its poses: time (microseconds), latitude, longitude, heading (degrees from true east)."""

SIMULATED = {
    "oxford hdl64": ("oxford/oxford.osm", "hdl64", 0),
    "kotka hdl64": ("cities/kotka_fi.osm.pbf", "hdl64", 3),
    "helsinki hdl32": ("cities/helsinki.osm.pbf", "hdl32", 0),
}
"""Map below DATA, sensor and seed of the simulated drives of ``LENGTH_M``."""

LENGTH_M = 200.0
"""Length of the simulated drives, metres."""

STRETCHES_M = (10.0, 50.0)
"""Lengths of the stretches of which the drift is measured, metres."""

STAGES = (
    ("join, cut", motion, "gather"),
    ("ground apart, thin", scan_tracker, "split_ground"),
    ("register", LocalMap, "fit"),
    ("insert", LocalMap, "insert"),
)
"""Name, and where it is called, of each step of the odometry."""


class Clock:
    """Processor seconds of the steps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, whose time is added to step ``name``."""

        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.process_time()
            result = function(*arguments, **options)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - begun
            return result

        return timed


def opened(name: str, data: Path, work: Path) -> Drive:
    """The drive of a name; simulated if it is not there yet."""
    if name == "kitti":
        return open_drive(data / KITTI)
    if name == "radar":
        return open_drive(data / RADAR)
    source, sensor, seed = SIMULATED[name]
    folder = work / f"odometry_{name.replace(' ', '_')}"
    if not folder.exists():
        where = open_city(city(data / source, work / Path(source).name.partition(".")[0]))
        recipe = load_settings(SimulateSettings, "simulate", ["labels=none", f"seed={seed}"])
        simulate(where, trajectory_from_route(where, LENGTH_M, seed), folder, sensor, recipe)
    return open_drive(folder)


def truth(name: str, drive: Drive, data: Path, t_ns: Times) -> Array:
    """(N, 3) true x, y (metres) and heading (radians) at (N,) times, in any frame."""
    if name == "kitti":
        assert drive.odometry is not None
        return se2_from_se3(drive.odometry.at(t_ns))
    if name == "radar":
        table = np.loadtxt(data / RADAR_POSES, delimiter=",", skiprows=1)
        times, (latitude, longitude) = (table[:, 0] * 1000).astype(np.int64), table[:, 1:3].T
        heading = np.radians(table[:, 3])
    else:
        assert drive.truth is not None
        times, heading = drive.truth.t_ns, drive.truth.heading
        latitude, longitude = drive.truth.latitude, drive.truth.longitude
    local = f"+proj=tmerc +lat_0={latitude[0]} +lon_0={longitude[0]} +k=1"
    x, y = pyproj.Transformer.from_crs(4326, local, always_xy=True).transform(longitude, latitude)
    known, asked = (times - t_ns[0]) / 1e9, (t_ns - t_ns[0]) / 1e9
    columns = (x, y, np.unwrap(heading))
    return np.stack([np.interp(asked, known, column) for column in columns], axis=1)


def drift(track: PoseTrack, true: Array, stretch_m: float) -> tuple[float, float]:
    """Mean error over all stretches of a length: per cent of it, and degrees."""
    found = se2_from_se3(track.poses)
    travelled = np.append(0.0, np.hypot(*np.diff(true[:, :2], axis=0).T).cumsum())
    begin = np.arange(0, len(true), 2)
    end = np.searchsorted(travelled, travelled[begin] + stretch_m)
    begin, end = begin[end < len(true)], end[end < len(true)]
    same = track.segment[begin] == track.segment[end]
    begin, end = begin[same], end[same]
    if not len(begin):
        return np.nan, np.nan
    moved, really = (se2_between(poses[begin], poses[end]) for poses in (found, true))
    metres = np.hypot(*(moved - really)[:, :2].T).mean()
    turned = np.abs(wrap_angle(moved[:, 2] - really[:, 2])).mean()
    return float(100 * metres / stretch_m), float(np.degrees(turned))


def main() -> None:
    names = ("kitti", "radar", *SIMULATED)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--drives", nargs="+", choices=names, default=names)
    parser.add_argument("--scans", type=int, default=10**9, help="of each drive, at most")
    given = parser.parse_args()
    clock, clocks = Clock(), dict[str, tuple[int, dict[str, float]]]()
    for step, owner, function in STAGES:
        setattr(owner, function, clock.watch(step, getattr(owner, function)))
    print(stamp(), end="\n\n")
    spans = [f"{what} over {metres:.0f} m" for metres in STRETCHES_M for what in ("drift", "turn")]
    head("drive", "scans", "pieces", "m", *spans, "scans per CPU s")
    for name in given.drives:
        drive = opened(name, given.data, given.work)
        t_ns = drive.scans.t_ns[: given.scans]
        clock.seconds = {}
        part = Drive(name, "", ScanSlice(drive.scans, 0, t_ns), None, None, None)
        for number in range(len(t_ns)):
            clock.watch("read", part.scans.read)(number, number + 1)
        begun = time.process_time()
        track = motion.lidar_odometry(part, OdometrySettings())
        clock.seconds["all"] = time.process_time() - begun
        true = truth(name, drive, given.data, track.t_ns)
        figures = [drift(track, true, metres) for metres in STRETCHES_M]
        row(
            name,
            f"{len(t_ns)}",
            f"{track.segment[-1] + 1}",
            f"{track.travelled()[-1]:.0f}",
            *(
                f"{value:.2f} {unit}"
                for one in figures
                for value, unit in zip(one, ("%", "deg"), strict=True)
            ),
            f"{len(t_ns) / clock.seconds['all']:.1f}",
        )
        clocks[name] = len(t_ns), clock.seconds
    print()
    steps = ("read", *(step for step, *_ in STAGES), "all")
    head("drive, CPU ms per scan", *steps)
    for name, (count, seconds) in clocks.items():
        row(name, *(f"{1e3 * seconds[step] / count:.1f}" for step in steps))


if __name__ == "__main__":
    main()
