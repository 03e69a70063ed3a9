"""Odometry from a drive's own scans, for drives without an odometry.

Each scan is registered to a local map of the scans before it, see ``scan_tracker``. Where the scans
do not determine the motion, a new segment starts: a jump is never reported as a motion.
"""

from __future__ import annotations

import numpy as np

from data_prep.drive import Drive, PoseTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.odometry.scan_tracker import MIN_POINTS, ScanTracker
from maptile_loc.odometry.sweep import gather, is_planar, rounds

_PLANAR_SCANS = 100
"""The drive is refused if this number of scans lie in planes before any other has been seen."""


def lidar_odometry(
    drive: Drive, settings: OdometrySettings, progress: Progress = silent
) -> PoseTrack:
    """Return the motion of a vehicle, found from its scans alone.

    The same scans give the same poses on any number of threads, and independently of the order of
    the points in a scan (except for rounding).

    Args:
        drive: The scans. Where points have times, the motion within a scan is compensated. Scans of
            several sensors are joined, one of each at a time.
        settings: How the motion is found.
        progress: Called with the step ``odometry``, the scans done and all scans.

    Returns:
        A pose of the vehicle frame (metres, z up) for each accepted scan, or joined scans. The
        first pose is the identity; every segment starts level.

    Raises:
        MaptileError: The scans lie in planes (those of a push-broom sensor cannot be registered to
            one another), have too few points, or do not determine the motion.
    """
    tracker = ScanTracker(settings)
    found: list[tuple[int, Array, int]] = []
    planar, done, total = 0, 0, len(drive.scans.t_ns)
    progress("odometry", 0, total)
    for block in rounds(drive.scans):
        flat = is_planar(block)
        planar += int(flat.sum())
        if planar >= _PLANAR_SCANS and not tracker.started:
            break
        scan = gather(block, ~flat, settings.min_range_m, settings.max_range_m)
        begun = int(block.t_ns[0])
        pose = tracker.add(begun, scan)
        if pose is not None:
            found.append((begun, pose, tracker.segment))
        done += len(block.t_ns)
        progress("odometry", done, total)
    if not tracker.started:
        raise MaptileError(f"{drive.name}: no odometry from its scans: {_reason(planar)}")
    t_ns, poses, segment = (np.array(column) for column in zip(*found, strict=True))
    track = PoseTrack(t_ns, poses, segment.astype(np.int32))
    if total > 1 and not (np.diff(track.segment) == 0).any():
        raise MaptileError(
            f"{drive.name}: no odometry from its scans: no two of them fit together (open ground "
            "without objects, or too far apart)"
        )
    return track


def _reason(planar: int) -> str:
    """Return why no scan could be used, given the number of planar scans."""
    if planar:
        return "each lies in a plane (push-broom LiDAR) and cannot be fitted to the next"
    return f"none has {MIN_POINTS} points within range"
