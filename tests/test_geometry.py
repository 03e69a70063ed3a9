from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data_prep import geometry as g

angles = st.floats(-20.0, 20.0)
metres = st.floats(-1000.0, 1000.0)
poses2 = st.tuples(metres, metres, angles)


def rotation_by_hand(roll: float, pitch: float, yaw: float) -> np.ndarray:
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a), math.sin(a)) for a in (roll, pitch, yaw))
    rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return rz @ ry @ rx


@given(angles)
def test_wrapping_keeps_the_direction_and_the_range(angle: float) -> None:
    wrapped = float(g.wrap_angle(angle))
    assert -math.pi <= wrapped < math.pi
    assert math.isclose(math.cos(wrapped), math.cos(angle), abs_tol=1e-9)
    assert math.isclose(math.sin(wrapped), math.sin(angle), abs_tol=1e-9)


@pytest.mark.parametrize(
    ("yaw_deg", "east", "north"), [(0, 0, 1), (90, 1, 0), (180, 0, -1), (270, -1, 0)]
)
def test_ins_yaw_turns_clockwise_from_north(yaw_deg: float, east: float, north: float) -> None:
    heading = g.true_heading_from_ins_yaw(math.radians(yaw_deg))
    assert np.allclose([np.cos(heading), np.sin(heading)], [east, north], atol=1e-12)


@pytest.mark.parametrize(
    ("yaw_deg", "east", "north"), [(0, 1, 0), (90, 0, 1), (180, -1, 0), (-90, 0, -1)]
)
def test_oxts_yaw_turns_counter_clockwise_from_east(
    yaw_deg: float, east: float, north: float
) -> None:
    heading = g.true_heading_from_oxts_yaw(math.radians(yaw_deg))
    assert np.allclose([np.cos(heading), np.sin(heading)], [east, north], atol=1e-12)


@pytest.mark.parametrize(
    ("latitude", "longitude", "zone", "degrees"),
    # Expected: (longitude - central meridian) * sin(latitude), to first order.
    [(51.7600, -1.2570, 30, 1.369), (49.0112, 8.4229, 32, -0.435), (-33.9, 18.4, 34, 1.450)],
)
def test_convergence_has_the_size_and_sign_of_the_textbook(
    latitude: float, longitude: float, zone: int, degrees: float
) -> None:
    crs = g.utm_crs(latitude, longitude)
    assert crs.to_epsg() == (32600 if latitude > 0 else 32700) + zone
    convergence = g.Projection(crs).convergence(latitude, longitude)
    assert np.degrees(convergence) == pytest.approx(degrees, abs=2e-3)


@given(st.floats(-70, 70), st.floats(-179.9, 179.9), st.floats(-math.pi, math.pi))
def test_a_true_heading_plus_convergence_is_the_heading_on_the_grid(
    latitude: float, longitude: float, heading: float
) -> None:
    projection = g.Projection(g.utm_crs(latitude, longitude))
    ahead = pyproj.Geod(ellps="WGS84").fwd(longitude, latitude, 90 - math.degrees(heading), 10.0)
    step = (
        projection.forward([ahead[1]], [ahead[0]])[0]
        - projection.forward([latitude], [longitude])[0]
    )
    on_grid = heading + float(projection.convergence(latitude, longitude))
    assert g.wrap_angle(math.atan2(step[1], step[0]) - on_grid) == pytest.approx(0, abs=1e-5)


@given(st.floats(49, 52), st.floats(-2, 8))
def test_projection_and_its_inverse_cancel(latitude: float, longitude: float) -> None:
    projection = g.Projection(pyproj.CRS.from_epsg(32631))
    lat, lon = projection.inverse(projection.forward([latitude], [longitude]))
    assert np.allclose([lat[0], lon[0]], [latitude, longitude], atol=1e-9)


def test_projection_agrees_with_the_data_sets_own_utm_columns() -> None:
    # A row of a published gps.csv: latitude and longitude have six decimals (0.11 m).
    east_north = g.Projection(pyproj.CRS.from_epsg(32630)).forward([51.765478], [-1.258754])
    assert np.allclose(east_north, [[620156.814550, 5736388.874728]], atol=0.12)


@given(metres, metres, metres, angles, angles, angles)
def test_pose_from_six_numbers_is_the_product_of_three_turns(
    x: float, y: float, z: float, roll: float, pitch: float, yaw: float
) -> None:
    pose = g.se3_from_xyzrpy([x, y, z, roll, pitch, yaw])
    assert np.allclose(pose[:3, :3], rotation_by_hand(roll, pitch, yaw), atol=1e-9)
    assert np.allclose(pose[:3, 3], [x, y, z])
    assert np.array_equal(pose[3], [0, 0, 0, 1])
    assert np.allclose(g.se3_inverse(pose) @ pose, np.eye(4), atol=1e-9)


