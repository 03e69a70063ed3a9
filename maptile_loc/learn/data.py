"""Training tiles without end: rendered while the network learns, no two alike.

Batch number n is the same for the same settings, whoever renders it and whenever: training that
resumes goes on with the very batches that an uninterrupted one would have had.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import shapely
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data_prep.city.folder import City
from data_prep.city.raster import ROAD, MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.settings import Settings
from maptile_loc.render.disguise import DisguiseSettings, build_world
from maptile_loc.render.routes import Places, RoadGraph, road_graph
from maptile_loc.render.view import ViewSettings, Worlds, render

Heading = Literal["known", "unknown"]

_TRAINING, _VALIDATION = range(2)  # streams of random numbers that never meet
_WORLD_BYTES = 512_000_000


class DataSettings(Settings):
    """What the network is shown."""

    tuple_size: int = Field(3, ge=1)
    spacing_m: tuple[float, float] = (4.0, 16.0)
    """Least and greatest distance along the road between the tiles of a tuple."""
    beside_m: float = Field(3.0, ge=0)
    """How far beyond a road's half width vehicles are: lanes, and maps that are not exact."""
    yards: float = Field(0.0, ge=0, le=1)
    """Share of tuples that are drawn up to ``yard_m`` beyond the road: yards and car parks."""
    yard_m: float = Field(30.0, ge=0)
    batch_tuples: int = Field(20, ge=1)
    worlds: int = Field(8, ge=1)
    """Variants of the city in use at a time (fewer where they would fill the memory)."""
    batches_per_world: int = Field(100, ge=1)
    """Batches after which one of them gives way to a new one."""
    validation_tuples: int = Field(300, ge=1)
    workers: int | None = Field(None, ge=0)
    """Processes that render; by default one per two cores, none on a single core."""
    view: ViewSettings = ViewSettings()
    disguise: DisguiseSettings = DisguiseSettings()

    def processes(self) -> int:
        """How many of them render."""
        return (os.cpu_count() or 1) // 2 if self.workers is None else self.workers


class Batch(NamedTuple):
    """Tuples of tiles and their poses.

    Attributes:
        tiles: (B, T, 3, S, S) float32, channels of ``view``.
        offset: (B, T, 2) float32 east, north of the tiles' centres from the reference, metres.
        angle: (B, T) float32, direction of the tiles' x axes from grid east, radians.
    """

    tiles: Tensor
    offset: Tensor
    angle: Tensor


@dataclass(frozen=True)
class Ground:
    """What of a city training needs, in metres from its reference tile.

    Attributes:
        buildings: (N,) shapely polygons.
        roads: Where vehicles travel.
        weights: (E,) float32, how often a tuple begins on each piece of road.
        bounds: West, south, east, north of the map.
    """

    buildings: NDArray[np.object_]
    roads: RoadGraph
    weights: Tensor
    bounds: tuple[float, float, float, float]

    def mean_and_deviation(self) -> tuple[Array, Array]:
        """(2,) and (2,) metres: of the places' east and north, for normalising offsets."""
        middle = ((self.roads.start + self.roads.end) / 2).double().numpy()
        share = (self.weights / self.weights.sum()).double().numpy()[:, None]
        mean = (share * middle).sum(0)
        return mean, np.maximum(np.sqrt((share * (middle - mean) ** 2).sum(0)), 1.0)


def training_ground(city: City) -> Ground:
    """The drivable roads of a city within its tiles that are not empty.

    Raises:
        MaptileError: The city has no roads to train on.
    """
    east, north = city.reference
    shift = -city.reference
    table = city.roads()
    drivable = table[table["kind"] == "road"] if (table["kind"] == "road").any() else table
    lines = [shapely.get_coordinates(line) + shift for line in drivable.geometry]
    widths = drivable["width"].to_numpy(np.float64)
    if not lines:
        lines = _lines_of_raster(city.raster, city.reference)
        widths = np.full(len(lines), 2.0)
    graph = road_graph(lines, widths)
    tiles = city.tiles()
    tiles = tiles[~tiles["empty"]]
    centres = np.stack([tiles["offset_east"], tiles["offset_north"]], -1)
    half = float(tiles["size"].iloc[0]) * city.raster.resolution / 2 if len(tiles) else 0.0
    weights = graph.length() * torch.from_numpy(_covered(graph.start.numpy(), centres, half))
    if not float(weights.sum()) > 0:
        raise MaptileError(
            f"{city.folder or city.name}: no roads in it, so there is no place to train on; "
            "choose a larger area"
        )
    raster = city.raster
    return Ground(
        np.asarray(shapely.transform(city.buildings().geometry.to_numpy(), lambda xy: xy + shift)),
        graph,
        weights,
        (raster.west - east, raster.south - north, raster.east - east, raster.north - north),
    )


