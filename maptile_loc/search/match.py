"""Exhaustive search: the likelihood at every position of the map, by FFT."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from data_prep.settings import Settings
from maptile_loc.score.evidence import Evidence, turned
from maptile_loc.score.likelihood import LikelihoodFields, coarser, log_likelihood
from maptile_loc.search.engine.area import Area
from maptile_loc.search.engine.exact import ExactSearch
from maptile_loc.search.engine.hypotheses import (
    by_chance,
    distinct,
    local_maxima,
    posterior,
    refined,
)
from maptile_loc.search.engine.method import Method, SearchTask
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
        height, width = (side * fields.resolution for side in fields.channels.shape[1:])
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
        # Only the part that tiles in the box can cover is kept, in whole cells of the wide grid.
        cell = settings.coarser * fields.resolution
        if tile_size_m / cell % 2:
            raise MaptileError(
                f"query tiles of {tile_size_m:g} m are no even number of cells of {cell:g} m; "
                "see query.size_m, search.resolution and search.coarser"
            )
        reach = np.array([-1, 1, -1, 1]) * (tile_size_m / 2 + cell)
        top, bottom, left, right = (
            np.maximum(np.round((box + reach) / cell), 0).astype(int) * settings.coarser
        )
        shift = np.array([top, left]) * fields.resolution
        self.part = LikelihoodFields(
            fields.channels[:, top:bottom, left:right],
            fields.west + float(shift[1]),
            fields.north - float(shift[0]),
            fields.resolution,
            fields.building[top:bottom, left:right],
        )
        self.box = box - shift[[0, 0, 1, 1]]

    @cached_property
    def fine(self) -> Level:
        """Positions at the resolution of the fields."""
        return self._level(self.fields.resolution)

    @cached_property
    def wide(self) -> Level:
        """The coarser grid, for many headings."""
        return self._level(self.fields.resolution * self.settings.coarser)

    @cached_property
    def fine_scores(self) -> Correlator:
        """Correlator that scores all positions of the fine grid."""
        return self._correlator(self.part, self.fine)

    @cached_property
    def wide_scores(self) -> Correlator:
        """Correlator that scores all positions of the wide grid."""
        return self._correlator(coarser(self.part, self.settings.coarser), self.wide)

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

    def _level(self, step: float) -> Level:
        first, last = np.ceil(self.box[[0, 2]] / step), np.floor(self.box[[1, 3]] / step)
        last = np.maximum(first, last)
        rows, columns = ((int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
        west, north = self.part.west + columns[0] * step, self.part.north - rows[0] * step
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
        return Level(allowed, step, west, north, rows, columns)

    def _correlator(self, fields: LikelihoodFields, level: Level) -> Correlator:
        channels, side = torch.from_numpy(fields.channels), round(self.tile_size_m / level.step)
        return Correlator(channels, side, level.rows, level.columns, self.device)

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
        level, correlator = (self.fine, self.fine_scores) if few else (self.wide, self.wide_scores)
        best, which = self._best(level, correlator, evidence, turns, log_prior)
        radius = max(1, round(self.settings.distinct_m / level.step))
        refine = level.step > self.fields.resolution
        count = self.settings.refined if refine else self.settings.candidates
        maxima, index = (one[0] for one in local_maxima(best[None], radius))
        where, windows = _peaks(best, maxima, index, radius, count, self.settings.hopeless)
        mass = torch.logsumexp(windows, 1).cpu().numpy().astype(np.float64)
        chosen = which.flatten()[where].cpu().numpy()
        poses = np.column_stack([level.positions(where), tile.rotation + turns[chosen]])
        prior = log_prior[chosen]
        if refine:
            poses, mass = refined(poses, prior, evidence, tile.rotation, self.fields, self.settings)
            if self.prove:
                poses, mass, prior = self._proven(
                    poses, mass, prior, evidence, tile, turns, log_prior
                )
        away = np.hypot(*(level.positions(index) - level.positions(where[:1])).T)
        wall_m2 = evidence.total("wall")
        chance = by_chance(maxima.cpu().numpy(), away, len(maxima), wall_m2, self.settings)
        likelier = prior - log_prior.max()
        log_scores = posterior(mass, likelier, chance, wall_m2, self.settings)
        poses[:, 2] = wrap_angle(poses[:, 2])
        kept = distinct(poses, log_scores, self.settings)
        return Candidates(poses[kept], log_scores[kept])

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
        side = correlator.block - correlator.side
        shape = (len(correlator.spectra), side, side)
        best = torch.full(shape, -math.inf, device=self.device)
        which = torch.zeros(shape, dtype=torch.long, device=self.device)
        prior = torch.tensor(log_prior, dtype=torch.float32, device=self.device)
        tiles = turned(evidence, turns, level.step, self.device)
        for start, blocks, scores in correlator.scores(tiles):
            scores = scores + prior[start : start + len(scores), None, None, None]
            value, index = scores.max(0)
            better = value > best[blocks]
            best[blocks] = torch.where(better, value, best[blocks])
            which[blocks] = torch.where(better, index + start, which[blocks])
        whole = correlator.whole(best)
        return torch.where(level.allowed, whole, -math.inf), correlator.whole(which)


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
    return Matcher(
        task.fields, task.tile_size_m, task.settings, task.area, task.device, settings.exact
    )


METHOD = Method(MatchSettings, _build)
