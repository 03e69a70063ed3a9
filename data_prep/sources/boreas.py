"""Boreas: a sequence with lidar/<time>.bin, applanix/*.csv and calib/T_applanix_lidar.txt.

The vehicle frame is that of the Applanix, turned from x right, y forward, z up to x forward, y
left, z up. The layout is that of the data set's pages (https://github.com/utiasASRL/pyboreas,
DATA_REFERENCE.md); of its files only poses and a calibration were seen.
"""

from __future__ import annotations

import numpy as np

from data_prep.drive import Drive, HeadingTrack, PoseTrack, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_from_xyzrpy, wrap_angle
from data_prep.sources import Source
from data_prep.sources.formats.common import (
    FilesByTime,
    file_numbers,
    in_time,
    read_table,
    relative_track,
    said_of_rows,
)
from data_prep.sources.formats.kitti_files import read_rows, rigid
from data_prep.sources.storage.tree import Node

SENSORS = ("lidar",)
"""Names of the sensors of a sequence."""
SCAN_NAME = r"([1-8]?\d{1,15})\.bin"
"""Name of a scan: its time in microseconds, small enough for int64 nanoseconds."""
CALIBRATION = "T_applanix_lidar.txt"
"""Name of the file in calib/ with the LiDAR in the Applanix's frame."""
FORWARD = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""(4, 4) the Applanix's frame -> the vehicle frame."""
POSE = ("easting", "northing", "altitude", "roll", "pitch", "heading")
"""Columns of a pose: metres in the data set's east-north-up frame, and radians."""
MICROSECONDS = 1e12
"""A time of at least this is in microseconds since 1970, a smaller one in seconds."""
LARGEST_M = 1e5
"""Largest coordinate: the frame's origin is the begin of the data set's first sequence."""


def _points(data: bytes) -> Array:
    """(N, 3) metres of float32 rows of x, y, z, intensity, laser, time."""
    return np.frombuffer(data, "<f4").reshape(-1, 6)[:, :3]


def _seconds(data: bytes) -> Array:
    """(N,) seconds of the same rows, since the scan's time."""
    seconds = np.frombuffer(data, "<f4").reshape(-1, 6)[:, 5]
    return np.where(np.isfinite(seconds), seconds, np.float32(0))


def is_boreas(path: Node) -> bool:
    """Return whether ``path`` is a sequence: it has lidar/ and calib/T_applanix_lidar.txt."""
    return (path / "lidar").is_dir() and (path / "calib" / CALIBRATION).is_file()


def open_boreas(path: Node) -> Drive:
    """Open a sequence; odometry is the relative motion of lidar_poses.csv.

    Args:
        path: The sequence's folder, such as boreas-2021-09-02-11-42.

    Raises:
        MaptileError: There is no scan, or a file is damaged.
    """
    times = file_numbers(path / "lidar", SCAN_NAME) * 1000
    if not len(times):
        raise MaptileError(f"{path / 'lidar'}: no scan (<time in microseconds>.bin)")
    calibration = path / "calib" / CALIBRATION
    rows = read_rows(calibration, 4, "it comes with the sequence")
    if len(rows) not in (3, 4):
        raise MaptileError(f"{calibration}: expected 3 or 4 rows, found {len(rows)}")
    mount: Array = FORWARD @ rigid(rows[:3].reshape(1, 12), calibration)[0]
    notes: list[str] = []
    odometry: PoseTrack | None = None
    poses, gps = (path / "applanix" / name for name in ("lidar_poses.csv", "gps_post_process.csv"))
    if poses.is_file():
        t_ns, world, _ = _read_poses(poses, (), notes)
        odometry = relative_track(t_ns, world @ np.linalg.inv(mount))
        notes.append(f"odometry: the data set's own poses ({poses.name}), as relative motion")
    else:
        notes.append(f"no odometry: applanix/{poses.name} is missing")
    heading = truth = None
    if gps.is_file():
        heading, truth = _georeference(gps, notes)
    else:
        notes.append(f"no heading and truth: applanix/{gps.name} is missing")
    scans = FilesByTime(path / "lidar", times, mount, SENSORS, 1000, 24, _points, _seconds)
    name = path.resolve().name
    return Drive(name, "boreas", scans, odometry, heading, truth, tuple(notes))


def _read_poses(
    file: Node, more: tuple[str, ...], notes: list[str]
) -> tuple[Times, Array, dict[str, Array]]:
    """(N,) strictly increasing times, (N, 4, 4) frame -> east-north-up, and further columns."""
    table = read_table(file, ["GPSTime", *POSE, *more])
    time = table["GPSTime"]
    if not len(time) or not (time.min() >= 0 and time.max() < 2**62 / 1000):
        raise MaptileError(f"{file}: no pose in it, or a time that is none; copy it again")
    micro = np.where(time >= MICROSECONDS, time, time * 1e6)
    t_ns = np.rint(micro).astype(np.int64) * 1000
    order = in_time(t_ns)
    notes += said_of_rows(file.name, len(t_ns), len(order))
    values = np.stack([table[name] for name in POSE], axis=1)[order]
    if np.abs(values).max() > LARGEST_M:
        raise MaptileError(f"{file}: a pose that is not in the data set's own frame")
    world = se3_from_xyzrpy(values)
    # The angles are those of the east-north-up frame in the sensor's, not the reverse.
    world[:, :3, :3] = np.swapaxes(world[:, :3, :3], 1, 2)
    return t_ns[order], world, {name: table[name][order] for name in more}


def _georeference(file: Node, notes: list[str]) -> tuple[HeadingTrack, TruthTrack]:
    """Headings from true east, and positions, of the vehicle."""
    t_ns, world, place = _read_poses(file, ("latitude", "longitude"), notes)
    latitude, longitude = place["latitude"], place["longitude"]
    if np.abs(latitude).max() <= np.pi / 2 and np.abs(longitude).max() <= np.pi:
        latitude, longitude = np.degrees(latitude), np.degrees(longitude)
    if np.abs(latitude).max() >= 90 or np.abs(longitude).max() > 180:
        raise MaptileError(f"{file}: a latitude or longitude that is none; copy it again")
    vehicle = world @ np.linalg.inv(FORWARD)
    yaw = np.arctan2(vehicle[:, 1, 0], vehicle[:, 0, 0])
    # East of its origin, the frame's north is to the right of true north.
    metres_per_radian = 6_378_137.0 * np.cos(np.radians(latitude))
    convergence = world[:, 0, 3] / metres_per_radian * np.sin(np.radians(latitude))
    heading = wrap_angle(yaw - convergence)
    return HeadingTrack(t_ns, heading), TruthTrack(t_ns, latitude, longitude, heading)


SOURCE = Source(
    looked_for=f"Boreas sequence (lidar/ and calib/{CALIBRATION})",
    recognises=is_boreas,
    open=lambda path, _: open_boreas(path),
    priority=64,
    sensors=SENSORS,
)
