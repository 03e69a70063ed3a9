from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import open3d as o3d
import pytest
import shapely
from numpy.typing import NDArray

from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.geometry import Array, utm_crs
from data_prep.osm.footprints import OsmSource
from data_prep.simulate.lidar import LidarNoise, lidars_of, measure
from data_prep.simulate.record import SimulateSettings, vehicle_poses
from data_prep.simulate.scene.facades import Facades, FacadeStyle
from data_prep.simulate.scene.meshes import Mesh, leaves
from data_prep.simulate.scene.plants import hollow_share
from data_prep.simulate.scene.rays import Hits
from data_prep.simulate.scene.roadside import Roadside
from data_prep.simulate.scene.surfaces import Surface
from data_prep.simulate.scene.terrain import Terrain, Waves
from data_prep.simulate.scene.world import World, build_world
from data_prep.simulate.scene.world_settings import WorldSettings
from data_prep.simulate.sensors import CAMERA_HEIGHT_M
from data_prep.simulate.trajectory import Trajectory, trajectory_from_route

MIDDLE = np.array([600_500.0, 5_760_500.0])
FLAT_FACADES = {"relief_m": 0, "glass": 0, "dark": 0, "bays_per_100m": 0}
NOTHING = {
    name: 0
    for name in WorldSettings.model_fields
    if name.endswith("_per_100m")
    or name in ("shift_m", "missing", "new", "road_shift_m", "road_width", "camber", "garden_slope")
}
PLAIN = WorldSettings(**(NOTHING | {"slope": 0, "kerb_m": 0}))


@pytest.fixture(scope="module")
def city(town_city: Path) -> City:
    return open_city(town_city)


@pytest.fixture(scope="module")
def crossing(tmp_path_factory: pytest.TempPathFactory) -> City:
    """A house of 12 x 8 m, 6 m high, beside a road 6 m wide that runs east through the centre."""
    folder = tmp_path_factory.mktemp("crossing")
    crs = utm_crs(52.0, 10.5)
    boxes = [shapely.box(-6, 8, 6, 16), shapely.box(-200, -200, -190, -190)]
    boxes.append(shapely.box(190, 190, 200, 200))
    shapes = [shapely.transform(shape, lambda xy: xy + MIDDLE) for shape in boxes]
    houses = gpd.GeoDataFrame(
        {"building": "yes", "height": ["6"] * len(shapes)}, geometry=shapes, crs=crs
    )
    road = shapely.LineString(MIDDLE + np.array([[-180.0, 0], [180, 0]]))
    roads = gpd.GeoDataFrame({"highway": ["residential"], "width": ["6"]}, geometry=[road], crs=crs)
    houses.to_file(folder / "map.gpkg", layer="buildings", driver="GPKG")
    roads.to_file(folder / "map.gpkg", layer="roads", driver="GPKG")
    settings = CitySettings(crs=crs.to_string())
    return prepare_city(OsmSource(path=folder / "map.gpkg"), folder / "city", settings)


def world_of(city: City, **settings: float) -> World:
    path = [MIDDLE + np.array([[-150.0, -0.5], [150.0, -0.5]])]
    return build_world(city, path, WorldSettings(**(NOTHING | settings)), seed=0)


def looking_down(world: World, xy: Array) -> tuple[Array, Hits]:
    """Heights of the surfaces seen from 50 m above (N, 2) positions, and the hits."""
    start = np.column_stack([xy, np.full(len(xy), 50.0)])
    hits = world.scene.cast(start, np.tile([0.0, 0, -1], (len(xy), 1)))
    return 50.0 - hits.distance.astype(np.float64), hits


# --- The ground -----------------------------------------------------------------------------------


def test_slopes_follow_the_settings() -> None:
    rng = np.random.default_rng(1)
    xy, step = spread(rng, 4000), 0.01
    mean = []
    for _ in range(20):
        hills = Waves.drawn((80.0, 800.0), 0.03, rng)
        rise = [hills.height(xy + aside) - hills.height(xy) for aside in step * np.eye(2)]
        mean.append(np.mean(np.sum(np.square(rise), axis=0)) / step**2)
    assert np.sqrt(np.mean(mean)) == pytest.approx(0.03, rel=0.05)


