"""Score the wall evidence of query tiles against labelled points; prints markdown tables.

Run: python benchmarks/walls.py [NAME ...] [--data DATA] [--work FOLDER] [--seed N]
                                [--submap M ...] [--every M] [--set KEY=VALUE ...]

NAME is simulated (an HDL-64E in the city of Oxford's map), kitti360_0009, kitti_odometry, mcd_kth,
or any drive whose points have labels; by default, all data sets that DATA has. Tiles are made
without the labels, each turned by a random angle. There is one per scan, or per 10 m of simulated
drives and drives named by their path.

- The height of a point is that above the nearest cell (2 m) with points labelled ground or road,
  not the height that ``make_tile`` estimates. Points 1 to 20 m high are upright.
- Only judged cells count: those where most of the upright points have a label.
- A judged cell is a wall if it or one of its eight neighbours has an upright point labelled
  building. Its score is the wall evidence of the tile.
- The first table has the average precision: the area below precision over recall, where every
  distinct evidence is a threshold. Precision at a recall is that of the largest threshold that
  reaches it; "nan" if only cells without evidence do.
- Range is the distance of a cell's centre from the vehicle at the query.
- The second table has the evidence of the cells whose labelled points are mostly of one kind, and
  their share of the false evidence: the sum over the judged cells that are no walls.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from labelled import SETS, TABLES
from numpy.typing import NDArray
from precision import average_precision, precision_at, precision_recall
from scipy import ndimage
from stamp import head, row, stamp

from data_prep.drive import Drive
from data_prep.geometry import Array, rotate
from data_prep.sources import open_drive
from maptile_loc.perceive.labels import BUILDING, GROUND, KINDS, ROAD, UNLABELLED
from maptile_loc.perceive.query_tile import make_tile
from maptile_loc.perceive.rays import pixels
from maptile_loc.perceive.submap import Submap
from maptile_loc.perceive.tiles import query_tiles
from maptile_loc.recipe import LocalizeSettings, load_recipe
from maptile_loc.types import HeadingKnowledge, Queries, QueryTile

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

EVERY_M = 10.0
"""Metres between the queries of a drive that is named by its path."""

LOW_M = 1.0
"""Smallest height of an upright point, metres."""

HIGH_M = 20.0
"""Largest height of an upright point, metres."""

GROUND_CELL_M = 2.0
"""Side of the cells in which the ground's height is averaged, metres."""

BANDS = {"0-10": (0, 10), "10-20": (10, 20), "20-30": (20, 30), "30-50": (30, 50), "all": (0, 100)}
"""Ranges in metres by their names; the last one contains every cell of a tile."""

RECALLS = (0.5, 0.7, 0.85)
"""Recalls at which the precision is printed."""

CALLED = 0.5
"""Evidence from which the second table counts a cell."""

ROWS = ("building", "vegetation", "fence", "free_wall", "gate", "pole", "car", "truck", "person")
"""Kinds with a row in the second table."""


class Cells(NamedTuple):
    """Judged cells of query tiles.

    Attributes:
        evidence: (N,) float32, 0..1, the wall evidence.
        wall: (N,) bool, the cell or one of its neighbours has an upright point labelled building.
        kind: (N,) kind of most of its labelled upright points, as in ``perceive.labels``.
        distance: (N,) metres from the vehicle.
    """

    evidence: NDArray[np.float32]
    wall: NDArray[np.bool_]
    kind: NDArray[np.intp]
    distance: Array

    def where(self, which: NDArray[np.bool_]) -> Cells:
        """The cells selected by (N,) ``which``."""
        evidence, wall, kind, distance = self
        return Cells(evidence[which], wall[which], kind[which], distance[which])


def together(parts: list[Cells]) -> Cells:
    """The cells of all parts."""
    evidence, wall, kind, distance = map(np.concatenate, zip(*parts, strict=True))
    return Cells(evidence, wall, kind, distance)


def judged_cells(tile: QueryTile, submap: Submap) -> Cells:
    """The judged cells of a tile, made without labels, of a submap with labels."""
    assert submap.kind is not None
    height = heights(submap.points, np.isin(submap.kind, (GROUND, ROAD)))
    upright = (height > LOW_M) & (height < HIGH_M)
    size = tile.size
    xy = rotate(submap.points[upright, :2].astype(np.float64), tile.rotation)
    cell, inside = pixels(xy, size, tile.resolution)
    key = submap.kind[upright][inside].astype(np.int64) * size**2 + cell
    points = np.bincount(key, minlength=(len(KINDS) + 1) * size**2).reshape(-1, size, size)
    judged = 2 * points[UNLABELLED] < points.sum(axis=0)
    wall = ndimage.maximum_filter(points[BUILDING] > 0, 3, mode="constant", cval=False)
    points[UNLABELLED] = 0
    centre = (np.arange(size) + 0.5 - size / 2) * tile.resolution
    distance = np.hypot(centre[:, None], centre[None, :])
    return Cells(tile.wall[judged], wall[judged], points.argmax(axis=0)[judged], distance[judged])


