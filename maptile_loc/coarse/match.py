"""Exhaustive search: the query tile's likelihood at every place of the map, by FFT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import next_fast_len

from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from data_prep.raster import ROAD, MapRaster
from data_prep.settings import Positive, Settings
from maptile_loc.likelihood import Evidence, LikelihoodSettings, make_evidence, make_fields
from maptile_loc.result import Candidates, QueryTile


class MatchSettings(Settings):
    """How the search runs.

    Attributes:
        resolution: Metres per cell of the search grid.
        heading_step_deg: Step between the headings that are tried.
        candidates: How many are kept.
        distinct_m: Two candidates are at least this far apart.
        margin_m: Places nearer to the map's edge are left out: half of what is seen from there is
            not on the map, so almost any tile fits.
        road_reach_m: A vehicle is expected this near to a road of the map, ...
        off_road: ... and elsewhere with this weight against 1 there.
        nowhere_log_odds: Log-odds, before anything is seen, that a tile is nowhere on the map.
            Large, for real walls are in rows, and rows fit somewhere by chance.
    """

    resolution: Positive = 1.0
    heading_step_deg: Positive = 2.0
    candidates: int = 8
    distinct_m: Positive = 4.0
    margin_m: float = 25.0
    road_reach_m: float = 8.0
    off_road: float = 0.02
    nowhere_log_odds: float = 10.0


@dataclass(frozen=True)
class Disc:
    """Where the vehicle is known to be: a circle in the map frame, metres."""

    east: float
    north: float
    radius: float


class Matcher:
    """A map made ready for search: its fields' spectra are computed once.

    Attributes:
        area_km2: The area that is searched.
        weighed: True: the log-scores know how well the tile fits the map.
    """

    weighed = True

    def __init__(
        self,
        raster: MapRaster,
        tile_size_m: float,
        settings: MatchSettings,
        likelihood: LikelihoodSettings,
        prior: Disc | None = None,
        device: str = "cpu",
    ) -> None:
        self.settings = settings
        self.device = torch.device(device)
        fields = make_fields(raster, settings.resolution, likelihood)
        self.west, self.north = fields.west, fields.north
        self.shape = fields.channels.shape[1:]
        cells = round(tile_size_m / settings.resolution)
        self.padded = tuple(next_fast_len(side + cells, real=True) for side in self.shape)
        channels = torch.from_numpy(fields.channels).to(self.device)
        self.spectrum = torch.fft.rfft2(channels, s=self.padded)
        self.allowed = self._allowed(prior)
        if not self.allowed.any():
            raise MaptileError(
                f"nowhere to search: all of it is within {settings.margin_m:g} m of the map's edge"
            )
        self.area_km2 = float(self.allowed.sum()) * settings.resolution**2 / 1e6
        self.log_prior = self._log_prior(raster)

    def _log_prior(self, raster: MapRaster) -> torch.Tensor:
        """(H, W) log-probability of each grid point before anything is seen; sums to one."""
        step = self.settings.resolution
        weight = np.ones(self.shape, np.float32)
        road = raster.coverage(ROAD, step) > 0
        if road.any():
            reached = ndimage.distance_transform_edt(~road) * step <= self.settings.road_reach_m
            weight = np.where(reached, 1.0, self.settings.off_road).astype(np.float32)
        prior = torch.from_numpy(weight).to(self.device) * self.allowed
        return torch.log(prior / prior.sum().clamp(min=1e-9))

    def _allowed(self, prior: Disc | None) -> torch.Tensor:
        """(H, W) bool: grid points at which the vehicle may be."""
        step = self.settings.resolution
        allowed = torch.zeros(self.shape, dtype=torch.bool, device=self.device)
        margin = min(round(self.settings.margin_m / step), (min(self.shape) - 1) // 2)
        inner = slice(margin, -margin or None)
        allowed[inner, inner] = True
        if prior is not None:
            rows = torch.arange(self.shape[0], device=self.device)
            columns = torch.arange(self.shape[1], device=self.device)
            north = self.north - rows * step - prior.north
            east = self.west + columns * step - prior.east
            allowed &= north[:, None] ** 2 + east[None] ** 2 <= prior.radius**2
        return allowed

    def candidates(
        self, tile: QueryTile, turns: NDArray[np.float64], log_prior: Array
    ) -> Candidates:
        """The best places for ``tile``, over all positions and the given turns of the tile.

        Args:
            tile: North-up where the heading is known.
            turns: (T,) radians by which the tile may have to be turned counter-clockwise to be
                north-up; [0] where the heading is known.
            log_prior: (T,) log-probability of each.

        Returns:
            Candidates with the heading ``tile.rotation + turn``. The scores are log-posteriors of a
            cell of ``distinct_m``, with one more hypothesis: that the tile is nowhere on the map.
        """
        evidence = make_evidence(tile, self.settings.resolution)
        best = torch.full(self.shape, -math.inf, device=self.device)
        best_turn = torch.zeros(self.shape, dtype=torch.long, device=self.device)
        total = torch.full(self.shape, -math.inf, device=self.device)
        for number, turn in enumerate(turns):
            score = self._correlate(turned(evidence, float(turn))) + float(log_prior[number])
            best_turn[score > best] = number
            best = torch.maximum(best, score)
            total = torch.logaddexp(total, score)
        total += self.log_prior
        nowhere = torch.tensor(self.settings.nowhere_log_odds, device=self.device)
        evidence_log = torch.logaddexp(torch.logsumexp(total.flatten(), 0), nowhere)
        radius = max(1, round(self.settings.distinct_m / self.settings.resolution))
        peaks = torch.where((total == _highest(total, radius)) & self.allowed, total, -math.inf)
        peaks = peaks.flatten()
        _, where = torch.topk(peaks, min(self.settings.candidates, peaks.numel()))
        where = where[torch.isfinite(peaks[where])]
        row, column = where // self.shape[1], where % self.shape[1]
        mass = [self._mass(total, int(r), int(c), radius) for r, c in zip(row, column, strict=True)]
        log_scores = np.array(mass, np.float64) - float(evidence_log)
        poses = np.column_stack(
            [
                self.west + column.cpu().numpy() * self.settings.resolution,
                self.north - row.cpu().numpy() * self.settings.resolution,
                wrap_angle(tile.rotation + turns[best_turn.flatten()[where].cpu().numpy()]),
            ]
        )
        order = np.argsort(-log_scores, kind="stable")
        return Candidates(poses[order], log_scores[order])

    def _mass(self, total: torch.Tensor, row: int, column: int, radius: int) -> float:
        window = total[
            max(row - radius, 0) : row + radius + 1, max(column - radius, 0) : column + radius + 1
        ]
        return float(torch.logsumexp(window.flatten(), 0))

    def _correlate(self, evidence: Evidence) -> torch.Tensor:
        """(H, W) log-likelihood ratio with the tile's centre on each grid point (cell corner)."""
        tile = torch.from_numpy(evidence.channels).to(self.device)
        half = tile.shape[-1] // 2
        product = (self.spectrum * torch.fft.rfft2(tile, s=self.padded).conj()).sum(0)
        score = torch.fft.irfft2(product, s=self.padded)
        score = torch.roll(score, (half, half), (0, 1))
        return score[: self.shape[0], : self.shape[1]]


def _highest(values: torch.Tensor, radius: int) -> torch.Tensor:
    """The maximum over the square around each cell: along rows, then along columns."""
    pool = torch.nn.functional.max_pool2d
    rows = pool(values[None], (1, 2 * radius + 1), 1, (0, radius))
    return pool(rows, (2 * radius + 1, 1), 1, (radius, 0))[0]


def turned(evidence: Evidence, turn: float) -> Evidence:
    """Evidence turned counter-clockwise by ``turn`` radians about the tile's centre."""
    if turn == 0.0:
        return evidence
    c, s = math.cos(turn), math.sin(turn)
    # Maps the output's (x right, y down) to where in the input it comes from.
    matrix = torch.tensor([[[c, -s, 0.0], [s, c, 0.0]]])
    channels = torch.from_numpy(evidence.channels)[None]
    grid = torch.nn.functional.affine_grid(matrix, list(channels.shape), align_corners=False)
    channels = torch.nn.functional.grid_sample(channels, grid, align_corners=False)
    return Evidence(channels[0].numpy(), evidence.resolution)