def spread(rng: np.random.Generator, count: int) -> Array:
    return rng.uniform(-3000, 3000, (count, 2))


def test_the_ground_follows_slopes_and_kerbs(crossing: City) -> None:
    world = world_of(crossing, slope=0.05, kerb_m=0.12)
    rng = np.random.default_rng(0)
    xy = MIDDLE + rng.uniform((-100, -7), (100, 7), (3000, 2))
    z, hits = looking_down(world, xy)
    aside = np.abs(xy[:, 1] - MIDDLE[1])
    on_road, beside = aside < 2.9, aside > 3.1
    assert (hits.kind[on_road] == Surface.ROAD).all()
    assert (hits.kind[beside] == Surface.GROUND).all()
    # The mesh has a spacing of 6 m: it differs from the smooth ground by 1 to 2 cm.
    assert np.abs(z - world.terrain.road_height(xy))[on_road].max() < 0.02
    assert np.abs(z - world.terrain.height(xy))[beside].max() < 0.02
    kerb_m = (world.terrain.height(xy) - world.terrain.road_height(xy))[on_road]
    assert kerb_m == pytest.approx(0.12)
    assert np.ptp(z) > 1.0
    # Beams just above the road hit the kerb's face.
    east = np.linspace(-50, 50, 200)
    start = MIDDLE + np.column_stack([east, np.zeros(200)])
    low = world.terrain.height(start + (0, 3)) - 0.06
    kerb = world.scene.cast(np.column_stack([start, low]), np.tile([0.0, 1, 0], (200, 1)))
    assert np.median(kerb.distance) == pytest.approx(3, abs=0.02)
    assert np.median(kerb.cosine) > 0.99


def test_roads_have_a_camber_and_the_vehicle_tilts_with_it(crossing: City) -> None:
    world = world_of(crossing, slope=0, kerb_m=0.1, camber=0.03)
    east = np.random.default_rng(0).uniform(-100, 100, 500)
    for north in (-2.5, -1.0, 0.0, 2.0):
        z, _ = looking_down(world, MIDDLE + np.column_stack([east, 0 * east + north]))
        off = np.abs(z - (-0.1 + 0.03 * (3 - abs(north))))
        assert np.quantile(off, 0.9) < 2e-3
        assert off.max() < 0.03
    stands = np.arange(50)
    xy = MIDDLE + np.column_stack([0.1 * stands, np.full(50, -1.5)])
    route = Trajectory(
        10**9 + 20_000_000 * stands, np.c_[xy, 0 * stands], 0 * stands.astype(np.int32), "", 0.0
    )
    poses = vehicle_poses(route, world.terrain, SimulateSettings(sway_deg=0))
    # It drives east, on the right half of the road, which falls to the right.
    assert poses[:, 2, 1] == pytest.approx(np.sin(np.arctan(0.03)), abs=1e-4)
    assert poses[:, 2, 0] == pytest.approx(0, abs=1e-4)
    assert poses[:, 2, 3] == pytest.approx(-0.1 + 0.03 * 1.5 + CAMERA_HEIGHT_M, abs=1e-3)


def test_gardens_are_uneven_and_not_below_the_pavement(crossing: City) -> None:
    world = world_of(crossing, slope=0, kerb_m=0.1, garden_slope=0.06)
    rng = np.random.default_rng(0)
    for north, raised in ((4.0, False), (25.0, True)):
        xy = MIDDLE + np.column_stack([rng.uniform(-100, 100, 500), np.full(500, north)])
        z = world.terrain.height(xy)
        assert z.min() >= 0
        assert (z.max() > 0.1) == raised


