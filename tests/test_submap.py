from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made import ListedScans, straight_drive

from data_prep.drive import Drive, PoseTrack, ScanBlock
from data_prep.errors import MaptileError
from data_prep.geometry import se3_from_xyzrpy
from maptile_loc.perceive.labels import (
    BUILDING,
    GROUND,
    KINDS,
    LABELS,
    OTHER,
    LabelTable,
    kinds,
)
from maptile_loc.perceive.plan import plan_queries
from maptile_loc.perceive.submap import SubmapSettings, build_submap
from maptile_loc.types import Queries

POST = np.array([[10.0, 2.0, 1.0]])


def post_seen_from(count, step_m=1.0):
    """Scans of one fixed post from a vehicle that drives straight ahead."""
    return [POST - [[i * step_m, 0, 0]] for i in range(count)]


def test_a_fixed_post_stays_one_point_in_the_submap():
    drive = straight_drive(post_seen_from(30))
    plan = plan_queries(drive, Queries(submap_m=20.0, every_m=5.0))
    submap = build_submap(drive, plan, 2, Queries(submap_m=20.0), SubmapSettings())
    here = int(plan.scan[2])
    np.testing.assert_allclose(submap.points, np.repeat(POST - [[here, 0, 0]], 21, 0), atol=1e-4)
    # The sensors are on the trajectory, up to 10 m behind and ahead.
    np.testing.assert_allclose(submap.origin[:, 0], np.arange(-10, 11), atol=1e-4)


def test_queries_are_evenly_spaced_and_windows_shorter_at_the_ends():
    drive = straight_drive(post_seen_from(50))
    plan = plan_queries(drive, Queries(submap_m=50.0, every_m=20.0))
    np.testing.assert_array_equal(plan.scan, [0, 20, 40])
    extents = [
        np.ptp(build_submap(drive, plan, q, Queries(submap_m=20.0), SubmapSettings()).origin[:, 0])
        for q in range(3)
    ]
    np.testing.assert_allclose(extents, [10, 20, 19], atol=1e-3)


def test_a_submap_of_one_scan():
    drive = straight_drive(post_seen_from(10))
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    assert len(plan.scan) == 10
    submap = build_submap(drive, plan, 3, Queries(submap_m=0.0), SubmapSettings())
    np.testing.assert_allclose(submap.points, POST - [[3, 0, 0]], atol=1e-5)


def test_standing_still_adds_no_scans():
    drive = straight_drive([POST] * 500, step_m=0.0)
    plan = plan_queries(drive, Queries(submap_m=50.0, every_m=20.0))
    assert len(plan.scan) == 1
    assert len(build_submap(drive, plan, 0, Queries(submap_m=50.0), SubmapSettings()).points) <= 2


def test_a_submap_ends_at_a_gap_in_the_odometry():
    drive = straight_drive(post_seen_from(40))
    segment = np.repeat([0, 1], 20).astype(np.int32)
    drive = replace(drive, odometry=replace(drive.odometry, segment=segment))
    plan = plan_queries(drive, Queries(submap_m=50.0, every_m=10.0))
    assert 20 in plan.scan.tolist()
    query = plan.scan.tolist().index(20)
    submap = build_submap(drive, plan, query, Queries(submap_m=50.0), SubmapSettings())
    assert submap.origin[:, 0].min() == 0


def test_far_points_are_left_out_and_scans_are_thinned_to_the_budget():
    cloud = np.concatenate([POST, [[100.0, 0, 0]], np.random.default_rng(0).normal(0, 5, (998, 3))])
    drive = straight_drive([cloud] * 60)
    plan = plan_queries(drive, Queries(submap_m=40.0, every_m=20.0))
    submap = build_submap(drive, plan, 1, Queries(submap_m=40.0), SubmapSettings(max_points=10_000))
    assert len(submap.origin) <= 12
    # The far point of the last scan would be more than 80 m ahead.
    assert submap.points[:, 0].max() < 70


def test_queries_are_counted_from_the_start_of_each_odometry_segment():
    drive = straight_drive(post_seen_from(70))
    segment = np.repeat([0, 1], [38, 32]).astype(np.int32)
    drive = replace(drive, odometry=replace(drive.odometry, segment=segment))
    plan = plan_queries(drive, Queries(submap_m=50.0, every_m=20.0))
    np.testing.assert_array_equal(plan.scan, [0, 20, 38, 58])


def test_without_odometry_only_single_scans_are_queries():
    drive = replace(straight_drive(post_seen_from(5)), odometry=None)
    assert len(plan_queries(drive, Queries(submap_m=0.0, every_m=0.0)).scan) == 5
    with pytest.raises(MaptileError, match="no odometry"):
        plan_queries(drive, Queries(submap_m=50.0, every_m=20.0))


def test_a_drive_without_scans_is_an_error():
    drive = straight_drive(post_seen_from(5))
    drive = replace(drive, scans=ListedScans([], []))
    with pytest.raises(MaptileError, match="no scans"):
        plan_queries(drive, Queries(submap_m=50.0, every_m=20.0))


