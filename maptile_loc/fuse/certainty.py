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

DIRECTIONS = 32
"""Directions, in a quarter of the circle, over which the tail of a position's error is averaged."""

STEPS = 4
"""Newton steps for a radius: its relative error is below 1e-9 for a ``tail`` of 2 to 30."""

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
    precise = worst_std(covariance) <= settings.max_std_m
    localized = precise & (score >= settings.trust)
    across = _variances(covariance)[0] <= settings.max_std_m**2
    straight = across & ~precise & (reason != "few_walls")
    # What is on the map rather than off it, but not surely, needs more evidence.
    reason = np.where((reason == "off_map") & (score > 0.5), "too_short", reason)
    reason = np.where(localized, "", np.where(straight, "straight_street", reason))
    level = protection_level(score, covariance, settings)
    return Estimates(poses, covariance, score, localized, level, reason)


def worst_std(covariance: Array) -> Array:
    """(Q,) standard deviation of (Q, 3, 3) positions in the worst direction; inf where unknown."""
    known = np.isfinite(covariance).all(axis=(1, 2))
    return np.where(known, np.sqrt(np.maximum(_variances(covariance)[1], 0)), np.inf)


def _variances(covariance: Array) -> tuple[Array, Array]:
    """(Q,) smallest and (Q,) largest variance of (Q, 3, 3) positions, over all directions.

    The eigenvalues of a symmetric matrix of two rows, by its trace and determinant.
    """
    east, north, both = covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1]
    with np.errstate(invalid="ignore", over="ignore"):  # some are not finite
        largest = (east + north) / 2 + np.hypot((east - north) / 2, both)
        # Their product is the determinant; a difference would be all rounding in a narrow ellipse.
        smallest = (east * north - both**2) / np.maximum(largest, np.finfo(np.float64).tiny)
    return smallest, largest


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
    angle = (np.arange(DIRECTIONS) + 0.5) * np.pi / 2 / DIRECTIONS
    along = np.cos(angle) ** 2
    scale = (np.maximum(one * (n - 2) / n, 1e-12) for one in _variances(covariance[known]))
    least, most = (one[:, None] for one in scale)
    reach = least * along + most * (1 - along)  # |A u|^2
    beyond = (settings.risk - (1 - score[known])) / score[known]
    # With y the mean over u, y^(-2 / n) is linear in R^2 where |A u| is the same for all u, and
    # nearly so elsewhere: Newton's method solves it in a few steps.
    square = n * reach.min(axis=1) * (beyond ** (-2 / n) - 1)
    for _ in range(STEPS):
        base = 1 + square[:, None] / (n * reach)
        tail = base ** (-n / 2)
        mean = tail.sum(axis=1) / DIRECTIONS
        slope = (tail / (base * reach)).sum(axis=1) / DIRECTIONS
        square += ((mean / beyond) ** (2 / n) - 1) * n * mean / slope
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
    reason = np.where(few, "few_walls", np.where(alike, "look_alikes", "off_map"))
    return np.where(short & ~few & ~alike, "too_short", reason).astype("U16")
