from __future__ import annotations

import os
import signal
import subprocess
import sys

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given
from hypothesis import strategies as st

from data_prep.city.burn import rasterise, write_heights
from data_prep.city.pixels import MAX_PIXELS, check_pixels
from data_prep.city.raster import (
    ATTRIBUTION,
    BANDS,
    BUILDING,
    PATH,
    ROAD,
    MapRaster,
    read_raster,
)
from data_prep.errors import MaptileError
from data_prep.osm.footprints import OsmSource, read_osm

CRS = pyproj.CRS.from_epsg(32630)
WEST, SOUTH = 620_000.0, 5_736_000.0


def table(geometry, **columns) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=list(geometry), crs=CRS)


NO_ROADS = table([], width=np.empty(0), kind=np.empty(0, object))


def burn(buildings, roads=NO_ROADS, size=(100.0, 80.0), resolution=0.5) -> MapRaster:
    bounds = (WEST, SOUTH, WEST + size[0], SOUTH + size[1])
    return rasterise(buildings, roads, bounds, resolution, CRS)


def rings(rng, count: int, span: float) -> list[shapely.Polygon]:
    """Return rotated rectangles, every other one with a courtyard."""
    shapes = []
    for index in range(count):
        half = rng.uniform(4, 15, 2)
        shape = shapely.box(*-half, *half)
        if index % 2:
            shape -= shapely.box(*-half / 2, *half / 2)
        shape = shapely.affinity.rotate(shape, rng.uniform(0, 90))
        x, y = rng.uniform(20, span - 20, 2)
        shapes.append(shapely.affinity.translate(shape, WEST + x, SOUTH + y))
    return shapes


def random_raster(rng, height=37, width=53) -> MapRaster:
    data = rng.integers(0, 2, (3, height, width)).astype(np.uint8) * np.uint8(255)
    return MapRaster(data, WEST, SOUTH + height * 0.5, 0.5, CRS)


# --- burning ------------------------------------------------------------------------------------


def test_a_pixel_is_set_where_its_centre_is_covered():
    shapes = rings(np.random.default_rng(1), 12, 80)
    raster = burn(table(shapes))
    rows, columns = np.mgrid[: raster.height, : raster.width]
    east, north = np.moveaxis(raster.world_from_pixel(np.stack([rows, columns], -1) + 0.5), -1, 0)
    inside = shapely.contains_xy(shapely.union_all(shapes), east, north)
    assert np.array_equal(raster.data[BUILDING] > 0, inside)
    assert set(np.unique(raster.data)) == {0, 255}


@pytest.mark.parametrize("seed", range(3))
def test_area_is_that_of_the_union(seed):
    shapes = rings(np.random.default_rng(seed), 400, 1000)
    raster = burn(table(shapes), size=(1000, 1000))
    burnt = np.count_nonzero(raster.data[BUILDING]) * 0.25
    assert burnt == pytest.approx(shapely.union_all(shapes).area, rel=2e-3)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["oxford/oxford.osm", "cities/helsinki.osm.pbf", "cities/kotka_fi.osm.pbf"]
)
def test_area_of_real_cities(data_dir, name):
    data = read_osm(OsmSource(path=data_dir / name))
    raster = rasterise(data.buildings, data.roads, data.bounds, 0.5, data.crs)
    extent = shapely.box(raster.west, raster.south, raster.east, raster.north)
    burnt = np.count_nonzero(raster.data[BUILDING]) * 0.25
    assert burnt == pytest.approx(data.buildings.union_all().intersection(extent).area, rel=2e-3)
    holed = data.buildings[shapely.get_num_interior_rings(data.buildings.geometry.values) > 0]
    if not holed.empty:
        burnt = np.count_nonzero(
            rasterise(holed, data.roads[:0], data.bounds, 0.5, data.crs).data[BUILDING]
        )
        area = holed.union_all().intersection(extent).area
        assert burnt * 0.25 == pytest.approx(area, rel=2e-3)


def test_roads_have_their_width_and_kind():
    def line(x):
        return shapely.LineString([(WEST + x, SOUTH + 10), (WEST + x, SOUTH + 70)])

    roads = table([line(20), line(60)], width=[7.0, 2.0], kind=["road", "path"])
    raster = burn(table([]), roads)
    assert np.count_nonzero(raster.data[ROAD]) * 0.25 == pytest.approx(7 * 60)
    assert np.count_nonzero(raster.data[PATH]) * 0.25 == pytest.approx(2 * 60)
    # Row 0 is north: the lines end 10 m from both edges, and the first lies to the west.
    assert np.flatnonzero(raster.data[ROAD].any(axis=1))[[0, -1]].tolist() == [20, 139]
    assert np.flatnonzero(raster.data[ROAD].any(axis=0))[[0, -1]].tolist() == [33, 46]


