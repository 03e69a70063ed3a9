"""Argoverse 2: a log of its Sensor, Lidar or TbV data set, as its archives unpack.

The vehicle frame is the data set's own: x forward, y left, z up, at the rear axle. Sweeps are given
in that frame at the time of their file name, motion-compensated.

The columns of the files, the origins of the cities, and the definition of a city's frame (UTM minus
its origin) are from the data set's API (https://github.com/argoverse/av2-api, MIT).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyproj
from numpy.typing import NDArray

from data_prep.drive import Drive, HeadingTrack, ScanBlock, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, Projection, se3_from_quaternion, wrap_angle
from data_prep.sources import Source
from data_prep.sources.formats.common import (
    file_numbers,
    in_time,
    relative_track,
    said_of_rows,
    scan_block,
)
from data_prep.sources.formats.feather import read_feather
from data_prep.sources.storage.tree import Node

SENSORS = ("lidar",)
"""Names of the sensors of a log."""

SCAN_NAME = r"([1-8]?\d{1,18})\.feather"
"""Name of a sweep: its time in nanoseconds, small enough for int64."""

CITIES = {
    "ATX": (14, 30.27464237939507, -97.7404457407424),
    "DTW": (17, 42.29993066912924, -83.17555750783717),
    "MIA": (17, 25.77452579915163, -80.19656914449405),
    "PAO": (10, 37.416065, -122.13571963362166),
    "PIT": (17, 40.44177902989321, -80.01294377242584),
    "WDC": (18, 38.889377, -77.0355047439081),
}
"""UTM zone (north), latitude and longitude (degrees) of the origin of each city's frame."""

_QUATERNION = ("qx", "qy", "qz", "qw")
"""Columns of a rotation."""

_POSITION = ("tx_m", "ty_m", "tz_m")
"""Columns of a position, metres."""

_MAX_MOUNT_M = 10.0
"""Largest coordinate of a sensor on the vehicle, metres; anything larger is damage."""

_MAX_COORDINATE_M = 1e6
"""Largest coordinate in a city's frame, metres; anything larger is damage."""


@dataclass(frozen=True)
class Argoverse2Scans:
    """The sweeps of a log; each merges the two LiDARs on the roof.

    Attributes:
        folder: sensors/lidar.
        t_ns: (S,) time of each sweep, from the name of its file.
        origin: (3,) position of the upper LiDAR in the vehicle frame, metres.
        sensors: ("lidar",).
    """

    folder: Node
    t_ns: Times
    origin: Array
    sensors: tuple[str, ...] = SENSORS

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        t_ns = self.t_ns[start:stop]
        mount = np.eye(4)
        mount[:3, 3] = self.origin
        clouds = [self._read(t) for t in t_ns.tolist()]
        return scan_block(t_ns, clouds, mount[None], np.zeros(len(t_ns), np.int8))

    def _read(self, t_ns: int) -> NDArray[np.float32]:
        """(N, 3) points relative to the LiDAR, along the vehicle's axes, metres."""
        columns = read_feather(self.folder / f"{t_ns}.feather", ["x", "y", "z"])
        points = np.column_stack([columns[axis] for axis in "xyz"]).astype(np.float32)
        return points - self.origin.astype(np.float32)


def is_argoverse2(path: Node) -> bool:
    """Return whether ``path`` is a log: it has sensors/lidar."""
    return (path / "sensors" / "lidar").is_dir()


def open_argoverse2(path: Node) -> Drive:
    """Open a log of Argoverse 2.

    Odometry is the relative motion of city_SE3_egovehicle.feather. Its headings and positions are
    heading and truth, where the name of the map's file contains the city.

    Args:
        path: The log's folder.

    Raises:
        MaptileError: Sweeps or the calibration are missing, or a table is damaged.
    """
    folder = path / "sensors" / "lidar"
    if not folder.is_dir():
        raise MaptileError(f"{folder}: no such folder; the log's sweeps belong there")
    t_ns = file_numbers(folder, SCAN_NAME)
    if not len(t_ns):
        raise MaptileError(f"{folder}: no sweep (<time in nanoseconds>.feather)")
    scans = Argoverse2Scans(folder, t_ns, _up_lidar(path))
    notes: list[str] = []
    odometry = heading = truth = None
    poses, city = path / "city_SE3_egovehicle.feather", _city(path)
    if poses.is_file():
        times, world = _read_poses(poses, notes)
        odometry = relative_track(times, world)
        if city is None:
            notes.append("no heading and truth: no map/log_map_archive_*____<CITY>_city_*.json")
        else:
            heading, truth = _georeference(city, times, world)
    else:
        notes.append(f"no odometry, heading and truth: {poses.name} is missing")
    name = path.resolve().name
    return Drive(name, "argoverse2", scans, odometry, heading, truth, tuple(notes))


