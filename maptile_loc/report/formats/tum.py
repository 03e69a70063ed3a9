"""TUM: localized scans as time, position and quaternion in local metres, for evo."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_prep.city.raster import ATTRIBUTION
from maptile_loc.report.formats import OutputFormat
from maptile_loc.report.trajectory import local_origin, trajectory_table
from maptile_loc.types import Localization


def write(found: Localization, path: Path) -> None:
    """Write the localized poses as ``t x y z qx qy qz qw``, seconds and metres.

    The seconds are since 1970, or on the drive's own clock. x points east and y north from the
    map's local origin; z is 0, and poses are turned about z only.
    """
    table = trajectory_table(found)
    rows = table[table["localized"]]
    east, north = local_origin(found.raster).tolist()
    x, y = rows["east"].to_numpy() - east, rows["north"].to_numpy() - north
    half = np.radians(rows["heading_deg"].to_numpy()) / 2
    seconds, nanoseconds = np.divmod(rows["t_ns"].to_numpy(), 1_000_000_000)
    lines = [
        f"{s}.{ns:09d} {a:.4f} {b:.4f} 0.0 0.0 0.0 {sine:.9f} {cosine:.9f}\n"
        for s, ns, a, b, sine, cosine in zip(
            seconds, nanoseconds, x, y, np.sin(half), np.cos(half), strict=True
        )
    ]
    crs = " ".join(found.raster.crs.to_string().split())
    head = f"# t x y z qx qy qz qw; x east, y north from east {east:.1f} north {north:.1f} in {crs}"
    path.write_text("".join([f"{head}; {ATTRIBUTION}\n", *lines]), encoding="utf-8")


FORMAT = OutputFormat("trajectory.tum", write)
