"""Words as a prior: the search near streets and buildings that are named."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch

import maptile_loc as ml
from data_prep.city.folder import City, CitySettings, open_city, prepare_city
from data_prep.city.names import named_area
from data_prep.errors import MaptileError
from data_prep.osm.footprints import read_osm
from data_prep.osm.source import OsmSource
from maptile_loc.search.engine.area import Area, searched_area

STREETS = {
    "Banbury Road": 0.0,
    "Parks Road": 100.0,
    "Saint-Émile Street": 200.0,
    "North Parade": 300.0,
    "South Parade": 390.0,
}
"""Streets from south to north, by their metres east of the first; a lane crosses them all."""


def write_map(path: Path, names: bool = True) -> None:
    """A small map in EPSG:32630: parallel streets, a lane across them, named buildings."""
    rows = []
    for name, east in STREETS.items():
        line = shapely.LineString([(620000 + east, 5735000), (620000 + east, 5735400)])
        rows.append({"name": name, "highway": "residential", "building": None, "geometry": line})
    lane = shapely.LineString([(620000, 5735200), (620390, 5735200)])
    rows.append({"name": "Cross Lane", "highway": "service", "building": None, "geometry": lane})
    square = shapely.box(620330, 5735250, 620360, 5735280)
    rows.append({"name": "Market Square", "place": "square", "building": None, "geometry": square})
    rng = np.random.default_rng(0)
    for number in range(60):
        x, y = 620010 + 60 * (number % 6) + rng.uniform(0, 20), 5735010 + 38 * (number // 6)
        box = shapely.box(x, y, x + rng.uniform(8, 25), y + rng.uniform(8, 25))
        name = "Keble College" if number == 20 else None
        rows.append({"name": name, "highway": None, "building": "yes", "geometry": box})
    table = gpd.GeoDataFrame(rows, crs="EPSG:32630").to_crs("EPSG:4326")
    (table if names else table.drop(columns="name")).to_file(path)


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> City:
    folder = tmp_path_factory.mktemp("near")
    write_map(folder / "map.geojson")
    return prepare_city(OsmSource(path=folder / "map.geojson"), folder / "city", CitySettings())


def bounds(area: shapely.Geometry) -> np.ndarray:
    return np.array(area.bounds) - [620000, 5735000, 620000, 5735000]


def test_names_travel_in_the_tables(city: City) -> None:
    assert set(city.roads()["name"]) == {*STREETS, "Cross Lane"}
    assert (city.buildings()["name"] != "").sum() == 1


@pytest.mark.parametrize("text", ["Banbury Road", "banbury  road", "BANBURY-ROAD", "banbury"])
def test_a_name_is_found_as_people_write_it(city: City, text: str) -> None:
    np.testing.assert_allclose(bounds(named_area(city, [text], 30.0)), [-30, -30, 30, 430], atol=1)


def test_accents_do_not_matter(city: City) -> None:
    expected = bounds(named_area(city, ["Saint-Émile Street"], 10.0))
    np.testing.assert_array_equal(bounds(named_area(city, ["saint emile street"], 10.0)), expected)


def test_a_building_is_found(city: City) -> None:
    college = city.buildings().set_index("name").geometry["Keble College"]
    area = named_area(city, ["keble"], 50.0)
    assert area.area == pytest.approx(college.buffer(50).area, rel=1e-6)


def test_a_square_is_found_and_kept_in_the_city(city: City) -> None:
    square = shapely.box(620330, 5735250, 620360, 5735280)
    assert open_city(city.folder).squares()["name"].tolist() == ["Market Square"]
    area = named_area(city, ["market square"], 20.0)
    assert area.symmetric_difference(square.buffer(20)).area < 20  # degrees and back


def test_squares_of_an_osm_file_are_read(tmp_path: Path) -> None:
    corners = [(51.75, -1.25), (51.75, -1.249), (51.7506, -1.249), (51.7506, -1.25)]
    nodes = "".join(f'<node id="{i}" lat="{a}" lon="{o}"/>' for i, (a, o) in enumerate(corners, 1))
    ring = "".join(f'<nd ref="{number}"/>' for number in (1, 2, 3, 4, 1))

    def way(number: int, *tags: tuple[str, str]) -> str:
        inner = "".join(f'<tag k="{key}" v="{value}"/>' for key, value in tags)
        return f'<way id="{number}">{ring}{inner}</way>'

    ways = [
        way(1, ("building", "yes")),
        way(2, ("highway", "pedestrian"), ("area", "yes"), ("name", "Broad Plaza")),
        way(3, ("place", "square"), ("name", "Old Square")),
        way(4, ("place", "square")),
        way(5, ("place", "locality"), ("name", "Nowhere")),
    ]
    text = f'<osm version="0.6">{nodes}{"".join(ways)}</osm>'
    (tmp_path / "map.osm").write_text(text, encoding="utf-8")
    data = read_osm(OsmSource(path=tmp_path / "map.osm"))
    assert data.squares["name"].tolist() == ["Broad Plaza", "Old Square"]
    assert data.roads.empty
    assert data.squares.area.iloc[0] == pytest.approx(data.buildings.area.iloc[0], rel=1e-6)


def test_several_names_are_one_or_the_other_and_joined_ones_are_both(city: City) -> None:
    one, other = (named_area(city, [name], 60.0) for name in ("Banbury Road", "Parks Road"))
    either = named_area(city, ["Banbury Road", "Parks Road"], 60.0)
    both = named_area(city, ["Banbury Road & Parks Road"], 60.0)
    assert either.area == pytest.approx(one.union(other).area)
    assert both.area == pytest.approx(one.intersection(other).area)
    assert both.area > 0
    with pytest.raises(MaptileError, match="nothing is within 60 m of all of them"):
        named_area(city, ["Banbury Road & South Parade"], 60.0)


def test_an_unknown_name_is_answered_with_the_most_similar_ones(city: City) -> None:
    with pytest.raises(MaptileError, match=r"'Banbery Rd': nothing .* Banbury Road"):
        named_area(city, ["Banbery Rd"], 50.0)
    with pytest.raises(MaptileError, match=r"that name$"):
        named_area(city, ["Xyzzy"], 50.0)
    with pytest.raises(MaptileError, match=r"that name$"):
        named_area(city, [" - "], 50.0)


def test_an_ambiguous_name_is_answered_with_what_has_it(city: City) -> None:
    with pytest.raises(MaptileError, match="2 names have it, such as North Parade, South Parade"):
        named_area(city, ["parade"], 50.0)


def test_a_city_without_names_is_refused_with_the_remedy(city: City, tmp_path: Path) -> None:
    write_map(tmp_path / "map.geojson", names=False)
    source = OsmSource(path=tmp_path / "map.geojson")
    unnamed = prepare_city(source, tmp_path / "city", CitySettings())
    with pytest.raises(MaptileError, match="no street, square or building has a name"):
        named_area(unnamed, ["Banbury Road"], 50.0)
    for file in ("roads.parquet", "buildings.parquet"):  # as cities were made before
        path = tmp_path / "city" / file
        gpd.read_parquet(path).drop(columns="name").to_parquet(path)
    with pytest.raises(MaptileError, match="made without names; prepare it again"):
        named_area(unnamed, ["Banbury Road"], 50.0)


def test_a_circle_and_a_name_are_both_kept(city: City) -> None:
    centre = 620000.0, 5735100.0
    latitude, longitude = city.raster.projection.inverse(np.array(centre))
    area = searched_area(city, (float(latitude), float(longitude), 80.0), ["Banbury Road"], 40.0)
    assert area is not None
    disc, street = Area.disc(*centre, 80.0).shape, named_area(city, ["Banbury Road"], 40.0)
    assert area.shape.area == pytest.approx(disc.intersection(street).area, rel=1e-6)
    with pytest.raises(MaptileError, match="--near and --prior"):
        searched_area(city, (float(latitude), float(longitude), 80.0), ["South Parade"], 40.0)
    assert searched_area(city, None, [], 40.0) is None


def test_starts_outside_are_left_out_and_the_best_is_moved_in_if_all_are() -> None:
    area = Area.disc(0.0, 0.0, 10.0)
    starts = np.array([[30.0, 0.0, 0.1], [5.0, 0.0, 0.2], [-9.0, 0.0, 0.3]])
    np.testing.assert_array_equal(area.drawn_in(starts), starts[1:])
    np.testing.assert_allclose(area.drawn_in(starts[:1]), [[10.0, 0.0, 0.1]], atol=1e-2)


def test_every_method_answers_near_what_is_named(
    tmp_path: Path, city: City, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drive along one street is found there, by each method; beside another, it is not."""
    torch.manual_seed(0)
    tiny = ["training.steps=2", "training.epoch_steps=2", "data.batch_tuples=2", "data.workers=0"]
    tiny += ["data.validation_tuples=2", "network.width=8", "network.features=16"]
    assert city.folder is not None
    drive = ml.simulate(city, tmp_path / "drive", sensor="hdl64", length_m=60.0, seed=1)
    for config in ("cells", "retrieval", "mapnet"):
        ml.train(city, config=config, overrides=[*tiny, f"name={config}"])
    area = named_area(city, ["Cross Lane"], 75.0)
    for method in ("match", "cells", "retrieval", "mapnet", "cells+retrieval"):
        found = ml.localize(city, drive, method=method, near=["cross lane"], every_m=30.0)
        kept = found.candidates[..., :2].reshape(-1, 2)
        kept = kept[np.isfinite(kept).all(1)]
        assert len(kept)
        # Alignment may move a candidate by some metres.
        assert shapely.contains_xy(area.buffer(5.0), *kept.T).all(), method
        assert found.search_area_km2 <= area.area / 1e6 + 1e-9, method
