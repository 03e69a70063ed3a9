from __future__ import annotations

import bz2
import contextlib
import gzip
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import geopandas as gpd
import numpy as np
import osmium
import pandas as pd
import pyogrio
import pyproj
import pytest
import shapely
from made_osm import EAST, NORTH, OsmXml, box, hamlet

from data_prep.errors import MaptileError
from data_prep.geometry import Projection, utm_crs
from data_prep.osm.footprints import OsmData, OsmSource, read_osm
from data_prep.osm.tables import is_building, is_road, metres

EXTRACTS = (
    "oxford/oxford.osm",
    "cities/helsinki.osm.pbf",
    "cities/kotka_fi.osm.pbf",
    "cities/cambridge_ma.osm",
    "cities/north-bayreuth.osm.gz",
    "kitti_raw/2011_09_26/2011_09_26_drive_0005.osm",
)


def read(osm: OsmXml, folder: Path, without=()) -> OsmData:
    return read_osm(OsmSource(path=osm.write(folder / "made.osm", without)))


def areas(data: OsmData) -> dict[str, float]:
    return dict(zip(data.buildings["osm_id"], data.buildings.area.round(3), strict=True))


def assert_same(a: OsmData, b: OsmData, names: bool = True) -> None:
    assert a.crs == b.crs
    for one, other in ((a.buildings, b.buildings), (a.roads, b.roads)):
        assert list(one.columns) == list(other.columns)
        assert (one.dtypes == other.dtypes).all()
        columns = [c for c in one.columns if c != "geometry" and (names or c != "osm_id")]
        pd.testing.assert_frame_equal(pd.DataFrame(one[columns]), pd.DataFrame(other[columns]))
        distance = shapely.hausdorff_distance(one.geometry.values, other.geometry.values)
        assert (distance < 0.02).all()


# --- the tables ---------------------------------------------------------------------------------


def test_tables_of_a_hamlet(tmp_path):
    data = read(hamlet(), tmp_path)
    assert data.crs.to_epsg() == 32630
    assert areas(data) == pytest.approx(
        {"relation/500": 60 * 50 - 25 * 20, "way/102": 900, "way/103": 50 * 20 + 20 * 20}, rel=1e-3
    )
    assert data.buildings["height"].tolist() == pytest.approx([12.0, 12.5, np.nan], nan_ok=True)
    assert data.buildings["levels"].tolist() == pytest.approx([4, np.nan, np.nan], nan_ok=True)
    assert data.roads["highway"].tolist() == ["residential", "tertiary", "footway"]
    assert data.roads["width"].tolist() == pytest.approx([6.0, 6.4, 2.0])
    assert data.roads["kind"].tolist() == ["road", "road", "path"]
    assert data.roads.length.iloc[0] == pytest.approx(200, abs=0.01)
    assert data.dropped == {}
    assert data.notes == ()


def test_all_file_formats_give_the_same_tables(tmp_path):
    text = hamlet().text()
    plain = tmp_path / "a.osm"
    plain.write_text(text)
    (tmp_path / "a.osm.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.osm.bz2").write_bytes(bz2.compress(text.encode()))
    with osmium.SimpleWriter(str(tmp_path / "a.osm.pbf")) as writer:
        for thing in osmium.FileProcessor(plain):
            writer.add(thing)
    expected = read_osm(OsmSource(path=plain))
    for name in ("a.osm.gz", "a.osm.bz2", "a.osm.pbf"):
        assert_same(read_osm(OsmSource(path=tmp_path / name)), expected)
    both = pd.concat([expected.buildings, expected.roads]).to_crs("EPSG:4326")
    both["building"] = both.geom_type.map({"Polygon": "yes"})
    both.to_file(tmp_path / "a.geojson", COORDINATE_PRECISION=9)
    both.to_parquet(tmp_path / "a.parquet")
    expected.buildings.to_file(tmp_path / "a.gpkg", layer="buildings")
    expected.roads.to_file(tmp_path / "a.gpkg", layer="roads")
    for name in ("a.geojson", "a.parquet", "a.gpkg"):
        assert_same(read_osm(OsmSource(path=tmp_path / name)), expected)


