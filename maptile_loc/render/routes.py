"""Where vehicles travel: random routes along a city's roads.

All coordinates are plane coordinates of ``raycast``: metres east, north of the city's reference.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_prep.geometry import Array

SPACING_M = 2.0
"""Approximate length of the pieces that roads are cut into."""
BESIDE_M = 3.0
"""How far beyond a road's half width vehicles may be: lanes, and errors of the map."""


class RouteSamples(NamedTuple):
    """Tuples of positions on routes, with the path travelled about each position.

    Attributes:
        centre: (B, T, 2) float32, the positions.
        paths: (B, T, P, 2) float32, P points of the path; its middle point is the position.
    """

    centre: Tensor
    paths: Tensor


@dataclass(frozen=True)
class RoadGraph:
    """Directed pieces of road, each about ``SPACING_M`` long; the second half are the reverses.

    Attributes:
        start, end: (E, 2) float32.
        following: (E, C) int64, the pieces that may follow each: all that begin at its end, without
            its reverse unless it is a dead end. Rows are padded by repetition.
        choices: (E,) int64, the number of different pieces in each row of ``following``.
        half_width: (E,) float32 metres.
    """

    start: Tensor
    end: Tensor
    following: Tensor
    choices: Tensor
    half_width: Tensor

    def opposite(self, piece: Tensor) -> Tensor:
        """The reverse of each piece: the same stretch in the other direction."""
        half = len(self.start) // 2
        return torch.where(piece < half, piece + half, piece - half)

    def length(self) -> Tensor:
        """(E,) metres."""
        return torch.linalg.vector_norm(self.end - self.start, dim=1)

    def midpoints(self) -> Array:
        """(E, 2) float64 midpoints of all directed pieces."""
        return ((self.start + self.end) / 2).double().numpy()

    def middle(self) -> Array:
        """(E / 2, 2) float64 midpoints of the pieces, without their reverses."""
        return self.midpoints()[: len(self.start) // 2]

    def walk(self, piece: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """(B, steps, 2): the ends of ``piece`` (B,) and of the random pieces that follow it."""
        points = [self.end[piece]]
        for _ in range(steps - 1):
            choice = torch.rand(len(piece), generator=generator) * self.choices[piece]
            piece = self.following[piece, choice.to(torch.int64)]
            points.append(self.end[piece])
        return torch.stack(points, 1)

    def draw(
        self,
        count: int,
        weights: Tensor,
        tuple_size: int,
        spacing_m: tuple[float, float],
        travel_m: float,
        beside_m: float,
        generator: torch.Generator,
    ) -> RouteSamples:
        """Draw positions along random routes.

        Args:
            count: Tuples to draw, B.
            weights: (E,) relative frequency with which tuples begin on each piece.
            tuple_size: Positions per tuple, T, one after the other along one route.
            spacing_m: Least and greatest distance along the road between the positions of a tuple.
            travel_m: Length of the path about each position.
            beside_m: How far beyond a road's half width a route may lie to its side.
            generator: Source of all randomness.
        """
        first = torch.multinomial(weights, count, replacement=True, generator=generator)
        aside = self.aside(first, beside_m, generator)
        return self.routes(first, aside, tuple_size, spacing_m, travel_m, generator)

    def aside(self, piece: Tensor, beside_m: float, generator: torch.Generator) -> Tensor:
        """(B,) random offsets in metres to the left of the middle of the road.

        They are uniform within the road's half width and ``beside_m`` to either side.
        """
        return (self.half_width[piece] + beside_m) * _uniform(-1, 1, generator, len(piece))

    def routes(
        self,
        first: Tensor,
        aside: Tensor,
        tuple_size: int,
        spacing_m: tuple[float, float],
        travel_m: float,
        generator: torch.Generator,
    ) -> RouteSamples:
        """Positions along random routes over given pieces.

        Args:
            first: (B,) pieces on which the tuples begin.
            aside: (B,) metres to the left of the middle of the road.
            tuple_size: Positions per tuple; this and the rest as for ``draw``.
            spacing_m: Least and greatest distance between them.
            travel_m: Length of the path about each position.
            generator: Source of all randomness.
        """
        count = len(first)
        reach = travel_m / 2 + (tuple_size - 1) * spacing_m[1]
        behind = int(travel_m / 2 / SPACING_M) + 2
        ahead = int(reach / SPACING_M) + 2
        back = self.walk(self.opposite(first), behind, generator).flip(1)
        route = torch.cat([back, self.walk(first, ahead, generator)], 1)
        route = _beside(route, aside)

        low, high = spacing_m
        step = _uniform(low, high, generator, count) / SPACING_M
        order = torch.arange(tuple_size, dtype=torch.float32)
        at = behind - 1 + _uniform(0, 1, generator, count)[:, None] + order * step[:, None]
        half = travel_m / 2 / SPACING_M
        along = torch.linspace(-half, half, 2 * int(half / 2) + 3)
        paths = _interpolate(route, at[..., None] + along)
        return RouteSamples(paths[:, :, len(along) // 2], paths)


def road_graph(lines: Iterable[Array], widths: Iterable[float]) -> RoadGraph:
    """Cut roads into directed pieces and connect them where roads share a vertex.

    Args:
        lines: (N, 2) points of each road.
        widths: Metres, one per road.
    """
    roads = [(line, width) for line, width in zip(lines, widths, strict=True) if len(line) > 1]
    keys = [[_key(point) for point in line] for line, _ in roads]
    uses = Counter(key for line in keys for key in line)
    points: list[Array] = []
    half_widths: list[NDArray[np.float64]] = []
    links: list[tuple[int, int]] = []
    leaving: dict[tuple[int, int], list[int]] = defaultdict(list)
    arriving: dict[tuple[int, int], list[int]] = defaultdict(list)
    total = 0
    for (line, width), names in zip(roads, keys, strict=True):
        cuts = [i for i, name in enumerate(names) if uses[name] > 1 or i in (0, len(names) - 1)]
        for begin, end in pairwise(cuts):
            pieces = _pieces(line[begin : end + 1])
            points.append(pieces)
            half_widths.append(np.full(len(pieces), width / 2))
            leaving[names[begin]].append(total)
            arriving[names[end]].append(total + len(pieces) - 1)
            links.append((total, total + len(pieces)))
            total += len(pieces)
    ends = np.concatenate(points) if points else np.zeros((0, 2, 2))
    following = _following(total, links, leaving, arriving)
    choices = np.array([len(each) for each in following], np.int64)
    most = max((len(each) for each in following), default=1)
    table = np.array([(each * most)[:most] for each in following], np.int64).reshape(-1, most)
    both = np.concatenate([ends, ends[:, ::-1]]).astype(np.float32)
    half_width = np.concatenate(half_widths * 2 or [np.zeros(0)]).astype(np.float32)
    return RoadGraph(
        torch.from_numpy(both[:, 0].copy()),
        torch.from_numpy(both[:, 1].copy()),
        torch.from_numpy(table),
        torch.from_numpy(choices),
        torch.from_numpy(half_width),
    )


def _following(
    total: int,
    links: list[tuple[int, int]],
    leaving: dict[tuple[int, int], list[int]],
    arriving: dict[tuple[int, int], list[int]],
) -> list[list[int]]:
    """The successors of pieces 0 .. total - 1 and, from ``total`` on, of their reverses.

    Args:
        total: Number of pieces without their reverses.
        links: First piece and one past the last piece of each stretch between two nodes.
        leaving: By node, the pieces that begin there.
        arriving: By node, the pieces that end there.
    """
    following: list[list[int]] = [[] for _ in range(2 * total)]
    for begin, end in links:
        for piece in range(begin, end - 1):
            following[piece] = [piece + 1]
            following[piece + 1 + total] = [piece + total]
    for node in set(leaving) | set(arriving):
        outward = leaving[node] + [piece + total for piece in arriving[node]]
        inward = [piece + total for piece in leaving[node]] + arriving[node]
        for piece in inward:
            opposite = piece - total if piece >= total else piece + total
            onward = [other for other in outward if other != opposite]
            following[piece] = onward or [opposite]
    return following


def _key(point: Array) -> tuple[int, int]:
    """The point in centimetres: vertices that round to the same centimetre are one node."""
    return round(float(point[0]) * 100), round(float(point[1]) * 100)


def _pieces(line: Array) -> Array:
    """(N, 2, 2) start and end of the pieces of a line, each about ``SPACING_M`` long."""
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    count = max(1, round(travelled[-1] / SPACING_M))
    at = np.linspace(0, travelled[-1], count + 1)
    points = np.stack([np.interp(at, travelled, line[:, axis]) for axis in (0, 1)], -1)
    return np.stack([points[:-1], points[1:]], 1)


def _beside(route: Tensor, offset: Tensor) -> Tensor:
    """The route (B, N, 2) displaced to its left by ``offset`` (B,) metres."""
    ahead = torch.cat([route[:, 1:2] - route[:, :1], route[:, 2:] - route[:, :-2]], 1)
    ahead = torch.cat([ahead, route[:, -1:] - route[:, -2:-1]], 1)
    length = torch.linalg.vector_norm(ahead, dim=2, keepdim=True).clamp_min(1e-6)
    left = torch.stack([-ahead[..., 1], ahead[..., 0]], -1) / length
    return route + offset[:, None, None] * left


def _interpolate(route: Tensor, at: Tensor) -> Tensor:
    """(B, ..., 2) points of the routes (B, N, 2) at the fractional indices ``at`` (B, ...)."""
    shape = at.shape
    at = at.flatten(1).clamp(0, route.shape[1] - 1)
    left = at.to(torch.int64).clamp_max(route.shape[1] - 2)
    a = route.gather(1, left[..., None].expand(-1, -1, 2))
    b = route.gather(1, (left + 1)[..., None].expand(-1, -1, 2))
    return (a + (at - left)[..., None] * (b - a)).view(*shape, 2)


def _uniform(low: float, high: float, generator: torch.Generator, count: int) -> Tensor:
    """(count,) float32 uniform random numbers."""
    return low + (high - low) * torch.rand(count, generator=generator)
