from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made import UTM, blocks_raster, seen_walls
from made_scene import bare_fields

from data_prep.city.raster import BUILDING, ROAD, MapRaster
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap
from maptile_loc.score import fields as fields_module
from maptile_loc.score import map_fields
from maptile_loc.score.channels import (
    CELL_CHANNELS,
    CELL_GROUPS,
    CHANNELS,
    GROUPS,
    PATH_GROUP,
    SPINS,
)
from maptile_loc.score.evidence import Evidence, Points, make_evidence, turned
from maptile_loc.score.likelihood import log_likelihood, of_each_point, sample
from maptile_loc.score.map_fields import MapFields, make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.score.surroundings import signed_distance, surroundings
from maptile_loc.search.engine.spectra import Correlator

SETTINGS = LikelihoodSettings()
CPU = torch.device("cpu")


def drawn(building=None, road=None, side=200, resolution=0.5):
    """A map of the areas where ``building`` and ``road``, functions of east and north, are true.

    East and north are metres from the middle of the map.
    """
    at = (np.arange(side) + 0.5 - side / 2) * resolution
    east, north = np.meshgrid(at, -at)
    data = np.zeros((3, side, side), np.uint8)
    for band, shape in ((BUILDING, building), (ROAD, road)):
        if shape is not None:
            data[band] = 255 * shape(east, north)
    return MapRaster(data, 620_000.0, 5_736_000.0, resolution, UTM)


def with_roads(seed=3, **kwargs):
    raster = blocks_raster(seed=seed, **kwargs)
    data = raster.data.copy()
    data[ROAD, 150:162], data[ROAD, :, 300:310] = 255, 255
    return replace(raster, data=data)


# --- Fields -----------------------------------------------------------------------------------


def test_signed_distance_of_a_square():
    coverage = np.zeros((40, 40), np.float32)
    coverage[10:30, 10:30] = 1
    distance = signed_distance(coverage, 0.5, 8.0)
    assert distance[20, 10] == pytest.approx(-0.25)  # half a cell inside the western edge
    assert distance[20, 9] == pytest.approx(0.25)
    assert distance[20, 20] == pytest.approx(-4.75)
    assert distance[5, 5] == pytest.approx((np.hypot(5, 5) - 0.5) * 0.5)
    assert (signed_distance(np.zeros((9, 9), np.float32), 0.5, 8.0) == 8.0).all()


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 140, 180, 225, 270, 333])
def test_fields_near_a_long_wall_follow_the_profiles(degrees):
    """Half of the map is a building; its edge has the normal ``degrees``, near the middle."""
    angle = np.radians(degrees)
    edge = 0.0 if degrees % 90 == 0 else 0.13  # through no pixel centre

    def behind(east, north):
        return np.cos(angle) * east + np.sin(angle) * north < edge

    fields = make_fields(drawn(behind), 0.5, SETTINGS)
    at = (np.arange(200) + 0.5 - 100) * 0.5
    east, north = np.meshgrid(at, -at)
    distance = np.cos(angle) * east + np.sin(angle) * north - edge
    near = (np.hypot(east, north) < 30) & (np.abs(distance) < 7)
    channels = fields.channels[:, near]

    def profile(name):
        # The largest effect of the distance error at a rasterised oblique edge, 0.41 m.
        values = np.asarray(getattr(SETTINGS, name))
        steepest = np.abs(np.diff(values) / np.diff(SETTINGS.edge_m)).max()
        return np.interp(distance[near], SETTINGS.edge_m, values), 0.41 * steepest + 1e-4

    for channel, name in ((0, "wall"), (5, "free")):
        expected, slack = profile(name)
        off = channels[channel] - expected
        assert np.ptp(off) < 2 * slack  # up to the mean over the map
    for (first, second), spin, name in (((1, 2), 1, "facing"), ((3, 4), 2, "line")):
        expected, slack = profile(name)
        along = channels[first] * np.cos(spin * angle) + channels[second] * np.sin(spin * angle)
        across = channels[second] * np.cos(spin * angle) - channels[first] * np.sin(spin * angle)
        assert np.abs(along - expected).max() < slack + 0.03
        assert np.abs(across).max() < 0.15
        if degrees % 90 == 0:
            # Smoothing acts at the kink of the profile only.
            np.testing.assert_allclose(along, expected, atol=1e-4)
            np.testing.assert_allclose(across, 0, atol=1e-5)


