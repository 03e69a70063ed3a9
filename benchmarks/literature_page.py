"""The tables of ``docs/literature.md``, written from the results of ``literature.py``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from literature_rows import ROWS, Row

from data_prep.errors import MaptileError
from data_prep.files import write_text

DRIVES = {
    "oxford": "Oxford full run, simulated LMS scans, submaps of 50 m",
    "kitti360_0009": "KITTI-360 0009, 25 real single scans",
}
"""Titles of the drives' tables, by name."""
BEGIN, END = "<!-- literature tables -->\n", "<!-- end of literature tables -->\n"
"""Lines between which the tables stand."""
FIGURES = [(n, r) for n in ("1", "100") for r in ("5", "25", "100")]
"""Recalls that have a column: of the best N, within metres."""

Results = Mapping[tuple[str, str], Mapping[str, Any]]
"""Results by row and drive."""


def write_page(page: Path, results: Results, minutes: float, heading: str) -> None:
    """Replace what stands between ``BEGIN`` and ``END`` in a page.

    Raises:
        MaptileError: The page lacks one of the two lines.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MaptileError(f"{page}: lacks the lines {BEGIN.strip()} and {END.strip()}")
    write_text(page, before + begin + tables(results, minutes, heading) + end + after)


def tables(results: Results, minutes: float, heading: str) -> str:
    """The tables as Markdown: one of each drive, then the published figures."""
    parts = []
    for drive, title in DRIVES.items():
        done = {row: content for (row, name), content in results.items() if name == drive}
        parts.append(f"### {title}\n\n{_drive_table(done, minutes, heading)}")
    parts.append(f"### Published figures, and what differs here\n\n{_published()}")
    return "\n" + "\n".join(parts)


def _drive_table(done: Mapping[str, Mapping[str, Any]], minutes: float, heading: str) -> str:
    if not done:
        return f"Not run yet: heading {heading}, {minutes:g} minutes of training per row.\n"
    heads = ["row", "trained", "n"]
    heads += [f"@{n}, {r} m" for n, r in FIGURES]
    heads += ["@1, 25 m, 30 deg", "@100, 25 m, 30 deg", "median m", "mean m"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    lines += [_line(_cells(row, done[row.name])) for row in ROWS if row.name in done]
    missing = ", ".join(row.name for row in ROWS if row.name not in done) or "none"
    made = "; ".join(sorted({str(content["made"]) for content in done.values()}))
    about = f"Heading {heading}, {minutes:g} minutes of training per row; not run yet: {missing}."
    return "\n".join([*lines, "", f"{about} {made}.", ""])


def _cells(row: Row, content: Mapping[str, Any]) -> list[str]:
    training = content.get("training")
    trained = "" if training is None else f"{training['steps']} steps, {training['seconds']:.0f} s"
    cells = [row.name, trained, str(content["n"])]
    cells += [_share(content["recall"], n, r) for n, r in FIGURES]
    cells += [_share(content["recall_heading"], n, "25") for n in ("1", "100")]
    return cells + [_metres(content["median_m"]), _metres(content["mean_m"])]


def _share(recalls: Mapping[str, Mapping[str, float]] | None, n: str, r: str) -> str:
    return "-" if recalls is None else f"{recalls[n][r]:.3f}"


def _metres(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _published() -> str:
    heads = ["row", "recipe", "published figure, on its own task", "source", "what differs here"]
    lines = [_line(heads), _line(["---"] * len(heads))]
    for row in ROWS:
        recipe = f"`{row.config}`" if row.config else "none"
        lines.append(_line([row.name, recipe, row.published or "-", row.source, row.differs]))
    return "\n".join([*lines, ""])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
