"""Sequence fusion: many doubtful fixes and the odometry between them make one trajectory.

The causal filter keeps a bank of Gaussian hypotheses: odometry moves them, candidates confirm
them or give birth to new ones. The smoother is a pose graph over the whole drive, in which each
query picks the candidate that fits best, or none (max-mixture, Olson and Agarwal 2013). Both
estimate how far the odometry drifts (``motion.py``).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.special import logsumexp

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from maptile_loc.fuse.motion import (
    COMMON,
    POSE,
    SIZE,
    FuseSettings,
    Steps,
    make_steps,
    move,
    observe,
)
from maptile_loc.fuse.posegraph import relax
from maptile_loc.types import Estimates, Fixes

__all__ = ["Fixes", "FuseSettings", "Steps", "filter_causal", "is_sure", "make_steps", "smooth"]


@dataclass(frozen=True)
class Bank:
    """Gaussian hypotheses of where the vehicle is, and the probability that it is none of them.

    Attributes:
        states: (H, 8), as in ``motion.py``.
        covariance: (H, 8, 8).
        weights: (H,) log-probabilities.
        lost: Log-probability of being elsewhere, on the map or off it.
    """

    states: Array
    covariance: Array
    weights: Array
    lost: float


NOTHING_KNOWN = Bank(np.zeros((0, SIZE)), np.zeros((0, SIZE, SIZE)), np.zeros(0), 0.0)
NEGLIGIBLE = np.log(1e-12)
SAME_M, SAME_RAD = 2.0, 0.1
NEAR_M = 5.0
JUMP_M, JUMP_SHARE = 10.0, 0.1
"""Further from where the odometry leads, and from that share of the way, is another place."""
STILL_M = 1e-3


def filter_causal(
    fixes: list[Fixes], steps: Steps, area_m2: float, settings: FuseSettings
) -> Estimates:
    """The trajectory as it would be known while driving: a query's estimate uses no later one.

    Args:
        fixes: Q queries' candidates.
        steps: The odometry between them.
        area_m2: The searched area; a stray candidate may be anywhere in it.
        settings: Noise and bank size.
    """
    bank = NOTHING_KNOWN
    answers = []
    for number, fix in enumerate(fixes):
        bank = _predict(bank, steps, number, settings) if steps.known[number] else NOTHING_KNOWN
        bank = _update(bank, fix, steps.fresh[number], area_m2, settings)
        bank = _prune(bank, settings.hypotheses)
        answers.append(_best(bank, settings))
    pose, covariance, score, localized = (np.array(column) for column in zip(*answers, strict=True))
    return Estimates(pose, covariance, score, localized)


def _predict(bank: Bank, steps: Steps, number: int, settings: FuseSettings) -> Bank:
    moved, jacobian, noise = move(bank.states, steps, number, settings)
    grown = jacobian @ bank.covariance @ np.swapaxes(jacobian, 1, 2) + noise
    # Rounding must not make it lopsided, which grows from step to step.
    return replace(bank, states=moved, covariance=(grown + np.swapaxes(grown, 1, 2)) / 2)


def _update(bank: Bank, fix: Fixes, fresh: float, area_m2: float, settings: FuseSettings) -> Bank:
    """Every hypothesis with every candidate or none, and every candidate as a new hypothesis.

    A tile of which a share ``fresh`` was not in the one before counts by that share.
    """
    seen, probability = fix.candidates.poses, fix.candidates.log_scores
    if len(seen) == 0:
        return bank
    right = np.log1p(-settings.miss) + probability
    # What the candidates leave over: the tile tells nothing, or all of them are wrong. Who has lost
    # track, or left the map, expects just that; who is on the track, rarely.
    left_over = max(1 - np.exp(logsumexp(right)), settings.miss)
    lost = np.logaddexp(bank.lost, np.log(fresh * settings.jump))

    jacobian, rest = observe(fix.covariance, settings)
    crossed = np.einsum("hij,kaj->hkia", bank.covariance, jacobian)
    total = np.einsum("kai,hkib->hkab", jacobian, crossed) + rest
    inverse = np.linalg.inv(total)
    gain = crossed @ inverse
    innovation = seen - np.einsum("kai,hi->hka", jacobian, bank.states)
    innovation[..., 2] = wrap_angle(innovation[..., 2])
    distance = np.einsum("hki,hkij,hkj->hk", innovation, inverse, innovation)
    spread = np.linalg.slogdet(2 * np.pi * total[..., :2, :2])[1]
    # How much likelier the candidate is there than anywhere in the area. That headings agree is no
    # evidence, as they may all be known; and wrong candidates can be consistent with each other,
    # so that a track gains little by each, however well it fits.
    gained = np.log(area_m2) - 0.5 * (distance + spread)
    none = np.full((len(gained), 1), np.log(settings.miss))
    ways = np.hstack([right + gained, none])
    evidence = np.hstack([right + np.minimum(gained, -np.log(settings.repeat)), none])
    ways += (bank.weights + fresh * logsumexp(evidence, axis=1) - logsumexp(ways, axis=1))[:, None]
    updated = bank.states[:, None] + np.einsum("hkia,hka->hki", gain, innovation)
    updated[..., 2] = wrap_angle(updated[..., 2])
    shrunk = bank.covariance[:, None] - gain @ np.swapaxes(crossed, 2, 3)
    born = _doubt(fix.covariance, jacobian)
    return Bank(
        np.concatenate([updated.reshape(-1, SIZE), bank.states, _born(seen)]),
        np.concatenate([shrunk.reshape(-1, SIZE, SIZE), bank.covariance, born]),
        np.concatenate([ways[:, :-1].ravel(), ways[:, -1], lost + np.log(fresh) + right]),
        float(lost + np.log1p(-fresh * (1 - left_over))),
    )


def _born(seen: Array) -> Array:
    """(K, 8) states of which (K, 3) poses are all that is known."""
    return np.hstack([seen, np.zeros((len(seen), SIZE - 3))])


def _doubt(covariance: Array, jacobian: Array) -> Array:
    """(K, 8, 8) covariance of states newly born from fixes of (K, 3, 3) ``covariance``."""
    born = np.tile(np.eye(SIZE), (len(covariance), 1, 1))
    born[:, POSE, POSE] = covariance
    born[:, POSE, COMMON] = -jacobian[:, :, COMMON]
    born[:, COMMON, POSE] = -np.swapaxes(jacobian[:, :, COMMON], 1, 2)
    return born


def _prune(bank: Bank, most: int) -> Bank:
    """Merge hypotheses that say the same, keep the best, normalise the weights."""
    total = np.logaddexp(logsumexp(bank.weights), bank.lost)
    weights = bank.weights - total
    kept: list[int] = []
    merged = weights.copy()
    order = np.argsort(-weights, kind="stable")
    for index in order[weights[order] > NEGLIGIBLE]:
        gap = bank.states[kept, :3] - bank.states[index, :3]
        close = np.hypot(gap[:, 0], gap[:, 1]) < SAME_M
        same = np.flatnonzero(close & (np.abs(wrap_angle(gap[:, 2])) < SAME_RAD))
        if len(same):
            merged[kept[same[0]]] = np.logaddexp(merged[kept[same[0]]], weights[index])
        elif len(kept) < most:
            kept.append(int(index))
    lost = max(float(bank.lost - total), NEGLIGIBLE)
    return Bank(bank.states[kept], bank.covariance[kept], merged[kept], lost)


def _best(bank: Bank, settings: FuseSettings) -> tuple[Array, Array, float, bool]:
    if len(bank.weights) == 0:
        return np.full(3, np.nan), np.full((3, 3), np.nan), 0.0, False
    best = int(bank.weights.argmax())
    pose, covariance = bank.states[best, POSE], bank.covariance[best, POSE, POSE]
    near = np.hypot(*(bank.states[:, :2] - pose[:2]).T) < NEAR_M
    score = float(np.exp(logsumexp(bank.weights[near])))
    return pose, covariance, score, is_sure(score, covariance, settings)


def is_sure(score: float, covariance: Array, settings: FuseSettings) -> bool:
    """Whether a fix is to be relied on: probable enough, and held in every direction."""
    if not np.isfinite(covariance).all():
        return False
    std = np.sqrt(np.linalg.eigvalsh(covariance[:2, :2])[-1])
    return bool(score >= settings.trust and std <= settings.max_std_m)


def smooth(
    fixes: list[Fixes], steps: Steps, fused: Estimates, area_m2: float, settings: FuseSettings
) -> Estimates:
    """The trajectory as it is known after the drive: every query's estimate uses all of them.

    Args:
        fixes: Q queries' candidates.
        steps: The odometry between them.
        fused: The causal filter's answer, which the smoother starts from.
        area_m2: As for the filter, which is run backwards too.
        settings: Noise.
    """
    ahead = filter_causal(fixes[::-1], steps.reversed(), area_m2, settings)
    backward = Estimates(*(column[::-1] for column in astuple(ahead)))
    guess, starts = _guess(fused, backward, steps)
    covariance = np.full_like(fused.covariance, np.nan)
    for start, stop in pairwise([*starts, len(fixes)]):
        chain = slice(start, stop)
        guess[chain], covariance[chain] = _settle(
            guess[chain], fixes[chain], steps[chain], settings
        )
    # Either filter may know of a place what the other does not.
    doubt = (1 - _agreement(fused, guess)) * (1 - _agreement(backward, guess))
    score = np.where(np.isfinite(guess[:, 0]), 1 - doubt, 0.0)
    localized = [is_sure(*pair, settings) for pair in zip(score, covariance, strict=True)]
    return Estimates(guess, covariance, score, np.array(localized, bool))


def _agreement(estimates: Estimates, poses: Array) -> Array:
    """(Q,) probability that the filter gives to the (Q, 3) ``poses``."""
    gap = np.hypot(*(estimates.poses[:, :2] - poses[:, :2]).T)
    return np.where(gap < NEAR_M, estimates.score, 0.0)


def _guess(fused: Estimates, backward: Estimates, steps: Steps) -> tuple[Array, list[int]]:
    """Where the smoother starts from, and where its chains start.

    Returns:
        (Q, 3) poses of the surer filter where it is sure, or where it is surest and likelier right
        than not; odometry from there elsewhere, NaN in chains without. A chain ends where the
        odometry does, or leads to another place than the filters.
    """
    first = backward.score > fused.score
    guess = np.where(first[:, None], backward.poses, fused.poses)
    score = np.maximum(backward.score, fused.score)
    sure = np.where(first, backward.localized, fused.localized)
    for segment in np.split(np.arange(len(guess)), np.flatnonzero(~steps.known))[1:]:
        best = segment[score[segment].argmax()]
        sure[best] |= not sure[segment].any() and score[best] > 0.5
    starts = []
    come, since = np.full(3, np.nan), 0.0
    for i in range(len(guess)):
        come = se2_compose(come, steps.motion[i]) if steps.known[i] else np.full(3, np.nan)
        since += steps.metres[i]
        astray = np.hypot(*(guess[i, :2] - come[:2])) > JUMP_M + JUMP_SHARE * since
        if not steps.known[i] or (sure[i] and astray):
            starts.append(i)
        if sure[i]:
            come, since = guess[i], 0.0
        guess[i] = come
    for i in range(len(guess) - 2, -1, -1):
        if np.isnan(guess[i, 0]) and i + 1 not in starts:
            guess[i] = se2_compose(guess[i + 1], se2_between(steps.motion[i + 1], np.zeros(3)))
    return guess, starts


def _settle(
    guess: Array, fixes: list[Fixes], steps: Steps, settings: FuseSettings
) -> tuple[Array, Array]:
    """Solve a chain: (N, 3) poses and their (N, 3, 3) covariances, NaN where ``guess`` is."""
    covariance = np.full((len(guess), SIZE, SIZE), np.nan)
    if np.isnan(guess).any():
        return guess, covariance[:, POSE, POSE]
    states, doubt, before = _born(guess), np.zeros((len(guess), 3, 3)), None
    for _ in range(settings.rounds):
        each = zip(fixes, states[:, POSE], doubt, strict=True)
        picks = [_choose(fix, pose, spread, settings) for fix, pose, spread in each]
        fixed = [(i, pick) for i, pick in enumerate(picks) if pick is not None]
        if not fixed:
            break
        seen = np.array([fixes[i].candidates.poses[pick] for i, pick in fixed])
        own = np.array([fixes[i].covariance[pick] for i, pick in fixed])
        at = np.array([i for i, _ in fixed])
        relaxed, covariance = relax(states, at, seen, own, steps, settings)
        still = picks == before and np.abs(relaxed - states)[:, :2].max() < STILL_M
        states, doubt, before = relaxed, covariance[:, POSE, POSE], picks
        if still:
            break
    return states[:, POSE], covariance[:, POSE, POSE]


def _choose(fix: Fixes, pose: Array, doubt: Array, settings: FuseSettings) -> int | None:
    """The candidate that fits ``pose`` best, None where being astray is likelier.

    ``doubt`` is the pose's own (3, 3) covariance.
    """
    if len(fix.candidates.poses) == 0:
        return None
    error = fix.candidates.poses - pose
    error[:, 2] = wrap_angle(error[:, 2])
    distance = np.einsum("ki,kij,kj->k", error, np.linalg.inv(fix.covariance + doubt), error)
    fit = fix.candidates.log_scores - 0.5 * distance
    best = int(fit.argmax())
    return best if fit[best] > np.log(settings.miss) - 8.0 else None
