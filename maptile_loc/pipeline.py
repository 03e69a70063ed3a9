"""The pipeline: drive, submap, query tile, candidates, alignment, fusion, trajectory."""

from __future__ import annotations

import time
from typing import Literal, Protocol

import numpy as np
from tqdm import tqdm

from data_prep.city.raster import MapRaster
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se2_from_se3, wrap_angle
from data_prep.settings import Positive, Settings
from maptile_loc.fuse.filter import Fixes, FuseSettings, filter_causal, is_sure, make_steps, smooth
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.perceive.query_tile import QuerySettings, make_tile
from maptile_loc.perceive.submap import QueryPlan, SubmapSettings, build_submap, plan_queries
from maptile_loc.score.align import AlignSettings, align
from maptile_loc.score.evidence import make_evidence
from maptile_loc.score.likelihood import LikelihoodFields, LikelihoodSettings
from maptile_loc.search.engine.settings import (
    CellsSettings,
    MapNetSettings,
    MatchSettings,
    RetrievalSettings,
)
from maptile_loc.types import Candidates, Estimates, Localization, QueryTile


class LocalizeSettings(Settings):
    """All that the pipeline's steps can be told; a recipe such as ``configs/localize.yaml``."""

    odometry: OdometrySettings = OdometrySettings()
    submap: SubmapSettings = SubmapSettings()
    query: QuerySettings = QuerySettings()
    likelihood: LikelihoodSettings = LikelihoodSettings()
    match: MatchSettings = MatchSettings()
    mapnet: MapNetSettings = MapNetSettings()
    cells: CellsSettings = CellsSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    align: AlignSettings = AlignSettings()
    fuse: FuseSettings = FuseSettings()
    known_heading_std_deg: Positive = 1.0


NO_CANDIDATES = Candidates(np.zeros((0, 3)), np.zeros(0))


class HeadingKnowledge(Settings):
    """What is known of the vehicle's heading.

    Attributes:
        kind: known, prior (known to a standard deviation) or unknown.
        std_deg: The standard deviation of a prior, degrees.
    """

    kind: Literal["known", "prior", "unknown"] = "known"
    std_deg: float = 0.0


class Coarse(Protocol):
    """A way to get candidates for a tile.

    Attributes:
        area_km2: The area that it searches.
        weighed: Whether its log-scores know already how well the tile fits the map at a place.
    """

    area_km2: float
    weighed: bool

    def candidates(self, tile: QueryTile, turns: Array, log_prior: Array) -> Candidates:
        """Up to k places for ``tile``, turned by one of (T,) ``turns`` with (T,) ``log_prior``."""
        ...


def localize(
    drive: Drive,
    raster: MapRaster,
    fields: LikelihoodFields,
    coarse: Coarse,
    heading: HeadingKnowledge,
    submap_m: float,
    every_m: float,
    online: bool,
    seed: int,
    settings: LocalizeSettings,
) -> Localization:
    """Localize ``drive`` on ``raster``. Its truth is never looked at.

    Args:
        drive: Scans, odometry and, where ``heading`` asks for it, headings.
        raster: The map.
        fields: Its likelihood.
        coarse: The method that finds candidates.
        heading: What is known of the heading.
        submap_m: Metres of travel put together for a query; 0 is one scan.
        every_m: Metres between queries; 0 for every scan.
        online: Use no scan after a query, and let the causal filter be the trajectory.
        seed: Seed of the random turns that hide an unknown heading.
        settings: Of each step.

    Raises:
        MaptileError: The drive lacks what was asked for (scans, odometry, headings).
    """
    drive = drive.without_truth()
    plan = plan_queries(drive, every_m, submap_m)
    rotations = tile_rotations(drive, plan, heading, raster.convergence, seed)
    turns, log_prior = heading_turns(heading, settings)
    heading_std = None if heading.kind == "unknown" else np.radians(_heading_std(heading, settings))
    queries = len(plan.scan)
    shown = set(np.linspace(0, queries - 1, min(queries, 12)).astype(int).tolist())
    found: list[Candidates] = []
    fixes: list[Fixes] = []
    seconds = np.zeros(queries)
    tiles: dict[int, QueryTile] = {}
    blind = np.zeros(queries, bool)
    for number in tqdm(range(queries), desc="localize", unit="query", disable=None):
        begun = time.perf_counter()
        submap = build_submap(drive, plan, number, submap_m, online, settings.submap)
        blind[number] = len(submap.points) == 0
        if blind[number] or np.isnan(rotations[number]):
            found.append(NO_CANDIDATES)
            fixes.append(Fixes(NO_CANDIDATES, np.zeros((0, 3, 3))))
            continue
        tile = make_tile(submap, rotations[number], settings.query)
        candidates = coarse.candidates(tile, turns, log_prior)
        evidence = make_evidence(tile, fields.resolution)
        aligned = align(
            candidates,
            evidence,
            tile.rotation,
            fields,
            heading_std,
            coarse.weighed,
            settings.align,
            submap_m if online else submap_m / 2,
        )
        found.append(candidates)
        fixes.append(Fixes(*aligned))
        seconds[number] = time.perf_counter() - begun
        if number in shown:
            tiles[number] = tile
    if blind.all():
        raise MaptileError(f"{drive.name}: not one usable point in the scans of {queries} queries")
    stages = _stages(drive, plan, found, fixes, coarse.area_km2, submap_m, settings)
    return Localization(
        frame=plan.scan,
        t_ns=drive.scans.t_ns[plan.scan],
        stages=stages,
        final="fused" if online else "smoothed",
        search_area_km2=coarse.area_km2,
        query_seconds=seconds,
        tiles=tiles,
        blind=int(blind.sum()),
    )


