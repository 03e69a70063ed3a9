"""A city's map as vectors in plane coordinates: what views of the map are rendered from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import rasterio.features
import shapely
import shapely.geometry
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from data_prep.city.folder import City
from data_prep.city.raster import ROAD, MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from maptile_loc.render.disguise import CELL_M, DisguiseSettings, build_roads, build_world
from maptile_loc.render.raycast import Worlds
from maptile_loc.render.routes import RoadGraph, road_graph
from maptile_loc.render.view import ViewSettings, render

RASTER_EVERY_M = 4.0
"""Spacing of the road pixels through which a raster's lines are laid."""
RASTER_HALF_M = 30.0
"""Half the length of a raster's lines."""
RASTER_STEP_M = 2.0
"""Spacing of the points at which a raster's lines are tested to be on a road."""
RASTER_DIRECTIONS = 12
"""Directions that are tried for each of a raster's lines."""
RASTER_WIDTH_M = 2.0
"""Width that the lines of a raster are given."""


@dataclass(frozen=True)
class VectorMap:
    """A city's buildings and drivable roads, in metres from its reference tile's centre.

    Attributes:
        buildings: (N,) shapely polygons.
        roads: Where vehicles travel.
        weights: (E,) float32, the relative frequency with which a route begins on each piece of
            road: its length, or 0 outside the city's tiles.
        bounds: West, south, east, north of the map.
        surfaces: (R,) shapely polygons of the roads' surfaces.
        repeats: Pieces of road that lie side by side on each stretch, on average: 1 unless they
            are those of a raster.
    """

    buildings: NDArray[np.object_]
    roads: RoadGraph
    weights: Tensor
    bounds: tuple[float, float, float, float]
    surfaces: NDArray[np.object_]
    repeats: float = 1.0

    def positions(self) -> tuple[Array, Array]:
        """(E, 2) positions on roads, metres, and their (E,) relative frequency in training."""
        return self.roads.midpoints(), self.weights.double().numpy()

    def world(
        self, disguise: DisguiseSettings, rng: np.random.Generator, roads: bool = False
    ) -> Worlds:
        """One random variant of the city that differs from the map as ``disguise`` says.

        With ``roads``, it has the surfaces of roads.
        """
        west, _, _, north = self.bounds
        cells = build_world(self.buildings, self.roads.middle(), self.bounds, disguise, rng)
        surface = None
        if roads:
            surface = torch.from_numpy(build_roads(self.surfaces, self.bounds, disguise, rng))[None]
        return Worlds(torch.from_numpy(cells)[None], west, north, disguise.resolution, surface)

    def exact_world(self, resolution: float = CELL_M, roads: bool = False) -> Worlds:
        """The city exactly as it is on the map, at ``resolution`` metres per cell."""
        exact = DisguiseSettings(resolution=resolution).nothing()
        return self.world(exact, np.random.default_rng(0), roads)


def vector_map(city: City) -> VectorMap:
    """The buildings and drivable roads of a city.

    Where the city has no road table (a bare raster), roads are straight lines laid along the road
    surface of its raster.

    Raises:
        MaptileError: No road lies in a tile of the city that is not empty.
    """
    east, north = city.reference
    shift = -city.reference
    table = city.roads()
    drivable = table[table["kind"] == "road"] if (table["kind"] == "road").any() else table
    lines = [shapely.get_coordinates(line) + shift for line in drivable.geometry]
    widths = drivable["width"].to_numpy(np.float64)
    surfaces = shapely.buffer(drivable.geometry.to_numpy(), widths / 2, cap_style="flat")
    repeats = 1.0
    if not lines:
        repeats = _repeats_of_raster(city.raster)
        lines = _lines_of_raster(city.raster, city.reference)
        widths = np.full(len(lines), RASTER_WIDTH_M)
        surfaces = _surfaces_of_raster(city.raster)
    graph = road_graph(lines, widths)
    tiles = city.tiles()
    tiles = tiles[~tiles["empty"]]
    centres = np.stack([tiles["offset_east"], tiles["offset_north"]], -1)
    half = float(tiles["size"].iloc[0]) * city.raster.resolution / 2 if len(tiles) else 0.0
    weights = graph.length() * torch.from_numpy(_covered(graph.start.numpy(), centres, half))
    if not float(weights.sum()) > 0:
        raise MaptileError(
            f"{city.folder or city.name}: the map has no roads, and views are rendered from roads; "
            "choose a larger area"
        )
    raster = city.raster
    buildings, surfaces = (
        np.asarray(shapely.transform(shapes, lambda xy: xy + shift))
        for shapes in (city.buildings().geometry.to_numpy(), surfaces)
    )
    return VectorMap(
        buildings,
        graph,
        weights,
        (raster.west - east, raster.south - north, raster.east - east, raster.north - north),
        surfaces,
        repeats,
    )


