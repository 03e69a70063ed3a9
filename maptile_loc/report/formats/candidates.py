"""GeoJSON of the candidates of every query: where the scans may have been taken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from data_prep.city.raster import ATTRIBUTION
from data_prep.geometry import wrap_angle
from maptile_loc.report.formats import OutputFormat
from maptile_loc.types import Localization


def write(found: Localization, path: Path) -> None:
    """Write a Point per candidate, with its rank and its probability by the query alone."""
    features = []
    table = found.candidates
    if table is not None and table.size:
        query, rank = np.nonzero(np.isfinite(table[..., 0]))
        chosen = table[query, rank]
        latitude, longitude = found.raster.projection.inverse(chosen[:, :2])
        values = zip(
            found.frame[query].tolist(),
            rank.tolist(),
            np.exp(chosen[:, 3]).round(6).tolist(),
            np.degrees(wrap_angle(chosen[:, 2])).round(3).tolist(),
            np.column_stack([longitude, latitude]).round(8).tolist(),
            strict=True,
        )
        features = [
            {
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": place},
                "properties": {
                    "frame": frame,
                    "rank": number + 1,
                    "probability": probability,
                    "heading_deg": heading,
                },
            }
            for frame, number, probability, heading, place in values
        ]
    content = {"type": "FeatureCollection", "attribution": ATTRIBUTION, "features": features}
    path.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")


FORMAT = OutputFormat("candidates.geojson", write)
"""The format as the registry lists it."""
