from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from data_prep.errors import MaptileError
from maptile_loc.score.channels import CELL_CHANNELS, CHANNELS, SPINS
from maptile_loc.score.evidence import Evidence, facing, make_evidence, turned
from maptile_loc.score.settings import EvidenceSettings
from maptile_loc.types import QueryTile

CPU = torch.device("cpu")
SETTINGS = EvidenceSettings()
PATH = len(CELL_CHANNELS)
RESOLUTION = 0.5
SIDE = 64
NO_PATH = np.zeros((0, 2), np.float32)
NO_LOOKS = np.zeros((0, 3), np.float32)


def centres(side=SIDE, resolution=RESOLUTION):
    """East and north of the cells' centres, relative to the middle of the tile."""
    at = (np.arange(side) + 0.5 - side / 2) * resolution
    return at[None], -at[:, None]


def drawn_wall(degrees, offset=3.3):
    """A wall ``offset`` metres away in direction ``degrees``, and the free space before it."""
    east, north = centres()
    ahead = np.cos(np.radians(degrees)) * east + np.sin(np.radians(degrees)) * north
    wall = np.clip(1 - np.abs(ahead - offset) / RESOLUTION, 0, 1)
    return wall.astype(np.float32), (ahead < offset - RESOLUTION).astype(np.float32)


def made_tile(seed=0, side=SIDE):
    """A tile of random values."""
    rng = np.random.default_rng(seed)
    wall = np.where(rng.random((side, side)) < 0.5, rng.random((side, side)), 0)
    observed = np.maximum(rng.random((side, side)) < 0.7, wall > 0)
    ground = observed * rng.random((side, side))
    road = ground * rng.uniform(-1, 1, (side, side))
    path = rng.uniform(-side / 5, side / 5, (6, 2))
    wall, ground, observed, path, road = (
        values.astype(np.float32) for values in (wall, ground, observed, path, road)
    )
    return QueryTile(wall, ground, observed, RESOLUTION, 0.3, path, road)


def turned_tile(tile, quarters):
    images = (tile.wall, tile.ground, tile.observed, tile.road)
    *images, road = (np.rot90(image, quarters).copy() for image in images)
    c, s = round(np.cos(quarters * np.pi / 2)), round(np.sin(quarters * np.pi / 2))
    path = tile.path @ np.array([[c, s], [-s, c]], np.float32)
    return QueryTile(*images, tile.resolution, tile.rotation, path, road)


# --- Normals of walls --------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 17, 45, 73, 90, 118, 135, 180, 200, 270, 301, 359])
def test_a_wall_faces_the_side_that_is_free(degrees):
    wall, free = drawn_wall(degrees)
    east, north, straight = facing(wall, free, RESOLUTION, SETTINGS.neighbourhood_m)
    inner = np.zeros_like(wall, bool)
    inner[8:-8, 8:-8] = wall[8:-8, 8:-8] > 0.3
    np.testing.assert_allclose(np.hypot(east, north)[inner], 1, atol=1e-6)
    off = np.degrees(np.angle((east + 1j * north) / np.exp(1j * np.radians(degrees + 180))))
    assert np.abs(off[inner]).max() < 3
    assert straight[inner].min() > 0.87  # two cells wide where it lies between cells