def test_normals_point_out_of_a_building():
    around = surroundings(
        drawn(lambda e, n: (np.abs(e) < 12) & (np.abs(n) < 12)).coverage(BUILDING, 0.5),
        np.zeros((200, 200), np.float32),
        0.5,
        SETTINGS,
    )
    for row, column, east, north in (
        *((100, 130, 1, 0), (100, 70, -1, 0), (70, 100, 0, 1), (130, 100, 0, -1)),
        *((100, 120, 1, 0), (80, 100, 0, 1)),  # inside, near the edge
    ):
        found = around.east[row, column], around.north[row, column]
        np.testing.assert_allclose(found, (east, north), atol=1e-2)
    np.testing.assert_allclose(around.east[60, 140], np.sqrt(0.5), atol=0.05)


def test_the_mean_of_each_field_is_zero():
    fields = make_fields(with_roads(), 1.0, SETTINGS)
    assert len(fields.channels) == len(CHANNELS)
    for channel in (0, 5, 6, 7, 8, 9):
        assert fields.channels[channel].mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
        assert np.ptp(fields.channels[channel]) > 1e-3


@pytest.mark.parametrize("side", [37, 128])
def test_fields_made_in_blocks_equal_those_of_the_whole_map(monkeypatch, side):
    """A window of any blocks, and what lies beyond the edges, which is 0."""
    raster = with_roads()
    whole = make_fields(raster, 1.0, SETTINGS)
    monkeypatch.setattr(map_fields, "BLOCK", side)
    blocks = MapFields(raster, 1.0, SETTINGS)
    # Sums in another order round the course of roads to another 127th at most.
    slack = SETTINGS.course / 127 + 1e-6
    np.testing.assert_allclose(blocks.channels[:10], whole.channels[:10], atol=1e-5)
    np.testing.assert_allclose(blocks.channels[10:], whole.channels[10:], atol=slack)
    assert (np.abs(blocks.channels - whole.channels) < 1e-5).mean() > 0.999
    assert (blocks.building == whole.building).all()
    height, width = whole.shape
    for window in ((-20, -7, 60, 90), (30, 70, 100, 1), (height - 30, width - 40, 77, 50)):
        np.testing.assert_array_equal(
            blocks.window(*window), fields_module.cut(blocks.channels, *window)
        )
        np.testing.assert_array_equal(blocks.buildings(*window), whole.buildings(*window))
    wide, expected = blocks.coarser(4), blocks_in_memory(blocks).coarser(4)
    np.testing.assert_allclose(wide.channels, expected.channels, atol=2e-3)
    assert (wide.building == expected.building).all()


def blocks_in_memory(fields):
    """The same fields as one array."""
    corner = fields.west, fields.north, fields.resolution
    return fields_module.FieldArrays(fields.channels, *corner, fields.building)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_fields_of_a_turned_map_are_turned(quarters):
    raster = with_roads()
    here = make_fields(raster, 1.0, SETTINGS).channels
    data = np.rot90(raster.data, quarters, axes=(1, 2)).copy()
    there = make_fields(replace(raster, data=data), 1.0, SETTINGS).channels
    expected = np.rot90(here, quarters, axes=(1, 2)).copy()
    for first, second, spin in SPINS:
        both = (expected[first] + 1j * expected[second]) * 1j ** (spin * quarters)
        expected[first], expected[second] = both.real, both.imag
    # Half-way between two walls, rounding decides which of them is nearer.
    np.testing.assert_allclose(there[[0, 5, 6, 7, 8, 9]], expected[[0, 5, 6, 7, 8, 9]], atol=1e-4)
    alike = (np.abs(there[1:5] - expected[1:5]) < 1e-4).mean()
    assert alike > 0.99