@given(
    west=st.floats(-1e6, 1e6),
    south=st.floats(-1e7, 1e7),
    width=st.floats(1, 50),
    height=st.floats(1, 50),
    resolution=st.sampled_from([0.25, 0.5, 1.0, 0.3]),
)
def test_bounds_grow_to_whole_pixels(west, south, width, height, resolution):
    bounds = (west, south, west + width, south + height)
    raster = rasterise(table([]), NO_ROADS, bounds, resolution, CRS)
    slack = 1e-6
    assert west - resolution - slack < raster.west <= west + slack
    assert south - resolution - slack < raster.south <= south + slack
    assert west + width - slack <= raster.east < west + width + resolution + slack
    assert south + height - slack <= raster.north < south + height + resolution + slack
    steps = np.array([raster.west, raster.north]) / resolution
    assert steps == pytest.approx(np.round(steps), abs=1e-3)


def test_a_map_too_large_is_refused_before_it_is_made():
    with pytest.raises(MaptileError, match=r"10,000 km2 at 0\.5 m.*does not fit"):
        burn(table([]), size=(100_000, 100_000))


# --- windows and positions ------------------------------------------------------------------------


@given(
    row=st.integers(-60, 60),
    column=st.integers(-80, 80),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_windows(row, column, height, width):
    raster = random_raster(np.random.default_rng(0))
    padded = np.pad(raster.data, ((0, 0), (100, 100), (100, 100)))
    expected = padded[:, row + 100 : row + 100 + height, column + 100 : column + 100 + width]
    assert np.array_equal(raster.window(row, column, height, width), expected)


def test_a_window_inside_is_no_copy():
    raster = random_raster(np.random.default_rng(0))
    assert np.shares_memory(raster.window(3, 4, 10, 10), raster.data)


def test_positions_agree_with_gdal(tmp_path):
    raster = random_raster(np.random.default_rng(0))
    raster.write(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        east, north = file.xy([0, 5], [0, 7])
        assert raster.world_from_pixel([[0.5, 0.5], [5.5, 7.5]]).T.tolist() == [
            list(east),
            list(north),
        ]
        assert tuple(file.bounds) == (raster.west, raster.south, raster.east, raster.north)
    position = raster.world_from_pixel([[3.25, 8.75]])
    assert raster.pixel_from_world(position).tolist() == [[3.25, 8.75]]


def test_coverage_is_the_covered_fraction_of_each_cell():
    raster = random_raster(np.random.default_rng(0), 36, 54)
    expected = (raster.data[ROAD] / 255).reshape(12, 3, 18, 3).mean(axis=(1, 3))
    assert raster.coverage(ROAD, 1.5) == pytest.approx(expected, abs=1e-6)
    assert raster.coverage(ROAD, 0.5) == pytest.approx(raster.data[ROAD] / 255)
    assert raster.coverage(ROAD, 2.5).shape == (8, 11)


@given(edges=st.lists(st.integers(-14, 14), min_size=4, max_size=4))
def test_coverage_of_a_part_is_that_part(edges):
    raster = random_raster(np.random.default_rng(0), 37, 53)
    rows, columns = slice(*edges[:2]), slice(*edges[2:])
    expected = raster.coverage(ROAD, 2.5)[rows, columns]
    assert np.array_equal(raster.coverage(ROAD, 2.5, rows, columns), expected)


# --- files --------------------------------------------------------------------------------------


def test_the_file_has_the_documented_format(tmp_path):
    raster = random_raster(np.random.default_rng(0), 600, 700)
    raster.write(tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.descriptions == BANDS
        assert file.dtypes == ("uint8",) * 3
        assert file.crs.to_epsg() == 32630
        assert file.block_shapes == [(256, 256)] * 3
        assert file.compression.name == "zstd"
        assert file.interleaving.name == "pixel"
        assert file.tags()["TIFFTAG_COPYRIGHT"] == ATTRIBUTION
        assert np.array_equal(file.read(), raster.data)
    back = read_raster(tmp_path / "map.tif")
    assert np.array_equal(back.data, raster.data)
    assert (back.west, back.north, back.resolution) == (raster.west, raster.north, 0.5)
    assert back.crs == raster.crs
    assert [file.name for file in tmp_path.iterdir()] == ["map.tif"]


def write_tif(path, data, names, crs="EPSG:32630", transform=None) -> None:
    transform = transform or rasterio.Affine(0.5, 0, WEST, 0, -0.5, SOUTH)
    count, height, width = data.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=data.dtype,
        count=count,
        height=height,
        width=width,
        crs=crs,
        transform=transform,
    ) as file:
        file.write(data)
        for index, name in enumerate(names, 1):
            file.set_band_description(index, name)


def test_bands_are_found_by_name_and_may_be_of_any_number_type(tmp_path):
    data = np.random.default_rng(0).uniform(-1, 1, (3, 20, 30)).astype(np.float32)
    data[0, 0, 0] = np.nan
    write_tif(tmp_path / "a.tif", data, ["Road", "height", "BUILDING"])
    raster = read_raster(tmp_path / "a.tif")
    assert np.array_equal(raster.data[BUILDING], np.where(data[2] > 0, 255, 0))
    assert np.array_equal(raster.data[ROAD], np.where(data[0] > 0, 255, 0))
    assert not raster.data[PATH].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["building", "water"]}, "no band named road"),
        ({"names": []}, "no band named building or road"),
        ({"crs": None}, "not in metres"),
        ({"crs": "EPSG:4326"}, "not in metres"),
        ({"crs": "EPSG:2225"}, "not in metres"),  # US survey feet
        ({"transform": rasterio.Affine(0.5, 0, WEST, 0, -0.7, SOUTH)}, "not north-up"),
        ({"transform": rasterio.Affine(0.5, 0, WEST, 0, 0.5, SOUTH)}, "not north-up"),
        ({"transform": rasterio.Affine(0.4, 0.3, WEST, 0.3, -0.4, SOUTH)}, "not north-up"),
    ],
)
def test_rasters_that_are_not_maps(tmp_path, change, message):
    path = tmp_path / "a.tif"
    write_tif(path, np.zeros((2, 8, 8), np.uint8), **({"names": ["building", "road"]} | change))
    with pytest.raises(MaptileError, match=message) as error:
        read_raster(path)
    assert "\n" not in str(error.value)


