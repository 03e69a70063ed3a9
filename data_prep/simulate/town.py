"""A small made-up town, for the demo and the tests: about 1 km2, written as real OSM XML.

Curved streets on a warped grid, cut by a winding avenue; closed blocks with courtyards in the
middle, terraces around them, detached houses outside, a park, a church, a school and other odd
shapes. No two blocks are alike, so that a place can be told from its buildings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pyproj
import shapely
from shapely import LineString, MultiPolygon, Point, Polygon, affinity
from shapely.geometry.base import BaseGeometry

from data_prep.files import atomic_file
from data_prep.geometry import Array

LATITUDE, LONGITUDE = 52.0, 10.5
"""Where the town's middle is said to be: on land, and away from its UTM zone's central meridian."""
SIZE_M = 1000.0

_WIDTHS = {"secondary": 10.0, "tertiary": 8.0, "residential": 6.0, "living_street": 5.0}
_PAVEMENT_M = 2.5


@dataclass
class _Town:
    """What has been built so far; coordinates are metres east and north of the town's middle."""

    rng: np.random.Generator
    streets: list[tuple[LineString, dict[str, str]]] = field(default_factory=list)
    paths: list[tuple[LineString, dict[str, str]]] = field(default_factory=list)
    areas: list[tuple[Polygon, dict[str, str]]] = field(default_factory=list)
    buildings: list[Polygon] = field(default_factory=list)
    tags: list[dict[str, str]] = field(default_factory=list)

    def build(self, shape: BaseGeometry, kind: str, levels: int | None = None) -> None:
        """Put up a building; pieces that are too small are left out."""
        for part in _polygons(shape.simplify(0.2)):
            if part.area < 12:
                continue
            tags = {"building": kind}
            draw = self.rng.random()
            storeys = levels or int(self.rng.integers(1, 5))
            if draw < 0.6:
                tags["building:levels"] = str(storeys)
            elif draw < 0.75:
                tags["height"] = f"{storeys * 3 + self.rng.uniform(0, 2):.1f}"
            self.buildings.append(part)
            self.tags.append(tags)


def write_town(path: Path, seed: int = 0) -> None:
    """Write the made-up town as an OSM XML file.

    Args:
        path: The ``.osm`` file to write, whole or not at all.
        seed: Another seed, another town; the same seed, the same bytes.

    Raises:
        MaptileError: The file cannot be written.
    """
    town = _Town(np.random.default_rng(seed))
    _lay_streets(town)
    _fill_blocks(town)
    text = _Xml().write(town)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# --- Streets ------------------------------------------------------------------------------------


def _lay_streets(town: _Town) -> None:
    rng = town.rng
    half = SIZE_M / 2
    u, v = (_grid_lines(rng, half) for _ in range(2))
    wavelength = rng.uniform(500, 1100, (2, 3))
    phase = rng.uniform(0, 2 * np.pi, (2, 3))
    amplitude = rng.uniform(8, 20, (2, 3))

    def warp(points: Array) -> Array:
        angles = 2 * np.pi * (points[:, None, ::-1] / wavelength.T + phase.T / (2 * np.pi))
        return points + np.einsum("nkc,ck->nc", np.sin(angles), amplitude)

    def street(a: tuple[float, float], b: tuple[float, float]) -> LineString:
        steps = max(2, int(np.hypot(b[0] - a[0], b[1] - a[1]) / 18))
        return LineString(warp(np.linspace(a, b, steps + 1)))

    lines: list[LineString] = []
    classes: list[str] = []
    for along, across, flip in ((u, v, False), (v, u, True)):
        for i, fixed in enumerate(along):
            outer = i in (0, len(along) - 1)
            kind = "tertiary" if i == len(along) // 2 else "residential"
            for start, end in pairwise(across):
                a, b = ((start, fixed), (end, fixed)) if flip else ((fixed, start), (fixed, end))
                if not outer and kind == "residential" and rng.random() < 0.16:
                    if rng.random() < 0.5:
                        town.paths.append((street(a, b), {"highway": "footway"}))
                    continue
                lines.append(street(a, b))
                classes.append("living_street" if rng.random() < 0.08 else kind)
    bend = np.linspace(0, 1, 40)
    swing = 90 * np.sin(2 * np.pi * bend + rng.uniform(0, 2 * np.pi))
    diagonal = np.stack([-half + SIZE_M * bend, swing + (bend - 0.5) * rng.uniform(300, 700)], 1)
    lines.append(LineString(warp(diagonal)))
    classes.append("secondary")

    tree = shapely.STRtree(lines)
    for piece in shapely.get_parts(shapely.unary_union(lines, grid_size=0.01)):
        source = int(tree.nearest(piece.interpolate(0.5, normalized=True)))
        kind = classes[source]
        tags = {"highway": kind, "name": f"{kind.replace('_', ' ').title()} {source + 1}"}
        if rng.random() < 0.3:
            tags["width"] = f"{_WIDTHS[kind]:g}"
        elif rng.random() < 0.5:
            tags["lanes"] = "3" if kind == "secondary" else "2"
        town.streets.append((piece, tags))


