"""The pose of a photograph against closed form, and against the pose that it was rendered from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from data_prep.geometry import se3_from_xyzrpy, se3_inverse
from maptile_loc.photo.camera import PhotoCamera
from maptile_loc.photo.lines import image_lines
from maptile_loc.photo.pose import PhotoSettings, pairs, photo_pose
from maptile_loc.photo.refine import distances, moved, refined, step_between
from maptile_loc.photo.wireframe import visible_edges, wireframe
from maptile_loc.render.extruded import Blocks, blocks

ORIGIN = np.array([620_000.0, 5_735_000.0])
CAMERA = PhotoCamera(640, 400, 320.0)
STREET = (
    (12, 6, 20, 14, 7.0),
    (22, 7, 31, 16, 9.0),
    (34, 5, 44, 13, 5.0),
    (10, -15, 19, -7, 6.0),
    (23, -14, 30, -6, 11.0),
    (33, -17, 45, -8, 8.0),
    (52, -5, 60, 5, 12.0),
)
"""Houses on both sides of a street and at its end: west, south, east, north, height."""


def city(*boxes: tuple[float, float, float, float, float]) -> Blocks:
    shapes = np.array([shapely.box(*box[:4]) for box in boxes], object)
    shapes = shapely.transform(shapes, lambda xy: xy + ORIGIN)
    return blocks(shapes, np.array([box[4] for box in boxes]), ORIGIN)


def at(x=0.0, y=0.0, z=1.7, roll=0.0, pitch=0.0, yaw=0.0):
    """Roll, pitch (nose down) and yaw in degrees."""
    angles = np.radians([roll, pitch, yaw])
    return se3_from_xyzrpy(np.array([[*(ORIGIN + [x, y]), z, *angles]]))[0]


def test_points_are_projected_through_the_pinhole() -> None:
    """20 m ahead, 5 m to the left and 2 m above the camera: 320 * 5 / 20 and 320 * 2 / 20."""
    image, depth = CAMERA.project(at(), np.array([[*(ORIGIN + [20, 5]), 3.7]]))
    np.testing.assert_allclose(image, [[320 - 80, 200 - 32]])
    np.testing.assert_allclose(depth, [20])


def test_rays_and_projection_agree() -> None:
    pose = at(1, 2, 3, 4, -5, 130)
    points = pose[:3, 3] + 25 * CAMERA.rays(pose)
    column, row = np.meshgrid(np.arange(640) + 0.5, np.arange(400) + 0.5)
    np.testing.assert_allclose(CAMERA.project(pose, points)[0], np.stack([column, row], -1))


def sorted_ends(segment) -> list[list[float]]:
    return sorted(np.round(segment, 6).tolist())


def test_a_front_shows_its_four_edges_and_hides_the_others() -> None:
    """Of the box's 12 edges, those of the front; it is 20 m ahead, 8 m wide and 6 m high."""
    world = city((20, -4, 30, 4, 6))
    frame = wireframe(world)
    assert frame.shape == (12, 2, 3)
    edges = visible_edges(world, frame, CAMERA, at())
    front = np.array([[4, 0, 4, 6], [-4, 0, -4, 6], [4, 6, -4, 6], [4, 0, -4, 0]])
    assert sorted(map(sorted_ends, edges.space[..., 1:] - [ORIGIN[1], 0])) == sorted(
        map(sorted_ends, front.reshape(-1, 2, 2))
    )
    np.testing.assert_allclose(edges.space[:, :, 0], ORIGIN[0] + 20)
    np.testing.assert_allclose(edges.depth, 20)


def test_an_edge_behind_a_house_is_not_seen() -> None:
    both = city((20, -4, 30, 4, 6), (40, -3, 50, 3, 5))
    edges = visible_edges(both, wireframe(both), CAMERA, at())
    assert (edges.space[:, :, 0] < ORIGIN[0] + 31).all()


def test_pairs_are_parallel_and_beside() -> None:
    """An upright edge at 160 pixels; 3 * 320 * (1 / 20 + 0.02) = 67 pixels to either side."""
    world = city((20, 10, 30, 60, 6))
    upright = wireframe(world)
    upright = upright[(upright[:, 0, :2] == upright[:, 1, :2]).all(axis=1)]
    upright = upright[upright[:, 0, 0] < ORIGIN[0] + 21]
    edges = visible_edges(world, upright, CAMERA, at())
    assert len(edges.image) == 1
    lines = np.array(
        [
            [[160, 160], [160, 200]],
            [[220, 160], [220, 200]],
            [[240, 160], [240, 200]],
            [[160, 160], [190, 180]],
            [[160, 20], [160, 40]],
        ],
        float,
    )
    edge, line = pairs(edges, lines, CAMERA.focal, PhotoSettings(), 1.0)
    assert line.tolist() == [0, 1]
    assert edge.tolist() == [0, 0]
    assert pairs(edges, lines, CAMERA.focal, PhotoSettings(), 0.5)[1].tolist() == [0]


