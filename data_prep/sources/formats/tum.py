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
from data_prep.sources.formats.common import in_time, said_of_rows
from data_prep.sources.points.file_times import DATES_NS, UNITS_NS
from data_prep.sources.storage.tree import Node, read_node_text

_LINE = "eight numbers: t x y z qx qy qz qw"
"""What a line is."""

_NANOSECONDS = 10**14
"""Times from here on that are no dates are nanoseconds, not seconds."""

_LARGEST = 2**63
"""Times of this many nanoseconds are no times."""

_LEAST_UPRIGHT = 0.7
"""Vertical component of the z axis of a vehicle on a road, in the odometry's frame, is more."""

_LEAST_TRAVEL_M = 10.0
"""Shorter tracks do not show that they lead up or down, metres."""

FARTHEST_M = 1e8
"""Positions are nearer to the origin of their frame than this, metres."""

_LARGEST_QUATERNION = 1e4
"""The parts of quaternions are smaller; they are normalised."""

NEW_SEGMENT = "# segment"
"""Comment line before the first pose of a new segment."""


def read_tum(path: Node, notes: list[str] | None = None) -> PoseTrack:
    """Read poses, sorted by time; of poses at the same time, the first is used.

    Numbers may be apart by blanks, tabs or commas. Times are in the unit (seconds, milli-, micro-
    or nanoseconds) in which they are dates; others are seconds, from 1e14 on nanoseconds. Lines are
    appended to ``notes`` as by ``pose_track``.

    Raises:
        MaptileError: The file cannot be read, or a line is not a pose.
    """
    try:
        lines = read_node_text(path, "utf-8-sig").splitlines()
    except (OSError, ValueError):
        raise MaptileError(f"{path}: not readable as text; expected lines of {_LINE}") from None
    times: list[Decimal] = []
    rows: list[list[float]] = []
    segment: list[int] = []
    begun = 0
    for number, line in enumerate(lines, 1):
        begun += line.strip() == NEW_SEGMENT
        found = pose_in(path, number, line)
        if found is None:
            continue
        times.append(found[0])
        rows.append(found[1])
        segment.append(begun)
    if not rows:
        raise MaptileError(f"{path}: no pose in it; expected lines of {_LINE}")
    t_ns = times_ns(path, times)
    return pose_track(path, t_ns, np.array(rows), np.array(segment, np.int32), notes)


def pose_in(path: Node, number: int, line: str) -> tuple[Decimal, list[float]] | None:
    """The time of a line, and the seven numbers of its pose; None of a comment or a blank line.

    Raises:
        MaptileError: It is another line; ``path`` and ``number`` are for the message.
    """
    words = line.replace(",", " ").split()
    if not words or words[0].startswith("#"):
        return None
    try:
        time, row = Decimal(words[0]), [float(word) for word in words[1:]]
        known = time.is_finite() and len(row) == 7 and np.isfinite(row).all()
    except (ValueError, InvalidOperation):
        known = False
    if not known or abs(time) >= _LARGEST:
        shown = line.strip()[:60]
        raise MaptileError(f"{path}: line {number}: expected {_LINE}, found {shown!r}")
    return time, row


def times_ns(path: Node, times: list[Decimal]) -> Times:
    """(N,) nanoseconds of the times in a file."""
    middle = sorted(times)[len(times) // 2]
    unit = next((one for one in UNITS_NS if DATES_NS[0] <= middle * one <= DATES_NS[1]), None)
    units = [unit or (1 if abs(time) >= _NANOSECONDS else UNITS_NS[0]) for time in times]
    t_ns = [int(time * one) for time, one in zip(times, units, strict=True)]
    if max(map(abs, t_ns)) >= _LARGEST:
        raise MaptileError(f"{path}: the time {max(times, key=abs)} is no time; expected seconds")
    return np.array(t_ns, np.int64)


def pose_track(
    path: Node,
    t_ns: Times,
    rows: Array,
    segment: NDArray[np.int32],
    notes: list[str] | None = None,
) -> PoseTrack:
    """Make a track of the poses in a file, sorted by time.

    Args:
        path: The file, for error messages.
        t_ns: (N,) times; of poses at the same time, the first is used.
        rows: (N, 7) x y z (metres) qx qy qz qw.
        segment: (N,) segment of each pose.
        notes: A line is appended on rows whose time stamps are wrong, which are left out, and on a
            z axis that does not point up.

    Raises:
        MaptileError: A quaternion is zero, or a number is too large for a pose.
    """
    check_size(path, rows)
    order = in_time(t_ns)
    if notes is not None:
        notes += said_of_rows(path.name, len(t_ns), len(order))
    poses = se3_from_quaternion(rows[order, :3], rows[order, 3:])
    if notes is not None:
        notes += _said_of_axes(path.name, poses)
    return PoseTrack(t_ns[order], poses, np.maximum.accumulate(segment[order]))


def _said_of_axes(what: str, poses: Array) -> list[str]:
    """A note on (N, 4, 4) poses whose z axis does not point up; none if it does."""
    moved = np.abs(np.diff(poses[:, :3, 3], axis=0)).sum(axis=0)
    rises = moved[2] > max(_LEAST_TRAVEL_M, float(np.hypot(*moved[:2])))
    if np.median(poses[:, 2, 2]) >= _LEAST_UPRIGHT and not rises:
        return []
    text = "its z axis does not point up; are its quaternions w x y z, or its poses a camera's?"
    return [f"{what}: {text} Expected are x forward, y left, z up, and qx qy qz qw"]


def check_size(path: Node, rows: Array) -> None:
    """Check that the numbers of poses can be those of a vehicle.

    Args:
        path: The file, for the message.
        rows: (N, 7) x y z (metres) qx qy qz qw.

    Raises:
        MaptileError: A position is farther than ``FARTHEST_M``, or a quaternion is zero or far
            from 1.
    """
    if (np.abs(rows[:, 3:]).max(axis=1) < 1e-6).any():
        raise MaptileError(f"{path}: a quaternion is zero")
    largest = np.abs(rows).max(axis=0, initial=0)
    if not (largest[:3].max() < FARTHEST_M and largest[3:].max() < _LARGEST_QUATERNION):
        row = int(np.abs(rows).max(axis=1).argmax())
        raise MaptileError(
            f"{path}: pose {row + 1} has the number {np.abs(rows[row]).max():g}: no pose of a "
            "vehicle; x y z are metres, qx qy qz qw a unit quaternion"
        )


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
            lines.append(NEW_SEGMENT)
        lines.append(f"{second}.{nanosecond:09d} " + " ".join(f"{value:.9f}" for value in row))
    write_text(path, "\n".join(lines) + "\n")