def _grid_lines(rng: np.random.Generator, half: float) -> Array:
    gaps = rng.uniform(85, 165, 12)
    lines = np.cumsum(gaps) - gaps[0]
    count = int(np.searchsorted(lines, 2 * half - 60))
    return lines[:count] * (2 * half / lines[count - 1]) - half


# --- Blocks -------------------------------------------------------------------------------------


def _fill_blocks(town: _Town) -> None:
    rng = town.rng
    streets = [line for line, _ in town.streets]
    faces = sorted(shapely.get_parts(shapely.polygonize(streets)), key=lambda f: f.bounds)
    widths = [_WIDTHS[tags["highway"]] / 2 + _PAVEMENT_M for _, tags in town.streets]
    streets_area = shapely.unary_union(shapely.buffer(streets, np.array(widths)))
    blocks = [part for face in faces for part in _polygons(face - streets_area) if part.area > 250]
    blocks = [max(_polygons(block.buffer(-1).buffer(1)), key=lambda p: p.area) for block in blocks]
    special = _special_blocks(blocks)
    middle = Point(0, 0)
    for number, block in enumerate(blocks):
        if number in special:
            special[number](town, block)
            if special[number] is not _park:
                _rows(town, block, terraced=False)
            continue
        distance = block.centroid.distance(middle) + rng.normal(0, 70)
        if distance < 260:
            _closed_block(town, block)
        elif distance < 360:
            _rows(town, block, terraced=True)
        else:
            if rng.random() < 0.5:
                _driveway(town, block)
            _rows(town, block, terraced=False)
    # Left out by whoever reads the map for what a vehicle can see: both have no walls.
    roof = affinity.translate(Point(0, 0).buffer(6, quad_segs=1), SIZE_M / 2 + 25, 0)
    town.buildings += [roof, affinity.translate(roof, 0, 30)]
    town.tags += [{"building": "roof"}, {"building": "yes", "location": "underground"}]


def _special_blocks(blocks: list[Polygon]) -> dict[int, Callable[[_Town, Polygon], None]]:
    """The park takes the largest block off the middle; the odd buildings take the next ones."""
    far = [i for i, block in enumerate(blocks) if block.centroid.distance(Point(0, 0)) > 120]
    by_area = sorted(far, key=lambda i: -blocks[i].area)
    near = min(
        (i for i, block in enumerate(blocks) if block.area > 4000 and i != by_area[0]),
        key=lambda i: blocks[i].centroid.distance(Point(0, 0)),
    )
    rest = [i for i in by_area[1:] if i != near]
    return {by_area[0]: _park, near: _church, rest[0]: _school, rest[2]: _works, rest[4]: _rotunda}


