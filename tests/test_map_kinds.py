"""A map is recognised by its content, whatever its name; what is no map is refused by its kind."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import osmium
import pytest
import shapely
from made_osm import hamlet

from data_prep.errors import MaptileError
from data_prep.osm.footprints import OsmData, read_osm
from data_prep.osm.kinds import one_line
from data_prep.osm.source import OsmSource

TEXT = hamlet().text()
NODES = {
    match[1]: (float(match[2]), float(match[3]))
    for match in re.finditer(r'<node id="(\d+)" lat="([^"]+)" lon="([^"]+)"', TEXT)
}
Json = dict[str, Any]


def written(path: Path, content: bytes | str) -> OsmData:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_osm(OsmSource(path=path))


def whole(data: OsmData) -> None:
    """The hamlet: three houses, one with a courtyard, and three streets."""
    assert (len(data.buildings), len(data.roads)) == (3, 3)
    assert data.buildings.area.sum() == pytest.approx(4800, rel=1e-3)
    assert data.dropped == {}


def refused(path: Path, content: bytes | str, says: str) -> None:
    with pytest.raises(MaptileError, match=says) as error:
        written(path, content)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def answer(geometry: bool = False) -> Json:
    """The hamlet as an answer of Overpass, ways before nodes."""
    found: list[Json] = []
    for item in ElementTree.fromstring(TEXT):
        one: Json = {"type": item.tag, "id": int(item.get("id", "0"))}
        tags = {tag.get("k"): tag.get("v") for tag in item.iter("tag")}
        one |= {"tags": tags} if tags else {}
        if item.tag == "node" and not geometry:
            latitude, longitude = NODES[item.get("id", "")]
            found.append(one | {"lat": latitude, "lon": longitude})
        if item.tag == "way":
            ids = [node.get("ref", "") for node in item.iter("nd")]
            one |= {"nodes": [int(number) for number in ids]}
            one |= {"geometry": points(ids)} if geometry else {}
            found.append(one)
        if item.tag == "relation":
            one["members"] = [dict(m.items()) | {"ref": int(m.get("ref", 0))} for m in item][:2]
            found.append(one)
    date = {"timestamp_osm_base": "2024-01-01T00:00:00Z"}
    return {"version": 0.6, "osm3s": date, "elements": found[::-1]}


def points(ids: list[str]) -> list[Json]:
    return [dict(zip(("lat", "lon"), NODES[number], strict=True)) for number in ids]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The hamlet in every kind of file."""
    folder = tmp_path_factory.mktemp("packed")
    data = written(folder / "a.osm", TEXT)
    with osmium.SimpleWriter(str(folder / "a.osm.pbf")) as writer:
        for thing in osmium.FileProcessor(str(folder / "a.osm")):
            writer.add(thing)
    tables = [data.buildings.assign(building="yes"), data.roads]
    both = gpd.pd.concat([table.to_crs("EPSG:4326") for table in tables])
    both.to_file(folder / "a.geojson", COORDINATE_PRECISION=9)
    both.to_file(folder / "a.geojsonl", driver="GeoJSONSeq", COORDINATE_PRECISION=9)
    both.to_parquet(folder / "a.parquet")
    for suffix in ("gpkg", "fgb"):
        both.to_file(folder / f"a.{suffix}")
    files = {path.name.partition(".")[2]: path.read_bytes() for path in folder.iterdir()}
    return files | {"json": json.dumps(answer()).encode()}


KINDS = ["osm", "osm.pbf", "geojson", "geojsonl", "parquet", "gpkg", "fgb", "json"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["map", "map.osm", "map.json", "map.pbf", "map.geojson"])
def test_the_content_decides(
    tmp_path: Path, packed: dict[str, bytes], kind: str, name: str
) -> None:
    whole(written(tmp_path / name, packed[kind]))


@pytest.mark.parametrize("kind", ["osm", "json", "geojson"])
def test_packed_files_are_read(tmp_path: Path, packed: dict[str, bytes], kind: str) -> None:
    whole(written(tmp_path / "map", gzip.compress(packed[kind])))
    if kind != "geojson":
        whole(written(tmp_path / "map", bz2.compress(packed[kind])))


