"""CSV: every query as a row, localized or not."""

from __future__ import annotations

from pathlib import Path

from maptile_loc.report.formats import OutputFormat
from maptile_loc.report.trajectory import query_table
from maptile_loc.types import Localization


def write(found: Localization, path: Path) -> None:
    """Write ``query_table`` to ``path``; cells without a value are empty."""
    query_table(found).to_csv(path, index=False)


FORMAT = OutputFormat("queries.csv", write)