def test_roads_are_displaced_and_have_other_widths_than_on_the_map(city: City) -> None:
    def made(**settings: float) -> Roadside:
        terrain = Terrain.drawn(city.raster.centre, PLAIN, np.random.default_rng(0))
        rng = np.random.default_rng(5)
        driven = np.array([shapely.LineString(city.raster.centre + [[0, 0], [9, 0]])], object)
        return Roadside.of(city, driven, 2.0, terrain, WorldSettings(**settings), rng)

    table = city.roads()
    exact = made(road_shift_m=0, road_width=0)
    assert shapely.equals(exact.lines, table.geometry.values).all()
    np.testing.assert_array_equal(exact.width, table["width"])
    off = made(road_shift_m=2, road_width=0.3)
    shift = [
        shapely.get_coordinates(one) - shapely.get_coordinates(other)
        for one, other in zip(off.lines, exact.lines, strict=True)
    ]
    assert max(np.ptp(one, axis=0).max() for one in shift) < 1e-6  # each keeps its shape
    first = np.array([one[0] for one in shift])
    wider = np.log(off.width / exact.width)
    assert len(first) > 25
    np.testing.assert_allclose(first.std(axis=0), 2, rtol=0.35)
    np.testing.assert_allclose(wider.std(), 0.3, rtol=0.35)
    area = shapely.area(shapely.union_all(off.asphalt))
    assert 0.8 < area / shapely.area(shapely.union_all(exact.asphalt)) < 1.25


def test_the_vehicle_stands_on_the_road_and_tilts_with_it(city: City) -> None:
    route = trajectory_from_route(city, 200.0, seed=3)
    steep = PLAIN.model_copy(update={"slope": 0.08, "kerb_m": 0.1})
    terrain = Terrain.drawn(city.raster.centre, steep, np.random.default_rng(0))
    poses = vehicle_poses(route, terrain, SimulateSettings(sway_deg=0))
    assert poses[:, 2, 3] == pytest.approx(
        terrain.road_height(route.poses[:, :2]) + CAMERA_HEIGHT_M, abs=5e-3
    )
    for axis in (0, 1):  # forward and left lie in the ground's plane
        direction = poses[:, :3, axis]
        there, here = (
            terrain.road_height(route.poses[:, :2] + s * direction[:, :2]) for s in (0.5, -0.5)
        )
        assert np.abs(direction[:, 2] - (there - here)).max() < 2e-3
    assert np.abs(poses[:, 2, 0]).max() > 0.02


# --- Leaves ---------------------------------------------------------------------------------------


def cast_through(mesh: Mesh, start: Array, direction: Array) -> Array:
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(mesh.vertices.astype(np.float32)),
        o3d.core.Tensor.from_numpy(mesh.triangles.astype(np.uint32)),
    )
    rays = np.column_stack([start, np.tile(direction, (len(start), 1))]).astype(np.float32)
    return np.asarray(scene.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy())


@pytest.mark.parametrize("direction", [(1.0, 0, 0), (0, 0, 1.0), (0.6, 0, 0.8)])
def test_the_share_of_beams_that_pass_leaves_follows_the_beer_lambert_law(
    direction: tuple[float, ...],
) -> None:
    rng = np.random.default_rng(0)
    half, per_m = np.array([[6.0, 6.0, 6.0]]), 0.15
    zero = np.zeros((1, 3))
    size = np.array([0.12])
    hedge = leaves(zero, np.zeros(1), half, False, per_m, size, 0.0, 0.4, Surface.LEAF, rng)
    start = rng.uniform(-1.5, 1.5, (20_000, 3)) - 4.0 * np.array(direction)
    distance = cast_through(hedge, start, np.array(direction))
    for metres in (1.0, 3.0, 6.0):
        assert np.mean(distance > metres) == pytest.approx(np.exp(-per_m * metres), abs=0.02)


def test_a_thick_plant_is_hollow_and_a_thin_one_keeps_its_leaves() -> None:
    half, size, zero = np.array([[3.0, 6.0, 3.0]]), np.array([0.1]), np.zeros((1, 3))

    def grown(per_m: float, hollow: NDArray[np.floating] | float) -> Mesh:
        rng = np.random.default_rng(0)
        kind = Surface.LEAF
        return leaves(zero, np.zeros(1), half, False, per_m, size, hollow, 0.4, kind, rng)

    core = hollow_share(half, np.array([4.0]))
    thick = grown(4.0, core)
    assert 0.5 < core[0] < 0.8
    middles = thick.vertices[thick.triangles].mean(axis=1)
    assert np.abs(middles / half).max(axis=1).min() == pytest.approx(core[0], abs=1e-3)
    start = np.random.default_rng(1).uniform((-9, -5, -2.5), (-9, 5, 2.5), (20_000, 3))
    passing = np.isinf(cast_through(thick, start, np.array([1.0, 0, 0])))
    assert passing.mean() < np.exp(-4)
    thin = hollow_share(half, np.array([0.5]))
    assert thin[0] == 0
    np.testing.assert_array_equal(grown(0.5, thin).vertices, grown(0.5, 0.0).vertices)


