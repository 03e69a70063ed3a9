"""Live localization: pushes against batch runs, tracking, and recovery."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from made import ListedScans, blocks_raster, seen_walls
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from test_localize import DRIVE, SETTINGS, START, STEP
from threadpoolctl import threadpool_info

from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock
from data_prep.errors import MaptileError
from data_prep.geometry import se3_from_xyzrpy
from maptile_loc.fuse.filter import Bank
from maptile_loc.fuse.motion import initial_states
from maptile_loc.live.localizer import Localizer
from maptile_loc.live.replay import feed, replay
from maptile_loc.live.shared import shared_search
from maptile_loc.live.watch import OdometryTail, arriving
from maptile_loc.map_search import MapSearch
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.score.map_fields import MapFields, make_fields
from maptile_loc.search.engine.tracked import TrackedSearch
from maptile_loc.search.match import Matcher
from maptile_loc.types import REASONS, Candidates, HeadingKnowledge, Queries

RASTER = blocks_raster(side_m=500.0)
UNKNOWN = HeadingKnowledge("unknown")
HERE = RASTER.centre - [150.0, 47.0]
SECOND = 1_000_000_000


class Watched:
    """A search of the whole map that counts its calls, and may wait for a gate."""

    def __init__(self, search: Matcher) -> None:
        self.search, self.asked = search, 0
        self.gate: threading.Event | None = None
        self.area_km2 = search.area_km2

    def candidates(self, *arguments):
        self.asked += 1
        assert self.gate is None or self.gate.wait(60.0)
        return self.search.candidates(*arguments)


def engine_on(raster=RASTER) -> MapSearch:
    """A map that is ready to be searched."""
    fields = make_fields(raster, SETTINGS.search.resolution, SETTINGS.likelihood)
    matcher = Matcher(fields, SETTINGS.query.size_m, SETTINGS.search)
    near = TrackedSearch(fields, SETTINGS.query.size_m, matcher.area_km2, SETTINGS.search)
    return MapSearch(raster, fields, Watched(matcher), near)


def route(xy: np.ndarray, seed: int = 0) -> Drive:
    """A drive through (N, 2) positions, east and north, whose scans show all walls within reach."""
    turn = along(xy)
    clouds = [
        seen_walls(RASTER, at, heading, np.random.default_rng([seed, i]))
        for i, (at, heading) in enumerate(zip(xy, turn, strict=True))
    ]
    t_ns = 1_700_000_000 * SECOND + np.arange(len(xy)) * SECOND // 2
    poses = np.column_stack([xy - xy[0], np.zeros((len(xy), 3)), turn])
    odometry = PoseTrack(t_ns, se3_from_xyzrpy(poses), np.zeros(len(xy), np.int32))
    heading = HeadingTrack(t_ns, turn - RASTER.convergence)
    return Drive("made", "made", ListedScans(t_ns, clouds), odometry, heading, None)


def along(xy: np.ndarray) -> np.ndarray:
    """(N,) course of a path through (N, 2) positions, radians."""
    east, north = np.gradient(np.asarray(xy), axis=0).T
    return np.arctan2(north, east)


def straight(count: int, step_m: float = 4.0, begin=HERE) -> np.ndarray:
    """(count, 2) positions to the east."""
    return np.asarray(begin) + np.outer(np.arange(count), [step_m, 0.0])


def fixes(drive: Drive, engine=None, submap_m=12.0, every_m=8.0, heading=UNKNOWN, **more):
    """The fixes of all scans of a drive, pushed one by one; None before the first."""
    queries = Queries(submap_m, every_m, True, heading)
    more = {"background": False} | more
    with Localizer.on(engine or ENGINE, queries, SETTINGS, **more) as localizer:
        return [localizer.add_scan(scan) for scan in feed(localizer, drive)]


def errors(found, xy: np.ndarray) -> np.ndarray:
    """(N,) distances of fixes from (N, 2) positions, metres; NaN without a fix."""
    return np.array(
        [
            np.nan if fix is None else np.hypot(*(fix.pose[:2] - at))
            for fix, at in zip(found, xy, strict=True)
        ]
    )


def sure(found) -> np.ndarray:
    """(N,) whether the fixes are localized."""
    return np.array([fix is not None and fix.localized for fix in found])


def wait_for_the_search(localizer: Localizer) -> None:
    """Until the search that runs beside has found something, if one runs."""
    job = localizer._tracker.background.job
    if job is not None:
        job.found.result(60.0)


ENGINE = engine_on()
STRAIGHT = straight(50)
ROUTE = route(STRAIGHT)


# --- batch is live -------------------------------------------------------------------------------


@pytest.mark.parametrize("heading", ["known", "unknown", "prior:8"])
def test_pushing_scan_by_scan_is_the_batch_to_the_last_bit(heading: str) -> None:
    known = HeadingKnowledge.parse(heading)
    batch = replay(ROUTE, ENGINE, Queries(12.0, 8.0, True, known), SETTINGS)
    found = fixes(ROUTE, heading=known)
    asked = [i for i, fix in enumerate(found) if fix is not None and fix.is_query]
    np.testing.assert_array_equal(batch.frame, asked)
    fused = batch.stages["fused"]
    np.testing.assert_array_equal(fused.poses, [found[i].pose for i in asked])
    np.testing.assert_array_equal(fused.covariance, [found[i].covariance for i in asked])
    np.testing.assert_array_equal(fused.score, [found[i].score for i in asked])
    assert fused.reason.tolist() == [found[i].reason for i in asked]
    assert list(batch.stages) == ["coarse", "aligned", "fused"]
    assert batch.final == "fused"
    assert batch.dense.frame.tolist() == list(range(len(found)))
    np.testing.assert_array_equal(batch.dense.t_ns, [fix.t_ns for fix in found])
    np.testing.assert_array_equal(batch.dense.poses, [fix.pose for fix in found])
    for name in ("covariance", "score", "localized", "protection_m", "reason"):
        column = [getattr(fix, name) for fix in found]
        np.testing.assert_array_equal(getattr(batch.dense, name), column)
    assert np.flatnonzero(batch.dense.query >= 0).tolist() == asked
    assert batch.dense.query[asked].tolist() == list(range(len(asked)))


def test_what_comes_later_changes_nothing() -> None:
    found = fixes(ROUTE)
    short = replace(ROUTE, scans=ListedScans(ROUTE.scans.t_ns[:30], ROUTE.scans.clouds[:30]))
    cut = ROUTE.odometry
    short = replace(short, odometry=PoseTrack(cut.t_ns[:30], cut.poses[:30], cut.segment[:30]))
    for fix, other in zip(fixes(short), found[:30], strict=True):
        np.testing.assert_array_equal(fix.pose, other.pose)


def test_a_fix_for_every_scan() -> None:
    found = fixes(ROUTE)
    assert found[0] is not None and found[0].is_query
    assert [fix.t_ns for fix in found] == ROUTE.scans.t_ns.tolist()
    assert {fix.is_query for fix in found} == {True, False}
    assert all(fix.reason in REASONS or fix.localized for fix in found)
    first = int(sure(found).argmax())
    assert first < 20
    assert sure(found)[first:].all()
    assert errors(found, STRAIGHT)[first:].max() < 2.0
    latitude, longitude = RASTER.projection.inverse(found[-1].pose[:2])
    assert (found[-1].latitude, found[-1].longitude) == (latitude, longitude)


def test_without_odometry_the_motion_is_found_from_the_scans() -> None:
    found = fixes(replace(ROUTE, odometry=None))
    late = slice(35, None)
    assert sure(found)[late].all()
    assert errors(found, STRAIGHT)[late].max() < 2.5


def test_lidar_odometry_ignores_what_is_pushed() -> None:
    own = fixes(replace(ROUTE, odometry=None))
    wild = replace(ROUTE.odometry, poses=ROUTE.odometry.poses[::-1])
    pushed = fixes(replace(ROUTE, odometry=wild), odometry="lidar")
    np.testing.assert_array_equal([fix.pose for fix in own], [fix.pose for fix in pushed])


# --- tracking ------------------------------------------------------------------------------------


def test_a_sure_vehicle_is_searched_near_its_prediction_only() -> None:
    engine = engine_on()
    found = fixes(ROUTE, engine)
    queries = sum(fix.is_query for fix in found)
    assert engine.search.asked <= 0.4 * queries
    whole = replay(
        ROUTE,
        engine_on(),
        Queries(12.0, 8.0, True, UNKNOWN),
        SETTINGS.model_copy(update={"track": SETTINGS.track.model_copy(update={"enabled": False})}),
    )
    assert not whole.tracked.any()
    assert whole.stages["fused"].localized.argmax() * 2 == sure(found).argmax()


def test_the_whole_map_is_searched_every_so_often() -> None:
    track = SETTINGS.track.model_copy(update={"again_m": 40.0})
    settings = SETTINGS.model_copy(update={"track": track})
    batch = replay(ROUTE, ENGINE, Queries(12.0, 8.0, True, UNKNOWN), settings)
    whole = np.flatnonzero(~batch.tracked)
    gaps = np.diff(whole[whole >= 2]) * 8.0
    assert (gaps <= 48.0).all() and len(gaps) >= 2
    assert batch.stages["fused"].localized[8:].all()


# --- recovery ------------------------------------------------------------------------------------


def kidnapped(first: np.ndarray, then: np.ndarray) -> Drive:
    """A drive through two stretches; its odometry goes on as if the second followed the first."""
    drive = route(np.concatenate([first, then]))
    poses = drive.odometry.poses.copy()
    jump = first[-1] + (first[-1] - first[-2]) - then[0]
    poses[len(first) :, :2, 3] += jump
    return replace(drive, odometry=replace(drive.odometry, poses=poses))


def test_a_kidnapped_vehicle_is_found_again() -> None:
    first, then = straight(30), straight(40, begin=HERE + [60.0, 120.0])
    found = fixes(kidnapped(first, then))
    wrong = errors(found, np.concatenate([first, then])) > 10
    after = np.flatnonzero(sure(found) & ~wrong)
    after = after[after >= 30]
    assert len(after), "never found again"
    assert (after[0] - 30) * 4.0 <= 100.0
    assert (sure(found) & wrong).sum() <= 6  # the odometry says that nothing has happened
    assert sure(found)[-5:].all() and not wrong[-5:].any()


def after_a_wrong_fix(settings: LocalizeSettings, background: bool) -> NDArray[np.bool_]:
    """(S,) which fixes are right and sure, of a vehicle that is misled at scan 25.

    The submap is long, and all of it contradicts the position: none of it is from before.
    """
    queries, found = Queries(60.0, 8.0, True, UNKNOWN), []
    with Localizer.on(ENGINE, queries, settings, background=background) as one:
        for number, scan in enumerate(feed(one, ROUTE)):
            if number == 25:
                wrong = np.array([[*(STRAIGHT[25] + [30.0, 50.0]), 0.0]])
                spread = np.diag([1.0, 1.0, 1e-3, *[1.0] * 5])[None]
                certain = np.log([0.999]), float(np.log(0.001))
                tracker = one._tracker
                tracker._filter.bank = Bank(initial_states(wrong), spread, *certain)
                tracker._hold(tracker._at, 0.0)
            found.append(one.add_scan(scan))
            wait_for_the_search(one)
    return sure(found) & (errors(found, STRAIGHT) < 2.0)


@pytest.mark.parametrize("background", [False, True])
def test_a_wrong_fix_is_given_up(background: bool) -> None:
    right = after_a_wrong_fix(SETTINGS, background)
    assert right[20:25].all()
    assert not right[25]
    assert right[25 + 60 // 4 :].all(), "not found again within 60 m"


def test_a_wrong_fix_is_given_up_even_if_no_query_finds_another_position_by_itself() -> None:
    unsure = {"elsewhere": 1.0, "elsewhere_in_doubt": 1.0}
    settings = SETTINGS.model_copy(update={"track": SETTINGS.track.model_copy(update=unsure)})
    right = after_a_wrong_fix(settings, background=False)
    assert right[20:25].all() and not right[25:32].any()
    assert right[25 + 80 // 4 :].all(), "not found again within 80 m"


def test_after_a_gap_in_the_odometry_the_vehicle_is_found_again(caplog) -> None:
    late = replace(ROUTE.odometry, t_ns=ROUTE.odometry.t_ns.copy())
    t_ns = ROUTE.scans.t_ns.copy()
    t_ns[25:] += 60 * SECOND
    late.t_ns[25:] += 60 * SECOND
    poses = late.poses.copy()
    poses[25:, :2, 3] += [1e3, -1e3]  # a new frame
    drive = replace(
        ROUTE, scans=ListedScans(t_ns, ROUTE.scans.clouds), odometry=replace(late, poses=poses)
    )
    with caplog.at_level("INFO", "maptile_loc"):
        found = fixes(drive)
    assert not found[25].localized
    assert sure(found)[40:].all()
    assert errors(found, STRAIGHT)[sure(found)].max() < 2.0
    assert "the odometry has a gap" in caplog.text
    assert "localized after" in caplog.text


def with_a_gap(seconds: int, blind: bool = False) -> Drive:
    """The route with an odometry that is lost for some seconds before scan 25, and goes on anew."""
    t_ns = ROUTE.scans.t_ns.copy()
    t_ns[25:] += seconds * SECOND
    segment = np.repeat([0, 1], 25).astype(np.int32)
    track = PoseTrack(t_ns, ROUTE.odometry.poses, segment)
    clouds = [c[:0] if blind and i >= 25 else c for i, c in enumerate(ROUTE.scans.clouds)]
    return replace(ROUTE, scans=ListedScans(t_ns, clouds), odometry=track, heading=None)


def test_in_a_gap_a_vehicle_gets_no_farther_than_a_vehicle_can() -> None:
    drive = with_a_gap(5, blind=True)
    found, fuse = fixes(drive), SETTINGS.fuse
    seconds = (drive.scans.t_ns[25] - drive.scans.t_ns[24]) / SECOND
    std = np.sqrt(np.diag(found[25].covariance))
    np.testing.assert_allclose(std[:2], fuse.gap_m_per_s * seconds, rtol=0.01)
    assert np.hypot(*(found[25].pose[:2] - STRAIGHT[24])) < 1.0
    assert not sure(found)[25:].any() and found[25].reason != "straight_street"


def test_after_a_longer_gap_a_vehicle_may_be_anywhere() -> None:
    found = fixes(with_a_gap(60, blind=True))
    assert np.isnan(found[25].pose).all() and found[25].score == 0


def test_after_a_gap_the_vehicle_is_sought_where_it_was(monkeypatch) -> None:
    """Two positions look alike; the vehicle can have come to one of them only."""
    real = Watched.candidates

    def twice(self, *arguments):
        found = real(self, *arguments)
        far = found.poses + [0.0, 180.0, 0.0]
        scores = np.concatenate([found.log_scores, found.log_scores]) - np.log(2)
        return Candidates(np.concatenate([found.poses, far]), scores)

    def after(seconds: int) -> float:
        """The probability of the right position in the first query after a gap."""
        queries, drive = Queries(12.0, 8.0, True, UNKNOWN), with_a_gap(seconds)
        with Localizer.on(ENGINE, queries, SETTINGS, background=False) as localizer:
            for scan in islice(feed(localizer, drive), 26):
                with monkeypatch.context() as changed:
                    if int(scan.t_ns[0]) == drive.scans.t_ns[25]:
                        changed.setattr(Watched, "candidates", twice)
                    fix = localizer.add_scan(scan)
        return fix.score if np.hypot(*(fix.pose[:2] - STRAIGHT[25])) < 5 else 0.0

    assert after(2) > 0.9 and after(60) < 0.6


def test_where_the_odometry_is_missing_nothing_is_claimed() -> None:
    odometry = ROUTE.odometry
    kept = np.r_[0:20, 40:50]
    holed = PoseTrack(odometry.t_ns[kept], odometry.poses[kept], odometry.segment[kept])
    found = fixes(replace(ROUTE, odometry=holed))
    assert {fix.reason for fix in found[23:40]} == {"no_odometry"}
    assert all(np.isnan(fix.latitude) for fix in found[23:40])


def test_a_blinded_sensor_is_bridged_by_odometry() -> None:
    clouds = [c[:0] if 20 <= i < 30 else c for i, c in enumerate(ROUTE.scans.clouds)]
    found = fixes(replace(ROUTE, scans=ListedScans(ROUTE.scans.t_ns, clouds)), submap_m=0.0)
    assert errors(found, STRAIGHT)[15:].max() < 3.0
    assert sure(found)[32:].all()
    std = [np.sqrt(np.linalg.eigvalsh(fix.covariance[:2, :2])[-1]) for fix in found]
    assert std[29] > 1.5 * std[19]


def test_off_the_map_nothing_is_localized_and_back_on_it_everything() -> None:
    """The map ends in the middle of the drive's way out and back."""
    out = straight(50)
    xy = np.concatenate([out, out[::-1]])
    size = round((out[30, 0] - RASTER.west) / RASTER.resolution)
    cut = type(RASTER)(
        np.ascontiguousarray(RASTER.data[:, :, :size]), RASTER.west, RASTER.north, 0.5, RASTER.crs
    )
    found = fixes(route(xy), engine_on(cut))
    outside = xy[:, 0] > cut.west + cut.width * cut.resolution + 1
    assert not sure(found)[outside].any()
    assert {found[i].reason for i in np.flatnonzero(outside)[3:-3]} <= {"off_map", "few_walls"}
    assert sure(found)[10:20].all() and sure(found)[-18:].all()
    assert errors(found, xy)[sure(found)].max() < 5.0