SOURCE = Source(
    looked_for="Argoverse 2 log (sensors/lidar)",
    recognises=is_argoverse2,
    open=lambda path, _: open_argoverse2(path),
    priority=50,
    sensors=SENSORS,
)


def _up_lidar(path: Node) -> Array:
    """(3,) position of the upper LiDAR in the vehicle frame, metres."""
    file = path / "calibration" / "egovehicle_SE3_sensor.feather"
    if not file.is_file():
        raise MaptileError(f"{file}: no such file; it comes with the log's archive")
    rows = read_feather(file, _POSITION, ["sensor_name"])
    found = np.flatnonzero(rows["sensor_name"] == "up_lidar")
    position = np.stack([rows[name] for name in _POSITION], axis=-1)[found[:1]].astype(np.float64)
    if not len(position) or not (np.abs(position) < _MAX_MOUNT_M).all():
        raise MaptileError(f"{file}: no position of the sensor up_lidar on the vehicle")
    return position[0]


def _read_poses(file: Node, notes: list[str]) -> tuple[Times, Array]:
    """(N,) strictly increasing times and (N, 4, 4) vehicle frame -> the city's frame."""
    rows = read_feather(file, ["timestamp_ns", *_QUATERNION, *_POSITION])
    numbers = np.stack([rows[name] for name in (*_QUATERNION, *_POSITION)], -1).astype(np.float64)
    t_ns = rows["timestamp_ns"]
    unit = np.abs(np.linalg.norm(numbers[:, :4], axis=1) - 1) < 0.01
    sound = unit & (np.abs(numbers[:, 4:]) < _MAX_COORDINATE_M).all(axis=1)
    sound &= (t_ns >= 0) & (t_ns < 2**62)
    if t_ns.dtype != np.int64 or not sound.all() or not len(sound):
        raise MaptileError(f"{file}: a row is not a pose in a city; copy or download it again")
    order = in_time(t_ns)
    notes += said_of_rows(file.name, len(t_ns), len(order))
    return t_ns[order], se3_from_quaternion(numbers[order, 4:], numbers[order, :4])


def _georeference(city: str, t_ns: Times, world: Array) -> tuple[HeadingTrack, TruthTrack]:
    """Headings and truth of (N, 4, 4) poses in the frame of a city.

    The frame's north is grid north of UTM. The headings are corrected by the meridian convergence
    at the city's origin, so that they contain nothing of the vehicle's position; the convergence at
    the vehicle differs by hundredths of a degree, and the truth uses it.
    """
    zone, *origin = CITIES[city]
    grid = Projection(pyproj.CRS.from_epsg(32600 + zone))
    positions = grid.inverse(grid.forward(*origin) + world[:, :2, 3])
    yaw = np.arctan2(world[:, 1, 0], world[:, 0, 0])
    heading = HeadingTrack(t_ns, wrap_angle(yaw - grid.convergence(*origin)))
    return heading, TruthTrack(t_ns, *positions, wrap_angle(yaw - grid.convergence(*positions)))


def _city(path: Node) -> str | None:
    """The city in the name of the log's map; None where there is no map of a known city."""
    if not (path / "map").is_dir():
        return None
    pattern = re.compile(r"log_map_archive_.*____([A-Z]{3})_city_\d+\.json")
    found = [pattern.fullmatch(child.name) for child in (path / "map").iterdir()]
    return next((match[1] for match in found if match and match[1] in CITIES), None)
