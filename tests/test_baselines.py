"""The baselines find what they can find, and their figures are what they say."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
from conftest import ROOT
from made import blocks_raster, seen_walls

from data_prep.city.raster import ROAD
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap

QUERY = QuerySettings(size_m=128.0)
NO_EVIDENCE = None  # the baselines read the tile alone
KNOWN = np.zeros(1), np.zeros(1)
TURNS = np.radians(np.arange(0, 360, 4.0))
UNKNOWN = TURNS, np.full(len(TURNS), -np.log(len(TURNS)))


def streets():
    """Blocks, and roads wherever there is no block."""
    raster = blocks_raster(side_m=300.0)
    data = raster.data.copy()
    data[ROAD] = 255 - data[0]
    return type(raster)(data, raster.west, raster.north, raster.resolution, raster.crs)


RASTER = streets()


@pytest.fixture(scope="module")
def baselines():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("baselines")


@pytest.fixture(scope="module")
def rays(baselines):
    return baselines.RayDescriptor(RASTER)


@pytest.fixture(scope="module")
def engine():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("engine")


def free_places(count, seed=0):
    """Positions outside buildings, and far from the map's edge."""
    rng = np.random.default_rng(seed)
    free = np.argwhere(RASTER.data[0, 150:450, 150:450] == 0) + 150
    return RASTER.world_from_pixel(free[rng.choice(len(free), count)] + 0.5)


def visible_tile(baselines, place, heading, rotation):
    """The first walls in all directions from ``place``, in a tile turned by ``rotation``."""
    pixel = np.floor(RASTER.pixel_from_world(place)).astype(int)[None]
    ranges = baselines.cast(RASTER.data[0] > 0, pixel, 0.5, 0.5, 0.25)[0]
    angle = np.radians(np.arange(360)) - heading
    hit = ranges < 50.0
    xy = (ranges[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1))[hit]
    xyz = np.column_stack([np.repeat(xy, 12, axis=0), np.tile(np.linspace(0.5, 6, 12), hit.sum())])
    ground = np.random.default_rng(0).uniform([-30, -30, 0], [30, 30, 0.01], (4000, 3))
    points = np.concatenate([xyz, ground]).astype(np.float32)
    cloud = Submap(points, np.zeros(len(points), np.int32), np.zeros((1, 3), np.float32))
    return make_tile(cloud, rotation, QUERY)


def test_rays_end_at_walls(baselines):
    blocked = np.zeros((200, 200), bool)
    blocked[:, 140:] = True  # a wall 20 m to the east of the middle
    blocked[20:24] = True  # and one 38 m to the north
    ranges = baselines.cast(blocked, np.array([[100, 100]]), 0.0, 0.5, 0.25)[0]
    assert ranges[0] == pytest.approx(20.0, abs=0.3)
    assert ranges[45] == pytest.approx(20.0 * np.sqrt(2), abs=0.4)
    assert ranges[90] == pytest.approx(38.0, abs=0.3)
    assert ranges[180] == 50.0
    assert (ranges[200:270] == 50.0).all()


@pytest.mark.parametrize("heading", [0.0, 1.1])
def test_the_rays_find_a_place_whose_walls_are_seen(baselines, rays, heading):
    for place in free_places(4):
        known = rays.candidates(
            visible_tile(baselines, place, heading, heading), NO_EVIDENCE, *KNOWN
        )
        assert np.hypot(*(known.poses[0, :2] - place)) < 2.5
        assert known.poses[0, 2] == pytest.approx(heading)
        unknown = rays.candidates(
            visible_tile(baselines, place, heading, 2.5), NO_EVIDENCE, *UNKNOWN
        )
        assert np.hypot(*(unknown.poses[0, :2] - place)) < 2.5
        assert abs(np.degrees(unknown.poses[0, 2] - heading)) < 2.0


def test_the_histogram_of_rays_does_not_turn(rays):
    turned = np.roll(rays.ranges[:20], 77, axis=1)
    np.testing.assert_array_equal(rays._histogram(turned), rays.histograms[:20])
    assert rays.histograms.sum(axis=1).max() == pytest.approx(1.0, abs=1e-6)


def test_the_descriptors_poses_are_near_roads_and_inside(rays):
    row, column = np.floor(RASTER.pixel_from_world(rays.places)).astype(int).T
    assert (RASTER.data[0, row, column] == 0).all()
    assert RASTER.inside(rays.places, 25.0).all()
    assert rays.area_km2 == pytest.approx(
        (RASTER.data[0, 50:-50, 50:-50] == 0).sum() / 4e6, rel=0.1
    )


