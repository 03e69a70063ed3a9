"""A small city for tests: blocks between crossing streets, as OSM XML."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj

from data_prep.city.folder import City, CitySettings, prepare_city
from data_prep.osm.footprints import OsmSource


def write_osm(path: Path, blocks: int = 3, pitch: float = 60.0, seed: int = 0) -> None:
    """Write streets every ``pitch`` metres, and a building in each block between them."""
    to_degrees = pyproj.Transformer.from_crs("EPSG:32630", "EPSG:4326", always_xy=True).transform
    rng = np.random.default_rng(seed)
    nodes: list[str] = []
    ways: list[str] = []

    def way(points: list[tuple[float, float]], tags: dict[str, str], closed: bool) -> None:
        first = len(nodes) + 1
        for x, y in points:
            lon, lat = to_degrees(620000 + x, 5735500 + y)
            nodes.append(f'<node id="{len(nodes) + 1}" lat="{lat:.8f}" lon="{lon:.8f}"/>')
        refs = [*range(first, first + len(points)), *([first] if closed else [])]
        inner = "".join(f'<nd ref="{ref}"/>' for ref in refs)
        inner += "".join(f'<tag k="{key}" v="{value}"/>' for key, value in tags.items())
        ways.append(f'<way id="{len(ways) + 1}">{inner}</way>')

    side = blocks * pitch
    for i in range(blocks + 1):
        at = i * pitch
        way([(at, 0), (at, side)], {"highway": "residential"}, closed=False)
        way([(0, at), (side, at)], {"highway": "residential"}, closed=False)
    for i in range(blocks):
        for j in range(blocks):
            x, y = i * pitch + 8 + rng.uniform(0, 10), j * pitch + 8 + rng.uniform(0, 10)
            w, h = rng.uniform(10, 30, 2)
            corners = [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]
            way(corners, {"building": "yes"}, closed=True)
    body = "\n".join([*nodes, *ways])
    text = f"<?xml version='1.0' encoding='UTF-8'?>\n<osm version=\"0.6\">\n{body}\n</osm>\n"
    path.write_text(text, encoding="utf-8")


def small_city(folder: Path, seed: int = 0) -> City:
    """Prepare the small city in ``folder / "city"``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_osm(folder / "small.osm", seed=seed)
    return prepare_city(OsmSource(path=folder / "small.osm"), folder / "city", CitySettings())
