"""A drive: scans, odometry, heading, GNSS and truth, each a separate track.

Estimators receive ``drive.without_truth()``. ``scans``, ``odometry`` and ``heading`` hold no
absolute position, so that the truth cannot reach an estimate. ``gnss`` does; it is a receiver's own
measurement, never the truth, and is used only where the user asks for it.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_prep.errors import MaptileError
from data_prep.geometry import Array, interpolate_angle, interpolate_se3

Times = NDArray[np.int64]
"""Times in nanoseconds since 1970; of a drive without absolute times, since its start."""

MAX_BRIDGED_GAP_NS = 2_000_000_000
"""Longest gap in odometry, nanoseconds, that stays within a segment; a longer one ends it."""

MAX_HEADING_AGE_NS = 1_000_000_000
"""A heading is unknown this many nanoseconds or more from the nearest sample."""

MAX_TRUTH_GAP_NS = 2_000_000_000
"""Truth is interpolated between two samples at most this many nanoseconds apart."""


@dataclass(frozen=True)
class ScanBlock:
    """The points of S consecutive scans, each in the vehicle frame at the time of its scan.

    Attributes:
        t_ns: (S,) int64, time of each scan.
        points: (N, 3) float32, vehicle frame (x forward, y left, z up), metres, all finite.
        scan: (N,) int32, index of the scan, 0 to S - 1, that a point belongs to; sorted.
        origin: (S, 3) float32, position of the sensor in the vehicle frame, metres.
        seconds: (N,) float32, time at which each point was measured, relative to its scan's time;
            None where it is unknown, or where the scans are already motion-compensated.
        label: (N,) int32, class number of each point in the data set's own table; None where a
            scan has no labels.
    """

    t_ns: Times
    points: NDArray[np.float32]
    scan: NDArray[np.int32]
    origin: NDArray[np.float32]
    seconds: NDArray[np.float32] | None = None
    label: NDArray[np.int32] | None = None

    @classmethod
    def single(
        cls,
        t_ns: int,
        points: ArrayLike,
        origin: ArrayLike = (0.0, 0.0, 0.0),
        seconds: ArrayLike | None = None,
    ) -> ScanBlock:
        """One scan.

        Args:
            t_ns: Its time, nanoseconds.
            points: (N, 3) metres, vehicle frame; points that are not finite are left out.
            origin: (3,) position of the sensor in the vehicle frame, metres.
            seconds: (N,) time at which each point was measured, relative to ``t_ns``; None where it
                is unknown, or where the scan is already motion-compensated.

        Raises:
            MaptileError: The arrays do not have these shapes, or the time is no whole number.
        """
        t_ns = nanoseconds(t_ns, "scan")
        xyz = np.asarray(points, np.float32)
        own = None if seconds is None else np.asarray(seconds, np.float32)
        if xyz.ndim != 2 or xyz.shape[1] != 3 or (own is not None and own.shape != xyz.shape[:1]):
            raise MaptileError(
                f"scan at {t_ns} ns: expected points of shape (N, 3), and N times or none, not "
                f"{xyz.shape}" + ("" if own is None else f" and {own.shape}")
            )
        finite = np.isfinite(xyz).all(axis=1)
        return cls(
            np.array([t_ns], np.int64),
            xyz[finite],
            np.zeros(int(finite.sum()), np.int32),
            np.asarray(origin, np.float32).reshape(1, 3),
            None if own is None else own[finite],
        )

    @property
    def last_ns(self) -> int:
        """Time at which the last point was measured, nanoseconds."""
        late = 0.0 if self.seconds is None else float(self.seconds.max(initial=0.0))
        return int(self.t_ns[-1]) + round(late * 1e9)


def nanoseconds(t_ns: Any, what: str) -> int:
    """A time that a user states, in nanoseconds.

    Args:
        t_ns: A whole number of any type.
        what: What has this time, for the error.

    Raises:
        MaptileError: It is no whole number, or none of 64 bits.
    """
    try:
        whole = operator.index(t_ns)
    except TypeError:
        whole = None
    if whole is None or not -(2**63) <= whole < 2**63:
        raise MaptileError(
            f"{what} at {t_ns}: a time is nanoseconds as a whole number of 64 bits; of seconds: "
            "int(t * 1e9)"
        )
    return whole


def time_of(scan: Any) -> int:
    """The time, in nanoseconds, of one scan that a user pushes.

    Raises:
        MaptileError: It is not one scan, or its time is no whole number.
    """
    if not isinstance(scan, ScanBlock):
        kind = type(scan).__name__
        raise MaptileError(f"expected a scan, ml.ScanBlock.single(t_ns, points), not {kind}")
    if len(scan.t_ns) != 1:
        raise MaptileError(f"{len(scan.t_ns)} scans at once: push one at a time")
    return nanoseconds(scan.t_ns[0], "scan")


def from_sensors(
    points: NDArray[np.float32], scan: NDArray[np.int32], origin: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return (3, N) vectors to (N, 3) points from the sensors of their scans.

    Args:
        points: Metres, in any frame.
        scan: (N,) index of each point's scan.
        origin: (S, 3) position of each scan's sensor in the same frame.
    """
    away = np.empty((3, len(points)), np.float32)  # by row, whatever the order of the points
    one = len(origin) == 1
    return np.subtract(points.T, origin.T if one else np.take(origin.T, scan, axis=1), out=away)


