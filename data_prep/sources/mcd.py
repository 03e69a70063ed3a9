"""MCD: a sequence with pose_inW.csv, its LiDAR's bag (or clouds/<num>.bin) and calibration.

The vehicle frame is the LiDAR's: x forward, y left, z up. The layout is that of the data set's
pages (https://mcdviral.github.io): bags, the poses of the body in the frame of the survey, and
hhs_calib.yaml or atv_calib.yaml with the sensors on the body.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from data_prep.drive import Drive, ScanSource, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_from_quaternion
from data_prep.sources import Source
from data_prep.sources.clouds import CloudScans, natural
from data_prep.sources.formats.cloud_labels import CloudLabels
from data_prep.sources.formats.common import (
    file_names,
    in_time,
    read_table,
    relative_track,
    said_of_rows,
)
from data_prep.sources.formats.kitti_files import read_text, rigid
from data_prep.sources.points.pointfiles import layout_of_files
from data_prep.sources.rosbag import BagScans, open_bag
from data_prep.sources.storage.tree import Node, beside

POSES = "pose_inW.csv"
"""Name of the file with the poses."""
CALIBRATIONS = ("hhs_calib.yaml", "atv_calib.yaml", "calib.yaml")
"""Names of the calibration: of the handheld set-up and of the vehicle."""
LIDAR = "os_sensor"
"""Name of the Ouster in the calibration."""
COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")
"""Columns of a pose."""


def is_mcd(path: Node) -> bool:
    """Return whether ``path`` is a sequence: it has pose_inW.csv, and a bag or clouds/."""
    if not (path / POSES).is_file():
        return False
    return (path / "clouds").is_dir() or bool(_bags(path))


def open_mcd(path: Node, topics: tuple[str, ...] | None = None) -> Drive:
    """Open a sequence; odometry is the relative motion of its poses.

    Args:
        path: The sequence's folder, such as kth_day_06.
        topics: Names of topics of the bag; None: the point clouds with the most messages.

    Raises:
        MaptileError: The calibration is missing, or a file is damaged.
    """
    notes: list[str] = []
    number, t_ns, body = _read_poses(path / POSES, notes)
    world = body @ _lidar_on_body(path)
    bags = _bags(path)
    scans: ScanSource
    if bags:
        drive = open_bag(path / bags[0], topics)
        scans = drive.scans
        if isinstance(scans, BagScans):
            scans = replace(scans, mounts=np.tile(np.eye(4), (len(scans.sensors), 1, 1)))
        notes += [note for note in drive.notes if not note.startswith("no odometry")]
        if len(bags) > 1:
            notes.append(f"{bags[0]} is read, not {', '.join(bags[1:])}")
    else:
        scans = _clouds(path / "clouds", number, t_ns)
    notes.append(f"odometry: the data set's own poses ({POSES}), as relative motion")
    notes.append("no heading and no truth: the place of the survey's frame is not in the files")
    odometry = relative_track(t_ns, world)
    return Drive(path.resolve().name, "mcd", scans, odometry, None, None, tuple(notes))


def _bags(path: Node) -> list[str]:
    """Names of the bags of an Ouster, else of all."""
    bags = [name for name in file_names(path) if name.endswith(".bag")] if path.is_dir() else []
    return sorted(bags, key=lambda name: ("_os" not in name, name))


def _read_poses(file: Node, notes: list[str]) -> tuple[np.ndarray, Times, Array]:
    """(N,) numbers, (N,) strictly increasing times, and (N, 4, 4) body -> survey."""
    rows = read_table(file, ["num", *COLUMNS], text=["t"])
    times = []
    for text in rows["t"]:
        seconds, _, decimals = str(text).partition(".")
        if not (seconds.isdigit() and len(seconds) < 11 and (decimals or "0").isdigit()):
            raise MaptileError(f"{file}: {text!s:.30} is not a time in seconds")
        times.append(int(seconds) * 10**9 + int(decimals[:9].ljust(9, "0")))
    values = np.stack([rows[name] for name in COLUMNS], axis=1)
    if (np.abs(np.linalg.norm(values[:, 3:], axis=1) - 1) > 0.01).any():
        raise MaptileError(f"{file}: a rotation is not a unit quaternion; copy it again")
    if (np.abs(values[:, :3]) > 1e6).any():
        raise MaptileError(f"{file}: a position is not near the survey; copy it again")
    t_ns = np.array(times, np.int64)
    order = in_time(t_ns)
    notes += said_of_rows(file.name, len(t_ns), len(order))
    number = rows["num"][order].astype(np.int64)
    return number, t_ns[order], se3_from_quaternion(values[order, :3], values[order, 3:])


def _lidar_on_body(path: Node) -> Array:
    """(4, 4) LiDAR -> body."""
    files = [folder / name for folder in (path, *beside(path)) for name in CALIBRATIONS]
    file = next((file for file in files if file.is_file()), files[0])
    text = read_text(file, "it is on the data set's page, under calibration")
    try:
        rows = np.array(yaml.safe_load(text)["body"][LIDAR]["T"], np.float64)
        matrix = rows[:3, :4].reshape(1, 12)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, IndexError, RecursionError):
        raise MaptileError(f"{file}: no body: {LIDAR}: T: with 4 rows of 4 numbers") from None
    return rigid(matrix, file)[0]


def _clouds(folder: Node, number: np.ndarray, t_ns: Times) -> CloudScans:
    """The scans <num>.bin of a folder, at the times of their poses."""
    times = dict(zip(number.tolist(), t_ns.tolist(), strict=True))
    names = sorted((n for n in file_names(folder) if n.endswith(".bin")), key=natural)
    stems = {name: Path(name).stem for name in names}
    known = [n for n in names if stems[n].isdecimal() and int(stems[n]) in times]
    if not known:
        raise MaptileError(f"{folder}: no cloud <num>.bin whose num is in {POSES}")
    layout = layout_of_files([folder / name for name in known[:5]])
    when = np.array([times[int(stems[name])] for name in known], np.int64)
    order = np.argsort(when, kind="stable")
    files = tuple(known[i] for i in order)
    return CloudScans(folder, files, when[order], CloudLabels(None, declared=True), layout=layout)


SOURCE = Source(
    looked_for="MCD sequence (pose_inW.csv, and a bag or clouds/)",
    recognises=is_mcd,
    open=open_mcd,
    priority=61,
)
