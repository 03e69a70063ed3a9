"""The conditional logit (McFadden 1974) that the profiles are fitted with.

The true pose is a choice among all poses. Its probability is the exponential of its score, over the
sum of the exponentials of all scores, each weighted by what the pose represents (``Samples``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from profiles import F32, FITTED, pack, parts

from data_prep.geometry import Array
from maptile_loc.score.settings import LikelihoodSettings

OUTLIERS = 0.03
"""Share of tiles that are taken to be of no use."""

ANYWHERE = -14.0
"""Log-density, per m2, of the true position of such a tile: 1 / 1.2 km2."""

RIDGE = 0.01
"""Penalty of a value's square, relative to that of a squared second difference."""


@dataclass(frozen=True)
class Problem:
    """Q tiles with up to P samples each.

    Attributes:
        features: (Q, P, F) float32.
        log_weight: (Q, P) float32, as in ``Samples``; -inf for the padding.
        log_truth: (Q, P) float32, as in ``Samples``; -inf for the padding.
    """

    features: torch.Tensor
    log_weight: torch.Tensor
    log_truth: torch.Tensor

    @classmethod
    def of(cls, tiles: list[tuple[F32, Array, Array]]) -> Problem:
        """The problem of tiles given by their features, log-weights and ``log_truth``."""
        longest = max(len(weight) for _, weight, _ in tiles)
        shape = len(tiles), longest
        found = torch.zeros(*shape, tiles[0][0].shape[1])
        weight, truth = torch.full((2, *shape), -torch.inf)
        for number, tile in enumerate(tiles):
            some, its_weight, its_truth = (torch.from_numpy(part) for part in tile)
            found[number, : len(some)] = some
            weight[number, : len(some)], truth[number, : len(some)] = its_weight, its_truth
        return cls(found, weight, truth)

    def some(self, which: NDArray[np.bool_]) -> Problem:
        """The problem of the tiles that (Q,) ``which`` selects."""
        chosen = torch.from_numpy(which)
        return Problem(self.features[chosen], self.log_weight[chosen], self.log_truth[chosen])

    def nats(self, values: torch.Tensor) -> torch.Tensor:
        """(Q,) negative log-posterior density, per m2, of the truth, given (F,) ``values``."""
        scores = self.features @ values
        everywhere = torch.logsumexp(scores + self.log_weight, 1)
        return everywhere - torch.logsumexp(scores + self.log_truth, 1)


def robust(nats: torch.Tensor, anywhere: float = ANYWHERE) -> torch.Tensor:
    """(Q,) negative log-densities, if ``OUTLIERS`` of the tiles may be anywhere.

    Args:
        nats: (Q,) negative log-densities of tiles that are no outliers.
        anywhere: Log-density of an outlier's truth.
    """
    outlier = torch.full_like(nats, np.log(OUTLIERS) + anywhere)
    return -torch.logaddexp(np.log(1 - OUTLIERS) - nats, outlier)


def fit(
    problem: Problem,
    settings: LikelihoodSettings,
    penalty: float,
    free: Collection[str] = FITTED,
) -> Array:
    """(F,) values that make the true poses most probable; terms that are not free stay.

    Args:
        problem: The tiles.
        settings: The values to start from.
        penalty: Of the squared second differences of the profiles.
        free: Terms that are fitted.
    """
    moved = [part for name, part in parts(settings).items() if name in free]
    index = torch.from_numpy(np.r_[tuple(moved)])
    start = torch.tensor(pack(settings), dtype=torch.float32)
    moving = start[index].requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [moving],
        max_iter=150,
        history_size=30,
        tolerance_change=1e-6,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        values = start.index_put((index,), moving)
        bends = sum(torch.diff(values[part], n=2).square().sum() for part in moved)
        total = robust(problem.nats(values)).mean()
        total = total + penalty * (bends + RIDGE * moving.square().sum())
        total.backward()
        return total

    optimizer.step(loss)
    return start.index_put((index,), moving).detach().numpy().astype(np.float64)


def left_out(
    problem: Problem,
    city: NDArray[np.str_],
    settings: LikelihoodSettings,
    penalty: float,
    free: Collection[str] = FITTED,
) -> Array:
    """(Q,) robust nats of each tile, with values that are fitted to the other cities' tiles."""
    found = np.zeros(len(city))
    for name in np.unique(city):
        values = fit(problem.some(city != name), settings, penalty, free)
        found[city == name] = measure(problem.some(city == name), values)
    return found


def measure(problem: Problem, values: Array) -> Array:
    """(Q,) robust nats of each tile, given (F,) values."""
    nats = problem.nats(torch.tensor(values, dtype=torch.float32))
    return robust(nats).numpy().astype(np.float64)
