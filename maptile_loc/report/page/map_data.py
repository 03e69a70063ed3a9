"""The data that the page's script draws, as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array
from maptile_loc.report.findings import REASON_TEXT
from maptile_loc.report.pictures import ellipses, map_view, png_uri
from maptile_loc.types import Estimates, Localization

MAP_MARGIN_M = 300.0
"""Metres of map around the drive in the page."""


def map_data(
    found: Localization, metrics: dict[str, Any] | None, errors: pd.DataFrame | None
) -> str:
    """Return everything that the script draws, as JSON that is safe inside a script element.

    Args:
        found: The localized drive.
        metrics: The content of ``metrics.json``; None without truth.
        errors: The table of ``errors.csv``; None without truth.
    """
    raster = found.raster
    truth = None if errors is None else truth_at_queries(errors, found)
    counted = None if errors is None else counted_queries(errors, found)
    view = map_view(raster, positions_shown(found, truth), MAP_MARGIN_M)
    bias = None if metrics is None else metrics["map_bias_m"]
    content = {
        "map": {"src": png_uri(np.moveaxis(view.data, 0, -1)), **_edges(view, raster.centre)},
        "extent": list(_edges(raster, raster.centre).values()),
        "final": found.final,
        "stages": {name: _stage(stage, raster.centre) for name, stage in found.stages.items()},
        "truth": None if truth is None else _poses(truth, raster.centre),
        "counted": [] if counted is None else counted.astype(int).tolist(),
        "bias": None if bias is None or bias[0] is None else bias,
        "frame": found.frame.tolist(),
        "t": ((found.t_ns - found.t_ns[:1]) / 1e9).round(2).tolist(),
        "every_m": found.record.get("every_m") or 0,
        "area_km2": found.search_area_km2,
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def truth_at_queries(errors: pd.DataFrame, found: Localization) -> Array:
    """Return (Q, 3) true east, north, heading (radians), from ``errors.csv``; NaN unknown."""
    rows = errors[errors["stage"] == found.final]
    columns = ["truth_east", "truth_north", "truth_heading_deg"]
    return rows[columns].to_numpy(np.float64) * [1, 1, np.pi / 180]


def counted_queries(errors: pd.DataFrame, found: Localization) -> NDArray[np.bool_]:
    """Return (Q,) which queries count, from ``errors.csv``."""
    return errors["counted"][errors["stage"] == found.final].to_numpy(bool)


def positions_shown(found: Localization, truth: Array | None) -> Array:
    """Return (N, 2) positions that the map has to show: the localized and the true ones."""
    final = found.trajectory
    positions = [final.poses[final.localized, :2]]
    if truth is not None:
        positions.append(truth[:, :2])
    stacked = np.concatenate(positions)
    return stacked[np.isfinite(stacked).all(axis=1)]


def _stage(stage: Estimates, centre: Array) -> dict[str, Any]:
    axes = ellipses(stage.covariance)
    return {
        **_poses(stage.poses, centre),
        "ellipse": [None if np.isnan(row[0]) else row for row in axes.round(3).tolist()],
        "score": _numbers(stage.score),
        "level": _numbers(np.where(np.isinf(stage.protection_m), np.nan, stage.protection_m)),
        "reason": [REASON_TEXT.get(str(reason), "") for reason in stage.reason],
        "ok": [int(ok) for ok in stage.localized & stage.has_pose],
    }


def _poses(poses: Array, centre: Array) -> dict[str, list[float | None]]:
    """Return ``x`` and ``y`` (metres from ``centre``) and ``h`` (degrees) of (Q, 3) poses.

    Poses are east, north (metres) and heading (radians); NaN becomes None.
    """
    return {
        "x": _numbers(poses[:, 0] - centre[0]),
        "y": _numbers(poses[:, 1] - centre[1]),
        "h": _numbers(np.degrees(poses[:, 2])),
    }


def _edges(raster: MapRaster, centre: Array) -> dict[str, float]:
    """Return the edges of a map, in metres from ``centre``."""
    return {
        "west": float(raster.west - centre[0]),
        "south": float(raster.south - centre[1]),
        "east": float(raster.east - centre[0]),
        "north": float(raster.north - centre[1]),
    }


def _numbers(values: Array) -> list[float | None]:
    """Return numbers rounded to 0.001, with None for NaN."""
    return [None if value != value else value for value in values.round(3).tolist()]
