from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from made_scene import found_by
from small_city import small_city
from test_train import TINY

from data_prep.city.folder import City
from data_prep.geometry import wrap_angle
from maptile_loc.learn.loop import train
from maptile_loc.models.heads.panorama import correlation, depth_panorama
from maptile_loc.models.panorama import PanoramaModel
from maptile_loc.models.parts.tile_model import Batch
from maptile_loc.score.map_fields import make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.engine.turning import turned_tiles
from maptile_loc.search.panorama import PanoramaLocator, PanoramaSettings
from maptile_loc.types import QueryTile


def test_depth_is_the_expected_distance_of_the_ray() -> None:
    """East of the centre of 16 pixels: evidence 0.5 three pixels away, 1 at six pixels."""
    tile = torch.zeros(1, 2, 16, 16)
    tile[0, 0, 7:9, 10] = 0.5  # 2.5 pixels from the centre
    tile[0, 0, 7:9, 13] = 1.0  # 5.5 pixels
    tile[0, 1, :, 8:10] = 1.0  # the other channel: the first two pixels of the way
    depth, opacity, passed = depth_panorama(tile, 4)[0]
    assert depth[0].item() == pytest.approx((0.5 * 2.5 + 0.5 * 5.5) / 8, abs=1e-5)
    assert opacity.tolist() == pytest.approx([1, 0, 0, 0], abs=1e-5)
    assert depth[1:].tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert passed[0].item() == pytest.approx(2 / (3 + 0.5 * 3), abs=1e-5)
    assert passed[2].item() == 0


def test_a_turned_tile_has_a_shifted_panorama() -> None:
    """Counter-clockwise by a quarter: what was in the east is in the north."""
    torch.manual_seed(0)
    tile = torch.rand(1, 3, 32, 32)
    still, turned = depth_panorama(tile, 40), depth_panorama(tile.rot90(1, (2, 3)), 40)
    np.testing.assert_allclose(turned, still.roll(10, 2), atol=1e-4)


def test_the_correlation_is_the_sum_over_shifts() -> None:
    generator = torch.Generator().manual_seed(0)
    seen, shown = (torch.rand(n, 3, 7, generator=generator) for n in (2, 4))
    found = correlation(seen, shown)
    for shift in range(7):
        expected = torch.einsum("qfa,nfa->qn", seen, shown.roll(-shift, 2))
        np.testing.assert_allclose(found[:, :, shift], expected, rtol=1e-4)


def model(shifts: int = 24) -> PanoramaModel:
    torch.manual_seed(0)
    return PanoramaModel(
        shifts=shifts,
        width=4,
        temperature=0.1,
        size=32,
        network={"width": 8},
        heading="unknown",
        mean=[0.0, 0.0],
        deviation=[1.0, 1.0],
        learning_rate=1e-3,
        weight_decay=0.0,
    ).eval()


def test_the_best_shift_is_the_direction_of_the_turned_tile() -> None:
    """A vehicle that heads 90 degrees sees its map view turned clockwise by 90."""
    network, tile = model(), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        seen = network(turned_tiles(tile[0], np.array([-np.pi / 2])))
        scores = network.similarity(seen, network.of_map(tile))[0, 0]
    assert scores.argmax().item() == 6
    assert scores.max().item() == pytest.approx(1, abs=1e-3)
    assert scores.shape == (24,)


def test_the_loss_falls_when_the_view_and_the_shift_are_right() -> None:
    network = model()
    tiles = (torch.rand(4, 1, 3, 32, 32) < 0.2).float()
    turned = torch.stack([turned_tiles(tile[0], np.array([-np.pi / 2]))[0] for tile in tiles])
    offset = torch.arange(4)[:, None, None] * torch.tensor([100.0, 0.0]).repeat(1, 2, 1)
    right = Batch(torch.stack([turned, tiles[:, 0]], 1), offset, torch.zeros(4, 2))
    right.angle[:, 0] = math.pi / 2
    wrong = right._replace(angle=torch.zeros(4, 2))
    swapped = right._replace(tiles=torch.stack([turned.roll(1, 0), tiles[:, 0]], 1))
    with torch.no_grad():
        losses = [network.objective(batch).item() for batch in (right, wrong, swapped)]
        scores = network._scores(right)
    assert losses[0] < min(losses[1:])
    log_p = (scores.amax(2) / 0.1).log_softmax(1).diagonal().mean()
    log_p = log_p + (scores.amax(2).T / 0.1).log_softmax(1).diagonal().mean()
    same = torch.arange(4)
    log_p = log_p + (scores[same, same] / 0.1).log_softmax(1)[:, 6].mean()
    assert losses[0] == pytest.approx(-log_p.item(), rel=1e-4)


# --- In a city ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(city: City) -> Path:
    data = TINY.data.model_copy(update={"tuple_size": 2, "spacing_m": (0.0, 4.0)})
    recipe = TINY.model_copy(update={"name": "panorama", "kind": "panorama", "data": data})
    return train(city, recipe, device="cpu")


def query() -> QueryTile:
    rng = np.random.default_rng(0)
    wall, ground, observed = (rng.random((3, 192, 192)) < 0.1).astype(np.float32)
    return QueryTile(wall, ground, observed, 0.5, 0.3)


def test_positions_and_headings_are_searched_around(city: City, trained: Path) -> None:
    fields = make_fields(city.raster, 1.0, LikelihoodSettings())
    settings = PanoramaSettings(places=5, every_m=7.0)
    locator = PanoramaLocator(trained, city, NearSearch(fields, 96.0, SearchSettings()), settings)
    turns = np.radians(np.arange(0, 360, 4.0))
    starts = locator.starts(query(), turns, np.full(90, -np.log(90)))
    assert starts.shape == (5, 3)
    step = 2 * np.pi / 72
    np.testing.assert_allclose(wrap_angle(starts[:, 2] - np.round(starts[:, 2] / step) * step), 0)
    known = locator.starts(query(), np.zeros(1), np.zeros(1))
    assert not known[:, 2].any()
    candidates = found_by(locator, query(), np.zeros(1), np.zeros(1))
    away = np.abs(candidates.poses[:, None, :2] - known[:, :2]).max(axis=2).min(axis=1)
    assert (away <= 20.5).all()
