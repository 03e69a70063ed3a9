"""The data that the page's script draws and plays, as JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.report.page.map_layers import degrees_from_metres, edges, map_layers
from maptile_loc.report.page.packed import packed
from maptile_loc.report.page.series import (
    REASONS,
    SECONDS,
    candidate_series,
    pose_series,
    scan_series,
    seconds_from,
    stage_series,
)
from maptile_loc.report.page.tile_layers import tile_layers
from maptile_loc.types import Localization


def map_data(
    found: Localization, metrics: dict[str, Any] | None, errors: pd.DataFrame | None
) -> str:
    """Return everything that the script draws, as JSON that is safe inside a script element.

    Args:
        found: The localized drive.
        metrics: The content of ``metrics.json``; None without truth.
        errors: The table of ``errors.csv``; None without truth.
    """
    raster, centre = found.raster, found.raster.centre
    truth = None if errors is None else truth_at_queries(errors, found)
    counted = np.zeros(0, bool) if errors is None else counted_queries(errors, found)
    bias = None if metrics is None else metrics["map_bias_m"]
    start_ns = int(found.t_ns[0]) if len(found.t_ns) else 0
    content = {
        "map": map_layers(raster, _whole_drive(found, truth)),
        "extent": edges(raster, centre),
        "degrees": degrees_from_metres(raster),
        "final": found.final,
        "reasons": REASONS,
        "stages": {name: stage_series(stage, centre) for name, stage in found.stages.items()},
        "scans": scan_series(found.dense, start_ns, centre),
        "truth": None if truth is None else pose_series(truth, centre),
        "counted": packed(counted, "u1", 1),
        "bias": None if bias is None or bias[0] is None else bias,
        "frame": packed(found.frame, "u4", 1),
        "t": packed(seconds_from(start_ns, found.t_ns), "i4", SECONDS),
        "candidates": candidate_series(found.candidates, centre),
        "tiles": tile_layers(found),
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
    """Return (N, 2) positions that the overview has to show: the localized and the true ones."""
    final = found.trajectory
    return _known(final.poses[final.localized], truth)


def _whole_drive(found: Localization, truth: Array | None) -> Array:
    """Return (N, 2) positions of the final stage, localized or not, and the true ones."""
    poses = found.trajectory.poses
    return _known(poses if found.dense is None else np.vstack([poses, found.dense.poses]), truth)


def _known(poses: Array, truth: Array | None) -> Array:
    """Return (N, 2) positions of poses and of the truth, without those that are unknown."""
    positions = poses[:, :2] if truth is None else np.concatenate([poses[:, :2], truth[:, :2]])
    return positions[np.isfinite(positions).all(axis=1)]
