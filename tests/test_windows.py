"""Windows of the map raster as training tiles, and query tiles in their look."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from small_city import small_city

from data_prep.city.folder import City
from data_prep.city.raster import BUILDING, ROAD
from data_prep.errors import MaptileError
from maptile_loc.config import load_settings
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import DataSettings, ModelSettings
from maptile_loc.learn.tiles.supply import VALIDATION_STREAM, batches
from maptile_loc.learn.tiles.windows import WindowBatches, window_map
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.regressor import MapNet
from maptile_loc.render.look import look_of_card
from maptile_loc.render.window import (
    BEHIND_M,
    MapWindowSettings,
    cut_windows,
    read_windows,
    window_from_query,
    window_planes,
)
from maptile_loc.types import QueryTile

BOTH = MapWindowSettings(look="filled", channels=("building", "road"))


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("windows"))


def test_a_window_is_the_part_of_the_map_at_its_tile(city: City) -> None:
    raster, table = city.raster, city.tiles()
    row = table[(table["row"] + table["size"] <= raster.height)].iloc[0]
    top, left, size = int(row["row"]), int(row["col"]), int(row["size"])
    centre = torch.tensor([[top + size / 2, left + size / 2]], dtype=torch.float64)
    planes = window_planes(raster, BOTH)
    cut = cut_windows(planes, raster.resolution, centre, torch.zeros(1), BOTH)[0].numpy()
    part = raster.data[:, top : top + size, left : left + size] > 0
    pooled = part.reshape(len(part), 64, size // 64, 64, size // 64).max((2, 4))
    np.testing.assert_array_equal(cut, pooled[[BUILDING, ROAD]])


def test_a_quarter_turn_turns_the_window(city: City) -> None:
    planes = window_planes(city.raster, BOTH)
    centre = torch.tensor([[150.0, 160.0]], dtype=torch.float64).expand(2, 2)
    angle = torch.tensor([0.0, np.pi / 2])
    plain, turned = cut_windows(planes, city.raster.resolution, centre, angle, BOTH).numpy()
    assert plain.any()
    # The window's x axis points north: what lies north of the centre is on its right.
    np.testing.assert_array_equal(turned, np.rot90(plain, -1, (1, 2)))


def test_beyond_the_map_windows_are_empty(city: City) -> None:
    planes = window_planes(city.raster, BOTH)
    centre = torch.tensor([[-200.0, 50.0]], dtype=torch.float64)
    assert not cut_windows(planes, city.raster.resolution, centre, torch.zeros(1), BOTH).any()


@pytest.mark.parametrize("look", ["filled", "edges"])
def test_windows_read_one_by_one_are_those_of_the_whole_map(city: City, look: str) -> None:
    raster, rng = city.raster, np.random.default_rng(0)
    settings = MapWindowSettings(look=look, channels=("road", "building"))
    size = np.array([raster.height, raster.width])
    centre = torch.from_numpy(rng.uniform(-0.3 * size, 1.3 * size, (40, 2)))
    angle = torch.from_numpy(rng.uniform(-np.pi, np.pi, 40)).float()
    whole = cut_windows(window_planes(raster, settings), raster.resolution, centre, angle, settings)
    assert whole.any()
    assert torch.equal(read_windows(raster, centre, angle, settings), whole)


def test_edges_are_the_outlines_of_buildings(city: City) -> None:
    edges = window_planes(city.raster, MapWindowSettings(channels=("road", "building")))
    filled = city.raster.data[BUILDING] > 0
    inner = ndimage.binary_erosion(filled, border_value=1)
    np.testing.assert_array_equal(edges[1].numpy() > 0, filled & ~inner)
    np.testing.assert_array_equal(edges[0].numpy() > 0, city.raster.data[ROAD] > 0)


@pytest.mark.parametrize("heading", ["known", "unknown"])
def test_the_offset_is_that_of_what_the_window_shows(city: City, heading: str) -> None:
    """At a window's centre, the map has the values of the window's middle."""
    settings = DataSettings(windows=BOTH, batch_tuples=40)
    source = window_map(city, BOTH)
    batch = WindowBatches(source, settings, heading, 0, 0, held_out=False)[3]
    tiles, raster = batch.tiles.flatten(0, 1).numpy(), city.raster
    at = city.reference + batch.offset.flatten(0, 1).double().numpy()
    pixel = np.round(raster.pixel_from_world(at)).astype(int)
    for band, name in ((0, BUILDING), (1, ROAD)):
        for (row, column), tile in zip(pixel, tiles[:, band], strict=True):
            around = raster.data[name, max(row - 4, 0) : row + 4, max(column - 4, 0) : column + 4]
            middle = tile[31:33, 31:33]
            if around.size and (around > 0).all():
                assert middle.all()
            if not (around > 0).any():
                assert not middle.any()


def test_no_training_window_is_centred_within_ten_metres_of_a_held_out_one(city: City) -> None:
    settings = DataSettings(windows=BOTH, batch_tuples=200)
    source = window_map(city, BOTH)
    training, held_out = (
        torch.cat(
            [WindowBatches(source, settings, "known", 0, n, side)[k].offset for k in range(8)]
        ).flatten(0, 1)
        for n, side in enumerate((False, True))
    )
    apart = torch.cdist(held_out, training).amin(1)
    assert apart.min() >= 10
    assert apart.max() < 25  # the squares lie among the training windows


def test_tuples_are_neighbouring_windows_that_overlap(city: City) -> None:
    settings = DataSettings(windows=BOTH, batch_tuples=300)
    batch = WindowBatches(window_map(city, BOTH), settings, "known", 0, 0, held_out=False)[0]
    step = batch.offset.diff(dim=1).abs()
    assert step.max() < 96 + settings.windows.kept_out_m  # type: ignore[union-attr]
    assert step.amax(2).median() > 20
    again = WindowBatches(window_map(city, BOTH), settings, "known", 0, 0, held_out=False)[0]
    assert torch.equal(batch.tiles, again.tiles)


def test_a_large_map_gives_the_same_batches(city: City, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read window by window, in place of being kept in memory."""
    settings = DataSettings(windows=BOTH, batch_tuples=4)
    kept = WindowBatches(window_map(city, BOTH), settings, "unknown", 0, 0, held_out=False)[0]
    monkeypatch.setattr("maptile_loc.learn.tiles.windows.WHOLE", 0)
    read = WindowBatches(window_map(city, BOTH), settings, "unknown", 0, 0, held_out=False)[0]
    assert torch.equal(kept.tiles, read.tiles)