def test_a_crown_is_an_ellipsoid_of_leaves() -> None:
    rng = np.random.default_rng(0)
    half = np.array([[2.0, 1.0, 3.0]])
    centre = np.array([[10.0, 20.0, 4.0]])
    crown = leaves(
        centre, np.array([np.pi / 2]), half, True, 1.0, np.array([0.1]), 0.0, 0.4, Surface.LEAF, rng
    )
    middles = crown.vertices[crown.triangles].mean(axis=1) - centre[0]
    # After a turn of 90 degrees its length is along the second axis.
    inside = np.sum((middles / half[0, [1, 0, 2]]) ** 2, axis=1)
    assert inside.max() < 1 + 1e-9
    assert np.mean(inside < 0.5 ** (2 / 3)) == pytest.approx(0.5, abs=0.03)
    through = cast_through(crown, np.tile([[0.0, 20, 4]], (1, 1)), np.array([1.0, 0, 0]))
    assert through[0] > 8.9
    ends = rng.uniform(-0.3, 0.3, (4000, 3)) * (0, 1, 1) + (0, 20, 4)
    share = np.isinf(cast_through(crown, ends, np.array([1.0, 0, 0]))).mean()
    assert share == pytest.approx(np.exp(-2 * 0.97), abs=0.06)


# --- Facades --------------------------------------------------------------------------------------


def one_wall(glass: float, share: float = 1.0, dark: float = 0.0) -> Facades:
    """A wall from (0, 0) to (12, 0), outside to the south, with three windows per storey."""
    style = FacadeStyle.drawn(1, 0.3, np.random.default_rng(0))
    fixed = {
        "bay": 4.0, "storey": 3.0, "raised": 0.0, "width": 1.4, "sill": 0.8, "head": 2.3,
        "depth": 0.3, "share": share, "shop": 0.0, "plinth": 0.0, "pilaster": 0.0,
    }  # fmt: skip
    style = replace(style, **{name: np.array([v], np.float32) for name, v in fixed.items()})
    return Facades(
        a=np.zeros((1, 2), np.float32),
        along=np.array([[1, 0]], np.float32),
        length=np.array([12], np.float32),
        base=np.zeros(1, np.float32),
        height=np.array([9], np.float32),
        style=style,
        glass=glass,
        dark=dark,
    )


def meet(facades: Facades, x: Array, z: float, direction: Array) -> tuple[Array, NDArray[np.uint8]]:
    point = np.column_stack([x, np.zeros(len(x)), np.full(len(x), z)]).astype(np.float32)
    wall = np.zeros(len(x), np.int32)
    rays = np.tile(direction, (len(x), 1)).astype(np.float32)
    distance, kind = facades.meet(wall, point, rays)
    return distance.astype(np.float64), kind