@pytest.mark.parametrize("kind", KINDS)
def test_cut_files_are_refused(tmp_path: Path, packed: dict[str, bytes], kind: str) -> None:
    content = packed[kind]
    if kind == "geojsonl":  # each line is whole for itself
        return
    refused(tmp_path / f"a.{kind}", content[: len(content) // 2], "again|repair")
    if kind in ("osm", "json"):
        refused(tmp_path / "b", gzip.compress(content)[:-40], "cut off")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\0" * 100_000, "zeros"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"<!DOCTYPE html><html><body>429 Too Many Requests</body></html>", "web page"),
        (b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "x"\n "y">\n<html>e</html>', "web page"),
        (b"rate_limited", "text that begins with 'rate_limited'"),
        (b"<osm-script><query/></osm-script>", "a query for Overpass"),
        (b"<graphml></graphml>", "graph of streets"),
        (b"<kml></kml>", "its first element is kml"),
        (b"\xfd7zXZ\0abc", "packed as xz"),
        (b"II*\0abc", "a raster"),
        (bytes(range(200, 256)), "unknown kind"),
        (b'{"a": 1}', "neither GeoJSON nor"),
        (b'{"type": "gdal_streamed_alg", "x": "Feature"}', "neither GeoJSON nor"),
        (TEXT.replace("osm ", "osmChange ").replace("/osm>", "/osmChange>"), "change file"),
        (TEXT.replace("<way", '<action type="create"><way', 1), "change file"),
    ],
)
@pytest.mark.parametrize("name", ["map.osm", "map.geojson"])
def test_what_is_no_map_is_named(
    tmp_path: Path, content: bytes | str, says: str, name: str
) -> None:
    refused(tmp_path / name, content, says)
    if content:
        refused(
            tmp_path / name,
            gzip.compress(content.encode() if isinstance(content, str) else content),
            says,
        )


def test_archives_folders_and_pipes_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "map.zip", "w") as archive:
        archive.writestr("town/map.osm", TEXT)
    refused(tmp_path / "map.zip", (tmp_path / "map.zip").read_bytes(), r"in it: map\.osm")
    for path, says in ((tmp_path, "a folder"), (tmp_path / ("a" * 300), "name too long")):
        with pytest.raises(MaptileError, match=says):
            read_osm(OsmSource(path=path))
    os.mkfifo(tmp_path / "pipe.osm")
    with pytest.raises(MaptileError, match="no regular file"):
        read_osm(OsmSource(path=tmp_path / "pipe.osm"))


