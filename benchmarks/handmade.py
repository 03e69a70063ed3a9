"""Untrained retrieval of map views: hand-made local descriptors, as VLAD or in a vocabulary tree.

Both are baselines of ``literature.py`` only: they need no training, and the search of the whole map
finds more, so that they are no methods of the package.

- *Local descriptors*: as SIFT (Lowe, IJCV 2004), histograms of gradient directions, 4 x 4 cells of
  8 directions, of the wall evidence; of unit length, cut off at ``CUT``, of unit length again.
  Different: they lie on a grid instead of at extrema of a scale space, have one scale and no
  orientation of their own, because tiles have one scale, and their heading is known or tried.
- *VLAD* (Jegou et al., CVPR 2010; Arandjelovic and Zisserman, CVPR 2013): ``V_k = sum (x - c_k)``
  over the descriptors x nearest to the centre c_k, each V_k of unit length, then V; compared by
  the inner product.
- *Vocabulary tree* (Nister and Stewenius, CVPR 2006): centres of k-means, of which each divides its
  descriptors again. Node i has the weight ``w_i = ln(N / N_i)``, with N_i of the N views passing
  through it. A view has ``q_i = n_i w_i / sum_j n_j w_j``, with n_i descriptors through node i.
  Views are compared by ``sum |q_i - d_i|``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional

from data_prep.geometry import Array

CELL_PX = 4
"""Pixels along the side of a cell."""
CELLS = 4
"""Cells along the side of a descriptor's patch."""
DIRECTIONS = 8
"""Bins of the gradient's direction."""
CUT = 0.2
"""Largest value of a normalised descriptor."""
WEAK = 1e-3
"""A patch whose gradients are weaker than this makes no descriptor."""
CENTRES = 64
"""Centres of VLAD."""
BRANCHES, LEVELS = 8, 3
"""Of the vocabulary tree."""
SAMPLED = 100_000
"""Descriptors that k-means sees, at most."""

Floats = NDArray[np.float32]


def local_descriptors(tiles: Tensor) -> list[Floats]:
    """(N_b, 128) descriptors of each of the tiles (B, C, S, S), from their first channel."""
    wall = functional.avg_pool2d(tiles[:, :1], 3, 1, 1, count_include_pad=False)
    padded = functional.pad(wall, [1] * 4, mode="replicate")
    right = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2])[:, 0] / 2
    up = (padded[:, :, :-2, 1:-1] - padded[:, :, 2:, 1:-1])[:, 0] / 2
    turn = torch.atan2(up, right) / (2 * torch.pi) * DIRECTIONS
    bins = torch.arange(DIRECTIONS)[:, None, None]
    # Linear between neighbouring directions; the last is next to the first.
    apart = ((turn[:, None] - bins + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2).abs()
    votes = (1 - apart).clamp_min(0) * torch.hypot(right, up)[:, None]
    cells = functional.avg_pool2d(votes, CELL_PX)
    patches = functional.unfold(cells, CELLS).transpose(1, 2)
    length = patches.norm(dim=2)
    patches = functional.normalize(functional.normalize(patches, dim=2).clamp_max(CUT), dim=2)
    kept = length > WEAK
    return [patch[mask].numpy() for patch, mask in zip(patches, kept, strict=True)]


class Handmade(Protocol):
    """Vectors of views, and how similar they are."""

    def describe(self, local: list[Floats]) -> Array:
        """(B, D) vectors of views by their local descriptors."""
        ...

    def similarity(self, one: Array, other: Array) -> Array:
        """(A, B): how similar (A, D) and (B, D) vectors are, the more the better."""
        ...


@dataclass(frozen=True)
class Vlad:
    """VLAD over given centres.

    Attributes:
        centres: (K, D).
    """

    centres: Floats

    @staticmethod
    def of(local: list[Floats], count: int = CENTRES) -> Vlad:
        """Centres of the local descriptors of some views."""
        return Vlad(_k_means(_sample(local), count))

    def describe(self, local: list[Floats]) -> Array:
        """As ``Handmade.describe``."""
        made = np.zeros((len(local), self.centres.size), np.float32)
        for row, points in zip(made, local, strict=True):
            if len(points):
                nearest = cdist(points, self.centres).argmin(1)
                summed = np.zeros_like(self.centres)
                np.add.at(summed, nearest, points - self.centres[nearest])
                row[:] = _unit(_unit(summed).ravel())
        return made

    def similarity(self, one: Array, other: Array) -> Array:
        """As ``Handmade.similarity``: the inner product."""
        return np.asarray(one @ other.T)


class VocabularyTree:
    """A vocabulary tree over the local descriptors of some views, which also set its weights.

    Args:
        local: (N_b, D) descriptors of each view.
        branches: Children of a node.
        levels: Levels below the root.
    """

    def __init__(self, local: list[Floats], branches: int = BRANCHES, levels: int = LEVELS) -> None:
        self.branches = branches
        self.centres: list[Floats] = []
        self.children: list[list[int]] = [[]]  # of the root and of the nodes, by number + 1
        self._grow(_sample(local), 0, levels)
        count = self._counts(local)
        used = np.maximum((count > 0).sum(0), 1)
        self.weight = np.log(len(local) / used)

    def _grow(self, points: Floats, node: int, levels: int) -> None:
        """Divide the points of a node (0: the root) into its children."""
        if levels == 0 or len(points) < self.branches:
            return
        centres = _k_means(points, self.branches)
        nearest = cdist(points, centres).argmin(1)
        first = len(self.centres) + 1
        self.children[node] = list(range(first, first + len(centres)))
        self.centres.extend(centres)
        self.children.extend([] for _ in centres)
        for number in range(len(centres)):
            self._grow(points[nearest == number], first + number, levels - 1)

    def _counts(self, local: list[Floats]) -> Array:
        """(B, M) descriptors of each view that pass through each node."""
        count = np.zeros((len(local), len(self.centres)))
        view = np.repeat(np.arange(len(local)), [len(points) for points in local])
        points = np.concatenate(local) if len(view) else np.zeros((0, 1), np.float32)
        pending = [(0, np.arange(len(view)))]
        while pending:
            node, index = pending.pop()
            below = self.children[node]
            if not below or len(index) == 0:
                continue
            centres = np.stack([self.centres[child - 1] for child in below])
            nearest = cdist(points[index], centres).argmin(1)
            for number, child in enumerate(below):
                mine = index[nearest == number]
                np.add.at(count[:, child - 1], view[mine], 1)
                pending.append((child, mine))
        return count

    def describe(self, local: list[Floats]) -> Array:
        """As ``Handmade.describe``: weighted counts whose sum is 1."""
        weighted = self._counts(local) * self.weight
        return np.asarray(weighted / np.maximum(weighted.sum(1, keepdims=True), 1e-12))

    def similarity(self, one: Array, other: Array) -> Array:
        """As ``Handmade.similarity``: the negative sum of absolute differences."""
        return -cdist(one, other, "cityblock")


def _sample(local: list[Floats]) -> Floats:
    """Up to ``SAMPLED`` of all descriptors, drawn at random."""
    points = np.concatenate(local)
    chosen = np.random.default_rng(0).permutation(len(points))[:SAMPLED]
    return points[np.sort(chosen)]


def _k_means(points: Floats, count: int) -> Floats:
    """(count, D) centres."""
    found = MiniBatchKMeans(count, random_state=0, n_init=3, batch_size=4096).fit(points)
    return np.asarray(found.cluster_centers_, np.float32)


def _unit(rows: Floats) -> Floats:
    """Vectors along the last axis, of length 1 unless they are 0."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), np.float32)
