"""OSM files as their programs write them: in no order, with gaps, bounds and truth values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import osmium
import pytest
import shapely
from made_osm import OsmXml, box, hamlet

from data_prep.errors import MaptileError
from data_prep.osm import files
from data_prep.osm.footprints import OsmData, read_osm
from data_prep.osm.rings import swapped_axes
from data_prep.osm.source import OsmSource

OBJECT = re.compile(r"<node [^>]*/>|<(way|relation) .*?</\1>", re.DOTALL)
HISTORY = b"\x22\x15HistoricalInformation"
"""A history file says this in its header."""
ASK = "ask Overpass for them: out body; >; out skel; or out geom;"


def parts(osm: OsmXml) -> list[str]:
    """The objects of a file, one text each."""
    return [found[0] for found in OBJECT.finditer(osm.text())]


def read(path: Path, objects: list[str] | None = None, head: str = "") -> OsmData:
    if objects is not None:
        path.write_text(f'<osm version="0.6">{head}{"".join(objects)}</osm>', encoding="utf-8")
    return read_osm(OsmSource(path=path))


def read_pbf(folder: Path, objects: list[str], *, is_sorted: bool = False) -> OsmData:
    """What is read from a PBF file with these objects; its header may say that they are sorted."""
    text, path = folder / "source.osm", folder / "map.osm.pbf"
    text.write_text(f'<osm version="0.6">{"".join(objects)}</osm>', encoding="utf-8")
    header = osmium.io.Header()
    if is_sorted:
        header.set("sorting", "Type_then_ID")
    file = osmium.io.File(str(path), "osh.pbf,pbf_compression=none")
    with osmium.SimpleWriter(file, header=header, overwrite=True) as writer:
        for one in osmium.FileProcessor(str(text)):
            writer.add(one)
    # osmium writes the marks of deleted objects only into history files: the name of the feature
    # is moved from those that are required (field 4) to those that are optional (field 5).
    content = path.read_bytes()
    assert content.count(HISTORY) == 1
    path.write_bytes(content.replace(HISTORY, b"\x2a" + HISTORY[1:]))
    return read(path)


def read_json(path: Path, elements: list[dict[str, Any]]) -> OsmData:
    path.write_text(json.dumps({"version": 0.6, "osm3s": {}, "elements": elements}), "utf-8")
    return read(path)


def same(found: OsmData, expected: OsmData) -> None:
    for name in ("buildings", "roads"):
        one, other = (
            np.sort(np.where(np.isnan(values := table[column].to_numpy(float)), -1, values))
            for table, column in (
                (data, "height" if name == "buildings" else "width")
                for data in (getattr(found, name), getattr(expected, name))
            )
        )
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(
        np.sort(found.buildings.area), np.sort(expected.buildings.area), rtol=1e-4
    )
    np.testing.assert_allclose(
        np.sort(found.roads.length), np.sort(expected.roads.length), rtol=1e-4
    )
    assert found.dropped == expected.dropped


def ways_first(objects: list[str]) -> list[str]:
    return sorted(objects, key=lambda one: one.startswith("<node"))


def some_nodes_last(objects: list[str]) -> list[str]:
    return objects[2:] + objects[:2]


def nodes_backwards(objects: list[str]) -> list[str]:
    nodes = [one for one in objects if one.startswith("<node")]
    return [*reversed(nodes), *objects[len(nodes) :]]


def a_negative_node(objects: list[str]) -> list[str]:
    return [re.sub(r'(<node id|<nd ref)="2"', r'\1="-2"', one) for one in objects]


def a_negative_node_first(objects: list[str]) -> list[str]:
    changed = a_negative_node(objects)
    return [changed[1], changed[0], *changed[2:]]


def negative_ids(objects: list[str]) -> list[str]:
    return [re.sub(r'\b(id|ref)="', r'\1="-', one) for one in objects]


def a_negative_relation(objects: list[str]) -> list[str]:
    return [one.replace('<relation id="', '<relation id="-') for one in objects]


def versions_of_ways(objects: list[str]) -> list[str]:
    return [
        written
        for one in objects
        for written in (
            [
                one.replace("<way ", '<way version="1" ').replace("12.5", "3"),
                one.replace("<way ", '<way version="2" '),
            ]
            if one.startswith("<way")
            else [one]
        )
    ]


def versions_of_a_node(objects: list[str]) -> list[str]:
    older = re.sub(r'lat="[^"]*"', 'lat="51.7"', objects[0])
    newer = objects[0].replace("<node ", '<node version="2" ')
    return [older.replace("<node ", '<node version="1" '), newer, *objects[1:]]


def a_deleted_way(objects: list[str]) -> list[str]:
    house = next(one for one in objects if "12.5" in one)
    gone = re.sub(r'<way id="\d+"', '<way id="400" version="2" visible="false"', house)
    at = next(k for k, one in enumerate(objects) if one.startswith("<relation"))
    return [*objects[:at], gone, *objects[at:]]


CHANGES = (
    *(ways_first, some_nodes_last, nodes_backwards, a_negative_node, a_negative_node_first),
    *(negative_ids, a_negative_relation, versions_of_ways, versions_of_a_node, a_deleted_way),
)
"""Changes of a file's objects that leave the map the same."""