def test_shapefiles_are_read_one_by_one_in_a_folder_or_in_an_archive(
    tmp_path: Path, packed: dict[str, bytes]
) -> None:
    data = written(tmp_path / "a.osm", TEXT)
    folder = tmp_path / "shapes"
    folder.mkdir()
    data.buildings.assign(fclass="building", type="house").to_file(folder / "buildings_a.shp")
    data.roads.rename(columns={"highway": "fclass"}).to_file(folder / "roads.shp")
    whole(read_osm(OsmSource(path=folder)))
    with zipfile.ZipFile(tmp_path / "a.shp.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in folder.iterdir():
            archive.write(path, path.name)
    whole(read_osm(OsmSource(path=tmp_path / "a.shp.zip")))
    assert len(read_osm(OsmSource(path=folder / "buildings_a.shp")).buildings) == 3
    (folder / "buildings_a.shx").unlink()
    with pytest.raises(MaptileError, match="buildings_a"):
        read_osm(OsmSource(path=folder / "buildings_a.shp"))


def test_files_that_unpack_to_far_more_are_refused(tmp_path: Path) -> None:
    blanks = b"<a/>" * (1 << 25)
    refused(tmp_path / "a.osm", gzip.compress(TEXT.encode()[:-6] + blanks), "unpacks to more than")
    start = b'{"elements": [' + b" " * (1 << 27)
    refused(tmp_path / "a.json", gzip.compress(start), "unpacks to more than")


# --- answers of Overpass ------------------------------------------------------------------------


def edited(edit: Callable[[Json], Any], geometry: bool = False) -> str:
    content = answer(geometry)
    for element in content["elements"]:
        edit(element)
    return json.dumps(content)


def test_answers_in_json_are_read(tmp_path: Path) -> None:
    data = written(tmp_path / "a.json", json.dumps(answer()))
    whole(data)
    assert data.source_date == "2024-01-01T00:00:00Z"
    for encoding in ("utf-8-sig", "utf-16"):
        whole(written(tmp_path / "a.json", json.dumps(answer(), indent=1).encode(encoding)))
    others = [{"type": "area", "id": 3}, {"type": "count"}, None, 5, "x", [1]]
    content = answer()
    content["elements"] = others + content["elements"]
    whole(written(tmp_path / "a.json", json.dumps(content)))


@pytest.mark.parametrize("ids", [True, False])
def test_the_geometry_of_answers_is_used(tmp_path: Path, ids: bool) -> None:
    whole(written(tmp_path / "a.json", edited(lambda e: ids or e.pop("nodes", None), True)))


def test_the_geometry_of_members_is_used(tmp_path: Path) -> None:
    content = answer(True)
    ways = {one["id"]: one for one in content["elements"] if one["type"] == "way"}
    relation = next(one for one in content["elements"] if one["type"] == "relation")
    for member in relation["members"]:
        member["geometry"] = ways[member["ref"]]["geometry"]
        content["elements"].remove(ways[member["ref"]])
    whole(written(tmp_path / "a.json", json.dumps(content)))
    relation["members"][0]["geometry"][1] = None  # beyond the bounds of the query
    data = written(tmp_path / "a.json", json.dumps(content))
    assert data.dropped == {"multipolygons with a ring that does not close": 1}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"remark": 'runtime error: Query timed out in "query"'}, 'timed out in "query"'),
        ({"elements": None}, "without a list of elements"),
        ({"elements": []}, "no buildings"),
        ({"elements": [{"type": "way", "id": 1, "tags": {"building": "yes"}}]}, "out geom"),
    ],
)
def test_incomplete_answers_are_refused(tmp_path: Path, more: Json, says: str) -> None:
    refused(tmp_path / "a.json", json.dumps(answer() | more), says)
    refused(tmp_path / "a.osm", json.dumps(more | answer() | more), says)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda e: e.update(lat="abc") if e["id"] == 1 else None, "node 1: its latitude 'abc'"),
        (lambda e: e.update(id="w1") if "nodes" in e else None, "'w1' is no whole number"),
        (lambda e: e.update(nodes=["a"]) if "nodes" in e else None, "'a' is no whole number"),
        (lambda e: e.update(nodes=None) if "nodes" in e else None, "out geom"),
        (lambda e: e.update(tags=["building"]), "no buildings"),
    ],
)
def test_odd_elements_are_named(tmp_path: Path, edit: Callable[[Json], Any], says: str) -> None:
    refused(tmp_path / "a.json", edited(edit), says)


@pytest.mark.parametrize("value", [None, float("nan"), 91, 1e300])
def test_nodes_without_a_position_cut_their_buildings(tmp_path: Path, value: float | None) -> None:
    data = written(
        tmp_path / "a.json", edited(lambda e: e.update(lat=value) if e["id"] == 1 else None)
    )
    assert data.dropped == {"multipolygons with a ring that does not close": 1}
    text = TEXT.replace(f'lat="{NODES["1"][0]:.9f}"', f'lat="{1e300 if value is None else value}"')
    if value == value:
        assert written(tmp_path / "a.osm", text).dropped == data.dropped


# --- XML ----------------------------------------------------------------------------------------


