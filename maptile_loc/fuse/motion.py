"""Models of the vehicle's motion and of its fixes, for the filter and the smoother.

The state has eight components: three of the pose (east, north, heading), two of the odometry's
drift (scale, turn), and three of the error that consecutive fixes have in common. Drift and common
error are in units of their standard deviations, standard normal at the start, and first-order
Gauss-Markov processes (Gelb, Applied Optimal Estimation, 1974) over the metres travelled.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.geometry import Array, se2_between, wrap_angle
from data_prep.settings import Count, Fraction, NotNegative, Positive, Settings

SIZE = 8
"""Components of the state."""

POSE = slice(0, 3)
"""Components of the pose: east, north (metres), heading (radians)."""

COMMON = slice(5, 8)
"""Components of the common error of fixes."""


class FuseSettings(Settings):
    """Noise of odometry and fixes, and the decisions of the filter and the smoother.

    Attributes:
        scale: Standard deviation of the odometry's scale error: 0.03 is 3 % too long or too short.
        turn_deg_per_m: Standard deviation of the odometry's turn error, degrees per metre.
        drift_m: Correlation length of both errors, metres.
        walk_m, walk_deg: Random walk of position and heading: standard deviation after one metre.
        floor_m, floor_deg: Standard deviation that every step adds, however short.
        common: Share of a fix's variance that it shares with its neighbours: the map is displaced
            there, and submaps overlap.
        common_m: Correlation length of the shared error, metres.
        view_m: Distance over which scans come to show different walls.
        miss: Probability that none of a query's candidates is right where its scores leave no
            doubt.
        unlisted: Probability that a tile in doubt does not have a right hypothesis among its
            candidates.
        jump: Probability that the track was wrong until now, or leaves the map, per length of a
            tile's view that is travelled.
        alike: Share of the wrong candidates that agree with a wrong track as well as right ones
            with the right track, because both follow the streets.
        hypotheses: Largest number of hypotheses in the filter.
        trust: Smallest probability of a fix that is localized.
        max_std_m: Largest standard deviation, in its worst direction, of a fix that is localized.
        risk: Probability with which a position's error exceeds its protection level.
        tail: Degrees of freedom, above 2, of the t-distribution of a position's error.
        few_walls_m2: Wall evidence of a tile below which few walls are the reason for doubt, m2.
        short_m: Metres of travel below which the drive's length is the reason for doubt.
        rounds: Largest number of iterations of the smoother.
        gap_m_per_s, gap_deg_per_s: Standard deviation, after a second, of the position (per axis)
            and the heading of a vehicle without odometry.
        same_m, same_rad: Hypotheses closer than both are merged.
        negligible: Hypotheses less probable than this are dropped.
        near_m: Hypotheses closer than this support each other's position.
        jump_m, jump_share: The smoother starts a new chain where a localized pose is farther from
            the odometry's prediction than jump_m plus this share of the metres predicted over.
        outlier: The smoother drops a fix whose log-likelihood is lower than log(miss) by more than
            this.
        still_m: The smoother stops when no position changes by this much.
    """

    scale: Positive = 0.03
    turn_deg_per_m: Positive = 0.015
    drift_m: Positive = 1000.0
    walk_m: Positive = 0.07
    walk_deg: Positive = 0.06
    floor_m: Positive = 0.05
    floor_deg: Positive = 0.05
    common: Fraction = 0.9
    common_m: Positive = 25.0
    view_m: Positive = 30.0
    miss: Fraction = 0.02
    unlisted: Fraction = 0.5
    jump: Fraction = 0.001
    alike: Fraction = 0.001
    hypotheses: Count = 60
    trust: Fraction = 0.99
    max_std_m: Positive = 4.0
    risk: Fraction = 0.001
    tail: float = pydantic.Field(4.0, gt=2)
    few_walls_m2: NotNegative = 20.0
    short_m: NotNegative = 100.0
    rounds: Count = 10
    gap_m_per_s: Positive = 15.0
    gap_deg_per_s: Positive = 20.0
    same_m: Positive = 2.0
    same_rad: Positive = 0.1
    negligible: Fraction = 1e-12
    near_m: Positive = 5.0
    jump_m: Positive = 10.0
    jump_share: NotNegative = 0.1
    outlier: NotNegative = 8.0
    still_m: Positive = 1e-3


@dataclass(frozen=True)
class Steps:
    """Odometry between consecutive queries.

    Attributes:
        motion: (Q, 3) pose of query i in the frame of query i - 1; row 0 is not used.
        covariance: (Q, 3, 3) of the motion, without the drift.
        known: (Q,) bool, False where an odometry segment starts and the motion is unknown.
        fresh: (Q,) share 0..1 of a query's tile that the query before did not see.
        metres: (Q,) travelled since the query before.
    """

    motion: Array
    covariance: Array
    known: NDArray[np.bool_]
    fresh: Array
    metres: Array

    def __getitem__(self, chain: slice) -> Steps:
        """Return the steps of the consecutive queries ``chain``; its row 0 is not used."""
        return Steps(*(getattr(self, field.name)[chain] for field in fields(self)))

    def travelled(self) -> Array:
        """(Q,) metres of travel since the start of each query's odometry segment."""
        metres = np.where(self.known, self.metres, 0.0).cumsum()
        starts = np.flatnonzero(~self.known)
        return metres - metres[starts][np.cumsum(~self.known) - 1]

    def reversed(self) -> Steps:
        """The steps of the same drive backwards."""
        back = se2_between(self.motion, np.zeros(3))
        jacobian = -rotations(-self.motion[:, 2])
        jacobian[:, 0, 2], jacobian[:, 1, 2] = back[:, 1], -back[:, 0]
        covariance = jacobian @ self.covariance @ np.swapaxes(jacobian, 1, 2)
        columns = back, covariance, self.known, self.fresh, self.metres
        return Steps(*(_shifted(column) for column in columns))


