"""Locate a drive without any prior: first which town, then where in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from data_prep.city.folder import City
from data_prep.counted import counted
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from data_prep.progress import Progress, silent, tracked
from data_prep.settings import Count, Positive, Settings
from maptile_loc import pipeline
from maptile_loc.api import localize
from maptile_loc.arguments import PathLike, as_city, as_drive, as_heading, several
from maptile_loc.config import load_settings
from maptile_loc.device import pick_device
from maptile_loc.map_search import heading_turns
from maptile_loc.models.descriptor import DescriptorModel
from maptile_loc.models.parts.describer import Describer
from maptile_loc.models.parts.published import read_model
from maptile_loc.odometry.stored import with_needed_odometry
from maptile_loc.perceive.tiles import QueryTiles, query_tiles
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.render.look import in_look
from maptile_loc.render.view import ViewSettings
from maptile_loc.search.engine.turning import spaced_turns, turned_tiles
from maptile_loc.towns.compared import Look, compare
from maptile_loc.towns.index import TownIndex, kept_index
from maptile_loc.towns.votes import (
    SimilarViews,
    Vote,
    VoteSettings,
    arrangements,
    best_of_towns,
)
from maptile_loc.types import HeadingKnowledge, Localization, Queries


class LocateSettings(Settings):
    """How the town of a drive is found.

    Attributes:
        every_m: Metres of road between two views of the index.
        heading_step_deg: Step between the headings at which a tile is looked up, where the heading
            is unknown, degrees.
        listed: Similar views that are listed for each tile.
        votes: How they are counted.
        towns: Towns that are searched, the most probable first.
        around_m: Metres around the drive, as the votes place it, that are searched.
        enough: Share of the queries that have to be localized in a town for it to be the answer,
            with no need to search the others.
    """

    every_m: Positive = 10.0
    heading_step_deg: Positive = 10.0
    listed: Count = 500
    votes: VoteSettings = VoteSettings()
    towns: Count = 5
    around_m: Positive = 250.0
    enough: Positive = 0.5


@dataclass(frozen=True)
class Town:
    """One town, and what the drive's tiles say of it.

    Attributes:
        city: The city.
        score: Logarithm of how probable it is, but for a constant.
        probability: That it is the town of the drive, if that is one of those given.
        latitude, longitude: The middle of the drive's tiles, by the votes, degrees.
        radius_m: Largest distance of a tile from there, metres.
    """

    city: City
    score: float
    probability: float
    latitude: float
    longitude: float
    radius_m: float


@dataclass(frozen=True)
class Located:
    """A drive that was looked for in many cities.

    Attributes:
        towns: Those that have a similar view, most probable first.
        city: The city in which the drive is localized; None if it is in none.
        found: The drive, localized there.
    """

    towns: tuple[Town, ...]
    city: City | None
    found: Localization | None


def locate(
    cities: Sequence[City | PathLike],
    drive: Drive | PathLike,
    *,
    model: PathLike,
    index: PathLike | None = None,
    heading: str | HeadingKnowledge | None = None,
    submap_m: float = 50.0,
    every_m: float = 20.0,
    device: str = "auto",
    seed: int = 0,
    config: PathLike = "locate",
    overrides: Sequence[str] = (),
    keep: PathLike | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Located:
    """Find the town in which a drive was recorded, and localize the drive there.

    The drive's truth is never read.

    Args:
        cities: Cities, or their paths.
        drive: A drive, or its path.
        model: Folder of a descriptor (``train`` with ``config="retrieval"``), of any city.
        index: Folder in which the index of the cities is kept, and found again; None: not kept.
        heading: As all that follow but ``config``, as for ``localize``.
        submap_m: Metres.
        every_m: Metres.
        device: "auto", "cpu" or "cuda".
        seed: Seed of all randomness.
        config: Recipe: a name in ``configs/``, or a YAML file.
        overrides: ``key=value`` strings that override single keys of the recipe.
        keep: Folder in which odometry that is made from the scans is kept.
        force: Replace whatever stands at ``index``.
        progress: Is called as the work proceeds.

    Raises:
        MaptileError: Something that is named does not exist or does not fit; no city is given.
    """
    settings, recipe = load_settings(LocateSettings, config, overrides), load_recipe()
    if not cities:
        raise MaptileError("no city is given")
    named = several(cities)
    opened = [as_city(city) for city in tracked(named, "open towns", len(named), progress)]
    drive = as_drive(drive)
    queries = Queries(submap_m, every_m, False, as_heading(heading, drive), seed, False)
    if drive.apart:
        queries = replace(queries, submap_m=0.0, every_m=0.0)
    drive = with_needed_odometry(drive, queries, "auto", recipe.odometry, keep, progress)
    describer = read_describer(Path(model), opened[0], settings, pick_device(device))
    where = None if index is None else Path(index)
    views = kept_index(where, opened, describer, force, progress)
    # The convergence of a town's grid is far below the step between headings.
    tiles = query_tiles(drive, queries, 0.0, recipe.submap, recipe.query)
    towns = rank_towns(opened, tiles, views, describer, recipe, settings, progress)
    search = partial(localize, drive=drive, device=device, seed=seed, keep=keep, progress=progress)
    search = partial(search, heading=heading, submap_m=submap_m, every_m=every_m)
    return _searched(towns, settings, search)


def rank_towns(
    cities: Sequence[City],
    tiles: QueryTiles,
    index: TownIndex,
    describer: Describer,
    recipe: LocalizeSettings,
    settings: LocateSettings,
    progress: Progress = silent,
) -> tuple[Town, ...]:
    """The towns that have views similar to a drive's tiles, most probable first.

    Args:
        cities: Those of the index.
        tiles: The drive's.
        index: The views of all cities.
        describer: Describes tiles.
        recipe: Of localization.
        settings: How the town is found.
        progress: Is called after each tile.

    Raises:
        MaptileError: No tile shows anything.
    """
    return _towns(cities, _votes(tiles, index, describer, recipe, settings, progress))


def _searched(
    towns: tuple[Town, ...], settings: LocateSettings, search: Callable[..., Localization]
) -> Located:
    """The drive, searched in the most probable towns; ``search`` takes a city and a ``prior``."""
    best: tuple[float, Town, Localization] | None = None
    for town in towns[: settings.towns]:
        prior = town.latitude, town.longitude, town.radius_m + settings.around_m
        found = search(town.city, prior=prior)
        share = float(found.trajectory.localized.mean())
        if share > (best[0] if best else 0.0):
            best = share, town, found
        if share >= settings.enough:
            break
    if best is None:
        return Located(towns, None, None)
    return Located(towns, best[1].city, _with_towns(best[2], towns))


def read_describer(folder: Path, city: City, settings: LocateSettings, device: str) -> Describer:
    """The descriptor in a folder, and the views that it describes.

    Args:
        folder: Of the model.
        city: Any city: the model is bound to none.
        settings: ``every_m`` is read.
        device: "cpu" or "cuda".

    Raises:
        MaptileError: The folder holds no descriptor, or a damaged one.
    """
    model, card = read_model(folder, city, DescriptorModel)
    model = model.to(device=device, memory_format=torch.channels_last)
    return Describer(model, ViewSettings.model_validate(card["view"]), card, settings.every_m)


def _votes(
    tiles: QueryTiles,
    index: TownIndex,
    describer: Describer,
    recipe: LocalizeSettings,
    settings: LocateSettings,
    progress: Progress,
) -> list[Vote]:
    """The votes of a drive's tiles for the towns of an index, best first."""
    turns, log_prior = heading_turns(tiles.queries.heading, recipe)
    asked = spaced_turns(turns, log_prior, np.radians(settings.heading_step_deg))
    plan = tiles.plan
    found, looks = [], []
    for query in tracked(range(len(tiles)), "look up", len(tiles), progress):
        tile = tiles.tile(query)
        if tile is None:
            continue
        with torch.inference_mode():
            seen = turned_tiles(in_look(tile, describer.view), asked)
            descriptors = describer.model(seen.to(describer.model.device)).cpu().numpy()
        similarity, view = (one.ravel() for one in index.similar(descriptors, settings.listed))
        best = np.argsort(-similarity, kind="stable")[: settings.listed]
        best = best[view[best] >= 0]
        number, best_turn = view[best], best // (len(view) // len(asked))
        headings = wrap_angle(tile.rotation + asked)
        looks.append(Look(query, descriptors, headings))
        found.append(
            SimilarViews(
                np.full(len(best), query),
                index.town[number].astype(np.int64),
                index.places[number].astype(np.float64),
                headings[best_turn],
                (similarity[best] - similarity[best].min()).astype(np.float64),
            )
        )
    if not found:
        raise MaptileError(
            f"{tiles.drive.name}: not one usable point in the scans of "
            f"{counted(len(tiles), 'query')}"
        )
    motion, segment = pipeline.query_motion(tiles), plan.segment[plan.scan].astype(np.int64)
    # Without odometry, each tile is a piece of its own.
    segment = np.where(segment < 0, -1 - np.arange(len(segment)), segment)
    arranged = arrangements(_together(found), motion, segment, settings.votes)
    named = list(dict.fromkeys(one.town for one in arranged))[: settings.votes.towns]
    arranged = [one for one in arranged if one.town in named]
    return best_of_towns(arranged, compare(arranged, looks, index, settings.votes))