@pytest.mark.parametrize("is_sorted", [False, True], ids=["", "said to be sorted"])
@pytest.mark.parametrize("change", CHANGES)
def test_objects_of_a_pbf_file_may_be_in_no_order(
    tmp_path: Path, change: Callable[[list[str]], list[str]], is_sorted: bool
) -> None:
    plain = read_pbf(tmp_path, parts(hamlet()))
    assert len(plain.buildings) == 3
    same(read_pbf(tmp_path, change(parts(hamlet())), is_sorted=is_sorted), plain)


@pytest.mark.parametrize("change", [some_nodes_last, ways_first, a_negative_node, negative_ids])
def test_nodes_of_a_large_pbf_file_are_found_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], list[str]]
) -> None:
    monkeypatch.setattr(files, "FIRST_NODES", 0)
    objects = parts(hamlet())
    missing = [one for one in objects if not one.startswith('<node id="9"')]
    plain = read_pbf(tmp_path, missing)
    assert plain.dropped == {"buildings cut by the edge of the extract": 1}
    same(read_pbf(tmp_path, change(missing), is_sorted=True), plain)


@pytest.mark.parametrize("change", [list, some_nodes_last, ways_first, nodes_backwards])
def test_nodes_in_no_order_are_not_put_in_order_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[list[str]], list[str]]
) -> None:
    monkeypatch.setattr(files, "standing", None)
    assert len(read_pbf(tmp_path, change(parts(hamlet()))).buildings) == 3


def varint(number: int, *, signed: bool = False) -> bytes:
    number = (number << 1) ^ (number >> 63) if signed else number
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def o5m(nodes: dict[int, tuple[float, float]], ways: dict[int, list[int]], order: str) -> bytes:
    """An o5m file of nodes and houses, the kinds in this order."""

    def dataset(kind: int, content: bytes) -> bytes:
        return bytes([kind]) + varint(len(content)) + content

    parts, last = b"", 0
    tags = b"".join(b"\0%s\0%s\0" % pair for pair in [(b"building", b"yes")])
    for kind in order:
        east = north = node = 0
        parts, last = parts + b"\xff", 0
        for number, place in (nodes if kind == "n" else ways).items():
            content = varint(number - last, signed=True) + b"\0"
            last = number
            if isinstance(place, list):
                refs = b""
                for ref in place:
                    refs, node = refs + varint(ref - node, signed=True), ref
                parts += dataset(0x11, content + varint(len(refs)) + refs + tags)
                continue
            y, x = (round(degrees * 1e7) for degrees in place)
            content += varint(x - east, signed=True) + varint(y - north, signed=True)
            parts, east, north = parts + dataset(0x10, content), x, y
    return b"\xff\xe0\x04o5m2" + parts + b"\xfe"


