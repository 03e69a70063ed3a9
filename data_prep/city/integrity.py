"""Whether the files of a city are those that ``city.json`` describes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pydantic

from data_prep.city.content_hash import content_hash, georeference
from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import Array

CHECKED = ("height.tif", "buildings.parquet", "roads.parquet", "squares.parquet", "tiles.parquet")
"""The files whose bytes are compared."""
MAP = "map.tif"
"""The map, whose bytes are compared together with what ``city.json`` states about it."""
COUNTED = ("buildings", "roads")
"""The tables whose numbers of rows are stated."""
TOLERANCE_DEG = 1e-7
"""Greatest difference of a stated latitude or longitude, a centimetre."""


class _Reference(pydantic.BaseModel):
    centre: tuple[float, float]
    latitude: float
    longitude: float


class _Description(pydantic.BaseModel, extra="ignore"):
    """The keys of ``city.json`` that are used, with their types."""

    name: str
    source: str
    source_date: str | None
    crs: str
    resolution: float
    bounds: tuple[float, float, float, float]
    reference: _Reference
    content_hash: str
    buildings: int
    roads: int
    notes: list[str]
    files: dict[str, str] = {}


def file_digests(folder: Path) -> dict[str, str]:
    """SHA-256 (hexadecimal) of the files of a city, by name, for ``city.json``."""
    return {name: _digest(folder / name) for name in CHECKED if (folder / name).is_file()}


def check_description(folder: Path, content: dict[str, Any], remedy: str) -> None:
    """Check the keys of ``city.json``, and the files beside it, by their bytes.

    Cities that state no digests were made by an older maptile-loc: of theirs, the number of rows
    is compared.

    Args:
        folder: The city.
        content: What ``city.json`` holds.
        remedy: The end of messages.

    Raises:
        MaptileError: A key is missing or of another type; a file is missing, damaged, changed or
            not of this city.
    """
    try:
        stated = _Description.model_validate(content)
    except pydantic.ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise MaptileError(
            f"{folder / 'city.json'}: damaged ({key} is missing or wrong); {remedy}"
        ) from None
    tables = [name for name in CHECKED if name.endswith(".parquet") and (folder / name).is_file()]
    rows = {name: _rows(folder / name, remedy) for name in tables}
    for name in CHECKED if stated.files else ():
        path, expected = folder / name, stated.files.get(name)
        if expected is None and path.is_file():
            raise MaptileError(f"{path}: not of this city, which has no such file; {remedy}")
        if expected is not None and not path.is_file():
            raise MaptileError(f"{path}: missing; {remedy}")
        if expected is not None and _digest(path) != expected:
            raise MaptileError(
                f"{path}: damaged, changed, or of another city: not the file that was prepared; "
                f"{remedy}"
            )
    for table in COUNTED:
        count, name = getattr(stated, table), f"{table}.parquet"
        if rows[name] != count:
            raise MaptileError(
                f"{folder / name}: holds {rows[name]} {table}, city.json states {count}; {remedy}"
            )


def map_seal(path: Path, raster: MapRaster, reference: Array, digest: str) -> str:
    """SHA-256 (hexadecimal) of the file of a map, with its georeference and its content hash.

    Where it is right, the content hash is, and the pixels need not be read.

    Args:
        path: The file.
        raster: The map.
        reference: (2,) east, north of the centre of the reference tile, metres.
        digest: The content hash.
    """
    about = [_digest(path), georeference(raster, reference), digest]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def check_map(folder: Path, content: dict[str, Any], raster: MapRaster, remedy: str) -> None:
    """Check that a map is the one that ``city.json`` describes.

    Only of a city that an older maptile-loc made, or whose map has changed, are the pixels read.

    Args:
        folder: The city.
        content: What ``city.json`` holds, as ``check_description`` accepts it.
        raster: The map.
        remedy: The end of messages.

    Raises:
        MaptileError: It is damaged, changed, or another one.
    """
    path, reference = folder / MAP, np.array(content["reference"]["centre"], np.float64)
    stated, seal = content["content_hash"], content.get("files", {}).get(MAP)
    if seal is not None and seal == map_seal(path, raster, reference, stated):
        return
    if content_hash(raster, reference) != stated:
        raise MaptileError(f"{path}: not the map that city.json describes; {remedy}")
    if seal is not None:
        raise MaptileError(f"{path}: changed, not the file that was prepared; {remedy}")


def check_georeference(
    folder: Path, content: dict[str, Any], raster: MapRaster, remedy: str
) -> None:
    """Check what ``city.json`` states about the map's position.

    Args:
        folder: The city.
        content: What ``city.json`` holds, as ``check_description`` accepts it.
        raster: The map, whose hash is right.
        remedy: The end of messages.

    Raises:
        MaptileError: The bounds, the resolution or the reference are not those of the map.
    """
    reference = content["reference"]
    edges = [raster.west, raster.south, raster.east, raster.north]
    latitude, longitude = raster.projection.inverse(reference["centre"])
    stated: list[tuple[str, Any, Any, float]] = [
        ("bounds", content["bounds"], edges, 1e-3),
        ("resolution", content["resolution"], raster.resolution, 1e-9),
        ("reference.latitude", reference["latitude"], latitude, TOLERANCE_DEG),
        ("reference.longitude", reference["longitude"], longitude, TOLERANCE_DEG),
    ]
    for key, value, expected, tolerance in stated:
        if not np.allclose(value, expected, rtol=0, atol=tolerance):
            raise MaptileError(
                f"{folder / 'city.json'}: changed, its {key} is not that of map.tif; {remedy}"
            )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MaptileError(f"{path}: cannot be read: {error.strerror}") from error


def _rows(path: Path, remedy: str) -> int:
    """The number of rows of a table."""
    try:
        return int(pyarrow.parquet.read_metadata(path).num_rows)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MaptileError(f"{path}: not readable as GeoParquet: {reason}; {remedy}") from error
