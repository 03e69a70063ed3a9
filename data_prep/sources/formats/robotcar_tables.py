"""Tables and calibration of Oxford RobotCar: gps/, vo/, lists of scans, extrinsics/.

In the data set, the vehicle frame (the stereo camera) and the INS frame are x forward, y right, z
down. Poses leave this module with the vehicle frame x forward, y left, z up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyproj
from numpy.typing import NDArray

from data_prep.drive import Times
from data_prep.errors import MaptileError
from data_prep.geometry import NED_TO_FLU, Array, se3_from_xyzrpy
from data_prep.sources.formats.common import in_time, read_header, read_table
from data_prep.sources.storage.tree import Node, beside, read_node_text

POSITION_COLUMNS = ("timestamp", "latitude", "longitude", "altitude", "northing", "easting")
"""Columns of time and position in gps.csv, ins.csv and rtk.csv."""

SIGMA_COLUMNS = ("latitude_sigma", "longitude_sigma", "altitude_sigma")
"""Columns of standard deviations in gps.csv, metres."""

VELOCITY_COLUMNS = ("velocity_north", "velocity_east", "velocity_down")
"""Columns of velocity in ins.csv and rtk.csv, m/s."""

POSE_COLUMNS = ("x", "y", "z", "roll", "pitch", "yaw")
"""Columns of relative motion in vo.csv, metres and radians."""

INS_COLUMNS = (*POSITION_COLUMNS, *VELOCITY_COLUMNS, *POSE_COLUMNS[3:])
"""Columns of numbers that ins.csv and rtk.csv share."""

GOOD = "INS_SOLUTION_GOOD"
"""Status of a row of ins.csv whose position is reliable."""

NOT_ALIGNED = ("INS_INACTIVE", "INS_ALIGNING")
"""Statuses of a row of ins.csv that has no attitude yet."""

MAX_UTM_DIFFERENCE_DEG = 2e-6
"""Largest difference between geographic and UTM columns of one row; they are rounded to 1e-6."""

EXTRINSICS = {
    "ins": (-1.7132, 0.1181, 1.1948, -0.0125, 0.0400, 0.0050),
    "lms_front": (1.7589, 0.2268, 1.0411, -0.0437, -1.4572, 0.0356),
    "lms_rear": (-2.5850, 0.2852, 1.0885, -2.8405, -1.5090, -0.3614),
    "ldmrs": (1.5349, 0.0090, 1.3777, 0.0205, 0.0767, -0.0299),
    "velodyne_left": (-0.60072, -0.34077, -0.26837, -0.0053948, -0.041998, -3.1337),
    "velodyne_right": (-0.61153, 0.55676, -0.27023, 0.0027052, -0.041999, -3.1357),
}
"""Poses of the sensors in the data set's vehicle frame, used where a drive lacks extrinsics/.

