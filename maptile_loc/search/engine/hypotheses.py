"""The last steps of every search: refinement, probabilities, distinct candidates."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp

from data_prep.geometry import Array, wrap_angle
from maptile_loc.score.evidence import Evidence
from maptile_loc.score.likelihood import LikelihoodFields, log_likelihood
from maptile_loc.search.engine.settings import SearchSettings


def refined(
    poses: Array,
    log_prior: Array,
    evidence: Evidence,
    rotation: float,
    fields: LikelihoodFields,
    settings: SearchSettings,
) -> tuple[Array, Array]:
    """Poses of the wide grid, refined on the fine grid.

    Args:
        poses: (K, 3) east, north, heading.
        log_prior: (K,) log-probability of their headings.
        evidence: The tile's.
        rotation: The tile's ``rotation``, radians.
        fields: The map's.
        settings: Steps of the grids.

    Returns:
        (K, 3) poses, and (K,) logarithms of the likelihood's mass around each.
    """
    seen = evidence.points
    step, turn = fields.resolution, np.radians(settings.heading_step_deg / 2)
    offsets = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    offsets = offsets * [step, step, turn]
    for _ in range(2):
        around = poses[:, None] + offsets
        scores = log_likelihood(around, seen, rotation, fields) + log_prior[:, None]
        poses = around[np.arange(len(poses)), scores.argmax(axis=1)]
    share = 1 / (2 * settings.coarser**2)
    return poses, np.asarray(logsumexp(scores, axis=1) + np.log(share))


def local_maxima(values: torch.Tensor, radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, n) highest scores of the squares of ``radius`` cells in (K, H, W), and flat indices."""
    highest, index = torch.nn.functional.max_pool2d(
        values, radius, ceil_mode=True, return_indices=True
    )
    return highest.flatten(1), index.flatten(1)


def by_chance(maxima: Array, metres: Array, squares: float, settings: SearchSettings) -> float:
    """The score that a tile reaches by chance, away from its best position.

    Args:
        maxima: (N,) highest scores of squares of the map; -inf where the vehicle cannot be.
        metres: (N,) distances of these from the best position.
        squares: Number of squares of the whole map; those left out have lower scores.
        settings: ``chance`` and ``distinct_m`` are read.

    Returns:
        The score that a share ``chance`` of the squares far from the best one exceeds; 0 if there
        is no such square.
    """
    elsewhere = maxima[(metres > 3 * settings.distinct_m) & np.isfinite(maxima)]
    if len(elsewhere) == 0:
        return 0.0
    rank = min(int(settings.chance * squares), len(elsewhere) - 1)
    return float(-np.partition(-elsewhere, rank)[rank])


def posterior(
    mass: Array,
    rest: float,
    places: float,
    chance: float,
    evidence: Evidence,
    settings: SearchSettings,
) -> Array:
    """(K,) log-probabilities of the hypotheses.

    Args:
        mass: (K,) logarithm of the likelihood's sum around each.
        rest: The same for all other positions.
        places: Number of positions; all have the same prior probability.
        chance: Score that the tile reaches by chance.
        evidence: The tile's. One more hypothesis is that the tile is nowhere on the map.
        settings: The log-odds of that hypothesis.
    """
    total = logsumexp([*mass, rest]) - np.log(places)
    nowhere = (
        settings.nowhere_log_odds
        + settings.nowhere_by_chance * chance
        + settings.nowhere_per_wall_m2 * evidence.total("wall")
        + settings.nowhere_per_free_m2 * evidence.total("free")
        + settings.nowhere_per_road_m2 * evidence.total("surface")
    )
    return np.asarray(mass - np.log(places) - np.logaddexp(total, nowhere))


def distinct(poses: Array, log_scores: Array, settings: SearchSettings) -> list[int]:
    """Indices of the best of (K, 3) poses, best first, at most ``settings.candidates``.

    Poses closer than 0.75 ``distinct_m`` whose headings differ by less than 15 degrees are alike;
    of these the best one stays.
    """
    kept: list[int] = []
    for index in np.argsort(-log_scores, kind="stable"):
        gap = poses[kept] - poses[index]
        near = np.hypot(gap[:, 0], gap[:, 1]) < 0.75 * settings.distinct_m
        if not (near & (np.abs(wrap_angle(gap[:, 2])) < np.radians(15))).any():
            kept.append(int(index))
    return kept[: settings.candidates]
