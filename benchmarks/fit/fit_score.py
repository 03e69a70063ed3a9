"""Fit the profiles of the score to simulated drives, or score other values of any recipe key.

Run: python benchmarks/fit/fit_score.py [DATA] [--work FOLDER] [--metres M] [--tiles N]
                                        [--penalty P] [--free TERM ...] [--set KEY=VALUE ...]
                                        [--try KEY=V1,V2 ...]

In each training city, vehicles with each sensor are simulated on a route of M metres, and N query
tiles are made along it, every second one with an unknown heading. The fit is a conditional logit
(McFadden 1974): of all poses, the true one is to be the most probable. All poses are represented by
a grid around the truth, the best candidates of the present score, and poses drawn at random
(samples.py). As in alignment, the score need not explain the map's own shift there
(MAP_STD_M in samples.py).

Without --try, the terms --free of the likelihood are fitted. Their smoothness (the penalty) is the
one that predicts left-out cities best, unless it is given. The result is printed as YAML for
configs/localize.yaml and for the defaults in maptile_loc/score/settings.py. Surface, beside, path
and course are not fitted by default: simulated routes follow the middle of the map's roads, real
ones do not.

With --try, nothing is fitted. For the recipe as it is, and for each value of each key, three scores
are printed (nats.py), in nats, lower is better: of the likelihood alone ("score"), of the aligned
candidates ("pose"), and of the search on the map of a city where the drive is not ("nowhere").
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from common import Trial, head, make_parser, read_trials, row, stamp
from logit import Problem, fit, left_out, measure
from nats import judge
from numpy.typing import NDArray
from profiles import COURSE, F32, FITTED, PROFILES, as_yaml, features, make_basis, pack, unpack
from samples import Sampler
from training import CITIES, Example, make_examples, training_city, training_drive

from data_prep.city.folder import City
from data_prep.geometry import Array
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.map_fields import make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.types import Queries

SENSORS = {"hdl64": (0.0, 50.0), "robotcar": (50.0,)}
"""Lengths of submaps, metres, of the tiles of each sensor."""

EVERY_M = 20.0
"""Metres of travel between queries, of which some are chosen."""

SCAN_M = 2.0
"""Metres of travel between scans of a spinning LiDAR."""

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Penalties of squared second differences among which one is chosen."""


class Labels(NamedTuple):
    """The row of a table that a tile belongs to."""

    city: str
    tiles: str
    heading: str


def city_examples(
    city: City, given: argparse.Namespace, settings: LocalizeSettings
) -> Iterator[Example]:
    """The examples of a city: all sensors, all lengths of submaps."""
    for sensor, lengths in SENSORS.items():
        drive = training_drive(city, sensor, given.metres, given.work, every_m=SCAN_M)
        for submap_m in lengths:
            queries = Queries(submap_m, EVERY_M)
            yield from make_examples(
                city, drive, sensor, queries, given.tiles, settings, given.work
            )


def make_problem(
    cities: list[City], given: argparse.Namespace, settings: LocalizeSettings
) -> tuple[Problem, list[Labels]]:
    """The conditional logit of all examples, and the labels of each."""
    rng = np.random.default_rng(0)
    tiles: list[tuple[F32, Array, Array]] = []
    labels: list[Labels] = []
    for city in cities:
        fields = make_fields(city.raster, settings.search.resolution, settings.likelihood)
        sampler = Sampler(city.raster, fields, settings)
        basis = make_basis(city.raster, fields.resolution, settings.likelihood)
        for example in city_examples(city, given, settings):
            evidence = make_evidence(example.tile, fields.resolution, settings.evidence)
            samples = sampler.draw(example, evidence, rng)
            found = features(samples.poses, evidence.points, example.tile.rotation, basis)
            tiles.append((found, samples.log_weight, samples.log_truth))
            name = f"{example.sensor}, {example.queries.submap_m:g} m"
            labels.append(Labels(city.name, name, example.queries.heading.kind))
    return Problem.of(tiles), labels


def choose_penalty(
    problem: Problem,
    city: NDArray[np.str_],
    likelihood: LikelihoodSettings,
    free: Collection[str],
    asked: float | None,
) -> tuple[float, Array]:
    """The penalty that predicts left-out cities best, or ``asked``; (Q,) nats of left-out tiles."""
    names = np.unique(city)
    print("Negative log-posterior of the truth, per m2, by penalty, fitted to the other cities:\n")
    head("penalty", "all", *names)
    outside = {}
    for penalty in PENALTIES if asked is None else (asked,):
        outside[penalty] = nats = left_out(problem, city, likelihood, penalty, free)
        means = (nats.mean(), *(nats[city == name].mean() for name in names))
        row(f"{penalty:g}", *(f"{mean:.3f}" for mean in means))
    best = min(outside, key=lambda penalty: float(outside[penalty].mean()))
    return best, outside[best]


def fit_all(
    cities: list[City], given: argparse.Namespace, settings: LocalizeSettings
) -> LikelihoodSettings:
    """Fit the terms that are free, and print tables; returns the likelihood's settings."""
    likelihood = settings.likelihood
    problem, labels = make_problem(cities, given, settings)
    city = np.array([label.city for label in labels])
    penalty, outside = choose_penalty(problem, city, likelihood, given.free, given.penalty)
    values = fit(problem, likelihood, penalty, given.free)
    fitted = unpack(values, likelihood, given.free)
    columns = (measure(problem, pack(likelihood)), outside, measure(problem, pack(fitted)))
    print(f"\nThe same with penalty {penalty:g}, before and after:\n")
    head("city", "tiles", "heading", "n", "now", "fitted to others", "fitted")
    for label in [*sorted(set(labels)), Labels("all", "", "")]:
        these = np.array([label.city == "all" or label == one for one in labels])
        row(*label, f"{these.sum()}", *(f"{column[these].mean():.2f}" for column in columns))
    return fitted


def try_all(cities: list[City], given: argparse.Namespace, trials: list[Trial]) -> None:
    """Print a row of scores for each trial."""
    print("Mean nats, lower is better:\n")
    names = [f"{what}, {kind}" for what in ("score", "pose") for kind in ("known", "unknown")]
    head("key", "value", "n", *names, "nowhere")
    for key, value, settings in trials:

        def examples(city: City, settings: LocalizeSettings = settings) -> Iterator[Example]:
            return city_examples(city, given, settings)

        nats = judge(cities, examples, settings)
        columns = [
            part[which] for part in (nats.score, nats.pose) for which in (nats.known, ~nats.known)
        ]
        means = (f"{column.mean():.3f}" for column in (*columns, nats.nowhere))
        row(key or "as it is", value, f"{len(nats.score)}", *means)


def main() -> None:
    parser = make_parser(__doc__, "fit", 1200.0)
    parser.add_argument("--tiles", type=int, default=30, metavar="N", help="per drive and submap")
    parser.add_argument("--penalty", type=float, help="of squared second differences")
    terms = (*PROFILES, COURSE)
    parser.add_argument(
        "--free", nargs="+", choices=terms, default=FITTED, metavar="TERM", help=", ".join(terms)
    )
    given = parser.parse_args()
    trials = read_trials(parser, given)
    cities = [training_city(given.data / "cities" / source, given.work) for source in CITIES]
    print(stamp(), end="\n\n")
    if given.trials:
        try_all(cities, given, trials)
    else:
        print(f"\n{as_yaml(fit_all(cities, given, trials[0].settings))}")


if __name__ == "__main__":
    main()
