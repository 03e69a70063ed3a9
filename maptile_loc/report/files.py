"""The files of a localized drive: replaced as a whole, and read back.

``stages.csv``, ``queries.npz`` and ``scans.npz`` hold all that evaluation and report need: poses,
covariances, scores and times come back from them bit for bit, query tiles rounded to 1/255.
``run.json`` and ``settings.yaml`` record what ran. The trajectory itself is written in every output
format.
"""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pydantic
import yaml
from numpy.typing import NDArray

from data_prep.city.folder import City, open_city
from data_prep.city.raster import ATTRIBUTION, MapRaster
from data_prep.drive import Drive, TruthTrack
from data_prep.errors import MaptileError
from data_prep.files import atomic_file, finish_swap, read_json, swapped_folder, write_json
from data_prep.geometry import Array
from data_prep.locks import locked
from data_prep.regular import check_regular, open_regular, read_regular_text
from data_prep.settings import Settings
from data_prep.sources import open_drive
from data_prep.standing import MADE_FROM, Origin, Product, check_standing
from maptile_loc.arguments import made_from
from maptile_loc.config import save_settings
from maptile_loc.odometry.stored import ODOMETRY_FILE
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.report.findings import reason_counts
from maptile_loc.report.formats import output_formats
from maptile_loc.report.metrics import Evaluation, Metrics, evaluate_queries
from maptile_loc.report.stored_scans import SCANS_FILE, read_scans, write_scans
from maptile_loc.report.stored_tiles import read_small_tiles, small_tile_arrays
from maptile_loc.report.trajectory import local_origin
from maptile_loc.small_tiles import SmallTiles
from maptile_loc.types import Estimates, Localization, Queries, QueryTile

STATE = ("run.json", "settings.yaml", "stages.csv", "queries.npz", SCANS_FILE)
"""Files from which ``read_result`` reads a result."""
DERIVED = ("metrics.json", "errors.csv", "report.html")
"""Files that are computed from a result: removed when the result is replaced."""

COVARIANCE_COLUMNS = {f"cov_{'enh'[i]}{'enh'[j]}": (i, j) for i in range(3) for j in range(i, 3)}
"""Columns of ``stages.csv`` with the upper triangle of the covariances, and its indices."""
TILE_LEVELS = 255
"""Level of a stored tile's channel that stands for 1."""
ROAD_LEVELS = 127
"""Level of a stored tile's road channel that stands for 1; minus this stands for -1."""
PACKAGES = ("maptile-loc", "numpy", "scipy", "torch", "open3d-cpu", "open3d", "pyproj")
"""Packages whose versions ``run.json`` records."""


