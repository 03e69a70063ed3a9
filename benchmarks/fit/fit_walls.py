"""Fit the wall detector to labelled simulated scans, or score other values of a recipe.

Run: python benchmarks/fit/fit_walls.py [DATA] [--work FOLDER] [--metres M] [--worlds N]
                                        [--out FOLDER] [--set KEY=VALUE ...] [--try KEY=V1,V2 ...]

In each training city, and in N worlds, vehicles with each sensor are simulated on a route of M
metres. The samples are the cells of query tiles, of single scans and of submaps; some clouds are
thinned, as those of other LiDARs and of photographs are. A cell is a wall if one of its points is
labelled building.

Without --try, the detector is fitted to all cities and written to FOLDER, by default that of the
package (maptile_loc/perceive/weights). With --try, nothing is kept: for the recipe as it is, and
for each value of each key that makes tiles (query.wall.*, say), a row is printed: a detector,
fitted anew with this value to two cities and scored on the third, all three in turn. The scores are
the log-loss of being a wall or not in nats (lower is better) and average precision.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import Trial, head, make_parser, read_trials, row, stamp
from numpy.typing import NDArray
from precision import average_precision, precision_recall
from training import CITIES, UNKNOWN, training_city, training_drive

from data_prep.city.folder import City
from data_prep.drive import Drive
from data_prep.geometry import Array
from maptile_loc.learn import walls
from maptile_loc.learn.walls import FitSettings, Sample, fit_detector, labelled_samples
from maptile_loc.perceive.detector import BUILDING_CLASS, SHIPPED, WallDetector, write_detector
from maptile_loc.perceive.labels import LABELS
from maptile_loc.perceive.query_tile import survey
from maptile_loc.perceive.submap import Submap
from maptile_loc.perceive.walls import FEATURES
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.types import Queries

SENSORS = {"hdl64": (0.0, 10.0), "hdl32": (0.0, 15.0), "robotcar": (50.0, 50.0)}
"""Length of submaps, and distance between query tiles, of each sensor, metres."""

THINNED = 0.3
"""Share of the tiles of spinning LiDARs whose clouds are thinned."""

THINNEST = 0.01
"""Smallest share of the points that a thinned cloud keeps; shares are log-uniform up to 1."""

FACTS = {
    "fitted_to": "simulated drives in Helsinki, Cambridge (Massachusetts) and Kotka, made from "
    "OpenStreetMap; no recorded drive was used",
    "attribution": "(c) OpenStreetMap contributors, ODbL",
}
"""What the card of the package's detector states."""


@dataclass(frozen=True)
class Part:
    """The samples of one sensor and one length of submaps in one city: a row of the table."""

    city: str
    sensor: str
    submap_m: float
    samples: list[Sample]


def thinned(submap: Submap, rng: np.random.Generator) -> Submap:
    """The submap, with a random share of its points."""
    assert submap.kind is not None
    share = THINNEST ** rng.random()
    kept = rng.random(len(submap.points)) < share
    points, scan, kind = submap.points[kept], submap.scan[kept], submap.kind[kept]
    return replace(submap, points=points, scan=scan, kind=kind)


def find_samples(
    city: City, drive: Drive, queries: Queries, settings: LocalizeSettings
) -> Iterator[Sample]:
    """The samples of a drive's query tiles.

    Args:
        city: The city of the drive.
        drive: A simulated drive with labels.
        queries: How tiles are made; single scans are thinned at times.
        settings: The recipe.
    """
    table = {"simulated": LABELS["semantickitti"]}
    submap = settings.submap.model_copy(update={"labels": table})
    labelled = settings.model_copy(update={"submap": submap})
    tiles = drive_tiles(city, drive, queries, labelled)
    rng = np.random.default_rng(queries.seed)
    for number in range(len(tiles)):
        cloud = tiles.submap(number)
        if queries.submap_m == 0 and rng.random() < THINNED:
            cloud = thinned(cloud, rng)
        seen = survey(cloud, float(tiles.rotation[number]), settings.query)
        yield from (s for s in labelled_samples(seen, settings.query) if len(s.cell))