def render_exact(
    exact: Worlds, paths: Tensor, centre: Tensor, view: ViewSettings, generator: torch.Generator
) -> Tensor:
    """Render the map's own views: north-up, without noise, seen all around.

    Args:
        exact: One world, as of ``VectorMap.exact_world``.
        paths: (B, P, 2) float32 metres, the paths from which the map is seen.
        centre: (B, 2) float32 metres, the tiles' centres.
        view: Size, resolution, path and range of the tiles; its noise is turned off.
        generator: Source of the rays' randomness.

    Returns:
        (B, C, S, S) float32, as of ``view.render``.
    """
    around = view.without_noise().model_copy(update={"line_scanner": 0.0})
    zeros = torch.zeros(len(paths))
    return render(exact, zeros.long(), paths, centre, zeros, around, generator)


def _covered(points: NDArray[np.float32], centres: Array, half: float) -> NDArray[np.float32]:
    """(N,) 1 where a point (N, 2) lies in one of the squares of side ``2 half``, else 0."""
    if len(centres) == 0:
        return np.zeros(len(points), np.float32)
    squares = shapely.STRtree(shapely.box(*(centres - half).T, *(centres + half).T))
    inside = squares.query(shapely.points(points), predicate="intersects")[0]
    covered = np.zeros(len(points), np.float32)
    covered[inside] = 1
    return covered


def _surfaces_of_raster(raster: MapRaster) -> NDArray[np.object_]:
    """(R,) polygons of the connected road surfaces of a raster, in the map frame."""
    road = (raster.data[ROAD] > 0).astype(np.uint8)
    found = rasterio.features.shapes(road, mask=road > 0, transform=raster.transform)
    return np.array([shapely.geometry.shape(shape) for shape, _ in found], object)


def _repeats_of_raster(raster: MapRaster) -> float:
    """How many of the lines of ``_lines_of_raster`` lie side by side on a road of mean width.

    The mean distance to the edge of a long road is a quarter of its width.
    """
    road = raster.data[ROAD] > 0
    if not road.any():
        return 1.0
    away = ndimage.distance_transform_edt(road)[road].mean() * raster.resolution
    return max(1.0, 2 * RASTER_HALF_M * 4 * float(away) / RASTER_EVERY_M**2)


def _lines_of_raster(raster: MapRaster, reference: Array) -> list[Array]:
    """Short straight lines along the roads of a raster that has no road table.

    One line is centred on each road pixel of a grid with spacing ``RASTER_EVERY_M``. Of
    ``RASTER_DIRECTIONS`` directions it has the one in which most of its points are on a road.

    Returns:
        (2, 2) ends of each line, metres from ``reference``.
    """
    every = max(1, round(RASTER_EVERY_M / raster.resolution))
    road = raster.data[ROAD] > 0
    row, column = (axis * every for axis in np.nonzero(road[::every, ::every]))
    angles = np.arange(RASTER_DIRECTIONS) * np.pi / RASTER_DIRECTIONS
    along = np.arange(-RASTER_HALF_M, RASTER_HALF_M + 1, RASTER_STEP_M)
    east = along * np.cos(angles)[:, None]
    north = along * np.sin(angles)[:, None]
    middle = raster.world_from_pixel(np.stack([row, column], -1) + 0.5)
    points = middle[:, None, None] + np.stack([east, north], -1)
    pixel = np.floor(raster.pixel_from_world(points)).astype(np.int64)
    inside = (pixel >= 0).all(-1) & (pixel < road.shape).all(-1)
    pixel = np.clip(pixel, 0, np.array(road.shape) - 1)
    on_road = (road[pixel[..., 0], pixel[..., 1]] & inside).sum(-1)
    best = np.take_along_axis(points, on_road.argmax(1)[:, None, None, None], axis=1)[:, 0]
    return list(best[:, [0, -1]] - reference)
