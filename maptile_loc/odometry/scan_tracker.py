"""The tracker of LiDAR odometry: registers each scan to a local map of the scans before it."""

from __future__ import annotations

from collections import deque

import numpy as np

from data_prep.drive import MAX_BRIDGED_GAP_NS
from data_prep.geometry import Array, se3_inverse
from maptile_loc.odometry.levelling import Leveller, upright
from maptile_loc.odometry.local_map import LocalMap
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.odometry.register import Fit
from maptile_loc.odometry.sweep import ScanParts, Sweep, split_ground
from maptile_loc.odometry.velocity import motion_of, motion_size, velocity_of

MIN_POINTS = 100
"""Scans with fewer points within range are skipped."""

_MIN_STANDING = 30
"""A segment cannot start with a scan that has fewer thinned points above the ground."""

_MISSES = 3
"""After this number of rejected scans in a row a new segment starts."""

_GUESS_STEP_M = 2.0
"""Distance between two guesses of a segment's first motion, metres."""

_GUESS_AHEAD_M = 30.0
"""Longest guess of the first motion, metres."""

_BACKWARD_M_S = 5.0
"""Highest speed backward of the guesses of the first motion, metres per second."""

_REFINEMENTS = 2
"""Times that a guess is registered; each time the motion in both scans is compensated anew."""

_AS_GOOD = 0.97
"""The shortest first motion is taken whose share is at least this times the best share."""

_CERTAIN_SHARE = 0.8
"""No more guesses are tried after one with at least this share."""

_VELOCITY_NS = 80_000_000
"""The velocity is taken over at least this time, nanoseconds, to average the errors of poses."""

_LAST = 64
"""Poses that are kept for that: those of scans at up to 800 Hz."""

_STEADY_M = 0.05
"""Standard deviation of a predicted position right after the last pose, metres."""

_STEADY_M_S2 = 1.5
"""Growth of that deviation with the squared time since the last pose, metres per second squared."""

_JUMP_M = 0.3
"""Largest difference of a registered position from its prediction right after a pose, metres."""

_JUMP_M_S2 = 12.0
"""Growth of that difference with the squared time, metres per second squared."""

_JUMP_RAD = 0.05
"""Largest difference of a registered attitude from its prediction right after a pose, radians."""

_JUMP_RAD_S2 = 3.0
"""Growth of that difference with the squared time, radians per second squared."""

_TURN_RAD_S = 1.5
"""Highest turn rate of a segment's first motion, radians per second."""


