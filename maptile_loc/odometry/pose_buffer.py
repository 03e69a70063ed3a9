"""The latest poses of an odometry that arrives while the vehicle drives."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from data_prep.drive import MAX_BRIDGED_GAP_NS
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_inverse
from maptile_loc.odometry.velocity import velocity_of

_KEEP_NS = 3_000_000_000
"""Poses are kept for this time, nanoseconds."""

_AHEAD_NS = 1_000_000_000
"""Poses are extrapolated by this time at most, nanoseconds."""

_VELOCITY_NS = 100_000_000
"""The velocity is taken over this time, or what there is of it, nanoseconds."""

_RIGID = 1e-3
"""Largest deviation of a rotation's columns from orthonormal ones."""


class Motion(NamedTuple):
    """Where the odometry has a vehicle at one time.

    Attributes:
        pose: (4, 4) vehicle -> fixed frame, metres.
        travelled: Metres travelled in the plane since the start; a gap adds 0.
        segment: Number of the odometry's segment; the motion between two segments is unknown.
    """

    pose: Array
    travelled: float
    segment: int


class PoseBuffer:
    """Poses at increasing times; those of the last seconds are kept."""

    def __init__(self) -> None:
        self._t_ns = np.zeros(256, np.int64)
        self._poses = np.zeros((256, 4, 4))
        self._rows = np.zeros((256, 7))
        self._travelled = np.zeros(256)
        self._segment = np.zeros(256, np.int64)
        self._start = self._stop = 0
        self._before: tuple[int, list[float]] | None = None

    @property
    def last_ns(self) -> int | None:
        """Time of the last pose, nanoseconds; None before the first."""
        return int(self._t_ns[self._stop - 1]) if self._stop else None

    def add(self, t_ns: int, pose: Array, restart: bool = False) -> None:
        """Append a pose.

        Args:
            t_ns: Its time, nanoseconds; later than that of the pose before.
            pose: (4, 4) vehicle -> any fixed frame, z up, metres.
            restart: Whether the motion since the pose before is unknown. It is, too, after a gap of
                more than two seconds.

        Raises:
            MaptileError: The time is not later, or the pose is no rigid motion.
        """
        pose = np.asarray(pose, np.float64)
        rotation = pose[:3, :3] if pose.shape == (4, 4) else np.zeros((3, 3))
        if not np.isfinite(pose).all() or np.abs(rotation.T @ rotation - np.eye(3)).max() > _RIGID:
            raise MaptileError(f"odometry at {t_ns} ns: not a (4, 4) matrix of a rigid motion")
        travelled, segment = 0.0, 0
        last_ns = self.last_ns
        if last_ns is not None:
            if t_ns <= last_ns:
                raise MaptileError(f"odometry at {t_ns} ns: not after the pose before, {last_ns}")
            last = self._stop - 1
            gap = restart or t_ns - last_ns > MAX_BRIDGED_GAP_NS
            step = pose[:2, 3] - self._poses[last, :2, 3]
            travelled = self._travelled[last] + (0.0 if gap else np.hypot(*step))
            segment = self._segment[last] + gap
        self._make_room(t_ns)
        at = self._stop
        self._t_ns[at], self._poses[at] = t_ns, pose
        self._rows[at] = [*pose[:3, 3], *_quaternion(rotation)]
        self._before = None
        self._travelled[at], self._segment[at] = travelled, segment
        self._stop += 1

    def at(self, t_ns: int) -> Motion | None:
        """The motion at a time: interpolated, or extrapolated by a second at most.

        None where the odometry does not cover the time, or in a gap between two segments.
        """
        if self._stop == 0:
            return None
        kept = slice(self._start, self._stop)
        times, last_ns = self._t_ns[kept], int(self._t_ns[self._stop - 1])
        left = self._start + int(np.searchsorted(times, t_ns, side="right")) - 1
        if left < self._start or t_ns - last_ns > _AHEAD_NS:
            return None
        travelled, segment = float(self._travelled[left]), int(self._segment[left])
        if t_ns > last_ns:
            pose = self._extrapolated(t_ns, left)
            ahead = pose[:2, 3] - self._poses[left, :2, 3]
            return Motion(pose, travelled + math.hypot(*ahead), segment)
        if t_ns > self._t_ns[left]:
            if self._segment[left + 1] != segment:
                return None
            share = int(t_ns - self._t_ns[left]) / int(self._t_ns[left + 1] - self._t_ns[left])
            travelled += share * float(self._travelled[left + 1] - travelled)
        return Motion(self._pose(t_ns), travelled, segment)

    def _pose(self, t_ns: int) -> Array:
        """(4, 4) pose at a time between the first pose and the last one."""
        kept = self._t_ns[self._start : self._stop]
        left = self._start + int(np.searchsorted(kept, t_ns, side="right")) - 1
        if t_ns == self._t_ns[left]:
            return self._poses[left].copy()
        return _matrix(self._between(t_ns, left))

    def _between(self, t_ns: int, left: int) -> list[float]:
        """The pose at a time from pose number ``left`` to the next one: x y z qx qy qz qw."""
        begin, end = self._t_ns[left : left + 2].tolist()
        before, after = self._rows[left : left + 2].tolist()
        return _blend(before, after, (t_ns - begin) / (end - begin))

    def _extrapolated(self, t_ns: int, last: int) -> Array:
        """(4, 4) pose at a time after the last one: the last motion goes on."""
        last_ns = int(self._t_ns[last])
        row = self._rows[last].tolist()
        if self._before is None:
            mine = self._segment[self._start : self._stop] == self._segment[last]
            times = self._t_ns[self._start : self._stop][mine]
            begin = max(last_ns - _VELOCITY_NS, int(times[0]))
            if begin == last_ns:
                return self._poses[last].copy()
            left = self._stop - len(times) + int(np.searchsorted(times, begin, side="right")) - 1
            self._before = begin, self._between(begin, left)
        begin, before = self._before
        return _matrix(_blend(before, row, (t_ns - begin) / (last_ns - begin)))

    def velocity(self, t_ns: int, segment: int) -> Array:
        """The (6,) velocity around a time, within a segment that has poses.

        Returns:
            Metres per second and radians per second, in the vehicle frame.
        """
        mine = self._segment[self._start : self._stop] == segment
        own = self._t_ns[self._start : self._stop][mine]
        end = min(t_ns + _VELOCITY_NS // 2, int(own[-1]))
        begin = max(end - _VELOCITY_NS, int(own[0]))
        if end == begin:
            return np.zeros(6)
        motion = se3_inverse(self._pose(begin)) @ self._pose(end)
        return velocity_of(motion, (end - begin) / 1e9)

    def _make_room(self, t_ns: int) -> None:
        """Drop old poses, and move the others to the front or to larger arrays if these are full.

        The last two poses are kept, however old.
        """
        while self._stop - self._start > 2 and self._t_ns[self._start] < t_ns - _KEEP_NS:
            self._start += 1
        if self._stop < len(self._t_ns):
            return
        kept = slice(self._start, self._stop)
        count = self._stop - self._start
        size = max(256, 2 * count)
        for name in ("_t_ns", "_poses", "_rows", "_travelled", "_segment"):
            old = getattr(self, name)
            new = np.zeros((size, *old.shape[1:]), old.dtype)
            new[:count] = old[kept]
            setattr(self, name, new)
        self._start, self._stop = 0, count


# One pose at a time, plain numbers are many times faster than arrays.


def _quaternion(rotation: Array) -> list[float]:
    """The quaternion x y z w of a (3, 3) rotation, not of unit length.

    Shepperd, Quaternion from rotation matrix (J. Guidance and Control 1978).
    """
    (a, b, c), (d, e, f), (g, h, i) = rotation.tolist()
    largest = max(a, e, i, a + e + i)
    if largest == a + e + i:
        return [h - f, c - g, d - b, 1 + largest]
    if largest == a:
        return [1 + a - e - i, b + d, c + g, h - f]
    if largest == e:
        return [b + d, 1 + e - a - i, f + h, c - g]
    return [c + g, f + h, 1 + i - a - e, d - b]


def _blend(begin: list[float], end: list[float], share: float) -> list[float]:
    """A pose between two, or beyond the second: linear in position, slerp in rotation.

    Args:
        begin: x y z qx qy qz qw, with a quaternion of any length, as all are here.
        end: Likewise.
        share: 0 at the first, 1 at the second, larger beyond.
    """
    (x0, y0, z0, *a), (x1, y1, z1, *b) = begin, end
    lengths = math.hypot(*a), math.hypot(*b)
    cosine = sum(p * q for p, q in zip(a, b, strict=True)) / math.prod(lengths)
    sign = -1.0 if cosine < 0 else 1.0
    angle = math.acos(min(abs(cosine), 1.0))
    near, far = 1 - share, share
    if angle > 1e-6:
        near, far = (math.sin(part * angle) / math.sin(angle) for part in (near, far))
    near, far = near / lengths[0], sign * far / lengths[1]
    mixed = [near * p + far * q for p, q in zip(a, b, strict=True)]
    return [*(p + share * (q - p) for p, q in ((x0, x1), (y0, y1), (z0, z1))), *mixed]


def _matrix(row: list[float]) -> Array:
    """The (4, 4) pose of x y z qx qy qz qw."""
    east, north, up, *quaternion = row
    norm = math.hypot(*quaternion)
    x, y, z, w = (p / norm for p in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), east],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), north],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), up],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )
