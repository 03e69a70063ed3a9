"""Published methods under one budget, on the same drives; writes the tables of docs/literature.md.

Run: python benchmarks/literature.py [DATA] [--work FOLDER] [--minutes M] [--only ROW ...]
                                     [--drives DRIVE ...] [--heading known|unknown] [--queries N]
                                     [--page docs/literature.md]

DATA is the folder of real data (default: ../shared/data). Every row of ROWS is trained for M
minutes on each city's map alone, then asked for the best 100 positions of each query tile: no
search around them, no fusion. What is done stays in FOLDER and is not done again: cities, drives,
query tiles, models (an interrupted training resumes) and one JSON file per row and drive, from
which --page writes the tables. Only results with this M and heading, of whole drives, enter a page.

Drives: ``oxford``, the full RobotCar run with simulated scans (engine.py), and ``kitti360_0009``,
25 real single scans. Heading unknown: tiles are turned at random; a model of known headings is
asked at 12 turns. Recall@N is the share of queries with one of the best N positions near the truth;
with a heading, one within 30 degrees as well. ``mean`` and ``median`` are of the best position.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from doubt_real import KITTI360
from handmade import Handmade, Vlad, VocabularyTree, local_descriptors
from inputs import RUNS, city, drive
from kept_tiles import KeptTiles, tile_folder
from literature_page import write_page
from literature_rows import ROWS, Row
from numpy.typing import NDArray
from stamp import stamp

from data_prep.city.folder import City, open_city
from data_prep.drive import Drive
from data_prep.files import read_json, write_json
from data_prep.geometry import Array, wrap_angle
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.learn.loop import train
from maptile_loc.learn.settings import ModelSettings
from maptile_loc.map_search import heading_turns
from maptile_loc.models import kinds
from maptile_loc.models.mvmf import MixtureModel
from maptile_loc.models.parts.published import CARD
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.pipeline import drive_tiles, query_steps
from maptile_loc.recipe import load_recipe
from maptile_loc.render.look import in_look
from maptile_loc.render.map_views import along_roads
from maptile_loc.render.vector_map import render_exact, vector_map
from maptile_loc.render.view import ViewSettings
from maptile_loc.report.metrics import MARGIN_M, chance, truth_in_map
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.map_fields import make_fields
from maptile_loc.search import METHODS
from maptile_loc.search.engine.locator import ModelLocator
from maptile_loc.search.engine.method import Search, SearchTask
from maptile_loc.search.engine.turning import spaced_turns, turned_tiles
from maptile_loc.types import HeadingKnowledge, Queries, QueryTile

ROOT = Path(__file__).parent.parent
BEST_N = (1, 100)
WITHIN_M = (5, 25, 100)
HEADING_DEG = 30.0
"""Largest heading error of a position that counts with its heading."""
MOST = max(BEST_N)
STEP_DEG = 30.0
"""Between the turns at which a tile is looked up, as between CrossLocate's views."""
EVERY_M = 5.0
"""Metres of road between the views of a database; spacing of a grid."""
BATCH = 256

Ranked = Callable[[QueryTile, QueryTile | None], Array]
"""A query tile, and the one before it where odometry connects them -> (K, 3) poses, best first.
A heading that is not estimated is NaN."""


@dataclass(frozen=True)
class Case:
    """A drive on a map.

    Attributes:
        city, drive: Paths.
        submap_m, every_m: As in ``Queries``.
    """

    city: Path
    drive: Path
    submap_m: float
    every_m: float


@dataclass(frozen=True)
class Budget:
    """What all rows share.

    Attributes:
        minutes: Of training, per row and city.
        heading: "known" or "unknown".
        queries: At most, of each drive; None: all.
    """

    minutes: float
    heading: str
    queries: int | None

    @property
    def name(self) -> str:
        """A folder's name."""
        part = "" if self.queries is None else f"_{self.queries}queries"
        return f"{self.minutes:g}min_{self.heading}{part}"


