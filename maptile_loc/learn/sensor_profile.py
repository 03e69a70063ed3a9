"""Sensor profiles: the wall detector, adapted to the sensor of a drive by the map."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.city.folder import City
from data_prep.city.raster import ATTRIBUTION
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.files import ensure_replaceable, swapped_folder
from data_prep.locks import locked
from data_prep.progress import Progress, silent
from data_prep.standing import MADE_FROM, Keep, Product, check_standing
from maptile_loc.arguments import made_from
from maptile_loc.config import save_settings
from maptile_loc.learn.teacher import (
    SHIFTS,
    Lesson,
    TeachSettings,
    covered_m,
    edge_shares,
    make_lessons,
)
from maptile_loc.learn.walls import UNKNOWN, LabelNoise, Sample, fit_detector, wall_loss
from maptile_loc.map_search import prepare_search
from maptile_loc.perceive.detector import (
    BUILDING_CLASS,
    CARD,
    SHIPPED,
    WEIGHTS,
    WallDetector,
    cached_detector,
    make_cells,
    read_detector,
    write_detector,
)
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.perceive.walls import FEATURES
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.types import Queries

RECIPE = "adapt.yaml"
"""Name of the recipe in a profile's folder."""

LICENCE = "inherits the licence of the drive; labels (c) OpenStreetMap contributors, ODbL"
"""What a profile's card states about its licence."""


def adapt_walls(
    city: City,
    drive: Drive,
    queries: Queries,
    out: Path,
    settings: TeachSettings,
    localize: LocalizeSettings,
    device: str = "cpu",
    progress: Progress = silent,
    force: bool = False,
) -> Path:
    """Adapt the wall detector to the sensor of a drive, and write it as a sensor profile.

    Args:
        city: The map that labels the scans.
        drive: Scans and odometry; its truth and the labels of its points are not used.
        queries: How query tiles are made.
        out: Folder of the profile; an older profile there is replaced.
        settings: The recipe.
        localize: The recipe of the localization; ``query.wall.profile`` is the detector to start
            from, by default that of the package.
        device: "cpu" or "cuda", for the search.
        progress: Is called as the work proceeds.
        force: Replace whatever stands at ``out``.

    Returns:
        ``out``.

    Raises:
        MaptileError: ``out`` is in the city, or is something else than a profile; too few poses of
            the drive are sure; the map does not fit at these; the adapted detector is not better
            where it was not fitted. Nothing is written then.
    """
    with locked(out):
        keep = check_out(out, city, drive, force)
        return _adapt(city, drive, queries, (out, keep), settings, localize, device, progress)


def _adapt(
    city: City,
    drive: Drive,
    queries: Queries,
    target: tuple[Path, Keep],
    settings: TeachSettings,
    localize: LocalizeSettings,
    device: str,
    progress: Progress,
) -> Path:
    out, keep = target
    start_folder = localize.query.wall.profile or SHIPPED
    start = read_detector(start_folder, FEATURES)
    submap = localize.submap.model_copy(update={"labels": {}})
    localize = localize.model_copy(update={"submap": submap})
    tiles = drive_tiles(city, drive.without_truth(), queries, localize)
    engine = prepare_search(city, localize, device=device, progress=progress)
    lessons = make_lessons(tiles, engine, start, settings, localize, progress)
    check_sure(lessons, tiles, settings)
    check_fit(lessons, tiles, city, settings)
    progress("adapt", 0, 1)
    adapted, losses = adapt_detector(start, lessons, localize.query.size, settings)
    progress("adapt", 1, 1)
    check_better(losses, out)
    facts = {
        "adapted": {
            **_about(lessons, tiles, city),
            "from_sha256": hashlib.sha256((start_folder / WEIGHTS).read_bytes()).hexdigest(),
            "log_loss_held_out": losses,
        },
        MADE_FROM: made_from(city, drive),
        "attribution": ATTRIBUTION,
        "licence": LICENCE,
    }
    with swapped_folder(out, keep) as new:
        write_detector(new, adapted, FEATURES, facts)
        save_settings(settings, new / RECIPE)
    cached_detector.cache_clear()
    return out


def adapt_detector(
    start: WallDetector, lessons: Sequence[Lesson], size: int, settings: TeachSettings
) -> tuple[WallDetector, dict[str, float]]:
    """The detector adapted to all blocks but the last, and its loss on these.

    Args:
        start: The detector to continue from; it stays as it is.
        lessons: Labelled cells, in the order of the drive.
        size: Pixels along a side of their tiles.
        settings: How it is fitted, and the share of the blocks held out.

    Returns:
        The detector, and the mean log-loss of the map's labels in the held-out blocks ``before``
        and ``after``, nats.

    Raises:
        MaptileError: All lessons are in one block.
    """
    blocks = np.unique([lesson.block for lesson in lessons])
    held = blocks[-int(np.ceil(settings.held_out * len(blocks))) :]
    parts: tuple[list[Sample], list[Sample]] = [], []
    for lesson in lessons:
        parts[lesson.block in held].extend(lesson.samples)
    fitted, judged = ([s for s in part if (s.target != UNKNOWN).any()] for part in parts)
    if not fitted or not judged:
        raise MaptileError("the sure poses are in one block only: lower block_m")
    adapted = fit_detector(fitted, size, settings.fit, start)
    pair = {"before": start, "after": adapted}
    return adapted, {
        name: map_loss(one, judged, size, settings.fit.noise) for name, one in pair.items()
    }


