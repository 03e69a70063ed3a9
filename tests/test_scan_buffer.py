from __future__ import annotations

import numpy as np
import pytest
from made import straight_drive

from data_prep.drive import ScanBlock
from data_prep.errors import MaptileError
from data_prep.geometry import se3_from_xyzrpy
from maptile_loc.perceive.labels import LabelTable
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.scan_buffer import ScanBuffer
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries

POST = np.array([[10.0, 2.0, 1.0]])
STILL = np.zeros(6)


def at(metres: float) -> np.ndarray:
    """The pose after some metres straight ahead."""
    return se3_from_xyzrpy([metres, 0, 0, 0, 0, 0])


def filled(submap_m: float, count: int, step_m: float, settings=None) -> ScanBuffer:
    """A buffer of scans of one post, seen from a vehicle that drives straight ahead."""
    buffer = ScanBuffer(submap_m, settings or SubmapSettings())
    for i in range(count):
        scan = ScanBlock.single(i, POST - [[i * step_m, 0, 0]])
        buffer.add(scan, at(i * step_m), STILL, i * step_m)
    return buffer


def test_a_fixed_post_stays_one_point_behind_the_vehicle() -> None:
    submap = filled(20.0, 50, 1.0).submap()
    np.testing.assert_allclose(submap.points, np.repeat(POST - [[49, 0, 0]], 21, 0), atol=1e-4)
    np.testing.assert_allclose(submap.origin[:, 0], np.arange(-20, 1), atol=1e-4)


def test_the_last_half_of_a_centred_submap_is_the_same_cloud() -> None:
    """At the end of a drive, a centred submap ends at its query, too."""
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(-20, 20, (50, 3)) for _ in range(31)]
    drive = straight_drive(clouds)
    plan = plan_queries(drive, Queries(submap_m=40.0, every_m=30.0))
    expected = build_submap(drive, plan, 1, Queries(submap_m=40.0), SubmapSettings())
    buffer = ScanBuffer(20.0, SubmapSettings())
    for i, cloud in enumerate(clouds):
        buffer.add(ScanBlock.single(i, cloud), at(float(i)), STILL, float(i))
    np.testing.assert_allclose(buffer.submap().points, expected.points, atol=1e-4)


def test_standing_still_adds_no_scans() -> None:
    assert len(filled(50.0, 500, 0.0).submap().points) <= 2


def test_dense_scans_are_thinned_to_the_number_of_points() -> None:
    sparse = SubmapSettings(max_points=10)
    assert 9 <= len(filled(20.0, 50, 1.0, sparse).submap().points) <= 12


def test_each_sensor_has_its_own_scans() -> None:
    buffer = ScanBuffer(20.0, SubmapSettings(spacing_m=1.0))
    for i in range(40):
        side = 1.0 if i % 2 else -1.0
        scan = ScanBlock.single(i, POST, origin=(0.0, side, 0.0))
        buffer.add(scan, at(i * 0.5), STILL, i * 0.5)
    origin = buffer.submap().origin
    assert (origin[:, 1] > 0).sum() == pytest.approx((origin[:, 1] < 0).sum(), abs=1)


def test_the_last_scan_is_always_there() -> None:
    buffer = filled(20.0, 10, 1.0, SubmapSettings(spacing_m=5.0))
    assert buffer.submap().origin[-1, 0] == 0
    assert filled(0.0, 10, 1.0).submap().points == pytest.approx(POST - [[9, 0, 0]])


def test_points_are_moved_to_where_the_vehicle_is_at_the_time_of_the_scan() -> None:
    """A scan of 0.1 s at 10 m/s: the last point was measured a metre farther on."""
    scan = ScanBlock.single(0, [[10.0, 0, 1], [9.0, 0, 1]], seconds=[0.0, 0.1])
    buffer = ScanBuffer(0.0, SubmapSettings())
    buffer.add(scan, np.eye(4), np.array([10.0, 0, 0, 0, 0, 0]), 0.0)
    np.testing.assert_allclose(buffer.submap().points, [[10, 0, 1], [10, 0, 1]], atol=1e-5)


def test_far_points_and_moving_objects_are_left_out() -> None:
    table = LabelTable(building=(1,), ground=(), road=(), moving=(2,))
    block = ScanBlock(
        np.array([0]),
        np.array([[5, 0, 0], [6, 0, 0], [100, 0, 0]], np.float32),
        np.zeros(3, np.int32),
        np.zeros((1, 3), np.float32),
        label=np.array([1, 2, 1], np.int32),
    )
    buffer = ScanBuffer(10.0, SubmapSettings(), table)
    buffer.add(block, np.eye(4), STILL, 0.0)
    submap = buffer.submap()
    np.testing.assert_array_equal(submap.points, [[5, 0, 0]])
    assert submap.kind is not None and len(submap.kind) == 1


def test_after_clearing_no_old_scan_is_used() -> None:
    buffer = filled(20.0, 10, 1.0)
    buffer.clear()
    buffer.add(ScanBlock.single(99, POST), np.eye(4), STILL, 10.0)
    assert len(buffer.submap().points) == 1


@pytest.mark.parametrize(
    ("points", "seconds"),
    [(np.zeros((3, 2)), None), (np.zeros(3), None), (np.zeros((3, 3)), np.zeros(2))],
)
def test_a_scan_of_another_shape_is_refused(points: np.ndarray, seconds: np.ndarray | None) -> None:
    with pytest.raises(MaptileError, match="expected points of shape"):
        ScanBlock.single(0, points, seconds=seconds)


def test_points_that_are_not_finite_are_left_out() -> None:
    scan = ScanBlock.single(5, [[1, 2, 3], [np.nan, 0, 0], [0, np.inf, 0]], seconds=[0, 1, 2])
    np.testing.assert_array_equal(scan.points, [[1, 2, 3]])
    assert scan.last_ns == 5
