"""The GNSS samples near each query of a recorded drive."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from data_prep.city.raster import FAR_M, MapRaster
from data_prep.drive import Drive, GnssTrack, PoseTrack, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, Projection, se2_between, se2_from_se3
from maptile_loc.fuse.gnss import GnssEvidence, GnssSettings, GnssWindow, Witness, fit

OFF_MAP = f"more than {FAR_M / 1e3:.0f} km off this map: latitude and longitude may be swapped"
"""What is said of a track that lies off the map."""

STILL_S = 1.0
"""Without odometry, samples up to this far from a query belong to it, seconds."""


def with_asked_gnss(drive: Drive, asked: bool, search: bool = True) -> Drive:
    """The drive with its GNSS where that is asked for; without it, and with a note, elsewhere.

    Raises:
        MaptileError: It is asked for, and the drive has none, or the map is not searched.
    """
    if asked and not search:
        raise MaptileError("--search none does not go with --gnss")
    if asked and drive.gnss is None:
        why = "".join(f" ({note})" for note in drive.notes if note.startswith("no GNSS"))
        raise MaptileError(f"{drive.name}: no GNSS in it{why}; leave --gnss out")
    if asked or drive.gnss is None:
        return drive
    note = "the drive has GNSS, which is not used; --gnss uses it"
    return replace(drive, gnss=None, notes=(*drive.notes, note))


def gnss_counts(used: NDArray[np.bool_], left_out: NDArray[np.bool_]) -> dict[str, object]:
    """What became of the GNSS of Q queries, as ``run.json`` keeps it."""
    counts = {"used": used, "left_out": left_out, "missing": ~used & ~left_out}
    return {"gnss_queries": {name: int(one.sum()) for name, one in counts.items()}}


def gnss_notes(
    record: dict[str, object], track: GnssTrack | None, raster: MapRaster
) -> tuple[str, ...]:
    """Lines for the user about GNSS that is missing, left out or off the map.

    Args:
        record: As from ``gnss_counts``; empty without GNSS.
        track: The samples.
        raster: The map.
    """
    counts = record.get("gnss_queries")
    if not isinstance(counts, dict) or track is None:
        return ()
    notes, total = [], sum(counts.values())
    if raster.far_from(track.latitude, track.longitude):
        notes.append(f"the GNSS lies {OFF_MAP}")
    elif counts["missing"] == total:
        notes.append("its GNSS covers none of the queries; are both on the same clock?")
    if not counts["used"]:
        notes.append("GNSS was used at no query")
        if counts["missing"] == total:
            return tuple(notes)
    if counts["left_out"]:
        notes.append(
            f"GNSS contradicts the walls at {counts['left_out']} of {total} queries: left out there"
        )
    if counts["missing"]:
        notes.append(f"no GNSS at {counts['missing']} of {total} queries")
    return tuple(notes)


def drive_evidence(
    track: GnssTrack,
    odometry: PoseTrack | None,
    t_ns: Times,
    projection: Projection,
    settings: GnssSettings,
    heading_unknown: bool,
) -> GnssEvidence:
    """The GNSS of Q queries, from the samples before and after each.

    Args:
        track: The samples.
        odometry: The drive's odometry; None: only samples at the queries are used.
        t_ns: (Q,) times of the queries, increasing.
        projection: The map frame.
        settings: How far GNSS is believed.
        heading_unknown: Whether the heading that GNSS states is used.
    """
    seen = projection.forward(track.latitude, track.longitude)
    placed = placed_samples(track.t_ns, odometry)
    at, segment = placed_samples(t_ns, odometry)
    reach = round((settings.window_s if odometry is not None else STILL_S) * 1e9)
    first = np.searchsorted(track.t_ns, t_ns - reach)
    last = np.searchsorted(track.t_ns, t_ns + reach, side="right")
    windows: list[GnssWindow | None] = []
    for query, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        near = np.arange(begin, end)
        same = placed[1][near] == segment[query]
        near = near[same & np.isfinite(seen[near]).all(axis=1)]
        local = se2_between(at[query][None], placed[0][near])[:, :2]
        seconds = (track.t_ns[near] - t_ns[query]) / 1e9
        window = GnssWindow(local, seen[near], track.std_m[near], seconds)
        windows.append(window if len(near) else None)
    witnesses = [stated(window, settings, heading_unknown) for window in windows]
    seconds = (t_ns - t_ns[0]) / 1e9
    return GnssEvidence(windows, witnesses, seconds, settings)


def stated(
    window: GnssWindow | None, settings: GnssSettings, heading_unknown: bool
) -> Witness | None:
    """What a window's samples state; without a heading where that is known anyway."""
    witness = fit(window, settings)
    if witness is None or heading_unknown:
        return witness
    covariance = witness.covariance.copy()
    covariance[2, :2] = covariance[:2, 2] = 0.0
    covariance[2, 2] = np.inf
    return witness._replace(covariance=covariance)


def placed_samples(t_ns: Times, odometry: PoseTrack | None) -> tuple[Array, Array]:
    """(N, 3) odometry poses at N times, and (N,) segments; -1 where it does not cover the time."""
    if odometry is None:
        return np.zeros((len(t_ns), 3)), np.zeros(len(t_ns))
    segment = odometry.segment_at(t_ns).astype(np.float64)
    return se2_from_se3(odometry.at(t_ns)), np.where(segment < 0, np.nan, segment)
