"""The map as teacher: walls of a localized drive's scans, labelled by the map's buildings.

The map labels the cells of query tiles at poses of the smoother that are sure. A pose that teaches
is estimated without the scans that it labels: otherwise a scan would be moved to where the detector
already finds walls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.city.raster import BUILDING, MapRaster
from data_prep.geometry import Array, rotate
from data_prep.progress import Progress, silent, tracked
from data_prep.settings import Count, Fraction, Positive, Settings
from maptile_loc.fuse.certainty import make_estimates, worst_std
from maptile_loc.fuse.filter import filter_causal
from maptile_loc.fuse.motion import FuseSettings, Steps
from maptile_loc.fuse.smoother import smooth
from maptile_loc.learn.walls import (
    NO_WALL,
    UNKNOWN,
    FitSettings,
    LabelNoise,
    Sample,
    featured_groups,
)
from maptile_loc.map_search import NO_FIXES, MapSearch, fix_tile
from maptile_loc.perceive.detector import BUILDING_CLASS, WallDetector
from maptile_loc.perceive.query_tile import survey
from maptile_loc.perceive.tiles import QueryTiles
from maptile_loc.pipeline import query_steps
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.score.surroundings import signed_distance
from maptile_loc.types import Estimates, Fixes

DIRECTIONS = np.arange(8) * (np.pi / 4)
"""Directions of the displacements in ``SHIFTS``, radians from east."""

SHIFTS = np.vstack(
    [
        np.zeros((1, 2)),
        *(m * np.column_stack([np.cos(DIRECTIONS), np.sin(DIRECTIONS)]) for m in (10, 20, 30)),
    ]
)
"""(K, 2) displacements east and north, metres, at which the map is compared; the first is none."""


class TeachSettings(Settings):
    """How the map teaches a wall detector.

    Attributes:
        block_m: Metres of travel in a block; the poses of a block are estimated without its scans.
        max_std_m: Largest standard deviation of the position, in its worst direction, of a pose
            that teaches.
        max_std_deg: The same of the heading.
        wall_m: Cells up to this far from an edge of a building are walls.
        no_wall_m: Cells farther than this from all edges are no walls; those between are unknown.
        least_queries: Smallest number of poses that teach.
        least_m: Smallest distance, metres of travel, that these cover.
        clear: The share of the wall evidence near the map's edges has to be this many times that at
            every displaced pose (``SHIFTS``).
        held_out: Share of the blocks, at the end of the drive, that the detector is not fitted to;
            it has to explain the map's labels there better than before.
        fit: How the detector is fitted. The labels' noise holds errors of the map.
    """

    block_m: Positive = 40.0
    max_std_m: Positive = 1.0
    max_std_deg: Positive = 1.0
    wall_m: Positive = 1.0
    no_wall_m: Positive = 3.0
    least_queries: Count = 10
    least_m: Positive = 100.0
    clear: Positive = 1.1
    held_out: Fraction = 0.25
    fit: FitSettings = FitSettings(
        epochs=20,
        batch=4,
        learning_rate=0.0003,
        weight_decay=0.0,
        anchor=0.1,
        noise=LabelNoise(missed=0.02, invented=0.07),
    )


@dataclass(frozen=True)
class Lesson:
    """The labelled cells of one query.

    Attributes:
        query: Its number.
        block: Number of its block.
        pose: (3,) east, north, heading of the pose that labels it.
        samples: The cells, one part per group of scans.
        evidence: Sum of the wall evidence of its cells.
        at_edges: (K,) sum of the evidence of those near an edge of the map, at each of ``SHIFTS``.
    """

    query: int
    block: int
    pose: Array
    samples: list[Sample]
    evidence: float
    at_edges: Array


# --- Poses --------------------------------------------------------------------------------------


def find_fixes(
    tiles: QueryTiles, engine: MapSearch, settings: LocalizeSettings, progress: Progress = silent
) -> list[Fixes]:
    """The aligned candidates of each query of a drive; ``NO_FIXES`` where there is no tile."""
    every = tracked(tiles, "localize", len(tiles), progress)
    return [
        NO_FIXES if tile is None else fix_tile(tile, tiles.queries, engine, settings)[1]
        for tile in every
    ]


def make_blocks(tiles: QueryTiles, block_m: float) -> NDArray[np.int64]:
    """(Q,) number of each query's block: ``block_m`` metres of travel in one odometry segment."""
    plan = tiles.plan
    segment, travelled = plan.segment[plan.scan], plan.travelled[plan.scan]
    keys = np.column_stack([segment, np.floor(travelled / block_m)])
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def left_out_poses(
    fixes: Sequence[Fixes],
    steps: Steps,
    blocks: NDArray[np.int64],
    reach_m: float,
    area_m2: float,
    settings: FuseSettings,
) -> Estimates:
    """The smoothed poses of Q queries, each estimated without the fixes of its block.

    Args:
        fixes: Candidates of each query.
        steps: Odometry between the queries.
        blocks: (Q,) block of each query.
        reach_m: Fixes of queries less than this far from the block are not used either: their
            submaps have scans in common with it.
        area_m2: Area that was searched.
        settings: Noise of odometry and fixes.
    """
    travelled = np.cumsum(steps.metres)
    count = len(fixes)
    poses, covariance = np.full((count, 3), np.nan), np.full((count, 3, 3), np.nan)
    score, reason = np.zeros(count), np.full(count, "", "U16")
    for block in np.unique(blocks):
        mine = blocks == block
        near = (travelled > travelled[mine].min() - reach_m) & (
            travelled < travelled[mine].max() + reach_m
        )
        pairs = zip(fixes, near | mine, strict=True)
        kept = [NO_FIXES if hidden else fix for fix, hidden in pairs]
        fused = filter_causal(kept, steps, area_m2, settings)
        found = smooth(kept, steps, fused, area_m2, settings)
        poses[mine], covariance[mine] = found.poses[mine], found.covariance[mine]
        score[mine], reason[mine] = found.score[mine], found.reason[mine]
    return make_estimates(poses, covariance, score, reason, settings)


