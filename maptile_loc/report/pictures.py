"""Pictures out of rasters and tiles: arrays in, arrays out."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from matplotlib import image as mpl_image
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.city.raster import BUILDING, PATH, ROAD, MapRaster
from data_prep.geometry import Array
from maptile_loc.report.findings import CHI2_95
from maptile_loc.types import QueryTile

MAP_PIXELS = 2400
"""The longest side of a map picture."""
ERROR_LIMITS_M = (1, 2, 5, 10)
ERROR_COLOURS = ("#0072b2", "#56b4e9", "#f0e442", "#e69f00", "#d55e00")
"""Okabe and Ito's palette, told apart by colour-blind eyes; the last is for all beyond."""
INK = "#1b2330"
SEEN_COLOURS = {
    "wall": INK,
    "road": "#a9bbdc",
    "ground": "#bfe3d6",
    "seen, empty": "#ffffff",
    "not seen": "#d3d7de",
}
"""How a query tile is drawn for people."""

Picture = NDArray[np.uint8]


def map_crop(raster: MapRaster, centre: Array, size: int, resolution: float) -> Picture:
    """(3, size, size) uint8 bands of the map around ``centre`` (east, north), north up.

    Nearest pixels; zero beyond the map's edge.
    """
    east, north = centre + _grid(size, resolution)
    cell = np.floor(raster.pixel_from_world(np.stack([east, north], axis=-1))).astype(np.int64)
    row, column = cell[..., 0], cell[..., 1]
    inside = (row >= 0) & (row < raster.height) & (column >= 0) & (column < raster.width)
    row, column = np.where(inside, row, 0), np.where(inside, column, 0)
    return raster.data[:, row, column] * inside


def tile_on_map(tile: QueryTile, heading: float) -> NDArray[np.float32]:
    """(S, S) wall evidence turned north-up for a vehicle that heads ``heading`` (grid, radians)."""
    east, north = _grid(tile.size, tile.resolution)
    turn = tile.rotation - heading
    x = np.cos(turn) * east - np.sin(turn) * north
    y = np.sin(turn) * east + np.cos(turn) * north
    column = np.floor(tile.size / 2 + x / tile.resolution).astype(np.int64)
    row = np.floor(tile.size / 2 - y / tile.resolution).astype(np.int64)
    inside = (row >= 0) & (row < tile.size) & (column >= 0) & (column < tile.size)
    return tile.wall[np.where(inside, row, 0), np.where(inside, column, 0)] * inside


def ellipses(covariance: Array) -> Array:
    """(Q, 3, 3) -> (Q, 3): 95 % ellipses, semi-axes in metres (long, short), angle of the long one.

    The angle is in radians counter-clockwise from east. NaN where the covariance is.
    """
    result = np.full((len(covariance), 3), np.nan)
    known = np.isfinite(covariance[:, :2, :2]).all(axis=(1, 2))
    values, vectors = np.linalg.eigh(covariance[known, :2, :2])
    result[known, :2] = np.sqrt(np.maximum(values[:, ::-1], 0.0) * CHI2_95)
    result[known, 2] = np.arctan2(vectors[:, 1, 1], vectors[:, 0, 1])
    return result


def map_view(raster: MapRaster, places: Array, margin_m: float) -> MapRaster:
    """The part of the map around ``places`` (all of it where there are none), coarse enough."""
    row0, column0, row1, column1 = 0, 0, raster.height, raster.width
    inside = places[raster.inside(places)]
    if len(inside):
        rows, columns = raster.pixel_from_world(inside).T
        margin = margin_m / raster.resolution
        row0, row1 = max(0, int(rows.min() - margin)), min(row1, int(rows.max() + margin) + 1)
        column0 = max(0, int(columns.min() - margin))
        column1 = min(column1, int(columns.max() + margin) + 1)
    data = raster.data[:, row0:row1, column0:column1]
    factor = -(-max(data.shape[1:]) // MAP_PIXELS)
    west, north = raster.world_from_pixel(np.array([row0, column0], np.float64))
    crop = replace(raster, data=data, west=float(west), north=float(north))
    if factor == 1:
        return crop
    resolution = raster.resolution * factor
    progress = tqdm(range(len(data)), desc="shrink map", delay=1.0, leave=False, disable=None)
    bands = [crop.coverage(band, resolution) for band in progress]
    return replace(
        crop, data=np.round(np.stack(bands) * 255).astype(np.uint8), resolution=resolution
    )


def coloured_map(raster: MapRaster) -> Picture:
    """(H, W, 3) the map for people, on light paper."""
    return paint(raster.data, "#eef0f2", "#e0dccf", "#ffffff", "#b9c0cb")


def paint(data: Picture, ground: str, path: str, road: str, building: str) -> Picture:
    """(3, H, W) uint8 bands, 255 is covered -> (H, W, 3) in the colours given ("#rrggbb")."""
    picture = np.broadcast_to(rgb(ground), (*data.shape[1:], 3)).astype(np.float32)
    for band, colour in ((PATH, path), (ROAD, road), (BUILDING, building)):
        cover = data[band][..., None] / np.float32(255)
        picture += cover * (rgb(colour) - picture)
    return picture.round().astype(np.uint8)


def rgb(colour: str) -> NDArray[np.float32]:
    """``#rrggbb`` -> (3,) float32, 0..255."""
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


def _grid(size: int, resolution: float) -> Array:
    """(2, size, size) east and north of a north-up tile's pixel centres from its centre."""
    steps = (np.arange(size) + 0.5 - size / 2) * resolution
    return np.stack(np.broadcast_arrays(steps[None, :], -steps[:, None]))


def png_uri(picture: Picture) -> str:
    """(H, W, 3) uint8 -> a PNG as a data: address."""
    buffer = io.BytesIO()
    mpl_image.imsave(buffer, picture, format="png", pil_kwargs={"optimize": True})
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def broken_line(places: Array) -> Array:
    """(N, 2) with NaN put into steps far longer than usual, where ground was left out."""
    step = np.linalg.norm(np.diff(places, axis=0), axis=1)
    usual = np.nanmedian(step) if np.isfinite(step).any() else 0.0
    jumps = np.flatnonzero(step > max(30.0, 4 * usual)) + 1
    return np.insert(places, jumps, np.nan, axis=0)


def seen_picture(tile: QueryTile) -> Picture:
    """(S, S, 3) the tile for people, in ``SEEN_COLOURS``."""
    wall, road, ground, empty, unseen = (rgb(colour) for colour in SEEN_COLOURS.values())
    picture = np.broadcast_to(unseen, (tile.size, tile.size, 3)).astype(np.float32)
    for channel, colour in (
        (tile.observed, empty),
        (tile.ground, ground),
        (np.zeros_like(tile.wall) if tile.road is None else np.maximum(tile.road, 0), road),
        (np.minimum(tile.wall * 1.5, 1.0), wall),
    ):
        picture += channel[..., None] * (colour - picture)
    return picture.round().astype(np.uint8)
