"""Argoverse 2: a log of its Sensor, Lidar or TbV data set, as its archives unpack.

The vehicle frame is the data set's own: x forward, y left, z up, at the rear axle. Sweeps come in
that frame at the time of their name, the vehicle's motion undone.

Facts from the data set's API (https://github.com/argoverse/av2-api, MIT): the columns of the
files, the cities' origins, and that a city's frame is UTM less its origin.
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
from data_prep.sources.formats.common import file_numbers, increasing, relative_track, scan_block
from data_prep.sources.formats.feather import read_feather
from data_prep.sources.storage.tree import Node

SENSORS = ("lidar",)

SCAN_NAME = r"([1-8]?\d{1,18})\.feather"
"""A time in int64 nanoseconds."""

CITIES = {
    "ATX": (14, 30.27464237939507, -97.7404457407424),
    "DTW": (17, 42.29993066912924, -83.17555750783717),
    "MIA": (17, 25.77452579915163, -80.19656914449405),
    "PAO": (10, 37.416065, -122.13571963362166),
    "PIT": (17, 40.44177902989321, -80.01294377242584),
    "WDC": (18, 38.889377, -77.0355047439081),
}
"""UTM zone (north), latitude and longitude of the origin of each city's frame."""

_QUATERNION = ("qx", "qy", "qz", "qw")
_PLACE = ("tx_m", "ty_m", "tz_m")


@dataclass(frozen=True)
class Argoverse2Scans:
    """The sweeps of a log: those of both LiDARs on the roof, taken as one.

    Attributes:
        folder: sensors/lidar.
        t_ns: (S,) time of each sweep, which is its file's name.
        origin: (3,) the upper LiDAR in the vehicle frame, metres.
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
        """(N, 3) points as seen from the LiDAR, along the axes of the vehicle."""
        columns = read_feather(self.folder / f"{t_ns}.feather", ["x", "y", "z"])
        points = np.column_stack([columns[axis] for axis in "xyz"]).astype(np.float32)
        return points - self.origin.astype(np.float32)


def is_argoverse2(path: Node) -> bool:
    """Whether ``path`` looks like a log: it has sensors/lidar."""
    return (path / "sensors" / "lidar").is_dir()


def open_argoverse2(path: Node, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a log of Argoverse 2.

    Odometry is the relative motion of city_SE3_egovehicle.feather. Its headings and positions are
    heading and truth, where the name of the map's file tells the city.

    Args:
        path: The log's folder.
        sensors: Nothing but ("lidar",).

    Raises:
        MaptileError: Sweeps or the calibration are missing, or a table is damaged.
    """
    unknown = set(sensors or SENSORS) - set(SENSORS)
    if unknown:
        raise MaptileError(f"{path}: no sensor {', '.join(sorted(unknown))}; known is lidar")
    folder = path / "sensors" / "lidar"
    if not folder.is_dir():
        raise MaptileError(f"{folder}: no such folder; it is to hold the log's sweeps")
    t_ns = file_numbers(folder, SCAN_NAME)
    if not len(t_ns):
        raise MaptileError(f"{folder}: no sweep (<time in nanoseconds>.feather)")
    scans = Argoverse2Scans(folder, t_ns, _up_lidar(path))
    notes: list[str] = []
    odometry = heading = truth = None
    poses, city = path / "city_SE3_egovehicle.feather", _city(path)
    if poses.is_file():
        times, world = _read_poses(poses)
        odometry = relative_track(times, world)
        if city is None:
            notes.append("no heading and truth: no map/log_map_archive_*____<CITY>_city_*.json")
        else:
            heading, truth = _georeference(city, times, world)
    else:
        notes.append(f"no odometry, heading and truth: {poses.name} is missing")
    name = path.resolve().name
    return Drive(name, "argoverse2", scans, odometry, heading, truth, tuple(notes))


def _up_lidar(path: Node) -> Array:
    file = path / "calibration" / "egovehicle_SE3_sensor.feather"
    if not file.is_file():
        raise MaptileError(f"{file}: no such file; it comes with the log's archive")
    rows = read_feather(file, _PLACE, ["sensor_name"])
    found = np.flatnonzero(rows["sensor_name"] == "up_lidar")
    place = np.stack([rows[name] for name in _PLACE], axis=-1)[found[:1]].astype(np.float64)
    if not len(place) or not (np.abs(place) < 10).all():
        raise MaptileError(f"{file}: no place of the sensor up_lidar on the vehicle")
    return place[0]


def _read_poses(file: Node) -> tuple[Times, Array]:
    """(N,) increasing times and (N, 4, 4) vehicle frame in the city's frame."""
    rows = read_feather(file, ["timestamp_ns", *_QUATERNION, *_PLACE])
    numbers = np.stack([rows[name] for name in (*_QUATERNION, *_PLACE)], -1).astype(np.float64)
    t_ns = rows["timestamp_ns"]
    unit = np.abs(np.linalg.norm(numbers[:, :4], axis=1) - 1) < 0.01
    sound = unit & (np.abs(numbers[:, 4:]) < 1e6).all(axis=1) & (t_ns >= 0) & (t_ns < 2**62)
    if t_ns.dtype != np.int64 or not sound.all() or not len(sound):
        raise MaptileError(f"{file}: a row is no pose in a city; copy or download it again")
    order = np.argsort(t_ns, kind="stable")
    order = order[increasing(t_ns[order])]
    return t_ns[order], se3_from_quaternion(numbers[order, 4:], numbers[order, :4])


def _georeference(city: str, t_ns: Times, world: Array) -> tuple[HeadingTrack, TruthTrack]:
    """Headings and truth of (N, 4, 4) poses in the frame of a city.

    North of the city's frame is that of the UTM grid. The headings take its convergence at the
    city's origin, not at the vehicle (they differ by hundredths of a degree), so that they tell
    nothing of where it is.
    """
    zone, *origin = CITIES[city]
    grid = Projection(pyproj.CRS.from_epsg(32600 + zone))
    places = grid.inverse(grid.forward(*origin) + world[:, :2, 3])
    yaw = np.arctan2(world[:, 1, 0], world[:, 0, 0])
    heading = HeadingTrack(t_ns, wrap_angle(yaw - grid.convergence(*origin)))
    return heading, TruthTrack(t_ns, *places, wrap_angle(yaw - grid.convergence(*places)))


def _city(path: Node) -> str | None:
    """The city in the name of the log's map."""
    if not (path / "map").is_dir():
        return None
    pattern = re.compile(r"log_map_archive_.*____([A-Z]{3})_city_\d+\.json")
    found = [pattern.fullmatch(child.name) for child in (path / "map").iterdir()]
    return next((match[1] for match in found if match and match[1] in CITIES), None)
