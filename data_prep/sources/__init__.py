"""Drives of several formats, opened into one shape."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep.drive import Drive, Origin
from data_prep.errors import MaptileError
from data_prep.sources import (
    argoverse2,
    clouds,
    colmap,
    kitti,
    kitti360,
    kitti_odometry,
    nuscenes,
    robotcar,
)
from data_prep.sources.formats.common import ScanSlice
from data_prep.sources.storage.tree import Node, open_tree, subfolders


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
    "nuscenes": _Format(
        nuscenes.is_nuscenes,
        nuscenes.open_nuscenes,
        "scene of nuScenes (v1.0-mini, v1.0-trainval or v1.0-test, with samples/ and sweeps/)",
    ),
    "clouds": _Format(
        clouds.is_clouds,
        clouds.open_clouds,
        "generic drive (clouds/ with .ply, .pcd, .bin, .las or .laz files)",
    ),
    "colmap": _Format(
        colmap.is_colmap,
        colmap.open_colmap,
        "COLMAP model (images and points3D, or those in sparse/0)",
    ),
}
"""In the order in which they are tried: the first that recognises a folder has it."""

FORMATS = tuple(_FORMATS)

_DEPTH, _MOST_FOLDERS = 6, 2000
"""How deep a drive is looked for, and in how many folders."""


def detect_format(path: Node) -> str | None:
    """The format of the drive in folder ``path``, or None where it is none."""
    return _first_format(path, FORMATS)


def open_drive(
    path: Path,
    format: str = "auto",
    sensors: tuple[str, ...] | None = None,
    start: float | None = None,
    end: float | None = None,
) -> Drive:
    """Open a drive.

    Args:
        path: The drive's folder; or what it lies in: a folder, archive or folder of archives
            (see ``open_tree``) with no other drive in it.
        format: One of ``FORMATS``, or "auto".
        sensors: Names of the sensors to use; None: the format's default.
        start: Keep only scans from this many seconds after the first one.
        end: Keep only scans up to this many seconds after the first one.

    Raises:
        MaptileError: There is no drive there, or several; a file of it is damaged; or no scan is
            left.
    """
    if format not in ("auto", *FORMATS):
        raise MaptileError(f"{path}: unknown format {format}; known are auto, {', '.join(FORMATS)}")
    tree = open_tree(path)
    formats = FORMATS if format == "auto" else (format,)
    drives = _drives(tree, formats)
    if len(drives) > 1:
        raise MaptileError(_several(path, [node for node, _ in drives]))
    if not (drives or tree.is_dir()):
        raise MaptileError(f"{path}: no such folder; name the folder or the archive of a drive")
    if not drives and format == "auto":
        looked_for = "; ".join(one.looked_for for one in _FORMATS.values())
        raise MaptileError(f"{path}: no drive of a known format; looked for: {looked_for}")
    node, format = drives[0] if drives else (tree, format)
    drive = _FORMATS[format].open_format(node, sensors)
    if start is not None or end is not None:
        drive = _cut(path, drive, start, end)
    return replace(drive, origin=Origin(path, format, sensors, start, end))


def _cut(path: Path, drive: Drive, start: float | None, end: float | None) -> Drive:
    seconds = (drive.scans.t_ns - drive.scans.t_ns[0]) / 1e9
    first = 0 if start is None else int(np.searchsorted(seconds, start, side="left"))
    last = len(seconds) if end is None else int(np.searchsorted(seconds, end, side="right"))
    if first >= last:
        raise MaptileError(
            f"{path}: no scan between start and end; the drive lasts {seconds[-1]:.1f} seconds"
        )
    return replace(drive, scans=ScanSlice(drive.scans, first, drive.scans.t_ns[first:last]))


def _first_format(path: Node, formats: tuple[str, ...]) -> str | None:
    return next((name for name in formats if _FORMATS[name].is_format(path)), None)


def _drives(tree: Node, formats: tuple[str, ...]) -> list[tuple[Node, str]]:
    """Every outermost folder of ``tree`` that one of the formats recognises, and which does."""
    found = []
    folders = [tree]
    looked_at = 0
    for _ in range(_DEPTH):
        inside = []
        for folder in folders:
            format = _first_format(folder, formats)
            if format is not None:
                found.append((folder, format))
            elif looked_at < _MOST_FOLDERS:
                looked_at += 1
                with suppress(OSError):  # a folder that may not be read is none of ours
                    inside += subfolders(folder)
        folders = inside
    return found


def _several(path: Path, drives: list[Node]) -> str:
    names = ", ".join(str(drive).removeprefix(f"{path}/") for drive in drives[:5])
    more = f" and {len(drives) - 5} more" if len(drives) > 5 else ""
    return f"{path}: holds {len(drives)} drives; name one, such as {drives[0]} ({names}{more})"
