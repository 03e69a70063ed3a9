"""Fit what tells walls from the rest to labelled simulated scans; prints weights for the config.

Run: python benchmarks/fit_walls.py [DATA] [--work FOLDER] [--metres M]

In each city, vehicles with each sensor are simulated on a route of M metres. Cells of their tiles,
one scan or a submap each, are those of a building where one of their points is labelled so. Oxford
and Karlsruhe are not among the cities: what is measured there is measured on places never seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from stamp import stamp

from data_prep.city.folder import CitySettings, open_city, prepare_city
from data_prep.drive import Drive
from data_prep.geometry import Array
from data_prep.osm.footprints import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import trajectory_from_route
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.labels import BUILDING, LABELS
from maptile_loc.perceive.query_tile import QuerySettings, survey
from maptile_loc.perceive.rays import pixels
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries
from maptile_loc.perceive.walls import FEATURES, wall_features

ROOT = Path(__file__).parent.parent
CITIES = ("helsinki.osm.pbf", "cambridge_ma.osm", "kotka_fi.osm.pbf")
SENSORS = {"hdl64": (0.0, 20.0), "hdl32": (0.0, 20.0), "robotcar": (50.0,)}
"""The lengths of submaps, metres, that each sensor's tiles are made of."""
EVERY_M = 40.0
NO_WALL, WALL, DOUBTFUL = 0, 1, -1


def drive_in(source: Path, sensor: str, metres: float, work: Path) -> Drive:
    """A simulated drive with labels, made if it is not there yet."""
    name = source.name.split(".")[0]
    city, folder = work / name, work / f"{name}_{sensor}"
    if not city.exists():
        prepare_city(OsmSource(path=source), city, CitySettings(name=name))
    if not folder.exists():
        opened = open_city(city)
        settings = load_settings(SimulateSettings, "simulate").model_copy(update={"labels": "all"})
        simulate(opened, trajectory_from_route(opened, metres), folder, sensor, settings)
    return open_drive(folder)


def examples(drive: Drive, submap_m: float, settings: QuerySettings) -> tuple[Array, Array]:
    """(M, F) features of cells, and (M,) whether each is WALL, NO_WALL or DOUBTFUL."""
    plan = plan_queries(drive, Queries(submap_m=submap_m, every_m=EVERY_M))
    size = round(settings.size_m / settings.resolution)
    labelled = SubmapSettings(labels={"simulated": LABELS["semantickitti"]})
    rng = np.random.default_rng(0)
    found: list[tuple[Array, NDArray[np.int64]]] = []
    for query in range(len(plan.scan)):
        submap = build_submap(drive, plan, query, Queries(submap_m=submap_m), labelled)
        seen = survey(submap, rng.uniform(-np.pi, np.pi), settings)
        assert seen.kind is not None
        tall = settings.wall.may_be_wall(seen.height)
        for number in np.unique(seen.group):
            part = seen.upright(tall & (seen.group == number))
            cell, features = wall_features(
                part, seen.bins, size, settings.resolution, settings.wall
            )
            built = np.zeros(size * size, bool)
            built[
                pixels(part.xy[seen.kind[part.ray] == BUILDING], size, settings.resolution)[0]
            ] = True
            beside = ndimage.maximum_filter(built.reshape(size, size), 3).ravel()
            found.append(
                (features, np.where(built, WALL, np.where(beside, DOUBTFUL, NO_WALL))[cell])
            )
    return np.concatenate([f for f, _ in found]), np.concatenate([t for _, t in found])


def fit(features: Array, wall: Array, weight: Array) -> tuple[Array, float]:
    """(F,) weights and the constant of a logistic regression of (N, F) features on (N,) 0 or 1."""
    mean, spread = features.mean(axis=0), features.std(axis=0)
    x, y = torch.from_numpy((features - mean) / spread), torch.from_numpy(wall.astype(np.float64))
    w = torch.from_numpy(weight / weight.mean())
    beta = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([beta], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        odds = x @ beta[1:] + beta[0]
        value = torch.nn.functional.binary_cross_entropy_with_logits(odds, y, weight=w)
        value = value + 1e-4 * (beta**2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    found = beta.detach().numpy()
    weights = found[1:] / spread
    return weights, float(found[0] - weights @ mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "fit_walls")
    parser.add_argument("--metres", type=float, default=500.0)
    given = parser.parse_args()
    settings = QuerySettings()
    parts = []
    print(stamp(), end="\n\n")
    print("| city | sensor | submap m | cells | walls |\n|---|---|---|---|---|")
    for name in CITIES:
        for sensor, lengths in SENSORS.items():
            drive = drive_in(given.data / "cities" / name, sensor, given.metres, given.work)
            for submap_m in lengths:
                features, truth = examples(drive, submap_m, settings)
                sure = truth != DOUBTFUL
                parts.append((features[sure], truth[sure] == WALL))
                walls = parts[-1][1].mean()
                print(
                    f"| {name} | {sensor} | {submap_m:g} | {sure.sum()} | {walls:.2f} |", flush=True
                )
    # Every row of the table counts the same, however many cells it has.
    weight = np.concatenate([np.full(len(wall), 1 / len(wall)) for _, wall in parts])
    weights, constant = fit(
        np.concatenate([f for f, _ in parts]), np.concatenate([wall for _, wall in parts]), weight
    )
    print("\nquery:\n  wall:\n    weights:")
    for feature, value in zip(FEATURES, weights, strict=True):
        print(f"      - {value:.3f} # {feature}")
    print(f"    constant: {constant:.3f}")


if __name__ == "__main__":
    main()
