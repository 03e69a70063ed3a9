"""How well views of a city from above determine a position: known views against the search.

Run: python benchmarks/known_views.py [CITY] [--work FOLDER] [--tests N]

The question is that of Lean Images (lean_images.py, which has its protocol), without a network and
with views from above. Known views are rendered from the map alone on a grid of free positions:
walls, ground, or both. Test views are rendered with noise, in a world that differs from the map;
their positions are to be found.

- *Memory*: test views at the grid points. "recognised" is the share whose nearest known view is the
  right one.
- *Between*: test views at random positions. "1nn" answers with the position of the most similar
  known view, "3nn" with the mean of the best three; "search" has the map instead of a grid. R is
  the error divided by the distance to the nearest grid point: R < 1 is better than any known view.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from inputs import city as prepared
from numpy.typing import NDArray
from stamp import head, row, stamp
from torch import Tensor
from torch.nn import functional

from data_prep.city.folder import City, open_city
from data_prep.geometry import Array
from maptile_loc.recipe import load_recipe
from maptile_loc.render.disguise import DisguiseSettings
from maptile_loc.render.raycast import FREE_CELL, Worlds
from maptile_loc.render.vector_map import vector_map
from maptile_loc.render.view import (
    GROUND_CHANNEL,
    OBSERVED_CHANNEL,
    WALL_CHANNEL,
    ViewSettings,
    render,
)
from maptile_loc.report.city.road_views import DistinctSettings, query_view
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.map_fields import make_fields
from maptile_loc.score.settings import EvidenceSettings
from maptile_loc.search.match import Matcher
from maptile_loc.types import QueryTile

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

STEPS_M = (10.0, 20.0, 40.0)
"""Spacings of the grid, metres."""

CHANNELS = {
    "walls": (WALL_CHANNEL,),
    "ground": (GROUND_CHANNEL,),
    "both": (WALL_CHANNEL, GROUND_CHANNEL),
}
"""Channels of the views that are compared, by name."""

MARGIN_M = 30.0
"""Smallest distance of a position from the map's edge, metres."""

SHRINK = 8
"""Pixels of a view per pixel that is compared: 4 m, so that an error of a metre matters little."""

BATCH = 16
"""Views that are rendered at a time."""


class Scene:
    """A city as it is mapped, and as it might be.

    Args:
        city: The city.
        seed: Seed of the world and of all views.
    """

    def __init__(self, city: City, seed: int) -> None:
        self.city, self.map = city, vector_map(city)
        self.seed = seed
        self.view = query_view("hdl64", 1.0)
        self.mapped = self._world(DisguiseSettings(resolution=0.5).nothing())
        self.other = self._world(DistinctSettings().disguise)

    def _world(self, disguise: DisguiseSettings) -> Worlds:
        return self.map.world(disguise, np.random.default_rng(self.seed))

    def free(self, positions: Array) -> Array:
        """Those of (N, 2) positions, metres from the reference, that are inside and free."""
        worlds = self.mapped
        inside = self.city.raster.inside(positions + self.city.reference, MARGIN_M)
        positions = positions[inside]
        row = ((worlds.north - positions[:, 1]) / worlds.resolution).astype(np.int64)
        column = ((positions[:, 0] - worlds.west) / worlds.resolution).astype(np.int64)
        free: NDArray[np.bool_] = worlds.cells[0].numpy()[row, column] == FREE_CELL
        return np.compress(free, positions, axis=0)

    def grid(self, step: float) -> Array:
        """(N, 2) free positions of a grid with a spacing of ``step`` metres."""
        west, south, east, north = self.map.bounds
        x, y = np.meshgrid(np.arange(west, east, step), np.arange(south, north, step))
        return self.free(np.column_stack([x.ravel(), y.ravel()]))

    def random(self, count: int) -> Array:
        """(count, 2) free positions, drawn at random."""
        west, south, east, north = self.map.bounds
        rng = np.random.default_rng([self.seed, 1])
        return self.free(rng.uniform((west, south), (east, north), (4 * count, 2)))[:count]

    def seen(self, positions: Array, worlds: Worlds, view: ViewSettings) -> Iterator[Tensor]:
        """(B, 3, S, S) views at (N, 2) positions, some at a time."""
        generator = torch.Generator().manual_seed(self.seed)
        along = torch.tensor([[-0.05, 0.0], [0.05, 0.0]])
        for start in range(0, len(positions), BATCH):
            centre = torch.from_numpy(positions[start : start + BATCH]).float()
            zeros = torch.zeros(len(centre))
            paths = centre[:, None] + along
            yield render(worlds, zeros.long(), paths, centre, zeros, view, generator)


