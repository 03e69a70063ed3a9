from __future__ import annotations

import numpy as np
import pytest
import torch
from made_scene import bare_fields, found_by
from test_match import ALL_ROUND, FIELDS, LIKELIHOOD, SMALL, town_scene

from data_prep.city.folder import open_city
from maptile_loc.score.channels import CELL_CHANNELS, CHANNELS, index
from maptile_loc.score.evidence import Evidence, make_evidence
from maptile_loc.score.likelihood import log_likelihood
from maptile_loc.score.map_fields import make_fields
from maptile_loc.search.engine.exact import SAME, ExactSearch
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.match import Matcher

CPU = torch.device("cpu")
SIDE = 20


def every_score(search, evidence, rotation, fields, turns, log_prior):
    """(T, 2, R, C) scores of all poses of the grid, without a bound."""
    row, column = np.mgrid[: search.allowed.shape[0], : search.allowed.shape[1]]
    east = fields.west + (search.corner[1] + column) * fields.resolution
    north = fields.north - (search.corner[0] + row) * fields.resolution
    heading = rotation + np.array([turns, turns + search.heading_step]).T
    shape = (*heading.shape, *row.shape)
    poses = np.stack(
        [np.broadcast_to(part, shape) for part in (east, north, heading[..., None, None])], -1
    )
    seen = evidence.points
    score = [log_likelihood(one, seen, rotation, fields) for one in poses]
    allowed = search.allowed.numpy()
    return np.where(allowed, np.array(score) + log_prior[:, None, None, None], -np.inf)


def scene(city, seed, heading_step=2.0, side=2):
    """Part of the town, a tile seen in it, and a search of some positions and headings."""
    piece, tile, _, _ = town_scene(open_city(city), seed)
    fields = make_fields(piece, 1.0, LIKELIHOOD)
    rng = np.random.default_rng(seed)
    # Not aligned with the boxes, and in some scenes at the map's edge.
    first = (int(rng.integers(0, 160 - SIDE)), int(rng.choice([0, 51, 160 - SIDE])))
    allowed = torch.from_numpy(rng.random((SIDE, SIDE - 3)) < 0.7)
    search = ExactSearch(fields, first, allowed, side, np.radians(heading_step), CPU)
    turns = np.radians(np.arange(0, 360, 30.0)) + rng.uniform(0, 0.3)
    return fields, tile, search, turns, rng.normal(0, 2, len(turns))


@pytest.mark.parametrize("seed", range(6))
def test_the_best_of_all_poses_is_found_and_nothing_is_better(town_city, seed):
    fields, tile, search, turns, log_prior = scene(town_city, seed)
    evidence = make_evidence(tile, 1.0)
    scores = every_score(search, evidence, tile.rotation, fields, turns, log_prior)
    best = scores.max()
    for known in (best - 0.01, best - 3.0, best - 10.0):
        found = search.better(evidence, tile.rotation, turns, log_prior, known)
        assert found is not None
        pose, turn = found
        mine = log_likelihood(pose[None, None], evidence.points, tile.rotation, fields)
        assert mine[0, 0] + log_prior[turn] == pytest.approx(best, abs=SAME)
        assert scores[turn].max() == pytest.approx(best, abs=SAME)
    assert search.better(evidence, tile.rotation, turns, log_prior, best) is None


@pytest.mark.parametrize(("heading_step", "side"), [(1.0, 3), (5.0, 1), (8.0, 4)])
def test_boxes_of_any_size_keep_the_best_pose(town_city, heading_step, side):
    fields, tile, search, turns, log_prior = scene(town_city, 7, heading_step, side)
    evidence = make_evidence(tile, 1.0)
    best = every_score(search, evidence, tile.rotation, fields, turns, log_prior).max()
    found = search.better(evidence, tile.rotation, turns, log_prior, best - 0.01)
    assert found is not None
    assert search.better(evidence, tile.rotation, turns, log_prior, best) is None


