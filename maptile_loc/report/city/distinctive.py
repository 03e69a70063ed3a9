"""How well the places of a city can be told from each other.

At places along the roads, what a vehicle would see is rendered from worlds that are not quite the
map, and searched for on all of the map as a query is. How probable the search holds the true place
is how distinctive that place is; the best of the others is its look-alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.settings import Positive, Settings
from maptile_loc.render.disguise import DisguiseSettings
from maptile_loc.render.raycast import Worlds
from maptile_loc.render.vector_map import VectorMap, vector_map
from maptile_loc.render.view import (
    GROUND_CHANNEL,
    OBSERVED_CHANNEL,
    WALL_CHANNEL,
    ViewSettings,
    render,
)
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import make_fields
from maptile_loc.score.settings import LikelihoodSettings
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.search.match import Matcher
from maptile_loc.types import Candidates, QueryTile

Sensor = Literal["robotcar", "hdl64"]
SENSORS: tuple[Sensor, ...] = ("robotcar", "hdl64")
"""Two line scanners that look across the track; one that looks all around."""
_PLACES, _WORLD, _LOOKS = range(3)  # streams of random numbers
_BATCH = 8


def query_view(sensor: Sensor, submap_m: float) -> ViewSettings:
    """Tiles of 128 m at 0.5 m that look like those of a submap of ``submap_m`` metres of travel.

    How much of walls and free ground is seen, and how well it fits the map, is set to be that of
    query tiles of simulated drives (LMS; Oxford, Helsinki, Cambridge, Kotka; 10 and 50 m).
    """
    return ViewSettings(
        size_px=256,
        resolution=0.5,
        travel_m=max(submap_m, 1.0),
        rays=6000,
        line_scanner=1.0 if sensor == "robotcar" else 0.0,
        short_travel=0.0,
        low_rays=0.2,
        range_loss=0.2,
        ground_range=(28.0, 45.0),
        depth_noise_m=0.25,
        missing_walls=0.1,
        spurious=0.003,
        wall_gain=(0.2, 1.2),
    )


class DistinctSettings(Settings):
    """How a city is looked at.

    Attributes:
        spacing_m: A place per so many metres of road, about.
        most_places: In larger cities, so many of them drawn at random.
        draws: How often each place is looked at, each time in another world.
        worlds: So many variants of the city.
        within_m: So near to the true place is a candidate right.
        margin_m: Places nearer to the map's edge are left out, as in metrics.
        view: What is seen; its size and resolution are the query tile's.
        disguise: How worlds differ from the map.
        seed: All randomness comes from it.
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


class Spots(NamedTuple):
    """Places along roads.

    Attributes:
        piece: (N,) int64, the piece of road in ``RoadGraph``.
        metres: (N,) float64, the length of road that each stands for.
        xy: (N, 2) float64 east, north in the map frame, the middle of the piece.
    """

    piece: NDArray[np.int64]
    metres: Array
    xy: Array


