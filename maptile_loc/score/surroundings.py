"""Distances and directions of the map's building edges and roads, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maptile_loc.score.distance import Codes, Distances, bounds, squared_distance
from maptile_loc.score.settings import LikelihoodSettings

F32 = NDArray[np.float32]
REACH_M = 48.0
"""Largest distance from a road that is computed; edges matter up to a quarter of it."""

FULL = 127
"""What a direction's component of 1 is stored as."""


@dataclass(frozen=True)
class Surroundings:
    """The nearest building edge and road of each cell; row 0 is north.

    Six planes of whole numbers hold them, a quarter of the size of single precision. Distances lose
    nothing by this; a component of a direction is off by 0.004 at most.

    Attributes:
        edge_number: (H, W) index of the signed distance to the nearest building edge in
            ``Scale.edge_m``.
        road_number: (H, W) index of the distance to the nearest road in ``Scale.road_m``.
        directions: (4, H, W) int8, 127 times ``east``, ``north``, ``course_cos``, ``course_sin``.
        scale: What the numbers mean.
    """

    edge_number: Codes
    road_number: Codes
    directions: NDArray[np.int8]
    scale: Scale

    @property
    def edge(self) -> F32:
        """(H, W) signed distance to the nearest building edge, metres, negative inside."""
        return self.scale.edge_m[self.edge_number]

    @property
    def road(self) -> F32:
        """(H, W) distance to the nearest road, metres, 0 on a road."""
        return self.scale.road_m[self.road_number]

    @property
    def building(self) -> NDArray[np.bool_]:
        """(H, W) whether a building covers half of the cell or more."""
        return self.edge_number < self.scale.outside

    @cached_property
    def east(self) -> F32:
        """(H, W) east component of the edge's unit normal, which points out of the building."""
        return self._direction(0)

    @cached_property
    def north(self) -> F32:
        """(H, W) north component of the normal."""
        return self._direction(1)

    @cached_property
    def course_cos(self) -> F32:
        """(H, W) cosine of twice the course of the roads nearby, radians from grid east.

        The vector (course_cos, course_sin) is shorter than 1 where roads cross.
        """
        return self._direction(2)

    @cached_property
    def course_sin(self) -> F32:
        """(H, W) sine of twice the course."""
        return self._direction(3)

    def _direction(self, plane: int) -> F32:
        return self.directions[plane] * np.float32(1 / FULL)

    def cut(self, part: tuple[slice, slice]) -> Surroundings:
        """A part of the cells, by rows and columns; a view."""
        planes = self.edge_number[part], self.road_number[part], self.directions[:, *part]
        return Surroundings(*planes, self.scale)

    def put(self, part: tuple[slice, slice], other: Surroundings) -> None:
        """Replace the surroundings of some cells, by rows and columns."""
        self.edge_number[part], self.road_number[part] = other.edge_number, other.road_number
        self.directions[:, *part] = other.directions

    def packed(self) -> NDArray[np.uint8]:
        """(n,) all planes, one after the other, as bytes."""
        planes = self.edge_number, self.road_number, self.directions
        return np.concatenate([np.ascontiguousarray(one).view(np.uint8).ravel() for one in planes])

    @classmethod
    def unpacked(
        cls, packed: NDArray[np.uint8], shape: tuple[int, int], scale: Scale
    ) -> Surroundings:
        """The surroundings of ``shape`` cells that ``packed`` returned."""
        cells, start, planes = shape[0] * shape[1], 0, []
        for kind in scale.kinds:
            stop = start + cells * kind.itemsize
            planes.append(packed[start:stop].view(kind).reshape(shape))
            start = stop
        return cls(planes[0], planes[1], packed[start:].view(np.int8).reshape(4, *shape), scale)

    @classmethod
    def nowhere(cls, shape: tuple[int, int], scale: Scale) -> Surroundings:
        """The surroundings of ``shape`` cells far from all buildings and roads."""
        far = len(scale.edge_m) - 1, len(scale.road_m) - 1
        edge, road = (np.full(shape, *last) for last in zip(far, scale.kinds, strict=True))
        return cls(edge, road, np.zeros((4, *shape), np.int8), scale)


