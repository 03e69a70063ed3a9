"""NCLT: a session with velodyne_sync/<time>.bin, odometry_mu_100hz.csv and groundtruth_*.csv.

The vehicle frame is the data set's body frame, turned from x forward, y right, z down to x forward,
y left, z up. The layout is that of the data set's pages and scripts
(https://robots.engin.umich.edu/nclt); no real file was seen.
"""

from __future__ import annotations

import numpy as np
import pyproj

from data_prep.drive import Drive, HeadingTrack, PoseTrack, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import NED_TO_FLU, Array, se3_from_xyzrpy, wrap_angle
from data_prep.sources import Source
from data_prep.sources.formats.common import (
    FilesByTime,
    file_names,
    file_numbers,
    in_time,
    read_bytes,
    relative_track,
    said_of_rows,
)
from data_prep.sources.storage.tree import Node

SENSORS = ("velodyne",)
"""Names of the sensors of a session."""
SCAN_NAME = r"([1-8]?\d{1,15})\.bin"
"""Name of a scan: its time in microseconds, small enough for int64 nanoseconds."""
RECORD = np.dtype([("xyz", "<u2", 3), ("intensity", "u1"), ("laser", "u1")])
"""A point: coordinates in 5 mm, from -100 m."""
STEP_M = 0.005
"""Size of a step of a coordinate, metres."""
ZERO_M = -100.0
"""Coordinate that is stored as 0, metres."""
MOUNT = (0.002, -0.004, -0.957, *np.radians([0.807, 0.166, -90.703]).tolist())
"""The Velodyne HDL-32E in the body frame (z down): x y z (metres), roll pitch yaw (radians)."""
ORIGIN = (42.293227, -83.709657)
"""Latitude and longitude of the origin of the ground truth (x north, y east), degrees."""
LARGEST_M = 1e5
"""Largest coordinate of a pose; anything larger is damage."""


def _points(data: bytes) -> Array:
    """(N, 3) metres."""
    return np.frombuffer(data, RECORD)["xyz"] * STEP_M + ZERO_M


def is_nclt(path: Node) -> bool:
    """Return whether ``path`` is a session: it has velodyne_sync/."""
    return (path / "velodyne_sync").is_dir()


def open_nclt(path: Node) -> Drive:
    """Open a session; odometry is that of the wheels and the IMU.

    Args:
        path: The session's folder, such as 2012-01-08.

    Raises:
        MaptileError: There is no scan, or a file is damaged.
    """
    times = file_numbers(path / "velodyne_sync", SCAN_NAME) * 1000
    if not len(times):
        raise MaptileError(f"{path / 'velodyne_sync'}: no scan (<time in microseconds>.bin)")
    notes: list[str] = []
    odometry: PoseTrack | None = None
    wheels = path / "odometry_mu_100hz.csv"
    if wheels.is_file():
        odometry = relative_track(*_read_poses(wheels, notes))
    else:
        notes.append(f"no odometry: {wheels.name} is missing")
    heading = truth = None
    listed = [name for name in file_names(path) if name.startswith("groundtruth_")]
    if listed:
        heading, truth = _georeference(*_read_poses(path / listed[0], notes))
    else:
        notes.append("no heading and truth: no groundtruth_*.csv")
    mount = NED_TO_FLU @ se3_from_xyzrpy(MOUNT)
    folder, size = path / "velodyne_sync", RECORD.itemsize
    scans = FilesByTime(folder, times, mount, SENSORS, 1000, size, _points)
    name = path.resolve().name
    return Drive(name, "nclt", scans, odometry, heading, truth, tuple(notes))


def _read_poses(file: Node, notes: list[str]) -> tuple[Times, Array]:
    """(N,) strictly increasing times and (N, 4, 4) vehicle frame -> world with z up."""
    text = read_bytes(file.parent, file.name).decode("ascii", "replace")
    times, rows = [], []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(",")
        try:
            micro, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError:
            micro, values = 0, []
        if len(values) != 6 or not 0 <= micro < 2**62 // 1000:
            raise MaptileError(f"{file}: line {number} is not a time and 6 numbers; copy it again")
        if np.isfinite(values).all():  # rows without a solution are NaN
            times.append(micro * 1000)
            rows.append(values)
    values_all = np.array(rows).reshape(-1, 6)
    if not len(values_all) or np.abs(values_all).max() > LARGEST_M:
        raise MaptileError(f"{file}: no pose in it, or one that is not on the campus")
    all_ns = np.array(times, np.int64)
    order = in_time(all_ns)
    notes += said_of_rows(file.name, len(all_ns), len(order))
    return all_ns[order], NED_TO_FLU @ se3_from_xyzrpy(values_all[order]) @ NED_TO_FLU


def _georeference(t_ns: Times, world: Array) -> tuple[HeadingTrack, TruthTrack]:
    """Headings and truth of poses in the frame x north, y west, z up at ``ORIGIN``."""
    north, east = world[:, 0, 3], -world[:, 1, 3]
    latitude, longitude = (np.full(len(t_ns), degrees) for degrees in ORIGIN)
    azimuth = np.degrees(np.arctan2(east, north))
    longitude, latitude, _ = pyproj.Geod(ellps="WGS84").fwd(
        longitude, latitude, azimuth, np.hypot(east, north)
    )
    yaw = wrap_angle(np.arctan2(world[:, 1, 0], world[:, 0, 0]) + np.pi / 2)
    return HeadingTrack(t_ns, yaw), TruthTrack(
        t_ns, np.asarray(latitude), np.asarray(longitude), yaw
    )


SOURCE = Source(
    looked_for="NCLT session (velodyne_sync/)",
    recognises=is_nclt,
    open=lambda path, _: open_nclt(path),
    priority=63,
    sensors=SENSORS,
)
