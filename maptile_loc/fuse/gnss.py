"""GNSS as a witness that may lie: what its positions near a query state, and how far it counts.

The error of a GNSS position has three parts: noise, which differs from sample to sample and has
outliers; an error that moves slowly, over a minute, and is the same for all samples near a query;
and a lie: the receiver may be anywhere. Noise is fitted out with the odometry (``fit``). The slow
error is marginalised: however many samples there are, a query's GNSS counts as one witness, with a
t-distribution (Lange, Little and Taylor, JASA 1989). A lie limits what it can do: far from the
witness, a hypothesis is as probable as without it, and near it, by a limited factor more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array, wrap_angle
from data_prep.settings import Count, Fraction, Positive, Settings

ANGLES = 72
"""Headings from which the fit of a window's samples starts."""

ROUNDS = 8
"""Iterations of the fit's reweighting."""

UNKNOWN_RAD = math.radians(30.0)
"""A heading with a larger standard deviation is unknown, radians."""

MOST_STD_M = 1e6
"""Samples of larger standard deviations say as little, metres."""

MEDIAN_CHI2 = 2 * math.log(2)
"""Median of the chi-squared distribution with two degrees of freedom."""


class GnssSettings(Settings):
    """How far GNSS is believed.

    Attributes:
        floor_m: Smallest standard deviation of a sample's noise, metres.
        inflate: Factor by which the standard deviation that the receiver states is too small.
        unknown_m: Standard deviation of a sample whose receiver states none, metres.
        together_s: Correlation time of the noise: samples count as one per this time, seconds.
        bias_m: Standard deviation of the error that moves slowly, east and north alike, metres.
        bias_s: Its correlation time, seconds: as often, GNSS counts as a new witness.
        tail: Degrees of freedom of the t-distributions.
        odds: Odds that what a query's GNSS states is no lie.
        heading_deg: Standard deviation that a heading of the fit has at least, degrees.
        window_s: Samples up to this far from a query belong to it, seconds.
        age_s: A query whose nearest sample is farther than this has no GNSS, seconds.
        reach_m: Radius of the disc around the witness that is searched, metres.
        enough: Probability of the candidates in the disc from which the whole map is not searched.
        recent_s: The samples of this time are compared with a sure position, seconds.
        recent: The same, at least this number of samples.
        alike_m: Samples that agree with each other lie this near to their median, metres.
        alike: Share of the samples that have to agree.
        astray_m: GNSS that is farther than this from a sure position contradicts it, metres.
        jump_m: So does GNSS that moves by more than this against sure positions, metres.
        again_s: Seconds for which GNSS has to agree before it is used again.
    """

    floor_m: Positive = 3.0
    inflate: Positive = 1.5
    unknown_m: Positive = 5.0
    together_s: Positive = 5.0
    bias_m: Positive = 6.0
    bias_s: Positive = 60.0
    tail: Positive = 3.0
    odds: Positive = 1.0
    heading_deg: Positive = 3.0
    window_s: Positive = 10.0
    age_s: Positive = 2.0
    reach_m: Positive = 60.0
    enough: Fraction = 0.5
    recent_s: Positive = 3.0
    recent: Count = 5
    alike_m: Positive = 8.0
    alike: Fraction = 0.6
    astray_m: Positive = 15.0
    jump_m: Positive = 12.0
    again_s: Positive = 5.0


class GnssWindow(NamedTuple):
    """The N samples near a query.

    Attributes:
        local: (N, 2) where the vehicle was at each sample, in its frame at the query, metres.
        seen: (N, 2) east and north of each sample, metres.
        std: (N,) standard deviations that the receiver states, metres; NaN where it states none.
        seconds: (N,) from the query to each sample; negative before it.
    """

    local: Array
    seen: Array
    std: Array
    seconds: Array


class Witness(NamedTuple):
    """What the samples near a query state together.

    Attributes:
        pose: (3,) east, north (metres), heading (radians) of the vehicle at the query.
        covariance: (3, 3) of the noise alone, m2 and rad2; where the heading is unknown, its
            variance is inf and ``pose`` has an arbitrary one.
    """

    pose: Array
    covariance: Array


