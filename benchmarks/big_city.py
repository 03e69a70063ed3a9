"""A map of four times a city's area, in which no position occurs twice, as GeoParquet.

Run: python benchmarks/big_city.py SOURCE MAP.parquet [--seed N] [--positions N]

SOURCE is any map file that ``maptile prepare`` reads; north of Bayreuth (79 km2) gives 314 km2. The
map consists of two by two cells. Two on a diagonal are SOURCE as it is, the other two are mirrored
east to west, so that roads go on across the seam between the western and the eastern cells. In
each cell 15 % of the buildings are removed; the others are moved (standard deviation 2 m) and
turned (3 degrees), and their sizes are scaled by 0.85 to 1.15. Roads are those of SOURCE.

Positions on roads are then compared with the same positions in the other cells, mirrored back: the
share of the pixels (0.5 m) of walls around a position that have a wall of the other cell on them or
next to them, for the best shift of up to 5 m. A position that occurs twice has a share of 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio.features
import shapely
from numpy.typing import NDArray
from scipy import ndimage, signal
from stamp import stamp

from data_prep.geometry import Array
from data_prep.osm.footprints import OsmData, read_osm
from data_prep.osm.source import OsmSource

CELLS = ((0, 0, False), (0, 1, True), (1, 0, True), (1, 1, False))
"""Row from the south and column of each cell, and whether it is mirrored."""

REMOVED = 0.15
"""Share of the buildings that are removed."""

MOVED_M = 2.0
"""Standard deviation of a building's shift, metres, east and north each."""

TURNED_DEG = 3.0
"""Standard deviation of a building's turn, degrees."""

SCALES = (0.85, 1.15)
"""Range of the factor of a building's size."""

AROUND_M = 50.0
"""Half the side of the square that is compared at a position, metres."""

SHIFT_M = 5.0
"""Largest shift that is tried, metres, east and north each."""

PIXEL_M = 0.5
"""Side of the pixels in which walls are compared, metres."""

LEAST_BUILDINGS = 4
"""Least number of buildings around a position that is compared."""


def redrawn(geometry: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[Any], Array]:
    """Draw buildings anew: (M,) polygons, and the (M,) indexes of those that are kept.

    Args:
        geometry: (N,) polygons, metres.
        rng: The source of the changes.
    """
    kept = np.flatnonzero(rng.random(len(geometry)) >= REMOVED)
    shift = rng.normal(0, MOVED_M, (len(kept), 2))
    angle = np.radians(rng.normal(0, TURNED_DEG, len(kept)))
    scale = rng.uniform(*SCALES, len(kept))
    xy, index = shapely.get_coordinates(geometry[kept], return_index=True)
    middle = shapely.get_coordinates(shapely.centroid(geometry[kept]))
    c, s = (scale * np.cos(angle))[index], (scale * np.sin(angle))[index]
    x, y = (xy - middle[index]).T
    turned = np.stack([c * x - s * y, s * x + c * y], axis=1)
    moved = shapely.set_coordinates(geometry[kept].copy(), turned + (middle + shift)[index])
    return moved, kept


def mirrored(geometry: NDArray[Any], east_m: float) -> NDArray[Any]:
    """Mirror geometries at the meridian ``east_m``."""
    return np.asarray(shapely.transform(geometry, lambda xy: xy * (-1, 1) + (2 * east_m, 0)))


def make_cells(data: OsmData, seed: int) -> list[NDArray[Any]]:
    """The (M,) buildings of each of ``CELLS``, before they are mirrored and moved."""
    inside = shapely.within(data.buildings.geometry.to_numpy(), shapely.box(*data.bounds))
    geometry = data.buildings.geometry.to_numpy()[inside]
    return [redrawn(geometry, np.random.default_rng([seed, cell]))[0] for cell in range(len(CELLS))]


def make_map(data: OsmData, cells: list[NDArray[Any]]) -> gpd.GeoDataFrame:
    """The table of the map, in ``data.crs``: OSM tags and geometry.

    Args:
        data: The source.
        cells: The buildings of each of ``CELLS``.
    """
    west, south, east, north = data.bounds
    parts = []
    for buildings, (row, column, flip) in zip(cells, CELLS, strict=True):
        part = tagged(data, buildings)
        geometry = part.geometry.to_numpy()
        if flip:
            geometry = mirrored(geometry, (west + east) / 2)
        offset = np.array([column * (east - west), row * (north - south)])
        geometry = shapely.transform(geometry, lambda xy, offset=offset: xy + offset)
        parts.append(part.set_geometry(gpd.GeoSeries(geometry, crs=data.crs)))
    return gpd.GeoDataFrame(pd.concat(parts, ignore_index=True))


