"""A localized drive as a table: a row per scan, or per query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from maptile_loc.types import Estimates, Localization, ScanPoses

if TYPE_CHECKING:
    import geopandas as gpd


def scan_rows(found: Localization) -> ScanPoses:
    """The poses of all scans; without ``found.dense``, those of the queries."""
    if found.dense is not None:
        return found.dense
    count = len(found.t_ns)
    query = np.arange(count, dtype=np.int32)
    return ScanPoses(**vars(found.trajectory), frame=found.frame, t_ns=found.t_ns, query=query)


def trajectory_table(found: Localization) -> pd.DataFrame:
    """Return the final stage as a table with a row per scan, as ``trajectory.csv`` holds it.

    Args:
        found: The localized drive; without ``dense``, the rows are its queries.

    Returns:
        Columns as in ``query_table``, and ``query``: the number of the query that the scan made, -1
        where it made none.
    """
    rows = scan_rows(found)
    return _table(found, rows.frame, rows.t_ns, rows).assign(query=rows.query)


def query_table(found: Localization, stage: str | None = None) -> pd.DataFrame:
    """Return one stage as a table with a row per query, as ``queries.csv`` holds the final one.

    Args:
        found: The localized drive.
        stage: A key of ``found.stages``; the final stage by default.

    Returns:
        Columns ``frame``, ``t_ns``, ``latitude`` and ``longitude`` (degrees, WGS 84), ``east`` and
        ``north`` (metres, map frame), ``heading_deg`` (counter-clockwise from grid east),
        ``std_east`` and ``std_north`` (metres), ``std_heading_deg``, ``score`` (0..1),
        ``localized`` (never True without a pose), ``protection_m`` (metres, inf where the score is
        too low for a protection level) and ``reason`` (why a row is not localized). NaN where there
        is no pose.

    Raises:
        MaptileError: The result has no such stage.
    """
    name = found.final if stage is None else stage
    if name not in found.stages:
        raise MaptileError(f"stage {name!r}: this result has {', '.join(found.stages)}")
    return _table(found, found.frame, found.t_ns, found.stages[name])


def _table(
    found: Localization, frame: NDArray[np.int64], t_ns: NDArray[np.int64], estimates: Estimates
) -> pd.DataFrame:
    """The columns of ``query_table``, a row per estimate."""
    poses, has_pose = estimates.poses, estimates.has_pose
    latitude, longitude = np.full((2, len(poses)), np.nan)
    if has_pose.any():
        position = found.raster.projection.inverse(poses[has_pose, :2])
        latitude[has_pose], longitude[has_pose] = position
    std = np.sqrt(np.diagonal(estimates.covariance, axis1=1, axis2=2))
    return pd.DataFrame(
        {
            "frame": frame,
            "t_ns": t_ns,
            "latitude": latitude.round(9),
            "longitude": longitude.round(9),
            "east": poses[:, 0].round(4),
            "north": poses[:, 1].round(4),
            "heading_deg": np.degrees(wrap_angle(poses[:, 2])).round(5),
            "std_east": std[:, 0].round(4),
            "std_north": std[:, 1].round(4),
            "std_heading_deg": np.degrees(std[:, 2]).round(5),
            "score": estimates.score.round(6),
            "localized": estimates.localized & has_pose,
            "protection_m": estimates.protection_m.round(3),
            "reason": estimates.reason,
        }
    )


def trajectory_points(
    found: Localization, stage: str | None = None, dense: bool = False
) -> gpd.GeoDataFrame:
    """Return the table of queries, or of scans, with a Point per row in EPSG:4326.

    Args:
        found: The localized drive.
        stage: A key of ``found.stages``; the final stage by default.
        dense: A row per scan.

    Returns:
        The table; a row without a pose has None for its Point.

    Raises:
        MaptileError: The result has no such stage, or no poses per scan of it.
    """
    import geopandas as gpd

    if dense and stage not in (None, found.final):
        raise MaptileError(f"stage {stage!r}: only the final one, {found.final}, is dense")
    if dense and found.dense is None:
        raise MaptileError(
            f"{found.drive_name}: localized by an earlier version, without a pose per scan; "
            "localize again"
        )
    table = trajectory_table(found) if dense else query_table(found, stage)
    points = np.asarray(gpd.points_from_xy(table["longitude"], table["latitude"]), object)
    points[table["latitude"].isna().to_numpy()] = None
    return gpd.GeoDataFrame(table, geometry=points, crs="EPSG:4326")


def local_origin(raster: MapRaster) -> Array:
    """(2,) east, north of the map's centre in whole metres: origin of files in local metres."""
    return np.round(raster.centre)


def stretches(mask: NDArray[np.bool_]) -> list[slice]:
    """Return the runs of consecutive True in (N,) ``mask``, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [slice(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def utc_times(t_ns: NDArray[np.int64]) -> list[str]:
    """(N,) nanoseconds since 1970 -> ISO 8601 texts in UTC, whole microseconds."""
    return [f"{text}Z" for text in np.datetime_as_string(t_ns.astype("datetime64[ns]"), unit="us")]
