"""Compare cells of simulated and real HDL-64E scans by the features of the wall detector.

Run: python benchmarks/realism_cells.py [DATA] [--worlds NUMBER] [--set KEY=VALUE ...]

DATA is the folder of real data (default: ../shared/data). The real scans are 25 of KITTI-360 drive
0009 and 16 of SemanticKITTI (four sequences, a site each), with labels. In each of some worlds, a
scan is simulated at the pose of each real one, on the same map. ``--set`` changes the recipe
configs/simulate.yaml, as in ``maptile simulate``.

Every scan becomes a query tile of its own. A wall cell has a point labelled building or garage. An
other cell has none, nor have its eight neighbours, and most of its points have a label. Within each
of the two classes, simulated cells are drawn so that the share of each range bin is the same as of
the real cells.

"AUC" is the area under the ROC curve of boosted trees that separate simulated from real cells, the
mean over five folds of sites: 0.5 is a perfect simulation. "Gives away" are the features whose
permutation lowers it most, with the fall; features whose names begin with the same word are
permuted together. The last column is the AUC of other trees without these features. In the tables
of features, "AUC" is the probability that the value of a simulated cell is above that of a real
one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from labelled_streets import Street, simulated_drive, streets
from numpy.typing import NDArray
from scan_cells import GROUPS, UNLABELLED, Cells, scan_cells, together
from separation import BANDS_M, area_under_curve, separate, with_shares
from stamp import head, row, stamp

from data_prep.simulate.record import SimulateSettings
from maptile_loc.config import load_settings
from maptile_loc.perceive.walls import FEATURES
from maptile_loc.recipe import LocalizeSettings, load_recipe

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

QUANTILES = (0.1, 0.5, 0.9)
"""Quantiles of the features that are printed."""

FAMILIES = tuple(dict.fromkeys(feature.split("_")[0] for feature in FEATURES))
"""First words of the names of features: a family has functions of the same quantity."""

NAMED = 3
"""Number of families that are named as giving the simulation away."""

Points = NDArray[np.int64]
"""(S,) number of points of each scan."""


def real_cells(given: list[Street], settings: LocalizeSettings) -> tuple[Cells, Points]:
    """The cells and the numbers of points of all real scans."""
    parts = [
        scan_cells(street.drive, np.arange(len(street.site)), street.site, settings)
        for street in given
    ]
    return together([cells for cells, _ in parts]), np.concatenate([count for _, count in parts])


def simulated_cells(
    given: list[Street], folder: Path, made: SimulateSettings, settings: LocalizeSettings
) -> tuple[Cells, Points]:
    """The same of the scans simulated in one world.

    Args:
        given: The streets.
        folder: A folder for the drives, which are replaced.
        made: How they are simulated.
        settings: How tiles are made.
    """
    parts = []
    for street in given:
        drive, scans = simulated_drive(street, folder / f"{street.city.name}_drive", made)
        parts.append(scan_cells(drive, scans, street.site, settings))
    return together([cells for cells, _ in parts]), np.concatenate([count for _, count in parts])


def near(cells: Cells) -> Cells:
    """The cells within the range bins."""
    return cells.take(cells.distance < BANDS_M[-1])


def compare(name: str, real: Cells, simulated: Cells) -> list[list[str]]:
    """Print how well the cells of one class are separated; return the rows of its features."""
    chosen = with_shares(simulated.distance, real.distance, np.random.default_rng(0))
    drawn = simulated.take(chosen)
    features = np.concatenate([real.features, drawn.features])
    which = np.repeat([False, True], [len(real.group), len(drawn.group)])
    site = np.concatenate([real.site, drawn.site])
    family = np.array([FAMILIES.index(feature.split("_")[0]) for feature in FEATURES])
    found = separate(features, family, which, site)
    worst = np.argsort(-found.drop)[:NAMED]
    text = ", ".join(f"{FAMILIES[number]} {found.drop[number]:.3f}" for number in worst)
    left = ~np.isin(family, worst)
    kinds = np.unique(family[left], return_inverse=True)[1]
    rest = separate(features[:, left], kinds, which, site)
    counts = (f"{len(cells.group)}" for cells in (real, simulated, drawn))
    row(name, *counts, f"{found.auc:.3f}", text, f"{rest.auc:.3f}")
    rows = []
    for number, feature in enumerate(FEATURES):
        columns = real.features[:, number], drawn.features[:, number]
        area = area_under_curve(np.concatenate(columns), which)
        values = [f"{q:.2f}" for column in columns for q in np.quantile(column, QUANTILES)]
        rows.append([feature, *values, f"{area:.2f}", f"{found.drop[family[number]]:.3f}"])
    return rows


def report(real: tuple[Cells, Points], simulated: tuple[Cells, Points]) -> None:
    """Print all tables."""
    head("", "real", "simulated")
    both = real, simulated
    row("scans", *(f"{len(points)}" for _, points in both))
    row("points of a scan, mean", *(f"{points.mean():.0f}" for _, points in both))
    row("judged cells of a scan", *(f"{len(c.group) / len(points):.0f}" for c, points in both))
    for number, group in enumerate(GROUPS):
        if number != UNLABELLED:
            of_group = [(c.group == number).sum() / len(points) for c, points in both]
            row(f"- {group}", *(f"{count:.0f}" for count in of_group))
    row("wall cells of the judged cells, %", *(f"{100 * c.wall.mean():.0f}" for c, _ in both))
    print()
    head("class", "real cells", "simulated", "drawn", "AUC", "gives away", "AUC without")
    tables = {}
    for name, wanted in (("wall", True), ("other", False)):
        parts = [cells.take(cells.wall == wanted) for cells, _ in (real, simulated)]
        tables[name] = compare(name, *parts)
    for name, rows in tables.items():
        print()
        columns = [f"{kind} {q:.0%}" for kind in ("real", "simulated") for q in QUANTILES]
        head(f"{name} cells", *columns, "AUC", "fall of AUC")
        for texts in rows:
            row(*texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument(
        "--worlds", type=int, default=2, help="number of worlds, each with its own seed"
    )
    parser.add_argument("--set", action="append", default=[], help="as for maptile simulate")
    given = parser.parse_args()
    settings = load_recipe()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = streets(given.data, Path(folder))
        cells, points = real_cells(found, settings)
        real = near(cells), points
        parts = []
        for seed in range(given.worlds):
            made = load_settings(SimulateSettings, "simulate", [f"seed={seed}", *given.set])
            parts.append(simulated_cells(found, Path(folder), made, settings))
    simulated = near(together([c for c, _ in parts])), np.concatenate([n for _, n in parts])
    print(stamp(), end="\n\n")
    made_with = " ".join(f"--set {text}" for text in given.set)
    print(f"{given.worlds} worlds {made_with}".rstrip(), end="\n\n")
    report(real, simulated)
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
