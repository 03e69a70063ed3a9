"""The query tiles of a drive: the one loop over its queries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from maptile_loc.perceive.plan import QueryPlan, plan_queries
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import Submap, SubmapSettings, build_submap
from maptile_loc.types import HeadingKnowledge, Queries, QueryTile


class TileCache(Protocol):
    """A store of query tiles, so that they need not be made again."""

    def tile(self, query: int, make: Callable[[], QueryTile | None]) -> QueryTile | None:
        """The stored tile of a query; if there is none, what ``make`` returns."""
        ...


@dataclass(frozen=True)
class QueryTiles:
    """The queries of a drive and their tiles, made one at a time when they are asked for.

    Attributes:
        drive: Scans and odometry; never the truth.
        queries: How queries are made.
        plan: At which scans.
        rotation: (Q,) radians by which each query's cloud is turned: the heading from grid east, or
            a random angle where it is unknown. NaN where the drive has no heading at that time.
        submap_settings: How scans are put together.
        tile_settings: How a submap becomes a tile.
        cache: Where tiles are kept, or None.
    """

    drive: Drive
    queries: Queries
    plan: QueryPlan
    rotation: Array
    submap_settings: SubmapSettings
    tile_settings: QuerySettings
    cache: TileCache | None = None

    def __len__(self) -> int:
        return len(self.plan.scan)

    def __iter__(self) -> Iterator[QueryTile | None]:
        """Every query's tile, in order."""
        return (self.tile(query) for query in range(len(self)))

    @cached_property
    def t_ns(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """(Q,) int64 time of each query."""
        return self.drive.scans.t_ns[self.plan.scan]

    def submap(self, query: int) -> Submap:
        """The local cloud of a query, in the vehicle frame."""
        return build_submap(self.drive, self.plan, query, self.queries, self.submap_settings)

    def tile(self, query: int) -> QueryTile | None:
        """The tile of a query; None if its scans have no point, or it has no heading."""
        if self.cache is None:
            return self._make(query)
        return self.cache.tile(query, lambda: self._make(query))

    def _make(self, query: int) -> QueryTile | None:
        rotation = float(self.rotation[query])
        if np.isnan(rotation):
            return None
        cloud = self.submap(query)
        return make_tile(cloud, rotation, self.tile_settings) if len(cloud.points) else None


def query_tiles(
    drive: Drive,
    queries: Queries,
    convergence: float,
    submap_settings: SubmapSettings,
    tile_settings: QuerySettings,
    cache: TileCache | None = None,
) -> QueryTiles:
    """Return the query tiles of a drive, each made when it is asked for.

    Args:
        drive: Scans, and odometry and headings where ``queries`` asks for them.
        queries: How queries are made.
        convergence: Meridian convergence of the map, radians: grid heading less true heading.
        submap_settings: How scans are put together.
        tile_settings: How a submap becomes a tile.
        cache: A store of tiles that were made before; None for none.

    Returns:
        The tiles: north-up where the heading is known, turned by a random angle where it is not.

    Raises:
        MaptileError: The drive lacks scans, odometry or headings that are asked for.
    """
    drive = drive.without_truth()
    plan = plan_queries(drive, queries)
    rotation = tile_rotations(drive, plan, queries.heading, convergence, queries.seed)
    return QueryTiles(drive, queries, plan, rotation, submap_settings, tile_settings, cache)


def tile_rotations(
    drive: Drive, plan: QueryPlan, heading: HeadingKnowledge, convergence: float, seed: int
) -> Array:
    """(Q,) radians by which each query's cloud is turned; NaN where its heading is missing.

    Args:
        drive: Headings, where they are known.
        plan: The queries.
        heading: Known headings are used; an unknown one is replaced by a random angle.
        convergence: Meridian convergence of the map, radians.
        seed: Seed of the random angles.

    Raises:
        MaptileError: Headings are asked for, and the drive has none at the queries' times.
    """
    if heading.kind == "unknown":
        return np.random.default_rng(seed).uniform(-np.pi, np.pi, len(plan.scan))
    if drive.heading is None:
        raise MaptileError(f"{drive.name}: no headings in it; use --heading unknown")
    heading_rad = wrap_angle(drive.heading.at(drive.scans.t_ns[plan.scan]) + convergence)
    if np.isnan(heading_rad).all():
        raise MaptileError(
            f"{drive.name}: its headings cover none of the queries; use --heading unknown"
        )
    return heading_rad