def described(views: Iterable[Tensor]) -> dict[str, Tensor]:
    """(N, F) features of views, by the name of the channels that are used."""
    parts = [{name: features(v, used) for name, used in CHANNELS.items()} for v in views]
    return {name: torch.cat([part[name] for part in parts]) for name in CHANNELS}


def features(tiles: Tensor, channels: tuple[int, ...]) -> Tensor:
    """(N, F) unit vectors: each channel reduced, smoothed and normalised."""
    parts = []
    for channel in channels:
        small = functional.avg_pool2d(tiles[:, channel : channel + 1], SHRINK)
        small = functional.avg_pool2d(small, 3, stride=1, padding=1).flatten(1)
        small = small - small.mean(dim=1, keepdim=True)
        parts.append(functional.normalize(small, dim=1))
    return functional.normalize(torch.cat(parts, dim=1), dim=1)


def searched(
    tiles: Tensor,
    channels: tuple[int, ...],
    matcher: Matcher,
    resolution: float,
    settings: EvidenceSettings,
) -> Array:
    """(N, 2) east, north of the best candidate of the exhaustive search.

    Args:
        tiles: (N, 3, S, S) views.
        channels: The channels that are used.
        matcher: The search.
        resolution: Metres per pixel of the views.
        settings: How cells become evidence.
    """
    best = np.zeros((len(tiles), 2))
    nothing = np.zeros(tiles.shape[2:], np.float32)
    for number, tile in enumerate(tiles.numpy()):
        walls = WALL_CHANNEL in channels
        wall, observed = (tile[c] if walls else nothing for c in (WALL_CHANNEL, OBSERVED_CHANNEL))
        ground = tile[GROUND_CHANNEL] if GROUND_CHANNEL in channels else nothing
        query = QueryTile(wall, ground, observed, resolution, 0.0)
        evidence = make_evidence(query, matcher.fields.resolution, settings)
        found = matcher.candidates(query, evidence, np.zeros(1), np.zeros(1))
        best[number] = found.poses[0, :2]
    return best


def distances(a: Array, b: Array) -> NDArray[np.float64]:
    """(N, M) metres between (N, 2) and (M, 2) positions."""
    return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=-1))


class Tests:
    """Views at random positions, and what is found for them.

    Args:
        scene: The city.
        count: Number of views.
    """

    def __init__(self, scene: Scene, count: int) -> None:
        settings = load_recipe()
        fields = make_fields(scene.city.raster, settings.search.resolution, settings.likelihood)
        matcher = Matcher(fields, scene.view.size_m, settings.search)
        self.scene, self.count = scene, count
        self.positions = scene.random(count)
        views = torch.cat(list(scene.seen(self.positions, scene.other, scene.view)))
        self.features = described([views])
        how = matcher, scene.view.resolution, settings.evidence
        self.searched = {
            name: searched(views, channels, *how) - scene.city.reference
            for name, channels in CHANNELS.items()
        }

    def print_rows(self, step: float) -> None:
        """Print the rows of a grid with a spacing of ``step`` metres."""
        scene = self.scene
        grid = scene.grid(step)
        known = described(scene.seen(grid, scene.mapped, scene.view.without_noise()))
        chosen = np.random.default_rng(2).permutation(len(grid))[: self.count]
        again = described(scene.seen(grid[chosen], scene.other, scene.view))
        nearest = distances(self.positions, grid).min(axis=1)
        for name, memory in known.items():
            recognised = (again[name] @ memory.T).argmax(dim=1).numpy() == chosen
            three = (self.features[name] @ memory.T).topk(3, dim=1).indices.numpy()
            guesses = (grid[three[:, 0]], grid[three].mean(axis=1), self.searched[name])
            error = np.stack([np.linalg.norm(guess - self.positions, axis=1) for guess in guesses])
            medians = [f"{value:.1f}" for value in np.median(error, axis=1)]
            shares = [
                f"{value:.2f}" for r in (1, 3) for value in (error < r * nearest).mean(axis=1)
            ]
            cells = f"{step:g} m", f"{len(grid)}", name, f"{recognised.mean():.2f}"
            row(*cells, *medians, *shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "known_views")
    parser.add_argument("--tests", type=int, default=400, help="number of test views")
    given = parser.parse_args()
    where = given.city
    if where is None:
        source = ROOT.parent / "shared" / "data" / "oxford" / "oxford.osm"
        where = prepared(source, given.work / "oxford")
    print(stamp(), end="\n\n")
    tests = Tests(Scene(open_city(where), seed=0), given.tests)
    methods = ("1nn", "3nn", "search")
    figures = [f"{what} {method}" for what in ("median m", "R<1", "R<3") for method in methods]
    head("grid", "views", "channels", "recognised", *figures)
    for step in STEPS_M:
        tests.print_rows(step)


if __name__ == "__main__":
    main()
