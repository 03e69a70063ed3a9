"""Arguments of the Python API: cities and drives as objects or as paths."""

from __future__ import annotations

from pathlib import Path

from data_prep.city.folder import City, open_city
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.standing import Origin, known_as
from maptile_loc.types import HeadingKnowledge

PathLike = str | Path


def as_city(city: City | PathLike) -> City:
    """The city, opened if it is a path.

    Raises:
        MaptileError: There is no city.
    """
    return city if isinstance(city, City) else open_city(Path(city))


def as_drive(drive: Drive | PathLike) -> Drive:
    """The drive, opened if it is a path.

    Raises:
        MaptileError: There is no drive.
    """
    return drive if isinstance(drive, Drive) else open_drive(Path(drive))


def as_pair(city: City | PathLike, drive: Drive | PathLike) -> tuple[City, Drive]:
    """A city and a drive, opened if they are paths.

    Raises:
        MaptileError: One of them cannot be opened; or they are in the wrong order.
    """
    check_order(city, drive)
    return as_city(city), as_drive(drive)


def check_order(city: City | PathLike, drive: Drive | PathLike) -> None:
    """Check that a city was not given as the drive, which is easily done.

    Raises:
        MaptileError: ``drive`` is a city, and ``city`` is none.
    """
    if isinstance(city, City) or isinstance(drive, Drive):
        return
    if is_city(Path(drive)) and not is_city(Path(city)):
        raise MaptileError(
            f"{drive}: a city, not a drive. Did you swap CITY and DRIVE? The city comes first, "
            "then the drive"
        )


def is_city(path: Path) -> bool:
    """Whether a path looks like a city: a folder with city.json, or a raster."""
    return (path / "city.json").is_file() or path.suffix.lower() in {".tif", ".tiff"}


def as_heading(heading: HeadingKnowledge | str | None, drive: Drive) -> HeadingKnowledge:
    """What is known of the heading; None: known where the drive has headings."""
    heading = heading or ("unknown" if drive.heading is None else "known")
    return HeadingKnowledge.parse(heading) if isinstance(heading, str) else heading


def made_from(city: City, drive: Drive) -> Origin:
    """What a result of a city and a drive is made from."""
    return {"city": known_as(city.path, city.content_hash), **recorded_in(drive)}


def recorded_in(drive: Drive) -> Origin:
    """The drive that a result is made from, whatever its city."""
    path, t_ns = None if drive.origin is None else drive.origin.path, drive.scans.t_ns
    return {"drive": known_as(path, f"{drive.name}: {len(t_ns)} scans from {t_ns[:1]} ns")}
