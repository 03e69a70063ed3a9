"""The contents of a drive as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from data_prep.counted import counted
from data_prep.drive import Drive, GnssTrack, HeadingTrack, PoseTrack, Times, TruthTrack
from data_prep.geometry import Array
from maptile_loc.perceive.labels import BUILDING, GROUND, MOVING, ROAD, LabelTable, kinds
from maptile_loc.report.inspect.scan_sample import ScanSample, sample_scans

GAP_S = 1.0
"""Shortest time between scans that counts as a gap, seconds."""
STATIONARY_M_PER_S = 0.1
"""A vehicle slower than this counts as stationary, metres per second."""
DAMAGED_SHOWN = 3
"""Number of damaged scans that are listed one by one."""
LABELS_SHOWN = 6
"""Number of labels that are listed, the most frequent ones."""
UNIX_TIME_NS = 315_360_000_000_000_000
"""Times from here on (1980) count from 1970; smaller ones come from a clock with its own zero."""
USED_KINDS = {"building": BUILDING, "road": ROAD, "ground": GROUND, "moving": MOVING}
"""Kinds of points that localization uses; all others count as "other"."""


def line(name: str, text: str) -> str:
    """Return a line with its name in a column of fixed width."""
    return f"{name:<10}{text}"


def describe_drive(drive: Drive, sample: ScanSample | None = None) -> list[str]:
    """Return lines that describe a drive.

    Args:
        drive: Any drive with at least one scan.
        sample: Contents of some of its scans; read now if None.
    """
    t_ns = drive.scans.t_ns
    sample = sample_scans(drive.scans) if sample is None else sample
    seconds = (t_ns - t_ns[0]) / 1e9
    rows = [
        ("drive", f"{drive.name} ({drive.format})"),
        ("start", start_time(t_ns)),
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
        ("GNSS", _gnss(drive.gnss, t_ns)),
        ("truth", _truth(drive.truth, t_ns)),
        *(("note", note) for note in drive.notes),
        *(("damaged", text) for text in _damaged(sample)),
    ]
    return [line(name, text) for name, text in rows if text]


def missing(drive: Drive, sample: ScanSample) -> Iterator[str]:
    """Yield what a drive lacks, and the consequence for its localization, one line each."""
    scan_ns = drive.scans.t_ns
    if not sample.points.any():
        yield "points: the scans read have no usable point, so the drive cannot be localized"
    if len(scan_ns) == 1:
        yield "more scans: a single scan is localized with --submap 0 --every 0"
    elif drive.odometry is None:
        if sample.planar:
            yield "odometry: it cannot be estimated from planar scans; the drive needs a file of it"
        else:
            yield "odometry: it will be estimated from the LiDAR scans"
    else:
        outside = int((drive.odometry.segment_at(scan_ns) < 0).sum())
        if outside:
            yield f"odometry at {outside} of {len(scan_ns)} scans: these are not localized"
        segments = len(np.unique(drive.odometry.segment))
        if segments > 1:
            yield f"motion between {segments} segments of odometry: each is localized by itself"
    if drive.heading is None:
        yield "heading: use --heading unknown, which searches all headings and takes longer"
    else:
        unknown = int(np.isnan(drive.heading.at(scan_ns)).sum())
        if unknown:
            yield (
                f"heading at {unknown} of {len(scan_ns)} scans: these are localized only "
                "with --heading unknown"
            )
    if drive.truth is None:
        yield "truth: maptile evaluate cannot compute errors; localization does not need it"


def label_kinds(
    drive: Drive, sample: ScanSample, tables: Mapping[str, LabelTable]
) -> Iterator[str]:
    """Yield the share of points of each kind that the labels stand for; nothing without labels.

    Args:
        drive: The drive.
        sample: Contents of some of its scans.
        tables: Label tables of the recipe, by data set.
    """
    if not len(sample.labels):
        return
    table = tables.get(drive.labels or "")
    if table is None:
        yield "nothing: the recipe has no table for these labels"
        return
    kind, points = kinds(sample.labels, table), sample.label_points
    count = {name: points[kind == used].sum() for name, used in USED_KINDS.items()}
    count["other"] = points[~np.isin(kind, list(USED_KINDS.values()))].sum()
    yield ", ".join(f"{name} {number / points.sum():.0%}" for name, number in count.items())


def start_time(t_ns: Times) -> str:
    """Return the time of the first scan: in UTC, or in seconds of the drive's own clock."""
    if t_ns[0] < UNIX_TIME_NS:
        return f"{t_ns[0] / 1e9:.3f} s on the drive's own clock"
    moment = np.datetime_as_string(np.datetime64(int(t_ns[0]), "ns"), unit="s")
    return f"{str(moment).replace('T', ' ')} UTC"


def gap_threshold(t_ns: Times) -> float:
    """Return the time between scans that counts as a gap, seconds.

    It is ``GAP_S``, or twice the median time between scans if that is longer.
    """
    usual = float(np.median(np.diff(t_ns))) / 1e9 if len(t_ns) > 1 else 0.0
    return max(GAP_S, 2 * usual)


def segment_extents(track: PoseTrack) -> Array:
    """Return (P, 2) sides along x and y of the bounding box of each odometry segment, metres."""
    first = np.flatnonzero(np.diff(track.segment, prepend=track.segment[0] - 1))
    position = track.poses[:, :2, 3]
    return np.maximum.reduceat(position, first) - np.minimum.reduceat(position, first)


