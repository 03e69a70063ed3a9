from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made import blocks_raster, localized, seen_walls, straight_drive

from data_prep.drive import TruthTrack
from data_prep.errors import MaptileError
from maptile_loc.map_search import heading_turns
from maptile_loc.perceive.query_tile import QuerySettings
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.types import STAGES, HeadingKnowledge, Queries

RASTER = blocks_raster(side_m=280.0)
SETTINGS = LocalizeSettings(query=QuerySettings(size_m=96.0))
KNOWN = HeadingKnowledge()
START = RASTER.centre - [50.0, 7.0]
STEP = 4.0


def made_drive(count=25):
    """A drive to the east through the blocks, whose scans show all walls within reach."""
    clouds = [
        seen_walls(RASTER, START + [i * STEP, 0.0], 0.0, np.random.default_rng(i))
        for i in range(count)
    ]
    drive = straight_drive(clouds, STEP, true_heading=-RASTER.convergence)
    latitude, longitude = RASTER.projection.inverse(
        START + np.column_stack([np.arange(count) * STEP, np.zeros(count)])
    )
    t_ns = drive.scans.t_ns
    return replace(drive, truth=TruthTrack(t_ns, latitude, longitude, np.zeros(count)))


DRIVE = made_drive()


def run(
    drive=DRIVE, raster=RASTER, heading=KNOWN, submap_m=16.0, every_m=12.0, online=False, seed=0
):
    queries = Queries(submap_m, every_m, online, heading, seed)
    return localized(drive, raster, queries, SETTINGS)


def error(result, stage):
    true = START + np.column_stack([result.frame * STEP, np.zeros(len(result.frame))])
    return np.hypot(*(result.stages[stage].poses[:, :2] - true).T)


@pytest.fixture(scope="module")
def result():
    return run()


def test_every_stage_finds_the_drive(result):
    assert list(result.stages) == list(STAGES)
    assert len(result.frame) == 9
    for stage in ("coarse", "aligned", "smoothed"):
        assert error(result, stage).max() < 1.5
    assert result.stages["smoothed"].localized.all()
    assert result.final == "smoothed"
    assert result.search_area_km2 == pytest.approx(0.23**2, rel=0.02)


@pytest.mark.xfail(reason="0.65 m since walls are found by a network; the likelihood is older")
def test_alignment_is_good_to_less_than_a_cell(result):
    assert np.median(error(result, "aligned")) < 0.4


def assert_same(a, b):
    for stage in STAGES:
        np.testing.assert_array_equal(a.stages[stage].poses, b.stages[stage].poses)
        np.testing.assert_array_equal(a.stages[stage].score, b.stages[stage].score)
        np.testing.assert_array_equal(a.stages[stage].covariance, b.stages[stage].covariance)


def test_moving_or_dropping_the_truth_changes_no_bit(result):
    truth = DRIVE.truth
    moved = replace(truth, latitude=truth.latitude + 1.0, heading=truth.heading + 1.0)
    assert_same(result, run(replace(DRIVE, truth=moved)))
    assert_same(result, run(replace(DRIVE, truth=None)))


def test_an_unknown_heading_is_never_read():
    unknown = HeadingKnowledge(kind="unknown")
    heading = DRIVE.heading
    turned = replace(DRIVE, heading=replace(heading, heading=heading.heading + 2.0))
    a = run(heading=unknown, every_m=60.0)
    assert_same(a, run(turned, heading=unknown, every_m=60.0))
    assert_same(a, run(replace(DRIVE, heading=None), heading=unknown, every_m=60.0))
    assert error(a, "aligned").max() < 1.5


def test_shifting_odometry_or_time_changes_nothing(result):
    odometry = DRIVE.odometry
    poses = odometry.poses.copy()
    poses[:, 0, 3] += 64.0
    elsewhere = replace(DRIVE, odometry=replace(odometry, poses=poses))
    found = run(elsewhere).stages["smoothed"].poses
    np.testing.assert_allclose(found, result.stages["smoothed"].poses, atol=1e-3)


def test_shifting_the_map_shifts_the_result(result):
    moved = type(RASTER)(RASTER.data, RASTER.west + 512, RASTER.north, 0.5, RASTER.crs)
    heading = replace(DRIVE.heading, heading=DRIVE.heading.heading * 0 - moved.convergence)
    found = run(replace(DRIVE, heading=heading), moved)
    shift = found.stages["smoothed"].poses - result.stages["smoothed"].poses
    np.testing.assert_allclose(shift, [[512.0, 0, 0]] * len(shift), atol=1e-3)


