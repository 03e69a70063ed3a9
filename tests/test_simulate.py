from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy.spatial.transform import Rotation

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import (
    NED_TO_FLU,
    Array,
    interpolate_se3,
    se2_between,
    se2_from_se3,
    se3_from_xyzrpy,
    utm_crs,
    wrap_angle,
)
from data_prep.osm.footprints import OsmSource
from data_prep.simulate.gps_vo import fuse
from data_prep.simulate.lidar import LidarNoise, lidars_of, measure
from data_prep.simulate.navigation import NavigationNoise, correlated, write_navigation
from data_prep.simulate.record import (
    SimulateSettings,
    simulate,
    vehicle_poses,
)
from data_prep.simulate.scene.rays import Hits
from data_prep.simulate.scene.surfaces import SURFACE_LABELS, Surface
from data_prep.simulate.scene.terrain import Terrain
from data_prep.simulate.scene.world import build_world
from data_prep.simulate.scene.world_settings import WorldSettings
from data_prep.simulate.sensors import CAMERA_HEIGHT_M, SENSORS
from data_prep.simulate.town import write_town
from data_prep.simulate.trajectory import (
    Trajectory,
    open_trajectory,
    trajectory_from_drive,
    trajectory_from_gps,
    trajectory_from_ins,
    trajectory_from_route,
)
from data_prep.sources import open_drive
from data_prep.sources.formats.robotcar_tables import Gps, Vo, read_gps, read_ins, read_vo
from data_prep.sources.formats.robotcar_tracks import odometry_from_vo
from maptile_loc.config import load_settings
from maptile_loc.perceive.labels import LABELS

PLAIN_WORLD = WorldSettings(
    shift_m=0,
    missing=0,
    new=0,
    relief_m=0,
    glass=0,
    dark=0,
    bays_per_100m=0,
    eaves_m=0,
    roof_deg=0,
    slope=0,
    garden_slope=0,
    kerb_m=0,
    camber=0,
    road_shift_m=0,
    road_width=0,
    cars_per_100m=0,
    trees_per_100m=0,
    hedges_per_100m=0,
    shrubs_per_100m=0,
    thickets_per_100m=0,
    poles_per_100m=0,
    fences_per_100m=0,
    people_per_100m=0,
)
EXACT_LIDAR = LidarNoise(
    range_m=0, slant=0, beam_m=0, dropout=0, weak=False, crown_m=0, mixed=0, glass=0, sweep=False
)
EXACT_NAVIGATION = NavigationNoise(
    ins_m=0,
    ins_heading_deg=0,
    gps_m=0,
    gps_jumps_per_km=0,
    vo_scale=0,
    vo_turn_rad_per_km=0,
    vo_breaks_per_km=0,
)
EXACT = SimulateSettings(
    world=PLAIN_WORLD, lidar=EXACT_LIDAR, navigation=EXACT_NAVIGATION, sway_deg=0
)

THINGS = ("bay", "car", "tree", "hedge", "shrub", "thicket", "pole", "fence", "person")
FLAT = Terrain.drawn(np.zeros(2), PLAIN_WORLD, np.random.default_rng(0))


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    folder = tmp_path_factory.mktemp("simulate")
    write_town(folder / "town.osm")
    return prepare_city(OsmSource(path=folder / "town.osm"), folder / "town", CitySettings())


@pytest.fixture(scope="module")
def route(city: City) -> Trajectory:
    return trajectory_from_route(city, 90.0, seed=3)


