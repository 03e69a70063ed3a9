"""Partitions of a city into cells, which are smaller where the roads are denser.

A quadtree as in Weyand et al., PlaNet, ECCV 2016; several partitions as in Seo et al., CPlaNet,
ECCV 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from data_prep.geometry import Array
from data_prep.settings import Settings


class PartitionSettings(Settings):
    """How a city is divided into cells: into several quadtrees, finer where there is more road."""

    partitions: int = Field(3, ge=1)
    """Overlapping partitions, each shifted against the others."""
    least_m: float = Field(16.0, gt=0)
    """Side of the smallest cells, metres."""
    levels: int = Field(3, ge=1)
    """Levels of the quadtree: the side of the largest cells is ``2 ** (levels - 1) * least_m``."""
    share: float = Field(1 / 2000, gt=0, le=1)
    """A cell with more than this share of the city's road length is split in four."""


class Cells(NamedTuple):
    """Square cells; those of one partition do not overlap.

    Attributes:
        centre: (N, 2) float64 east, north, metres.
        side: (N,) float64 metres.
        partition: (N,) int64, 0 .. partitions - 1, ascending.
    """

    centre: Array
    side: Array
    partition: Array


def make_cells(positions: Array, weights: Array, settings: PartitionSettings) -> Cells:
    """The cells that contain positions of vehicles.

    Args:
        positions: (P, 2) metres, where vehicles may be.
        weights: (P,) their relative frequency.
        settings: Sizes and counts.

    Returns:
        Cells that contain a position each. Every position with a weight above 0 is in exactly one
        cell of each partition.
    """
    positions, weights = positions[weights > 0], weights[weights > 0] / weights.sum()
    cells = []
    for number in range(settings.partitions):
        # A shift by a fraction of the smallest cell keeps the partitions' borders apart.
        shift = settings.least_m * number / settings.partitions
        for centre, side in _leaves(positions - shift, weights, settings):
            cells.append(
                Cells(centre + shift, np.full(len(centre), side), np.full(len(centre), number))
            )
    return Cells(*(np.concatenate(column) for column in zip(*cells, strict=True)))


def _leaves(
    positions: Array, weights: Array, settings: PartitionSettings
) -> list[tuple[Array, float]]:
    """Centres (N, 2) and side of the leaves at each level of the quadtree, the largest first."""
    leaves = []
    for level in reversed(range(settings.levels)):
        side = settings.least_m * 2**level
        index, cell = np.unique(np.floor(positions / side), axis=0, return_inverse=True)
        heavy = np.bincount(cell, weights) > settings.share
        split = heavy if level else np.zeros(len(index), bool)
        leaves.append(((index[~split] + 0.5) * side, side))
        positions, weights = positions[split[cell]], weights[split[cell]]
        if len(positions) == 0:
            break
    return leaves
