"""Odometry for a drive that has none: made from its scans, and kept beside the result."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_prep.drive import Drive, PoseTrack
from data_prep.errors import MaptileError
from data_prep.sources.formats.tum import read_tum, write_tum
from maptile_loc.odometry.lidar_odometry import OdometrySettings, lidar_odometry

FILE = "odometry.tum"

_TITLE = "LiDAR odometry of maptile-loc, made from "


def with_lidar_odometry(drive: Drive, settings: OdometrySettings, out: Path) -> Drive:
    """The drive with the motion that its scans tell in place of its odometry.

    The motion is written to ``out/odometry.tum``, under a line that says what it was made from:
    the drive's name and sensors, the times of all scans, and the settings. A file there under the
    same line is used as it is; anything else is made anew.

    Raises:
        MaptileError: The scans do not tell it, or the file cannot be written.
    """
    path = out / FILE
    comment = _TITLE + json.dumps(_made_from(drive, settings), sort_keys=True)
    track = _kept(path, comment)
    how = "as made before"
    if track is None:
        how = "made from the scans"
        total = len(drive.scans.t_ns)
        with tqdm(total=total, desc="odometry", unit="scan", disable=None) as bar:
            try:
                made = lidar_odometry(drive, settings, bar.update)
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


def _made_from(drive: Drive, settings: OdometrySettings) -> dict[str, object]:
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


def _kept(path: Path, comment: str) -> PoseTrack | None:
    """The track in ``path`` if it is whole and was made from the same, else None."""
    try:
        with path.open(encoding="ascii") as file:
            if file.readline() != f"# {comment}\n":
                return None
        return read_tum(path)
    except (OSError, ValueError, MaptileError):
        return None
