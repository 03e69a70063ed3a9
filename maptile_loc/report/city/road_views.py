"""Positions on a city's roads, and query tiles rendered there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.settings import Positive, Settings
from maptile_loc.render.disguise import DisguiseSettings
from maptile_loc.render.raycast import Worlds
from maptile_loc.render.vector_map import VectorMap
from maptile_loc.render.view import (
    GROUND_CHANNEL,
    OBSERVED_CHANNEL,
    PLAIN_CHANNELS,
    WALL_CHANNEL,
    ViewSettings,
    render,
)
from maptile_loc.types import QueryTile

Sensor = Literal["robotcar", "hdl64"]
"""Name of a sensor that can be rendered."""
SENSORS: tuple[Sensor, ...] = ("robotcar", "hdl64")
"""All of them: two line scanners across the track; a LiDAR that scans all around."""
BATCH = 8
"""Number of tiles that are rendered at once."""

_POSITION_STREAM = 0
"""Random stream of the positions."""
_WORLD_STREAM = 1
"""Random stream of the worlds."""
_VIEW_STREAM = 2
"""Random stream of the rendered tiles."""


def query_view(sensor: Sensor, submap_m: float) -> ViewSettings:
    """Return settings that render 128 m tiles like those of a submap of ``submap_m`` metres.

    The amount of observed walls and free ground, and how well they fit the map, were set to those
    of query tiles of simulated drives (LMS; Oxford, Helsinki, Cambridge, Kotka; 10 and 50 m).

    Args:
        sensor: Name of the sensor.
        submap_m: Metres of travel in the submap.
    """
    return ViewSettings(
        size_px=256,
        resolution=0.5,
        channels=PLAIN_CHANNELS,
        travel_m=max(submap_m, 1.0),
        rays=6000,
        line_scanner=1.0 if sensor == "robotcar" else 0.0,
        short_travel=0.0,
        low_rays=0.2,
        range_loss=0.2,
        ground_range=(28.0, 45.0),
        depth_noise_m=(0.25, 0.25),
        uneven_ground=0.0,
        free_rays=0.0,
        missing_walls=0.1,
        weak_walls=0.0,
        spurious=0.003,
        wall_gain=(0.2, 1.2),
    )


class DistinctSettings(Settings):
    """How the distinctiveness of a city is measured.

    Attributes:
        spacing_m: Side of the squares that get one position each if they contain road, metres.
        most_places: Largest number of positions; in larger cities a random subset of this size.
        draws: Number of tiles rendered at each position, each in another world.
        worlds: Number of random variants of the city.
        within_m: A candidate within this distance of the true position is right, metres.
        margin_m: Positions nearer to the map's edge are left out, as in metrics.
        view: How tiles are rendered; size and resolution are those of query tiles.
        disguise: How worlds differ from the map.
        seed: Seed of all randomness.
    """

    spacing_m: Positive = 20.0
    most_places: int = Field(1500, ge=1)
    draws: int = Field(2, ge=1)
    worlds: int = Field(4, ge=1)
    within_m: Positive = 5.0
    margin_m: float = Field(30.0, ge=0)
    view: ViewSettings = query_view("robotcar", 20.0)
    disguise: DisguiseSettings = DisguiseSettings(
        resolution=0.5, shift_m=0.5, missing=0.03, new_per_km2=20.0
    )
    seed: int = Field(0, ge=0)


class RoadPositions(NamedTuple):
    """N positions on roads.

    Attributes:
        piece: (N,) int64, index of the piece of road in the ``RoadGraph``.
        metres: (N,) float64, length of road that each position represents.
        xy: (N, 2) float64 east, north in the map frame, the midpoint of the piece.
    """

    piece: NDArray[np.int64]
    metres: Array
    xy: Array


class RenderedView(NamedTuple):
    """A rendered query tile.

    Attributes:
        number: Index of its position.
        tile: The tile, north up.
        position: (2,) east, north of its centre in the map frame, metres.
    """

    number: int
    tile: QueryTile
    position: Array


def sample_positions(streets: VectorMap, city: City, settings: DistinctSettings) -> RoadPositions:
    """Return a random position in every square of ``spacing_m`` metres that contains road.

    A piece of road is drawn with a probability proportional to its weight. At most ``most_places``
    positions are kept; they then represent the road of the others too.

    Raises:
        MaptileError: No road is ``margin_m`` inside the map.
    """
    rng = np.random.default_rng([settings.seed, _POSITION_STREAM])
    middle = streets.roads.middle()
    weight = streets.weights.double().numpy()[: len(middle)]
    inside = city.raster.inside(middle + city.reference, settings.margin_m) & (weight > 0)
    piece = np.flatnonzero(inside)
    if len(piece) == 0:
        raise MaptileError(
            f"{city.folder or city.name}: no roads {settings.margin_m:g} m or more inside the map; "
            "choose a larger area"
        )
    square = np.floor(middle[piece] / settings.spacing_m).astype(np.int64)
    _, square = np.unique(square, axis=0, return_inverse=True)
    # The item with the largest log(u) / w is drawn with a probability proportional to w.
    key = np.log(rng.random(len(piece))) / weight[piece]
    order = np.lexsort((-key, square))
    first = np.flatnonzero(np.diff(square[order], prepend=-1))
    chosen = piece[order[first]]
    metres = np.bincount(square, weight[piece]).astype(np.float64)
    if city.roads().empty:
        # The pieces on a bare raster's roads overlap, so their lengths do not add up.
        metres = np.full(len(chosen), settings.spacing_m)
    if len(chosen) > settings.most_places:
        some = np.sort(rng.choice(len(chosen), settings.most_places, replace=False))
        scale = metres.sum() / metres[some].sum()
        chosen, metres = chosen[some], metres[some] * scale
    return RoadPositions(chosen, metres, middle[chosen] + city.reference)


def render_views(
    streets: VectorMap,
    city: City,
    positions: RoadPositions,
    draw: int,
    settings: DistinctSettings,
) -> Iterator[RenderedView]:
    """Yield a rendered query tile for each position, not in the order of the positions.

    Args:
        streets: The city's buildings and roads.
        city: The city.
        positions: Where tiles are rendered.
        draw: Number of the draw; another draw renders a position in another variant of the city.
        settings: How tiles are rendered.
    """
    for world in range(settings.worlds):
        order = np.arange(len(positions.piece)) + draw
        numbers = np.flatnonzero(order % settings.worlds == world)
        if len(numbers) == 0:
            continue
        worlds = _world(streets, world, settings)
        generator = torch.Generator().manual_seed(_seed(settings.seed, _VIEW_STREAM, draw, world))
        for start in range(0, len(numbers), BATCH):
            some = numbers[start : start + BATCH]
            paths = _paths(streets, positions.piece[some], settings, generator)
            centre = paths[:, paths.shape[1] // 2]
            zeros = torch.zeros(len(some))
            tiles = render(worlds, zeros.long(), paths, centre, zeros, settings.view, generator)
            for number, tile, path, at in zip(some, tiles, paths, centre, strict=True):
                query = query_tile_of(tile, path - at, settings.view.resolution)
                yield RenderedView(int(number), query, at.double().numpy() + city.reference)


def query_tile_of(rendered: Tensor, path: Tensor, resolution: float) -> QueryTile:
    """Return a rendered tile as a query tile.

    Args:
        rendered: (3, S, S) channels of ``render.view``, north up.
        path: (P, 2) float32, the vehicle's path in metres from the tile's centre.
        resolution: Metres per pixel.
    """
    wall, ground, observed = rendered.numpy()[[WALL_CHANNEL, GROUND_CHANNEL, OBSERVED_CHANNEL]]
    # A query tile marks ground in every pixel that has a ground point, also next to walls.
    return QueryTile(wall, np.ceil(ground), observed, resolution, 0.0, path.numpy())


def _world(streets: VectorMap, number: int, settings: DistinctSettings) -> Worlds:
    """Return one random variant of the city."""
    rng = np.random.default_rng([settings.seed, _WORLD_STREAM, number])
    return streets.world(settings.disguise, rng)


def _paths(
    streets: VectorMap,
    pieces: NDArray[np.int64],
    settings: DistinctSettings,
    generator: torch.Generator,
) -> Tensor:
    """Return (B, P, 2) paths over (B,) pieces of road, in a random direction.

    Each is displaced to its side by a random distance within the road's half width.
    """
    roads, first = streets.roads, torch.from_numpy(pieces)
    back, across = torch.rand(2, len(first), generator=generator)
    first = torch.where(back < 0.5, first, roads.opposite(first))
    aside = roads.half_width[first] * (2 * across - 1)
    travel = settings.view.travel_m
    return roads.routes(first, aside, 1, (0.0, 0.0), travel, generator).paths[:, 0]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
