"""The fit of the score's profiles: features, samples, the fit itself, and scores of any recipe."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import ROOT
from made import blocks_raster, seen_walls

from data_prep.city.raster import ROAD
from data_prep.errors import MaptileError
from data_prep.geometry import wrap_angle
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import log_likelihood
from maptile_loc.score.map_fields import make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.types import Candidates, Fixes, HeadingKnowledge, Queries, QueryTile

QUERY = QuerySettings(size_m=96.0)
SETTINGS = LocalizeSettings(query=QUERY)
LIKELIHOOD = LikelihoodSettings()


@pytest.fixture(scope="module")
def load():
    """Import a module of benchmarks/fit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "fit"))
        import_module("common")
        yield import_module


@pytest.fixture(scope="module")
def logit(load):
    return load("logit")


@pytest.fixture(scope="module")
def profiles(load):
    return load("profiles")


@pytest.fixture(scope="module")
def samples(load):
    return load("samples")


@pytest.fixture(scope="module")
def nats(load):
    return load("nats")


@pytest.fixture(scope="module")
def raster():
    made = blocks_raster()
    made.data[ROAD, 300:312] = 255
    made.data[ROAD, :, 500:510] = 255
    return made


def make_example(load, raster, known):
    truth = np.array([*raster.centre, 0.6])
    points = seen_walls(raster, truth[:2], truth[2], np.random.default_rng(1))
    cloud = Submap(points, np.zeros(len(points), np.int32), np.zeros((1, 3), np.float32))
    tile = make_tile(cloud, 0.6 if known else -2.0, QUERY)
    # Doubtful walls, so that other poses have a chance.
    tile = replace(tile, wall=0.2 * tile.wall)
    queries = Queries(heading=HeadingKnowledge("known" if known else "unknown"))
    return load("training").Example(tile, truth, queries, "hdl64")


def make_sampler(samples, raster):
    return samples.Sampler(raster, make_fields(raster, 1.0, LIKELIHOOD), SETTINGS)


def test_the_score_is_its_features_times_its_profiles(profiles, raster):
    rng = np.random.default_rng(0)
    wall, free, ground = (
        rng.random((3, 192, 192), np.float32) ** np.array([20, 1, 3])[:, None, None]
    )
    path = np.cumsum(rng.normal(2, 1, (11, 2)), axis=0) - 15
    images = (image.astype(np.float32) for image in (wall, ground, np.maximum(free, ground)))
    road = (ground * rng.uniform(-1, 1, ground.shape)).astype(np.float32)
    tile = QueryTile(*images, 0.5, 0.7, path.astype(np.float32), road)
    # Beyond the map's edges too.
    low, high = (raster.west - 30, raster.south - 30, -4), (raster.east + 30, raster.north + 30, 4)
    poses = rng.uniform(low, high, (200, 3))
    seen = make_evidence(tile, 1.0).points
    expected = log_likelihood(poses, seen, 0.7, make_fields(raster, 1.0, LIKELIHOOD))
    basis = profiles.make_basis(raster, 1.0, LIKELIHOOD)
    found = profiles.features(poses, seen, 0.7, basis) @ profiles.pack(LIKELIHOOD)
    assert np.ptp(expected) > 10
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_packing_and_unpacking_leave_profiles_as_they_are(profiles):
    values = profiles.pack(LIKELIHOOD)
    assert profiles.unpack(values, LIKELIHOOD) == LIKELIHOOD
    changed = profiles.unpack(values + 1, LIKELIHOOD)
    assert changed.line == pytest.approx(np.array(LIKELIHOOD.line) + 1)
    assert (changed.path, changed.course) == (LIKELIHOOD.path, LIKELIHOOD.course)
    changed = profiles.unpack(values + 1, LIKELIHOOD, ("path", "course"))
    assert changed.path == pytest.approx(np.array(LIKELIHOOD.path) + 1)
    assert changed.course == pytest.approx(LIKELIHOOD.course + 1)
    assert changed.line == LIKELIHOOD.line