def test_beams_meet_panes_and_the_sides_of_windows() -> None:
    facades = one_wall(glass=0.0)
    x = np.linspace(0.01, 11.99, 4000)
    deep, kind = meet(facades, x, 4.5, np.array([0.0, 1, 0]))
    assert (kind == Surface.BUILDING).all()
    # Openings 1.4 m wide are in the middle of fields 4 m wide, 0.6 to 1.4 times 0.3 m deep. The
    # rest of the wall is even to 0.4 times 0.3 m.
    in_window = np.abs((x % 4) - 2) < 0.7
    assert np.abs(deep[~in_window]).max() <= 0.12
    assert deep[in_window].min() > 0.17
    assert deep[in_window].max() < 1.6 * 0.42
    # A slanted beam into the same windows ends at the pane or at the right side of the opening.
    slant = np.array([np.sin(0.9), np.cos(0.9), 0])
    far, _ = meet(facades, x, 4.5, slant)
    end = x + far * slant[0]
    depth = far * slant[1]
    side = 2 + 0.7 - x % 4
    window = in_window & (np.abs(np.abs((x % 4) - 2) - 0.7) > 0.01)
    pane = window & (depth < side / np.tan(0.9) - 1e-4)
    frame = window & ~pane
    assert frame.sum() > 100
    assert pane.sum() > 100
    assert end[frame] % 4 == pytest.approx(2.7, abs=1e-3)
    for field in range(3):
        here = x // 4 == field
        # The depth of a pane does not depend on the direction of the beam.
        assert depth[pane & here].min() >= deep[in_window & here].min() - 1e-3
        assert depth[pane & here].max() <= deep[in_window & here].max() + 1e-3
    above, _ = meet(facades, x, 5.4, np.array([0.0, 1, 0]))
    assert np.abs(above).max() <= 0.12


def test_beams_pass_windows_of_glass() -> None:
    x = np.random.default_rng(0).uniform(0, 12, 3000)
    heights = np.arange(1.0, 9, 0.13)
    results = [meet(one_wall(glass=1.0), x, z, np.array([0.0, 1, 0])) for z in heights]
    deep = np.concatenate([distance for distance, _ in results])
    kind = np.concatenate([kinds for _, kinds in results])
    inside = kind == Surface.INSIDE
    assert np.isinf(deep[inside]).mean() == pytest.approx(0.5, abs=0.12)
    assert deep[inside].min() > 0.4
    assert deep[inside & np.isfinite(deep)].max() < 5.5
    assert np.abs(deep[~inside]).max() < 0.12
    blind, kind = meet(one_wall(glass=1.0, share=0.0), x, 4.5, np.array([0.0, 1, 0]))
    assert np.abs(blind).max() < 0.12
    assert (kind == Surface.BUILDING).all()


def test_dark_windows_return_nothing_and_their_frames_do() -> None:
    x = np.random.default_rng(0).uniform(0, 12, 3000)
    deep, kind = meet(one_wall(glass=0.0, dark=1.0), x, 4.5, np.array([0.0, 1, 0]))
    in_window = np.abs((x % 4) - 2) < 0.7
    np.testing.assert_array_equal(np.isinf(deep), in_window)
    assert (kind == Surface.BUILDING).all()
    slant = np.array([np.sin(1.3), np.cos(1.3), 0])
    deep, _ = meet(one_wall(glass=0.0, dark=1.0), x, 4.5, slant)
    assert 0.1 < np.isinf(deep[in_window]).mean() < 0.9


# --- Buildings ------------------------------------------------------------------------------------


def test_a_house_has_a_gabled_roof_with_eaves(crossing: City) -> None:
    world = world_of(crossing, slope=0, kerb_m=0, eaves_m=0.5, roof_deg=40, **FLAT_FACADES)
    east, north = np.meshgrid(np.linspace(-5.9, 5.9, 30), np.linspace(7.6, 16.4, 40))
    xy = np.column_stack([east.ravel(), north.ravel()])
    z, hits = looking_down(world, MIDDLE + xy)
    # The roof is 0.2 m thick and rises from the walls to the ridge, 4 m from both sides.
    roof = 6 + 0.2 + np.tan(np.radians(40)) * (4 - np.abs(xy[:, 1] - 12))
    assert z == pytest.approx(roof, abs=5e-3)
    assert (hits.kind == Surface.BUILDING).all()
    out, _ = looking_down(world, MIDDLE + np.array([[0.0, 7.4], [0, 16.6]]))
    assert out == pytest.approx(0, abs=1e-3)
    flat = world_of(crossing, slope=0, kerb_m=0, eaves_m=0.5, roof_deg=0, **FLAT_FACADES)
    up = flat.scene.cast(np.array([[*MIDDLE + (0, 7.7), 1.0]]), np.array([[0.0, 0, 1]]))
    assert up.distance == pytest.approx(5.0, abs=1e-3)


