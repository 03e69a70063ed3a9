"""Classes of several partitions, combined where their cells intersect.

A class g of partition k has the score ``s_k(g) = softmax_k``. An intersection i of one cell g_k(i)
of each partition has

- CPlaNet (Seo et al., ECCV 2018): ``s(i) = sum_k s_k(g_k(i))``, of partitions that overlap freely;
- ISN (Mueller-Budack et al., ECCV 2018): ``s(i) = prod_k s_k(g_k(i))``, of nested partitions, from
  coarse to fine.

PlaNet (Weyand et al., ECCV 2016) is the case of one partition.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.geometry import Array
from maptile_loc.models.parts.partition import Cells

INSIDE_AT_A_TIME = 512
"""Positions that are assigned to cells at a time, so that memory does not grow with the city."""


class Intersections(NamedTuple):
    """Non-empty intersections of the cells of P partitions.

    Attributes:
        member: (I, P) int64, the number of the cell of each partition, among those of all.
        mean: (I, 2) float64 metres, the mean of the positions of vehicles in it.
    """

    member: Array
    mean: Array


def cells_of(at: Tensor, centre: Tensor, side: Tensor, counts: list[int]) -> Tensor:
    """The cells that contain positions.

    Args:
        at: (B, 2) metres.
        centre: (N, 2) metres, of the cells of all partitions, those of one after the other.
        side: (N,) metres.
        counts: Cells of each of P partitions.

    Returns:
        (B, P) int64 numbers of cells, among those of all partitions; -1 where none contains it.
    """
    half = side[:, None] / 2
    inside = ((at[:, None] >= centre - half) & (at[:, None] < centre + half)).all(2)
    found, start = [], 0
    for part in torch.split(inside, counts, 1):
        index = part.to(torch.int8).argmax(1) + start
        found.append(torch.where(part.any(1), index, -1))
        start += part.shape[1]
    return torch.stack(found, 1)


def intersect(cells: Cells, positions: Array, weights: Array) -> Intersections:
    """The intersections that hold positions of vehicles.

    Args:
        cells: Of all partitions.
        positions: (K, 2) metres.
        weights: (K,) their relative frequency; those without are left out.
    """
    positions, weights = positions[weights > 0], weights[weights > 0]
    counts = np.bincount(cells.partition).tolist()
    centre, side = torch.from_numpy(cells.centre), torch.from_numpy(cells.side)
    parts = torch.split(torch.from_numpy(positions), INSIDE_AT_A_TIME)
    member = torch.cat([cells_of(part, centre, side, counts) for part in parts]).numpy()
    whole = (member >= 0).all(1)
    distinct, which = np.unique(member[whole], axis=0, return_inverse=True)
    total = np.bincount(which, weights[whole])
    sums = [np.bincount(which, weights[whole] * positions[whole, axis]) for axis in (0, 1)]
    return Intersections(distinct, np.stack(sums, 1) / total[:, None])


def scores(log_p: Tensor, member: Tensor, combine: str) -> Tensor:
    """(B, I) log-scores of intersections.

    Args:
        log_p: (B, N) log-probabilities of the cells of all partitions, which sum to 1 in each.
        member: (I, P) int64, as in ``Intersections``.
        combine: "sum" or "product" of the partitions' probabilities.
    """
    each = log_p[:, member]
    return each.sum(2) if combine == "product" else each.logsumexp(2)