def make_cases(data: Path, work: Path) -> dict[str, Callable[[], Case]]:
    """How the cases are made, by name; their cities and drives are made where they are missing."""

    def oxford() -> Case:
        where = city(data / "oxford" / "oxford.osm", work / "oxford")
        name = next(name for name in RUNS if name.startswith("full"))
        path = drive(data / RUNS[name], where, work / name.replace(" ", "_"))
        return Case(where, path, 50.0, 20.0)

    def kitti360() -> Case:
        where = city(data / "kitti360_0009" / "map.tif", work / "kitti360_0009")
        return Case(where, data / KITTI360, 0.0, 0.0)

    return {"oxford": oxford, "kitti360_0009": kitti360}


# --- What a row answers --------------------------------------------------------------------------


def trained(row: Row, where: City, budget: Budget) -> tuple[Path, str]:
    """The folder of a row's model, which is trained where it is missing, and its method."""
    assert row.config is not None
    settings = load_settings(ModelSettings, row.config)
    kind = kinds()[settings.kind]
    heading = budget.heading if kind.bound else settings.heading
    name = f"{settings.name}_{heading}_{budget.minutes:g}min"
    assert where.folder is not None
    folder = where.folder / "models" / name
    if not (folder / CARD).is_file():
        made = settings.model_copy(update={"name": name, "heading": heading})
        train(where, made, minutes=budget.minutes)
    return folder, kind.method


def by_model(row: Row, folder: Path, method: str, task: SearchTask, budget: Budget) -> Ranked:
    """What a trained row answers: its own positions, without the search around them."""
    entry = METHODS.load(method)
    many: dict[str, dict[str, Any]] = {
        "mapnet": {},
        "cells": {"places": MOST, "per_turn": MOST, "apart_m": 1e-3},
        "panorama": {"places": MOST, "shortlist": 1, "apart_m": 1e-3, "every_m": EVERY_M},
        "retrieval": {
            "places": MOST,
            "shortlist": 1,
            "apart_m": 1e-3,
            "every_m": EVERY_M,
            "heading_step_deg": STEP_DEG,
            "database": row.database,
        },
    }
    locator = entry.build(replace(task, model=folder), entry.settings(**many[method]))
    assert isinstance(locator, ModelLocator)
    turns, log_prior = turns_of(budget)

    def ranked(tile: QueryTile, before: QueryTile | None) -> Array:
        if method != "mapnet":
            starts = locator.starts(tile, turns, log_prior)
            starts[:, 2] += tile.rotation
            return without_heading(starts, budget) if method == "cells" else starts
        found: Array = locator.regress(tile, before, turns, log_prior).candidates.poses
        if isinstance(locator.model, MixtureModel):
            with torch.inference_mode():
                seen = in_look(tile, locator.look)[None]
                offset = locator.model.top(seen, MOST)[0][0].double().numpy()
            heading = np.full(len(offset), found[0, 2])
            found = np.column_stack([locator.reference + offset, heading])
        return found

    return ranked


def without_heading(poses: Array, budget: Budget) -> Array:
    """(K, 3) poses of a classifier, which estimates no heading."""
    if budget.heading == "unknown":
        poses[:, 2] = np.nan
    return poses


def by_search(where: City, budget: Budget) -> Ranked:
    """What the search of the whole map answers, before alignment."""
    settings = load_recipe("localize", [f"search.candidates={MOST}"])
    entry = METHODS.load("match")
    task = search_task(where)
    search: Search = entry.build(replace(task, settings=settings.search), settings.method("match"))
    turns, log_prior = turns_of(budget)

    def ranked(tile: QueryTile, before: QueryTile | None) -> Array:
        evidence = make_evidence(tile, task.fields.resolution, settings.evidence)
        return search.candidates(tile, evidence, turns, log_prior).poses

    return ranked


