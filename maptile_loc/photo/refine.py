"""The most probable pose of a camera, given pairs of lines and edges and its prior."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from data_prep.geometry import Array
from maptile_loc.photo.camera import AHEAD_TO_CAMERA, PhotoCamera


def moved(pose: Array, step: Array) -> Array:
    """(4, 4) ``pose`` after a (6,) step: metres east, north, up; rotation vector, map axes."""
    result = pose.copy()
    result[:3, 3] += step[:3]
    result[:3, :3] = Rotation.from_rotvec(step[3:]).as_matrix() @ pose[:3, :3]
    return result


def step_between(pose: Array, other: Array) -> Array:
    """(6,) the step from ``pose`` to ``other``, as for ``moved``."""
    turn = Rotation.from_matrix(other[:3, :3] @ pose[:3, :3].T).as_rotvec()
    return np.concatenate([other[:3, 3] - pose[:3, 3], turn])


def distances(camera: PhotoCamera, pose: Array, edges: Array, lines: Array) -> Array:
    """Return the signed distances of lines' ends from the images of edges, of any length.

    The plane through the camera's centre and the edge, n = X1 x X2 in camera axes, meets the image
    in the line n . (x, y, 1) = 0.

    Args:
        camera: The camera.
        pose: (4, 4) its pose.
        edges: (P, 2, 3) ends of the edges, map frame, metres.
        lines: (P, 2, 2) ends of their lines, pixels.

    Returns:
        (P, 2) pixels.
    """
    ends = (edges - pose[:3, 3]) @ pose[:3, :3] @ AHEAD_TO_CAMERA.T
    normal = np.cross(ends[:, 0], ends[:, 1])
    normal /= np.maximum(np.linalg.norm(normal[:, :2], axis=1, keepdims=True), 1e-12)
    flat = (lines - camera.centre) / camera.focal
    return camera.focal * ((flat * normal[:, None, :2]).sum(axis=-1) + normal[:, None, 2])


def refined(
    camera: PhotoCamera,
    pose: Array,
    prior: Array,
    std: Array,
    edges: Array,
    lines: Array,
    std_px: float,
) -> tuple[Array, Array]:
    """Return the most probable pose and its covariance.

    It minimises sum rho(d^2 / std_px^2) + sum (step / std)^2, with d the ``distances``, rho the
    soft L1 loss, and the step from the prior.

    Args:
        camera: The camera.
        pose: (4, 4) where the search for the minimum starts.
        prior: (4, 4) mean of the prior.
        std: (6,) its standard deviations, metres and radians, in the order of ``moved``.
        edges: (P, 2, 3) as for ``distances``.
        lines: (P, 2, 2) likewise.
        std_px: Standard deviation of a distance, pixels.

    Returns:
        (4, 4) pose, and (6, 6) covariance of its step: of Gaussian noise a little too large, since
        the loss expects outliers.
    """

    def residuals(step: Array) -> Array:
        off = distances(camera, moved(prior, step), edges, lines).ravel() / std_px
        return np.concatenate([_soft(off), step / std])

    found = least_squares(residuals, step_between(prior, pose), x_scale=std, method="trf")
    information = found.jac.T @ found.jac
    return moved(prior, found.x), np.linalg.inv(information)


def _soft(off: Array) -> Array:
    """Residuals whose squares are the soft L1 loss, 2 (sqrt(1 + off^2) - 1)."""
    root = np.sqrt(1 + off**2)
    return np.sign(off) * np.sqrt(2 * np.maximum(root - 1, 0))