def test_reads_what_gdal_makes_of_osm(tmp_path):
    """ogr2ogr to GeoPackage: five layers, most tags packed into other_tags."""
    osm = hamlet()
    osm.way(box(160, 20, 190, 60), landuse="grass")
    plain, packed = osm.write(tmp_path / "a.osm"), tmp_path / "a.gpkg"
    for layer in ("lines", "multipolygons"):
        pyogrio.write_dataframe(pyogrio.read_dataframe(plain, layer=layer), packed, layer=layer)
    assert_same(read_osm(OsmSource(path=packed)), read_osm(OsmSource(path=plain)))


def test_reads_overture_layout(tmp_path):
    squares = [box(0, 0, 20, 10), box(30, 0, 40, 20), box(60, 0, 70, 10)]
    points = [[OsmXml().degrees(p)[::-1] for p in square] for square in squares]
    buildings = gpd.GeoDataFrame(
        {
            "id": ["a", "b", "c"],
            "height": [np.nan, 17.5, 3.0],
            "num_floors": pd.array([3, None, None], "Int32"),
            "class": [None, "house", "garage"],
            "is_underground": [False, None, True],
            "names": [{"primary": "Town Hall"}, None, {"primary": None}],
        },
        geometry=[shapely.Polygon(ring) for ring in points],
        crs="OGC:CRS84",
    )
    buildings.to_parquet(tmp_path / "b.parquet", write_covering_bbox=True)
    data = read_osm(OsmSource(path=tmp_path / "b.parquet"))
    assert areas(data) == pytest.approx({"a": 200, "b": 200}, abs=0.1)
    assert data.buildings["height"].tolist() == [9.0, 17.5]
    assert data.buildings["name"].tolist() == ["Town Hall", ""]
    assert data.roads.empty
    assert data.notes == ("no roads in it: nothing to train or drive along",)

    tunnel = [{"values": np.array(["is_tunnel"]), "between": None}]
    lines = gpd.GeoDataFrame(
        {
            "id": ["r", "s", "t", "u"],
            "class": ["primary", "standard_gauge", "residential", "footway"],
            "subtype": ["road", "rail", "road", "road"],
            "road_flags": [None, None, tunnel, None],
        },
        geometry=[shapely.LineString(ring[:2]) for ring in (*points, points[0])],
        crs="OGC:CRS84",
    )
    pd.concat([buildings.drop(columns="class").assign(building="yes"), lines]).to_parquet(
        tmp_path / "both.parquet"
    )
    roads = read_osm(OsmSource(path=tmp_path / "both.parquet")).roads
    assert roads["osm_id"].tolist() == ["r", "u"]
    assert roads["width"].tolist() == [11.0, 2.0]


# --- hard cases ---------------------------------------------------------------------------------

RING, YARD = box(0, 0, 40, 30), box(10, 10, 30, 20)


@pytest.mark.parametrize(
    ("way_tags", "relation_tags"),
    [
        ({}, {"building": "yes"}),
        ({"building": "yes"}, {"building": "yes"}),
        ({"building": "university"}, {}),  # the old style: tags on the outer way only
        ({"building": "university"}, {"source": "survey", "created_by": "JOSM"}),
    ],
)
def test_courtyards_stay_open(tmp_path, way_tags, relation_tags):
    osm = OsmXml()
    outer, inner = osm.way(RING, **way_tags), osm.way(YARD)
    osm.relation([(outer, "outer"), (inner, "inner")], **relation_tags)
    assert areas(read(osm, tmp_path)) == pytest.approx({"relation/500": 1200 - 200}, abs=0.1)


def test_outer_ways_of_other_multipolygons_are_buildings(tmp_path):
    osm = OsmXml()
    outer = osm.building(RING)
    osm.relation([(outer, "outer")], landuse="retail", name="Mall")
    assert areas(read(osm, tmp_path)) == pytest.approx({"way/100": 1200}, abs=0.1)


def test_rings_are_stitched_and_islands_kept(tmp_path):
    osm = OsmXml()
    members = [
        (osm.way([(0, 0), (60, 0), (60, 30)]), "outer"),
        (osm.way([(0, 0), (0, 50), (60, 50), (60, 30)]), "outer"),
        (osm.way([(10, 10), (50, 10), (50, 40)]), "inner"),
        (osm.way([(50, 40), (10, 40), (10, 10)]), "inner"),
        (osm.way(box(20, 20, 30, 30)), "outer"),
        (osm.way(box(100, 0, 110, 10)), ""),
    ]
    osm.relation(members, building="yes")
    building = read(osm, tmp_path).buildings.geometry.iloc[0]
    assert building.area == pytest.approx(3000 - 1200 + 100 + 100, abs=0.2)
    assert len(building.geoms) == 3


