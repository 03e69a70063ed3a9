"""Look-alikes have a low distinctiveness, unique positions a high one; and the files."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from made import UTM
from matplotlib import image
from small_city import small_city

from data_prep.city.folder import City, open_city
from data_prep.city.raster import BUILDING, ROAD, MapRaster
from data_prep.errors import MaptileError
from maptile_loc import cli
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.render.vector_map import vector_map
from maptile_loc.report.city import unfinished
from maptile_loc.report.city.city_report import (
    DISTRICT_M,
    TOLD_APART,
    ReportOptions,
    distinct_settings,
    district_table,
    pick_pairs,
    place_table,
)
from maptile_loc.report.city.distinctiveness import Distinctiveness, judge, measure
from maptile_loc.report.city.road_views import (
    DistinctSettings,
    RoadPositions,
    query_view,
    render_views,
    sample_positions,
)
from maptile_loc.types import Candidates

RECIPE = LocalizeSettings()
VIEW = query_view("robotcar", 20.0)
FEW = DistinctSettings(draws=1, worlds=1, most_places=12, view=VIEW)
WEST, NORTH, RESOLUTION = 620_000.0, 5_736_000.0, 0.5


def bare_city(raster: MapRaster) -> City:
    reference = raster.centre
    return City(None, "made", raster, reference, "made", None, ())


@pytest.fixture(scope="module")
def street() -> City:
    """A street 400 m long: 200 m of equal houses, then 200 m of which no two are alike."""
    rng = np.random.default_rng(0)
    data = np.zeros((3, 400, 960), np.uint8)
    data[ROAD, 196:204, 40:920] = 255
    for column in range(60, 460, 40):
        for top in (170, 210):
            data[BUILDING, top : top + 20, column : column + 20] = 255
    column = 480
    while column < 880:
        width, gap, back = rng.integers(12, 44), rng.integers(6, 24), rng.integers(0, 24, 2)
        data[BUILDING, 165 - back[0] : 190 - back[0], column : column + width] = 255
        data[BUILDING, 210 + back[1] : 230 + back[1], column + 8 : column + width] = 255
        column += width + gap
    return bare_city(MapRaster(data, WEST, NORTH, RESOLUTION, UTM))


@pytest.fixture(scope="module")
def on_street(street: City) -> Distinctiveness:
    settings = FEW.model_copy(update={"most_places": 30})
    return measure(street, settings, RECIPE)


def test_equal_houses_are_less_distinctive_than_unique_ones(
    street: City, on_street: Distinctiveness
) -> None:
    places = place_table(street, on_street)
    metres = places["east"] - WEST
    alike = places[(metres > 60) & (metres < 200)]
    unlike = places[(metres > 270) & (metres < 420)]
    assert min(len(alike), len(unlike)) >= 4
    assert alike["distinctiveness"].mean() < 0.6
    assert unlike["distinctiveness"].mean() > alike["distinctiveness"].mean() + 0.3
    assert unlike["expected_recall"].mean() > alike["expected_recall"].mean()
    # The houses repeat every 20 m, and so do their look-alikes.
    gaps = (alike["alike_east"] - alike["east"]).abs()
    assert (gaps[alike["alike_probability"] > 0.2] > 5).all()


def test_moving_the_map_moves_the_positions(street: City, on_street: Distinctiveness) -> None:
    by = np.array([2048.0, -1024.0])
    raster = replace(street.raster, west=WEST + by[0], north=NORTH + by[1])
    settings = FEW.model_copy(update={"most_places": 30})
    moved = measure(bare_city(raster), settings, RECIPE)
    np.testing.assert_allclose(moved.spots.xy - by, on_street.spots.xy, atol=1e-6)
    np.testing.assert_allclose(moved.alike - by, on_street.alike, atol=1e-6)
    np.testing.assert_allclose(moved.probability, on_street.probability, atol=1e-6)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    return small_city(tmp_path_factory.mktemp("data"))


def test_the_same_seed_gives_the_same_and_another_one_another(city: City) -> None:
    settings = FEW.model_copy(update={"most_places": 5})
    one, same = (measure(city, settings, RECIPE) for _ in range(2))
    np.testing.assert_array_equal(one.probability, same.probability)
    np.testing.assert_array_equal(one.true, same.true)
    np.testing.assert_array_equal(one.alike, same.alike)
    np.testing.assert_array_equal(one.walls, same.walls)
    other = measure(city, settings.model_copy(update={"seed": 1}), RECIPE)
    assert not np.array_equal(one.true, other.true)


def test_positions_are_on_roads_inside_the_margin_and_represent_all_of_them(city: City) -> None:
    ground = vector_map(city)
    every = sample_positions(ground, city, FEW.model_copy(update={"most_places": 10_000}))
    assert city.raster.inside(every.xy, 30.0).all()
    roads = city.roads().geometry.union_all()
    distance = gpd.GeoSeries.from_xy(*every.xy.T, crs=city.raster.crs).distance(roads)
    assert distance.max() < 0.01
    middle = ground.roads.middle() + city.reference
    inside = city.raster.inside(middle, 30.0)
    total = ground.weights.double().numpy()[: len(middle)][inside].sum()
    assert every.metres.sum() == pytest.approx(total)
    assert total / 20 * 0.5 < len(every.piece) < total / 20 * 2
    some = sample_positions(ground, city, FEW)
    assert len(some.piece) == 12
    assert some.metres.sum() == pytest.approx(total)
    for view in render_views(ground, city, some, 0, FEW):
        assert np.linalg.norm(view.position - some.xy[view.number]) < 5
        length = np.linalg.norm(np.diff(view.tile.path, axis=0), axis=1).sum()
        assert length == pytest.approx(20, abs=0.5)
        assert np.abs(view.tile.path[len(view.tile.path) // 2]).max() < 1e-3


def test_candidates_near_the_truth_count_and_the_best_other_is_the_look_alike() -> None:
    poses = np.array([[50.0, 0, 0], [3.0, 0, 0], [0.0, 4.5, 0], [80.0, 0, 0]])
    log_scores = np.log([0.3, 0.2, 0.2, 0.1])  # the rest is the probability of being nowhere
    verdict = judge(Candidates(poses, log_scores), np.zeros(2), 5.0)
    assert verdict.probability == pytest.approx(0.5)
    assert verdict.alike_probability == pytest.approx(0.375)
    np.testing.assert_allclose(verdict.alike, [50, 0])
    assert not verdict.hit
    alone = judge(Candidates(poses[1:2], log_scores[1:2]), np.zeros(2), 5.0)
    assert (alone.probability, alone.hit, alone.alike_probability) == (1.0, True, 0.0)
    assert np.isnan(alone.alike).all()


def made(probability: list[float], hit: list[bool], at: list[list[float]]) -> Distinctiveness:
    count = len(hit)
    xy = np.array(at, np.float64)
    return Distinctiveness(
        RoadPositions(np.arange(count), np.full(count, 10.0), xy),
        xy[:, None],
        np.array(probability)[:, None],
        np.array(hit)[:, None],
        xy[:, None] + [200.0, 0.0],
        1 - np.array(probability)[:, None],
        np.zeros((count, 1, 16, 2), np.uint8),
    )


def test_expected_recall_is_the_share_of_hits_at_similar_probability() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 1, 2000)
    hit = rng.random(2000) < probability**2
    found = made(probability.tolist(), hit.tolist(), [[0.0, 0.0]] * 2000)
    expected = found.expected_recall()
    middle = (probability > 0.1) & (probability < 0.9)
    assert np.abs(expected - probability**2)[middle].mean() < 0.05
    assert expected.mean() == pytest.approx(hit.mean(), abs=0.02)


def test_districts_hold_the_means_of_their_positions() -> None:
    places = pd.DataFrame(
        {
            "east": [10.0, 240.0, 260.0],
            "north": [-10.0, -240.0, -10.0],
            "road_m": [10.0, 30.0, 5.0],
            "expected_recall": [1.0, 0.0, 0.5],
            "distinctiveness": [0.8, 0.4, 0.5],
        }
    )
    table = district_table(places)
    assert table[["west", "south", "size_m"]].to_numpy().tolist() == [
        [0.0, -250.0, 250.0],
        [250.0, -250.0, 250.0],
    ]
    assert table["places"].tolist() == [2, 1]
    assert table["road_m"].tolist() == [40.0, 5.0]
    assert table["expected_recall"].tolist() == [0.5, 0.5]
    assert table["distinctiveness"].tolist() == pytest.approx([0.6, 0.5])


def test_pairs_are_the_most_probable_look_alikes_at_a_distance_from_each_other(city: City) -> None:
    at = [[0.0, 0.0], [20.0, 0.0], [0.0, 900.0], [900.0, 0.0], [0.0, 1800.0]]
    found = made([0.1, 0.05, 0.4, 0.3, 0.99], [False] * 5, (np.array(at) + city.reference).tolist())
    pairs = pick_pairs(found, place_table(city, found), FEW)
    places = [(pair.position - city.reference).round().tolist() for pair in pairs]
    assert places == [[20.0, 0.0], [900.0, 0.0], [0.0, 900.0]]
    assert [pair.probability for pair in pairs] == pytest.approx([0.95, 0.7, 0.6])


@pytest.fixture
def maptile(monkeypatch, capsys):
    """Run the command in this process: (exit status, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["maptile", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        return stopped.value.code or 0, printed.out, printed.err

    return run


def test_the_command_writes_files_that_others_can_open(maptile, city: City) -> None:
    assert city.folder is not None
    status, printed, _ = maptile("city-report", city.folder, "--places", 6, "--submap", 10)
    out = city.folder / "report"
    assert status == 0
    assert f"{out}: 6 positions on " in printed
    places = gpd.read_file(out / "places.geojson")
    assert len(places) == 6
    assert places.crs.to_epsg() == 4326
    here = places.to_crs(city.raster.crs).geometry
    np.testing.assert_allclose(here.x, places["east"], atol=0.01)
    assert places["distinctiveness"].between(0, 1).all()
    assert places["expected_recall"].between(0, 1).all()
    districts = pd.read_csv(out / "districts.csv")
    assert districts["places"].sum() == 6
    assert (districts["size_m"] == DISTRICT_M).all()
    report = json.loads((out / "report.json").read_text())
    assert report["attribution"] == "(c) OpenStreetMap contributors, ODbL"
    assert report["city_content_hash"] == city.content_hash
    road, distinct = places["road_m"], places["distinctiveness"]
    share = road[distinct >= TOLD_APART].sum() / road.sum()
    assert report["told_apart"] == pytest.approx(share, abs=0.01)
    assert report["settings"]["view"]["travel_m"] == 10.0
    assert image.imread(out / "map.png").shape[0] > 500
    open_city(city.folder)


def test_a_raster_alone_is_enough(maptile, street: City, tmp_path: Path) -> None:
    street.raster.write(tmp_path / "street.tif")
    status, _, error = maptile("city-report", tmp_path / "street.tif")
    assert status == 2
    assert error.startswith(f"error: {tmp_path / 'street.tif'}: a raster is not a folder;")
    assert error.count("\n") == 1
    assert "--out" in error
    out = tmp_path / "out"
    status, _, _ = maptile(
        "city-report", tmp_path / "street.tif", "--out", out, "--places", 4, "--sensor", "hdl64"
    )
    assert status == 0
    assert len(gpd.read_file(out / "places.geojson")) == 4


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sensor": "sonar"}, "--sensor sonar: there are robotcar, hdl64"),
        ({"submap_m": 500.0}, "0 to 120"),
        ({"places": 0}, "--places has to be 1 or more"),
    ],
)
def test_wrong_values_are_one_line(options, says) -> None:
    with pytest.raises(MaptileError, match=says) as error:
        distinct_settings(ReportOptions(Path("city"), **options))
    assert "\n" not in str(error.value)


