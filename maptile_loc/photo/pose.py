"""The pose of a photograph: pairs of its lines and the map's edges, then PnP with RANSAC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.settings import Settings
from maptile_loc.photo.camera import AHEAD_TO_CAMERA, PhotoCamera
from maptile_loc.photo.refine import distances, refined, step_between
from maptile_loc.photo.wireframe import Edges, visible_edges
from maptile_loc.render.extruded import Blocks

STARTS = (1.0, 1.0, 0.6, 0.6)
"""How far the first round of each start searches, as a share of what the prior allows."""

LEAST_FOUND = 2
"""Starts that have to find a pose."""


class PhotoSettings(Settings):
    """How lines are paired with edges, and which poses are trusted."""

    std_m: float = Field(1.0, gt=0)
    """Standard deviation of the prior's position, east and north alike, metres."""
    std_height_m: float = Field(0.3, gt=0)
    """Standard deviation of its height, metres."""
    std_rad: float = Field(0.02, gt=0)
    """Standard deviation of its heading and tilt, radians."""
    std_px: float = Field(1.0, gt=0)
    """Standard deviation of a line's distance from its edge, pixels."""
    deviations: float = Field(3.0, gt=0)
    """Lines are paired with edges, and poses kept, up to this many standard deviations."""
    turn_rad: float = Field(0.12, gt=0)
    """Largest angle between an edge and a line of its own, radians."""
    inlier_px: float = Field(2.5, gt=0)
    """Largest distance of a line's ends from its edge, pixels."""
    least_edges: int = Field(6, ge=3)
    """Edges with a line that a pose needs."""
    least_share: float = Field(0.5, ge=0, le=1)
    """Share of the visible edges that have a line, which a pose needs."""
    agree_m: float = Field(0.2, gt=0)
    """Largest distance between the poses of different starts, along each axis, metres."""
    rounds: int = Field(3, ge=1)
    """Each round sees the edges from the pose of the one before, and searches half as far."""


@dataclass(frozen=True)
class PhotoPose:
    """A photograph's pose.

    Attributes:
        pose: (4, 4) from axes x ahead, y left, z up at the camera's centre to the map frame.
        covariance: (6, 6) of east, north, height (metres) and the rotation vector about these axes
            (radians); lines count as independent.
        edges: Number of edges that have a line.
        pairs: Number of pairs that were tried in the last round.
    """

    pose: Array
    covariance: Array
    edges: int
    pairs: int


def photo_pose(
    lines: Array,
    blocks: Blocks,
    frame: Array,
    camera: PhotoCamera,
    prior: Array,
    settings: PhotoSettings,
) -> PhotoPose | None:
    """Return the pose of a photograph near a prior, or None where its lines determine none.

    LO-RANSAC over three pairs is PoseLib's (Larsson et al., BSD-3-Clause); what agrees with its
    pose is weighed against the prior (``refined``). It starts several times; the poses found have
    to agree.

    Args:
        lines: (N, 2, 2) ends of the photograph's lines, from ``image_lines``.
        blocks: The city.
        frame: (E, 2, 3) its edges, from ``wireframe``.
        camera: The camera.
        prior: (4, 4) its pose, such as the map search's with the height of the camera.
        settings: The prior's deviations and the limits.

    Raises:
        MaptileError: PoseLib is not installed.
    """
    starts = [
        _from(lines, blocks, frame, camera, prior, settings, scale, seed)
        for seed, scale in enumerate(STARTS)
    ]
    found = [one for one in starts if one is not None]
    if len(found) < LEAST_FOUND:
        return None
    centres = np.array([one.pose[:3, 3] for one in found])
    if np.ptp(centres, axis=0).max() > settings.agree_m:
        return None
    return max(found, key=lambda one: one.edges)


