"""Proof of the best pose: branch and bound over all positions and headings.

A box contains neighbouring positions of the fine grid, at two headings. Its bound is an upper limit
of the score of all its poses: each piece of evidence contributes, independently of the others, the
maximum of the map's field over all cells to which a pose of the box moves it. The first bound also
maximises over the piece's own cell, so it is a correlation; it excludes nearly all boxes. The
second bound uses the exact cell of each piece, the third is that of a single position. The other
poses are scored one by one, the highest bound first, until no bound exceeds the best score. The
scheme is that of Hess et al. (2016), Real-time loop closure in 2D LIDAR SLAM, which uses occupancy
grids.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from data_prep.geometry import Array, rotate, wrap_angle
from maptile_loc.score.channels import GROUPS, Group
from maptile_loc.score.evidence import Evidence
from maptile_loc.score.fields import FieldArrays, LikelihoodFields
from maptile_loc.score.likelihood import log_likelihood
from maptile_loc.search.engine.spectra import Correlator

Ints = NDArray[np.int_]

TURNS = 16
"""Turns that are bounded at a time."""

SECTORS = 8
"""Sectors of directions. Evidence whose directions lie in one sector is bounded together."""

ARCS = (0.499, 1.499)
"""Radii of the two rings of evidence, by the cells that a point of their rim moves.

