"""Drives of several formats, opened into one shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import argoverse2, clouds, colmap, kitti, kitti360, kitti_odometry, robotcar
from data_prep.sources.common import ScanSlice
from data_prep.sources.tree import Node


class _Format(NamedTuple):
    is_format: Callable[[Node], bool]
    open_format: Callable[[Node, tuple[str, ...] | None], Drive]
    looked_for: str


_FORMATS = {
    "robotcar": _Format(
        robotcar.is_robotcar,
        robotcar.open_robotcar,
        f"RobotCar run (a folder {' or '.join(robotcar.SENSORS)})",
    ),
    "kitti360": _Format(
        kitti360.is_kitti360,
        kitti360.open_kitti360,
        "KITTI-360 drive (data_3d_raw/<drive>_sync)",
    ),
    "kitti": _Format(kitti.is_kitti, kitti.open_kitti, "KITTI raw drive (velodyne_points/data)"),
    "kitti_odometry": _Format(
        kitti_odometry.is_kitti_odometry,
        kitti_odometry.open_kitti_odometry,
        "KITTI odometry or SemanticKITTI sequence (velodyne/ and times.txt)",
    ),
    "argoverse2": _Format(
        argoverse2.is_argoverse2,
        argoverse2.open_argoverse2,
        "Argoverse 2 log (sensors/lidar)",
    ),
    "clouds": _Format(
        clouds.is_clouds,
        clouds.open_clouds,
        "generic drive (clouds/ with .ply, .pcd, .bin or .las files)",
    ),
    "colmap": _Format(
        colmap.is_colmap,
        colmap.open_colmap,
        "COLMAP model (images and points3D, or those in sparse/0)",
    ),
}
"""In the order in which they are tried: the first that recognises a folder has it."""

FORMATS = tuple(_FORMATS)


def detect_format(path: Node) -> str | None:
    """The format of the drive in folder ``path``, or None where it is none."""
    return next((name for name, one in _FORMATS.items() if one.is_format(path)), None)


def open_drive(
    path: Path,
    format: str = "auto",
    sensors: tuple[str, ...] | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Drive:
    """Open a drive.

    Args:
        path: The drive's folder.
        format: One of ``FORMATS``, or "auto".
        sensors: Names of the sensors to use; None: the format's default.
        start: Keep only scans from this many seconds after the first one.
        end: Keep only scans up to this many seconds after the first one.

    Raises:
        MaptileError: There is no drive there, a file of it is damaged, or no scan is left.
    """
    if not path.is_dir():
        raise MaptileError(f"{path}: no such folder; name the folder of a drive")
    if format == "auto":
        found = detect_format(path)
        if found is None:
            raise MaptileError(_unknown(path))
        format = found
    elif format not in _FORMATS:
        raise MaptileError(f"{path}: unknown format {format}; known are auto, {', '.join(FORMATS)}")
    drive = _FORMATS[format].open_format(path, sensors)
    return drive if start is None and end is None else _cut(path, drive, start, end)


def _cut(path: Path, drive: Drive, start: float | None, end: float | None) -> Drive:
    seconds = (drive.scans.t_ns - drive.scans.t_ns[0]) / 1e9
    first = 0 if start is None else int(np.searchsorted(seconds, start, side="left"))
    last = len(seconds) if end is None else int(np.searchsorted(seconds, end, side="right"))
    if first >= last:
        raise MaptileError(
            f"{path}: no scan between start and end; the drive lasts {seconds[-1]:.1f} seconds"
        )
    return replace(drive, scans=ScanSlice(drive.scans, first, drive.scans.t_ns[first:last]))


def _unknown(path: Path) -> str:
    looked_for = "; ".join(one.looked_for for one in _FORMATS.values())
    message = f"{path}: no drive of a known format; looked for: {looked_for}"
    inside = sorted(
        child.name for child in path.iterdir() if child.is_dir() and detect_format(child)
    )
    if inside:
        message += f". There are drives in its folders: {', '.join(inside[:5])}"
    return message
