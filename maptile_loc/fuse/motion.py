"""How a vehicle's state and its doubt go on from one query to the next, by odometry.

The state has eight numbers. Three are the pose. Two are how far the odometry drifts, in scale and
in turn. Three are the error that a fix has in common with its neighbours. Drift and common error
are unit normal where nothing is known, and slowly change (first-order Gauss-Markov processes).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array, se2_between, wrap_angle
from data_prep.settings import Count, Fraction, Positive, Settings

SIZE = 8
POSE, DRIFT, COMMON = slice(0, 3), slice(3, 5), slice(5, 8)


class FuseSettings(Settings):
    """The noise of odometry and fixes, and how much candidates are trusted.

    Attributes:
        scale: Standard deviation of the odometry's scale: 0.03 is 3 % too long or too short.
        turn_deg_per_m: Standard deviation of what it turns too much, degrees per metre travelled.
        drift_m: Metres over which scale and turn change.
        walk_m, walk_deg: The rest of its error, per square root of a metre travelled.
        floor_m, floor_deg: Error of any step, however short.
        common: Share of a fix's variance that its neighbours have too: the map is shifted there,
            and submaps overlap.
        common_m: Metres over which that changes.
        view_m: Metres apart from which scans show different walls.
        miss: Probability that none of a query's candidates is right.
        jump: Probability per query that the track so far was wrong, or leaves the map.
        repeat: Probability that a wrong candidate follows the odometry as a right one would.
        hypotheses: Size of the filter's bank.
        trust: A fix counts as localized from this probability on.
        max_std_m: ... and if its larger standard deviation is not above this.
        rounds: Rounds of the smoother, at most.
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
    miss: Fraction = 0.1
    jump: Fraction = 0.001
    repeat: Fraction = 0.02
    hypotheses: Count = 60
    trust: Fraction = 0.99
    max_std_m: Positive = 4.0
    rounds: Count = 10


@dataclass(frozen=True)
class Steps:
    """Odometry between consecutive queries.

    Attributes:
        motion: (Q, 3) pose of query i in the frame of query i - 1; row 0 means nothing.
        covariance: (Q, 3, 3) of the motion, drift aside.
        known: (Q,) bool; False where a new segment begins and the motion is not known.
        fresh: (Q,) share of a query's tile that the query before has not seen, 0..1.
        metres: (Q,) travelled.
    """

    motion: Array
    covariance: Array
    known: NDArray[np.bool_]
    fresh: Array
    metres: Array

    def __getitem__(self, chain: slice) -> Steps:
        """The steps of some queries in a row."""
        return Steps(*(getattr(self, field.name)[chain] for field in fields(self)))

    def reversed(self) -> Steps:
        """The steps of the drive backwards."""
        back = se2_between(self.motion, np.zeros(3))
        jacobian = -turns(-self.motion[:, 2])
        jacobian[:, 0, 2], jacobian[:, 1, 2] = back[:, 1], -back[:, 0]
        covariance = jacobian @ self.covariance @ np.swapaxes(jacobian, 1, 2)
        columns = back, covariance, self.known, self.fresh, self.metres
        return Steps(*(_shifted(column) for column in columns))


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

    ``submap_m`` is the length of a query's window: closer queries see partly the same. So do scans
    from places that are close.
    """
    motion = np.zeros_like(poses)
    motion[1:] = se2_between(poses[:-1], poses[1:])
    known = np.zeros(len(poses), bool)
    known[1:] = (segment[1:] == segment[:-1]) & (segment[1:] >= 0)
    step = np.diff(metres, prepend=metres[:1])
    fresh = np.clip(step / max(submap_m, settings.view_m), 1e-6, 1.0)
    fresh[~known] = 1.0
    return Steps(motion, _walk(motion, step, settings), known, fresh, step)


def _walk(motion: Array, step: Array, settings: FuseSettings) -> Array:
    """(Q, 3, 3) covariance of motions whose place and heading wander at random on the way.

    A turn moves the end of the way aside; on average it happens in the middle.
    """
    heading = np.radians(settings.walk_deg) ** 2 * step
    lever = np.stack([-motion[:, 1] / 2, motion[:, 0] / 2, np.ones(len(step))], axis=1)
    covariance = heading[:, None, None] * lever[:, :, None] * lever[:, None]
    covariance[:, :2, :2] *= 4 / 3  # the middle on average, but not each time
    place = settings.walk_m**2 * step + settings.floor_m**2
    covariance[:, [0, 1], [0, 1]] += place[:, None]
    covariance[:, 2, 2] += np.radians(settings.floor_deg) ** 2
    return covariance


def move(
    states: Array, steps: Steps, number: int | slice, settings: FuseSettings
) -> tuple[Array, Array, Array]:
    """Take (N, 8) states along the step to query ``number``, or along N steps, one each.

    Returns:
        (N, 8) states after it, the (N, 8, 8) Jacobian and the (N, 8, 8) covariance of its noise.
    """
    metres = np.broadcast_to(steps.metres[number], len(states))
    # A vehicle that stands still is given 0.1 m: a process without noise has no information matrix.
    way = np.maximum(metres, 0.1)[:, None]
    kept = np.exp(-way / ([settings.drift_m] * 2 + [settings.common_m] * 3))
    turn = np.radians(settings.turn_deg_per_m) * metres
    # The turn happens along the way, so that on average half of it bends the way.
    heading = states[:, 2] - 0.5 * turn * states[:, 4]
    ahead = turns(heading)[:, :2, :2] @ steps.motion[number, :2, None]
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
    turned = turns(states[:, 2])
    noise[:, POSE, POSE] = turned @ steps.covariance[number] @ np.swapaxes(turned, 1, 2)
    noise[:, range(3, SIZE), range(3, SIZE)] = 1 - kept**2
    return moved, jacobian, noise


def observe(covariance: Array, settings: FuseSettings) -> tuple[Array, Array]:
    """What fixes of (K, 3, 3) covariance see of the state, and their own noise.

    Returns:
        (K, 3, 8) Jacobian: the pose and the common error; (K, 3, 3) covariance of the rest.
    """
    value, vector = np.linalg.eigh(covariance)
    root = (vector * np.sqrt(settings.common * value)[:, None]) @ np.swapaxes(vector, 1, 2)
    jacobian = np.zeros((len(covariance), 3, SIZE))
    jacobian[:, :, POSE] = np.eye(3)
    jacobian[:, :, COMMON] = root
    return jacobian, (1 - settings.common) * covariance


def turns(heading: Array) -> Array:
    """(N, 3, 3) rotation of (x, y, heading) errors from the vehicle's into the map frame."""
    turn = np.tile(np.eye(3), (len(heading), 1, 1))
    c, s = np.cos(heading), np.sin(heading)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = c, -s, s, c
    return turn