class ScanTracker:
    """Finds a pose for each scan by registering it to the local map of its segment.

    A scan is predicted to continue the last motion. It is rejected if it does not fit the map or
    fits only after an impossible motion. A new segment starts after three rejected scans in a row,
    or after two seconds without a scan.
    """

    def __init__(self, settings: OdometrySettings) -> None:
        self._settings = settings
        self._last = deque[tuple[int, Array]](maxlen=_LAST)
        self._leveller: Leveller | None = None
        self._start = np.eye(4)
        self._misses = 0
        self.segment = -1

    @property
    def started(self) -> bool:
        """Whether any scan had enough points."""
        return self.segment >= 0

    def add(self, t_ns: int, scan: Sweep) -> Array | None:
        """Take the next scan: register it, reject it, or start a segment with it.

        Args:
            t_ns: Time of the scan, nanoseconds; later than that of the scan before.
            scan: Its points within range.

        Returns:
            (4, 4) pose of the vehicle at the scan, in segment ``segment``: metres, z up, level on
            average. Each segment starts level, where the one before ends. None for a scan that is
            rejected, or of less than ``MIN_POINTS`` points.
        """
        if len(scan.points) < MIN_POINTS:
            return None
        parts = split_ground(scan, self._settings.thin_m)
        if not self._last or t_ns - self._last[-1][0] > MAX_BRIDGED_GAP_NS:
            return self._start_segment(t_ns, parts)
        pose = self._second(t_ns, parts) if len(self._last) == 1 else self._next(t_ns, parts)
        if pose is not None:
            self._last.append((t_ns, pose))
            self._misses = 0
            assert self._leveller is not None
            return self._start @ self._leveller.add(pose)
        self._misses += 1
        return self._start_segment(t_ns, parts) if self._misses == _MISSES else None

    def _start_segment(self, t_ns: int, scan: ScanParts) -> Array:
        if self._leveller is not None:
            self._start = upright(self._start @ self._leveller.pose)
        self._leveller = Leveller(np.eye(4), self._settings.level_over_m)
        self._last.clear()
        self._last.append((t_ns, np.eye(4)))
        self._first = scan
        self._misses = 0
        self.segment += 1
        return self._start @ self._leveller.pose

    def _second(self, t_ns: int, scan: ScanParts) -> Array | None:
        """Return the pose of a segment's second scan, or None if no guess of the motion fits."""
        if scan.standing.shape[1] < _MIN_STANDING:
            return None
        seconds = (t_ns - self._last[-1][0]) / 1e9
        reach = self._settings.max_speed_m_s * seconds
        fits: list[Fit] = []
        for step in _first_steps(reach, seconds):
            motion = np.eye(4)
            motion[0, 3] = step
            for _ in range(_REFINEMENTS):
                fit = self._fit_pair(scan, motion, seconds)
                motion = fit.pose
            metres, turn = motion_size(motion)
            slow = metres <= reach + _JUMP_M and turn <= _TURN_RAD_S * seconds + _JUMP_RAD
            if slow and self._map.accepts(fit):
                fits.append(fit)
                if fit.share >= _CERTAIN_SHARE:
                    break
        if not fits:
            return None
        enough = _AS_GOOD * max(fit.share for fit in fits)
        chosen = next(fit for fit in fits if fit.share >= enough)
        self._fit_pair(scan, chosen.pose, seconds)
        self._map.insert(scan.at_rest(velocity_of(chosen.pose, seconds)), chosen.pose)
        return chosen.pose

    def _fit_pair(self, scan: ScanParts, motion: Array, seconds: float) -> Fit:
        """Register the second scan to a new map of the first, both compensated for a motion.

        Args:
            scan: The second scan of a segment.
            motion: (4, 4) guess of the motion from the first scan to the second.
            seconds: Time between them.
        """
        velocity = velocity_of(motion, seconds)
        self._map = LocalMap(self._settings)
        self._map.insert(self._first.at_rest(velocity), np.eye(4))
        return self._map.fit(scan.at_rest(velocity), motion)

    def _next(self, t_ns: int, scan: ScanParts) -> Array | None:
        """Return the pose of a scan, predicted by the last motion; None if it is rejected."""
        last_ns, last = self._last[-1]
        seconds = (t_ns - last_ns) / 1e9
        velocity = self._last_velocity()
        guess = last @ motion_of(velocity, seconds)
        at_rest = scan.at_rest(velocity)
        fit = self._map.fit(at_rest, guess, _STEADY_M + _STEADY_M_S2 * seconds**2)
        metres, turn = motion_size(se3_inverse(guess) @ fit.pose)
        jumps = (
            metres > _JUMP_M + _JUMP_M_S2 * seconds**2
            or turn > _JUMP_RAD + _JUMP_RAD_S2 * seconds**2
        )
        if jumps or not self._map.accepts(fit):
            return None
        self._map.insert(at_rest, fit.pose)
        return fit.pose

    def _last_velocity(self) -> Array:
        """Return the (6,) velocity and turn rate over the last poses of the segment."""
        last_ns, last = self._last[-1]
        earlier = [entry for entry in self._last if last_ns - entry[0] >= _VELOCITY_NS]
        then_ns, then = earlier[-1] if earlier else self._last[0]
        return velocity_of(se3_inverse(then) @ last, (last_ns - then_ns) / 1e9)


def _first_steps(reach_m: float, seconds: float) -> list[float]:
    """Return guesses of the distance between a segment's first two scans, the shortest first.

    Args:
        reach_m: Longest possible distance, metres.
        seconds: Time between the scans.

    Returns:
        Metres; negative is backward.
    """
    ahead = np.arange(0.0, min(reach_m, _GUESS_AHEAD_M) + _GUESS_STEP_M, _GUESS_STEP_M)
    back = -ahead[(ahead > 0) & (ahead < _BACKWARD_M_S * seconds + _GUESS_STEP_M)]
    steps = np.concatenate([ahead, back])
    return steps[np.argsort(np.abs(steps), kind="stable")].tolist()
