from __future__ import annotations

import numpy as np
import pytest
from made import blocks_raster, seen_walls

from data_prep.raster import BUILDING, ROAD
from maptile_loc.align import AlignSettings, align, log_likelihood
from maptile_loc.coarse.match import Disc, Matcher, MatchSettings, turned
from maptile_loc.likelihood import (
    FREE,
    WALL,
    Evidence,
    LikelihoodSettings,
    make_evidence,
    make_fields,
    signed_distance,
)
from maptile_loc.query import QuerySettings, make_tile
from maptile_loc.result import Candidates
from maptile_loc.submap import Submap

LIKELIHOOD = LikelihoodSettings()
QUERY = QuerySettings(size_m=96.0)
RASTER = blocks_raster()
KNOWN = np.zeros(1), np.zeros(1)
WEIGHTS = LIKELIHOOD.wall_weight, LIKELIHOOD.free_weight


def tile_at(east_north, heading=0.0, seed=0, raster=RASTER):
    """What is seen there, in a tile turned by the heading: north-up."""
    points = seen_walls(raster, east_north, heading, np.random.default_rng(seed))
    scan = np.zeros(len(points), np.int32)
    return make_tile(Submap(points, scan, np.zeros((1, 3), np.float32)), heading, QUERY)


def matcher(raster=RASTER, prior=None, **changes):
    return Matcher(raster, QUERY.size_m, MatchSettings(**changes), LIKELIHOOD, prior)


def test_signed_distance_of_a_square():
    coverage = np.zeros((40, 40), np.float32)
    coverage[10:30, 10:30] = 1
    distance = signed_distance(coverage, 0.5, 8.0)
    assert distance[20, 10] == pytest.approx(-0.25)  # half a cell inside the western edge
    assert distance[20, 9] == pytest.approx(0.25)
    assert distance[20, 20] == pytest.approx(-4.75)
    assert distance[5, 5] == pytest.approx((np.hypot(5, 5) - 0.5) * 0.5)
    assert (signed_distance(np.zeros((9, 9), np.float32), 0.5, 8.0) == 8.0).all()


def test_fields_are_ratios_whose_mean_is_one():
    fields = make_fields(RASTER, 1.0, LIKELIHOOD)
    for weight, field in zip(WEIGHTS, fields.channels, strict=True):
        assert np.exp(field / weight).mean() == pytest.approx(1, abs=1e-4)


def test_the_search_equals_brute_force():
    search = matcher()
    east, north = RASTER.west + 187.0, RASTER.north - 203.0
    evidence = make_evidence(tile_at((east, north)), 1.0)
    score = search._correlate(evidence).numpy()
    fields = make_fields(RASTER, 1.0, LIKELIHOOD)
    half = evidence.channels.shape[1] // 2
    padded = np.pad(fields.channels, ((0, 0), (half, half), (half, half)))
    for row, column in [(203, 187), (0, 0), (399, 399), (17, 390), (100, 250)]:
        window = padded[:, row : row + 2 * half, column : column + 2 * half]
        expected = (window * evidence.channels).sum()
        assert score[row, column] == pytest.approx(expected, abs=1e-3)


def test_the_true_place_comes_first():
    search = matcher()
    rng = np.random.default_rng(5)
    for _ in range(8):
        truth = RASTER.world_from_pixel(rng.uniform(150, 650, 2))
        found = search.candidates(tile_at(truth, seed=1), *KNOWN)
        assert np.hypot(*(found.poses[0, :2] - truth)) < 1.0
        assert np.exp(found.log_scores[0]) > 0.9
        assert (np.diff(found.log_scores) <= 0).all()


def test_candidates_are_distinct_and_probabilities_at_most_one():
    found = matcher().candidates(tile_at(RASTER.centre), *KNOWN)
    gaps = np.linalg.norm(found.poses[:, None, :2] - found.poses[None, :, :2], axis=2)
    assert gaps[~np.eye(len(gaps), dtype=bool)].min() > 4.0
    assert np.exp(found.log_scores).sum() <= 1.0 + 1e-9


def test_an_empty_tile_says_nothing():
    nothing = tile_at((RASTER.west - 500, RASTER.north + 500))
    empty = type(nothing)(nothing.wall * 0, nothing.ground * 0, nothing.observed * 0, 0.5, 0.0)
    found = matcher().candidates(empty, *KNOWN)
    assert len(found.poses) == 0 or np.exp(found.log_scores).max() < 0.01