class ScanSource(Protocol):
    """Scans that are read from their files on request."""

    @property
    def t_ns(self) -> Times:
        """(S,) time of every scan of every sensor in use, sorted."""
        ...

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors in use."""
        ...

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive).

        Raises:
            MaptileError: A scan file is missing, cut short or not of its format.
        """
        ...


@dataclass(frozen=True)
class ScanSlice:
    """A range of the scans of another source.

    Attributes:
        source: The other source.
        first: Index, in ``source``, of the first scan of the range.
        t_ns: (S,) times of the scans of the range.
    """

    source: ScanSource
    first: int
    t_ns: Times

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors of the source."""
        return self.source.sensors

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive) of the range."""
        start, stop, _ = slice(start, stop).indices(len(self.t_ns))
        return self.source.read(self.first + start, self.first + stop)


@dataclass(frozen=True)
class PoseTrack:
    """Relative motion: poses of the vehicle frame in a fixed frame of arbitrary origin and heading.

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        poses: (N, 4, 4) float64, vehicle frame -> fixed frame, z up, metres; only differences
            within one segment have a meaning.
        segment: (N,) int32, non-decreasing; the motion from one segment to the next is unknown.
    """

    t_ns: Times
    poses: Array
    segment: NDArray[np.int32]

    def at(self, query_ns: Times) -> Array:
        """(M, 4, 4) poses interpolated at (M,) times; outside the track, the pose of its end."""
        return interpolate_se3(self.t_ns, self.poses, query_ns)

    def segment_at(self, query_ns: Times) -> NDArray[np.int32]:
        """(M,) segment at each of (M,) times.

        It is -1 for a time outside the track, or in the gap between two segments.
        """
        left = np.searchsorted(self.t_ns, query_ns, side="right") - 1
        inside = (left >= 0) & (query_ns <= self.t_ns[-1])
        left = np.clip(left, 0, len(self.t_ns) - 1)
        right = np.clip(left + 1, 0, len(self.t_ns) - 1)
        on_pose = self.t_ns[left] == query_ns
        joined = self.segment[left] == self.segment[right]
        return np.where(inside & (on_pose | joined), self.segment[left], -1).astype(np.int32)

    def travelled(self) -> Array:
        """(N,) metres travelled in the plane since the start; a gap between segments adds 0."""
        step = np.linalg.norm(np.diff(self.poses[:, :2, 3], axis=0), axis=1)
        step[np.diff(self.segment) != 0] = 0.0
        return np.concatenate([[0.0], np.cumsum(step)])