@pytest.mark.parametrize("order", ["nw", "wn"])
@pytest.mark.parametrize("sign", [1, -1])
def test_objects_of_an_o5m_file_may_be_in_no_order(tmp_path: Path, order: str, sign: int) -> None:
    osm = OsmXml()
    for k in range(3):
        osm.building(box(30 * k, 0, 30 * k + 12, 9))
    nodes = {sign * number: osm.degrees(point) for point, number in osm.nodes.items()}
    ways = {sign * number: [sign * ref for ref in refs] for number, refs, _ in osm.ways}
    (tmp_path / "map.o5m").write_bytes(o5m(nodes, ways, order))
    assert read(tmp_path / "map.o5m").buildings.area.tolist() == pytest.approx([108] * 3, rel=2e-3)


@pytest.mark.parametrize("change", [list, ways_first, negative_ids])
def test_a_pbf_file_without_nodes_names_a_remedy(
    tmp_path: Path, change: Callable[[list[str]], list[str]]
) -> None:
    bare = [one for one in parts(hamlet()) if not one.startswith("<node")]
    with pytest.raises(MaptileError, match="osmium getid -r") as error:
        read_pbf(tmp_path, change(bare))
    assert "Overpass" not in str(error.value)
    assert "map.osm.pbf" in str(error.value)


def test_overpass_is_asked_for_the_nodes_of_its_answer(tmp_path: Path) -> None:
    bare = [one for one in parts(hamlet()) if not one.startswith("<node")]
    with pytest.raises(MaptileError, match=re.escape(ASK)):
        read(tmp_path / "map.osm", bare)
    with pytest.raises(MaptileError, match=re.escape(ASK)) as error:
        read(tmp_path / "map.osm", ways_first(bare)[::-1])
    assert str(error.value).startswith(f"{tmp_path / 'map.osm'}: ")


@pytest.mark.parametrize("longitude", [0.1, 1, 3, 8.39, 20, 35, 60, 65, 77, 85])
@pytest.mark.parametrize("side", [-1, 1])
def test_walls_betray_swapped_axes_at_any_longitude(longitude: float, side: int) -> None:
    houses = []
    for k in range(12):
        house = shapely.affinity.rotate(shapely.box(0, 0, 20, 10), 30 * k + 10)
        metres = shapely.get_coordinates(house) + [40 * k, 0]
        degrees = metres / 111_000 / [np.cos(np.radians(51)), 1] + [side * longitude, 51]
        houses.append(shapely.Polygon(degrees))
    right = np.array(houses, object)
    swapped = shapely.transform(right, lambda xy: xy[:, ::-1])
    assert not swapped_axes(right)
    assert swapped_axes(swapped)


TRUTHS = {
    "building": ["true", "1", "TRUE", True, 1],
    "tunnel": ["false", "0", "No", False, 0, 0.0, None],
}
"""How programs write yes and no."""


def tagged(highway: str, more: dict[str, Any], building: Any = "yes") -> list[dict[str, Any]]:
    """Two houses, one of them demolished, and a street as elements of JSON."""
    osm = OsmXml()
    houses = [osm.building(box(30 * k, 0, 30 * k + 12, 9)) for k in range(2)]
    street = osm.way([(0, 20), (60, 20)])
    nodes: list[dict[str, Any]] = []
    for point, number in osm.nodes.items():
        latitude, longitude = osm.degrees(point)
        nodes.append({"type": "node", "id": number, "lat": latitude, "lon": longitude})
    tags: dict[int, dict[str, Any]] = {
        houses[0]: {"building": building} | more,
        houses[1]: {"building": "no" if isinstance(building, str) else not building},
        street: {"highway": highway} | more,
    }
    ways = [
        {"type": "way", "id": name, "nodes": refs, "tags": tags[name]} for name, refs, _ in osm.ways
    ]
    return nodes + ways


def as_xml(elements: list[dict[str, Any]]) -> list[str]:
    lines = []
    for one in elements:
        if one["type"] == "node":
            lines.append(f'<node id="{one["id"]}" lat="{one["lat"]}" lon="{one["lon"]}"/>')
            continue
        refs = "".join(f'<nd ref="{ref}"/>' for ref in one["nodes"])
        tags = "".join(f'<tag k="{key}" v="{value}"/>' for key, value in one["tags"].items())
        lines.append(f'<way id="{one["id"]}">{refs}{tags}</way>')
    return lines


