"""Road evidence from kerbs: the ground before a kerb is road, the ground behind it is beside it.

From each position of the vehicle the ground is followed outwards in all directions, up to the first
step upwards. A direction in which an obstacle or a gap comes before any kerb gives no evidence, and
without a kerb the surface is left unknown.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.settings import Count, NotNegative, Positive, Settings
from maptile_loc.perceive.rays import pixels, selected

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


TRUNCATE = 2.5
"""The Gaussian weights of slopes end at this many standard deviations."""


class KerbSettings(Settings):
    """How kerbs are found, and how the ground is followed up to them.

    Attributes:
        flat_m: Points within this distance of the estimated ground height are ground points.
        min_rise_m, max_rise_m: The ground rises by this much over two cells at a kerb, relative to
            its slope.
        line_cells: Number of kerb cells among a cell and its eight neighbours that confirm a kerb.
        slope_m: Standard deviation of the Gaussian weights with which the slope is fitted.
        obstacle_min_m, obstacle_max_m: Points between these heights above the ground belong to
            obstacles, which hide the ground behind them.
        obstacle_points: A cell with more such points than this is an obstacle.
        step_m: Step along a direction.
        blind_m: Distance from the vehicle up to which a gap in the ground does not end a direction:
            a spinning LiDAR does not see the ground close to it.
        range_m: Length of a direction.
        gap_steps: Number of steps without ground points that end a direction.
        seen_steps: Number of steps with ground points that a kerb needs before it.
        behind_from, behind_to: Steps behind a kerb, the last one excluded, whose ground is beside
            the road.
        directions: Number of directions from each position of the vehicle.
        min_votes: Number of votes from which a cell's surface is known.
    """

    flat_m: Positive = 0.3
    min_rise_m: NotNegative = 0.05
    max_rise_m: Positive = 0.3
    line_cells: Count = 3
    slope_m: Positive = 3.0
    obstacle_min_m: NotNegative = 0.4
    obstacle_max_m: Positive = 2.2
    obstacle_points: Count = 2
    step_m: Positive = 0.25
    blind_m: NotNegative = 6.0
    range_m: Positive = 15.0
    gap_steps: Count = 6
    seen_steps: Count = 4
    behind_from: Count = 3
    behind_to: Count = 11
    directions: Count = 180
    min_votes: Count = 2


class Directions(NamedTuple):
    """Straight lines outwards from P positions of the vehicle in D directions, in K steps.

    Attributes:
        cell: (P, D, K) int64, flat index of the cell at each step, clipped to the tile.
        metres: (K,) distance from the vehicle.
        cos, sin: (D, 1) unit vector of each direction, x and y.
    """

    cell: NDArray[np.int64]
    metres: F64
    cos: F64
    sin: F64


def kerb_votes(
    xy: F32,
    z: F32,
    height: F32,
    origin: F32,
    size: int,
    resolution: float,
    settings: KerbSettings,
) -> NDArray[np.int64]:
    """(2, size, size) votes that each cell is before a kerb (a road), and that it is behind one.

    A vote is a direction from a position of the vehicle. Positions are rounded to metres, and each
    counts once.

    Args:
        xy: (N, 2) points in the tile's frame, metres, of scans that are aligned with each other.
        z: (N,) metres, in a frame whose z axis is about vertical.
        height: (N,) metres above the estimated ground.
        origin: (S, 3) the sensor at each scan, in the tile's frame, metres.
        size: Pixels along a side.
        resolution: Metres per pixel.
        settings: Parameters.
    """
    row, column, side = _surroundings(origin, size, resolution, settings)
    centre = resolution * (np.array([column, -row]) + (side - size) / 2 * np.array([1, -1]))
    _, first = np.unique(np.round(origin[:, :2]), axis=0, return_index=True)
    near = origin[first] - np.append(centre, 0.0).astype(np.float32)
    votes = np.zeros((2, size, size), np.int64)
    votes[:, row : row + side, column : column + side] = _votes(
        xy - centre.astype(np.float32), z, height, near, side, resolution, settings
    )
    return votes


def _surroundings(
    origin: F32, size: int, resolution: float, settings: KerbSettings
) -> tuple[int, int, int]:
    """First row and column, and side, of the part of a tile that kerbs can be seen in."""
    reach = settings.range_m + TRUNCATE * settings.slope_m + 2 * resolution
    low, high = origin[:, :2].min(axis=0) - reach, origin[:, :2].max(axis=0) + reach
    side = min(2 * int(np.ceil((high - low).max() / resolution / 2)), size)
    column = int(np.clip(low[0] / resolution + size / 2, 0, size - side))
    row = int(np.clip(size / 2 - high[1] / resolution, 0, size - side))
    return row, column, side


def _votes(
    xy: F32,
    z: F32,
    height: F32,
    origin: F32,
    size: int,
    resolution: float,
    settings: KerbSettings,
) -> NDArray[np.int64]:
    """The votes in a part of a tile; as ``kerb_votes``, but each position in ``origin`` counts."""
    flat = np.abs(height) < settings.flat_m
    ground = ground_heights(selected(xy, flat), np.compress(flat, z), size, resolution)
    east, north = rises(ground, resolution, settings.slope_m)
    kerb = _is_kerb(east, north, settings).ravel()
    tall = (height > settings.obstacle_min_m) & (height < settings.obstacle_max_m)
    pixel, _ = pixels(selected(xy, tall), size, resolution)
    hidden = np.bincount(pixel, minlength=size * size) > settings.obstacle_points

    cell, metres, cos, sin = _directions(origin, size, resolution, settings)
    here, edge = np.isfinite(ground).ravel()[cell], kerb[cell]
    upward = east.ravel()[cell] * cos + north.ravel()[cell] * sin > 0
    gone = _none_in(here, settings.gap_steps) & (metres >= settings.blind_m)
    kerb_at = _first(edge & upward)
    end = _first(hidden[cell] | gone | (edge & ~upward))
    number = np.arange(len(metres))
    before = here & (number < kerb_at - 1)
    found = (kerb_at < end) & (before.sum(axis=2, keepdims=True) >= settings.seen_steps)
    after = number - kerb_at
    behind = here & (after >= settings.behind_from) & (after < settings.behind_to) & (number < end)
    return np.stack(
        [
            np.bincount(cell[found & which], minlength=size * size).reshape(size, size)
            for which in (before, behind)
        ]
    )


def road_evidence(votes: NDArray[np.int64], settings: KerbSettings) -> F32:
    """(S, S) float32 evidence: 1 on the road, -1 beside it, 0 unknown.

    Args:
        votes: (2, S, S) as ``kerb_votes`` gives them.
        settings: The number of votes that a cell needs.
    """
    before, behind = votes
    total = before + behind
    share = (before - behind) / np.maximum(total, 1)
    return np.where(total >= settings.min_votes, share, 0).astype(np.float32)


def ground_heights(xy: F32, z: F32, size: int, resolution: float) -> F32:
    """(size, size) float32 mean z of the points in each cell, NaN in empty cells."""
    pixel, inside = pixels(xy, size, resolution)
    count = np.bincount(pixel, minlength=size * size)
    total = np.bincount(pixel, weights=z[inside], minlength=size * size)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean.reshape(size, size).astype(np.float32)


def rises(ground: F32, resolution: float, slope_m: float) -> tuple[F32, F32]:
    """(S, S) metres that the ground rises over two cells, to the east and to the north.

    Both are relative to the slope: a plane is fitted around each cell by least squares with
    Gaussian weights of standard deviation ``slope_m``. They are 0 where the cell, or the cell on
    either side of it, is empty.
    """
    seen = np.isfinite(ground)
    weight, z = seen.astype(np.float64), np.where(seen, ground, 0.0).astype(np.float64)
    x = np.arange(ground.shape[1])[None] * resolution
    y = -np.arange(ground.shape[0])[:, None] * resolution

    def mean(values: F64) -> F64:
        return ndimage.gaussian_filter(
            values, slope_m / resolution, mode="constant", truncate=TRUNCATE
        )

    total = np.maximum(mean(weight), 1e-9)
    mean_x, mean_y, mean_z = (mean(weight * value) / total for value in (x, y, z))
    # A ridge term: ground that is seen along one line only does not determine a plane.
    xx = mean(weight * x * x) / total - mean_x**2 + resolution**2 / 4
    yy = mean(weight * y * y) / total - mean_y**2 + resolution**2 / 4
    xy = mean(weight * x * y) / total - mean_x * mean_y
    xz, yz = mean(x * z) / total - mean_x * mean_z, mean(y * z) / total - mean_y * mean_z
    area = xx * yy - xy**2
    slope_east, slope_north = (xz * yy - yz * xy) / area, (yz * xx - xz * xy) / area
    east, north = np.full((2, *ground.shape), np.nan)
    east[:, 1:-1] = ground[:, 2:] - ground[:, :-2]
    north[1:-1] = ground[:-2] - ground[2:]
    east, north = east - 2 * resolution * slope_east, north - 2 * resolution * slope_north
    return tuple(np.nan_to_num(np.where(seen, v, 0)).astype(np.float32) for v in (east, north))  # type: ignore[return-value]


def _is_kerb(east: F32, north: F32, settings: KerbSettings) -> NDArray[np.bool_]:
    """(S, S) whether each cell, with its ``rises``, is part of a kerb."""
    rise = np.hypot(east, north)
    kerb = (rise > settings.min_rise_m) & (rise < settings.max_rise_m)
    neighbours = ndimage.uniform_filter(kerb.astype(np.float32), 3, mode="constant") * 9
    return np.asarray(kerb & (neighbours > settings.line_cells - 0.5))


def _directions(origin: F32, size: int, resolution: float, settings: KerbSettings) -> Directions:
    """The directions from (S, 3) positions of the sensor."""
    metres = np.arange(1.0, settings.range_m, settings.step_m)
    angle = np.arange(settings.directions) * (2 * np.pi / settings.directions)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = (origin[:, axis, None, None] + metres * unit for axis, unit in enumerate((cos, sin)))
    column = np.clip(x / resolution + size / 2, 0, size - 1).astype(np.int64)
    row = np.clip(size / 2 - y / resolution, 0, size - 1).astype(np.int64)
    return Directions(row * size + column, metres, cos, sin)


def _first(which: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(..., 1) index of the first True along the last axis; twice its length if there is none."""
    at = which.argmax(axis=-1, keepdims=True)
    return np.where(which.any(axis=-1, keepdims=True), at, 2 * which.shape[-1])


def _none_in(which: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """(..., N) True where none of the last ``count`` values along the last axis is True."""
    total = np.cumsum(which, axis=-1)
    before = np.zeros_like(total)
    before[..., count:] = total[..., :-count]
    return np.asarray(total == before)