@dataclass(frozen=True)
class HeadingTrack:
    """The vehicle's true heading, from a compass or an INS.

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        heading: (N,) float64 radians, counter-clockwise from true east (not grid east).
    """

    t_ns: Times
    heading: Array

    def at(self, query_ns: Times) -> Array:
        """(M,) true headings interpolated at (M,) times, radians.

        NaN at a time that is ``MAX_HEADING_AGE_NS`` or more from the nearest sample.
        """
        right = np.clip(np.searchsorted(self.t_ns, query_ns), 0, len(self.t_ns) - 1)
        left = np.clip(right - 1, 0, None)
        nearest = np.minimum(abs(self.t_ns[left] - query_ns), abs(self.t_ns[right] - query_ns))
        heading = interpolate_angle(self.t_ns, self.heading, query_ns)
        return np.where(nearest < MAX_HEADING_AGE_NS, heading, np.nan)


@dataclass(frozen=True)
class GnssTrack:
    """Positions that a GNSS receiver measured; any of them may be wrong.

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        latitude: (N,) float64 degrees, WGS 84.
        longitude: (N,) float64 degrees, WGS 84.
        std_m: (N,) float64 metres: the standard deviation that the receiver states, east and north
            alike; NaN where it states none.
    """

    t_ns: Times
    latitude: Array
    longitude: Array
    std_m: Array


@dataclass(frozen=True)
class TruthTrack:
    """Reference positions of the vehicle frame's origin and reference headings; evaluation only.

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        latitude: (N,) float64 degrees, WGS 84.
        longitude: (N,) float64 degrees, WGS 84.
        heading: (N,) float64 radians, counter-clockwise from true east.
    """

    t_ns: Times
    latitude: Array
    longitude: Array
    heading: Array

    def at(self, query_ns: Times) -> tuple[Array, Array, Array]:
        """Latitude, longitude (degrees) and heading (radians) at (M,) times, (M,) each.

        NaN at a time outside the track, or between two samples more than ``MAX_TRUTH_GAP_NS``
        apart.
        """
        seconds, query = (self.t_ns - self.t_ns[0]) / 1e9, (query_ns - self.t_ns[0]) / 1e9
        right = np.clip(np.searchsorted(self.t_ns, query_ns), 0, len(self.t_ns) - 1)
        left = np.clip(right - 1, 0, None)
        exact = self.t_ns[right] == query_ns
        gap = self.t_ns[right] - self.t_ns[left] > MAX_TRUTH_GAP_NS
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
        columns: Names of the columns of .bin clouds that were stated; None where none were.
    """

    path: Path
    format: str
    sensors: tuple[str, ...] | None = None
    start: float | None = None
    end: float | None = None
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Drive:
    """Everything known about one drive.

    Attributes:
        name: Name for messages and file names.
        format: Name of the format it was opened from: "robotcar", "kitti", "clouds", ...
        scans: The LiDAR scans.
        odometry: Relative motion, or None where the drive has none.
        heading: True heading, or None; used only where the user declares the heading known.
        truth: Reference poses, or None; used only by evaluation.
        notes: One line each for the user: gaps, missing files, and how they were handled.
        labels: Name of the table that defines the points' labels ("semantickitti", "kitti360",
            "nuscenes", "las", "simulated"), or None where points have no labels. "simulated" uses
            the numbers of "semantickitti", but such a drive is localized without its labels.
        origin: What it was opened from; None for a drive that was made in memory.
        apart: Whether nothing is known of the time and the motion between scans; each is then
            localized by itself.
        gnss: Positions of a GNSS receiver, or None; used only where the user asks for it.
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
    apart: bool = False
    gnss: GnssTrack | None = None

    def without_truth(self) -> Drive:
        """The same drive with ``truth`` removed, as estimators receive it."""
        return replace(self, truth=None)

    def between(self, start: float | None = None, end: float | None = None) -> Drive:
        """The same drive with only the scans between two times; the other tracks stay whole.

        Args:
            start: Seconds after the first scan; None keeps all scans from the first.
            end: Seconds after the first scan, inclusive; None keeps all scans to the last.

        Returns:
            The drive; it has no scans where none lies between the two times.
        """
        seconds = (self.scans.t_ns - self.scans.t_ns[0]) / 1e9
        first = 0 if start is None else int(np.searchsorted(seconds, start, side="left"))
        last = len(seconds) if end is None else int(np.searchsorted(seconds, end, side="right"))
        return replace(self, scans=ScanSlice(self.scans, first, self.scans.t_ns[first:last]))
