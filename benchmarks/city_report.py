"""Compare the recall that city-report expects with the recall of a drive, in squares of 100 m.

Run: python benchmarks/city_report.py [CITY DRIVE] [--work FOLDER] [--submap M]

Without CITY and DRIVE: Oxford, and the full run with simulated LMS, made from the real data as for
the other benchmarks. Submaps are short, because with 50 m nearly every query is localized. The
report is computed from the map alone; nothing in it is fitted to the drive. Prints a table with
Spearman's rank correlation over the squares, and draws FOLDER/scatter_*.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from inputs import RUNS, city, drive
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from stamp import head, row, stamp

from maptile_loc import api
from maptile_loc.recipe import load_recipe
from maptile_loc.report.city.city_report import (
    ReportOptions,
    distinct_settings,
    district_table,
    place_table,
)
from maptile_loc.report.city.distinctiveness import measure

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

CELL_M = 100.0
"""Side of the squares, metres."""

LEAST_QUERIES = 5
"""Smallest number of queries of a square that counts."""

EVERY_M = 5.0
"""Metres of travel between queries."""

WITHIN_M = 5.0
"""Largest error of a hit, metres."""


def measured(where: Path, track: Path, submap_m: float, out: Path) -> pd.DataFrame:
    """Localize a drive with known headings; a row per square.

    Args:
        where: The city.
        track: The drive.
        submap_m: Length of the submaps, metres.
        out: Folder of the result; a finished one is used as it is.

    Returns:
        ``queries`` (their number) and ``measured`` (0..1, the share of hits), by ``west`` and
        ``south`` (metres, map frame).
    """
    if not (out / "errors.csv").exists():
        opened = api.open_drive(track)
        found = api.localize(where, opened, heading="known", submap_m=submap_m, every_m=EVERY_M)
        found.save(out, opened.truth)
    errors = pd.read_csv(out / "errors.csv")
    errors = errors[(errors["stage"] == "aligned") & errors["counted"]]
    west, south = (
        np.floor(errors[f"truth_{axis}"] / CELL_M) * CELL_M for axis in ("east", "north")
    )
    hits = errors.assign(west=west, south=south, measured=errors["error_m"] <= WITHIN_M)
    cells = hits.groupby(["west", "south"])["measured"].agg(queries="size", measured="mean")
    return pd.DataFrame(cells[cells["queries"] >= LEAST_QUERIES])


def scatter(cells: pd.DataFrame, caption: str, path: Path) -> None:
    """Draw measured over expected recall, the area of a dot by the number of queries."""
    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#b9c0cb", linewidth=1)
    axes.scatter(
        cells["expected_recall"],
        cells["measured"],
        s=2 * cells["queries"],
        color="#0072b2",
        alpha=0.7,
        linewidths=0,
    )
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axes.set(xlabel="expected recall at 5 m", ylabel="measured recall at 5 m", title=caption)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path, nargs="?")
    parser.add_argument("drive", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "city_report")
    parser.add_argument("--submap", type=float, default=10.0, help="metres")
    given = parser.parse_args()
    where, track = given.city, given.drive
    if track is None:
        data, name = ROOT.parent / "shared" / "data", "full 2014-11-28-12-07-13"
        where = city(data / "oxford" / "oxford.osm", given.work / "oxford")
        track = drive(data / RUNS[name], where, given.work / name.replace(" ", "_"))
    print(stamp(), end="\n\n")

    true = measured(where, track, given.submap, given.work / f"out_{track.name}")
    opened = api.open_city(where)
    options = ReportOptions(where, submap_m=given.submap)
    found = measure(opened, distinct_settings(options), load_recipe())
    expected = district_table(place_table(opened, found), CELL_M).set_index(["west", "south"])
    cells = true.join(expected, how="inner")
    head("city", "drive", "submap", "cells", "queries", "measured", "expected", "rho", "p")
    rho, p = spearmanr(cells["expected_recall"], cells["measured"])
    means = (
        f"{np.average(cells[c], weights=cells['queries']):.2f}"
        for c in ("measured", "expected_recall")
    )
    counts = f"{len(cells)}", f"{cells['queries'].sum()}"
    row(opened.name, track.name, f"{given.submap:g} m", *counts, *means, f"{rho:.2f}", f"{p:.1e}")
    caption = f"{opened.name}, {len(cells)} squares of {CELL_M:g} m, rho {rho:.2f}"
    scatter(cells, caption, given.work / f"scatter_{opened.name}.png")


if __name__ == "__main__":
    main()
