"""A drive: scans, odometry, heading and truth, each a track of its own.

Truth stays out: whatever estimates a trajectory is handed ``drive.without_truth()``, and nothing in
``scans``, ``odometry`` or ``heading`` holds an absolute position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array, interpolate_angle, interpolate_se3

Times = NDArray[np.int64]


@dataclass(frozen=True)
class ScanBlock:
    """The points of some consecutive scans, each in the vehicle frame at its own scan's time.

    Attributes:
        t_ns: (S,) time of each scan.
        points: (N, 3) float32, vehicle frame (x forward, y left, z up), metres, all finite.
        scan: (N,) int32, which of the S scans a point belongs to; sorted.
        origin: (S, 3) float32, where the sensor is in the vehicle frame.
        seconds: (N,) float32, when each point was measured, relative to its scan's time; None
            where that is not known, or the vehicle's motion has been undone already.
        label: (N,) int32, the data set's own number of what a point belongs to; None where
            a scan has none.
    """

    t_ns: Times
    points: NDArray[np.float32]
    scan: NDArray[np.int32]
    origin: NDArray[np.float32]
    seconds: NDArray[np.float32] | None = None
    label: NDArray[np.int32] | None = None


class ScanSource(Protocol):
    """Scans that are read when they are asked for."""

    @property
    def t_ns(self) -> Times:
        """(S,) time of every scan of every sensor used, sorted."""
        ...

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors, for people."""
        ...

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive).

        Raises:
            MaptileError: A scan file is missing, cut short or not of its format.
        """
        ...


@dataclass(frozen=True)
class PoseTrack:
    """Relative motion: where the vehicle frame is in a frame of arbitrary origin and heading.

    Attributes:
        t_ns: (N,) strictly increasing.
        poses: (N, 4, 4) float64, z up; only differences within one segment mean anything.
        segment: (N,) int32, non-decreasing; the motion from one segment to the next is unknown.
    """

    t_ns: Times
    poses: Array
    segment: NDArray[np.int32]

    def at(self, query_ns: Times) -> Array:
        """(M, 4, 4) interpolated poses; outside the track the nearest end's pose."""
        return interpolate_se3(self.t_ns, self.poses, query_ns)

    def segment_at(self, query_ns: Times) -> NDArray[np.int32]:
        """(M,) segment of each time, -1 where none covers it.

        A time inside a gap between two segments, or outside the track, has none.
        """
        left = np.searchsorted(self.t_ns, query_ns, side="right") - 1
        inside = (left >= 0) & (query_ns <= self.t_ns[-1])
        left = np.clip(left, 0, len(self.t_ns) - 1)
        right = np.clip(left + 1, 0, len(self.t_ns) - 1)
        on_pose = self.t_ns[left] == query_ns
        joined = self.segment[left] == self.segment[right]
        return np.where(inside & (on_pose | joined), self.segment[left], -1).astype(np.int32)

    def travelled(self) -> Array:
        """(N,) metres travelled in the plane since the start; a step between segments counts 0."""
        step = np.linalg.norm(np.diff(self.poses[:, :2, 3], axis=0), axis=1)
        step[np.diff(self.segment) != 0] = 0.0
        return np.concatenate([[0.0], np.cumsum(step)])


@dataclass(frozen=True)
class HeadingTrack:
    """The vehicle's true heading, from a compass or an INS.

    Attributes:
        t_ns: (N,) strictly increasing.
        heading: (N,) radians, counter-clockwise from true east (not grid east).
    """

    t_ns: Times
    heading: Array

    def at(self, query_ns: Times) -> Array:
        """(M,) interpolated true headings; NaN a second or more from the nearest sample."""
        right = np.clip(np.searchsorted(self.t_ns, query_ns), 0, len(self.t_ns) - 1)
        left = np.clip(right - 1, 0, None)
        nearest = np.minimum(abs(self.t_ns[left] - query_ns), abs(self.t_ns[right] - query_ns))
        heading = interpolate_angle(self.t_ns, self.heading, query_ns)
        return np.where(nearest < 1_000_000_000, heading, np.nan)


@dataclass(frozen=True)
class TruthTrack:
    """Where the vehicle frame's origin really was: for evaluation only.

    Attributes:
        t_ns: (N,) strictly increasing.
        latitude, longitude: (N,) degrees, WGS 84.
        heading: (N,) radians, counter-clockwise from true east.
    """

    t_ns: Times
    latitude: Array
    longitude: Array
    heading: Array

    def at(self, query_ns: Times) -> tuple[Array, Array, Array]:
        """(M,) latitude, longitude, heading; NaN where the track does not cover the time.

        A time is covered between two samples no more than two seconds apart.
        """
        seconds, query = (self.t_ns - self.t_ns[0]) / 1e9, (query_ns - self.t_ns[0]) / 1e9
        right = np.clip(np.searchsorted(self.t_ns, query_ns), 0, len(self.t_ns) - 1)
        left = np.clip(right - 1, 0, None)
        exact = self.t_ns[right] == query_ns
        gap = self.t_ns[right] - self.t_ns[left] > 2_000_000_000
        outside = (query_ns < self.t_ns[0]) | (query_ns > self.t_ns[-1])
        covered = np.where(outside | (gap & ~exact), np.nan, 0.0)
        return (
            np.interp(query, seconds, self.latitude) + covered,
            np.interp(query, seconds, self.longitude) + covered,
            interpolate_angle(self.t_ns, self.heading, query_ns) + covered,
        )


@dataclass(frozen=True)
class Origin:
    """What a drive was opened from, so that it can be opened again.

    Attributes:
        path: Its folder, archive or file.
        format: Name of its format.
        sensors: Names of the sensors that were asked for; None for the format's default.
        start: Seconds from the first scan before which scans are left out, or None.
        end: Seconds from the first scan after which scans are left out, or None.
    """

    path: Path
    format: str
    sensors: tuple[str, ...] | None = None
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True)
class Drive:
    """Everything known of one drive.

    Attributes:
        name: For people and file names.
        format: "robotcar", "kitti", "clouds", ...
        scans: The LiDAR scans.
        odometry: Relative motion, or None where the drive has none.
        heading: True heading, or None; read only where the user says that it is known.
        truth: Absolute poses, or None; only evaluation may see it.
        notes: Lines worth telling the user (gaps, missing files, what was done about them).
        labels: Whose numbers its points' labels are ("semantickitti", "kitti360", "las"), or None
            where its points have no labels. "simulated" are semantickitti's numbers in a drive that
            is to be localized as if it had none.
        origin: What it was opened from; None for a drive that was made in memory.
    """

    name: str
    format: str
    scans: ScanSource
    odometry: PoseTrack | None
    heading: HeadingTrack | None
    truth: TruthTrack | None
    notes: tuple[str, ...] = ()
    labels: str | None = None
    origin: Origin | None = None

    def without_truth(self) -> Drive:
        """The same drive as an estimator may see it."""
        return replace(self, truth=None)
