"""Cells of single labelled scans, with the features of the wall detector."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.drive import Drive
from data_prep.geometry import Array
from maptile_loc.perceive.labels import BUILDING, GROUND, LabelTable
from maptile_loc.perceive.query_tile import survey
from maptile_loc.perceive.rays import pixels
from maptile_loc.perceive.tiles import query_tiles
from maptile_loc.perceive.walls import wall_features
from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.types import HeadingKnowledge, Queries

Mask = NDArray[np.bool_]
"""An array of bool."""

UNLABELLED = GROUND
"""Kind that stands for points without a label. Ground is found by its height, not by its label."""

TABLES = {
    "semantickitti": LabelTable(building=(50,), ground=(0, 1)),
    "kitti360": LabelTable(building=(11, 34), ground=(0, 1, 2, 3)),
    "simulated": LabelTable(building=(50,), ground=()),
}
"""Numbers of buildings and garages, and, as ``ground``, those of points without a label."""

EACH_SCAN = Queries(0.0, 0.0, heading=HeadingKnowledge("unknown"))
"""A query per scan, each turned by a random angle."""


class Cells(NamedTuple):
    """Cells of query tiles of single scans: walls, and others that are certainly none.

    Attributes:
        features: (N, F) ``FEATURES``.
        wall: (N,) bool.
        distance: (N,) metres from the sensor to the cell's centre.
        site: (N,) int64, the site of the cell's scan.
    """

    features: Array
    wall: Mask
    distance: Array
    site: NDArray[np.int64]

    def take(self, which: NDArray[np.generic]) -> Cells:
        """The cells that a mask or indices select."""
        return Cells(*(column[which] for column in self))


def together(parts: list[Cells]) -> Cells:
    """The cells of all parts."""
    return Cells(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def judged(
    cell: NDArray[np.int64], pixel: NDArray[np.int64], kind: NDArray[np.uint8], size: int
) -> tuple[Mask, Mask]:
    """Which cells are walls, and which are certainly none.

    Args:
        cell: (M,) flat index of each cell in a (size, size) tile.
        pixel: (N,) flat index of the cell of each upright point.
        kind: (N,) ``BUILDING``, ``UNLABELLED`` or another kind.
        size: Pixels along a side of the tile.

    Returns:
        (M,) a point in the cell is labelled building; and (M,) most of its points have a label, and
        neither the cell nor one of its eight neighbours has a point labelled building.
    """
    points = np.bincount(pixel, minlength=size * size)
    labelled = np.bincount(pixel[kind != UNLABELLED], minlength=size * size)
    built = np.bincount(pixel[kind == BUILDING], minlength=size * size) > 0
    near = ndimage.maximum_filter(built.reshape(size, size), 3).ravel()
    return built[cell], (~near & (2 * labelled > points))[cell]


def scan_cells(
    drive: Drive, scans: NDArray[np.int64], site: NDArray[np.int64], settings: LocalizeSettings
) -> tuple[Cells, NDArray[np.int64]]:
    """The cells of some scans, and the (S,) number of points of each scan.

    Args:
        drive: Scans with labels.
        scans: (S,) numbers of the scans.
        site: (S,) site of each.
        settings: How tiles are made.
    """
    submap = settings.submap.model_copy(update={"labels": TABLES})
    query, wall = settings.query, settings.query.wall
    size = round(query.size_m / query.resolution)
    tiles = query_tiles(drive, EACH_SCAN, 0.0, submap, query)
    found, points = [], []
    for scan, where in zip(scans.tolist(), site.tolist(), strict=True):
        seen = survey(tiles.submap(scan), float(tiles.rotation[scan]), query)
        assert seen.kind is not None
        upright = seen.upright(wall.may_be_wall(seen.height))
        cell, features = wall_features(upright, seen.bins, size, query.resolution, wall)
        pixel, inside = pixels(upright.xy, size, query.resolution)
        walls, others = judged(cell, pixel, seen.kind[upright.ray[inside]], size)
        row, column = np.divmod(cell, size)
        x = (column + 0.5 - size / 2) * query.resolution - seen.origin[0, 0]
        y = (size / 2 - row - 0.5) * query.resolution - seen.origin[0, 1]
        cells = Cells(features, walls, np.hypot(x, y), np.full(len(cell), where))
        found.append(cells.take(walls | others))
        points.append(len(seen.xy))
    return together(found), np.array(points)
