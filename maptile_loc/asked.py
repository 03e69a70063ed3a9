"""Each query of a drive by itself: a model is asked, and the map is searched."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.progress import Progress, silent, tracked
from maptile_loc.fuse.gnss import Witness
from maptile_loc.map_search import NO_FIXES, MapSearch, fix_with_gnss, heading_std, heading_turns
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.search.engine.method import Regressor
from maptile_loc.small_tiles import SmallPicture, SmallTiles, SmallTileStore, small_picture
from maptile_loc.types import Candidates, Fixes, Queries, QueryTile

SHOWN_TILES = 12
"""Query tiles that a result keeps for the report, at most."""


class QueryAnswer(NamedTuple):
    """What one query found by itself.

    Attributes:
        query: Its number.
        own: A model's own pose; none without one.
        found: Candidates before alignment; none where the map is not searched.
        fixes: The same, aligned.
        seconds: Spent; 0 where there is no tile.
        blind: Whether the scans have no points.
        near: Whether only the surroundings of GNSS were searched.
        shown: The tile, of some queries.
        picture: A small picture of the tile; None where there is no tile.
    """

    query: int
    own: Fixes
    found: Candidates
    fixes: Fixes
    seconds: float
    blind: bool
    near: bool
    shown: QueryTile | None
    picture: SmallPicture | None


class Asked(NamedTuple):
    """What each of Q queries found by itself.

    Attributes:
        own, found, fixes: As of ``QueryAnswer``, by query.
        seconds: (Q,) float64.
        blind: (Q,) bool.
        near: (Q,) bool.
        shown: Some of the tiles, by query.
        small: Small tiles of more of them; None where there is none.
    """

    own: list[Fixes]
    found: list[Candidates]
    fixes: list[Fixes]
    seconds: Array
    blind: NDArray[np.bool_]
    near: NDArray[np.bool_]
    shown: dict[int, QueryTile]
    small: SmallTiles | None


def ask(
    tiles: QueryTiles,
    engine: MapSearch,
    settings: LocalizeSettings,
    queries: range,
    known: NDArray[np.bool_],
    search: bool = True,
    witnesses: Sequence[Witness | None] | None = None,
    progress: Progress = silent,
) -> Iterator[QueryAnswer]:
    """Ask the model, if there is one, and search the map, for each query by itself.

    Args:
        tiles: The drive's query tiles.
        engine: The map and the search method.
        settings: The recipe.
        queries: Numbers of consecutive queries.
        known: (Q,) whether odometry connects each query with the one before.
        search: Whether the map is searched.
        witnesses: (Q,) what GNSS states; None where it is not used.
        progress: Is called after each query.

    Yields:
        An answer per query, in order.
    """
    regressor = engine.search if isinstance(engine.search, Regressor) else None
    shown = shown_queries(len(tiles))
    first = queries.start
    before = tiles.tile(first - 1) if regressor is not None and first and known[first] else None
    for query in tracked(queries, "localize", len(queries), progress):
        begun = time.perf_counter()
        own, found, fixes, near = NO_FIXES, NO_FIXES.candidates, NO_FIXES, False
        tile = tiles.tile(query)
        if tile is not None and regressor is not None:
            connected = before if known[query] else None
            own = regress_tile(tile, connected, tiles.queries, regressor, settings)
        if tile is not None and search:
            witness = None if witnesses is None else witnesses[query]
            found, fixes, near = fix_with_gnss(tile, witness, tiles.queries, engine, settings)
        seconds = 0.0 if tile is None else time.perf_counter() - begun
        blind = tile is None and bool(np.isfinite(tiles.rotation[query]))
        picture = None if tile is None else small_picture(tile)
        kept = tile if query in shown else None
        yield QueryAnswer(query, own, found, fixes, seconds, blind, near, kept, picture)
        before = tile


def together(answers: Iterable[QueryAnswer]) -> Asked:
    """The answers of all queries, which come in order; each is let go of when it is taken."""
    own, found, fixes = list[Fixes](), list[Candidates](), list[Fixes]()
    rest, shown, small = list[tuple[float, bool, bool]](), dict[int, QueryTile](), SmallTileStore()
    for answer in answers:
        own.append(answer.own)
        found.append(answer.found)
        fixes.append(answer.fixes)
        rest.append((answer.seconds, answer.blind, answer.near))
        if answer.shown is not None:
            shown[answer.query] = answer.shown
        if answer.picture is not None:
            small.add(answer.query, answer.picture)
    seconds, blind, near = np.array(rest, np.float64).reshape(-1, 3).T
    return Asked(own, found, fixes, seconds, blind > 0, near > 0, shown, small.tiles())


def shown_queries(count: int) -> set[int]:
    """The numbers of the queries, of ``count``, whose tiles a result keeps."""
    return set(np.linspace(0, count - 1, min(count, SHOWN_TILES)).astype(int).tolist())


def regress_tile(
    tile: QueryTile,
    before: QueryTile | None,
    queries: Queries,
    regressor: Regressor,
    settings: LocalizeSettings,
) -> Fixes:
    """A model's own pose of one query tile.

    Args:
        tile: The query tile.
        before: That of the query before, where odometry connects the two.
        queries: What is known of the heading.
        regressor: The search whose model answers.
        settings: The recipe.
    """
    turns, log_prior = heading_turns(queries.heading, settings)
    fix = regressor.regress(tile, before, turns, log_prior)
    if queries.heading.kind != "unknown":
        fix.covariance[:, 2, 2] = np.radians(heading_std(queries.heading, settings)) ** 2
    return fix._replace(wall_m2=float(tile.wall.sum()) * tile.resolution**2)
