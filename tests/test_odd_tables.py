"""Tables of buildings and roads as programs export them: neighbours of the odd maps."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from data_prep.errors import MaptileError
from data_prep.osm.footprints import OsmData, read_osm
from data_prep.osm.source import OsmSource

HOUSES = [shapely.box(0.001 * k, 0, 0.001 * k + 0.0003, 0.0002) for k in range(6)]
STREETS = [shapely.LineString([(0, 0.001 * k), (0.003, 0.001 * k)]) for k in range(1, 5)]


def houses(count: int = 6, **columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=HOUSES[:count], crs="EPSG:4326")


def streets(count: int = 2, **columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=STREETS[:count], crs="EPSG:4326")


def together(*tables: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(pd.concat(tables, ignore_index=True), crs="EPSG:4326")


def read(path: Path) -> OsmData:
    return read_osm(OsmSource(path=path))


def geojson(path: Path, rows: list[tuple[shapely.Geometry, dict[str, Any]]]) -> OsmData:
    """A GeoJSON file whose objects have properties of their own, and what is read from it."""
    features = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(shape), "properties": about}
        for shape, about in rows
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return read(path)


STREET = (STREETS[0], {"highway": "residential"})


# --- Coordinates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        gpd.GeoDataFrame({"name": ["state"]}, geometry=[shapely.box(0, 0, 3, 3)], crs=4326),
        gpd.GeoDataFrame(
            {"route": ["bus"]}, geometry=[shapely.LineString([(0, 0), (1.5, 2)])], crs=4326
        ),
        gpd.GeoDataFrame({"name": ["survey"]}, geometry=[shapely.Point(4e5, 5e6)]),
    ],
    ids=["boundary", "route", "points without a system"],
)
def test_a_layer_of_something_else_does_not_count(tmp_path: Path, other: gpd.GeoDataFrame) -> None:
    file = tmp_path / "map.gpkg"
    houses(building=["yes"] * 6).to_file(file, layer="buildings")
    streets(highway=["residential"] * 2).to_file(file, layer="streets")
    with warnings.catch_warnings(action="ignore"):
        other.to_file(file, layer="other")
    data = read(file)
    assert (len(data.buildings), len(data.roads)) == (6, 2)


def test_a_stray_object_of_something_else_does_not_count(tmp_path: Path) -> None:
    rows = [(house, {"building": "yes"}) for house in HOUSES]
    stray = (shapely.Point(408.4, 49.0), {"name": "x"})
    assert len(geojson(tmp_path / "map.geojson", [*rows, stray, STREET]).buildings) == 6


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (shapely.box(408, 10, 408.001, 10.001), "the east of it is 408"),
        (shapely.box(-200, 10, -199.9, 10.001), "the west of it is -200"),
        (shapely.box(10, 95, 10.001, 95.001), "the north of it is 95"),
    ],
)
def test_the_axis_that_is_at_fault_is_named(
    tmp_path: Path, shape: shapely.Geometry, says: str
) -> None:
    with pytest.raises(MaptileError, match=says):
        geojson(tmp_path / "map.geojson", [(shape, {"building": "yes"}), STREET])


# --- Versions and rings --------------------------------------------------------------------------


def test_of_versions_in_a_table_the_newest_counts(tmp_path: Path) -> None:
    one, two = HOUSES[:2]
    rows = [
        (one, {"id": "way/1", "version": v, "visible": True, "building": "yes", "height": str(v)})
        for v in (3, 4, 12)
    ]
    rows += [
        (two, {"id": "way/2", "version": v, "visible": v < 2, "building": "yes"}) for v in (1, 2)
    ]
    data = geojson(tmp_path / "map.geojson", [*rows, STREET])
    assert data.buildings["height"].tolist() == [12.0]
    assert data.dropped == {"older versions of objects, or deleted ones": 4}


@pytest.mark.parametrize("until", ["2024-01-01T00:00:00Z", None])
def test_a_history_with_times_is_read_as_of_its_end(tmp_path: Path, until: str | None) -> None:
    def version(
        shape: shapely.Geometry, name: str, begin: str, end: str | None, height: int
    ) -> Any:
        about = {"@osmId": name, "@validFrom": begin, "building": "yes", "height": str(height)}
        return shape, about | ({} if end is None else {"@validTo": end})

    data = geojson(
        tmp_path / "map.geojson",
        [
            version(HOUSES[0], "way/1", "2015-01-01T00:00:00Z", "2018-01-01T00:00:00Z", 3),
            version(HOUSES[0], "way/1", "2018-01-01T00:00:00Z", until, 9),
            version(HOUSES[1], "way/2", "2015-01-01T00:00:00Z", "2018-01-01T00:00:00Z", 6),
            version(HOUSES[2], "way/3", "2015-01-01T00:00:00Z", until, 12),
            STREET,
        ],
    )
    assert data.buildings["height"].tolist() == [9.0, 12.0]


def test_of_snapshots_the_last_one_counts(tmp_path: Path) -> None:
    rows = [
        (HOUSES[k], {"@osmId": f"way/{k}", "@snapshotTimestamp": day, "building": "yes"})
        for day, some in (("2019-01-01", (0, 1, 2)), ("2020-01-01", (1, 2, 3)))
        for k in some
    ]
    data = geojson(tmp_path / "map.geojson", [*rows, STREET])
    assert data.buildings["osm_id"].tolist() == ["way/1", "way/2", "way/3"]


def test_equal_ids_without_versions_are_objects_of_their_own(tmp_path: Path) -> None:
    rows = [(house, {"id": "way/1", "building": "yes"}) for house in HOUSES]
    assert len(geojson(tmp_path / "map.geojson", [*rows, STREET]).buildings) == 6


def test_outlines_as_closed_lines_are_buildings(tmp_path: Path) -> None:
    lines = [
        (shapely.LineString(house.exterior.coords), {"building": "yes"}) for house in HOUSES[:3]
    ]
    halves = shapely.MultiLineString([HOUSES[3].exterior.coords[:3], HOUSES[3].exterior.coords[2:]])
    open_line = shapely.LineString(HOUSES[4].exterior.coords[:4])
    fence = (shapely.LineString(HOUSES[5].exterior.coords), {"barrier": "fence"})
    rows = [*lines, (halves, {"building": "yes"}), (open_line, {"building": "yes"}), fence, STREET]
    data = geojson(tmp_path / "map.geojson", rows)
    assert data.buildings.geometry.area.min() > 700
    assert len(data.buildings) == 4
    assert data.dropped == {"buildings whose ring does not close": 1}


def test_an_outline_that_is_a_polygon_too_is_one_building(tmp_path: Path) -> None:
    rows = [(house, {"building": "yes"}) for house in HOUSES]
    rows += [(shapely.LineString(house.exterior.coords), {"building": "yes"}) for house in HOUSES]
    assert len(geojson(tmp_path / "map.geojson", [*rows, STREET]).buildings) == 6


def test_boxes_of_objects_are_no_outlines(tmp_path: Path) -> None:
    rows = [(house, {"building": "yes", "@geometry": "bounds"}) for house in HOUSES[:4]]
    rows += [(house, {"building": "yes"}) for house in HOUSES[4:]]
    data = geojson(tmp_path / "map.geojson", [*rows, STREET])
    assert len(data.buildings) == 2
    assert data.dropped == {"objects of which only the bounding box is known": 4}


# --- Columns -------------------------------------------------------------------------------------


def test_overture_without_its_themes(tmp_path: Path) -> None:
    common = {"id": list("abcdef"), "height": [8.0] * 6}
    kinds = ["residential", "residential", None, "lake", "forest", "education"]
    table = houses(
        subtype=kinds, **{"class": ["house", "roof", None, "lake", "forest", None]}, **common
    )
    table.to_parquet(tmp_path / "map.parquet")
    assert read(tmp_path / "map.parquet").buildings["osm_id"].tolist() == ["a", "c", "f"]


def test_parts_of_buildings_in_overture_do_not_count_beside_them(tmp_path: Path) -> None:
    kinds = ["building"] * 4 + ["building_part"] * 2
    houses(theme=["buildings"] * 6, type=kinds, id=list("abcdef")).to_parquet(
        tmp_path / "m.parquet"
    )
    assert len(read(tmp_path / "m.parquet").buildings) == 4


def test_a_subtype_that_is_a_list_is_read(tmp_path: Path) -> None:
    roads = streets(subtype=[["road", "x"]] * 2, **{"class": ["residential"] * 2})
    table = together(houses(building=["yes"] * 6), roads)
    table.to_parquet(tmp_path / "map.parquet")
    assert len(read(tmp_path / "map.parquet").roads) == 2


def test_shapefiles_with_the_kind_of_their_objects_as_type(tmp_path: Path) -> None:
    folder = tmp_path / "town"
    folder.mkdir()
    kinds = ["house", "yes", "roof", "construction", "school", "yes"]
    houses(osm_id=range(6), name=["a"] * 6, type=kinds).to_file(folder / "buildings.shp")
    streets(3, osm_id=range(3), type=["residential", "primary", "bus_stop"]).to_file(
        folder / "roads.shp"
    )
    land = gpd.GeoDataFrame(
        {"type": ["forest"]}, geometry=[shapely.box(0, 0, 0.01, 0.01)], crs=4326
    )
    land.to_file(folder / "landuse.shp")
    data = read(folder)
    assert (len(data.buildings), len(data.roads)) == (4, 2)
    with pytest.raises(MaptileError, match="no buildings in it"):
        read(folder / "landuse.shp")


@pytest.mark.parametrize(
    "text",
    [
        "('tertiary', 'residential')",
        "['tertiary' 'residential']",
        "{tertiary,residential}",
        '["tertiary", "residential"]',
    ],
)
def test_lists_as_text_in_any_spelling(tmp_path: Path, text: str) -> None:
    table = together(houses(building=["yes"] * 6), streets(highway=[text] * 2))
    table.to_file(tmp_path / "map.gpkg")
    assert read(tmp_path / "map.gpkg").roads["highway"].tolist() == ["tertiary"] * 2


def test_a_name_in_brackets_is_a_name(tmp_path: Path) -> None:
    table = together(
        houses(building=["yes"] * 6, name=["(A) Hall (B)"] * 6), streets(highway=["road"] * 2)
    )
    table.to_file(tmp_path / "map.gpkg")
    assert read(tmp_path / "map.gpkg").buildings["name"].tolist() == ["(A) Hall (B)"] * 6


def test_false_in_the_column_of_an_area_is_no_area(tmp_path: Path) -> None:
    rows = [(house, {"name": "h", "landuse": False}) for house in HOUSES]
    rows[0][1]["demolished:building"] = False
    rows[1][1]["landuse"] = "forest"
    assert len(geojson(tmp_path / "map.geojson", [*rows, STREET]).buildings) == 5


def test_columns_of_one_name_in_two_cases(tmp_path: Path) -> None:
    rows = [(h, {"Name": "x", "NAME": "y", "building": "yes"}) for h in HOUSES]
    assert (
        geojson(tmp_path / "map.geojson", [*rows, STREET]).buildings["name"].tolist() == ["x"] * 6
    )


@pytest.mark.parametrize("prefix", ["tags.", "tags_", "tag_", "properties."])
def test_tags_with_a_prefix(tmp_path: Path, prefix: str) -> None:
    kinds = ["yes", "no", "roof", "house"]
    rows = [
        (house, {f"{prefix}building": kind, f"{prefix}height": "7"})
        for house, kind in zip(HOUSES, kinds, strict=False)
    ]
    street = (STREETS[0], {f"{prefix}highway": "residential"})
    data = geojson(tmp_path / "map.geojson", [*rows, street])
    assert (data.buildings["height"].tolist(), len(data.roads)) == ([7.0, 7.0], 1)


@pytest.mark.parametrize(
    "tag",
    [
        ("man_made", "pier"),
        ("amenity", "parking"),
        ("barrier", "hedge"),
        ("building:part", "yes"),
        ("ruins:building", "yes"),
        ("razed_buil", "yes"),
        ("proposed_b", "yes"),
    ],
)
def test_polygons_with_a_tag_of_something_else(tmp_path: Path, tag: tuple[str, str]) -> None:
    rows: list[Any] = [(house, {"name": "h"}) for house in HOUSES]
    rows[0] = (HOUSES[0], dict([tag]))
    assert len(geojson(tmp_path / "map.geojson", [*rows, STREET]).buildings) == 5


@pytest.mark.parametrize("gone", [True, "true", 1, "yes"])
def test_what_is_said_to_be_demolished_in_any_writing(tmp_path: Path, gone: Any) -> None:
    rows: list[Any] = [(house, {"building": "yes"}) for house in HOUSES]
    rows[0][1]["demolished"] = gone
    assert len(geojson(tmp_path / "map.geojson", [*rows, STREET]).buildings) == 5


def test_a_school_without_other_tags_is_a_building(tmp_path: Path) -> None:
    rows = [(house, {"amenity": "school"}) for house in HOUSES]
    assert len(geojson(tmp_path / "map.geojson", [*rows, STREET]).buildings) == 6


def test_levels_below_the_ground_give_no_height(tmp_path: Path) -> None:
    levels = {"building:levels:underground": ["7"] * 6, "building:levels": ["3"] * 6}
    with warnings.catch_warnings(action="ignore"):
        houses(building=["yes"] * 6, **levels).to_file(tmp_path / "map.shp")
    assert read(tmp_path / "map.shp").buildings["height"].isna().all()