def _closed_block(town: _Town, block: Polygon) -> None:
    """Houses wall to wall around a courtyard: one with a hole, or several with gaps."""
    rng = town.rng
    outer = block.buffer(-rng.uniform(0.3, 2.5), join_style="mitre")
    depth = rng.uniform(9, 14)
    court = outer.buffer(-depth, join_style="mitre")
    if court.area < 150:
        town.build(outer, "retail")
        return
    ring = outer - court
    levels = int(rng.integers(3, 6))
    if rng.random() < 0.6:
        town.build(ring, "apartments", levels)
    else:
        centre = np.array(court.representative_point().coords[0])
        angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.dirichlet(np.full(6, 3))) * 2 * np.pi
        ends = centre + 400 * np.stack([np.cos(angles), np.sin(angles)], 1)
        gaps = [
            LineString([centre, end]).buffer(rng.choice([0.05, 1.5, 3.5]), cap_style="flat")
            for end in ends
        ]
        for part in _polygons(ring - shapely.unary_union(gaps)):
            town.build(part, "apartments", levels + int(rng.integers(-1, 2)))
    if rng.random() < 0.6:
        yard = court.buffer(-rng.uniform(3, 8)).simplify(2)
        cut = _box(
            court.centroid.coords[0], rng.uniform(8, 22), rng.uniform(6, 14), rng.uniform(0, 3)
        )
        town.build(yard & cut, "service", 1)


def _rows(town: _Town, block: Polygon, *, terraced: bool) -> None:
    """Houses along the block's edge, facing the street: in rows, or each on its own plot."""
    rng = town.rng
    taken: list[Polygon] = [area for area, _ in town.areas]
    setback = rng.uniform(1, 4) if terraced else rng.uniform(3, 8)
    for front in _polygons(block.buffer(-setback, join_style="mitre")):
        corners = np.array(front.simplify(1.5).exterior.normalize().coords)[::-1]
        for a, b in pairwise(corners):
            length = float(np.hypot(*(b - a)))
            along = (b - a) / length
            inward = np.array([-along[1], along[0]])
            heading = np.degrees(np.arctan2(along[1], along[0]))
            position = rng.uniform(0, 6)
            left, width, depth = 0, 0.0, 0.0
            while True:
                if left == 0:
                    left = int(rng.integers(3, 9)) if terraced else 1
                    width = rng.uniform(5, 8) if terraced else rng.uniform(8, 16)
                    depth = rng.uniform(8, 12) if terraced else rng.uniform(7, 13)
                if position + width > length:
                    break
                if not terraced and rng.random() < 0.12:
                    position += rng.uniform(10, 25)
                    continue
                back = 0.0 if terraced else rng.uniform(0, 4)
                middle = a + along * (position + width / 2) + inward * (depth / 2 + back)
                turn = heading if terraced else heading + rng.normal(0, 4)
                house = _box(middle, width, depth, np.radians(turn))
                if not terraced:
                    house = _with_wing(rng, house, middle, width, depth, turn)
                if front.covers(house.buffer(-0.5)) and not any(
                    house.buffer(-0.2).intersects(other) for other in taken
                ):
                    taken.append(house)
                    town.build(house, "terrace" if terraced else "house", 2)
                left -= 1
                position += width
                if left == 0:
                    position += rng.uniform(2, 7) if terraced else rng.uniform(4, 14)


def _with_wing(
    rng: np.random.Generator, house: Polygon, middle: Array, width: float, depth: float, turn: float
) -> Polygon:
    """A detached house: as it is, L-shaped, or with a garage beside it."""
    draw = rng.random()
    side = rng.choice([-1, 1])
    if draw < 0.35:
        wing = _box((side * width * 0.25, depth * 0.6), width * 0.5, depth * 0.8, 0)
    elif draw < 0.55:
        wing = _box((side * (width / 2 + 1.5), depth * 0.1), 3.2, 6, 0)
    else:
        return house
    wing = affinity.translate(affinity.rotate(wing, turn, origin=(0, 0)), *middle)
    return shapely.union(house, wing)


