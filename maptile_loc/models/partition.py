"""A city cut into cells that are small where there is much road, as PlaNet cuts the world."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from data_prep.geometry import Array
from data_prep.settings import Settings


class PartitionSettings(Settings):
    """How a city is cut into cells."""

    partitions: int = Field(3, ge=1)
    """Overlapping partitions, each shifted against the others (CPlaNet, Seo et al., ECCV 2018)."""
    least_m: float = Field(16.0, gt=0)
    """Side of the smallest cells."""
    levels: int = Field(3, ge=1)
    """The largest cells' side is ``2 ** (levels - 1)`` times that."""
    share: float = Field(1 / 2000, gt=0, le=1)
    """A cell that holds more of the city's places than that is cut in four."""


class Cells(NamedTuple):
    """Square cells, of which those of one partition do not overlap.

    Attributes:
        centre: (N, 2) float64 east, north, metres.
        side: (N,) float64 metres.
        partition: (N,) int64, 0 .. partitions - 1, ascending.
    """

    centre: Array
    side: Array
    partition: Array


def make_cells(places: Array, weights: Array, settings: PartitionSettings) -> Cells:
    """Cut the city where its places are (Weyand et al., PlaNet, ECCV 2016).

    Args:
        places: (P, 2) metres, where vehicles are.
        weights: (P,) how often.
        settings: Sizes and counts.

    Returns:
        Cells that hold a place; every place with a weight is in one cell of each partition.
    """
    places, weights = places[weights > 0], weights[weights > 0] / weights.sum()
    cells = []
    for number in range(settings.partitions):
        # Shifted by a part of the smallest cell, their borders never meet.
        shift = settings.least_m * number / settings.partitions
        for centre, side in _leaves(places - shift, weights, settings):
            cells.append(
                Cells(centre + shift, np.full(len(centre), side), np.full(len(centre), number))
            )
    return Cells(*(np.concatenate(column) for column in zip(*cells, strict=True)))


def _leaves(
    places: Array, weights: Array, settings: PartitionSettings
) -> list[tuple[Array, float]]:
    """Centres and side of the leaves at each level of the quadtree, the largest first."""
    leaves = []
    for level in reversed(range(settings.levels)):
        side = settings.least_m * 2**level
        index, cell = np.unique(np.floor(places / side), axis=0, return_inverse=True)
        heavy = np.bincount(cell, weights) > settings.share
        split = heavy if level else np.zeros(len(index), bool)
        leaves.append(((index[~split] + 0.5) * side, side))
        places, weights = places[split[cell]], weights[split[cell]]
        if len(places) == 0:
            break
    return leaves