def sure_poses(found: Estimates, settings: TeachSettings) -> NDArray[np.bool_]:
    """(Q,) whether poses are localized, with standard deviations small enough to teach."""
    turned = found.covariance[:, 2, 2]
    std_deg = np.degrees(np.sqrt(np.where(np.isfinite(turned), turned, np.inf)))
    precise = (worst_std(found.covariance) <= settings.max_std_m) & (
        std_deg <= settings.max_std_deg
    )
    return np.asarray(found.localized & found.has_pose & precise)


def covered_m(tiles: QueryTiles, queries: NDArray[np.int64]) -> float:
    """Metres of travel between the first and the last of some queries, segment by segment."""
    plan = tiles.plan
    scan = plan.scan[queries]
    segment, travelled = plan.segment[scan], plan.travelled[scan]
    return float(sum(np.ptp(travelled[segment == one]) for one in np.unique(segment)))


# --- Labels -------------------------------------------------------------------------------------


def cell_positions(
    cell: NDArray[np.int64], size: int, resolution: float, rotation: float, pose: Array
) -> Array:
    """(M, 2) east, north of the centres of (M,) cells of a tile, metres.

    Args:
        cell: (M,) flat indices.
        size: Pixels along a side of the tile.
        resolution: Metres per pixel.
        rotation: Radians by which the vehicle frame was turned to make the tile.
        pose: (3,) east, north, heading of the vehicle.
    """
    row, column = np.divmod(cell, size)
    xy = np.column_stack([column + 0.5 - size / 2, size / 2 - row - 0.5]) * resolution
    placed: Array = pose[:2] + rotate(xy, float(pose[2] - rotation))
    return placed