def test_a_building_in_a_courtyard_stays(tmp_path):
    osm = OsmXml()
    outer, inner = osm.way(RING), osm.building(YARD)
    osm.relation([(outer, "outer"), (inner, "inner")], building="yes")
    data = read(osm, tmp_path)
    assert areas(data) == pytest.approx({"relation/500": 1000, "way/101": 200}, abs=0.1)


def test_what_the_edge_cuts(tmp_path):
    """Roads keep the parts inside; buildings with missing corners are left out and counted."""
    osm = OsmXml()
    osm.building(box(0, 0, 10, 10))
    osm.building(box(50, 0, 70, 10))
    osm.way([(0, 20), (10, 20), (20, 20), (30, 20), (40, 20), (50, 20)], highway="primary")
    osm.way([(0, 40), (10, 40), (20, 40)], highway="service")
    half = osm.way([(0, 60), (40, 60), (40, 80)])
    osm.relation([(half, "outer"), (999, "outer")], building="yes")
    data = read(osm, tmp_path, without=[(70, 10), (20, 20), (10, 40)])
    assert areas(data) == pytest.approx({"way/100": 100}, abs=0.1)
    assert data.roads.length.tolist() == pytest.approx([10, 20], abs=0.01)
    assert data.roads["osm_id"].tolist() == ["way/102", "way/102"]
    assert data.dropped == {
        "buildings cut by the edge of the extract": 1,
        "multipolygons with a ring that does not close": 1,
        "roads cut by the edge of the extract (the part inside is kept)": 2,
    }
    assert len(data.notes) == 3


def test_bad_rings_are_repaired_or_counted(tmp_path):
    osm = OsmXml()
    osm.building([(0, 0), (10, 0), (0, 10), (10, 10), (0, 0)])  # a bow-tie: two triangles
    osm.building([(20, 0), (30, 0), (20, 0)])
    osm.building([(40, 0), (50, 0), (40, 0), (50, 0), (40, 0)])
    osm.building([(70, 0), (80, 0), (80, 10)])
    lone = osm.way([(0, 30), (10, 30), (0, 30)])
    osm.relation([(lone, "outer")], building="yes")
    osm.relation([], building="yes")
    data = read(osm, tmp_path)
    assert areas(data) == pytest.approx({"way/100": 50}, abs=0.1)
    assert data.buildings.is_valid.all()
    assert data.dropped == {
        "buildings whose ring does not close": 2,
        "buildings without an area": 1,
        "multipolygons with a ring that does not close": 1,
    }


HIDDEN = [
    {"building": "no"},
    {"building": "roof"},
    {"location": "underground"},
    {"tunnel": "yes"},
    {"layer": "-1"},
    {"indoor": "yes"},
]


@pytest.mark.parametrize("tags", HIDDEN, ids=str)
@pytest.mark.parametrize("as_relation", [False, True])
def test_hidden_buildings_are_left_out(tmp_path, tags, as_relation):
    osm = OsmXml()
    osm.building(box(100, 0, 110, 10), layer="1", tunnel="no")
    tags = {"building": "yes"} | tags
    if as_relation:
        osm.relation([(osm.way(RING), "outer"), (osm.way(YARD), "inner")], **tags)
    else:
        osm.way(RING, **tags)
    assert list(areas(read(osm, tmp_path))) == ["way/100"]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"highway": "residential"}, True),
        ({"highway": "residential", "layer": "1"}, True),
        ({"highway": "primary", "tunnel": "yes"}, False),
        ({"highway": "service", "tunnel": "building_passage"}, True),
        ({"highway": "footway", "layer": "-1"}, False),
        ({"highway": "footway", "indoor": "yes"}, False),
        ({"highway": "pedestrian", "area": "yes"}, False),
        ({"highway": "construction"}, False),
        ({"highway": "proposed"}, False),
        ({"railway": "rail"}, False),
    ],
)
def test_which_ways_are_roads(tags, expected):
    assert is_road(tags) is expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"building": "yes", "layer": "-1", "location": "surface"}, True),
        ({"building": "yes", "layer": "-1", "location": "overground"}, True),
        ({"building": "yes", "layer": "-1", "location": "underground"}, False),
        ({"building": "yes", "level": "-1"}, False),
        ({"building": "yes", "level": "-1;0"}, True),
        ({"building": "proposed"}, False),
        ({"building": "construction", "construction": "yes"}, False),
        ({"building": "Demolished"}, False),
        ({"building": "razed"}, False),
        ({"building": "yes", "demolished": "yes"}, False),
        ({"building": "yes", "proposed": "yes"}, False),
        ({"demolished:building": "yes"}, False),
        ({"proposed:building": "yes"}, False),
        ({"building:part": "yes"}, False),
        ({"building": "No"}, False),
        ({"building": "ruins"}, True),
        ({"building": "yes", "abandoned": "yes"}, True),
        ({"building": "yes", "disused": "yes"}, True),
    ],
)
def test_which_buildings_stand_in_sight(tags, expected):
    assert is_building(tags) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12", 12.0),
        ("12.5 m", 12.5),
        ("12,5", 12.5),
        ("~8", 8.0),
        ("40 ft", 12.192),
        ("40'6\"", 12.3444),
        ("7 metres", 7.0),
        ("high", np.nan),
        ("5-7", np.nan),
        ("", np.nan),
        (None, np.nan),
    ],
)
def test_lengths(text, expected):
    assert metres(text) == pytest.approx(expected, nan_ok=True)