@pytest.mark.parametrize(("doubtful_m", "metres"), [(20.0, 15.0), (0.0, 100.0)])
def test_off_the_map_a_vehicle_in_doubt_is_searched_sooner(doubtful_m, metres) -> None:
    """A wrong position may lead off the map."""
    with Localizer.on(ENGINE, Queries(), SETTINGS, background=False) as one:
        tracker = one._tracker
        tracker._searched_m, tracker._doubt.metres = 0.0, doubtful_m
        asked = [
            tracker._whole_map(False, True, Motion(np.eye(4), at, 0))
            for at in (metres - 1.0, metres + 1.0)
        ]
    assert asked == [False, True]


# --- in the background ---------------------------------------------------------------------------


def test_a_push_does_not_wait_for_what_all_parts_of_the_map_need(monkeypatch) -> None:
    fields = MapFields(RASTER, SETTINGS.search.resolution, SETTINGS.likelihood)
    near = TrackedSearch(fields, SETTINGS.query.size_m, 0.2, SETTINGS.search)
    engine = MapSearch(RASTER, fields, ENGINE.search, near)
    made: list[object] = []
    plain = MapFields._means
    monkeypatch.setattr(MapFields, "_means", lambda *given: made.append(1) or plain(*given))
    with Localizer.on(engine, Queries(12.0, 8.0, True, UNKNOWN), SETTINGS) as localizer:
        assert made == [1]
        for scan in islice(feed(localizer, ROUTE), 3):
            localizer.add_scan(scan)
        wait_for_the_search(localizer)
    assert made == [1]


