"""Maps that are read and written in blocks are those that are held in memory."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from hypothesis import given
from hypothesis import strategies as st
from made import UTM, blocks_raster
from made_osm import hamlet

from data_prep.city.burn import burnt
from data_prep.city.content_hash import content_hash
from data_prep.city.folder import CitySettings, open_city, prepare_city
from data_prep.city.geotiff import STRIP, TiffPixels
from data_prep.city.raster import BUILDING, PATH, ROAD, MapRaster, read_raster
from data_prep.city.tiles import TileSettings, tile_grid
from data_prep.errors import MaptileError
from data_prep.osm.footprints import OsmSource, read_osm

WEST, NORTH = 620_000.0, 5_736_000.0
"""Corner of the maps below."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[MapRaster, MapRaster]:
    """A map in memory, and the same one in a file."""
    raster = blocks_raster(side_m=333.0)
    rng = np.random.default_rng(0)
    raster.data[ROAD] = np.where(rng.random(raster.data.shape[1:]) < 0.3, 255, 0)
    path = tmp_path_factory.mktemp("blocks") / "map.tif"
    raster.write(path)
    return raster, read_raster(path)


whole = st.integers(-5, 4)
span = st.builds(
    slice,
    st.none() | st.integers(-700, 700),
    st.none() | st.integers(-700, 700),
    st.none() | st.integers(-3, 3).filter(bool),
)


@given(bands=whole.filter(lambda k: -3 <= k < 3) | span, rows=span, columns=span)
def test_pixels_of_a_file_are_indexed_like_an_array(pair, bands, rows, columns):
    made, read = pair
    expected = made.data[bands, rows, columns]
    assert np.array_equal(read.data[bands, rows, columns], expected)
    assert np.array_equal(read.data[bands], made.data[bands])


def test_a_map_in_a_file_is_the_map_in_memory(pair):
    made, read = pair
    assert isinstance(read.data, TiffPixels)
    assert np.array_equal(read.data, made.data)
    assert content_hash(read, read.centre) == content_hash(made, made.centre)
    tiles = tile_grid(read, TileSettings())
    assert tiles.equals(tile_grid(made, TileSettings()))
    rng = np.random.default_rng(1)
    for row, column, height, width in rng.integers(-50, 700, (50, 4)).tolist():
        window = row, column, max(height, 1), max(width, 1)
        assert np.array_equal(read.window(*window), made.window(*window))


@pytest.mark.parametrize("factor", [1, 3, 8, 16, 20])
@pytest.mark.parametrize("corner", [(0, 0), (16, 40), (5, 7)])
def test_a_reduced_map_holds_the_covered_share(pair, factor, corner):
    made, read = pair
    window = *corner, 650, 601
    expected = made.reduced(*window, factor)
    for band in range(3):
        part = replace(made, data=made.window(*window))
        cover = part.coverage(band, factor * made.resolution)
        assert np.array_equal(expected[band], np.round(cover * 255))
    error = np.abs(read.reduced(*window, factor).astype(int) - expected)
    assert error.max() <= 2


