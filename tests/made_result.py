"""Localized drives with known errors, on disk where asked, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyproj

from data_prep.city.raster import MapRaster
from data_prep.drive import TruthTrack
from maptile_loc.fuse.dense import scan_poses
from maptile_loc.fuse.motion import FuseSettings
from maptile_loc.odometry.scan_motion import ScanMotion
from maptile_loc.types import REASONS, STAGES, Estimates, Localization, QueryTile, ScanPoses

START_NS = 1_416_000_000_123_456_789
RECORD = {"city": "/cities/made", "drive": "/drives/made", "format": "clouds", "method": "match"}


def path(raster: MapRaster, count: int, heading: float = 0.3) -> np.ndarray:
    """(count, 3) grid poses in a row through the middle of the map, 2 m apart."""
    along = (np.arange(count) - count / 2) * 2.0
    east, north = raster.centre[0] + along, np.full(count, raster.centre[1])
    return np.column_stack([east, north, np.full(count, heading)])


def times(count: int) -> np.ndarray:
    return START_NS + np.arange(count, dtype=np.int64) * 1_000_000_001


def truth_track(raster: MapRaster, t_ns: np.ndarray, poses: np.ndarray) -> TruthTrack:
    """Grid poses as a truth track; the true heading by a geodesic, not by the convergence."""
    latitude, longitude = raster.projection.inverse(poses[:, :2])
    ahead = poses[:, :2] + 0.5 * np.column_stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])])
    latitude2, longitude2 = raster.projection.inverse(ahead)
    azimuth, _, _ = pyproj.Geod(ellps="WGS84").inv(longitude, latitude, longitude2, latitude2)
    return TruthTrack(t_ns, latitude, longitude, np.radians(90 - np.asarray(azimuth)))


def estimates(poses: np.ndarray, localized: np.ndarray | bool = True) -> Estimates:
    count = len(poses)
    covariance = np.tile(np.diag([0.25, 0.25, 1e-4]), (count, 1, 1))
    covariance[np.isnan(poses[:, 0])] = np.nan
    flags = np.broadcast_to(localized, count) & np.isfinite(poses[:, 0])
    reason = np.where(flags, "", "off_map")
    return Estimates(poses, covariance, np.full(count, 0.9), flags, np.full(count, 2.5), reason)


def localization(
    raster: MapRaster,
    poses: np.ndarray,
    localized: np.ndarray | bool = True,
    tiles: int = 0,
    record: dict[str, Any] | None = None,
) -> Localization:
    """All four stages hold ``poses``."""
    count = len(poses)
    rng = np.random.default_rng(0)
    shown = {
        query: QueryTile(
            *rng.random((3, 64, 64), np.float32),
            *(0.5, 0.3),
            road=rng.uniform(-1, 1, (64, 64)).astype(np.float32),
        )
        for query in range(tiles)
    }
    return Localization(
        frame=np.arange(count, dtype=np.int64) * 10,
        t_ns=times(count),
        stages={name: estimates(poses, localized) for name in STAGES},
        final="smoothed",
        search_area_km2=raster.area_km2,
        query_seconds=np.full(count, 0.25),
        tiles=shown,
        raster=raster,
        record=record or RECORD,
    )


def with_scans(found: Localization) -> Localization:
    """The drive of ``localization`` with a pose for each of the ten scans from query to query."""
    count = int(found.frame[-1]) + 1
    metres = 0.2 * np.arange(count)
    zero = np.zeros(count)
    motion = ScanMotion(
        t_ns=np.interp(np.arange(count), found.frame, found.t_ns - START_NS).astype(int) + START_NS,
        poses=np.column_stack([metres * np.cos(0.3), -metres * np.sin(0.3), zero]),
        travelled=metres,
        segment=np.zeros(count, np.int32),
        beyond_s=zero,
    )
    dense = scan_poses(found.trajectory, found.frame, motion, FuseSettings(trust=0.9))
    return replace(found, dense=dense)


def random_scans(count: int, queries: int, seed: int) -> ScanPoses:
    """Arbitrary poses of ``count`` scans, some of which made ``queries`` queries."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(count, 3, 3))
    covariance = root @ np.swapaxes(root, 1, 2)
    query = np.full(count, -1, np.int32)
    query[np.sort(rng.choice(count, queries, replace=False))] = np.arange(queries)
    return ScanPoses(
        poses=np.where(rng.random((count, 1)) < 0.2, np.nan, rng.normal(size=(count, 3))),
        covariance=(covariance + np.swapaxes(covariance, 1, 2)) / 2,
        score=rng.random(count),
        localized=rng.random(count) < 0.5,
        protection_m=np.where(rng.random(count) < 0.5, np.inf, rng.random(count)),
        reason=rng.choice(["", *REASONS], count),
        frame=np.arange(count),
        t_ns=START_NS + np.cumsum(rng.integers(1, 10**9, count)),
        query=query,
    )


def random_localization(raster: MapRaster, count: int, seed: int) -> Localization:
    """Every stage its own arbitrary floats, some answers missing."""
    rng = np.random.default_rng(seed)
    stages = {}
    for name in STAGES:
        poses = rng.normal(size=(count, 3)) * [500, 500, 1] + [*raster.centre, 0.0]
        root = rng.normal(size=(count, 3, 3))
        covariance = root @ np.swapaxes(root, 1, 2)
        covariance = (covariance + np.swapaxes(covariance, 1, 2)) / 2
        missing = rng.random(count) < 0.2
        poses[missing], covariance[missing] = np.nan, np.nan
        level = np.where(rng.random(count) < 0.5, rng.random(count), np.inf)
        localized = rng.random(count) < 0.7
        reason = np.where(localized, "", rng.choice(REASONS, count))
        stages[name] = Estimates(poses, covariance, rng.random(count), localized, level, reason)
    road = rng.uniform(-1, 1, (32, 32)).astype(np.float32)
    images = rng.random((3, 32, 32), np.float32)
    tile = QueryTile(*images, 0.5, float(rng.uniform(-3, 3)), road=road)
    return Localization(
        np.sort(rng.integers(0, 10**6, count)),
        START_NS + np.cumsum(rng.integers(1, 10**9, count)),
        stages,
        "smoothed",
        0.123456789012345,
        rng.random(count),
        {3: tile},
        raster,
        RECORD,
        blind=2,
        candidates=rng.normal(size=(count, 5, 4)),
        notes=("a note",),
    )


def write_drive(folder, t_ns: np.ndarray, truth: TruthTrack | None) -> None:
    """A generic drive of one-point clouds."""
    (folder / "clouds").mkdir(parents=True)
    for time in t_ns:
        np.zeros((1, 4), np.float32).tofile(folder / "clouds" / f"{time}.bin")
    if truth is not None:
        columns = {"t_ns": truth.t_ns, "latitude": truth.latitude, "longitude": truth.longitude}
        table = pd.DataFrame({**columns, "heading": truth.heading})
        table.to_csv(folder / "truth.csv", index=False)
