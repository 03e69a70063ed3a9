"""Exhaustive search: the likelihood at every position of the map, by FFT."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from data_prep.settings import Settings
from maptile_loc.score.evidence import Evidence, turned
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.score.likelihood import log_likelihood
from maptile_loc.search.engine.area import Area, near_a_road
from maptile_loc.search.engine.exact import ExactSearch
from maptile_loc.search.engine.hypotheses import (
    Chance,
    by_chance,
    distinct,
    local_maxima,
    posterior,
    refined,
)
from maptile_loc.search.engine.method import Method, SearchTask
from maptile_loc.search.engine.promising import rescored, squares_to_score, summed
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.engine.spectra import Correlator
from maptile_loc.types import Candidates, QueryTile


class MatchSettings(Settings):
    """How the search of the whole map runs.

    Attributes:
        exact: Where many headings are tried, continue until no pose can be better than the best one
            found (``engine/exact.py``). It takes seconds per square kilometre.
    """

    exact: bool = False


@dataclass(frozen=True)
class Level:
    """One grid of positions.

    Attributes:
        allowed: (R, C) bool, positions that are searched.
        step: Metres between neighbouring positions.
        west, north: East and north coordinate of the north-western position, metres.
        rows, columns: Range of the positions among the corners of the fields' cells, end excluded.
    """

    allowed: torch.Tensor
    step: float
    west: float
    north: float
    rows: tuple[int, int]
    columns: tuple[int, int]

    def positions(self, flat: torch.Tensor) -> Array:
        """(K, 2) east and north of the positions with (K,) flat indices, metres."""
        index = flat.cpu().numpy()
        row, column = np.divmod(index, self.allowed.shape[1])
        return np.column_stack([self.west + column * self.step, self.north - row * self.step])


class Found(NamedTuple):
    """The hypotheses of a search for one tile.

    Attributes:
        poses: (K, 3) east, north, heading.
        mass: (K,) logarithms of the likelihood's mass around each.
        prior: (K,) log-probabilities of their headings.
        chance: What the tile reaches by chance.
    """

    poses: Array
    mass: Array
    prior: Array
    chance: Chance


class Matcher:
    """The search of a whole map; the spectra of its fields are computed once.

    Attributes:
        area_km2: The area that is searched.
    """

    def __init__(
        self,
        fields: LikelihoodFields,
        tile_size_m: float,
        settings: SearchSettings,
        area: Area | None = None,
        device: str = "cpu",
        prove: bool = False,
    ) -> None:
        self.fields, self.tile_size_m = fields, tile_size_m
        self.settings, self.area, self.prove = settings, area, prove
        self.device = torch.device(device)
        height, width = (side * fields.resolution for side in fields.shape)
        margin = min(settings.margin_m, 0.4 * height, 0.4 * width)
        box = np.array([margin, height - margin, margin, width - margin])
        if area is not None:
            west, south, east, north = area.shape.bounds
            box[[0, 2]] = np.maximum(box[[0, 2]], [fields.north - north, west - fields.west])
            box[[1, 3]] = np.minimum(box[[1, 3]], [fields.north - south, east - fields.west])
        if not (box[1] >= box[0] and box[3] >= box[2]):
            raise MaptileError(
                f"nowhere to search: all of it is within {settings.margin_m:g} m of the map's edge"
            )
        size_m2 = float((box[1] - box[0]) * (box[3] - box[2]))
        if area is not None:
            size_m2 = min(size_m2, area.shape.area)
        self.area_km2 = size_m2 / 1e6
        for name in ("coarser", "coarsest"):
            cell = getattr(settings, name) * fields.resolution
            if tile_size_m / cell % 2:
                raise MaptileError(
                    f"query tiles of {tile_size_m:g} m are no even number of cells of {cell:g} m; "
                    f"see query.size_m, search.resolution and search.{name}"
                )
        self.box = box
        self.is_large = self.area_km2 > settings.exhaustive_km2
        """Whether a sparse grid is searched first."""

    @cached_property
    def fine(self) -> Level:
        """Positions at the resolution of the fields."""
        return self._level(self.fields.resolution)

    @cached_property
    def wide(self) -> Level:
        """The coarser grid, for many headings."""
        return self._level(self.fields.resolution * self.settings.coarser)

    @cached_property
    def sparse(self) -> Level:
        """The grid of a square each, on which a large map is searched first."""
        return self._level(self.fields.resolution * self.settings.coarsest, near_roads=True)

    @cached_property
    def sparse_scores(self) -> Correlator:
        """Correlator that scores all positions of the sparse grid."""
        if self.area is None:
            self.fields.expect_all()
        return self._correlator(self.fields.coarser(self.settings.coarsest), self.sparse)

    @cached_property
    def fine_scores(self) -> Correlator:
        """Correlator that scores all positions of the fine grid."""
        return self._correlator(self.fields, self.fine)

    @cached_property
    def wide_scores(self) -> Correlator:
        """Correlator that scores all positions of the wide grid."""
        return self._correlator(self.fields.coarser(self.settings.coarser), self.wide)

    @cached_property
    def exact(self) -> ExactSearch:
        """Branch and bound over all poses of the fine grid, at half the heading step.

        It finds a pose with a higher score than a given one, or proves that there is none.
        """
        fine, step = self.fine, self.fields.resolution
        first = (
            round((self.fields.north - fine.north) / step),
            round((fine.west - self.fields.west) / step),
        )
        return ExactSearch(
            self.fields,
            first,
            fine.allowed,
            self.settings.coarser,
            np.radians(self.settings.heading_step_deg / 2),
            self.device,
        )

    def _level(self, step: float, near_roads: bool = False) -> Level:
        first, last = np.ceil(self.box[[0, 2]] / step), np.floor(self.box[[1, 3]] / step)
        last = np.maximum(first, last)
        rows, columns = ((int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
        west, north = self.fields.west + columns[0] * step, self.fields.north - rows[0] * step
        shape = rows[1] - rows[0], columns[1] - columns[0]
        allowed = torch.ones(shape, dtype=torch.bool, device=self.device)
        if self.area is not None:
            east = west + step * np.arange(shape[1])
            up = north - step * np.arange(shape[0])
            places = np.stack(np.meshgrid(east, up), -1).reshape(-1, 2)
            within = self.area.within(places)
            if not within.any():
                within[self.area.nearest(places)] = True
            allowed = torch.from_numpy(within.reshape(shape)).to(self.device)
        if near_roads and self.settings.near_roads_m > 0:
            near = near_a_road(self.fields, step, rows, columns, self.settings.near_roads_m)
            if (allowed.cpu().numpy() & near).any():
                allowed &= torch.from_numpy(near).to(self.device)
        return Level(allowed, step, west, north, rows, columns)

    def _correlator(self, fields: LikelihoodFields, level: Level) -> Correlator:
        side = round(self.tile_size_m / level.step)
        return Correlator(fields, side, level.rows, level.columns, self.device, level.allowed)

    def candidates(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Candidates:
        """The best candidates for ``tile``, over all positions and the given turns of the tile.

        Args:
            tile: North-up where the heading is known.
            evidence: The tile's, at the resolution of the fields.
            turns: (T,) radians by which the tile may have to be turned counter-clockwise to be
                north-up; [0] where the heading is known.
            log_prior: (T,) log-probability of each.

        Returns:
            Candidates with the heading ``tile.rotation + turn``. The scores are log-posteriors,
            with one more hypothesis: that the tile is nowhere on the map.
        """
        few = len(turns) <= self.settings.few_turns
        find = self._sparsely if self.is_large else self._exhaustively
        poses, mass, prior, chance = find(tile, evidence, turns, log_prior)
        if self.prove and not few:
            poses, mass, prior = self._proven(poses, mass, prior, evidence, tile, turns, log_prior)
        wall_m2, likelier = evidence.total("wall"), prior - log_prior.max()
        log_scores = posterior(mass, likelier, chance, wall_m2, self.settings)
        poses[:, 2] = wrap_angle(poses[:, 2])
        kept = distinct(poses, log_scores, self.settings)
        return Candidates(poses[kept], log_scores[kept])

    def _exhaustively(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Found:
        """What is found with the scores of all positions of the fine or the wide grid."""
        few = len(turns) <= self.settings.few_turns
        level, correlator = (self.fine, self.fine_scores) if few else (self.wide, self.wide_scores)
        best, which = self._best(level, correlator, evidence, turns, log_prior)
        radius = max(1, round(self.settings.distinct_m / level.step))
        count = self.settings.candidates if few else self.settings.refined
        maxima, index = (one[0] for one in local_maxima(best[None], radius))
        where, windows = _peaks(best, maxima, index, radius, count, self.settings.hopeless)
        mass = torch.logsumexp(windows, 1).cpu().numpy().astype(np.float64)
        chosen = which.flatten()[where].long().cpu().numpy()
        poses = np.column_stack([level.positions(where), tile.rotation + turns[chosen]])
        prior = log_prior[chosen]
        if not few:
            poses, mass = refined(poses, prior, evidence, tile.rotation, self.fields, self.settings)
        away = np.hypot(*(level.positions(index) - level.positions(where[:1])).T)
        wall_m2 = evidence.total("wall")
        chance = by_chance(maxima.cpu().numpy(), away, len(maxima), wall_m2, self.settings)
        return Found(poses, mass, prior, chance)

    def _sparsely(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Found:
        """What is found with the scores of all positions of the sparse grid.

        Promising squares, and some of the others, are scored again on the grid on which
        ``_exhaustively`` scores all.
        """
        settings, rotation, level = self.settings, tile.rotation, self.sparse
        few = len(turns) <= settings.few_turns
        stride = 1 if few else 2
        thinned = turns[::stride], log_prior[::stride]
        best, which = self._best(level, self.sparse_scores, evidence, *thinned)
        scores = best.flatten()
        count = max(int(settings.chance * len(scores)), settings.chance_squares)
        cells, weight = squares_to_score(scores, count, settings.refined * (2 if few else 4))
        turn = (
            which.flatten()[torch.from_numpy(cells).to(which.device)].long().cpu().numpy() * stride
        )
        centres = level.positions(torch.from_numpy(cells))
        fine = self.fields if few else self.fields.coarser(settings.coarser)
        how = evidence, rotation
        found = rescored(
            centres, turn, stride, turns, log_prior, *how, fine, level.step, fine.resolution
        )
        most = settings.candidates if few else settings.refined
        peaks = found.peaks(settings.distinct_m, most, settings.hopeless)
        top = found.only(peaks)
        if few:
            reach = max(1, round(settings.distinct_m / self.fields.resolution))
            poses, mass, chosen = summed(top, turns, log_prior, *how, self.fields, reach)
        else:
            chosen = top.turn
            poses, mass = refined(top.poses, log_prior[chosen], *how, self.fields, settings)
        away = np.hypot(*(found.poses[:, :2] - found.poses[peaks[0], :2]).T)
        wall_m2 = evidence.total("wall")
        chance = by_chance(found.scores, away, len(scores), wall_m2, settings, weight)
        if self.area is not None and (inside := self.area.within(poses[:, :2])).any():
            poses, mass, chosen = poses[inside], mass[inside], chosen[inside]
        return Found(poses, mass, log_prior[chosen], chance)

    def _proven(
        self,
        poses: Array,
        mass: Array,
        prior: Array,
        evidence: Evidence,
        tile: QueryTile,
        turns: Array,
        log_prior: Array,
    ) -> tuple[Array, Array, Array]:
        """(K, 3) poses, their (K,) mass and prior; the best pose of all is appended if new."""
        seen, rotation = evidence.points, tile.rotation
        score = (log_likelihood(poses, seen, rotation, self.fields) + prior).max()
        better = self.exact.better(evidence, rotation, turns, log_prior, float(score))
        if better is None:
            return poses, mass, prior
        pose, turn = better
        own = log_prior[turn : turn + 1]
        found = refined(pose[None], own, evidence, rotation, self.fields, self.settings)
        return (
            np.concatenate([poses, found[0]]),
            np.concatenate([mass, found[1]]),
            np.concatenate([prior, own]),
        )

    def _best(
        self,
        level: Level,
        correlator: Correlator,
        evidence: Evidence,
        turns: Array,
        log_prior: Array,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(R, C) highest score of all turns at each position, and the index of that turn."""
        shape = len(correlator.used), correlator.step, correlator.step
        best = torch.full(shape, -math.inf, device=self.device)
        which = torch.zeros(shape, dtype=torch.int16, device=self.device)
        prior = torch.tensor(log_prior, dtype=torch.float32, device=self.device)
        tiles = turned(evidence, turns, level.step, self.device)
        for start, blocks, scores in correlator.scores(tiles):
            scores = scores + prior[start : start + len(scores), None, None, None]
            value, index = scores.max(0)
            better = value > best[blocks]
            best[blocks] = torch.where(better, value, best[blocks])
            which[blocks] = torch.where(better, (index + start).short(), which[blocks])
        whole = correlator.whole(best, -math.inf)
        return torch.where(level.allowed, whole, -math.inf), correlator.whole(which, 0)


