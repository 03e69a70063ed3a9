"""KITTI raw: a drive folder (velodyne_points/, oxts/) inside its date folder with the calibration.

The vehicle frame is that of the GPS/IMU: x forward, y left, z up. The scans are not
motion-compensated; ``kitti_files.turning`` gives the time of each point.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.integrate import cumulative_trapezoid
from scipy.spatial.transform import Rotation

from data_prep.drive import (
    MAX_BRIDGED_GAP_NS,
    Drive,
    HeadingTrack,
    PoseTrack,
    Times,
    TruthTrack,
)
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3, se3_inverse, true_heading_from_oxts_yaw
from data_prep.sources import Source
from data_prep.sources.formats.common import in_time, said_of_gaps, said_of_rows
from data_prep.sources.formats.kitti_files import (
    NO_TIME,
    SENSORS,
    VelodyneScans,
    numbered,
    open_velodyne,
    read_named,
    read_timestamps,
    rigid,
    turn_seconds,
)
from data_prep.sources.storage.tree import Node, beside, open_tree, read_node_text

_MAX_VALUE = 1e6
"""Largest magnitude of a number in oxts/data; anything larger is damage."""


@dataclass(frozen=True)
class Oxts:
    """Rows of oxts/data: poses of the GPS/IMU frame (x forward, y left, z up).

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        latitude: (N,) degrees WGS 84.
        longitude: (N,) degrees WGS 84.
        altitude: (N,) metres.
        rpy: (N, 3) roll, pitch, yaw in radians; yaw counter-clockwise from true east.
        velocity: (N, 3) m/s east, north, up.
        yaw_rate: (N,) rad/s about the upward axis.
    """

    t_ns: Times
    latitude: Array
    longitude: Array
    altitude: Array
    rpy: Array
    velocity: Array
    yaw_rate: Array


def is_kitti(path: Node) -> bool:
    """Return whether ``path`` is a drive of KITTI raw: it has velodyne_points/data."""
    return (path / "velodyne_points" / "data").is_dir()


def open_kitti(path: Node) -> Drive:
    """Open a drive of KITTI raw.

    Odometry integrates the velocities and the yaw rate of oxts/, never its positions.

    Args:
        path: The drive's folder, such as 2011_09_26/2011_09_26_drive_0005_sync.

    Raises:
        MaptileError: Scans, time stamps or calibration are missing or damaged.
    """
    notes: list[str] = []
    scans = _open_scans(path, notes)
    odometry = heading = truth = None
    if (path / "oxts" / "data").is_dir():
        oxts = read_oxts(path / "oxts", notes)
        odometry = odometry_from_oxts(oxts, notes)
        yaw = true_heading_from_oxts_yaw(oxts.rpy[:, 2])
        heading = HeadingTrack(oxts.t_ns, yaw)
        truth = TruthTrack(oxts.t_ns, oxts.latitude, oxts.longitude, yaw)
    else:
        notes.append(f"no odometry, heading and truth: {path / 'oxts' / 'data'} is missing")
    name, labels = path.resolve().name, "semantickitti" if scans.labelled.any() else None
    return Drive(name, "kitti", scans, odometry, heading, truth, tuple(notes), labels)


SOURCE = Source(
    looked_for="KITTI raw drive (velodyne_points/data)",
    recognises=is_kitti,
    open=lambda path, _: open_kitti(path),
    priority=30,
    sensors=SENSORS,
)


# --- files ---------------------------------------------------------------------------------------


def read_oxts(folder: Node, notes: list[str]) -> Oxts:
    """Return the rows of oxts/data/*.txt (30 numbers each), at the times in oxts/timestamps.txt.

    Args:
        folder: The folder oxts/.
        notes: A line is appended if rows are missing.

    Raises:
        MaptileError: The time stamps are missing, or a file does not hold 30 numbers.
    """
    times = read_timestamps(folder / "timestamps.txt")
    files = numbered(folder / "data", "txt")
    numbers = np.array(sorted(files), np.int64)
    numbers = numbers[numbers < len(times)]
    numbers = numbers[times[numbers] != NO_TIME]
    if len(numbers) < len(times):
        notes.append(f"oxts: {len(times) - len(numbers)} of {len(times)} rows are missing")
    rows = np.array([_read_row(folder / "data" / f"{files[i]}.txt") for i in numbers]).reshape(
        -1, 30
    )
    keep = in_time(times[numbers])
    notes += said_of_rows("oxts", len(numbers), len(keep))
    rows, t_ns = rows[keep], times[numbers][keep]
    if not len(rows):
        raise MaptileError(f"{folder / 'data'}: no file with a time stamp in timestamps.txt")
    return Oxts(
        t_ns=t_ns,
        latitude=rows[:, 0],
        longitude=rows[:, 1],
        altitude=rows[:, 2],
        rpy=rows[:, 3:6],
        velocity=rows[:, [7, 6, 10]],
        yaw_rate=rows[:, 22],
    )


def _read_row(path: Node) -> list[float]:
    try:
        row = [float(value) for value in read_node_text(path, "ascii").split()]
    except (OSError, ValueError):
        row = []
    if len(row) != 30 or not (np.abs(row) < _MAX_VALUE).all():
        raise MaptileError(f"{path}: expected 30 numbers; copy or download it again")
    return row


def read_transform(path: Node) -> Array:
    """Read a calibration file with the lines "R: 9 numbers" and "T: 3 numbers".

    Returns:
        (4, 4) rigid transform.

    Raises:
        MaptileError: The file is missing, lacks a line, or R is not a rotation.
    """
    hint = "unpack the calibration archive (..._calib.zip) of that day"
    rotation, shift = (read_named(path, name, hint) for name in "RT")
    if (len(rotation), len(shift)) != (9, 3):
        raise MaptileError(f"{path}: expected lines R: (9 numbers) and T: (3 numbers)")
    return rigid(np.column_stack([rotation.reshape(3, 3), shift]).reshape(1, 12), path)[0]


# --- scans and tracks ----------------------------------------------------------------------------


def _open_scans(path: Node, notes: list[str]) -> VelodyneScans:
    folder = path / "velodyne_points"
    times = read_timestamps(folder / "timestamps.txt")
    ends = [folder / f"timestamps_{name}.txt" for name in ("start", "end")]
    if all(end.is_file() for end in ends):
        turns = turn_seconds(times, *(read_timestamps(end) for end in ends))
    else:
        turns = turn_seconds(times)
    mount = se3_inverse(read_transform(_calibration(path)))
    return open_velodyne(folder / "data", folder / "labels", times, turns, mount, notes)


def _calibration(path: Node) -> Node:
    """calib_imu_to_velo.txt of the drive's day: in a folder around the drive, or in an archive."""
    folders = beside(path)
    day = folders[0].name
    archives = [folder / f"{day}_calib.zip" for folder in folders if isinstance(folder, Path)]
    folders += [open_tree(archive) / day for archive in archives if archive.is_file()]
    files = [folder / "calib_imu_to_velo.txt" for folder in folders]
    return next((file for file in files if file.is_file()), files[0])


def odometry_from_oxts(oxts: Oxts, notes: list[str]) -> PoseTrack:
    """Integrate velocity and yaw rate into a track that starts at the origin, facing x.

    The velocities along and across the vehicle are computed from the east and north velocities
    and the yaw, because the sign of the file's own leftward velocity contradicts these. Roll and
    pitch are the file's, which gravity determines, so that z is up.

    Args:
        oxts: Rows of oxts/data.
        notes: A line about gaps is appended.
    """
    seconds = (oxts.t_ns - oxts.t_ns[0]) / 1e9
    yaw = oxts.rpy[:, 2]
    east, north, up = oxts.velocity.T
    forward = east * np.cos(yaw) + north * np.sin(yaw)
    left = -east * np.sin(yaw) + north * np.cos(yaw)
    turned = cumulative_trapezoid(oxts.yaw_rate, seconds, initial=0.0)
    velocity = np.stack(
        [
            forward * np.cos(turned) - left * np.sin(turned),
            forward * np.sin(turned) + left * np.cos(turned),
            up,
        ],
        axis=1,
    )
    position = cumulative_trapezoid(velocity, seconds, axis=0, initial=0.0)
    attitude = Rotation.from_euler("xyz", np.column_stack([oxts.rpy[:, :2], turned]))
    gap = np.diff(oxts.t_ns) > MAX_BRIDGED_GAP_NS
    if gap.any():
        notes.append(said_of_gaps("oxts", int(gap.sum())))
    segment = np.concatenate([[0], np.cumsum(gap)]).astype(np.int32)
    return PoseTrack(oxts.t_ns, se3(attitude, position), segment)
