"""GeoJSON (RFC 7946): localized scans as points and lines, for GIS programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.city.raster import ATTRIBUTION
from maptile_loc.report.formats import OutputFormat
from maptile_loc.report.trajectory import stretches, trajectory_table, utc_times
from maptile_loc.types import Localization

COLUMNS = (
    *("frame", "t_ns", "heading_deg", "std_east", "std_north", "std_heading_deg", "score"),
    "protection_m",
)
"""Columns of the trajectory's table that become properties of a point."""


def write(found: Localization, path: Path) -> None:
    """Write a MultiLineString (one line per localized stretch) and a Point per localized scan."""
    table = trajectory_table(found)
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
    times = utc_times(table["t_ns"].to_numpy())
    values = table[list(COLUMNS)]
    known = values.notna() & ~np.isinf(values)
    kinds = np.where(table["query"] >= 0, "query", "scan").tolist()
    rows = values.astype(object).where(known, None).to_dict("records")
    features += [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": coordinates[i]},
            "properties": {"kind": kinds[i], "time": times[i], **rows[i]},
        }
        for i in np.flatnonzero(localized)
    ]
    content = {"type": "FeatureCollection", "attribution": ATTRIBUTION, "features": features}
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


FORMAT = OutputFormat("trajectory.geojson", write)
