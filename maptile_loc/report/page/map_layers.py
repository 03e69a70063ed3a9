"""The map in the page: pictures from coarse to fine, and latitude and longitude of positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array
from maptile_loc.report.pictures import map_view, png_uri

DETAIL_M = 300.0
"""Metres of map around the drive in the fine picture."""
AROUND_M = 3000.0
"""Metres of map around the drive in the coarse picture."""
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
        ``src`` (a ``data:`` address) and ``box`` (west, south, east, north in metres from the map's
        centre) of each.
    """
    views = [map_view(raster, positions, margin_m) for margin_m in (AROUND_M, DETAIL_M)]
    if views[0].resolution == views[1].resolution:
        del views[1]
    return [
        {"src": png_uri(np.moveaxis(view.data, 0, -1)), "box": edges(view, raster.centre)}
        for view in views
    ]


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