def _from(
    lines: Array,
    blocks: Blocks,
    frame: Array,
    camera: PhotoCamera,
    prior: Array,
    settings: PhotoSettings,
    scale: float,
    seed: int,
) -> PhotoPose | None:
    """Return the pose that is found if the first round searches ``scale`` times as far.

    The other arguments are those of ``photo_pose``, and the seed of RANSAC.
    """
    std = np.array([settings.std_m] * 2 + [settings.std_height_m] + [settings.std_rad] * 3)
    pose, covariance, count, tried = prior, np.diag(std**2), 0, 0
    for number in range(settings.rounds):
        edges = visible_edges(blocks, frame, camera, pose)
        edge, line = pairs(edges, lines, camera.focal, settings, scale * 0.5**number)
        if len(np.unique(edge)) < settings.least_edges:
            return None
        space, image, tried = edges.space[edge], lines[line], len(edge)
        pose = _ransac(space, image, camera, prior, settings, seed)
        kept = agreeing(camera, pose, space, image, settings)
        pose, covariance = refined(
            camera, pose, prior, std, space[kept], image[kept], settings.std_px
        )
        count = len(np.unique(edge[agreeing(camera, pose, space, image, settings)]))
        step = step_between(prior, pose)
        if count < settings.least_edges or (np.abs(step) > settings.deviations * std).any():
            return None
    visible = len(visible_edges(blocks, frame, camera, pose).image)
    if count < settings.least_share * visible:
        return None
    return PhotoPose(pose, covariance, count, tried)


def agreeing(
    camera: PhotoCamera, pose: Array, space: Array, lines: Array, settings: PhotoSettings
) -> NDArray[np.bool_]:
    """(P,) whether both ends of each line are within ``inlier_px`` of the image of its edge."""
    off = np.abs(distances(camera, pose, space, lines))
    return np.asarray(off.max(axis=1) < settings.inlier_px)


def pairs(
    edges: Edges, lines: Array, focal: float, settings: PhotoSettings, scale: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of edges and lines that the prior's deviations allow.

    A line is parallel to its edge, up to ``turn_rad``; its middle is beside the edge's visible
    part, no farther than an error of position and heading moves the edge in the image.

    Args:
        edges: E visible edges.
        lines: (N, 2, 2) lines.
        focal: Focal length, pixels.
        settings: The limits.
        scale: Factor of the prior's deviations and of ``turn_rad``.

    Returns:
        (P,) rows of ``edges`` and (P,) rows of ``lines``.
    """
    reach = settings.deviations * focal * (settings.std_m / edges.depth + settings.std_rad)
    reach = scale * reach[:, None] + settings.inlier_px
    along, length = _directions(edges.image)
    other, _ = _directions(lines)
    sine = along[:, None, 0] * other[None, :, 1] - along[:, None, 1] * other[None, :, 0]
    offset = lines.mean(axis=1)[None] - edges.image[:, None, 0]
    aside = along[:, None, 0] * offset[..., 1] - along[:, None, 1] * offset[..., 0]
    onward = (along[:, None] * offset).sum(axis=-1)
    beside = (onward > -reach) & (onward < length[:, None] + reach)
    parallel = np.abs(sine) < np.sin(settings.turn_rad * scale)
    edge, line = np.nonzero(parallel & beside & (np.abs(aside) < reach))
    return edge, line


def _directions(segments: Array) -> tuple[Array, Array]:
    """(N, 2) unit vectors and (N,) lengths of (N, 2, 2) segments."""
    along = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(along, axis=1)
    return along / np.maximum(length, 1e-9)[:, None], length


def _ransac(
    space: Array,
    lines: Array,
    camera: PhotoCamera,
    prior: Array,
    settings: PhotoSettings,
    seed: int,
) -> Array:
    """Return the (4, 4) pose that most of the P pairs agree with."""
    library = _poselib()
    centre = prior[:3, 3]  # PoseLib's numbers stay small
    turn = AHEAD_TO_CAMERA @ prior[:3, :3].T
    start = library.CameraPose()
    start.R, start.t = turn, np.zeros(3)
    column, row = camera.centre.tolist()
    described = {
        "model": "SIMPLE_PINHOLE",
        "width": camera.width,
        "height": camera.height,
        "params": [camera.focal, column, row],
    }
    found, _ = library.estimate_absolute_pose_pnpl(
        np.zeros((0, 2)),
        np.zeros((0, 3)),
        lines[:, 0],
        lines[:, 1],
        space[:, 0] - centre,
        space[:, 1] - centre,
        described,
        {
            "max_reproj_error": settings.inlier_px,
            "max_epipolar_error": settings.inlier_px,
            "seed": seed,
            "max_iterations": 5000,
        },
        {},
        start,
    )
    pose = np.eye(4)
    pose[:3, :3] = found.R.T @ AHEAD_TO_CAMERA
    pose[:3, 3] = centre - found.R.T @ found.t
    return pose


def _poselib() -> Any:
    """The library PoseLib.

    Raises:
        MaptileError: It is not installed.
    """
    try:
        import poselib
    except ImportError:
        raise MaptileError(
            "poses of photographs need PoseLib: pip install 'maptile-loc[photo]'"
        ) from None
    return poselib
