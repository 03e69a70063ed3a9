"""The smoother: a pose graph over the whole drive that chooses among each query's candidates.

In each iteration every query takes the candidate that fits best, or none, and the graph is solved
with these (max-mixtures, Olson and Agarwal, IJRR 2013). It starts from the causal filter, run
forwards and backwards.
"""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from maptile_loc.fuse.certainty import make_estimates
from maptile_loc.fuse.filter import filter_with_gnss
from maptile_loc.fuse.gnss import GnssEvidence, lasting, pull
from maptile_loc.fuse.motion import POSE, SIZE, FuseSettings, Steps, initial_states
from maptile_loc.fuse.posegraph import relax
from maptile_loc.types import Estimates, Fixes


def smooth(
    fixes: list[Fixes],
    steps: Steps,
    fused: Estimates,
    area_m2: float,
    settings: FuseSettings,
    gnss: GnssEvidence | None = None,
) -> Estimates:
    """Estimate each of Q queries from all of them, after the drive.

    Args:
        fixes: Candidates of each query.
        steps: Odometry between the queries.
        fused: The causal filter's estimates.
        area_m2: Area that was searched, for the filter that runs backwards.
        settings: Noise.
        gnss: The GNSS that the causal filter used, where there is any.

    Returns:
        Estimates of Q poses; NaN in odometry segments without any localized fix.
    """
    backward = _backward(fixes, steps, area_m2, settings, gnss)
    guess, starts = _guess(fused, backward, steps, settings)
    covariance = np.full_like(fused.covariance, np.nan)
    for start, stop in pairwise([*starts, len(fixes)]):
        chain = slice(start, stop)
        stated = None if gnss is None else gnss[chain]
        guess[chain], covariance[chain] = _settle(
            guess[chain], fixes[chain], steps[chain], settings, stated
        )
    both = other = fused, backward
    if gnss is not None:
        # The same GNSS counts once: one of two filters that agree goes by the walls alone.
        alone = filter_with_gnss(fixes, steps, area_m2, settings, None)[0]
        other = alone, _backward(fixes, steps, area_m2, settings, None)
    score = _agreed_score(both, other, guess, starts, steps, settings.near_m)
    # Where both filters are sure, but not of the same position, there are two.
    reason = np.where(backward.score > fused.score, backward.reason, fused.reason)
    reason = np.where(reason == "", "look_alikes", reason)
    return make_estimates(guess, covariance, score, reason, settings)


def _backward(
    fixes: list[Fixes],
    steps: Steps,
    area_m2: float,
    settings: FuseSettings,
    gnss: GnssEvidence | None,
) -> Estimates:
    """The estimates of the filter that runs backwards, in the order of the queries."""
    back = None if gnss is None else gnss.reversed()
    ahead, _ = filter_with_gnss(fixes[::-1], steps.reversed(), area_m2, settings, back)
    return Estimates(*(column[::-1] for column in astuple(ahead)))


def _agreed_score(
    own: tuple[Estimates, Estimates],
    other: tuple[Estimates, Estimates],
    poses: Array,
    starts: list[int],
    steps: Steps,
    near_m: float,
) -> Array:
    """(Q,) probabilities of the smoothed poses: each is wrong only if both filters are.

    The filters' scores at one query are based on overlapping tiles. So each filter is combined with
    what the other one found where its tiles begin to be others, in the same chain.

    Args:
        own: The estimates of the filters that run forwards and backwards.
        other: Those that each is combined with, likewise.
        poses: (Q, 3) smoothed poses.
        starts: First query of each chain; nothing links the poses of different chains.
        steps: Odometry between the queries.
        near_m: Distance up to which a filter agrees with a pose, metres.
    """
    ahead, behind = (_agreement(one, poses, near_m) for one in own)
    before, after = (_agreement(one, poses, near_m) for one in other)
    last, seen = len(poses) - 1, steps.fresh.cumsum()
    chain = np.searchsorted(starts, np.arange(len(poses)), side="right")
    later = np.searchsorted(seen, seen + 1 - 1e-9)
    earlier = np.searchsorted(seen, seen - 1 + 1e-9, side="right") - 1
    doubt = np.ones(len(poses))
    for score, beyond, index in ((ahead, after, later), (behind, before, earlier)):
        at = np.clip(index, 0, last)
        linked = (at == index) & (chain[at] == chain)
        doubt = np.minimum(doubt, (1 - score) * (1 - np.where(linked, beyond[at], 0.0)))
    return np.where(np.isfinite(poses[:, 0]), 1 - doubt, 0.0)


def _agreement(estimates: Estimates, poses: Array, near_m: float) -> Array:
    """(Q,) the scores of a filter where it is within ``near_m`` metres of ``poses``, else 0."""
    gap = np.hypot(*(estimates.poses[:, :2] - poses[:, :2]).T)
    return np.where(gap < near_m, estimates.score, 0.0)