def _together(views: Sequence[SimilarViews]) -> SimilarViews:
    """The views of all tiles, in the tiles' order."""
    return SimilarViews(
        np.concatenate([one.query for one in views]),
        np.concatenate([one.town for one in views]),
        np.concatenate([one.place for one in views]),
        np.concatenate([one.heading for one in views]),
        np.concatenate([one.similarity for one in views]),
    )


def _towns(cities: Sequence[City], votes: Sequence[Vote]) -> tuple[Town, ...]:
    """The towns that have votes, with their probabilities, best first."""
    score = np.array([vote.score for vote in votes])
    probability = np.exp(score - np.logaddexp.reduce(score))
    towns = []
    for vote, share in zip(votes, probability, strict=True):
        city = cities[vote.town]
        places = city.reference + vote.places[np.isfinite(vote.places[:, 0])]
        centre, radius = _disc(places)
        latitude, longitude = city.raster.projection.inverse(centre)
        where = float(latitude), float(longitude), radius
        towns.append(Town(city, vote.score, float(share), *where))
    return tuple(towns)


def _disc(places: Array) -> tuple[Array, float]:
    """The middle of the box around (N, 2) positions, and the largest distance from it."""
    centre = (places.min(axis=0) + places.max(axis=0)) / 2
    return centre, float(np.hypot(*(places - centre).T).max())


def _with_towns(found: Localization, towns: Sequence[Town]) -> Localization:
    """The localized drive, whose record lists the towns."""
    listed = [
        {"name": town.city.name, "score": town.score, "probability": town.probability}
        for town in towns
    ]
    return replace(found, record=dict(found.record) | {"towns": listed})
