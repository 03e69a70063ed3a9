"""One run of ``maptile localize``: open what is named, localize, write, evaluate."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.city.folder import City, open_city
from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.files import ensure_folder, ensure_replaceable
from data_prep.sources import open_drive
from maptile_loc.device import pick_device
from maptile_loc.odometry.stored import with_lidar_odometry
from maptile_loc.pipeline import Coarse, HeadingKnowledge, LocalizeSettings, localize
from maptile_loc.report.findings import gaps
from maptile_loc.score.likelihood import LikelihoodFields, make_fields
from maptile_loc.search.match import Disc, Matcher
from maptile_loc.types import Localization

METHODS = ("match", "mapnet", "cells", "retrieval")
ODOMETRY = ("auto", "lidar")


@dataclass(frozen=True)
class RunOptions:
    """What the command line says; fields as in ``maptile localize --help``."""

    city: Path
    drive: Path
    format: str = "auto"
    sensors: tuple[str, ...] | None = None
    start: float | None = None
    end: float | None = None
    method: str = "match"
    model: Path | None = None
    heading: HeadingKnowledge = field(default_factory=HeadingKnowledge)
    submap_m: float = 50.0
    every_m: float = 20.0
    online: bool = False
    odometry: str = "auto"
    prior: tuple[float, float, float] | None = None
    device: str = "auto"
    seed: int = 0


def parse_heading(text: str) -> HeadingKnowledge:
    """``known``, ``unknown`` or ``prior:DEG`` as knowledge of the heading.

    Raises:
        MaptileError: It is none of these.
    """
    kind, _, degrees = text.partition(":")
    try:
        if kind in ("known", "unknown") and not degrees:
            return HeadingKnowledge(kind=kind)
        if kind == "prior" and 0 < float(degrees) < 180:
            return HeadingKnowledge(kind="prior", std_deg=float(degrees))
    except ValueError:
        pass
    raise MaptileError(f"--heading {text}: expected known, unknown or prior:DEG, as in prior:10")


def run(options: RunOptions, settings: LocalizeSettings, out: Path) -> str:
    """Localize as ``options`` say, write everything to ``out``; returns lines for the user.

    Raises:
        MaptileError: Something named does not exist, does not fit, or cannot be written.
    """
    if not (0 <= options.submap_m <= 1e5 and 0 <= options.every_m <= 1e5):
        raise MaptileError("--submap and --every are metres of travel: 0 or more")
    if options.odometry not in ODOMETRY:
        raise MaptileError(f"--odometry {options.odometry}: there are {', '.join(ODOMETRY)}")
    city = open_city(options.city)
    drive = open_drive(options.drive, options.format, options.sensors, options.start, options.end)
    fields = make_fields(city.raster, settings.match.resolution, settings.likelihood)
    coarse = make_coarse(options, city, fields, settings)
    ensure_replaceable(out)
    ensure_folder(out)
    needed = drive.odometry is None and (options.submap_m > 0 or options.every_m > 0)
    if needed or options.odometry == "lidar":
        drive = with_lidar_odometry(drive, settings.odometry, out)
    result = localize(
        drive,
        city.raster,
        fields,
        coarse,
        options.heading,
        options.submap_m,
        options.every_m,
        options.online,
        options.seed,
        settings,
    )
    result = replace(result, record=_record(options, city, drive.format))
    metrics = result.save(out, drive.truth)
    lines = [*(f"note: {note}" for note in result.notes), outcome(result, out)]
    if metrics is not None:
        lines.append(str(metrics))
    return "\n".join(lines)


def make_coarse(
    options: RunOptions, city: City, fields: LikelihoodFields, settings: LocalizeSettings
) -> Coarse:
    """The coarse method that ``options`` name, made ready for ``city``."""
    device = pick_device(options.device)
    if options.method == "match":
        return Matcher(
            fields, settings.query.size_m, settings.match, _disc(options, city.raster), device
        )
    if options.method not in METHODS:
        raise MaptileError(f"--method {options.method}: there are {', '.join(METHODS)}")
    if options.prior is not None:
        raise MaptileError("--prior narrows the search of the whole map: --method match")
    from maptile_loc.search.cells import CellsLocator
    from maptile_loc.search.engine.near import NearSearch
    from maptile_loc.search.mapnet import MapNetLocator, default_model
    from maptile_loc.search.retrieval import RetrievalLocator

    folder = options.model or default_model(city, options.method)
    search = NearSearch(fields, settings.query.size_m, settings.match, device)
    if options.method == "mapnet":
        return MapNetLocator(folder, city, search, settings.mapnet, device)
    if options.method == "cells":
        return CellsLocator(folder, city, search, settings.cells, device)
    return RetrievalLocator(folder, city, search, settings.retrieval, device)


def _disc(options: RunOptions, raster: MapRaster) -> Disc | None:
    if options.prior is None:
        return None
    latitude, longitude, radius = options.prior
    east, north = raster.projection.forward(latitude, longitude)
    if not radius > 0 or not raster.inside(np.array([east, north]), -radius):
        raise MaptileError(f"--prior {latitude},{longitude},{radius:g}: not on this city's map")
    return Disc(float(east), float(north), radius)


def _record(options: RunOptions, city: City, drive_format: str) -> dict[str, Any]:
    return asdict(options) | {
        "city": str(options.city.resolve()),
        "city_content_hash": city.content_hash,
        "drive": str(options.drive.resolve()),
        "model": str(options.model) if options.model else None,
        "format": drive_format,
        "heading": options.heading.model_dump(),
    }


def outcome(result: Localization, out: Path) -> str:
    """What came of it, in lines for the user: how many queries were localized, and where none."""
    localized = result.stages[result.final].localized
    line = f"{out}: {localized.sum()} of {len(result.frame)} queries localized"
    line += "".join(f"\nnote: {gap.text}" for gap in gaps(localized, result.t_ns))
    if result.blind:
        line += f"\nwarning: queries without one point: {result.blind}; see maptile inspect"
    if not localized.any():
        line += "\nwarning: nothing was localized; is the drive on this map?"
        alone = result.stages.get("aligned", result.stages[result.final]).localized.sum()
        if alone:
            line += f" {alone} were, each by itself: too short a way may not bear them out"
    return line