@pytest.mark.parametrize("degrees", [0, 25, 45, 90, 120])
def test_the_course_of_a_straight_road(degrees):
    angle = np.radians(degrees)

    def road(east, north):
        return np.abs(np.cos(angle) * north - np.sin(angle) * east) < 3

    raster = drawn(road=road)
    none = np.zeros((200, 200), np.float32)
    around = surroundings(none, raster.coverage(ROAD, 0.5), 0.5, SETTINGS)
    at = np.hypot(*np.mgrid[-100:100, -100:100]) < 6
    found = (around.course_cos + 1j * around.course_sin)[at]
    # The window is a square, not a disc.
    assert np.abs(np.degrees(np.angle(found / np.exp(2j * angle)))).max() < 5
    assert np.abs(found).min() > 0.6
    if degrees == 0:
        # A rectangle: the window's 41 cells by the road's 12.
        middle = around.course_cos[100, 100]
        assert middle == pytest.approx((41**2 - 12**2) / (41**2 + 12**2 - 2), abs=1e-3)


def test_a_crossroads_has_no_course():
    def roads(east, north):
        return (np.abs(east) < 3.2) | (np.abs(north) < 3.2)

    raster = drawn(road=roads, side=201)
    around = surroundings(
        np.zeros((201, 201), np.float32), raster.coverage(ROAD, 0.5), 0.5, SETTINGS
    )
    course = np.hypot(around.course_cos, around.course_sin)
    assert course[100, 100] < 1e-4
    assert course[100, 140] > 0.8


def test_far_from_roads_there_is_no_course_on_a_wide_map():
    road = np.zeros((60, 60_000), np.float32)
    road[:, 20_000:20_012] = 1
    around = surroundings(np.zeros_like(road), road, 1.0, SETTINGS)
    assert np.hypot(around.course_cos, around.course_sin)[:, 20_030:].max() < 0.01
    assert around.course_cos[30, 20_006] < -0.1


def test_fields_beside_a_road_follow_the_profiles():
    fields = make_fields(drawn(road=lambda e, n: np.abs(n) < 3), 0.5, SETTINGS)
    north = (np.arange(200) + 0.5 - 100) * -0.5
    distance = np.maximum(np.abs(north) - 3, 0)
    for channel, name in ((6, "ground"), (7, "surface"), (8, "beside"), (9, "path")):
        expected = np.interp(distance, SETTINGS.road_m, getattr(SETTINGS, name))
        np.testing.assert_allclose(
            fields.channels[channel, :, 100], expected - expected.mean(), atol=1e-5
        )


def test_wrong_settings_are_errors():
    with pytest.raises(ValueError, match="increasing"):
        LikelihoodSettings(road_m=(0, 3, 3, 6, 10, 16, 25))
    with pytest.raises(ValueError, match="line needs 14 values"):
        LikelihoodSettings(line=(1.0, 2.0))


def test_coarser_fields_are_means():
    rng = np.random.default_rng(0)
    channels = rng.normal(size=(2, 7, 10)).astype(np.float32)
    wide = bare_fields(channels, 5.0, 9.0, 1.0).coarser(3)
    assert wide.channels.shape == (2, 3, 4)
    assert (wide.west, wide.north, wide.resolution) == (5.0, 9.0, 3.0)
    assert wide.channels[1, 1, 2] == pytest.approx(channels[1, 3:6, 6:9].mean())
    # Cells off the map are 0.
    assert wide.channels[0, 2, 3] == pytest.approx(channels[0, 6, 9] / 9)


# --- The score of a pose ----------------------------------------------------------------------


def at_point(field, row, column):
    """Bilinear interpolation between the centres of cells, 0 off the map."""
    total = 0.0
    top, left = int(np.floor(row - 0.5)), int(np.floor(column - 0.5))
    for r in (top, top + 1):
        for c in (left, left + 1):
            if 0 <= r < field.shape[0] and 0 <= c < field.shape[1]:
                weight = (1 - abs(row - 0.5 - r)) * (1 - abs(column - 0.5 - c))
                total += weight * float(field[r, c])
    return total


