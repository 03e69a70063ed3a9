"""OSM XML as Overpass, JOSM and history tools write it."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import numpy as np
import pytest
import shapely

from data_prep.errors import MaptileError
from data_prep.osm import plain_xml
from data_prep.osm.footprints import OsmData, read_osm
from data_prep.osm.plain_xml import is_odd
from data_prep.osm.rings import assembled
from data_prep.osm.source import OsmSource

CORNERS = [(51.75, -1.25), (51.75, -1.2497), (51.7502, -1.2497), (51.7502, -1.25)]


def node(number: int, east: float = 0.0, more: str = "") -> str:
    latitude, longitude = CORNERS[(number - 1) % 4]
    return f'<node id="{number}" lat="{latitude}" lon="{longitude + east:.6f}"{more}/>'


def house(number: int, first: int, more: str = "", tags: str = "") -> str:
    nodes = "".join(f'<nd ref="{n}"/>' for n in (first, first + 1, first + 2, first + 3, first))
    inner = tags or '<tag k="building" v="yes"/>'
    return f'<way id="{number}"{more}>{nodes}{inner}</way>'


def objects() -> list[str]:
    """Three houses, and a road through the first one's corners."""
    nodes = [node(4 * k + c + 1, 0.001 * k) for k in range(3) for c in range(4)]
    ways = [house(100 + k, 4 * k + 1) for k in range(3)]
    road = '<way id="200"><nd ref="1"/><nd ref="5"/><tag k="highway" v="service"/></way>'
    return [*nodes, *ways, road]


def read(path: Path, parts: list[str], head: str = "") -> OsmData:
    path.write_text(f'<osm version="0.6">{head}{"".join(parts)}</osm>', encoding="utf-8")
    return read_osm(OsmSource(path=path))


def same(found: OsmData, expected: OsmData) -> None:
    assert len(found.buildings) == len(expected.buildings)
    np.testing.assert_allclose(
        np.sort(found.buildings.area), np.sort(expected.buildings.area), rtol=1e-6
    )
    np.testing.assert_allclose(found.roads.length, expected.roads.length, rtol=1e-6)
    np.testing.assert_allclose(found.bounds, expected.bounds, atol=0.01)
    assert found.source_date == expected.source_date


def test_the_order_of_objects_does_not_matter(tmp_path: Path) -> None:
    parts = objects()
    bounds = '<bounds minlat="51.7" minlon="-1.26" maxlat="51.76" maxlon="-1.2"/>'
    head = f'<meta osm_base="2024-05-01T00:00:00Z"/>{bounds}'
    plain = read(tmp_path / "plain.osm", parts, head)
    assert not is_odd(tmp_path / "plain.osm")
    for seed in range(3):
        mixed = random.Random(seed).sample(parts, len(parts))
        same(read(tmp_path / "mixed.osm", mixed, head), plain)
    packed = tmp_path / "packed.osm.gz"
    packed.write_bytes(gzip.compress((tmp_path / "mixed.osm").read_bytes()))
    same(read_osm(OsmSource(path=packed)), plain)


def test_new_and_deleted_objects_of_an_editor(tmp_path: Path) -> None:
    parts = objects()
    plain = read(tmp_path / "plain.osm", parts)
    negative = [part.replace('="1', '="-1').replace('lat="-', 'lat="') for part in parts]
    # Ids and references that begin with 1 are negative now, and so are longitudes as before.
    negative = [part.replace('lon="--', 'lon="-') for part in negative]
    same(read(tmp_path / "new.osm", negative), plain)
    for mark in (' action="delete"', " action='delete'", ' visible="false"'):
        deleted = [p.replace('<way id="101"', f'<way id="101"{mark}') for p in parts]
        assert len(read(tmp_path / "deleted.osm", deleted).buildings) == 2


def test_positions_in_ways_are_used_where_nodes_are_missing(tmp_path: Path) -> None:
    plain = read(tmp_path / "plain.osm", objects())
    ways = []
    for part in objects():
        if part.startswith("<way"):
            for k in range(12):
                latitude, longitude = CORNERS[k % 4]
                where = f'lat="{latitude}" lon="{longitude + 0.001 * (k // 4):.6f}"'
                part = part.replace(f'<nd ref="{k + 1}"/>', f'<nd ref="{k + 1}" {where}/>')
            ways.append(part)
    same(read(tmp_path / "geom.osm", ways), plain)