def by_hand(row: Row, where: City, budget: Budget) -> Ranked:
    """What an untrained row answers: the most similar views along the roads."""
    view = ViewSettings()
    city_map = vector_map(where)
    world = city_map.exact_world(roads="road" in view.channels)
    views = along_roads(city_map, EVERY_M, view.travel_m)
    generator = torch.Generator().manual_seed(0)
    local = [
        found
        for paths, centre in zip(*(each.split(BATCH) for each in views), strict=True)
        for found in local_descriptors(render_exact(world, paths, centre, view, generator))
    ]
    method: Handmade = Vlad.of(local) if row.name == "VLAD" else VocabularyTree(local)
    known = method.describe(local)
    places = where.reference + views.centre.double().numpy()
    asked = spaced_turns(*turns_of(budget), np.radians(STEP_DEG))

    def ranked(tile: QueryTile, before: QueryTile | None) -> Array:
        seen = method.describe(local_descriptors(turned_tiles(in_look(tile, view), asked)))
        similar = method.similarity(known, seen)
        best = np.argsort(-similar.max(1), kind="stable")[:MOST]
        turn = asked[similar[best].argmax(1)]
        return np.column_stack([places[best], tile.rotation + turn])

    return ranked


def turns_of(budget: Budget) -> tuple[Array, Array]:
    """The turns at which the pipeline tries a tile, and their log-probabilities."""
    return heading_turns(HeadingKnowledge.parse(budget.heading), load_recipe())


def search_task(where: City) -> SearchTask:
    """What a search of this city is built from."""
    settings = load_recipe()
    fields = make_fields(where.raster, settings.search.resolution, settings.likelihood)
    return SearchTask(where, fields, settings.query.size_m, settings.search)


# --- Figures -------------------------------------------------------------------------------------


def query_tiles(where: City, track: Drive, case: Case, budget: Budget, work: Path) -> QueryTiles:
    """The query tiles of a drive, which are kept; with ``budget.queries``, only some of them."""
    settings = load_recipe()
    queries = Queries(case.submap_m, case.every_m, heading=HeadingKnowledge.parse(budget.heading))
    cache = KeptTiles(tile_folder(work, case.city, case.drive, queries, settings))
    tiles = drive_tiles(where, track, queries, settings, cache)
    if budget.queries is None or budget.queries >= len(tiles):
        return tiles
    first = slice(0, budget.queries)
    plan = replace(tiles.plan, scan=tiles.plan.scan[first])
    return replace(tiles, plan=plan, rotation=tiles.rotation[first])


def answers(ranked: Ranked, tiles: QueryTiles) -> Iterator[tuple[Array, float]]:
    """(K, 3) poses and seconds of each query; no pose where its scans have no points."""
    known = query_steps(tiles, load_recipe().fuse).known
    before: QueryTile | None = None
    for query, tile in enumerate(tiles):
        begun = time.perf_counter()
        nothing = np.zeros((0, 3))
        poses = nothing if tile is None else ranked(tile, before if known[query] else None)
        yield poses, time.perf_counter() - begun
        before = tile