def test_a_wrong_value_on_the_command_line_is_one_line(maptile, city: City) -> None:
    status, _, error = maptile("city-report", city.folder, "--submap", "500")
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_city_without_roads_is_one_line(maptile, street: City, tmp_path: Path) -> None:
    data = street.raster.data.copy()
    data[ROAD] = 0
    replace(street.raster, data=data).write(tmp_path / "houses.tif")
    status, _, error = maptile("city-report", tmp_path / "houses.tif", "--out", tmp_path / "out")
    assert status == 2
    assert error.count("\n") == 1
    assert "no roads" in error


def test_roads_at_the_edge_give_no_positions(street: City) -> None:
    settings = FEW.model_copy(update={"margin_m": 99.0})
    data = street.raster.data.copy()
    data[ROAD] = np.roll(data[ROAD], 120, axis=0)
    city = bare_city(replace(street.raster, data=data))
    with pytest.raises(MaptileError, match="no roads 99 m or more inside the map"):
        sample_positions(vector_map(city), city, settings)


@pytest.mark.parametrize("arguments", [["--help"], ["city-report", "--help"]])
def test_help_names_it_without_heavy_imports(arguments: list[str]) -> None:
    import subprocess

    script = (
        "import sys; from maptile_loc import cli\n"
        f"sys.argv = ['maptile', *{arguments!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "city-report" in done.stdout


@pytest.mark.parametrize("killed", [False, True])
def test_an_interrupted_measurement_goes_on(
    city: City, tmp_path: Path, killed, monkeypatch
) -> None:
    settings, path = FEW.model_copy(update={"most_places": 6}), tmp_path / "unfinished.npz"
    whole = measure(city, settings, RECIPE)
    if killed:  # nothing is kept at the end, only in between
        monkeypatch.setattr(unfinished, "KEEP_EVERY_S", 0.0)

    def stop(_: str, done: int, total: int) -> None:
        if done == 3:
            raise RuntimeError if killed else KeyboardInterrupt

    with pytest.raises((RuntimeError, KeyboardInterrupt)):
        measure(city, settings, RECIPE, progress=stop, unfinished=path)
    steps: list[int] = []
    resumed = measure(
        city, settings, RECIPE, progress=lambda *now: steps.append(now[1]), unfinished=path
    )
    assert steps[0] == (2 if killed else 3)
    for name, values in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], values)
    other = settings.model_copy(update={"seed": 1})
    measure(city, other, RECIPE, progress=lambda *now: steps.append(-now[1]), unfinished=path)
    assert 0 in steps[1:]  # another seed begins again
