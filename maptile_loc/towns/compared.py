"""How well the tiles of a drive fit the maps of towns, where similar views place them.

Votes count the most similar views of each tile, and in many towns some of these agree by chance. So
the arrangements with most votes are compared tile by tile: how similar is each to the views right
where it would be? In the right town most tiles are; by chance, few are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from data_prep.geometry import Array, wrap_angle
from maptile_loc.towns.index import TownIndex
from maptile_loc.towns.votes import Arrangement, VoteSettings

SAMPLE = 1500
"""Views, drawn at random, that show how similar any view is to a tile."""

VIEWS = 8
"""Views near a position that a tile is compared with, at most."""

HEADINGS = 3
"""Headings of a tile, the nearest to the stated one, that are compared."""

APART_M = 1e7
"""Distance of the towns in the tree of all views, metres."""

NOWHERE = -1.0
"""Standard deviations by which a tile fits where the town has no view."""


class Look(NamedTuple):
    """One tile, described at several headings.

    Attributes:
        query: Its number.
        descriptors: (T, D) float32 unit vectors.
        headings: (T,) of the vehicle, radians from grid east.
    """

    query: int
    descriptors: NDArray[np.float32]
    headings: Array


def compare(
    arranged: Sequence[Arrangement],
    looks: Sequence[Look],
    index: TownIndex,
    settings: VoteSettings,
) -> Array:
    """(M,) how well M arrangements fit the maps, as logarithms of probabilities.

    Of each tile counts by how many standard deviations it is more similar to the best view near its
    position than to an average view.

    Args:
        arranged: The arrangements.
        looks: The drive's tiles.
        index: The views of all towns.
        settings: How near a view is, and what a standard deviation is worth.
    """
    rng = np.random.default_rng(0)
    usual = index.descriptors(rng.integers(0, len(index.town), SAMPLE))
    tree = KDTree(np.column_stack([index.places, APART_M * index.town]))
    poses = np.stack([one.poses for one in arranged])
    town = APART_M * np.array([one.town for one in arranged])
    middle = np.array([_middle(one.poses) for one in arranged])
    total = np.zeros(len(arranged))
    for look in looks:
        at = poses[:, look.query]
        known = np.flatnonzero(np.isfinite(at[:, 0]))
        far = np.hypot(*(at[known, :2] - middle[known]).T)
        reach = settings.near_m + settings.drift * far
        similarity = look.descriptors @ usual.T
        there = _similarity(look, at[known], town[known], reach, tree, index)
        stds = (there - similarity.mean()) / similarity.std()
        total[known] += np.where(np.isfinite(there), stds, NOWHERE)
    return settings.per_std * total


def _middle(poses: Array) -> Array:
    """(2,) the position of the middle one of the (Q, 3) poses that are known."""
    known = np.flatnonzero(np.isfinite(poses[:, 0]))
    return np.asarray(poses[known[len(known) // 2], :2])


def _similarity(
    look: Look, poses: Array, town: Array, reach: Array, tree: KDTree, index: TownIndex
) -> Array:
    """(M,) similarity of a tile to the best view near each of M poses; -inf where there is none.

    Args:
        look: The tile.
        poses: (M, 3) east, north, heading.
        town: (M,) third coordinate of the towns in the tree.
        reach: (M,) metres.
        tree: Of all views.
        index: Of all views.
    """
    away, view = tree.query(np.column_stack([poses[:, :2], town]), VIEWS)
    near = away <= reach[:, None]
    numbers, row = np.unique(view[near], return_inverse=True)
    if len(numbers) == 0:
        return np.full(len(poses), -np.inf)
    similarity = index.descriptors(numbers) @ look.descriptors.T
    turn = np.abs(wrap_angle(look.headings - poses[:, 2:]))
    heading = np.argsort(turn, axis=1, kind="stable")[:, :HEADINGS]
    best = np.full(near.shape, -np.inf)
    best[near] = similarity[row[:, None], heading[np.nonzero(near)[0]]].max(axis=1)
    return np.asarray(best.max(axis=1))