def test_windows_cannot_be_paired(city: City) -> None:
    settings = DataSettings(windows=BOTH)
    with pytest.raises(MaptileError, match=r"data\.windows"):
        batches(window_map(city, BOTH), settings, "known", 0, VALIDATION_STREAM, paired=True)


def query(wall_east_m: float = 10.0) -> QueryTile:
    """A vehicle at the centre, a wall to its east, nothing observed beyond; a road it stands on."""
    size, step = 256, 0.5
    along = (np.arange(size) + 0.5 - size / 2) * step
    east, north = np.meshgrid(along, -along)
    wall = ((np.abs(east - wall_east_m) < 0.5) & (np.abs(north) < 20)).astype(np.float32)
    observed = (east < wall_east_m + 0.5).astype(np.float32)
    road = np.where(np.abs(east) < 3, 1, -1).astype(np.float32)
    path = np.array([[0.0, -20.0], [0.0, 0.0], [0.0, 20.0]], np.float32)
    return QueryTile(0.9 * wall, observed * (1 - wall), observed, step, 0.0, path, road)


def test_a_query_has_the_look_of_edges() -> None:
    building, road = window_from_query(query(), MapWindowSettings()).numpy()
    row, column = np.nonzero(building)
    east, north = (column + 0.5 - 32) * 1.5, (32 - row - 0.5) * 1.5
    assert len(east)
    assert np.abs(east - 10).max() < 1.5
    assert np.abs(north).max() < 21
    np.testing.assert_array_equal(np.unique(np.nonzero(road)[1]), np.arange(30, 34))


def test_a_query_is_filled_behind_its_walls_only() -> None:
    tile = window_from_query(query(), MapWindowSettings(look="filled", channels=("building",)))[0]
    column = np.nonzero(tile[32].numpy())[0]  # the row at the vehicle
    east = (column + 0.5 - 32) * 1.5
    assert east.min() > 8.5
    assert east.max() < 10 + BEHIND_M + 1.5
    assert east.max() > 10 + BEHIND_M - 2
    assert (np.diff(column) == 1).all()


def test_the_path_of_a_query_is_unknown() -> None:
    tile = window_from_query(query(), MapWindowSettings(channels=("path", "road")))
    assert not tile[0].any()
    assert tile[1].any()


def test_a_model_is_trained_on_windows_and_read_again(city: City, tmp_path: Path) -> None:
    small = ["training.steps=2", "training.epoch_steps=2", "data.batch_tuples=2", "name=few"]
    small += ["data.workers=0", "data.validation_tuples=4", "network.width=4"]
    recipe = load_settings(ModelSettings, "tiles", [*small, "data.windows.look=filled"])
    folder = train(city, recipe, device="cpu")
    model, card = read_model(folder, city, MapNet)
    look = look_of_card(card)
    assert isinstance(look, MapWindowSettings)
    assert look.look == "filled"
    offset, _ = model.pose(window_from_query(query(), look)[None])
    assert torch.isfinite(offset).all()
