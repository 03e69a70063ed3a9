"""Sub-pixel position and heading with covariance: the likelihood's maximum and its curvature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pydantic
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.geometry import Array, rotate, wrap_angle
from data_prep.settings import NotNegative, Positive, Settings
from maptile_loc.score.evidence import Evidence, Points
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.score.likelihood import Sample, of_each_point, part_under, sample, together, total
from maptile_loc.types import Candidates, Fixes


class AlignSettings(Settings):
    """How the maximum is found, and what its covariance contains.

    Attributes:
        steps_m: Spacing of the poses that are tried around the current one, per iteration, metres.
            The headings' spacing displaces a point ``lever_m`` metres away by the same distance.
        lever_m: Distance that converts a heading's spacing to metres.
        spread: Factor on the inverse curvature, fitted to the errors of fixes.
        building_std_m: Standard deviation of each building's displacement on the map, metres, per
            axis.
        near_building_m: Walls up to this far from a building are its walls.
        bend_deg: Standard deviation of the submap's bending by the odometry's error, degrees per
            square root of a metre of travel from the query to the end of the submap.
    """

    steps_m: tuple[Positive, ...] = pydantic.Field((1.0, 1.0, 0.7, 0.5, 0.5), min_length=1)
    lever_m: Positive = 20.0
    spread: Positive = 0.3
    building_std_m: NotNegative = 0.5
    near_building_m: Positive = 4.0
    bend_deg: NotNegative = 0.045


F32 = NDArray[np.float32]
OFFSETS = np.array(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1], indexing="ij")).reshape(3, 27).T
"""(27, 3) multiples of the spacing at which the likelihood is evaluated."""

UPPER = np.triu_indices(3)
"""Rows and columns of a symmetric (3, 3) matrix's distinct entries."""


def _quadratic_fit() -> Array:
    """(27, 10) matrix that takes values at ``OFFSETS`` to a quadratic's coefficients.

    The quadratic is fitted by least squares. Its coefficients are the constant, the gradient, and
    the ``UPPER`` entries of the Hessian.
    """
    i, j = UPPER
    squares = OFFSETS[:, i] * OFFSETS[:, j] * np.where(i == j, 0.5, 1.0)
    return np.asarray(np.linalg.pinv(np.column_stack([np.ones(27), OFFSETS, squares])).T)


FIT = _quadratic_fit()
"""What ``_quadratic`` multiplies values with."""

BY_BUILDINGS = ("wall", "free")
"""Groups of evidence whose likelihood depends on buildings."""

IMPROBABLE = 7.0
"""Candidates less probable than the best by more than this, in nats, are taken to rest on one
building."""