def test_a_push_never_waits_for_the_search_of_the_whole_map() -> None:
    """The first search ends only after all pushes but the last ones."""
    engine = engine_on()
    gate = engine.search.gate = threading.Event()
    queries, found = Queries(12.0, 8.0, True, UNKNOWN), []
    with Localizer.on(engine, queries, SETTINGS, background=True) as localizer:
        for number, scan in enumerate(feed(localizer, ROUTE)):
            if number == 35:
                assert not any(fix.localized for fix in found)
                assert engine.search.asked == 1
                gate.set()
                wait_for(lambda: localizer._tracker.background.job.found.done())
            elif number > 35 and localizer._tracker.searching:
                wait_for(lambda: localizer._tracker.background.job.found.done())
            found.append(localizer.add_scan(scan))
    assert sure(found)[-5:].all()
    assert errors(found, STRAIGHT)[sure(found)].max() < 3.0


def test_an_answer_from_before_a_gap_is_dropped() -> None:
    """The search that began before the gap ends after it."""
    engine = engine_on()
    gate = engine.search.gate = threading.Event()
    elsewhere = straight(50, begin=HERE + [60.0, 120.0])
    other = route(elsewhere, seed=1)
    begin = int(ROUTE.scans.t_ns[-1]) + 100 * SECOND
    with Localizer.on(engine, Queries(0.0, 0.0, True, UNKNOWN), SETTINGS) as localizer:
        for scan in list(feed(localizer, ROUTE))[:1]:
            localizer.add_scan(scan)
        for i in range(8):
            t_ns = begin + i * SECOND // 2
            localizer.add_odometry(t_ns, other.odometry.poses[i])
            fix = localizer.add_scan(ScanBlock.single(t_ns, other.scans.clouds[i]))
            gate.set()
            if localizer._tracker.searching:
                wait_for(lambda: localizer._tracker.background.job.found.done())
    assert np.hypot(*(fix.pose[:2] - elsewhere[7])) < 3.0


