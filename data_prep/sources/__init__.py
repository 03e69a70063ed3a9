"""Drives of several formats, opened into one shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import clouds, kitti, robotcar
from data_prep.sources.common import ScanSlice

_LOOKED_FOR = {
    "robotcar": f"RobotCar run (a folder {' or '.join(robotcar.SENSORS)})",
    "kitti": "KITTI raw drive (velodyne_points/data)",
    "clouds": "generic drive (clouds/ with .ply, .pcd, .bin or .las files)",
}
_IS = {"robotcar": robotcar.is_robotcar, "kitti": kitti.is_kitti, "clouds": clouds.is_clouds}
_OPEN = {
    "robotcar": robotcar.open_robotcar,
    "kitti": kitti.open_kitti,
    "clouds": clouds.open_clouds,
}
FORMATS = tuple(_OPEN)


def detect_format(path: Path) -> str | None:
    """The format of the drive in folder ``path``, or None where it is none."""
    return next((name for name, is_format in _IS.items() if is_format(path)), None)


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
    elif format not in _OPEN:
        raise MaptileError(f"{path}: unknown format {format}; known are auto, {', '.join(FORMATS)}")
    drive = _OPEN[format](path, sensors)
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
    message = f"{path}: no drive of a known format; looked for: {'; '.join(_LOOKED_FOR.values())}"
    inside = sorted(
        child.name for child in path.iterdir() if child.is_dir() and detect_format(child)
    )
    if inside:
        message += f". There are drives in its folders: {', '.join(inside[:5])}"
    return message
