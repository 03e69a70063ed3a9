"""Triplet losses of descriptors: a query is nearer to its own map view than to others.

With the Euclidean distance d, a query q, its map view p and another map view n:

- ``max(0, m + d(q, p) - d(q, n))``, the margin m, of CrossLocate (Tomesek et al., WACV 2022) and,
  with squared distances, of NetVLAD (Arandjelovic et al., CVPR 2016);
- ``log(1 + exp(gamma (d(q, p) - d(q, n))))``, the soft margin of CVFT (Shi et al., AAAI 2020).

Different: negatives are the map views of the same batch; the papers search their databases for hard
ones. A margin is averaged over each query's ``hardest`` ones, as in NetVLAD.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEAST_SQUARED = 1e-8
"""Lower bound of squared distances: the root's gradient is infinite at 0."""


def distances(seen: Tensor, shown: Tensor) -> Tensor:
    """(B, B) Euclidean distances between the unit vectors of (B, D) queries and (B, D) views."""
    return (2 - 2 * seen @ shown.T).clamp_min(LEAST_SQUARED).sqrt()


def margin_triplet(
    seen: Tensor, shown: Tensor, negative: Tensor, margin: float, hardest: int, squared: bool
) -> Tensor:
    """The mean margin loss over the hardest negatives of all queries.

    Args:
        seen: (B, D) unit vectors of queries.
        shown: (B, D) unit vectors of map views; row i is the positive example of query i.
        negative: (B, B) bool, whether map view j is a negative example of query i.
        margin: m.
        hardest: Negatives per query that count, at most.
        squared: Whether distances are squared.

    Returns:
        A scalar; 0 where no query has a negative example.
    """
    gaps = distances(seen, shown)
    gaps = gaps.square() if squared else gaps
    short = (margin + gaps.diagonal()[:, None] - gaps).clamp_min(0)
    # Negative examples that are far enough count as 0; what is none, not at all.
    ranked = torch.where(negative, short, -1.0).topk(min(hardest, len(gaps)), 1).values
    return _mean(ranked, ranked >= 0)


def soft_margin_triplet(seen: Tensor, shown: Tensor, negative: Tensor, gamma: float) -> Tensor:
    """The mean soft-margin loss over all negatives; arguments as in ``margin_triplet``."""
    gaps = distances(seen, shown)
    return _mean(functional.softplus(gamma * (gaps.diagonal()[:, None] - gaps)), negative)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    """The mean of the values that are counted; 0 where none is."""
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp_min(1)