class Timed(ListedScans):
    """Scans of fixed points, each seen at its own time within a sweep of 0.1 s."""

    def __init__(self, t_ns, world, poses_at, seconds):
        super().__init__(t_ns, [world] * len(t_ns))
        self.world, self.poses_at, self.seconds = world, poses_at, seconds

    def read(self, start, stop):
        points = []
        for t in self.t_ns[start:stop]:
            pose = self.poses_at(t + (self.seconds * 1e9).astype(np.int64))
            back = np.swapaxes(pose[:, :3, :3], 1, 2)
            points.append(np.einsum("nij,nj->ni", back, self.world - pose[:, :3, 3]))
        count = stop - start
        return ScanBlock(
            self.t_ns[start:stop],
            np.concatenate(points).astype(np.float32),
            np.repeat(np.arange(count, dtype=np.int32), len(self.world)),
            np.zeros((count, 3), np.float32),
            seconds=np.tile(self.seconds, count).astype(np.float32),
            label=np.tile(np.arange(len(self.world), dtype=np.int32), count),
        )


def turning_drive(speed=12.0, yaw_rate=0.5):
    """A drive on a circle, whose pose at any time is known exactly."""
    t_ns = 1_700_000_000_000_000_000 + np.arange(400) * 10_000_000
    start = t_ns[0]

    def poses_at(when):
        seconds = (np.asarray(when) - start) / 1e9
        yaw = yaw_rate * seconds
        values = np.zeros((len(seconds), 6))
        values[:, 0] = speed / yaw_rate * np.sin(yaw)
        values[:, 1] = speed / yaw_rate * (1 - np.cos(yaw))
        values[:, 5] = yaw
        return se3_from_xyzrpy(values)

    rng = np.random.default_rng(0)
    world = rng.uniform([-30, -30, -2], [60, 60, 8], (300, 3))
    scans = Timed(t_ns[50::10], world, poses_at, rng.uniform(-0.05, 0.05, 300))
    odometry = PoseTrack(t_ns, poses_at(t_ns), np.zeros(len(t_ns), np.int32))
    drive = Drive("turning", "made", scans, odometry, None, None, labels="kitti360")
    return drive, world, poses_at


def test_scans_are_corrected_for_the_motion_within_them():
    drive, world, poses_at = turning_drive()
    settings = SubmapSettings(max_range_m=1000, labels={})
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    for submap_m in (0.0, 10.0):
        submap = build_submap(drive, plan, 12, Queries(submap_m=submap_m), settings)
        pose = poses_at(drive.scans.t_ns[12:13])[0]
        real = (world - pose[:3, 3]) @ pose[:3, :3]
        copies = len(submap.points) // len(world)
        assert (copies > 3) == (submap_m > 0)
        # Constant velocity for 0.1 s on a circle: the error is 1 cm at 60 m.
        np.testing.assert_allclose(submap.points, np.tile(real, (copies, 1)), atol=0.02)
    as_is = replace(drive, scans=Untimed(drive.scans))
    moved = build_submap(as_is, plan, 12, Queries(submap_m=0.0), settings).points
    assert np.linalg.norm(moved - real, axis=1).max() > 0.5


class Untimed:
    """The same scans without the times of their points."""

    sensors = ("made",)

    def __init__(self, source):
        self.source, self.t_ns = source, source.t_ns

    def read(self, start, stop):
        return replace(self.source.read(start, stop), seconds=None)


def test_scans_at_the_end_of_the_odometry_are_not_corrected():
    drive, _, _ = turning_drive()
    cut = replace(drive.odometry, segment=(np.arange(400) >= 170).astype(np.int32))
    drive = replace(drive, odometry=cut)
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    settings = SubmapSettings(max_range_m=1000)
    query = int(np.flatnonzero(drive.scans.t_ns[plan.scan] == drive.odometry.t_ns[170])[0])
    submap = build_submap(drive, plan, query, Queries(submap_m=0.0), settings)
    raw = drive.scans.read(int(plan.scan[query]), int(plan.scan[query]) + 1)
    np.testing.assert_array_equal(submap.points, raw.points)


def test_labels_become_kinds_and_moving_points_are_left_out():
    drive, _, _ = turning_drive()
    plan = plan_queries(drive, Queries(submap_m=0.0, every_m=0.0))
    table = LabelTable(building=(1, 5), ground=(7,), moving=tuple(range(100, 300)))
    settings = SubmapSettings(max_range_m=1000, labels={"kitti360": table})
    submap = build_submap(drive, plan, 3, Queries(submap_m=0.0), settings)
    assert len(submap.points) == len(submap.kind) == 100
    expected = np.full(100, OTHER)
    expected[[1, 5]], expected[7] = BUILDING, GROUND
    np.testing.assert_array_equal(submap.kind, expected)
    unknown = replace(drive, labels="somebody's")
    assert build_submap(unknown, plan, 3, Queries(submap_m=0.0), settings).kind is None


def test_every_kind_has_its_numbers_in_the_tables_of_the_data_sets():
    names = {kind: name for name, kind in KINDS.items()}
    assert len(names) == len(KINDS) and {OTHER, *names} == set(range(len(KINDS) + 1))
    assert set(KINDS) == set(LabelTable.model_fields)
    for table in LABELS.values():
        numbers = [number for name in KINDS for number in getattr(table, name)]
        assert len(numbers) == len(set(numbers))

    def named(numbers, table):
        found = kinds(np.array(numbers, np.int32), LABELS[table]).tolist()
        return [names.get(kind, "other") for kind in found]

    assert named([11, 34, 12, 13, 14, 35, 0, 5], "kitti360") == [
        *["building"] * 2,
        "free_wall",
        *["fence"] * 2,
        "gate",
        "unlabelled",
        "other",
    ]
    assert named([50, 52, 71, 15, 20, 30, 252, 0], "semantickitti") == [
        *["building", "other", "pole", "car", "truck", "person", "moving", "unlabelled"],
    ]