def tile_rotations(
    drive: Drive, plan: QueryPlan, heading: HeadingKnowledge, convergence: float, seed: int
) -> Array:
    """(Q,) radians by which each query's cloud is turned: its grid heading, or a random angle.

    NaN where headings are asked for and this query has none.

    Raises:
        MaptileError: Headings are asked for and the drive has none at the queries' times.
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


def heading_turns(heading: HeadingKnowledge, settings: LocalizeSettings) -> tuple[Array, Array]:
    """(T,) turns of the tile to try, and their (T,) log-probabilities."""
    if heading.kind == "known":
        return np.zeros(1), np.zeros(1)
    step = np.radians(settings.match.heading_step_deg)
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
    drive: Drive,
    plan: QueryPlan,
    found: list[Candidates],
    fixes: list[Fixes],
    area_km2: float,
    submap_m: float,
    settings: LocalizeSettings,
) -> dict[str, Estimates]:
    spread = [settings.match.distinct_m / 2] * 2 + [np.radians(settings.match.heading_step_deg)]
    grid = np.diag(np.square(spread))
    coarse = [_top(c, np.tile(grid, (len(c.poses), 1, 1)), settings.fuse) for c in found]
    aligned = [_top(fix.candidates, fix.covariance, settings.fuse) for fix in fixes]
    segment = plan.segment[plan.scan]
    poses = np.zeros((len(plan.scan), 3))
    if drive.odometry is not None:
        poses = se2_from_se3(drive.odometry.at(drive.scans.t_ns[plan.scan]))
    steps = make_steps(poses, segment, plan.travelled[plan.scan], submap_m, settings.fuse)
    area_m2 = max(area_km2 * 1e6, 1.0)
    fused = filter_causal(fixes, steps, area_m2, settings.fuse)
    return {
        "coarse": _stack(coarse),
        "aligned": _stack(aligned),
        "fused": fused,
        "smoothed": smooth(fixes, steps, fused, area_m2, settings.fuse),
    }


def _top(
    candidates: Candidates, covariance: Array, settings: FuseSettings
) -> tuple[Array, Array, float, bool]:
    """The best candidate of one query: pose, covariance, probability, whether it is sure."""
    if len(candidates.poses) == 0:
        return np.full(3, np.nan), np.full((3, 3), np.nan), 0.0, False
    best = int(candidates.log_scores.argmax())
    score = float(np.exp(candidates.log_scores[best]))
    return (
        candidates.poses[best],
        covariance[best],
        score,
        is_sure(score, covariance[best], settings),
    )


def _stack(rows: list[tuple[Array, Array, float, bool]]) -> Estimates:
    poses, covariance, score, localized = (np.array(column) for column in zip(*rows, strict=True))
    return Estimates(poses, covariance, score, localized)
