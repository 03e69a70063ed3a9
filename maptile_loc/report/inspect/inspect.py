"""What is in a city or a drive, in words and in a picture.

Some imports are inside the functions: the words come before what the picture needs is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep.errors import MaptileError
from data_prep.files import read_json
from data_prep.progress import Progress, silent
from maptile_loc.perceive.labels import LABELS, LabelTable, kinds
from maptile_loc.report.inspect.contents import ScanSample, inspect_drive, line, sample_scans

if TYPE_CHECKING:
    from data_prep.city.folder import City
    from data_prep.drive import Drive
    from maptile_loc.pipeline import LocalizeSettings

KIND_NAMES = ("other", "building", "ground", "moving", "road")


def inspect(
    path: Path,
    picture: Path | None = None,
    submap_m: float = 50.0,
    at_s: float | None = None,
    settings: LocalizeSettings | None = None,
    progress: Progress = silent,
) -> Iterator[str]:
    """Lines that say what lies at ``path``, as they become known, and a picture of it.

    Args:
        path: A city folder, a georeferenced raster, or a drive.
        picture: The PNG file to write; by default ``NAME_inspect.png`` in the current folder.
        submap_m: Of a drive: metres of travel put together for the query tile; 0 is one scan.
        at_s: Of a drive: seconds from the first scan to that tile; by default half-way.
        settings: Of a drive: the recipe by which its tile is made; its defaults by default.
        progress: Called while scans are read and the tile is made.

    Raises:
        MaptileError: It is neither a city nor a drive that can be read; the time is not in the
            drive; the picture cannot be written.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise MaptileError(f"--picture {picture}: a picture is a .png file")
    if not 0 <= submap_m <= 1e5:
        raise MaptileError("--submap is metres of travel: 0 or more")
    if (path / "city.json").exists() or path.suffix.lower() in {".tif", ".tiff"}:
        yield from _inspect_city(path, picture)
    else:
        yield from _inspect_drive(path, picture, submap_m, at_s, settings, progress)


def _inspect_city(path: Path, picture: Path | None) -> Iterator[str]:
    from data_prep.city.folder import open_city

    city = open_city(path)
    yield from city_lines(city)
    from maptile_loc.report.inspect.city_picture import draw_city
    from maptile_loc.report.marks import save

    yield line("picture", str(save(draw_city(city), picture or _default(city.name))))


def _inspect_drive(
    path: Path,
    picture: Path | None,
    submap_m: float,
    at_s: float | None,
    settings: LocalizeSettings | None,
    progress: Progress,
) -> Iterator[str]:
    drive = _open_drive(path)
    lasts = (drive.scans.t_ns[-1] - drive.scans.t_ns[0]) / 1e9
    if at_s is not None and not 0 <= at_s <= lasts:
        raise MaptileError(f"--at {at_s:g}: {drive.name} lasts from 0 to {lasts:.1f} seconds")
    sample = sample_scans(drive.scans, progress=progress)
    yield from inspect_drive(drive, sample)
    tables = LABELS if settings is None else settings.submap.labels
    yield from (line("used as", text) for text in _kinds(drive, sample, tables))
    yield from (line("missing", text) for text in missing(drive, sample))
    from maptile_loc.report.inspect.drive_picture import DEFAULTS, TileRecipe, draw_drive
    from maptile_loc.report.marks import save

    recipe = DEFAULTS if settings is None else TileRecipe(settings.submap, settings.query)
    figure = draw_drive(drive, submap_m, at_s, recipe, progress)
    yield line("picture", str(save(figure, picture or _default(drive.name))))


def _open_drive(path: Path) -> Drive:
    from data_prep.sources import open_drive

    try:
        return open_drive(path)
    except MaptileError as error:
        from data_prep.osm.files import OSM_SUFFIXES
        from data_prep.osm.vectors import VECTOR_SUFFIXES

        if path.is_file() and path.name.endswith((*OSM_SUFFIXES, *VECTOR_SUFFIXES)):
            raise MaptileError(
                f"{path}: a map, not a drive; make a city of it first: maptile prepare {path} CITY"
            ) from None
        if "no drive of a known format" not in str(error):
            raise
        raise MaptileError(f"{error}. Nor is it a city: city.json is missing") from None


