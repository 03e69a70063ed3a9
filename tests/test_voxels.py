"""The local map of LiDAR odometry against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from data_prep.geometry import se3_from_xyzrpy
from maptile_loc.odometry.register import _equations
from maptile_loc.odometry.sweep import Sweep, split_ground
from maptile_loc.odometry.voxels import SYMMETRIC, VoxelMap, cell_keys, grouped


def blob(seed: int, count: int = 4000, side: float = 12.0):
    """(3, N) points on rough walls and on the ground."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-side, side, (3, count))
    points[0, ::3] = 4.3 + rng.normal(0, 0.03, len(points[0, ::3]))
    points[2, 1::3] = -1.7 + rng.normal(0, 0.02, len(points[2, 1::3]))
    return points


def by_voxel(points, size: float):
    """The points of each voxel, by its coordinates."""
    found: dict[tuple[int, ...], list] = {}
    for point in points.T:
        found.setdefault(tuple(np.floor(point / size).astype(int)), []).append(point)
    return {cell: np.array(some) for cell, some in found.items()}


@pytest.mark.parametrize("large", [False, True])
def test_points_are_grouped_in_their_order(large):
    rng = np.random.default_rng(0)
    cells = rng.integers(-3, 4, (3, 500)).astype(np.int32) * (300_000 if large else 1)
    order, start = grouped(cell_keys([*cells]))
    expected = np.lexsort((np.arange(500), *cells[::-1]))
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(cells[:, order[start]].T, np.unique(cells.T, axis=0))
    assert [len(one) for one in grouped(np.zeros(0, np.int64))] == [0, 0]


def test_a_voxel_has_the_mean_of_its_points_whenever_they_came():
    first, second = blob(0), blob(1)
    surfaces = VoxelMap(1.0, 60.0, ground=False)
    surfaces.insert(first)
    surfaces.insert(second)
    for cell, some in by_voxel(np.hstack([first, second]), 1.0).items():
        at = surfaces.find(np.array(cell)[:, None] + 0.5, neighbours=False)[0]
        assert (at > 0) == (len(some) >= 3)
        if at:
            np.testing.assert_allclose(surfaces.mean[:, at], some.mean(axis=0), atol=1e-9)


def test_the_nearest_mean_of_a_voxel_and_its_six_neighbours_is_found():
    surfaces = VoxelMap(1.0, 60.0, ground=False)
    points = blob(2)
    surfaces.insert(points)
    means = {c: s.mean(axis=0) for c, s in by_voxel(points, 1.0).items() if len(s) >= 3}
    asked = np.random.default_rng(3).uniform(-13, 13, (3, 300))
    for point, at in zip(asked.T, surfaces.find(asked, neighbours=True), strict=True):
        cell = np.floor(point).astype(int)
        steps = [np.zeros(3, int), *np.eye(3, dtype=int), *-np.eye(3, dtype=int)]
        near = [means[key] for key in (tuple(cell + step) for step in steps) if key in means]
        if not near:
            assert at == 0
            continue
        best = min(near, key=lambda mean: float(np.sum((mean - point) ** 2)))
        np.testing.assert_allclose(surfaces.mean[:, at], best, atol=1e-9)


def test_far_voxels_are_dropped_and_one_with_the_same_entry_replaces_another():
    surfaces = VoxelMap(1.0, 16.0, ground=False)
    rng = np.random.default_rng(0)
    here, there = ([[x], [0.5], [0.5]] + rng.uniform(-0.3, 0.3, (3, 9)) for x in (0.5, 16.5))
    surfaces.insert(here)
    assert surfaces.find(here, False).all()
    surfaces.insert(there)
    assert surfaces.find(there, False).all()
    assert not surfaces.find(here, False).any()
    surfaces.insert(here + [[3.0], [0.0], [0.0]])
    surfaces.keep_within(np.array([16.5, 0.5, 0.5]), 5.0)
    assert surfaces.find(there, False).all()
    assert not surfaces.find(here + [[3.0], [0.0], [0.0]], False).any()


@pytest.mark.parametrize("ground", [False, True])
def test_the_normal_equations_are_those_of_the_jacobian(ground):
    surfaces = VoxelMap(1.0, 60.0, ground)
    surfaces.insert(blob(4))
    points, pose = blob(5, 200), se3_from_xyzrpy([0.1, -0.05, 0.02, 0.01, -0.02, 0.3])
    hessian, gradient, found, good = _equations(surfaces, points, pose, 0.5, True)
    turned = pose[:3, :3] @ points
    at = surfaces.find(turned + pose[:3, 3:], True)
    expected, slope, total = np.zeros((6, 6)), np.zeros(6), 0.0
    for q, index in zip(turned.T, at, strict=True):
        if index == 0:
            continue
        weight = surfaces.weight[:, index][SYMMETRIC]
        off = q + pose[:3, 3] - surfaces.mean[:, index]
        jacobian = np.hstack([np.eye(3), np.cross(np.eye(3), q).T])  # shift + turn x q
        robust = (0.25 / (0.25 + off @ weight @ off)) ** 2
        expected += robust * jacobian.T @ weight @ jacobian
        slope += robust * jacobian.T @ weight @ off
        total += robust
    np.testing.assert_allclose(hessian, expected, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(gradient, slope, atol=1e-9 * np.abs(slope).max())
    assert (found, good) == (np.count_nonzero(at), pytest.approx(total))


def test_thinned_points_are_compensated_as_their_points_are():
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (6000, 3)).astype(np.float32)
    points[:3000, 2] = -1.7
    seconds = rng.uniform(-0.05, 0.05, 6000).astype(np.float32)
    scan = split_ground(Sweep(points, seconds), 0.25)
    velocity = np.array([8.0, 1.0, 0.0, 0.0, 0.0, 0.4])
    moved = scan.at_rest(velocity)
    for before, when, after in (
        (scan.standing, scan.standing_s, moved.standing),
        (scan.ground, scan.ground_s, moved.ground),
    ):
        speed = velocity[:3] + np.cross(velocity[3:], before.T)
        np.testing.assert_allclose(after.T, before.T + when[:, None] * speed, atol=1e-9)
    voxels = by_voxel(points.T, 0.25)
    assert scan.standing.shape[1] + scan.ground.shape[1] == len(voxels)
    means = np.array(sorted(some.mean(axis=0).tolist() for some in voxels.values()))
    ours = np.array(sorted(np.hstack([scan.standing, scan.ground]).T.tolist()))
    np.testing.assert_allclose(ours, means, atol=1e-5)
