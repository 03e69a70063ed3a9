"""Simpler ways to find a tile on the map, to compare the search with; each is a ``Search``.

- Plain correlation: the walls of the tile on a picture of the map's building edges.
- Rays: the descriptor of Cho et al. (IEEE RA-L 7(2), 2022), made anew from its description: the
  distance to the nearest building in 360 directions. A histogram of the distances, which no turn
  changes, picks 200 map poses; the least sum of absolute differences over circular shifts decides.
  Ours: the poses lie on a grid of 2 m within 8 m of a road (not on the roads alone), a ray that
  meets nothing counts 50 m in the differences and not at all in the histogram, which is one of
  shares. Frames that are thinned out lose many rays, and it suffers more than the others from that.
- Chance and the oracle: a random position, and the grid point that is nearest to the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.fft import next_fast_len
from scipy.spatial.distance import cdist

from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.geometry import Array, wrap_angle
from maptile_loc.score.evidence import Evidence
from maptile_loc.types import Candidates, QueryTile

CANDIDATES = 8
DISTINCT_M = 4.0
MARGIN_M = 25.0
"""As the search: how many are kept, how far apart, and how far inside the map."""
LOG_PRIOR = -12.0
"""Log-probability of every candidate: neither method's score is a probability, so the first one
(the best by the method's own score) counts."""

RAYS = 360
REACH_M = 50.0
QUANTUM_M = 0.25


@dataclass(frozen=True)
class PlainSettings:
    """Plain correlation.

    Attributes:
        resolution: Metres per cell.
        sigma_m: Width of the bell about a building's edge.
        penalty: Taken off inside buildings, ...
        deep_m: ... farther than this from their edge.

    Of a few values these served best on KITTI 0005 and KITTI-360 0000.
    """

    resolution: float = 1.0
    sigma_m: float = 1.5
    penalty: float = 0.5
    deep_m: float = 3.0


class PlainCorrelation:
    """Walls on a Gaussian of the distance to building edges, less a penalty inside buildings.

    Attributes:
        area_km2: The area that is searched.
    """

    def __init__(
        self, raster: MapRaster, tile_size_m: float, settings: PlainSettings, device: str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.step, self.west, self.north = settings.resolution, raster.west, raster.north
        inside = raster.coverage(BUILDING, self.step) >= 0.5
        outward, inward = (ndimage.distance_transform_edt(side) for side in (~inside, inside))
        distance = (np.maximum(outward, inward) - 0.5) * self.step
        deep = inside & (distance > settings.deep_m)
        field = np.exp(-0.5 * (distance / settings.sigma_m) ** 2) - settings.penalty * deep
        self.shape = inside.shape
        cells = round(tile_size_m / self.step)
        self.padded = tuple(next_fast_len(side + cells, real=True) for side in self.shape)
        self.spectrum = torch.fft.rfft2(self._tensor(field), s=self.padded)
        margin = round(MARGIN_M / self.step)
        self.inner = slice(margin, -margin)
        self.area_km2 = float(inside[self.inner, self.inner].size) * self.step**2 / 1e6

    def candidates(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Candidates:
        """The best positions over all turns of the tile; all turns are taken to be equally likely.

        Where there are several, every second degree that they stand for is tried.
        """
        if len(turns) > 1:
            turns = np.radians(whole_degrees(turns)[::2])
        xy, weight = wall_points(tile)
        best = torch.full(self.shape, -torch.inf, device=self.device)
        best_turn = torch.zeros(self.shape, dtype=torch.long, device=self.device)
        for number, turn in enumerate(turns.tolist()):
            seen = torch.fft.rfft2(self._tensor(self._image(xy, weight, turn)))
            score = torch.fft.irfft2(self.spectrum * seen.conj(), s=self.padded)
            score = score[: self.shape[0], : self.shape[1]]
            best_turn[score > best] = number
            best = torch.maximum(best, score)
        inner = best[self.inner, self.inner]
        side = 2 * round(DISTINCT_M / self.step) + 1
        highest = torch.nn.functional.max_pool2d(inner[None], side, 1, side // 2)[0]
        peaks = torch.where(inner == highest, inner, -torch.inf).flatten()
        where = torch.topk(peaks, CANDIDATES).indices
        row, column = (
            part + self.inner.start for part in (where // inner.shape[1], where % inner.shape[1])
        )
        turn = turns[best_turn[row, column].cpu().numpy()]
        east = self.west + column.cpu().numpy() * self.step
        north = self.north - row.cpu().numpy() * self.step
        return ranked(np.column_stack([east, north, tile.rotation + turn]))

    def _image(self, xy: Array, weight: Array, turn: float) -> NDArray[np.float32]:
        """The walls, turned, with the tile's centre at (0, 0) and what is negative wrapped."""
        c, s = np.cos(turn), np.sin(turn)
        column = np.floor((c * xy[:, 0] - s * xy[:, 1]) / self.step).astype(np.int64)
        row = np.floor((-s * xy[:, 0] - c * xy[:, 1]) / self.step).astype(np.int64)
        flat = row % self.padded[0] * self.padded[1] + column % self.padded[1]
        image = np.bincount(flat, weight, self.padded[0] * self.padded[1])
        return image.reshape(self.padded).astype(np.float32)

    def _tensor(self, values: Array | NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device)


class RayDescriptor:
    """Distances to the nearest building in all directions, compared with those of map poses.

    Attributes:
        area_km2: The area that the map poses stand for.
    """

    spacing_m = 2.0
    road_reach_m = 8.0
    shortlist = 200
    bins = 10

    def __init__(self, raster: MapRaster) -> None:
        blocked = raster.data[BUILDING] > 0
        near = ndimage.distance_transform_edt(raster.data[ROAD] == 0) * raster.resolution
        allowed = (near <= self.road_reach_m) & ~blocked
        margin = round(MARGIN_M / raster.resolution)
        every = round(self.spacing_m / raster.resolution)
        rows, columns = np.nonzero(allowed[margin:-margin:every, margin:-margin:every])
        pixel = np.column_stack([rows, columns]) * every + margin
        self.places = raster.world_from_pixel(pixel + 0.5)
        ranges = cast(blocked, pixel, 0.5, raster.resolution, raster.resolution)
        self.ranges = np.round(ranges / QUANTUM_M).astype(np.uint8)
        self.histograms = self._histogram(self.ranges)
        self.area_km2 = len(pixel) * self.spacing_m**2 / 1e6

    def candidates(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Candidates:
        """The best positions over all turns, degree by degree; none where no wall is seen."""
        centre = np.full((1, 2), tile.size // 2)
        seen = cast(tile.wall > 0, centre, 0.0, tile.resolution, tile.resolution / 2)
        query = np.round(seen / QUANTUM_M).astype(np.uint8)
        histogram = self._histogram(query)
        if not histogram.any():
            return Candidates(np.zeros((0, 3)), np.zeros(0))
        unlike = cdist(histogram, self.histograms, "cityblock")[0]
        kept = np.argpartition(unlike, min(self.shortlist, len(unlike) - 1))[: self.shortlist]
        shifts = whole_degrees(turns)
        shifted = np.stack([np.roll(query[0], shift) for shift in shifts])
        difference = cdist(self.ranges[kept], shifted, "cityblock")
        order = np.argsort(difference.min(axis=1), kind="stable")
        turn = np.radians(shifts[difference.argmin(axis=1)])
        poses = np.column_stack([self.places[kept], tile.rotation + turn])[order]
        return ranked(distinct(poses))

    def _histogram(self, ranges: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(P, 360) ranges -> (P, bins) shares of those that are blocked, by distance."""
        reach = round(REACH_M / QUANTUM_M)
        edges = np.linspace(0, reach, self.bins + 1)
        below = [np.count_nonzero(ranges < edge, axis=1) for edge in edges]
        count = np.diff(np.stack(below, axis=1), axis=1)
        total: Array = np.maximum(count.sum(axis=1, keepdims=True), 1)
        return np.asarray(count / total, np.float32)


def cast(
    blocked: NDArray[np.bool_],
    pixel: NDArray[np.int64],
    fraction: float,
    resolution: float,
    step_m: float,
) -> NDArray[np.float32]:
    """Follow 360 rays from each of some positions until they are blocked.

    Args:
        blocked: (H, W), row 0 is north; nothing is blocked beyond the edge.
        pixel: (P, 2) row and column of the positions.
        fraction: Where in its pixel each position is, from its corner, in both directions.
        resolution: Metres per pixel.
        step_m: Metres from one sample of a ray to the next.

    Returns:
        (P, 360) metres, ``REACH_M`` where nothing blocks; ray b goes b degrees counter-clockwise
        from east.
    """
    border = round(REACH_M / resolution) + 2
    padded = np.pad(blocked, border)
    width, flat = padded.shape[1], padded.ravel()
    start = (pixel[:, 0] + border) * width + pixel[:, 1] + border
    result = np.full((RAYS, len(pixel)), REACH_M, np.float32)
    steps = np.arange(step_m, REACH_M, step_m)
    for ray in range(RAYS):
        angle = 2 * np.pi * ray / RAYS
        row = np.floor(fraction - np.sin(angle) * steps / resolution).astype(np.int64)
        column = np.floor(fraction + np.cos(angle) * steps / resolution).astype(np.int64)
        alive = np.arange(len(pixel))
        for distance, offset in zip(steps, row * width + column, strict=True):
            hit = flat[start[alive] + offset]
            result[ray, alive[hit]] = distance
            alive = alive[~hit]
            if len(alive) == 0:
                break
    return np.ascontiguousarray(result.T)


def wall_points(tile: QueryTile) -> tuple[Array, Array]:
    """(N, 2) metres from the tile's centre and (N,) evidence of its pixels with a wall."""
    row, column = np.nonzero(tile.wall)
    half = tile.size / 2
    xy = np.column_stack([column + 0.5 - half, half - row - 0.5]) * tile.resolution
    return xy, tile.wall[row, column].astype(np.float64)


def whole_degrees(turns: Array) -> NDArray[np.int64]:
    """The whole degrees that evenly spaced ``turns`` (radians) stand for, 0 to 359."""
    degrees = np.round(np.degrees(turns)).astype(np.int64)
    if len(turns) == 1:
        return degrees % RAYS
    step = round(float(np.degrees(turns[1] - turns[0])))
    return np.unique((degrees[:, None] + np.arange(step)) % RAYS)


def distinct(poses: Array) -> Array:
    """The first few (K, 3) of (N, 3) poses that are ``DISTINCT_M`` apart."""
    kept: list[int] = []
    for index in range(len(poses)):
        gap = poses[kept, :2] - poses[index, :2]
        if not (np.hypot(gap[:, 0], gap[:, 1]) < DISTINCT_M).any():
            kept.append(index)
        if len(kept) == CANDIDATES:
            break
    return poses[kept]


def ranked(poses: Array) -> Candidates:
    """Poses, best first, as candidates that nothing else is known of."""
    poses[:, 2] = wrap_angle(poses[:, 2])
    return Candidates(poses, np.full(len(poses), LOG_PRIOR))


def oracle(truth: Array, raster: MapRaster, resolution: float, heading_step: float) -> Array:
    """(Q, 3) true poses -> those of the search grid that are nearest.

    Args:
        truth: East, north, heading.
        raster: The map.
        resolution: Metres between grid points.
        heading_step: Radians between headings; 0 where the heading is known.
    """
    corner = np.array([raster.west, raster.north])
    poses = truth.copy()
    poses[:, :2] = corner + np.round((truth[:, :2] - corner) / resolution) * resolution
    if heading_step:
        poses[:, 2] = np.round(truth[:, 2] / heading_step) * heading_step
    return poses
