"""Streets given by formulas, so that the true road and the true ground beside it are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.geometry import rotate
from maptile_loc.perceive.kerbs import (
    KerbSettings,
    ground_heights,
    kerb_votes,
    rises,
    road_evidence,
)
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap

SIZE, RESOLUTION = 128, 0.5
SETTINGS = KerbSettings()
HALF_M, KERB_M = 4.0, 0.12
ORIGIN = np.column_stack([np.arange(-10.0, 11), np.zeros(21), np.full(21, 1.5)]).astype(np.float32)


def meadow(extent=20.0, step=0.2):
    """(N, 2) points on a square lattice."""
    at = np.arange(-extent, extent, step) + step / 2
    return np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)


def street(xy, kerb=KERB_M, gap=(0.0, 0.0)):
    """(N,) height of a street along x with a kerb on both sides, and a gap in the left one."""
    beside = np.abs(xy[:, 1]) > HALF_M
    lowered = (xy[:, 1] > 0) & (xy[:, 0] > gap[0]) & (xy[:, 0] < gap[1])
    return kerb * (beside & ~lowered)


def evidence(xy, z, origin=ORIGIN, noise=0.0, height=None, how=SETTINGS):
    z = z + np.random.default_rng(0).normal(0, noise, len(z))
    height = np.asarray(z if height is None else height, np.float32)
    cloud = xy.astype(np.float32), z.astype(np.float32), height
    return road_evidence(kerb_votes(*cloud, origin, SIZE, RESOLUTION, how), how)


def at(road, x, y):
    """The evidence at x metres ahead and y metres to the left."""
    row, column = SIZE / 2 - np.asarray(y) / RESOLUTION, np.asarray(x) / RESOLUTION + SIZE / 2
    return road[np.floor(row).astype(int), np.floor(column).astype(int)]


def grid(x, y):
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).T


ON = grid(np.arange(-9.75, 10, 0.5), np.arange(-2.75, 3, 0.5))
BESIDE = grid(np.arange(-9.75, 10, 0.5), [-6.25, -5.75, -5.25, 5.25, 5.75, 6.25])


def test_ground_between_kerbs_is_road_and_ground_behind_them_is_beside_it():
    road = evidence(meadow(), street(meadow()), noise=0.01)
    assert (at(road, *ON) == 1).all()
    assert (at(road, *BESIDE) == -1).all()
    row, _ = np.nonzero(road > 0)
    assert (np.abs(SIZE / 2 - row - 0.5) * RESOLUTION < HALF_M).all()
    known_row, _ = np.nonzero(road)
    assert (np.abs(SIZE / 2 - known_row - 0.5) * RESOLUTION < HALF_M + 3).all()


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.06, 0.06), st.floats(-0.06, 0.06), st.floats(-50, 50))
def test_slopes_and_heights_do_not_matter(east, north, up):
    xy = meadow()
    z = street(xy)
    level = evidence(xy, z)
    tilted = evidence(xy, z + xy @ [east, north] + up, height=z)
    assert (at(tilted, *ON) == 1).all()
    assert (at(tilted, *BESIDE) == -1).all()
    assert ((tilted != 0) == (level != 0)).mean() > 0.98


@pytest.mark.parametrize("degrees", [10, 33, 45, 90, 160])
def test_streets_in_all_directions_give_the_same_evidence(degrees):
    xy = meadow()
    turn = np.radians(degrees)
    # The points stay where they are; the street is rotated.
    z = street(rotate(xy, -turn))
    origin = np.column_stack([rotate(ORIGIN[:, :2], turn), ORIGIN[:, 2]])
    road = evidence(xy, z, origin.astype(np.float32))
    on, beside = (rotate(cells.T, turn).T for cells in (ON, BESIDE))
    assert (at(road, *on) > 0).mean() > 0.95
    assert (at(road, *beside) < 0).mean() > 0.95


def test_the_order_of_points_does_not_matter():
    xy = meadow()
    order = np.random.default_rng(1).permutation(len(xy))
    expected = evidence(xy, street(xy))
    np.testing.assert_array_equal(evidence(xy[order], street(xy[order])), expected)


@pytest.mark.parametrize("kerb", [0.0, 0.02, -KERB_M, 0.6])
def test_without_a_kerb_the_surface_is_unknown(kerb):
    """Level ground, a lowered kerb, a ditch, and a wall 0.6 m high."""
    xy = meadow()
    z = street(xy, kerb)
    assert not evidence(xy, z, noise=0.005).any()


def test_a_hump_in_the_middle_of_the_road_is_no_kerb():
    xy = meadow()
    assert not evidence(xy, 0.15 * np.cos(xy[:, 1] * np.pi / 8) ** 2).any()


def test_a_side_street_is_not_beside_the_road():
    xy = meadow()
    road = evidence(xy, street(xy, gap=(-5, 5)))
    assert (at(road, *grid(np.arange(-3, 4, 0.5), np.arange(5, 12, 0.5))) >= 0).all()
    assert (at(road, *grid(np.arange(-3, 4, 0.5), [-6.25, -5.75, -5.25])) == -1).all()


def test_ground_behind_a_parked_car_is_unknown():
    xy = meadow()
    car = (np.abs(xy[:, 0]) < 20) & (xy[:, 1] > 2) & (xy[:, 1] < 3)
    z = np.where(car, 1.0, street(xy))
    road = evidence(xy, z)
    assert not road[: SIZE // 2 - 4].any()
    assert (at(road, *grid(np.arange(-9.75, 10, 0.5), [-6.25, -5.75])) == -1).all()


def test_a_wide_gap_in_the_ground_ends_a_direction():
    xy = meadow()
    seen = (np.abs(xy[:, 1]) < 2) | (np.abs(xy[:, 1]) > 3.9)
    assert evidence(xy[seen], street(xy)[seen]).any()  # a gap next to the vehicle does not
    far = (np.abs(xy[:, 1]) < 7) | (np.abs(xy[:, 1]) > 9.5)
    wide = KERB_M * (np.abs(xy[:, 1]) > 10)
    assert evidence(xy, wide).any()
    assert not evidence(xy[far], wide[far]).any()


def test_kerbs_beyond_the_range_are_not_found():
    xy = meadow(28.0)
    assert not evidence(xy, KERB_M * (np.abs(xy[:, 1]) > SETTINGS.range_m + 0.5)).any()


def test_settings_say_what_a_kerb_is():
    xy = meadow()
    low = street(xy, 0.03)
    assert not evidence(xy, low).any()
    assert (at(evidence(xy, low, how=KerbSettings(min_rise_m=0.02)), *BESIDE) == -1).all()


def test_a_step_rises_and_a_plane_does_not():
    xy = meadow()
    plane = ground_heights(xy.astype(np.float32), (0.1 * xy[:, 0] - 0.03 * xy[:, 1]), SIZE, 0.5)
    inner = slice(30, -30)
    for rise in rises(plane, RESOLUTION, SETTINGS.slope_m):
        np.testing.assert_allclose(rise[inner, inner], 0, atol=5e-3)
    step = ground_heights(xy.astype(np.float32), 0.2 * (xy[:, 1] > 0), SIZE, RESOLUTION)
    east, north = rises(step, RESOLUTION, SETTINGS.slope_m)
    np.testing.assert_allclose(north[SIZE // 2 - 1 : SIZE // 2 + 1, inner], 0.2, atol=0.07)
    np.testing.assert_allclose(east[inner, inner], 0, atol=1e-3)
    empty = np.full((16, 16), np.nan, np.float32)
    assert not rises(empty, RESOLUTION, SETTINGS.slope_m)[0].any()


def test_a_cloud_without_points_gives_no_votes():
    none = np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32)
    assert not kerb_votes(*none, ORIGIN, SIZE, RESOLUTION, SETTINGS).any()


def test_a_tile_has_road_evidence_from_kerbs():
    xy = meadow()
    points = np.column_stack([xy, street(xy) - 1.5]).astype(np.float32)
    cloud = Submap(points, np.zeros(len(xy), np.int32), np.zeros((1, 3), np.float32))
    tile = make_tile(cloud, np.pi / 2, QuerySettings(size_m=64.0))
    road = tile.road
    assert road is not None
    on, beside = (
        grid(np.arange(-4, 5), [-2.5, -1.5, 1.5, 2.5]),
        grid(np.arange(-4, 5), [-5.75, 5.75]),
    )
    on, beside = (rotate(cells.T, np.pi / 2).T for cells in (on, beside))
    assert (at(road, *on) == 1).all()
    assert (at(road, *beside) == -1).all()