def map_loss(
    detector: WallDetector, samples: Sequence[Sample], size: int, noise: LabelNoise
) -> float:
    """Mean negative log-probability, nats, of all labels of some samples."""
    with torch.inference_mode():
        odds = [detector(make_cells(s.cell, s.features, size)) for s in samples]
    target = torch.from_numpy(np.concatenate([sample.target for sample in samples]))
    return float(wall_loss(torch.cat(odds), target, noise))


# --- Checks -------------------------------------------------------------------------------------


def check_out(out: Path, city: City, drive: Drive | None = None, force: bool = False) -> Keep:
    """Check that a profile may be written to ``out``, before long work is done.

    Args:
        out: The folder.
        city: The city that teaches.
        drive: The drive whose sensor it is; None: unknown.
        force: Replace whatever stands there.

    Returns:
        Which entries of ``out`` stay.

    Raises:
        MaptileError: It is in the city's folder, or something else stands there, or it cannot be
            written to.
    """
    if city.folder is not None and out.resolve().is_relative_to(city.folder.resolve()):
        raise MaptileError(f"{out}: a profile belongs to a sensor, not to a city; choose another")
    origin = {} if drive is None else made_from(city, drive)
    product = Product(CARD, origin, lambda name: name not in (CARD, WEIGHTS, RECIPE))
    keep = check_standing(out, product, force)
    ensure_replaceable(out)
    return keep


def check_sure(lessons: Sequence[Lesson], tiles: QueryTiles, settings: TeachSettings) -> None:
    """Check that enough poses teach.

    Raises:
        MaptileError: They are too few, or cover too short a distance.
    """
    metres = covered_m(tiles, np.array([lesson.query for lesson in lessons], np.int64))
    if len(lessons) < settings.least_queries or metres < settings.least_m:
        raise MaptileError(
            f"{tiles.drive.name}: {len(lessons)} of {len(tiles)} poses are sure enough to teach, "
            f"on {metres:.0f} m; {settings.least_queries} on {settings.least_m:g} m are needed: "
            "take a longer drive, or a smaller --every"
        )


def check_fit(
    lessons: Sequence[Lesson], tiles: QueryTiles, city: City, settings: TeachSettings
) -> None:
    """Check that the walls found fit the map best at the poses, not beside them.

    Raises:
        MaptileError: They fit about as well, or better, at displaced poses.
    """
    shares = edge_shares(lessons)
    best = 1 + int(shares[1:].argmax())
    if not shares[0] > settings.clear * shares[best]:
        raise MaptileError(
            f"{tiles.drive.name}: the map {city.name} does not fit its poses: {shares[0]:.0%} of "
            f"the walls seen are at an edge of the map, {shares[best]:.0%} with poses displaced by "
            f"{np.hypot(*SHIFTS[best]):.0f} m; is this its city?"
        )


def check_better(losses: dict[str, float], out: Path) -> None:
    """Check that the log-loss on the held-out blocks is lower ``after`` than ``before``.

    Raises:
        MaptileError: It is not.
    """
    if not losses["after"] < losses["before"]:
        raise MaptileError(
            f"{out}: not written: where it was not fitted, the adapted detector explains the map "
            f"no better than the one before (log-loss {losses['after']:.4f}, before "
            f"{losses['before']:.4f} nats); go on without a profile, or use a longer drive"
        )


def _about(lessons: Sequence[Lesson], tiles: QueryTiles, city: City) -> dict[str, Any]:
    """What the profile is adapted to, for the card."""
    drive, queries = tiles.drive, tiles.queries
    target = np.concatenate([one.target for lesson in lessons for one in lesson.samples])
    poses = np.array([lesson.pose[:2] for lesson in lessons])
    positions = np.column_stack(city.raster.projection.inverse(poses))
    return {
        "drive": drive.name,
        "format": drive.format,
        "sensors": list(drive.scans.sensors),
        "city": city.name,
        "city_content_hash": city.content_hash,
        "submap_m": float(queries.submap_m),
        "every_m": float(queries.every_m),
        "heading": queries.heading.kind,
        "queries": len(lessons),
        "cells": int((target != UNKNOWN).sum()),
        "walls": int((target == BUILDING_CLASS).sum()),
        "positions": np.round(positions, 6).tolist(),
    }
