"""A map that is ready to be searched, and the search for one query tile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.city.folder import City
from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from maptile_loc.fuse.gnss import Witness
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.align import align
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.score.map_fields import made_of, make_fields
from maptile_loc.score.store import open_store
from maptile_loc.search import METHODS
from maptile_loc.search.engine.area import Area
from maptile_loc.search.engine.method import Method, Search, SearchTask
from maptile_loc.search.engine.tracked import TrackedSearch, disc, united
from maptile_loc.search.engine.union import UnionLocator
from maptile_loc.types import Candidates, Fixes, HeadingKnowledge, Queries, QueryTile

HEADING_STDS = 3.0
"""Headings up to this many standard deviations from a predicted one are searched."""

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


def city_fields(city: City, settings: LocalizeSettings) -> LikelihoodFields:
    """The likelihood fields of a city's map, kept in its folder ``cache`` for the next run.

    Raises:
        MaptileError: ``search.resolution`` is no multiple of the map's.
    """
    resolution, likelihood, limit = (
        settings.search.resolution,
        settings.likelihood,
        settings.search.cache_gb,
    )
    key = made_of(resolution, likelihood)
    store = open_store(city.folder, city.content_hash, key, limit) if limit > 0 else None
    return make_fields(city.raster, resolution, likelihood, store)


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
    fields = city_fields(city, settings)
    task = SearchTask(
        city, fields, settings.query.size_m, settings.search, device, area, model, progress
    )
    built = [
        entry.build(task, settings.method(name)) for name, entry in zip(names, entries, strict=True)
    ]
    search = UnionLocator(built) if len(built) > 1 else built[0]
    tracked = TrackedSearch(fields, settings.query.size_m, search.area_km2, settings.search, device)
    return MapSearch(city.raster, fields, search, tracked)


def fix_with_gnss(
    tile: QueryTile,
    witness: Witness | None,
    queries: Queries,
    engine: MapSearch,
    settings: LocalizeSettings,
) -> tuple[Candidates, Fixes, bool]:
    """As ``fix_tile``, near GNSS where that is enough, and whether it is."""
    if witness is None or engine.tracked is None:
        return *fix_tile(tile, queries, engine, settings), False
    near = fix_in_disc(tile, witness, queries, engine, settings)
    if enough(near[1], settings):
        return *near, True
    found, fixes = fix_tile(tile, queries, engine, settings)
    return found, united(near[1], fixes, settings.search), False


def fix_in_disc(
    tile: QueryTile,
    witness: Witness,
    queries: Queries,
    engine: MapSearch,
    settings: LocalizeSettings,
) -> tuple[Candidates, Fixes]:
    """As ``fix_tile``, in a disc around what GNSS states, at its headings."""
    std = float(np.sqrt(witness.covariance[2, 2]))
    reach = HEADING_STDS * std + np.radians(settings.search.heading_step_deg)
    near = disc(witness.pose, settings.gnss.reach_m)
    return fix_tile(tile, queries, engine, settings, near, min(reach, np.pi))


def enough(fixes: Fixes, settings: LocalizeSettings) -> bool:
    """Whether the candidates in the disc around GNSS are so probable that they are the right ones.

    Where GNSS lies, they are not: the whole map is searched.
    """
    return bool(np.exp(fixes.candidates.log_scores).sum() >= settings.gnss.enough)


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
    std = None if heading.kind == "unknown" else np.radians(heading_std(heading, settings))
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
    std = np.radians(heading_std(heading, settings))
    reach = min(np.ceil(3 * std / step), np.floor(np.pi / step))
    turns = np.arange(-reach, reach + 1) * step
    log_prior = -0.5 * (turns / std) ** 2
    return turns, log_prior - np.log(np.exp(log_prior).sum())


def heading_std(heading: HeadingKnowledge, settings: LocalizeSettings) -> float:
    """The standard deviation of a heading that is known, degrees."""
    return max(heading.std_deg, settings.known_heading_std_deg)
