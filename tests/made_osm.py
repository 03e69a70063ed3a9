"""Small OSM files with known content, for tests: built in metres, written as OSM XML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from data_prep.geometry import Projection, utm_crs

EAST, NORTH = 620_000.0, 5_736_000.0
"""UTM zone 30 coordinates of the origin of all points, in a field near Oxford."""
UTM = Projection(utm_crs(51.75, -1.26))

Points = Sequence[tuple[float, float]]
Tags = dict[str, str]


def box(west: float, south: float, east: float, north: float) -> Points:
    """Return the closed ring of a rectangle."""
    return [(west, south), (east, south), (east, north), (west, north), (west, south)]


class OsmXml:
    """Builds an OSM file; equal points become one node."""

    def __init__(self, projection: Projection = UTM, east: float = EAST, north: float = NORTH):
        self.projection, self.corner = projection, (east, north)
        self.nodes: dict[tuple[float, float], int] = {}
        self.ways: list[tuple[int, list[int], Tags]] = []
        self.relations: list[tuple[int, list[tuple[int, str]], Tags]] = []
        self.bounds: tuple[float, float, float, float] | None = None

    def way(self, points: Points, **tags: str) -> int:
        """Add a way through ``points`` (metres from the origin); return its id."""
        nodes = [self.nodes.setdefault(point, len(self.nodes) + 1) for point in points]
        self.ways.append((len(self.ways) + 100, nodes, tags))
        return self.ways[-1][0]

    def building(self, points: Points, **tags: str) -> int:
        return self.way(points, **({"building": "yes"} | tags))

    def relation(self, members: list[tuple[int, str]], **tags: str) -> int:
        """Add a multipolygon of (way, role); return its id."""
        name = len(self.relations) + 500
        self.relations.append((name, members, {"type": "multipolygon"} | tags))
        return name

    def degrees(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return the latitude and longitude of a point."""
        world = (self.corner[0] + point[0], self.corner[1] + point[1])
        latitude, longitude = self.projection.inverse(world)
        return float(latitude), (float(longitude) + 180) % 360 - 180

    def text(self, without: Points = (), header: str = "") -> str:
        """Return the file without the nodes at the points ``without``."""
        lines = ['<?xml version="1.0" encoding="UTF-8"?>', '<osm version="0.6">', header]
        if self.bounds is not None:
            south, west = self.degrees(self.bounds[:2])
            north, east = self.degrees(self.bounds[2:])
            lines.append(
                f'<bounds minlat="{south}" minlon="{west}" maxlat="{north}" maxlon="{east}"/>'
            )
        for point, node in self.nodes.items():
            if point not in without:
                latitude, longitude = self.degrees(point)
                lines.append(f'<node id="{node}" lat="{latitude:.9f}" lon="{longitude:.9f}"/>')
        for name, nodes, tags in self.ways:
            lines.append(f'<way id="{name}">')
            lines += [f'<nd ref="{node}"/>' for node in nodes]
            lines += [*_tags(tags), "</way>"]
        for name, members, tags in self.relations:
            lines.append(f'<relation id="{name}">')
            lines += [f'<member type="way" ref="{way}" role="{role}"/>' for way, role in members]
            lines += [*_tags(tags), "</relation>"]
        return "\n".join([*lines, "</osm>"])

    def write(self, path: Path, without: Points = ()) -> Path:
        path.write_text(self.text(without), "utf-8")
        return path


def _tags(tags: Tags) -> list[str]:
    pairs = ((key.replace("__", ":"), value) for key, value in tags.items())
    return [f"<tag k={quoteattr(key)} v={quoteattr(value)}/>" for key, value in pairs]


def hamlet() -> OsmXml:
    """Return 200 m x 150 m with three buildings, one with a courtyard, two roads and a path."""
    osm = OsmXml()
    outer = osm.way(box(20, 20, 80, 70))
    inner = osm.way(box(35, 35, 60, 55))
    osm.relation([(outer, "outer"), (inner, "inner")], building="yes", building__levels="4")
    osm.building(box(100, 20, 130, 50), height="12.5")
    osm.building([(100, 80), (150, 80), (150, 120), (130, 120), (130, 100), (100, 100), (100, 80)])
    osm.way([(0, 10), (200, 10)], highway="residential")
    osm.way([(90, 0), (90, 75), (95, 150)], highway="tertiary", lanes="2")
    osm.way([(20, 75), (80, 90)], highway="footway")
    return osm