TRUTH = at(0.8, -0.6, 1.9, 1.0, -1.5, 2.0)
"""The photographs' pose."""


def off(pose) -> tuple[float, float]:
    """Metres and degrees from the truth."""
    between = se3_inverse(TRUTH) @ pose
    turn = math.acos(min(1.0, (np.trace(between[:3, :3]) - 1) / 2))
    return float(np.linalg.norm(between[:3, 3])), math.degrees(turn)


def test_the_pose_is_found_among_wrong_lines() -> None:
    """Half of all edges' lines, exact, and as many wrong ones."""
    pytest.importorskip("poselib")
    world, rng = city(*STREET), np.random.default_rng(0)
    frame = wireframe(world)
    right = visible_edges(world, frame, CAMERA, TRUTH).image
    middle = rng.uniform((50, 50), (590, 350), (len(right), 2))
    half = 20 * np.array([[0, 1], [1, 0.2]])[rng.integers(2, size=len(right))]
    lines = np.concatenate([right, np.stack([middle - half, middle + half], axis=1)])
    found = photo_pose(lines, world, frame, CAMERA, at(), PhotoSettings())
    assert found is not None
    metres, degrees = off(found.pose)
    assert metres < 0.03
    assert degrees < 0.1
    assert off(at())[0] > 0.9


def photograph(world: Blocks):
    """(400, 640) uint8: each wall has a grey of its own."""
    rays = CAMERA.rays(TRUTH).reshape(-1, 3)
    _, face = world.cast(np.broadcast_to(TRUTH[:3, 3], rays.shape), rays)
    grey = np.random.default_rng(1).integers(40, 200, face.max() + 2).astype(np.uint8)
    grey[-1] = 250  # nothing
    return grey[face].reshape(400, 640)


def test_the_pose_is_that_from_which_the_photograph_was_taken() -> None:
    pytest.importorskip("poselib")
    pytest.importorskip("cv2")
    world = city(*STREET)
    lines = image_lines(photograph(world))
    found = photo_pose(lines, world, wireframe(world), CAMERA, at(), PhotoSettings())
    assert found is not None
    metres, degrees = off(found.pose)
    assert metres < 0.15
    assert degrees < 0.3


def test_a_line_s_distance_is_that_of_its_ends_from_the_edge() -> None:
    """An upright edge at column 160 and a line that is 3 pixels beside it, 4 at its other end."""
    edge = np.array([[[*(ORIGIN + [20, 10]), 0.0], [*(ORIGIN + [20, 10]), 6.0]]])
    line = np.array([[[163.0, 150.0], [164.0, 20.0]]])
    off = distances(CAMERA, at(), edge, line)
    np.testing.assert_allclose(np.abs(off), [[3, 4]], atol=1e-6)
    assert (np.sign(off[0]) == np.sign(off[0, 0])).all()


def test_without_lines_the_prior_stays() -> None:
    std = np.array([1.0, 1.0, 0.3, 0.02, 0.02, 0.02])
    none = np.zeros((0, 2, 3)), np.zeros((0, 2, 2))
    pose, covariance = refined(CAMERA, TRUTH, at(), std, *none, 1.0)
    np.testing.assert_allclose(pose, at(), atol=1e-6)
    np.testing.assert_allclose(covariance, np.diag(std**2), rtol=1e-6)


def test_the_covariance_is_that_of_the_errors() -> None:
    """Squared errors over variances are near 6, or less: the loss is that of larger noise."""
    world, rng = city(*STREET), np.random.default_rng(2)
    edges = visible_edges(world, wireframe(world), CAMERA, TRUTH)
    std = np.array([1.0, 1.0, 0.3, 0.02, 0.02, 0.02])
    squared = []
    for _ in range(60):
        lines = edges.image + 0.3 * rng.normal(size=edges.image.shape)
        prior = moved(TRUTH, std * rng.normal(size=6))
        pose, covariance = refined(CAMERA, prior, prior, std, edges.space, lines, 0.3)
        step = step_between(TRUTH, pose)
        squared.append(step @ np.linalg.solve(covariance, step))
    assert 3 < np.mean(squared) < 7.5


def test_lines_elsewhere_are_no_pose() -> None:
    """Lines of a third of the edges agree; the other edges have none."""
    pytest.importorskip("poselib")
    world = city(*STREET)
    frame = wireframe(world)
    lines = visible_edges(world, frame, CAMERA, TRUTH).image[::3]
    assert photo_pose(lines, world, frame, CAMERA, at(), PhotoSettings()) is None


def test_without_lines_there_is_no_pose() -> None:
    world = city(*STREET)
    lines = np.zeros((0, 2, 2))
    assert photo_pose(lines, world, wireframe(world), CAMERA, at(), PhotoSettings()) is None


def test_an_empty_picture_has_no_lines() -> None:
    pytest.importorskip("cv2")
    assert image_lines(np.full((40, 60), 7, np.uint8)).shape == (0, 2, 2)
