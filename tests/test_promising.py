"""The search of a sparse grid first, against that of all positions of the finer grids."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_scene import found_by
from test_match import ALL_ROUND, FIELDS, KNOWN, QUERY, RASTER, places, tile_at

from data_prep.geometry import wrap_angle
from maptile_loc.score.evidence import EvidenceSettings, make_evidence
from maptile_loc.score.fields import FieldArrays
from maptile_loc.search.engine.area import Area
from maptile_loc.search.engine.hypotheses import by_chance
from maptile_loc.search.engine.promising import Rescored, rescored, squares_to_score
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.match import Matcher

EXHAUSTIVE = Matcher(FIELDS, QUERY.size_m, SearchSettings(exhaustive_km2=100))
SPARSE = Matcher(FIELDS, QUERY.size_m, SearchSettings(exhaustive_km2=0))


@pytest.mark.parametrize("how", [KNOWN, ALL_ROUND], ids=["known", "unknown"])
def test_both_searches_give_the_same_answer(how):
    for number, place in enumerate(places(4, 5)):
        tile = tile_at(place, 0.0 if how is KNOWN else 0.37 * number)
        ours, theirs = (found_by(one, tile, *how) for one in (SPARSE, EXHAUSTIVE))
        best, expected = ours.poses[0], theirs.poses[0]
        # Each is refined from where its grid has a peak, by two steps at most.
        assert np.hypot(*(best - expected)[:2]) < 2 * np.sqrt(2) + 0.01
        assert abs(wrap_angle(best[2] - expected[2])) < np.radians(2.1)
        assert np.hypot(*(best[:2] - place)) < 2.0
        assert abs(ours.log_scores[0] - theirs.log_scores[0]) < 0.5


def test_an_area_bounds_the_candidates():
    truth = RASTER.centre
    area = Area.disc(truth[0] + 20, truth[1], 40.0)
    search = Matcher(FIELDS, QUERY.size_m, SearchSettings(exhaustive_km2=0), area)
    found = found_by(search, tile_at(truth), *KNOWN)
    assert area.within(found.poses[:, :2]).all()
    assert np.hypot(*(found.poses[0, :2] - truth)) < 1.5


def with_road(row):
    """The fields of the test map with a road along one row of cells."""
    road = np.zeros(FIELDS.shape, bool)
    road[row] = True
    corner = FIELDS.west, FIELDS.north, FIELDS.resolution
    return FieldArrays(FIELDS.channels, *corner, FIELDS.building, road)


def test_positions_far_from_roads_are_left_out_unless_asked_for():
    row = FIELDS.shape[0] // 2
    for reach_m, most in ((20.0, 20.0 + 6), (0.0, np.inf)):
        settings = SearchSettings(exhaustive_km2=0, near_roads_m=reach_m)
        search = Matcher(with_road(row), QUERY.size_m, settings)
        north = search.sparse.north - np.arange(search.sparse.allowed.shape[0]) * search.sparse.step
        off = np.abs(north - (FIELDS.north - (row + 0.5) * FIELDS.resolution))
        allowed = search.sparse.allowed.numpy()
        assert (allowed.all(axis=1) == allowed.any(axis=1)).all()
        assert off[allowed.all(axis=1)].max() <= most
        if reach_m:
            assert off[~allowed.any(axis=1)].min() > reach_m - 6
            far = [RASTER.centre[0], north[0] - 8.0]
            found = found_by(search, tile_at(far), *KNOWN)
            assert (np.abs(found.poses[:, 1] - far[1]) > 20).all()


def test_every_square_is_stood_for():
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.normal(size=20_000))
    scores[:5000] = -torch.inf
    for first, by_chance_squares in ((64, 20), (64, 500), (16, 10)):
        cells, weight = squares_to_score(scores, by_chance_squares, first)
        assert len(np.unique(cells)) == len(cells)
        assert weight.sum() == pytest.approx(15_000)
        top = torch.topk(scores, first).indices.numpy()
        assert set(top) == set(cells[:first])
        assert (weight[:first] == 1).all()
    cells, weight = squares_to_score(torch.full((100,), -torch.inf), 10, 8)
    assert len(cells) == len(weight) == 0


def test_a_sample_gives_what_all_squares_give():
    rng = np.random.default_rng(1)
    settings = SearchSettings(chance=0.005)
    off = []
    for _ in range(30):
        coarse = rng.exponential(3.0, 60_000)
        fine = coarse + rng.normal(1.0, 1.5, len(coarse))
        far = np.full(len(coarse), np.inf)
        whole = by_chance(fine, far, len(fine), 200.0, settings)
        cells, weight = squares_to_score(torch.from_numpy(coarse), 300, 64)
        some = fine[cells], far[cells]
        sampled = by_chance(*some, len(fine), 200.0, settings, weight)
        off.append([sampled.level - whole.level, sampled.scale - whole.scale])
    assert np.abs(np.mean(off, axis=0)).max() < 0.4
    assert np.std(off, axis=0).max() < 1.0


def test_weights_of_one_change_nothing():
    maxima = np.random.default_rng(2).normal(size=5000)
    far, settings = np.full(5000, np.inf), SearchSettings()
    weighted = by_chance(maxima, far, 5000, 50.0, settings, np.ones(5000))
    assert weighted == by_chance(maxima, far, 5000, 50.0, settings)


def test_peaks_are_apart_and_the_best_come_first():
    at = np.array([[0, 0, 0], [3, 0, 0], [6, 0, 0], [50, 0, 0], [90, 0, 0]], float)
    found = Rescored(at, np.array([5.0, 6.0, 5.5, 4.0, -90.0]), np.zeros(5, int))
    assert found.peaks(4.0, 8, 30.0).tolist() == [1, 3]
    assert found.peaks(4.0, 1, 30.0).tolist() == [1]


@pytest.mark.parametrize("rotation_deg", [-5, 5])
def test_turns_go_on_around_the_circle(rotation_deg):
    """Where the list of turns begins makes no difference: its last is next to its first."""
    place = places(1, 5)[0]
    tile = tile_at(place, np.radians(rotation_deg))
    evidence = make_evidence(tile, FIELDS.resolution, EvidenceSettings())
    turns, log_prior = ALL_ROUND
    half = len(turns) // 2
    how = log_prior, evidence, tile.rotation, FIELDS, 4.0, FIELDS.resolution
    for index in (0, len(turns) - 1):
        within = np.array([(index + half) % len(turns)])
        first = rescored(place[None], np.array([index]), 2, turns, *how)
        inner = rescored(place[None], within, 2, np.roll(turns, half), *how)
        np.testing.assert_allclose(first.scores, inner.scores, rtol=1e-6)
