"""Cells of single labelled scans, with the features of the wall detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.drive import Drive
from data_prep.geometry import Array
from maptile_loc.perceive.query_tile import survey
from maptile_loc.perceive.rays import pixels
from maptile_loc.perceive.tiles import QueryTiles, query_tiles
from maptile_loc.perceive.walls import wall_features
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.types import HeadingKnowledge, Queries

Mask = NDArray[np.bool_]
"""An array of bool."""

Index = NDArray[np.int64]
"""An array of int64."""

GROUPS = ("other", "unlabelled", "building", "vegetation", "trunk or pole", "fence", "car")
"""Groups of labels."""

UNLABELLED = GROUPS.index("unlabelled")
"""Group of points without a label."""

BUILDING = GROUPS.index("building")
"""Group of points on buildings and garages."""

SEMANTIC_KITTI: Mapping[str, tuple[int, ...]] = {
    "unlabelled": (0, 1),
    "building": (50,),
    "vegetation": (70,),
    "trunk or pole": (71, 80, 81),
    "fence": (51,),
    "car": (10, 13, 16, 18, 20, 252, 256, 257, 258, 259),
}
"""Label numbers of SemanticKITTI, and of simulated scans; all others are other."""

MEMBERS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "semantickitti": SEMANTIC_KITTI,
    "simulated": SEMANTIC_KITTI,
    "kitti360": {
        "unlabelled": (0, 1, 2, 3),
        "building": (11, 34),
        "vegetation": (21,),
        "trunk or pole": (17, 18, 19, 20),
        "fence": (12, 13),
        "car": tuple(range(26, 32)),
    },
}
"""Label numbers of each group by the name in ``Drive.labels``; all others are other."""

EACH_SCAN = Queries(0.0, 0.0, heading=HeadingKnowledge("unknown"))
"""A query per scan, each turned by a random angle."""


class Cells(NamedTuple):
    """Cells of query tiles of single scans: walls, and others that are certainly none.

    Attributes:
        features: (N, F) ``FEATURES``.
        group: (N,) index into ``GROUPS``: building for walls; for others, the group of most of
            their labelled points.
        distance: (N,) metres from the sensor to the cell's centre.
        site: (N,) the site of the cell's scan.
    """

    features: Array
    group: Index
    distance: Array
    site: Index

    @property
    def wall(self) -> Mask:
        """(N,) whether the cell is a wall."""
        return np.asarray(self.group == BUILDING)

    def take(self, which: NDArray[np.generic]) -> Cells:
        """The cells that a mask or indices select."""
        return Cells(*(column[which] for column in self))


def together(parts: list[Cells]) -> Cells:
    """The cells of all parts."""
    return Cells(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def groups_of(label: NDArray[np.integer], table: str) -> Index:
    """(N,) index into ``GROUPS`` of (N,) label numbers of the data set ``table``."""
    result = np.zeros(len(label), np.int64)
    for group, numbers in MEMBERS[table].items():
        result[np.isin(label, numbers)] = GROUPS.index(group)
    return result


def judged(cell: Index, pixel: Index, group: Index, size: int) -> tuple[Index, Mask]:
    """The groups of cells, and which cells can be judged.

    Args:
        cell: (M,) flat index of each cell in a (size, size) tile.
        pixel: (N,) flat index of the cell of each upright point.
        group: (N,) index into ``GROUPS`` of each upright point.
        size: Pixels along a side of the tile.

    Returns:
        (M,) as ``Cells.group``. (M,) False where no point is labelled building, but one of the
        eight neighbours has such a point, or at least half of the points have no label.
    """
    key = pixel * len(GROUPS) + group
    points = np.bincount(key, minlength=size * size * len(GROUPS)).reshape(size, size, -1)
    built = points[..., BUILDING] > 0
    near = ndimage.maximum_filter(built, 3)
    clear = ~near & (2 * points[..., UNLABELLED] < points.sum(axis=2))
    points[..., UNLABELLED] = 0
    most = np.where(built, BUILDING, points.argmax(axis=2))
    return most.ravel()[cell], (built | clear).ravel()[cell]


def scan_cells(
    drive: Drive, scans: Index, site: Index, settings: LocalizeSettings
) -> tuple[Cells, Index]:
    """The cells of some scans, and the (S,) number of points of each scan.

    Args:
        drive: Scans with labels.
        scans: (S,) numbers of the scans.
        site: (S,) site of each.
        settings: How tiles are made.
    """
    submap = settings.submap.model_copy(update={"labels": {}})
    tiles = query_tiles(drive, EACH_SCAN, 0.0, submap, settings.query)
    found, points = [], []
    for scan, where in zip(scans.tolist(), site.tolist(), strict=True):
        cells, count = _cells(tiles, scan, where)
        found.append(cells)
        points.append(count)
    return together(found), np.array(points)


def _cells(tiles: QueryTiles, scan: int, site: int) -> tuple[Cells, int]:
    """The cells of one scan, and its number of points."""
    query, wall = tiles.tile_settings, tiles.tile_settings.wall
    size = round(query.size_m / query.resolution)
    seen = survey(tiles.submap(scan), float(tiles.rotation[scan]), query)
    upright = seen.upright(wall.may_be_wall(seen.height))
    cell, features = wall_features(upright, seen.bins, size, query.resolution, wall)
    pixel, inside = pixels(upright.xy, size, query.resolution)
    group = _point_groups(tiles, scan)
    most, is_judged = judged(cell, pixel, group[upright.ray[inside]], size)
    row, column = np.divmod(cell, size)
    x = (column + 0.5 - size / 2) * query.resolution - seen.origin[0, 0]
    y = (size / 2 - row - 0.5) * query.resolution - seen.origin[0, 1]
    cells = Cells(features, most, np.hypot(x, y), np.full(len(cell), site))
    return cells.take(is_judged), len(group)


def _point_groups(tiles: QueryTiles, scan: int) -> Index:
    """(N,) index into ``GROUPS`` of each point of a scan's submap, in the same order."""
    block = tiles.drive.scans.read(scan, scan + 1)
    assert block.label is not None
    x, y, z = (block.points - block.origin[0]).T
    near = x * x + y * y + z * z <= tiles.submap_settings.max_range_m**2
    return groups_of(block.label[near], tiles.drive.labels or "")