def slow_log_likelihood(pose, groups, rotation, fields):
    """The log-likelihood of one pose, point by point and channel by channel."""
    spins = {first: (second, spin) for first, second, spin in SPINS}
    seconds = {second for second, _ in spins.values()}
    turn, total = pose[2] - rotation, 0.0
    for group in groups:
        start = group.group.first
        for (x, y), values in zip(group.xy.tolist(), group.values.tolist(), strict=True):
            east = pose[0] + np.cos(turn) * x - np.sin(turn) * y
            north = pose[1] + np.sin(turn) * x + np.cos(turn) * y
            row = (fields.north - north) / fields.resolution
            column = (east - fields.west) / fields.resolution
            for offset, value in enumerate(values):
                channel = start + offset
                if channel in seconds:
                    continue
                field = at_point(fields.channels[channel], row, column)
                if channel in spins:
                    second, spin = spins[channel]
                    seen = complex(value, values[second - start]) * np.exp(1j * spin * turn)
                    other = at_point(fields.channels[second], row, column)
                    total += field * seen.real + other * seen.imag
                else:
                    total += field * value
    return total


def random_world(seed, size=24):
    """Random fields, and random points of each kind around the middle of a tile."""
    rng = np.random.default_rng(seed)
    channels = rng.normal(size=(len(CHANNELS), size, size + 7)).astype(np.float32)
    fields = bare_fields(channels, 620_000.0, 5_736_000.0, 2.0)
    groups = [
        Points(
            group,
            rng.uniform(-15, 15, (count, 2)).astype(np.float32),
            rng.normal(size=(count, len(group.channels))).astype(np.float32),
        )
        for group, count in zip(GROUPS, (13, 9, 0, 5, 7, 4), strict=True)
    ]
    return fields, groups, rng


@pytest.mark.parametrize("rotation", [0.0, 1.3])
def test_the_score_equals_a_plain_loop(rotation):
    fields, groups, rng = random_world(4)
    poses = np.stack(
        [
            fields.west + rng.uniform(-5, 65, (4, 3)),  # some points are off the map
            fields.north - rng.uniform(-5, 50, (4, 3)),
            rng.uniform(-np.pi, np.pi, (4, 3)),
        ],
        axis=-1,
    )
    found = log_likelihood(poses, groups, rotation, fields)
    assert found.shape == (4, 3)
    expected = [
        [slow_log_likelihood(pose, groups, rotation, fields) for pose in row] for row in poses
    ]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.ptp(expected) > 5


def test_the_score_is_the_sum_over_the_points():
    fields, groups, rng = random_world(6)
    poses = np.stack(
        [
            fields.west + rng.uniform(0, 60, 5),
            fields.north - rng.uniform(0, 45, 5),
            rng.uniform(-np.pi, np.pi, 5),
        ],
        axis=-1,
    )
    for one in sample(poses, groups, 0.4, fields):
        found = of_each_point(one, poses[:, 2] - 0.4)
        expected = [
            log_likelihood(
                poses[None], [Points(one.points.group, xy[None], values[None])], 0.4, fields
            )[0]
            for xy, values in zip(one.points.xy, one.points.values, strict=True)
        ]
        np.testing.assert_allclose(found.T, expected, atol=1e-5)


def test_without_points_the_score_is_zero():
    fields, groups, _ = random_world(5)
    empty = groups[2]
    assert len(empty.xy) == 0
    assert not log_likelihood(np.zeros((2, 3, 3)), [empty], 0.0, fields).any()


def test_the_score_off_the_map_is_zero():
    fields, groups, _ = random_world(5)
    far = np.array([[[fields.west - 300.0, fields.north + 300.0, 0.2]]])
    assert log_likelihood(far, groups, 0.0, fields)[0, 0] == 0.0


def as_points(images, resolution, path=(), looks=()):
    """The cells of (C, S, S) evidence as points."""
    half = images.shape[1] / 2
    row, column = np.mgrid[: images.shape[1], : images.shape[1]].reshape(2, -1)
    xy = np.column_stack([column + 0.5 - half, half - row - 0.5]) * resolution
    values = images.reshape(len(images), -1).T
    groups = [
        Points(group, xy.astype(np.float32), np.ascontiguousarray(values[:, group.span]))
        for group in CELL_GROUPS
    ]
    return [*groups, Points(PATH_GROUP, np.asarray(path), np.asarray(looks))]


