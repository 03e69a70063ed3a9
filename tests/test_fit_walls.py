"""The fit of the wall regression: its weights, and the scores of other parameters."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def fit_walls():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks" / "fit"))
        yield import_module("fit_walls")


def make_part(fit_walls, city, rng, count):
    features = rng.normal(0, 1, (count, 3))
    odds = features @ [2.0, -1.0, 0.0] + 0.5
    wall = rng.random(count) < 1 / (1 + np.exp(-odds))
    cells = fit_walls.Cells(features, np.zeros(count), wall)
    return fit_walls.Part(city, "hdl64", 0.0, cells)


def test_the_regression_finds_the_weights_that_walls_were_drawn_from(fit_walls):
    rng = np.random.default_rng(0)
    parts = [make_part(fit_walls, city, rng, 6000) for city in ("a", "b", "c")]
    weights, constant = fit_walls.fit_parts(parts)
    np.testing.assert_allclose([*weights, constant], [2.0, -1.0, 0.0, 0.5], atol=0.12)
    # Each city is scored by a regression on the other two.
    left_out = fit_walls.left_out(parts)
    others, _ = fit_walls.fit_parts(parts[1:])
    offset = left_out[0] - parts[0].cells.features @ others
    assert np.ptp(offset) == pytest.approx(0, abs=1e-6)
    losses = [
        fit_walls.log_loss(odds, part.cells.wall, part.weight)
        for odds, part in zip(left_out, parts, strict=True)
    ]
    nothing = fit_walls.log_loss(np.zeros(6000), parts[0].cells.wall, parts[0].weight)
    assert nothing == pytest.approx(np.log(2))
    assert max(losses) < 0.75 * nothing


def test_every_part_has_the_same_weight(fit_walls):
    rng = np.random.default_rng(0)
    few, many = (make_part(fit_walls, "a", rng, count) for count in (10, 1000))
    assert few.weight.sum() == pytest.approx(many.weight.sum())
