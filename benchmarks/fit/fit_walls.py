"""Fit the regression that distinguishes walls to labelled simulated scans, or score other values.

Run: python benchmarks/fit/fit_walls.py [DATA] [--work FOLDER] [--metres M] [--set KEY=VALUE ...]
                                        [--try KEY=V1,V2 ...]

In each training city, vehicles with each sensor are simulated on a route of M metres. The examples
are the cells of query tiles, of single scans and of submaps. A cell is a wall if one of its points
is labelled building; the cells beside it are doubtful, and left out. Every row of the first table
has the same weight, however many cells it has.

Without --try, the weights of the logistic regression are fitted, and printed as YAML for
configs/localize.yaml and for the defaults in maptile_loc/perceive/walls.py.

With --try, nothing is kept. For the recipe as it is, and for each value of each key (query.wall.*,
or any other that makes tiles), a row is printed. "refitted" is the regression, fitted anew with
this value to two cities and scored on the third, all three in turn: log-loss in nats (lower is
better) and average precision (higher is better). "evidence" is the average precision of the wall
evidence with the recipe's own weights: only this depends on weights, constant and support_*.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from common import Trial, head, make_parser, read_trials, row, stamp
from numpy.typing import NDArray
from precision import average_precision, precision_recall
from scipy import ndimage, special
from training import CITIES, UNKNOWN, training_city, training_drive

from data_prep.city.folder import City
from data_prep.drive import Drive
from data_prep.geometry import Array
from maptile_loc.perceive.labels import BUILDING, LABELS
from maptile_loc.perceive.query_tile import survey
from maptile_loc.perceive.rays import pixels
from maptile_loc.perceive.walls import FEATURES, wall_evidence, wall_features
from maptile_loc.pipeline import LocalizeSettings, drive_tiles
from maptile_loc.types import Queries

SENSORS = {"hdl64": (0.0, 20.0), "hdl32": (0.0, 20.0), "robotcar": (50.0,)}
"""Lengths of submaps, metres, of the tiles of each sensor."""

EVERY_M = 40.0
"""Metres of travel between query tiles."""

RIDGE = 1e-4
"""Penalty of the squared weights of normalised features."""


class Cells(NamedTuple):
    """Cells of query tiles.

    Attributes:
        features: (N, F) ``FEATURES``.
        evidence: (N,) 0..1, wall evidence with the recipe's own weights.
        wall: (N,) bool, a point in the cell is labelled building.
    """

    features: Array
    evidence: Array
    wall: NDArray[np.bool_]


@dataclass(frozen=True)
class Part:
    """The cells of one sensor and one length of submaps in one city: a row of the table."""

    city: str
    sensor: str
    submap_m: float
    cells: Cells

    @property
    def weight(self) -> Array:
        """(N,) weight of each cell: the same sum for every part."""
        count = len(self.cells.wall)
        return np.full(count, 1 / count)


def find_cells(
    city: City, drive: Drive, submap_m: float, settings: LocalizeSettings, shipped: bool
) -> Cells:
    """The cells of a drive's query tiles that are certainly a wall, or certainly none.

    Args:
        city: The city of the drive.
        drive: A simulated drive with labels.
        submap_m: Length of the submaps, metres.
        settings: How tiles are made.
        shipped: Whether the evidence is computed, too; it is 0 without.
    """
    table = {"simulated": LABELS["semantickitti"]}
    submap = settings.submap.model_copy(update={"labels": table})
    labelled = settings.model_copy(update={"submap": submap})
    query, wall = settings.query, settings.query.wall
    size = round(query.size_m / query.resolution)
    tiles = drive_tiles(city, drive, Queries(submap_m, EVERY_M, heading=UNKNOWN), labelled)
    found: list[Cells] = []
    for number in range(len(tiles)):
        seen = survey(tiles.submap(number), float(tiles.rotation[number]), query)
        assert seen.kind is not None
        tall = wall.may_be_wall(seen.height)
        for group in np.unique(seen.group):
            part = seen.upright(tall & (seen.group == group))
            cell, features = wall_features(part, seen.bins, size, query.resolution, wall)
            built = np.zeros(size * size, bool)
            labels = seen.kind[part.ray] == BUILDING
            built[pixels(part.xy[labels], size, query.resolution)[0]] = True
            beside = ndimage.maximum_filter(built.reshape(size, size), 3).ravel()
            certain = (built == beside)[cell]
            evidence = np.zeros(size * size)
            if shipped:
                image = wall_evidence(part, seen.bins, size, query.resolution, wall)
                evidence = image.ravel().astype(np.float64)
            cell, features = cell[certain], features[certain]
            found.append(Cells(features, evidence[cell], built[cell]))
    return Cells(*(np.concatenate(column) for column in zip(*found, strict=True)))


def make_parts(
    cities: list[City], given: argparse.Namespace, settings: LocalizeSettings, shipped: bool
) -> Iterator[Part]:
    """The cells of all cities, sensors and lengths of submaps."""
    for city in cities:
        for sensor, lengths in SENSORS.items():
            drive = training_drive(city, sensor, given.metres, given.work)
            for submap_m in lengths:
                cells = find_cells(city, drive, submap_m, settings, shipped)
                yield Part(city.name, sensor, submap_m, cells)


def fit(features: Array, wall: Array, weight: Array) -> tuple[Array, float]:
    """(F,) weights and the constant of a logistic regression.

    Args:
        features: (N, F).
        wall: (N,) 0 or 1.
        weight: (N,) weight of each example.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    x, y = torch.from_numpy((features - mean) / spread), torch.from_numpy(wall.astype(np.float64))
    w = torch.from_numpy(weight / weight.mean())
    beta = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([beta], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        odds = x @ beta[1:] + beta[0]
        value = torch.nn.functional.binary_cross_entropy_with_logits(odds, y, weight=w)
        value = value + RIDGE * (beta**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = beta.detach().numpy()
    weights = found[1:] / spread
    return weights, float(found[0] - weights @ mean)


def fit_parts(parts: list[Part]) -> tuple[Array, float]:
    """(F,) weights and the constant, fitted to the cells of some parts."""
    features = np.concatenate([part.cells.features for part in parts])
    wall = np.concatenate([part.cells.wall for part in parts])
    return fit(features, wall, np.concatenate([part.weight for part in parts]))


def left_out(parts: list[Part]) -> list[Array]:
    """For each part, the (N,) log-odds of a wall, by a regression on the other cities' cells."""
    fitted = {
        city: fit_parts([part for part in parts if part.city != city])
        for city in {part.city for part in parts}
    }
    return [part.cells.features @ fitted[part.city][0] + fitted[part.city][1] for part in parts]


def log_loss(odds: Array, wall: NDArray[np.bool_], weight: Array) -> float:
    """Weighted mean of the negative log-probability, nats, of (N,) log-odds of being a wall."""
    return float(np.average(-special.log_expit(np.where(wall, odds, -odds)), weights=weight))


def try_all(cities: list[City], given: argparse.Namespace, trials: list[Trial]) -> None:
    """Print a row of scores for each trial."""
    head("key", "value", "cells", "refitted: log-loss", "precision", "evidence: precision")
    for key, value, settings in trials:
        parts = list(make_parts(cities, given, settings, True))
        odds = np.concatenate(left_out(parts))
        wall = np.concatenate([part.cells.wall for part in parts])
        evidence = np.concatenate([part.cells.evidence for part in parts])
        weight = np.concatenate([part.weight for part in parts])
        loss = log_loss(odds, wall, weight)
        curves = (precision_recall(score, wall, weight) for score in (odds, evidence))
        precisions = map(average_precision, curves)
        figures = (f"{figure:.4f}" for figure in (loss, *precisions))
        row(key or "as it is", value, f"{len(wall)}", *figures)


def fit_all(cities: list[City], given: argparse.Namespace, settings: LocalizeSettings) -> None:
    """Fit the regression, and print the examples and the weights."""
    head("city", "sensor", "submap m", "cells", "walls")
    parts = []
    for part in make_parts(cities, given, settings, False):
        parts.append(part)
        wall = part.cells.wall
        counts = f"{len(wall)}", f"{wall.mean():.2f}"
        row(part.city, part.sensor, f"{part.submap_m:g}", *counts)
    weights, constant = fit_parts(parts)
    print("\nquery:\n  wall:\n    weights:")
    for feature, value in zip(FEATURES, weights, strict=True):
        print(f"      - {value:.3f} # {feature}")
    print(f"    constant: {constant:.3f}")


def main() -> None:
    parser = make_parser(__doc__, "fit_walls", 500.0)
    given = parser.parse_args()
    trials = read_trials(parser, given)
    cities = [training_city(given.data / "cities" / source, given.work) for source in CITIES]
    print(stamp(), end="\n\n")
    if given.trials:
        try_all(cities, given, trials)
    else:
        fit_all(cities, given, trials[0].settings)


if __name__ == "__main__":
    main()
