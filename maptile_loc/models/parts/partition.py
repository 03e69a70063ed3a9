"""Partitions of a city into cells, which are smaller where the roads are denser.

A quadtree as in Weyand et al., PlaNet, ECCV 2016, which splits a cell that holds more than t1
photographs (``share``) and leaves out one that holds fewer than t2 (``drop``); here metres of road
are counted. Several partitions of different sizes and origins as in Seo et al., CPlaNet, ECCV 2018.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydantic import Field

from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.settings import Settings


class PartitionSettings(Settings):
    """How a city is divided into cells: into several quadtrees, finer where there is more road."""

    partitions: int = Field(3, ge=1)
    """Overlapping partitions."""
    shifted: bool = True
    """Whether each partition is shifted against the others; otherwise, their borders coincide."""
    growth: float = Field(1.0, ge=1)
    """The cells of each partition are larger than those of the one before by this factor."""
    least_m: float = Field(16.0, gt=0)
    """Side of the smallest cells, metres."""
    levels: int = Field(3, ge=1)
    """Levels of the quadtree: the side of the largest cells is ``2 ** (levels - 1) * least_m``."""
    share: float = Field(1 / 2000, gt=0, le=1)
    """A cell with more than this share of the city's road length is split in four."""
    drop: float = Field(0.0, ge=0, lt=1)
    """A cell with less than this share of the city's road length is left out."""


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
        cell of each partition, unless cells are dropped.

    Raises:
        MaptileError: All cells of a partition are dropped.
    """
    positions, weights = positions[weights > 0], weights[weights > 0] / weights.sum()
    cells: list[Cells] = []
    for number in range(settings.partitions):
        least_m = settings.least_m * settings.growth**number
        # A shift by a fraction of the smallest cell keeps the partitions' borders apart.
        shift = least_m * number / settings.partitions if settings.shifted else 0.0
        before = len(cells)
        for centre, side in _leaves(positions - shift, weights, least_m, settings):
            cells.append(
                Cells(centre + shift, np.full(len(centre), side), np.full(len(centre), number))
            )
        if not any(len(cell.centre) for cell in cells[before:]):
            raise MaptileError(
                f"cells.drop={settings.drop:g}: leaves no cell; choose a smaller one"
            )
    return Cells(*(np.concatenate(column) for column in zip(*cells, strict=True)))


def _leaves(
    positions: Array, weights: Array, least_m: float, settings: PartitionSettings
) -> list[tuple[Array, float]]:
    """Centres (N, 2) and side of the leaves at each level of the quadtree, the largest first."""
    leaves = []
    for level in reversed(range(settings.levels)):
        side = least_m * 2**level
        index, cell = np.unique(np.floor(positions / side), axis=0, return_inverse=True)
        held = np.bincount(cell, weights)
        split = held > settings.share if level else np.zeros(len(index), bool)
        leaves.append(((index[~split & (held >= settings.drop)] + 0.5) * side, side))
        positions, weights = positions[split[cell]], weights[split[cell]]
        if len(positions) == 0:
            break
    return leaves
