"""Recall of the candidates: whether one of the best N is near the truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array

BEST_N = (1, 5, 10, 50)
"""Numbers of candidates for which recall is given."""

WITHIN_M = (1, 2, 5, 10, 25)
"""Distances from the truth for which it is given, metres."""


def nearest_of_best(candidates: Array, truth: Array) -> Array:
    """(Q, K) metres from the truth to the nearest of the best 1 .. K candidates.

    Infinite without a candidate, NaN without truth.

    Args:
        candidates: (Q, K, 4) as in ``Localization``, best first, K at least 1.
        truth: (Q, 2 or more) true east and north, metres.
    """
    metres = np.linalg.norm(candidates[:, :, :2] - truth[:, None, :2], axis=2)
    missing = np.isnan(candidates[:, :, 0]) & np.isfinite(truth[:, :1])
    return np.minimum.accumulate(np.where(missing, np.inf, metres), axis=1)


def recall_at_n(
    candidates: Array, truth: Array, counted: NDArray[np.bool_]
) -> dict[str, dict[str, float]]:
    """Share of queries with one of the best N candidates near the truth.

    Args:
        candidates: (Q, K, 4) as in ``Localization``.
        truth: (Q, 2 or more) true east and north, metres.
        counted: (Q,) queries that count.

    Returns:
        By N of ``BEST_N`` ("1", "5", ...): ``recall_1m`` and so on, of ``WITHIN_M``; a query with
        fewer than N candidates counts by all it has. Empty if no query counts.
    """
    if not counted.any():
        return {}
    most = candidates.shape[1]
    if most == 0:
        nearest = np.full((int(counted.sum()), 1), np.inf)
    else:
        nearest = nearest_of_best(candidates[counted], truth[counted])
    return {
        str(n): {
            f"recall_{r}m": float((nearest[:, min(n, nearest.shape[1]) - 1] <= r).mean())
            for r in WITHIN_M
        }
        for n in BEST_N
    }
