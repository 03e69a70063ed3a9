"""The made-up town as OSM XML: nodes, ways and multipolygon relations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import quoteattr

import numpy as np
import pyproj
from shapely import Polygon

from data_prep.simulate.town.town_plan import TownPlan

LATITUDE = 52.0
"""Latitude of the town's centre, degrees; on land."""

LONGITUDE = 10.5
"""Longitude of the town's centre, degrees; away from the central meridian of its UTM zone."""

GENERATOR = "maptile-loc, a made-up town"
"""Generator that the file names."""

_STAMP = 'version="1" timestamp="2024-01-01T00:00:00Z"'
"""Version and time of every element, so that a seed gives the same bytes on every day."""


def osm_xml(plan: TownPlan) -> str:
    """Return the text of the OSM XML file of a town, in EPSG:4326."""
    return _OsmDocument().text_of(plan)


class _OsmDocument:
    """Nodes, ways and relations, each numbered from 1; equal positions share a node."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[float, float], int] = {}
        self.ways: list[tuple[list[int], dict[str, str]]] = []
        self.relations: list[tuple[list[tuple[int, str]], dict[str, str]]] = []

    def text_of(self, plan: TownPlan) -> str:
        for line, tags in plan.streets + plan.paths:
            self._way(line.coords, tags)
        for area, tags in plan.areas:
            if tags:
                self._way(area.exterior.coords, tags)
        for number, (building, tags) in enumerate(zip(plan.buildings, plan.tags, strict=True)):
            self._building(building, tags, number)
        return "\n".join(self._lines()) + "\n"

    def _building(self, building: Polygon, tags: dict[str, str], number: int) -> None:
        if not building.interiors:
            self._way(building.exterior.coords, tags)
            return
        # The three forms of a multipolygon in real data, in turn: tags also on the outer way, the
        # outer ring split into two ways, and tags on the relation only.
        ring = list(building.exterior.coords)
        half = len(ring) // 2
        if number % 3 == 1:
            outer = [self._way(ring[: half + 1], {}), self._way(ring[half:], {})]
        else:
            outer = [self._way(ring, {"building": "yes"} if number % 3 == 0 else {})]
        inner = [self._way(hole.coords, {}) for hole in building.interiors]
        members = [(way, "outer") for way in outer] + [(way, "inner") for way in inner]
        self.relations.append((members, {"type": "multipolygon", **tags}))

    def _way(self, coordinates: Iterable[tuple[float, float]], tags: dict[str, str]) -> int:
        refs = [self._node(round(x, 2), round(y, 2)) for x, y in coordinates]
        refs = [ref for i, ref in enumerate(refs) if i == 0 or ref != refs[i - 1]]
        self.ways.append((refs, tags))
        return len(self.ways)

    def _node(self, x: float, y: float) -> int:
        return self.nodes.setdefault((x, y), len(self.nodes) + 1)

    def _lines(self) -> Iterator[str]:
        local = pyproj.CRS(f"+proj=tmerc +lat_0={LATITUDE} +lon_0={LONGITUDE} +datum=WGS84")
        to_degrees = pyproj.Transformer.from_crs(local, "EPSG:4326", always_xy=True)
        positions = np.array(list(self.nodes))
        lon, lat = to_degrees.transform(positions[:, 0], positions[:, 1])
        yield "<?xml version='1.0' encoding='UTF-8'?>"
        yield f'<osm version="0.6" generator="{GENERATOR}">'
        yield (
            f'  <bounds minlat="{lat.min():.7f}" minlon="{lon.min():.7f}" '
            f'maxlat="{lat.max():.7f}" maxlon="{lon.max():.7f}"/>'
        )
        for ref, y, x in zip(self.nodes.values(), lat, lon, strict=True):
            yield f'  <node id="{ref}" {_STAMP} lat="{y:.7f}" lon="{x:.7f}"/>'
        for number, (refs, tags) in enumerate(self.ways, 1):
            yield f'  <way id="{number}" {_STAMP}>'
            yield from (f'    <nd ref="{ref}"/>' for ref in refs)
            yield from _tag_lines(tags)
            yield "  </way>"
        for number, (members, tags) in enumerate(self.relations, 1):
            yield f'  <relation id="{number}" {_STAMP}>'
            yield from (
                f'    <member type="way" ref="{way}" role="{role}"/>' for way, role in members
            )
            yield from _tag_lines(tags)
            yield "  </relation>"
        yield "</osm>"


def _tag_lines(tags: dict[str, str]) -> Iterator[str]:
    return (f"    <tag k={quoteattr(key)} v={quoteattr(value)}/>" for key, value in tags.items())
