"""Poses of a map, with weights, that represent all poses at which a tile may have been taken.

Three sets of poses: a grid around the true pose, the best candidates of the present score with
their neighbours, and poses drawn at random, more of them near roads. A pose's weight is the area,
and the share of the headings, that it represents.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from training import Example

from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.geometry import Array, wrap_angle
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.evidence import Evidence
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.score.surroundings import surroundings
from maptile_loc.search.match import Matcher

Random = np.random.Generator
"""A generator of random numbers."""

NEAR_M = 4.0
"""Half the side of the grid around the true position, metres."""

NEAR_STEP_M = 0.4
"""Spacing of that grid, metres."""

NEAR_DRAWS = 2
"""Headings that are drawn per position of that grid."""

MAP_STD_M = 0.25
"""Standard deviation of the map's shift at a tile, metres per axis: the truth is spread by it."""

PEAKS = 80
"""Candidates of the present score that are used, at most."""

CHANCE = 500
"""Poses that are drawn at random."""

TURNS = 24
"""Headings that are searched for candidates where the heading is unknown."""

SAME_M = 6.0
"""Other poses closer than this to the true position, metres, and ``SAME_TURN`` are left out."""

SAME_TURN = np.radians(6.0)
"""Other poses within this angle of the true heading, radians, and ``SAME_M`` are left out."""

KNOWN_STD = np.radians(1.0)
"""Standard deviation of a known heading, radians."""

TURN_REACH = np.radians(2.0)
"""Half the range of headings around the true one, radians, where the heading is unknown."""


class Samples(NamedTuple):
    """P poses that represent all poses on a map.

    Attributes:
        poses: (P, 3) east, north (metres, map frame), heading (radians).
        log_weight: (P,) log of the area in m2 that each represents, times the prior probability of
            its headings.
        log_truth: (P,) the same times the probability density, per m2, of the true pose being
            there on the map, given the map's own shift; -inf outside the grid around the truth.
    """

    poses: Array
    log_weight: Array
    log_truth: Array


class Sampler:
    """Draws the samples of tiles on one map.

    Attributes:
        fields: The map's likelihood fields.
        matcher: The search for candidates, with ``PEAKS`` of them.
        chance: (H, W) probability that a vehicle is in a cell, by its distance from the roads.

    Args:
        raster: The map.
        fields: Its likelihood fields, made with ``settings``.
        settings: The recipe.
    """

    def __init__(
        self, raster: MapRaster, fields: LikelihoodFields, settings: LocalizeSettings
    ) -> None:
        search = settings.search.model_copy(update={"candidates": PEAKS, "refined": PEAKS})
        self.fields, self.step = fields, fields.resolution
        self.matcher = Matcher(fields, settings.query.size_m, search)
        top, bottom, left, right = (self.matcher.box / self.step).astype(int)
        chance = np.zeros(fields.shape)
        coverage = (raster.coverage(band, self.step) for band in (BUILDING, ROAD))
        road = surroundings(*coverage, self.step, settings.likelihood).road
        chance[top:bottom, left:right] = np.exp(
            np.interp(
                road[top:bottom, left:right], settings.likelihood.road_m, settings.likelihood.path
            )
        )
        self.chance = chance / chance.sum()

    def draw(self, example: Example, evidence: Evidence, rng: Random) -> Samples:
        """The samples of a tile.

        Args:
            example: The tile and its true pose.
            evidence: The tile's evidence, at the resolution of the fields.
            rng: Draws headings and the poses at random.
        """
        near, density = self._near(example, rng)
        near_weight = NEAR_STEP_M**2 / NEAR_DRAWS * (1 if example.known else TURN_REACH / np.pi)
        peaks, peak_weight = self._peaks(example, evidence, rng)
        drawn, drawn_weight = self._at_random(example, rng)
        log_weight = np.log(
            np.concatenate(
                [np.full(len(near), near_weight), np.full(len(peaks), peak_weight), drawn_weight]
            )
        )
        log_truth = np.full(len(log_weight), -np.inf)
        log_truth[: len(near)] = density + log_weight[: len(near)]
        return Samples(np.concatenate([near, peaks, drawn]), log_weight, log_truth)

    def _near(self, example: Example, rng: Random) -> tuple[Array, Array]:
        """(N, 3) poses around the true one, and the (N,) log-density, per m2, of each position."""
        steps = np.arange(-NEAR_M, NEAR_M + NEAR_STEP_M / 2, NEAR_STEP_M)
        shift = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        poses = np.zeros((len(shift) * NEAR_DRAWS, 3)) + example.truth
        poses[:, :2] += np.tile(shift, (NEAR_DRAWS, 1))
        poses[:, 2] += _jitter(example.known, len(poses), rng)
        density = -0.5 * (shift**2).sum(axis=1) / MAP_STD_M**2
        density -= logsumexp(density) + np.log(NEAR_STEP_M**2)
        return poses, np.tile(density, NEAR_DRAWS)

    def _peaks(self, example: Example, evidence: Evidence, rng: Random) -> tuple[Array, float]:
        """(N, 3) candidates that are wrong and their 8 neighbours, and the weight of each."""
        turns = np.zeros(1)
        if not example.known:
            turns = (np.arange(TURNS) + rng.random()) * 2 * np.pi / TURNS
        prior = np.full(len(turns), -np.log(len(turns)))
        peaks = self.matcher.candidates(example.tile, evidence, turns, prior).poses
        peaks = peaks[~_same(peaks, example.truth)]
        around = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], [0]), -1).reshape(-1, 3)
        poses = (peaks[:, None] + around * self.step).reshape(-1, 3)
        if not example.known:
            poses[:, 2] += _jitter(False, len(poses), rng)
        return poses, self.step**2 / len(turns)

    def _at_random(self, example: Example, rng: Random) -> tuple[Array, Array]:
        """(N, 3) poses drawn by ``chance``, without those at the truth, and their (N,) weights."""
        cell = rng.choice(self.chance.size, CHANCE, p=self.chance.ravel())
        row, column = np.divmod(cell, self.chance.shape[1])
        heading = np.full(CHANCE, example.truth[2])
        if not example.known:
            heading = rng.uniform(-np.pi, np.pi, CHANCE)
        east, north = self.fields.west + column * self.step, self.fields.north - row * self.step
        poses = np.column_stack([east, north, heading])
        weight = self.step**2 / (CHANCE * self.chance.ravel()[cell])
        other = ~_same(poses, example.truth)
        return poses[other], weight[other]


def _jitter(known: bool, count: int, rng: Random) -> Array:
    """(N,) differences from a known, or from the true, heading, radians."""
    if known:
        return rng.normal(0, KNOWN_STD, count)
    return rng.uniform(-TURN_REACH, TURN_REACH, count)


def _same(poses: Array, truth: Array) -> NDArray[np.bool_]:
    """(N,) whether each of (N, 3) poses is at the true one."""
    gap = poses - truth
    near = np.hypot(gap[:, 0], gap[:, 1]) < SAME_M
    return np.asarray(near & (np.abs(wrap_angle(gap[:, 2])) < SAME_TURN))