x y z (metres), roll pitch yaw (radians)."""


@dataclass(frozen=True)
class Ins:
    """Rows of ins.csv or rtk.csv: poses of the INS frame (x forward, y right, z down).

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        good: (N,) whether the status calls the solution good.
        aligned: (N,) whether the status says that there is an attitude.
        latitude: (N,) degrees WGS 84.
        longitude: (N,) degrees WGS 84.
        altitude: (N,) metres.
        velocity: (N, 3) m/s north, east, down.
        rpy: (N, 3) roll, pitch, yaw in radians; yaw clockwise from true north.
        left_out: Rows of the file whose time stamp is wrong, or double.
    """

    t_ns: Times
    good: NDArray[np.bool_]
    aligned: NDArray[np.bool_]
    latitude: Array
    longitude: Array
    altitude: Array
    velocity: Array
    rpy: Array
    left_out: int = 0


@dataclass(frozen=True)
class Gps:
    """Rows of gps.csv.

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        latitude: (N,) degrees WGS 84.
        longitude: (N,) degrees WGS 84.
        altitude: (N,) metres.
        sigma: (N, 3) standard deviations of latitude, longitude and altitude, metres.
        left_out: Rows of the file whose time stamp is wrong, or double.
    """

    t_ns: Times
    latitude: Array
    longitude: Array
    altitude: Array
    sigma: Array
    left_out: int = 0


@dataclass(frozen=True)
class Vo:
    """Rows of vo.csv: visual odometry between pairs of stereo frames.

    Attributes:
        older_ns: (N,) time of the older frame; the file calls it "destination".
        newer_ns: (N,) time of the newer frame; the file calls it "source".
        motion: (N, 4, 4) pose of the newer vehicle frame in the older one (x forward, y left,
            z up), metres.
        left_out: Rows of the file whose time stamp is wrong, or double.
    """

    older_ns: Times
    newer_ns: Times
    motion: Array
    left_out: int = 0


def read_ins(path: Node) -> Ins:
    """Read ins.csv (15 columns) or rtk.csv (14: without status).

    Raises:
        MaptileError: The file cannot be read or lacks a column.
    """
    text = ["ins_status"] if "ins_status" in read_header(path) else []
    rows = read_table(path, INS_COLUMNS, text=[*text, "utm_zone"])
    latitude, longitude = _refine(rows)
    # rtk.csv is post-processed and has no status.
    status = rows.get("ins_status", np.full(len(latitude), GOOD, object))
    t_ns = _nanoseconds(path, rows["timestamp"])
    keep = in_time(t_ns)
    return Ins(
        t_ns=t_ns[keep],
        good=(status == GOOD)[keep],
        aligned=~np.isin(status.astype(str), NOT_ALIGNED)[keep],
        latitude=latitude[keep],
        longitude=longitude[keep],
        altitude=rows["altitude"][keep],
        velocity=_stack(rows, VELOCITY_COLUMNS)[keep],
        rpy=_stack(rows, POSE_COLUMNS[3:])[keep],
        left_out=len(t_ns) - len(keep),
    )


def read_gps(path: Node) -> Gps:
    """Read gps.csv.

    Raises:
        MaptileError: The file cannot be read or lacks a column.
    """
    rows = read_table(path, [*POSITION_COLUMNS, *SIGMA_COLUMNS], text=["utm_zone"])
    latitude, longitude = _refine(rows)
    t_ns = _nanoseconds(path, rows["timestamp"])
    keep = in_time(t_ns)
    return Gps(
        t_ns=t_ns[keep],
        latitude=latitude[keep],
        longitude=longitude[keep],
        altitude=rows["altitude"][keep],
        sigma=_stack(rows, SIGMA_COLUMNS)[keep],
        left_out=len(t_ns) - len(keep),
    )


def read_vo(path: Node) -> Vo:
    """Read vo.csv, sorted by time; rows whose source frame is not the newer one are left out.

    Raises:
        MaptileError: The file cannot be read, lacks a column, or has no usable row.
    """
    rows = read_table(path, ["source_timestamp", "destination_timestamp", *POSE_COLUMNS])
    newer = _nanoseconds(path, rows["source_timestamp"])
    older = _nanoseconds(path, rows["destination_timestamp"])
    forward = np.flatnonzero(newer > older)
    order = forward[in_time(newer[forward])]
    if not len(order):
        raise MaptileError(f"{path}: no row whose source frame is the newer one")
    motion = se3_from_xyzrpy(_stack(rows, POSE_COLUMNS)[order])
    lost = len(forward) - len(order)
    return Vo(older[order], newer[order], NED_TO_FLU @ motion @ NED_TO_FLU, lost)


def read_timestamps(path: Node) -> Times:
    """Read ``<sensor>.timestamps``: lines of a time in microseconds and a chunk number.

    Returns:
        (N,) int64 nanoseconds.

    Raises:
        MaptileError: A line does not begin with an integer.
    """
    try:
        lines = read_node_text(path, "ascii").split("\n")
        stamps = np.array([int(line.split()[0]) for line in lines if line.strip()], np.int64)
    except (OSError, ValueError, OverflowError):
        raise MaptileError(f"{path}: not a list of time stamps in microseconds") from None
    return _nanoseconds(path, stamps)


def read_extrinsics(path: Node) -> Array:
    """Read ``extrinsics/<sensor>.txt``: x y z roll pitch yaw.

    Returns:
        (4, 4) sensor -> vehicle frame (x forward, y left, z up); the sensor's axes are unchanged.

    Raises:
        MaptileError: The file does not hold six finite numbers.
    """
    try:
        values = [float(value) for value in read_node_text(path, "ascii").split()]
    except (OSError, ValueError):
        values = []
    if len(values) != 6 or not np.isfinite(values).all():
        raise MaptileError(f"{path}: expected the six numbers x y z roll pitch yaw")
    return NED_TO_FLU @ se3_from_xyzrpy(values)


def find_extrinsics(run: Node, sensor: str) -> Array:
    """Return the pose of a sensor of a run, from RUN/extrinsics, RUN/../extrinsics or built in.

    Returns:
        (4, 4) sensor -> vehicle frame (x forward, y left, z up).

    Raises:
        MaptileError: A file exists, but is damaged.
    """
    for folder in (run, *beside(run)):
        file = folder / "extrinsics" / f"{sensor}.txt"
        if file.is_file():
            return read_extrinsics(file)
    return NED_TO_FLU @ se3_from_xyzrpy(EXTRINSICS[sensor])


def _nanoseconds(path: Node, microseconds: NDArray[np.int64]) -> Times:
    if len(microseconds) and np.abs(microseconds).max() >= 2**63 // 1000:
        raise MaptileError(f"{path}: the time stamps are not in microseconds")
    return microseconds * 1000


def _stack(rows: dict[str, Array], names: Sequence[str]) -> Array:
    return np.stack([rows[name] for name in names], axis=1)


def _refine(rows: dict[str, NDArray[np.generic]]) -> tuple[Array, Array]:
    """Latitude and longitude, refined by the UTM columns in rows where both agree.

    The files round latitude and longitude to 0.11 m, northing and easting to a micrometre.
    """
    latitude, longitude = rows["latitude"].astype(np.float64), rows["longitude"].astype(np.float64)
    zone = re.fullmatch(r"(\d{1,2})([C-X])", str(rows["utm_zone"][0]).strip())
    if zone is None or len(set(rows["utm_zone"])) > 1 or not 1 <= int(zone[1]) <= 60:
        return latitude, longitude
    crs = pyproj.CRS.from_epsg((32600 if zone[2] >= "N" else 32700) + int(zone[1]))
    fine_lon, fine_lat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(
        rows["easting"], rows["northing"]
    )
    agree = np.abs(fine_lat - latitude) < MAX_UTM_DIFFERENCE_DEG
    agree &= np.abs(fine_lon - longitude) < MAX_UTM_DIFFERENCE_DEG
    return np.where(agree, fine_lat, latitude), np.where(agree, fine_lon, longitude)
