"""The causal filter: a bank of Gaussian hypotheses of the vehicle's state.

Each hypothesis is an extended Kalman filter (a Gaussian sum filter, Alspach and Sorenson 1972).
Odometry predicts the hypotheses; a query's candidates update them and start new ones. The bank also
holds the probability that the vehicle is at none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array, wrap_angle
from maptile_loc.fuse.certainty import likely_reason, make_estimates, worst_std
from maptile_loc.fuse.gnss import (
    GnssEvidence,
    GnssSettings,
    GnssWindow,
    Witness,
    lasting,
    pull,
    support,
)
from maptile_loc.fuse.gnss_watch import GnssWatch
from maptile_loc.fuse.motion import (
    COMMON,
    POSE,
    SIZE,
    FuseSettings,
    Steps,
    initial_states,
    move,
    observe,
)
from maptile_loc.types import Estimates, Fixes


@dataclass(frozen=True)
class Bank:
    """Gaussian hypotheses of the state, and the probability that none of them holds.

    Attributes:
        states: (H, 8) means, as in ``motion.py``.
        covariance: (H, 8, 8).
        weights: (H,) log-probabilities.
        lost: Log-probability that the vehicle is elsewhere, on the map or off it.
    """

    states: Array
    covariance: Array
    weights: Array
    lost: float


UNKNOWN = Bank(np.zeros((0, SIZE)), np.zeros((0, SIZE, SIZE)), np.zeros(0), 0.0)
"""The bank before the first candidate: the vehicle may be anywhere."""


class Belief(NamedTuple):
    """What the filter holds most probable.

    Attributes:
        pose: (3,) east, north (metres), heading (radians); NaN without any hypothesis.
        covariance: (3, 3) of the pose.
        score: Probability of the position.
        alike: Whether other positions are more probable than none.
    """

    pose: Array
    covariance: Array
    score: float
    alike: bool


NOTHING = Belief(np.full(3, np.nan), np.full((3, 3), np.nan), 0.0, False)
"""The belief without any hypothesis."""


class Held(NamedTuple):
    """What the filter holds after a query, from which later poses are predicted.

    Attributes:
        belief: What it holds most probable.
        state: (8,) mean of the most probable hypothesis; NaN without any.
        covariance: (8, 8) likewise.
    """

    belief: Belief
    state: Array
    covariance: Array

    def ahead(self, steps: Steps, settings: FuseSettings) -> tuple[Array, Array]:
        """The (N, 3) poses after N steps from here, and their (N, 3, 3) covariances."""
        states = np.broadcast_to(self.state, (len(steps.metres), SIZE))
        moved, jacobian, noise = move(states, steps, slice(None), settings)
        return moved[:, POSE], _grown(jacobian, self.covariance, noise)[:, POSE, POSE]


class Filter:
    """The causal filter, one query at a time.

    Args:
        area_m2: Area that is searched; a wrong candidate may be anywhere in it.
        settings: Noise, and size of the bank.
        gnss: How far GNSS is believed, where there is any.

    Attributes:
        bank: The hypotheses, with their probabilities by the walls alone.
        watch: Whether GNSS agrees with the walls.
    """

    def __init__(
        self, area_m2: float, settings: FuseSettings, gnss: GnssSettings | None = None
    ) -> None:
        self.area_m2, self.settings = area_m2, settings
        self.bank = UNKNOWN
        self.gnss = GnssSettings() if gnss is None else gnss
        self.watch = GnssWatch(self.gnss)
        self._support: Array | None = None
        self._weighed_s = -np.inf

    def restart(self, seconds: float = np.inf) -> None:
        """Go some seconds without odometry; after infinitely many, all is forgotten."""
        self.bank, self._support = _adrift(self.bank, seconds, self.area_m2, self.settings), None

    def predict(self, steps: Steps, number: int) -> None:
        """Move the hypotheses along the step to query ``number``."""
        self.bank = _predict(self.bank, steps, number, self.settings)

    def update(self, fix: Fixes, fresh: float) -> None:
        """Weigh the hypotheses by a query's candidates, and start new ones there.

        Args:
            fix: The candidates, at the pose that was predicted last.
            fresh: Share 0..1 of the query's tile that earlier queries did not see.
        """
        bank = _update(self.bank, fix, fresh, self.area_m2, self.settings)
        self.bank, self._support = _prune(bank, self.settings), None

    def judge(self, window: GnssWindow | None, belief: Belief, now_s: float) -> None:
        """Compare GNSS with the position by the walls alone, where this is sure.

        Args:
            window: The samples near the position; None where there are none.
            belief: As ``by_walls`` returns it, or predicted from that.
            now_s: Its time, seconds.
        """
        std = float(worst_std(belief.covariance[None])[0])
        if belief.score >= self.settings.trust and std <= self.settings.max_std_m:
            self.watch.judge(window, belief.pose, std, now_s)

    def weigh_gnss(self, witness: Witness | None, now_s: float) -> None:
        """Let GNSS raise the hypotheses near it, and pull them a little.

        It raises them as long as it says so, however often it does: the next call, or the next
        update, replaces what this one said.

        Args:
            witness: What GNSS states at the pose that was predicted last; None: nothing.
            now_s: The time, seconds: soon after another witness, it repeats most of that one.
        """
        bank, self._support = self.bank, None
        if witness is None or len(bank.weights) == 0:
            return
        poses, covariance = bank.states[:, POSE], bank.covariance[:, POSE, POSE]
        self._support = support(witness, poses, covariance, self.area_m2, self.gnss)
        share = 1 - float(lasting(np.array(now_s - self._weighed_s), self.gnss))
        self._weighed_s = now_s
        self.bank = _pulled(bank, witness, pull(witness, poses, covariance, share, self.gnss))

    def by_walls(self) -> Belief:
        """The most probable position now by the walls alone."""
        return _best(self.bank, self.settings)

    def doubt(self, elsewhere: float) -> None:
        """Raise the probability that the vehicle is at no hypothesis to ``elsewhere``, if lower."""
        bank, lost = self.bank, float(np.log(elsewhere))
        if bank.lost < lost:
            left = np.log1p(-elsewhere) - np.logaddexp.reduce(bank.weights)
            self.bank = replace(bank, weights=bank.weights + left, lost=lost)

    def belief(self) -> Belief:
        """The most probable position now."""
        return _best(self._weighted(), self.settings)

    def held(self, by_walls: bool = False) -> Held:
        """What the filter holds now, or holds by the walls alone."""
        bank = self.bank if by_walls else self._weighted()
        belief = _best(bank, self.settings)
        if len(bank.weights) == 0:
            return Held(belief, np.full(SIZE, np.nan), np.full((SIZE, SIZE), np.nan))
        best = int(bank.weights.argmax())
        return Held(belief, bank.states[best], bank.covariance[best])

    def likely(self, least: float) -> Array:
        """(H, 3) poses of the hypotheses with a probability of at least ``least``."""
        bank = self._weighted()
        return bank.states[bank.weights >= np.log(least), POSE]

    def _weighted(self) -> Bank:
        """The hypotheses with their probabilities by the walls and GNSS."""
        bank = self.bank
        if self._support is None:
            return bank
        weights = bank.weights + self._support
        total = np.logaddexp(np.logaddexp.reduce(weights), bank.lost)
        return replace(bank, weights=weights - total, lost=float(bank.lost - total))


def filter_causal(
    fixes: list[Fixes], steps: Steps, area_m2: float, settings: FuseSettings
) -> Estimates:
    """Estimate each of Q queries from itself and earlier ones, as while driving.

    Args:
        fixes: Candidates of each query.
        steps: Odometry between the queries.
        area_m2: Area that was searched; a wrong candidate may be anywhere in it.
        settings: Noise, and size of the bank.

    Returns:
        Estimates of Q poses; NaN while there is no hypothesis.
    """
    return filter_with_gnss(fixes, steps, area_m2, settings, None)[0]


def filter_with_gnss(
    fixes: list[Fixes],
    steps: Steps,
    area_m2: float,
    settings: FuseSettings,
    gnss: GnssEvidence | None,
) -> tuple[Estimates, NDArray[np.bool_]]:
    """As ``filter_causal``, with the GNSS of the queries, where there is any.

    Returns:
        Estimates of Q poses, and (Q,) whether GNSS was used there: it is left out while it
        contradicts the walls.
    """
    causal = Filter(area_m2, settings, None if gnss is None else gnss.settings)
    answers: list[Belief] = []
    used = np.zeros(len(fixes), bool)
    for number, fix in enumerate(fixes):
        if steps.known[number]:
            causal.predict(steps, number)
        else:
            causal.restart()
        causal.update(fix, steps.fresh[number])
        if gnss is not None:
            causal.judge(gnss.windows[number], causal.by_walls(), gnss.seconds[number])
            witness = gnss.witnesses[number] if causal.watch.trusted else None
            causal.weigh_gnss(witness, gnss.seconds[number])
            used[number] = witness is not None
        answers.append(causal.belief())
    wall_m2 = np.array([fix.wall_m2 for fix in fixes])
    return estimates(answers, wall_m2, steps.travelled(), settings), used


def estimates(
    beliefs: Sequence[Belief], wall_m2: Array, travelled_m: Array, settings: FuseSettings
) -> Estimates:
    """The estimates of Q beliefs.

    Args:
        beliefs: Of each query.
        wall_m2: (Q,) wall evidence of each query's tile, square metres.
        travelled_m: (Q,) metres of travel that each belief is based on.
        settings: Limits.
    """
    pose, covariance, score, alike = (np.array(column) for column in zip(*beliefs, strict=True))
    reason = likely_reason(wall_m2, alike, travelled_m, settings)
    return make_estimates(pose, covariance, score, reason, settings)


def _predict(bank: Bank, steps: Steps, number: int, settings: FuseSettings) -> Bank:
    """Predict all hypotheses along the step to query ``number``."""
    moved, jacobian, noise = move(bank.states, steps, number, settings)
    return replace(bank, states=moved, covariance=_grown(jacobian, bank.covariance, noise))


def _adrift(bank: Bank, seconds: float, area_m2: float, settings: FuseSettings) -> Bank:
    """The hypotheses after some seconds without odometry; none if they reach beyond the map."""
    position, heading = settings.gap_m_per_s * seconds, np.radians(settings.gap_deg_per_s) * seconds
    if 2 * np.pi * position**2 > area_m2:
        return UNKNOWN
    std = np.pad([position, position, min(heading, np.pi / np.sqrt(3))], (0, SIZE - 3))
    return replace(bank, covariance=bank.covariance + np.diag(std**2))


def _grown(jacobian: Array, covariance: Array, noise: Array) -> Array:
    """(N, 8, 8) covariances after a step."""
    grown = jacobian @ covariance @ np.swapaxes(jacobian, 1, 2) + noise
    # Rounding errors would make the covariance asymmetric, more with each step.
    return (grown + np.swapaxes(grown, 1, 2)) / 2


def _update(bank: Bank, fix: Fixes, fresh: float, area_m2: float, settings: FuseSettings) -> Bank:
    """Update each hypothesis with each candidate and with none; start one at each candidate.

    The evidence of a tile is raised to the power ``fresh``, the share of the tile that the query
    before did not see.
    """
    seen = fix.candidates.poses
    if len(seen) == 0:
        return bank
    probability = fix.candidates.log_scores + np.log1p(-settings.miss)
    # The probability that no candidate is right. A vehicle that is lost or off the map expects
    # exactly that; one at a hypothesis expects it less.
    left_over = 1 - np.exp(np.logaddexp.reduce(probability))
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
    # Log-likelihood ratio of a candidate at the hypothesis against one anywhere in the area. The
    # determinant is that of the position only: all headings may be known, and then their agreement
    # is no evidence.
    gained = np.log(area_m2) - 0.5 * (distance + spread)
    none = np.full((len(gained), 1), np.log(left_over * settings.unlisted))
    branches = np.hstack([probability + gained, none])
    # Candidates that are wrong lie on streets and move along them, as a wrong trajectory does: some
    # of them agree with it as well as the right one does with the right one.
    by_chance = np.logaddexp(np.log1p(-settings.alike), np.log(settings.alike) + gained)
    agreeing = probability + gained - by_chance
    evidence = np.logaddexp.reduce(np.hstack([agreeing, none]), axis=1)
    weight = bank.weights + fresh * evidence - np.logaddexp.reduce(branches, axis=1)
    branches += weight[:, None]
    updated = bank.states[:, None] + np.einsum("hkia,hka->hki", gain, innovation)
    updated[..., 2] = wrap_angle(updated[..., 2])
    shrunk = bank.covariance[:, None] - gain @ np.swapaxes(crossed, 2, 3)
    started = _initial_covariance(fix.covariance, jacobian)
    started_weight = lost + np.log(fresh) + probability
    return Bank(
        np.concatenate([updated.reshape(-1, SIZE), bank.states, initial_states(seen)]),
        np.concatenate([shrunk.reshape(-1, SIZE, SIZE), bank.covariance, started]),
        np.concatenate([branches[:, :-1].ravel(), branches[:, -1], started_weight]),
        float(lost + np.log1p(-fresh * (1 - left_over))),
    )


def _pulled(bank: Bank, witness: Witness, information: Array) -> Bank:
    """The hypotheses after a measurement of their positions with (H, 2, 2) ``information``."""
    crossed = bank.covariance[:, :, :2]
    # inverse(P + inverse(I)) without the inverse of I, which may be 0.
    inverse = np.linalg.solve(np.eye(2) + information @ bank.covariance[:, :2, :2], information)
    gain = crossed @ inverse
    states = bank.states + np.einsum("hij,hj->hi", gain, witness.pose[:2] - bank.states[:, :2])
    states[:, 2] = wrap_angle(states[:, 2])
    shrunk = bank.covariance - gain @ np.swapaxes(crossed, 1, 2)
    return replace(bank, states=states, covariance=(shrunk + np.swapaxes(shrunk, 1, 2)) / 2)


def _initial_covariance(covariance: Array, jacobian: Array) -> Array:
    """(K, 8, 8) covariance of new states at fixes of (K, 3, 3) ``covariance``."""
    initial = np.tile(np.eye(SIZE), (len(covariance), 1, 1))
    initial[:, POSE, POSE] = covariance
    initial[:, POSE, COMMON] = -jacobian[:, :, COMMON]
    initial[:, COMMON, POSE] = -np.swapaxes(jacobian[:, :, COMMON], 1, 2)
    return initial


def _prune(bank: Bank, settings: FuseSettings) -> Bank:
    """Merge close hypotheses, keep the most probable, and normalise the weights."""
    total = np.logaddexp(np.logaddexp.reduce(bank.weights), bank.lost)
    weights = bank.weights - total
    negligible = np.log(settings.negligible)
    kept: list[int] = []
    merged = weights.copy()
    order = np.argsort(-weights, kind="stable")
    for index in order[weights[order] > negligible]:
        gap = bank.states[kept, :3] - bank.states[index, :3]
        close = np.hypot(gap[:, 0], gap[:, 1]) < settings.same_m
        same = np.flatnonzero(close & (np.abs(wrap_angle(gap[:, 2])) < settings.same_rad))
        if len(same):
            merged[kept[same[0]]] = np.logaddexp(merged[kept[same[0]]], weights[index])
        elif len(kept) < settings.hypotheses:
            kept.append(int(index))
    lost = max(float(bank.lost - total), negligible)
    return Bank(bank.states[kept], bank.covariance[kept], merged[kept], lost)


def _best(bank: Bank, settings: FuseSettings) -> Belief:
    """The most probable hypothesis of a bank."""
    if len(bank.weights) == 0:
        return NOTHING
    best = int(bank.weights.argmax())
    pose, covariance = bank.states[best, POSE], bank.covariance[best, POSE, POSE]
    near = np.hypot(*(bank.states[:, :2] - pose[:2]).T) < settings.near_m
    score = float(np.exp(np.logaddexp.reduce(bank.weights[near])))
    return Belief(pose, covariance, score, 1 - score > 2 * np.exp(bank.lost))
