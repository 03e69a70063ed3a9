"""The pipeline: query tiles, candidates, alignment and fusion give a pose per query."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.city.raster import MapRaster
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se2_from_se3
from data_prep.progress import Progress, silent, tracked
from maptile_loc.fuse.alone import best_candidates, coarse_fixes
from maptile_loc.fuse.certainty import make_estimates
from maptile_loc.fuse.dense import scan_poses
from maptile_loc.fuse.filter import filter_causal
from maptile_loc.fuse.motion import FuseSettings, Steps, make_steps
from maptile_loc.fuse.smoother import smooth
from maptile_loc.fuse.window import window_poses
from maptile_loc.odometry.scan_motion import scan_motion
from maptile_loc.perceive.tiles import QueryTiles, TileCache, query_tiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.align import align
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import LikelihoodFields, make_fields
from maptile_loc.search import METHODS
from maptile_loc.search.engine.area import Area
from maptile_loc.search.engine.method import Method, Regressor, Search, SearchTask
from maptile_loc.search.engine.tracked import TrackedSearch
from maptile_loc.search.engine.union import UnionLocator
from maptile_loc.small_tiles import SmallTileStore
from maptile_loc.types import (
    Candidates,
    Estimates,
    Fixes,
    HeadingKnowledge,
    Localization,
    Queries,
    QueryTile,
    candidate_table,
)

SHOWN_TILES = 12
"""Query tiles that a result keeps for the report, at most."""

NO_FIXES = Fixes(Candidates(np.zeros((0, 3)), np.zeros(0)), np.zeros((0, 3, 3)))
"""The fixes of a query without a tile."""


@dataclass(frozen=True)
class MapSearch:
    """A map that is ready to be searched.

    Attributes:
        raster: The map.
        fields: Its likelihood fields.
        search: The method, built for it.
        tracked: The search near predicted poses; None: live vehicles are not tracked.
    """

    raster: MapRaster
    fields: LikelihoodFields
    search: Search
    tracked: TrackedSearch | None = None


def prepare_search(
    city: City,
    settings: LocalizeSettings,
    method: str = "match",
    area: Area | None = None,
    model: Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> MapSearch:
    """Make the likelihood fields of a city and build a search method for it.

    Args:
        city: The city.
        settings: The recipe.
        method: Name of the search method; of several by models, joined by "+", the positions of all
            are searched.
        area: The only part of the map that is searched; None: all of it.
        model: Folder of a trained model; None for the city's newest one of each method.
        device: "cpu" or "cuda".
        progress: Is called while the method is prepared.

    Raises:
        MaptileError: No such method or model, or one model for several methods; nothing of the
            area is on the map.
    """
    names = method.split("+")
    entries: list[Method] = [METHODS.load(name) for name in names]
    if model is not None and len(names) > 1:
        raise MaptileError(f"--model: --method {method} takes the city's newest model of each")
    fields = make_fields(city.raster, settings.search.resolution, settings.likelihood)
    task = SearchTask(
        city, fields, settings.query.size_m, settings.search, device, area, model, progress
    )
    built = [
        entry.build(task, settings.method(name)) for name, entry in zip(names, entries, strict=True)
    ]
    search = UnionLocator(built) if len(built) > 1 else built[0]
    tracked = TrackedSearch(fields, settings.query.size_m, search.area_km2, settings.search, device)
    return MapSearch(city.raster, fields, search, tracked)


def drive_tiles(
    city: City,
    drive: Drive,
    queries: Queries,
    settings: LocalizeSettings,
    cache: TileCache | None = None,
) -> QueryTiles:
    """The query tiles of a drive, as they are localized in ``city``.

    Of scans that have nothing to do with each other, each makes a tile.

    Raises:
        MaptileError: The drive lacks scans, odometry or headings that are asked for.
    """
    convergence = city.raster.convergence
    if drive.apart:
        queries = replace(queries, submap_m=0.0, every_m=0.0)
    return query_tiles(drive, queries, convergence, settings.submap, settings.query, cache)


def localize(
    tiles: QueryTiles,
    engine: MapSearch,
    settings: LocalizeSettings,
    progress: Progress = silent,
    search: bool = True,
    pgo: bool = False,
) -> Localization:
    """Localize the queries of a drive on a map.

    Args:
        tiles: The drive's query tiles; truth is not among them.
        engine: The map and the search method.
        settings: The recipe.
        progress: Is called after each query.
        search: Whether the map is searched; otherwise a model's own answers are the result.
        pgo: Whether a model's own answers are optimised with the odometry, too.

    Raises:
        MaptileError: No query has a point; the method has no model that answers with a pose.
    """
    regressor = engine.search if isinstance(engine.search, Regressor) else None
    if regressor is None and (pgo or not search):
        raise MaptileError("--search none and --pgo need a regressed pose: use --method mapnet")
    steps = query_steps(tiles, settings.fuse)
    asked = _ask(tiles, engine, regressor, steps, settings, search, progress)
    if asked.blind.all():
        raise MaptileError(
            f"{tiles.drive.name}: not one usable point in the scans of {len(tiles)} queries"
        )
    area_km2 = engine.search.area_km2
    stages: dict[str, Estimates] = {}
    if regressor is not None:
        stages["regressed"] = best_candidates(asked.own, settings.fuse)
    if regressor is not None and pgo:
        stages["pgo"] = _optimised(tiles, stages["regressed"], regressor.unit_m, settings)
    if search:
        stages |= _stages(steps, asked.found, asked.fixes, area_km2, settings)
    final = list(stages)[-1]
    motion = scan_motion(tiles.drive.odometry, tiles.drive.scans.t_ns)
    candidates = [fix.candidates for fix in (asked.fixes if search else asked.own)]
    return Localization(
        frame=tiles.plan.scan,
        t_ns=tiles.t_ns,
        stages=stages,
        final=final,
        search_area_km2=area_km2,
        query_seconds=asked.seconds,
        tiles=asked.shown,
        raster=engine.raster,
        blind=int(asked.blind.sum()),
        candidates=candidate_table(candidates),
        settings=settings,
        notes=tiles.drive.notes,
        dense=scan_poses(stages[final], tiles.plan.scan, motion, settings.fuse),
        small_tiles=asked.small.tiles(),
    )


class _Asked(NamedTuple):
    """What each of Q queries found by itself.

    Attributes:
        own: A model's own poses; none without one.
        found: Candidates before alignment; none where the map is not searched.
        fixes: The same, aligned.
        seconds: (Q,) spent; 0 where there is no tile.
        blind: (Q,) whether the scans have no points.
        shown: Some of the tiles, by query.
        small: Small tiles of more of them.
    """

    own: list[Fixes]
    found: list[Candidates]
    fixes: list[Fixes]
    seconds: Array
    blind: NDArray[np.bool_]
    shown: dict[int, QueryTile]
    small: SmallTileStore


def _ask(
    tiles: QueryTiles,
    engine: MapSearch,
    regressor: Regressor | None,
    steps: Steps,
    settings: LocalizeSettings,
    search: bool,
    progress: Progress,
) -> _Asked:
    """Ask the model, if there is one, and search the map for each query by itself."""
    count = len(tiles)
    asked = _Asked([], [], [], np.zeros(count), np.zeros(count, bool), {}, SmallTileStore())
    shown = set(np.linspace(0, count - 1, min(count, SHOWN_TILES)).astype(int).tolist())
    before: QueryTile | None = None
    for query in tracked(range(count), "localize", count, progress):
        begun = time.perf_counter()
        own, found, fixes = NO_FIXES, NO_FIXES.candidates, NO_FIXES
        tile = tiles.tile(query)
        if tile is None:
            asked.blind[query] = np.isfinite(tiles.rotation[query])
        elif regressor is not None:
            connected = before if steps.known[query] else None
            own = regress_tile(tile, connected, tiles.queries, regressor, settings)
        if tile is not None and search:
            found, fixes = fix_tile(tile, tiles.queries, engine, settings)
        asked.own.append(own)
        asked.found.append(found)
        asked.fixes.append(fixes)
        if tile is not None:
            asked.seconds[query] = time.perf_counter() - begun
            asked.small.add(query, tile)
        if tile is not None and query in shown:
            asked.shown[query] = tile
        before = tile
    return asked


def fix_tile(
    tile: QueryTile,
    queries: Queries,
    engine: MapSearch,
    settings: LocalizeSettings,
    near: Array | None = None,
    reach_rad: float = np.pi,
) -> tuple[Candidates, Fixes]:
    """The candidates of one query tile, and the same aligned.

    Args:
        tile: The query tile.
        queries: What is known of its heading, and how far its submap reaches.
        engine: The map and the search method.
        settings: The recipe.
        near: (K, 3) predicted poses, around which alone is searched; None: the whole map.
        reach_rad: Largest difference from a predicted heading, radians.
    """
    heading, fields = queries.heading, engine.fields
    evidence = make_evidence(tile, fields.resolution, settings.evidence)
    turns, log_prior = heading_turns(heading, settings)
    if near is None:
        found = engine.search.candidates(tile, evidence, turns, log_prior)
    else:
        assert engine.tracked is not None
        found = engine.tracked.candidates(tile, evidence, near, turns, log_prior, reach_rad)
    std = None if heading.kind == "unknown" else np.radians(_heading_std(heading, settings))
    reach_m = queries.reach_m
    aligned = align(found, evidence, tile.rotation, fields, std, settings.align, reach_m)
    return found, aligned


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
        fix.covariance[:, 2, 2] = np.radians(_heading_std(queries.heading, settings)) ** 2
    return fix._replace(wall_m2=float(tile.wall.sum()) * tile.resolution**2)


def _optimised(
    tiles: QueryTiles, regressed: Estimates, unit_m: float, settings: LocalizeSettings
) -> Estimates:
    """The regressed poses, optimised with the drive's odometry; covariances are unknown."""
    plan, known = tiles.plan, tiles.queries.heading.kind == "known"
    segment = plan.segment[plan.scan]
    poses = window_poses(regressed.poses, query_motion(tiles), segment, known, settings.pgo, unit_m)
    unknown, count = np.full((len(poses), 3, 3), np.nan), len(poses)
    return make_estimates(poses, unknown, np.zeros(count), regressed.reason, settings.fuse)