def figures(found: list[Array], truth: Array) -> dict[str, Any]:
    """Recalls and errors of queries that count.

    Args:
        found: (K, 3) poses of each query, best first; a NaN heading is not estimated.
        truth: (Q, 3) true poses.
    """
    metres = np.full((len(found), MOST), np.inf)
    turned = np.full((len(found), MOST), np.nan)
    for query, poses in enumerate(found):
        kept = poses[:MOST]
        metres[query, : len(kept)] = np.hypot(*(kept[:, :2] - truth[query, :2]).T)
        turned[query, : len(kept)] = np.abs(wrap_angle(kept[:, 2] - truth[query, 2]))
    headed = bool(np.isfinite(turned).any())
    facing = turned <= np.radians(HEADING_DEG)
    best = metres[:, 0]
    return {
        "n": len(found),
        "recall": recalls(metres),
        "recall_heading": recalls(np.where(facing, metres, np.inf)) if headed else None,
        "median_m": finite(np.sort(best)[(len(best) - 1) // 2]),
        "mean_m": finite(best.mean()),
        "answers": int(np.median([len(poses) for poses in found])),
    }


def finite(value: float) -> float | None:
    """The value; None where a query has no answer at all."""
    return float(value) if np.isfinite(value) else None


def recalls(metres: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """By N and by metres: the share of (Q, K) rows with one of the first N so near."""
    return {
        str(n): {str(r): float((metres[:, :n].min(1) <= r).mean()) for r in WITHIN_M}
        for n in BEST_N
    }


def by_chance(area_km2: float, truth: Array) -> dict[str, Any]:
    """The figures of positions drawn at random, and the errors of the best constant answer."""
    off = np.linalg.norm(truth[:, :2] - np.median(truth[:, :2], axis=0), axis=1)
    drawn = {str(n): {str(r): 1 - (1 - chance(r, area_km2)) ** n for r in WITHIN_M} for n in BEST_N}
    errors = {"median_m": float(np.median(off)), "mean_m": float(off.mean()), "answers": MOST}
    return {"n": len(truth), "recall": drawn, "recall_heading": None} | errors


# --- Runs ----------------------------------------------------------------------------------------


def run(row: Row, name: str, case: Case, budget: Budget, work: Path) -> dict[str, Any]:
    """Train a row if it has to be trained, and judge it on a drive."""
    where, track = open_city(case.city), open_drive(case.drive)
    tiles = query_tiles(where, track, case, budget, work)
    assert track.truth is not None
    truth = truth_in_map(track.truth, where.raster, tiles.t_ns)
    counted = where.raster.inside(truth[:, :2], MARGIN_M)
    about: dict[str, Any] = {"row": row.name, "drive": name, "heading": budget.heading}
    about |= {"minutes": budget.minutes, "queries": budget.queries, "made": stamp()}
    about |= {"load_before": os.getloadavg()[0], "area_km2": where.raster.area_km2}
    if row.name == "chance":
        return about | by_chance(where.raster.area_km2, truth[counted])
    if row.config is not None:
        folder, method = trained(row, where, budget)
        about["training"] = read_json(folder / CARD)["training"]
        ranked = by_model(row, folder, method, search_task(where), budget)
    elif row.name == "search":
        ranked = by_search(where, budget)
    else:
        ranked = by_hand(row, where, budget)
    spent = list(answers(ranked, tiles))
    chosen = [poses for (poses, _), counts in zip(spent, counted, strict=True) if counts]
    seconds = float(np.median([seconds for _, seconds in spent]))
    about |= {"query_seconds": seconds, "load_after": os.getloadavg()[0]}
    return about | figures(chosen, truth[counted])


def results(work: Path, budget: Budget) -> dict[tuple[str, str], dict[str, Any]]:
    """What is done, by row and drive."""
    files = sorted((work / "results" / budget.name).glob("*/*.json"))
    return {(content["row"], content["drive"]): content for content in map(read_json, files)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "literature")
    parser.add_argument("--minutes", type=float, default=20.0, help="of training, per row and city")
    parser.add_argument("--heading", choices=("known", "unknown"), default="unknown")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="such as planet posenet_beta")
    parser.add_argument("--drives", nargs="+", metavar="DRIVE", help="oxford, kitti360_0009")
    parser.add_argument("--queries", type=int, help="the first N queries of each drive only")
    parser.add_argument("--page", type=Path, help="write the tables into this page, run nothing")
    given = parser.parse_args()
    budget = Budget(given.minutes, given.heading, given.queries)
    if given.page is not None:
        done = results(given.work, replace(budget, queries=None))
        write_page(given.page, done, budget.minutes, budget.heading)
        return
    cases = make_cases(given.data, given.work)
    chosen = {row.slug: row for row in ROWS if not given.only or row.slug in given.only}
    unknown = set(given.only or ()) - set(chosen) | set(given.drives or ()) - set(cases)
    if unknown:
        names = ", ".join([*(row.slug for row in ROWS), *cases])
        parser.error(f"no row or drive {', '.join(sorted(unknown))}; there are {names}")
    for name, make in cases.items():
        if given.drives and name not in given.drives:
            continue
        case = make()
        for row in chosen.values():
            file = given.work / "results" / budget.name / name / f"{row.slug}.json"
            if not file.is_file():
                write_json(file, run(row, name, case, budget, given.work))
            print(f"{name}: {row.name}: {read_json(file)['recall']}", flush=True)


if __name__ == "__main__":
    main()
