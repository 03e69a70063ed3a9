from __future__ import annotations

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.city.raster import MapRaster
from data_prep.city.tiles import TileSettings, reference_centre, tile_grid
from data_prep.errors import MaptileError

CRS = pyproj.CRS.from_epsg(32630)


def made(height: int, width: int, resolution: float = 0.5, fill: float = 0.0) -> MapRaster:
    rng = np.random.default_rng(height)
    data = (rng.random((3, height, width)) < fill).astype(np.uint8) * np.uint8(255)
    return MapRaster(data, 620_000.0, 5_736_000.0, resolution, CRS)


@given(
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    size=st.integers(1, 40),
    overlap=st.floats(0, 0.9),
)
def test_tiles_cover_the_map_on_a_regular_grid(height, width, size, overlap):
    raster = made(height, width)
    tiles = tile_grid(raster, TileSettings(size_m=size / 2, overlap=overlap))
    covered = np.zeros((height, width), bool)
    for row, column in zip(tiles["row"], tiles["col"], strict=True):
        # No tile lies beyond the map.
        assert row < height
        assert column < width
        covered[row : row + size, column : column + size] = True
    assert covered.all()
    assert (tiles["size"] == size).all()
    assert tiles["id"].tolist() == list(range(len(tiles)))
    steps = np.diff(np.unique(tiles["row"]))
    assert (steps == max(round(size * (1 - overlap)), 1)).all()


@given(
    fill=st.sampled_from([0.0, 0.0005, 0.005]), size=st.integers(3, 50), overlap=st.floats(0, 0.9)
)
def test_empty_tiles_are_marked(fill, size, overlap):
    raster = made(90, 110, fill=fill)
    tiles = tile_grid(raster, TileSettings(size_m=size / 2, overlap=overlap))
    expected = [
        not raster.window(row, column, size, size).any()
        for row, column in zip(tiles["row"], tiles["col"], strict=True)
    ]
    assert tiles["empty"].tolist() == expected


def test_offsets_count_from_the_reference_tile():
    raster = made(400, 600)
    tiles = tile_grid(raster, TileSettings(size_m=50, overlap=0.5))
    centre = reference_centre(raster, tiles)
    middle = np.column_stack([tiles.geometry.centroid.x, tiles.geometry.centroid.y])
    offsets = tiles[["offset_east", "offset_north"]].to_numpy()
    assert offsets.dtype == np.float32
    assert middle == pytest.approx(centre + offsets, abs=1e-3)
    assert (offsets == 0).all(axis=1).sum() == 1
    # The reference is the tile nearest to the middle of the map.
    assert np.abs(centre - raster.centre).max() <= 12.5
    # Rows run south, columns run east.
    south = tiles.sort_values("row")["offset_north"].to_numpy()
    assert (np.diff(south) <= 0).all()
    first = tiles.iloc[0]
    assert first.geometry.bounds == (raster.west, raster.north - 50, raster.west + 50, raster.north)
    assert tiles.crs == raster.crs


def test_a_given_reference():
    raster = made(400, 600)
    wanted = np.array([raster.west + 30, raster.north - 40])
    latitude, longitude = (float(value) for value in raster.projection.inverse(wanted))
    settings = TileSettings(size_m=50, overlap=0.5, reference=(latitude, longitude))
    tiles = tile_grid(raster, settings)
    assert np.abs(reference_centre(raster, tiles) - wanted).max() <= 12.5
    plain = tile_grid(raster, TileSettings(size_m=50, overlap=0.5))
    names = ["offset_east", "offset_north"]
    difference = (plain[names] - tiles[names]).to_numpy()
    assert (difference == difference[0]).all()
    assert difference[0].any()
    with pytest.raises(MaptileError, match=r"reference 0\.0, 0\.0 is outside"):
        tile_grid(raster, TileSettings(reference=(0.0, 0.0)))


def test_other_resolutions_cut_the_same_ground():
    fine = tile_grid(made(400, 600, 0.5), TileSettings(size_m=60))
    coarse = tile_grid(made(200, 300, 1.0), TileSettings(size_m=60))
    assert fine.geometry.geom_equals(coarse.geometry).all()


def test_tiles_smaller_than_a_pixel():
    with pytest.raises(MaptileError, match=r"less than a pixel"):
        tile_grid(made(10, 10), TileSettings(size_m=0.2))