The movement is that between a box's middle heading and one of its two headings. Evidence beyond the
outer ring is bounded by the best of the whole map."""

ROUNDING = 1e-5
"""Largest rounding error of a bound per unit of evidence: bounds are sums in single precision."""

SAME = 1e-3
"""Largest difference between two scores of one pose."""

GATHERED = 1 << 22
"""Values that are gathered at a time."""

POSES = 512
"""Poses that are scored at a time."""


class Bound(NamedTuple):
    """Channels of one group that are bounded together.

    Attributes:
        base: Index of the channel without direction; None if it is bounded elsewhere.
        pairs: Index of cosine and sine, and spin, of each direction.
        sectors: Whether the direction of the (only) pair is kept, to the sector.
    """

    base: int | None
    pairs: tuple[tuple[int, int, int], ...]
    sectors: bool

    @property
    def size(self) -> int:
        """Fields of bounds that it takes, per ring."""
        return SECTORS if self.sectors else 1


def _bounds(group: Group) -> list[Bound]:
    pairs = tuple((group.first + cos, group.first + sin, spin) for cos, sin, spin in group.spins)
    if not group.sectors:
        return [Bound(group.first, pairs, False)]
    first, *others = pairs
    return [Bound(group.first, (first,), True), *(Bound(None, (one,), True) for one in others)]


RINGED = tuple(bound for group in GROUPS if group.sectors for bound in _bounds(group))
"""Bounds that are kept for the inner and for the outer ring."""

PLAIN = tuple(bound for group in GROUPS if not group.sectors for bound in _bounds(group))
"""Bounds that are kept for both rings together."""

RING = sum(bound.size for bound in RINGED)
"""Fields of bounds per ring."""

COUNT = 2 * RING + len(PLAIN)
"""All fields of bounds: those of the inner ring, of the outer ring, and the rest."""


class Pieces(NamedTuple):
    """The evidence of a tile as points, each with the field that bounds what it adds to a score.

    Attributes:
        xy: (N, 2) metres in the tile's frame.
        weight: (N,) evidence, >= 0; it is multiplied by the field's value.
        channel: (N,) index of the field; where there is a field per sector of directions, of the
            first sector's.
        angle: (N,) direction of the evidence in the tile, radians.
        spin: (N,) multiple of the tile's turn that is added to ``angle``; the sector of the sum is
            added to ``channel``. 0 where there are no sectors.
        beyond: Upper limit of what the evidence beyond the outer ring, which is not listed, adds.
    """

    xy: Array
    weight: Tensor
    channel: Ints
    angle: Array
    spin: Ints
    beyond: float


class ExactSearch:
    """The search for the pose with the highest score on a whole map.

    Args:
        fields: The map's likelihood fields.
        first: Row and column of the first position among the corners of the fields' cells.
        allowed: (R, C) bool, which positions, one cell apart from ``first`` on, are searched.
        side: Positions along the side of a box.
        heading_step: Difference between the two headings of a box, radians.
        device: Where to compute.
    """

    def __init__(
        self,
        fields: LikelihoodFields,
        first: tuple[int, int],
        allowed: Tensor,
        side: int,
        heading_step: float,
        device: torch.device,
    ) -> None:
        self.fields, self.side, self.heading_step = fields, side, heading_step
        self.device = device
        # Boxes are the fields' wide cells.
        top, left = first[0] % side, first[1] % side
        right, bottom = -(left + allowed.shape[1]) % side, -(top + allowed.shape[0]) % side
        self.corner = first[0] - top, first[1] - left
        self.allowed = functional.pad(allowed.to(device), (left, right, top, bottom))
        boxes = self.allowed.unfold(0, side, side).unfold(1, side, side)
        self.boxes = boxes.any(-1).any(-1)
        self.radius = np.array(ARCS) * 2 * fields.resolution / heading_step
        self.reach = math.ceil(self.radius[1] / fields.resolution / side) * side

    def better(
        self, evidence: Evidence, rotation: float, turns: Array, log_prior: Array, score: float
    ) -> tuple[Array, int] | None:
        """The best pose (3,) of all and the index of its turn; None if no pose scores more.

        Args:
            evidence: The tile's.
            rotation: The tile's ``rotation``, radians.
            turns: (T,) first headings of the boxes, less ``rotation``, radians.
            log_prior: (T,) log-probability of each; a score is this plus the log-likelihood.
            score: The score of a known pose, up to rounding.
        """
        pieces, score = self.pieces(evidence), score + SAME
        parts = []
        for start in range(0, len(turns), TURNS):
            few = slice(start, start + TURNS)
            bound, place = self.bounded(pieces, turns[few], log_prior[few], score)
            parts.append((bound, place + [start, 0, 0]))
        bound, place = (np.concatenate(part) for part in zip(*parts, strict=True))
        order = np.argsort(-bound)
        bound, (turn, row, column) = bound[order], place[order].T
        step = self.fields.resolution
        east = self.fields.west + (self.corner[1] + column) * step
        north = self.fields.north - (self.corner[0] + row) * step
        first = np.column_stack([east, north, turns[turn] + rotation])
        seen, best = evidence.points, None
        for start in range(0, len(bound), POSES):
            if bound[start] <= score:
                break
            some = slice(start, start + POSES)
            poses = first[some, None] + [[0, 0, 0], [0, 0, self.heading_step]]
            scores = log_likelihood(poses, seen, rotation, self.fields)
            scores += log_prior[turn[some], None]
            if scores.max() > score:
                score, at = float(scores.max()), np.unravel_index(scores.argmax(), scores.shape)
                best = poses[at], int(turn[start + at[0]])
        return best

    def bounded(
        self, pieces: Pieces, turns: Array, log_prior: Array, score: float
    ) -> tuple[Array, Ints]:
        """Bounds above ``score``: (K,) values, and (K, 3) index of the turn, row, column."""
        prior = torch.tensor(log_prior, dtype=torch.float32, device=self.device)
        placed = [self._placed(pieces, turn + self.heading_step / 2) for turn in turns]
        tiles = torch.stack([self._tile(pieces.weight, *one) for one in placed])
        step, across = self.loose.step, self.loose.grid[1]
        rounding = ROUNDING * float(pieces.weight.sum())
        enough = score - pieces.beyond - rounding
        found = []
        for first, blocks, scores in self.loose.scores(tiles):
            some = scores + prior[first : first + len(scores), None, None, None]
            turn, block, row, column = torch.nonzero(some > enough, as_tuple=True)
            block += blocks.start
            row, column = row + block // across * step, column + block % across * step
            box = torch.stack([turn + first, row, column], 1)
            box = box[(row < self.boxes.shape[0]) & (column < self.boxes.shape[1])]
            found.append(box[self.boxes[box[:, 1], box[:, 2]]])
        box, bounds, places = torch.cat(found), [], []
        at = torch.arange(self.side, device=self.device)
        inside = torch.cartesian_prod(at, at)
        for number, one in enumerate(placed):
            gap, mine = enough - log_prior[number], box[box[:, 0] == number, 1:] * self.side
            _, mine = self._closer(self.close, pieces.weight, *one, mine, gap)
            place = (mine[:, None] + inside).reshape(-1, 2)
            place = place[self.allowed[place[:, 0], place[:, 1]]]
            most, place = self._closer(self.closest, pieces.weight, *one, place, gap)
            bounds.append(most.cpu().numpy().astype(np.float64) + score - gap)
            places.append(np.column_stack([np.full(len(place), number), place.cpu().numpy()]))
        return np.concatenate(bounds), np.concatenate(places)

    def pieces(self, evidence: Evidence) -> Pieces:
        """The evidence of a tile, listed as points with their bounds."""
        rows: list[tuple[Any, Any, Ints, Array, int]] = []
        start = 0
        for bound in (*RINGED, *PLAIN):
            first = bound.pairs[0][0] if bound.base is None else bound.base
            points = next(p for p in evidence.points if first in range(*p.group.span.indices(99)))
            away = np.hypot(*points.xy.T)
            values = points.values.astype(np.float64) if bound.sectors else points.values
            angle, turns = np.zeros(len(away)), 0
            if bound.sectors:
                cos, sin, turns = bound.pairs[0]
                x, y = values[:, cos - points.group.first], values[:, sin - points.group.first]
                angle = np.arctan2(y, x)
                weight = np.hypot(x, y) if bound.base is None else values[:, 0]
                channel = start + np.where(away <= self.radius[0], 0, RING)
            else:
                weight, channel = values[:, 0], np.full(len(away), RING + start)
            rows.append((points.xy, weight, channel, angle, turns))
            start += bound.size
        xy, weight, channel, angle = (
            np.concatenate([row[part] for row in rows]) for part in range(4)
        )
        spin = np.repeat([row[4] for row in rows], [len(row[0]) for row in rows])
        far = np.hypot(*xy.T) > self.radius[1]
        beyond = float((weight * self.highest[channel])[far].sum())
        near = ~far
        held = torch.tensor(weight[near], dtype=torch.float32, device=self.device)
        return Pieces(xy[near], held, channel[near], angle[near], spin[near], beyond)

    def _placed(self, pieces: Pieces, turn: float) -> tuple[Tensor, Array]:
        """(N,) bounds' fields, and (N, 2) cells south and east of the vehicle, of a turned tile."""
        angle = (pieces.angle + pieces.spin * turn) % (2 * np.pi)
        sector = np.minimum((angle * (SECTORS / (2 * np.pi))).astype(int), SECTORS - 1)
        channel = pieces.channel + np.where(pieces.spin > 0, sector, 0)
        east, north = rotate(pieces.xy.astype(np.float64), turn).T / self.fields.resolution
        return torch.from_numpy(channel).to(self.device), np.stack([-north, east], 1)

    def _tile(self, weight: Tensor, channel: Tensor, cells: Array) -> Tensor:
        """(C, S, S) weights of the pieces, summed over boxes."""
        half = self.reach // self.side
        at = torch.from_numpy(np.floor(cells / self.side).astype(int) + half).to(self.device)
        tile = torch.zeros(COUNT * 4 * half**2, device=self.device)
        tile.index_add_(0, (channel * 2 * half + at[:, 0]) * 2 * half + at[:, 1], weight)
        return tile.reshape(COUNT, 2 * half, 2 * half)

    def _closer(
        self, fields: Tensor, weight: Tensor, channel: Tensor, cells: Array, at: Tensor, gap: float
    ) -> tuple[Tensor, Tensor]:
        """The boxes at (K, 2) rows and columns whose closer bound exceeds ``gap``.

        Returns:
            These bounds, and the rows and columns of their boxes.
        """
        _, height, width = fields.shape
        values = fields.flatten()
        south, east = torch.from_numpy(np.floor(cells).astype(int)).to(self.device).T
        offset = (channel * height + south) * width + east
        row, column = (at + torch.tensor(self.corner, device=self.device) + self.reach).T
        corner = row * width + column
        parts = torch.split(corner, max(1, GATHERED // max(1, len(offset))))
        bound = torch.cat([values[part[:, None] + offset] @ weight for part in parts])
        kept = bound > gap
        return bound[kept], at[kept]

    @cached_property
    def loose(self) -> Correlator:
        """First bounds: each piece anywhere in its cell, which is as wide as a box."""
        # From the cell's corner, a piece covers the cell, the box and one more (bilinear) cell.
        channels = self._dilated(2 * self.side - 0.5, self.side)
        rows, columns = (
            (first // self.side, first // self.side + count)
            for first, count in zip(
                np.array(self.corner) + self.reach, self.boxes.shape, strict=True
            )
        )
        height, width = channels.shape[1:]
        bounds = FieldArrays(channels.numpy(), 0.0, 0.0, 1.0, np.zeros((height, width), bool))
        return Correlator(bounds, 2 * self.reach // self.side, rows, columns, self.device)

    @cached_property
    def close(self) -> Tensor:
        """Second bounds: each piece in its exact cell."""
        return self._dilated(self.side + 0.5, 1).to(self.device)

    @cached_property
    def closest(self) -> Tensor:
        """(C, H, W) fields of the third bounds: those of a single position."""
        return self._dilated(1.5, 1).to(self.device)

    @cached_property
    def highest(self) -> Array:
        """(C,) maximum that a unit of each bound adds to the score, whatever its direction."""
        single = [float(one.max().clamp(min=0)) for one in self._plain]
        ring: list[float] = []
        for start in range(0, RING, SECTORS):
            ring += [max(single[start : start + SECTORS])] * SECTORS
        return np.array([*ring, *ring, *single[RING:]])

    def _dilated(self, after: float, stride: int) -> Tensor:
        """(C, H, W) maximum of each bound around cells ``stride`` times as wide as the fields'.

        The window extends from 1.5 cells plus the ring's arc before the north-west corner to
        ``after`` cells plus the arc behind it. The map is padded by the reach of a tile.
        """
        plain = self._plain
        rings = [(one, ARCS[0]) for one in plain[:RING]] + [(one, ARCS[1]) for one in plain]
        out = []
        for one, arc in rings:
            ahead, behind = math.ceil(1.5 + arc) - 1, math.ceil(after + arc) - 1
            height, width = one.shape
            right, bottom = (-(size + 2 * self.reach) % stride for size in (width, height))
            pad = [self.reach + at for at in (ahead, behind + right, ahead, behind + bottom)]
            padded = functional.pad(one, pad)[None]
            out.append(functional.max_pool2d(padded, ahead + behind + 1, stride)[0])
        return torch.stack(out)

    @cached_property
    def _plain(self) -> list[Tensor]:
        """(H, W) maximum that a unit of each bound adds at each cell: one ring, then the rest."""
        channels = torch.from_numpy(self.fields.channels)
        fields = []
        for bound in RINGED:
            cos, sin, spin = bound.pairs[0]
            x, y = channels[cos], channels[sin]
            size, angle = torch.hypot(x, y), torch.atan2(y, x).numpy()
            for sector in range(SECTORS):
                off = np.abs(wrap_angle(angle - (sector + 0.5) * 2 * np.pi / SECTORS))
                off = np.maximum(off - np.pi / SECTORS - spin * self.heading_step / 2, 0)
                most = size * torch.from_numpy(np.cos(off)).float()
                # The normal of a wall may be less certain than a unit vector.
                base = None if bound.base is None else channels[bound.base]
                fields.append(most if base is None else base + most.clamp(min=0))
        for bound in PLAIN:
            assert bound.base is not None
            total = channels[bound.base]
            for cos, sin, _ in bound.pairs:
                total = total + torch.hypot(channels[cos], channels[sin])
            fields.append(total)
        return fields
