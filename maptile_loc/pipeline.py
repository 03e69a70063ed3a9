"""The pipeline: query tiles, candidates, alignment and fusion give a pose per query."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from data_prep.city.folder import City
from data_prep.city.raster import MapRaster
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se2_from_se3
from data_prep.progress import Progress, silent, tracked
from data_prep.settings import Positive, Settings
from maptile_loc.config import load_settings
from maptile_loc.fuse.certainty import likely_reason, make_estimates
from maptile_loc.fuse.filter import filter_causal
from maptile_loc.fuse.motion import FuseSettings, Steps, make_steps
from maptile_loc.fuse.smoother import smooth
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.perceive.detector import cached_detector
from maptile_loc.perceive.query_tile import QuerySettings
from maptile_loc.perceive.submap import SubmapSettings
from maptile_loc.perceive.tiles import QueryTiles, TileCache, query_tiles
from maptile_loc.perceive.walls import FEATURES
from maptile_loc.score.align import AlignSettings, align
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import LikelihoodFields, make_fields
from maptile_loc.score.settings import EvidenceSettings, LikelihoodSettings
from maptile_loc.search import METHODS
from maptile_loc.search.engine.method import Disc, Method, Search, SearchTask
from maptile_loc.search.engine.settings import SearchSettings, TrackSettings
from maptile_loc.search.engine.tracked import TrackedSearch
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


class LocalizeSettings(Settings):
    """The sections of a localization recipe that every method reads."""

    odometry: OdometrySettings = OdometrySettings()
    submap: SubmapSettings = SubmapSettings()
    query: QuerySettings = QuerySettings()
    evidence: EvidenceSettings = EvidenceSettings()
    likelihood: LikelihoodSettings = LikelihoodSettings()
    search: SearchSettings = SearchSettings()
    align: AlignSettings = AlignSettings()
    fuse: FuseSettings = FuseSettings()
    track: TrackSettings = TrackSettings()
    known_heading_std_deg: Positive = 1.0

    def method(self, name: str) -> Settings:
        """The section of search method ``name``."""
        section: Settings = getattr(self, name)
        return section


def load_recipe(config: str | Path = "localize", overrides: Sequence[str] = ()) -> LocalizeSettings:
    """Read a localization recipe.

    Args:
        config: A name in ``configs/``, or a YAML file.
        overrides: ``key.subkey=value`` strings.

    Raises:
        MaptileError: No such recipe, or a key or value that does not fit.
    """
    return load_settings(recipe_class(), config, overrides)


def with_profile(settings: LocalizeSettings, folder: str | Path | None) -> LocalizeSettings:
    """Return a recipe whose walls are found by the detector of a sensor profile.

    Args:
        settings: The recipe; it may name a profile itself (``query.wall.profile``).
        folder: Folder of the profile; None: the one that the recipe names, if any.

    Raises:
        MaptileError: The folder holds no detector, or a damaged one; the recipe names another.
    """
    named = settings.query.wall.profile
    found = named if folder is None else folder
    if found is None:
        return settings
    found = Path(found).resolve()
    if named is not None and named.resolve() != found:
        raise MaptileError(f"sensor profile {found}: the recipe names {named}; give one of both")
    cached_detector(found, FEATURES)
    wall = settings.query.wall.model_copy(update={"profile": found})
    query = settings.query.model_copy(update={"wall": wall})
    return settings.model_copy(update={"query": query})


@cache
def recipe_class() -> type[LocalizeSettings]:
    """The class of a whole localization recipe: ``LocalizeSettings`` and a section per method."""
    sections: dict[str, Any] = {}
    for name in METHODS.names():
        method: Method = METHODS.load(name)
        sections[name] = (method.settings, method.settings())
    made: type[LocalizeSettings] = pydantic.create_model(
        "LocalizeRecipe", __base__=LocalizeSettings, **sections
    )
    return made


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
    prior: tuple[float, float, float] | None = None,
    model: Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> MapSearch:
    """Make the likelihood fields of a city and build a search method for it.

    Args:
        city: The city.
        settings: The recipe.
        method: Name of the search method.
        prior: Latitude, longitude (degrees) and radius (metres) of the only area to be searched.
        model: Folder of a trained model; None for the city's newest one of this method.
        device: "cpu" or "cuda".
        progress: Is called while the method is prepared.

    Raises:
        MaptileError: No such method or model; the prior is not on the map, or of no use to the
            method.
    """
    entry: Method = METHODS.load(method)
    if prior is not None and not entry.takes_prior:
        raise MaptileError("--prior narrows the search of the whole map: --method match")
    disc = None if prior is None else _disc(city, *prior)
    fields = make_fields(city.raster, settings.search.resolution, settings.likelihood)
    task = SearchTask(
        city, fields, settings.query.size_m, settings.search, device, disc, model, progress
    )
    search = entry.build(task, settings.method(method))
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

    Raises:
        MaptileError: The drive lacks scans, odometry or headings that are asked for.
    """
    convergence = city.raster.convergence
    return query_tiles(drive, queries, convergence, settings.submap, settings.query, cache)


