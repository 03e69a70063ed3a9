"""What is in a drive, for people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanSource, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.progress import Progress, silent, tracked

GAP_S = 1.0
STANDING_M_PER_S = 0.1
SAMPLED_SCANS = 50
SAMPLED_POINTS = 10_000_000
"""Of large scans fewer are read: about so many points in all."""

_POINTS_PER_SCAN = 2000
_DAMAGED_TOLD = 3
_PLANAR_RAD = 0.02
_CLOCK_SINCE_1970_NS = 315_360_000_000_000_000
"""A clock that is not past 1980 counts from a moment of its own."""


@dataclass(frozen=True)
class ScanSample:
    """What some scans hold, the first one and others spread evenly over the drive.

    Attributes:
        index: (K,) int64, which scans could be read.
        points: (K,) int64, usable points in each.
        reach: (M,) float32, distances of some of the points from their sensor, metres.
        farthest: The largest distance of all points, metres; 0 without points.
        planar: Whether the points of a scan lie in a plane with their sensor, as a push-broom's do.
        seconds: Earliest and latest time of a point relative to its scan's; None where points have
            no times of their own.
        labels: (L,) int32, the label numbers that occur, sorted.
        label_points: (L,) int64, points that have each.
        damaged: What is wrong with the scans that could not be read, one line each.
    """

    index: NDArray[np.int64]
    points: NDArray[np.int64]
    reach: NDArray[np.float32]
    farthest: float
    planar: bool
    seconds: tuple[float, float] | None
    labels: NDArray[np.int32]
    label_points: NDArray[np.int64]
    damaged: tuple[str, ...]


def sample_scans(
    scans: ScanSource, count: int = SAMPLED_SCANS, progress: Progress = silent
) -> ScanSample:
    """Read the first scan and up to ``count`` - 1 others; damaged ones are told, not raised."""
    found: list[_Scan] = []
    damaged: list[str] = []
    _read(scans, 0, found, damaged)
    if found:
        count = min(count, max(2, SAMPLED_POINTS // max(found[0].points, 1)))
    others = np.unique(np.linspace(0, len(scans.t_ns) - 1, count).round().astype(np.int64))[1:]
    for index in tracked(others.tolist(), "read scans", len(others), progress):
        _read(scans, index, found, damaged)
    timed = [scan.seconds for scan in found if scan.seconds is not None and len(scan.seconds)]
    labelled = [scan.label for scan in found if scan.label is not None]
    labels, label_points = np.unique(
        np.concatenate([np.zeros(0, np.int32), *labelled]), return_counts=True
    )
    return ScanSample(
        index=np.array([scan.index for scan in found], np.int64),
        points=np.array([scan.points for scan in found], np.int64),
        reach=np.concatenate([np.zeros(0, np.float32), *(scan.reach for scan in found)]),
        farthest=max((scan.farthest for scan in found), default=0.0),
        planar=any(scan.points for scan in found) and all(scan.planar for scan in found),
        seconds=(min(s.min() for s in timed), max(s.max() for s in timed)) if timed else None,
        labels=labels,
        label_points=label_points.astype(np.int64),
        damaged=tuple(damaged),
    )


@dataclass(frozen=True)
class _Scan:
    """What is kept of one scan that was read."""

    index: int
    points: int
    reach: NDArray[np.float32]
    farthest: float
    planar: bool
    seconds: NDArray[np.float32] | None
    label: NDArray[np.int32] | None


def _read(scans: ScanSource, index: int, found: list[_Scan], damaged: list[str]) -> None:
    try:
        block = scans.read(index, index + 1)
    except MaptileError as error:
        damaged.append(str(error))
        return
    away = block.points - block.origin[block.scan]
    metres = np.sqrt(np.einsum("ni,ni->n", away, away))
    some = away[:: len(away) // _POINTS_PER_SCAN + 1].astype(np.float64)
    smallest, *_, largest = np.linalg.eigvalsh(some.T @ some).clip(0)
    found.append(
        _Scan(
            index,
            len(metres),
            metres[:: len(metres) // _POINTS_PER_SCAN + 1],
            float(metres.max(initial=0)),
            bool(smallest <= _PLANAR_RAD**2 * largest),
            block.seconds,
            block.label,
        )
    )


def inspect_drive(drive: Drive, sample: ScanSample | None = None) -> list[str]:
    """Describe a drive in aligned lines of text.

    Args:
        drive: Any drive with at least one scan.
        sample: What some of its scans hold; read now where it is not given.
    """
    t_ns = drive.scans.t_ns
    sample = sample_scans(drive.scans) if sample is None else sample
    seconds = (t_ns - t_ns[0]) / 1e9
    rows = [
        ("drive", f"{drive.name} ({drive.format})"),
        ("start", start_of(t_ns)),
        ("sensors", _sensors(drive, sample)),
        ("scans", f"{len(t_ns)} in {seconds[-1]:.1f} s{_rate(t_ns)}"),
        ("points", _points(sample)),
        ("range", _range(sample)),
        ("timing", _timing(sample)),
        ("labels", _labels(drive, sample)),
        ("gaps", _gaps(t_ns)),
        ("odometry", _odometry(drive.odometry, t_ns)),
        ("extent", _extent(drive.odometry)),
        ("heading", _heading(drive.heading, t_ns)),
        ("truth", _truth(drive.truth, t_ns)),
        *(("note", note) for note in drive.notes),
        *(("damaged", text) for text in _damaged(sample)),
    ]
    return [line(name, text) for name, text in rows if text]


def line(name: str, text: str) -> str:
    """One aligned line."""
    return f"{name:<10}{text}"


def start_of(t_ns: Times) -> str:
    """The time of the first scan in words: UTC, where the clock counts from 1970."""
    if t_ns[0] < _CLOCK_SINCE_1970_NS:
        return f"{t_ns[0] / 1e9:.3f} s of a clock of its own"
    moment = np.datetime_as_string(np.datetime64(int(t_ns[0]), "ns"), unit="s")
    return f"{str(moment).replace('T', ' ')} UTC"


def scan_gap_s(t_ns: Times) -> float:
    """Seconds between scans that count as a gap: one, or twice what is usual in the drive."""
    usual = float(np.median(np.diff(t_ns))) / 1e9 if len(t_ns) > 1 else 0.0
    return max(GAP_S, 2 * usual)


def piece_extents(track: PoseTrack) -> Array:
    """(P, 2) metres along x and y that the box around each piece of the odometry measures."""
    first = np.flatnonzero(np.diff(track.segment, prepend=track.segment[0] - 1))
    place = track.poses[:, :2, 3]
    return np.maximum.reduceat(place, first) - np.minimum.reduceat(place, first)


def _rate(t_ns: Times) -> str:
    seconds = (t_ns[-1] - t_ns[0]) / 1e9
    return f", {(len(t_ns) - 1) / seconds:.1f} per second" if seconds > 0 else ""


def _sensors(drive: Drive, sample: ScanSample) -> str:
    planar = "; each scan lies in a plane (push-broom)" if sample.planar else ""
    return ", ".join(drive.scans.sensors) + planar


def _points(sample: ScanSample) -> str:
    counts = sample.points
    if not len(counts):
        return f"not known: {len(sample.damaged)} scans were tried, and all are damaged"
    known = sample.index[0] == 0
    text = f"{counts[0]:,} in the first scan" if known else "the first scan is damaged"
    if len(counts) == 1:
        return text
    if known and (counts == counts[0]).all():
        return f"{text}, as in all {len(counts)} scans read"
    empty = int((counts == 0).sum())
    return (
        f"{text}; median {np.median(counts):,.0f}, {counts.min():,} to {counts.max():,} "
        f"in {len(counts)} scans read" + (f", {empty} of them empty" if empty else "")
    )


def _damaged(sample: ScanSample) -> list[str]:
    more = len(sample.damaged) - _DAMAGED_TOLD
    told = list(sample.damaged[:_DAMAGED_TOLD])
    return [*told, f"and {more} more of the scans read"] if more > 0 else told


def _range(sample: ScanSample) -> str:
    if not len(sample.reach):
        return ""
    half, most = np.percentile(sample.reach, [50, 95])
    return (
        f"half of the points within {half:.1f} m, 95% within {most:.1f} m, "
        f"farthest {sample.farthest:.1f} m"
    )


def _timing(sample: ScanSample) -> str:
    if not sample.points.any():
        return ""
    if sample.seconds is None:
        return "points have no times of their own; scans are used as they are"
    first, last = (1000 * second for second in sample.seconds)
    return f"every point has its own time, {first:+.0f} to {last:+.0f} ms from its scan's"


def _labels(drive: Drive, sample: ScanSample) -> str:
    if not len(sample.labels):
        return "none" if drive.labels is None else f"{drive.labels}, but none in the scans read"
    share = sample.label_points / sample.label_points.sum()
    often = np.argsort(-share, kind="stable")[:6]
    named = ", ".join(f"{sample.labels[i]} ({share[i]:.0%})" for i in often)
    more = f" and {len(share) - len(often)} more" if len(share) > len(often) else ""
    return f"{drive.labels or 'of an unknown table'}: {named}{more}"


def _gaps(t_ns: Times) -> str:
    between = np.diff(t_ns) / 1e9
    limit = scan_gap_s(t_ns)
    gaps = int((between > limit).sum())
    text = f"{gaps} of more than {limit:g} s between scans; longest {between.max(initial=0):.2f} s"
    if gaps:
        at = (t_ns[int(between.argmax())] - t_ns[0]) / 1e9
        text += f", {at:.1f} s after the start"
    return text


def _odometry(track: PoseTrack | None, scan_ns: Times) -> str:
    if track is None:
        return "none"
    travelled = track.travelled()
    joined = np.diff(track.segment) == 0
    duration = np.diff(track.t_ns)[joined] / 1e9
    slow = np.diff(travelled)[joined] < STANDING_M_PER_S * duration
    still = duration[slow].sum() / max(duration.sum(), 1e-9)
    pieces = int(track.segment[-1] - track.segment[0]) + 1
    covered = float((track.segment_at(scan_ns) >= 0).mean())
    return (
        f"{travelled[-1]:.1f} m in {pieces} piece{'s' if pieces > 1 else ''}{_rate(track.t_ns)}; "
        f"standing {still:.0%} of the time; covers {covered:.1%} of the scans"
    )


def _extent(track: PoseTrack | None) -> str:
    if track is None:
        return ""
    extents = piece_extents(track)
    across, along = np.sort(extents[np.hypot(*extents.T).argmax()])
    which = "the path" if len(extents) == 1 else "the largest piece of the path"
    return f"{which} lies in a box of {along:.0f} x {across:.0f} m"


def _heading(track: HeadingTrack | None, scan_ns: Times) -> str:
    if track is None:
        return "none"
    covered = float(np.isfinite(track.at(scan_ns)).mean())
    return f"{len(track.t_ns)} samples{_rate(track.t_ns)}; known at {covered:.1%} of the scans"


def _truth(track: TruthTrack | None, scan_ns: Times) -> str:
    if track is None:
        return "none"
    covered = float(np.isfinite(track.at(scan_ns)[0]).mean())
    return (
        f"latitude {track.latitude.min():.6f} to {track.latitude.max():.6f}, longitude "
        f"{track.longitude.min():.6f} to {track.longitude.max():.6f}; "
        f"covers {covered:.1%} of the scans"
    )