MOST_STEPS = 1.5
"""The longest step to the next pose, in units of the spacing."""

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
        (east, north, heading): ``spread`` times the inverse of the negative curvature, plus what
        displaced buildings and the odometry add. No candidate if the tile shows no wall.
    """
    seen, start, wall_m2 = evidence.points, candidates.poses, evidence.total("wall")
    if len(start) == 0 or len(seen[0].xy) == 0:
        return Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)), wall_m2)

    likely = candidates.log_scores > candidates.log_scores.max() - IMPROBABLE
    poses, covariance = np.empty_like(start), np.empty((len(start), 3, 3))
    margin = MOST_STEPS * sum(settings.steps_m) + settings.near_building_m
    for group in together(start, fields):
        part = part_under(start[group], seen, fields, margin)
        poses[group], covariance[group] = _aligned(
            start[group], likely[group], seen, rotation, part, heading_std, settings
        )
    covariance[:, 2, 2] += np.radians(settings.bend_deg) ** 2 * reach_m
    return Fixes(Candidates(poses, candidates.log_scores), covariance, wall_m2)


def _aligned(
    start: Array,
    likely: NDArray[np.bool_],
    seen: Sequence[Points],
    rotation: float,
    fields: LikelihoodFields,
    heading_std: float | None,
    settings: AlignSettings,
) -> tuple[Array, Array]:
    """The (K, 3) aligned poses of candidates near each other, and their (K, 3, 3) covariances.

    Args:
        start: (K, 3) poses to start from.
        likely: (K,) whether each is so probable that its buildings are distinguished.
        seen: The query tile's evidence.
        rotation: As all that follow, as for ``align``.
        fields: The map's, around the poses.
        heading_std: Radians.
        settings: Steps and covariance.
    """
    poses = start
    for step in settings.steps_m:
        scale, before = np.array([step, step, step / settings.lever_m]), poses
        around = before[:, None] + OFFSETS * scale
        samples = sample(around.reshape(-1, 3), seen, rotation, fields)
        turn = around[..., 2] - rotation
        values = total(samples, turn.ravel()).reshape(turn.shape)
        if heading_std is not None:
            away = wrap_angle(around[..., 2] - start[:, None, 2])
            values -= 0.5 * (away / heading_std) ** 2
        gradient, hessian = _quadratic(values)
        poses = before + _newton(gradient, hessian, values) * scale
    poses[:, 2] = wrap_angle(poses[:, 2])
    information: Array = -hessian / np.outer(scale, scale)
    inverse = np.asarray(np.linalg.inv(_positive(information) + LEAST_INFORMATION), np.float64)
    covariance = settings.spread * inverse
    # As if by one building.
    covariance[~likely] += np.diag([1.0, 1.0, 0.0]) * settings.building_std_m**2
    by_buildings = [one for one in samples if one.points.group.name in BY_BUILDINGS]
    for number in np.flatnonzero(likely):
        rows = slice(number * len(OFFSETS), (number + 1) * len(OFFSETS))
        own = [Sample(points, values[:, rows]) for points, values in by_buildings]
        covariance[number] += _displaced(
            before[number], information[number], own, rotation, fields, scale, settings
        )
    return poses, covariance


def _displaced(
    pose: Array,
    information: Array,
    samples: Sequence[Sample],
    rotation: float,
    fields: LikelihoodFields,
    scale: Array,
    settings: AlignSettings,
) -> Array:
    """(3, 3) covariance that the displacements of the map's buildings add to a pose.

    All walls of a building are displaced with it. The maximum of the sum of the buildings'
    quadratics moves by their displacements, weighted by inverse(sum of H) H_b, with H_b the
    curvature of building b alone. So a pose that rests on one building moves with it, and one that
    rests on many by their mean.

    Args:
        pose: (3,) the pose around which the curvature is taken, near the maximum.
        information: (3, 3) negative curvature there, of all evidence.
        samples: Of the evidence that depends on buildings, at the 27 poses around this one.
        rotation: The tile's ``rotation``, radians.
        fields: The map's.
        scale: (3,) spacing of the poses from which the curvature is taken.
        settings: ``building_std_m`` and ``near_building_m``.
    """
    turn = pose[2] + OFFSETS[:, 2] * scale[2] - rotation
    values = np.concatenate([of_each_point(one, turn) for one in samples], axis=1)
    xy = np.concatenate([one.points.xy for one in samples])
    number = _building_numbers(pose, xy, rotation, fields, settings.near_building_m)
    # (N, B): which points belong to each building.
    belongs = number[:, None] == np.unique(number)
    sums = values.astype(np.float64) @ belongs.astype(np.float64)
    curved = -_quadratic(sums.T)[1] / np.outer(scale, scale)
    own, rest = _positive(curved), _positive((information - curved.sum(axis=0))[None])[0]
    moves = (np.linalg.inv(own.sum(axis=0) + rest + LEAST_INFORMATION) @ own)[..., :2]
    return np.asarray(settings.building_std_m**2 * np.einsum("bij,bkj->ik", moves, moves))


def _building_numbers(
    pose: Array, xy: F32, rotation: float, fields: LikelihoodFields, near_m: float
) -> NDArray[np.int64]:
    """(N,) number of the building near each of (N, 2) points of a tile at a pose; 0 for none.

    Buildings that touch are one. Of several near a point, one is taken.
    """
    turn = pose[2] - rotation
    moved = pose[:2] + rotate(xy.astype(np.float64), turn)
    height, width = fields.shape
    column = ((moved[:, 0] - fields.west) // fields.resolution).astype(np.int64)
    row = ((fields.north - moved[:, 1]) // fields.resolution).astype(np.int64)
    reach = int(np.ceil(near_m / fields.resolution))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    row, column = np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)
    top, left = max(row.min() - reach, 0), max(column.min() - reach, 0)
    bottom = min(row.max() + reach + 1, height)
    right = min(column.max() + reach + 1, width)
    part = fields.buildings(top, left, bottom - top, right - left)
    label, _ = ndimage.label(part, np.ones((3, 3)))
    near = np.where(part, label, ndimage.maximum_filter(label, 2 * reach + 1))
    return np.where(inside, near[row - top, column - left], 0).astype(np.int64)


def _quadratic(values: Array) -> tuple[Array, Array]:
    """Gradient (K, 3) and Hessian (K, 3, 3) of the quadratic through (K, 27) values."""
    i, j = UPPER
    coefficients = values @ FIT
    hessian = np.zeros((len(values), 3, 3))
    hessian[:, i, j] = hessian[:, j, i] = coefficients[:, 4:]
    return coefficients[:, 1:4], hessian


def _newton(gradient: Array, hessian: Array, values: Array) -> Array:
    """(K, 3) step in units of the spacing, or that to the best of the 27 if not concave."""
    concave = np.linalg.eigvalsh(hessian)[:, -1] < 0
    safe = np.where(concave[:, None, None], hessian, -np.eye(3))
    step = np.linalg.solve(safe, gradient[..., None])[..., 0]
    step = np.clip(-step, -MOST_STEPS, MOST_STEPS)
    return np.where(concave[:, None], step, OFFSETS[values.argmax(axis=1)])


def _positive(matrix: Array) -> Array:
    """(K, 3, 3) symmetric matrices with negative eigenvalues set to zero."""
    value, vector = np.linalg.eigh(matrix)
    return (vector * np.maximum(value, 0)[:, None]) @ np.swapaxes(vector, 1, 2)