@pytest.mark.parametrize("channel", ["wall", "line", "free", "ground", "surface", "beside", "path"])
@pytest.mark.parametrize("side", [2, 3])
def test_no_bound_is_below_a_score_in_its_box(channel, side):
    """For single points of evidence, on a map of noise."""
    rng = np.random.default_rng(side)
    noise = rng.normal(size=(len(CHANNELS), 70, 70)).astype(np.float32)
    fields = bare_fields(noise, 0.0, 0.0, 1.0)
    allowed = torch.ones(20, 20, dtype=torch.bool)
    search = ExactSearch(fields, (11, 20), allowed, side, np.radians(4.0), CPU)
    turns = rng.uniform(-3, 3, 4)
    tight = []
    for _ in range(4):
        images = np.zeros((len(CELL_CHANNELS), 64, 64), np.float32)
        way, looks = np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)
        row, column = rng.integers(0, 64, 2)
        angle = rng.uniform(0, 7)
        toward = np.cos(angle), np.sin(angle)
        if channel == "path":
            way = rng.uniform(-35, 35, (1, 2)).astype(np.float32)
            looks = np.array([[1.0, *toward]], np.float32)
        elif channel in ("wall", "line"):
            images[0, row, column] = 1.0
            first = 1 if channel == "wall" else 3
            images[first : first + 2, row, column] = toward
        else:
            images[index(channel), row, column] = 1.0
        evidence = Evidence(images, way, looks, 1.0)
        scores = every_score(search, evidence, 0.0, fields, turns, np.zeros(4))
        pieces = search.pieces(evidence)
        bound, place = search.bounded(pieces, turns, np.zeros(4), -1e9)
        held = scores.max(1)[tuple(place.T)]
        assert len(place) == 4 * 20 * 20  # all of them, as the known score is so low
        assert (bound >= held).all()
        tight.append(bound.max() - held.max())
        for number in rng.choice(len(held), 3):
            _, kept = search.bounded(pieces, turns, np.zeros(4), held[number] - SAME)
            assert (kept == place[number]).all(1).any()
    assert np.median(tight) < 5.0


def test_bounds_hold_for_directions_between_sectors():
    """On a constant map only the direction matters, and the bound is tight."""
    rng = np.random.default_rng(4)
    one = np.array([0.1, 0.6, 0.8, -0.9, 0.3, *[0] * 7], np.float32)
    fields = bare_fields(np.tile(one[:, None, None], (1, 90, 90)), 0.0, 0.0, 1.0)
    search = ExactSearch(
        fields, (44, 44), torch.ones(2, 2, dtype=torch.bool), 2, np.radians(4.0), CPU
    )
    turns = np.radians(np.arange(0.0, 360.0, 5.3))
    no_prior = np.zeros(len(turns))
    for angle in rng.uniform(0, 7, 3):
        images = np.zeros((len(CELL_CHANNELS), 32, 32), np.float32)
        c, s = np.cos(angle), np.sin(angle)
        images[:5, 16, 16] = 1.0, c, s, 0.7 * c, 0.7 * s
        evidence = Evidence(images, images[0, :0, :2], images[0, :0, :3], 1.0)
        held = every_score(search, evidence, 0.0, fields, turns, no_prior).max((1, 2, 3))
        found, place = search.bounded(search.pieces(evidence), turns, no_prior, -1e9)
        bound = found[np.searchsorted(place[:, 0], np.arange(len(turns)))]
        assert (bound >= held - 1e-6).all()
        assert (bound - held).min() < 0.1


def test_a_search_that_looks_closely_at_one_place_only_is_put_right(town_city):
    """For tiles of other places: many fit as well as the best."""
    hasty = SearchSettings(refined=1)
    gained = []
    for seed in (2, 8):
        piece, _, _, _ = town_scene(open_city(town_city), seed)
        _, tile, _, _ = town_scene(open_city(town_city), seed + 1)
        fields = make_fields(piece, 1.0, LIKELIHOOD)
        seen = make_evidence(tile, 1.0).points
        scores = []
        for prove in (False, True):
            search = Matcher(fields, SMALL.size_m, hasty, prove=prove)
            found = found_by(search, tile, *ALL_ROUND)
            scores.append(log_likelihood(found.poses[None], seen, tile.rotation, fields).max())
        gained.append(scores[1] - scores[0])
    assert min(gained) > 0.5


def test_a_tile_with_nothing_in_it_is_nowhere_better():
    images = np.zeros((len(CELL_CHANNELS), 64, 64), np.float32)
    nothing = Evidence(images, images[0, :0, :2], images[0, :0, :3], 1.0)
    search = Matcher(FIELDS, SMALL.size_m, SearchSettings()).exact
    assert search.better(nothing, 0.0, *ALL_ROUND, ALL_ROUND[1][0]) is None
