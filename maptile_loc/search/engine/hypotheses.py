"""The last steps of every search: refinement, probabilities, distinct candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.geometry import Array, wrap_angle
from maptile_loc.score.evidence import Evidence, Points
from maptile_loc.score.fields import LikelihoodFields, in_threads
from maptile_loc.score.likelihood import log_likelihood, part_under, together
from maptile_loc.search.engine.settings import SearchSettings

AROUND = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
"""(27, 3) multiples of the fine grid's spacing at which ``refined`` scores poses."""

LEAST_WALL_M2 = 10.0
"""A tile with less wall evidence is judged as if it had this much, square metres."""


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
    seen, groups = evidence.points, together(poses, fields)

    def of_group(group: NDArray[np.int_]) -> tuple[Array, Array]:
        return _refined(poses[group], log_prior[group], seen, rotation, fields, settings)

    parts = in_threads(of_group, groups)
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(groups), kind="stable")
    best, mass = (np.concatenate(column)[order] for column in zip(*parts, strict=True))
    return best, mass


def _refined(
    poses: Array,
    log_prior: Array,
    seen: Sequence[Points],
    rotation: float,
    fields: LikelihoodFields,
    settings: SearchSettings,
) -> tuple[Array, Array]:
    """As ``refined``, of poses near each other."""
    spacing = np.array([fields.resolution] * 2 + [np.radians(settings.heading_step_deg / 2)])
    fields = part_under(poses, seen, fields, 2 * fields.resolution)
    around = poses[:, None] + AROUND * spacing
    scores = log_likelihood(around, seen, rotation, fields) + log_prior[:, None]
    every, best = np.arange(len(poses)), scores.argmax(axis=1)
    around = around[every, best][:, None] + AROUND * spacing
    # Some of the poses around the best one are scored already.
    cell = AROUND[best][:, None] + AROUND
    known = (np.abs(cell) <= 1).all(axis=2)
    index = (cell.clip(-1, 1) + 1) @ [9, 3, 1]
    scores = np.take_along_axis(scores, index, axis=1)
    new = log_likelihood(around[None, ~known], seen, rotation, fields)[0]
    scores[~known] = new + log_prior[np.nonzero(~known)[0]]
    poses = around[every, scores.argmax(axis=1)]
    share = 1 / (2 * settings.coarser**2)
    return poses, np.asarray(np.logaddexp.reduce(scores, axis=1) + np.log(share))


def local_maxima(values: torch.Tensor, radius: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, n) highest scores of the squares of ``radius`` cells in (K, H, W), and flat indices."""
    highest, index = torch.nn.functional.max_pool2d(
        values, radius, ceil_mode=True, return_indices=True
    )
    return highest.flatten(1), index.flatten(1)


class Chance(NamedTuple):
    """What a tile reaches by chance: the tail of its scores away from its best position.

    The highest scores of the squares of the map exceed ``level`` by an exponential distribution, as
    scores of random alignments do (Karlin and Altschul, PNAS 1990). All cells of one wall, and all
    walls of one row of houses, fit or miss together there as they do at the true position; so
    ``scale`` contains how strongly the pieces of evidence depend on each other.

    Attributes:
        level: Score that ``squares`` squares reach.
        scale: Mean excess of these squares over the level.
        squares: Their number.
    """

    level: float
    scale: float
    squares: float


def by_chance(
    maxima: Array,
    metres: Array,
    squares: float,
    wall_m2: float,
    settings: SearchSettings,
    weight: Array | None = None,
) -> Chance:
    """The scores that a tile reaches by chance, away from its best position.

    Args:
        maxima: (N,) highest scores of squares of the map; -inf where the vehicle cannot be.
        metres: (N,) distances of these from the best position.
        squares: Number of squares of the whole map; those left out have lower scores.
        wall_m2: Wall evidence of the tile, square metres.
        settings: ``chance*``, ``scale_*`` and ``elsewhere_m`` are read.
        weight: (N,) number of squares that each stands for; None: of itself alone.

    Returns:
        The tail above the score that a share ``chance`` of the squares reaches, or
        ``chance_squares`` of them if these are more, or a tenth of those at hand if these are
        fewer. The scale is the mean of those at hand and of the expected one, which counts as
        ``scale_squares`` squares. The level is 0 if no square is far from the best one.
    """
    expected = settings.scale_per_root_wall * np.sqrt(wall_m2)
    counted = (metres > settings.elsewhere_m) & np.isfinite(maxima)
    elsewhere = maxima[counted]
    if len(elsewhere) == 0:
        return Chance(0.0, max(expected, 1.0), 1.0)
    stands_for = np.ones(len(elsewhere)) if weight is None else weight[counted]
    least = settings.chance_squares
    # A tenth of the squares at hand still is a tail, if only some of the map was searched.
    count = min(max(int(settings.chance * squares), least), int(stands_for.sum()) // 10)
    order = np.argsort(-elsewhere, kind="stable")
    above = np.cumsum(stands_for[order])
    highest = order[: int(np.searchsorted(above, count, side="right")) + 1]
    level = float(elsewhere[highest[-1]])
    prior, excess = settings.scale_squares, elsewhere[highest] - level
    scale = (prior * expected + (stands_for[highest] * excess).sum()) / (prior + count)
    # All squares that reach the level count, and where a tile shows nothing these are all squares.
    reached = float(stands_for[elsewhere >= level].sum())
    return Chance(level, max(float(scale), 1e-3), reached)


def posterior(
    mass: Array, log_prior: Array, chance: Chance, wall_m2: float, settings: SearchSettings
) -> Array:
    """(K,) log-probabilities of the hypotheses.

    The scores are tempered such that those by chance fall off as a likelihood ratio's do. One more
    hypothesis is that the tile is nowhere on the map: its weight is the expected sum over all
    squares that match by chance. A candidate whose score is low for the walls of the tile is less
    probable.

    Args:
        mass: (K,) logarithm of the likelihood's sum around each.
        log_prior: (K,) logarithms of how probable their headings are, compared with the most
            probable heading; contained in ``mass``.
        chance: What the tile reaches by chance.
        wall_m2: Wall evidence of the tile, square metres.
        settings: ``temper``, ``nowhere_log_odds``, ``per_wall_m2`` and ``per_wall_std`` are read.
    """
    power = min(settings.temper / chance.scale, 1.0)
    missing = settings.per_wall_m2 - mass / max(wall_m2, LEAST_WALL_M2)
    low = np.maximum(missing, 0) / settings.per_wall_std
    tempered = power * mass + (1 - power) * log_prior - 0.5 * low**2
    # The mean of exp(power * excess), an exponential distribution's generating function.
    mean = -np.log1p(-power * chance.scale)
    nowhere = power * chance.level + np.log(chance.squares) + mean + settings.nowhere_log_odds
    return np.asarray(tempered - np.logaddexp.reduce([*tempered, nowhere]))


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
