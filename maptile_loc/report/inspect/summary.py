"""The contents of a city or a drive, as lines of text and as a picture.

Some imports are inside the functions: the text appears before the libraries of the picture load.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.errors import MaptileError
from data_prep.progress import Progress, silent
from data_prep.regular import open_regular

if TYPE_CHECKING:
    from data_prep.drive import Drive
    from maptile_loc.recipe import LocalizeSettings

_SHOWS = "maptile inspect "
"""Begin of the text by which a picture is known."""
PICTURE_KEY = "Description"
"""Key of the text in a PNG file that says what it shows."""
LONGEST_SUBMAP_M = 1e5
"""Longest submap that can be asked for, metres of travel."""


Stated = tuple[str, tuple[str, ...] | None, tuple[str, ...] | None]
"""Format, sensors and columns of a drive."""


@dataclass(frozen=True)
class _Request:
    """Arguments of ``inspect`` that concern a drive."""

    picture: Path | None
    submap_m: float
    at_s: float | None
    settings: LocalizeSettings | None
    force: bool
    stated: Stated


def inspect(
    path: Path,
    picture: Path | None = None,
    submap_m: float = 50.0,
    at_s: float | None = None,
    settings: LocalizeSettings | None = None,
    progress: Progress = silent,
    stated: Stated = ("auto", None, None),
    force: bool = False,
) -> Iterator[str]:
    """Yield lines that describe the contents of ``path``, and draw a picture of them.

    Args:
        path: A city folder, a georeferenced raster, or a drive.
        picture: PNG file to write; by default ``NAME_inspect.png`` in the current folder.
        submap_m: Metres of travel in the query tile of a drive; 0 is one scan.
        at_s: Time of the query tile of a drive, seconds from its first scan; by default half-way.
        settings: Recipe for the query tile of a drive; its defaults if None.
        progress: Called while scans are read and the tile is made.
        stated: Format, sensors and columns of a drive, as in ``open_drive``.
        force: Replace a file that is no picture of the same thing.

    Raises:
        MaptileError: ``path`` is neither a city nor a drive that can be read; the time is not in
            the drive; the picture cannot be written.
    """
    if picture is not None and picture.suffix.lower() != ".png":
        raise MaptileError(f"--picture {picture}: a picture is a .png file")
    if not 0 <= submap_m <= LONGEST_SUBMAP_M:
        raise MaptileError("--submap is metres of travel: 0 or more")
    if (path / "city.json").exists() or path.suffix.lower() in {".tif", ".tiff"}:
        yield from _inspect_city(path, picture, force)
    else:
        asked = _Request(picture, submap_m, at_s, settings, force, stated)
        yield from _inspect_drive(path, asked, progress)


def _inspect_city(path: Path, picture: Path | None, force: bool) -> Iterator[str]:
    from data_prep.city.folder import open_city
    from maptile_loc.report.inspect.city_text import describe_city
    from maptile_loc.report.inspect.drive_text import line

    city = open_city(path)
    target = picture or _default_picture(city.name, "city", path)
    check_picture(target, path, force)
    yield from describe_city(city)
    from maptile_loc.report.inspect.city_picture import draw_city
    from maptile_loc.report.marks import save

    yield line("picture", str(save(draw_city(city), target, shows(path))))


def _inspect_drive(path: Path, asked: _Request, progress: Progress) -> Iterator[str]:
    from maptile_loc.perceive.labels import LABELS
    from maptile_loc.report.inspect.drive_text import describe_drive, label_kinds, line, missing
    from maptile_loc.report.inspect.scan_sample import sample_scans

    drive = _open_drive(path, asked.stated, progress)
    lasts = (drive.scans.t_ns[-1] - drive.scans.t_ns[0]) / 1e9
    if asked.at_s is not None and not 0 <= asked.at_s <= lasts:
        raise MaptileError(f"--at {asked.at_s:g}: {drive.name} lasts from 0 to {lasts:.1f} seconds")
    target = asked.picture or _default_picture(drive.name, "drive", path)
    check_picture(target, path, asked.force)
    sample = sample_scans(drive.scans, progress=progress)
    yield from describe_drive(drive, sample)
    tables = LABELS if asked.settings is None else asked.settings.submap.labels
    yield from (line("used as", text) for text in label_kinds(drive, sample, tables))
    yield from (line("missing", text) for text in missing(drive, sample))
    from maptile_loc.report.inspect.drive_picture import draw_drive
    from maptile_loc.report.inspect.moment import TileRecipe
    from maptile_loc.report.marks import save

    recipe = TileRecipe()
    if asked.settings is not None:
        recipe = TileRecipe(asked.settings.submap, asked.settings.query)
    figure = draw_drive(drive, asked.submap_m, asked.at_s, recipe, progress)
    yield line("picture", str(save(figure, target, shows(path))))


def _open_drive(path: Path, stated: Stated, progress: Progress) -> Drive:
    from data_prep.sources import open_drive

    format, sensors, columns = stated
    try:
        return open_drive(path, format, sensors, progress=progress, columns=columns)
    except MaptileError as error:
        from data_prep.osm.kinds import SUFFIXES

        if path.is_file() and path.name.endswith(SUFFIXES):
            raise MaptileError(
                f"{path}: a map, not a drive; make a city of it first: maptile prepare {path} CITY"
            ) from None
        if "no drive of a known format" not in str(error):
            raise
        raise MaptileError(f"{error}. Nor is it a city: city.json is missing") from None


def shows(path: Path) -> str:
    """The text by which a picture is known to show the city or drive at ``path``."""
    return f"{_SHOWS}{path.resolve()}"


def check_picture(target: Path, path: Path, force: bool) -> None:
    """Check that a picture of ``path`` may be written to ``target``.

    Raises:
        MaptileError: A file stands there that is no picture of the same city or drive.
    """
    if force or not target.exists():
        return
    shown = _shown(target)
    if not _is_same(shown, path):
        what = f"the picture of {shown}" if shown else "another file"
        raise MaptileError(
            f"{target}: {what} stands there, and is not replaced by one of {path}; choose another "
            "name with --picture, or add --force"
        )


def _shown(target: Path) -> str:
    """The path of the city or drive that a picture shows; "" of any other file."""
    from PIL import Image

    found = None
    with (
        suppress(OSError, ValueError, SyntaxError, MaptileError),
        open_regular(target) as file,
        Image.open(file, formats=["PNG"]) as image,
    ):
        found = image.info.get(PICTURE_KEY)
    return found.removeprefix(_SHOWS) if isinstance(found, str) else ""


def _is_same(shown: str, path: Path) -> bool:
    """Whether a picture shows what is at ``path``, or an archive or folder with it alone."""
    own = path.resolve()
    return bool(shown) and (Path(shown).is_relative_to(own) or own.is_relative_to(shown))


def _default_picture(name: str, kind: str, path: Path) -> Path:
    """NAME_inspect.png; where a city and a drive share a name, the second adds its kind."""
    stem = re.sub(r"[^\w.-]+", "_", name)
    plain = Path(f"{stem}_inspect.png")
    shown = _shown(plain) if plain.exists() else ""
    return Path(f"{stem}_{kind}_inspect.png") if shown and not _is_same(shown, path) else plain
