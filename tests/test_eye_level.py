"""Views at eye level against closed form: boxes at known distances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely

from maptile_loc.render.extruded import NOTHING, Blocks, blocks
from maptile_loc.render.eye_level import Camera, eye_views

CAMERA = Camera(size_px=40, field_rad=math.radians(60), height_m=1.7)
HALF = math.tan(math.radians(30))
ORIGIN = np.array([620_000.0, 5_735_000.0])


def city(*boxes: tuple[float, float, float, float, float]) -> Blocks:
    """Boxes of west, south, east, north relative to the origin, and height."""
    shapes = np.array([shapely.box(*box[:4]) for box in boxes], object)
    shapes = shapely.transform(shapes, lambda xy: xy + ORIGIN)
    return blocks(shapes, np.array([box[4] for box in boxes]), ORIGIN)


def view(world: Blocks, yaw_deg: float = 0, pitch_deg: float = 0, x: float = 0, y: float = 0):
    angles = np.radians([yaw_deg, pitch_deg])
    return eye_views(world, CAMERA, np.array([[*(ORIGIN + [x, y]), *angles]]))


def test_a_wall_ahead_has_its_distance_in_every_pixel_that_shows_it() -> None:
    """20 m ahead, 8 m wide, 6 m high: its edges are at 4 / 20 and 4.3 / 20, -1.7 / 20."""
    seen = view(city((20, -4, 30, 4, 6)))
    at = HALF * ((2 * np.arange(40) + 1) / 40 - 1)
    columns = np.abs(at) < 4 / 20
    rows = (-at < 4.3 / 20) & (-at > -1.7 / 20)
    assert np.array_equal(seen.facade[0], rows[:, None] & columns)
    np.testing.assert_allclose(seen.depth[0][seen.facade[0]], 20, rtol=1e-5)
    assert np.isinf(seen.depth[0][~seen.facade[0]]).all()
    assert seen.edge_count().tolist() == [4]
    edge = seen.edge[0]
    assert edge.sum() == pytest.approx(2 * (rows.sum() + columns.sum()), abs=2)
    assert not edge[np.ix_(np.flatnonzero(rows)[:-1], np.flatnonzero(columns)[:-1])].any()


def test_a_corner_ahead_has_seven_edges_and_the_depth_of_its_walls() -> None:
    """Seen along the diagonal, the depth grows by one metre per metre to the side."""
    seen = view(city((20, 20, 26, 26, 8)), yaw_deg=45)
    assert seen.edge_count().tolist() == [7]
    at = HALF * ((2 * np.arange(40) + 1) / 40 - 1)
    row = 19
    hit = seen.facade[0, row]
    distance = 20 * math.sqrt(2) / (1 - np.abs(at[hit]))
    np.testing.assert_allclose(seen.depth[0, row, hit], distance, rtol=1e-5)
    assert len(set(seen.face[0, row, hit].tolist())) == 2


def test_left_of_the_image_is_left_of_the_camera() -> None:
    """To the north of a camera that faces east."""
    seen = view(city((20, 5, 22, 9, 6)))
    assert seen.facade[0][:, :20].any()
    assert not seen.facade[0][:, 20:].any()


def test_a_camera_that_looks_up_sees_the_wall_further_down() -> None:
    """By the pitch, at the middle of the image: f(elevation) = tan(elevation - pitch)."""
    world = city((20, -40, 30, 40, 9))
    for pitch in (0, 9, 15):
        top = math.atan(7.3 / 20)
        row = np.flatnonzero(view(world, pitch_deg=pitch).facade[0][:, 20])[0]
        expected = (1 - math.tan(top - math.radians(pitch)) / HALF) * 20
        assert row == math.ceil(expected - 0.5)


def test_a_nearer_block_hides_the_one_behind() -> None:
    seen = view(city((40, -20, 44, 20, 12), (10, -2, 12, 2, 3)))
    near = seen.depth[0] < 11
    assert near.any()
    assert set(np.unique(seen.face[0])) == {NOTHING, seen.face[0][near][0], seen.face[0, 18, 8]}
    # The sides of the nearer one are in front of the other and, below its foot, of nothing.
    assert seen.edge_count().tolist() == [4 + 4 + 2]


@pytest.mark.parametrize(("height", "pitch", "skyline"), [(5, 0, True), (30, 0, False)])
def test_the_skyline_is_sky_in_half_of_the_uppermost_row(height, pitch, skyline) -> None:
    """tan(30 deg) * 20 m + 1.7 m = 13.2 m."""
    seen = view(city((20, -50, 30, 50, height)), pitch_deg=pitch)
    assert seen.has_skyline().tolist() == [skyline]


def test_half_of_the_uppermost_row_is_enough() -> None:
    """The wall covers the left half of the row, exactly."""
    assert view(city((20, 0, 30, 50, 30))).has_skyline().tolist() == [True]
    assert view(city((20, -1, 30, 50, 30))).has_skyline().tolist() == [False]


def test_a_position_is_free_outside_buildings() -> None:
    world = city((20, -4, 30, 4, 6), (40, -4, 50, 4, 6))
    positions = ORIGIN + np.array([[0, 0], [25, 0], [35, 0], [45, 3]])
    assert world.free(positions).tolist() == [True, False, True, False]


def test_a_corner_that_is_none_makes_no_edge() -> None:
    """A wall with a point in the middle of it is one face."""
    shape = shapely.Polygon([(20, -4), (30, -4), (30, 4), (20, 4), (20, 1), (20, -1)])
    shape = shapely.transform(shape, lambda xy: xy + ORIGIN)
    world = blocks(np.array([shape], object), np.array([6.0]), ORIGIN)
    assert view(world).edge_count().tolist() == [4]
