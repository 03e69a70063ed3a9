"""MulRan: a sequence with Ouster/<time>.bin and global_pose.csv.

The vehicle frame is the data set's base frame: x forward, y left, z up. The layout is that of the
data set's pages (https://sites.google.com/view/mulran-pr); no real file was seen.
"""

from __future__ import annotations

import numpy as np
import pyproj

from data_prep.drive import Drive, HeadingTrack, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, Projection, se3_from_xyzrpy, wrap_angle
from data_prep.sources import Source
from data_prep.sources.formats.common import (
    FilesByTime,
    file_numbers,
    in_time,
    relative_track,
    said_of_rows,
)
from data_prep.sources.formats.kitti_files import read_text, rigid
from data_prep.sources.storage.tree import Node

SENSORS = ("Ouster",)
"""Names of the sensors of a sequence."""
SCAN_NAME = r"([1-8]?\d{1,18})\.bin"
"""Name of a scan: its time in nanoseconds, small enough for int64."""
MOUNT = (1.7042, -0.021, 1.8047, *np.radians([0.0001, 0.0003, 179.6654]).tolist())
"""The Ouster OS1-64 in the base frame: x y z (metres), roll pitch yaw (radians)."""
UTM = 32652
"""EPSG code of the frame of global_pose.csv (zone 52 north)."""


def _points(data: bytes) -> Array:
    """(N, 3) metres of float32 rows of x, y, z, intensity."""
    return np.frombuffer(data, "<f4").reshape(-1, 4)[:, :3]


def is_mulran(path: Node) -> bool:
    """Return whether ``path`` is a sequence: it has Ouster/ and global_pose.csv."""
    return (path / "Ouster").is_dir() and (path / "global_pose.csv").is_file()


def open_mulran(path: Node) -> Drive:
    """Open a sequence; odometry is the relative motion of global_pose.csv.

    Args:
        path: The sequence's folder, such as DCC01.

    Raises:
        MaptileError: There is no scan, or a file is damaged.
    """
    times = file_numbers(path / "Ouster", SCAN_NAME)
    if not len(times):
        raise MaptileError(f"{path / 'Ouster'}: no scan (<time in nanoseconds>.bin)")
    notes: list[str] = []
    t_ns, world = _read_poses(path / "global_pose.csv", notes)
    notes.append("odometry: the data set's own poses (global_pose.csv), as relative motion")
    grid = Projection(pyproj.CRS.from_epsg(UTM))
    latitude, longitude = grid.inverse(world[:, :2, 3])
    yaw = np.arctan2(world[:, 1, 0], world[:, 0, 0])
    heading = wrap_angle(yaw - grid.convergence(latitude, longitude))
    return Drive(
        name=path.resolve().name,
        format="mulran",
        scans=FilesByTime(path / "Ouster", times, se3_from_xyzrpy(MOUNT), SENSORS, 1, 16, _points),
        odometry=relative_track(t_ns, world),
        heading=HeadingTrack(t_ns, heading),
        truth=TruthTrack(t_ns, latitude, longitude, heading),
        notes=tuple(notes),
    )


def _read_poses(file: Node, notes: list[str]) -> tuple[Times, Array]:
    """(N,) strictly increasing times and (N, 4, 4) base frame -> UTM."""
    times, rows = [], []
    for number, line in enumerate(read_text(file, "it comes with the sequence").splitlines(), 1):
        words = line.replace(",", " ").split()
        try:
            t_ns, row = int(float(words[0])) if "e" in words[0] else int(words[0]), words[1:]
            values = [float(word) for word in row]
        except (ValueError, IndexError, OverflowError):
            values = []
        if len(values) != 12 or not np.isfinite(values).all() or not 0 <= t_ns < 2**62:
            if line.strip():
                raise MaptileError(
                    f"{file}: line {number} is not a time and 12 numbers; copy it again"
                )
            continue
        times.append(t_ns)
        rows.append(values)
    if not rows:
        raise MaptileError(f"{file}: no pose in it; copy it again")
    all_ns = np.array(times, np.int64)
    order = in_time(all_ns)
    notes += said_of_rows(file.name, len(all_ns), len(order))
    return all_ns[order], rigid(np.array(rows), file)[order]


SOURCE = Source(
    looked_for="MulRan sequence (Ouster/ and global_pose.csv)",
    recognises=is_mulran,
    open=lambda path, _: open_mulran(path),
    priority=62,
    sensors=SENSORS,
)
