"""Sub-pixel position and heading with covariance: the likelihood's maximum and its curvature."""

from __future__ import annotations

import numpy as np
import pydantic

from data_prep.geometry import Array, wrap_angle
from data_prep.settings import NotNegative, Positive, Settings
from maptile_loc.score.evidence import Evidence
from maptile_loc.score.likelihood import LikelihoodFields, log_likelihood
from maptile_loc.types import Candidates, Fixes


class AlignSettings(Settings):
    """How the maximum is found, and what its covariance contains.

    Attributes:
        steps_m: Spacing of the poses that are tried around the current one, per iteration, metres.
            The headings' spacing displaces a point ``lever_m`` metres away by the same distance.
        lever_m: Distance that converts a heading's spacing to metres.
        spread: Factor on the inverse curvature, fitted to the errors of fixes.
        map_std_m: Standard deviation of the map's own local shift, metres, per axis.
        bend_deg: Standard deviation of the submap's bending by the odometry's error, degrees per
            square root of a metre of travel from the query to the end of the submap.
    """

    steps_m: tuple[Positive, ...] = pydantic.Field((1.0, 1.0, 0.7, 0.5, 0.5), min_length=1)
    lever_m: Positive = 20.0
    spread: Positive = 0.38
    map_std_m: NotNegative = 0.25
    bend_deg: NotNegative = 0.045


OFFSETS = np.array(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1], indexing="ij")).reshape(3, 27).T
"""(27, 3) multiples of the spacing at which the likelihood is evaluated."""

LEAST_INFORMATION = np.diag([1e-4, 1e-4, 1e-2])
"""Information added to every fix: an unobserved direction has a deviation of 100 m or 10 rad."""


def align(
    candidates: Candidates,
    evidence: Evidence,
    rotation: float,
    fields: LikelihoodFields,
    heading_std: float | None,
    settings: AlignSettings,
    reach_m: float = 0.0,
) -> Fixes:
    """Each candidate, moved to the likelihood's maximum nearby.

    A quadratic fitted to the likelihood at 27 poses around the current one gives the next one: a
    Newton step over a distance wider than the fields' cells.

    Args:
        candidates: K poses to start from, with log-probabilities.
        evidence: The query tile's.
        rotation: The tile's ``rotation``, radians.
        fields: The map's, at any resolution.
        heading_std: Standard deviation of a known heading, radians; None where it is unknown.
        settings: Steps and covariance.
        reach_m: Metres of travel from the query to the ends of its submap.

    Returns:
        Candidates in the same order with the same log-probabilities, and (K, 3, 3) covariances of
        (east, north, heading): ``spread`` times the inverse of the negative curvature, plus the
        map's and the odometry's own. No candidate if the tile shows no wall.
    """
    seen, start, wall_m2 = evidence.points, candidates.poses, evidence.total("wall")
    if len(start) == 0 or len(seen[0].xy) == 0:
        return Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)), wall_m2)

    def score(poses: Array) -> Array:
        value = log_likelihood(poses, seen, rotation, fields)
        if heading_std is not None:
            turn = wrap_angle(poses[..., 2] - start[:, None, 2])
            value -= 0.5 * (turn / heading_std) ** 2
        return value

    poses = start.copy()
    for step in settings.steps_m:
        scale = np.array([step, step, step / settings.lever_m])
        values = score(poses[:, None] + OFFSETS * scale)
        gradient, hessian = _quadratic(values)
        poses = poses + _newton(gradient, hessian, values) * scale
    information: Array = -hessian / np.outer(scale, scale)
    inverse = np.asarray(np.linalg.inv(_positive(information) + LEAST_INFORMATION), np.float64)
    covariance = settings.spread * inverse
    covariance[:, [0, 1], [0, 1]] += settings.map_std_m**2
    covariance[:, 2, 2] += np.radians(settings.bend_deg) ** 2 * reach_m
    poses[:, 2] = wrap_angle(poses[:, 2])
    return Fixes(Candidates(poses, candidates.log_scores), covariance, wall_m2)


def _quadratic(values: Array) -> tuple[Array, Array]:
    """Gradient (K, 3) and Hessian (K, 3, 3) of the quadratic through (K, 27) values."""
    i, j = np.triu_indices(3)
    design = np.column_stack(
        [np.ones(27), OFFSETS, OFFSETS[:, i] * OFFSETS[:, j] * np.where(i == j, 0.5, 1.0)]
    )
    coefficients = values @ np.linalg.pinv(design).T
    hessian = np.zeros((len(values), 3, 3))
    hessian[:, i, j] = hessian[:, j, i] = coefficients[:, 4:]
    return coefficients[:, 1:4], hessian


def _newton(gradient: Array, hessian: Array, values: Array) -> Array:
    """(K, 3) step in units of the spacing, at most 1.5; the best of the 27 if not concave."""
    concave = np.linalg.eigvalsh(hessian)[:, -1] < 0
    safe = np.where(concave[:, None, None], hessian, -np.eye(3))
    step = np.clip(-np.linalg.solve(safe, gradient[..., None])[..., 0], -1.5, 1.5)
    return np.where(concave[:, None], step, OFFSETS[values.argmax(axis=1)])


def _positive(matrix: Array) -> Array:
    """(K, 3, 3) symmetric matrices with negative eigenvalues set to zero."""
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.maximum(value, 0)[:, None]) @ np.swapaxes(vector, 1, 2)
