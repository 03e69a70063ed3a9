"""How well a classifier separates simulated examples from real ones."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupKFold

from data_prep.geometry import Array

FOLDS = 5
"""Folds of the cross-validation; the examples of one site are all in the same fold."""

REPEATS = 3
"""Permutations of each feature."""

BANDS_M = (0.0, 10.0, 20.0, 30.0, 50.0)
"""Limits of the range bins, metres."""


class Separation(NamedTuple):
    """The result of a cross-validation: means over the held-out folds.

    Attributes:
        auc: Area under the ROC curve, 0.5 if nothing separates the two kinds.
        drop: (G,) by how much the AUC falls when the values of the features of one family are
            permuted, together.
    """

    auc: float
    drop: Array


def area_under_curve(score: Array, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive example has the higher (N,) score; equal scores are half."""
    many, few = np.count_nonzero(positive), np.count_nonzero(~positive)
    ranks = float(rankdata(score)[positive].sum())
    return (ranks - many * (many + 1) / 2) / (many * few)


def range_band(distance: Array) -> NDArray[np.int64]:
    """(N,) index of the range bin of (N,) metres; the number of bins where it is farther."""
    return np.searchsorted(BANDS_M[1:], distance, side="right")


def with_shares(given: Array, wanted: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices of the most examples that have the same share in each range bin as others.

    Args:
        given: (N,) metres from the sensor, of the examples to choose from.
        wanted: (M,) metres, of the examples whose shares are wanted.
        rng: Chooses the examples.

    Returns:
        (K,) indices into ``given``, increasing.
    """
    bins = len(BANDS_M) - 1
    band = range_band(given)
    here = np.bincount(band, minlength=bins)[:bins]
    there = np.bincount(range_band(wanted), minlength=bins)[:bins]
    some = there > 0
    scale = float((here[some] / there[some]).min())
    number = np.floor(there * scale + 1e-9).astype(np.int64)
    chosen = [rng.permutation(np.flatnonzero(band == k))[: number[k]] for k in range(bins)]
    return np.sort(np.concatenate(chosen))


def separate(
    features: Array,
    family: NDArray[np.int64],
    simulated: NDArray[np.bool_],
    site: NDArray[np.int64],
) -> Separation:
    """How well boosted trees separate simulated from real examples, cross-validated by site.

    Args:
        features: (N, F).
        family: (F,) family of each feature, 0 to G - 1: functions of the same quantity, which can
            replace each other.
        simulated: (N,) True for simulated examples.
        site: (N,) where each example is from.
    """
    areas, drops = [], []
    rng = np.random.default_rng(0)
    for train, test in GroupKFold(FOLDS).split(features, simulated, site):
        trees = HistGradientBoostingClassifier(random_state=0)
        trees.fit(features[train], simulated[train])
        held, positive = features[test], simulated[test]
        whole = area_under_curve(trees.decision_function(held), positive)
        drop = np.zeros(family.max() + 1)
        for number in range(len(drop)):
            for _ in range(REPEATS):
                mixed = rng.permutation(held)
                mixed = np.where(family == number, mixed, held)
                area = area_under_curve(trees.decision_function(mixed), positive)
                drop[number] += (whole - area) / REPEATS
        areas.append(whole)
        drops.append(drop)
    return Separation(float(np.mean(areas)), np.mean(drops, axis=0))
