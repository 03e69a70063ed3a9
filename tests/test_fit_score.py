"""The fit of the score's profiles: its features, its samples, and what it finds."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch
from conftest import ROOT
from made import blocks_raster, seen_walls

from data_prep.city.raster import ROAD
from data_prep.geometry import wrap_angle
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap
from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import log_likelihood, make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.types import QueryTile

QUERY = QuerySettings(size_m=96.0)
SETTINGS = LocalizeSettings(query=QUERY)
LIKELIHOOD = LikelihoodSettings()


@pytest.fixture(scope="module")
def fit_score():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("fit_score")


@pytest.fixture(scope="module")
def raster():
    made = blocks_raster()
    made.data[ROAD, 300:312] = 255
    made.data[ROAD, :, 500:510] = 255
    return made


def example(fit_score, raster, known):
    truth = np.array([*raster.centre, 0.6])
    points = seen_walls(raster, truth[:2], truth[2], np.random.default_rng(1))
    cloud = Submap(points, np.zeros(len(points), np.int32), np.zeros((1, 3), np.float32))
    tile = make_tile(cloud, 0.6 if known else -2.0, QUERY)
    # Walls that are doubtful, so that other positions are not hopeless.
    return fit_score.Example(replace(tile, wall=0.2 * tile.wall), truth, known)


def test_the_score_is_its_features_times_its_profiles(fit_score, raster):
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
    basis = fit_score.make_basis(raster, 1.0, LIKELIHOOD)
    found = fit_score.features(poses, seen, 0.7, basis) @ fit_score.pack(LIKELIHOOD)
    assert np.ptp(expected) > 10
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_packing_and_unpacking_leave_profiles_as_they_are(fit_score):
    values = fit_score.pack(LIKELIHOOD)
    assert fit_score.unpack(values, LIKELIHOOD) == LIKELIHOOD
    changed = fit_score.unpack(values + 1, LIKELIHOOD)
    assert changed.line == pytest.approx(np.array(LIKELIHOOD.line) + 1)
    assert (changed.path, changed.course) == (LIKELIHOOD.path, LIKELIHOOD.course)


@pytest.mark.parametrize("known", [True, False])
def test_samples_stand_for_the_whole_map(fit_score, known):
    raster = blocks_raster()  # without roads all positions have the same prior
    sampler = fit_score.Sampler(raster, QUERY.size_m, SETTINGS)
    tile = example(fit_score, raster, known)
    poses, log_weight, log_truth = sampler.draw(tile, np.random.default_rng(0))
    gap = poses - tile.truth
    gap[:, 2] = wrap_angle(gap[:, 2])
    near = np.hypot(gap[:, 0], gap[:, 1]) < fit_score.SAME_M
    near &= np.abs(gap[:, 2]) < fit_score.SAME_TURN
    share = 1.0 if known else 4 / 360
    assert np.exp(log_weight[near]).sum() == pytest.approx(8.4**2 * share, rel=1e-6)
    truth = np.exp(log_truth)
    assert truth[~near].max() == 0
    assert truth.sum() == pytest.approx(share)
    spread = np.sqrt((truth[:, None] * gap[:, :2] ** 2).sum(axis=0) / truth.sum())
    np.testing.assert_allclose(spread, SETTINGS.align.map_std_m, rtol=0.05)
    peaks = slice(near.sum(), -fit_score.CHANCE // 2)
    assert np.exp(log_weight[peaks]).min() == pytest.approx(1 if known else 1 / fit_score.TURNS)
    if known:
        assert np.abs(gap[~near, 2]).max() < 1e-9
        assert np.degrees(gap[near, 2].std()) == pytest.approx(1, rel=0.15)
    else:
        assert np.ptp(gap[~near, 2]) > 6
        assert np.abs(np.degrees(gap[near, 2])).max() <= 2
    chance = np.exp(log_weight[-fit_score.CHANCE // 2 :]).mean() * fit_score.CHANCE
    assert chance == pytest.approx(350**2, rel=0.02)


def test_a_place_by_chance_is_on_a_road_more_often(fit_score, raster):
    chance = fit_score.Sampler(raster, QUERY.size_m, SETTINGS).chance
    assert chance.sum() == pytest.approx(1)
    assert chance[:25].sum() == 0
    nearest, *_, farthest = SETTINGS.likelihood.path
    expected = chance[100, 100] * np.exp(nearest - farthest)
    assert chance[153, 100] == pytest.approx(expected, rel=1e-3)


def test_the_surprise_is_minus_the_log_density_of_the_truth(fit_score):
    nowhere = -np.inf
    tiles = [
        (
            np.array([[2.0], [1.0], [0.0]], np.float32),
            np.log([1.0, 0.5, 3.0]),
            np.array([np.log(0.7), np.log(0.3), nowhere]),
        ),
        (np.zeros((2, 1), np.float32), np.log([10.0, 30.0]), np.array([0.0, nowhere])),
    ]
    problem = fit_score.Problem.of(tiles)
    found = problem.surprise(torch.tensor([1.0]))
    first = (np.e**2 + 0.5 * np.e + 3.0) / (0.7 * np.e**2 + 0.3 * np.e)
    np.testing.assert_allclose(found, np.log([first, 40.0]), rtol=1e-5)
    lost = fit_score.robust(torch.tensor([0.0, 100.0, 1000.0]))
    assert lost[0] == pytest.approx(-np.log(0.97), abs=1e-3)
    assert lost[1] == lost[2] == pytest.approx(14 - np.log(0.03))


def test_the_fit_finds_what_the_truth_was_drawn_from(fit_score):
    rng = np.random.default_rng(0)
    settings = LIKELIHOOD
    truth = fit_score.pack(settings)
    features = rng.normal(0, 1, (600, 60, len(truth))).astype(np.float32)
    scores = features @ truth + rng.gumbel(size=(600, 60))
    tiles = []
    for drawn, some in zip(scores.argmax(1), features, strict=True):
        tiles.append((some, np.zeros(60), np.where(np.arange(60) == drawn, 0.0, -np.inf)))
    blank = {n: (0.0,) * len(getattr(settings, n)) for n in fit_score.PROFILES if n != "path"}
    start = settings.model_copy(update=blank)
    problem = fit_score.Problem.of(tiles)
    found = fit_score.fit(problem, start, 1e-4)
    frozen = fit_score._parts(settings)["path"]
    assert (found[frozen] == truth[frozen].astype(np.float32)).all()
    assert found[-1] == np.float32(settings.course)
    assert np.corrcoef(found[: frozen.start], truth[: frozen.start])[0, 1] > 0.9
    assert np.abs(found - truth).max() < 0.3
    stiff = fit_score.fit(problem, start, 10.0)
    wall = slice(0, len(settings.wall))
    bend, stiff_bend = (np.abs(np.diff(v[wall], 2)).max() for v in (found, stiff))
    assert stiff_bend < 0.2 * bend