def city_lines(city: City) -> Iterator[str]:
    """What is in a city, in aligned lines of text."""
    raster, tiles, buildings, roads = city.raster, city.tiles(), city.buildings(), city.roads()
    corners = np.array([[raster.west, raster.south], [raster.east, raster.north], raster.centre])
    latitude, longitude = raster.projection.inverse(corners)
    covered = (np.count_nonzero(band) / band.size for band in raster.data)
    paths = int((roads["kind"] == "path").sum())
    known = buildings["height"].dropna()
    heights = "no heights known"
    if len(known):
        heights = f"heights of {len(known)} known, {known.min():.0f} to {known.max():.0f} m"
    reference = raster.projection.inverse(city.reference)
    box = (
        f"latitude {latitude[0]:.5f} to {latitude[1]:.5f}, "
        f"longitude {longitude[0]:.5f} to {longitude[1]:.5f}"
    )
    size = f"{raster.width} x {raster.height} pixels of {raster.resolution:g} m"
    empty = f"{int(tiles['empty'].sum())} of them with nothing in them"
    rows = [
        ("city", city.name),
        ("source", f"{city.source}, as of {city.source_date or 'an unknown day'}"),
        ("centre", f"{latitude[2]:.5f}, {longitude[2]:.5f}; CRS {raster.crs.name}"),
        ("extent", box),
        ("raster", f"{size}, {raster.area_km2:.2f} km2"),
        ("covered", "buildings {:.1%}, roads {:.1%}, paths {:.1%}".format(*covered)),
        ("buildings", f"{len(buildings)}, {heights}"),
        (
            "roads",
            f"{len(roads) - paths}, and {paths} paths" if len(roads) else "no lines, pixels only",
        ),
        ("tiles", f"{len(tiles)} of {tiles['size'].iloc[0] * raster.resolution:g} m, {empty}"),
        ("reference", f"the tile at {reference[0]:.5f}, {reference[1]:.5f}"),
        *(("model", text) for text in _models(city)),
        ("hash", city.content_hash),
        *(("note", note) for note in city.notes),
    ]
    return (line(name, text) for name, text in rows)


def _models(city: City) -> Iterator[str]:
    cards = [] if city.folder is None else sorted((city.folder / "models").glob("*/model.json"))
    if not cards:
        yield "none; --method match needs none, --method mapnet wants maptile train"
    for card in cards:
        content = read_json(card)
        trained_for = content.get("city")
        fits = isinstance(trained_for, dict) and trained_for.get("content_hash")
        stale = "" if fits == city.content_hash else "; trained for another map: train it again"
        yield f"{card.parent.name}, --method {content.get('method', 'unknown')}{stale}"


def missing(drive: Drive, sample: ScanSample) -> Iterator[str]:
    """What a drive lacks, and what that means for localizing it."""
    scan_ns = drive.scans.t_ns
    if not sample.points.any():
        yield "points: not one usable in the scans read, so there is nothing to localize with"
    if len(scan_ns) == 1:
        yield "more scans: one is localized by itself, with --submap 0 --every 0"
    elif drive.odometry is None:
        if sample.planar:
            yield "odometry: scans that lie in a plane do not tell it, so the drive needs a file"
        else:
            yield "odometry: it will be made from the LiDAR"
    else:
        outside = int((drive.odometry.segment_at(scan_ns) < 0).sum())
        if outside:
            yield f"odometry at {outside} of {len(scan_ns)} scans: those are not localized"
        pieces = len(np.unique(drive.odometry.segment))
        if pieces > 1:
            yield f"motion between {pieces} pieces of odometry: the track begins afresh at each"
    if drive.heading is None:
        yield "heading: use --heading unknown, which tries every heading and takes longer"
    else:
        unknown = int(np.isnan(drive.heading.at(scan_ns)).sum())
        if unknown:
            yield (
                f"heading at {unknown} of {len(scan_ns)} scans: those are not localized, except "
                "with --heading unknown"
            )
    if drive.truth is None:
        yield "truth: maptile evaluate has nothing to compare with; localizing needs none"


def _kinds(drive: Drive, sample: ScanSample, tables: Mapping[str, LabelTable]) -> Iterator[str]:
    """What the pipeline takes the labels of a drive to be."""
    if not len(sample.labels):
        return
    table = tables.get(drive.labels or "")
    if table is None:
        yield "nothing: localizing has no table of these labels"
        return
    count = np.bincount(kinds(sample.labels, table), sample.label_points, len(KIND_NAMES))
    share = count / count.sum()
    yield ", ".join(f"{KIND_NAMES[kind]} {share[kind]:.0%}" for kind in (1, 4, 2, 3, 0))


def _default(name: str) -> Path:
    return Path(re.sub(r"[^\w.-]+", "_", name) + "_inspect.png")