@pytest.mark.parametrize("cells", [1, 2, 3, 5])
def test_straightness_of_a_strip(cells):
    """The straightness of a rectangle: the strip's width by the window's seven cells."""
    wall = np.zeros((SIDE, SIDE), np.float32)
    wall[:, 30 : 30 + cells] = 1
    free = np.zeros_like(wall)
    free[:, 30 + cells :] = 1
    # The middle of the strip, seven cells up and down and the whole strip across.
    _, _, straight = facing(wall, free, RESOLUTION, SETTINGS.neighbourhood_m)
    expected = (7**2 - cells**2) / (7**2 + cells**2 - 2)
    assert straight[SIDE // 2, 30 + cells // 2] == pytest.approx(expected, abs=1e-5)


def test_a_blob_and_a_lone_cell_are_not_straight():
    wall = np.zeros((SIDE, SIDE), np.float32)
    wall[10:30, 10:30] = 1
    wall[50, 50] = 1
    free = 1 - wall
    straight = facing(wall, free, RESOLUTION, SETTINGS.neighbourhood_m)[2]
    assert straight[20, 20] < 1e-4
    assert straight[50, 50] < 1e-4
    east, north = centres()
    disc = (np.hypot(east, north) < 1.2).astype(np.float32)
    assert (
        facing(disc, 1 - disc, RESOLUTION, SETTINGS.neighbourhood_m)[2][SIDE // 2, SIDE // 2] < 1e-3
    )


def test_a_wall_without_free_space_has_no_normal():
    wall, free = drawn_wall(0.0)
    east, north, straight = facing(wall, free * 0, RESOLUTION, SETTINGS.neighbourhood_m)
    assert not east.any()
    assert not north.any()
    assert straight[8:-8][wall[8:-8] > 0.5].min() > 0.87


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_normals_of_a_turned_tile_are_turned(quarters):
    tile = made_tile()
    free = tile.observed * (1 - tile.wall)
    east, north, straight = facing(tile.wall, free, RESOLUTION, SETTINGS.neighbourhood_m)
    there = facing(
        np.rot90(tile.wall, quarters),
        np.rot90(free, quarters),
        RESOLUTION,
        SETTINGS.neighbourhood_m,
    )
    expected = np.rot90(east + 1j * north, quarters) * 1j**quarters
    seen = np.rot90(tile.wall, quarters) > 0
    np.testing.assert_allclose((there[0] + 1j * there[1])[seen], expected[seen], atol=1e-4)
    np.testing.assert_allclose(there[2][seen], np.rot90(straight, quarters)[seen], atol=1e-4)


def test_normals_and_straightness_equal_those_of_plain_filters():
    """Moments and slopes in the whole tile, as scipy computes them."""
    rng = np.random.default_rng(5)
    wall = np.zeros((SIDE, SIDE), np.float32)
    wall[9:50, 20:60] = rng.random((41, 40)) * (rng.random((41, 40)) < 0.2)
    free = (rng.random((SIDE, SIDE)) * (wall == 0)).astype(np.float32)
    east, north, straight = facing(wall, free, RESOLUTION, SETTINGS.neighbourhood_m)
    smooth = ndimage.gaussian_filter(free.astype(np.float64), 7 / 3)
    slope = ndimage.sobel(smooth, 1), -ndimage.sobel(smooth, 0)
    for row, column in np.argwhere(wall)[::7]:
        some = np.mgrid[row - 3 : row + 4, column - 3 : column + 4]
        inside = ((some >= 0) & (some < SIDE)).all(axis=0)
        r, c = some[:, inside]
        spread = np.cov(c * RESOLUTION, -r * RESOLUTION, aweights=wall[r, c], ddof=0)
        value, vector = np.linalg.eigh(spread)
        if value[1] - value[0] < 1e-3:
            continue
        normal = vector[:, 0]
        normal = normal * np.sign(normal @ [one[row, column] for one in slope])
        np.testing.assert_allclose([east[row, column], north[row, column]], normal, atol=1e-4)
        expected = (value[1] - value[0]) / 2 / max(value.mean(), 0.3 * RESOLUTION**2)
        assert straight[row, column] == pytest.approx(min(expected, 1.0), abs=1e-5)


def test_a_turned_tile_keeps_its_evidence_near_the_corners():
    """Only cells that no turn brings evidence to are left out."""
    images = np.zeros((PATH, 32, 32), np.float32)
    # Scipy interpolates nothing beyond the centres of the outermost cells.
    for row, column in ((1, 1), (16, 30), (9, 20)):
        images[:] = 0
        images[5, row, column] = 1.0
        evidence = Evidence(images, NO_PATH, NO_LOOKS, 1.0)
        for turn in (0.3, 1.1, 3.0):
            expected = ndimage.rotate(images[5], np.degrees(turn), reshape=False, order=1)
            found = turned(evidence, np.array([turn]), 1.0, CPU)[0, 5].numpy()
            np.testing.assert_allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-5)


# --- Evidence ---------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [0.5, 1.0, 2.0])
def test_evidence_is_in_square_metres(resolution):
    tile = made_tile()
    evidence = make_evidence(tile, resolution)
    side = round(SIDE * RESOLUTION / resolution)
    assert evidence.images.shape == (PATH, side, side)
    k = round(resolution / RESOLUTION)
    for channel, whole in (
        (0, tile.wall),
        (5, tile.observed * (1 - tile.wall)),
        (6, tile.ground),
        (7, tile.road.clip(min=0)),
        (8, -tile.road.clip(max=0)),
    ):
        block = whole[3 * k : 4 * k, 5 * k : 6 * k].sum() * RESOLUTION**2
        assert evidence.images[channel, 3, 5] == pytest.approx(block, rel=1e-5)


def test_a_tile_without_road_evidence_has_empty_road_channels():
    tile = made_tile()
    images = make_evidence(replace(tile, road=None), 1.0).images
    assert not images[7:].any()
    np.testing.assert_array_equal(images[:7], make_evidence(tile, 1.0).images[:7])


@pytest.mark.parametrize("degrees", [10, 100, 215, 330])
def test_channels_of_a_wall_are_the_fourier_series_of_its_normal(degrees):
    wall, free = drawn_wall(degrees)
    observed = np.maximum(free, wall > 0).astype(np.float32)
    sums = make_evidence(QueryTile(wall, free, observed, RESOLUTION, 0.0), 1.0).images[
        :5, 4:-4, 4:-4
    ]
    total, east, north, cos, sin = sums.sum(axis=(1, 2))
    angle = np.radians(degrees + 180)
    np.testing.assert_allclose(
        [east / total, north / total], [np.cos(angle), np.sin(angle)], atol=0.05
    )
    twice = np.array([np.cos(2 * angle), np.sin(2 * angle)])
    np.testing.assert_allclose([cos / total, sin / total], twice, atol=0.1)


def test_resolutions_that_do_not_fit_are_an_error():
    for resolution in (0.7, 0.25, 4.5):
        with pytest.raises(MaptileError, match="do not fit cells"):
            make_evidence(made_tile(), resolution)


def test_the_path_counts_by_its_length_and_course():
    course = np.radians(25.0)
    way = np.linspace(-20, 20, 9)[:, None] * [np.cos(course), np.sin(course)]
    tile = replace(made_tile(), path=way.astype(np.float32))
    looks = make_evidence(tile, 1.0).path_values
    total = 1 + 40 / SETTINGS.path_m
    expected = total * np.array([1, np.cos(2 * course), np.sin(2 * course)])
    np.testing.assert_allclose(looks.sum(axis=0), expected, rtol=1e-5)
    np.testing.assert_allclose(looks, np.tile(expected / 9, (9, 1)), rtol=1e-4)
    backwards = make_evidence(replace(tile, path=tile.path[::-1].copy()), 1.0).path_values
    np.testing.assert_allclose(backwards, looks, rtol=1e-4, atol=1e-6)


def test_a_vehicle_that_stands_has_no_course():
    still = make_evidence(
        replace(made_tile(), path=np.full((5, 2), 3.0, np.float32)), 1.0
    ).path_values
    np.testing.assert_allclose(still, np.tile([0.2, 0, 0], (5, 1)), rtol=1e-6)
    one = make_evidence(replace(made_tile(), path=np.zeros((1, 2), np.float32)), 1.0).path_values
    np.testing.assert_allclose(one, [[1, 0, 0]])
    assert make_evidence(replace(made_tile(), path=NO_PATH), 1.0).path_values.shape == (0, 3)


# --- Rotation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("resolution", [0.5, 1.0])
def test_evidence_turned_by_quarters_equals_that_of_the_turned_tile(quarters, resolution):
    tile = made_tile()
    fine = make_evidence(tile, RESOLUTION)
    found = turned(fine, np.array([quarters * np.pi / 2]), resolution, CPU)[0].numpy()
    assert len(found) == len(CHANNELS)
    other = make_evidence(turned_tile(tile, quarters), resolution)
    np.testing.assert_allclose(found[:PATH], other.images, atol=1e-4)
    expected = turned(other, np.zeros(1), resolution, CPU)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("degrees", [20.0, -75.0, 161.0])
def test_turned_images_agree_with_scipy(degrees):
    rng = np.random.default_rng(1)
    images = rng.random((PATH, SIDE, SIDE)).astype(np.float32)
    evidence = Evidence(images, NO_PATH, NO_LOOKS, RESOLUTION)
    found = turned(evidence, np.radians([degrees]), RESOLUTION, CPU)[0].numpy()
    east, north = centres()
    inner = np.hypot(east, north) < SIDE * RESOLUTION / 2 - 1
    scipy = [ndimage.rotate(image, degrees, reshape=False, order=1) for image in images]
    for channel in (0, 5, 6):
        np.testing.assert_allclose(found[channel][inner], scipy[channel][inner], atol=1e-4)
    for first, second, spin in SPINS[:2]:
        pair = (scipy[first] + 1j * scipy[second]) * np.exp(1j * spin * np.radians(degrees))
        both = found[first] + 1j * found[second]
        np.testing.assert_allclose(both[inner], pair[inner], atol=1e-4)


def test_a_batch_of_turns_equals_single_turns():
    evidence = make_evidence(made_tile(), RESOLUTION)
    turns = np.array([0.0, 0.4, -2.0, np.pi])
    together = turned(evidence, turns, 1.0, CPU)
    for turn, one in zip(turns, together, strict=True):
        torch.testing.assert_close(one, turned(evidence, np.array([turn]), 1.0, CPU)[0])


def test_wider_cells_hold_the_sum_of_their_parts():
    evidence = make_evidence(made_tile(), RESOLUTION)
    fine = turned(evidence, np.array([0.7]), RESOLUTION, CPU)[0].numpy()
    wide = turned(evidence, np.array([0.7]), 2.0, CPU)[0].numpy()
    blocks = fine.reshape(len(fine), SIDE // 4, 4, SIDE // 4, 4).sum(axis=(2, 4))
    np.testing.assert_allclose(wide, blocks, atol=1e-4)


@pytest.mark.parametrize("turn", [0.0, 0.9, -2.2])
def test_the_turned_path_is_in_the_right_cells(turn):
    rng = np.random.default_rng(3)
    path = rng.uniform(-22, 22, (40, 2)).astype(np.float32)  # partly outside the tile
    looks = rng.normal(size=(40, 3)).astype(np.float32)
    evidence = Evidence(np.zeros((PATH, 32, 32), np.float32), path, looks, 1.0)
    found = turned(evidence, np.array([turn]), 1.0, CPU)[0, PATH:].numpy()
    expected = np.zeros((3, 32, 32))
    for (x, y), (one, cos, sin) in zip(path.tolist(), looks.tolist(), strict=True):
        east, north = np.array([x, y]) @ [
            [np.cos(turn), np.sin(turn)],
            [-np.sin(turn), np.cos(turn)],
        ]
        row, column = int(np.floor(16 - north)), int(np.floor(east + 16))
        if 0 <= row < 32 and 0 <= column < 32:
            course = (cos + 1j * sin) * np.exp(2j * turn)
            expected[:, row, column] += [one, course.real, course.imag]
    np.testing.assert_allclose(found, expected, atol=1e-5)


# --- Points -----------------------------------------------------------------------------------


def test_points_hold_all_the_evidence():
    evidence = make_evidence(made_tile(), 1.0)
    wall, *rest, way = evidence.points
    assert [points.group.first for points in (wall, *rest, way)] == [0, 5, 6, 7, 8, PATH]
    assert len(wall.xy) == (evidence.images[0] > 0).sum()
    for group, last in zip((wall, *rest), (5, 6, 7, 8, 9), strict=True):
        channels = slice(group.group.first, last)
        total = evidence.images[channels].sum(axis=(1, 2))
        np.testing.assert_allclose(group.values.sum(axis=0), total, rtol=1e-4, atol=1e-4)
        east, north = centres(32, 1.0)
        moments = [(evidence.images[channels] * at).sum(axis=(1, 2)) for at in (east, north)]
        blocks = [at.astype(np.float64) @ group.values for at in group.xy.T]
        # The middle of a block is at most 1.5 cells from each of its cells.
        slack = 1e-3 if group is wall else 1.5 * total
        assert (np.abs(np.array(blocks) - moments) <= slack).all()
    np.testing.assert_array_equal(way.xy, evidence.path)
    np.testing.assert_array_equal(way.values, evidence.path_values)


def test_a_lone_cell_is_a_point_at_its_centre():
    images = np.zeros((PATH, 16, 16), np.float32)
    images[:5, 2, 11] = [1.0, 0.6, -0.8, 0.5, 0.2]
    images[5, 9, 6] = 0.7
    images[8, 2, 5] = 0.4
    wall, free, ground, surface, beside, way = Evidence(images, NO_PATH, NO_LOOKS, 0.5).points
    np.testing.assert_allclose(wall.xy, [[1.75, 2.75]])
    np.testing.assert_allclose(wall.values, [[1.0, 0.6, -0.8, 0.5, 0.2]])
    np.testing.assert_allclose(free.xy, [[-1.0, -1.0]])
    np.testing.assert_allclose(free.values, [[0.7]])
    np.testing.assert_allclose(beside.xy, [[-1.5, 2.5]])
    np.testing.assert_allclose(beside.values, [[0.4]])
    assert len(ground.xy) == len(surface.xy) == len(way.xy) == 0
