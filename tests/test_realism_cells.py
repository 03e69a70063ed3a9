"""The comparison of simulated with real cells: road lines, classes of cells, and separation."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pyproj
import pytest
import shapely
from conftest import ROOT

from data_prep.city.raster import ROAD, MapRaster


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
    names = {name: number for number, name in enumerate(scan_cells.GROUPS)}
    points = {
        22: ["building", "unlabelled"],
        23: ["car"],  # beside a wall
        24: ["car", "fence", "car"],
        55: ["car", "unlabelled"],
        77: ["fence", "fence", "unlabelled"],
    }
    pixel = np.repeat(list(points), [len(names) for names in points.values()])
    group = np.array([names[name] for some in points.values() for name in some])
    found, is_judged = scan_cells.judged(np.array(list(points)), pixel, group, 10)
    assert is_judged.tolist() == [True, False, True, False, True]
    expected = ["building", "car", "car", "car", "fence"]
    assert [scan_cells.GROUPS[number] for number in found] == expected


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


def test_a_trajectory_passes_each_pose_at_its_time(module):
    streets = module("labelled_streets")
    poses = np.array([[10.0, 20.0, 0.3], [500.0, -20.0, 3.0]])
    found = streets.trajectory_through(poses)
    at = np.searchsorted(found.t_ns, streets.START_NS + np.arange(2) * streets.BETWEEN_NS)
    np.testing.assert_allclose(found.poses[at], poses)
    assert found.segment[at].tolist() == [0, 1]
    np.testing.assert_allclose(found.speed(), streets.SPEED_M_S)
    first = found.poses[found.segment == 0]
    assert np.arctan2(*(first[-1] - first[0])[1::-1]) == pytest.approx(0.3)


def test_what_differs_separates_and_what_does_not_leaves_one_half(module):
    separate = module("separation").separate
    rng = np.random.default_rng(3)
    simulated = np.arange(3000) % 2 > 0
    site = np.arange(3000) // 100
    same = rng.normal(size=(3000, 2))
    family = np.arange(2)
    assert separate(same, family, simulated, site).auc == pytest.approx(0.5, abs=0.05)
    shifted = same + np.stack([np.zeros(3000), 2.0 * simulated], axis=1)
    found = separate(shifted, family, simulated, site)
    assert found.auc > 0.85
    assert found.drop[1] > 0.3
    assert abs(found.drop[0]) < 0.05
    # A copy of the feature does not hide it: both are of one family.
    twice = separate(shifted[:, [0, 1, 1]], np.array([0, 1, 1]), simulated, site)
    assert twice.drop == pytest.approx(found.drop, abs=0.03)


def test_distances_from_the_chord_are_those_of_a_line_and_of_a_circle(module):
    off_the_chord = module("realism_beams").off_the_chord
    along = np.linspace(0.0, 5.0, 11)
    line = np.stack([along, 3.0 - 0.7 * along], axis=-1)[None]
    np.testing.assert_allclose(off_the_chord(line), 0, atol=1e-12)
    line[0, 5] += 0.02 * np.array([0.7, 1.0]) / np.hypot(0.7, 1.0)
    assert off_the_chord(line)[0, 4] == pytest.approx(0.02)
    angle = np.radians(np.arange(0.0, 30.0, 2.0))
    circle = 9.0 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)[None]
    np.testing.assert_allclose(off_the_chord(circle), 9.0 * (1 - np.cos(np.radians(2.0))))
