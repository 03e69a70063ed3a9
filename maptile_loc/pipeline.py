"""The pipeline: query tiles, candidates, alignment and fusion give a pose per query."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from data_prep.city.folder import City
from data_prep.city.raster import MapRaster
from data_prep.counted import counted
from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se2_from_se3
from data_prep.progress import Progress, silent
from maptile_loc.asked import QueryAnswer, ask, together
from maptile_loc.fuse.alone import best_candidates, candidate_table, coarse_fixes
from maptile_loc.fuse.certainty import make_estimates
from maptile_loc.fuse.dense import scan_poses
from maptile_loc.fuse.filter import filter_with_gnss
from maptile_loc.fuse.gnss import GnssEvidence
from maptile_loc.fuse.gnss_windows import drive_evidence, gnss_counts, gnss_notes
from maptile_loc.fuse.motion import FuseSettings, Steps, make_steps
from maptile_loc.fuse.smoother import smooth
from maptile_loc.fuse.window import window_poses
from maptile_loc.map_search import MapSearch
from maptile_loc.odometry.scan_motion import scan_motion
from maptile_loc.perceive.tiles import QueryTiles, TileCache, query_tiles
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.search.engine.method import Regressor
from maptile_loc.types import (
    Candidates,
    Estimates,
    Fixes,
    Localization,
    Queries,
)


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
    answers: Iterable[QueryAnswer] | None = None,
) -> Localization:
    """Localize the queries of a drive on a map.

    Args:
        tiles: The drive's query tiles; truth is not among them.
        engine: The map and the search method.
        settings: The recipe.
        progress: Is called after each query.
        search: Whether the map is searched; otherwise a model's own answers are the result.
        pgo: Whether a model's own answers are optimised with the odometry, too.
        answers: What each query found by itself, in order; None: they are asked here.

    Raises:
        MaptileError: No query has a point; the method has no model that answers with a pose.
    """
    regressor = engine.search if isinstance(engine.search, Regressor) else None
    if regressor is None and (pgo or not search):
        raise MaptileError("--search none and --pgo need a regressed pose: use --method mapnet")
    steps, gnss = query_steps(tiles, settings.fuse), query_gnss(tiles, engine.raster, settings)
    if answers is None:
        seen, whole = None if gnss is None else gnss.witnesses, range(len(tiles))
        answers = ask(tiles, engine, settings, whole, steps.known, search, seen, progress)
    asked = together(answers)
    if asked.blind.all():
        raise _blind(tiles)
    area_km2 = engine.search.area_km2
    stages = {} if regressor is None else _regressed(tiles, asked.own, regressor, pgo, settings)
    record: dict[str, object] = {}
    if search:
        searched, record = _stages(steps, asked.found, asked.fixes, area_km2, settings, gnss)
        stages |= searched
    final = list(stages)[-1]
    fixes, drive = asked.fixes if search else asked.own, tiles.drive
    motion = scan_motion(drive.odometry, drive.scans.t_ns)
    return Localization(
        frame=tiles.plan.scan,
        t_ns=tiles.t_ns,
        stages=stages,
        final=final,
        search_area_km2=area_km2,
        query_seconds=asked.seconds,
        tiles=asked.shown,
        raster=engine.raster,
        tracked=None if gnss is None else asked.near,
        blind=int(asked.blind.sum()),
        candidates=candidate_table([fix.candidates for fix in fixes]),
        settings=settings,
        record=record,
        notes=(*drive.notes, *gnss_notes(record, drive.gnss, engine.raster)),
        dense=scan_poses(stages[final], tiles.plan.scan, motion, settings.fuse),
        small_tiles=asked.small,
    )


def _blind(tiles: QueryTiles) -> MaptileError:
    queries = counted(len(tiles), "query")
    return MaptileError(f"{tiles.drive.name}: not one usable point in the scans of {queries}")


def query_gnss(
    tiles: QueryTiles, raster: MapRaster, settings: LocalizeSettings
) -> GnssEvidence | None:
    """The GNSS of the queries; None where it is not used."""
    drive, queries = tiles.drive, tiles.queries
    if not queries.gnss or drive.gnss is None:
        return None
    unknown, projection = queries.heading.kind == "unknown", raster.projection
    return drive_evidence(
        drive.gnss, drive.odometry, tiles.t_ns, projection, settings.gnss, unknown
    )


def _regressed(
    tiles: QueryTiles, own: list[Fixes], regressor: Regressor, pgo: bool, settings: LocalizeSettings
) -> dict[str, Estimates]:
    """The stages of a model's own poses; with ``pgo``, also optimised with the odometry."""
    regressed = best_candidates(own, settings.fuse)
    if not pgo:
        return {"regressed": regressed}
    optimised = _optimised(tiles, regressed, regressor.unit_m, settings)
    return {"regressed": regressed, "pgo": optimised}


def _optimised(
    tiles: QueryTiles, regressed: Estimates, unit_m: float, settings: LocalizeSettings
) -> Estimates:
    """The regressed poses, optimised with the drive's odometry; covariances are unknown."""
    plan, known = tiles.plan, tiles.queries.heading.kind == "known"
    segment = plan.segment[plan.scan]
    poses = window_poses(regressed.poses, query_motion(tiles), segment, known, settings.pgo, unit_m)
    unknown, count = np.full((len(poses), 3, 3), np.nan), len(poses)
    return make_estimates(poses, unknown, np.zeros(count), regressed.reason, settings.fuse)


def _stages(
    steps: Steps,
    found: list[Candidates],
    fixes: list[Fixes],
    area_km2: float,
    settings: LocalizeSettings,
    gnss: GnssEvidence | None,
) -> tuple[dict[str, Estimates], dict[str, object]]:
    """The estimates of every stage, and what became of GNSS."""
    coarse = coarse_fixes(found, fixes, settings.search)
    area_m2 = max(area_km2 * 1e6, 1.0)
    fused, used = filter_with_gnss(fixes, steps, area_m2, settings.fuse, gnss)
    trusted = None if gnss is None else gnss.only(used)
    record = {} if gnss is None else gnss_counts(used, gnss.known & ~used)
    return {
        "coarse": best_candidates(coarse, settings.fuse),
        "aligned": best_candidates(fixes, settings.fuse),
        "fused": fused,
        "smoothed": smooth(fixes, steps, fused, area_m2, settings.fuse, trusted),
    }, record


def query_steps(tiles: QueryTiles, settings: FuseSettings) -> Steps:
    """The odometry between consecutive queries."""
    plan = tiles.plan
    segment, travelled = plan.segment[plan.scan], plan.travelled[plan.scan]
    return make_steps(query_motion(tiles), segment, travelled, tiles.queries.submap_m, settings)


def query_motion(tiles: QueryTiles) -> Array:
    """(Q, 3) x, y, heading of the queries in the odometry's frame; 0 without odometry."""
    odometry = tiles.drive.odometry
    return np.zeros((len(tiles), 3)) if odometry is None else se2_from_se3(odometry.at(tiles.t_ns))
