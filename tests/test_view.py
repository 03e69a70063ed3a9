from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maptile_loc.render.disguise import DisguiseSettings, build_world
from maptile_loc.render.raycast import (
    EDGE_CELL,
    FREE_CELL,
    SOLID_CELL,
    PlaneRays,
    Worlds,
    cast_rays,
)
from maptile_loc.render.view import (
    GROUND_CHANNEL,
    OBSERVED_CHANNEL,
    PLAIN_CHANNELS,
    WALL_CHANNEL,
    ViewSettings,
    render,
    tile_from_query,
)
from maptile_loc.types import QueryTile


def view(**more: Any) -> ViewSettings:
    """Settings of tiles that show walls, ground and what was observed."""
    return ViewSettings(channels=PLAIN_CHANNELS, **more)


EXACT = view(
    size_px=64, resolution=1.0, rays=4000, range_m=40.0, travel_m=2.0, line_scanner=0.0
).without_noise()


def world_of(cells: np.ndarray, resolution: float = 0.5) -> Worlds:
    """A world with the plane's origin at its centre."""
    cells = cells.copy()
    cells[[0, -1]] = EDGE_CELL
    cells[:, [0, -1]] = EDGE_CELL
    height, width = cells.shape
    tensor = torch.from_numpy(cells)[None]
    return Worlds(tensor, -width * resolution / 2, height * resolution / 2, resolution)


def cell_centres(size: int, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """East and north of the cells of a square grid about the origin."""
    along = (np.arange(size) + 0.5) * resolution - size * resolution / 2
    return np.meshgrid(along, -along)


def courtyards() -> Worlds:
    """Two closed square rings of wall: inner faces 10 m and 25 m from the middle."""
    east, north = cell_centres(200, 0.5)
    away = np.maximum(abs(east), abs(north))
    ring = ((away > 10) & (away < 14)) | ((away > 25) & (away < 28))
    return world_of(np.where(ring, SOLID_CELL, FREE_CELL).astype(np.uint8))


def look(
    worlds: Worlds,
    settings: ViewSettings = EXACT,
    at: tuple[float, float] = (0.0, 0.0),
    ahead: tuple[float, float] = (1.0, 0.0),
    angle: float = 0.0,
    seed: int = 0,
) -> torch.Tensor:
    """One tile seen from a straight path through ``at``."""
    centre = torch.tensor([at])
    along = torch.linspace(-0.5, 0.5, 5) * settings.travel_m
    paths = centre[:, None] + along[None, :, None] * torch.tensor(ahead)
    generator = torch.Generator().manual_seed(seed)
    which = torch.zeros(1, dtype=torch.int64)
    return render(worlds, which, paths, centre, torch.tensor([angle]), settings, generator)[0]


def test_a_courtyard_shows_its_four_inner_walls_and_nothing_beyond() -> None:
    tile = look(courtyards())
    east, north = cell_centres(64, 1.0)
    away = np.maximum(abs(east), abs(north))
    wall, ground, observed = (
        tile[c].numpy() for c in (WALL_CHANNEL, GROUND_CHANNEL, OBSERVED_CHANNEL)
    )
    assert not observed[away > 12].any()
    assert wall[(away < 9)].max() == 0
    assert ground[away < 9].min() == 1
    for side in (east > abs(north), east < -abs(north), north > abs(east), north < -abs(east)):
        face = side & (away > 9) & (away < 12)
        across = np.minimum(abs(east), abs(north))[face] < 9
        seen = wall[face][across] > 0.9
        assert seen.sum() >= 18  # of 18 or 19 metres of wall, one pixel thick or more


def test_a_wall_behind_a_wall_is_not_seen_but_beside_it_is() -> None:
    east, north = cell_centres(200, 0.5)
    near = (east > 8) & (east < 9) & (abs(north) < 4)
    far = (east > 20) & (east < 21) & (abs(north) < 25)
    tile = look(world_of(np.where(near | far, SOLID_CELL, FREE_CELL).astype(np.uint8)))
    x, y = cell_centres(64, 1.0)
    wall, observed = tile[WALL_CHANNEL].numpy(), tile[OBSERVED_CHANNEL].numpy()
    shadow = (x > 10.5) & (abs(y) < 4 * x / 10.5 - 2)  # between the rays past the near wall's ends
    assert not observed[shadow].any()
    beside = (x > 20) & (x < 21) & (abs(y) > 12) & (abs(y) < 18)
    assert (wall[beside] > 0.9).all()


@pytest.mark.parametrize("seed", range(3))
def test_rays_end_where_shapely_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-60, 60, (25, 2))
    boxes = np.array(
        [
            shapely.box(x, y, x + w, y + h)
            for (x, y), w, h in zip(
                corners, rng.uniform(4, 20, 25), rng.uniform(4, 20, 25), strict=True
            )
        ],
        dtype=object,
    )
    exact = DisguiseSettings(resolution=0.25).nothing()
    cells = build_world(boxes, np.zeros((0, 2)), (-80, -80, 80, 80), exact, rng)
    worlds = Worlds(torch.from_numpy(cells)[None], -80.0, 80.0, 0.25)
    solid = shapely.union_all(boxes)
    origin = rng.uniform(-60, 60, (400, 2))
    free = ~shapely.contains_xy(solid.buffer(0.5), origin[:, 0], origin[:, 1])
    origin, angle = origin[free], rng.uniform(-np.pi, np.pi, free.sum())
    end = origin + 40 * np.column_stack([np.cos(angle), np.sin(angle)])
    lines = shapely.linestrings(np.stack([origin, end], 1))

    def distance_to(solid: shapely.Geometry) -> np.ndarray:
        meets = shapely.intersection(lines, solid)
        apart = shapely.distance(shapely.points(origin), meets)
        return np.where(shapely.is_empty(meets), 40.0, apart)

    # Cells have 0.25 m, so the error of a rasterized outline is less than 0.3 m.
    nearest, farthest = distance_to(solid.buffer(0.3)), distance_to(solid.buffer(-0.3))
    xy = torch.from_numpy(origin.astype(np.float32))
    low = torch.zeros(1, len(xy), dtype=torch.bool)
    rays = PlaneRays(xy[None, :, 0], xy[None, :, 1], torch.from_numpy(angle).float()[None], low)
    hits = cast_rays(worlds, torch.zeros(1, dtype=torch.int64), rays, torch.tensor([[40.0]]))
    distance, hit = hits.distance[0].numpy(), hits.hit[0].numpy()
    on_map = (abs(end) < 79).all(1)
    assert on_map.sum() > 200
    assert (distance >= nearest - 0.25)[on_map].all()
    assert (distance <= farthest + 0.25)[on_map].all()
    assert hit[on_map & (farthest < 39)].all()
    assert not hit[on_map & (nearest == 40)].any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(-math.pi, math.pi), st.floats(0, 1))