def _driveway(town: _Town, block: Polygon) -> None:
    """A dead-end lane from the nearest street into the block; houses keep off it."""
    target = block.representative_point()
    streets = [line for line, _ in town.streets]
    nearest = int(np.argmin(shapely.distance(streets, target)))
    corners = np.array(town.streets[nearest][0].coords)
    if len(corners) < 3:
        return
    inner = corners[1:-1]
    root = inner[np.argmin(np.hypot(*(inner - np.array(target.coords[0])).T))]
    lane = LineString([root, (root + target.coords[0]) / 2 + town.rng.normal(0, 4, 2), target])
    town.streets.append((lane, {"highway": "service"}))
    town.areas.append((lane.buffer(4), {}))


def _park(town: _Town, block: Polygon) -> None:
    """Grass and paths, a pond without walls, a pavilion and a few huts."""
    rng = town.rng
    town.areas.append((block, {"leisure": "park", "name": "Town Park"}))
    ring = block.buffer(-12).simplify(1).exterior
    town.paths.append((LineString(ring.coords), {"highway": "footway"}))
    for angle in rng.uniform(0, np.pi) + np.array([0, np.pi / 2]):
        step = 400 * np.array([np.cos(angle), np.sin(angle)])
        bent = np.array(block.centroid.coords[0]) + rng.normal(0, 6, 2)
        across = LineString([bent - step, bent, bent + step @ [[0.98, 0.2], [-0.2, 0.98]]])
        for part in shapely.get_parts(across & block.buffer(-12)):
            town.paths.append((part, {"highway": "path"}))
    pavilion = block.centroid.buffer(8, quad_segs=2)
    town.build(pavilion, "public", 1)
    inside = shapely.get_coordinates(block.buffer(-25).simplify(5))
    for spot in inside[:: max(1, len(inside) // 4)]:
        town.build(_box(spot, rng.uniform(4, 9), rng.uniform(3, 6), rng.uniform(0, 3)), "hut", 1)


def _church(town: _Town, block: Polygon) -> None:
    """Nave, transept, round apse and tower, alone on its square."""
    nave = _box((0, 0), 38, 13, 0)
    shape = shapely.union_all(
        [nave, _box((7, 0), 10, 28, 0), Point(19, 0).buffer(6.5), _box((-20, 0), 8, 8, 0)]
    )
    _place(town, block, shape, "church", 5)


def _school(town: _Town, block: Polygon) -> None:
    """An E of three wings, and a gym."""
    shape = shapely.union_all(
        [_box((0, 0), 60, 11, 0), *[_box((x, 14), 10, 22, 0) for x in (-25, 0, 25)]]
    )
    _place(town, block, MultiPolygon([shape, _box((12, 42), 30, 16, 0)]), "school", 3)


def _works(town: _Town, block: Polygon) -> None:
    """A saw-toothed hall with two yards, and sheds beside it."""
    tooth = np.array([[0, 0], [0, 10], [9, 6]])
    teeth = [Polygon(tooth + np.array([-30, -20 + 10 * i])) for i in range(4)]
    hall = shapely.union_all([_box((-5, 0), 52, 42, 0), *teeth])
    yards = [_box((-15, 0), 10, 24, 0), _box((6, 5), 12, 16, 0)]
    shape = hall - shapely.union_all(yards)
    _place(town, block, MultiPolygon([shape, _box((32, -8), 10, 26, 0.1)]), "industrial", 2)


def _rotunda(town: _Town, block: Polygon) -> None:
    """A round hall with a hole, and a half-moon around it."""
    moon = Point(0, 0).buffer(30, quad_segs=6) - Point(0, 0).buffer(22, quad_segs=6)
    shape = (moon - _box((25, 0), 50, 80, 0), Point(0, 0).buffer(14) - Point(0, 0).buffer(6))
    _place(town, block, MultiPolygon(shape), "civic", 3)


def _place(town: _Town, block: Polygon, shape: BaseGeometry, kind: str, levels: int) -> None:
    """Turn ``shape`` along the block, shrink it until it fits, and put it up."""
    box = np.array(shapely.minimum_rotated_rectangle(block).exterior.coords)
    sides = np.diff(box[:3], axis=0)
    longest = sides[np.argmax(np.hypot(*sides.T))]
    turned = affinity.rotate(shape, np.degrees(np.arctan2(longest[1], longest[0])), origin=(0, 0))
    centre = block.buffer(-0.3 * np.sqrt(block.area)) or block
    x, y = centre.representative_point().coords[0]
    room = block.buffer(-2)
    for scale in np.arange(1.3, 0.3, -0.1):
        placed = affinity.translate(affinity.scale(turned, scale, scale, origin=(0, 0)), x, y)
        if room.covers(placed):
            break
    town.build(placed, kind, levels)
    town.areas.append((shapely.convex_hull(placed).buffer(3), {}))


def _box(centre: tuple[float, float] | Array, width: float, depth: float, turn: float) -> Polygon:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (width / 2, depth / 2)
    c, s = np.cos(turn), np.sin(turn)
    return Polygon(corners @ np.array([[c, s], [-s, c]]) + np.asarray(centre))


def _polygons(shape: BaseGeometry) -> list[Polygon]:
    return [part for part in shapely.get_parts(shape) if part.geom_type == "Polygon"]


# --- OSM XML ------------------------------------------------------------------------------------


class _Xml:
    """Nodes, ways and relations, numbered from 1; equal places share a node."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[float, float], int] = {}
        self.ways: list[tuple[list[int], dict[str, str]]] = []
        self.relations: list[tuple[list[tuple[int, str]], dict[str, str]]] = []

    def write(self, town: _Town) -> str:
        for line, tags in town.streets + town.paths:
            self._way(line.coords, tags)
        for area, tags in town.areas:
            if tags:
                self._way(area.exterior.coords, tags)
        for number, (building, tags) in enumerate(zip(town.buildings, town.tags, strict=True)):
            self._building(building, tags, number)
        return "\n".join(self._lines()) + "\n"

    def _building(self, building: Polygon, tags: dict[str, str], number: int) -> None:
        if not building.interiors:
            self._way(building.exterior.coords, tags)
            return
        # Real maps have all three: an outer way with tags of its own, one ring in two ways, plain.
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
        places = np.array(list(self.nodes))
        lon, lat = to_degrees.transform(places[:, 0], places[:, 1])
        stamp = 'version="1" timestamp="2024-01-01T00:00:00Z"'
        yield "<?xml version='1.0' encoding='UTF-8'?>"
        yield '<osm version="0.6" generator="maptile-loc, a made-up town">'
        yield (
            f'  <bounds minlat="{lat.min():.7f}" minlon="{lon.min():.7f}" '
            f'maxlat="{lat.max():.7f}" maxlon="{lon.max():.7f}"/>'
        )
        for ref, y, x in zip(self.nodes.values(), lat, lon, strict=True):
            yield f'  <node id="{ref}" {stamp} lat="{y:.7f}" lon="{x:.7f}"/>'
        for number, (refs, tags) in enumerate(self.ways, 1):
            yield f'  <way id="{number}" {stamp}>'
            yield from (f'    <nd ref="{ref}"/>' for ref in refs)
            yield from _tag_lines(tags)
            yield "  </way>"
        for number, (members, tags) in enumerate(self.relations, 1):
            yield f'  <relation id="{number}" {stamp}>'
            yield from (
                f'    <member type="way" ref="{way}" role="{role}"/>' for way, role in members
            )
            yield from _tag_lines(tags)
            yield "  </relation>"
        yield "</osm>"


def _tag_lines(tags: dict[str, str]) -> Iterator[str]:
    return (f"    <tag k={quoteattr(key)} v={quoteattr(value)}/>" for key, value in tags.items())
