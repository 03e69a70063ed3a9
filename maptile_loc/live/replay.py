"""A recorded drive, pushed to a localizer scan by scan, as while it was driven."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data_prep.city.raster import MapRaster
from data_prep.counted import counted
from data_prep.drive import Drive, ScanBlock, ScanSource, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.progress import Progress, silent, tracked
from maptile_loc.asked import SHOWN_TILES
from maptile_loc.fuse.alone import best_candidates, candidate_table, coarse_fixes
from maptile_loc.fuse.filter import estimates
from maptile_loc.fuse.gnss_windows import gnss_counts, gnss_notes
from maptile_loc.fuse.motion import FuseSettings
from maptile_loc.live.localizer import Localizer
from maptile_loc.live.predicted import Known, unknown_estimates
from maptile_loc.live.tracker import Answer
from maptile_loc.map_search import MapSearch
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.small_tiles import SmallTileStore, small_picture
from maptile_loc.types import (
    Estimates,
    Localization,
    Queries,
    QueryTile,
    ScanPoses,
)

SCANS_AT_ONCE = 8
"""Scans that are read at a time."""

PREDICTED_AT_ONCE = 1000
"""Largest number of scans that are predicted together: a vehicle may stand for hours."""


class Asked(NamedTuple):
    """One query of a replayed drive.

    Attributes:
        frame: Index of its scan.
        t_ns: Time of the scan.
        answer: What was found.
        travelled: Metres of travel that the belief is based on.
        seconds: Spent on the push.
    """

    frame: int
    t_ns: int
    answer: Answer
    travelled: float
    seconds: float


def feed(localizer: Localizer, drive: Drive) -> Iterator[ScanBlock]:
    """Push a drive's odometry and headings; yields each scan when it is due to be pushed.

    What is pushed before a scan is what there is up to the time of its last point; GNSS, too, where
    the localizer's queries ask for it.
    """
    odometry, heading = drive.odometry, drive.heading
    known = localizer.queries.heading.kind != "unknown"
    gnss = drive.gnss if localizer.queries.gnss else None
    at, turned, pushed = 0, 0, 0
    for scan in single_scans(drive.scans):
        while odometry is not None and at < len(odometry.t_ns):
            if odometry.t_ns[at] > scan.last_ns:
                break
            restart = at > 0 and odometry.segment[at] != odometry.segment[at - 1]
            localizer.add_odometry(int(odometry.t_ns[at]), odometry.poses[at], bool(restart))
            at += 1
        while known and heading is not None and turned < len(heading.t_ns):
            if heading.t_ns[turned] > scan.last_ns:
                break
            if np.isfinite(heading.heading[turned]):
                localizer.add_heading(int(heading.t_ns[turned]), float(heading.heading[turned]))
            turned += 1
        while gnss is not None and pushed < len(gnss.t_ns) and gnss.t_ns[pushed] <= scan.last_ns:
            position = gnss.latitude[pushed], gnss.longitude[pushed], gnss.std_m[pushed]
            localizer.add_gnss(int(gnss.t_ns[pushed]), *(float(value) for value in position))
            pushed += 1
        yield scan


def single_scans(scans: ScanSource) -> Iterator[ScanBlock]:
    """Each scan by itself; some are read at a time."""
    for start in range(0, len(scans.t_ns), SCANS_AT_ONCE):
        block = scans.read(start, min(start + SCANS_AT_ONCE, len(scans.t_ns)))
        border = np.searchsorted(block.scan, np.arange(len(block.t_ns) + 1))
        for number, (begin, end) in enumerate(pairwise(border.tolist())):
            yield ScanBlock(
                block.t_ns[number : number + 1],
                block.points[begin:end],
                np.zeros(end - begin, np.int32),
                block.origin[number : number + 1],
                None if block.seconds is None else block.seconds[begin:end],
                None if block.label is None else block.label[begin:end],
            )


def replay(
    drive: Drive,
    engine: MapSearch,
    queries: Queries,
    settings: LocalizeSettings,
    own_odometry: bool = False,
    progress: Progress = silent,
) -> Localization:
    """Localize a drive as while it was driven: each query by what came before it.

    Args:
        drive: The drive; its truth is not read.
        engine: The map and the search method.
        queries: How queries are made.
        settings: The recipe.
        own_odometry: Whether the odometry is made from the scans although the drive has one.
        progress: Is called after each scan.

    Raises:
        MaptileError: The drive lacks scans, odometry or headings that are asked for.
    """
    _check(drive, queries)
    drive, count = drive.without_truth(), len(drive.scans.t_ns)
    asked: list[Asked] = []
    tiles: dict[int, QueryTile] = {}
    dense, waited, small = unknown_poses(drive.scans.t_ns), np.zeros(count), SmallTileStore()
    with Localizer.on(
        engine,
        queries,
        settings,
        "lidar" if own_odometry or drive.odometry is None else "pushed",
        drive.labels,
        background=False,
    ) as localizer:
        scans = tracked(feed(localizer, drive), "localize", count, progress)
        between = Between(engine.raster, settings.fuse, dense)
        for frame, scan in enumerate(scans):
            begun = time.perf_counter()
            motion = localizer.push(scan)
            waited[frame] = seconds = time.perf_counter() - begun
            answer, known = localizer.answer, localizer.known
            between.add(known, frame, motion)
            if motion is None or known is None or answer is None:
                continue
            dense.query[frame] = len(asked)
            if localizer.tile is not None:
                tiles = thinned(tiles | {len(asked): localizer.tile})
                small.add(len(asked), small_picture(localizer.tile))
            travelled = known.travelled(motion)
            asked.append(Asked(frame, int(scan.t_ns[0]), answer, travelled, seconds))
        between.flush()
    found = replace(_gathered(drive, engine, settings, asked, tiles), dense=dense)
    figures = live_figures(found, [one.travelled for one in asked], drive.scans.t_ns, waited)
    record, notes = dict(found.record) | {"live": figures}, (*found.notes, live_note(figures))
    return replace(found, record=record, notes=notes, small_tiles=small.tiles())


def _check(drive: Drive, queries: Queries) -> None:
    """Raise MaptileError if a drive cannot be pushed to a localizer."""
    if len(drive.scans.t_ns) == 0:
        raise MaptileError(f"{drive.name}: no scans in it (or none between --start and --end)")
    if drive.apart:
        raise MaptileError(f"{drive.name}: its scans have no times; leave --online out")
    if queries.heading.kind != "unknown" and drive.heading is None:
        raise MaptileError(f"{drive.name}: no headings in it; use --heading unknown")


class Between:
    """Predicts the scans between two queries all at once: the same poses as one after the other.

    Args:
        raster: The map.
        settings: Noise, and limits.
        dense: The poses of all scans, which are set.
    """

    def __init__(self, raster: MapRaster, settings: FuseSettings, dense: ScanPoses) -> None:
        self._raster, self._settings, self._dense = raster, settings, dense
        self._known: Known | None = None
        self._waiting: list[tuple[int, Motion]] = []

    def add(self, known: Known | None, frame: int, motion: Motion | None) -> None:
        """Add the scan ``frame``, at which the vehicle moved as given, and this much is known."""
        if known is not self._known or len(self._waiting) == PREDICTED_AT_ONCE:
            self.flush()
            self._known = known
        if known is not None and motion is not None:
            self._waiting.append((frame, motion))

    def flush(self) -> None:
        """Set the poses of the scans that wait."""
        if self._known is None or not self._waiting:
            return
        frames, motions = zip(*self._waiting, strict=True)
        found = self._known.estimates(motions, self._raster, self._settings)
        for field in fields(Estimates):
            getattr(self._dense, field.name)[list(frames)] = getattr(found, field.name)
        self._waiting.clear()


def unknown_poses(t_ns: Times) -> ScanPoses:
    """Poses of scans at (S,) times, of which nothing is known yet."""
    count = len(t_ns)
    nothing = vars(unknown_estimates(count))
    return ScanPoses(
        frame=np.arange(count), t_ns=t_ns, query=np.full(count, -1, np.int32), **nothing
    )


def thinned(tiles: dict[int, QueryTile]) -> dict[int, QueryTile]:
    """Every second of the tiles, by number, if there are more than twice ``SHOWN_TILES``."""
    if len(tiles) <= 2 * SHOWN_TILES:
        return tiles
    return {number: tile for index, (number, tile) in enumerate(tiles.items()) if index % 2 == 0}


def live_figures(
    found: Localization, travelled: Sequence[float], t_ns: Times, waited: Array
) -> dict[str, float | None]:
    """How fast a drive was localized, as ``run.json`` keeps it.

    Args:
        found: The localized drive.
        travelled: Metres of travel of each query in its segment of the odometry.
        t_ns: (S,) times of all scans.
        waited: (S,) seconds of each push.

    Returns:
        ``latency_median_s`` and ``latency_p95_s`` of the pushes that make a query,
        ``real_time_factor`` (seconds of all pushes per second of the drive, without those of the
        fixes between queries, which are made together here), and ``first_fix_s``
        and ``first_fix_m`` up to the first localized query; None where there is none.
    """
    seconds = float(t_ns[-1] - t_ns[0]) / 1e9
    sure = np.flatnonzero(found.trajectory.localized)
    first = int(sure[0]) if len(sure) else None
    return {
        "latency_median_s": float(np.median(found.query_seconds)),
        "latency_p95_s": float(np.percentile(found.query_seconds, 95)),
        "real_time_factor": float(waited.sum()) / seconds if seconds > 0 else None,
        "first_fix_s": None if first is None else float(found.t_ns[first] - t_ns[0]) / 1e9,
        "first_fix_m": None if first is None else float(travelled[first]),
    }


def live_note(figures: dict[str, float | None]) -> str:
    """The figures as a line for the user."""
    median, p95 = figures["latency_median_s"], figures["latency_p95_s"]
    factor, first_s, first_m = (
        figures[key] for key in ("real_time_factor", "first_fix_s", "first_fix_m")
    )
    assert median is not None and p95 is not None
    words = [f"live: {1e3 * median:.0f} ms per query (95 %: {1e3 * p95:.0f} ms)"]
    if factor is not None:
        words.append(f"real-time factor {factor:.3g}")
    if first_s is not None:
        words.append(f"first sure fix after {first_s:.1f} s and {first_m:.0f} m")
    return ", ".join(words)


def _gathered(
    drive: Drive,
    engine: MapSearch,
    settings: LocalizeSettings,
    asked: list[Asked],
    tiles: dict[int, QueryTile],
) -> Localization:
    """The result of all queries."""
    answers = [one.answer for one in asked]
    if not answers:
        raise MaptileError(
            f"{drive.name}: its odometry covers none of the scans; are both on the same clock?"
        )
    if all(answer.blind for answer in answers):
        raise MaptileError(
            f"{drive.name}: not one usable point in the scans of {counted(len(asked), 'query')}"
        )
    if all(answer.unturned or answer.blind for answer in answers):
        raise MaptileError(
            f"{drive.name}: its headings cover none of the queries; use --heading unknown"
        )
    fixes = [answer.fixes for answer in answers]
    beliefs = [answer.belief for answer in answers]
    wall_m2 = np.array([fix.wall_m2 for fix in fixes])
    travelled = np.array([one.travelled for one in asked])
    states = np.array([answer.gnss for answer in answers])
    record = gnss_counts(states == "used", states == "left_out") if drive.gnss is not None else {}
    coarse = coarse_fixes([answer.candidates for answer in answers], fixes, settings.search)
    return Localization(
        frame=np.array([one.frame for one in asked]),
        t_ns=np.array([one.t_ns for one in asked], np.int64),
        stages={
            "coarse": best_candidates(coarse, settings.fuse),
            "aligned": best_candidates(fixes, settings.fuse),
            "fused": estimates(beliefs, wall_m2, travelled, settings.fuse),
        },
        final="fused",
        search_area_km2=engine.search.area_km2,
        query_seconds=np.array([one.seconds for one in asked]),
        tiles=tiles,
        raster=engine.raster,
        tracked=np.array([answer.tracked for answer in answers]),
        blind=sum(answer.blind for answer in answers),
        candidates=candidate_table([fix.candidates for fix in fixes]),
        settings=settings,
        record=record,
        notes=(*drive.notes, *gnss_notes(record, drive.gnss, engine.raster)),
    )