@dataclass(frozen=True)
class Distinctiveness:
    """What the search made of N places, D times each.

    Attributes:
        spots: The places.
        true: (N, D, 2) float64 east, north (metres, map frame), where the tiles were seen.
        probability: (N, D) 0..1, of the candidates within reach of the true place.
        hit: (N, D) bool, the best candidate is one of them.
        alike: (N, D, 2) east, north of the best candidate elsewhere; NaN where there is none.
        alike_probability: (N, D) 0..1, its probability.
        walls: (N, D, S, S / 8) uint8, the pixels with wall evidence, packed.
    """

    spots: Spots
    true: Array
    probability: Array
    hit: NDArray[np.bool_]
    alike: Array
    alike_probability: Array
    walls: NDArray[np.uint8]

    def expected_recall(self) -> Array:
        """(N,) 0..1, how often the best candidate is right.

        A few draws of each place are hit or miss. So each counts the share of hits among the tenth
        of all views that were about as probable: what the search's probability is worth here.
        """
        order = np.argsort(self.probability, axis=None, kind="stable")
        hits = self.hit.ravel()[order].astype(np.float64)
        recall = np.empty(len(order))
        recall[order] = ndimage.uniform_filter1d(hits, max(1, len(order) // 10), mode="nearest")
        return recall.reshape(self.hit.shape).mean(axis=1)


class Looks(NamedTuple):
    """A rendered query tile, and where it was seen: (2,) east, north in the map frame."""

    tile: QueryTile
    place: Array


def find_spots(ground: VectorMap, city: City, settings: DistinctSettings) -> Spots:
    """A place in every square of ``spacing_m`` that holds road, drawn by the roads' weights.

    Raises:
        MaptileError: All roads are at the map's edge.
    """
    rng = np.random.default_rng([settings.seed, _PLACES])
    middle = ground.roads.middle()
    weight = ground.weights.double().numpy()[: len(middle)]
    inside = city.raster.inside(middle + city.reference, settings.margin_m) & (weight > 0)
    piece = np.flatnonzero(inside)
    if len(piece) == 0:
        raise MaptileError(
            f"{city.folder or city.name}: no roads {settings.margin_m:g} m or more inside the map; "
            "choose a larger area"
        )
    square = np.floor(middle[piece] / settings.spacing_m).astype(np.int64)
    _, square = np.unique(square, axis=0, return_inverse=True)
    # The greatest of log(u) / w is drawn with probability proportional to w.
    key = np.log(rng.random(len(piece))) / weight[piece]
    order = np.lexsort((-key, square))
    first = np.flatnonzero(np.diff(square[order], prepend=-1))
    chosen = piece[order[first]]
    metres = np.bincount(square, weight[piece]).astype(np.float64)
    if city.roads().empty:  # The stretches on a raster's roads overlap.
        metres = np.full(len(chosen), settings.spacing_m)
    if len(chosen) > settings.most_places:
        some = np.sort(rng.choice(len(chosen), settings.most_places, replace=False))
        scale = metres.sum() / metres[some].sum()
        chosen, metres = chosen[some], metres[some] * scale
    return Spots(chosen, metres, middle[chosen] + city.reference)


def tile_of(rendered: Tensor, path: Tensor, resolution: float) -> QueryTile:
    """A rendered tile (3, S, S), north-up, as a query tile.

    Args:
        rendered: Channels of ``view``.
        path: (P, 2) float32 metres from the tile's centre.
        resolution: Metres per pixel.
    """
    wall, ground, observed = rendered.numpy()[[WALL_CHANNEL, GROUND_CHANNEL, OBSERVED_CHANNEL]]
    # A query tile's ground is what was touched, at the foot of walls too.
    return QueryTile(wall, np.ceil(ground), observed, resolution, 0.0, path.numpy())


def look(
    ground: VectorMap, city: City, spots: Spots, draw: int, settings: DistinctSettings
) -> Iterator[tuple[int, Looks]]:
    """Render what is seen at each spot the ``draw``-th time; gives the spot's number too."""
    for world in range(settings.worlds):
        numbers = np.flatnonzero((np.arange(len(spots.piece)) + draw) % settings.worlds == world)
        if len(numbers) == 0:
            continue
        worlds = _world(ground, world, settings)
        generator = torch.Generator().manual_seed(_seed(settings.seed, _LOOKS, draw, world))
        for start in range(0, len(numbers), _BATCH):
            some = numbers[start : start + _BATCH]
            paths = _paths(ground, spots.piece[some], settings, generator)
            centre = paths[:, paths.shape[1] // 2]
            zeros = torch.zeros(len(some))
            tiles = render(worlds, zeros.long(), paths, centre, zeros, settings.view, generator)
            for number, tile, path, at in zip(some, tiles, paths, centre, strict=True):
                seen = tile_of(tile, path - at, settings.view.resolution)
                yield int(number), Looks(seen, at.double().numpy() + city.reference)


def _world(ground: VectorMap, number: int, settings: DistinctSettings) -> Worlds:
    rng = np.random.default_rng([settings.seed, _WORLD, number])
    return ground.world(settings.disguise, rng)


def _paths(
    ground: VectorMap,
    pieces: NDArray[np.int64],
    settings: DistinctSettings,
    generator: torch.Generator,
) -> Tensor:
    """(B, P, 2) ways over (B,) pieces of road, each one way or the other, anywhere across it."""
    roads, first = ground.roads, torch.from_numpy(pieces)
    back, across = torch.rand(2, len(first), generator=generator)
    first = torch.where(back < 0.5, first, roads.opposite(first))
    aside = roads.half_width[first] * (2 * across - 1)
    travel = settings.view.travel_m
    return roads.routes(first, aside, 1, (0.0, 0.0), travel, generator).paths[:, 0]


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Verdict(NamedTuple):
    """What the search says of one tile; fields as in ``Distinctiveness``."""

    probability: float
    hit: bool
    alike: Array
    alike_probability: float


def judge(candidates: Candidates, place: Array, within_m: float) -> Verdict:
    """Divide candidates into those within ``within_m`` of the true ``place`` and the others."""
    share = np.exp(candidates.log_scores - np.logaddexp.reduce(candidates.log_scores))
    near = np.hypot(*(candidates.poses[:, :2] - place).T) <= within_m
    others = np.where(near, 0.0, share)
    alike = candidates.poses[others.argmax(), :2] if not near.all() else np.full(2, np.nan)
    hit = bool(near[share.argmax()])
    return Verdict(float(share[near].sum()), hit, alike, float(others.max()))


def measure(
    city: City,
    settings: DistinctSettings,
    match: SearchSettings,
    likelihood: LikelihoodSettings,
    device: str = "cpu",
) -> Distinctiveness:
    """Search for what is seen at each of a city's places.

    Raises:
        MaptileError: The city has no roads, or none that is far enough inside the map.
    """
    ground = vector_map(city)
    spots = find_spots(ground, city, settings)
    fields = make_fields(city.raster, match.resolution, likelihood)
    matcher = Matcher(fields, settings.view.size_m, match, device=device)
    shape = (len(spots.piece), settings.draws)
    side = settings.view.size_px
    result = Distinctiveness(
        spots,
        np.zeros((*shape, 2)),
        np.zeros(shape),
        np.zeros(shape, bool),
        np.zeros((*shape, 2)),
        np.zeros(shape),
        np.zeros((*shape, side, side // 8), np.uint8),
    )
    total = shape[0] * shape[1]
    with tqdm(total=total, desc="look around", unit="view", disable=None) as progress:
        for draw in range(settings.draws):
            for number, (tile, place) in look(ground, city, spots, draw, settings):
                evidence = make_evidence(tile, fields.resolution)
                found = matcher.candidates(tile, evidence, np.zeros(1), np.zeros(1))
                verdict = judge(found, place, settings.within_m)
                at = number, draw
                result.true[at], result.walls[at] = place, np.packbits(tile.wall > 0.3, axis=1)
                result.probability[at], result.hit[at] = verdict.probability, verdict.hit
                result.alike[at] = verdict.alike
                result.alike_probability[at] = verdict.alike_probability
                progress.update()
    return result