def make_parts(
    cities: list[City], given: argparse.Namespace, settings: LocalizeSettings
) -> Iterator[Part]:
    """The samples of all cities and sensors."""
    for city in cities:
        for sensor, (submap_m, every_m) in SENSORS.items():
            samples: list[Sample] = []
            for seed in range(given.worlds):
                drive = training_drive(city, sensor, given.metres, given.work, seed, every_m)
                queries = Queries(submap_m, every_m, heading=UNKNOWN, seed=seed)
                samples += find_samples(city, drive, queries, settings)
            yield Part(city.name, sensor, submap_m, samples)


def fit(parts: list[Part], settings: LocalizeSettings, progress: bool = False) -> WallDetector:
    """A detector, fitted to the samples of some parts."""
    samples = [sample for part in parts for sample in part.samples]
    return fit_detector(samples, settings.query.size, FitSettings(), progress=progress)


def scores(
    detector: WallDetector, parts: list[Part], settings: LocalizeSettings
) -> tuple[float, float]:
    """Log-loss (nats) and average precision of a detector on the known cells of some parts."""
    size, probability, wall = settings.query.size, [], []
    for sample in (sample for part in parts for sample in part.samples):
        known = sample.target != walls.UNKNOWN
        probability.append(detector.building(sample.cell, sample.features, size)[known])
        wall.append(sample.target[known] == BUILDING_CLASS)
    p, is_wall = np.concatenate(probability), np.concatenate(wall)
    return log_loss(p, is_wall), average_precision(precision_recall(p, is_wall))


def log_loss(probability: Array, wall: NDArray[np.bool_]) -> float:
    """Mean negative log-probability, nats, of (N,) cells that are walls or not."""
    p = np.clip(np.where(wall, probability, 1 - probability), 1e-7, 1)
    return float(-np.log(p).mean())


def left_out(parts: list[Part], settings: LocalizeSettings) -> tuple[float, float]:
    """Mean log-loss and average precision in each city of a detector fitted to the others."""
    found = []
    for city in sorted({part.city for part in parts}):
        detector = fit([part for part in parts if part.city != city], settings)
        found.append(scores(detector, [part for part in parts if part.city == city], settings))
    loss, precision = np.mean(found, axis=0).tolist()
    return loss, precision


def try_all(cities: list[City], given: argparse.Namespace, trials: list[Trial]) -> None:
    """Print a row of scores for each trial."""
    head("key", "value", "tiles", "log-loss", "average precision")
    for key, value, settings in trials:
        parts = list(make_parts(cities, given, settings))
        count = sum(len(part.samples) for part in parts)
        loss, precision = left_out(parts, settings)
        row(key or "as it is", value, f"{count}", f"{loss:.4f}", f"{precision:.4f}")


def fit_all(cities: list[City], given: argparse.Namespace, settings: LocalizeSettings) -> None:
    """Fit the detector, write it, and print the samples and the scores on them."""
    head("city", "sensor", "submap m", "tiles", "cells", "walls")
    parts = []
    for part in make_parts(cities, given, settings):
        parts.append(part)
        target = np.concatenate([sample.target for sample in part.samples])
        wall = (target == BUILDING_CLASS).mean()
        counts = f"{len(part.samples)}", f"{len(target)}", f"{wall:.2f}"
        row(part.city, part.sensor, f"{part.submap_m:g}", *counts)
    detector = fit(parts, settings, progress=True)
    write_detector(given.out, detector, FEATURES, FACTS)
    loss, precision = scores(detector, parts, settings)
    print(f"\n{given.out}: log-loss {loss:.4f} nats, average precision {precision:.4f}")


def main() -> None:
    parser = make_parser(__doc__, "fit_walls", 500.0)
    parser.add_argument("--worlds", type=int, default=3, metavar="N", help="in each city")
    parser.add_argument("--out", type=Path, default=SHIPPED, metavar="FOLDER")
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
