"""The queries of a drive, asked by the workers of a cluster.

Every worker opens city and drive by itself, so both have to be at the same path on all machines.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.city.folder import open_city
from data_prep.cluster import connected
from data_prep.drive import Drive, Origin, PoseTrack
from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from data_prep.sources import open_drive
from maptile_loc.asked import QueryAnswer, ask
from maptile_loc.device import one_thread
from maptile_loc.live.shared import shared_search
from maptile_loc.map_search import MapSearch
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.pipeline import drive_tiles, query_gnss, query_steps
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.search.engine.area import Area
from maptile_loc.types import Queries

PARTS = 6
"""Parts of a drive per worker: those that are faster get more of them."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to ask queries of a drive.

    Attributes:
        key: Its unique name.
        city: Path of the city.
        drive: What the drive is opened from.
        odometry: The drive's, which may have been made from its scans.
        queries: How queries are made.
        settings: The recipe.
        method: The search method.
        area: The only part of the map that is searched.
        model: Folder of the model; None: the city's newest.
        search: Whether the map is searched.
    """

    key: str
    city: Path
    drive: Origin
    odometry: PoseTrack | None
    queries: Queries
    settings: LocalizeSettings
    method: str
    area: Area | None
    model: Path | None
    search: bool


def job_of(
    city: Path | None,
    drive: Drive,
    queries: Queries,
    settings: LocalizeSettings,
    method: str,
    area: Area | None,
    model: Path | None,
    search: bool,
) -> Job:
    """The job of a drive, for ``answers_of``; arguments as its attributes.

    Raises:
        MaptileError: City or drive are not on disk, where workers could open them.
    """
    if city is None or drive.origin is None:
        raise MaptileError("--cluster needs a city and a drive on disk")
    origin = replace(drive.origin, path=drive.origin.path.resolve())
    asked = queries, settings, method, area, None if model is None else model.resolve(), search
    return Job(uuid.uuid4().hex, city.resolve(), origin, drive.odometry, *asked)


def answers_of(
    job: Job, count: int, cluster: str, progress: Progress = silent
) -> Iterator[QueryAnswer]:
    """The answers of all queries of a drive, from the workers of a cluster.

    They are the same, to the last bit, for any number of workers.

    Args:
        job: City, drive and settings.
        count: Number of queries.
        cluster: "local", "local:N" for N processes on this machine, or the address of a scheduler
            of Dask (tcp://host:8786).
        progress: Is called after each part.

    Yields:
        An answer per query, in order.

    Raises:
        MaptileError: Dask is not installed, there is no such cluster, its workers die, or a worker
            raises it.
    """
    with connected(cluster) as workers:
        size = max(1, -(-count // (PARTS * workers.count)))
        parts = [range(start, min(start + size, count)) for start in range(0, count, size)]
        progress("localize", 0, count)
        for part, answers in zip(parts, workers.each(ask_part, job, parts), strict=True):
            yield from answers
            progress("localize", part.stop, count)


_OPENED: dict[str, tuple[QueryTiles, MapSearch]] = {}
"""The last job of this worker, opened."""


def ask_part(job: Job, part: range) -> list[QueryAnswer]:
    """The answers of some consecutive queries; runs on a worker."""
    with one_thread():
        tiles, engine = _opened(job)
        gnss = query_gnss(tiles, engine.raster, job.settings)
        witnesses = None if gnss is None else gnss.witnesses
        known = query_steps(tiles, job.settings.fuse).known
        return list(ask(tiles, engine, job.settings, part, known, job.search, witnesses))


def _opened(job: Job) -> tuple[QueryTiles, MapSearch]:
    """The drive's tiles and the map, opened once per worker and job."""
    if job.key in _OPENED:
        return _OPENED[job.key]
    city, origin = open_city(job.city), job.drive
    drive = open_drive(
        origin.path,
        origin.format,
        origin.sensors,
        origin.start,
        origin.end,
        columns=origin.columns,
    )
    drive = replace(drive, odometry=job.odometry)
    engine = shared_search(city, job.settings, job.method, job.area, job.model)
    opened = drive_tiles(city, drive, job.queries, job.settings), engine
    _OPENED.clear()
    _OPENED[job.key] = opened
    return opened
