"""The report of a result folder: the page, and the overview as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from data_prep.errors import MaptileError
from data_prep.files import atomic_file, read_json, write_text
from maptile_loc.report.files import evaluate_run, read_result
from maptile_loc.report.overview import draw_overview
from maptile_loc.report.page.map_data import positions_shown, truth_at_queries
from maptile_loc.report.page.page import render


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a result folder; returns its path.

    The result is evaluated first if it has not been yet; without truth, the page shows no errors
    and says why.

    Raises:
        MaptileError: No result is there, its city is gone, or the folder cannot be written.
    """
    found = read_result(folder)
    page = render(found, *_evaluation(folder))
    path = folder / "report.html"
    write_text(path, page)
    return path


def overview_png(folder: Path, path: Path) -> None:
    """Draw the drive of a result folder as one picture: map, truth, estimate, recall table.

    Raises:
        MaptileError: As ``write_report``.
    """
    found = read_result(folder)
    metrics, errors, _ = _evaluation(folder)
    truth = None if errors is None else truth_at_queries(errors, found)
    figure = draw_overview(found, metrics, truth, positions_shown(found, truth))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", pad_inches=0.15)


def _evaluation(folder: Path) -> tuple[dict[str, Any] | None, pd.DataFrame | None, str | None]:
    """Return metrics, errors and None; or None, None and the reason why there are none.

    They are computed first if their files are missing.
    """
    if not (folder / "metrics.json").is_file() or not (folder / "errors.csv").is_file():
        try:
            evaluate_run(folder)
        except MaptileError as error:
            return None, None, str(error)
    return read_json(folder / "metrics.json"), pd.read_csv(folder / "errors.csv"), None