def test_quaternions_are_scalar_last() -> None:
    half = math.sqrt(0.5)
    pose = g.se3_from_quaternion([[1.0, 2.0, 3.0]], [[0, 0, half, half]])
    assert np.allclose(pose[0, :3, :3], rotation_by_hand(0, 0, math.pi / 2))
    assert np.allclose(pose[0, :3, 3], [1, 2, 3])


def test_points_move_with_one_pose_or_each_with_its_own() -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(20, 3))
    poses = g.se3_from_xyzrpy(rng.normal(size=(20, 6)))
    one = g.transform_points(poses[3], points)
    each = g.transform_points(poses, points)
    assert one.dtype == each.dtype == np.float32
    for i, point in enumerate(points):
        assert np.allclose(one[i], (poses[3] @ [*point, 1])[:3], atol=1e-5)
        assert np.allclose(each[i], (poses[i] @ [*point, 1])[:3], atol=1e-5)


def test_poses_between_samples_are_interpolated_and_not_held() -> None:
    start = 1_403_774_724_292_807_000  # float64 cannot hold it: rounds to 256 ns
    t_ns = np.array([start, start + 62_500_000], np.int64)
    poses = g.se3_from_xyzrpy([[0, 0, 0, 0, 0, 0], [0.8, 0.4, 0.2, 0, 0, 0.2]])
    quarter = g.interpolate_se3(t_ns, poses, np.array([start + 15_625_000], np.int64))
    assert np.allclose(quarter, g.se3_from_xyzrpy([[0.2, 0.1, 0.05, 0, 0, 0.05]]), atol=1e-12)


@given(st.floats(0, 1), st.integers(0, 1000))
def test_interpolated_rotations_turn_at_a_constant_rate(fraction: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, turn = Rotation.random(random_state=seed), rng.uniform(-1.5, 1.5, size=3)
    poses = np.stack([g.se3(r, np.zeros(3)) for r in (first, first * Rotation.from_rotvec(turn))])
    query = np.array([round(fraction * 10**9)], np.int64)
    got = g.interpolate_se3(np.array([0, 10**9], np.int64), poses, query)
    expected = first * Rotation.from_rotvec(turn * query[0] / 1e9)
    assert np.allclose(got[0, :3, :3], expected.as_matrix(), atol=1e-9)


def test_outside_the_samples_the_ends_are_held() -> None:
    poses = g.se3_from_xyzrpy([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]])
    t_ns = np.array([0, 10], np.int64)
    got = g.interpolate_se3(t_ns, poses, np.array([-5, 0, 10, 99], np.int64))
    assert np.allclose(got, poses[[0, 0, 1, 1]])
    alone = g.interpolate_se3(t_ns[:1], poses[1:], np.array([-5, 5], np.int64))
    assert np.allclose(alone, poses[[1, 1]])


def test_angles_are_interpolated_the_short_way_round() -> None:
    t_ns = np.array([0, 10], np.int64)
    angle = np.radians([170.0, -170.0])
    middle = g.interpolate_angle(t_ns, angle, np.array([5], np.int64))
    assert abs(np.degrees(middle[0])) == pytest.approx(180)


@given(poses2, poses2)
def test_planar_poses_compose_as_matrices_do(
    a: tuple[float, float, float], b: tuple[float, float, float]
) -> None:
    def matrix(pose: tuple[float, float, float]) -> np.ndarray:
        return g.se3_from_xyzrpy([pose[0], pose[1], 0, 0, 0, pose[2]])

    expected = g.se2_from_se3(matrix(a) @ matrix(b))
    got = g.se2_compose(a, b)
    assert np.allclose(got[:2], expected[:2], atol=1e-6)
    assert g.wrap_angle(got[2] - expected[2]) == pytest.approx(0, abs=1e-9)
    back = g.se2_between(a, got)
    assert np.allclose(back[:2], b[:2], atol=1e-6)
    assert g.wrap_angle(back[2] - b[2]) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rotate_turns_counter_clockwise(dtype: type) -> None:
    turned = g.rotate(np.array([[1, 0], [0, 1]], dtype), math.pi / 2)
    assert turned.dtype == dtype
    assert np.allclose(turned, [[0, 1], [-1, 0]], atol=1e-6)