def test_computations_have_one_thread_until_the_last_vehicle_is_closed() -> None:
    def threads() -> set[int]:
        return {torch.get_num_threads(), *(one["num_threads"] for one in threadpool_info())}

    queries, before = Queries(12.0, 8.0, True, UNKNOWN), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = Localizer.on(ENGINE, queries, SETTINGS)
        with Localizer.on(ENGINE, queries, SETTINGS):
            first.close()
            assert threads() == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_search_of_the_whole_map_that_a_push_waits_for_has_all_threads(monkeypatch) -> None:
    used: dict[str, set[int]] = {"whole map": set(), "near": set()}

    def recorded(kind: str, plain):
        def candidates(*args):
            used[kind].add(torch.get_num_threads())
            return plain(*args)

        return candidates

    for kind, searcher in (("whole map", ENGINE.search), ("near", ENGINE.tracked)):
        plain = type(searcher).candidates
        monkeypatch.setattr(type(searcher), "candidates", recorded(kind, plain))
    queries, before = Queries(12.0, 8.0, True, UNKNOWN), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Localizer.on(ENGINE, queries, SETTINGS, background=False) as localizer:
            for scan in feed(localizer, ROUTE):
                localizer.add_scan(scan)
                assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == {"whole map": {2}, "near": {1}}


