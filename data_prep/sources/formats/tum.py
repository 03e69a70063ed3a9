"""Trajectories in TUM's text format: lines of seconds x y z qx qy qz qw.

A comment line ``# segment`` starts a new segment: the motion to the next line is unknown. Other
programs skip it as a comment.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.drive import PoseTrack, Times
from data_prep.errors import MaptileError
from data_prep.files import write_text
from data_prep.geometry import Array, se3_from_quaternion
from data_prep.sources.formats.common import increasing
from data_prep.sources.storage.tree import Node

_NEW_SEGMENT = "# segment"
"""Comment line before the first pose of a new segment."""


def read_tum(path: Node) -> PoseTrack:
    """Read poses, sorted by time; of poses at the same time, the first is used.

    Raises:
        MaptileError: The file cannot be read, or a line is not a pose.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        words = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        t_ns = np.array([int(Decimal(row[0]) * 1_000_000_000) for row in words], np.int64)
        rows = np.array([row[1:] for row in words], np.float64)
    except (OSError, ValueError, OverflowError, InvalidOperation):
        rows = np.empty(0)
    if rows.ndim != 2 or rows.shape[1] != 7 or not np.isfinite(rows).all():
        raise MaptileError(f"{path}: expected lines of eight numbers: t x y z qx qy qz qw")
    begins = np.cumsum([line.strip() == _NEW_SEGMENT for line in lines])
    is_row = [bool(line.strip()) and not line.startswith("#") for line in lines]
    return pose_track(path, t_ns, rows, begins[is_row].astype(np.int32))


def pose_track(path: Node, t_ns: Times, rows: Array, segment: NDArray[np.int32]) -> PoseTrack:
    """Make a track of the poses in a file, sorted by time.

    Args:
        path: The file, for error messages.
        t_ns: (N,) times; of poses at the same time, the first is used.
        rows: (N, 7) x y z (metres) qx qy qz qw.
        segment: (N,) segment of each pose.

    Raises:
        MaptileError: A quaternion is zero.
    """
    if (np.linalg.norm(rows[:, 3:], axis=1) < 1e-6).any():
        raise MaptileError(f"{path}: a quaternion is zero")
    order = np.argsort(t_ns, kind="stable")
    order = order[increasing(t_ns[order])]
    poses = se3_from_quaternion(rows[order, :3], rows[order, 3:])
    return PoseTrack(t_ns[order], poses, np.maximum.accumulate(segment[order]))


def write_tum(path: Path, track: PoseTrack, comment: str) -> None:
    """Write a track to ``path`` atomically, with a first line of ``comment``."""
    seconds, nanoseconds = np.divmod(track.t_ns, 1_000_000_000)
    quaternions = Rotation.from_matrix(track.poses[:, :3, :3]).as_quat()
    values = np.concatenate([track.poses[:, :3, 3], quaternions], axis=1)
    begins = np.diff(track.segment, prepend=track.segment[:1]) != 0
    lines = [f"# {comment}"]
    rows = zip(seconds.tolist(), nanoseconds.tolist(), values.tolist(), begins, strict=True)
    for second, nanosecond, row, begin in rows:
        if begin:
            lines.append(_NEW_SEGMENT)
        lines.append(f"{second}.{nanosecond:09d} " + " ".join(f"{value:.9f}" for value in row))
    write_text(path, "\n".join(lines) + "\n")
