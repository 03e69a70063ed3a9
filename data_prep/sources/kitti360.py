"""KITTI-360: drives under ROOT/data_3d_raw, poses under ROOT/data_poses, ROOT/calibration.

The vehicle frame is that of the GPS/IMU, turned to x forward, y left, z up. The data set's own has
x forward, y right, z down: its devkit states this, and the columns of ``calib_cam_to_pose.txt`` (a
camera's right, down and forward are the frame's y, z and x) and a world with z up confirm it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pyproj

from data_prep.drive import Drive, HeadingTrack, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import NED_TO_FLU, Array, Projection, se2_from_se3, se3_inverse
from data_prep.sources import Source
from data_prep.sources.formats.common import in_time, relative_track, said_of_gaps, said_of_rows
from data_prep.sources.formats.kitti_files import (
    NO_TIME,
    SENSORS,
    VelodyneScans,
    numbered,
    open_velodyne,
    read_named,
    read_rows,
    read_timestamps,
    rigid,
    turn_seconds,
)
from data_prep.sources.storage.tree import Node, beside

_HINT = "unpack calibration.zip into the folder that holds data_3d_raw"
"""Remedy for a missing calibration file."""

ORIGIN = (48.9843445, 8.4295857)
"""Latitude and longitude of the origin of poses.txt, degrees (from the data set's devkit)."""

SCANS_PER_SECOND = 10
"""Turns of the Velodyne per second."""

MAX_SCANS = 1_000_000
"""Largest number of scans without a list of times; the longest drive has 15,000."""

EARTH_RADIUS_M = 6378137.0
"""Radius of the sphere of the Mercator projection of poses.txt, metres."""


def is_kitti360(path: Node) -> bool:
    """Return whether ``path`` is a drive of KITTI-360, by its name and its velodyne_points/data."""
    drive = path.resolve()
    known = drive.parent.name == "data_3d_raw" or drive.name.startswith("2013_05_28_drive_")
    return known and (path / "velodyne_points" / "data").is_dir()


def open_kitti360(path: Node) -> Drive:
    """Open a drive of KITTI-360.

    Odometry is the relative motion of poses.txt; heading and truth are those poses themselves.

    Args:
        path: ROOT/data_3d_raw/<drive>_sync; or ROOT/<drive>_sync, as the archives have it.

    Raises:
        MaptileError: Scans, time stamps, poses or calibration are missing or damaged.
    """
    name = path.resolve().name
    notes: list[str] = []
    times = _times(path / "velodyne_points", notes)
    scans = _open_scans(path, times, notes)
    odometry = heading = truth = None
    poses = _outside(path, f"data_poses/{name}/poses.txt")
    inside = path / "poses.txt"  # where data_poses.zip is unpacked into data_3d_raw
    poses = inside if inside.is_file() and not poses.is_file() else poses
    if poses.is_file():
        t_ns, world = read_poses(poses, times, notes)
        notes.append(f"odometry: the data set's own poses ({poses.name}), as relative motion")
        odometry = relative_track(t_ns, world)
        segments = int(odometry.segment[-1]) + 1
        if segments > 1:
            notes.append(said_of_gaps("poses", segments - 1))
        yaw = se2_from_se3(world)[:, 2]
        heading = HeadingTrack(t_ns, yaw)
        truth = TruthTrack(t_ns, *world_frame().inverse(world[:, :2, 3]), yaw)
    else:
        notes.append(f"no odometry, heading and truth: {poses} is missing")
    labels = "kitti360" if scans.labelled.any() else None
    return Drive(name, "kitti360", scans, odometry, heading, truth, tuple(notes), labels)


SOURCE = Source(
    looked_for="KITTI-360 drive (data_3d_raw/<drive>_sync)",
    recognises=is_kitti360,
    open=lambda path, _: open_kitti360(path),
    priority=20,
    sensors=SENSORS,
)


def _times(folder: Node, notes: list[str]) -> Times:
    """(L,) times of the frames; without timestamps.txt, by their numbers."""
    listed = folder / "timestamps.txt"
    if listed.is_file() or not (folder / "data").is_dir():
        return read_timestamps(listed)
    notes.append(
        f"no {listed.name}: times are the numbers of the scans, {SCANS_PER_SECOND} a second"
    )
    count = max(numbered(folder / "data", "bin"), default=-1) + 1
    return np.arange(min(count, MAX_SCANS), dtype=np.int64) * (10**9 // SCANS_PER_SECOND)


def _open_scans(path: Node, times: Times, notes: list[str]) -> VelodyneScans:
    mount = velodyne_mount(_outside(path, "calibration/calib_cam_to_pose.txt").parent)
    folder = path / "velodyne_points" / "data"
    return open_velodyne(folder, path / "labels", times, turn_seconds(times), mount, notes)


def _outside(drive: Node, file: str) -> Node:
    """The path of a file of ROOT; where there is none, the path where it belongs."""
    roots = [root.parent if root.name == "data_3d_raw" else root for root in beside(drive)]
    files = [root / file for root in roots]
    return next((file for file in files if file.is_file()), files[0])


# --- frames --------------------------------------------------------------------------------------


@cache
def world_frame() -> Projection:
    """Return the projection of poses.txt: x east, y north, metres at the latitude of its origin.

    It is spherical Mercator, scaled by the cosine of the origin's latitude, as in the data set's
    devkit. Its meridians are vertical, so that an angle from its x axis is one from true east.
    """
    (latitude, longitude), radius = ORIGIN, EARTH_RADIUS_M
    scale = np.cos(np.radians(latitude))
    north = scale * radius * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    return Projection(
        pyproj.CRS(
            f"+proj=merc +a={radius} +b={radius} +k={scale:.17g} +lon_0={longitude} "
            f"+x_0=0 +y_0={-north:.17g} +units=m +nadgrids=@null +no_defs"
        )
    )


def velodyne_mount(calibration: Node) -> Array:
    """Return the pose of the Velodyne in the vehicle frame (GPS/IMU, x forward, y left, z up).

    Args:
        calibration: The folder calibration/.

    Returns:
        (4, 4) Velodyne -> vehicle frame.

    Raises:
        MaptileError: A file of the calibration is missing or damaged.
    """
    to_pose = calibration / "calib_cam_to_pose.txt"
    pose_camera = rigid(read_named(to_pose, "image_00", _HINT)[None], to_pose)[0]
    to_velodyne = calibration / "calib_cam_to_velo.txt"
    rows = read_rows(to_velodyne, 12, _HINT)
    if len(rows) != 1:
        raise MaptileError(f"{to_velodyne}: expected one line of 12 numbers, found {len(rows)}")
    return NED_TO_FLU @ pose_camera @ se3_inverse(rigid(rows, to_velodyne)[0])


def read_poses(path: Node, times: Times, notes: list[str]) -> tuple[Times, Array]:
    """Read poses.txt: rows of a frame number and a 3 x 4 matrix, GPS/IMU -> world.

    Args:
        path: poses.txt.
        times: (L,) time of frame 0, 1, ...; ``NO_TIME`` where it is unknown.
        notes: A line about rows without a time is appended.

    Returns:
        (N,) times, strictly increasing, and (N, 4, 4) vehicle frame -> world.

    Raises:
        MaptileError: The file is damaged, or has no pose of a frame with a time.
    """
    rows = read_rows(path, 13, "it comes with data_poses.zip")
    frame = rows[:, 0]
    if not ((frame >= 0) & (frame < 2**31) & (frame == np.floor(frame))).all():
        raise MaptileError(f"{path}: its first column does not hold frame numbers")
    number = frame.astype(np.int64)
    world = rigid(rows[:, 1:], path)
    known = number < len(times)
    known[known] = times[number[known]] != NO_TIME
    if not known.all():
        notes.append(f"poses: {(~known).sum()} of {len(rows)} have no time stamp; left out")
    t_ns, world = times[number[known]], world[known]
    order = in_time(t_ns)
    notes += said_of_rows("poses", len(t_ns), len(order))
    if not len(order):
        raise MaptileError(f"{path}: no pose of a frame with a time stamp in timestamps.txt")
    return t_ns[order], world[order] @ NED_TO_FLU
