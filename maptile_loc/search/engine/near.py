"""Search of squares around given positions, such as a model's: the same likelihood on less map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.special import logsumexp

from data_prep.geometry import Array, wrap_angle
from maptile_loc.score.evidence import Evidence, turned
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.search.engine.area import Area
from maptile_loc.search.engine.hypotheses import (
    Chance,
    by_chance,
    distinct,
    local_maxima,
    posterior,
    refined,
)
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.engine.spectra import correlated, spectra
from maptile_loc.types import Candidates, QueryTile

PAIRS = 64
"""Pairs of a square and a turn that are correlated at a time."""

Ints = NDArray[np.int_]


class Squares(NamedTuple):
    """Scores of a tile at all positions in K squares of a map.

    Attributes:
        scores: (K, n, n) highest score of all turns that were tried.
        turn: (K, n, n) index of that turn.
        first: (K, 2) row and column of each square's first position in the grid.
        corner: (2,) east and north of the grid's first position, metres.
        step: Metres between neighbouring positions.
        wide: Whether this is the coarser of the two grids.
        tried: Number of turns that were tried in each square.
    """

    scores: Array
    turn: Ints
    first: Ints
    corner: Array
    step: float
    wide: bool
    tried: int

    def positions(self, square: Ints, row: Ints, column: Ints) -> Array:
        """(N, 2) east and north of positions given by (N,) square, row and column, metres."""
        cells = np.column_stack([self.first[square, 1] + column, -self.first[square, 0] - row])
        return np.asarray(self.corner + cells * self.step)


class NearSearch:
    """The search of squares of a map.

    Args:
        fields: Likelihood fields of the map.
        tile_size_m: Side of the query tiles, metres.
        settings: What all searches share.
        device: "cpu" or "cuda".
        area: The only part of the map in which squares are searched; None: anywhere.
    """

    def __init__(
        self,
        fields: LikelihoodFields,
        tile_size_m: float,
        settings: SearchSettings,
        device: str = "cpu",
        area: Area | None = None,
    ) -> None:
        self.fields, self.tile_size_m, self.settings = fields, tile_size_m, settings
        self.device, self.area = torch.device(device), area
        self._grids: dict[bool, LikelihoodFields] = {False: fields}

    def candidates(
        self,
        tile: QueryTile,
        evidence: Evidence,
        starts: Array,
        turns: Array,
        log_prior: Array,
        reach_rad: float = np.pi,
    ) -> Candidates:
        """The best pose in the square around each start, over the turns near its own.

        Args:
            tile: The query tile; all arguments but ``starts`` as in ``Search.candidates``.
            evidence: Its evidence.
            starts: (K, 3) east and north (metres) of the squares' centres, turn (radians).
            turns: (T,) radians.
            log_prior: (T,) log-probability of each.
            reach_rad: Largest difference from a start's turn that is tried, radians.

        Returns:
            Candidates with log-posteriors. The hypothesis that the tile is nowhere on the map is
            included; the rest of the map is not.
        """
        if self.area is not None:
            starts = self.area.drawn_in(starts)
        found = self.squares(evidence, starts, turns, log_prior, reach_rad)
        step, count = found.step, found.scores.shape[1]
        best = found.scores.reshape(len(starts), -1)
        flat = best.argmax(axis=1)
        row, column = np.divmod(flat, count)
        every = np.arange(len(flat))
        chosen = found.turn[every, row, column]
        turned_by = tile.rotation + turns[chosen]
        poses = np.column_stack([found.positions(every, row, column), turned_by])
        # A hypothesis contains the likelihood's mass around its peak.
        at = np.arange(count)
        rows, columns = np.abs(at - row[:, None]), np.abs(at - column[:, None])
        around = np.maximum(rows[:, :, None], columns[:, None]) * step
        around = around.reshape(len(flat), -1) <= self.settings.distinct_m
        mass = np.asarray(logsumexp(np.where(around, best, -np.inf), axis=1))
        if found.wide:
            poses, mass = refined(
                poses, log_prior[chosen], evidence, tile.rotation, self.fields, self.settings
            )
        poses[:, 2] = wrap_angle(poses[:, 2])
        # Squares that overlap find the same pose.
        kept = distinct(poses, mass, self.settings)
        peak = found.first[kept[0]] + [row[kept[0]], column[kept[0]]]
        wall_m2, prior = evidence.total("wall"), log_prior[chosen[kept]] - log_prior.max()
        chance = self._chance(found, peak, wall_m2)
        log_scores = posterior(mass[kept], prior, chance, wall_m2, self.settings)
        return self._in_area(Candidates(poses[kept], log_scores))

    def _in_area(self, found: Candidates) -> Candidates:
        """The candidates in the area; all of them if there is none."""
        if self.area is None or not (within := self.area.within(found.poses[:, :2])).any():
            return found
        return Candidates(found.poses[within], found.log_scores[within])

    def squares(
        self,
        evidence: Evidence,
        starts: Array,
        turns: Array,
        log_prior: Array,
        reach_rad: float = np.pi,
        parts: Iterable[torch.Tensor] | None = None,
    ) -> Squares:
        """The scores of all positions in the square around each start.

        Args:
            evidence: The tile's.
            starts: As all that follow, as for ``candidates``.
            turns: (T,) radians.
            log_prior: (T,) log-probability of each.
            reach_rad: Radians.
            parts: What ``spectra`` returns for these starts, in parts; None: they are computed.
        """
        fields = self._grid(wide := self.is_wide(turns))
        first, reach = self._first(fields, starts)
        count = 2 * reach + 1
        tried = _tried(starts[:, 2], turns, reach_rad)
        if parts is None:
            some = max(1, PAIRS // tried.shape[1])
            cut = np.split(first, range(some, len(first), some))
            parts = (self._spectra(fields, part, count) for part in cut)
        best, which = self._best(fields, count, evidence, turns, log_prior, tried, parts)
        shape = len(starts), count, count
        return Squares(
            best.reshape(shape),
            which.reshape(shape),
            first,
            np.array([fields.west, fields.north]),
            fields.resolution,
            wide,
            tried.shape[1],
        )

    def is_wide(self, turns: Array) -> bool:
        """Whether (T,) turns are tried on the coarser grid."""
        return len(turns) > self.settings.few_turns

    def spectra(self, starts: Array, wide: bool) -> torch.Tensor:
        """(K, C, f, B) spectra of the fields in the square around each of (K, 3) starts.

        Args:
            starts: As for ``candidates``.
            wide: On the coarser grid.
        """
        fields = self._grid(wide)
        first, reach = self._first(fields, starts)
        return self._spectra(fields, first, 2 * reach + 1)

    def _first(self, fields: LikelihoodFields, starts: Array) -> tuple[Ints, int]:
        """(K, 2) row and column of the squares' first positions, and their half side in cells."""
        step = fields.resolution
        reach = max(1, round(self.settings.radius_m / step))
        corner = np.column_stack([fields.north - starts[:, 1], starts[:, 0] - fields.west])
        return np.round(corner / step).astype(int) - reach, reach

    def _block(self, fields: LikelihoodFields, count: int) -> tuple[int, int]:
        """Cells along a tile's side, and along that of what it covers from ``count`` positions.

        The latter is rounded up to a size whose transform is fast.
        """
        side = round(self.tile_size_m / fields.resolution)
        return side, next_fast_len(side + count - 1, real=True)

    def _spectra(self, fields: LikelihoodFields, first: Ints, count: int) -> torch.Tensor:
        side, block = self._block(fields, count)
        cut = torch.from_numpy(_cut(fields, first - side // 2, block))
        return spectra(cut.to(self.device), block)

    def _chance(self, found: Squares, peak: Ints, wall_m2: float) -> Chance:
        """What the tile reaches by chance in squares, away from its best position."""
        step, first = found.step, found.first
        side = max(1, round(self.settings.distinct_m / step))
        maxima, index = (one.numpy() for one in local_maxima(torch.from_numpy(found.scores), side))
        cells = np.stack(np.divmod(index, found.scores.shape[2]), -1)
        there = (first[:, None] + cells).reshape(-1, 2)
        # Squares that overlap have the same maxima.
        there, which = np.unique(there, axis=0, return_index=True)
        away = step * np.linalg.norm(there - peak, axis=-1)
        positions = math.prod(self._grid(found.wide).shape)
        squares_on_map = positions / side**2
        return by_chance(maxima.ravel()[which], away, squares_on_map, wall_m2, self.settings)

    def _grid(self, wide: bool) -> LikelihoodFields:
        if wide not in self._grids:
            self._grids[wide] = self.fields.coarser(self.settings.coarser)
        return self._grids[wide]

    def _best(
        self,
        fields: LikelihoodFields,
        count: int,
        evidence: Evidence,
        turns: Array,
        log_prior: Array,
        tried: Ints,
        parts: Iterable[torch.Tensor],
    ) -> tuple[Array, Ints]:
        """(K, count^2) best scores of K squares, and their turns.

        Args:
            fields: The map's, on the grid that is searched.
            count: Positions along a square's side.
            evidence: The tile's.
            turns: (T,) radians.
            log_prior: (T,) log-probability of each.
            tried: (K, n) indices of the turns that are tried in each square.
            parts: Of the squares, spectra in parts.
        """
        _, block = self._block(fields, count)
        same = bool((tried == tried[0]).all())
        if same:
            used, index = tried[0], np.tile(np.arange(tried.shape[1]), (len(tried), 1))
        else:
            used, index = np.unique(tried, return_inverse=True)
        tiles = turned(evidence, turns[used], fields.resolution, self.device)
        turned_tiles = spectra(tiles, block).conj_physical_()
        prior = torch.tensor(log_prior[tried], dtype=torch.float32, device=self.device)
        pick = torch.from_numpy(index.reshape(tried.shape)).to(self.device)
        best, which, start = [], [], 0
        for part in parts:
            sizes = _runs(tried[start : start + len(part)])
            for squares in torch.split(part, sizes):
                at = slice(start, start := start + len(squares))
                tile = turned_tiles if same else turned_tiles[pick[at.start]]
                scores = correlated(squares, tile, count).transpose(0, 1)
                value, turn = (scores + prior[at, :, None, None]).max(1)
                best.append(value.flatten(1))
                which.append(pick[at].gather(1, turn.flatten(1)))
        highest = torch.cat(best).cpu().numpy().astype(np.float64)
        return highest, used[torch.cat(which).cpu().numpy()]


def _runs(tried: Ints) -> list[int]:
    """Numbers of consecutive squares of which the same turns are tried, with few pairs of both.

    Args:
        tried: (K, n) indices of the turns that are tried in each square.
    """
    most = max(1, PAIRS // tried.shape[1])
    alike = (len(list(same)) for _, same in itertools.groupby(map(tuple, tried)))
    return [min(most, count - at) for count in alike for at in range(0, count, most)]


def _tried(about: Array, turns: Array, reach_rad: float) -> Ints:
    """(K, n) indices of the turns that are nearest to each of (K,) ``about``, radians."""
    away = np.abs(wrap_angle(turns - about[:, None]))
    count = max(1, int((away <= reach_rad + 1e-9).sum(axis=1).max()))
    return np.argsort(away, axis=1, kind="stable")[:, :count]


def _cut(fields: LikelihoodFields, first: Ints, side: int) -> NDArray[np.float32]:
    """(K, C, side, side) squares of fields from (K, 2) row, column; 0 off the map."""
    return np.stack([fields.window(row, column, side, side) for row, column in first.tolist()])