@pytest.mark.parametrize("key", TRUTHS)
def test_truth_values_are_tags(tmp_path: Path, key: str) -> None:
    for value in TRUTHS[key]:
        more = {"indoor": value, key: value} if key == "tunnel" else {}
        elements = tagged("residential", more, "yes" if key == "tunnel" else value)
        found = [read_json(tmp_path / "map.json", elements)]
        if isinstance(value, str):
            found += [read(tmp_path / "map.osm", as_xml(elements))]
            found += [read_pbf(tmp_path, as_xml(elements))]
        assert [(len(data.buildings), len(data.roads)) for data in found] == [(1, 1)] * len(found)
    for area in ("true", True, 1, "yes"):
        data = read_json(tmp_path / "map.json", tagged("service", {"area": area}))
        assert data.roads.empty


@pytest.mark.parametrize(
    ("highway", "expected"),
    [
        ("residential;service", "residential"),
        ("construction|service", "service"),
        ("a, path", "path"),
    ],
)
def test_of_several_classes_of_a_road_the_first_counts(
    tmp_path: Path, highway: str, expected: str
) -> None:
    elements = tagged(highway, {"name": "A; B"})
    found = [read_json(tmp_path / "map.json", elements)]
    found += [read(tmp_path / "map.osm", as_xml(elements)), read_pbf(tmp_path, as_xml(elements))]
    for data in found:
        assert data.roads[["highway", "name"]].to_numpy().tolist() == [[expected, "A; B"]]


FAR = 'minlat="51" minlon="-2" maxlat="52" maxlon="-1"'


@pytest.mark.parametrize("mark", ["", '<node id="-1" lat="51.75" lon="-1.26"/>'])
def test_bounds_of_an_object_are_not_those_of_the_map(tmp_path: Path, mark: str) -> None:
    objects = parts(hamlet())
    plain = read(tmp_path / "plain.osm", objects)
    route = f'<relation id="900"><bounds {FAR}/><tag k="type" v="route"/></relation>'
    objects = [re.sub(r"(<way [^>]*>)", rf"\1<bounds {FAR}/>", one) for one in objects]
    found = read(tmp_path / "map.osm", [*objects, mark, route])
    np.testing.assert_allclose(found.bounds, plain.bounds, atol=0.01)
    whole = read(tmp_path / "map.osm", [*objects, mark, route], f"<bounds {FAR}/>")
    assert np.ptp(np.reshape(whole.bounds, (2, 2)), axis=0).min() > 5_000


def test_bounds_of_elements_are_not_those_of_the_map(tmp_path: Path) -> None:
    plain = read_json(tmp_path / "plain.json", tagged("service", {}))
    bounds = {"minlat": 51, "minlon": -2, "maxlat": 52, "maxlon": -1}
    elements = [one | {"bounds": bounds} for one in tagged("service", {})]
    np.testing.assert_array_equal(read_json(tmp_path / "map.json", elements).bounds, plain.bounds)


def test_a_ring_closes_where_its_ends_have_one_position(tmp_path: Path) -> None:
    osm = hamlet()
    plain = read(tmp_path / "plain.osm", parts(osm))
    objects = parts(osm)
    nodes = {one.split('"')[1]: one for one in objects if one.startswith("<node")}
    twins = []
    for k, one in enumerate(objects):
        refs = re.findall(r'<nd ref="(\d+)"/>', one)
        if refs and refs[0] == refs[-1]:
            twin = str(7000 + k)
            twins.append(nodes[refs[0]].replace(f'id="{refs[0]}"', f'id="{twin}"'))
            start, _, end = one.rpartition(f'ref="{refs[0]}"')
            objects[k] = f'{start}ref="{twin}"{end}'
    assert len(twins) == 4
    same(read(tmp_path / "map.osm", [*nodes.values(), *twins, *objects[len(nodes) :]]), plain)


