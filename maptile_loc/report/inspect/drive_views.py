"""Views of a whole drive: speed and tracks over time, and the path."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import Drive, PoseTrack, Times
from data_prep.geometry import Array, rotate, se2_from_se3
from maptile_loc.report.inspect.drive_text import gap_threshold
from maptile_loc.report.inspect.moment import Moment
from maptile_loc.report.marks import BLUE, GREEN, GREY, ORANGE, PURPLE, draw_vehicle
from maptile_loc.report.pictures import INK

SPEED_WINDOW_S = 2.0
"""Length of the window over which the speed is averaged, seconds."""
SPEED_SAMPLES = 1500
"""Number of times at which the speed is drawn."""
TRACK_GAP_NS = 2_000_000_000
"""Samples of a track farther apart than this are drawn as two bars, nanoseconds."""
PATH_POINTS = 4000
"""Approximate number of points of the path that are drawn."""
GAPS_SHOWN = 500
"""Number of gaps between scans that are drawn."""


def speed_at(drive: Drive, seconds: Array) -> Array:
    """Return (N,) metres per second, averaged over two seconds; NaN without odometry.

    Args:
        drive: The drive.
        seconds: (N,) seconds from the first scan.
    """
    track = drive.odometry
    if track is None:
        return np.full(len(seconds), np.nan)
    start = drive.scans.t_ns[0]
    query = start + np.round(seconds * 1e9).astype(np.int64)
    clock, segments = (track.t_ns - start) / 1e9, (_segments(track) - start) / 1e9
    segment = np.searchsorted(segments[:, 0], seconds, side="right").clip(1) - 1
    begin = np.maximum(seconds - SPEED_WINDOW_S / 2, segments[segment, 0])
    end = np.minimum(seconds + SPEED_WINDOW_S / 2, segments[segment, 1])
    length = np.interp(end, clock, track.travelled()) - np.interp(begin, clock, track.travelled())
    known = (track.segment_at(query) >= 0) & (end > begin)
    return np.where(known, length / np.where(known, end - begin, 1.0), np.nan)


def draw_speed(axes: Any, drive: Drive, moment: Moment) -> None:
    """Draw the speed over time, the gaps between scans, and the moment of the query tile."""
    t_ns = drive.scans.t_ns
    duration = _duration(t_ns)
    seconds = np.linspace(0, duration, SPEED_SAMPLES)
    speed = speed_at(drive, seconds)
    axes.set_title("Speed and recorded data over time", loc="left")
    if np.isfinite(speed).any():
        axes.plot(seconds, speed, color=BLUE, linewidth=1.2)
        axes.fill_between(seconds, speed, color=BLUE, alpha=0.15, linewidth=0)
        axes.set_ylim(0, max(1.0, 1.15 * float(np.nanmax(speed))))
    else:
        axes.set_yticks([])
        _write_centred(axes, "speed unknown")
    axes.set_ylabel("m/s")
    axes.set_xlim(-0.01 * duration, 1.01 * duration)
    axes.tick_params(labelbottom=False)
    axes.grid(alpha=0.25)
    clock = (t_ns - t_ns[0]) / 1e9
    gaps = _gaps(t_ns)
    for number, at in enumerate(gaps[:GAPS_SHOWN]):
        axes.axvspan(
            *clock[at : at + 2],
            color=ORANGE,
            alpha=0.25,
            linewidth=0,
            label=f"no scans ({len(gaps)})" if number == 0 else None,
        )
    axes.axvline(clock[moment.scan], color=INK, linewidth=1.2, linestyle="--", label="query tile")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, frameon=False)


def draw_tracks(axes: Any, drive: Drive, moment: Moment) -> None:
    """Draw a bar per track over the times that it covers."""
    t_ns = drive.scans.t_ns
    duration = _duration(t_ns)
    odometry, heading, gnss, truth = drive.odometry, drive.heading, drive.gnss, drive.truth
    rows = (
        ("scans", INK, _intervals(t_ns, _gaps(t_ns))),
        ("odometry", BLUE, None if odometry is None else _segments(odometry)),
        ("heading", GREEN, None if heading is None else _intervals(heading.t_ns)),
        ("GNSS", GREY, None if gnss is None else _intervals(gnss.t_ns)),
        ("truth", PURPLE, None if truth is None else _intervals(truth.t_ns)),
    )
    for row, (_, colour, intervals) in enumerate(rows):
        seconds = np.zeros((0, 2)) if intervals is None else (intervals - t_ns[0]) / 1e9
        seconds = seconds[(seconds[:, 1] >= 0) & (seconds[:, 0] <= duration)].clip(0, duration)
        if not len(seconds):
            none = "none" if intervals is None else "none at these times"
            axes.text(duration / 2, row, none, ha="center", va="center", color=GREY, fontsize=9)
            continue
        begin, end = seconds.T
        bars = np.stack([begin, np.maximum(end - begin, duration / 300)], axis=1)
        axes.broken_barh(bars.tolist(), (row - 0.32, 0.64), facecolor=colour, linewidth=0)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("seconds after the first scan", labelpad=1)
    axes.axvline((t_ns[moment.scan] - t_ns[0]) / 1e9, color=ORANGE, linewidth=1.2, linestyle="--")


def draw_path(axes: Any, drive: Drive, moment: Moment) -> None:
    """Draw the path of the odometry around the query tile, with its ends, breaks and gaps."""
    track, t_ns = drive.odometry, drive.scans.t_ns
    if track is None:
        axes.set(xticks=[], yticks=[])
        _write_centred(axes, "no odometry: path unknown")
        return
    here = se2_from_se3(track.at(t_ns[moment.scan : moment.scan + 1]))[0]

    def positions(when: Times) -> NDArray[np.floating]:
        return rotate(track.at(when)[:, :2, 3] - here[:2], moment.rotation - here[2])

    for begin, end in _segments(track):
        inside = track.t_ns[(track.t_ns >= begin) & (track.t_ns <= end)]
        thin = inside[:: len(inside) // PATH_POINTS + 1]
        axes.plot(*positions(np.append(thin, end)).T, color=BLUE, linewidth=1.6)
    for at in _gaps(t_ns)[:GAPS_SHOWN]:
        span = np.linspace(t_ns[at], t_ns[at + 1], 20).astype(np.int64)
        line = np.where((track.segment_at(span) >= 0)[:, None], positions(span), np.nan)
        axes.plot(*line.T, color=ORANGE, linewidth=4, alpha=0.6, solid_capstyle="butt")
    breaks = np.flatnonzero(np.diff(track.segment))
    marks = (
        ("o", "white", BLUE, track.t_ns[:1], "start"),
        ("s", BLUE, BLUE, track.t_ns[-1:], "end"),
        ("x", ORANGE, ORANGE, track.t_ns[np.concatenate([breaks, breaks + 1])], "motion unknown"),
    )
    for marker, face, edge, when, label in marks:
        if len(when):
            style: dict[str, Any] = {"markerfacecolor": face, "markeredgecolor": edge}
            style |= {"markersize": 8, "markeredgewidth": 1.8, "label": label}
            axes.plot(*positions(when).T, marker, **style)
    draw_vehicle(axes, moment.rotation, 12)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("Path", loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=9, frameon=False)
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("metres from the query tile, by odometry", labelpad=1)


def _duration(t_ns: Times) -> float:
    """Return the seconds from the first scan to the last, at least a millisecond."""
    return max(float(t_ns[-1] - t_ns[0]) / 1e9, 1e-3)


def _gaps(t_ns: Times) -> NDArray[np.int64]:
    """Return the index of the last scan before each gap longer than ``gap_threshold``."""
    return np.flatnonzero(np.diff(t_ns) > gap_threshold(t_ns) * 1e9)


def _intervals(t_ns: Times, breaks: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return (K, 2) first and last times of the stretches between ``breaks``.

    Args:
        t_ns: (N,) times of samples.
        breaks: Indices of the last sample before each break; by default where samples are more
            than ``TRACK_GAP_NS`` apart.
    """
    if breaks is None:
        breaks = np.flatnonzero(np.diff(t_ns) > TRACK_GAP_NS)
    first, last = np.append(0, breaks + 1), np.append(breaks, len(t_ns) - 1)
    return np.stack([t_ns[first], t_ns[last]], axis=1)


def _segments(track: PoseTrack) -> NDArray[np.int64]:
    """Return (K, 2) first and last times of the odometry's segments."""
    return _intervals(track.t_ns, np.flatnonzero(np.diff(track.segment)))


def _write_centred(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)