@pytest.mark.parametrize("chunk", [64, 1 << 20])
def test_of_a_history_the_newest_versions_stand(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_xml, "CHUNK", chunk)
    parts = objects()
    older = house(100, 1, ' version="1"', '<tag k="building" v="yes"/><tag k="height" v="3"/>')
    newer = house(100, 1, ' version="2"', '<tag k="building" v="yes"/><tag k="height" v="9"/>')
    gone = (
        house(101, 5, ' version="1" visible="true"'),
        '<way id="101" version="2" visible="false"/>',
    )
    mixed = [*parts[:12], older, newer, *gone, *parts[14:]]
    data = read(tmp_path / "history.osm", mixed)
    assert len(data.buildings) == 2
    assert data.buildings["height"].tolist()[0] == 9
    doubled = [*parts[:12], older, newer, *parts[13:]]  # nothing is deleted
    assert len(read(tmp_path / "doubled.osm", doubled).buildings) == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("<osm ", "<osmChange "), "change file"),
        (("<way", "<remark> runtime error: Query timed out </remark><way"), "Query timed out"),
        (('lat="51.75"', 'lat="51,75"'), "decimal point"),
        (('lat="51.75"', 'lat=""'), "decimal point"),
    ],
)
def test_what_is_no_whole_map_is_refused(
    tmp_path: Path, change: tuple[str, str], says: str
) -> None:
    text = f'<osm version="0.6">{"".join(objects())}</osm>'.replace(*change, 1)
    text = text.replace("</osm>", "</osmChange>") if "Change" in change[1] else text
    (tmp_path / "map.osm").write_text(text, encoding="utf-8")
    with pytest.raises(MaptileError, match=says) as error:
        read_osm(OsmSource(path=tmp_path / "map.osm"))
    assert "\n" not in str(error.value)


ODD = {
    "01-overpass-ways-before-nodes/export.osm": (12, 1),
    "01-overpass-ways-before-nodes/same_nodes_first.osm": (12, 1),
    "02-josm-negative-ids-and-delete/session.osm": (11, None),
    "02-josm-negative-ids-and-delete/mixed.osm": (14, None),
    "02-josm-negative-ids-and-delete/downloaded_then_deleted.osm": (11, None),
    "03-history-file/block.osh.osm": (10, None),
    "03-history-file/block_named.osm": (10, None),
    "03-history-file/block.osh.pbf": "time-filter",
    "04-overpass-remark-in-file/interpreter.osm": "the server says",
    "05-osmchange/change.osm": "change file",
    "05-osmchange/change.osc": "change file",
    "13-multipolygon-oddities/rings.osm": (24, 1),
    "29-odd-xml/control_char.osm": (12, 1),
    "29-odd-xml/no_version.osm": (12, 1),
    "29-odd-xml/utf16.osm": (12, 1),
    "29-odd-xml/lon_214_used.osm": (11, 1),
    "29-odd-xml/comma_decimal.osm": "decimal point",
    "29-odd-xml/empty_lat_lon.osm": "decimal point",
}
"""Files of the odd cases: how many buildings and roads they hold, or what is said of them."""


@pytest.mark.realdata
@pytest.mark.parametrize("name", ODD)
def test_odd_files_are_read_as_they_mean_it(data_dir: Path, name: str) -> None:
    expected, source = ODD[name], OsmSource(path=data_dir / "odd" / name)
    if isinstance(expected, str):
        with pytest.raises(MaptileError, match=expected):
            read_osm(source)
        return
    data = read_osm(source)
    assert len(data.buildings) == expected[0]
    if expected[1] is not None:
        assert len(data.roads) == expected[1]


def ring(*corners: tuple[float, float]) -> shapely.Polygon:
    return shapely.Polygon(corners)


def test_rings_of_multipolygons_may_overlap_repeat_or_stick_out() -> None:
    whole = ring((0, 0), (10, 0), (10, 10), (0, 10))
    turned = ring((10, 10), (0, 10), (0, 0), (10, 0))
    court = ring((2, 2), (8, 2), (8, 8), (2, 8))
    island = ring((4, 4), (6, 4), (6, 6), (4, 6))
    wing = ring((5, 5), (15, 5), (15, 8), (5, 8))
    beyond = ring((8, 2), (12, 2), (12, 4), (8, 4))
    assert assembled([whole, turned], []).area == 100
    assert assembled([whole], [court]).area == 64
    assert assembled([whole, court], []).area == 64  # an inner ring whose role says outer
    assert assembled([whole, island], [court]).area == 68
    assert assembled([whole, wing], []).area == 115
    assert assembled([whole], [beyond]).area == 96
    assert assembled([whole], [court, court]).area == 64


def test_inner_rings_that_overlap_are_one_courtyard() -> None:
    whole = ring((0, 0), (10, 0), (10, 10), (0, 10))
    left, right = ring((1, 1), (6, 1), (6, 5), (1, 5)), ring((4, 1), (9, 1), (9, 5), (4, 5))
    assert assembled([whole], [left, right]).area == 100 - 8 * 4
    touching = ring((6, 1), (9, 1), (9, 5), (6, 5))
    assert assembled([whole], [left, touching]).area == 100 - 8 * 4
    rows = [ring((k, 0), (k + 1.5, 0), (k + 1.5, 1), (k, 1)) for k in range(3000)]
    assert assembled(rows, []).area == 3000.5