def test_multipolygons_without_ways_are_counted(tmp_path: Path) -> None:
    osm = hamlet()
    ring = osm.way(box(200, 0, 220, 20))
    osm.relation([(ring, "outer")])
    tags = '<tag k="type" v="multipolygon"/><tag k="building" v="yes"/></relation>'
    more = [
        f'<relation id="900"><member type="relation" ref="501" role="outer"/>{tags}',
        f'<relation id="901"><member type="node" ref="1" role=""/>{tags}',
        f'<relation id="902"><member type="way" ref="{ring}" role="inner"/>{tags}',
    ]
    data = read(tmp_path / "map.osm", [*parts(osm), *more])
    assert len(data.buildings) == 3
    assert data.dropped == {"multipolygons with a ring that does not close": 3}


BOX = {"minlat": 51.75, "minlon": -1.26, "maxlat": 51.76, "maxlon": -1.25}
HOUSE = {"building": "yes"}
MULTIPOLYGON: dict[str, Any] = {
    "type": "relation",
    "id": 5,
    "members": [{"type": "way", "ref": 7, "role": "outer"}],
    "tags": {"type": "multipolygon", "building": "yes"},
}
PARTIAL: dict[str, list[dict[str, Any]]] = {
    "out count": [{"type": "count", "id": 0, "tags": {"ways": "3", "building": "yes"}}],
    "out ids": [{"type": "way", "id": 1}, {"type": "relation", "id": 2}],
    "out ids of nodes": [{"type": "node", "id": 1}],
    "out ids bb": [{"type": "way", "id": 1, "bounds": BOX}],
    "out tags": [{"type": "way", "id": 1, "tags": HOUSE}],
    "out tags bb": [{"type": "way", "id": 1, "bounds": BOX, "tags": HOUSE}],
    "out bb": [{"type": "way", "id": 1, "bounds": BOX, "nodes": [1, 2, 3, 1], "tags": HOUSE}],
    "out center": [{"type": "way", "id": 1, "center": {"lat": 51.75, "lon": 0}, "tags": HOUSE}],
    "out bb of relations": [MULTIPOLYGON | {"bounds": BOX}],
}
"""Elements of answers without the shapes of their objects."""


def as_answer(one: dict[str, Any]) -> str:
    """An element of an answer as XML."""
    inner = ""
    for name in ("bounds", "center"):
        values = "".join(f' {key}="{value}"' for key, value in one.get(name, {}).items())
        inner += f"<{name}{values}/>" if values else ""
    inner += "".join(f'<nd ref="{ref}"/>' for ref in one.get("nodes", ()))
    for member in one.get("members", ()):
        inner += f'<member type="way" ref="{member["ref"]}" role="{member["role"]}"/>'
    inner += "".join(f'<tag k="{key}" v="{text}"/>' for key, text in one.get("tags", {}).items())
    return f'<{one["type"]} id="{one["id"]}">{inner}</{one["type"]}>'


@pytest.mark.parametrize("query", PARTIAL)
def test_answers_without_shapes_name_the_query(tmp_path: Path, query: str) -> None:
    for form in (".json", ".osm"):
        path = tmp_path / f"map{form}"
        with pytest.raises(MaptileError, match=re.escape(ASK)) as error:
            if form == ".json":
                read_json(path, PARTIAL[query])
            else:
                read(path, [as_answer(one) for one in PARTIAL[query]])
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)


def test_counts_beside_objects_are_skipped(tmp_path: Path) -> None:
    count = PARTIAL["out count"][0]
    assert len(read_json(tmp_path / "a.json", [count, *tagged("path", {})]).buildings) == 1
    assert len(read(tmp_path / "a.osm", [as_answer(count), *as_xml(tagged("", {}))]).buildings) == 1


def test_an_empty_answer_is_another_area(tmp_path: Path) -> None:
    with pytest.raises(MaptileError, match="take another area"):
        read_json(tmp_path / "map.json", [])
    with pytest.raises(MaptileError, match="take another area"):
        read(tmp_path / "map.osm", [])