class Scale(NamedTuple):
    """The distances that occur on a grid.

    Attributes:
        edge_m: (n,) float32 signed distances to a building's edge, metres, ascending.
        road_m: (m,) float32 distances to a road, metres, ascending.
        outside: Index of the first distance outside a building.
        edge: The distances of which ``edge_m`` consists.
        road: Those of ``road_m``.
        resolution: Metres per cell.
    """

    edge_m: F32
    road_m: F32
    outside: int
    edge: Distances
    road: Distances
    resolution: float

    @classmethod
    def on(cls, resolution: float, settings: LikelihoodSettings) -> Scale:
        """The distances on a grid of ``resolution`` metres, as far as the profiles reach."""
        edge = Distances.up_to(REACH_M / 4, resolution)
        road = Distances.up_to(min(REACH_M, settings.road_m[-1]), resolution)
        # The first distance is that of a cell of the kind itself.
        outward = edge.metres[1:]
        signed = np.concatenate([-outward[::-1], outward])
        return cls(signed, np.maximum(road.metres, 0), len(outward), edge, road, resolution)

    @property
    def kinds(self) -> tuple[np.dtype[Any], np.dtype[Any]]:
        """The types of the two planes of indices."""
        return np.min_scalar_type(len(self.edge_m) - 1), np.min_scalar_type(len(self.road_m) - 1)

    @property
    def cell_bytes(self) -> int:
        """Bytes per cell of what ``Surroundings.packed`` returns."""
        return sum(kind.itemsize for kind in self.kinds) + 4

    def edge_numbers(self, inside: NDArray[np.bool_]) -> Codes:
        """(H, W) index of the signed distance of each cell to the edge of ``inside``."""
        kind, reach = self.kinds[0], self.edge.reach
        if not inside.any():
            return np.full(inside.shape, len(self.edge_m) - 1, kind)
        number = self.edge.number.astype(np.int16)
        signed = self.outside - 1 + number[squared_distance(inside, reach)]
        within = bounds(inside, 1)  # the nearest cell outside is not farther than this
        inward = self.outside - number[squared_distance(~inside[within], reach)]
        signed[within] = np.where(inside[within], inward, signed[within])
        return signed.astype(kind)

    def road_numbers(self, inside: NDArray[np.bool_]) -> Codes:
        """(H, W) index of the distance of each cell to ``inside``."""
        return self.road.number[squared_distance(inside, self.road.reach)]

    def margin(self, settings: LikelihoodSettings) -> int:
        """Cells around a part of a map on which the part's surroundings depend."""
        crossroads = round(settings.crossroads_m / self.resolution / 2)
        edge = self.edge.reach + self.smooth_cells(settings)
        return max(edge, self.road.reach, crossroads) + 1

    def smooth_cells(self, settings: LikelihoodSettings) -> int:
        """Cells over which distances are smoothed on each side, before they give directions."""
        return int(4 * settings.smooth_m / self.resolution + 0.5) + 1


def surroundings(
    building: F32 | NDArray[np.bool_],
    road: F32 | NDArray[np.bool_],
    resolution: float,
    settings: LikelihoodSettings,
    directed: bool = True,
) -> Surroundings:
    """The surroundings of each cell of a map.

    Args:
        building: (H, W) share of each cell that buildings cover.
        road: (H, W) share of each cell that roads cover.
        resolution: Metres per cell.
        settings: ``road_m``, ``smooth_m`` and ``crossroads_m`` are read.
        directed: Whether directions are computed; without them they are 0.
    """
    scale = Scale.on(resolution, settings)
    inside, on_road = building >= 0.5, road > 0
    numbers = scale.edge_numbers(inside)
    directions = np.zeros((4, *inside.shape), np.int8)
    if directed and inside.any():
        # Farther from the buildings, the distance is the same everywhere, and has no direction.
        near = bounds(inside, scale.edge.reach + 2 * scale.smooth_cells(settings))
        smooth = ndimage.gaussian_filter(
            scale.edge_m[numbers[near]], settings.smooth_m / resolution
        )
        east, south = ndimage.sobel(smooth, 1), ndimage.sobel(smooth, 0)
        steep = np.float32(FULL) / np.maximum(np.hypot(east, south), 1e-6)
        directions[0][near], directions[1][near] = np.rint(east * steep), np.rint(-south * steep)
    if directed and on_road.any():
        for plane, part in enumerate(_course(on_road, resolution, settings.crossroads_m), 2):
            directions[plane] = np.rint(part * FULL)
    return Surroundings(numbers, scale.road_numbers(on_road), directions, scale)


