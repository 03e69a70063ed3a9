"""The map in the page: pictures from coarse to fine, and latitude and longitude of positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array
from maptile_loc.report.pictures import map_view, png_uri

DETAIL_M = 300.0
"""Metres of map around the drive in the fine picture."""
AROUND_M = 3000.0
"""Metres of map around the drive in the coarse picture."""
AROUND_PIXELS = 1200
"""Largest number of pixels along a side of the coarse picture."""
NEAR_M = 150.0
"""Metres around the drive that are shown at the map's own resolution."""
CELL_PIXELS = 512
"""Pixels along a side of a picture of the drive's surroundings."""
NEAR_BYTES = 5_000_000
"""Largest size of the pictures of the drive's surroundings; beyond it, they are reduced."""
DEGREE = 3
"""Degree of the polynomials that turn metres into degrees."""
GRID = 9
"""Positions along a side of the grid that the polynomials are fitted to."""


def map_layers(raster: MapRaster, positions: Array) -> list[dict[str, Any]]:
    """Return pictures of the map, the coarse one first; red, green, blue are the raster's bands.

    Args:
        raster: The map.
        positions: (N, 2) east, north of what the page shows, metres.

    Returns:
        ``src`` (a ``data:`` address), ``box`` (west, south, east, north in metres from the map's
        centre) and ``pixel_m`` (metres per pixel) of each.
    """
    whole = map_view(raster, positions, AROUND_M)
    if whole.resolution == raster.resolution:
        return [_layer(whole, raster)]
    coarse = map_view(raster, positions, AROUND_M, pixels=AROUND_PIXELS)
    fine = map_view(raster, positions, DETAIL_M)
    layers = [_layer(coarse, raster), _layer(fine, raster)]
    factor = 1
    while factor * raster.resolution < fine.resolution:
        near = [_layer(view, raster) for view in surroundings(raster, positions, factor)]
        if sum(len(layer["src"]) for layer in near) <= NEAR_BYTES:
            return layers + near
        factor *= 2
    return layers


def surroundings(raster: MapRaster, positions: Array, factor: int) -> Iterator[MapRaster]:
    """Yield square cells of a map that lie within ``NEAR_M`` of any of (N, 2) positions.

    Args:
        raster: The map.
        positions: East, north, metres.
        factor: By which the resolution is reduced.
    """
    side = CELL_PIXELS * factor
    reach = NEAR_M / raster.resolution
    pixels = raster.pixel_from_world(positions[raster.inside(positions)])
    shifts = (-reach, 0.0, reach)
    around = np.concatenate([pixels + [row, column] for row in shifts for column in shifts])
    cells = np.unique(np.floor(around / side).astype(np.int64), axis=0)
    for row, column in (cells * side).tolist():
        if not (-side < row < raster.height and -side < column < raster.width):
            continue
        part = row, column, side, side
        data = raster.window(*part) if factor == 1 else raster.reduced(*part, factor)
        west, north = raster.world_from_pixel(np.array([row, column], np.float64)).tolist()
        resolution = raster.resolution * factor
        yield replace(raster, data=data, west=west, north=north, resolution=resolution)


def _layer(view: MapRaster, raster: MapRaster) -> dict[str, Any]:
    src = png_uri(np.ascontiguousarray(np.moveaxis(np.asarray(view.data), 0, -1)))
    return {"src": src, "box": edges(view, raster.centre), "pixel_m": view.resolution}


def edges(raster: MapRaster, centre: Array) -> list[float]:
    """Return west, south, east, north of a map, in metres from ``centre``."""
    east, north = centre.tolist()
    return [raster.west - east, raster.south - north, raster.east - east, raster.north - north]


def degrees_from_metres(raster: MapRaster) -> dict[str, Any]:
    """Return polynomials from metres east, north of the map's centre to latitude and longitude.

    Returns:
        ``unit_m``: with x = east / unit and y = north / unit, ``latitude`` and ``longitude``
        (degrees) are the sums of their coefficients times x^i y^j, for i = 0, ..., 3 and within it
        j = 0, ..., 3 - i. On maps of 100 km they are right to some millimetres.
    """
    unit_m = max(raster.east - raster.west, raster.north - raster.south) / 2
    steps = np.linspace(-1.0, 1.0, GRID)
    x, y = (grid.ravel() for grid in np.meshgrid(steps, steps))
    positions = raster.centre + unit_m * np.column_stack([x, y])
    powers = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
    terms = np.column_stack([x**i * y**j for i, j in powers])
    fitted, *_ = np.linalg.lstsq(terms, np.column_stack(raster.projection.inverse(positions)))
    latitude, longitude = fitted.T.tolist()
    return {"unit_m": unit_m, "latitude": latitude, "longitude": longitude}
