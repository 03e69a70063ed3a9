"""What is in a drive, for people."""

from __future__ import annotations

import numpy as np

from data_prep.drive import Drive, HeadingTrack, PoseTrack, Times, TruthTrack

GAP_S = 1.0
STANDING_M_PER_S = 0.1


def inspect_drive(drive: Drive) -> list[str]:
    """Describe a drive in lines of text; the first scan is read, the others are not.

    Raises:
        MaptileError: The first scan is damaged.
    """
    scans = drive.scans
    seconds = (scans.t_ns - scans.t_ns[0]) / 1e9
    longest = float(np.diff(seconds).max(initial=0.0))
    gaps = int((np.diff(seconds) > GAP_S).sum())
    points = len(scans.read(0, 1).points)
    return [
        f"drive     {drive.name} ({drive.format})",
        f"sensors   {', '.join(scans.sensors)}",
        f"scans     {len(seconds)} in {seconds[-1]:.1f} s{_rate(scans.t_ns)}",
        f"points    {points} in the first scan",
        f"gaps      {gaps} of more than {GAP_S:g} s between scans; longest {longest:.2f} s",
        f"odometry  {_odometry(drive.odometry, scans.t_ns)}",
        f"heading   {_heading(drive.heading)}",
        f"truth     {_truth(drive.truth, scans.t_ns)}",
        *(f"note      {note}" for note in drive.notes),
    ]


def _rate(t_ns: Times) -> str:
    seconds = (t_ns[-1] - t_ns[0]) / 1e9
    return f", {(len(t_ns) - 1) / seconds:.1f} per second" if seconds > 0 else ""


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


def _heading(track: HeadingTrack | None) -> str:
    return "none" if track is None else f"{len(track.t_ns)} samples{_rate(track.t_ns)}"


def _truth(track: TruthTrack | None, scan_ns: Times) -> str:
    if track is None:
        return "none"
    covered = float(np.isfinite(track.at(scan_ns)[0]).mean())
    return (
        f"latitude {track.latitude.min():.6f} to {track.latitude.max():.6f}, longitude "
        f"{track.longitude.min():.6f} to {track.longitude.max():.6f}; "
        f"covers {covered:.1%} of the scans"
    )
