"""The likelihood of a query tile at a pose on the map: the score of search and alignment.

Each piece of evidence adds a log-likelihood ratio: how much more probable it is there, given the
map under it, than anywhere. For a wall observed at the signed distance d from the nearest building
edge (negative inside a building), with an angle a between its normal and the edge's, it is

    wall(d) + facing(d) cos a + line(d) cos 2a.

Free space adds free(d), ground adds ground(r) with r the distance to the nearest road, surface(r)
more on a road's surface and beside(r) beside one. The trajectory adds path(r) + course cos 2b, with
b the angle between its course and the road's. The profiles are piecewise linear. They are a
conditional logit (McFadden 1974), fitted so that the true pose is the most probable of all poses.
So they contain the errors of sensors and map, and the correlation of neighbouring cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.geometry import Array
from maptile_loc.score.channels import CHANNELS, Profiles
from maptile_loc.score.evidence import Points
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.score.surroundings import REACH_M, surroundings

F32 = NDArray[np.float32]
STRIP = 1024
"""Rows of the map of which the fields are made at a time, which bounds the memory."""


@dataclass(frozen=True)
class LikelihoodFields:
    """Log-likelihood ratios of the map, on a grid of square cells.

    Attributes:
        channels: (C, H, W) float32, one per row of ``channels.CHANNELS``: what one unit of the
            channel's evidence adds to the score. Row 0 is north.
        west: East coordinate of the outer corner of cell (0, 0), metres.
        north: North coordinate of that corner, metres.
        resolution: Metres per cell.
        building: (H, W) bool, whether a building covers half of the cell or more.
    """

    channels: F32
    west: float
    north: float
    resolution: float
    building: NDArray[np.bool_]


def make_fields(
    raster: MapRaster, resolution: float, settings: LikelihoodSettings
) -> LikelihoodFields:
    """The likelihood fields of a map.

    Args:
        raster: The map.
        resolution: Metres per cell, a multiple of the raster's.
        settings: The profiles.

    Returns:
        The fields. Those without a direction have a mean of 0 over the map, so that evidence off
        the map adds nothing.
    """
    building, road = raster.coverage(BUILDING, resolution), raster.coverage(ROAD, resolution)
    height, overlap = len(building), round(REACH_M / resolution)
    channels = np.empty((len(CHANNELS), *building.shape), np.float32)
    for start in range(0, height, STRIP):
        top, stop = max(start - overlap, 0), min(start + STRIP, height)
        strip = slice(top, stop + overlap)
        around = surroundings(building[strip], road[strip], resolution, settings)
        profiles, inner = Profiles(around, settings), slice(start - top, stop - top)
        for number, channel in enumerate(CHANNELS):
            channels[number, start:stop] = channel.profile(profiles)[inner]
    for field, channel in zip(channels, CHANNELS, strict=True):
        if channel.centred:
            field -= field.mean(dtype=np.float64)
    return LikelihoodFields(channels, raster.west, raster.north, resolution, building >= 0.5)


def coarser(fields: LikelihoodFields, factor: int) -> LikelihoodFields:
    """The means of blocks of ``factor`` x ``factor`` cells, with zeros beyond the map's edge."""
    height, width = fields.channels.shape[1:]
    edge = (0, -height % factor), (0, -width % factor)
    padded = np.pad(fields.channels, ((0, 0), *edge))
    blocks = padded.reshape(len(padded), padded.shape[1] // factor, factor, -1, factor)
    building = np.pad(fields.building, edge).reshape(*blocks.shape[1:])
    return LikelihoodFields(
        blocks.mean(axis=(2, 4)),
        fields.west,
        fields.north,
        fields.resolution * factor,
        building.mean(axis=(1, 3)) >= 0.5,
    )


def log_likelihood(
    poses: Array, evidence: Sequence[Points], rotation: float, fields: LikelihoodFields
) -> Array:
    """(K, P) float64 log-likelihood ratio of a tile's evidence at each pose.

    The fields are interpolated bilinearly. Evidence outside the map adds nothing.

    Args:
        poses: (K, P, 3) east, north (metres, map frame), heading (radians) of the vehicle.
        evidence: The tile's, as ``Evidence.points`` gives it.
        rotation: The tile's ``rotation``, radians.
        fields: The map's.
    """
    turn = poses.reshape(-1, 3)[:, 2] - rotation
    total = np.zeros(len(turn))
    for points in evidence:
        if len(points.xy) == 0:
            continue
        group = points.group
        sampled = _sample(fields, group.span, poses.reshape(-1, 3), turn, points.xy)
        # (C, P, C): the sum over the points of each field times each channel.
        product = (sampled @ points.values).astype(np.float64)
        for number, channel in enumerate(group.channels):
            if channel.spin == 0:
                total += product[number, :, number]
        for a, b, spin in group.spins:
            total += np.cos(spin * turn) * (product[a, :, a] + product[b, :, b])
            total += np.sin(spin * turn) * (product[b, :, a] - product[a, :, b])
    return total.reshape(poses.shape[:-1])


def point_likelihood(
    poses: Array, points: Points, rotation: float, fields: LikelihoodFields
) -> Array:
    """(N, P) float64 log-likelihood ratio of each of N points of one group, at each pose.

    Their sum over the points of all groups is ``log_likelihood``.

    Args:
        poses: (P, 3) east, north (metres, map frame), heading (radians) of the vehicle.
        points: One group of the tile's evidence.
        rotation: The tile's ``rotation``, radians.
        fields: The map's.
    """
    group, turn = points.group, poses[:, 2] - rotation
    sampled = _sample(fields, group.span, poses, turn, points.xy)
    values = points.values.T[:, None]
    total = np.zeros(sampled.shape[1:])
    for number, channel in enumerate(group.channels):
        if channel.spin == 0:
            total += sampled[number] * values[number]
    for a, b, spin in group.spins:
        along = sampled[a] * values[a] + sampled[b] * values[b]
        across = sampled[b] * values[a] - sampled[a] * values[b]
        total += np.cos(spin * turn)[:, None] * along + np.sin(spin * turn)[:, None] * across
    return total.T


def _sample(fields: LikelihoodFields, channels: slice, poses: Array, turn: Array, xy: F32) -> F32:
    """(C, P, N) values of some fields under a tile's points (N, 2) ``xy``, at (P, 3) poses."""
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
