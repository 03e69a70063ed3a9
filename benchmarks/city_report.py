"""The recall that city-report expects against that of a drive, by squares of 100 m.

Run: python benchmarks/city_report.py [CITY DRIVE] [--work FOLDER] [--submap M]

Without CITY and DRIVE: Oxford and the full run with simulated LMS, made from the real data as
the other benchmarks use them. Submaps are short, for with 50 m nearly all places are found.
The report knows the map alone: nothing of it is fitted to the drive. Draws FOLDER/scatter_*.png.
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

from data_prep.city.folder import open_city
from maptile_loc.config import load_settings
from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.report.city.city_report import (
    ReportOptions,
    distinct_settings,
    district_table,
    place_table,
)
from maptile_loc.report.city.distinctiveness import measure
from maptile_loc.run import RunOptions, run

ROOT = Path(__file__).parent.parent
CELL_M = 100.0
LEAST_QUERIES = 5
EVERY_M = 5.0
WITHIN_M = 5.0


def measured(where: Path, track: Path, submap_m: float, out: Path) -> pd.DataFrame:
    """Localize a drive, heading known; squares with their share of hits and number of queries."""
    if not (out / "errors.csv").exists():
        settings = load_recipe()
        run(RunOptions(where, track, submap_m=submap_m, every_m=EVERY_M), settings, out)
    errors = pd.read_csv(out / "errors.csv")
    errors = errors[(errors["stage"] == "aligned") & errors["counted"]]
    west, south = (
        np.floor(errors[f"truth_{axis}"] / CELL_M) * CELL_M for axis in ("east", "north")
    )
    hits = errors.assign(west=west, south=south, measured=errors["error_m"] <= WITHIN_M)
    cells = hits.groupby(["west", "south"])["measured"].agg(queries="size", measured="mean")
    return pd.DataFrame(cells[cells["queries"] >= LEAST_QUERIES])


def scatter(cells: pd.DataFrame, caption: str, path: Path) -> None:
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
    parser.add_argument("--submap", type=float, default=10.0)
    given = parser.parse_args()
    where, track = given.city, given.drive
    if track is None:
        data, name = ROOT.parent / "shared" / "data", "full 2014-11-28-12-07-13"
        where = city(data / "oxford" / "oxford.osm", given.work / "oxford")
        track = drive(data / RUNS[name], where, given.work / name.replace(" ", "_"))
    print(stamp(), end="\n\n")

    true = measured(where, track, given.submap, given.work / f"out_{track.name}")
    opened, settings = open_city(where), load_recipe()
    options = ReportOptions(where, submap_m=given.submap)
    found = measure(opened, distinct_settings(options), settings)
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