@pytest.mark.parametrize("heading", [0.0, -0.7])
def test_plain_correlation_finds_a_place(baselines, heading):
    plain = baselines.PlainCorrelation(RASTER, QUERY.size_m, baselines.PlainSettings())
    for place in free_places(3, seed=1):
        points = seen_walls(RASTER, place, heading, np.random.default_rng(0))
        cloud = Submap(points, np.zeros(len(points), np.int32), np.zeros((1, 3), np.float32))
        known = plain.candidates(make_tile(cloud, heading, QUERY), NO_EVIDENCE, *KNOWN)
        assert np.hypot(*(known.poses[0, :2] - place)) < 1.0
        assert known.poses[0, 2] == pytest.approx(heading)
        unknown = plain.candidates(make_tile(cloud, 2.5, QUERY), NO_EVIDENCE, *UNKNOWN)
        assert np.hypot(*(unknown.poses[0, :2] - place)) < 1.5
        assert abs(np.degrees(unknown.poses[0, 2] - heading)) < 4.0


def test_plain_correlation_is_the_sum_over_the_walls(baselines):
    plain = baselines.PlainCorrelation(RASTER, QUERY.size_m, baselines.PlainSettings())
    tile = visible_tile(baselines, RASTER.centre, 0.0, 0.0)
    found = plain.candidates(tile, NO_EVIDENCE, *KNOWN)
    xy, weight = baselines.wall_points(tile)
    assert weight.sum() == pytest.approx(tile.wall.sum(), rel=1e-6)

    field = np.fft.irfft2(plain.spectrum.numpy(), s=plain.padded)

    def score(place):
        row = np.floor(plain.north - place[1] - xy[:, 1]).astype(int)
        column = np.floor(place[0] - plain.west + xy[:, 0]).astype(int)
        return (field[row, column] * weight).sum()

    scores = [score(pose) for pose in found.poses]
    assert (np.diff(scores) <= 1e-3).all()
    tried = found.poses[0, :2] + np.random.default_rng(0).integers(-40, 40, (300, 2))
    assert max(score(place) for place in tried) <= scores[0] + 1e-3


def test_the_oracle_is_at_most_half_a_cell_off(baselines):
    rng = np.random.default_rng(0)
    truth = np.column_stack(
        [RASTER.centre + rng.uniform(-60, 60, (500, 2)), rng.uniform(-3, 3, 500)]
    )
    step = np.radians(2.0)
    off = baselines.oracle(truth, RASTER, 1.0, step) - truth
    assert np.abs(off[:, :2]).max() == pytest.approx(0.5, abs=0.01)
    assert np.abs(off[:, 2]).max() == pytest.approx(step / 2, rel=0.05)
    assert (baselines.oracle(truth, RASTER, 1.0, 0.0)[:, 2] == truth[:, 2]).all()


@pytest.mark.parametrize(("step", "count"), [(2.0, 180), (4.0, 90), (1.0, 360)])
def test_all_whole_degrees_are_tried(baselines, step, count):
    turns = np.arange(count) * np.radians(step)
    assert baselines.whole_degrees(turns).tolist() == list(range(360))
    assert baselines.whole_degrees(np.zeros(1)).tolist() == [0]
    assert baselines.whole_degrees(np.radians([-2.0, 0.0, 2.0])).tolist() == [0, 1, 2, 3, 358, 359]


def test_a_shift_that_drifts_is_taken_out(engine):
    rng = np.random.default_rng(0)
    travelled = np.linspace(0, 70, 40)
    truth = np.column_stack([rng.uniform(0, 70, (40, 2)), np.zeros(40)])
    shift = np.array([0.3, -0.5]) + travelled[:, None] * [0.01, -0.02]
    poses = truth.copy()
    poses[:, :2] += shift
    poses[7, :2] += 300.0  # an outlier is ignored
    moved = engine.without_drift(poses, truth, travelled)
    np.testing.assert_allclose(moved[:, :2], truth[:, :2] + shift, atol=1e-9)
    np.testing.assert_array_equal(moved[:, 2], truth[:, 2])


def test_figures_by_hand(engine):
    truth = np.zeros((5, 3))
    poses = np.array([[0.5, 0, 0], [1.5, 0, 0.1], [4, 0, 0], [9, 0, 0], [np.nan] * 3])
    counted = np.array([True, True, True, True, False])
    got = engine.figures(poses, truth, counted, np.array([0.0, 50, 100, 150, 200]))
    assert got["n"] == 4
    assert [got[f"recall_{r}m"] for r in (1, 2, 5)] == [0.25, 0.5, 0.75]
    assert got["median_m"] == 1.5
    assert got["heading_recall_1deg"] == 0.75
    assert got["settled_2m"] == 0.0
