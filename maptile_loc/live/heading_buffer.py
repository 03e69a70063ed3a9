"""The latest headings of a live vehicle, from a compass or an INS."""

from __future__ import annotations

from collections import deque

import numpy as np

from data_prep.drive import MAX_HEADING_AGE_NS, HeadingTrack
from data_prep.errors import MaptileError
from data_prep.geometry import se2_from_se3, wrap_angle
from maptile_loc.odometry.pose_buffer import Motion, PoseBuffer

KEEP_NS = 3_000_000_000
"""Headings are kept for this time, nanoseconds."""


class HeadingBuffer:
    """The headings of the last seconds.

    Args:
        convergence: Meridian convergence of the map, radians: grid heading less true heading.
    """

    def __init__(self, convergence: float) -> None:
        self._convergence = convergence
        self._headings: deque[tuple[int, float]] = deque()

    def add(self, t_ns: int, heading: float) -> None:
        """Append a true heading, radians counter-clockwise from true east.

        Raises:
            MaptileError: The time is not later than that of the one before, or it is not finite.
        """
        if not np.isfinite(heading) or (self._headings and t_ns <= self._headings[-1][0]):
            raise MaptileError(f"heading at {t_ns} ns: expected finite values at increasing times")
        self._headings.append((t_ns, heading))
        while len(self._headings) > 2 and self._headings[0][0] < t_ns - KEEP_NS:
            self._headings.popleft()

    def at(self, t_ns: int, motion: Motion, poses: PoseBuffer) -> float | None:
        """Radians from grid east at a time; None if the heading is not known then.

        It is interpolated; after the last one, it is carried on by the odometry's turn since then.

        Args:
            t_ns: The time, nanoseconds.
            motion: The vehicle's motion at it.
            poses: The odometry.
        """
        if not self._headings:
            return None
        times, values = (np.array(column) for column in zip(*self._headings, strict=True))
        late = t_ns - int(times[-1])
        if late >= MAX_HEADING_AGE_NS:
            return None
        heading = float(HeadingTrack(times, values).at(np.array([t_ns]))[0])
        then = poses.at(int(times[-1])) if late > 0 else None
        if then is not None and then.segment == motion.segment:
            heading += float(se2_from_se3(motion.pose)[2] - se2_from_se3(then.pose)[2])
        return float(wrap_angle(heading + self._convergence))