def test_overviews_hold_the_covered_share(pair):
    made, read = pair
    shares = read.data.read_shares(8, 16, 640, 600, 8).astype(int)
    expected = made.reduced(8, 16, 640, 600, 8)
    assert np.abs(shares - expected).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "factors"),
    [(9, 250, []), (257, 8, [8]), (1301, 1100, [8, 32]), (515, 4099, [8, 32, 128])],
)
def test_the_pixels_of_an_overview_are_the_means_of_as_many(tmp_path, height, width, factors):
    rng = np.random.default_rng(height)
    coarse = rng.random((3, height // 7 + 1, width // 7 + 1)) < 0.3
    flags = coarse.repeat(7, axis=1).repeat(7, axis=2)[:, :height, :width]
    flags = np.where(flags ^ (rng.random(flags.shape) < 0.1), 255, 0).astype(np.uint8)
    made = MapRaster(flags, 1000.0, 5000.0, 0.5, UTM)
    made.write(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        assert len(file.overviews(1)) == len(factors)
        np.testing.assert_array_equal(file.read(), flags)
    for level, factor in enumerate(factors):
        spare = (0, 0), (0, -height % factor), (0, -width % factor)
        blocks = np.pad(flags, spare).astype(float)
        blocks = blocks.reshape(3, -(-height // factor), factor, -1, factor).mean(axis=(2, 4))
        with rasterio.open(tmp_path / "map.tif", OVERVIEW_LEVEL=level) as file:
            assert np.abs(file.read() - blocks).max() <= 0.5 + 1e-3


def test_the_overviews_of_a_large_part_are_where_the_pixels_are(tmp_path):
    """Sizes that are no multiple of eight: far from the corner, a shift would add up."""
    rng = np.random.default_rng(0)
    flags = np.where(rng.random((3, 701, 4099)) < 0.5, 255, 0).astype(np.uint8)
    made = MapRaster(flags, 0.0, 0.0, 0.5, UTM)
    made.write(tmp_path / "map.tif")
    read = read_raster(tmp_path / "map.tif")
    for row, column, height, width, factor in [(0, 3584, 640, 512, 8), (64, 4000, 320, 96, 32)]:
        found = read.data.read_shares(row, column, height, width, factor).astype(int)
        assert np.abs(found - made.reduced(row, column, height, width, factor)).max() <= 1


def windows_sum(raster: MapRaster) -> int:
    """A number that depends on many windows."""
    rng = np.random.default_rng(2)
    total = 0
    for row, column in rng.integers(-50, 700, (100, 2)).tolist():
        total += int(raster.window(row, column, 64, 64).sum(dtype=np.int64))
    return total


def answer(raster: MapRaster, queue: object) -> None:
    """Put the sum of windows into a queue."""
    queue.put(windows_sum(raster))


def test_threads_read_at_the_same_time(pair):
    made, read = pair
    start = threading.Barrier(8)

    def work(_: int) -> int:
        start.wait()
        return windows_sum(read)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(8))) == {windows_sum(made)}


def test_forked_processes_read(pair):
    made, read = pair
    assert windows_sum(read) == windows_sum(made)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=answer, args=(read, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert {queue.get(timeout=120) for _ in processes} == {windows_sum(made)}
    for process in processes:
        process.join()


def test_a_map_is_small_when_it_is_sent(pair):
    sent = pickle.dumps(pair[1])
    assert len(sent) < 10_000
    assert np.array_equal(pickle.loads(sent).data, pair[0].data)


def test_a_map_that_was_replaced_is_not_read(tmp_path):
    """The pixels of the new map would be taken for those of the old one."""
    blocks_raster(0, 60.0).write(tmp_path / "map.tif")
    opened = read_raster(tmp_path / "map.tif")
    blocks_raster(1, 60.0).write(tmp_path / "map.tif")
    with pytest.raises(MaptileError, match=r"map\.tif: was replaced while it was in use"):
        opened.window(0, 0, 10, 10)


# --- burning ------------------------------------------------------------------------------------


def whole_map(shapes, height: int, width: int, resolution: float) -> np.ndarray:
    """One band, burnt at once by GDAL."""
    transform = rasterio.Affine(resolution, 0, WEST, 0, -resolution, NORTH)
    return rasterio.features.rasterize(
        shapes, (height, width), transform=transform, default_value=255, dtype=np.uint8
    )


@pytest.mark.parametrize("resolution", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("grid", [0.0, 0.25])
def test_strips_are_burnt_like_the_whole_map(resolution, grid):
    """Also where edges cross strips, and where corners lie exactly on centres of pixels."""
    rng = np.random.default_rng(int(grid * 8))
    height, width = 3 * STRIP + 40, 300
    size = np.array([width, height]) * resolution

    def shapes(count: int, longest: float) -> np.ndarray:
        corners = rng.uniform(-0.1, 1.1, (count, 1, 2)) * size
        corners = corners + rng.uniform(-longest, longest, (count, 5, 2))
        if grid:
            corners = np.round(corners / grid) * grid
        rings = corners * (1, -1) + (WEST, NORTH)
        # Rings cross themselves: those, too, must not depend on the strips.
        return shapely.polygons(np.concatenate([rings, rings[:, :1]], axis=1))

    buildings = np.concatenate([shapes(300, 20.0), shapes(20, STRIP * resolution * 1.5)])
    table = gpd.GeoDataFrame(geometry=buildings, crs=UTM)
    ends = rng.uniform(0, 1, (80, 2, 2)) * size * (1, -1) + (WEST, NORTH)
    columns = {"width": rng.uniform(1, 12, 80), "kind": ["road", "path"] * 40}
    roads = gpd.GeoDataFrame(columns, geometry=shapely.linestrings(ends), crs=UTM)
    bounds = (WEST, NORTH - size[1], WEST + size[0], NORTH)
    raster = burnt(table, roads, bounds, resolution, UTM)
    wide = shapely.buffer(
        roads.geometry.to_numpy(), columns["width"] / 2, cap_style="flat", quad_segs=4
    )
    expected = [whole_map(part, height, width, resolution) for part in (buildings, wide[::2])]
    assert np.array_equal(raster.data[BUILDING], expected[0])
    assert np.array_equal(raster.data[ROAD], expected[1])
    assert raster.data[PATH].any()
    rows = np.concatenate(list(raster.strips()), axis=1)
    assert np.array_equal(rows[BUILDING], expected[0])


@pytest.mark.realdata
def test_strips_of_a_real_city_are_burnt_like_the_whole_map(data_dir):
    data = read_osm(OsmSource(path=data_dir / "cities/kotka_fi.osm.pbf"))
    raster = burnt(data.buildings, data.roads, data.bounds, 0.5, data.crs)
    expected = rasterio.features.rasterize(
        data.buildings.geometry,
        (raster.height, raster.width),
        transform=raster.transform,
        default_value=255,
        dtype=np.uint8,
    )
    assert np.array_equal(raster.data[BUILDING], expected)


# --- cities -------------------------------------------------------------------------------------


def test_a_whole_map_is_not_read_when_a_city_is_opened(tmp_path, monkeypatch):
    source = hamlet().write(tmp_path / "hamlet.osm")
    made = prepare_city(OsmSource(path=source), tmp_path / "city", CitySettings())

    def refuse(*_: object) -> None:
        raise AssertionError("pixels were read")

    monkeypatch.setattr(TiffPixels, "read", refuse)
    assert open_city(tmp_path / "city").content_hash == made.content_hash
    bare = open_city(tmp_path / "city" / "map.tif")
    assert bare.reference.tolist() == made.reference.tolist()
    monkeypatch.undo()
    assert bare.content_hash == made.content_hash == content_hash(made.raster, made.reference)


def test_a_map_that_was_packed_again_is_seen(tmp_path):
    """The pixels are the same, but the overviews need not be."""
    source = hamlet().write(tmp_path / "hamlet.osm")
    city = prepare_city(OsmSource(path=source), tmp_path / "city", CitySettings())
    pixels = replace(city.raster, data=np.asarray(city.raster.data))
    path: Path = tmp_path / "city" / "map.tif"
    before = path.read_bytes()
    with rasterio.open(path, "r+") as file:
        file.update_tags(note="changed")
    assert path.read_bytes() != before
    with pytest.raises(MaptileError, match=r"map\.tif: changed.*maptile prepare"):
        open_city(tmp_path / "city")
    pixels.write(path)
    assert path.read_bytes() == before
    assert open_city(tmp_path / "city").content_hash == city.content_hash