class StoredSettings(Settings):
    """Settings as a result's ``settings.yaml`` holds them: its keys and values, unchecked."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True)


def run_record(
    city: City, drive: Drive, queries: Queries, model: Path | None, settings: LocalizeSettings
) -> dict[str, Any]:
    """What ran, as ``run.json`` keeps it: plain values."""
    origin = drive.origin
    return {
        "city": None if city.path is None else str(city.path.resolve()),
        "city_content_hash": city.content_hash,
        "drive": drive.name if origin is None else str(origin.path.resolve()),
        "format": drive.format,
        "sensors": None if origin is None else origin.sensors,
        "columns": None if origin is None else origin.columns,
        "start": None if origin is None else origin.start,
        "end": None if origin is None else origin.end,
        "model": None if model is None else str(model),
        "sensor_profile": settings.query.wall.model_dump(mode="json")["profile"],
        MADE_FROM: made_from(city, drive),
        **asdict(queries),
    }


def result_of(origin: Origin) -> Product:
    """A result that is made from a city and a drive, for ``check_standing``."""
    owned = {*STATE, *DERIVED, *(form.file_name for form in output_formats())}
    return Product("run.json", origin, lambda name: name not in owned, (ODOMETRY_FILE,))


def write_result(
    found: Localization, folder: Path, truth: TruthTrack | None = None, force: bool = False
) -> Metrics | None:
    """Write a localized drive to ``folder``; other files in it are left alone.

    Args:
        found: The localized drive.
        folder: Made if missing. An older result in it, and what was derived from that one
            (``DERIVED``), is replaced in one step; other files stay.
        truth: If given, ``metrics.json`` and ``errors.csv`` are written with the result.
        force: Replace whatever stands there, such as the result of another drive.

    Returns:
        The metrics, or None without ``truth``.

    Raises:
        MaptileError: Something else stands there; the folder cannot be written, or another run
            writes it; an older result is left as it was.
    """
    evaluation = None if truth is None else evaluate_queries(found, truth)
    product = result_of(found.record.get(MADE_FROM, {}))
    with locked(folder), swapped_folder(folder, check_standing(folder, product, force)) as new:
        for form in output_formats():
            form.write(found, new / form.file_name)
        _stage_table(found).to_csv(new / "stages.csv", index=False)
        _write_queries(found, new / "queries.npz")
        if found.dense is not None:
            write_scans(found.dense, new / SCANS_FILE)
        write_json(new / "run.json", _manifest(found))
        if found.settings is not None:
            save_settings(found.settings, new / "settings.yaml")
        if evaluation is not None:
            _write_evaluation(evaluation, new)
    return None if evaluation is None else evaluation.metrics


def read_result(folder: Path, raster: MapRaster | None = None) -> Localization:
    """Read what ``write_result`` wrote.

    Args:
        folder: The result.
        raster: The map, where it is open already; by default the city named in ``run.json`` is
            opened and checked.

    Returns:
        The localized drive; its ``record`` is the content of ``run.json``.

    Raises:
        MaptileError: No result is there, a file of it is damaged, or its city is gone or no longer
            the same.
    """
    if not folder.exists():
        finish_swap(folder)
    if not (folder / "run.json").is_file():
        raise MaptileError(f"{folder}: no result here (no run.json); make one: maptile localize")
    run = read_json(folder / "run.json")
    try:
        names, final, area = list(run["stages"]), str(run["final"]), float(run["search_area_km2"])
        notes = tuple(str(note) for note in run.get("notes", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise MaptileError(f"{folder / 'run.json'}: damaged ({error!r}); localize again") from None
    path = folder / "stages.csv"
    try:
        check_regular(path)
        table = pd.read_csv(path, float_precision="round_trip", dtype={"localized": bool})
        parts = {name: table[table["stage"] == name] for name in names}
        stages = {name: _estimates(part) for name, part in parts.items()}
        frame = parts[final]["frame"].to_numpy(np.int64)
        t_ns = parts[final]["t_ns"].to_numpy(np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise MaptileError(f"{path}: damaged or missing ({error}); localize again") from None
    queries = _read_queries(folder / "queries.npz")
    if any(len(part) != len(queries.seconds) for part in parts.values()):
        raise MaptileError(f"{path}: damaged (not one row per stage and query); localize again")
    dense = read_scans(folder / SCANS_FILE, len(frame)) if run.get("dense") else None
    return Localization(
        frame=frame,
        t_ns=t_ns,
        stages=stages,
        final=final,
        search_area_km2=area,
        query_seconds=queries.seconds,
        tiles=queries.tiles,
        raster=_open_map(folder, run) if raster is None else raster,
        record=run,
        tracked=queries.tracked,
        blind=queries.blind,
        candidates=queries.candidates,
        settings=_read_settings(folder / "settings.yaml"),
        notes=notes,
        dense=dense,
        small_tiles=queries.small_tiles,
    )


def evaluate_run(folder: Path, radii_m: Sequence[float] = ()) -> Metrics:
    """Evaluate the result in ``folder`` against its drive's truth.

    Writes ``metrics.json`` and ``errors.csv`` (per stage and query: truth in the map frame, errors,
    and whether the query counts) beside the result.

    Args:
        folder: The result.
        radii_m: More position errors for which recall is given, metres.

    Raises:
        MaptileError: No result is there; its city or drive is gone; the drive has no truth, or
            none at the times of the queries; the folder cannot be written.
    """
    found = read_result(folder)
    run = found.record
    if not run.get("drive"):
        raise MaptileError(f"{folder / 'run.json'}: names no drive to take the truth from")
    sensors = run.get("sensors")
    drive = open_drive(
        Path(run["drive"]),
        run.get("format", "auto"),
        tuple(sensors) if sensors else None,
        columns=run.get("columns"),
    )
    if drive.truth is None:
        raise MaptileError(
            f"{run['drive']}: the drive has no truth to evaluate against; "
            "its trajectory stands without metrics"
        )
    evaluation = evaluate_queries(found, drive.truth, radii_m)
    comparison = evaluation.comparison
    if len(found.t_ns) and not (comparison.counted | comparison.outside).any():
        raise MaptileError(
            f"{run['drive']}: the drive's truth covers none of the {len(found.t_ns)} queries; "
            "check that its times are those of the scans"
        )
    _write_evaluation(evaluation, folder)
    return evaluation.metrics


def _manifest(found: Localization) -> dict[str, Any]:
    """Return the content of ``run.json``: the record, and what the files need to be read."""
    east, north = local_origin(found.raster).tolist()
    return {
        **found.record,
        "final": found.final,
        "stages": list(found.stages),
        "dense": found.dense is not None,
        "search_area_km2": found.search_area_km2,
        "not_localized": reason_counts(found.trajectory),
        "crs": found.raster.crs.to_string(),
        "tum_origin": {"east": east, "north": north, "t_ns": 0},
        "versions": found.record.get("versions") or _versions(),
        "attribution": ATTRIBUTION,
        "notes": list(found.notes),
    }


def _open_map(folder: Path, run: Mapping[str, Any]) -> MapRaster:
    """Open the map that a result was localized on, and check that it is still the same."""
    if not run.get("city"):
        raise MaptileError(f"{folder / 'run.json'}: names no city; open the map and pass it on")
    city = open_city(Path(run["city"]))
    if run.get("city_content_hash", city.content_hash) != city.content_hash:
        raise MaptileError(f"{folder}: localized on another state of {run['city']}; localize again")
    return city.raster


def _read_settings(path: Path) -> Settings | None:
    if not path.is_file():
        return None
    try:
        return StoredSettings.model_validate(yaml.safe_load(read_regular_text(path)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: damaged ({reason}); localize again") from None


def _write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    with atomic_file(folder / "errors.csv") as temporary:
        evaluation.errors.to_csv(temporary, index=False)
    write_json(folder / "metrics.json", evaluation.metrics)


@cache
def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _stage_table(found: Localization) -> pd.DataFrame:
    """Return the table of ``stages.csv``: a row per stage and query, headings in radians."""
    parts = []
    for name, stage in found.stages.items():
        columns = {
            "stage": name,
            "frame": found.frame,
            "t_ns": found.t_ns,
            "east": stage.poses[:, 0],
            "north": stage.poses[:, 1],
            "heading": stage.poses[:, 2],
            **{key: stage.covariance[:, i, j] for key, (i, j) in COVARIANCE_COLUMNS.items()},
            "score": stage.score,
            "localized": stage.localized,
            "protection_m": stage.protection_m,
            "reason": stage.reason,
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _estimates(part: pd.DataFrame) -> Estimates:
    """Return the rows of one stage of ``stages.csv`` as estimates."""
    covariance = np.empty((len(part), 3, 3))
    for key, (i, j) in COVARIANCE_COLUMNS.items():
        covariance[:, i, j] = covariance[:, j, i] = part[key].to_numpy(np.float64)
    return Estimates(
        poses=part[["east", "north", "heading"]].to_numpy(np.float64),
        covariance=covariance,
        score=part["score"].to_numpy(np.float64),
        localized=part["localized"].to_numpy(np.bool_),
        protection_m=part["protection_m"].to_numpy(np.float64),
        reason=part["reason"].fillna("").to_numpy(np.str_),
    )


def _write_queries(found: Localization, path: Path) -> None:
    """Write what belongs to single queries: seconds, and the tiles as integers."""
    arrays: dict[str, NDArray[Any]] = {
        "query_seconds": found.query_seconds,
        "blind": np.array(found.blind),
        "tracked": np.zeros(len(found.t_ns), bool) if found.tracked is None else found.tracked,
    }
    arrays |= small_tile_arrays(found.small_tiles)
    if found.candidates is not None:
        arrays["candidates"] = found.candidates
    for query, tile in found.tiles.items():
        channels = np.stack([tile.wall, tile.ground, tile.observed])
        arrays[f"tile_{query}"] = np.round(np.clip(channels, 0, 1) * TILE_LEVELS).astype(np.uint8)
        if tile.road is not None:
            road = np.clip(tile.road, -1, 1) * ROAD_LEVELS
            arrays[f"road_{query}"] = np.round(road).astype(np.int8)
        arrays[f"frame_{query}"] = np.array([tile.resolution, tile.rotation])
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


class _StoredQueries(NamedTuple):
    """What belongs to single queries, as in ``Localization``."""

    seconds: Array
    blind: int
    tracked: NDArray[np.bool_] | None
    candidates: Array | None
    tiles: dict[int, QueryTile]
    small_tiles: SmallTiles | None


def _read_queries(path: Path) -> _StoredQueries:
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as arrays:
            tiles = {}
            for name in arrays.files:
                if name.startswith("tile_"):
                    query = int(name.removeprefix("tile_"))
                    channels = arrays[name].astype(np.float32) / np.float32(TILE_LEVELS)
                    wall, ground, observed = channels
                    road = arrays.get(f"road_{query}")
                    if road is not None:
                        road = road.astype(np.float32) / np.float32(ROAD_LEVELS)
                    resolution, rotation = arrays[f"frame_{query}"].tolist()
                    tiles[query] = QueryTile(
                        wall, ground, observed, resolution, rotation, road=road
                    )
            blind = int(arrays["blind"]) if "blind" in arrays else 0
            tracked = arrays["tracked"].astype(bool) if "tracked" in arrays else None
            seconds, candidates = arrays["query_seconds"], arrays.get("candidates")
            if candidates is not None and (candidates.ndim, candidates.shape[::2]) != (
                3,
                (len(seconds), 4),
            ):
                raise ValueError(f"candidates of shape {candidates.shape}")
            small = read_small_tiles(arrays, len(seconds))
            return _StoredQueries(seconds, blind, tracked, candidates, tiles, small)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MaptileError(f"{path}: damaged or missing ({error}); localize again") from None