@pytest.mark.parametrize("most", [1, 1000])
def test_scans_between_queries_are_predicted_together_as_one_after_the_other(
    most, monkeypatch
) -> None:
    """Also where the odometry has a gap, the vehicle stands, or it leaves the map."""
    monkeypatch.setattr("maptile_loc.live.replay.PREDICTED_AT_ONCE", most)
    queries = Queries(12.0, 8.0, True, UNKNOWN)
    late = ROUTE.odometry.t_ns.copy()
    late[30:] += 3 * SECOND
    drive = replace(
        ROUTE,
        odometry=replace(ROUTE.odometry, t_ns=late),
        scans=ListedScans(late, ROUTE.scans.clouds),
    )
    for one in (drive, route(np.repeat(straight(20), 2, axis=0)), route(straight(80))):
        dense = replay(one, ENGINE, queries, SETTINGS).dense
        with Localizer.on(ENGINE, queries, SETTINGS, background=False) as localizer:
            pushed = [localizer.add_scan(scan) for scan in feed(localizer, one)]
        assert any(fix is not None and not fix.is_query for fix in pushed)
        for number, fix in enumerate(pushed):
            if fix is None:
                assert np.isnan(dense.poses[number]).all()
                continue
            for name in ("covariance", "score", "localized", "protection_m", "reason"):
                assert np.array_equal(
                    getattr(dense, name)[number],
                    getattr(fix, name),
                    equal_nan=name == "covariance",
                )
            assert np.array_equal(dense.poses[number], fix.pose, equal_nan=True)
            assert (dense.query[number] >= 0) == fix.is_query


