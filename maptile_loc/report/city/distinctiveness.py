"""How distinctive the positions of a city are.

At positions on the roads, query tiles are rendered from worlds that differ from the map, and
searched for on the whole map like any query. The probability that the search gives to the true
position is its distinctiveness; the most probable other position is its look-alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from maptile_loc.map_search import city_fields
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.render.vector_map import VectorMap, vector_map
from maptile_loc.report.city.road_views import (
    DistinctSettings,
    RenderedView,
    RoadPositions,
    render_views,
    sample_positions,
)
from maptile_loc.report.city.unfinished import Unfinished
from maptile_loc.score.evidence import make_evidence
from maptile_loc.search.match import Matcher
from maptile_loc.types import Candidates

WALL_EVIDENCE = 0.3
"""Pixels with more wall evidence than this are drawn as walls."""
RECALL_SHARE = 0.1
"""Share of all tiles, the most similar in probability, whose hits give a tile's expected recall."""


@dataclass(frozen=True)
class Distinctiveness:
    """Results of the search at N positions, with D tiles each.

    Attributes:
        spots: The positions.
        true: (N, D, 2) float64 east, north (metres, map frame) of the centre of each tile.
        probability: (N, D) 0..1, total of the candidates within ``within_m`` of the truth.
        hit: (N, D) bool, the best candidate is one of these.
        alike: (N, D, 2) east, north of the best other candidate, the look-alike; NaN if none.
        alike_probability: (N, D) 0..1, its probability.
        walls: (N, D, S, S / 8) uint8, pixels with wall evidence, eight to the byte.
    """

    spots: RoadPositions
    true: Array
    probability: Array
    hit: NDArray[np.bool_]
    alike: Array
    alike_probability: Array
    walls: NDArray[np.uint8]

    @classmethod
    def empty(cls, spots: RoadPositions, draws: int, side: int) -> Distinctiveness:
        """Results with zeros, for positions with a number of tiles of ``side`` pixels each."""
        shape = (len(spots.piece), draws)
        return cls(
            spots,
            np.zeros((*shape, 2)),
            np.zeros(shape),
            np.zeros(shape, bool),
            np.zeros((*shape, 2)),
            np.zeros(shape),
            np.zeros((*shape, side, side // 8), np.uint8),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, without the positions."""
        return {name: value for name, value in vars(self).items() if name != "spots"}

    def expected_recall(self) -> Array:
        """Return (N,) 0..1, the probability that the best candidate is right.

        A few tiles per position give hits or misses only. So each tile counts as the share of hits
        among the ``RECALL_SHARE`` of all tiles that are nearest to it in probability.
        """
        order = np.argsort(self.probability, axis=None, kind="stable")
        hits = self.hit.ravel()[order].astype(np.float64)
        recall = np.empty(len(order))
        window = max(1, int(len(order) * RECALL_SHARE))
        recall[order] = ndimage.uniform_filter1d(hits, window, mode="nearest")
        return recall.reshape(self.hit.shape).mean(axis=1)


class Verdict(NamedTuple):
    """Result of the search for one tile; fields as in ``Distinctiveness``."""

    probability: float
    hit: bool
    alike: Array
    alike_probability: float


def judge(candidates: Candidates, position: Array, within_m: float) -> Verdict:
    """Divide candidates into those within ``within_m`` of the true position and the others.

    Args:
        candidates: Candidates of one tile, at least one.
        position: (2,) true east, north.
        within_m: Metres.
    """
    share = np.exp(candidates.log_scores - np.logaddexp.reduce(candidates.log_scores))
    near = np.hypot(*(candidates.poses[:, :2] - position).T) <= within_m
    others = np.where(near, 0.0, share)
    alike = candidates.poses[others.argmax(), :2] if not near.all() else np.full(2, np.nan)
    hit = bool(near[share.argmax()])
    return Verdict(float(share[near].sum()), hit, alike, float(others.max()))


def measure(
    city: City,
    settings: DistinctSettings,
    recipe: LocalizeSettings,
    device: str = "cpu",
    progress: Progress = silent,
    unfinished: Path | None = None,
) -> Distinctiveness:
    """Render tiles at positions on a city's roads, and search for each on the whole map.

    Args:
        city: The city.
        settings: Which positions, and how tiles are rendered.
        recipe: How tiles are compared with the map.
        device: "cpu" or "cuda".
        progress: Called after each tile.
        unfinished: File that keeps what is measured, and from which an interrupted measurement goes
            on; None: nothing is kept.

    Raises:
        MaptileError: The file cannot be written; the city has no roads, or none that is far enough
            inside the map.
    """
    streets = vector_map(city)
    positions = sample_positions(streets, city, settings)
    fields = city_fields(city, recipe)
    matcher = Matcher(fields, settings.view.size_m, recipe.search, device=device)
    result = Distinctiveness.empty(positions, settings.draws, settings.view.size_px)
    arrays = result.arrays()
    parts = (settings, recipe.search, recipe.likelihood, recipe.evidence)
    key = [city.content_hash, *(part.model_dump_json() for part in parts)]
    state = Unfinished(unfinished, "".join(key))
    total, done, number = result.hit.size, state.resume(arrays), 0
    progress("search", done, total)
    try:
        for draw, view in _views(streets, city, positions, settings):
            number += 1
            if number <= done:
                continue
            evidence = make_evidence(view.tile, fields.resolution, recipe.evidence)
            found = matcher.candidates(view.tile, evidence, np.zeros(1), np.zeros(1))
            verdict = judge(found, view.position, settings.within_m)
            at = view.number, draw
            result.true[at] = view.position
            result.walls[at] = np.packbits(view.tile.wall > WALL_EVIDENCE, axis=1)
            result.probability[at], result.hit[at] = verdict.probability, verdict.hit
            result.alike[at] = verdict.alike
            result.alike_probability[at] = verdict.alike_probability
            done = number
            progress("search", done, total)
            state.keep(arrays, done)
    except KeyboardInterrupt:
        state.keep(arrays, done, now=True)
        raise
    return result


def _views(
    streets: VectorMap, city: City, positions: RoadPositions, settings: DistinctSettings
) -> Iterator[tuple[int, RenderedView]]:
    """The number of the draw, and the tile, of all draws."""
    for draw in range(settings.draws):
        for view in render_views(streets, city, positions, draw, settings):
            yield draw, view
