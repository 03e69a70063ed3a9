"""How likely a query tile is at a place of the map: the score of coarse search and alignment.

Each piece of evidence adds a log-likelihood ratio: how much more probable it is there, given the
map under it, than anywhere. For a wall seen at the signed distance d from the nearest building edge
of the map (negative inside a building), at an angle a from the way that this edge faces, it is

    wall(d) + facing(d) cos a + line(d) cos 2a,

for a cell seen free free(d), for ground ground(r) with r the distance to the nearest road,
surface(r) more where it is a road's surface and beside(r) where it is beside one, and for the way
that the vehicle drove path(r) + course cos 2b, with b its angle from the road's. The
functions are piecewise linear. They are a conditional logit (McFadden 1974): fitted so that, of all
places, the true one is the most probable, they hold the errors of sensors and map (footprints off
by a metre, buildings missing or new), and how little neighbouring cells tell anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.geometry import Array
from data_prep.settings import Settings
from maptile_loc.score.evidence import (
    BESIDE,
    CHANNELS,
    FREE,
    GROUND,
    PATH,
    SPINS,
    SURFACE,
    WALL,
    Points,
    spread,
)

F32 = NDArray[np.float32]
Profile = tuple[float, ...]
STRIP = 1024
OVERLAP_M = 48.0
SMOOTH_M = 0.75
CROSSROADS_M = 20.0
"""Fields are made in strips of so many rows; what lies farther away does not matter to a cell. The
way an edge faces is that of the distance smoothed by so much; a road's course, that of the roads
within half of the last."""


class LikelihoodSettings(Settings):
    """The log-likelihood ratios.

    ``wall``, ``facing`` and ``line`` are fitted (``benchmarks/fit_score.py``); ``free`` and
    ``ground``, whose fits zigzag, are smoothed by hand; ``surface``, ``beside``, ``path`` and
    ``course`` are set by how real trajectories lie on the map's roads, for simulated routes follow
    them exactly.

    Attributes:
        edge_m: Signed distances d from a building's edge at which the next four are given.
        wall, facing, line: Per square metre of full evidence of a wall.
        free: Per square metre seen free.
        road_m: Distances r from a road at which the next four are given.
        ground: Per square metre of ground seen.
        surface, beside: More per square metre of it that is a road's surface, or beside a road.
        path: Of the way driven.
        course: Of the way driven in the direction of the road, against across it: half of it.
    """

    edge_m: Profile = (-8, -4, -2.5, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 4, 8)
    wall: Profile = (
        *(-0.257, -0.065, 0.121, 0.263, 0.395, 0.428, 0.427),
        *(0.326, 0.161, 0.002, -0.261, -0.521, -0.569, -0.439),
    )
    facing: Profile = (
        *(-0.135, 0.064, 0.229, 0.298, 0.312, 0.251, 0.260),
        *(0.296, 0.332, 0.348, 0.190, -0.050, -0.177, -0.215),
    )
    line: Profile = (
        *(0.142, 0.197, 0.275, 0.274, 0.208, 0.084, 0.076),
        *(0.187, 0.396, 0.614, 0.614, 0.417, 0.196, -0.033),
    )
    free: Profile = (
        *(0.014, 0.011, 0.008, 0.007, 0.007, 0.008, 0.014),
        *(0.021, 0.029, 0.035, 0.038, 0.041, 0.041, 0.041),
    )
    road_m: Profile = (0, 1.5, 3, 6, 10, 16, 25)
    ground: Profile = (0.0165, 0.0158, 0.0150, 0.0125, 0.0125, 0.0135, 0.0150)
    surface: Profile = (0.01, 0.01, 0.01, -0.02, -0.035, -0.05, -0.05)
    beside: Profile = (-0.005, 0.005, 0.01, 0.0075, 0.0025, 0.0, 0.0)
    path: Profile = (1.2, 0.975, 0.75, -0.75, -2.25, -3.75, -4.5)
    course: float = 1.125

    @pydantic.model_validator(mode="after")
    def _fits(self) -> LikelihoodSettings:
        for knots, names in (
            ("edge_m", ("wall", "facing", "line", "free")),
            ("road_m", ("ground", "surface", "beside", "path")),
        ):
            at = getattr(self, knots)
            if len(at) < 2 or not np.all(np.diff(at) > 0):
                raise ValueError(f"{knots} has to be two or more increasing distances")
            for name in names:
                if len(getattr(self, name)) != len(at):
                    raise ValueError(f"{name} needs {len(at)} values, one for each of {knots}")
        return self


@dataclass(frozen=True)
class LikelihoodFields:
    """Log-likelihood ratios of the map, on a grid of square cells.

    Attributes:
        channels: (C, H, W) float32, each added by one unit of its channel of evidence; order as in
            ``evidence.CHANNELS``, row 0 is north.
        west, north: Outer corner of cell (0, 0), metres.
        resolution: Metres per cell.
    """

    channels: F32
    west: float
    north: float
    resolution: float


class Surroundings(NamedTuple):
    """What of the map matters to a cell; all (H, W) float32.

    Attributes:
        edge: Signed metres to the nearest building edge, negative inside.
        east, north: Unit vector that this edge faces: out of the building.
        road: Metres to the nearest road.
        course_cos, course_sin: Of twice the course of the roads around; shorter at crossroads.
    """

    edge: F32
    east: F32
    north: F32
    road: F32
    course_cos: F32
    course_sin: F32


def surroundings(building: F32, road: F32, resolution: float) -> Surroundings:
    """From the (H, W) shares of each cell that buildings and roads cover."""
    edge = signed_distance(building, resolution, OVERLAP_M / 4)
    smooth = ndimage.gaussian_filter(edge, SMOOTH_M / resolution)
    east, south = ndimage.sobel(smooth, 1), ndimage.sobel(smooth, 0)
    steep = np.maximum(np.hypot(east, south), 1e-6)
    distance = signed_distance(np.ceil(road), resolution, OVERLAP_M)
    cos, sin = _course(road > 0, resolution)
    return Surroundings(edge, east / steep, -south / steep, np.maximum(distance, 0), cos, sin)


def _course(road: NDArray[np.bool_], resolution: float) -> tuple[F32, F32]:
    """Cosine and sine of twice the angle along which the roads around each cell run."""
    window = 2 * round(CROSSROADS_M / resolution / 2) + 1
    # Never below half a pixel: far from roads, what rounding leaves of the sums is no course.
    weight = road.astype(np.float32)
    var_x, var_y, covariance = spread(weight, window, resolution, 0.5 / window**2)
    size = np.maximum(var_x + var_y, 1.0)
    return ((var_x - var_y) / size).astype(np.float32), (2 * covariance / size).astype(np.float32)


def make_fields(
    raster: MapRaster, resolution: float, settings: LikelihoodSettings
) -> LikelihoodFields:
    """The fields of a map at ``resolution`` metres per cell (a multiple of the raster's).

    Each is shifted so that its mean over the map is 0: what falls off the map tells nothing.
    """
    building, road = raster.coverage(BUILDING, resolution), raster.coverage(ROAD, resolution)
    height, overlap = len(building), round(OVERLAP_M / resolution)
    channels = np.empty((len(CHANNELS), *building.shape), np.float32)
    for start in range(0, height, STRIP):
        top, stop = max(start - overlap, 0), min(start + STRIP, height)
        strip = slice(top, stop + overlap)
        around = surroundings(building[strip], road[strip], resolution)
        inner = slice(start - top, stop - top)
        channels[:, start:stop] = _ratios(around, settings)[:, inner]
    for channel in (WALL, FREE, GROUND, SURFACE, BESIDE, PATH):
        channels[channel] -= channels[channel].mean(dtype=np.float64)
    return LikelihoodFields(channels, raster.west, raster.north, resolution)


def _ratios(around: Surroundings, settings: LikelihoodSettings) -> F32:
    """(C, H, W) log-likelihood ratios."""
    wall, facing, line, free = (
        np.interp(around.edge, settings.edge_m, getattr(settings, name)).astype(np.float32)
        for name in ("wall", "facing", "line", "free")
    )
    ground, surface, beside, path = (
        np.interp(around.road, settings.road_m, getattr(settings, name)).astype(np.float32)
        for name in ("ground", "surface", "beside", "path")
    )
    east, north = around.east, around.north
    return np.stack(
        [
            *(wall, facing * east, facing * north),
            *(line * (east**2 - north**2), line * 2 * east * north),
            *(free, ground, surface, beside, path),
            *(settings.course * around.course_cos, settings.course * around.course_sin),
        ]
    )


def signed_distance(coverage: F32, resolution: float, clip_m: float) -> F32:
    """(H, W) share of each cell covered -> (H, W) metres to the edge, negative inside, clipped."""
    inside = coverage >= 0.5
    if not inside.any():
        return np.full(coverage.shape, clip_m, np.float32)
    outward = ndimage.distance_transform_edt(~inside).astype(np.float32)
    inward = ndimage.distance_transform_edt(inside).astype(np.float32)
    # Distances run between centres; the edge lies half a cell before the first one beyond it.
    signed = np.where(inside, 0.5 - inward, outward - 0.5) * np.float32(resolution)
    return np.clip(signed, -clip_m, clip_m)


def coarser(fields: LikelihoodFields, factor: int) -> LikelihoodFields:
    """The mean of blocks of ``factor`` times ``factor`` cells; zeros beyond the map's edge."""
    height, width = fields.channels.shape[1:]
    padded = np.pad(fields.channels, ((0, 0), (0, -height % factor), (0, -width % factor)))
    blocks = padded.reshape(len(padded), padded.shape[1] // factor, factor, -1, factor)
    return LikelihoodFields(
        blocks.mean(axis=(2, 4)), fields.west, fields.north, fields.resolution * factor
    )


def log_likelihood(
    poses: Array, evidence: list[Points], rotation: float, fields: LikelihoodFields
) -> Array:
    """(K, P) log-likelihood ratio of a tile's evidence at (K, P, 3) poses (east, north, heading).

    Bilinear in the fields; what falls outside the map adds nothing.

    Args:
        poses: Of the vehicle.
        evidence: Of the tile, as ``evidence.points`` gives it.
        rotation: The tile's ``rotation`` (radians).
        fields: The map's.
    """
    turn = poses.reshape(-1, 3)[:, 2] - rotation
    total = np.zeros(len(turn))
    for group in evidence:
        if len(group.xy) == 0:
            continue
        last = group.first + group.values.shape[1]
        sampled = _sample(fields, slice(group.first, last), poses.reshape(-1, 3), turn, group.xy)
        # (C, P, C): the sum over the points of each field times each channel.
        product = (sampled @ group.values).astype(np.float64)
        turning = [pair for pair in SPINS if group.first <= pair[0] < last]
        plain = set(range(group.first, last)) - {c for a, b, _ in turning for c in (a, b)}
        for channel in plain:
            total += product[channel - group.first, :, channel - group.first]
        for first, second, spin in turning:
            a, b = first - group.first, second - group.first
            total += np.cos(spin * turn) * (product[a, :, a] + product[b, :, b])
            total += np.sin(spin * turn) * (product[b, :, a] - product[a, :, b])
    return total.reshape(poses.shape[:-1])


def _sample(fields: LikelihoodFields, channels: slice, poses: Array, turn: Array, xy: F32) -> F32:
    """(C, P, N) values of some fields under the points (N, 2) ``xy`` of a tile at (P, 3) poses."""
    c, s = np.cos(turn).astype(np.float32)[:, None], np.sin(turn).astype(np.float32)[:, None]
    # Relative to the raster's corner, float32 holds a city's coordinates to a millimetre.
    east = (poses[:, :1] - fields.west).astype(np.float32)
    south = (fields.north - poses[:, 1:2]).astype(np.float32)
    height, width = fields.channels.shape[1:]
    across = (east + c * xy[:, 0] - s * xy[:, 1]) * (2 / (width * fields.resolution)) - 1
    down = (south - s * xy[:, 0] - c * xy[:, 1]) * (2 / (height * fields.resolution)) - 1
    grid = torch.from_numpy(np.stack([across, down], axis=-1).astype(np.float32))
    image = torch.from_numpy(fields.channels[channels])[None]
    return torch.nn.functional.grid_sample(image, grid[None], align_corners=False)[0].numpy()