def test_garages_are_low_and_houses_are_not_much_higher_than_wide(tmp_path: Path) -> None:
    corners = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), axis=-1).reshape(-1, 2)
    corners = MIDDLE + (0, 5) + 30 * corners
    side = np.where(np.arange(100) % 2, 6.0, 10.0)
    shapes = shapely.box(*corners.T, *(corners.T + side))
    crs = utm_crs(52.0, 10.5)
    gpd.GeoDataFrame({"building": ["yes"] * 100}, geometry=shapes, crs=crs).to_file(
        tmp_path / "map.gpkg", layer="buildings"
    )
    source = OsmSource(path=tmp_path / "map.gpkg")
    city = prepare_city(source, tmp_path / "city", CitySettings(crs=crs.to_string()))
    facades = world_of(city, roof_deg=0, **FLAT_FACADES).scene.facades
    garage = facades.length < 8
    assert garage.sum() == 200
    assert 2.1 <= facades.height[garage].min() < facades.height[garage].max() <= 3.0
    assert 2.6 <= facades.height[~garage].min() < 4
    assert 6 < facades.height[~garage].max() <= 8.0


def test_building_points_lie_on_buildings(city: City) -> None:
    route = trajectory_from_route(city, 90.0, seed=3)
    level = WorldSettings(roof_deg=0, camber=0, garden_slope=0)
    world = build_world(city, [route.poses[:, :2]], level, seed=0)
    poses = vehicle_poses(route, world.terrain, SimulateSettings())[::60]
    (lidar,) = lidars_of("hdl64")
    turned = np.concatenate([lidar.directions @ pose[:3, :3].T for pose in poses])
    start = np.repeat(poses[:, :3, 3], len(lidar.directions), axis=0)
    hits = world.scene.cast(start, turned)
    met = np.isfinite(hits.distance) & (hits.distance < 50)
    points = (start + turned * np.where(met, hits.distance, 0)[:, None])[met]
    kind = hits.kind[met]
    ground = world.terrain.height(points[:, :2])
    walls = shapely.boundary(shapely.union_all(world.buildings))
    shapely.prepare(walls)
    built = points[kind == Surface.BUILDING][::20]
    off = shapely.distance(walls, shapely.points(built[:, :2]))
    assert len(off) > 1000
    # Windows and doors lie deep in the walls, bays and balconies stand out of them.
    assert np.quantile(off, 0.8) < 0.45
    assert np.quantile(off, 0.999) < 6  # some roofs are hit far from their edge
    above = points[:, 2] - ground
    assert np.abs(above[kind == Surface.ROAD] + 0.1).max() < 0.03
    beside = above[kind == Surface.GROUND]
    assert (np.abs(beside) < 0.03).mean() > 0.9
    assert beside.min() > -0.13
    assert beside.max() < 0.03
    inside = shapely.union_all(world.buildings).buffer(0.1)
    shapely.prepare(inside)
    rooms = points[kind == Surface.INSIDE]
    assert shapely.contains_xy(inside, *rooms[:, :2].T).mean() > 0.85
    leaf = above[kind == Surface.LEAF]
    assert leaf.min() > -0.3
    assert np.quantile(leaf, 0.99) < 11


def test_thickets_keep_clear_of_the_path(city: City) -> None:
    route = trajectory_from_route(city, 200.0, seed=3)
    path = route.poses[:, :2]
    overgrown = WorldSettings(**(NOTHING | {"thickets_per_100m": 20}))
    world = build_world(city, [path], overgrown, seed=0)
    assert world.counts["thicket"] > 100
    ahead = np.diff(path, axis=0)
    moving = np.hypot(*ahead.T) > 0.01
    for aside in (-1.0, 0.0, 1.0):
        left = ahead[:, ::-1] * (-1, 1) / np.maximum(np.hypot(*ahead.T), 1e-6)[:, None]
        start = (path[:-1] + aside * left)[moving]
        up = np.tile([0.0, 0, 1], (len(start), 1))
        hits = world.scene.cast(np.c_[start, world.terrain.height(start) + 0.2], up)
        assert not (np.isfinite(hits.distance) & (hits.kind == Surface.LEAF)).any()