def test_implausible_heights_and_widths_are_ignored(tmp_path):
    osm = OsmXml()
    osm.building(box(0, 0, 10, 10), height="0", building__levels="2")
    osm.building(box(20, 0, 30, 10), height="99999")
    osm.way([(0, 20), (10, 20)], highway="residential", width="900")
    osm.way([(0, 30), (10, 30)], highway="residential", width="7 m", lanes="2")
    data = read(osm, tmp_path)
    assert data.buildings["height"].tolist() == pytest.approx([6.0, np.nan], nan_ok=True)
    assert data.roads["width"].tolist() == [6.0, 7.0]


def test_ids_out_of_order(tmp_path):
    osm = hamlet()
    expected = read(osm, tmp_path)
    osm.ways.reverse()
    osm.nodes = dict(reversed(osm.nodes.items()))
    assert_same(read(osm, tmp_path), expected)


# --- the mapped area and the map frame ------------------------------------------------------------


def test_declared_bounds_are_the_extent(tmp_path):
    osm = hamlet()
    osm.bounds = (-30, -40, 170, 140)
    data = read(osm, tmp_path)
    declared = np.array([EAST - 30, NORTH - 40, EAST + 170, NORTH + 140])
    # A box in degrees is rotated against the grid (here by 1.4 degrees): its corners reach further.
    grown = np.array(data.bounds) - declared
    assert (np.abs(grown) < 5).all()
    assert (grown[:2] <= 0.01).all()
    assert (grown[2:] >= -0.01).all()


def test_without_bounds_a_long_road_does_not_blow_up_the_extent(tmp_path):
    osm = hamlet()
    osm.way([(0, 10), (60_000, 10)], highway="motorway")
    data = read(osm, tmp_path)
    assert data.bounds == pytest.approx(
        (EAST + 20 - 50, NORTH + 20 - 50, EAST + 150 + 50, NORTH + 120 + 50), abs=0.1
    )


def test_a_header_that_declares_the_planet(tmp_path):
    text = hamlet().text(header='<bounds minlat="-90" minlon="-180" maxlat="90" maxlon="180"/>')
    (tmp_path / "a.osm").write_text(text)
    west, south, east, north = read_osm(OsmSource(path=tmp_path / "a.osm")).bounds
    # 5 km around the buildings, which cover 130 m x 100 m; the box is rotated by 1.4 degrees.
    assert (east - west, north - south) == pytest.approx((10_380, 10_350), abs=60)


@pytest.mark.parametrize(("longitude", "zones"), [(6.0, {31, 32}), (180.0, {60, 1})])
def test_one_crs_across_a_zone_border(tmp_path, longitude, zones):
    """Also across the 180th meridian, where longitudes jump."""
    local = Projection(pyproj.CRS(f"+proj=tmerc +lat_0=-17 +lon_0={longitude} +type=crs"))
    osm = OsmXml(local, 0, 0)
    for east in (-400, -20, 390):
        osm.building(box(east, 0, east + 10, 20))
    data = read(osm, tmp_path)
    assert data.crs in [utm_crs(-17, zone * 6 - 183) for zone in zones]
    assert data.buildings.area.tolist() == pytest.approx([200] * 3, rel=4e-3)
    width = data.bounds[2] - data.bounds[0]
    assert width == pytest.approx(800 + 100, rel=2e-2)