def _shifted(steps: NDArray[Any]) -> NDArray[Any]:
    """Rows in reverse order: backwards, the step that led to query i leads to query i - 1."""
    return np.roll(steps[::-1], 1, axis=0)


def make_steps(
    poses: Array,
    segment: NDArray[np.int32],
    metres: Array,
    submap_m: float,
    settings: FuseSettings,
) -> Steps:
    """Steps between Q queries.

    Args:
        poses: (Q, 3) odometry poses: x, y (metres), heading (radians), in any fixed frame.
        segment: (Q,) odometry segment of each query, negative where there is no odometry.
        metres: (Q,) travelled since the start of the drive.
        submap_m: Length of a query's submap. Tiles of queries closer than this overlap; so do those
            of single scans closer than ``settings.view_m``.
        settings: Noise of the odometry.
    """
    motion = np.zeros_like(poses)
    motion[1:] = se2_between(poses[:-1], poses[1:])
    known = np.zeros(len(poses), bool)
    known[1:] = (segment[1:] == segment[:-1]) & (segment[1:] >= 0)
    return _steps(motion, known, np.diff(metres, prepend=metres[:1]), submap_m, settings)


def steps_from(
    begin: Array, ends: Array, metres: Array, submap_m: float, settings: FuseSettings
) -> Steps:
    """Steps from one pose to each of N others of the same segment.

    Args:
        begin: (3,) odometry pose: x, y (metres), heading (radians).
        ends: (N, 3) odometry poses, in the same frame.
        metres: (N,) travelled from the first pose to each of the others.
        submap_m: As in ``make_steps``.
        settings: Noise of the odometry.
    """
    return _steps(se2_between(begin, ends), np.ones(len(ends), bool), metres, submap_m, settings)


def _steps(
    motion: Array,
    known: NDArray[np.bool_],
    step: Array,
    submap_m: float,
    settings: FuseSettings,
) -> Steps:
    """Steps of (Q, 3) motions over (Q,) metres."""
    fresh = np.clip(step / max(submap_m, settings.view_m), 1e-6, 1.0)
    fresh[~known] = 1.0
    return Steps(motion, _walk(motion, step, settings), known, fresh, step)


