from __future__ import annotations

import numpy as np
import pytest
from made import straight_drive

from data_prep.drive import ScanBlock
from data_prep.errors import MaptileError
from data_prep.geometry import rotate, se3_from_xyzrpy
from maptile_loc.perceive.labels import LabelTable
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.query_tile import QuerySettings, View, make_tile, make_views
from maptile_loc.perceive.scan_buffer import ScanBuffer, submap_of
from maptile_loc.perceive.submap import Submap, SubmapSettings, build_submap
from maptile_loc.types import Queries

POST = np.array([[10.0, 2.0, 1.0]])
STILL = np.zeros(6)


def at(metres: float) -> np.ndarray:
    """The pose after some metres straight ahead."""
    return se3_from_xyzrpy([metres, 0, 0, 0, 0, 0])


def empty(submap_m: float, settings=None, table=None, group_points=60_000) -> ScanBuffer:
    tile = QuerySettings(group_points=group_points)
    return ScanBuffer(submap_m, settings or SubmapSettings(), tile, table)


def cloud_of(buffer: ScanBuffer, last_m: float = np.inf) -> Submap:
    """All scans that the next tile is made of."""
    return submap_of([scan for group in buffer.recent(last_m) for scan in group.scans])


def filled(submap_m: float, count: int, step_m: float, settings=None) -> ScanBuffer:
    """A buffer of scans of one post, seen from a vehicle that drives straight ahead."""
    buffer = empty(submap_m, settings)
    for i in range(count):
        scan = ScanBlock.single(i, POST - [[i * step_m, 0, 0]])
        buffer.add(scan, at(i * step_m), STILL, i * step_m)
    return buffer


def test_a_fixed_post_stays_one_point_behind_the_vehicle() -> None:
    submap = cloud_of(filled(20.0, 50, 1.0))
    np.testing.assert_allclose(submap.points, np.repeat(POST - [[49, 0, 0]], 21, 0), atol=1e-4)
    np.testing.assert_allclose(submap.origin[:, 0], np.arange(-20, 1), atol=1e-4)


def test_the_last_half_of_a_centred_submap_is_the_same_cloud() -> None:
    """At the end of a drive, a centred submap ends at its query, too."""
    rng = np.random.default_rng(0)
    clouds = [rng.uniform(-20, 20, (50, 3)) for _ in range(31)]
    drive = straight_drive(clouds)
    plan = plan_queries(drive, Queries(submap_m=40.0, every_m=30.0))
    expected = build_submap(drive, plan, 1, Queries(submap_m=40.0), SubmapSettings())
    buffer = empty(20.0)
    for i, cloud in enumerate(clouds):
        buffer.add(ScanBlock.single(i, cloud), at(float(i)), STILL, float(i))
    np.testing.assert_allclose(cloud_of(buffer).points, expected.points, atol=1e-4)


def test_standing_still_adds_no_scans() -> None:
    assert len(cloud_of(filled(50.0, 500, 0.0)).points) <= 2


def test_dense_scans_are_thinned_to_the_number_of_points() -> None:
    sparse = SubmapSettings(max_points=10)
    assert 9 <= len(cloud_of(filled(20.0, 50, 1.0, sparse)).points) <= 12


def test_each_sensor_has_its_own_scans() -> None:
    buffer = empty(20.0, SubmapSettings(spacing_m=1.0))
    for i in range(40):
        side = 1.0 if i % 2 else -1.0
        scan = ScanBlock.single(i, POST, origin=(0.0, side, 0.0))
        buffer.add(scan, at(i * 0.5), STILL, i * 0.5)
    origin = cloud_of(buffer).origin
    assert (origin[:, 1] > 0).sum() == pytest.approx((origin[:, 1] < 0).sum(), abs=1)


def test_the_last_scan_is_always_there() -> None:
    buffer = filled(20.0, 10, 1.0, SubmapSettings(spacing_m=5.0))
    assert cloud_of(buffer).origin[-1, 0] == 0
    assert cloud_of(filled(0.0, 10, 1.0)).points == pytest.approx(POST - [[9, 0, 0]])


def test_points_are_moved_to_where_the_vehicle_is_at_the_time_of_the_scan() -> None:
    """A scan of 0.1 s at 10 m/s: the last point was measured a metre farther on."""
    scan = ScanBlock.single(0, [[10.0, 0, 1], [9.0, 0, 1]], seconds=[0.0, 0.1])
    buffer = empty(0.0)
    buffer.add(scan, np.eye(4), np.array([10.0, 0, 0, 0, 0, 0]), 0.0)
    np.testing.assert_allclose(cloud_of(buffer).points, [[10, 0, 1], [10, 0, 1]], atol=1e-5)


def test_far_points_and_moving_objects_are_left_out() -> None:
    table = LabelTable(building=(1,), ground=(), road=(), moving=(2,))
    block = ScanBlock(
        np.array([0]),
        np.array([[5, 0, 0], [6, 0, 0], [100, 0, 0]], np.float32),
        np.zeros(3, np.int32),
        np.zeros((1, 3), np.float32),
        label=np.array([1, 2, 1], np.int32),
    )
    buffer = empty(10.0, table=table)
    buffer.add(block, np.eye(4), STILL, 0.0)
    submap = cloud_of(buffer)
    np.testing.assert_array_equal(submap.points, [[5, 0, 0]])
    assert submap.kind is not None and len(submap.kind) == 1


def test_after_clearing_no_old_scan_is_used() -> None:
    buffer = filled(20.0, 10, 1.0)
    buffer.clear()
    buffer.add(ScanBlock.single(99, POST), np.eye(4), STILL, 10.0)
    assert len(cloud_of(buffer).points) == 1


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


