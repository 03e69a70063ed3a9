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