def test_walls_and_ground_are_observed(seed: int, angle: float, line: float) -> None:
    rng = np.random.default_rng(seed)
    cells = np.kron(rng.random((20, 20)) < 0.2, np.ones((10, 10))).astype(np.uint8) * SOLID_CELL
    noisy = view(size_px=32, resolution=2.0, rays=200, line_scanner=line)
    wall, ground, observed = look(world_of(cells), noisy, angle=angle, seed=seed)
    assert ((observed == 0) | (observed == 1)).all()
    assert (wall[observed == 0] == 0).all()
    assert (ground[observed == 0] == 0).all()
    assert wall.min() >= 0
    assert wall.max() <= 1
    assert ((wall + ground) <= 1 + 1e-6).all()


@pytest.mark.parametrize("line", [0.0, 1.0])
def test_a_shift_of_the_map_does_not_change_the_tile(line: float) -> None:
    here = courtyards()
    noisy = view(size_px=32, resolution=2.0, rays=300, line_scanner=line)
    there = Worlds(here.cells, here.west + 512, here.north - 256, here.resolution)
    expected = look(here, noisy, at=(1.0, 2.0))
    assert torch.equal(look(there, noisy, at=(513.0, -254.0)), expected)


@pytest.mark.parametrize("line", [0.0, 1.0])
def test_turning_the_map_turns_the_tile(line: float) -> None:
    east, north = cell_centres(200, 0.5)
    shape = (abs(east - 9) < 3) | ((abs(north - 15) < 2) & (east < 4)) | (north < -20 + east / 4)
    cells = np.where(shape, SOLID_CELL, FREE_CELL).astype(np.uint8)
    settings = EXACT.model_copy(update={"line_scanner": line, "travel_m": 8.0})
    tile = look(world_of(cells), settings)
    turned = look(world_of(np.rot90(cells)), settings, ahead=(0.0, 1.0))
    expected = torch.rot90(tile, dims=(1, 2))
    for channel in (GROUND_CHANNEL, OBSERVED_CHANNEL):
        assert tile[channel].sum() > 200
        assert (turned[channel] - expected[channel]).abs().mean() < 0.02
    near = torch.nn.functional.max_pool2d(expected[None, WALL_CHANNEL], 3, 1, 1)[0]
    wrong = (turned[WALL_CHANNEL] > near + 0.1).float().sum()
    assert wrong < 0.05 * (expected[WALL_CHANNEL] > 0.5).sum() + 2


def test_a_turned_tile_is_the_same_tile_turned() -> None:
    north_up = look(courtyards(), at=(2.0, -3.0))
    # The tile's x axis points north: its rows run from the west to the east.
    turned = look(courtyards(), at=(2.0, -3.0), angle=math.pi / 2)
    assert (turned - torch.rot90(north_up, -1, dims=(1, 2))).abs().mean() < 0.01


def test_a_vehicle_within_a_building_sees_nothing() -> None:
    assert look(courtyards(), at=(12.0, 0.0)).abs().sum() == 0