def scores_by_transform(fields, evidence, turns, rows, columns):
    correlator = Correlator(fields, evidence.images.shape[-1], rows, columns, CPU)
    result = torch.zeros(len(turns), len(correlator.used), *[correlator.step] * 2)
    for start, blocks, scores in correlator.scores(turned(evidence, turns, fields.resolution, CPU)):
        result[start : start + len(scores), blocks] = scores
    return torch.stack([correlator.whole(one, 0) for one in result]).numpy()


def grid_poses(fields, rows, columns, headings):
    """(T, R, C, 3) poses at cell corners."""
    heading, row, column = np.meshgrid(
        headings, np.arange(*rows), np.arange(*columns), indexing="ij"
    )
    step = fields.resolution
    return np.stack([fields.west + column * step, fields.north - row * step, heading], axis=-1)


def test_search_and_score_agree_at_quarter_turns():
    """Cells turn into cells, so both agree up to rounding, also across the map's edge."""
    rng = np.random.default_rng(8)
    channels = rng.normal(size=(len(CHANNELS), 30, 37)).astype(np.float32)
    fields = bare_fields(channels, 620_000.0, 5_736_000.0, 1.0)
    images = rng.normal(size=(len(CELL_CHANNELS), 16, 16)).astype(np.float32)
    path = (rng.integers(-7, 7, (5, 2)) + 0.5).astype(np.float32)
    looks = rng.normal(size=(5, 3)).astype(np.float32)
    evidence = Evidence(images, path, looks, 1.0)
    turns = np.arange(4) * np.pi / 2 + 1e-7  # so that no point is on the edge of a cell
    found = scores_by_transform(fields, evidence, turns, (0, 30), (4, 37))
    poses = grid_poses(fields, (0, 30), (4, 37), turns + 0.4)
    groups = as_points(images, 1.0, path, looks)
    expected = log_likelihood(poses.reshape(4, -1, 3), groups, 0.4, fields).reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_search_and_score_agree_at_any_turn():
    """On fields as smooth as waves of 20 cells, interpolation between cells hardly matters."""
    rng = np.random.default_rng(9)
    row, column = np.mgrid[:64, :64] + 0.5
    waves = [
        np.sin(2 * np.pi * (row * np.cos(a) + column * np.sin(a)) / 20 + b)
        for a, b in rng.uniform(0, 6, (len(CHANNELS), 2))
    ]
    fields = bare_fields(np.array(waves, np.float32), 620_000.0, 5_736_000.0, 1.0)
    # Away from the corners, which a turn would push off the tile.
    images = np.zeros((len(CELL_CHANNELS), 32, 32), np.float32)
    images[:, 7:25, 7:25] = rng.random((len(CELL_CHANNELS), 18, 18))
    none = np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)
    evidence = Evidence(images, *none, 1.0)
    turns = np.radians([10.0, 77.0, 200.0, 333.0])
    found = scores_by_transform(fields, evidence, turns, (24, 40), (24, 40))
    poses = grid_poses(fields, (24, 40), (24, 40), turns)
    groups = as_points(images, 1.0, *none)
    expected = log_likelihood(poses.reshape(4, -1, 3), groups, 0.0, fields).reshape(found.shape)
    assert np.abs(found - expected).max() < 0.03 * expected.std()
    unturned = scores_by_transform(fields, evidence, np.zeros(1), (24, 40), (24, 40))
    assert np.abs(unturned - expected).max() > 0.3 * expected.std()


def test_search_and_score_agree_for_a_tile():
    raster = with_roads()
    fields = make_fields(raster, 1.0, SETTINGS)
    cloud = seen_walls(raster, raster.centre, 0.0, np.random.default_rng(0))
    scan = np.zeros(len(cloud), np.int32)
    tile = make_tile(
        Submap(cloud, scan, np.zeros((1, 3), np.float32)), 0.0, QuerySettings(size_m=96.0)
    )
    evidence = make_evidence(tile, 1.0)
    found = scores_by_transform(fields, evidence, np.zeros(1), (150, 250), (150, 250))
    poses = grid_poses(fields, (150, 250), (150, 250), np.zeros(1))
    seen = evidence.points
    expected = log_likelihood(poses.reshape(1, -1, 3), seen, 0.0, fields).reshape(found.shape)
    # In points, free space and ground are blocks of four by four cells.
    assert np.abs(found - expected).max() < 0.35 * expected.std()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.998
