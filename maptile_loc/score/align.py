"""Sub-pixel position and heading, with covariance: the likelihood's maximum and its curvature."""

from __future__ import annotations

import numpy as np
import pydantic
from scipy.special import logsumexp

from data_prep.geometry import Array, wrap_angle
from data_prep.settings import NotNegative, Positive, Settings
from maptile_loc.score.evidence import Evidence, points
from maptile_loc.score.likelihood import LikelihoodFields, log_likelihood
from maptile_loc.types import Candidates


class AlignSettings(Settings):
    """How the maximum is looked for.

    Attributes:
        steps_m: Spacing of the poses tried around the current one, round after round; the heading's
            spacing is what moves a wall 20 m away by the same.
        spread: Share of the curvature's covariance that the errors of fixes show.
        map_std_m: Standard deviation of what the likelihood cannot know: the map's own shift here.
        bend_deg: And of how the odometry bends what was put together, at each end of a way, for a
            square root of a metre to that end.
    """

    steps_m: tuple[Positive, ...] = pydantic.Field((1.0, 1.0, 0.7, 0.5, 0.5), min_length=1)
    spread: Positive = 0.38
    map_std_m: NotNegative = 0.25
    bend_deg: NotNegative = 0.045


LEVER_M = 20.0
OFFSETS = np.array(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1], indexing="ij")).reshape(3, 27).T


def align(
    candidates: Candidates,
    evidence: Evidence,
    rotation: float,
    fields: LikelihoodFields,
    heading_std: float | None,
    weighed: bool,
    settings: AlignSettings,
    reach_m: float = 0.0,
) -> tuple[Candidates, Array]:
    """Move each candidate to the likelihood's maximum near it.

    Args:
        candidates: K poses to start from.
        evidence: The query tile's.
        rotation: The tile's ``rotation`` (radians).
        fields: The map's, at any resolution.
        heading_std: Standard deviation of the candidates' headings where they are known (radians),
            None where they are not.
        weighed: Whether the candidates' scores hold the likelihood at their poses already.
        settings: How.
        reach_m: Metres of travel from the query to the ends of what was put together.

    Returns:
        Candidates in the same order (none where no wall is seen: there is nothing to align), their
        probabilities weighed by the likelihood if they were not, and (K, 3, 3) covariances: a share
        of the inverse of the negative curvature, plus the map's own and the odometry's.

    A quadratic through 27 poses round the current one gives the next: as Newton's method, but over
    a step that is wider than the fields' cells.
    """
    seen = points(evidence)
    start = candidates.poses
    if len(start) == 0 or len(seen[0].xy) == 0:
        return Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3))

    def score(poses: Array) -> Array:
        value = log_likelihood(poses, seen, rotation, fields)
        if heading_std is not None:
            turn = wrap_angle(poses[..., 2] - start[:, None, 2])
            value -= 0.5 * (turn / heading_std) ** 2
        return value

    poses = start.copy()
    for step in settings.steps_m:
        scale = np.array([step, step, step / LEVER_M])
        around = poses[:, None] + OFFSETS * scale
        values = score(around)
        gradient, hessian = _quadratic(values)
        poses = poses + _newton(gradient, hessian, values) * scale
    # A search has summed the likelihood around each candidate: its peak tells nothing more.
    gained = np.zeros(len(poses)) if weighed else score(poses[:, None])[:, 0]
    information: Array = -hessian / np.outer(scale, scale)
    floor = np.diag([1e-4, 1e-4, 1e-2])  # a direction that nothing holds: 100 m, 10 rad
    inverse = np.asarray(np.linalg.inv(_positive(information) + floor), np.float64)
    covariance = settings.spread * inverse
    covariance[:, [0, 1], [0, 1]] += settings.map_std_m**2
    covariance[:, 2, 2] += np.radians(settings.bend_deg) ** 2 * reach_m
    poses[:, 2] = wrap_angle(poses[:, 2])
    return Candidates(poses, _normalised(candidates.log_scores, gained)), covariance


def _normalised(log_scores: Array, gained: Array) -> Array:
    """Log-probabilities after each hypothesis gained likelihood; being nowhere gained none."""
    nowhere = np.log(max(1 - np.exp(log_scores).sum(), 1e-12))
    total = np.logaddexp(logsumexp(log_scores + gained), nowhere)
    return log_scores + gained - total


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
    """(K, 3) step in units of the spacing, at most 1.5; the best pose tried if not concave."""
    concave = np.linalg.eigvalsh(hessian)[:, -1] < 0
    safe = np.where(concave[:, None, None], hessian, -np.eye(3))
    step = np.clip(-np.linalg.solve(safe, gradient[..., None])[..., 0], -1.5, 1.5)
    return np.where(concave[:, None], step, OFFSETS[values.argmax(axis=1)])


def _positive(matrix: Array) -> Array:
    """(K, 3, 3) symmetric matrices with negative eigenvalues set to zero."""
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.maximum(value, 0)[:, None]) @ np.swapaxes(vector, 1, 2)
