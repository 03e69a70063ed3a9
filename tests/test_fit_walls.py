"""The fit of the wall detector: its samples and the scores of other parameters."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from conftest import ROOT

from maptile_loc.learn.walls import UNKNOWN, Sample
from maptile_loc.perceive.detector import BUILDING_CLASS
from maptile_loc.perceive.submap import Submap
from maptile_loc.recipe import load_recipe


@pytest.fixture(scope="module")
def fit_walls():
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("benchmarks", "benchmarks/fit"):
            patch.syspath_prepend(str(ROOT / folder))
        yield import_module("fit_walls")


class Certain:
    """A detector whose probability is the first feature."""

    def building(self, cell, features, size):
        return features[:, 0]


def test_scores_are_of_known_cells(fit_walls):
    probability = np.array([0.9, 0.8, 0.3, 0.5])
    target = np.array([BUILDING_CLASS, 0, BUILDING_CLASS, UNKNOWN])
    sample = Sample(np.arange(4), probability[:, None].astype(np.float32), target)
    parts = [fit_walls.Part("a", "hdl64", 0.0, [sample])]
    loss, precision = fit_walls.scores(Certain(), parts, load_recipe())
    assert loss == pytest.approx(-np.log([0.9, 0.2, 0.3]).mean(), rel=1e-6)
    assert precision == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_a_city_is_scored_by_a_detector_that_was_fitted_to_the_others(fit_walls, monkeypatch):
    parts = [fit_walls.Part(city, "hdl64", 0.0, []) for city in ("a", "b", "a")]
    fitted, scored = [], []
    monkeypatch.setattr(fit_walls, "fit", lambda some, _: fitted.append(some))

    def scores(_, some, __):
        scored.append(some)
        return float(len(some)), 1.0

    monkeypatch.setattr(fit_walls, "scores", scores)
    assert fit_walls.left_out(parts, None) == (1.5, 1.0)
    assert [[part.city for part in some] for some in fitted] == [["b"], ["a", "a"]]
    assert [[part.city for part in some] for some in scored] == [["a", "a"], ["b"]]


def test_a_thinned_cloud_is_a_share_of_the_points(fit_walls):
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (1000, 3)).astype(np.float32)
    kind = rng.integers(0, 9, 1000).astype(np.uint8)
    scan = np.sort(rng.integers(0, 3, 1000)).astype(np.int32)
    cloud = Submap(points, scan, np.zeros((3, 3), np.float32), kind)
    some = [fit_walls.thinned(cloud, rng) for _ in range(50)]
    share = np.array([len(one.points) for one in some]) / 1000
    assert share.min() < 0.03 < 0.5 < share.max()
    whole = {tuple(row) for row in np.column_stack([points, scan, kind]).tolist()}
    one = some[0]
    left = np.column_stack([one.points, one.scan, one.kind])
    assert {tuple(row) for row in left.tolist()} <= whole
