from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maptile_loc.perceive.ground import height_above_ground

HERE = np.zeros(2, np.float32)


def street(rng, height=lambda x, y: 0 * x, count=30_000, reach=40.0):
    x, y = rng.uniform(-reach, reach, (2, count))
    return np.column_stack([x, y, height(x, y) + rng.normal(0, 0.02, count)])


def heights(*parts):
    return height_above_ground(np.concatenate(parts).astype(np.float32), HERE, 2.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(-0.15, 0.15), st.floats(-0.15, 0.15), st.floats(-50, 50))
def test_a_slope_is_ground_everywhere(along, across, level):
    rng = np.random.default_rng(0)
    seen = heights(street(rng, lambda x, y: level + along * x + across * y))
    assert np.abs(seen).max() < 0.7  # the height that a cell of 2 m spans
    assert np.abs(seen).mean() < 0.25


def test_a_hill_and_a_kerb_are_followed():
    rng = np.random.default_rng(1)
    hill = street(rng, lambda x, y: 1.5 * np.sin(x / 15) + np.where(y > 5, 0.12, 0.0))
    assert np.quantile(np.abs(heights(hill)), 0.99) < 0.4


@settings(max_examples=10, deadline=None)
@given(depth=st.floats(2, 9), x=st.floats(-30, 30), y=st.floats(8, 30))
def test_reflections_from_below_the_street_do_not_lower_it(depth, x, y):
    rng = np.random.default_rng(2)
    below = rng.uniform([x, y, -depth], [x + 3, y + 3, -depth + 0.5], (200, 3))
    assert np.abs(heights(street(rng), below)[:30_000]).max() < 0.3


def test_the_ground_below_roofs_and_far_walls_is_the_street():
    rng = np.random.default_rng(3)
    road = street(rng, count=20_000, reach=20.0)
    roof = rng.uniform([5, 5, 8], [15, 15, 8.1], (3000, 3))
    far = np.column_stack([np.full(500, 55.0), rng.uniform(-10, 10, 500), rng.uniform(2, 6, 500)])
    seen = heights(road, roof, far)
    assert seen[20_000:23_000] == pytest.approx(np.full(3000, 8.05), abs=0.2)
    assert seen[23_000:] == pytest.approx(far[:, 2], abs=0.2)


def test_heights_do_not_depend_on_the_origin_of_z():
    rng = np.random.default_rng(4)
    points = np.concatenate([street(rng), rng.uniform([3, 3, 0], [4, 9, 7], (500, 3))])
    raised = height_above_ground((points + [0, 0, 112.0]).astype(np.float32), HERE, 2.0)
    assert raised == pytest.approx(heights(points), abs=2e-3)
