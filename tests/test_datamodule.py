from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch
from numpy.typing import NDArray
from small_city import small_city

from data_prep.city.folder import City, open_city
from data_prep.city.raster import BUILDING
from data_prep.errors import MaptileError
from maptile_loc.learn.data import EpochSampler, TileDataModule
from maptile_loc.learn.loop import mean_and_deviation
from maptile_loc.learn.settings import DataSettings
from maptile_loc.learn.tiles.rendered import RenderedBatches
from maptile_loc.render.disguise import DisguiseSettings, build_world
from maptile_loc.render.raycast import EDGE_CELL, FREE_CELL, SOLID_CELL
from maptile_loc.render.routes import road_graph
from maptile_loc.render.vector_map import VectorMap, vector_map
from maptile_loc.render.view import WALL_CHANNEL, ViewSettings

VIEW = ViewSettings(size_px=32, resolution=3.0, rays=128)
SMALL = DataSettings(
    batch_tuples=4, worlds=2, batches_per_world=3, validation_tuples=8, workers=0, view=VIEW
)


@pytest.mark.parametrize("error", ["ConnectionResetError", "EOFError", "ValueError"])
def test_a_process_that_makes_batches_says_nothing_when_its_parent_is_gone(error: str) -> None:
    code = (
        "from maptile_loc.learn.runtime import quiet_worker\n"
        "quiet_worker(0)\n"
        "import sys\n"
        f"try: raise {error}('lost')\n"
        "except Exception: sys.excepthook(*sys.exc_info())\n"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.returncode == 0
    assert (child.stderr == "") == (error != "ValueError")


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def city_map(city: City) -> VectorMap:
    return vector_map(city)


# --- Routes ------------------------------------------------------------------------------------


def test_a_dead_end_turns_back_and_a_junction_leads_on() -> None:
    # A T: from (0, 0) east to (20, 0), with a branch north at (10, 0).
    line = np.array([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    branch = np.array([[10.0, 0.0], [10.0, 8.0]])
    graph = road_graph([line, branch], [4.0, 4.0])
    assert graph.length().sum() == pytest.approx(2 * 28)
    starts, ends = graph.start.numpy(), graph.end.numpy()
    for piece in range(len(starts)):
        following = set(graph.following[piece].tolist())
        assert len(following) == graph.choices[piece]
        for after in following:
            np.testing.assert_allclose(starts[after], ends[piece], atol=1e-6)
        back = int(graph.opposite(torch.tensor(piece)))
        np.testing.assert_allclose(starts[back], ends[piece])
        at_end = any(np.allclose(ends[piece], point) for point in ([0, 0], [20, 0], [10, 8]))
        assert (back in following) == at_end
        assert graph.choices[piece] == (2 if np.allclose(ends[piece], [10, 0]) else 1)


def test_drawn_positions_lie_on_roads_at_the_spacing_asked_for() -> None:
    line = np.array([[0.0, 0.0], [300.0, 0.0]])
    graph = road_graph([line], [6.0])
    generator = torch.Generator().manual_seed(0)
    weights = graph.length() * ((graph.start[:, 0] > 90) & (graph.start[:, 0] < 210))
    samples = graph.draw(500, weights, 3, (4.0, 16.0), 50.0, 0.0, generator)
    centre = samples.centre
    assert centre[:, 0, 0].min() > 86
    assert centre[:, 0, 0].max() < 214
    assert centre[..., 1].abs().max() <= 3.0
    assert centre[..., 1].min() < -2.5  # both sides of the road are covered
    assert centre[..., 1].max() > 2.5
    step = centre.diff(dim=1)[..., 0].abs()
    assert step.min() > 3.9
    assert step.max() < 16.1
    assert step.min() < 5
    assert step.max() > 15
    torch.testing.assert_close(step[:, 0], step[:, 1], atol=0.2, rtol=0)
    middle = samples.paths.shape[2] // 2
    torch.testing.assert_close(samples.paths[:, :, middle], centre)
    length = (samples.paths[:, :, -1] - samples.paths[:, :, 0]).norm(dim=-1)
    torch.testing.assert_close(length, torch.full_like(length, 50.0), atol=0.5, rtol=0)


def test_drawn_positions_cover_every_road(city_map: VectorMap) -> None:
    generator = torch.Generator().manual_seed(1)
    samples = city_map.roads.draw(4000, city_map.weights, 1, (4.0, 4.0), 50.0, 0.0, generator)
    apart = torch.cdist(city_map.roads.start, samples.centre[:, 0]).min(dim=1).values
    assert apart[city_map.weights > 0].max() < 6


def test_roads_outside_the_citys_tiles_have_no_weight(city: City, city_map: VectorMap) -> None:
    tiles = city.tiles()
    east = tiles["offset_east"]
    folder = city.folder
    assert folder is not None

    class HalfCity(City):
        def tiles(self) -> gpd.GeoDataFrame:
            return tiles.assign(empty=tiles["empty"] | (east > 0))

    fields = {name: getattr(city, name) for name in city.__dataclass_fields__}
    half = vector_map(HalfCity(**fields))
    limit = float(east[east <= 0].max()) + 48
    assert half.roads.start[half.weights > 0, 0].max() <= limit
    assert half.weights.sum() < city_map.weights.sum()


# --- Worlds ------------------------------------------------------------------------------------


def test_a_world_without_disguise_is_the_map(city: City, city_map: VectorMap) -> None:
    exact = DisguiseSettings(resolution=city.raster.resolution).nothing()
    middle = city_map.roads.middle()
    rng = np.random.default_rng(0)
    cells = build_world(city_map.buildings, middle, city_map.bounds, exact, rng)
    inner = (slice(1, -1), slice(1, -1))
    assert set(np.unique(cells[inner])) == {FREE_CELL, SOLID_CELL}
    assert (cells[[0, -1]] == EDGE_CELL).all()
    assert np.array_equal(cells[inner] == SOLID_CELL, city.raster.data[BUILDING][inner] > 0)


def test_buildings_are_displaced_by_the_standard_deviation_asked_for() -> None:
    x, y = np.mgrid[5:400:20, 5:400:20].reshape(2, -1).astype(float)
    boxes = shapely.box(x, y, x + 8, y + 8)
    settings = DisguiseSettings(resolution=0.1).nothing().model_copy(update={"shift_m": 0.7})
    rng = np.random.default_rng(0)
    cells = build_world(boxes, np.zeros((0, 2)), (0, 0, 400, 400), settings, rng) == SOLID_CELL
    blocks = cells[::-1].reshape(20, 200, 20, 200).transpose(0, 2, 1, 3).reshape(400, 200, 200)
    row, column = np.mgrid[0:200, 0:200] * 0.1 + 0.05
    mass = blocks.sum(axis=(1, 2))
    shift = np.stack([(blocks * axis).sum((1, 2)) / mass - 9 for axis in (column, row)])
    assert shift.std() == pytest.approx(0.7, rel=0.1)
    assert abs(shift.mean()) < 0.1


def test_missing_and_new_buildings_and_clutter() -> None:
    x, y = np.mgrid[5:400:20, 5:400:20].reshape(2, -1).astype(float)
    boxes = shapely.box(x, y, x + 8, y + 8)
    rng = np.random.default_rng(0)
    nothing = DisguiseSettings().nothing()
    bounds = (0.0, 0.0, 400.0, 400.0)
    roads = np.array([[200.0, 200.0]])

    def area(**change: float) -> float:
        cells = build_world(boxes, roads, bounds, nothing.model_copy(update=change), rng)
        return float((cells[1:-1, 1:-1] == SOLID_CELL).sum())

    whole = area()
    assert area(missing=0.3) / whole == pytest.approx(0.7, abs=0.08)
    assert area(new_per_km2=400.0) > whole
    cells = build_world(
        boxes[:0], roads, bounds, nothing.model_copy(update={"new_per_km2": 3000.0}), rng
    )
    assert cells[233:300, 233:300].max() >= SOLID_CELL
    assert cells[265:268, 265:268].max() == FREE_CELL  # the road stays free


# --- Batches -----------------------------------------------------------------------------------


def test_a_batch_depends_on_its_number_and_the_seed_only(city_map: VectorMap) -> None:
    one = RenderedBatches(city_map, SMALL, "unknown", 3, 0)
    other = RenderedBatches(city_map, SMALL, "unknown", 3, 0)
    in_order = [one[number] for number in range(8)]
    for number in (7, 2, 5):
        for first, second in zip(in_order[number], other[number], strict=True):
            assert torch.equal(first, second)
    assert not torch.equal(in_order[0].tiles, in_order[1].tiles)
    another_seed = RenderedBatches(city_map, SMALL, "unknown", 4, 0)[0]
    another_stream = RenderedBatches(city_map, SMALL, "unknown", 3, 1)[0]
    assert not torch.equal(in_order[0].offset, another_seed.offset)
    assert not torch.equal(in_order[0].offset, another_stream.offset)


def test_worlds_are_replaced_one_by_one(city_map: VectorMap) -> None:
    batches = RenderedBatches(city_map, SMALL, "known", 0, 0)
    before = batches.worlds(0).cells.clone()
    assert torch.equal(batches.worlds(2).cells, before)
    after = batches.worlds(3).cells
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True]


def test_a_batch_has_the_documented_shapes_and_frames(city_map: VectorMap) -> None:
    known = RenderedBatches(city_map, SMALL, "known", 0, 0)[0]
    assert known.tiles.shape == (4, 3, 3, 32, 32)
    assert known.offset.shape == (4, 3, 2)
    assert known.angle.abs().max() == 0
    west, south, east, north = city_map.bounds
    assert known.offset[..., 0].min() > west
    assert known.offset[..., 0].max() < east
    assert known.offset[..., 1].min() > south
    assert known.offset[..., 1].max() < north
    unknown = RenderedBatches(city_map, SMALL, "unknown", 0, 0)[0]
    assert unknown.angle.abs().max() <= math.pi
    assert unknown.angle.std() > 0.5


@pytest.mark.parametrize("heading", ["known", "unknown"])
def test_walls_of_a_tile_lie_on_the_outlines_of_the_map(
    city: City, city_map: VectorMap, heading: str
) -> None:
    view = ViewSettings(size_px=128, resolution=0.75).without_noise()
    exact = SMALL.model_copy(
        update={"view": view, "disguise": DisguiseSettings().nothing(), "batch_tuples": 8}
    )
    batch = RenderedBatches(city_map, exact, heading, 0, 0)[0]  # type: ignore[arg-type]
    tile, row, column = (batch.tiles.flatten(0, 1)[:, WALL_CHANNEL] > 0.5).nonzero().numpy().T
    assert len(tile) > 500
    x, y = (column + 0.5 - 64) * 0.75, (64 - row - 0.5) * 0.75
    angle = batch.angle.flatten().double().numpy()[tile]
    offset = batch.offset.flatten(0, 1).double().numpy()[tile]
    east = offset[:, 0] + np.cos(angle) * x - np.sin(angle) * y
    north = offset[:, 1] + np.sin(angle) * x + np.cos(angle) * y
    points = shapely.points(east + city.reference[0], north + city.reference[1])
    outlines = shapely.union_all(city.buildings().geometry.boundary.to_numpy())
    assert shapely.distance(points, outlines).max() < 1.7  # a pixel's diagonal, a cell's half


def test_positions_in_yards_are_outside_buildings(city_map: VectorMap) -> None:
    exact = {"disguise": SMALL.disguise.nothing(), "batch_tuples": 200}
    pieces = torch.stack([city_map.roads.start, city_map.roads.end], 1).numpy()
    roads = shapely.union_all(shapely.linestrings(pieces))
    houses = shapely.STRtree([shapely.buffer(house, -1.0) for house in city_map.buildings])

    def away(yards: float) -> NDArray[np.float64]:
        settings = SMALL.model_copy(update=exact | {"yards": yards})
        samples = RenderedBatches(city_map, settings, "known", 0, 0)[0].offset.double()
        points = shapely.points(samples.reshape(-1, 2).numpy())
        assert len(houses.query(points, predicate="within")[0]) == 0 or yards == 0
        return np.asarray(shapely.distance(points, roads))

    beside = float(city_map.roads.half_width.max()) + SMALL.beside_m + 0.5
    assert away(0.0).max() < beside
    assert 0.2 < (away(1.0) > beside).mean() < 0.95
    assert (away(0.3) > beside).mean() < 0.3


def test_mean_and_deviation_are_those_of_drawn_positions(city_map: VectorMap) -> None:
    mean, deviation = mean_and_deviation(*city_map.positions())
    generator = torch.Generator().manual_seed(0)
    samples = city_map.roads.draw(4000, city_map.weights, 1, (4.0, 4.0), 50.0, 0.0, generator)
    offsets = samples.centre[:, 0].double().numpy()
    np.testing.assert_allclose(offsets.mean(0), mean, atol=3)
    np.testing.assert_allclose(offsets.std(0), deviation, rtol=0.05)


def test_an_epoch_begins_after_the_batches_already_trained_on() -> None:
    trained = 0
    sampler = EpochSampler(3, lambda: trained)
    assert list(sampler) == [0, 1, 2]
    trained = 7
    assert list(sampler) == [7, 8, 9]
    assert len(sampler) == 3


def test_workers_render_the_same_batches(city_map: VectorMap) -> None:
    alone = TileDataModule([city_map], SMALL, "known", 0, 4)
    helped = TileDataModule([city_map], SMALL.model_copy(update={"workers": 2}), "known", 0, 4)
    for first, second in zip(alone.train_dataloader(), helped.train_dataloader(), strict=True):
        assert torch.equal(first.tiles, second.tiles)
        assert torch.equal(first.offset, second.offset)


def test_validation_batches_are_constant_and_not_trained_on(city_map: VectorMap) -> None:
    data = TileDataModule([city_map], SMALL, "known", 0, 4)
    first, again = (list(data.val_dataloader()) for _ in range(2))
    assert len(first) == 2
    assert all(torch.equal(a.tiles, b.tiles) for a, b in zip(first, again, strict=True))
    trained_on = torch.cat([batch.offset.flatten(0, 1) for batch in data.train_dataloader()])
    held_out = torch.cat([batch.offset.flatten(0, 1) for batch in first])
    assert torch.cdist(trained_on, held_out).min() > 0


# --- Cities without a road table -----------------------------------------------------------------


def test_roads_of_a_bare_raster_lie_on_its_road_surface(city: City) -> None:
    assert city.folder is not None
    bare = open_city(city.folder / "map.tif")
    city_map = vector_map(bare)
    generator = torch.Generator().manual_seed(0)
    samples = city_map.roads.draw(300, city_map.weights, 1, (4.0, 4.0), 30.0, 0.0, generator)
    roads = shapely.union_all(city.roads().geometry.to_numpy())
    points = samples.centre[:, 0].double().numpy() + bare.reference
    apart = shapely.distance(shapely.points(points), roads)
    assert np.median(apart) < 4  # on a street of 5.5 m or so
    towards = samples.paths[:, 0, -1] - samples.paths[:, 0, 0]
    along = towards.abs().max(dim=1).values / towards.norm(dim=1)
    assert along.median() > 0.99  # streets run east and north


def test_a_city_without_roads_is_refused(city: City) -> None:
    raster = replace(
        city.raster, data=city.raster.data * np.array([1, 0, 0], np.uint8)[:, None, None]
    )
    with pytest.raises(MaptileError, match="no roads"):
        vector_map(replace(city, folder=None, raster=raster))


def test_large_cities_get_fewer_worlds(city_map: VectorMap) -> None:
    wide = replace(city_map, bounds=(-8000.0, -8000.0, 8000.0, 8000.0))
    fine = DisguiseSettings(resolution=1.0)
    settings = SMALL.model_copy(update={"worlds": 8, "disguise": fine})
    assert RenderedBatches(wide, settings, "known", 0, 0).slots == 2


@pytest.mark.realdata
def test_oxford_gives_tiles_with_walls(data_dir: Path, tmp_path: Path) -> None:
    from data_prep.city.folder import CitySettings, prepare_city
    from data_prep.osm.footprints import OsmSource

    source = OsmSource(path=data_dir / "oxford" / "oxford.osm")
    oxford = prepare_city(source, tmp_path / "oxford", CitySettings())
    batch = RenderedBatches(vector_map(oxford), DataSettings(batch_tuples=32), "known", 0, 0)[0]
    walls = batch.tiles[:, :, WALL_CHANNEL].flatten(0, 1).flatten(1).sum(dim=1)
    assert (walls > 5).float().mean() > 0.7