def test_a_tile_of_another_city_is_doubted():
    elsewhere = blocks_raster(seed=9)
    scores = [
        np.exp(matcher().candidates(tile_at(place, raster=elsewhere), *KNOWN).log_scores[0])
        for place in elsewhere.world_from_pixel(np.array([[300, 300], [500, 260], [420, 600]]))
    ]
    assert max(scores) < 0.9


def test_unknown_heading_is_found():
    search = matcher(heading_step_deg=4.0)
    turns = np.radians(np.arange(0, 360, 4.0))
    truth, heading = RASTER.centre + [13.0, -8.0], 1.1
    points = seen_walls(RASTER, truth, heading, np.random.default_rng(0))
    cloud = Submap(points, np.zeros(len(points), np.int32), np.zeros((1, 3), np.float32))
    tile = make_tile(cloud, 2.5, QUERY)
    found = search.candidates(tile, turns, np.full(len(turns), -np.log(len(turns))))
    assert np.hypot(*(found.poses[0, :2] - truth)) < 1.5
    assert abs(np.degrees(found.poses[0, 2] - heading)) < 4.0


def test_turned_evidence_by_a_quarter_is_rot90():
    rng = np.random.default_rng(0)
    evidence = Evidence(rng.random((2, 32, 32), np.float32), 1.0)
    quarter = turned(evidence, np.pi / 2)
    expected = np.rot90(evidence.channels, axes=(1, 2))
    np.testing.assert_allclose(quarter.channels, expected, atol=1e-4)


def test_a_prior_narrows_the_search():
    truth = RASTER.centre
    disc = Disc(truth[0] + 20, truth[1], 40.0)
    search = matcher(prior=disc)
    assert search.area_km2 == pytest.approx(np.pi * 0.04**2, rel=0.02)
    found = search.candidates(tile_at(truth), *KNOWN)
    assert (np.hypot(*(found.poses[:, :2] - [disc.east, disc.north]).T) <= 40.0).all()
    assert np.hypot(*(found.poses[0, :2] - truth)) < 1.0


def test_a_place_on_a_road_is_likelier():
    truth = RASTER.centre
    tile = tile_at(truth)
    doubtful = {"nowhere_log_odds": 1000.0}  # so that no probability is rounded to 1
    plain = matcher(**doubtful).candidates(tile, *KNOWN)
    data = RASTER.data.copy()
    row = int(RASTER.pixel_from_world(truth)[0])
    data[ROAD, row - 8 : row + 8] = 255
    with_road = type(RASTER)(data, RASTER.west, RASTER.north, RASTER.resolution, RASTER.crs)
    on_road = matcher(with_road, **doubtful)
    assert float(on_road.log_prior.exp().sum()) == pytest.approx(1, abs=1e-4)
    found = on_road.candidates(tile, *KNOWN)
    assert found.log_scores[0] > plain.log_scores[0]
    data[ROAD] = np.roll(data[ROAD], 300, axis=0)
    far = type(RASTER)(data, RASTER.west, RASTER.north, RASTER.resolution, RASTER.crs)
    off_road = matcher(far, **doubtful).candidates(tile, *KNOWN)
    assert off_road.log_scores[0] < plain.log_scores[0]


def shifted(raster, east, north):
    return type(raster)(
        raster.data, raster.west + east, raster.north + north, raster.resolution, raster.crs
    )


def test_shifting_the_world_shifts_the_candidates():
    tile = tile_at(RASTER.centre)
    here = matcher().candidates(tile, *KNOWN)
    there = matcher(shifted(RASTER, 1000.0, -2000.0)).candidates(tile, *KNOWN)
    np.testing.assert_allclose(there.poses - here.poses, [[1000, -2000, 0]] * len(here.poses))
    np.testing.assert_array_equal(here.log_scores, there.log_scores)