def tagged(data: OsmData, buildings: NDArray[Any]) -> gpd.GeoDataFrame:
    """The table of buildings and of the roads inside ``data.bounds``: OSM tags and geometry.

    Args:
        data: The roads.
        buildings: (N,) polygons in ``data.crs``.
    """
    lines = shapely.intersection(data.roads.geometry.to_numpy(), shapely.box(*data.bounds))
    lines, index = shapely.get_parts(lines, return_index=True)
    lines, index = lines[shapely.length(lines) > 0], index[shapely.length(lines) > 0]
    roads, nothing = data.roads.iloc[index], [None] * len(buildings)
    columns = {
        "building": ["yes"] * len(buildings) + [None] * len(lines),
        "highway": nothing + roads["highway"].tolist(),
        "width": nothing + [f"{width:.2f}" for width in roads["width"]],
        "name": nothing + roads["name"].tolist(),
    }
    return gpd.GeoDataFrame(columns, geometry=np.concatenate([buildings, lines]), crs=data.crs)


def walls(buildings: NDArray[Any], tree: shapely.STRtree, box: Array) -> NDArray[np.bool_]:
    """Which pixels of ``PIXEL_M`` in a box (west, south, east, north) the walls touch."""
    west, south, east, north = box
    shape = round((north - south) / PIXEL_M), round((east - west) / PIXEL_M)
    lines = shapely.boundary(buildings[tree.query(shapely.box(*box))])
    if not len(lines):
        return np.zeros(shape, np.bool_)
    transform = rasterio.Affine(PIXEL_M, 0, west, 0, -PIXEL_M, north)
    burnt = rasterio.features.rasterize(lines, shape, transform=transform, all_touched=True)
    return np.asarray(burnt > 0)


def likeness(data: OsmData, cells: list[NDArray[Any]], count: int, seed: int) -> Array:
    """How much positions are like the same positions in the other cells: (P,) shares, 0..1.

    Args:
        data: The source.
        cells: The buildings of each of ``CELLS``, not mirrored.
        count: Number of positions.
        seed: Of the choice of positions.
    """
    rng = np.random.default_rng([seed, len(CELLS)])
    roads = data.roads.geometry.to_numpy()
    chance = shapely.length(roads) / shapely.length(roads).sum()
    trees = [shapely.STRtree(buildings) for buildings in cells]
    shares: list[float] = []
    while len(shares) < count:
        road = roads[rng.choice(len(roads), p=chance)]
        point = shapely.line_interpolate_point(road, rng.random(), normalized=True)
        position = shapely.get_coordinates(point)[0]
        cell = int(rng.integers(len(cells)))
        box = np.concatenate([position - AROUND_M, position + AROUND_M])
        if len(trees[cell].query(shapely.box(*box))) < LEAST_BUILDINGS:
            continue
        here = walls(cells[cell], trees[cell], box)
        wide = box + SHIFT_M * np.array([-1, -1, 1, 1])
        others = (
            ndimage.binary_dilation(walls(cells[k], trees[k], wide), np.ones((3, 3)))
            for k in range(len(cells))
            if k != cell
        )
        hits = (signal.correlate(there * 1.0, here * 1.0, "valid").max() for there in others)
        shares.append(float(max(hits)) / np.count_nonzero(here))
    return np.array(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("map", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--positions", type=int, default=200)
    given = parser.parse_args()
    print(stamp())
    data = read_osm(OsmSource(path=given.source))
    cells = make_cells(data, given.seed)
    table = make_map(data, cells)
    table.to_parquet(given.map, compression="zstd", index=False)
    print(f"{given.map}: {sum(map(len, cells))} buildings, {len(table)} rows")
    share = likeness(data, cells, given.positions, given.seed)
    print(
        f"{len(share)} positions, share of walls that the likeliest other cell has there: "
        f"median {np.median(share):.2f}, most {share.max():.2f}; above 0.95: "
        f"{np.count_nonzero(share > 0.95)}"
    )


if __name__ == "__main__":
    main()