def _walk(motion: Array, step: Array, settings: FuseSettings) -> Array:
    """(Q, 3, 3) covariance of motions whose position and heading are random walks.

    A heading error moves the end of the step sideways, by half the step's length on average.
    """
    heading = np.radians(settings.walk_deg) ** 2 * step
    lever = np.stack([-motion[:, 1] / 2, motion[:, 0] / 2, np.ones(len(step))], axis=1)
    covariance = heading[:, None, None] * lever[:, :, None] * lever[:, None]
    covariance[:, :2, :2] *= 4 / 3  # the mean square lever is 1/3, not 1/4
    position = settings.walk_m**2 * step + settings.floor_m**2
    covariance[:, [0, 1], [0, 1]] += position[:, None]
    covariance[:, 2, 2] += np.radians(settings.floor_deg) ** 2
    return covariance


def move(
    states: Array, steps: Steps, number: int | slice, settings: FuseSettings
) -> tuple[Array, Array, Array]:
    """Predict (N, 8) states along the step to query ``number``, or along N steps, one each.

    Returns:
        (N, 8) predicted states, the (N, 8, 8) Jacobian and the (N, 8, 8) covariance of the noise.
    """
    metres = np.broadcast_to(steps.metres[number], len(states))
    # At least 0.1 m, also for a vehicle that stands still: without noise, the covariance of the
    # drift has no inverse.
    length = np.maximum(metres, 0.1)[:, None]
    kept = np.exp(-length / ([settings.drift_m] * 2 + [settings.common_m] * 3))
    turn = np.radians(settings.turn_deg_per_m) * metres
    # The turn error grows along the step, so that half of it rotates the step on average.
    heading = states[:, 2] - 0.5 * turn * states[:, 4]
    ahead = rotations(heading)[:, :2, :2] @ steps.motion[number, :2, None]
    ahead = ahead[..., 0] * np.exp(-settings.scale * states[:, 3, None])
    aside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    moved = states * np.hstack([np.ones((len(states), 3)), kept])
    moved[:, :2] += ahead
    moved[:, 2] = wrap_angle(moved[:, 2] + steps.motion[number, 2] - turn * states[:, 4])
    jacobian = np.zeros((len(states), SIZE, SIZE))
    jacobian[:, range(3), range(3)] = 1.0
    jacobian[:, range(3, SIZE), range(3, SIZE)] = kept
    jacobian[:, :2, 2] = aside
    jacobian[:, :2, 3] = -settings.scale * ahead
    jacobian[:, :2, 4] = -0.5 * turn[:, None] * aside
    jacobian[:, 2, 4] = -turn
    noise = np.zeros_like(jacobian)
    rotation = rotations(states[:, 2])
    noise[:, POSE, POSE] = rotation @ steps.covariance[number] @ np.swapaxes(rotation, 1, 2)
    noise[:, range(3, SIZE), range(3, SIZE)] = 1 - kept**2
    return moved, jacobian, noise


def observe(covariance: Array, settings: FuseSettings) -> tuple[Array, Array]:
    """Return how K fixes depend on the state, and the covariance of their independent noise.

    A fix is the pose, plus an error that it shares with its neighbours, plus independent noise.

    Args:
        covariance: (K, 3, 3) of the fixes (east, north, heading).
        settings: ``common``, the share of it that belongs to the shared error.

    Returns:
        (K, 3, 8) Jacobian and (K, 3, 3) covariance of the independent noise.
    """
    value, vector = np.linalg.eigh(covariance)
    root = (vector * np.sqrt(settings.common * value)[:, None]) @ np.swapaxes(vector, 1, 2)
    jacobian = np.zeros((len(covariance), 3, SIZE))
    jacobian[:, :, POSE] = np.eye(3)
    jacobian[:, :, COMMON] = root
    return jacobian, (1 - settings.common) * covariance


def initial_states(poses: Array) -> Array:
    """Return (K, 8) states at (K, 3) poses, with no drift and no common error."""
    return np.hstack([poses, np.zeros((len(poses), SIZE - 3))])


def rotations(heading: Array) -> Array:
    """(N, 3, 3) rotations of (x, y, heading) from the vehicle's frame into the map frame."""
    rotation = np.tile(np.eye(3), (len(heading), 1, 1))
    c, s = np.cos(heading), np.sin(heading)
    rotation[:, 0, 0], rotation[:, 0, 1] = c, -s
    rotation[:, 1, 0], rotation[:, 1, 1] = s, c
    return rotation
