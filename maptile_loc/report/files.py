"""The files of a localized drive: written together or not at all, and read back.

``trajectory.csv`` has a row per query. ``trajectory.geojson``, ``.gpx`` and ``.tum`` hold the
localized queries only: a program that knows nothing of scores must not show a guess as a position.
``stages.csv`` and ``queries.npz`` hold all that evaluation and report need; poses, covariances,
scores and times come back from them bit for bit, query tiles rounded to 1/255.
"""

from __future__ import annotations

import json
import platform
import shutil
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.city.folder import City, open_city
from data_prep.city.raster import ATTRIBUTION, MapRaster
from data_prep.errors import MaptileError
from data_prep.files import read_json, write_error, write_json
from data_prep.geometry import Array, wrap_angle
from maptile_loc.types import Estimates, Localization, QueryTile

DERIVED = ("metrics.json", "errors.csv", "report.html")
"""What later commands make of a result: removed when the result is written anew."""

_COVARIANCE = {f"cov_{'enh'[i]}{'enh'[j]}": (i, j) for i in range(3) for j in range(i, 3)}
_ODBL = "https://opendatacommons.org/licenses/odbl/1-0/"


def write_result(
    result: Localization, raster: MapRaster, folder: Path, run: dict[str, Any]
) -> None:
    """Write a localized drive to ``folder``; other files in it are left alone.

    Args:
        result: The localized drive.
        raster: The map raster that it was localized on.
        folder: Made if missing. An older result in it is replaced, and what was made of that one
            (``DERIVED``) removed.
        run: What ran, for ``run.json``: ``city`` and ``drive`` (absolute paths), ``format``,
            ``sensors``, ``method``, ... The final stage, the search area, the CRS, the
            origin of the TUM file and the versions are added.

    Raises:
        MaptileError: The folder cannot be written; an older result is left as it was.
    """
    origin = np.round(raster.centre)
    crs = raster.crs.to_string()
    manifest: dict[str, Any] = {
        **run,
        "final": result.final,
        "stages": list(result.stages),
        "search_area_km2": result.search_area_km2,
        "crs": crs,
        "tum_origin": {"east": origin[0], "north": origin[1], "t_ns": 0},
        "versions": _versions(),
        "attribution": ATTRIBUTION,
    }
    table = trajectory_table(result, raster)
    with _together(folder) as staging:
        table.to_csv(staging / "trajectory.csv", index=False)
        (staging / "trajectory.geojson").write_text(_geojson(table), encoding="utf-8")
        (staging / "trajectory.gpx").write_bytes(_gpx(table))
        (staging / "trajectory.tum").write_text(_tum(table, origin, crs), encoding="utf-8")
        _stage_table(result).to_csv(staging / "stages.csv", index=False)
        _write_queries(result, staging / "queries.npz")
        write_json(staging / "run.json", manifest)


def open_city_of(folder: Path, run: dict[str, Any]) -> City:
    """Open the city that a result was localized on.

    Raises:
        MaptileError: It is gone, or no longer the map that it was.
    """
    city = open_city(Path(run["city"]))
    if run.get("city_content_hash", city.content_hash) != city.content_hash:
        raise MaptileError(f"{folder}: localized on another state of {run['city']}; localize again")
    return city


def read_result(folder: Path) -> tuple[Localization, dict[str, Any]]:
    """Read what ``write_result`` wrote: the localized drive and ``run.json``.

    Raises:
        MaptileError: No result is there, or a file of it is damaged.
    """
    if not (folder / "run.json").is_file():
        raise MaptileError(f"{folder}: no result here (no run.json); make one: maptile localize")
    run = read_json(folder / "run.json")
    try:
        _ = run["city"], run["drive"]
        names, final, area = list(run["stages"]), str(run["final"]), float(run["search_area_km2"])
    except (KeyError, TypeError, ValueError) as error:
        raise MaptileError(f"{folder / 'run.json'}: damaged ({error!r}); localize anew") from None
    path = folder / "stages.csv"
    try:
        table = pd.read_csv(path, float_precision="round_trip", dtype={"localized": bool})
        parts = {name: table[table["stage"] == name] for name in names}
        stages = {name: _estimates(part) for name, part in parts.items()}
        frame = parts[final]["frame"].to_numpy(np.int64)
        t_ns = parts[final]["t_ns"].to_numpy(np.int64)
    except (OSError, ValueError, KeyError) as error:
        raise MaptileError(f"{path}: damaged or missing ({error}); localize anew") from None
    seconds, tiles = _read_queries(folder / "queries.npz")
    if any(len(part) != len(seconds) for part in parts.values()):
        raise MaptileError(f"{path}: damaged (not one row per stage and query); localize anew")
    return Localization(frame, t_ns, stages, final, area, seconds, tiles), run


