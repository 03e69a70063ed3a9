"""KITTI-360: drives under ROOT/data_3d_raw, poses under ROOT/data_poses, ROOT/calibration.

The vehicle frame is that of the GPS/IMU, turned to x forward, y left, z up. The data set's own has
x forward, y right, z down: its devkit says so; the columns of ``calib_cam_to_pose.txt`` (a camera's
right, down and forward are its y, z and x) and a world with z up agree.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pyproj

from data_prep.drive import Drive, HeadingTrack, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import NED_TO_FLU, Array, Projection, se2_from_se3, se3_inverse
from data_prep.sources.formats.common import increasing, relative_track
from data_prep.sources.formats.kitti_files import (
    NO_TIME,
    only_velodyne,
    open_velodyne,
    read_named,
    read_rows,
    read_timestamps,
    rigid,
    turn_seconds,
)
from data_prep.sources.storage.tree import Node, beside

_CALIBRATION = "unpack calibration.zip into the folder that holds data_3d_raw"


def is_kitti360(path: Node) -> bool:
    """Whether ``path`` looks like a drive of KITTI-360."""
    drive = path.resolve()
    known = drive.parent.name == "data_3d_raw" or drive.name.startswith("2013_05_28_drive_")
    return known and (path / "velodyne_points" / "data").is_dir()


def open_kitti360(path: Node, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a drive of KITTI-360.

    Odometry is the relative motion of poses.txt; heading and truth are those poses themselves.

    Args:
        path: ROOT/data_3d_raw/<drive>_sync; or ROOT/<drive>_sync, as the archives have it.
        sensors: Nothing but ("velodyne",).

    Raises:
        MaptileError: Scans, time stamps, poses or calibration are missing or damaged.
    """
    only_velodyne(path, sensors)
    name = path.resolve().name
    notes: list[str] = []
    points = path / "velodyne_points"
    times = read_timestamps(points / "timestamps.txt")
    scans = open_velodyne(
        points / "data",
        path / "labels",
        10,
        times,
        turn_seconds(times),
        velodyne_mount(_outside(path, "calibration/calib_cam_to_pose.txt").parent),
        notes,
    )
    odometry = heading = truth = None
    poses = _outside(path, f"data_poses/{name}/poses.txt")
    inside = path / "poses.txt"  # where data_poses.zip is unpacked into data_3d_raw
    poses = inside if inside.is_file() and not poses.is_file() else poses
    if poses.is_file():
        t_ns, world = read_poses(poses, times, notes)
        notes.append(f"odometry: the data set's own poses ({poses.name}), as relative motion")
        odometry = relative_track(t_ns, world)
        pieces = int(odometry.segment[-1]) + 1
        if pieces > 1:
            notes.append(
                f"poses: {pieces - 1} gaps of more than 2 s; the odometry has {pieces} pieces"
            )
        yaw = se2_from_se3(world)[:, 2]
        heading = HeadingTrack(t_ns, yaw)
        truth = TruthTrack(t_ns, *world_frame().inverse(world[:, :2, 3]), yaw)
    else:
        notes.append(f"no odometry, heading and truth: {poses} is missing")
    labels = "kitti360" if scans.labelled.any() else None
    return Drive(name, "kitti360", scans, odometry, heading, truth, tuple(notes), labels)


def _outside(drive: Node, file: str) -> Node:
    """A file of ROOT; where there is none, the place where it belongs."""
    roots = [root.parent if root.name == "data_3d_raw" else root for root in beside(drive)]
    files = [root / file for root in roots]
    return next((file for file in files if file.is_file()), files[0])


# --- frames --------------------------------------------------------------------------------------


@cache
def world_frame() -> Projection:
    """The world of poses.txt: x east, y north, in metres at the latitude of its origin.

    It is spherical Mercator (radius 6378137 m) scaled by the cosine of the origin's latitude, as
    the data set's devkit has it. Meridians are vertical in it, so that an angle from its x axis is
    one from true east.
    """
    latitude, longitude, radius = 48.9843445, 8.4295857, 6378137.0
    scale = np.cos(np.radians(latitude))
    north = scale * radius * np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
    return Projection(
        pyproj.CRS(
            f"+proj=merc +a={radius} +b={radius} +k={scale:.17g} +lon_0={longitude} "
            f"+x_0=0 +y_0={-north:.17g} +units=m +nadgrids=@null +no_defs"
        )
    )


def velodyne_mount(calibration: Node) -> Array:
    """(4, 4) Velodyne -> vehicle frame: the GPS/IMU's, with x forward, y left, z up.

    Raises:
        MaptileError: A file of the calibration is missing or damaged.
    """
    to_pose = calibration / "calib_cam_to_pose.txt"
    pose_camera = rigid(read_named(to_pose, "image_00", _CALIBRATION)[None], to_pose)[0]
    to_velodyne = calibration / "calib_cam_to_velo.txt"
    rows = read_rows(to_velodyne, 12, _CALIBRATION)
    if len(rows) != 1:
        raise MaptileError(f"{to_velodyne}: expected one line of 12 numbers, found {len(rows)}")
    return NED_TO_FLU @ pose_camera @ se3_inverse(rigid(rows, to_velodyne)[0])


def read_poses(path: Node, times: Times, notes: list[str]) -> tuple[Times, Array]:
    """Times (N,), strictly increasing, and poses (N, 4, 4) of the vehicle frame in the world.

    Args:
        path: poses.txt: rows of a frame's number and 12 numbers, the GPS/IMU in the world.
        times: (L,) time of frame 0, 1, ...
        notes: Gets a line about rows that are of no use.

    Raises:
        MaptileError: The file is damaged, or has no pose of a frame with a time.
    """
    rows = read_rows(path, 13, "it comes with data_poses.zip")
    frame = rows[:, 0]
    if not ((frame >= 0) & (frame < 2**31) & (frame == np.floor(frame))).all():
        raise MaptileError(f"{path}: its first column is not the numbers of frames")
    number = frame.astype(np.int64)
    world = rigid(rows[:, 1:], path)
    known = number < len(times)
    known[known] = times[number[known]] != NO_TIME
    if not known.all():
        notes.append(f"poses: {(~known).sum()} of {len(rows)} are of no frame with a time stamp")
    t_ns, world = times[number[known]], world[known]
    order = np.argsort(t_ns, kind="stable")
    order = order[increasing(t_ns[order])]
    if not len(order):
        raise MaptileError(f"{path}: no pose of a frame that timestamps.txt has a line for")
    return t_ns[order], world[order] @ NED_TO_FLU