@dataclass(frozen=True)
class GnssEvidence:
    """The GNSS of Q queries.

    Attributes:
        windows: The samples near each query; None where there are none.
        witnesses: What they state; None likewise.
        seconds: (Q,) time of each query.
        settings: How far it is believed.
    """

    windows: Sequence[GnssWindow | None]
    witnesses: Sequence[Witness | None]
    seconds: Array
    settings: GnssSettings

    @property
    def known(self) -> NDArray[np.bool_]:
        """(Q,) whether a query has GNSS."""
        return np.array([one is not None for one in self.witnesses], bool)

    def __getitem__(self, chain: slice) -> Self:
        """The evidence of the queries ``chain``."""
        return replace(
            self,
            windows=self.windows[chain],
            witnesses=self.witnesses[chain],
            seconds=self.seconds[chain],
        )

    def reversed(self) -> Self:
        """The evidence of the same drive backwards."""
        return replace(
            self,
            windows=self.windows[::-1],
            witnesses=self.witnesses[::-1],
            seconds=-self.seconds[::-1],
        )

    def only(self, used: NDArray[np.bool_]) -> Self:
        """The evidence of those of the queries that are ``used``."""
        kept = zip(self.witnesses, self.windows, used, strict=True)
        pairs = [(one, some) if use else (None, None) for one, some, use in kept]
        return replace(
            self, witnesses=[one for one, _ in pairs], windows=[some for _, some in pairs]
        )


def sample_std(std: Array, settings: GnssSettings) -> Array:
    """(N,) standard deviations of samples' noise, of those that the receiver states."""
    stated = np.where(np.isfinite(std), settings.inflate * std, settings.unknown_m)
    return np.clip(stated, settings.floor_m, MOST_STD_M)


def differences(window: GnssWindow, pose: Array) -> Array:
    """(N, 2) metres east and north from where a vehicle at ``pose`` was to each sample."""
    c, s = math.cos(pose[2]), math.sin(pose[2])
    ahead = window.local @ np.array([[c, s], [-s, c]])
    return np.asarray(window.seen - pose[:2] - ahead)


def fit(window: GnssWindow | None, settings: GnssSettings) -> Witness | None:
    """Lay the vehicle's path near a query on its samples: a robust rigid registration.

    Weights are those of the t-distribution; the first of them come from the best of ``ANGLES``
    headings, each with the median of the positions that it gives.

    Args:
        window: The samples; None where there are none.
        settings: Noise.

    Returns:
        The pose; None where no sample is near enough in time.
    """
    if window is None or np.abs(window.seconds).min() > settings.age_s:
        return None
    std = sample_std(window.std, settings)
    rotation, start = 0.0, np.median(window.seen - window.local, axis=0)
    if np.ptp(window.local, axis=0).max() > 1.0:
        rotation, start = _start(window, std, settings)
    pose = np.array([*start, rotation])
    for _ in range(ROUNDS):
        weight = _weights(differences(window, pose), std, settings) / std**2
        middle, centre = (
            np.average(xy, axis=0, weights=weight) for xy in (window.local, window.seen)
        )
        p, q = window.local - middle, window.seen - centre
        cross = (weight * (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])).sum()
        turn = math.atan2(cross, (weight[:, None] * p * q).sum())
        c, s = math.cos(turn), math.sin(turn)
        pose = np.array([*(centre - np.array([[c, -s], [s, c]]) @ middle), turn])
    return Witness(pose, _fit_covariance(window, pose, std, settings))