def wait_for(done) -> None:
    """Wait for a search that runs beside."""
    for _ in range(600):
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("the search does not end")


def test_eight_vehicles_share_one_map(town_city, town_drive) -> None:
    import maptile_loc as ml

    city, drive = ml.open_city(town_city), ml.open_drive(town_drive).between(0, 8)
    localizers = [ml.Localizer(city, background=False, every_m=30.0) for _ in range(8)]
    engines = {id(localizer._engine) for localizer in localizers}
    assert len(engines) == 1

    def run(localizer):
        return [localizer.add_scan(scan) for scan in feed(localizer, drive)]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(run, localizers))
    alone = run(ml.Localizer(city, background=False, every_m=30.0))
    for found in together:
        np.testing.assert_array_equal([fix.pose for fix in found], [fix.pose for fix in alone])
    other = shared_search(city, load_recipe(overrides=["search.candidates=4"]))
    assert id(other) not in engines


# --- bad input -----------------------------------------------------------------------------------


def test_bad_pushes_are_refused_and_change_nothing() -> None:
    localizer = Localizer.on(ENGINE, Queries(0.0, 0.0, True, UNKNOWN), SETTINGS, background=False)
    t_ns = int(ROUTE.scans.t_ns[5])
    scan = ScanBlock.single(t_ns, ROUTE.scans.clouds[5])
    localizer.add_odometry(t_ns, np.eye(4))
    localizer.add_scan(scan)
    with pytest.raises(MaptileError, match="older than the scan before"):
        localizer.add_scan(ScanBlock.single(t_ns - 1, ROUTE.scans.clouds[4]))
    with pytest.raises(MaptileError, match="2 scans at once"):
        localizer.add_scan(ROUTE.scans.read(5, 7))
    with pytest.raises(MaptileError, match="not after the pose before"):
        localizer.add_odometry(t_ns, np.eye(4))
    with pytest.raises(MaptileError, match="heading at"):
        localizer.add_heading(t_ns, np.nan)
    with pytest.raises(MaptileError, match="there are auto, lidar and pushed"):
        Localizer.on(ENGINE, Queries(), SETTINGS, odometry="wheels")
    localizer.add_odometry(t_ns + 1, np.eye(4))
    assert localizer.add_scan(ScanBlock.single(t_ns + 1, ROUTE.scans.clouds[5])) is not None


