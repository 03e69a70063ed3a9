"""Search near predicted poses, for a vehicle that is being tracked."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.geometry import Array, wrap_angle
from maptile_loc.score.evidence import Evidence
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.search.engine.hypotheses import (
    Chance,
    by_chance,
    distinct,
    local_maxima,
    posterior,
    refined,
)
from maptile_loc.search.engine.near import Ints, NearSearch, Squares
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.types import Candidates, Fixes, QueryTile

SAMPLES = 12
"""Squares of the map that show what a tile reaches by chance."""

STRIP = 512
"""Rows of cells in which buildings are looked for at a time."""

RADIUS_M = 31.0
"""Half the side of all squares, metres. With tiles of 128 m the transforms are of 192 cells."""


class TrackedSearch:
    """The search of squares around predicted poses; samples stand for the rest of the map.

    What a tile reaches by chance on the whole map is extrapolated from its scores in squares that
    are drawn at random: the tail is exponential. So the candidates' log-probabilities are those
    that a search of the whole map gives, if the rest of the map is like its samples.

    Args:
        fields: Likelihood fields of the map.
        tile_size_m: Side of the query tiles, metres.
        area_km2: The area that a search of the whole map covers, km2.
        settings: What all searches share.
        device: "cpu" or "cuda".
    """

    def __init__(
        self,
        fields: LikelihoodFields,
        tile_size_m: float,
        area_km2: float,
        settings: SearchSettings,
        device: str = "cpu",
    ) -> None:
        settings = settings.model_copy(update={"radius_m": RADIUS_M})
        self.near = NearSearch(fields, tile_size_m, settings, device)
        self.fields, self.settings = fields, settings
        self.squares_on_map = max(area_km2 * 1e6 / settings.distinct_m**2, 1.0)
        height, width = (side * fields.resolution for side in fields.shape)
        margin = min(settings.margin_m, 0.4 * height, 0.4 * width)
        low = np.array([fields.west + margin, fields.north - height + margin])
        high = np.array([fields.west + width - margin, fields.north - margin])
        self.low, self.high = low, high
        centres, built = self._built_up(low, high)
        self.squares_on_map *= built
        self.samples = np.column_stack([centres, np.zeros(len(centres))])
        self._spectra: dict[bool, torch.Tensor] = {}

    def _built_up(self, low: Array, high: Array) -> tuple[Array, float]:
        """(N, 2) centres of squares with buildings, drawn at random, and the share of such squares.

        Where there are no buildings, next to nothing matches by chance.

        Args:
            low: (2,) smallest east and north that are searched, metres.
            high: (2,) largest.
        """
        fields, side = self.fields, 2 * RADIUS_M
        count = np.maximum(np.round((high - low) / side).astype(int), 1)
        size = (high - low) / count
        built = np.zeros(count, bool)
        for top in range(0, fields.shape[0], STRIP):
            row, column = np.nonzero(fields.buildings(top, 0, STRIP, fields.shape[1]))
            east = fields.west + (column + 0.5) * fields.resolution
            north = fields.north - (row + top + 0.5) * fields.resolution
            cell = np.floor((np.column_stack([east, north]) - low) / size).astype(int)
            built[*cell[((cell >= 0) & (cell < count)).all(axis=1)].T] = True
        found = np.argwhere(built) if built.any() else np.zeros((1, 2), int)
        rng = np.random.default_rng(0)
        drawn = found[rng.permutation(len(found))[:SAMPLES]]
        return low + (drawn + 0.5) * size, len(found) / float(count.prod())

    def candidates(
        self,
        tile: QueryTile,
        evidence: Evidence,
        predicted: Array,
        turns: Array,
        log_prior: Array,
        reach_rad: float,
    ) -> Candidates:
        """The best candidates for ``tile`` near predicted poses.

        Args:
            tile: The query tile.
            evidence: Its evidence.
            predicted: (K, 3) east, north (metres), heading (radians).
            turns: (T,) turns of the tile that a search of the whole map tries, radians.
            log_prior: (T,) log-probability of each.
            reach_rad: Largest difference from a predicted heading that is tried, radians.

        Returns:
            Candidates with log-probabilities, as from a search of the whole map. None where all
            of the squares are too near to the map's edge, or off the map.
        """
        own = len(predicted)
        starts = predicted - [0.0, 0.0, tile.rotation]
        # The samples are searched with the turns that are tried at the first prediction.
        samples = np.column_stack([self.samples[:, :2], np.full(len(self.samples), starts[0, 2])])
        wide = self.near.is_wide(turns)
        spectra = self.near.spectra(starts, wide), self._sample_spectra(wide)
        every = np.concatenate([starts, samples])
        found = self.near.squares(evidence, every, turns, log_prior, reach_rad, spectra)
        side = max(1, round(self.settings.distinct_m / found.step))
        scores = np.where(self._inside(found), found.scores, -np.inf)[:own]
        maxima, index = (one.numpy() for one in local_maxima(torch.from_numpy(scores), side))
        if not np.isfinite(maxima).any():
            return Candidates(np.zeros((0, 3)), np.zeros(0))
        square, row, column, windows = self._peaks(scores, maxima, index, side)
        chosen = found.turn[square, row, column]
        poses = np.column_stack(
            [found.positions(square, row, column), tile.rotation + turns[chosen]]
        )
        prior = log_prior[chosen]
        if found.wide:
            poses, mass = refined(poses, prior, evidence, tile.rotation, self.fields, self.settings)
        else:
            mass = np.asarray(np.logaddexp.reduce(windows, axis=1))
        wall_m2, likelier = evidence.total("wall"), prior - log_prior.max()
        elsewhere = found.scores[own:][self._elsewhere(predicted)]
        chance = self._chance(elsewhere, side, found.tried / len(turns), wall_m2)
        log_scores = posterior(mass, likelier, chance, wall_m2, self.settings)
        poses[:, 2] = wrap_angle(poses[:, 2])
        kept = distinct(poses, log_scores, self.settings)
        return Candidates(poses[kept], log_scores[kept])

    def _peaks(
        self, scores: Array, maxima: Array, index: Ints, reach: int
    ) -> tuple[Ints, Ints, Ints, Array]:
        """The highest local maxima of K squares.

        Args:
            scores: (K, n, n) of all positions.
            maxima: (K, m) highest scores of parts of the squares.
            index: (K, m) flat index of each.
            reach: A peak is not exceeded within this number of cells.

        Returns:
            (N,) square, row and column of each, best first, and (N, w) scores around it, -inf
            beyond the square's edge.
        """
        square, part = np.nonzero(maxima > maxima.max() - self.settings.hopeless)
        order = np.argsort(-maxima[square, part], kind="stable")
        square, part = square[order], part[order]
        row, column = np.divmod(index[square, part], scores.shape[2])
        margin = (0, 0), (reach, reach), (reach, reach)
        padded = np.pad(scores, margin, constant_values=-np.inf)
        around = np.arange(2 * reach + 1)
        rows, columns = row[:, None, None] + around[:, None], column[:, None, None] + around
        windows = padded[square[:, None, None], rows, columns].reshape(len(row), -1)
        peak = maxima[square, part] >= windows.max(axis=1)
        kept = np.flatnonzero(peak)[: 2 * self.settings.candidates]
        return square[kept], row[kept], column[kept], windows[kept]

    def _inside(self, found: Squares) -> NDArray[np.bool_]:
        """(K, n, n) whether the positions of squares are searched: not too near to the edge."""
        at = np.arange(found.scores.shape[1]) * found.step
        west = found.corner[0] + found.first[:, 1] * found.step
        north = found.corner[1] - found.first[:, 0] * found.step
        east, north = west[:, None] + at, north[:, None] - at
        columns = (east >= self.low[0]) & (east <= self.high[0])
        rows = (north >= self.low[1]) & (north <= self.high[1])
        return np.asarray(rows[:, :, None] & columns[:, None])

    def _elsewhere(self, predicted: Array) -> NDArray[np.bool_]:
        """(N,) which samples are far from all (K, 3) predicted poses."""
        gap = self.samples[:, None, :2] - predicted[:, :2]
        reach = self.settings.elsewhere_m + np.sqrt(2) * self.settings.radius_m
        return np.asarray((np.hypot(gap[..., 0], gap[..., 1]) > reach).all(axis=1))

    def _sample_spectra(self, wide: bool) -> torch.Tensor:
        if wide not in self._spectra:
            self._spectra[wide] = self.near.spectra(self.samples, wide)
        return self._spectra[wide]

    def _chance(self, scores: Array, side: int, tried: float, wall_m2: float) -> Chance:
        """What a tile reaches by chance on the whole map, from its scores in the samples.

        Args:
            scores: (K, n, n) in the samples.
            side: Cells along the sides of the squares of which the highest scores count.
            tried: Share of the headings that were tried.
            wall_m2: Wall evidence of the tile, square metres.
        """
        if len(scores) == 0:  # a map as small as the surroundings
            return by_chance(np.zeros(0), np.zeros(0), 1.0, wall_m2, self.settings)
        maxima = local_maxima(torch.from_numpy(scores), side)[0].numpy().ravel()
        away, at_hand = np.full(len(maxima), np.inf), len(maxima) * tried
        chance = by_chance(maxima, away, at_hand, wall_m2, self.settings)
        whole = max(self.settings.chance * self.squares_on_map, self.settings.chance_squares)
        # The level that as many squares of the whole map exceed as a search of it counts.
        farther = np.log(self.squares_on_map / at_hand * chance.squares / whole)
        level = chance.level + chance.scale * max(float(farther), 0.0)
        return Chance(level, chance.scale, whole)


def disc(pose: Array, radius_m: float) -> Array:
    """(K, 3) poses, with the heading of (3,) ``pose``, whose squares cover a disc around it."""
    side = 2 * RADIUS_M
    reach = np.arange(-np.ceil(radius_m / side), np.ceil(radius_m / side) + 1) * side
    centre = np.stack(np.meshgrid(reach, reach), -1).reshape(-1, 2)
    nearest = np.maximum(np.abs(centre) - RADIUS_M, 0)
    centre = centre[np.hypot(*nearest.T) < radius_m]
    order = np.argsort(np.hypot(*centre.T), kind="stable")
    return pose + np.pad(centre[order], ((0, 0), (0, 1)))


def united(near: Fixes, whole: Fixes, settings: SearchSettings) -> Fixes:
    """The candidates of two searches for one tile, near a pose and of the whole map, together."""
    poses, scores, spread = (
        np.concatenate(pair)
        for pair in (
            (whole.candidates.poses, near.candidates.poses),
            (whole.candidates.log_scores, near.candidates.log_scores),
            (whole.covariance, near.covariance),
        )
    )
    kept = distinct(poses, scores, settings)
    total = np.logaddexp.reduce(scores[kept]) if kept else 0.0
    candidates = Candidates(poses[kept], scores[kept] - max(float(total), 0.0))
    return whole._replace(candidates=candidates, covariance=spread[kept])