@pytest.mark.parametrize("known", [True, False])
def test_samples_represent_the_whole_map(load, samples, known):
    raster = blocks_raster()  # without roads every position is equally probable
    sampler = make_sampler(samples, raster)
    example = make_example(load, raster, known)
    evidence = make_evidence(example.tile, 1.0)
    poses, log_weight, log_truth = sampler.draw(example, evidence, np.random.default_rng(0))
    gap = poses - example.truth
    gap[:, 2] = wrap_angle(gap[:, 2])
    near = np.hypot(gap[:, 0], gap[:, 1]) < samples.SAME_M
    near &= np.abs(gap[:, 2]) < samples.SAME_TURN
    share = 1.0 if known else 4 / 360
    assert np.exp(log_weight[near]).sum() == pytest.approx(8.4**2 * share, rel=1e-6)
    truth = np.exp(log_truth)
    assert truth[~near].max() == 0
    assert truth.sum() == pytest.approx(share)
    spread = np.sqrt((truth[:, None] * gap[:, :2] ** 2).sum(axis=0) / truth.sum())
    np.testing.assert_allclose(spread, samples.MAP_STD_M, rtol=0.05)
    peaks = slice(near.sum(), -samples.CHANCE // 2)
    assert np.exp(log_weight[peaks]).min() == pytest.approx(1 if known else 1 / samples.TURNS)
    if known:
        assert np.abs(gap[~near, 2]).max() < 1e-9
        assert np.degrees(gap[near, 2].std()) == pytest.approx(1, rel=0.15)
    else:
        assert np.ptp(gap[~near, 2]) > 6
        assert np.abs(np.degrees(gap[near, 2])).max() <= 2
    chance = np.exp(log_weight[-samples.CHANCE // 2 :]).mean() * samples.CHANCE
    assert chance == pytest.approx(350**2, rel=0.02)


def test_a_pose_at_random_is_on_a_road_more_often(samples, raster):
    chance = make_sampler(samples, raster).chance
    assert chance.sum() == pytest.approx(1)
    assert chance[:25].sum() == 0
    nearest, *_, farthest = SETTINGS.likelihood.path
    expected = chance[100, 100] * np.exp(nearest - farthest)
    assert chance[153, 100] == pytest.approx(expected, rel=1e-3)


def test_nats_are_minus_the_log_density_of_the_truth(logit):
    nowhere = -np.inf
    tiles = [
        (
            np.array([[2.0], [1.0], [0.0]], np.float32),
            np.log([1.0, 0.5, 3.0]),
            np.array([np.log(0.7), np.log(0.3), nowhere]),
        ),
        (np.zeros((2, 1), np.float32), np.log([10.0, 30.0]), np.array([0.0, nowhere])),
    ]
    problem = logit.Problem.of(tiles)
    found = problem.nats(torch.tensor([1.0]))
    first = (np.e**2 + 0.5 * np.e + 3.0) / (0.7 * np.e**2 + 0.3 * np.e)
    np.testing.assert_allclose(found, np.log([first, 40.0]), rtol=1e-5)
    lost = logit.robust(torch.tensor([0.0, 100.0, 1000.0]))
    assert lost[0] == pytest.approx(-np.log(0.97), abs=1e-3)
    assert lost[1] == lost[2] == pytest.approx(14 - np.log(0.03))


def test_the_fit_finds_the_values_that_the_truth_was_drawn_from(logit, profiles):
    rng = np.random.default_rng(0)
    settings = LIKELIHOOD
    truth = profiles.pack(settings)
    features = rng.normal(0, 1, (600, 60, len(truth))).astype(np.float32)
    scores = features @ truth + rng.gumbel(size=(600, 60))
    tiles = []
    for drawn, some in zip(scores.argmax(1), features, strict=True):
        tiles.append((some, np.zeros(60), np.where(np.arange(60) == drawn, 0.0, -np.inf)))
    blank = {n: (0.0,) * len(getattr(settings, n)) for n in profiles.PROFILES if n != "path"}
    start = settings.model_copy(update=blank)
    problem = logit.Problem.of(tiles)
    found = logit.fit(problem, start, 1e-4, (*profiles.FITTED, *("surface", "beside")))
    frozen = profiles.parts(settings)["path"]
    assert (found[frozen] == truth[frozen].astype(np.float32)).all()
    assert found[-1] == np.float32(settings.course)
    assert np.corrcoef(found[: frozen.start], truth[: frozen.start])[0, 1] > 0.9
    assert np.abs(found - truth).max() < 0.3
    stiff = logit.fit(problem, start, 10.0)
    wall = slice(0, len(settings.wall))
    bend, stiff_bend = (np.abs(np.diff(v[wall], 2)).max() for v in (found, stiff))
    assert stiff_bend < 0.2 * bend
    # A term by itself: all others stay.
    changed = settings.model_copy(update={"course": 0.0})
    alone = logit.fit(problem, changed, 1e-4, ("course",))
    assert alone[-1] == pytest.approx(settings.course, abs=0.3)
    assert (alone[:-1] == truth[:-1].astype(np.float32)).all()


def test_any_key_of_the_recipe_can_be_tried(load):
    make_trials = load("common").make_trials
    asked = ["evidence.neighbourhood_m=3,4", "query.wall.house_m=2"]
    usual, *trials = make_trials(
        [*asked, "likelihood.road_m=[0, 2, 3, 4, 5, 6, 7]"], ["search.coarser=1"]
    )
    assert (usual.key, usual.settings.evidence.neighbourhood_m) == ("", 3.5)
    assert [trial.settings.evidence.neighbourhood_m for trial in trials] == [3, 4, 3.5, 3.5]
    assert trials[2].settings.query.wall.house_m == 2.0
    assert trials[3].settings.likelihood.road_m == (0, 2, 3, 4, 5, 6, 7)
    assert all(trial.settings.search.coarser == 1 for trial in trials)
    with pytest.raises(MaptileError, match="neighbourhood_m"):
        make_trials(["evidence.neighborhood_m=1"])
    with pytest.raises(MaptileError, match="expected KEY=V1,V2"):
        make_trials(["evidence.path_m"])


def test_the_sampled_score_is_that_of_the_fit(load, logit, samples, nats, raster):
    example = make_example(load, raster, True)
    sampler = make_sampler(samples, raster)
    found = nats.sampled_nats(example, sampler, SETTINGS, np.random.default_rng(0))
    evidence = make_evidence(example.tile, 1.0)
    poses, *weights = sampler.draw(example, evidence, np.random.default_rng(0))
    score = log_likelihood(poses[None], evidence.points, example.tile.rotation, sampler.fields)
    problem = logit.Problem.of([(score.T.astype(np.float32), *weights)])
    assert found == pytest.approx(float(problem.nats(torch.ones(1))[0]), abs=1e-3)


def test_nats_of_aligned_candidates_by_hand(nats):
    poses = np.array([[10.0, 20.0, 3.1], [500.0, 0.0, 0.0]])
    covariance = np.tile(np.diag([1.0, 4.0, 0.01]), (2, 1, 1))
    fixes = Fixes(Candidates(poses, np.log([0.8, 0.1])), covariance)
    truth = np.array([11.0, 20.0, 3.2 - 2 * np.pi])
    density = 0.8 * np.exp(-0.5 * (1 + 1)) / np.sqrt((2 * np.pi) ** 3 * 0.04)
    # The truth may be anywhere with a probability of 3 %.
    expected = -np.log(0.97 * density + 0.03 * np.exp(-14) / (2 * np.pi))
    assert nats.pose_nats(fixes, truth) == pytest.approx(expected)
    floor = -np.log(0.03 * np.exp(-14) / (2 * np.pi))
    assert nats.pose_nats(fixes, truth + 100) == pytest.approx(floor)
    none = Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)))
    assert nats.pose_nats(none, truth) == pytest.approx(floor)
    assert nats.nowhere_nats(fixes.candidates) == pytest.approx(-np.log(0.1))
    assert nats.nowhere_nats(none.candidates) == 0.0
