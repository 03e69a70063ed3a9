"""The online sources: osmnx asks a small server that replaces Overpass and Nominatim."""

from __future__ import annotations

import json
import socket
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import osmnx
import pytest
from made_osm import OsmXml, box, hamlet
from test_osm import assert_same

from data_prep.errors import MaptileError
from data_prep.osm.footprints import OnlineSettings, OsmSource, read_osm

BBOX = (-1.27, 51.75, -1.25, 51.76)


class Server(ThreadingHTTPServer):
    """Returns the answers in ``overpass`` and ``nominatim``; ``asked`` lists the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.overpass: list[tuple[int, bytes]] = []
        self.nominatim: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.hang_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.asked.append((self.path, parse_qs(body)["data"][0], dict(self.headers)))
        time.sleep(self.server.hang_s)
        answers = self.server.overpass
        self.answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))

    def do_GET(self) -> None:
        self.server.asked.append((self.path, "", dict(self.headers)))
        wanted = parse_qs(urlparse(self.path).query)["q"][0]
        found = [place for place in self.server.nominatim if place["name"] == wanted]
        self.answer(200, json.dumps(found).encode())

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def overpass_json(osm: str) -> bytes:
    """Return OSM XML as JSON of Overpass, out of order and with duplicates, which may occur."""
    elements: list[dict[str, Any]] = []
    for item in ElementTree.fromstring(osm):
        if item.tag not in {"node", "way", "relation"}:
            continue
        element: dict[str, Any] = {"type": item.tag, "id": int(item.get("id", ""))}
        if item.tag == "node":
            element |= {key: float(item.get(key, "")) for key in ("lat", "lon")}
        tags = {tag.get("k"): tag.get("v") for tag in item.iter("tag")}
        element |= {"tags": tags} if tags else {}
        if item.tag == "way":
            element["nodes"] = [int(node.get("ref", "")) for node in item.iter("nd")]
        if item.tag == "relation":
            element["members"] = [
                {"type": m.get("type"), "ref": int(m.get("ref", "")), "role": m.get("role")}
                for m in item.iter("member")
            ]
        elements.append(element)
    stamp = {"timestamp_osm_base": "2026-01-02T03:04:05Z"}
    return json.dumps(
        {"version": 0.6, "osm3s": stamp, "elements": elements[::-1] + elements[:3]}
    ).encode()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


@pytest.fixture
def online(server: Server, tmp_path: Path) -> OnlineSettings:
    return OnlineSettings(
        overpass_url=f"{server.url}/api",
        nominatim_url=f"{server.url}/",
        deadline_s=20,
        cache=tmp_path / "cache",
    )


def test_the_same_tables_as_from_a_file(server, online, tmp_path):
    osm = hamlet()
    outer, inner = osm.building(box(160, 20, 190, 60)), osm.way(box(170, 30, 180, 50))
    osm.relation([(outer, "outer"), (inner, "inner")], building="yes")
    osm.ways[-1][2]["name"] = 'R&D "yard" <1>'
    server.overpass = [(200, overpass_json(osm.text()))]
    data = read_osm(OsmSource(bbox=BBOX), online=online)
    assert_same(data, read_osm(OsmSource(path=osm.write(tmp_path / "a.osm"))))
    assert data.source == "OpenStreetMap, bbox -1.27,51.75,-1.25,51.76"
    assert data.source_date == "2026-01-02T03:04:05Z"
    # The mapped area is the requested one, not the extent of the answer.
    west, south, east, north = data.bounds
    assert (east - west, north - south) == pytest.approx((1407, 1146), abs=5)

    [(path, query, headers)] = server.asked
    assert path == "/api/interpreter"
    assert "way['building']" in query
    assert "way['highway']" in query
    assert "multipolygon" not in query
    assert "[date:" not in query
    assert headers["User-Agent"].startswith("maptile-loc/")
    assert "OSMnx" not in str(headers)


@pytest.mark.realdata
def test_a_real_extract(server, online, data_dir):
    path = data_dir / "oxford/oxford.osm"
    server.overpass = [(200, overpass_json(path.read_text("utf-8")))]
    source = OsmSource(bbox=(-1.2691, 51.7553, -1.2543, 51.7643), date="2015-02-25")
    data = read_osm(source, online=online)
    expected = read_osm(OsmSource(path=path))
    assert_same(data, expected)
    assert data.bounds == pytest.approx(expected.bounds)


def test_the_map_as_of_a_day(server, online):
    server.overpass = [(200, overpass_json(hamlet().text()))]
    data = read_osm(OsmSource(bbox=BBOX, date="2014-11-28"), online=online)
    assert data.source_date == "2014-11-28"
    query = server.asked[0][1]
    assert '[date:"2014-11-28T00:00:00Z"]' in query
    # In 2014, relations of many courtyards had no tags of their own.
    assert "relation['type'='multipolygon']" in query
    read_osm(OsmSource(bbox=BBOX, date="2019-11-28"), online=online)
    assert "multipolygon" not in server.asked[1][1]


def test_the_second_time_comes_from_the_cache(server, online):
    server.overpass = [(200, overpass_json(hamlet().text()))]
    source = OsmSource(bbox=BBOX)
    first = read_osm(source, online=online)
    server.overpass = [(500, b"")]
    assert_same(read_osm(source, online=online), first)
    assert len(server.asked) == 1


def test_point_and_radius(server, online):
    server.overpass = [(200, overpass_json(hamlet().text()))]
    data = read_osm(OsmSource(point=(51.76, -1.26), radius_m=400.0), online=online)
    west, south, east, north = data.bounds
    # A square of 800 m, rotated by 1.4 degrees against the grid.
    assert (east - west, north - south) == pytest.approx((820, 820), abs=2)


def test_places(server, online):
    server.overpass = [(200, overpass_json(hamlet().text()))]
    ring = [[-1.27, 51.75], [-1.25, 51.75], [-1.26, 51.76], [-1.27, 51.75]]
    common = {"importance": 1.0, "lat": "51.755", "lon": "-1.26"}
    common["boundingbox"] = ["51.75", "51.76", "-1.27", "-1.25"]
    server.nominatim = [
        {"name": "Hamlet", "geojson": {"type": "Polygon", "coordinates": [ring]}, **common},
        {"name": "Rock", "geojson": {"type": "Point", "coordinates": [-1.26, 51.75]}, **common},
    ]
    data = read_osm(OsmSource(place="Hamlet"), online=online)
    assert data.source == "OpenStreetMap, Hamlet"
    assert len(data.buildings) == 3
    assert data.bounds[2] - data.bounds[0] == pytest.approx(1407, abs=5)
    with pytest.raises(MaptileError, match=r"'Rock': known as a point.*--point"):
        read_osm(OsmSource(place="Rock"), online=online)
    with pytest.raises(MaptileError, match="'Atlantis': no such place known"):
        read_osm(OsmSource(place="Atlantis"), online=online)


def test_nothing_there(server, online):
    server.overpass = [(200, overpass_json("<osm/>"))]
    with pytest.raises(MaptileError, match=r"bbox .*no buildings in it"):
        read_osm(OsmSource(bbox=BBOX), online=online)


def test_no_network(server, online):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = online.model_copy(
            update={"overpass_url": f"http://127.0.0.1:{closed.getsockname()[1]}/api"}
        )
        with pytest.raises(MaptileError, match=r"127\.0\.0\.1:\d+: cannot be reached"):
            read_osm(OsmSource(bbox=BBOX), online=nobody)


@pytest.mark.parametrize("status", [429, 504])
def test_too_busy_until_the_deadline(server, online, status):
    """osmnx alone would repeat the request every 55 s, without a limit."""
    server.overpass = [(status, b"")]
    with pytest.raises(MaptileError, match=rf"too busy.*{status}"):
        read_osm(OsmSource(bbox=BBOX), online=online)
    assert len(server.asked) == 1


def test_busy_once(server, online, monkeypatch):
    server.overpass = [(429, b""), (200, overpass_json(hamlet().text()))]
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    data = read_osm(OsmSource(bbox=BBOX), online=online.model_copy(update={"deadline_s": 100.0}))
    assert len(data.buildings) == 3
    assert 55 in slept


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((406, b"who are you"), r"refuses the request \(406"),
        ((500, b'{"elements": []}'), r"refuses the request \(500"),
        ((200, b"<html>busy</html>"), "no usable answer"),
        (
            (200, b'{"elements": [], "remark": "runtime error: Query timed out"}'),
            "Query timed out; take a smaller area",
        ),
    ],
)
def test_useless_answers(server, online, answer, message):
    server.overpass = [answer]
    with pytest.raises(MaptileError, match=message) as error:
        read_osm(OsmSource(bbox=BBOX), online=online)
    assert "\n" not in str(error.value)
    # The useless answer was not stored.
    server.overpass = [(200, overpass_json(hamlet().text()))]
    assert len(read_osm(OsmSource(bbox=BBOX), online=online).buildings) == 3


def test_a_server_that_never_answers(server, online):
    server.hang_s, server.overpass = 3.0, [(200, b"{}")]
    impatient = online.model_copy(update={"deadline_s": 0.5})
    with pytest.raises(MaptileError, match="no answer within"):
        read_osm(OsmSource(bbox=BBOX), online=impatient)


def test_too_large_an_area_is_not_asked_for(server, online):
    with pytest.raises(MaptileError, match="download an extract"):
        read_osm(OsmSource(bbox=(-2.0, 51.0, -1.0, 52.0)), online=online)
    assert server.asked == []


def test_osmnx_is_left_as_it_was(server, online):
    before = dict(vars(osmnx.settings))
    resolve = socket.getaddrinfo
    server.overpass = [(200, overpass_json(hamlet().text()))]
    read_osm(OsmSource(bbox=BBOX), online=online)
    assert dict(vars(osmnx.settings)) == before
    assert socket.getaddrinfo is resolve


def test_the_json_has_the_content_of_the_file():
    """The server's JSON holds every way with its nodes and tags."""
    osm = OsmXml()
    osm.building(box(0, 0, 10, 10), name="A & B")
    answer = json.loads(overpass_json(osm.text()))
    way = next(e for e in answer["elements"] if e["type"] == "way")
    assert way["tags"] == {"building": "yes", "name": "A & B"}
    assert len(way["nodes"]) == 5