def _start(window: GnssWindow, std: Array, settings: GnssSettings) -> tuple[float, Array]:
    """The heading and the position from which the fit starts."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = window.local.T
    ahead = np.stack([c * x - s * y, s * x + c * y], axis=-1)
    each = window.seen - ahead
    centre = np.median(each, axis=1)
    square = np.square(each - centre[:, None]).sum(axis=-1) / std**2
    best = int(np.log1p(square / settings.tail).sum(axis=1).argmin())
    return float(angle[best]), np.asarray(centre[best])


def _weights(difference: Array, std: Array, settings: GnssSettings) -> Array:
    """(N,) weights of samples with (N, 2) differences under a t-distribution."""
    square = np.square(difference).sum(axis=1) / std**2
    return np.asarray((settings.tail + 2) / (settings.tail + square))


def _fit_covariance(window: GnssWindow, pose: Array, std: Array, settings: GnssSettings) -> Array:
    """(3, 3) covariance of a fit; samples close in time count as one."""
    difference = differences(window, pose)
    weight = np.minimum(_weights(difference, std, settings), 1.0) / std**2
    count = min(len(std), 1 + float(np.ptp(window.seconds)) / settings.together_s)
    worse = np.median(np.square(difference).sum(axis=1) / std**2) / MEDIAN_CHI2
    weight *= count / len(std) / max(float(worse), 1.0)
    c, s = math.cos(pose[2]), math.sin(pose[2])
    x, y = window.local.T
    jacobian = np.zeros((len(std), 2, 3))
    jacobian[:, 0, 0] = jacobian[:, 1, 1] = 1.0
    jacobian[:, 0, 2], jacobian[:, 1, 2] = -s * x - c * y, c * x - s * y
    information = np.einsum("n,nai,naj->ij", weight, jacobian, jacobian)
    information[2, 2] += 1e-6  # so that a vehicle that stands still has an inverse
    covariance = np.linalg.inv(information)
    # The slow error moves while the vehicle does; a random walk with the variance V over a straight
    # path of length D turns its fit by 6/5 V / D^2.
    spread = float(np.square(window.local - window.local.mean(axis=0)).sum(axis=1).mean())
    moved = 2 * settings.bias_m**2 * float(np.ptp(window.seconds)) / settings.bias_s
    covariance[2, 2] += (
        1.2 * moved / max(12 * spread, 1e-6) + math.radians(settings.heading_deg) ** 2
    )
    if covariance[2, 2] > UNKNOWN_RAD**2:
        covariance[2, :2] = covariance[:2, 2] = 0.0
        covariance[2, 2] = np.inf
    return np.asarray((covariance + covariance.T) / 2)


def log_t(difference: Array, scale: Array, tail: float) -> Array:
    """(...,) log-density of the multivariate t-distribution.

    Args:
        difference: (..., D) from its centre.
        scale: (..., D, D) scale matrix.
        tail: Degrees of freedom.
    """
    size = difference.shape[-1]
    solved = np.linalg.solve(scale, difference[..., None])[..., 0]
    square = (difference * solved).sum(axis=-1)
    constant = math.lgamma((tail + size) / 2) - math.lgamma(tail / 2)
    constant -= size / 2 * math.log(tail * math.pi)
    spread = np.linalg.slogdet(scale)[1] / 2
    return np.asarray(constant - spread - (tail + size) / 2 * np.log1p(square / tail))


def support(
    witness: Witness, poses: Array, covariance: Array, area_m2: float, settings: GnssSettings
) -> Array:
    """(H,) logarithms of the factors by which a witness makes hypotheses more probable; 0 or more.

    A witness is honest with the odds ``odds``: it is then near the vehicle, with a t-distribution.
    Else it may be anywhere on the map, wherever the vehicle is, and nothing follows from it.

    Args:
        witness: What GNSS states.
        poses: (H, 3) east, north, heading of the hypotheses.
        covariance: (H, 3, 3) of these.
        area_m2: Area in which the vehicle may be.
        settings: How far it is believed.
    """
    likelier = math.log(area_m2) + log_t(
        poses[:, :2] - witness.pose[:2],
        position_scale(witness, covariance, settings),
        settings.tail,
    )
    if np.isfinite(witness.covariance[2, 2]):
        turn = wrap_angle(poses[:, 2:] - witness.pose[2])
        variance = covariance[:, 2:, 2:] + witness.covariance[2, 2]
        likelier = likelier + math.log(2 * math.pi) + log_t(turn, variance, settings.tail)
    return np.asarray(np.logaddexp(0.0, math.log(settings.odds) + likelier))


def position_scale(witness: Witness, covariance: Array, settings: GnssSettings) -> Array:
    """(H, 2, 2) scale of the distance of a witness from hypotheses with (H, 3, 3) covariances."""
    slow = settings.bias_m**2 * np.eye(2)
    return np.asarray(covariance[:, :2, :2] + witness.covariance[:2, :2] + slow)


def pull(
    witness: Witness, poses: Array, covariance: Array, share: float, settings: GnssSettings
) -> Array:
    """(H, 2, 2) information about the position that a witness adds at hypotheses, 1/m2.

    Args:
        witness: What GNSS states.
        poses: (H, 3) of the hypotheses.
        covariance: (H, 3, 3) of these.
        share: Share 0..1 of a whole witness that this is: it repeats the rest of the one before.
        settings: How far it is believed.
    """
    scale = position_scale(witness, covariance, settings)
    difference = poses[:, :2] - witness.pose[:2]
    solved = np.linalg.solve(scale, difference[..., None])[..., 0]
    square = (difference * solved).sum(axis=1)
    weight = share * np.minimum((settings.tail + 2) / (settings.tail + square), 1.0)
    own = witness.covariance[:2, :2] + settings.bias_m**2 * np.eye(2)
    return np.asarray(weight[:, None, None] * np.linalg.inv(own))


def lasting(seconds: Array, settings: GnssSettings) -> Array:
    """(N,) correlations of the slow errors of witnesses that lie (N,) seconds apart."""
    return np.asarray(np.exp(-seconds / settings.bias_s))