class RenderedBatches(Dataset[Batch]):
    """Batch number n of a stream, rendered when it is asked for."""

    def __init__(
        self, ground: Ground, settings: DataSettings, heading: Heading, seed: int, stream: int
    ) -> None:
        self.ground, self.settings, self.heading = ground, settings, heading
        self.seed, self.stream = seed, stream
        west, south, east, north = ground.bounds
        cells = (east - west) * (north - south) / settings.disguise.resolution**2
        self.slots = int(np.clip(_WORLD_BYTES / cells, 1, settings.worlds))
        self._standing: dict[int, int] = {}
        self._worlds: Worlds | None = None

    def __getitem__(self, number: int) -> Batch:
        """Render batch ``number``, any whole number from 0."""
        data = self.settings
        generator = torch.Generator().manual_seed(self._seed(0, number))
        worlds = self.worlds(number)
        places = self._draw(data.beside_m, generator)
        which = torch.randint(self.slots, places.centre.shape[:1], generator=generator)
        if data.yards:
            yards = self._draw(data.yard_m, generator)
            off_road = torch.rand(len(which), generator=generator) < data.yards
            off_road &= worlds.free(which, yards.centre).all(1)
            places = Places(
                torch.where(off_road[:, None, None], yards.centre, places.centre),
                torch.where(off_road[:, None, None, None], yards.paths, places.paths),
            )
        angle = torch.zeros(places.centre.shape[:2])
        if self.heading == "unknown":
            angle = (2 * torch.rand(angle.shape, generator=generator) - 1) * math.pi
        return Batch(self._tiles(places, which, angle, generator), places.centre, angle)

    def _draw(self, beside_m: float, generator: torch.Generator) -> Places:
        data = self.settings
        return self.ground.roads.draw(
            data.batch_tuples,
            self.ground.weights,
            data.tuple_size,
            data.spacing_m,
            data.view.travel_m,
            beside_m,
            generator,
        )

    def _tiles(
        self, places: Places, which: Tensor, angle: Tensor, generator: torch.Generator
    ) -> Tensor:
        """(B, T, 3, S, S) views of worlds number ``which`` (B,), turned by (B, T) ``angle``."""
        assert self._worlds is not None
        tiles = render(
            self._worlds,
            which.repeat_interleave(angle.shape[1]),
            places.paths.flatten(0, 1),
            places.centre.flatten(0, 1),
            angle.flatten(),
            self.settings.view,
            generator,
        )
        return tiles.view(*angle.shape, *tiles.shape[1:])

    def worlds(self, number: int) -> Worlds:
        """The variants of the city that batch ``number`` is rendered from."""
        first = number // self.settings.batches_per_world
        disguise, bounds = self.settings.disguise, self.ground.bounds
        for world in range(first, first + self.slots):
            slot = world % self.slots
            if self._standing.get(slot) == world:
                continue
            rng = np.random.default_rng(self._seed(1, world))
            middle = self.ground.roads.middle()
            cells = build_world(self.ground.buildings, middle, bounds, disguise, rng)
            if self._worlds is None:
                empty = torch.zeros((self.slots, *cells.shape), dtype=torch.uint8)
                self._worlds = Worlds(empty, bounds[0], bounds[3], disguise.resolution)
            self._worlds.cells[slot] = torch.from_numpy(cells)
            self._standing[slot] = world
        assert self._worlds is not None
        return self._worlds

    def _seed(self, purpose: int, number: int) -> int:
        sequence = np.random.SeedSequence([self.seed, self.stream, purpose, number])
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


class PairedBatches(RenderedBatches):
    """Tuples of two: a tile as a vehicle sees it, and the map's own view of the second place."""

    def _tiles(
        self, places: Places, which: Tensor, angle: Tensor, generator: torch.Generator
    ) -> Tensor:
        first = Places(places.centre[:, :1], places.paths[:, :1])
        seen = super()._tiles(first, which, angle[:, :1], generator)
        angle[:, 1] = 0
        paths, centre = places.paths[:, 1], places.centre[:, 1]
        own = map_view(self._exact, paths, centre, self.settings.view, generator)
        return torch.cat([seen, own[:, None]], 1)

    @cached_property
    def _exact(self) -> Worlds:
        return exact_world(self.ground, self.settings.disguise)


