"""Pictures of maps and query tiles, as arrays."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from matplotlib import image as mpl_image
from numpy.typing import NDArray

from data_prep.city.raster import BUILDING, PATH, ROAD, MapRaster
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from maptile_loc.report.findings import CHI2_95
from maptile_loc.types import QueryTile

MAP_PIXELS = 2400
"""Largest number of pixels along a side of a map picture."""
ERROR_LIMITS_M = (1, 2, 5, 10)
"""Errors at which the colour of a query changes, metres."""
ERROR_COLOURS = ("#0072b2", "#56b4e9", "#f0e442", "#e69f00", "#d55e00")
"""Colours of queries by their errors, from Okabe and Ito's palette, which colour-blind readers can
distinguish; the last one is for errors above the last limit."""
INK = "#1b2330"
"""Colour of text and outlines."""
SEEN_COLOURS = {
    "wall": INK,
    "road": "#a9bbdc",
    "ground": "#bfe3d6",
    "free": "#ffffff",
    "unobserved": "#d3d7de",
}
"""Colours of a query tile's channels, by their names."""
WALL_CONTRAST = 1.5
"""Factor by which wall evidence is multiplied before it is drawn."""
JUMP_M = 30.0
"""Smallest step between positions at which a line is interrupted, metres."""
JUMP_STEPS = 4
"""A line is interrupted at steps of this many median steps, if that is longer than ``JUMP_M``."""

Picture = NDArray[np.uint8]
"""An (H, W, 3) picture, or (3, H, W) bands of a map; uint8."""


def map_crop(raster: MapRaster, centre: Array, size: int, resolution: float) -> Picture:
    """Return (3, size, size) uint8 bands of the map around ``centre``, north up.

    Pixels are sampled by nearest neighbour; they are zero beyond the map's edge.

    Args:
        raster: The map.
        centre: (2, 1, 1) east, north in metres.
        size: Pixels along a side.
        resolution: Metres per pixel.
    """
    east, north = centre + _pixel_centres(size, resolution)
    cell = np.floor(raster.pixel_from_world(np.stack([east, north], axis=-1))).astype(np.int64)
    top, left = cell.min(axis=(0, 1)).tolist()
    bottom, right = cell.max(axis=(0, 1)).tolist()
    part = raster.window(top, left, bottom - top + 1, right - left + 1)
    return part[:, cell[..., 0] - top, cell[..., 1] - left]


def tile_on_map(tile: QueryTile, heading: float) -> NDArray[np.float32]:
    """Return (S, S) wall evidence of a query tile, turned so that north is up.

    Args:
        tile: The query tile.
        heading: The vehicle's heading, radians from grid east.
    """
    east, north = _pixel_centres(tile.size, tile.resolution)
    turn = tile.rotation - heading
    x = np.cos(turn) * east - np.sin(turn) * north
    y = np.sin(turn) * east + np.cos(turn) * north
    column = np.floor(tile.size / 2 + x / tile.resolution).astype(np.int64)
    row = np.floor(tile.size / 2 - y / tile.resolution).astype(np.int64)
    inside = (row >= 0) & (row < tile.size) & (column >= 0) & (column < tile.size)
    return tile.wall[np.where(inside, row, 0), np.where(inside, column, 0)] * inside


def ellipses(covariance: Array) -> Array:
    """Return (Q, 3): the ellipse that holds 95 % of each position's probability.

    Args:
        covariance: (Q, 3, 3) of (east, north, heading).

    Returns:
        Semi-axes in metres (long, short), and the direction of the long one, radians
        counter-clockwise from east. NaN where the covariance is.
    """
    result = np.full((len(covariance), 3), np.nan)
    known = np.isfinite(covariance[:, :2, :2]).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(covariance[known, :2, :2])
    result[known, :2] = np.sqrt(np.maximum(values[:, ::-1], 0.0) * CHI2_95)
    result[known, 2] = np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1])
    return result