def localize(
    tiles: QueryTiles,
    engine: MapSearch,
    settings: LocalizeSettings,
    progress: Progress = silent,
) -> Localization:
    """Localize the queries of a drive on a map.

    Args:
        tiles: The drive's query tiles; truth is not among them.
        engine: The map and the search method.
        settings: The recipe.
        progress: Is called after each query.

    Raises:
        MaptileError: No query has a point.
    """
    found: list[Candidates] = []
    fixes: list[Fixes] = []
    count = len(tiles)
    seconds, blind = np.zeros(count), np.zeros(count, bool)
    shown = set(np.linspace(0, count - 1, min(count, SHOWN_TILES)).astype(int).tolist())
    kept: dict[int, QueryTile] = {}
    for query in tracked(range(count), "localize", count, progress):
        begun = time.perf_counter()
        tile = tiles.tile(query)
        if tile is None:
            blind[query] = np.isfinite(tiles.rotation[query])
            found.append(NO_FIXES.candidates)
            fixes.append(NO_FIXES)
            continue
        candidates, aligned = fix_tile(tile, tiles.queries, engine, settings)
        found.append(candidates)
        fixes.append(aligned)
        seconds[query] = time.perf_counter() - begun
        if query in shown:
            kept[query] = tile
    if blind.all():
        raise MaptileError(
            f"{tiles.drive.name}: not one usable point in the scans of {count} queries"
        )
    area_km2 = engine.search.area_km2
    return Localization(
        frame=tiles.plan.scan,
        t_ns=tiles.t_ns,
        stages=_stages(tiles, found, fixes, area_km2, settings),
        final="smoothed",
        search_area_km2=area_km2,
        query_seconds=seconds,
        tiles=kept,
        raster=engine.raster,
        blind=int(blind.sum()),
        candidates=candidate_table([fix.candidates for fix in fixes]),
        settings=settings,
        notes=tiles.drive.notes,
    )


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


def _disc(city: City, latitude: float, longitude: float, radius: float) -> Disc:
    east, north = city.raster.projection.forward(latitude, longitude)
    if not radius > 0 or not city.raster.inside(np.array([east, north]), -radius):
        raise MaptileError(f"--prior {latitude},{longitude},{radius:g}: not on this city's map")
    return Disc(float(east), float(north), radius)


def _stages(
    tiles: QueryTiles,
    found: list[Candidates],
    fixes: list[Fixes],
    area_km2: float,
    settings: LocalizeSettings,
) -> dict[str, Estimates]:
    """The estimates of every stage."""
    coarse = coarse_fixes(found, fixes, settings.search)
    steps = query_steps(tiles, settings.fuse)
    area_m2 = max(area_km2 * 1e6, 1.0)
    fused = filter_causal(fixes, steps, area_m2, settings.fuse)
    return {
        "coarse": best_candidates(coarse, settings.fuse),
        "aligned": best_candidates(fixes, settings.fuse),
        "fused": fused,
        "smoothed": smooth(fixes, steps, fused, area_m2, settings.fuse),
    }


def coarse_fixes(
    found: Sequence[Candidates], fixes: Sequence[Fixes], settings: SearchSettings
) -> list[Fixes]:
    """The candidates of Q queries before alignment, with the covariance of the search's grid."""
    spread = [settings.distinct_m / 2] * 2 + [np.radians(settings.heading_step_deg)]
    grid = np.diag(np.square(spread))
    return [
        Fixes(candidates, np.tile(grid, (len(candidates.poses), 1, 1)), fix.wall_m2)
        for candidates, fix in zip(found, fixes, strict=True)
    ]


def run_record(
    city: City, drive: Drive, queries: Queries, model: Path | None, settings: LocalizeSettings
) -> dict[str, Any]:
    """What ran, as ``run.json`` keeps it: plain values."""
    origin = drive.origin
    return {
        "city": None if city.path is None else str(city.path.resolve()),
        "city_content_hash": city.content_hash,
        "drive": drive.name if origin is None else str(origin.path.resolve()),
        "format": drive.format,
        "sensors": None if origin is None else origin.sensors,
        "start": None if origin is None else origin.start,
        "end": None if origin is None else origin.end,
        "model": None if model is None else str(model),
        "sensor_profile": settings.query.wall.model_dump(mode="json")["profile"],
        **asdict(queries),
    }


def query_steps(tiles: QueryTiles, settings: FuseSettings) -> Steps:
    """The odometry between consecutive queries."""
    plan, odometry = tiles.plan, tiles.drive.odometry
    poses = np.zeros((len(tiles), 3)) if odometry is None else se2_from_se3(odometry.at(tiles.t_ns))
    segment, travelled = plan.segment[plan.scan], plan.travelled[plan.scan]
    return make_steps(poses, segment, travelled, tiles.queries.submap_m, settings)


def best_candidates(fixes: Sequence[Fixes], settings: FuseSettings) -> Estimates:
    """The estimates of queries by themselves: the most probable candidate of each."""
    count = len(fixes)
    poses, covariance = np.full((count, 3), np.nan), np.full((count, 3, 3), np.nan)
    score, alike = np.zeros(count), np.zeros(count, bool)
    for number, (candidates, spread, _) in enumerate(fixes):
        if len(candidates.poses):
            best = int(candidates.log_scores.argmax())
            poses[number], covariance[number] = candidates.poses[best], spread[best]
            probability = np.exp(candidates.log_scores)
            score[number] = probability[best]
            alike[number] = 2 * (probability.sum() - probability[best]) > 1 - probability[best]
    wall_m2 = np.array([fix.wall_m2 for fix in fixes])
    reason = likely_reason(wall_m2, alike, np.full(count, np.inf), settings)
    return make_estimates(poses, covariance, score, reason, settings)