def trajectory_table(result: Localization, raster: MapRaster) -> pd.DataFrame:
    """The final stage as the table of ``trajectory.csv``: a row per query.

    Latitude and longitude in degrees (WGS 84), east, north and their standard deviations in metres,
    headings in degrees counter-clockwise from grid east. NaN where there is no pose, which then is
    never localized.
    """
    final = result.stages[result.final]
    poses = final.poses
    has_pose = np.isfinite(poses[:, :2]).all(axis=1)
    latitude, longitude = np.full((2, len(poses)), np.nan)
    if has_pose.any():
        latitude[has_pose], longitude[has_pose] = raster.projection.inverse(poses[has_pose, :2])
    std = np.sqrt(np.diagonal(final.covariance, axis1=1, axis2=2))
    return pd.DataFrame(
        {
            "frame": result.frame,
            "t_ns": result.t_ns,
            "latitude": latitude.round(9),
            "longitude": longitude.round(9),
            "east": poses[:, 0].round(4),
            "north": poses[:, 1].round(4),
            "heading_deg": np.degrees(wrap_angle(poses[:, 2])).round(5),
            "std_east": std[:, 0].round(4),
            "std_north": std[:, 1].round(4),
            "std_heading_deg": np.degrees(std[:, 2]).round(5),
            "score": final.score.round(6),
            "localized": final.localized & has_pose,
        }
    )