def test_odd_xml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.osm"
    utf16 = TEXT.replace("UTF-8", "UTF-16").encode("utf-16")
    whole(written(path, utf16))
    whole(written(path, TEXT.replace("<osm ", "<osm upload='false' ")))
    whole(written(path, TEXT.replace("<osm ", "<osm id='1' ").replace('version="0.6"', "", 1)))
    for name in ("A\x01B", "A&#1;B", "A&#x1F;B", "A" * 2_000_000 + "\x02"):
        tag = f'<tag k="name" v="{name}"/><tag k="highway"'
        whole(written(path, TEXT.replace('<tag k="highway"', tag)))
    for number, other in (("100", str(2**70)), ("101", str(2**62))):
        text = TEXT.replace(f'id="{number}"', f'id="{other}"')
        whole(written(path, text.replace(f'ref="{number}"', f'ref="{other}"')))


def test_the_same_objects_twice_are_one(tmp_path: Path) -> None:
    bare = re.sub("<tag [^>]*>", "", "".join(re.findall("<way .*?</way>", TEXT, re.DOTALL)))
    whole(written(tmp_path / "a.osm", TEXT.replace("</osm>", f"{bare}</osm>")))
    moved = TEXT.replace(
        '<node id="2"', '<node id="1" version="1" lat="1" lon="1"/><node id="2"', 1
    )
    moved = moved.replace('<node id="1" lat', '<node id="1" version="2" lat')
    whole(written(tmp_path / "a.osm", moved))


def test_several_areas_of_an_editor_are_one(tmp_path: Path) -> None:
    one = '<bounds minlat="51.75" minlon="-1.27" maxlat="51.76" maxlon="-1.26"/>'
    two = '<bounds minlat="51.755" minlon="-1.28" maxlat="51.765" maxlon="-1.265"/>'
    both = '<bounds minlat="51.75" minlon="-1.28" maxlat="51.765" maxlon="-1.26"/>'
    head = '<osm version="0.6">'
    found = written(tmp_path / "a.osm", TEXT.replace(head, f"{head}{one}\n{two}"))
    expected = written(tmp_path / "a.osm", TEXT.replace(head, f"{head}{both}"))
    np.testing.assert_allclose(found.bounds, expected.bounds)


def test_entities_do_not_grow(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10 if k else "aaa"}">' for k in range(12))
    text = TEXT.replace("<osm ", f"<!DOCTYPE x [{entities}]><osm ").replace("residential", "&a11;")
    refused(tmp_path / "a.osm", text, "not readable as XML")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "a.osm", '<osm id="-1">' + "<a>" * 100_000, "nested too deeply")
    refused(tmp_path / "a.json", '{"elements": [' + "[" * 100_000, "nested too deeply")


def test_endless_texts_are_refused(tmp_path: Path) -> None:
    text = TEXT.replace('v="residential"', f'v="{"x" * (1 << 23)}"')
    refused(tmp_path / "a.osm", text, "longer than 4 MB")


def test_a_history_in_pbf_without_its_mark_is_read(tmp_path: Path) -> None:
    older = '<way id="102" version="1"><nd ref="1"/><nd ref="2"/><tag k="building" v="yes"/></way>'
    newer = TEXT.replace('<way id="102">', '<way id="102" version="2">')
    (tmp_path / "a.osm").write_text(newer.replace('<way id="102"', f'{older}<way id="102"'))
    with osmium.SimpleWriter(str(tmp_path / "a.osm.pbf")) as writer:
        for thing in osmium.FileProcessor(str(tmp_path / "a.osm")):
            writer.add(thing)
    whole(read_osm(OsmSource(path=tmp_path / "a.osm.pbf")))


# --- the boundary -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "does not fit into memory"),
        (RecursionError("deep"), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), "iconv"),
        (shapely.errors.GEOSException("TopologyException: x\ny"), "a shape in it"),
        (RuntimeError("PBF error: unexpected EOF"), "cut off"),
        (KeyError("a"), "not readable as a map file"),
        (ValueError(""), "ValueError"),
    ],
)
def test_what_a_library_raises_becomes_one_line(error: Exception, says: str) -> None:
    with pytest.raises(MaptileError, match=says) as found, one_line("a.osm"):
        raise error
    assert found.value.__cause__ is error
    assert "\n" not in str(found.value)
    assert str(found.value).startswith("a.osm: ")
