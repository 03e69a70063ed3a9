"""The benchmarks' scores on cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import shapely
from conftest import ROOT
from made import ListedScans, straight_drive
from small_city import write_osm

from data_prep.osm.footprints import read_osm
from data_prep.osm.source import OsmSource
from data_prep.sources import open_drive
from maptile_loc.perceive.labels import (
    BUILDING,
    CAR,
    FENCE,
    GROUND,
    OTHER,
    POLE,
    ROAD,
    UNLABELLED,
    VEGETATION,
)
from maptile_loc.perceive.submap import Submap
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.types import HeadingKnowledge, Queries, QueryTile


@pytest.fixture
def walls(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("walls")


@pytest.fixture
def precision(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("precision")


@pytest.fixture
def tiles(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("tiles")


def test_average_precision_by_hand(precision):
    def average(score, wall, weight=None):
        return precision.average_precision(precision.precision_recall(score, wall, weight))

    score = np.array([0.9, 0.8, 0.7, 0.6])
    wall = np.array([True, False, True, False])
    assert average(score, wall) == pytest.approx((1 + 2 / 3) / 2)
    # Equal scores are called at once, whatever their order.
    tied = np.array([0.9, 0.5, 0.5, 0.1])
    for order in ([0, 1, 2, 3], [0, 2, 1, 3]):
        assert average(tied[order], wall[order]) == pytest.approx((1 + 2 / 3) / 2)
    assert average(score, wall, np.array([1.0, 2.0, 1.0, 1.0])) == pytest.approx((1 + 2 / 4) / 2)
    assert np.isnan(average(score, ~wall & wall)) and np.isnan(average(score[:0], wall[:0]))


def test_precisions_are_those_of_counting_at_each_threshold(precision):
    rng = np.random.default_rng(3)
    wall = rng.random(500) < 0.3
    score = np.round(np.clip(0.4 * wall + rng.normal(0.2, 0.3, 500), 0, 1), 2).astype(np.float32)
    curve = precision.precision_recall(score, wall)
    average, before, at = 0.0, 0.0, {}
    for threshold in sorted(set(score.tolist()), reverse=True):
        called = score >= np.float32(threshold)
        recall = (called & wall).sum() / wall.sum()
        average += (recall - before) * wall[called].mean()
        before = recall
        for wanted in (0.5, 0.7, 0.85):
            if recall >= wanted and threshold > 0:
                at.setdefault(wanted, wall[called].mean())
    assert precision.average_precision(curve) == pytest.approx(average)
    assert {wanted: precision.precision_at(wanted, curve) for wanted in at} == pytest.approx(at)
    assert 0.5 in at
    # A tenth of the walls is left without evidence: no threshold reaches all of them.
    assert (score[wall] == 0).any() and np.isnan(precision.precision_at(1.0, curve))


def made_tile(evidence):
    nothing = np.zeros_like(evidence)
    return QueryTile(evidence, nothing, nothing, 0.5, 0.0)


def stack(column, row, kind, count=1, z=3.0):
    """Points above the centre of a cell of a tile of 40 x 40 cells of 0.5 m."""
    point = [(column + 0.5) / 2 - 10, 10 - (row + 0.5) / 2, z]
    return [point] * count, [kind] * count


def test_only_cells_whose_points_mostly_have_labels_are_judged(walls):
    ground = np.column_stack([np.random.default_rng(0).uniform(-10, 10, (4000, 2)), np.zeros(4000)])
    parts = [
        stack(10, 10, BUILDING, 3),
        stack(10, 10, UNLABELLED, 2),
        stack(11, 11, UNLABELLED, 2),  # beside the building, but not judged
        stack(11, 11, FENCE, 2),
        stack(11, 9, VEGETATION, 2),  # beside the building: a wall
        stack(11, 9, CAR, 1),
        stack(12, 10, CAR),  # two cells away: no wall
        stack(30, 30, POLE, z=0.9),  # too low
        stack(32, 30, POLE, z=20.1),  # too high
        stack(34, 30, OTHER, z=1.1),
        stack(20, 30, BUILDING, 2),
        stack(20, 30, UNLABELLED, 3),  # not judged, yet its neighbour is a wall
        stack(21, 30, OTHER),
        stack(45, 10, BUILDING),  # outside of the tile
    ]
    points = np.concatenate([ground, *(points for points, _ in parts)]).astype(np.float32)
    road = np.where(np.arange(4000) % 2, GROUND, ROAD)
    kind = np.concatenate([road, *(kind for _, kind in parts)]).astype(np.uint8)
    scan, origin = np.zeros(len(points), np.int32), np.zeros((1, 3), np.float32)
    evidence = np.arange(1600, dtype=np.float32).reshape(40, 40) / 1600
    cells = walls.judged_cells(made_tile(evidence), Submap(points, scan, origin, kind))
    expected = {  # row, column: is it a wall, and its kind
        (9, 11): (True, VEGETATION),
        (10, 10): (True, BUILDING),
        (10, 12): (False, CAR),
        (30, 21): (True, OTHER),
        (30, 34): (False, OTHER),
    }
    np.testing.assert_allclose(cells.evidence, [evidence[cell] for cell in expected])
    assert list(zip(cells.wall.tolist(), cells.kind.tolist(), strict=True)) == list(
        expected.values()
    )
    np.testing.assert_allclose(
        cells.distance, [np.hypot(c - 19.5, r - 19.5) / 2 for r, c in expected]
    )


def test_cells_turn_with_their_tile(walls):
    points = np.array([[0.0, 0.0, 0.0], [8.2, 0.2, 2.0]], np.float32)
    kind = np.array([GROUND, BUILDING], np.uint8)
    submap = Submap(points, np.zeros(2, np.int32), np.zeros((1, 3), np.float32), kind)
    evidence = np.zeros((40, 40), np.float32)
    evidence[3, 19] = 1.0  # north of the vehicle
    tile = replace(made_tile(evidence), rotation=np.pi / 2)
    assert walls.judged_cells(tile, submap).evidence.tolist() == [1.0]


def test_false_evidence_is_shared_by_kind(walls):
    cells = walls.Cells(
        np.array([0.8, 0.5, 0.3, 0.6, 0.1], np.float32),
        np.array([True, True, False, False, False]),
        np.array([BUILDING, VEGETATION, VEGETATION, ROAD, UNLABELLED]),
        np.array([5.0, 15.0, 15.0, 40.0, 70.0]),
    )
    assert list(walls.kind_rows(cells)) == [
        ["building", "1", "0.800", "1.000", "0.000"],
        ["vegetation", "2", "0.400", "0.500", "0.300"],
        ["other", "2", "0.350", "0.500", "0.700"],
    ]
    rows = {band: figures for band, *figures in walls.score_rows(cells)}
    assert rows["0-10"] == ["1", "1", "1.000", "1.000", "1.000", "1.000"]
    assert rows["10-20"] == ["2", "1", "1.000", "1.000", "1.000", "1.000"]
    assert rows["20-30"] == ["0", "0", "nan", "nan", "nan", "nan"]
    assert rows["all"] == ["5", "2", "0.833", "1.000", "0.667", "0.667"]


class LabelledScans(ListedScans):
    """Scans held in memory whose points have the labels 0, 1, 2, ... in turn."""

    def read(self, start, stop):
        block = super().read(start, stop)
        count = len(block.points) // (stop - start)
        return replace(block, label=np.tile(np.arange(count, dtype=np.int32), stop - start))


def test_tiles_are_made_without_labels(walls, monkeypatch):
    points = np.random.default_rng(0).uniform(-10, 10, (85, 3))
    scans = LabelledScans([0, 1, 2], [points] * 3)
    drive = replace(straight_drive([points] * 3), scans=scans, labels="semantickitti")
    seen = []
    monkeypatch.setattr(walls, "judged_cells", lambda tile, submap: submap)
    monkeypatch.setattr(walls, "make_tile", lambda submap, *_: seen.append(submap))
    queries = Queries(0.0, 0.0, heading=HeadingKnowledge("unknown"))
    judged = list(walls.drive_cells(drive, queries, LocalizeSettings()))
    assert [submap.kind for submap in seen] == [None] * 3
    assert [len(submap.points) for submap in seen] == [85] * 3
    assert judged[0].kind[50] == BUILDING and judged[0].kind[70] == VEGETATION
    with pytest.raises(SystemExit, match="no labels"):
        list(walls.drive_cells(replace(drive, labels="mine"), queries, LocalizeSettings()))


def test_height_is_above_the_nearest_ground(walls):
    rng = np.random.default_rng(0)
    xy = rng.uniform(0, 40, (4000, 2))
    ground = np.column_stack([xy, np.where(xy[:, 0] < 20, 1.0, 5.0)])
    tall = np.array([[5.0, 5.0, 4.0], [35.0, 5.0, 4.0], [60.0, 5.0, 8.0]])
    points = np.concatenate([ground, tall]).astype(np.float32)
    is_ground = np.arange(len(points)) < len(ground)
    np.testing.assert_allclose(walls.heights(points, is_ground)[-3:], [3.0, -1.0, 3.0], atol=1e-6)
    assert np.isnan(walls.heights(points, np.zeros(len(points), bool))).all()


def test_mcd_is_turned_upright_with_its_labels(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    labelled = import_module("labelled")
    source = tmp_path / "mcd_kth"
    for folder in ("clouds", "labels"):
        (source / folder).mkdir(parents=True)
    mount = np.eye(4)
    mount[:3, 3] = [0.0, 0.0, 0.5]
    text = f"body: {{os_sensor: {{T: {mount.tolist()}}}}}"
    (source / "hhs_calib.yaml").write_text(text)
    # The body hangs upside down, turned half around its x axis, and moves north.
    rows = ["num,t,x,y,z,qx,qy,qz,qw", *(f"{i},{100 + i},0,{i},7,1,0,0,0" for i in range(4))]
    (source / "pose_inW.csv").write_text("\n".join(rows) + "\n")
    cloud = np.array([[5, 1, -2, 9], [0, 0, 0, 0], [5, 0, 1.5, 9]], "<f4")
    for frame in (1, 3):
        cloud.tofile(source / "clouds" / f"{frame:010d}.bin")
        np.array([2, 25, 18], "<u4").tofile(source / "labels" / f"{frame:010d}.label")
    (folder,) = labelled.mcd(source, tmp_path / "work", 0)
    drive = open_drive(folder)
    assert drive.labels in labelled.TABLES
    block = drive.scans.read(0, 2)
    np.testing.assert_allclose(block.points, [[5, -1, 2], [5, 0, -1.5]] * 2, atol=1e-6)
    assert block.label.tolist() == [2, 18] * 2
    assert drive.scans.t_ns.tolist() == [101_000_000_000, 103_000_000_000]
    np.testing.assert_allclose(
        drive.odometry.poses[1][:3, 3] - drive.odometry.poses[0][:3, 3], [0, 2, 0]
    )


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


def test_scans_near_the_teaching_half_are_not_scored(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    teacher = import_module("teacher")
    positions = np.column_stack([17.0 * np.arange(25), np.zeros(25)])
    # Scan 9 is 51 m from scan 12, scan 14 is 51 m from scan 11.
    assert teacher.scored(positions, range(12), range(12, 25)) == range(10)
    assert teacher.scored(positions, range(12, 25), range(12)) == range(14, 25)


def test_no_position_of_the_big_city_occurs_twice(monkeypatch, tmp_path):
    """Without new buildings, the comparison finds the copy of every position."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    big_city = import_module("big_city")
    write_osm(tmp_path / "small.osm", blocks=8)
    data = read_osm(OsmSource(path=tmp_path / "small.osm"))
    cells = big_city.make_cells(data, 0)
    before, after = (shapely.area(shapes) for shapes in (data.buildings.geometry, cells[0]))
    assert 0.7 < len(after) / len(before) < 0.97
    assert 0.85**2 * before.min() < after.min() < after.max() < 1.15**2 * before.max()
    assert (big_city.likeness(data, cells, 10, 0) < 0.9).all()
    same = [data.buildings.geometry.to_numpy()] * 4
    assert big_city.likeness(data, same, 10, 0) == pytest.approx(1)
    # Roads go on across the seam of the western and the eastern cells.
    west, south, east, north = data.bounds
    cut = replace(data, bounds=(west, south, east - 100, north))
    table, east = big_city.make_map(cut, cells), east - 100
    roads = table.geometry[table["highway"].notna()]
    ends = roads.boundary.get_coordinates()
    ends = ends[(ends["x"] - east).abs() < 1e-6]
    sides = roads.centroid.x[ends.index] < east
    assert len(ends) > 0
    assert sorted(ends["y"][sides]) == pytest.approx(sorted(ends["y"][~sides]))
