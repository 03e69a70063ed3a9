"""Sequence fusion: many doubtful fixes and the odometry between them make one trajectory.

The causal filter keeps a bank of Gaussian hypotheses: odometry moves them, candidates confirm
them or give birth to new ones. The smoother is a pose graph over the whole drive (a chain, solved
exactly by block elimination), in which each query picks the candidate that fits best, or none
(max-mixture, Olson and Agarwal 2013).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from data_prep.settings import Positive, Settings
from maptile_loc.result import Candidates, Estimates


class FuseSettings(Settings):
    """The noise of odometry, and how much candidates are trusted.

    Attributes:
        drift: Odometry error per metre travelled (standard deviation, metres per metre).
        drift_deg: Heading error per square root of a metre travelled, degrees.
        floor_m, floor_deg: Error of any step, however short.
        miss: Probability that none of a query's candidates is right.
        jump: Probability per query that the track so far was wrong and begins afresh.
        hypotheses: Size of the filter's bank.
        trust: A fix counts as localized from this probability on.
        max_std_m: ... and if its larger standard deviation is not above this.
        rounds: Rounds of the smoother.
    """

    drift: Positive = 0.02
    drift_deg: Positive = 0.3
    floor_m: Positive = 0.1
    floor_deg: Positive = 0.1
    miss: float = 0.1
    jump: float = 0.001
    hypotheses: int = 60
    trust: float = 0.98
    max_std_m: float = 4.0
    rounds: int = 10


@dataclass(frozen=True)
class Steps:
    """Odometry between consecutive queries.

    Attributes:
        motion: (Q, 3) pose of query i in the frame of query i - 1; row 0 means nothing.
        covariance: (Q, 3, 3) of the motion.
        known: (Q,) bool; False where a new segment begins and the motion is not known.
        fresh: (Q,) share of a query's tile that the query before has not seen, 0..1.
    """

    motion: Array
    covariance: Array
    known: NDArray[np.bool_]
    fresh: Array

    def reversed(self) -> Steps:
        """The steps of the drive backwards."""
        return Steps(
            _shifted(se2_between(self.motion, np.zeros(3))),
            _shifted(self.covariance),
            _shifted(self.known),
            _shifted(self.fresh),
        )


def _shifted(steps: NDArray[Any]) -> NDArray[Any]:
    """Backwards, the step that led to query i leads to query i - 1."""
    return np.roll(steps[::-1], 1, axis=0)


def make_steps(
    poses: Array,
    segment: NDArray[np.int32],
    metres: Array,
    submap_m: float,
    settings: FuseSettings,
) -> Steps:
    """Steps from (Q, 3) odometry poses, their (Q,) segments and (Q,) metres travelled.

    ``submap_m`` is the length of a query's window: closer queries see partly the same.
    """
    motion = np.zeros_like(poses)
    motion[1:] = se2_between(poses[:-1], poses[1:])
    known = np.zeros(len(poses), bool)
    known[1:] = (segment[1:] == segment[:-1]) & (segment[1:] >= 0)
    step = np.diff(metres, prepend=metres[:1])
    position = (settings.drift * step) ** 2 + settings.floor_m**2
    heading = np.radians(settings.drift_deg) ** 2 * step + np.radians(settings.floor_deg) ** 2
    covariance = np.zeros((len(poses), 3, 3))
    covariance[:, 0, 0] = covariance[:, 1, 1] = position
    covariance[:, 2, 2] = heading
    fresh = np.clip(step / max(submap_m, 1e-6), 0.05, 1.0)
    fresh[~known] = 1.0
    return Steps(motion, covariance, known, fresh)


@dataclass(frozen=True)
class Fixes:
    """The aligned candidates of one query.

    Attributes:
        candidates: K poses; ``log_scores`` are log-probabilities that each is the place.
        covariance: (K, 3, 3).
    """

    candidates: Candidates
    covariance: Array


@dataclass(frozen=True)
class Bank:
    """Gaussian hypotheses of where the vehicle is, and the probability that it is none of them.

    Attributes:
        poses: (H, 3).
        covariance: (H, 3, 3).
        weights: (H,) log-probabilities.
        lost: Log-probability of being elsewhere, on the map or off it.
    """

    poses: Array
    covariance: Array
    weights: Array
    lost: float


NOTHING_KNOWN = Bank(np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros(0), 0.0)


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
    stray = -np.log(area_m2) - np.log(2 * np.pi)
    bank = NOTHING_KNOWN
    answers = []
    for number, fix in enumerate(fixes):
        bank = _predict(bank, steps, number) if steps.known[number] else NOTHING_KNOWN
        bank = _update(bank, fix, steps.fresh[number], stray, settings)
        bank = _prune(bank, settings.hypotheses)
        answers.append(_best(bank, settings))
    pose, covariance, score, localized = (np.array(column) for column in zip(*answers, strict=True))
    return Estimates(pose, covariance, score, localized)


def _predict(bank: Bank, steps: Steps, number: int) -> Bank:
    moved = se2_compose(bank.poses, steps.motion[number])
    jacobian = np.tile(np.eye(3), (len(moved), 1, 1))
    jacobian[:, 0, 2] = -(moved[:, 1] - bank.poses[:, 1])
    jacobian[:, 1, 2] = moved[:, 0] - bank.poses[:, 0]
    turn = _turn(bank.poses[:, 2])
    noise = turn @ steps.covariance[number] @ np.swapaxes(turn, 1, 2)
    grown = jacobian @ bank.covariance @ np.swapaxes(jacobian, 1, 2) + noise
    return replace(bank, poses=moved, covariance=grown)


def _update(bank: Bank, fix: Fixes, fresh: float, stray: float, settings: FuseSettings) -> Bank:
    """Every hypothesis with every candidate or none, and every candidate as a new hypothesis.

    Weights are relative to candidates that come from nowhere, at the density exp(``stray``); a tile
    of which a share ``fresh`` was not in the one before counts by that share.
    """
    seen, probability = fix.candidates.poses, fix.candidates.log_scores
    if len(seen) == 0:
        return bank
    right = np.log1p(-settings.miss) + probability
    # What the candidates leave over: the tile tells nothing, or all of them are wrong.
    nothing = fresh * np.log(max(1 - np.exp(logsumexp(right)), settings.miss))
    born = np.logaddexp(bank.lost, np.log(settings.jump)) + fresh * right
    innovation = seen[None] - bank.poses[:, None]
    innovation[..., 2] = wrap_angle(innovation[..., 2])
    total = bank.covariance[:, None] + fix.covariance[None]
    inverse = np.linalg.inv(total)
    gain = bank.covariance[:, None] @ inverse
    distance = np.einsum("hki,hkij,hkj->hk", innovation, inverse, innovation)
    density = -0.5 * (distance + np.linalg.slogdet(2 * np.pi * total)[1])
    updated = bank.poses[:, None] + np.einsum("hkij,hkj->hki", gain, innovation)
    updated[..., 2] = wrap_angle(updated[..., 2])
    shrunk = bank.covariance[:, None] - gain @ bank.covariance[:, None]
    joined = bank.weights[:, None] + fresh * (right[None] + density - stray)
    return Bank(
        np.concatenate([updated.reshape(-1, 3), bank.poses, seen]),
        np.concatenate([shrunk.reshape(-1, 3, 3), bank.covariance, fix.covariance]),
        np.concatenate([joined.ravel(), bank.weights + nothing, born]),
        bank.lost + nothing,
    )


def _prune(bank: Bank, most: int) -> Bank:
    """Merge hypotheses that say the same, keep the best, normalise the weights."""
    weights = bank.weights - np.logaddexp(logsumexp(bank.weights), bank.lost)
    lost = bank.lost - np.logaddexp(logsumexp(bank.weights), bank.lost)
    kept: list[int] = []
    merged = weights.copy()
    for index in np.argsort(-weights, kind="stable"):
        gap = bank.poses[kept] - bank.poses[index]
        same = np.flatnonzero((np.hypot(gap[:, 0], gap[:, 1]) < 2) & (_apart(gap[:, 2]) < 0.1))
        if len(same):
            merged[kept[same[0]]] = np.logaddexp(merged[kept[same[0]]], weights[index])
        elif len(kept) < most and weights[index] > np.log(1e-12):
            kept.append(int(index))
    return Bank(bank.poses[kept], bank.covariance[kept], merged[kept], max(lost, np.log(1e-12)))


def _apart(angle: Array) -> Array:
    return np.abs(wrap_angle(angle))


def _best(bank: Bank, settings: FuseSettings) -> tuple[Array, Array, float, bool]:
    if len(bank.weights) == 0:
        return np.full(3, np.nan), np.full((3, 3), np.nan), 0.0, False
    best = int(bank.weights.argmax())
    near = np.hypot(*(bank.poses[:, :2] - bank.poses[best, :2]).T) < 5.0
    score = float(np.exp(logsumexp(bank.weights[near])))
    covariance = bank.covariance[best]
    return bank.poses[best], covariance, score, is_sure(score, covariance, settings)


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
    poses = np.full_like(fused.poses, np.nan)
    covariance = np.full_like(fused.covariance, np.nan)
    starts = np.append(np.flatnonzero(~steps.known), len(fixes))
    for start, stop in pairwise(starts.tolist()):
        chain = range(start, stop)
        guess = _guess(fused, backward, steps, chain)
        if guess is None:
            continue
        for _ in range(settings.rounds):
            chosen = [_choose(fixes[i], guess[n], settings) for n, i in enumerate(chain)]
            guess, covariance[start:stop] = _solve(guess, chosen, fixes, steps, chain)
        poses[start:stop] = guess
    # Either filter may know of a place what the other does not.
    doubt = (1 - _agreement(fused, poses)) * (1 - _agreement(backward, poses))
    score = np.where(np.isfinite(poses[:, 0]), 1 - doubt, 0.0)
    localized = [is_sure(*pair, settings) for pair in zip(score, covariance, strict=True)]
    return Estimates(poses, covariance, score, np.array(localized, bool))


def _agreement(estimates: Estimates, poses: Array) -> Array:
    """(Q,) probability that the filter gives to the (Q, 3) ``poses``."""
    gap = np.hypot(*(estimates.poses[:, :2] - poses[:, :2]).T)
    return np.where(gap < 5.0, estimates.score, 0.0)


def _guess(fused: Estimates, backward: Estimates, steps: Steps, chain: range) -> Array | None:
    """(N, 3) first guess: where either filter is sure, its pose; odometry from there elsewhere."""
    sure = {i: backward.poses[i] for i in chain if backward.localized[i]}
    sure |= {i: fused.poses[i] for i in chain if fused.localized[i]}
    if not sure:
        return None
    guess = np.zeros((len(chain), 3))
    first = min(sure)
    for i in range(first, chain.stop):
        n = i - chain.start
        guess[n] = sure[i] if i in sure else se2_compose(guess[n - 1], steps.motion[i])
    for i in range(first - 1, chain.start - 1, -1):
        n = i - chain.start
        guess[n] = se2_compose(guess[n + 1], se2_between(steps.motion[i + 1], np.zeros(3)))
    return guess


def _choose(fix: Fixes, pose: Array, settings: FuseSettings) -> int | None:
    """The candidate that fits ``pose`` best, None where being astray is likelier."""
    if len(fix.candidates.poses) == 0:
        return None
    error = fix.candidates.poses - pose
    error[:, 2] = wrap_angle(error[:, 2])
    distance = np.einsum("ki,kij,kj->k", error, np.linalg.inv(fix.covariance), error)
    fit = fix.candidates.log_scores - 0.5 * distance
    best = int(fit.argmax())
    return best if fit[best] > np.log(settings.miss) - 8.0 else None


def _solve(
    poses: Array, chosen: list[int | None], fixes: list[Fixes], steps: Steps, chain: range
) -> tuple[Array, Array]:
    """One Gauss-Newton step over the chain: (N, 3) poses and their (N, 3, 3) covariances."""
    n = len(poses)
    diagonal = np.tile(np.eye(3) * 1e-9, (n, 1, 1))
    upper = np.zeros((n, 3, 3))
    right = np.zeros((n, 3))
    for k, pick in enumerate(chosen):
        if pick is None:
            continue
        fix = fixes[chain.start + k]
        information = np.linalg.inv(fix.covariance[pick])
        error = fix.candidates.poses[pick] - poses[k]
        error[2] = wrap_angle(error[2])
        diagonal[k] += information
        right[k] += information @ error
    for k in range(1, n):
        i = chain.start + k
        error = se2_between(poses[k - 1], poses[k]) - steps.motion[i]
        error[2] = wrap_angle(error[2])
        turn = _turn(poses[k - 1 : k, 2])[0]
        after = turn.T
        before = -after.copy()
        delta = poses[k, :2] - poses[k - 1, :2]
        before[:2, 2] = turn[:2, :2].T @ np.array([delta[1], -delta[0]])
        information = np.linalg.inv(steps.covariance[i])
        diagonal[k - 1] += before.T @ information @ before
        diagonal[k] += after.T @ information @ after
        upper[k - 1] = before.T @ information @ after
        right[k - 1] -= before.T @ information @ error
        right[k] -= after.T @ information @ error
    step, covariance = solve_chain(diagonal, upper, right)
    moved = poses + step
    moved[:, 2] = wrap_angle(moved[:, 2])
    return moved, covariance


def solve_chain(diagonal: Array, upper: Array, right: Array) -> tuple[Array, Array]:
    """Solve a symmetric block-tridiagonal system, with the diagonal blocks of the inverse.

    Args:
        diagonal: (N, 3, 3) diagonal blocks.
        upper: (N, 3, 3), block (i, i + 1) in row i; the last is not used.
        right: (N, 3).

    Returns:
        (N, 3) solution and (N, 3, 3) diagonal blocks of the inverse (the marginal covariances).
    """
    n = len(diagonal)
    pivot, carried = diagonal.copy(), right.copy()
    for i in range(1, n):
        factor = upper[i - 1].T @ np.linalg.inv(pivot[i - 1])
        pivot[i] -= factor @ upper[i - 1]
        carried[i] -= factor @ carried[i - 1]
    inverse = np.linalg.inv(pivot)
    solution, covariance = np.zeros((n, 3)), np.zeros((n, 3, 3))
    solution[-1], covariance[-1] = inverse[-1] @ carried[-1], inverse[-1]
    for i in range(n - 2, -1, -1):
        solution[i] = inverse[i] @ (carried[i] - upper[i] @ solution[i + 1])
        factor = inverse[i] @ upper[i]
        covariance[i] = inverse[i] + factor @ covariance[i + 1] @ factor.T
    return solution, covariance


def _turn(heading: Array) -> Array:
    """(N, 3, 3) rotation of (x, y, heading) errors from the vehicle's into the map frame."""
    turn = np.tile(np.eye(3), (len(heading), 1, 1))
    c, s = np.cos(heading), np.sin(heading)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = c, -s, s, c
    return turn