def _guess(
    fused: Estimates, backward: Estimates, steps: Steps, settings: FuseSettings
) -> tuple[Array, list[int]]:
    """Initial poses of the smoother, and the first query of each of its chains.

    A chain ends where the odometry does, or where it contradicts the filters.

    Returns:
        (Q, 3) poses: those of the more probable filter where this is localized (in a segment
        without any, where it is most probable), continued by odometry elsewhere; NaN in chains that
        have none. And the chains' first queries, ascending.
    """
    first = backward.score > fused.score
    guess = np.where(first[:, None], backward.poses, fused.poses)
    score = np.maximum(backward.score, fused.score)
    sure = np.where(first, backward.localized, fused.localized)
    for segment in np.split(np.arange(len(guess)), np.flatnonzero(~steps.known))[1:]:
        best = segment[score[segment].argmax()]
        sure[best] |= not sure[segment].any() and score[best] > 0
    starts = []
    predicted, since = np.full(3, np.nan), 0.0
    for i in range(len(guess)):
        known = steps.known[i]
        predicted = se2_compose(predicted, steps.motion[i]) if known else np.full(3, np.nan)
        since += steps.metres[i]
        limit = settings.jump_m + settings.jump_share * since
        astray = np.hypot(*(guess[i, :2] - predicted[:2])) > limit
        if not known or (sure[i] and astray):
            starts.append(i)
        if sure[i]:
            predicted, since = guess[i], 0.0
        guess[i] = predicted
    for i in range(len(guess) - 2, -1, -1):
        if np.isnan(guess[i, 0]) and i + 1 not in starts:
            guess[i] = se2_compose(guess[i + 1], se2_between(steps.motion[i + 1], np.zeros(3)))
    return guess, starts


def _settle(
    guess: Array,
    fixes: list[Fixes],
    steps: Steps,
    settings: FuseSettings,
    gnss: GnssEvidence | None,
) -> tuple[Array, Array]:
    """Return the most probable (N, 3) poses of one chain and their (N, 3, 3) covariances.

    The covariances are NaN where no fix is used.

    Args:
        guess: (N, 3) initial poses; if one is NaN, ``guess`` is returned as it is.
        fixes: Candidates of each query.
        steps: Odometry between the queries.
        settings: Noise.
        gnss: The GNSS of the queries, where there is any.
    """
    covariance = np.full((len(guess), SIZE, SIZE), np.nan)
    if np.isnan(guess).any():
        return guess, covariance[:, POSE, POSE]
    states, doubt, before = initial_states(guess), np.zeros((len(guess), 3, 3)), None
    for _ in range(settings.rounds):
        each = zip(fixes, states[:, POSE], doubt, strict=True)
        picks = [_choose(fix, pose, spread, settings) for fix, pose, spread in each]
        fixed = [(i, pick) for i, pick in enumerate(picks) if pick is not None]
        if not fixed:
            break
        seen = np.array([fixes[i].candidates.poses[pick] for i, pick in fixed])
        own = np.array([fixes[i].covariance[pick] for i, pick in fixed])
        at = np.array([i for i, _ in fixed])
        pulls = None if gnss is None else _pulls(gnss, states[:, POSE], doubt)
        relaxed, covariance = relax(states, at, seen, own, steps, settings, pulls)
        change = np.abs(relaxed - states)[:, :2].max()
        still = picks == before and change < settings.still_m
        states, doubt, before = relaxed, covariance[:, POSE, POSE], picks
        if still:
            break
    return states[:, POSE], covariance[:, POSE, POSE]


def _pulls(
    gnss: GnssEvidence, poses: Array, doubt: Array
) -> tuple[NDArray[np.int64], Array, Array] | None:
    """What GNSS adds to the pose graph, as ``relax`` takes it; None where there is none.

    Args:
        gnss: Of N queries.
        poses: (N, 3) of these.
        doubt: (N, 3, 3) covariances of the poses.
    """
    stated = [one for one in gnss.witnesses if one is not None]
    if not stated:
        return None
    at = np.array([i for i, one in enumerate(gnss.witnesses) if one is not None])
    share = 1 - lasting(np.diff(gnss.seconds[at], prepend=-np.inf), gnss.settings)
    each = zip(stated, poses[at, None], doubt[at, None], share.tolist(), strict=True)
    information = np.concatenate([pull(*one, gnss.settings) for one in each])
    return at, np.array([one.pose[:2] for one in stated]), information


def _choose(fix: Fixes, pose: Array, doubt: Array, settings: FuseSettings) -> int | None:
    """Index of the candidate that fits ``pose`` best, None if even that is an outlier.

    ``doubt`` is the pose's own (3, 3) covariance.
    """
    if len(fix.candidates.poses) == 0:
        return None
    error = fix.candidates.poses - pose
    error[:, 2] = wrap_angle(error[:, 2])
    distance = np.einsum("ki,kij,kj->k", error, np.linalg.inv(fix.covariance + doubt), error)
    fit = fix.candidates.log_scores - 0.5 * distance
    best = int(fit.argmax())
    return best if fit[best] > np.log(settings.miss) - settings.outlier else None
