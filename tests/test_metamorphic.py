"""Metamorphic tests: changes of the input with a known effect on the result, or none.

A short drive goes through the made-up town; its scans show the walls of the map around it. Shifts
and turns of the world reach the vehicle only through the map and the compass. test_localize.py has
the tests that moving the truth, or the odometry's origin, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import shapely
from made import ListedScans, localized, seen_walls
from made_scene import found_by

from data_prep.city.burn import rasterise
from data_prep.city.folder import open_city
from data_prep.city.raster import MapRaster
from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock
from data_prep.geometry import rotate, se3_from_xyzrpy, wrap_angle
from data_prep.simulate.trajectory import trajectory_from_route
from maptile_loc.perceive.query_tile import QuerySettings
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.map_fields import make_fields
from maptile_loc.search.match import Matcher
from maptile_loc.types import STAGES, HeadingKnowledge, Queries

SETTINGS = LocalizeSettings(query=QuerySettings(size_m=96.0))
UNKNOWN = HeadingKnowledge(kind="unknown")
SIDE_M = 240.0
SCANS, STEP_M = 8, 6.0
START_NS = 1_700_000_000_000_000_000
CELL_M = SETTINGS.search.resolution


@dataclass(frozen=True)
class World:
    """A piece of the town, and the (S, 3) poses of a drive through it, in the map frame."""

    raster: MapRaster
    drive: Drive
    poses: np.ndarray
    buildings: object
    roads: object


@pytest.fixture(scope="module")
def world(town_city) -> World:
    city = open_city(town_city)
    path = trajectory_from_route(city, 120.0, 5).poses
    metres = np.append(0.0, np.cumsum(np.hypot(*np.diff(path[:, :2], axis=0).T)))
    first = np.searchsorted(metres, 30.0 + np.arange(SCANS) * STEP_M)
    poses = path[first]
    raster = piece(city.buildings(), city.roads(), poses[:, :2].mean(axis=0), city.raster.crs)
    clouds = [
        seen_walls(raster, pose[:2], pose[2], np.random.default_rng(i), reach_m=35.0)
        for i, pose in enumerate(poses)
    ]
    return World(raster, driven(clouds, poses, raster), poses, city.buildings(), city.roads())


@pytest.fixture(scope="module")
def known(world):
    return solve(world.drive, world.raster)


def piece(buildings, roads, centre, crs) -> MapRaster:
    """The map within a square around ``centre``."""
    west, south = np.round(centre) - SIDE_M / 2
    bounds = (west, south, west + SIDE_M, south + SIDE_M)
    raster = rasterise(buildings, roads, bounds, 0.5, crs)
    assert raster.width == raster.height == round(SIDE_M / 0.5)
    return raster


def driven(clouds, poses, raster: MapRaster, after_ns: int = 0) -> Drive:
    """The drive through (S, 3) poses on ``raster``.

    Its odometry has a frame of its own. Odometry and compass are sampled at other times than the
    scans.
    """
    t_ns = START_NS + after_ns + np.arange(len(poses)) * 500_000_000
    beat = np.linspace(0, len(poses) - 1, 3 * len(poses) + 1)
    columns = poses[:, 0], poses[:, 1], np.unwrap(poses[:, 2])
    x, y, turn = (np.interp(beat, np.arange(len(poses)), column) for column in columns)
    flat = np.zeros((len(beat), 6))
    flat[:, :2] = rotate(np.stack([x, y], axis=1) - poses[0, :2], 0.8)
    flat[:, 5] = turn + 0.8
    ticks = t_ns[0] + np.round(beat * 500_000_000).astype(np.int64)
    odometry = PoseTrack(ticks, se3_from_xyzrpy(flat), np.zeros(len(beat), np.int32))
    heading = HeadingTrack(ticks, wrap_angle(turn - raster.convergence))
    return Drive("made", "made", ListedScans(t_ns, clouds), odometry, heading, None)


def solve(drive, raster, heading=None, seed=0):
    queries = Queries(12.0, 0.0, heading=heading or HeadingKnowledge(), seed=seed)
    return localized(drive, raster, queries, SETTINGS)


def gaps(a, b):
    """(Q,) metres and (Q,) radians between two arrays of poses."""
    return np.hypot(*(a - b)[:, :2].T), np.abs(wrap_angle(a[:, 2] - b[:, 2]))


def assert_alike(found, expected, metres, degrees, stages=STAGES):
    """Assert that the poses of all stages are within ``metres`` and ``degrees`` of expected."""
    for stage in stages:
        distance, angle = gaps(found.stages[stage].poses, expected[stage])
        assert distance.max() <= metres, stage
        assert np.degrees(angle.max()) <= degrees, stage


def poses_of(result):
    return {stage: result.stages[stage].poses for stage in STAGES}


def turned_about(poses, centre, angle):
    turned = poses.copy()
    turned[:, :2] = centre + rotate(poses[:, :2] - centre, angle)
    turned[:, 2] = wrap_angle(poses[:, 2] + angle)
    return turned


def test_the_drive_is_found(world, known):
    assert gaps(known.stages["aligned"].poses, world.poses)[0].max() < 1.0
    assert known.stages["smoothed"].localized.all()


@pytest.mark.parametrize("shift", [(0.137, -0.411), (-123_456.789, 0.25), (70_000.5, 2e6 + 1 / 3)])
def test_map_and_world_shifted_together_shift_the_result(world, known, shift):
    raster = replace(
        world.raster, west=world.raster.west + shift[0], north=world.raster.north + shift[1]
    )
    drive = driven(world.drive.scans.clouds, world.poses, raster)
    moved = {stage: poses + [*shift, 0.0] for stage, poses in poses_of(known).items()}
    found = solve(drive, raster)
    assert_alike(found, moved, 2e-3, 1e-3)
    for stage in STAGES:
        np.testing.assert_array_equal(found.stages[stage].localized, known.stages[stage].localized)
        np.testing.assert_allclose(
            found.stages[stage].covariance, known.stages[stage].covariance, rtol=0.02, atol=1e-5
        )


@pytest.mark.parametrize("shift", [(0.25, 0.25), (-0.4, 0.1)])
def test_a_map_shifted_within_its_pixels_shifts_the_result(world, known, shift):
    buildings, roads = (
        table.set_geometry(table.geometry.translate(*shift))
        for table in (world.buildings, world.roads)
    )
    centre = world.raster.centre
    raster = piece(buildings, roads, centre, world.raster.crs)
    assert (raster.west, raster.north) == (world.raster.west, world.raster.north)
    found = solve(world.drive, raster).stages["aligned"].poses - known.stages["aligned"].poses
    np.testing.assert_allclose(np.median(found[:, :2], axis=0), shift, atol=0.2)
    assert np.hypot(*(found[:, :2] - shift).T).max() < 0.6 * CELL_M


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_map_and_world_turned_by_quarters_turn_the_result(world, known, quarters):
    angle = quarters * np.pi / 2
    data = np.ascontiguousarray(np.rot90(world.raster.data, quarters, axes=(1, 2)))
    raster = replace(world.raster, data=data)
    centre = raster.centre
    drive = driven(world.drive.scans.clouds, turned_about(world.poses, centre, angle), raster)
    expected = {s: turned_about(p, centre, angle) for s, p in poses_of(known).items()}
    found = solve(drive, raster)
    assert_alike(found, expected, 1e-6, 1e-6, stages=("coarse",))
    assert_alike(found, expected, 0.1, 0.2, stages=("aligned", "fused", "smoothed"))


@pytest.mark.parametrize("degrees", [33.0, -128.0])
def test_map_and_world_turned_by_any_angle_turn_the_result(world, known, degrees):
    angle, centre = np.radians(degrees), world.raster.centre
    buildings, roads = (
        table.set_geometry(table.geometry.rotate(degrees, origin=shapely.Point(centre)))
        for table in (world.buildings, world.roads)
    )
    raster = piece(buildings, roads, centre, world.raster.crs)
    drive = driven(world.drive.scans.clouds, turned_about(world.poses, centre, angle), raster)
    found = solve(drive, raster)
    expected = {s: turned_about(p, centre, angle) for s, p in poses_of(known).items()}
    assert_alike(found, expected, 2 * CELL_M, 1.0, stages=("coarse",))
    assert_alike(found, expected, 0.6, 1.0, stages=("aligned", "smoothed"))
    assert np.median(gaps(found.stages["aligned"].poses, expected["aligned"])[0]) < 0.3


class BackwardScans:
    """Scans in reverse order of time."""

    sensors = ("made",)

    def __init__(self, scans, t_ns):
        self.scans, self.t_ns = scans, t_ns

    def read(self, start, stop):
        last = len(self.t_ns)
        block = self.scans.read(last - stop, last - start)
        order = np.argsort(-block.scan, kind="stable")
        scan = (len(block.t_ns) - 1 - block.scan)[order]
        return ScanBlock(self.t_ns[start:stop], block.points[order], scan, block.origin[::-1])


def test_the_drive_backwards_gives_the_same_positions(world, known):
    drive = world.drive

    def mirrored(t_ns):
        return (2 * START_NS + 10**12 - t_ns)[::-1]

    ticks = mirrored(drive.odometry.t_ns)
    backward = replace(
        drive,
        scans=BackwardScans(drive.scans, mirrored(drive.scans.t_ns)),
        odometry=PoseTrack(ticks, drive.odometry.poses[::-1], drive.odometry.segment),
        heading=HeadingTrack(ticks, drive.heading.heading[::-1]),
    )
    found = solve(backward, world.raster)
    expected = {stage: poses[::-1] for stage, poses in poses_of(known).items()}
    assert_alike(found, expected, 0.05, 0.1, stages=("coarse", "aligned"))
    assert_alike(found, expected, 0.3, 0.5, stages=("smoothed",))


@pytest.mark.parametrize("hours", [-7, 5000])
def test_shifted_time_stamps_change_nothing(world, known, hours):
    after_ns = hours * 3_600_000_000_000 + 123_457
    found = solve(
        driven(world.drive.scans.clouds, world.poses, world.raster, after_ns), world.raster
    )
    np.testing.assert_array_equal(found.t_ns - known.t_ns, after_ns)
    assert_alike(found, poses_of(known), 1e-9, 1e-9)
    for stage in STAGES:
        np.testing.assert_allclose(found.stages[stage].score, known.stages[stage].score, rtol=1e-9)


@pytest.fixture(scope="module")
def seeded(world):
    few = ListedScans(world.drive.scans.t_ns[:3], world.drive.scans.clouds[:3])
    drive = replace(world.drive, scans=few)
    return [solve(drive, world.raster, UNKNOWN, seed) for seed in (0, 1, 2)]


def test_the_random_turn_of_an_unknown_heading_hardly_matters(world, seeded):
    for result in seeded:
        assert gaps(result.stages["aligned"].poses, world.poses[:3])[0].max() < CELL_M
        expected = {"aligned": seeded[0].stages["aligned"].poses}
        assert_alike(result, expected, 0.5 * CELL_M, SETTINGS.search.heading_step_deg, ["aligned"])
    first, second = (result.tiles[0].rotation for result in seeded[:2])
    assert abs(first - second) > 0.1  # the tiles were turned by different angles


def test_a_doubled_score_keeps_the_order_of_the_peaks(world, known):
    once = SETTINGS.likelihood
    weights = {name: value for name, value in once if not name.endswith("_m")}
    doubled = {name: tuple(2 * np.atleast_1d(value)) for name, value in weights.items()}
    twice = once.model_copy(update=doubled | {"course": 2 * once.course})
    one, two = (
        Matcher(make_fields(world.raster, CELL_M, weight), SETTINGS.query.size_m, SETTINGS.search)
        for weight in (once, twice)
    )
    # A score is summed over the cells around its peak, so near ties may change their order.
    cells = (2 * SETTINGS.search.distinct_m / CELL_M + 1) ** 2
    clear = 1.5 * np.log(cells)
    pairs = 0
    for tile in known.tiles.values():
        first, second = (found_by(m, tile, np.zeros(1), np.zeros(1)) for m in (one, two))
        rank = {tuple(pose): number for number, pose in enumerate(second.poses)}
        # Candidates that are hopeless by the doubled score are not returned.
        assert set(rank) <= {tuple(pose) for pose in first.poses}
        place = np.array([rank.get(tuple(pose), len(rank)) for pose in first.poses])
        apart = first.log_scores[:, None] - first.log_scores[None] > clear
        assert (place[:, None] <= place[None])[apart].all()
        pairs += apart.sum()
    assert pairs > len(known.tiles)