def signed_distance(coverage: F32, resolution: float, clip_m: float) -> F32:
    """(H, W) float32 distance of each cell to the edge of what is covered, metres.

    Args:
        coverage: (H, W) share of each cell that is covered; from 0.5 on a cell is inside.
        resolution: Metres per cell.
        clip_m: Largest absolute distance, metres.

    Returns:
        Negative inside, positive outside, ``clip_m`` everywhere if nothing is covered.
    """
    inside = coverage >= 0.5
    if not inside.any():
        return np.full(coverage.shape, clip_m, np.float32)
    outward = ndimage.distance_transform_edt(~inside).astype(np.float32)
    inward = ndimage.distance_transform_edt(inside).astype(np.float32)
    # Distances run between centres; the edge lies half a cell before the first centre beyond it.
    signed = np.where(inside, 0.5 - inward, outward - 0.5) * np.float32(resolution)
    return np.clip(signed, -clip_m, clip_m)


def local_means(
    weight: NDArray[np.floating], window: int, resolution: float, top: int = 0, left: int = 0
) -> list[NDArray[np.float64]]:
    """Means of the weight w in a square around each cell, and of w times each monomial.

    Args:
        weight: (H, W), row 0 is north.
        window: Side of the square, cells.
        resolution: Metres per cell.
        top: Row of the weight's first row in the image of which it is a part.
        left: Column of its first column.

    Returns:
        Six (H, W) float64 means: of w, wx, wy, wxx, wyy and wxy, with x and y from the image's
        first cell, metres.
    """
    height, width = weight.shape
    x = np.arange(left, left + width)[None] * resolution
    y = -np.arange(top, top + height)[:, None] * resolution
    across, up = weight * x, weight * y
    return [
        ndimage.uniform_filter(values.astype(np.float64, copy=False), window, mode="constant")
        for values in (weight, across, up, across * x, up * y, across * y)
    ]


def central_moments(
    means: Sequence[NDArray[np.float64]], least: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Variance east, variance north and covariance of the weight in a square around some cells.

    Args:
        means: Of these cells, what ``local_means`` returns.
        least: Lower bound of the mean weight that the moments are divided by.

    Returns:
        Three arrays, m2.
    """
    total = np.maximum(means[0], least)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (mean / total for mean in means[1:])
    return mean_xx - mean_x**2, mean_yy - mean_y**2, mean_xy - mean_x * mean_y


def _course(road: NDArray[np.bool_], resolution: float, crossroads_m: float) -> tuple[F32, F32]:
    """(H, W) cosine and sine of twice the principal direction of the roads around each cell."""
    window = 2 * round(crossroads_m / resolution / 2) + 1
    # Sums of whole numbers of cells are exact, where they fit: what overflows in between cancels.
    fits = (window * max(road.shape)) ** 2 < 2**31
    kind: type[np.signedinteger] = np.int32 if fits else np.int64
    one = road.astype(kind)
    x, y = np.arange(road.shape[1]).astype(kind), -np.arange(road.shape[0])[:, None].astype(kind)
    by_rows = [_window_sums(values, window, 0) for values in (one, one * y, one * y * y)]
    count = _window_sums(by_rows[0], window, 1)
    near = count > 0  # far from roads, there is no direction
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (
        _window_sums(values, window, 1)[near] / count[near]
        for values in (
            by_rows[0] * x,
            by_rows[1],
            by_rows[0] * x * x,
            by_rows[2],
            by_rows[1] * x,
        )
    )
    var_x, var_y = mean_xx - mean_x**2, mean_yy - mean_y**2
    size = np.maximum(var_x + var_y, 1.0 / resolution**2)
    cos, sin = np.zeros((2, *road.shape), np.float32)
    cos[near], sin[near] = (var_x - var_y) / size, 2 * (mean_xy - mean_x * mean_y) / size
    return cos, sin


def _window_sums(
    values: NDArray[np.signedinteger], window: int, axis: int
) -> NDArray[np.signedinteger]:
    """Sums over ``window`` cells, an odd number, around each cell along an axis; 0 beyond."""
    half = window // 2
    margin = [(0, 0), (0, 0)]
    margin[axis] = half + 1, half
    total = np.cumsum(np.pad(values, margin), axis=axis, dtype=values.dtype)
    size = values.shape[axis]
    rows = slice(window, window + size), slice(size)
    last, first = (total[cut] if axis == 0 else total[:, cut] for cut in rows)
    return np.asarray(last - first)
