"""Live localization where recordings, clocks and searches are not as they should be."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from made import ListedScans
from test_live import (
    ENGINE,
    ROUTE,
    SECOND,
    SETTINGS,
    STRAIGHT,
    UNKNOWN,
    engine_on,
    errors,
    route,
    straight,
    wait_for_the_search,
    write_cloud,
)

from data_prep.drive import HeadingTrack, ScanBlock
from data_prep.errors import MaptileError
from maptile_loc.fuse.gnss import GnssWindow, fit
from maptile_loc.live.doubt import Doubt
from maptile_loc.live.gnss_buffer import GnssBuffer
from maptile_loc.live.heading_buffer import HeadingBuffer
from maptile_loc.live.localizer import Localizer
from maptile_loc.live.replay import feed, replay
from maptile_loc.live.watch import GnssTail, OdometryTail, arriving
from maptile_loc.map_search import NO_FIXES
from maptile_loc.odometry.pose_buffer import Motion, PoseBuffer
from maptile_loc.types import Candidates, Fixes, Queries

QUERIES = Queries(12.0, 8.0, True, UNKNOWN)

# --- Recordings ----------------------------------------------------------------------------------


def test_poses_that_are_not_later_are_left_out(tmp_path, caplog) -> None:
    file = tmp_path / "odometry.tum"
    file.write_text(
        "1.5 1 2 3 0 0 0 1\n1.5 9 9 9 0 0 0 1\n1.0 9 9 9 0 0 0 1\n# segment\n1.2 9 9 9 0 0 0 1\n"
        "2.5 4 5 6 0 0 0 1\n"
    )
    poses = list(OdometryTail(file).new())
    assert [(t_ns, restart) for t_ns, _, restart in poses] == [
        (1_500_000_000, False),
        (2_500_000_000, True),
    ]
    np.testing.assert_array_equal([pose[:3, 3] for _, pose, _ in poses], [[1, 2, 3], [4, 5, 6]])
    assert [one.message for one in caplog.records] == [
        f"{file}: lines that are not later than those before are left out"
    ]


@pytest.mark.parametrize(
    "line", ["1700000000500000000 1 2 3 0 0 0 1", "1700000000.5,1,2,3,0,0,0,1"]
)
def test_live_poses_are_read_as_those_of_a_drive(tmp_path, line: str) -> None:
    (tmp_path / "odometry.tum").write_text(line + "\n")
    ((t_ns, pose, _),) = OdometryTail(tmp_path / "odometry.tum").new()
    assert t_ns == 1_700_000_000_500_000_000
    np.testing.assert_array_equal(pose[:3, 3], [1, 2, 3])


def test_positions_that_are_not_later_are_left_out(tmp_path, caplog) -> None:
    file = tmp_path / "gnss.csv"
    file.write_text("t_ns,latitude,longitude\n5,51,-1\n5,52,-2\n4,52,-2\n6,51.5,-1\n")
    assert [row[:3] for row in GnssTail(file).new()] == [(5, 51.0, -1.0), (6, 51.5, -1.0)]
    assert len(caplog.records) == 1


def test_scans_that_come_while_a_slow_push_runs_are_not_late(tmp_path) -> None:
    clouds = tmp_path / "clouds"
    clouds.mkdir()
    write_cloud(clouds, SECOND, np.ones((5, 3)))
    found = []
    for scan in arriving(tmp_path, idle_s=0.5):
        found.append(int(scan.t_ns[0]))
        if len(found) == 1:
            write_cloud(clouds, 2 * SECOND, np.ones((5, 3)))
            time.sleep(0.7)
    assert found == [SECOND, 2 * SECOND]


# --- Headings ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead_ns", [0, 5_000_000, 48_000_000, 200_000_000])
def test_a_heading_is_that_of_the_scan_and_not_of_its_last_point(ahead_ns: int) -> None:
    """Headings are pushed up to the last point of a scan, at 200 Hz; the vehicle turns."""
    rate, at_ns = 0.5, 2 * SECOND
    buffer = HeadingBuffer(convergence=0.01)
    for t_ns in range(SECOND, at_ns + ahead_ns + 1, 5_000_000):
        buffer.add(t_ns, rate * (t_ns - SECOND) / SECOND)
    found = buffer.at(at_ns + 1_000_000, Motion(np.eye(4), 0.0, 0), PoseBuffer())
    expected = min(rate * (1 + 0.001), rate * (at_ns + ahead_ns - SECOND) / SECOND)
    assert found == pytest.approx(0.01 + expected, abs=1e-9)


def test_headings_of_long_ago_are_forgotten() -> None:
    buffer = HeadingBuffer(0.0)
    for number in range(10_000):
        buffer.add(number * 10_000_000, 0.0)
    assert len(buffer._headings) < 400


# --- Searches beside -----------------------------------------------------------------------------


def test_a_search_that_was_given_up_before_it_began_is_never_made() -> None:
    engine = engine_on()
    gate = engine.search.gate = threading.Event()
    cloud = ROUTE.scans.clouds[0]
    with Localizer.on(engine, Queries(0.0, 0.0, True, UNKNOWN), SETTINGS) as localizer:
        for number in range(6):  # a gap of ten seconds before each scan
            t_ns = (1000 + 10 * number) * SECOND
            localizer.add_odometry(t_ns, np.eye(4))
            localizer.add_scan(ScanBlock.single(t_ns, cloud))
        gate.set()
        wait_for_the_search(localizer)
        assert engine.search.asked <= 2  # the one that ran, and the last one


@pytest.mark.parametrize("background", [False, True])
def test_scans_without_odometry_are_answered_by_a_push_that_waits(background, caplog) -> None:
    """Each is a segment of its own: an answer that comes later says nothing of the next one."""
    found, queries = [], Queries(0.0, 0.0, True, UNKNOWN)
    with Localizer.on(ENGINE, queries, SETTINGS, "pushed", background=background) as localizer:
        for number in (10, 20, 30):
            t_ns = int(ROUTE.scans.t_ns[number])
            found.append(localizer.add_scan(ScanBlock.single(t_ns, ROUTE.scans.clouds[number])))
    if background:
        assert [one.message for one in caplog.records if "background=False" in one.message]
    else:
        assert errors(found, STRAIGHT[[10, 20, 30]]).max() < 3.0


def test_walls_in_sight_are_not_said_to_be_missing_while_a_search_runs() -> None:
    engine = engine_on()
    gate = engine.search.gate = threading.Event()
    with Localizer.on(engine, QUERIES, SETTINGS) as localizer:
        reasons = [localizer.add_scan(scan).reason for scan in feed(localizer, ROUTE)]
        gate.set()
        wait_for_the_search(localizer)
    assert "few_walls" not in reasons
    assert set(reasons) <= {"too_short", "off_map"}


def test_a_second_vehicle_searches_with_all_threads(monkeypatch) -> None:
    used = set()
    plain = type(ENGINE.search).candidates

    def candidates(*arguments):
        used.add(torch.get_num_threads())
        return plain(*arguments)

    monkeypatch.setattr(type(ENGINE.search), "candidates", candidates)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with (
            Localizer.on(ENGINE, QUERIES, SETTINGS, background=False),
            Localizer.on(ENGINE, QUERIES, SETTINGS, background=False) as second,
        ):
            for scan in islice(feed(second, ROUTE), 4):
                second.add_scan(scan)
    finally:
        torch.set_num_threads(before)
    assert used == {2}


# --- Doubt ---------------------------------------------------------------------------------------


def seen_with(probability: float, wall_m2: float = 50.0, off_m: float = 0.0) -> Fixes:
    """What a query found: one candidate, so far from the predicted position."""
    found = Candidates(np.array([[off_m, 0.0, 0.0]]), np.log([probability]))
    return NO_FIXES._replace(candidates=found, wall_m2=wall_m2)


def test_the_newest_scans_contradict_a_position_that_the_whole_submap_still_fits() -> None:
    track, pose = SETTINGS.track, np.zeros(3)
    doubt = Doubt(track, 20.0, area_km2=1.0)
    doubt.compare(seen_with(0.9), seen_with(0.01), pose, 10.0)
    assert not doubt.suspected
    doubt.compare(seen_with(0.9), seen_with(1e-6), pose, 10.0)
    doubt.compare(seen_with(0.9), seen_with(0.5, off_m=30.0), pose, 10.0)
    assert doubt.metres == 20.0
    assert doubt.suspected and doubt.searched
    doubt.compare(seen_with(0.9), seen_with(0.01), pose, 10.0)
    assert doubt.metres == 0.0


def test_scans_that_show_nothing_contradict_nothing_on_a_map_of_any_size() -> None:
    """By chance alone, each position of a large map is improbable."""
    for area_km2 in (0.1, 1.0, 100.0, 900.0):
        doubt = Doubt(SETTINGS.track, 20.0, area_km2)
        by_chance = np.pi * SETTINGS.track.near_m**2 / (area_km2 * 1e6)
        doubt.compare(seen_with(0.9), seen_with(by_chance, 5.0), np.zeros(3), 10.0)
        doubt.compare(seen_with(0.9), NO_FIXES, np.zeros(3), 10.0)
        assert not doubt.suspected


@pytest.mark.parametrize(
    ("submap_m", "every_m", "newest_m"),
    [(50.0, 10.0, 15.0), (50.0, 16.0, 16.0), (50.0, 20.0, 0.0), (20.0, 6.0, 0.0), (0.0, 0.0, 0.0)],
)
def test_only_where_most_of_a_submap_is_older_the_newest_scans_are_compared(
    submap_m: float, every_m: float, newest_m: float
) -> None:
    assert Doubt(SETTINGS.track, 20.0, 1.0).newest_m(every_m, submap_m) == newest_m


# --- Tiles that are missing ----------------------------------------------------------------------


def test_a_drive_without_walls_is_answered_as_in_batch() -> None:
    ground = np.column_stack([np.random.default_rng(0).uniform(-20, 20, (500, 2)), np.zeros(500)])
    bare = replace(ROUTE, scans=ListedScans(ROUTE.scans.t_ns, [ground] * len(STRAIGHT)))
    found = replay(bare, ENGINE, QUERIES, SETTINGS)
    assert not found.trajectory.localized.any()
    assert set(found.trajectory.reason) == {"few_walls"}


def test_headings_that_cover_no_query_are_said_to_be_missing() -> None:
    heading = HeadingTrack(ROUTE.scans.t_ns - 1000 * SECOND, np.zeros(len(STRAIGHT)))
    known = replace(QUERIES, heading=type(UNKNOWN)("known"))
    with pytest.raises(MaptileError, match="its headings cover none of the queries"):
        replay(replace(ROUTE, heading=heading), ENGINE, known, SETTINGS)


def test_a_query_without_points_has_no_tile() -> None:
    clouds = [cloud[:0] if i >= 40 else cloud for i, cloud in enumerate(ROUTE.scans.clouds)]
    blinded = replace(ROUTE, scans=ListedScans(ROUTE.scans.t_ns, clouds))
    found = replay(blinded, ENGINE, replace(QUERIES, submap_m=0.0, every_m=0.0), SETTINGS)
    assert found.blind == 10
    assert max(found.tiles) < 40


# --- GNSS ----------------------------------------------------------------------------------------


def test_samples_wait_for_an_odometry_that_replaces_the_one_before() -> None:
    buffer, first, second = GnssBuffer(ENGINE.raster, SETTINGS.gnss), PoseBuffer(), PoseBuffer()
    away = np.eye(4)
    away[:2, 3] = 1000.0, 500.0
    for t_ns in (1, SECOND):
        first.add(t_ns, np.eye(4))
        second.add(t_ns, away)
    latitude, longitude = ENGINE.raster.projection.inverse(ENGINE.raster.centre)
    buffer.add(SECOND // 2, float(latitude), float(longitude), 2.0)
    assert buffer.placed(first, SECOND, moving=True)
    buffer.forget_motion()
    assert buffer.placed(second, SECOND, moving=True)
    window = buffer.window(second.at(SECOND), SECOND, moving=True)
    np.testing.assert_allclose(window.local, [[0.0, 0.0]], atol=1e-9)


def test_pushed_odometry_replaces_the_scans_own_for_gnss_too() -> None:
    xy = straight(6)
    with Localizer.on(ENGINE, replace(QUERIES, gnss=True), SETTINGS, background=False) as localizer:
        drive = route(xy)
        for number, scan in enumerate(feed_scans(drive)):
            t_ns = int(scan.t_ns[0])
            latitude, longitude = ENGINE.raster.projection.inverse(xy[number])
            localizer.add_gnss(t_ns, float(latitude), float(longitude), 2.0)
            if number >= 3:
                localizer.add_odometry(t_ns, drive.odometry.poses[number] + shifted(700.0))
            localizer.add_scan(scan)
        window = localizer._gnss.window(localizer._poses.at(t_ns), t_ns, moving=True)
    assert np.abs(window.local).max() < 50.0


def feed_scans(drive):
    """The scans of a drive, one by one."""
    for t_ns, cloud in zip(drive.scans.t_ns.tolist(), drive.scans.clouds, strict=True):
        yield ScanBlock.single(t_ns, cloud)


def shifted(east: float) -> np.ndarray:
    """What is added to a pose to move it."""
    moved = np.zeros((4, 4))
    moved[0, 3] = east
    return moved


def test_a_receiver_that_knows_nothing_says_nothing() -> None:
    local = np.column_stack([np.arange(5.0), np.zeros(5)])
    window = GnssWindow(local, local + 100.0, np.full(5, 1e200), np.arange(-4.0, 1.0))
    witness = fit(window, SETTINGS.gnss)
    assert witness is None or np.sqrt(witness.covariance[0, 0]) > 1e4