def test_alignment_finds_the_place_within_decimetres():
    fields = make_fields(RASTER, 0.5, LIKELIHOOD)
    rng = np.random.default_rng(2)
    errors, turns = [], []
    for _ in range(6):
        truth = RASTER.world_from_pixel(rng.uniform(150, 650, 2))
        tile = tile_at(truth, heading=0.4)
        off = rng.uniform([-1.2, -1.2, -0.04], [1.2, 1.2, 0.04])
        start = Candidates(np.array([[*truth, 0.4] + off]), np.log([0.5]))
        found, covariance = align(
            start, make_evidence(tile, 0.5), tile.rotation, fields, None, True, AlignSettings()
        )
        errors.append(np.hypot(*(found.poses[0, :2] - truth)))
        turns.append(abs(found.poses[0, 2] - 0.4))
        assert (np.linalg.eigvalsh(covariance[0]) > 0).all()
    assert np.median(errors) < 0.25
    assert max(errors) < 0.6
    assert np.degrees(np.median(turns)) < 0.5


def test_a_known_heading_holds_the_alignment():
    fields = make_fields(RASTER, 0.5, LIKELIHOOD)
    tile = tile_at(RASTER.centre, heading=0.0)
    start = Candidates(np.array([[*RASTER.centre, np.radians(6)]]), np.zeros(1) - 0.1)
    evidence = make_evidence(tile, 0.5)
    loose, _ = align(start, evidence, 0.0, fields, None, True, AlignSettings())
    tight, _ = align(start, evidence, 0.0, fields, np.radians(0.05), True, AlignSettings())
    assert abs(np.degrees(loose.poses[0, 2])) < 2
    assert np.degrees(tight.poses[0, 2]) == pytest.approx(6, abs=0.5)


def test_a_place_that_was_not_weighed_is_judged_by_the_map():
    fields = make_fields(RASTER, 0.5, LIKELIHOOD)
    evidence = make_evidence(tile_at(RASTER.centre), 0.5)
    scores = []
    for off in (0.8, 60.0):
        start = Candidates(np.array([[*(RASTER.centre + [off, 0.0]), 0.0]]), np.array([-12.0]))
        found, _ = align(start, evidence, 0.0, fields, np.radians(1), False, AlignSettings())
        scores.append(np.exp(found.log_scores[0]))
    assert scores[0] > 0.98
    assert scores[1] < 0.1


def test_a_straight_corridor_is_uncertain_along_itself():
    raster = blocks_raster()
    data = np.zeros_like(raster.data)
    data[BUILDING, 300:360], data[BUILDING, 380:440] = 255, 255
    corridor = type(raster)(data, raster.west, raster.north, 0.5, raster.crs)
    middle = corridor.world_from_pixel([370.0, 400.0])
    points = seen_walls(corridor, middle, 0.0, np.random.default_rng(0))
    cloud = Submap(points, np.zeros(len(points), np.int32), np.zeros((1, 3), np.float32))
    tile = make_tile(cloud, 0.0, QUERY)
    fields = make_fields(corridor, 0.5, LIKELIHOOD)
    start = Candidates(np.array([[*middle, 0.0]]), np.zeros(1) - 0.1)
    _, covariance = align(
        start, make_evidence(tile, 0.5), 0.0, fields, np.radians(1), True, AlignSettings()
    )
    std = np.sqrt(np.diag(covariance[0]))
    assert std[0] > 5 * std[1]


def test_log_likelihood_outside_the_map_is_nothing():
    fields = make_fields(RASTER, 0.5, LIKELIHOOD)
    cells = make_evidence(tile_at(RASTER.centre), 0.5).cells()
    far = np.array([[[RASTER.west - 300.0, RASTER.north + 300.0, 0.0]]])
    assert log_likelihood(far, cells, 0.0, fields)[0, 0] == 0.0


@pytest.mark.parametrize("missing", [WALL, FREE])
def test_a_tile_may_lack_a_kind_of_evidence(missing):
    fields = make_fields(RASTER, 0.5, LIKELIHOOD)
    channels = make_evidence(tile_at(RASTER.centre), 0.5).channels
    channels[missing] = 0
    start = Candidates(np.array([[*(RASTER.centre + [0.8, -0.5]), 0.0]]), np.log([0.5]))
    found, covariance = align(
        start, Evidence(channels, 0.5), 0.0, fields, np.radians(1), True, AlignSettings()
    )
    assert np.isfinite(found.log_scores).all()
    assert np.isfinite(covariance).all()
    if missing != WALL:
        assert np.hypot(*(found.poses[0, :2] - RASTER.centre)) < 0.6
