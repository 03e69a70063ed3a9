"""Centre lines of roads, from a band of a map raster."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array

Mask = NDArray[np.bool_]
"""An array of bool."""

SIMPLIFIED_M = 0.6
"""Largest distance of a simplified line from the skeleton, metres: it removes the pixels' steps."""

STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Rows and columns from a pixel to its neighbour: of each pair of opposite neighbours, one."""


def skeleton(mask: Mask) -> Mask:
    """(H, W) lines of one pixel's width in the middle of the shapes of (H, W) ``mask``.

    The thinning of Zhang and Suen, Communications of the ACM 27 (1984), pages 236 to 239.
    """
    image = np.pad(mask, 1)
    inner = image[1:-1, 1:-1]
    height, width = mask.shape
    # Neighbours clockwise from north, as the paper numbers them.
    around = ((0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (0, 0))
    changed = True
    while changed:
        changed = False
        for first in (True, False):
            ring = [image[r : r + height, c : c + width] for r, c in around]
            count = np.sum(ring, axis=0, dtype=np.int8)
            begins = np.sum(
                [~a & b for a, b in zip(ring, ring[1:] + ring[:1], strict=True)], 0, np.int8
            )
            north, east, south, west = ring[::2]
            kept = east & south & (north | west) if first else north & west & (east | south)
            gone = inner & (count >= 2) & (count <= 6) & (begins == 1) & ~kept
            inner[gone] = False
            changed |= bool(gone.any())
    return inner.copy()


def merged(lines: NDArray[Any]) -> NDArray[Any]:
    """(L,) lines from junction to junction or end, from lines that touch at their ends."""
    return np.asarray(shapely.get_parts(shapely.line_merge(shapely.multilinestrings(lines))))


def skeleton_lines(thin: Mask) -> NDArray[Any]:
    """(L,) lines through the pixels of a skeleton; x is the column, y the row of a pixel."""
    edges = []
    for down, right in STEPS:
        row, column = np.nonzero(thin)
        inside = (row + down < thin.shape[0]) & (column + right >= 0)
        inside &= column + right < thin.shape[1]
        row, column = row[inside], column[inside]
        joined = thin[row + down, column + right]
        if down and right:  # a corner is passed by its two sides, where one of these is there
            joined &= ~thin[row, column + right] & ~thin[row + down, column]
        row, column = row[joined], column[joined]
        edges.append(
            np.stack([np.stack([column, row], 1), np.stack([column + right, row + down], 1)], 1)
        )
    ends = np.concatenate(edges)
    return merged(shapely.linestrings(ends.astype(float))) if len(ends) else np.empty(0, object)


def spurs(lines: NDArray[Any], half_width: Array) -> Mask:
    """(L,) whether a line has one free end and is not longer than the road's width there.

    Args:
        lines: (L,) lines that touch at their ends, in pixels.
        half_width: (H, W) distance of each pixel from the edge of its road, pixels.
    """
    ends = np.stack([shapely.get_coordinates(shapely.get_point(lines, at)) for at in (0, -1)], 1)
    points, which, count = np.unique(
        ends.reshape(-1, 2), axis=0, return_inverse=True, return_counts=True
    )
    free = (count == 1)[which].reshape(-1, 2)
    at = points.astype(np.int64)
    reach = 2 * half_width[at[:, 1], at[:, 0]][which].reshape(-1, 2).max(axis=1)
    return np.asarray((free.sum(axis=1) == 1) & (shapely.length(lines) <= reach))


def road_lines(raster: MapRaster, band: int) -> tuple[NDArray[Any], Array]:
    """Centre lines and widths of the roads of one band of a raster.

    Args:
        raster: The map.
        band: ``raster.ROAD`` or ``raster.PATH``.

    Returns:
        (L,) lines in the map frame, and their (L,) widths, metres: the median along each line.
    """
    mask = raster.data[band] > 0
    half = np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]
    lines = skeleton_lines(skeleton(mask))
    if not len(lines):
        return lines, np.empty(0)
    lines = lines[~spurs(lines, half)]
    lines = merged(lines) if len(lines) else lines
    xy, owner = shapely.get_coordinates(lines, return_index=True)
    at = xy.astype(np.int64)
    along = half[at[:, 1], at[:, 0]]
    median = ndimage.median(along, owner, np.arange(len(lines)))
    # Distances are to the centre of the nearest pixel outside: half a pixel beyond the edge.
    # The middle of an even number of pixels is half a pixel beside the centre line.
    width = (2 * np.asarray(median, np.float64) - 0.5) * raster.resolution
    world = raster.world_from_pixel(xy[:, ::-1] + 0.5)
    lines = shapely.set_coordinates(lines, world)
    return np.asarray(shapely.simplify(lines, SIMPLIFIED_M)), width