def _peaks(
    values: torch.Tensor,
    maxima: torch.Tensor,
    index: torch.Tensor,
    radius: int,
    count: int,
    hopeless: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The highest of the local ``maxima``, best first, and the squares around them.

    Returns:
        (K,) flat indices, K <= count, and (K, n) values within ``radius``, -inf beyond the edge.
    """
    # The squares beside a maximum contain its flanks, which are no maxima themselves.
    top, order = torch.topk(maxima, min(12 * count, len(maxima)))
    index = index[order[top > top[0] - hopeless]]
    padded = torch.nn.functional.pad(values, [radius] * 4, value=-math.inf)
    row, column = index // values.shape[1], index % values.shape[1]
    reach = torch.arange(2 * radius + 1, device=values.device)
    windows = padded[row[:, None, None] + reach[:, None], column[:, None, None] + reach].flatten(1)
    highest = torch.nonzero(values.flatten()[index] == windows.amax(1))[:count, 0]
    return index[highest], windows[highest]


def _build(task: SearchTask, settings: MatchSettings) -> Matcher:
    if task.model is not None:
        raise MaptileError(
            f"--model {task.model}: --method match uses no model; add the model's own, such as "
            "--method cells"
        )
    return Matcher(
        task.fields, task.tile_size_m, task.settings, task.area, task.device, settings.exact
    )


METHOD = Method(MatchSettings, _build)
