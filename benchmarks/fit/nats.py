"""Three scores of a recipe on training examples, each in nats; lower is better.

Each is the negative logarithm of the probability, or of the density, that the recipe gives to what
is true. So they are proper scores: what is really the case scores best on average.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from maptile_loc.map_search import fix_tile, prepare_search
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import log_likelihood
from maptile_loc.types import Candidates, Fixes

LEAST = 1e-4
"""Lower bound of the probability that a tile is nowhere on a map."""


@dataclass(frozen=True)
class Nats:
    """The scores of N examples.

    Attributes:
        known: (N,) bool, whether the heading is known, of ``score`` and ``pose``.
        score: (N,) of the likelihood: negative log-posterior density of the true position, per m2,
            over the poses of ``Samples``. It depends on the sections submap, query, evidence and
            likelihood.
        pose: (N,) of the aligned candidates: negative log-density of the true pose, per m2 and rad,
            in the mixture of their normal distributions. It depends on all sections but fuse.
        nowhere: (N,) of the search on the map of another city, the same examples in another order:
            negative log-probability that the tile is at none of the candidates. It depends on all
            sections but align and fuse.
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
    rows: list[tuple[bool, float, float]] = []
    nowhere: list[float] = []
    for number, city in enumerate(cities):
        engine = prepare_search(city, settings)
        sampler = Sampler(city.raster, engine.fields, settings)
        for row, example in enumerate(examples(city)):
            rng = np.random.default_rng([seed, number, row])
            score = sampled_nats(example, sampler, settings, rng)
            _, fixes = fix_tile(example.tile, example.queries, engine, settings)
            rows.append((example.known, score, pose_nats(fixes, example.truth)))
        for example in examples(cities[number - 1]):
            found, _ = fix_tile(example.tile, example.queries, engine, settings)
            nowhere.append(nowhere_nats(found))
    known, score, pose = (np.array(column) for column in zip(*rows, strict=True))
    return Nats(known, robust(torch.from_numpy(score)).numpy(), pose, np.array(nowhere))


def sampled_nats(
    example: Example, sampler: Sampler, settings: LocalizeSettings, rng: np.random.Generator
) -> float:
    """Negative log-posterior density, per m2, of the true position over the sampled poses."""
    evidence = make_evidence(example.tile, sampler.fields.resolution, settings.evidence)
    samples = sampler.draw(example, evidence, rng)
    rotation = example.tile.rotation
    score = log_likelihood(samples.poses[None], evidence.points, rotation, sampler.fields)[0]
    return float(logsumexp(score + samples.log_weight) - logsumexp(score + samples.log_truth))


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