@pytest.fixture(scope="module")
def exact(city: City, route: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exact") / "drive"
    simulate(city, route, folder, "robotcar", EXACT)
    return folder


@pytest.fixture(scope="module")
def lifelike(city: City, route: Trajectory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lifelike") / "drive"
    simulate(city, route, folder, "robotcar", SimulateSettings())
    return folder


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> City:
    """A building of 40 x 40 m with a courtyard of 20 x 20 m, centred at (500, 500) m."""
    folder = tmp_path_factory.mktemp("yard")
    crs = utm_crs(52.0, 10.5)
    corner = np.array([600_000.0, 5_760_000.0])
    outer, inner = shapely.box(480, 480, 520, 520), shapely.box(490, 490, 510, 510)
    far = shapely.union_all([shapely.box(x, x, x + 5, x + 5) for x in (0, 1000)])
    shapes = [
        shapely.transform(shape, lambda xy: xy + corner)
        for shape in (shapely.difference(outer, inner), *far.geoms)
    ]
    table = gpd.GeoDataFrame({"building": ["yes"] * 3}, geometry=shapes, crs=crs)
    table.to_file(folder / "yard.gpkg", layer="buildings", driver="GPKG")
    settings = CitySettings(crs=crs.to_string())
    return prepare_city(OsmSource(path=folder / "yard.gpkg"), folder / "yard", settings)


YARD_MIDDLE = np.array([600_500.0, 5_760_500.0])


def world_points(city: City, drive: Drive) -> tuple[Array, Array]:
    """(N, 3) points of a drive in the map frame, by its truth; (S, 2) positions of the scans."""
    block = drive.scans.read(0, len(drive.scans.t_ns))
    assert drive.truth is not None
    latitude, longitude, heading = drive.truth.at(block.t_ns)
    xy = city.raster.projection.forward(latitude, longitude)
    heading = heading + city.raster.projection.convergence(latitude, longitude)
    turn = Rotation.from_euler("z", heading[block.scan][:, None]).apply(block.points)
    position = np.column_stack([xy, np.full(len(xy), CAMERA_HEIGHT_M)])
    return turn + position[block.scan], xy


def part_of(route: Trajectory, start: int, stop: int) -> Trajectory:
    """The poses ``start`` to ``stop`` of a route; there are 50 per second."""
    part = slice(start, stop)
    return replace(
        route, t_ns=route.t_ns[part], poses=route.poses[part], segment=route.segment[part]
    )


def walls_of(city: City) -> object:
    return shapely.union_all(city.buildings().geometry.boundary.values)


# --- The written files, read back ----------------------------------------------------------------


def test_without_realism_every_point_lies_on_the_map(city: City, exact: Path) -> None:
    drive = open_drive(exact)
    assert drive.notes == ()
    assert drive.odometry is not None
    assert (drive.odometry.segment_at(drive.scans.t_ns) == 0).all()
    points, _ = world_points(city, drive)
    ground = np.abs(points[:, 2]) < 0.005
    assert 0.2 < ground.mean() < 0.98
    off = shapely.distance(walls_of(city), shapely.points(points[~ground][::7, :2]))
    assert len(off) > 2000
    assert off.max() < 0.02


def test_each_scan_has_a_label_file(city: City, route: Trajectory, tmp_path: Path) -> None:
    short = part_of(route, 100, 110)
    everything = SimulateSettings(labels="all")
    simulate(city, short, tmp_path / "lms", "robotcar", everything)
    simulate(city, short, tmp_path / "roof", "hdl64", SimulateSettings())
    for folder, sensor, point_bytes in (
        (tmp_path / "lms", "lms_front", 24),
        (tmp_path / "lms", "lms_rear", 24),
        (tmp_path / "roof", "velodyne_left", 16),
    ):
        scans = sorted((folder / sensor).iterdir())
        labels = sorted((folder / f"{sensor}_labels").iterdir())
        assert len(scans) > 0
        assert [scan.stem for scan in scans] == [label.stem for label in labels]
        for scan, label in zip(scans, labels, strict=True):
            numbers = np.fromfile(label, "<u4")
            assert len(numbers) == scan.stat().st_size / point_bytes
            assert np.isin(numbers, SURFACE_LABELS).all()
    simulate(city, short, tmp_path / "none", "hdl64", SimulateSettings(labels="none"))
    assert not (tmp_path / "none" / "velodyne_left_labels").exists()
    simulate(city, short, tmp_path / "default", "robotcar", SimulateSettings())
    assert not (tmp_path / "default" / "lms_front_labels").exists()


def test_labels_are_read_with_the_points(city: City, route: Trajectory, tmp_path: Path) -> None:
    simulate(city, part_of(route, 100, 120), tmp_path / "drive", "hdl32", EXACT)
    drive = open_drive(tmp_path / "drive")
    assert drive.labels == "simulated"
    assert drive.labels not in LABELS  # localization ignores them
    block = drive.scans.read(0, 2)
    assert block.label is not None
    assert len(block.label) == len(block.points)
    points, _ = world_points(city, drive)
    label = drive.scans.read(0, len(drive.scans.t_ns)).label
    assert label is not None
    high = points[:, 2] > 0.01
    assert set(label[high].tolist()) == {50}
    assert set(label[~high].tolist()) <= {40, 50, 72}
    assert (label == 50).sum() > 1000
    first = min((tmp_path / "drive" / "velodyne_left_labels").iterdir())
    first.write_bytes(first.read_bytes()[:-4])
    with pytest.raises(MaptileError, match=r"labels for \d+ points"):
        drive.scans.read(0, 1)
    first.unlink()
    with pytest.raises(MaptileError, match="label"):
        drive.scans.read(0, 1)


@pytest.mark.parametrize("sensor", ["hdl64", "hdl32"])
def test_points_of_a_roof_lidar_lie_on_the_walls_of_the_map(
    city: City, route: Trajectory, tmp_path: Path, sensor: str
) -> None:
    simulate(city, part_of(route, 100, 160), tmp_path / "drive", sensor, EXACT)
    drive = open_drive(tmp_path / "drive")
    assert drive.scans.sensors == ("velodyne_left",)
    assert np.diff(drive.scans.t_ns) == pytest.approx(1e8)
    points, _ = world_points(city, drive)
    ground = np.abs(points[:, 2]) < 0.005
    off = shapely.distance(walls_of(city), shapely.points(points[~ground][::50, :2]))
    assert len(off) > 300
    assert off.max() < 0.03


def test_noise_moves_points_but_not_far(city: City, route: Trajectory, tmp_path: Path) -> None:
    noisy = EXACT.model_copy(update={"lidar": LidarNoise(range_m=0.02, slant=0, sweep=False)})
    simulate(city, route, tmp_path / "drive", "robotcar", noisy)
    points, _ = world_points(city, open_drive(tmp_path / "drive"))
    high = points[points[:, 2] > 0.5]
    off = shapely.distance(walls_of(city), shapely.points(high[::5, :2]))
    assert 0.003 < off.mean() < 0.02
    assert np.quantile(off, 0.999) < 0.09


def test_the_world_differs_from_the_map(city: City, lifelike: Path) -> None:
    points, driven = world_points(city, open_drive(lifelike))
    high = points[points[:, 2] > 0.4]
    off = shapely.distance(walls_of(city), shapely.points(high[::5, :2]))
    assert np.median(off) > 0.15
    near = shapely.distance(shapely.LineString(driven), shapely.points(high[::5, :2]))
    assert near.min() > 1.0


def test_the_files_have_the_format_of_oxford_robotcar(exact: Path) -> None:
    for sensor in ("lms_front", "lms_rear"):
        lines = (exact / f"{sensor}.timestamps").read_text().splitlines()
        listed = [int(line.split()[0]) for line in lines]
        assert sorted(int(file.stem) for file in (exact / sensor).iterdir()) == listed
        assert np.diff(listed) == pytest.approx(20_000)
        scan = np.fromfile(exact / sensor / f"{listed[5]}.bin", "<f8").reshape(-1, 3)
        ranges, angles = np.hypot(*scan[:, :2].T), np.degrees(np.arctan2(scan[:, 1], scan[:, 0]))
        assert ranges.max() < 50
        assert np.abs(angles).max() <= 135.001
        assert np.abs(angles * 2 - np.round(angles * 2)).max() < 1e-6
        assert np.diff(angles).min() > 0.49
        assert ((scan[:, 2] >= 0) & (scan[:, 2] <= 255)).all()
    vo = pd.read_csv(exact / "vo/vo.csv")
    assert (vo.source_timestamp > vo.destination_timestamp).all()
    newer, older = vo.source_timestamp.to_numpy(), vo.destination_timestamp.to_numpy()
    assert np.array_equal(older[1:], newer[:-1])
    assert vo.x.median() > 0
    story = json.loads((exact / "world.json").read_text())
    assert story["simulated"] is True
    assert "OpenStreetMap" in story["attribution"]
    assert "simulated" in (exact / "README.txt").read_text()


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["gps/gps.csv", "gps/ins.csv", "vo/vo.csv"])
def test_headers_equal_those_of_the_real_files(exact: Path, data_dir: Path, name: str) -> None:
    real = data_dir / "robotcar" / "2014-06-26-09-24-58" / name
    with real.open() as theirs, (exact / name).open() as ours:
        assert ours.readline() == theirs.readline()


def test_rtk_is_the_exact_path(city: City, route: Trajectory, exact: Path) -> None:
    drive = open_drive(exact)
    assert drive.truth is not None
    inside = route.t_ns[:-10]
    latitude, longitude, heading = drive.truth.at(inside)
    projection = city.raster.projection
    off = projection.forward(latitude, longitude) - route.poses[: len(inside), :2]
    assert np.abs(off).max() < 0.02
    grid = heading + projection.convergence(latitude, longitude)
    assert np.abs(wrap_angle(grid - route.poses[: len(inside), 2])).max() < np.radians(0.2)


def test_ins_yaw_is_clockwise_from_true_north(city: City, exact: Path) -> None:
    ins = read_ins(exact / "gps/ins.csv")
    assert np.median(np.diff(ins.t_ns)) == 20_000_000
    rows = pd.read_csv(exact / "gps/ins.csv")
    east, north = rows.easting.to_numpy(), rows.northing.to_numpy()
    course = np.arctan2(np.gradient(east), np.gradient(north))
    straight = np.abs(np.gradient(np.unwrap(course))) < np.radians(0.02)
    assert straight.sum() > 50
    # The course is from grid north: the yaw differs by the convergence and the INS's mounting.
    difference = np.degrees(wrap_angle(ins.rpy[:, 2] - course))[straight]
    convergence = np.degrees(city.raster.convergence)
    assert convergence > 1
    assert np.median(difference) == pytest.approx(convergence + np.degrees(0.005), abs=0.15)
    moved = np.arctan2(ins.velocity[:, 1], ins.velocity[:, 0])
    assert np.degrees(np.median(wrap_angle(ins.rpy[:, 2] - moved)[straight])) < 0.5


def test_visual_odometry_integrates_to_the_path(route: Trajectory, exact: Path) -> None:
    odometry = open_drive(exact).odometry
    assert odometry is not None
    at = np.clip(np.searchsorted(route.t_ns, odometry.t_ns), 0, len(route.t_ns) - 1)
    ours = se2_from_se3(odometry.poses)
    truth = route.poses[at]
    error = se2_between(truth[0], truth) - se2_between(ours[0], ours)
    assert np.hypot(error[:, 0], error[:, 1]).max() < 0.2
    assert np.abs(wrap_angle(error[:, 2])).max() < np.radians(0.5)


def test_visual_odometry_drifts_by_the_settings(city: City, tmp_path: Path) -> None:
    long = trajectory_from_route(city, 1500.0, seed=1)
    noise = NavigationNoise(vo_breaks_per_km=0)
    poses = vehicle_poses(long, FLAT, EXACT)
    write_navigation(tmp_path, long, poses, city.raster.projection, noise, 0)
    odometry = odometry_from_vo(read_vo(tmp_path / "vo/vo.csv"), [])
    assert len(np.unique(odometry.segment)) == 1
    assert odometry.travelled()[-1] / long.length_m() == pytest.approx(1.015, abs=0.006)
    turned = np.unwrap(se2_from_se3(odometry.poses)[:, 2])
    true = np.unwrap(long.poses[:, 2])
    drift = abs((turned[-1] - turned[0]) - (true[-1] - true[0]))
    assert 0.05 < drift / (long.length_m() / 1000) < 0.5


def test_visual_odometry_loses_frames_by_the_settings(city: City, tmp_path: Path) -> None:
    long = trajectory_from_route(city, 1500.0, seed=1)
    noise = EXACT_NAVIGATION.model_copy(update={"vo_breaks_per_km": 5.0})
    poses = vehicle_poses(long, FLAT, EXACT)
    write_navigation(tmp_path, long, poses, city.raster.projection, noise, 0)
    vo = read_vo(tmp_path / "vo/vo.csv")
    gap = vo.older_ns[1:] - vo.newer_ns[:-1]
    assert 3 <= np.count_nonzero(gap) <= 15
    assert gap.max() <= 1e9
    lines = (tmp_path / "stereo.timestamps").read_text().splitlines()
    frames = [int(line.split()[0]) for line in lines]
    assert np.diff(frames).max() < 100_000


def test_ins_and_gps_have_errors(city: City, lifelike: Path) -> None:
    truth = read_ins(lifelike / "gps/rtk.csv")
    projection = city.raster.projection
    true = projection.forward(truth.latitude, truth.longitude)
    for record, low, high in (
        (read_ins(lifelike / "gps/ins.csv"), 0.1, 5.0),
        (read_gps(lifelike / "gps/gps.csv"), 0.1, 60.0),
    ):
        recorded = projection.forward(record.latitude, record.longitude)
        at = np.clip(np.searchsorted(truth.t_ns, record.t_ns), 0, len(true) - 1)
        assert low < np.median(np.hypot(*(recorded - true[at]).T)) < high


# --- Seeds, standing vehicles, atomic writes, sensors --------------------------------------------


def test_the_seed_decides(city: City, route: Trajectory, lifelike: Path, tmp_path: Path) -> None:
    simulate(city, route, tmp_path / "same", "robotcar", SimulateSettings())
    files = sorted(p.relative_to(lifelike) for p in lifelike.rglob("*") if p.is_file())
    assert files == sorted(
        p.relative_to(tmp_path / "same") for p in (tmp_path / "same").rglob("*") if p.is_file()
    )
    assert all((lifelike / f).read_bytes() == (tmp_path / "same" / f).read_bytes() for f in files)
    simulate(city, route, tmp_path / "other", "robotcar", SimulateSettings(seed=1))
    changed = [f for f in files if f.suffix in {".bin", ".csv"} and f.name != "rtk.csv"]
    same = [(lifelike / f).read_bytes() == (tmp_path / "other" / f).read_bytes() for f in changed]
    assert not any(same)


def standing(route: Trajectory) -> Trajectory:
    """The route with a stop of five seconds halfway."""
    half = len(route.t_ns) // 2
    stop = np.full(250, half)
    index = np.concatenate([np.arange(half), stop, np.arange(half, len(route.t_ns))])
    t_ns = route.t_ns[0] + 20_000_000 * np.arange(len(index), dtype=np.int64)
    return replace(route, t_ns=t_ns, poses=route.poses[index], segment=route.segment[0] + 0 * index)


def test_no_scans_while_standing_unless_asked(
    city: City, route: Trajectory, tmp_path: Path
) -> None:
    stopped = standing(route)
    simulate(city, stopped, tmp_path / "moving", "robotcar", EXACT)
    drive = open_drive(tmp_path / "moving")
    assert np.diff(drive.scans.t_ns).max() == pytest.approx(5e9, abs=3e8)
    assert drive.odometry is not None
    assert len(np.unique(drive.odometry.segment)) == 1
    keep = EXACT.model_copy(update={"keep_standing": True})
    simulate(city, stopped, tmp_path / "all", "robotcar", keep)
    assert np.diff(open_drive(tmp_path / "all").scans.t_ns).max() < 2e8


def test_another_folder_is_not_overwritten(city: City, route: Trajectory, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("content")
    with pytest.raises(MaptileError, match="no simulated drive"):
        simulate(city, route, tmp_path / "photos", "robotcar", EXACT)
    assert (tmp_path / "photos" / "one.jpg").read_text() == "content"


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit files to ``size`` bytes: writing more fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_leaves_nothing(city: City, route: Trajectory, tmp_path: Path) -> None:
    with largest_file(9000), pytest.raises(MaptileError, match="cannot write"):
        simulate(city, route, tmp_path / "drive", "robotcar", EXACT)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_sensor_is_one_clear_line(city: City, route: Trajectory, tmp_path: Path) -> None:
    with pytest.raises(MaptileError, match="robotcar, hdl64, hdl32"):
        simulate(city, route, tmp_path / "drive", "hdl128", EXACT)


def test_the_names_of_sensors_are_cheap_to_read() -> None:
    code = (
        "import sys; from data_prep.simulate.sensors import SENSORS; print('numpy' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
    assert all(sensor.summary and "\n" not in sensor.summary for sensor in SENSORS.values())


@pytest.mark.parametrize("sensor", SENSORS)
def test_every_sensor_has_lidars_with_unit_beams(sensor: str) -> None:
    for lidar in lidars_of(sensor):
        assert np.linalg.norm(lidar.directions, axis=1) == pytest.approx(1)
        assert len(lidar.when) == len(lidar.directions)
        assert np.abs(lidar.when).max() <= 1


def test_progress_counts_the_scans_of_all_lidars(
    city: City, route: Trajectory, tmp_path: Path
) -> None:
    calls: list[tuple[str, int, int]] = []

    def note(step: str, done: int, total: int) -> None:
        calls.append((step, done, total))

    simulate(city, part_of(route, 100, 160), tmp_path / "drive", "robotcar", EXACT, note)
    scans = len(open_drive(tmp_path / "drive").scans.t_ns)
    assert {(step, total) for step, _, total in calls} == {("simulate", scans)}
    done = [done for _, done, _ in calls]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, scans)


def test_the_shipped_recipe_holds_the_defaults() -> None:
    assert load_settings(SimulateSettings, "simulate") == SimulateSettings()


# --- Rays and returns, in closed form -------------------------------------------------------------


def test_ranges_to_a_wall_and_to_the_ground(yard: City) -> None:
    path = [YARD_MIDDLE + np.array([[100.0, 0], [101, 0]])]
    world = build_world(yard, path, PLAIN_WORLD, seed=0)
    angle = np.radians(np.array([0.0, 10.0, -20.0, 30.0]))
    flat = np.stack([np.cos(angle), np.sin(angle), np.zeros(4)], axis=1)
    inside = np.tile([*YARD_MIDDLE, 1.5], (4, 1))
    hits = world.scene.cast(inside, flat)
    assert hits.distance == pytest.approx(10 / np.cos(angle), abs=2e-3)
    assert hits.cosine == pytest.approx(np.cos(angle), abs=1e-5)
    outside = inside + (30.0, 0, 0)
    assert world.scene.cast(outside, -flat).distance == pytest.approx(10 / np.cos(angle), abs=2e-3)
    assert np.isinf(world.scene.cast(outside, flat).distance).all()
    down = np.radians(np.array([15.0, 40.0, 60.0, 90.0]))
    steep = np.stack([np.cos(down), 0 * down, -np.sin(down)], axis=1)
    ground = world.scene.cast(inside, steep)
    # The shallowest ray reaches the ground only inside the courtyard: 1.5 / tan(15 deg) = 5.6 m.
    assert ground.distance == pytest.approx(1.5 / np.sin(down), abs=2e-3)
    assert (ground.kind == Surface.GROUND).all()


def test_lms_scans_are_slices_across_the_track() -> None:
    front = lidars_of("robotcar")[0]
    assert len(front.directions) == 541
    assert front.directions[270] == pytest.approx([1, 0, 0])
    assert (front.directions[:, 2] == 0).all()


def test_velodyne_beams_are_those_of_the_data_set() -> None:
    (hdl32,) = lidars_of("hdl32")
    elevation = np.arcsin(hdl32.directions[:, 2])  # z is down
    assert elevation.min() == pytest.approx(-0.1862, abs=1e-3)
    assert elevation.max() == pytest.approx(0.5353, abs=1e-3)
    assert len(np.unique(np.round(elevation, 5))) == 32
    (hdl64,) = lidars_of("hdl64")
    assert len(np.unique(np.round(np.arcsin(hdl64.directions[:, 2]), 5))) == 64


def test_beams_that_start_above_the_origin_measure_points_on_the_wall(
    yard: City, tmp_path: Path
) -> None:
    """In a courtyard of 20 x 20 m, the vehicle drives east and sways."""
    number = np.arange(60)
    xy = YARD_MIDDLE + np.column_stack([0.05 * number - 1.5, 0 * number])
    t_ns = 10**18 + 20_000_000 * number
    drive_east = Trajectory(t_ns, np.c_[xy, 0 * number], 0 * number.astype(np.int32), "", 0.0)
    swaying = EXACT.model_copy(update={"sway_deg": 3.0})
    simulate(yard, drive_east, tmp_path / "drive", "hdl64", swaying)
    poses = vehicle_poses(drive_east, FLAT, swaying)
    (lidar,) = lidars_of("hdl64")
    mount = NED_TO_FLU @ se3_from_xyzrpy(lidar.mount)
    files = sorted((tmp_path / "drive" / "velodyne_left").iterdir())
    assert len(files) > 5
    for file in files:
        points = np.fromfile(file, "<f4").reshape(4, -1)[:3].T.astype(np.float64)
        pose = interpolate_se3(t_ns, poses, np.array([int(file.stem) * 1000]))[0] @ mount
        there = points @ pose[:3, :3].T + pose[:3, 3]
        high = there[there[:, 2] > 0.01]
        assert len(high) > 10_000
        off = np.abs(np.abs(high[:, :2] - YARD_MIDDLE).max(axis=1) - 10)
        assert off.max() < 0.005
    upper = points[:, 2] < -0.2  # z is down: the highest beams
    start = points[upper] - lidar.starts[0]
    elevation = np.degrees(np.arctan2(-start[:, 2], np.hypot(start[:, 0], start[:, 1])))
    assert elevation.max() == pytest.approx(2.0, abs=0.01)


def test_fewer_returns_are_detected_with_range_and_incidence() -> None:
    lidar = lidars_of("robotcar")[0]
    count = 20_000
    rng = np.random.default_rng(0)

    def share(distance: float, reflectance: float, cosine: float, noise: LidarNoise) -> float:
        hits = Hits(
            np.full(count, distance, np.float32),
            np.full(count, Surface.GROUND, np.uint8),
            np.full(count, reflectance, np.float32),
            np.full(count, cosine, np.float32),
        )
        return float(measure(hits, lidar, noise, rng)[1].mean())

    weak = LidarNoise(dropout=0)
    assert share(lidar.dark_range_m, 0.1, 1.0, weak) == pytest.approx(0.5, abs=0.02)
    assert share(lidar.dark_range_m, 0.2, 0.325, weak) == pytest.approx(0.5, abs=0.02)
    assert share(5, 0.1, 1.0, weak) > 0.99
    assert share(40, 0.1, 0.2, weak) < 0.01
    assert share(51, 0.9, 1.0, weak) == 0
    plain = LidarNoise(dropout=0.25, weak=False)
    assert share(49, 0.01, 0.01, plain) == pytest.approx(0.75, abs=0.02)


def test_ranges_have_the_standard_deviation_of_the_settings() -> None:
    lidar = lidars_of("robotcar")[0]
    n = 20_000
    ones = np.ones(n, np.float32)
    hits = Hits(20 * ones, np.full(n, Surface.GROUND, np.uint8), ones, ones)
    measured, _ = measure(
        hits, lidar, LidarNoise(range_m=0.05, slant=0, beam_m=0), np.random.default_rng(0)
    )
    assert measured.mean() == pytest.approx(20, abs=0.002)
    assert measured.std() == pytest.approx(0.05, rel=0.03)


def test_motion_during_a_scan_displaces_its_points(
    city: City, route: Trajectory, exact: Path, tmp_path: Path
) -> None:
    swept = EXACT.model_copy(update={"lidar": EXACT_LIDAR.model_copy(update={"sweep": True})})
    simulate(city, route, tmp_path / "drive", "robotcar", swept)
    points, _ = world_points(city, open_drive(tmp_path / "drive"))
    high = points[points[:, 2] > 0.5]
    off = shapely.distance(walls_of(city), shapely.points(high[::7, :2]))
    # At up to 8 m/s the outer beams are fired 6 cm before or after the middle one.
    assert 0.02 < off.max() < 0.5
    assert np.median(off) < 0.06


# --- The world ------------------------------------------------------------------------------------


def test_buildings_are_displaced_by_the_settings(city: City, route: Trajectory) -> None:
    shifted = PLAIN_WORLD.model_copy(update={"shift_m": 0.7})
    world = build_world(city, [route.poses[:, :2]], shifted, seed=0)
    assert world.counts["building"] == len(city.buildings())
    here = shapely.get_coordinates(shapely.centroid(city.buildings().geometry.values))
    there = shapely.get_coordinates(shapely.centroid(world.buildings))
    assert len(here) == len(there)
    step = there - here
    step = step[np.abs(step).max(axis=1) < 4]  # without those that are cut back from the path
    assert step.std() == pytest.approx(0.7, rel=0.06)
    assert np.abs(step.mean(axis=0)).max() < 0.1


def test_buildings_are_missing_and_new(city: City, route: Trajectory) -> None:
    settings = PLAIN_WORLD.model_copy(update={"missing": 0.2, "new": 0.05})
    counts = build_world(city, [route.poses[:, :2]], settings, seed=0).counts
    total = len(city.buildings())
    assert counts["missing"] == pytest.approx(0.2 * total, rel=0.2)
    assert 0.03 * total < counts["new"] <= round(0.05 * total)
    assert counts["building"] == total - counts["missing"] + counts["new"]


def test_turning_one_part_off_does_not_change_the_others(city: City, route: Trajectory) -> None:
    path = [route.poses[:, :2]]
    full = build_world(city, path, WorldSettings(), seed=5)
    bare = build_world(city, path, WorldSettings(cars_per_100m=0, poles_per_100m=0), seed=5)
    assert shapely.equals(full.buildings, bare.buildings).all()
    assert bare.counts == {**full.counts, "car": 0, "pole": 0}
    assert all(full.counts[kind] > 20 for kind in THINGS)


def test_no_object_stands_on_the_path(city: City) -> None:
    long = trajectory_from_route(city, 400.0, seed=2)
    crowded = WorldSettings(
        shift_m=3, cars_per_100m=40, trees_per_100m=10, hedges_per_100m=10, fences_per_100m=30,
        people_per_100m=50, shrubs_per_100m=30, thickets_per_100m=5,
    )  # fmt: skip
    world = build_world(city, [long.poses[:, :2]], crowded, seed=0)
    step = np.diff(long.poses[:, :2], axis=0)
    length = np.hypot(*step.T)
    moving = length > 0.01
    road = world.terrain.road_height(long.poses[:, :2])
    step = np.column_stack([step, np.diff(road)])
    for height in (0.4, 1.0, 1.6):
        start = np.column_stack([long.poses[:-1, :2], road[:-1] + height])[moving]
        ahead = step[moving] / np.linalg.norm(step[moving], axis=1, keepdims=True)
        assert world.scene.cast(start, ahead).distance.min() > 0.5
        assert (world.scene.cast(start, ahead).distance > length[moving]).all()


def test_a_city_that_is_a_bare_raster_has_a_world(city: City, route: Trajectory) -> None:
    assert city.folder is not None
    bare = open_city(city.folder / "map.tif")
    world = build_world(bare, [route.poses[:, :2]], WorldSettings(), seed=0)
    assert world.counts["building"] > 300
    assert world.counts["pole"] > 0
    with pytest.raises(MaptileError, match="no roads"):
        trajectory_from_route(bare, 100.0)


# --- Trajectories ---------------------------------------------------------------------------------


def test_routes_follow_the_roads_smoothly(city: City) -> None:
    long = trajectory_from_route(city, 1000.0, seed=4)
    assert long.length_m() == pytest.approx(1000, abs=250)
    roads = city.roads()
    lines = shapely.union_all(roads[roads.kind == "road"].geometry.values)
    assert shapely.distance(lines, shapely.points(long.poses[:, :2])).max() < 6
    assert city.raster.inside(long.poses[:, :2], 20).all()
    speed = long.speed()
    assert speed.max() < 9
    course = np.arctan2(*np.diff(long.poses[:, :2], axis=0).T[::-1])
    slip = np.abs(wrap_angle(course - long.poses[:-1, 2]))[speed[:-1] > 1]
    assert np.quantile(slip, 0.99) < np.radians(3)
    again = trajectory_from_route(city, 1000.0, seed=4)
    assert (again.poses == long.poses).all()
    assert not np.array_equal(trajectory_from_route(city, 1000.0, seed=5).poses[:9], long.poses[:9])


def test_a_path_outside_the_map_is_one_clear_line(city: City, yard: City, exact: Path) -> None:
    with pytest.raises(MaptileError, match="inside the map of yard"):
        trajectory_from_ins(exact / "gps/ins.csv", yard)
    everywhere = trajectory_from_ins(exact / "gps/ins.csv", yard, margin_m=None)
    assert everywhere.length_m() > 50


def test_the_trajectory_of_an_ins_file_equals_the_simulated_one(
    city: City, route: Trajectory, exact: Path
) -> None:
    followed = trajectory_from_ins(exact / "gps/ins.csv", city, margin_m=None)
    at = np.searchsorted(route.t_ns, followed.t_ns)
    error = followed.poses - route.poses[np.clip(at, 0, len(route.t_ns) - 1)]
    assert np.hypot(error[:, 0], error[:, 1]).max() < 0.1
    assert np.abs(wrap_angle(error[:, 2])).max() < np.radians(0.5)


def test_the_trajectory_of_a_drive_is_its_truth(city: City, route: Trajectory, exact: Path) -> None:
    followed = open_trajectory(str(exact), city, 0.0, 0)
    off = np.stack([np.interp(followed.t_ns, route.t_ns, route.poses[:, i]) for i in (0, 1)], 1)
    assert np.hypot(*(followed.poses[:, :2] - off).T).max() < 0.02
    course = np.arctan2(*np.gradient(followed.poses[:, :2], axis=0).T[::-1])
    slip = wrap_angle(course - followed.poses[:, 2])[followed.speed() > 2]
    assert np.quantile(np.abs(slip), 0.95) < np.radians(3)
    with pytest.raises(MaptileError, match="no truth"):
        trajectory_from_drive(open_drive(exact).without_truth(), city)


def test_a_path_through_a_house_goes_around_its_corner(yard: City, tmp_path: Path) -> None:
    east = np.linspace(-60, 60, 241)
    xy = YARD_MIDDLE + np.column_stack([east, np.full(241, -18.5)])
    write_ins(tmp_path / "gps" / "ins.csv", yard, xy)
    followed = trajectory_from_ins(tmp_path / "gps/ins.csv", yard)
    house = yard.buildings().geometry.values
    clear = np.min([shapely.distance(h, shapely.points(followed.poses[:, :2])) for h in house], 0)
    assert clear.min() > 1.0
    assert 1.5 < followed.nudged_m < 6
    course = np.arctan2(*np.diff(followed.poses[:, :2], axis=0).T[::-1])
    assert np.abs(wrap_angle(course - followed.poses[:-1, 2])).max() < np.radians(4)


def write_ins(path: Path, city: City, xy: Array) -> None:
    """Write an ins.csv of a vehicle that drives east along (N, 2) ``xy`` at 10 Hz."""
    latitude, longitude = city.raster.projection.inverse(xy)
    convergence = city.raster.projection.convergence(latitude, longitude)
    velocity = np.linalg.norm(np.diff(xy, axis=0)[0]) / 0.1
    table = pd.DataFrame(
        {
            "timestamp": 1_400_000_000_000_000 + 100_000 * np.arange(len(xy)),
            "ins_status": "INS_SOLUTION_GOOD",
            "latitude": latitude,
            "longitude": longitude,
            "altitude": 0.0,
            "northing": 0.0,
            "easting": 0.0,
            "down": 0.0,
            "utm_zone": "32U",
            "velocity_north": velocity * np.sin(-convergence),
            "velocity_east": velocity * np.cos(convergence),
            "velocity_down": 0.0,
            "roll": 0.0,
            "pitch": 0.0,
            "yaw": np.pi / 2 + convergence,
        }
    )
    path.parent.mkdir(parents=True)
    (path.parent.parent / "extrinsics").mkdir()
    (path.parent.parent / "extrinsics" / "ins.txt").write_text("0 0 0 0 0 0\n")
    table.to_csv(path, index=False)


def test_fusion_removes_gps_jumps_and_the_scale_of_odometry(city: City) -> None:
    true = trajectory_from_route(city, 1500.0, seed=1)
    every = slice(None, None, 3)
    t_ns, poses = true.t_ns[every], true.poses[every]
    rng = np.random.default_rng(0)
    motion = se2_between(poses[:-1], poses[1:])
    motion[:, :2] *= 1.05
    motion[:, 2] += 2e-4 * np.hypot(motion[:, 0], motion[:, 1])
    transforms = np.tile(np.eye(4), (len(motion), 1, 1))
    transforms[:, :3, :3] = Rotation.from_euler("z", motion[:, 2:]).as_matrix()
    transforms[:, :2, 3] = motion[:, :2]
    fix = slice(None, None, 3)
    gps_ns, position = t_ns[fix], poses[fix, :2].copy()
    position += rng.normal(0, 1.0, 2) * 0.3 + rng.normal(0, 0.8, position.shape)
    for start in rng.integers(0, len(position) - 30, 12):
        position[start : start + 20] += rng.normal(0, 30, 2)
    latitude, longitude = city.raster.projection.inverse(position)
    sigma = np.full((len(position), 3), 3.0)
    gps = Gps(gps_ns, latitude, longitude, 0 * latitude, sigma)
    found_ns, found = fuse(gps, Vo(t_ns[:-1], t_ns[1:], transforms), city.raster.projection)
    assert (found_ns == t_ns).all()
    error = np.hypot(*(found - poses)[:, :2].T)
    assert np.median(error) < 0.8
    assert error.max() < 3
    assert np.quantile(np.abs(wrap_angle(found[:, 2] - poses[:, 2])), 0.95) < np.radians(1.5)
    step = np.hypot(*np.diff(found[:, :2], axis=0).T)
    assert step.max() < 0.8


def test_noise_is_correlated_over_its_time_constant() -> None:
    at = np.arange(0, 4000.0, 0.5)
    values = correlated(at, 5.0, 8, np.random.default_rng(0))
    assert values.std() == pytest.approx(1, abs=0.05)
    assert np.mean(values[10:] * values[:-10]) == pytest.approx(np.exp(-1), abs=0.05)


# --- Real trajectories ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oxford(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> City:
    source = OsmSource(path=data_dir / "oxford" / "oxford.osm")
    return prepare_city(source, tmp_path_factory.mktemp("oxford") / "oxford", CitySettings())


@pytest.mark.realdata
def test_the_trajectory_of_a_real_gps_file(oxford: City, data_dir: Path) -> None:
    run = data_dir / "robotcar" / "2014-11-28-12-07-13"
    found = trajectory_from_gps(run / "gps/gps.csv", run / "vo/vo.csv", oxford)
    assert 5000 < found.length_m() < 6000
    assert found.segment[-1] >= 2
    same = np.diff(found.segment) == 0
    speed = np.hypot(*np.diff(found.poses[:, :2], axis=0).T) / (np.diff(found.t_ns) / 1e9)
    assert speed[same].max() < 13
    gps = read_gps(run / "gps/gps.csv")
    recorded = oxford.raster.projection.forward(gps.latitude, gps.longitude)
    at = np.searchsorted(found.t_ns, gps.t_ns)
    covered = (at > 0) & (at < len(found.t_ns))
    covered[covered] &= found.t_ns[at[covered]] - found.t_ns[at[covered] - 1] < 2e8
    off = np.hypot(*(recorded[covered] - found.poses[at[covered], :2]).T)
    assert np.median(off) < 2.5
    assert np.quantile(off, 0.9) < 7
    walls = oxford.buildings().geometry.values
    tree = shapely.STRtree(walls)
    spots = shapely.points(found.poses[::4, :2])
    assert len(tree.query(spots, predicate="dwithin", distance=0.8)[0]) == 0
    assert found.nudged_m < 8
    assert oxford.raster.inside(found.poses[:, :2], 20).all()


@pytest.mark.realdata
def test_the_trajectory_of_a_real_ins_file(oxford: City, data_dir: Path) -> None:
    run = data_dir / "robotcar" / "2014-06-26-09-24-58"
    found = trajectory_from_ins(run / "gps/ins.csv", oxford)
    assert 350 < found.length_m() < 450
    ins = read_ins(run / "gps/ins.csv")
    recorded = oxford.raster.projection.forward(ins.latitude, ins.longitude)
    at = np.searchsorted(ins.t_ns, found.t_ns)
    off = np.hypot(*(found.poses[:, :2] - recorded[at]).T)
    assert np.abs(off - 1.72).max() < 1.0  # the INS sits 1.7 m behind the vehicle's origin
    course = np.arctan2(*np.gradient(found.poses[:, :2], axis=0).T[::-1])
    slip = wrap_angle(course - found.poses[:, 2])[found.speed() > 3]
    assert abs(np.degrees(np.median(slip))) < 1.5
    # The INS jumps by up to 0.4 m, which would be 20 m/s.
    assert found.speed().max() < 7


@pytest.mark.realdata
def test_the_trajectory_of_a_real_drive_is_its_truth(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "kitti_raw" / "2011_09_26"
    source = OsmSource(path=folder / "2011_09_26_drive_0005.osm")
    karlsruhe = prepare_city(source, tmp_path / "karlsruhe", CitySettings())
    drive = open_drive(folder / "2011_09_26_drive_0005_sync")
    found = trajectory_from_drive(drive, karlsruhe)
    assert drive.truth is not None
    recorded = karlsruhe.raster.projection.forward(drive.truth.latitude, drive.truth.longitude)
    at = np.clip(np.searchsorted(found.t_ns, drive.truth.t_ns), 0, len(found.t_ns) - 1)
    assert np.hypot(*(recorded - found.poses[at, :2]).T).max() < 0.3
    course = np.arctan2(*np.gradient(found.poses[:, :2], axis=0).T[::-1])
    slip = wrap_angle(course - found.poses[:, 2])[found.speed() > 3]
    assert abs(np.degrees(np.median(slip))) < 1.0


@pytest.mark.realdata
def test_a_run_outside_the_map_is_refused(city: City, data_dir: Path) -> None:
    run = data_dir / "robotcar" / "2014-06-26-09-24-58"
    with pytest.raises(MaptileError, match="inside the map of town"):
        trajectory_from_ins(run / "gps/ins.csv", city)
