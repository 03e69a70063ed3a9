"""Precision and recall of a score that calls examples walls."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array


class Curve(NamedTuple):
    """Precision and recall at each threshold, from the largest distinct score to the smallest.

    Attributes:
        threshold: (T,) the distinct scores.
        precision: (T,) share of walls among the examples with at least this score.
        recall: (T,) share of the walls that have at least this score; NaN without walls.
    """

    threshold: Array
    precision: Array
    recall: Array


def precision_recall(
    score: NDArray[np.floating], wall: NDArray[np.bool_], weight: Array | None = None
) -> Curve:
    """The precision and recall of (N,) scores.

    Args:
        score: (N,) larger for examples that are rather walls.
        wall: (N,) whether each example is a wall.
        weight: (N,) weight of each example; None for equal weights.
    """
    weight = np.ones(len(score)) if weight is None else weight
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)[: len(order)]
    called = np.cumsum(weight[order])[last]
    right = np.cumsum((weight * wall)[order])[last]
    walls = right[-1] if wall.any() else math.nan
    return Curve(score[order][last], right / called, right / walls)


def average_precision(curve: Curve) -> float:
    """Area below precision over recall, 0..1; NaN without walls.

    Each distinct score is a threshold: the precision there, times the recall that it adds.
    """
    added = np.diff(curve.recall, prepend=0.0)
    return float((added * curve.precision).sum()) if len(added) else math.nan


def precision_at(recall: float, curve: Curve) -> float:
    """The precision at the largest threshold above 0 that reaches ``recall``; NaN if none does."""
    reached = (curve.recall >= recall) & (curve.threshold > 0)
    return float(curve.precision[reached.argmax()]) if reached.any() else math.nan
