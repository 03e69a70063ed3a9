"""The benchmarks' scores on cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import shapely
from conftest import ROOT
from made import ListedScans, straight_drive

from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.types import HeadingKnowledge, Queries


@pytest.fixture
def walls(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("walls")


@pytest.fixture
def tiles(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("tiles")


def test_a_wall_cell_is_right_beside_a_truth_cell_and_no_further(walls):
    truth, wall = np.zeros((2, 40, 40), bool)
    truth[10, :30] = True
    wall[11, :20] = True  # one cell away: right; finds truth columns 0 to 20
    wall[12, 30:34] = True  # two cells away: wrong, and finds nothing
    distance = np.full((40, 40), 5.0)
    distance[:, 20:] = 15.0
    scores = walls.score_cells(wall, truth, distance)
    assert scores[0].tolist() == [20, 20, 20, 20]
    assert scores[1].tolist() == [4, 0, 10, 1]
    assert scores[-1].tolist() == [24, 20, 30, 21]
    points = np.zeros((len(walls.GROUPS), 40, 40), np.int64)
    points[3, 12, 30:33] = 2
    points[6, 12, 30] = 5
    false = walls.false_cells(wall, truth, points)
    assert {i: n for i, n in enumerate(false.tolist()) if n} == {3: 2, 6: 1, len(walls.GROUPS): 1}


def test_precision_at_a_recall_is_that_of_the_least_evidence_that_reaches_it(walls):
    truth, evidence = np.zeros((40, 40), bool), np.zeros((40, 40), np.float32)
    truth[10, [5, 10, 15, 20]] = True
    evidence[10, [5, 10, 15]] = 0.9, 0.6, 0.3
    evidence[30, [5, 10]] = 0.7, 0.2  # on nothing
    cells = walls.graded(evidence, truth)
    assert cells.precision_at(0.25) == (1.0, pytest.approx(0.9))
    assert cells.precision_at(0.5) == (pytest.approx(2 / 3), pytest.approx(0.6))
    assert cells.precision_at(0.75) == (pytest.approx(3 / 4), pytest.approx(0.3))
    assert np.isnan(cells.precision_at(0.8)).all()  # one truth cell has no evidence at all
    # The same as for the wall cells with at least that evidence.
    rng = np.random.default_rng(3)
    truth, evidence = rng.random((64, 64)) < 0.1, rng.random((64, 64), np.float32) ** 3
    precision, least = walls.graded(evidence, truth).precision_at(0.85)
    called, right, there, found = walls.score_cells(evidence >= least, truth, np.zeros((64, 64)))[
        -1
    ].tolist()
    assert precision == pytest.approx(right / called) and found == np.ceil(0.85 * there)


def test_points_are_counted_by_their_own_range(walls):
    called = np.array([True, True, True, False, False])
    building = np.array([True, False, True, True, False])
    distance = np.array([1.0, 2.0, 25.0, 25.0, 70.0])
    scores = walls.score_points(called, building, distance)
    assert scores.tolist() == [[2, 1, 1, 1], [0] * 4, [1, 1, 2, 1], [0] * 4, [3, 2, 3, 2]]


class LabelledScans(ListedScans):
    """Scans held in memory whose points have the labels 0, 1, 2, ... in turn."""

    def read(self, start, stop):
        block = super().read(start, stop)
        count = len(block.points) // (stop - start)
        return replace(block, label=np.tile(np.arange(count, dtype=np.int32), stop - start))


def test_points_are_grouped_by_their_labels(walls):
    points = np.random.default_rng(0).uniform(-10, 10, (85, 3))
    drive = straight_drive([points] * 3)
    scans = LabelledScans(drive.scans.t_ns, [points] * 3)
    drive = replace(drive, scans=scans, labels="semantickitti")
    queries = Queries(0.0, 0.0, heading=HeadingKnowledge("unknown"))
    tiles = walls.labelled_tiles(drive, queries, LocalizeSettings())
    submap, group = walls.grouped(tiles, 1)
    assert submap.kind is None
    assert len(submap.points) == len(group) == 85
    names = np.array(walls.GROUPS)[group]
    assert names[50] == "building"
    assert set(names[[44, 48, 49, 72]]) == {"ground"}
    assert set(names[[40, 60]]) == {"ground"}  # roads, in a list of their own
    assert names[70] == "vegetation"
    assert set(names[[71, 80, 81]]) == {"trunk or pole"}
    assert names[51] == "fence"
    assert set(names[[10, 20]]) == {"car"}
    assert set(names[[30, 31]]) == {"person"}
    assert set(names[[0, 1, 52, 84]]) == {"other"}


def test_height_is_above_the_nearest_ground(walls):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 40, (4000, 2))
    ground = np.column_stack([xy, np.where(xy[:, 0] < 20, 1.0, 5.0)])
    tall = np.array([[5.0, 5.0, 4.0], [35.0, 5.0, 4.0], [60.0, 5.0, 8.0]])
    points = np.concatenate([ground, tall]).astype(np.float32)
    is_ground = np.arange(len(points)) < len(ground)
    np.testing.assert_allclose(walls.heights(points, is_ground)[-3:], [3.0, -1.0, 3.0], atol=1e-6)


def test_the_shift_and_its_drift_are_found(tiles):
    house = shapely.union_all([shapely.box(20, 30, 45, 55), shapely.box(70, 20, 95, 50)])
    edges = shapely.boundary(house)
    on_edge = shapely.get_coordinates(
        shapely.line_interpolate_point(
            shapely.get_parts(edges)[:, None], np.linspace(0, 1, 400), normalized=True
        )
    )
    along = np.linspace(-0.5, 0.5, len(on_edge))[np.random.default_rng(1).permutation(len(on_edge))]
    bias, drift = np.array([1.5, -2.0]), np.array([1.0, -3.0])
    seen = tiles.Walls(on_edge - bias - along[:, None] * drift, np.ones(len(along)), along)
    near = tiles.near_edges(edges, (-20.0, -20.0, 130.0, 130.0))
    straight = tiles.Walls(on_edge - bias, seen.weight, along)
    assert near.share(straight.moved(bias, np.zeros(2)), seen.weight) == 1.0
    # Any shift within a metre of the true one puts all walls within a metre of an edge.
    assert np.abs(tiles.fit_shift(straight, near) - bias).max() <= 1.0
    found = tiles.fit_drift(seen, near, tiles.fit_shift(seen, near))
    assert tiles.edge_distance(edges, seen.moved(*found)).max() <= 1.0 + 2 * tiles.GRID_M
    np.testing.assert_allclose(
        tiles.edge_distance(edges, np.array([[32.0, 29.0], [32.0, 42.0]])), [1.0, 12.0]
    )


def test_half_of_the_weight_is_below_the_weighted_median(tiles):
    assert tiles.weighted_median(np.array([5.0, 1.0, 2.0]), np.array([1.0, 1.0, 3.0])) == 2.0
