"""The odometry at the scans of a drive, and a little beyond the ends of its segments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import PoseTrack, Times
from data_prep.geometry import Array, se2_between, se2_compose, se2_from_se3

BEYOND_NS = 1_000_000_000
"""Poses are extrapolated by this time at most, nanoseconds."""

VELOCITY_NS = 100_000_000
"""The velocity is taken over this time, or what there is of it, nanoseconds."""


class ScanMotion(NamedTuple):
    """What the odometry knows of S scans.

    Attributes:
        t_ns: (S,) times, ascending.
        poses: (S, 3) x, y (metres), heading (radians) in any fixed frame.
        travelled: (S,) metres since the start of the odometry.
        segment: (S,) segment of the odometry; negative where it does not reach.
        beyond_s: (S,) seconds by which a pose is extrapolated; 0 where it is interpolated.
    """

    t_ns: Times
    poses: Array
    travelled: Array
    segment: NDArray[np.int32]
    beyond_s: Array


def scan_motion(odometry: PoseTrack | None, t_ns: Times) -> ScanMotion:
    """The odometry at (S,) times of scans, interpolated.

    Up to ``BEYOND_NS`` beyond the nearest end of a segment, the vehicle keeps the velocity and the
    turn rate that it has there.
    """
    count = len(t_ns)
    if odometry is None:
        unknown = np.full(count, -1, np.int32)
        return ScanMotion(t_ns, np.zeros((count, 3)), np.zeros(count), unknown, np.zeros(count))
    metres = odometry.travelled()
    travelled = np.interp((t_ns - t_ns[:1]) / 1e9, (odometry.t_ns - t_ns[:1]) / 1e9, metres)
    poses, segment = se2_from_se3(odometry.at(t_ns)), odometry.segment_at(t_ns)
    beyond_s = np.zeros(count)
    out = np.flatnonzero(segment < 0)
    nearest, before = _ends(odometry, t_ns[out])
    late = t_ns[out] - odometry.t_ns[nearest]
    used = (before != nearest) & (np.abs(late) <= BEYOND_NS)
    out, nearest, before, late = out[used], nearest[used], before[used], late[used]

    end, share = (
        se2_from_se3(odometry.poses[nearest]),
        late / (odometry.t_ns[nearest] - odometry.t_ns[before]),
    )
    moved = se2_between(se2_from_se3(odometry.poses[before]), end)
    # The chord of an arc points half of its turn away from the heading at its start. np.sinc of
    # x / pi is sin x / x: the chord over the arc, where x is half of the turn.
    turn = moved[:, 2] * share
    longer = share * np.sinc(turn / (2 * np.pi)) / np.sinc(moved[:, 2] / (2 * np.pi))
    chord = se2_compose(_turn(-moved[:, 2] / 2), moved)[:, :2] * longer[:, None]
    ahead = se2_compose(_turn(turn / 2), np.column_stack([chord, turn / 2]))
    poses[out] = se2_compose(end, ahead)
    travelled[out] = metres[nearest] + np.sign(late) * np.hypot(chord[:, 0], chord[:, 1])
    segment[out], beyond_s[out] = odometry.segment[nearest], np.abs(late) / 1e9
    return ScanMotion(t_ns, poses, travelled, segment, beyond_s)


def _ends(odometry: PoseTrack, t_ns: Times) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The nearest pose to each of (M,) times, and one from which the motion led there (or will).

    Both are of one segment; they are the same pose where the segment has no other.
    """
    times, segment = odometry.t_ns, odometry.segment
    right = np.clip(np.searchsorted(times, t_ns), 0, len(times) - 1)
    left = np.clip(right - 1, 0, None)
    nearest = np.where(np.abs(t_ns - times[left]) <= np.abs(t_ns - times[right]), left, right)
    later = np.searchsorted(times, times[nearest] + VELOCITY_NS, side="right") - 1
    earlier = np.searchsorted(times, times[nearest] - VELOCITY_NS)
    other = np.where(
        t_ns > times[nearest],
        np.minimum(earlier, nearest - 1),
        np.maximum(later, nearest + 1),
    )
    first = np.searchsorted(segment, segment[nearest])
    last = np.searchsorted(segment, segment[nearest], side="right") - 1
    return nearest, np.clip(other, first, last)


def _turn(angle: Array) -> Array:
    """(M, 3) motions that turn by an angle on the spot."""
    return np.column_stack([np.zeros((len(angle), 2)), angle])
