"""A drive localized: as if live or afterwards, in this process or by the workers of a cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from data_prep.city.folder import City
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.files import ensure_folder
from data_prep.progress import Progress, silent
from maptile_loc import pipeline
from maptile_loc.arguments import PathLike
from maptile_loc.batch.cluster import answers_of, job_of
from maptile_loc.device import pick_device
from maptile_loc.fuse.gnss_windows import with_asked_gnss
from maptile_loc.live.replay import replay
from maptile_loc.live.shared import shared_search
from maptile_loc.odometry.stored import with_needed_odometry
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.report.files import run_record
from maptile_loc.report.findings import outcome_notes
from maptile_loc.search.engine.area import searched_area
from maptile_loc.types import Localization, Queries


def localized(
    city: City,
    drive: Drive,
    queries: Queries,
    settings: LocalizeSettings,
    model: PathLike | None,
    given: dict[str, Any],
    keep: PathLike | None,
    progress: Progress = silent,
) -> Localization:
    """Localize a drive as the arguments of ``api.localize`` say.

    Args:
        city: The city.
        drive: The drive.
        queries: How queries are made.
        settings: The recipe.
        model: Folder of a trained model, or None.
        given: The other arguments of ``api.localize``, by name.
        keep: Folder in which odometry that is made from the scans is kept.
        progress: Is called as the work proceeds.

    Raises:
        MaptileError: As ``api.localize``.
    """
    search, pgo, cluster = given["search"], given["pgo"], given["cluster"]
    if queries.online and (pgo or not search or cluster):
        raise MaptileError("--search none, --pgo and --cluster do not go with --online")
    drive = with_asked_gnss(drive, queries.gnss, search)
    folder, device = None if model is None else Path(model), pick_device(given["device"])
    area = searched_area(city, given["prior"], given["near"], settings.search.near_m)
    engine = shared_search(city, settings, given["method"], area, folder, device, progress)
    if keep is not None:
        ensure_folder(Path(keep))  # before the work, so that a wrong name is found at once
    about = run_record(city, drive, queries, folder, settings) | given
    odometry = given["odometry"]
    if queries.online:
        found = replay(drive, engine, queries, settings, odometry == "lidar", progress)
    else:
        drive = with_needed_odometry(drive, queries, odometry, settings.odometry, keep, progress)
        tiles, answers = pipeline.drive_tiles(city, drive, queries, settings), None
        if cluster is not None:
            how = settings, given["method"], area, folder, search
            answers = answers_of(
                job_of(city.path, drive, queries, *how), len(tiles), cluster, progress
            )
        found = pipeline.localize(tiles, engine, settings, progress, search, pgo, answers)
    record, notes = about | dict(found.record), (*found.notes, *outcome_notes(found))
    return replace(found, record=record, notes=notes)
