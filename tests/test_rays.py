from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maptile_loc.perceive.rays import (
    bin_rays,
    farthest,
    free_space,
    highest_view,
    make_rays,
    seen_through,
)

ORIGIN = np.zeros((1, 3), np.float32)


def cloud(azimuth_deg, elevation_deg, distance):
    a, e = np.radians(azimuth_deg), np.radians(elevation_deg)
    flat = distance * np.cos(e)
    points = np.column_stack([flat * np.cos(a), flat * np.sin(a), distance * np.sin(e)])
    return points.astype(np.float32)


def rays_of(points, scan=None, origin=ORIGIN):
    scan = np.zeros(len(points), np.int32) if scan is None else scan
    return make_rays(points, scan, origin)


def grid(step=0.2, up=(-10, 10)):
    azimuth, elevation = np.meshgrid(np.arange(-180, 180, step), np.arange(*up, step))
    return azimuth.ravel(), elevation.ravel()


@settings(max_examples=20, deadline=None)
@given(share=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_the_share_of_passing_rays_is_measured(share, seed):
    azimuth, elevation = grid()
    passes = np.random.default_rng(seed).random(len(azimuth)) < share
    rays = rays_of(cloud(azimuth, elevation, np.where(passes, 20.0, 8.0)))
    hit = np.flatnonzero(~passes)
    seen = bin_rays(rays)
    through = seen_through(seen.directions, hit, rays.distance[hit] + 1.5)
    assert through.mean() == pytest.approx(share, abs=0.03)
    beyond = seen_through(seen.azimuths, hit, rays.flat[hit] + 1.5)
    assert beyond.mean() == pytest.approx(share, abs=0.03)


def test_no_ray_passes_a_wall_and_other_scans_do_not_count():
    azimuth, elevation = grid()
    wall = cloud(azimuth, elevation, np.full(len(azimuth), 8.0))
    behind = cloud(azimuth, elevation, np.full(len(azimuth), 20.0))
    scan = np.repeat(np.arange(2, dtype=np.int32), len(wall))
    rays = make_rays(np.concatenate([wall, behind]), scan, np.zeros((2, 3), np.float32))
    tested = np.arange(len(wall))
    seen = bin_rays(rays)
    assert (seen_through(seen.directions, tested, rays.distance[tested] + 1.5) == 0).all()
    assert (seen_through(seen.azimuths, tested, rays.flat[tested] + 1.5) == 0).all()


def test_what_is_seen_above_a_low_object_is_beyond_it_but_not_behind_it():
    azimuth, elevation = grid()
    high = elevation > 2
    rays = rays_of(cloud(azimuth, elevation, np.where(high, 30.0, 8.0)))
    low = np.flatnonzero(elevation < -2)
    seen = bin_rays(rays)
    assert (seen_through(seen.directions, low, rays.distance[low] + 2) == 0).all()
    beyond = seen_through(seen.azimuths, low, rays.flat[low] + 2)
    np.testing.assert_allclose(beyond, high.mean(), atol=0.02)


@settings(max_examples=20, deadline=None)
@given(top=st.floats(-5, 15), tilt=st.floats(0, 3), towards=st.floats(-180, 180))
def test_the_upper_edge_of_a_tilted_view_is_found(top, tilt, towards):
    azimuth, low = grid(up=(-20, 0))
    edge = top + tilt * np.cos(np.radians(azimuth - towards))
    # Returns up to the edge, and in a third of the directions only half as far up.
    share = np.where(azimuth % 90 < 30, 0.5, 1.0)
    elevation = -20 + (low + 20) / 20 * (edge + 20) * share
    rays = rays_of(cloud(azimuth, elevation, np.full(len(azimuth), 15.0)))
    tested = np.arange(0, len(azimuth), 37)
    seen = np.degrees(np.arctan(highest_view(rays, tested)))
    # Sectors with lower returns lower the fitted edge a little.
    assert np.abs(seen - edge[tested]).max() < 1.0


@pytest.mark.parametrize("tilt", [0.0, 2.0])
def test_the_view_of_beams_that_start_above_the_origin_is_found_at_all_distances(tilt):
    """Walls at 3 to 50 m, seen by beams up to 2 degrees that start 0.2 m above the origin."""
    azimuth, below = (a.ravel() for a in np.meshgrid(np.arange(-180, 180, 0.5), np.arange(0, 9)))
    turn = np.radians(azimuth)
    wall = 3 * (50 / 3) ** ((azimuth + 180) * 7 % 360 / 360)
    top = 2 + tilt * np.cos(turn - 0.7)
    edge = wall * np.tan(np.radians(top)) + 0.2
    height = wall * np.tan(np.radians(top - below)) + 0.2
    points = np.column_stack([wall * np.cos(turn), wall * np.sin(turn), height])
    seen = wall * highest_view(rays_of(points.astype(np.float32)), np.arange(len(points)))
    assert np.abs(seen - edge).max() < 0.1


def test_a_ray_shows_free_space_up_to_its_reach():
    azimuth, elevation = grid(step=0.5, up=(0, 1))
    rays = rays_of(cloud(azimuth, elevation, np.full(len(azimuth), 20.0)))
    far = farthest(rays, np.where(rays.azimuth > 0, rays.flat, np.float32(6)))
    free = free_space(far, ORIGIN, 128, 0.5)
    row, column = np.nonzero(free)
    x, y = (column + 0.5 - 64) / 2, (64 - row - 0.5) / 2
    reached = np.hypot(x, y)
    assert reached[y < -0.5].max() == pytest.approx(5.0, abs=0.5)  # 1 m before the end is left out
    assert reached[y > 0.5].max() == pytest.approx(19.0, abs=0.5)
    nothing = free_space(farthest(rays, np.zeros(len(azimuth), np.float32)), ORIGIN, 128, 0.5)
    assert not nothing.any()