def heights(points: NDArray[np.float32], ground: NDArray[np.bool_]) -> Array:
    """(N,) metres of (N, 3) points above the mean of the nearest cell with (N,) ``ground`` points.

    NaN if there is no such point.
    """
    if not ground.any():
        return np.full(len(points), np.nan)
    cell = np.floor(points[:, :2] / GROUND_CELL_M).astype(np.int64)
    cell -= cell.min(axis=0)
    shape = tuple(cell.max(axis=0) + 1)
    index = np.ravel_multi_index(tuple(cell.T), shape)
    size = int(np.prod(shape))
    count = np.bincount(index[ground], minlength=size)
    mean = np.bincount(index[ground], points[ground, 2], size) / np.maximum(count, 1)
    nearest = ndimage.distance_transform_edt(
        count.reshape(shape) == 0, return_distances=False, return_indices=True
    )
    above: Array = points[:, 2] - mean.reshape(shape)[tuple(nearest)].ravel()[index]
    return above


def drive_cells(drive: Drive, queries: Queries, settings: LocalizeSettings) -> Iterator[Cells]:
    """The judged cells of each query tile of a drive."""
    tiles = query_tiles(drive, queries, 0.0, settings.submap, settings.query)
    for query, rotation in enumerate(tiles.rotation.tolist()):
        submap = tiles.submap(query)
        if submap.kind is None:
            raise SystemExit(f"{drive.name}: its points have no labels that submap.labels explains")
        tile = make_tile(replace(submap, kind=None), rotation, settings.query)
        yield judged_cells(tile, submap)


def measure(
    name: str, submap_m: float, given: argparse.Namespace, settings: LocalizeSettings
) -> dict[str, list[Cells]]:
    """The judged cells of each tile, by drive, of a data set or of the drive at a path.

    Drives without odometry have no submaps.
    """
    paths, every_m = [Path(name)], EVERY_M
    if name in SETS:
        source, every_m, make_paths = SETS[name]
        paths = make_paths(given.data / source, given.work, given.seed)
    every_m = every_m if given.every is None else given.every
    found = {}
    for drive in map(open_drive, paths):
        moves = drive.odometry is not None
        if moves or submap_m == 0:
            unknown = HeadingKnowledge("unknown")
            queries = Queries(submap_m, every_m * moves, heading=unknown, seed=given.seed)
            found[drive.name] = list(drive_cells(drive, queries, settings))
    return found


def score_rows(cells: Cells) -> Iterator[list[str]]:
    """The texts of the first table for each range."""
    for band, (low, high) in BANDS.items():
        some = cells.where((cells.distance >= low) & (cells.distance < high))
        curve = precision_recall(some.evidence, some.wall)
        scores = average_precision(curve), *(precision_at(recall, curve) for recall in RECALLS)
        walls = np.count_nonzero(some.wall)
        yield [band, f"{len(some.wall)}", f"{walls}", *(f"{score:.3f}" for score in scores)]


def kind_rows(cells: Cells) -> Iterator[list[str]]:
    """The texts of the second table for each kind of ``ROWS``, and for all others."""
    false = np.where(cells.wall, 0.0, cells.evidence)
    which = {name: cells.kind == KINDS[name] for name in ROWS}
    which["other"] = ~np.any(list(which.values()), axis=0)
    for name, mine in which.items():
        evidence = cells.evidence[mine]
        if len(evidence):
            share = false[mine].sum() / (false.sum() or 1.0)
            figures = evidence.mean(), (evidence >= CALLED).mean(), share
            yield [
                name.replace("_", " "),
                f"{len(evidence)}",
                *(f"{figure:.3f}" for figure in figures),
            ]


def report(names: list[str], given: argparse.Namespace, settings: LocalizeSettings) -> None:
    """Measure the data sets, and print both tables."""
    precisions = (f"precision at {recall:g}" for recall in RECALLS)
    head("data", "submap", "tiles", "range m", "judged", "walls", "average precision", *precisions)
    found: dict[tuple[str, str], Cells] = {}
    for name in names:
        for submap_m in given.submap:
            length = f"{submap_m:g} m" if submap_m else "single scan"
            drives = measure(name, submap_m, given, settings)
            every = [cells for tiles in drives.values() for cells in tiles]
            if not every:
                continue
            found[name, length] = together(every)
            for part, tiles in {name: every, **(drives if len(drives) > 1 else {})}.items():
                for texts in score_rows(together(tiles)):
                    row(part, length, f"{len(tiles)}", *texts)
    print()
    head("data", "submap", "kind", "judged", "mean evidence", f">= {CALLED:g}", "of false evidence")
    for (name, length), cells in found.items():
        for texts in kind_rows(cells):
            row(name, length, *texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(SETS)}, or a drive")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "walls", metavar="FOLDER")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated route and the turns")
    parser.add_argument("--submap", type=float, nargs="+", default=[0.0, 20.0], metavar="M")
    parser.add_argument("--every", type=float, metavar="M", help="metres between queries")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe first"
    )
    given = parser.parse_args()
    settings = load_recipe(overrides=given.set)
    labels = {**TABLES, **settings.submap.labels}
    submap = settings.submap.model_copy(update={"labels": labels})
    there = [name for name, known in SETS.items() if (given.data / known.source).is_dir()]
    print(stamp(), end="\n\n")
    report(given.names or there, given, settings.model_copy(update={"submap": submap}))


if __name__ == "__main__":
    main()
