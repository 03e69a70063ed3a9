"""A search about a few places, such as a network names: the same likelihood, less of the map."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import logsumexp

from data_prep.geometry import Array, wrap_angle
from maptile_loc.coarse.hypotheses import FEW_TURNS, distinct, posterior, refined
from maptile_loc.coarse.settings import MatchSettings
from maptile_loc.evidence import Evidence, make_evidence, turned
from maptile_loc.likelihood import LikelihoodFields, coarser
from maptile_loc.result import Candidates, QueryTile

TURNS = 16
"""So many turns are in work at a time."""


class NearSearch:
    """Squares of a map searched for a tile.

    Args:
        fields: The map's likelihood.
        tile_size_m: Side of the tiles.
        settings: As for the search of the whole map.
        radius_m: Half the side of a square.
        device: Where to compute.
    """

    def __init__(
        self,
        fields: LikelihoodFields,
        tile_size_m: float,
        settings: MatchSettings,
        radius_m: float,
        device: str = "cpu",
    ) -> None:
        self.fields, self.tile_size_m, self.settings = fields, tile_size_m, settings
        self.radius_m, self.device = radius_m, torch.device(device)
        self._grids: dict[bool, LikelihoodFields] = {False: fields}

    def candidates(
        self, tile: QueryTile, centres: Array, turns: Array, log_prior: Array
    ) -> Candidates:
        """The best place in the square about each of (K, 2) ``centres``, over all turns.

        Args:
            tile: As for ``Matcher.candidates``; so are ``turns`` and ``log_prior``.
            centres: East and north (metres) of the squares.
            turns: (T,) radians.
            log_prior: (T,) log-probability of each.

        Returns:
            Candidates with log-posteriors: that the tile is elsewhere on the map is left out, that
            it is nowhere on it is not.
        """
        evidence = make_evidence(tile, self.fields.resolution)
        fields = self._grid(wide := len(turns) > FEW_TURNS)
        step = fields.resolution
        reach = max(1, round(self.radius_m / step))
        corner = np.column_stack([fields.north - centres[:, 1], centres[:, 0] - fields.west])
        first = np.round(corner / step).astype(int) - reach
        best, which = self._best(fields, first, 2 * reach + 1, evidence, turns, log_prior)
        flat = best.argmax(axis=1)
        row, column = np.divmod(flat, 2 * reach + 1)
        every = np.arange(len(flat))
        chosen = which[every, flat]
        poses = np.column_stack(
            [
                fields.west + (first[:, 1] + column) * step,
                fields.north - (first[:, 0] + row) * step,
                tile.rotation + turns[chosen],
            ]
        )
        # A hypothesis is what lies around its peak.
        at = np.arange(2 * reach + 1)
        rows, columns = np.abs(at - row[:, None]), np.abs(at - column[:, None])
        around = np.maximum(rows[:, :, None], columns[:, None]) * step
        around = around.reshape(len(flat), -1) <= self.settings.distinct_m
        mass = np.asarray(logsumexp(np.where(around, best, -np.inf), axis=1))
        if wide:
            poses, mass = refined(
                poses, log_prior[chosen], evidence, tile.rotation, self.fields, self.settings
            )
        poses[:, 2] = wrap_angle(poses[:, 2])
        # Squares that overlap find the same place.
        kept = distinct(poses, mass, self.settings)
        height, width = fields.channels.shape[1:]
        log_scores = posterior(mass[kept], -np.inf, height * width, evidence, self.settings)
        return Candidates(poses[kept], log_scores)

    def _grid(self, wide: bool) -> LikelihoodFields:
        if wide not in self._grids:
            self._grids[wide] = coarser(self.fields, self.settings.coarser)
        return self._grids[wide]

    def _best(
        self,
        fields: LikelihoodFields,
        first: np.ndarray[tuple[int, ...], np.dtype[np.int_]],
        count: int,
        evidence: Evidence,
        turns: Array,
        log_prior: Array,
    ) -> tuple[Array, np.ndarray[tuple[int, ...], np.dtype[np.int_]]]:
        """(K, count^2) best scores of the places from (K, 2) ``first`` on, and their turns."""
        side = round(self.tile_size_m / fields.resolution)
        block = side + count + count % 2
        cut = torch.from_numpy(_cut(fields.channels, first - side // 2, block)).to(self.device)
        # One matrix per frequency, of squares times channels with channels times turns.
        spectra = torch.fft.rfft2(cut).flatten(2).permute(2, 0, 1).contiguous()
        best = torch.full((len(first), count, count), -torch.inf, device=self.device)
        which = torch.zeros(best.shape, dtype=torch.long, device=self.device)
        for start in range(0, len(turns), TURNS):
            some = slice(start, start + TURNS)
            tiles = turned(evidence, turns[some], fields.resolution, self.device)
            spectrum = torch.fft.rfft2(tiles, s=(block, block)).conj().flatten(2)
            product = torch.bmm(spectra, spectrum.permute(2, 1, 0).contiguous())
            product = product.permute(2, 1, 0).reshape(len(tiles), -1, block, block // 2 + 1)
            scores = torch.fft.irfft2(product, s=(block, block))[..., :count, :count]
            prior = torch.tensor(log_prior[some], dtype=scores.dtype, device=self.device)
            value, index = (scores + prior[:, None, None, None]).max(0)
            better = value > best
            best = torch.where(better, value, best)
            which = torch.where(better, index + start, which)
        scores = best.flatten(1).cpu().numpy().astype(np.float64)
        return scores, which.flatten(1).cpu().numpy()


def _cut(
    channels: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    first: np.ndarray[tuple[int, ...], np.dtype[np.int_]],
    side: int,
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """(K, C, side, side) squares of (C, H, W) fields from (K, 2) row, column; 0 off the map."""
    at = np.arange(side)
    rows, columns = first[:, :1] + at, first[:, 1:] + at
    height, width = channels.shape[1:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None
    ]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    values = channels[:, rows[:, :, None], columns[:, None]]
    return np.ascontiguousarray(np.where(inside, values, 0).swapaxes(0, 1), np.float32)
