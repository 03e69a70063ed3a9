"""CSV: every scan as a row, localized or not."""

from __future__ import annotations

from pathlib import Path

from maptile_loc.report.formats import OutputFormat
from maptile_loc.report.trajectory import trajectory_table
from maptile_loc.types import Localization


def write(found: Localization, path: Path) -> None:
    """Write ``trajectory_table`` to ``path``; cells without a value are empty."""
    trajectory_table(found).to_csv(path, index=False)


FORMAT = OutputFormat("trajectory.csv", write)
