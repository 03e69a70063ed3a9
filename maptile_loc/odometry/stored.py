"""LiDAR odometry as a file: computed once for a drive, and reused by later runs."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data_prep.drive import Drive, PoseTrack
from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from data_prep.regular import open_regular
from data_prep.sources.formats.tum import read_tum, write_tum
from maptile_loc.odometry.lidar_odometry import lidar_odometry
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.types import Queries

ODOMETRY_FILE = "odometry.tum"
"""Name of the file in the folder of a result."""

_TITLE = "LiDAR odometry of maptile-loc, made from "
"""Start of the file's first line; a JSON object with the origin of the odometry follows."""


def with_lidar_odometry(
    drive: Drive, settings: OdometrySettings, out: Path, progress: Progress = silent
) -> Drive:
    """Return the drive with an odometry made from its scans.

    The odometry is written to ``out/odometry.tum``. Its first line states what it was made from:
    the drive's name and sensors, the times of all scans, and the settings. A file that is there and
    has the same first line is used instead of computing the odometry again.

    Args:
        drive: A drive with scans.
        settings: How the odometry is made.
        out: Folder of the file; it exists.
        progress: Called with the step ``odometry``, the scans done and all scans.

    Returns:
        The drive with the new odometry, and a note about it.

    Raises:
        MaptileError: The scans do not determine the motion, or the file cannot be written.
    """
    path = out / ODOMETRY_FILE
    comment = _TITLE + json.dumps(_origin(drive, settings), sort_keys=True)
    track = _stored(path, comment)
    if track is None:
        _check_own(path)
    how = "reused"
    if track is None:
        how = "made from the scans"
        try:
            made = lidar_odometry(drive, settings, progress)
        except MaptileError as error:
            raise MaptileError(
                f"{error}; give it an odometry.tum, or use --submap 0 --every 0"
            ) from None
        write_tum(path, made, comment)
        track = read_tum(path)  # so that a second run has the same poses, to the last bit
    pieces = len(np.unique(track.segment))
    note = (
        f"odometry {how}: {track.travelled()[-1]:.0f} m in {pieces} "
        f"{'piece' if pieces == 1 else 'pieces'}, {len(track.t_ns)} of {len(drive.scans.t_ns)} "
        f"scans; {path}"
    )
    return replace(drive, odometry=track, notes=(*drive.notes, note))


def _origin(drive: Drive, settings: OdometrySettings) -> dict[str, object]:
    """Return what the odometry of a drive depends on."""
    t_ns = drive.scans.t_ns
    return {
        "drive": drive.name,
        "format": drive.format,
        "sensors": list(drive.scans.sensors),
        "scans": len(t_ns),
        "first_t_ns": t_ns[:1].tolist(),
        "last_t_ns": t_ns[-1:].tolist(),
        "times_sha256": sha256(t_ns.astype("<i8").tobytes()).hexdigest()[:16],
        "settings": settings.model_dump(mode="json"),
        "version": version("maptile-loc"),
    }


def _check_own(path: Path) -> None:
    """Check that a file that is to be replaced is damaged, or an odometry of this program."""
    if not path.exists():
        return
    with open_regular(path) as file:
        own = file.readline(1000).lower().startswith(f"# {_TITLE}".lower().encode("ascii"))
    try:
        read_tum(path)
    except MaptileError:
        return
    if not own:
        raise MaptileError(
            f"{path}: not made by maptile, so it is not replaced; choose another folder"
        )


def _stored(path: Path, comment: str) -> PoseTrack | None:
    """Return the track in ``path`` if it is complete and its first line is ``comment``."""
    try:
        with open_regular(path) as file:
            if file.readline() != f"# {comment}\n".encode("ascii"):
                return None
        return read_tum(path)
    except (OSError, ValueError, MaptileError):
        return None


def with_needed_odometry(
    drive: Drive,
    queries: Queries,
    odometry: str,
    settings: OdometrySettings,
    keep: str | Path | None,
    progress: Progress = silent,
) -> Drive:
    """Return the drive, with odometry made from its scans where that is needed or asked for.

    Args:
        drive: The drive.
        queries: Odometry is needed where they are defined by metres of travel, unless nothing is
            known of the motion between the scans.
        odometry: "auto": made if needed and the drive has none; "lidar": always made.
        settings: How it is made.
        keep: Folder in which it is kept, and found again; None: it is not kept.
        progress: Is called as the work proceeds.

    Raises:
        MaptileError: ``odometry`` is neither; the scans do not give an odometry.
    """
    if odometry not in ("auto", "lidar"):
        raise MaptileError(f"odometry {odometry!r}: there are auto and lidar")
    travel = queries.submap_m > 0 or queries.every_m > 0
    needed = drive.odometry is None and travel and not drive.apart
    if not needed and odometry == "auto":
        return drive
    if keep is not None:
        return with_lidar_odometry(drive, settings, Path(keep), progress)
    with tempfile.TemporaryDirectory() as folder:
        return with_lidar_odometry(drive, settings, Path(folder), progress)
