"""The road channel of rendered views and of query tiles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_city import small_city

from data_prep.city.folder import City
from data_prep.city.raster import ROAD
from maptile_loc.learn.settings import DataSettings
from maptile_loc.learn.tiles.rendered import RenderedBatches
from maptile_loc.render.surface import DRIVEN_M, SurfaceSettings
from maptile_loc.render.vector_map import VectorMap, vector_map
from maptile_loc.render.view import ViewSettings, render, tile_from_query
from maptile_loc.types import QueryTile

VIEW = ViewSettings(
    size_px=96, resolution=0.5, channels=("road", "ground"), travel_m=10.0, line_scanner=0.0
).without_noise()


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("surface"))


@pytest.fixture(scope="module")
def city_map(city: City) -> VectorMap:
    return vector_map(city)


def test_the_surfaces_of_a_world_without_disguise_are_those_of_the_raster(
    city: City, city_map: VectorMap
) -> None:
    world = city_map.exact_world(city.raster.resolution, roads=True)
    assert world.roads is not None
    drawn, band = world.roads[0].numpy() > 0, city.raster.data[ROAD] > 0
    assert drawn.shape == band.shape
    assert (drawn & band).sum() > 0.97 * (drawn | band).sum()


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_without_errors_ground_is_road_where_the_map_has_road(
    city: City, city_map: VectorMap, angle: float
) -> None:
    world = city_map.exact_world(city.raster.resolution, roads=True)
    middle = city_map.roads.middle()
    at = middle[np.hypot(*(middle - middle.mean(0)).T).argmin()]
    paths = torch.tensor(at + np.array([[[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]])).float()
    centre = torch.tensor(at[None]).float()
    generator = torch.Generator().manual_seed(0)
    which, turned = torch.zeros(1, dtype=torch.int64), torch.tensor([angle])
    view = VIEW.model_copy(update={"rays": 4000})
    road, ground = render(world, which, paths, centre, turned, view, generator)[0].numpy()
    row, column = np.indices(road.shape)
    x, y = (column + 0.5 - 48) * 0.5, (48 - row - 0.5) * 0.5
    turn = np.exp(1j * angle) * (x + 1j * y)
    place = city.reference + at + np.stack([turn.real, turn.imag], -1)
    pixel = np.floor(city.raster.pixel_from_world(place)).astype(int)
    mapped = city.raster.data[ROAD][pixel[..., 0], pixel[..., 1]] > 0
    far = np.hypot(x, y) > DRIVEN_M[1] + 1.5  # nearer, the vehicle stands on a road in any case
    seen = ground > 0
    assert set(np.unique(road)) == {-1, 0, 1}
    assert not road[~seen].any()
    assert (road[seen & far] > 0).mean() == pytest.approx(mapped[seen & far].mean(), abs=0.03)
    assert ((road > 0) == mapped)[seen & far].mean() > 0.95
    assert (road[np.hypot(x, y) < DRIVEN_M[0]] >= 0).all()


def test_errors_hide_and_reverse_some_of_it(city_map: VectorMap) -> None:
    def share(**settings: float) -> torch.Tensor:
        surface = SurfaceSettings.exact().model_copy(update=settings)
        view = VIEW.model_copy(update={"surface": surface, "size_px": 32, "resolution": 1.5})
        data = DataSettings(batch_tuples=20, tuple_size=1, worlds=1, view=view)
        tiles = RenderedBatches(city_map, data, "known", 0, 0)[0].tiles[:, 0]
        known = tiles[:, 0] != 0
        return known.float().mean((1, 2))

    exact = share()
    assert exact.min() > 0
    assert share(labelled=0.0, missing=0.0).mean() < 0.7 * exact.mean()  # kerbs are seen nearby
    assert share(labelled=0.0, missing=1.0).mean() < 0.7 * share(labelled=0.0, missing=0.0).mean()
    assert not share(labelled=0.0, unknown=1.0).any()


def test_a_model_that_reads_no_roads_gets_the_same_tiles_as_before(city_map: VectorMap) -> None:
    seen = ("wall", "ground", "observed")
    plain = ViewSettings(size_px=32, resolution=3.0, rays=64, channels=seen)
    more = plain.model_copy(update={"channels": (*seen, "road")})
    tiles = [
        RenderedBatches(city_map, DataSettings(batch_tuples=3, worlds=1, view=view), "known", 0, 0)[
            0
        ].tiles
        for view in (plain, more)
    ]
    assert torch.equal(tiles[0], tiles[1][:, :, :3])


def test_a_query_tiles_road_evidence_is_averaged_where_it_is_known() -> None:
    zeros = np.zeros((12, 12), np.float32)
    road = zeros.copy()
    road[:3, :3] = [[1, 1, 0], [1, 0, 0], [0, 0, 0]]  # one pixel of the tile
    road[3:6, :3] = [[-1, -0.5, 0], [0, 0, 0], [0, 0, 0]]
    query = QueryTile(zeros, zeros, zeros, 0.5, 0.0, road=road)
    view = ViewSettings(size_px=8, resolution=0.75, channels=("road",))
    fine = tile_from_query(query, view)
    assert fine.shape == (1, 8, 8)
    coarse = ViewSettings.model_construct(**{**dict(view), "size_px": 4, "resolution": 1.5})
    tile = tile_from_query(query, coarse)[0]
    assert tile[0, 0] == 1
    assert tile[1, 0] == pytest.approx(-0.75)
    assert not tile[2:].any()
    without = QueryTile(zeros, zeros, zeros, 0.5, 0.0)
    assert not tile_from_query(without, view).any()
