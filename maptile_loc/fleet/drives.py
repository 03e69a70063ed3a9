"""The drives of a fleet, localized one by one: each by itself, in this process or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.city.folder import City
from data_prep.cluster import connected
from data_prep.errors import MaptileError
from data_prep.locks import locked
from data_prep.progress import Progress, silent, tracked
from data_prep.standing import check_standing
from maptile_loc.api import localize, open_drive
from maptile_loc.arguments import PathLike, as_city, check_order, made_from
from maptile_loc.device import one_thread
from maptile_loc.report.files import result_of

OPENING = ("format", "sensors", "start", "end", "columns")
"""The arguments of ``localize_fleet`` that ``open_drive`` takes; ``localize`` takes the others."""


@dataclass(frozen=True)
class DriveResult:
    """What became of a drive.

    Attributes:
        drive: Its path.
        folder: The folder of its result.
        queries: Number of queries.
        localized: Number of those that are localized.
        error: Why there is no result; None where there is one.
    """

    drive: Path
    folder: Path
    queries: int = 0
    localized: int = 0
    error: str | None = None


class _Job(NamedTuple):
    """What all drives need: the city, the arguments, and how many threads a drive has."""

    city: Path
    opening: dict[str, Any]
    how: dict[str, Any]
    force: bool
    threads: int


def localize_fleet(
    city: City | PathLike,
    drives: Sequence[PathLike],
    out: PathLike,
    *,
    cluster: str | None = None,
    force: bool = False,
    progress: Progress = silent,
    **how: Any,
) -> list[DriveResult]:
    """Localize many drives on the map of a city, and write the result of each to ``out``/NAME.

    NAME is the last part of the drive's path. A drive that cannot be localized does not end the
    others. Results have the same bits for any number of workers.

    Args:
        city: A city, or its path.
        drives: Paths of the drives.
        out: The folder of the results.
        cluster: As of ``localize``; each worker does a whole drive, and writes its result, so city,
            drives and ``out`` are at the same path on all machines. None: one after the other.
        force: Replace whatever stands at the folders of the results.
        progress: Is called after each drive.
        how: Other arguments of ``localize`` and of ``open_drive``.

    Returns:
        What became of each drive, in their order.

    Raises:
        MaptileError: The city is not on disk, two drives have the same name, or there is no such
            cluster.
    """
    paths = [Path(drive).resolve() for drive in drives]
    for path in paths:
        check_order(city, path)
    names = [path.name for path in paths]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise MaptileError(f"two drives are called {twice[0]}; localize them one by one")
    city = as_city(city)
    if city.path is None:
        raise MaptileError(f"{city.name}: has no path; drives of a fleet need a city on disk")
    opening = {name: how.pop(name) for name in OPENING if name in how}
    parts = [(path, Path(out).resolve() / path.name) for path in paths]
    with connected(cluster) as workers:
        job = _Job(city.path.resolve(), opening, how, force, workers.threads)
        done = workers.each(_localized, job, parts)
        return list(tracked(done, "localize drives", len(parts), progress))


def _localized(job: _Job, part: tuple[Path, Path]) -> DriveResult:
    """Localize one drive, with as many threads as its process has."""
    path, folder = part
    with one_thread() if job.threads == 1 else nullcontext():
        try:
            city, drive = as_city(job.city), open_drive(path, **job.opening)
            with locked(folder):
                check_standing(folder, result_of(made_from(city, drive)), job.force)
                found = localize(city, drive, keep=folder, **job.how)
                found.save(folder, drive.truth, job.force)
        except MaptileError as error:
            return DriveResult(path, folder, error=str(error))
    localized = int(found.trajectory.localized.sum())
    return DriveResult(path, folder, len(found.t_ns), localized)
