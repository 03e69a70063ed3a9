"""Arguments of the Python API: cities and drives as objects or as paths."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from data_prep.city.folder import City, open_city
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import open_drive
from data_prep.standing import Origin, known_as
from maptile_loc.types import HeadingKnowledge

PathLike = str | Path

T = TypeVar("T")


def as_city(city: City | PathLike) -> City:
    """The city, opened if it is a path.

    Raises:
        MaptileError: There is no city, or it is neither a city nor a path.
    """
    return city if isinstance(city, City) else open_city(_path(city, "City"))


def as_drive(drive: Drive | PathLike) -> Drive:
    """The drive, opened if it is a path.

    Raises:
        MaptileError: There is no drive, or it is neither a drive nor a path.
    """
    return drive if isinstance(drive, Drive) else open_drive(_path(drive, "Drive"))


def several(given: Iterable[T]) -> tuple[T, ...]:
    """The values of an argument that takes several; a lone text, path or city is a tuple of one."""
    alone = isinstance(given, str | os.PathLike | City)
    return (cast(T, given),) if alone else tuple(given)


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
    if is_city(drive) and not is_city(city):
        name = drive.path or drive.name if isinstance(drive, City) else drive
        raise MaptileError(
            f"{name}: a city, not a drive. Did you swap CITY and DRIVE? The city comes first, "
            "then the drive"
        )


def is_city(given: object) -> bool:
    """Whether it is a city, or a path that looks like one: a folder with city.json, or a raster."""
    if not isinstance(given, str | os.PathLike):
        return isinstance(given, City)
    path = Path(given)
    return (path / "city.json").is_file() or path.suffix.lower() in {".tif", ".tiff"}


def as_heading(heading: HeadingKnowledge | str | None, drive: Drive) -> HeadingKnowledge:
    """What is known of the heading; None: known where the drive has headings."""
    if heading is None:
        heading = "unknown" if drive.heading is None else "known"
    return HeadingKnowledge.parse(heading)


def made_from(city: City, drive: Drive) -> Origin:
    """What a result of a city and a drive is made from."""
    return {"city": known_as(city.path, city.content_hash), **recorded_in(drive)}


def recorded_in(drive: Drive) -> Origin:
    """The drive that a result is made from, whatever its city."""
    path, t_ns = None if drive.origin is None else drive.origin.path, drive.scans.t_ns
    return {"drive": known_as(path, f"{drive.name}: {len(t_ns)} scans from {t_ns[:1]} ns")}


def _path(given: Any, kind: str) -> Path:
    """The path of a city or a drive.

    Raises:
        MaptileError: It is something else.
    """
    if not isinstance(given, str | os.PathLike):
        name = type(given).__name__
        raise MaptileError(f"{kind.lower()}: expected a {kind} or a path, not {name}")
    return Path(given)