def test_line_scans_without_odometry_are_refused() -> None:
    localizer = Localizer.on(ENGINE, Queries(50.0, 20.0, True, UNKNOWN), SETTINGS)
    line = np.column_stack([np.zeros(300), np.linspace(-20, 20, 300), np.full(300, 1.0)])
    with pytest.raises(MaptileError, match="each lies in a plane"):
        for i in range(300):
            localizer.add_scan(ScanBlock.single(i * SECOND // 50, line))


def test_a_known_heading_has_to_be_pushed() -> None:
    silent = replace(ROUTE, heading=None)
    assert all(not fix.localized for fix in fixes(silent, heading=HeadingKnowledge()))
    with pytest.raises(MaptileError, match="no headings in it"):
        replay(silent, ENGINE, Queries(12.0, 8.0, True), SETTINGS)


def test_the_drive_of_the_batch_tests_is_found_too() -> None:
    """The shorter drive, with the heading known, on its own map."""
    raster = blocks_raster(side_m=280.0)
    found = fixes(DRIVE, engine_on(raster), 16.0, 12.0, HeadingKnowledge())
    xy = START + np.column_stack([np.arange(25) * STEP, np.zeros(25)])
    assert errors(found, xy)[8:].max() < 2.0


# --- real drives ---------------------------------------------------------------------------------


def pushed_and_batch(city, drive, **options):
    """The fused poses of a batch run, and the fixes of pushes at its queries."""
    import maptile_loc as ml

    batch = ml.localize(city, drive, online=True, gnss=drive.gnss is not None, **options)
    fixes = []
    with ml.Localizer(city, background=False, **options) as localizer:
        for scan in feed(localizer, drive):
            fixes.append(localizer.add_scan(scan))
    asked = [fix for fix in fixes if fix is not None and fix.is_query]
    assert [fix.t_ns for fix in asked] == batch.t_ns.tolist()
    fused = batch.stages["fused"]
    np.testing.assert_array_equal(fused.poses, [fix.pose for fix in asked])
    np.testing.assert_array_equal(fused.covariance, [fix.covariance for fix in asked])
    np.testing.assert_array_equal(fused.score, [fix.score for fix in asked])
    return batch, asked


@pytest.mark.realdata
def test_kitti_pushed_is_kitti_in_batch(data_dir, tmp_path) -> None:
    import maptile_loc as ml

    day = data_dir / "kitti_raw" / "2011_09_26"
    city = ml.prepare_city(day / "2011_09_26_drive_0005.osm", tmp_path / "city")
    drive = ml.open_drive(data_dir / "kitti_raw")
    batch, _ = pushed_and_batch(city, drive, heading="unknown", submap_m=0.0, every_m=2.0)
    assert batch.stages["fused"].localized[10:].all()
    metrics = batch.evaluate(drive.truth)
    assert metrics["stages"]["fused"]["recall_5m"] == 1.0
    assert metrics["stages"]["aligned"]["tracked"] > 0.5


@pytest.mark.realdata
def test_real_line_scans_pushed_are_the_same_in_batch(data_dir, tmp_path) -> None:
    """They were taken some 75 m south of the map: nowhere is a position claimed."""
    import maptile_loc as ml

    city = ml.prepare_city(data_dir / "oxford" / "oxford.osm", tmp_path / "city")
    drive = ml.open_drive(data_dir / "robotcar_lms")
    batch, asked = pushed_and_batch(city, drive, heading="unknown", submap_m=30.0, every_m=15.0)
    assert len(asked) >= 5
    assert not batch.stages["fused"].localized.any()


def test_a_drive_with_gaps_pushed_is_the_same_in_batch(town_city, town_drive) -> None:
    """Line scans, and an odometry with two gaps: of 6 s, and a restart without one."""
    import maptile_loc as ml

    drive = ml.open_drive(town_drive).between(0, 30)
    track = drive.odometry
    seconds = (track.t_ns - track.t_ns[0]) / 1e9
    kept = (seconds < 10) | (seconds > 16)
    segment = (seconds > 16).astype(np.int32) + (seconds > 22)
    holed = PoseTrack(track.t_ns[kept], track.poses[kept], segment[kept].astype(np.int32))
    drive = replace(drive, odometry=holed)
    batch, asked = pushed_and_batch(ml.open_city(town_city), drive, heading="known", every_m=15.0)
    assert len(asked) >= 6
    starts = np.searchsorted(batch.t_ns, drive.scans.t_ns[0] + np.array([16, 22]) * SECOND)
    assert (batch.stages["fused"].score[starts] <= 1.0).all()


# --- a recorder's folder -------------------------------------------------------------------------


def write_cloud(folder, t_ns: int, points: np.ndarray) -> None:
    """A cloud as a recorder writes it: complete at once."""
    header = (
        "ply\nformat binary_little_endian 1.0\n"
        f"element vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n"
    )
    path = folder / f"{t_ns}.part"
    path.write_bytes(header.encode() + points.astype("<f4").tobytes())
    path.rename(folder / f"{t_ns}.ply")


def record(folder, drive: Drive, pause_s: float) -> None:
    """Write a drive scan by scan, with its odometry."""
    (folder / "clouds").mkdir()
    for t_ns, cloud, pose in zip(
        drive.scans.t_ns.tolist(), drive.scans.clouds, drive.odometry.poses, strict=True
    ):
        x, y, z, *quaternion = *pose[:3, 3], *Rotation.from_matrix(pose[:3, :3]).as_quat()
        with (folder / "odometry.tum").open("a") as file:
            numbers = " ".join(f"{value:.9f}" for value in (x, y, z, *quaternion))
            file.write(f"{t_ns // SECOND}.{t_ns % SECOND:09d} {numbers}\n")
        write_cloud(folder / "clouds", t_ns, cloud)
        time.sleep(pause_s)


def test_a_growing_folder_is_localized_while_it_grows(tmp_path) -> None:
    from click.testing import CliRunner

    from maptile_loc.cli import app

    folder = tmp_path / "recording"
    folder.mkdir()
    RASTER.write(tmp_path / "map.tif")
    words = ["live", tmp_path / "map.tif", folder, "--out", tmp_path / "fixes.csv", "--idle", "4"]
    words += ["--submap", "12", "--every", "8", "--set", "query.size_m=96"]
    recorder = threading.Thread(target=record, args=(folder, ROUTE, 0.1))
    recorder.start()
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    recorder.join()
    assert done.exit_code == 0, done.output
    header, *rows = (tmp_path / "fixes.csv").read_text().splitlines()
    rows = [dict(zip(header.split(","), row.split(","), strict=True)) for row in rows]
    assert [int(row["t_ns"]) for row in rows] == ROUTE.scans.t_ns.tolist()
    last = rows[-1]
    assert last["localized"] == "True"
    at = np.array([float(last["east"]), float(last["north"])])
    assert np.hypot(*(at - STRAIGHT[-1])) < 3.0
    assert "scans localized" in done.output
    again = CliRunner().invoke(app, [str(word) for word in words])
    assert "exists already" in str(again.exception)


def test_a_cloud_that_is_cut_short_is_left_out(tmp_path, caplog) -> None:
    (tmp_path / "clouds").mkdir()
    write_cloud(tmp_path / "clouds", SECOND, np.ones((5, 3)))
    (tmp_path / "clouds" / f"{2 * SECOND}.ply").write_bytes(b"ply\nformat bi")
    write_cloud(tmp_path / "clouds", 3 * SECOND, np.ones((7, 3)))
    found = [(int(scan.t_ns[0]), len(scan.points)) for scan in arriving(tmp_path, 0.5)]
    assert found == [(SECOND, 5), (3 * SECOND, 7)]
    assert "left out" in caplog.text and "2000000000.ply" in caplog.text


def test_names_and_lines_of_a_recording_are_checked(tmp_path) -> None:
    with pytest.raises(MaptileError, match="no such folder"):
        next(arriving(tmp_path / "nothing"))
    (tmp_path / "clouds").mkdir()
    (tmp_path / "clouds" / "first.ply").write_bytes(b"")
    with pytest.raises(MaptileError, match="name each cloud by its time"):
        next(arriving(tmp_path))
    tail = OdometryTail(tmp_path / "odometry.tum")
    assert list(tail.new()) == []
    (tmp_path / "odometry.tum").write_text("1.5 1 2 3 0 0 0 1\n# segment\n2.5 1 2 3 0 0 0 1\n3.0 1")
    poses = list(tail.new())
    assert [(t_ns, restart) for t_ns, _, restart in poses] == [
        (1_500_000_000, False),
        (2_500_000_000, True),
    ]
    with (tmp_path / "odometry.tum").open("a") as file:
        file.write(" 2 3 0 0 0 1\n4 5\n")
    with pytest.raises(MaptileError, match="line 5: expected eight numbers"):
        list(tail.new())