def map_view(
    raster: MapRaster,
    positions: Array,
    margin_m: float,
    progress: Progress = silent,
    pixels: int = MAP_PIXELS,
) -> MapRaster:
    """Return the part of a map around ``positions``, at most ``pixels`` pixels wide or high.

    A pixel of a reduced map is 255 times the share of its area that is covered.

    Args:
        raster: The map.
        positions: (N, 2) east, north in metres. The whole map is returned if none is on it.
        margin_m: Metres of map around the positions.
        progress: Called while a large map is reduced.
        pixels: Largest number of pixels along a side.
    """
    row0, column0, row1, column1 = 0, 0, raster.height, raster.width
    inside = positions[raster.inside(positions)]
    if len(inside):
        rows, columns = raster.pixel_from_world(inside).T
        margin = margin_m / raster.resolution
        row0, row1 = max(0, int(rows.min() - margin)), min(row1, int(rows.max() + margin) + 1)
        column0 = max(0, int(columns.min() - margin))
        column1 = min(column1, int(columns.max() + margin) + 1)
    factor = -(-max(row1 - row0, column1 - column0) // pixels)
    part = row0, column0, row1 - row0, column1 - column0
    west, north = raster.world_from_pixel(np.array([row0, column0], np.float64)).tolist()
    data = raster.window(*part) if factor == 1 else raster.reduced(*part, factor, progress)
    return replace(raster, data=data, west=west, north=north, resolution=raster.resolution * factor)


def coloured_map(raster: MapRaster) -> Picture:
    """Return the map as an (H, W, 3) picture in light colours."""
    return paint(np.asarray(raster.data), "#eef0f2", "#e0dccf", "#ffffff", "#b9c0cb")


def paint(data: Picture, background: str, path: str, road: str, building: str) -> Picture:
    """Return (3, H, W) uint8 bands, 255 is covered, as an (H, W, 3) picture.

    Args:
        data: Bands of a map.
        background: Colour, ``#rrggbb``, where no band covers.
        path: Colour of the band path.
        road: Colour of the band road, drawn over paths.
        building: Colour of the band building, drawn over roads.
    """
    picture = np.broadcast_to(rgb(background), (*data.shape[1:], 3)).astype(np.float32)
    for band, colour in ((PATH, path), (ROAD, road), (BUILDING, building)):
        cover = data[band][..., None] / np.float32(255)
        picture += cover * (rgb(colour) - picture)
    return picture.round().astype(np.uint8)


def rgb(colour: str) -> NDArray[np.float32]:
    """Return ``#rrggbb`` as (3,) float32, 0..255."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


def png_uri(picture: Picture) -> str:
    """Return an (H, W, 3) uint8 picture as a ``data:`` address that holds a PNG."""
    buffer = io.BytesIO()
    mpl_image.imsave(buffer, picture, format="png", pil_kwargs={"optimize": True})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def broken_line(positions: Array) -> Array:
    """Return (N, 2) positions with NaN inserted at jumps, so that no line is drawn there.

    A step is a jump if it is longer than ``JUMP_M`` and than ``JUMP_STEPS`` median steps.
    """
    step = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = np.nanmedian(step) if np.isfinite(step).any() else 0.0
    jumps = np.flatnonzero(step > max(JUMP_M, JUMP_STEPS * usual)) + 1
    return np.insert(positions, jumps, np.nan, axis=0)


def seen_picture(tile: QueryTile) -> Picture:
    """Return a query tile as an (S, S, 3) picture in ``SEEN_COLOURS``."""
    wall, road, ground, free, unobserved = (rgb(colour) for colour in SEEN_COLOURS.values())
    picture = np.broadcast_to(unobserved, (tile.size, tile.size, 3)).astype(np.float32)
    for channel, colour in (
        (tile.observed, free),
        (tile.ground, ground),
        (np.zeros_like(tile.wall) if tile.road is None else np.maximum(tile.road, 0), road),
        (np.minimum(tile.wall * WALL_CONTRAST, 1.0), wall),
    ):
        picture += channel[..., None] * (colour - picture)
    return picture.round().astype(np.uint8)


def _pixel_centres(size: int, resolution: float) -> Array:
    """Return (2, size, size) east, north of a north-up tile's pixel centres from its centre."""
    steps = (np.arange(size) + 0.5 - size / 2) * resolution
    return np.stack(np.broadcast_arrays(steps[None, :], -steps[:, None]))
