"""How far a fix is to be trusted: whether it is localized, its protection level, the reason if not.

A position's error is taken as Student's t-distribution with the fix's covariance: like a normal
distribution near the middle, with heavier tails. With the probability that the fix is wrong
altogether, which its score leaves, it is farther off than any radius.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.fuse.motion import FuseSettings
from maptile_loc.types import Estimates

DIRECTIONS = 64
"""Directions over which the tail of a position's error is averaged."""

STEPS = 8
"""Newton steps for a radius."""

FARTHEST_M = 1e4
"""Protection levels above this are infinite, metres."""


def make_estimates(
    poses: Array,
    covariance: Array,
    score: Array,
    reason: NDArray[np.str_],
    settings: FuseSettings,
) -> Estimates:
    """The estimates of Q queries, with what follows from covariances and scores.

    Args:
        poses: (Q, 3) east, north, heading; NaN where there is none.
        covariance: (Q, 3, 3); NaN likewise.
        score: (Q,) probability of each.
        reason: (Q,) reason that counts where a fix is not localized, but for a position that is not
            determined in one direction.
        settings: Limits.
    """
    covariance = (covariance + np.swapaxes(covariance, 1, 2)) / 2  # symmetric to the last bit
    std = worst_std(covariance)
    precise = np.asarray(std <= settings.max_std_m)
    localized = precise & (score >= settings.trust)
    straight = np.isfinite(std) & ~precise & (reason != "few_walls")
    # What is on the map rather than off it, but not surely, needs more evidence.
    reason = np.where((reason == "off_map") & (score > 0.5), "too_short", reason)
    reason = np.where(localized, "", np.where(straight, "straight_street", reason))
    level = protection_level(score, covariance, settings)
    return Estimates(poses, covariance, score, localized, level, reason)


def worst_std(covariance: Array) -> Array:
    """(Q,) standard deviation of (Q, 3, 3) positions in the worst direction; inf where unknown."""
    known = np.asarray(np.isfinite(covariance).all(axis=(1, 2)))
    position = np.where(known[:, None, None], covariance[:, :2, :2], np.eye(2))
    variance = np.maximum(np.linalg.eigvalsh(position)[:, -1], 0)
    return np.where(known, np.sqrt(variance), np.inf)


def protection_level(score: Array, covariance: Array, settings: FuseSettings) -> Array:
    """(Q,) radius, metres, that the position's error exceeds with probability ``risk``.

    The error is A u r: u is uniform on the unit circle, A A^T the scale matrix of the
    t-distribution with n degrees of freedom, and r^2 / 2 has the F(2, n) distribution. So the error
    exceeds R with the probability (1 + R^2 / (n |A u|^2))^(-n / 2), averaged over u.

    Args:
        score: (Q,) probability of each fix.
        covariance: (Q, 3, 3) of (east, north, heading).
        settings: ``risk`` and ``tail``.

    Returns:
        The radius; inf where the fix is wrong altogether with a larger probability than ``risk``,
        or has no covariance.
    """
    level = np.full(len(score), np.inf)
    known = np.isfinite(covariance).all(axis=(1, 2)) & (1 - score < settings.risk)
    if not known.any():
        return level
    n = settings.tail
    angle = np.arange(DIRECTIONS) * np.pi / DIRECTIONS
    circle = np.stack([np.cos(angle), np.sin(angle)])
    scale = np.linalg.eigvalsh(covariance[known, :2, :2]) * (n - 2) / n
    reach = (np.maximum(scale, 1e-12)[:, :, None] * circle**2).sum(axis=1)  # |A u|^2
    beyond = (settings.risk - (1 - score[known])) / score[known]
    # With y the mean over u, y^(-2 / n) is linear in R^2 where |A u| is the same for all u, and
    # nearly so elsewhere: Newton's method solves it in a few steps.
    square = n * reach.min(axis=1) * (beyond ** (-2 / n) - 1)
    for _ in range(STEPS):
        base = 1 + square[:, None] / (n * reach)
        mean, slope = (base ** (-n / 2)).mean(axis=1), (base ** (-n / 2 - 1) / reach).mean(axis=1)
        square += (beyond ** (-2 / n) - mean ** (-2 / n)) * n * mean ** (2 / n + 1) / slope
    radius = np.sqrt(square)
    level[known] = np.where(radius < FARTHEST_M, radius, np.inf)
    return level


def likely_reason(
    wall_m2: Array, alike: NDArray[np.bool_], travelled_m: Array, settings: FuseSettings
) -> NDArray[np.str_]:
    """(Q,) the most likely reason, of ``REASONS``, why fixes have a low score.

    Args:
        wall_m2: (Q,) wall evidence of each tile, square metres.
        alike: (Q,) whether other positions are more probable than none.
        travelled_m: (Q,) metres of travel that the fix is based on.
        settings: ``few_walls_m2`` and ``short_m``.
    """
    few, short = wall_m2 < settings.few_walls_m2, travelled_m < settings.short_m
    names = ["few_walls", "look_alikes", "too_short"]
    return np.select([few, alike, short], names, "off_map").astype("U16")
