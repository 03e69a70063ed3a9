"""Maps as neighbouring tools write them: read as they mean it, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely

from data_prep.errors import MaptileError
from data_prep.osm import vectors
from data_prep.osm.footprints import OsmData, read_osm
from data_prep.osm.source import OsmSource

HOUSES = [shapely.box(0.001 * k, 0, 0.001 * k + 0.0003, 0.0002) for k in range(4)]
STREETS = [shapely.LineString([(0, 0.001 * k), (0.003, 0.001 * k)]) for k in range(1, 5)]


def write(path: Path, columns: dict[str, list[Any]], crs: str | None = "EPSG:4326") -> OsmData:
    """A file of the houses, then the streets, with these columns; and what is read from it."""
    shapes = [*HOUSES, *STREETS]
    table = gpd.GeoDataFrame(columns, geometry=shapes[: len(next(iter(columns.values())))], crs=crs)
    if path.suffix == ".geojson":
        path.write_text(table.to_json(), encoding="utf-8")
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_file(path)
    return read_osm(OsmSource(path=path))


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".parquet"])
@pytest.mark.parametrize(
    ("yes", "no"),
    [(True, False), (1, 0), ("true", "false"), ("1", "0"), ("yes", "no")],
    ids=["bool", "number", "text", "digit", "osm"],
)
def test_truth_values_are_tags(tmp_path: Path, suffix: str, yes: Any, no: Any) -> None:
    columns = {
        "building": [yes, yes, no, yes, no, no, no, no],
        "highway": [None] * 4 + ["residential"] * 4,
        "tunnel": [no] * 7 + [yes],
    }
    data = write(tmp_path / f"map{suffix}", columns)
    assert (len(data.buildings), len(data.roads)) == (3, 3)


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".parquet"])
def test_of_several_values_the_first_that_fits_counts(tmp_path: Path, suffix: str) -> None:
    highway: list[Any] = [["residential", "living_street"], ["proposed", "service"], ["primary"]]
    lanes: list[Any] = [["2", "3"], [], ["4"]]
    if suffix == ".gpkg":  # as osmnx writes lists into files that have none
        highway, lanes = [str(one) for one in highway], [str(one) for one in lanes]
    columns = {
        "building": ["yes"] * 4 + [None] * 3,
        "highway": [None] * 4 + highway,
        "lanes": [None] * 4 + lanes,
    }
    roads = write(tmp_path / f"map{suffix}", columns).roads
    assert roads["highway"].tolist() == ["residential", "service", "primary"]
    np.testing.assert_allclose(roads["width"], [6.4, 4.0, 12.8])


@pytest.mark.parametrize("as_text", [False, True])
def test_tags_may_be_in_one_column(tmp_path: Path, as_text: bool) -> None:
    tags: list[Any] = [{"building": "house", "height": "9"}] * 3 + [{"landuse": "grass"}]
    tags += [{"highway": "service", "name": "Lane"}, {"railway": "rail"}]
    if as_text:
        tags = [json.dumps(one) for one in tags]
    data = write(tmp_path / "map.geojson", {"tags": tags})
    assert (len(data.buildings), data.roads["name"].tolist()) == (3, ["Lane"])
    assert data.buildings["height"].tolist() == [9.0] * 3


def test_geofabriks_layers_are_read(tmp_path: Path) -> None:
    file = tmp_path / "free.gpkg"
    houses = gpd.GeoDataFrame(
        {"fclass": ["building"] * 4, "type": ["house", None, "roof", "school"]},
        geometry=HOUSES,
        crs="EPSG:4326",
    )
    streets = gpd.GeoDataFrame(
        {
            "fclass": ["residential", "track_grade2", "primary", "service"],
            "layer": [0, 0, -1, 0],
            "tunnel": ["F", "F", "T", "F"],
            "name": ["A", "B", "C", "D"],
        },
        geometry=STREETS,
        crs="EPSG:4326",
    )
    houses.to_file(file, layer="gis_osm_buildings_a_free", driver="GPKG")
    streets.to_file(file, layer="gis_osm_roads_free", driver="GPKG")
    data = read_osm(OsmSource(path=file))
    assert (len(data.buildings), data.roads["highway"].tolist()) == (
        3,
        ["residential", "track", "service"],
    )


def test_null_flags_of_overture_are_none(tmp_path: Path) -> None:
    flags: list[Any] = [[{"values": ["is_tunnel"], "between": None}], None, None]
    columns = {
        "class": [None] * 4 + ["residential", "service", "primary"],
        "subtype": [None] * 4 + ["road"] * 3,
        "road_flags": [None] * 4 + flags,
    }
    for suffix in (".geojson", ".parquet"):
        data = write(tmp_path / f"map{suffix}", columns)
        assert data.roads["highway"].tolist() == ["service", "primary"]


NOT_TAGS = [None, "", "None", "nan", "NULL", "<NA>", float("nan")]
"""How programs write that there is no value."""


@pytest.mark.parametrize("nothing", NOT_TAGS, ids=str)
def test_words_for_nothing_are_no_tags(tmp_path: Path, nothing: Any) -> None:
    columns = {"building": ["yes", "house", nothing, nothing], "tunnel": [nothing] * 4}
    assert len(write(tmp_path / "map.parquet", columns).buildings) == 2


@pytest.mark.parametrize("no", ["No", "FALSE", "n", "F", "0.0"])
def test_no_is_no_in_any_writing(tmp_path: Path, no: Any) -> None:
    columns = {"Building": ["Yes", "yes", no, no], "TUNNEL": [no] * 4}
    assert len(write(tmp_path / "map.parquet", columns).buildings) == 2


TAGS = {"building": "house", "height": "9", "name": 'The "Inn"'}
HSTORE = '"building"=>"house", "height"=>"9", "ele"=>NULL, "name"=>"The \\"Inn\\""'
PAIRS = [{"key": key, "value": value} for key, value in TAGS.items()]


@pytest.mark.parametrize("column", ["tags", "@tags", "hstore", "other_tags", "all_tags"])
@pytest.mark.parametrize(
    "written",
    [json.dumps(TAGS), str(TAGS), HSTORE, [*map(list, TAGS.items())], PAIRS, TAGS],
    ids=["json", "python", "hstore", "pairs", "entries", "object"],
)
def test_tags_in_one_column_may_have_any_form(tmp_path: Path, column: str, written: Any) -> None:
    data = write(tmp_path / "map.geojson", {column: [written, written, "", None]})
    assert data.buildings["height"].tolist() == [9.0, 9.0]
    assert data.buildings["name"].tolist() == ['The "Inn"'] * 2


def test_areas_of_other_things_are_no_buildings(tmp_path: Path) -> None:
    data = write(tmp_path / "a.gpkg", {"landuse": [None, "grass", None, None]})
    assert len(data.buildings) == 3
    prefixed = {
        "demolished:building": [None, "yes", None, None],
        "was_building": ["x", *[None] * 3],
    }
    assert len(write(tmp_path / "b.geojson", prefixed).buildings) == 2
    layer = {"fclass": ["building", "forest", "park", "building"]}
    assert len(write(tmp_path / "c.gpkg", layer).buildings) == 2
    themes = {"theme": ["buildings", "base", "base", "buildings"]}
    assert len(write(tmp_path / "d.parquet", themes).buildings) == 2


def test_levels_of_overture_below_the_ground(tmp_path: Path) -> None:
    rules: list[Any] = [[{"value": -1, "between": None}], [{"value": 1, "between": None}], None]
    columns = {
        "class": [None] * 4 + ["service"] * 3,
        "subtype": [None] * 4 + ["road"] * 3,
        "level_rules": [None] * 4 + rules,
        "level": [None, -1, 1, None, None, None, None],
        "is_underground": [False, False, None, True, None, None, None],
    }
    for suffix in (".geojson", ".parquet"):
        data = write(tmp_path / f"map{suffix}", columns)
        assert (len(data.buildings), len(data.roads)) == (2, 2)


def test_lists_as_text_of_roads(tmp_path: Path) -> None:
    highway = ["residential;service", "construction|primary", "['path', 'steps']", "a,b"]
    columns = {"building": ["yes"] * 4 + [None] * 4, "highway": [None] * 4 + highway}
    roads = write(tmp_path / "map.gpkg", columns).roads
    assert roads["highway"].tolist() == ["residential", "primary", "path"]


def test_ids_of_any_type_name_their_objects(tmp_path: Path) -> None:
    columns = {"id": [["a", "b"], None, "3", "x"], "element": ["way", None, float("nan"), "way"]}
    data = write(tmp_path / "map.geojson", columns)
    assert data.buildings["osm_id"].tolist() == ["3", "row/1", "way/a", "way/x"]


def test_parts_of_collections_count_by_their_dimension(tmp_path: Path) -> None:
    street = STREETS[0]
    inner = shapely.GeometryCollection([HOUSES[1], HOUSES[2]])
    shapes = [
        shapely.GeometryCollection([HOUSES[0], street, inner]),
        shapely.force_3d(HOUSES[3], 5.0),
        shapely.GeometryCollection(),
        shapely.Point(0, 0),
        shapely.GeometryCollection([street, shapely.Point(0, 0)]),
    ]
    columns = {"building": ["yes"] * 4 + [None], "highway": [None] * 4 + ["service"]}
    table = gpd.GeoDataFrame(columns, geometry=shapes, crs="EPSG:4326")
    for suffix in ("geojson", "parquet", "gpkg"):
        path = tmp_path / f"a.{suffix}"
        table.to_parquet(path) if suffix == "parquet" else table.to_file(path)
        data = read_osm(OsmSource(path=path))
        assert (len(data.buildings), len(data.roads)) == (2, 1)
        expected = gpd.GeoSeries(HOUSES, crs="EPSG:4326").to_crs(data.crs).area.sum()
        assert data.buildings.area.sum() == pytest.approx(expected)
        assert not data.buildings.has_z.any()


METRES = 111_000.0


@pytest.mark.parametrize(
    ("scale", "swap", "crs", "says"),
    [
        (METRES, False, None, "no degrees"),  # GeoJSON without a CRS means degrees
        (1.0, False, "EPSG:3857", "look like degrees"),
        (120.0, True, None, "swapped"),
    ],
)
def test_coordinates_that_contradict_their_system_are_refused(
    tmp_path: Path, scale: float, swap: bool, crs: str | None, says: str
) -> None:
    features = []
    for house in HOUSES:
        xy = scale * (shapely.get_coordinates(house) + [8.0, 1.0])
        ring = (xy[:, ::-1] if swap else xy).tolist()
        shape = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": shape, "properties": {"building": "yes"}})
    content: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if crs:
        content["crs"] = {"type": "name", "properties": {"name": crs}}
    (tmp_path / "map.geojson").write_text(json.dumps(content))
    with pytest.raises(MaptileError, match=says) as error:
        read_osm(OsmSource(path=tmp_path / "map.geojson"))
    assert "\n" not in str(error.value)


def test_local_metres_near_the_origin_are_metres(tmp_path: Path) -> None:
    """Small coordinates are no degrees where the buildings have the size of buildings."""
    local = "+proj=tmerc +lat_0=50 +lon_0=8 +type=crs"
    shapes = [shapely.box(20 * k, 0, 20 * k + 10, 10) for k in range(4)]
    table = gpd.GeoDataFrame({"building": ["yes"] * 4}, geometry=shapes, crs=local)
    table.to_parquet(tmp_path / "a.parquet")
    data = read_osm(OsmSource(path=tmp_path / "a.parquet"))
    assert data.buildings.area.tolist() == pytest.approx([100] * 4, rel=2e-3)
    table.set_crs("EPSG:4326", allow_override=True).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(MaptileError, match="no degrees"):
        read_osm(OsmSource(path=tmp_path / "b.parquet"))


@pytest.mark.parametrize("swap", [False, True])
def test_walls_betray_swapped_axes(tmp_path: Path, swap: bool) -> None:
    """Right angles of houses in any direction are none after the exchange."""
    shapes = []
    for k in range(12):
        house = shapely.affinity.rotate(shapely.box(0, 0, 20, 10), 30 * k + 10)
        metres = shapely.get_coordinates(house) + [40 * k, 0]
        degrees = metres / METRES / [np.cos(np.radians(51)), 1] + [8, 51]
        shapes.append(shapely.Polygon(degrees[:, ::-1] if swap else degrees))
    table = gpd.GeoDataFrame({"building": ["yes"] * 12}, geometry=shapes, crs="EPSG:4326")
    table.to_file(tmp_path / "a.geojson", COORDINATE_PRECISION=9)
    notes = read_osm(OsmSource(path=tmp_path / "a.geojson")).notes
    assert any("swapped" in note for note in notes) is swap


@pytest.mark.parametrize(
    ("far", "says"),
    [
        (shapely.box(-1e-4, -1e-4, 0, 0), "row/4 lies furthest out, at latitude -0.00"),
        (shapely.box(8, 88, 8.001, 88.001), "row/4 lies furthest out, at latitude 88.00"),
    ],
)
def test_a_building_far_away_is_named(tmp_path: Path, far: shapely.Geometry, says: str) -> None:
    shapes = [shapely.affinity.translate(house, 8, 51) for house in HOUSES]
    table = gpd.GeoDataFrame({"building": ["yes"] * 5}, geometry=[*shapes, far], crs="EPSG:4326")
    table.to_file(tmp_path / "a.geojson")
    with pytest.raises(MaptileError, match=says):
        read_osm(OsmSource(path=tmp_path / "a.geojson"))


def test_a_city_of_no_area_is_an_error(tmp_path: Path) -> None:
    shapes = [shapely.box(8 + k, 51, 8 + k + 1e-7, 51 + 1e-7) for k in (0, 1e-3)]
    gpd.GeoDataFrame(geometry=shapes, crs="EPSG:4326").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(MaptileError, match="area of 0 m2"):
        read_osm(OsmSource(path=tmp_path / "a.parquet"))


def test_odd_heights_are_unknown_and_counted(tmp_path: Path) -> None:
    data = write(
        tmp_path / "a.geojson",
        {"height": ["-5", "3 storeys", 1e9, "12 M."], "building:levels": ["4", "x", "-1", "2"]},
    )
    assert data.buildings["height"].fillna(-1).tolist() == [12.0, -1, -1, 12.0]
    assert any(note.startswith("3 heights") for note in data.notes)


def test_an_outline_that_crosses_itself_everywhere_takes_no_time(tmp_path: Path) -> None:
    points = np.random.default_rng(0).random((3000, 2)) * 1e-3
    shapes = [*HOUSES[:3], shapely.Polygon(points)]
    gpd.GeoDataFrame(geometry=shapes, crs="EPSG:4326").to_parquet(tmp_path / "a.parquet")
    data = read_osm(OsmSource(path=tmp_path / "a.parquet"))
    assert data.dropped == {"buildings without an area": 1}


def test_files_with_too_many_rows_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "MAX_ROWS", 3)
    for suffix in (".geojson", ".parquet", ".gpkg"):
        with pytest.raises(MaptileError, match="more than 3 rows"):
            write(tmp_path / f"map{suffix}", {"building": ["yes"] * 4})


ODD = {
    "06-overture-geojson-segments/town.geojson": (11, 2),
    "06-overture-geojson-segments/town.parquet": (11, 2),
    "07-osmnx-list-attributes/lists.parquet": (12, 3),
    "07-osmnx-list-attributes/graph.gpkg": (12, 3),
    "08-gpkg-without-crs/metres_undefined_cartesian.gpkg": "save it with",
    "09-geojson-projected-no-crs/town_3857.geojson": "no degrees",
    "09-geojson-projected-no-crs/town_25832.geojson": "no degrees",
    "09-geojson-projected-no-crs/declared_3857_but_degrees.geojson": "look like degrees",
    "11-boolean-tag-columns/booleans.geojson": (11, 3),
    "11-boolean-tag-columns/booleans.parquet": (11, 3),
    "11-boolean-tag-columns/zero_one.gpkg": (11, 3),
    "12-geofabrik-free-layers/free.gpkg": (11, 2),
    "27-overpass-geom-and-json/export.geojson": (12, 1),
    "27-overpass-geom-and-json/export.json": (12, 1),
    "27-overpass-geom-and-json/export_json.osm": (12, 1),
    "27-overpass-geom-and-json/html.osm": "web page",
    "27-overpass-geom-and-json/lines.geojson": (12, 1),
    "27-overpass-geom-and-json/lines.geojsonl": (12, 1),
    "27-overpass-geom-and-json/null_features.geojson": (6, 1),
    "27-overpass-geom-and-json/three_d_with_crs.geojson": (12, 1),
    "27-overpass-geom-and-json/with_bom.geojson": (12, 1),
    "06-overture-geojson-segments/segments_only.geojson": "the buildings beside the roads",
    "06-overture-geojson-segments/plain_wkb_no_geo_metadata.parquet": "save it as GeoParquet",
    "39-geojson-duplicates-and-mixed-types/lanes_list.geojson": (12, None),
}
"""Files of the odd cases: how many buildings and roads they hold, or what is said of them."""


@pytest.mark.realdata
@pytest.mark.parametrize("name", ODD)
def test_odd_maps_are_read_as_they_mean_it(data_dir: Path, name: str) -> None:
    expected, source = ODD[name], OsmSource(path=data_dir / "odd" / name)
    if isinstance(expected, str):
        with pytest.raises(MaptileError, match=expected) as error:
            read_osm(source)
        assert "\n" not in str(error.value)
        return
    data = read_osm(source)
    assert len(data.buildings) == expected[0]
    if expected[1] is not None:
        assert len(data.roads) == expected[1]