def _rate(t_ns: Times) -> str:
    seconds = (t_ns[-1] - t_ns[0]) / 1e9
    return f", {(len(t_ns) - 1) / seconds:.1f} per second" if seconds > 0 else ""


def _sensors(drive: Drive, sample: ScanSample) -> str:
    planar = "; each scan lies in a plane (push-broom)" if sample.planar else ""
    return ", ".join(drive.scans.sensors) + planar


def _points(sample: ScanSample) -> str:
    counts = sample.points
    if not len(counts):
        return f"unknown: all {len(sample.damaged)} scans read are damaged"
    known = sample.index[0] == 0
    text = f"{counts[0]:,} in the first scan" if known else "the first scan is damaged"
    if len(counts) == 1:
        return text
    if known and (counts == counts[0]).all():
        return f"{text} and in each of the {len(counts)} scans read"
    empty = int((counts == 0).sum())
    return (
        f"{text}; median {np.median(counts):,.0f}, {counts.min():,} to {counts.max():,} "
        f"in {len(counts)} scans read" + (f", {empty} of them empty" if empty else "")
    )


def _damaged(sample: ScanSample) -> list[str]:
    more = len(sample.damaged) - DAMAGED_SHOWN
    shown = list(sample.damaged[:DAMAGED_SHOWN])
    return [*shown, f"and {more} more of the scans read"] if more > 0 else shown


def _range(sample: ScanSample) -> str:
    if not len(sample.distance):
        return ""
    half, most = np.percentile(sample.distance, [50, 95])
    return (
        f"half of the points within {half:.1f} m, 95% within {most:.1f} m, "
        f"farthest {sample.farthest:.1f} m"
    )


def _timing(sample: ScanSample) -> str:
    if not sample.points.any():
        return ""
    if sample.seconds is None:
        return "points have no time stamps; motion during a scan is not corrected"
    first, last = (1000 * second for second in sample.seconds)
    return f"each point has a time stamp, {first:+.0f} to {last:+.0f} ms from its scan's"


def _labels(drive: Drive, sample: ScanSample) -> str:
    if not len(sample.labels):
        return "none" if drive.labels is None else f"{drive.labels}, but none in the scans read"
    share = sample.label_points / sample.label_points.sum()
    often = np.argsort(-share, kind="stable")[:LABELS_SHOWN]
    named = ", ".join(f"{sample.labels[i]} ({share[i]:.0%})" for i in often)
    more = f" and {len(share) - len(often)} more" if len(share) > len(often) else ""
    return f"{drive.labels or 'unknown table'}: {named}{more}"


def _gaps(t_ns: Times) -> str:
    between = np.diff(t_ns) / 1e9
    limit = gap_threshold(t_ns)
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
    slow = np.diff(travelled)[joined] < STATIONARY_M_PER_S * duration
    stationary = duration[slow].sum() / max(duration.sum(), 1e-9)
    segments = int(track.segment[-1] - track.segment[0]) + 1
    covered = float((track.segment_at(scan_ns) >= 0).mean())
    return (
        f"{travelled[-1]:.1f} m in {segments} segment{'s' if segments > 1 else ''}"
        f"{_rate(track.t_ns)}; stationary {stationary:.0%} of the time; "
        f"covers {covered:.1%} of the scans"
    )


def _extent(track: PoseTrack | None) -> str:
    if track is None:
        return ""
    extents = segment_extents(track)
    shorter, longer = np.sort(extents[np.hypot(*extents.T).argmax()])
    which = "the path" if len(extents) == 1 else "the largest segment of the path"
    return f"{which} has a bounding box of {longer:.0f} x {shorter:.0f} m"


def _heading(track: HeadingTrack | None, scan_ns: Times) -> str:
    if track is None:
        return "none"
    covered = float(np.isfinite(track.at(scan_ns)).mean())
    samples = counted(len(track.t_ns), "sample")
    return f"{samples}{_rate(track.t_ns)}; known at {covered:.1%} of the scans"


def _gnss(track: GnssTrack | None, scan_ns: Times) -> str:
    if track is None:
        return "none"
    right = np.clip(np.searchsorted(track.t_ns, scan_ns), 0, len(track.t_ns) - 1)
    left = np.maximum(right - 1, 0)
    away = np.minimum(abs(track.t_ns[left] - scan_ns), abs(track.t_ns[right] - scan_ns)) / 1e9
    longest = np.diff(track.t_ns).max(initial=0) / 1e9
    std = track.std_m[np.isfinite(track.std_m)]
    stated = f"states a std of {np.median(std):.1f} m (median)" if len(std) else "states no std"
    return (
        f"{len(track.t_ns)} positions{_rate(track.t_ns)}; {stated}; longest gap {longest:.1f} s; "
        f"within {GAP_S:g} s of {(away <= GAP_S).mean():.1%} of the scans"
    )


def _truth(track: TruthTrack | None, scan_ns: Times) -> str:
    if track is None:
        return "none"
    covered = float(np.isfinite(track.at(scan_ns)[0]).mean())
    return (
        f"latitude {track.latitude.min():.6f} to {track.latitude.max():.6f}, longitude "
        f"{track.longitude.min():.6f} to {track.longitude.max():.6f}; "
        f"covers {covered:.1%} of the scans"
    )