def test_only_the_last_metres_are_used_where_this_is_asked_for() -> None:
    buffer = filled(20.0, 50, 1.0)
    assert len(cloud_of(buffer, 5.0).points) == 6
    assert len(cloud_of(buffer).points) == 21


def test_forgotten_scans_never_come_back() -> None:
    buffer = filled(20.0, 50, 1.0)
    buffer.forget(5.0)
    assert len(cloud_of(buffer).points) == 6
    buffer.add(ScanBlock.single(50, POST - [[50.0, 0, 0]]), at(50.0), STILL, 50.0)
    assert len(cloud_of(buffer).points) == 7


# --- Views ---------------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
HOUSE = np.column_stack(
    [RNG.uniform(-12, 18, 9000), RNG.normal(9.0, 0.03, 9000), RNG.uniform(0, 6, 9000)]
)
STREET = np.column_stack([RNG.uniform(-25, 30, (9000, 2)), RNG.normal(0, 0.02, 9000)])


def driven(group_points: int, turn: float = 0.02, submap_m: float = 50.0) -> ScanBuffer:
    """A buffer of a vehicle that passes a house in a slight curve."""
    buffer = empty(submap_m, group_points=group_points)
    for i in range(12):
        pose = se3_from_xyzrpy([i * 1.0, 0, 0, 0, 0, turn * i])
        seen = np.concatenate([HOUSE[i::12], STREET[i::12]])
        local = (seen - pose[:3, 3]) @ pose[:3, :3]
        buffer.add(ScanBlock.single(i, local), pose, STILL, float(i))
    return buffer


def test_groups_that_were_seen_earlier_show_the_house_where_it_is() -> None:
    tile = driven(4500).tile(0.4)
    row, column = np.nonzero(tile.wall)
    weight = tile.wall[row, column]
    half = tile.size / 2
    xy = np.column_stack([column + 0.5 - half, half - row - 0.5]) * tile.resolution
    north = rotate(xy, 0.22 - 0.4)[:, 1]  # the vehicle drove along the x axis, and turned by 0.22
    assert np.average(north, weights=weight) == pytest.approx(9.0, abs=0.15)
    assert weight[np.abs(north - 9.0) > 1.0].sum() < 0.05 * weight.sum()
    whole = make_tile(cloud_of(driven(2**30)), 0.4, QuerySettings(group_points=4500)).wall
    assert weight.sum() == pytest.approx(whole.sum(), rel=0.1)


def test_the_tile_of_one_group_is_that_of_its_cloud() -> None:
    buffer = driven(2**30)
    expected, tile = make_tile(cloud_of(buffer), 0.4, QuerySettings()), buffer.tile(0.4)
    for name in ("wall", "ground", "observed", "road", "path"):
        np.testing.assert_array_equal(getattr(tile, name), getattr(expected, name))


def test_a_view_is_dropped_when_its_first_scan_is_too_old() -> None:
    buffer = driven(4500, submap_m=8.0)  # three scans each: 0-2, 3-5, 6-8, 9-11
    assert [len(group.scans) for group in buffer.recent()] == [3, 3, 3]
    assert buffer.recent()[0].scans[0].travelled == 3.0


def test_scans_of_a_line_scanner_are_seen_together() -> None:
    buffer = driven(9000)  # six scans would be a group
    assert [group.view for group in buffer.recent()] == [None]
    expected = make_tile(cloud_of(buffer), 0.4, QuerySettings(group_points=9000))
    np.testing.assert_array_equal(buffer.tile(0.4).wall, expected.wall)


def test_a_part_of_a_group_is_seen_anew() -> None:
    groups = driven(4500).recent(last_m=4.0)
    assert [len(group.scans) for group in groups] == [2, 3]
    assert [group.view is None for group in groups] == [True, False]


def view() -> View:
    return next(make_views(cloud_of(driven(2**30)), 0.0, QuerySettings()))


def test_a_view_that_is_not_moved_stays_the_same() -> None:
    one = view()
    moved = one.moved(np.zeros(3), 0.5)
    for name in ("hit", "seen", "votes", "xy", "origin"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(one, name))
    np.testing.assert_allclose(moved.wall, one.wall * one.hit, atol=1e-6)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_quarter_turn_turns_the_cells(quarter: int) -> None:
    one = view()
    turned = one.moved(np.array([0, 0, quarter * np.pi / 2]), 0.5)
    for name in ("seen", "votes"):
        expected = np.rot90(getattr(one, name), quarter, (1, 2))
        np.testing.assert_array_equal(getattr(turned, name), expected)
    expected = np.rot90(one.wall * one.hit, quarter)
    assert (np.abs(turned.wall - expected) > 1e-5).mean() < 1e-3  # points on the cells' borders


def test_a_shift_by_whole_cells_shifts_the_cells_and_the_trajectory() -> None:
    one = view()
    moved = one.moved(np.array([4.0, -1.5, 0.0]), 0.5)
    for name in ("seen", "votes"):
        before, after = getattr(one, name), getattr(moved, name)
        np.testing.assert_array_equal(after[:, 3:, 8:], before[:, :-3, :-8])
        assert not after[:, :3].any() and not after[:, :, :8].any()
    np.testing.assert_allclose(moved.origin, one.origin + np.float32([4.0, -1.5, 0]), atol=1e-5)


@pytest.mark.parametrize("turn", [0.1, 0.7, 2.0])
def test_a_view_keeps_its_evidence_wherever_it_is_moved(turn: float) -> None:
    one = view()
    moved = one.moved(np.array([3.3, -2.1, turn]), 0.5)
    assert moved.wall.sum() == pytest.approx(one.wall.sum(), rel=0.25)
    assert moved.seen[1].sum() == pytest.approx(one.seen[1].sum(), rel=0.02)
