from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made import ListedScans, straight_drive

from data_prep.errors import MaptileError
from maptile_loc.submap import SubmapSettings, build_submap, plan_queries

POST = np.array([[10.0, 2.0, 1.0]])


def post_seen_from(count, step_m=1.0):
    """Scans of one fixed post by a vehicle driving straight on."""
    return [POST - [[i * step_m, 0, 0]] for i in range(count)]


def test_a_fixed_post_stays_one_point_in_the_submap():
    drive = straight_drive(post_seen_from(30))
    plan = plan_queries(drive, 5.0, 20.0)
    submap = build_submap(drive, plan, 2, 20.0, False, SubmapSettings())
    here = int(plan.scan[2])
    np.testing.assert_allclose(submap.points, np.repeat(POST - [[here, 0, 0]], 21, 0), atol=1e-4)
    # The sensors lie on the track driven, ten metres back and ahead.
    np.testing.assert_allclose(submap.origin[:, 0], np.arange(-10, 11), atol=1e-4)


def test_queries_are_a_step_apart_and_windows_shorter_at_the_ends():
    drive = straight_drive(post_seen_from(50))
    plan = plan_queries(drive, 20.0, 50.0)
    np.testing.assert_array_equal(plan.scan, [0, 20, 40])
    extents = [
        np.ptp(build_submap(drive, plan, q, 20.0, False, SubmapSettings()).origin[:, 0])
        for q in range(3)
    ]
    np.testing.assert_allclose(extents, [10, 20, 19], atol=1e-3)


def test_online_uses_nothing_after_the_query():
    clouds = post_seen_from(50)
    drive = straight_drive(clouds)
    plan = plan_queries(drive, 20.0, 30.0)
    submap = build_submap(drive, plan, 1, 30.0, True, SubmapSettings())
    later = replace(drive, scans=ListedScans(drive.scans.t_ns, clouds[:21] + [POST * 9] * 29))
    again = build_submap(later, plan, 1, 30.0, True, SubmapSettings())
    np.testing.assert_array_equal(submap.points, again.points)
    assert submap.origin[:, 0].max() == 0


def test_one_scan_only():
    drive = straight_drive(post_seen_from(10))
    plan = plan_queries(drive, 0.0, 0.0)
    assert len(plan.scan) == 10
    submap = build_submap(drive, plan, 3, 0.0, False, SubmapSettings())
    np.testing.assert_allclose(submap.points, POST - [[3, 0, 0]], atol=1e-5)


def test_standing_still_adds_no_scans():
    drive = straight_drive([POST] * 500, step_m=0.0)
    plan = plan_queries(drive, 20.0, 50.0)
    assert len(plan.scan) == 1
    assert len(build_submap(drive, plan, 0, 50.0, False, SubmapSettings()).points) <= 2


def test_a_submap_does_not_reach_over_a_gap_in_the_odometry():
    drive = straight_drive(post_seen_from(40))
    segment = np.repeat([0, 1], 20).astype(np.int32)
    drive = replace(drive, odometry=replace(drive.odometry, segment=segment))
    plan = plan_queries(drive, 10.0, 50.0)
    assert 20 in plan.scan.tolist()
    query = plan.scan.tolist().index(20)
    submap = build_submap(drive, plan, query, 50.0, False, SubmapSettings())
    assert submap.origin[:, 0].min() == 0


def test_far_points_are_left_out_and_budget_thins_scans():
    cloud = np.concatenate([POST, [[100.0, 0, 0]], np.random.default_rng(0).normal(0, 5, (998, 3))])
    drive = straight_drive([cloud] * 60)
    plan = plan_queries(drive, 20.0, 40.0)
    submap = build_submap(drive, plan, 1, 40.0, False, SubmapSettings(max_points=10_000))
    assert len(submap.origin) <= 12
    # The odd cloud's far point would lie 80 m ahead or more.
    assert submap.points[:, 0].max() < 70


def test_without_odometry_single_scans_only():
    drive = replace(straight_drive(post_seen_from(5)), odometry=None)
    assert len(plan_queries(drive, 0.0, 0.0).scan) == 5
    with pytest.raises(MaptileError, match="no odometry"):
        plan_queries(drive, 20.0, 50.0)


def test_a_drive_without_scans():
    drive = straight_drive(post_seen_from(5))
    drive = replace(drive, scans=ListedScans([], []))
    with pytest.raises(MaptileError, match="no scans"):
        plan_queries(drive, 20.0, 50.0)