def test_a_given_crs(tmp_path):
    path = hamlet().write(tmp_path / "a.osm")
    local = pyproj.CRS("+proj=tmerc +lat_0=51.75 +lon_0=-1.26 +k=1 +type=crs")
    data = read_osm(OsmSource(path=path), crs=local)
    assert data.crs == data.buildings.crs == data.roads.crs == local
    # Lengths in UTM are 0.02 % too short here.
    assert data.buildings.area.sum() == pytest.approx(4800, rel=1e-3)
    assert np.abs(data.buildings.total_bounds).max() < 5000


# --- bad input ----------------------------------------------------------------------------------


def bad_files(folder: Path) -> list[Path]:
    text = hamlet().text().encode()
    pbf = folder / "good.pbf"
    plain = hamlet().write(folder / "good.osm")
    with osmium.SimpleWriter(str(pbf)) as writer:
        for thing in osmium.FileProcessor(plain):
            writer.add(thing)
    bad = {
        "empty.osm": b"",
        "text.osm": b"hello",
        "page.osm": b"<html><body>404</body></html>",
        "half.osm": text[: len(text) // 2],
        "half.osm.gz": gzip.compress(text)[:-40],
        "half.osm.bz2": bz2.compress(text)[:-40],
        "half.osm.pbf": pbf.read_bytes()[:-40],
        "text.osm.gz": b"hello",
        "text.osm.bz2": b"hello",
        "text.osm.pbf": b"hello",
        "half.geojson": b'{"type": "FeatureCollection", "features": [',
        "text.gpkg": b"hello",
        "text.parquet": b"hello",
        "photo.jpg": b"hello",
        "none.osm": b'<osm version="0.6"></osm>',
    }
    for name, content in bad.items():
        (folder / name).write_bytes(content)
    pd.DataFrame({"a": [1]}).to_parquet(folder / "plain.parquet")
    return [*(folder / name for name in bad), folder / "plain.parquet", folder / "missing.osm"]


def test_bad_files_are_one_clear_line_each(tmp_path):
    for path in bad_files(tmp_path):
        with pytest.raises(MaptileError, match=path.name) as error:
            read_osm(OsmSource(path=path))
        assert "\n" not in str(error.value)


def test_plain_xml_named_gz_is_read(tmp_path):
    path = tmp_path / "a.osm.gz"
    shutil.copy(hamlet().write(tmp_path / "a.osm"), path)
    assert len(read_osm(OsmSource(path=path)).buildings) == 3


def test_no_buildings(tmp_path):
    osm = OsmXml()
    osm.way([(0, 0), (10, 0)], highway="service")
    osm.building(RING)
    with pytest.raises(MaptileError, match=r"no buildings in it; 1 buildings cut by the edge"):
        read(osm, tmp_path, without=[(40, 0)])


def test_coordinates_without_a_system(tmp_path):
    metric = read(hamlet(), tmp_path).buildings.set_crs(None, allow_override=True)
    path = tmp_path / "a.parquet"
    metric.to_parquet(path)
    # GeoParquet without a CRS key means degrees; here the key is null: unknown.
    with pytest.raises(MaptileError, match="no coordinate system"):
        read_osm(OsmSource(path=path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "one source"),
        ({"place": "Oxford", "bbox": (0, 0, 1, 1)}, "one source"),
        ({"point": (51.7, -1.2)}, "radius"),
        ({"point": (51.7, -1.2), "radius_m": -5.0}, "radius"),
        ({"point": (191.7, -1.2), "radius_m": 5.0}, "latitude"),
        ({"bbox": (1, 0, 0, 1)}, "west < east"),
        ({"bbox": (179, 0, -179, 1)}, "180th meridian"),
        ({"place": "Oxford", "date": "last week"}, "YYYY-MM-DD"),
        ({"path": Path("a.osm"), "date": "2014-01-01"}, "of one date"),
    ],
)
def test_invalid_sources(values, message):
    with pytest.raises(MaptileError, match=message):
        OsmSource(**values)