def stretches(mask: NDArray[np.bool_]) -> list[slice]:
    """The runs of consecutive True in (N,) ``mask``, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


@contextmanager
def _together(folder: Path) -> Iterator[Path]:
    """Yield a folder whose files move into ``folder`` once the block succeeds."""
    staging = folder / f".new-{uuid4().hex[:8]}.tmp"
    made = not folder.exists()
    try:
        staging.mkdir(parents=True)
        yield staging
        for name in DERIVED:
            (folder / name).unlink(missing_ok=True)
        for file in sorted(staging.iterdir()):
            file.replace(folder / file.name)
    except OSError as error:
        raise write_error(folder, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            with suppress(OSError):  # not empty after a success
                folder.rmdir()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("maptile-loc", "numpy", "scipy", "torch", "open3d-cpu", "open3d", "pyproj"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _times(t_ns: NDArray[np.int64]) -> list[str]:
    """ISO 8601 in UTC, whole microseconds."""
    return [f"{text}Z" for text in np.datetime_as_string(t_ns.astype("datetime64[ns]"), unit="us")]


def _geojson(table: pd.DataFrame) -> str:
    """RFC 7946: one line through every localized stretch, and a point per localized query."""
    columns = ["frame", "t_ns", "heading_deg", "std_east", "std_north", "std_heading_deg", "score"]
    coordinates = table[["longitude", "latitude"]].round(8).to_numpy().tolist()
    localized = table["localized"].to_numpy()
    lines = [coordinates[run] for run in stretches(localized) if run.stop - run.start > 1]
    features: list[dict[str, Any]] = []
    if lines:
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "MultiLineString", "coordinates": lines},
                "properties": {"kind": "path", "attribution": ATTRIBUTION},
            }
        )
    times = _times(table["t_ns"].to_numpy())
    rows = table[columns].astype(object).where(table[columns].notna(), None).to_dict("records")
    features += [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": coordinates[i]},
            "properties": {"kind": "query", "time": times[i], **rows[i]},
        }
        for i in np.flatnonzero(localized)
    ]
    content = {"type": "FeatureCollection", "attribution": ATTRIBUTION, "features": features}
    return json.dumps(content, allow_nan=False)


def _gpx(table: pd.DataFrame) -> bytes:
    """GPX 1.1: one track, a segment per localized stretch."""
    gpx = ET.Element(
        "gpx", version="1.1", creator="maptile-loc", xmlns="http://www.topografix.com/GPX/1/1"
    )
    about = ET.SubElement(gpx, "metadata")
    ET.SubElement(about, "desc").text = f"Localized on {ATTRIBUTION}"
    owner = ET.SubElement(about, "copyright", author="OpenStreetMap contributors")
    ET.SubElement(owner, "license").text = _ODBL
    track = ET.SubElement(gpx, "trk")
    ET.SubElement(track, "name").text = "trajectory"
    times = _times(table["t_ns"].to_numpy())
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    for run in stretches(table["localized"].to_numpy()):
        segment = ET.SubElement(track, "trkseg")
        for i in range(run.start, run.stop):
            place = {"lat": f"{latitude[i]:.8f}", "lon": f"{longitude[i]:.8f}"}
            ET.SubElement(ET.SubElement(segment, "trkpt", place), "time").text = times[i]
    ET.indent(gpx)
    return bytes(ET.tostring(gpx, encoding="utf-8", xml_declaration=True))


def _tum(table: pd.DataFrame, origin: Array, crs: str) -> str:
    """``t x y z qx qy qz qw``: seconds since 1970, metres from ``origin``, turned about z only."""
    rows = table[table["localized"]]
    x, y = rows["east"].to_numpy() - origin[0], rows["north"].to_numpy() - origin[1]
    half = np.radians(rows["heading_deg"].to_numpy()) / 2
    seconds, nanoseconds = np.divmod(rows["t_ns"].to_numpy(), 1_000_000_000)
    lines = [
        f"{s}.{ns:09d} {a:.4f} {b:.4f} 0.0 0.0 0.0 {sine:.9f} {cosine:.9f}\n"
        for s, ns, a, b, sine, cosine in zip(
            seconds, nanoseconds, x, y, np.sin(half), np.cos(half), strict=True
        )
    ]
    place = f"east {origin[0]:.1f} north {origin[1]:.1f} in {' '.join(crs.split())}"
    return "".join(
        [f"# t x y z qx qy qz qw; x east, y north from {place}; {ATTRIBUTION}\n", *lines]
    )


def _stage_table(result: Localization) -> pd.DataFrame:
    """All stages below one another; headings in radians and the upper triangle of covariances."""
    parts = []
    for name, stage in result.stages.items():
        columns = {
            "stage": name,
            "frame": result.frame,
            "t_ns": result.t_ns,
            "east": stage.poses[:, 0],
            "north": stage.poses[:, 1],
            "heading": stage.poses[:, 2],
            **{key: stage.covariance[:, i, j] for key, (i, j) in _COVARIANCE.items()},
            "score": stage.score,
            "localized": stage.localized,
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _estimates(part: pd.DataFrame) -> Estimates:
    covariance = np.empty((len(part), 3, 3))
    for key, (i, j) in _COVARIANCE.items():
        covariance[:, i, j] = covariance[:, j, i] = part[key].to_numpy(np.float64)
    return Estimates(
        poses=part[["east", "north", "heading"]].to_numpy(np.float64),
        covariance=covariance,
        score=part["score"].to_numpy(np.float64),
        localized=part["localized"].to_numpy(np.bool_),
    )


def _write_queries(result: Localization, path: Path) -> None:
    arrays: dict[str, NDArray[Any]] = {"query_seconds": result.query_seconds}
    for query, tile in result.tiles.items():
        channels = np.stack([tile.wall, tile.ground, tile.observed])
        arrays[f"tile_{query}"] = np.round(np.clip(channels, 0, 1) * 255).astype(np.uint8)
        if tile.road is not None:
            arrays[f"road_{query}"] = np.round(np.clip(tile.road, -1, 1) * 127).astype(np.int8)
        arrays[f"frame_{query}"] = np.array([tile.resolution, tile.rotation])
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _read_queries(path: Path) -> tuple[Array, dict[int, QueryTile]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            tiles = {}
            for name in arrays.files:
                if name.startswith("tile_"):
                    query = int(name.removeprefix("tile_"))
                    wall, ground, observed = arrays[name].astype(np.float32) / np.float32(255)
                    road = arrays.get(f"road_{query}")
                    if road is not None:
                        road = road.astype(np.float32) / np.float32(127)
                    resolution, rotation = arrays[f"frame_{query}"].tolist()
                    tiles[query] = QueryTile(
                        wall, ground, observed, resolution, rotation, road=road
                    )
            return arrays["query_seconds"], tiles
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise MaptileError(f"{path}: damaged or missing ({error}); localize anew") from None