def heading_turns(heading: HeadingKnowledge, settings: LocalizeSettings) -> tuple[Array, Array]:
    """(T,) turns of the tile to try, radians, and their (T,) log-probabilities."""
    if heading.kind == "known":
        return np.zeros(1), np.zeros(1)
    step = np.radians(settings.search.heading_step_deg)
    if heading.kind == "unknown":
        count = round(2 * np.pi / step)
        return np.arange(count) * (2 * np.pi / count), np.full(count, -np.log(count))
    std = np.radians(_heading_std(heading, settings))
    reach = min(np.ceil(3 * std / step), np.floor(np.pi / step))
    turns = np.arange(-reach, reach + 1) * step
    log_prior = -0.5 * (turns / std) ** 2
    return turns, log_prior - np.log(np.exp(log_prior).sum())


def _heading_std(heading: HeadingKnowledge, settings: LocalizeSettings) -> float:
    return max(heading.std_deg, settings.known_heading_std_deg)


def _stages(
    steps: Steps,
    found: list[Candidates],
    fixes: list[Fixes],
    area_km2: float,
    settings: LocalizeSettings,
) -> dict[str, Estimates]:
    """The estimates of every stage."""
    coarse = coarse_fixes(found, fixes, settings.search)
    area_m2 = max(area_km2 * 1e6, 1.0)
    fused = filter_causal(fixes, steps, area_m2, settings.fuse)
    return {
        "coarse": best_candidates(coarse, settings.fuse),
        "aligned": best_candidates(fixes, settings.fuse),
        "fused": fused,
        "smoothed": smooth(fixes, steps, fused, area_m2, settings.fuse),
    }


def query_steps(tiles: QueryTiles, settings: FuseSettings) -> Steps:
    """The odometry between consecutive queries."""
    plan = tiles.plan
    segment, travelled = plan.segment[plan.scan], plan.travelled[plan.scan]
    return make_steps(query_motion(tiles), segment, travelled, tiles.queries.submap_m, settings)


def query_motion(tiles: QueryTiles) -> Array:
    """(Q, 3) x, y, heading of the queries in the odometry's frame; 0 without odometry."""
    odometry = tiles.drive.odometry
    return np.zeros((len(tiles), 3)) if odometry is None else se2_from_se3(odometry.at(tiles.t_ns))