def edge_distances(raster: MapRaster, xy: Array, shifts: Array, clip_m: float) -> Array:
    """(K, M) absolute distance of displaced positions to the nearest edge of a building, metres.

    Args:
        raster: The map.
        xy: (M, 2) east, north, metres.
        shifts: (K, 2) displacements of all positions, metres.
        clip_m: Largest distance.

    Returns:
        Interpolated between pixels; NaN less than ``clip_m`` inside the map's border, or outside.
    """
    at = xy[None] + shifts[:, None]
    pixel = raster.pixel_from_world(at)
    margin = int(np.ceil(clip_m / raster.resolution)) + 2
    low = np.floor(pixel.min(axis=(0, 1))).astype(int) - margin
    high = np.ceil(pixel.max(axis=(0, 1))).astype(int) + margin
    window = raster.window(*low.tolist(), *(high - low).tolist())[BUILDING]
    signed = signed_distance((window > 0).astype(np.float32), raster.resolution, clip_m)
    where = np.moveaxis(pixel - low - 0.5, -1, 0)
    distance = np.abs(ndimage.map_coordinates(signed, where, order=1))
    return np.where(raster.inside(at, clip_m), distance, np.nan)


def map_targets(distance: Array, settings: TeachSettings) -> NDArray[np.int64]:
    """(M,) targets of cells at (M,) metres from the nearest edge; unknown where that is NaN."""
    target = np.full(len(distance), UNKNOWN, np.int64)
    target[distance <= settings.wall_m] = BUILDING_CLASS
    target[distance > settings.no_wall_m] = NO_WALL
    return target


def make_lesson(
    tiles: QueryTiles,
    query: int,
    block: int,
    pose: Array,
    raster: MapRaster,
    detector: WallDetector,
    settings: TeachSettings,
) -> Lesson:
    """The cells of a query, labelled by the map at a pose, and how the map fits there.

    Args:
        tiles: The query tiles of the drive, without labels of points.
        query: Number of the query.
        block: Number of its block.
        pose: (3,) east, north, heading of the vehicle.
        raster: The map.
        detector: Finds the walls that are compared with the map.
        settings: What is a wall.
    """
    how, rotation = tiles.tile_settings, float(tiles.rotation[query])
    samples, evidence, at_edges = [], 0.0, np.zeros(len(SHIFTS))
    for _, cell, features in featured_groups(survey(tiles.submap(query), rotation, how), how):
        if len(cell) == 0:
            continue
        xy = cell_positions(cell, how.size, how.resolution, rotation, pose)
        distance = edge_distances(raster, xy, SHIFTS, settings.no_wall_m + raster.resolution)
        wall = detector.building(cell, features, how.size).astype(np.float64)
        evidence += float(wall.sum())
        at_edges += (distance <= settings.wall_m) @ wall
        samples.append(Sample(cell, features, map_targets(distance[0], settings)))
    return Lesson(query, block, pose, samples, evidence, at_edges)


def edge_shares(lessons: Sequence[Lesson]) -> Array:
    """(K,) share of all wall evidence that is near an edge of the map, at each of ``SHIFTS``."""
    total = sum(lesson.evidence for lesson in lessons)
    shares: Array = np.sum([lesson.at_edges for lesson in lessons], axis=0) / max(total, 1e-9)
    return shares


def make_lessons(
    tiles: QueryTiles,
    engine: MapSearch,
    detector: WallDetector,
    settings: TeachSettings,
    localize: LocalizeSettings,
    progress: Progress = silent,
) -> list[Lesson]:
    """Localize a drive, and label the scans at all sure poses by the map.

    Args:
        tiles: The query tiles of the drive, without labels of points.
        engine: The map and the search method.
        detector: Finds the walls that are compared with the map.
        settings: What teaches, and what is a wall.
        localize: The recipe of the localization.
        progress: Is called after each query.
    """
    fixes = find_fixes(tiles, engine, localize, progress)
    blocks, steps = make_blocks(tiles, settings.block_m), query_steps(tiles, localize.fuse)
    area_m2 = max(engine.search.area_km2 * 1e6, 1.0)
    reach_m = tiles.queries.submap_m
    found = left_out_poses(fixes, steps, blocks, reach_m, area_m2, localize.fuse)
    sure = np.flatnonzero(sure_poses(found, settings)).tolist()
    return [
        make_lesson(
            tiles, query, int(blocks[query]), found.poses[query], engine.raster, detector, settings
        )
        for query in tracked(sure, "teach", len(sure), progress)
    ]
