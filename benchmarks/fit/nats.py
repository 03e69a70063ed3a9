"""Three scores of a recipe on training examples, each in nats; lower is better.

Each is the negative logarithm of the probability, or of the density, that the recipe gives to what
is true. So they are proper scores: what is really the case scores best on average.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from logit import ANYWHERE, robust
from numpy.typing import NDArray
from samples import Sampler
from scipy.special import logsumexp
from training import Example

from data_prep.city.folder import City
from data_prep.geometry import Array, wrap_angle
from maptile_loc.pipeline import LocalizeSettings, MapSearch, heading_turns, prepare_search
from maptile_loc.score.align import align
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import log_likelihood
from maptile_loc.types import Candidates, Fixes

LEAST = 1e-4
"""Lower bound of the probability that a tile is nowhere on a map."""


@dataclass(frozen=True)
class Nats:
    """The scores of N examples.

    Attributes:
        known: (N,) bool, whether the heading is known.
        score: (N,) of the likelihood: negative log-posterior density of the true position, per m2,
            over the poses of ``Samples``. It depends on the sections submap, query, evidence and
            likelihood, and on ``align.map_std_m``.
        pose: (N,) of the aligned candidates: negative log-density of the true pose, per m2 and rad,
            in the mixture of their normal distributions. It depends on all sections but fuse.
        nowhere: (N,) of the search on the map of another city: negative log-probability that the
            tile is at none of the candidates. It depends on all sections but align and fuse.
    """

    known: NDArray[np.bool_]
    score: Array
    pose: Array
    nowhere: Array


def judge(
    cities: Sequence[City],
    examples: Callable[[City], Iterable[Example]],
    settings: LocalizeSettings,
    seed: int = 0,
) -> Nats:
    """The scores of a recipe on the examples of all cities.

    Args:
        cities: Two or more.
        examples: The examples of a city, the same at each call.
        settings: The recipe.
        seed: Seed of the samples; each example has its own generator of random numbers.
    """
    rows = {number: list[tuple[bool, float, float]]() for number in range(len(cities))}
    elsewhere = {number: list[float]() for number in rows}
    for number, city in enumerate(cities):
        engine = prepare_search(city, settings)
        sampler = Sampler(city.raster, engine.fields, settings)
        for example, rng in zip(examples(city), _generators(seed), strict=False):
            score = sampled_nats(example, sampler, settings, rng)
            _, fixes = fix(example, engine, settings)
            rows[number].append((example.known, score, pose_nats(fixes, example.truth)))
        other = (number + 1) % len(cities)
        for example in examples(cities[other]):
            found, _ = fix(example, engine, settings)
            elsewhere[other].append(nowhere_nats(found))
    known, score, pose = (np.array(column) for column in zip(*sum(rows.values(), []), strict=True))
    nats = (robust(torch.from_numpy(column)).numpy() for column in (score,))
    return Nats(known.astype(bool), *nats, pose, np.array(sum(elsewhere.values(), [])))


def sampled_nats(
    example: Example, sampler: Sampler, settings: LocalizeSettings, rng: np.random.Generator
) -> float:
    """Negative log-posterior density, per m2, of the true position over the sampled poses."""
    evidence = make_evidence(example.tile, sampler.fields.resolution, settings.evidence)
    samples = sampler.draw(example, evidence, rng)
    rotation = example.tile.rotation
    score = log_likelihood(samples.poses[None], evidence.points, rotation, sampler.fields)[0]
    return float(logsumexp(score + samples.log_weight) - logsumexp(score + samples.log_truth))


def fix(
    example: Example, engine: MapSearch, settings: LocalizeSettings
) -> tuple[Candidates, Fixes]:
    """The candidates of an example's tile on the engine's map, and the same aligned."""
    heading, fields = example.queries.heading, engine.fields
    evidence = make_evidence(example.tile, fields.resolution, settings.evidence)
    turns, log_prior = heading_turns(heading, settings)
    found = engine.search.candidates(example.tile, evidence, turns, log_prior)
    std = np.radians(settings.known_heading_std_deg) if example.known else None
    reach_m = example.queries.reach_m
    rotation = example.tile.rotation
    return found, align(found, evidence, rotation, fields, std, settings.align, reach_m)


def pose_nats(fixes: Fixes, truth: Array) -> float:
    """Robust negative log-density, per m2 and rad, of the true pose in a mixture of normals.

    Args:
        fixes: Candidates with their log-probabilities, and covariances.
        truth: (3,) east, north, heading.
    """
    density = -np.inf
    if len(fixes.covariance):
        off = truth - fixes.candidates.poses
        off[:, 2] = wrap_angle(off[:, 2])
        squared = np.einsum("ki,kij,kj->k", off, np.linalg.inv(fixes.covariance), off)
        volume = np.linalg.slogdet(2 * np.pi * fixes.covariance).logabsdet
        density = logsumexp(fixes.candidates.log_scores - 0.5 * (squared + volume))
    nats = torch.tensor([-float(density)], dtype=torch.float64)
    return float(robust(nats, ANYWHERE - np.log(2 * np.pi)))


def nowhere_nats(found: Candidates) -> float:
    """Negative log-probability that a tile is at none of the candidates."""
    return float(-np.log(max(1 - np.exp(found.log_scores).sum(), LEAST)))


def _generators(seed: int) -> Iterator[np.random.Generator]:
    """A generator of random numbers for each example."""
    return (np.random.default_rng([seed, number]) for number in itertools.count())