def test_files_that_are_not_rasters(tmp_path):
    raster = random_raster(np.random.default_rng(0), 600, 700)
    raster.write(tmp_path / "map.tif")
    content = (tmp_path / "map.tif").read_bytes()
    (tmp_path / "half.tif").write_bytes(content[: len(content) // 2])
    (tmp_path / "text.tif").write_text("hello")
    for name in ("half.tif", "text.tif", "missing.tif"):
        with pytest.raises(MaptileError, match=name):
            read_raster(tmp_path / name)


def test_heights(tmp_path):
    def square(x, side):
        return shapely.box(WEST + x, SOUTH + 10, WEST + x + side, SOUTH + 10 + side)

    buildings = table(
        [square(10, 20), square(15, 5), square(50, 10), square(70, 10)],
        height=[30.0, 6.0, np.nan, 4.5],
    )
    # The raster is higher than one strip of rows, so the strips must fit together.
    raster = burn(buildings, size=(100, 700))
    write_heights(tmp_path / "height.tif", buildings, raster)
    with rasterio.open(tmp_path / "height.tif") as file:
        heights = file.read(1)
        assert file.descriptions == ("height",)
        assert np.isnan(file.nodata)
        assert file.transform == raster.transform
    values, counts = np.unique(heights[~np.isnan(heights)], return_counts=True)
    # The greatest height counts where buildings overlap; unknown heights are NaN.
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {4.5: 400, 30.0: 1600}
    assert not np.isnan(heights[raster.data[BUILDING] > 0]).all()
    assert np.isnan(heights[raster.data[BUILDING] == 0]).all()


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np, pyproj
from data_prep.city.raster import MapRaster
data = np.random.default_rng(0).integers(0, 2, (3, 400, 400)).astype(np.uint8) * np.uint8(255)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
MapRaster(data, 0, 0, 0.5, pyproj.CRS.from_epsg(32630)).write(Path(sys.argv[1]))
"""


def test_a_full_disk_leaves_nothing(tmp_path):
    """The limit is on the size of a file; GDAL itself does not report lost last bytes."""
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "map.tif"), "50000"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        env=os.environ,
        check=False,
    )
    assert run.returncode == 1
    assert "map.tif: cannot write: File too large" in run.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("side_m", [500.0, 3_000.0, 40_000.0])
@pytest.mark.parametrize("resolution", [0.0001, 0.001, 0.01])
def test_what_would_fit_is_said_and_does_fit(side_m, resolution):
    pixels = int(side_m / resolution)
    if pixels**2 <= MAX_PIXELS:
        check_pixels("map", pixels, pixels, resolution)
        return
    with pytest.raises(MaptileError, match="does not fit into memory") as error:
        check_pixels("map", pixels, pixels, resolution)
    fits = float(str(error.value).partition("--set resolution=")[2].partition(")")[0])
    assert int(side_m / fits) ** 2 <= MAX_PIXELS
    assert int(side_m / (0.8 * fits)) ** 2 > MAX_PIXELS
