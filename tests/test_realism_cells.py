"""The comparison of simulated with real cells: road lines, classes of cells, and separation."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pyproj
import pytest
import shapely
from conftest import ROOT

from data_prep.city.raster import ROAD, MapRaster
from maptile_loc.perceive.labels import BUILDING, OTHER


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module


def burned(shape) -> MapRaster:
    """A raster of 100 x 80 m at 0.5 m/px whose road band is a shape, in metres."""
    raster = MapRaster(
        np.zeros((3, 160, 200), np.uint8), 1000.0, 2080.0, 0.5, pyproj.CRS("EPSG:32632")
    )
    row, column = np.indices((160, 200))
    xy = raster.world_from_pixel(np.stack([row, column], axis=-1) + 0.5)
    raster.data[ROAD] = 255 * shapely.contains_xy(shape, xy[..., 0], xy[..., 1])
    return raster


@pytest.mark.parametrize("width", [3.2, 6.2, 7.7])
@pytest.mark.parametrize("end", [(1090.0, 2040.0), (1085.0, 2060.0), (1050.0, 2075.0)])
def test_a_straight_road_is_one_line_of_its_width(module, width, end):
    line = shapely.LineString([(1010.0, 2040.0), end])
    raster = burned(line.buffer(width / 2, cap_style="flat"))
    found, widths = module("road_lines").road_lines(raster, ROAD)
    assert len(found) == 1
    assert widths[0] == pytest.approx(width, abs=0.6)
    assert shapely.hausdorff_distance(found[0].intersection(line.buffer(2)), line) < width
    assert line.length - 1.5 * width < found[0].length < line.length + 1


def test_a_crossing_has_four_arms_each_with_its_own_width(module):
    wide = shapely.LineString([(1010.0, 2040.0), (1090.0, 2040.0)])
    narrow = shapely.LineString([(1050.0, 2005.0), (1050.0, 2075.0)])
    shape = wide.buffer(4, cap_style="flat") | narrow.buffer(2, cap_style="flat")
    lines, widths = module("road_lines").road_lines(burned(shape), ROAD)
    long = shapely.length(lines) > 10
    assert sorted(widths[long].round()) == pytest.approx([4, 4, 8, 8], abs=1)
    assert shapely.length(lines[~long]).sum() < 8


def test_an_empty_band_has_no_lines(module):
    lines, widths = module("road_lines").road_lines(burned(shapely.Polygon()), ROAD)
    assert len(lines) == len(widths) == 0


def test_cells_beside_walls_and_without_labels_are_not_judged(module):
    scan_cells = module("scan_cells")
    size = 10
    cell = np.array([22, 23, 24, 55, 77])
    pixel = np.array([22, 22, 23, 24, 55, 55, 55, 77, 77, 77])
    none = scan_cells.UNLABELLED
    kind = np.array([BUILDING, none, OTHER, OTHER, OTHER, none, none, OTHER, OTHER, none], np.uint8)
    wall, other = scan_cells.judged(cell, pixel, kind, size)
    assert wall.tolist() == [True, False, False, False, False]
    assert other.tolist() == [False, False, True, False, True]


def test_the_area_under_the_curve_is_the_share_of_right_pairs(module):
    area_under_curve = module("separation").area_under_curve
    rng = np.random.default_rng(1)
    score = rng.integers(0, 12, 90).astype(float)
    positive = rng.random(90) < 0.3
    one, other = np.meshgrid(score[positive], score[~positive])
    expected = ((one > other) + 0.5 * (one == other)).mean()
    assert area_under_curve(score, positive) == pytest.approx(expected)
    assert area_under_curve(positive.astype(float), positive) == 1


def test_drawn_cells_have_the_wanted_shares_of_ranges(module):
    separation = module("separation")
    rng = np.random.default_rng(2)
    given = np.concatenate([rng.uniform(0, 10, 500), rng.uniform(10, 50, 3000), [60.0, 10.0, 50.0]])
    wanted = np.concatenate([rng.uniform(0, 10, 30), rng.uniform(20, 30, 40)])
    chosen = separation.with_shares(given, wanted, rng)
    count = np.bincount(separation.range_band(given[chosen]), minlength=4)
    assert count.tolist() == [500, 0, np.floor(500 / 30 * 40), 0]
    assert len(np.unique(chosen)) == len(chosen)


def test_what_differs_separates_and_what_does_not_leaves_one_half(module):
    pytest.importorskip("sklearn")
    separate = module("separation").separate
    rng = np.random.default_rng(3)
    simulated = np.arange(3000) % 2 > 0
    site = np.arange(3000) // 100
    same = rng.normal(size=(3000, 2))
    assert separate(same, simulated, site).auc == pytest.approx(0.5, abs=0.05)
    shifted = same + np.stack([np.zeros(3000), 2.0 * simulated], axis=1)
    found = separate(shifted, simulated, site)
    assert found.auc > 0.85
    assert found.drop[1] > 0.3
    assert abs(found.drop[0]) < 0.05
