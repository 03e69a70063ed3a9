"""KITTI odometry and SemanticKITTI: sequences/XX (velodyne/, calib.txt, times.txt), poses/XX.txt.

The vehicle frame is that of the Velodyne, x forward, y left, z up: the benchmark has no calibration
of the GPS/IMU. Its scans are motion-compensated (readme of its devkit).
"""

from __future__ import annotations

import numpy as np

from data_prep.drive import Drive, PoseTrack, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_inverse
from data_prep.sources import Source
from data_prep.sources.formats.common import relative_track
from data_prep.sources.formats.kitti_files import (
    SENSORS,
    open_velodyne,
    read_named,
    read_rows,
    read_text,
    rigid,
)
from data_prep.sources.storage.tree import Node

_MAX_TIME_S = 1e9
"""Largest time since the start of a sequence, seconds; anything larger is damage."""

USUAL_MOUNTING = np.array(
    [[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -0.08], [1.0, 0.0, 0.0, -0.27], [0.0, 0.0, 0.0, 1.0]]
)
"""Velodyne -> camera (x right, y down, z forward) where calib.txt lacks it: the camera is 0.27 m
ahead of the Velodyne and 0.08 m below it, level (the data set's drawing of its vehicle)."""


def is_kitti_odometry(path: Node) -> bool:
    """Return whether ``path`` is a sequence: it has velodyne/ and times.txt."""
    return (path / "velodyne").is_dir() and (path / "times.txt").is_file()


def open_kitti_odometry(path: Node) -> Drive:
    """Open a sequence of KITTI odometry or SemanticKITTI.

    Args:
        path: The sequence's folder, such as dataset/sequences/00.

    Raises:
        MaptileError: Scans or times are missing or damaged, or poses or their calibration are
            damaged.
    """
    notes: list[str] = []
    times = read_times(path / "times.txt")
    scans = open_velodyne(path / "velodyne", path / "labels", times, None, np.eye(4), notes)
    home = path.resolve()
    listed = home.parent.parent / "poses" / f"{home.name}.txt"
    poses = listed if listed.is_file() else path / "poses.txt"
    odometry = None
    if poses.is_file():
        odometry = read_odometry(poses, path / "calib.txt", times, notes)
    else:
        notes.append(f"no odometry: neither {listed} nor {poses} exists")
    notes.append("no heading and no truth: the data set has no absolute positions")
    labels = "semantickitti" if scans.labelled.any() else None
    name = f"odometry_{home.name}"
    return Drive(name, "kitti_odometry", scans, odometry, None, None, tuple(notes), labels)


SOURCE = Source(
    looked_for="KITTI odometry or SemanticKITTI sequence (velodyne/ and times.txt)",
    recognises=is_kitti_odometry,
    open=lambda path, _: open_kitti_odometry(path),
    priority=40,
    sensors=SENSORS,
)


def read_times(path: Node) -> Times:
    """Read times.txt: a line per scan, seconds since the start.

    Returns:
        (N,) int64 nanoseconds since the start.

    Raises:
        MaptileError: The file is missing, or a line is not such a time.
    """
    seconds = read_rows(path, 1, "it comes with data_odometry_calib.zip")[:, 0]
    if (abs(seconds) > _MAX_TIME_S).any():
        raise MaptileError(f"{path}: not a list of seconds since the start")
    return np.round(seconds * 1e9).astype(np.int64)


def _camera(file: Node, notes: list[str]) -> Array:
    """(4, 4) Velodyne -> camera; the usual one where a sound calib.txt has no line for it."""
    hint = "unpack data_odometry_calib.zip; the camera's poses need it"
    names = [line.partition(":")[0].strip() for line in read_text(file, hint).splitlines()]
    if "Tr" not in names and "P0" in names and len(read_named(file, "P0", hint)) == 12:
        notes.append(f"{file.name} has no line Tr: the usual mounting of the camera is taken")
        return USUAL_MOUNTING
    return rigid(read_named(file, "Tr", hint)[None], file)[0]


def read_odometry(poses: Node, calibration: Node, times: Times, notes: list[str]) -> PoseTrack:
    """Read the Velodyne's motion from the poses of the left camera.

    Args:
        poses: A line of 12 numbers per scan, camera -> first camera frame (3 x 4, row-major).
        calibration: calib.txt with the line "Tr:", Velodyne -> camera; without that line, the
            usual mounting is taken.
        times: (L,) time of scan 0, 1, ...
        notes: Lines about the origin of these poses are appended.

    Returns:
        The track of the Velodyne frame.

    Raises:
        MaptileError: A file is missing or damaged.
    """
    camera = _camera(calibration, notes)
    track = rigid(read_rows(poses, 12, "it comes with data_odometry_poses.zip"), poses)
    count = min(len(track), len(times))
    if not count:
        raise MaptileError(f"{poses}: no pose of a scan with a time in times.txt")
    if len(track) != len(times):
        notes.append(f"poses: {len(track)} for {len(times)} scans; the first {count} are used")
    notes.append(f"odometry: the data set's own poses ({poses}), as relative motion")
    first = se3_inverse(track[0] @ camera)
    return relative_track(times[:count], first @ track[:count] @ camera)