def test_the_same_seed_gives_the_same_arrays():
    unknown = HeadingKnowledge(kind="unknown")
    assert_same(run(heading=unknown, every_m=60.0), run(heading=unknown, every_m=60.0))


def test_online_uses_no_later_scan():
    online = run(online=True)
    assert online.final == "fused"
    shortened = replace(
        DRIVE, scans=type(DRIVE.scans)(DRIVE.scans.t_ns[:16], DRIVE.scans.clouds[:16])
    )
    short = run(shortened, online=True)
    count = len(short.frame)
    np.testing.assert_array_equal(short.stages["fused"].poses, online.stages["fused"].poses[:count])


def test_off_the_map_nothing_is_localized():
    result = run(raster=blocks_raster(seed=11, side_m=280.0))
    assert result.stages["smoothed"].localized.sum() == 0
    assert result.stages["fused"].localized.sum() == 0


def test_a_prior_on_the_heading_is_a_distribution():
    turns, log_prior = heading_turns(HeadingKnowledge(kind="prior", std_deg=10.0), SETTINGS)
    assert np.exp(log_prior).sum() == pytest.approx(1)
    assert 30 <= np.degrees(turns.max()) < 30 + SETTINGS.search.heading_step_deg
    np.testing.assert_allclose(turns, -turns[::-1])
    assert np.sqrt((np.exp(log_prior) * turns**2).sum()) == pytest.approx(np.radians(10), rel=0.05)


def test_a_known_heading_that_is_missing_is_an_error():
    with pytest.raises(MaptileError, match="no headings"):
        run(replace(DRIVE, heading=None))


def test_scans_without_walls_do_not_spoil_the_rest(result):
    clouds = [c if i not in (0, 11, 12, 13) else c[:0] for i, c in enumerate(DRIVE.scans.clouds)]
    drive = replace(DRIVE, scans=type(DRIVE.scans)(DRIVE.scans.t_ns, clouds))
    found = run(drive, submap_m=0.0)
    assert np.isnan(found.stages["aligned"].poses[0]).all()
    assert error(found, "smoothed").max() < 2.0
    assert found.stages["smoothed"].localized.sum() >= len(found.frame) - 2


def test_a_drive_without_a_single_point_is_an_error():
    empty = [cloud[:0] for cloud in DRIVE.scans.clouds]
    with pytest.raises(MaptileError, match="not one usable point"):
        run(replace(DRIVE, scans=type(DRIVE.scans)(DRIVE.scans.t_ns, empty)))


def test_a_query_without_a_heading_is_bridged():
    heading = DRIVE.heading
    t_ns = np.append(heading.t_ns[:8], heading.t_ns[8:] + 10**12)
    late = replace(DRIVE, heading=replace(heading, t_ns=t_ns))
    found = run(late)
    assert np.isfinite(found.stages["aligned"].poses[0]).all()
    assert np.isnan(found.stages["aligned"].poses[-1]).all()
    nothing = replace(DRIVE, heading=replace(heading, t_ns=heading.t_ns + 10**12))
    with pytest.raises(MaptileError, match="cover none of the queries"):
        run(nothing)


def test_odometry_on_another_clock_is_an_error():
    odometry = replace(DRIVE.odometry, t_ns=DRIVE.odometry.t_ns + 10**12)
    with pytest.raises(MaptileError, match="same clock"):
        run(replace(DRIVE, odometry=odometry))


@pytest.mark.parametrize(("resolution", "query"), [(0.25, 0.5), (1.0, 0.5), (0.5, 0.25)])
def test_resolutions_that_fit_each_other_work(resolution, query):
    data = RASTER.data
    if resolution == 0.25:
        data = data.repeat(2, axis=1).repeat(2, axis=2)
    if resolution == 1.0:
        data = data[:, ::2, ::2]
    raster = type(RASTER)(data, RASTER.west, RASTER.north, resolution, RASTER.crs)
    settings = LocalizeSettings(query=QuerySettings(size_m=96.0, resolution=query))
    found = localized(DRIVE, raster, Queries(16.0, 48.0), settings)
    assert error(found, "aligned").max() < 1.5


def test_resolutions_that_do_not_fit_are_an_error():
    raster = type(RASTER)(RASTER.data, RASTER.west, RASTER.north, 0.3, RASTER.crs)
    with pytest.raises(MaptileError, match="no whole multiple"):
        run(raster=raster)