# --- a second reader ----------------------------------------------------------------------------

GDAL_CONFIG = """closed_ways_are_polygons=building,landuse,leisure,natural,amenity,shop,tourism
attribute_name_laundering=no
[points]
[lines]
[multipolygons]
osm_id=yes
attributes=building,layer,location,tunnel,indoor
[multilinestrings]
[other_relations]
"""


def read_by_gdal(path: Path, folder: Path) -> gpd.GeoDataFrame:
    """Return the buildings of an OSM file as GDAL reads them, by OSM id, in degrees."""
    config = folder / "osmconf.ini"
    config.write_text(GDAL_CONFIG)
    pyogrio.set_gdal_config_options({"OSM_USE_CUSTOM_INDEXING": "NO"})
    with pytest.warns(RuntimeWarning) if "helsinki" in path.name else contextlib.nullcontext():
        table = pyogrio.read_dataframe(
            f"/vsigzip/{path}" if path.suffix == ".gz" else path,
            layer="multipolygons",
            CONFIG_FILE=str(config),
            on_invalid="ignore",
        )
    tags = table[["building", "layer", "location", "tunnel", "indoor"]].to_dict("records")
    table = table[[is_building({k: v for k, v in t.items() if isinstance(v, str)}) for t in tags]]
    names = ("relation/" + table["osm_id"]).fillna("way/" + table["osm_way_id"])
    return table.set_index(names)[table.geometry.notna().to_numpy()]


def outer_ways_of_other_multipolygons(path: Path) -> set[str]:
    """Return the ids of the buildings that GDAL loses: outer ways of other multipolygons."""
    if path.name != "oxford.osm":
        return set()
    names = set()
    for relation in ElementTree.parse(path).getroot().iter("relation"):
        tags = {tag.get("k") for tag in relation.iter("tag")}
        if "building" not in tags and len(tags) > 1:
            names |= {f"way/{m.get('ref')}" for m in relation.iter("member")}
    return names


@pytest.mark.realdata
@pytest.mark.parametrize("name", EXTRACTS)
def test_gdal_reads_the_same(data_dir, tmp_path, name):
    path = data_dir / name
    data = read_osm(OsmSource(path=path))
    ours = data.buildings.set_index("osm_id")
    theirs = read_by_gdal(path, tmp_path).to_crs(data.crs)
    theirs["geometry"] = shapely.make_valid(
        theirs.geometry.values, method="structure", keep_collapsed=False
    )
    # Buildings that only this project reads: those that GDAL is known to lose.
    assert set(ours.index) - set(theirs.index) <= outer_ways_of_other_multipolygons(path)
    # Buildings that only GDAL reads: incomplete ones at the edge of the extract.
    cut = theirs.loc[theirs.index.difference(ours.index)]
    expected = {"helsinki.osm.pbf": 45, "kotka_fi.osm.pbf": 44}
    assert len(cut) == expected.get(path.name, 0)
    edge = shapely.box(*data.bounds).boundary
    assert (cut[~cut.is_empty].distance(edge) < 60).all()
    # Buildings that both read have the same shape and the same holes.
    both = ours.index.intersection(theirs.index)
    a, b = ours.geometry[both].values, theirs.geometry[both].values
    assert shapely.area(shapely.symmetric_difference(a, b)).max() < 0.01
    assert count_holes(a) == count_holes(b)
    away = shapely.box(*data.bounds).buffer(-100)
    known = theirs.union_all().intersection(away).area
    lost = ours.loc[ours.index.difference(theirs.index)].union_all().intersection(away).area
    assert ours.union_all().intersection(away).area - lost == pytest.approx(known, rel=1e-3)


def count_holes(polygons) -> int:
    return int(shapely.get_num_interior_rings(shapely.get_parts(polygons)).sum())


@pytest.mark.realdata
def test_facts_about_real_extracts(data_dir):
    oxford = read_osm(OsmSource(path=data_dir / "oxford/oxford.osm"))
    assert oxford.source_date == "2015-02-25T10:15:02Z"
    assert len(oxford.buildings) == 993
    assert count_holes(oxford.buildings.geometry.values) == 17
    helsinki = read_osm(OsmSource(path=data_dir / "cities/helsinki.osm.pbf"))
    assert count_holes(helsinki.buildings.geometry.values) == 72
    assert helsinki.dropped["buildings cut by the edge of the extract"] == 48