def test_plants_hide_a_part_of_the_walls(city: City) -> None:
    route = trajectory_from_route(city, 90.0, seed=3)
    bare = build_world(city, [route.poses[:, :2]], WorldSettings(leaves_per_m=0), seed=0)
    grown = build_world(city, [route.poses[:, :2]], WorldSettings(), seed=0)
    start = np.column_stack([route.poses[::40, :2], 1.6 + 0 * route.poses[::40, 2]])
    angle = np.linspace(-np.pi, np.pi, 2000)
    rays = np.column_stack([np.cos(angle), np.sin(angle), 0.05 + 0 * angle])
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    origins, directions = np.repeat(start, len(rays), axis=0), np.tile(rays, (len(start), 1))
    before, after = bare.scene.cast(origins, directions), grown.scene.cast(origins, directions)
    assert not (before.kind == Surface.LEAF).any()
    # Leaves shorten ranges and never lengthen them, except leaves of shrubs that reach into the
    # plinth of a wall.
    farther = after.distance > before.distance + 1e-3
    assert farther.mean() < 1e-4
    assert (after.kind[farther] == Surface.LEAF).all()
    stopped = after.kind == Surface.LEAF
    assert 0.02 < stopped.mean() < 0.6
    same = ~stopped & np.isfinite(before.distance)
    assert np.abs(after.distance[same] - before.distance[same]).max() < 1e-3


# --- Returns --------------------------------------------------------------------------------------


def flat_hits(distance: Array, kind: int = Surface.GROUND) -> Hits:
    ones = np.ones(len(distance), np.float32)
    return Hits(distance.astype(np.float32), np.full(len(distance), kind, np.uint8), ones, ones)


QUIET = LidarNoise(range_m=0, slant=0, beam_m=0, dropout=0, weak=False, crown_m=0, mixed=0, glass=0)


def test_beams_over_an_edge_return_a_range_between_both_surfaces() -> None:
    lidar = lidars_of("robotcar")[0]
    distance = np.where(np.arange(5410) % 20 < 10, 10.0, 11.0)
    far = np.where(np.arange(5410) % 20 < 10, 10.0, 14.0)
    rng = np.random.default_rng(0)
    always = QUIET.model_copy(update={"mixed": 1.0})
    measured, visible = measure(flat_hits(distance), lidar, always, rng)
    assert visible.all()
    mixed = (measured > 10.001) & (measured < 10.999)
    edge = distance[1:] != distance[:-1]
    within = np.arange(5409) % 541 != 540  # the last beam of a scan has no next beam
    assert mixed[:-1][~edge | ~within].sum() == 0
    assert mixed[:-1][edge & within].mean() > 0.98
    # Surfaces two metres or more apart give two returns, of which one is reported.
    assert np.isin(measure(flat_hits(far), lidar, always, rng)[0], (10, 14)).all()
    assert np.isin(measure(flat_hits(distance), lidar, QUIET, rng)[0], (10, 11)).all()


def test_ranges_to_slanted_surfaces_are_noisier() -> None:
    lidar = lidars_of("robotcar")[0]
    count = 20_000
    noise = QUIET.model_copy(update={"slant": 0.001})
    for distance, degrees in ((10.0, 0.0), (20.0, 60.0), (40.0, 45.0)):
        hits = flat_hits(np.full(count, distance))
        slanted = replace(hits, cosine=np.full(count, np.cos(np.radians(degrees)), np.float32))
        measured, _ = measure(slanted, lidar, noise, np.random.default_rng(0))
        expected = 0.001 * distance * np.tan(np.radians(degrees))
        assert (measured - distance).std() == pytest.approx(expected, rel=0.03, abs=1e-5)


def test_each_beam_has_a_constant_error() -> None:
    (lidar,) = lidars_of("hdl64")
    hits = flat_hits(np.full(2 * len(lidar.directions), 20.0))
    noise = QUIET.model_copy(update={"beam_m": 0.02})
    first = measure(hits, lidar, noise, np.random.default_rng(0))[0].reshape(-1, 64)
    again = measure(hits, lidar, noise, np.random.default_rng(1))[0].reshape(-1, 64)
    assert (first == first[0]).all()
    assert (first == again).all()
    assert (first[0] - 20).std() == pytest.approx(0.02, rel=0.3)
