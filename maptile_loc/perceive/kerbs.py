"""Where the road ends: kerbs, and which ground lies before and which behind them.

What is not told apart by a kerb is not told: where none is found before something hides the ground,
a direction says nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from maptile_loc.perceive.rays import pixels

F32 = NDArray[np.float32]
FLAT_M = 0.3
"""Points no farther from the ground's height than that tell how it runs."""
KERB_M = (0.05, 0.3)
"""A kerb is a step up of so much over two cells, beyond the ground's slope, ..."""
LINE = 3
"""... and of the nine cells around one, at least so many are."""
SLOPE_M = 3.0
"""The slope is that of a plane through the ground about so far around."""
HIDDEN_M = (0.4, 2.2)
"""What stands so high above the ground, with more than ``FEW`` points, hides what follows."""
FEW = 2
STEP_M, FIRST_M, LAST_M = 0.25, 6.0, 15.0
"""The ground is followed outwards in such steps, up to the last; before the first, a spinning
LiDAR need not have seen any."""
LOST, SEEN = 6, 4
"""After so many steps without ground it is lost; before a kerb, that much of it has to be seen."""
BEHIND = (3, 11)
"""So many steps after the kerb it is taken to be beside the road."""
DIRECTIONS = 180
ENOUGH = 2
"""So many directions make a cell known."""


def sides(
    xy: F32, z: F32, height: F32, origin: F32, size: int, resolution: float
) -> NDArray[np.int64]:
    """(2, size, size) from how many sides a cell lies before a kerb, and from how many behind one.

    A side is a direction as seen from a place of the vehicle, one of each square metre.

    Args:
        xy: (N, 2) points in the tile's frame, metres, of scans put together without bends.
        z: (N,) metres, in a frame whose z axis is nearly upright.
        height: (N,) metres above the ground, roughly.
        origin: (S, 3) the sensor at each scan, in the tile's frame.
        size: Pixels along a side.
        resolution: Metres per pixel.
    """
    flat = np.abs(height) < FLAT_M
    ground = ground_heights(np.compress(flat, xy, axis=0), z[flat], size, resolution)
    seen = np.isfinite(ground)
    east, north = rises(ground, resolution)
    rise = np.hypot(east, north)
    kerb = (rise > KERB_M[0]) & (rise < KERB_M[1])
    kerb &= ndimage.uniform_filter(kerb.astype(np.float32), 3, mode="constant") * 9 > LINE - 0.5
    tall = (height > HIDDEN_M[0]) & (height < HIDDEN_M[1])
    pixel, _ = pixels(np.compress(tall, xy, axis=0), size, resolution)
    hidden = np.bincount(pixel, minlength=size * size) > FEW

    _, first = np.unique(np.round(origin[:, :2]), axis=0, return_index=True)
    along = np.arange(1.0, LAST_M, STEP_M)
    angle = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = (origin[first, axis, None, None] + along * way for axis, way in enumerate((cos, sin)))
    column = np.clip(x / resolution + size / 2, 0, size - 1).astype(np.int64)
    row = np.clip(size / 2 - y / resolution, 0, size - 1).astype(np.int64)
    cell = row * size + column
    here, edge = seen.ravel()[cell], kerb.ravel()[cell]
    upward = east.ravel()[cell] * cos + north.ravel()[cell] * sin > 0
    gone = _none_in(here, LOST) & (along >= FIRST_M)
    kerb_at = _first(edge & upward)
    end = _first(hidden[cell] | gone | (edge & ~upward))
    number = np.arange(len(along))
    before = here & (number < kerb_at - 1)
    found = (kerb_at < end) & (before.sum(axis=2, keepdims=True) >= SEEN)
    after = number - kerb_at
    behind = here & (after >= BEHIND[0]) & (after < BEHIND[1]) & (number < end)
    return np.stack(
        [
            np.bincount(cell[found & which], minlength=size * size).reshape(size, size)
            for which in (before, behind)
        ]
    )


def road_evidence(counted: NDArray[np.int64]) -> F32:
    """(S, S) 1 where ground is the road's, -1 beside it, 0 unknown; from (2, S, S) ``sides``."""
    before, behind = counted
    total = before + behind
    share = (before - behind) / np.maximum(total, 1)
    return np.where(total >= ENOUGH, share, 0).astype(np.float32)


def ground_heights(xy: F32, z: F32, size: int, resolution: float) -> F32:
    """(size, size) mean height of the points in each cell, NaN where there are none."""
    pixel, inside = pixels(xy, size, resolution)
    count = np.bincount(pixel, minlength=size * size)
    total = np.bincount(pixel, weights=z[inside], minlength=size * size)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean.reshape(size, size).astype(np.float32)


def rises(ground: F32, resolution: float) -> tuple[F32, F32]:
    """(S, S) metres by which the ground rises over two cells to the east, and to the north.

    The slope around, of a plane laid by least squares with Gaussian weights, is taken off; 0 where
    a cell on either side, or the cell itself, was not seen.
    """
    seen = np.isfinite(ground)
    weight, z = seen.astype(np.float64), np.where(seen, ground, 0.0).astype(np.float64)
    x = np.arange(ground.shape[1])[None] * resolution
    y = -np.arange(ground.shape[0])[:, None] * resolution

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.gaussian_filter(values, SLOPE_M / resolution, mode="constant", truncate=2.5)

    total = np.maximum(mean(weight), 1e-9)
    mean_x, mean_y, mean_z = (mean(weight * value) / total for value in (x, y, z))
    # A ridge, for ground that is seen along one line only.
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


def _first(which: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(..., 1) index of the first True along the last axis; beyond its end where there is none."""
    at = which.argmax(axis=-1, keepdims=True)
    return np.where(which.any(axis=-1, keepdims=True), at, 2 * which.shape[-1])


def _none_in(which: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """(..., N) True where none of the last ``count`` along the last axis is."""
    total = np.cumsum(which, axis=-1)
    before = np.zeros_like(total)
    before[..., count:] = total[..., :-count]
    return np.asarray(total == before)