def map_view(
    exact: Worlds, paths: Tensor, centre: Tensor, view: ViewSettings, generator: torch.Generator
) -> Tensor:
    """(B, 3, S, S) north-up tiles: all that is seen from (B, P, 2) paths through (B, 2) centres."""
    around = view.without_noise().model_copy(update={"line_scanner": 0.0})
    nothing = torch.zeros(len(paths))
    return render(exact, nothing.long(), paths, centre, nothing, around, generator)


def exact_world(ground: Ground, disguise: DisguiseSettings) -> Worlds:
    """The city as it is on the map."""
    exact, rng = disguise.nothing(), np.random.default_rng(0)
    cells = build_world(ground.buildings, ground.roads.middle(), ground.bounds, exact, rng)
    return Worlds(
        torch.from_numpy(cells)[None], ground.bounds[0], ground.bounds[3], exact.resolution
    )


class SeveralCities(Dataset[Batch]):
    """The batches of several cities in turn."""

    def __init__(self, cities: list[RenderedBatches]) -> None:
        self.cities = cities

    def __getitem__(self, number: int) -> Batch:
        """Batch ``number``, any whole number from 0."""
        turn, city = divmod(number, len(self.cities))
        return self.cities[city][turn]


class EpochSampler(Sampler[int]):
    """The numbers of an epoch's batches, from the first that was not trained on yet.

    Args:
        batches: Batches per epoch.
        trained: Tells how many batches were trained on so far.
    """

    def __init__(self, batches: int, trained: Callable[[], int]) -> None:
        self.batches, self.trained = batches, trained

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[int]:
        first = self.trained()
        return iter(range(first, first + self.batches))


class TileDataModule(pl.LightningDataModule):
    """Rendered tuples for a ``Trainer``, of one city or several.

    Validation sees other places in worlds that training never enters; they stay the same.
    """

    def __init__(
        self,
        grounds: list[Ground],
        settings: DataSettings,
        heading: Heading,
        seed: int,
        epoch_steps: int,
        paired: bool = False,
    ) -> None:
        super().__init__()
        kind = PairedBatches if paired else RenderedBatches
        self.training, self.held_out = (
            SeveralCities([kind(ground, settings, heading, seed, stream) for ground in grounds])
            for stream in (_TRAINING, _VALIDATION)
        )
        self.sampler = EpochSampler(epoch_steps, self._trained)
        self.settings = settings
        self.workers = settings.processes()
        self._validation: list[Batch] | None = None

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the current epoch."""
        return DataLoader(
            self.training,
            batch_size=None,
            sampler=self.sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            prefetch_factor=4 if self.workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> DataLoader[Batch]:
        """The held-out batches."""
        return DataLoader(_Kept(self.validation()), batch_size=None)

    def validation(self) -> list[Batch]:
        """The held-out batches, rendered once."""
        if self._validation is None:
            batches = math.ceil(self.settings.validation_tuples / self.settings.batch_tuples)
            self._validation = [self.held_out[number] for number in range(batches)]
        return self._validation

    def _trained(self) -> int:
        return self.trainer.global_step if self.trainer is not None else 0


class _Kept(Dataset[Batch]):
    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Batch:
        return self.batches[number]


def _covered(points: NDArray[np.float32], centres: Array, half: float) -> NDArray[np.float32]:
    """(N,) 1 where a point (N, 2) lies in one of the squares of side ``2 half``, else 0."""
    if len(centres) == 0:
        return np.zeros(len(points), np.float32)
    squares = shapely.STRtree(shapely.box(*(centres - half).T, *(centres + half).T))
    inside = squares.query(shapely.points(points), predicate="intersects")[0]
    covered = np.zeros(len(points), np.float32)
    covered[inside] = 1
    return covered


def _lines_of_raster(raster: MapRaster, reference: Array) -> list[Array]:
    """Short straight stretches along the roads of a raster that has no road table.

    Every 4 m of road surface one of 60 m, in that of twelve directions that stays longest on it.
    """
    every = max(1, round(4.0 / raster.resolution))
    road = raster.data[ROAD] > 0
    row, column = (axis * every for axis in np.nonzero(road[::every, ::every]))
    angles = np.arange(12) * np.pi / 12
    along = np.arange(-30.0, 31.0, 2.0)
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
