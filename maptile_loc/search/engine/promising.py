"""From a sparse grid of positions to a fine one: promising squares of the map are scored again.

On the sparse grid, each square of the map has the score of one position. The squares of the highest
scores are scored again on the finer grid. So is a sample of the others, each of which stands for a
number of squares: together they show what a tile reaches by chance on the finer grid of the whole
map (stratified sampling).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.geometry import Array
from maptile_loc.score.evidence import Evidence
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.score.likelihood import log_likelihood

Ints = NDArray[np.int_]

REST = 16
"""Squares that are drawn at random from all others."""

TAIL = 4
"""Those of the next lower scores are as many as this times the squares that match by chance."""


class Squares(NamedTuple):
    """K squares of the map that are scored again.

    Attributes:
        cells: (K,) flat index of each in the sparse grid; the highest scores first.
        weight: (K,) number of squares that it stands for.
    """

    cells: Ints
    weight: Array


class Rescored(NamedTuple):
    """The best poses of K squares on the finer grid.

    Attributes:
        poses: (K, 3) east, north, heading.
        scores: (K,) their scores.
        turn: (K,) indices of their turns.
    """

    poses: Array
    scores: Array
    turn: Ints

    def only(self, some: Ints) -> Rescored:
        """Some of the squares, by their indices."""
        return Rescored(self.poses[some], self.scores[some], self.turn[some])

    def peaks(self, apart_m: float, count: int, hopeless: float) -> Ints:
        """Up to ``count`` squares, best first, that no better one within ``apart_m`` exceeds."""
        order = np.argsort(-self.scores, kind="stable")
        order = order[self.scores[order] > self.scores[order[0]] - hopeless]
        places = self.poses[order, :2]
        near = np.abs(places[:, None] - places).max(axis=2) <= apart_m
        peak = ~np.tril(near, -1).any(axis=1)
        return order[peak][:count]


def squares_to_score(scores: torch.Tensor, by_chance: int, first: int) -> Squares:
    """The squares that are scored again.

    Args:
        scores: (n,) of all squares; -inf where the vehicle cannot be.
        by_chance: Number of squares whose scores count as reached by chance.
        first: Squares of the highest scores that are all scored again; half as many are drawn,
            evenly, from those of the next lower scores.
    """
    top, order = torch.topk(scores, min(max(TAIL * by_chance, first), len(scores)))
    ranked = order[top > -torch.inf].cpu().numpy()
    tail = ranked[first:]
    some = np.unique(np.linspace(0, len(tail) - 1, min(first // 2, len(tail))).astype(int))
    index, weight = [ranked[:first], tail[some]], [np.ones(min(first, len(ranked)))]
    weight.append(np.full(len(some), len(tail) / max(len(some), 1)))
    others = int((scores > -torch.inf).sum()) - len(ranked)
    if others > 0:
        rng = np.random.default_rng(0)
        drawn = np.unique(rng.integers(0, len(scores), REST * 16))
        value = scores[torch.from_numpy(drawn).to(scores.device)].cpu().numpy()
        low = drawn[(value > -np.inf) & (value <= float(top[-1])) & ~np.isin(drawn, ranked)]
        low = rng.permutation(low)[:REST]
        index.append(low)
        weight.append(np.full(len(low), others / max(len(low), 1)))
    return Squares(np.concatenate(index), np.concatenate(weight))


def rescored(
    centres: Array,
    turn: Ints,
    stride: int,
    turns: Array,
    log_prior: Array,
    evidence: Evidence,
    rotation: float,
    fields: LikelihoodFields,
    cell: float,
    spacing: float,
) -> Rescored:
    """The best pose of the finer grid in each of some squares.

    Args:
        centres: (K, 2) east, north of the squares' centres, metres.
        turn: (K,) indices of the turns of the highest scores there.
        stride: Of the turns, every ``stride``-th was tried; those between are tried now.
        turns: (T,) radians.
        log_prior: (T,) log-probability of each.
        evidence: The tile's.
        rotation: The tile's ``rotation``, radians.
        fields: The map's.
        cell: Side of the squares, metres.
        spacing: Metres between positions of the finer grid.
    """
    count = max(1, round(cell / spacing))
    # By whole cells, so that those of a tile lie on those of the map.
    at = (np.arange(count) - count // 2) * spacing
    offset = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
    near: Ints = turn[:, None] + np.arange(1 - stride, stride)
    # Where the turns cover the circle, the last one is next to the first.
    around = bool(len(turns) > 2 and turns[-1] - 2 * turns[0] + turns[1] > 2 * np.pi - 1e-6)
    tried = near % len(turns) if around else np.clip(near, 0, len(turns) - 1)
    poses: Array = np.empty((len(centres), len(offset), tried.shape[1], 3))
    poses[..., :2] = (centres[:, None] + offset)[:, :, None]
    poses[..., 2] = rotation + turns[tried][:, None]
    poses = poses.reshape(len(centres), -1, 3)
    scores = log_likelihood(poses, evidence.points, rotation, fields)
    scores += np.tile(log_prior[tried], (1, len(offset)))
    best, every = scores.argmax(axis=1), np.arange(len(poses))
    chosen = tried[every, best % tried.shape[1]]
    return Rescored(poses[every, best], scores[every, best], chosen)


def summed(
    found: Rescored,
    turns: Array,
    log_prior: Array,
    evidence: Evidence,
    rotation: float,
    fields: LikelihoodFields,
    reach: int,
) -> tuple[Array, Array, Ints]:
    """The likelihood's mass around poses, on the grid of the fields.

    Args:
        found: The poses.
        turns: As all but the last, as for ``rescored``.
        log_prior: (T,).
        evidence: The tile's.
        rotation: Radians.
        fields: The map's.
        reach: Cells on each side of a pose over which is summed.

    Returns:
        (K, 3) the best pose around each, (K,) logarithms of the mass, and (K,) indices of the
        turns.
    """
    at = np.arange(-reach, reach + 1) * fields.resolution
    offset = np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)
    poses = np.empty((len(found.poses), len(offset), len(turns), 3))
    poses[..., :2] = (found.poses[:, None, :2] + offset)[:, :, None]
    poses[..., 2] = rotation + turns
    scores = log_likelihood(poses, evidence.points, rotation, fields) + log_prior
    chosen, best = scores.argmax(axis=2), scores.max(axis=2)
    every, peak = np.arange(len(poses)), best.argmax(axis=1)
    turn = chosen[every, peak]
    return poses[every, peak, turn], np.asarray(np.logaddexp.reduce(best, axis=1)), turn