def test_a_line_scanner_sees_across_the_track_only() -> None:
    empty = world_of(np.full((200, 200), FREE_CELL, np.uint8))
    line = EXACT.model_copy(
        update={
            "line_scanner": 1.0,
            "travel_m": 10.0,
            "range_m": 30.0,
            "ground_range": (30.0, 30.0),
        }
    )
    ground = look(empty, line)[GROUND_CHANNEL].numpy()
    x, y = cell_centres(64, 1.0)
    assert ground[abs(x) > 5 + 30 * math.sin(0.2) + 1].max() == 0
    assert ground[(abs(x) < 1) & (abs(y) < 20)].mean() > 0.9


def test_the_same_seed_renders_the_same_tile() -> None:
    noisy = view(rays=200)
    first, again = look(courtyards(), noisy, seed=5), look(courtyards(), noisy, seed=5)
    assert torch.equal(first, again)
    assert not torch.equal(first, look(courtyards(), noisy, seed=6))


def test_noise_removes_and_adds_wall_evidence() -> None:
    exact = look(courtyards())
    missing = look(courtyards(), EXACT.model_copy(update={"missing_walls": 0.9}))
    spurious = look(courtyards(), EXACT.model_copy(update={"spurious": 0.5}))
    east, north = cell_centres(64, 1.0)
    middle = torch.from_numpy(np.maximum(abs(east), abs(north)) < 9)
    assert missing[WALL_CHANNEL].sum() < exact[WALL_CHANNEL].sum()
    assert exact[WALL_CHANNEL][middle].sum() == 0
    assert spurious[WALL_CHANNEL][middle].sum() > 0


def test_walls_are_as_thick_as_their_relief_and_weak_in_parts() -> None:
    exact = look(courtyards())[WALL_CHANNEL]
    rough = look(courtyards(), EXACT.model_copy(update={"depth_noise_m": (1.0, 1.0)}))[WALL_CHANNEL]
    weak = look(courtyards(), EXACT.model_copy(update={"weak_walls": 1.0}), seed=3)[WALL_CHANNEL]
    assert (rough > 0.1).sum() > 1.5 * (exact > 0.1).sum()
    assert weak.sum() < 0.95 * exact.sum()
    assert torch.equal(weak > 0, look(courtyards(), seed=3)[WALL_CHANNEL] > 0)


def test_free_space_reaches_beyond_the_ground_and_ground_is_uneven() -> None:
    empty = world_of(np.full((200, 200), FREE_CELL, np.uint8))
    near = EXACT.model_copy(update={"ground_range": (12.0, 12.0)})
    plain = look(empty, near)
    free = look(empty, near.model_copy(update={"free_rays": 1.0}), seed=1)
    uneven = look(empty, near.model_copy(update={"uneven_ground": 0.5}))
    x, y = cell_centres(64, 1.0)
    beyond = np.hypot(x, y) > 15
    assert not plain[OBSERVED_CHANNEL][torch.from_numpy(beyond)].any()
    assert free[OBSERVED_CHANNEL][torch.from_numpy(beyond)].any()
    assert not free[GROUND_CHANNEL][torch.from_numpy(beyond)].any()
    assert uneven[GROUND_CHANNEL][torch.from_numpy(beyond)].any()


def test_spurious_walls_are_rarer_near_the_vehicle() -> None:
    empty = world_of(np.full((400, 400), FREE_CELL, np.uint8))
    many = EXACT.model_copy(update={"spurious": 0.3})
    wall = sum(look(empty, many, seed=seed)[WALL_CHANNEL] > 0 for seed in range(8)) / 8
    x, y = cell_centres(64, 1.0)
    away = torch.from_numpy(np.hypot(x, y))
    near, far = wall[away < 8].mean(), wall[(away > 16) & (away < 28)].mean()
    assert 0 < near < 0.5 * far


def test_a_query_tile_keeps_its_orientation_and_scale() -> None:
    wall = np.zeros((256, 256), np.float32)
    wall[128 - 60, 128 + 30] = 0.8  # 30 m north, 15 m east at 0.5 m per pixel
    observed = np.ones((256, 256), np.float32)
    query = QueryTile(wall, np.zeros_like(wall), observed, 0.5, 0.0)
    tile = tile_from_query(query, view())
    assert tile.shape == (3, 64, 64)
    assert tile[WALL_CHANNEL, 32 - 20, 32 + 10] == pytest.approx(0.8)
    assert tile[WALL_CHANNEL].sum() == pytest.approx(0.8)
    assert tile[OBSERVED_CHANNEL].min() == 1


def test_a_small_query_tile_is_padded_with_unobserved_pixels() -> None:
    ones = np.ones((80, 80), np.float32)
    tile = tile_from_query(QueryTile(0 * ones, ones, ones, 0.6, 0.0), view())
    assert tile[1:, 16:48, 16:48].min() == 1
    assert tile.sum() == 2 * 32 * 32


def test_wall_evidence_reduces_ground() -> None:
    """A pixel of a query tile may be wall and ground; in a render, wall replaces ground."""
    ones = np.ones((160, 160), np.float32)
    tile = tile_from_query(QueryTile(0.75 * ones, ones, ones, 0.6, 0.0), view())
    assert (tile[0] == 0.75).all()
    assert (tile[1] == 0.25).all()
