"""Windows of the map raster as training tiles: the map's own footprints, as a drawing shows them.

A window has the look of the map: all walls of all buildings are in it, also those that no vehicle
could see. Query tiles are given the same look as far as they can: their wall evidence is the
building channel, their road evidence the road channel.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from data_prep.city.raster import BANDS, BUILDING, MapRaster
from data_prep.settings import Settings
from maptile_loc.types import QueryTile

Channel = Literal["building", "road", "path"]
"""A band of the map."""
CUT = 0.5
"""Evidence of a query tile from which on a pixel is taken to be building or road."""
BEHIND_M = 9.0
"""With filled buildings: metres behind a wall that are taken to be the building."""
BEHIND_STEP_M = 0.5
"""Steps in which the ground between a pixel and the vehicle is tested for walls."""


class MapWindowSettings(Settings):
    """What a window shows."""

    look: Literal["edges", "filled"] = "edges"
    """Buildings as their outlines, or filled."""
    channels: tuple[Channel, ...] = Field(("building", "road"), min_length=1)
    """Bands of the map, in this order. Nothing in a query tile shows paths: there, it is empty."""
    size_px: int = Field(64, ge=8)
    """Pixels along a window's side."""
    resolution: float = Field(1.5, gt=0)
    """Metres per pixel."""
    kept_out_m: float = Field(24.0, gt=0)
    """Side of the squares that hold no centre of a training window; they serve validation."""
    kept_out_every_m: float = Field(96.0, gt=0)
    """Distance from one such square to the next, east and north."""

    @property
    def size_m(self) -> float:
        """Metres along a window's side."""
        return self.size_px * self.resolution


def window_planes(raster: MapRaster, settings: MapWindowSettings) -> Tensor:
    """(C, H, W) uint8, 1 where set: the bands of a map, in the look and order of ``settings``."""
    pixels = raster.window(0, 0, raster.height, raster.width)
    planes = [
        torch.from_numpy((pixels[BANDS.index(one)] > 0).astype(np.uint8))
        for one in settings.channels
    ]
    if settings.look == "edges":
        for number, one in enumerate(settings.channels):
            if one == BANDS[BUILDING]:
                planes[number] = _outline(planes[number])
    return torch.stack(planes)


def cut_windows(
    planes: Tensor, resolution: float, centre: Tensor, angle: Tensor, settings: MapWindowSettings
) -> Tensor:
    """Cut windows out of a map.

    Args:
        planes: (C, H, W) uint8, as of ``window_planes``.
        resolution: Metres per pixel of the planes.
        centre: (B, 2) float64 row and column of the windows' centres, pixels of the planes.
        angle: (B,) float32 radians, direction of the windows' x axes from east; 0 is north-up.
        settings: Size of the windows.

    Returns:
        (B, C, S, S) float32: the largest value of the map's pixels in each. Outside the map is 0.
    """
    side = round(settings.size_m / resolution)
    local = torch.arange(side, dtype=torch.float64) + 0.5 - side / 2
    c, s = torch.cos(angle.double())[:, None, None], torch.sin(angle.double())[:, None, None]
    right, down = local[None, None, :], local[None, :, None]
    row = (centre[:, :1, None] + c * down - s * right).floor().long()
    column = (centre[:, 1:, None] + c * right + s * down).floor().long()
    _, height, width = planes.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    flat = torch.where(inside, row * width + column, 0)
    cut = planes.flatten(1)[:, flat] * inside
    size = (settings.size_px, settings.size_px)
    return functional.adaptive_max_pool2d(cut.transpose(0, 1).float(), size)


def read_windows(
    raster: MapRaster, centre: Tensor, angle: Tensor, settings: MapWindowSettings
) -> Tensor:
    """Cut windows out of a map of which only their surroundings are read.

    Args:
        raster: The map.
        centre: (B, 2) float64 row and column of the windows' centres, pixels of the map.
        angle: (B,) as for ``cut_windows``.
        settings: Look and size of the windows.

    Returns:
        (B, C, S, S) float32, as of ``cut_windows``.
    """
    reach = math.ceil(settings.size_m / raster.resolution * math.sqrt(0.5)) + 2
    size = np.array([raster.height, raster.width])
    windows = []
    for number, middle in enumerate(np.floor(centre.numpy()).astype(np.int64)):
        # An edge of the map is no outline, so nothing beyond it is read.
        low, high = np.clip(middle - reach, 0, size - 1), np.clip(middle + reach, 1, size)
        part = replace(raster, data=raster.window(*low.tolist(), *(high - low).tolist()))
        at = centre[number : number + 1] - torch.from_numpy(low)
        planes = window_planes(part, settings)
        windows.append(
            cut_windows(planes, raster.resolution, at, angle[number : number + 1], settings)
        )
    return torch.cat(windows)


def window_from_query(query: QueryTile, settings: MapWindowSettings) -> Tensor:
    """(C, S, S) float32: a query tile in the look of a window.

    With filled buildings, also the unobserved ground up to ``BEHIND_M`` behind a wall, as seen from
    the nearest point of the path, is building.
    """
    wall = torch.from_numpy(np.ascontiguousarray(query.wall, np.float32))
    building = _filled(query, wall) if settings.look == "filled" else (wall >= CUT).float()
    road = np.zeros_like(query.wall) if query.road is None else query.road
    planes = {
        "building": building,
        "road": torch.from_numpy((road >= CUT).astype(np.float32)),
        "path": torch.zeros_like(wall),
    }
    tile = torch.stack([planes[one] for one in settings.channels])
    spare = round((query.size - settings.size_m / query.resolution) / 2)
    size = (settings.size_px, settings.size_px)
    return functional.adaptive_max_pool2d(functional.pad(tile, [-spare] * 4), size)


def _outline(filled: Tensor) -> Tensor:
    """(H, W) uint8: the pixels of buildings that touch a pixel without one."""
    padded = functional.pad(filled[None, None], [1] * 4, mode="constant", value=1)[0, 0]
    height, width = filled.shape
    inner = torch.stack(
        [
            padded[1 + r : 1 + r + height, 1 + c : 1 + c + width]
            for r, c in ((-1, 0), (1, 0), (0, -1), (0, 1))
        ]
    ).amin(0)
    return filled * (1 - inner)


def _filled(query: QueryTile, wall: Tensor) -> Tensor:
    """(S, S) float32, 1 where a wall is, or unobserved ground behind one."""
    size, step = query.size, query.resolution
    path = query.path if len(query.path) else np.zeros((1, 2), np.float32)
    centre = (torch.arange(size) + 0.5 - size / 2) * step
    place = torch.stack(torch.meshgrid(centre, -centre, indexing="xy"), -1).view(-1, 2)
    seen_from = torch.from_numpy(np.ascontiguousarray(path, np.float32))
    nearest = seen_from[torch.cdist(place, seen_from).argmin(1)]
    toward = nearest - place
    length = toward.norm(dim=1, keepdim=True)
    toward = toward / length.clamp_min(1e-6)
    building = (wall >= CUT).flatten()
    behind = torch.zeros_like(building)
    for number in range(1, math.floor(BEHIND_M / BEHIND_STEP_M) + 1):
        at = place + toward * torch.minimum(torch.full_like(length, number * BEHIND_STEP_M), length)
        column = (size / 2 + at[:, 0] / step).floor().long().clamp(0, size - 1)
        row = (size / 2 - at[:, 1] / step).floor().long().clamp(0, size - 1)
        behind |= building[row * size + column]
    unseen = torch.from_numpy(np.ascontiguousarray(query.observed)).flatten() == 0
    return (building | (behind & unseen)).float().view(size, size)
