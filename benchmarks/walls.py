"""Score the wall evidence of query tiles against labelled points; prints markdown tables.

Run: python benchmarks/walls.py [DRIVE] [--table NAME] [--work FOLDER] [--data DATA]
                                [--seed N] [--submap M ...] [--every M]

DRIVE is any drive whose points have labels; without one, a drive with an HDL-64E is simulated in
the city of Oxford's map. Tiles are made without the labels, each turned by a random angle.

The counts of each tile:

- The height of a point is that above the nearest cell (2 m) with points labelled ground, not the
  height that ``make_tile`` estimates. Points 1 to 20 m high count; all others are ignored.
- A truth cell is a cell of the tile with at least one point labelled building. A wall cell is one
  with evidence of at least 0.5.
- Cells: precision is the share of wall cells with a truth cell among themselves and their eight
  neighbours; recall is the share of truth cells with a wall cell among those nine.
- Evidence is a weight, not a decision. The second table has the precision at each recall, where
  the threshold of the evidence is the one that just reaches this recall.
- Points: a point is called building where its cell is a wall cell. Precision is the share of those
  that are labelled building; recall is the share of building points that are called so.
- Range is the distance of the cell's centre, or of the point, from the vehicle at the query.
- A false wall cell is attributed to the label of most of its points, or to "nothing" without any.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from inputs import city
from numpy.typing import NDArray
from scipy import ndimage
from stamp import head, row, stamp

from data_prep.city.folder import open_city
from data_prep.drive import Drive
from data_prep.geometry import rotate
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import open_trajectory
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.labels import BUILDING, GROUND, LABELS, LabelTable
from maptile_loc.perceive.query_tile import make_tile
from maptile_loc.perceive.submap import Submap
from maptile_loc.perceive.tiles import QueryTiles, query_tiles
from maptile_loc.pipeline import LocalizeSettings, load_recipe
from maptile_loc.types import HeadingKnowledge, Queries, QueryTile

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

Mask = NDArray[np.bool_]
"""An array of bool."""

Counts = NDArray[np.int64]
"""An array of counts."""

CALLED = 0.5
"""Smallest evidence of a wall cell."""

LOW_M = 1.0
"""Smallest height of a point that counts, metres."""

HIGH_M = 20.0
"""Largest height of a point that counts, metres."""

GROUND_CELL_M = 2.0
"""Side of the cells in which the ground's height is averaged, metres."""

BANDS = ((0, 10), (10, 20), (20, 30), (30, 50), (0, 100))
"""Ranges in metres; the last one contains every cell of a tile."""

RECALLS = (0.80, 0.85, 0.90)
"""Recalls of cells at which the precision is printed."""

REQUIRED = "Required of cells, over all ranges: precision 0.92 at recall 0.85."
"""The requirement, as it is printed."""

GROUPS = ("other", "building", "ground", "vegetation", "trunk or pole", "fence", "car", "person")
"""Groups of labels to which false wall cells are attributed."""

MEMBERS: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "semantickitti": {
        "vegetation": (70,),
        "trunk or pole": (71, 80, 81),
        "fence": (51,),
        "car": (10, 11, 13, 15, 18, 20),
        "person": (30, 31, 32),
    },
    "kitti360": {
        "vegetation": (21,),
        "trunk or pole": (17, 18, 19, 20),
        "fence": (12, 13),
        "car": tuple(range(26, 34)),
        "person": (24, 25),
    },
    "nuscenes": {"vegetation": (30,), "fence": (9,), "car": tuple(range(14, 24))},
    "las": {"vegetation": (3, 4, 5)},
}
"""Label numbers of the groups that ``maptile_loc.perceive.labels`` lacks; all others are other."""

DIGITS = (1, 3)
"""Values of the two digits, in base 3, of an index into ``GROUPS``."""


def score_cells(wall: Mask, truth: Mask, distance: NDArray[np.floating]) -> Counts:
    """(bands, 4) counts: wall cells, right wall cells, truth cells, found truth cells.

    Args:
        wall: (S, S), the wall cells.
        truth: (S, S), the truth cells.
        distance: (S, S) metres from the vehicle.
    """
    right, found = wall & _near(truth), truth & _near(wall)
    return _by_band([wall, right, truth, found], distance)


def score_points(called: Mask, building: Mask, distance: NDArray[np.floating]) -> Counts:
    """(bands, 4) as in ``score_cells``, of (N,) points called building and labelled building."""
    both = called & building
    return _by_band([called, both, building, both], distance)


@dataclass(frozen=True)
class Graded:
    """Cells by their evidence.

    Attributes:
        evidence: (N,) evidence of the cells that have any.
        right: (N,) bool, a truth cell is among the cell and its neighbours.
        best: (M,) largest evidence of each truth cell and its neighbours.
    """

    evidence: NDArray[np.float32]
    right: Mask
    best: NDArray[np.float32]

    def precision_at(self, recall: float) -> tuple[float, float]:
        """The precision, and the threshold of the evidence, that just reach ``recall``.

        Both are NaN if no threshold reaches it.
        """
        least = np.sort(self.best)[::-1][max(math.ceil(recall * len(self.best)) - 1, 0)]
        if least <= 0:
            return math.nan, math.nan
        return float(self.right[self.evidence >= least].mean()), float(least)


def graded(evidence: NDArray[np.float32], truth: Mask) -> Graded:
    """The cells of a tile with (S, S) evidence and (S, S) truth cells."""
    some = evidence > 0
    best = ndimage.maximum_filter(evidence, 3, mode="constant", cval=0.0)
    return Graded(evidence[some], _near(truth)[some], best[truth])


def false_cells(wall: Mask, truth: Mask, points: Counts) -> Counts:
    """(G + 1,) false wall cells by the group of most of their points; last, those without points.

    Args:
        wall: (S, S) as in ``score_cells``.
        truth: (S, S) likewise.
        points: (G, S, S) points of each group in each cell.
    """
    false = wall & ~_near(truth)
    owner = np.where(points.any(axis=0), points.argmax(axis=0), len(points))
    return np.bincount(owner[false], minlength=len(points) + 1)


def heights(points: NDArray[np.float32], ground: Mask) -> NDArray[np.float64]:
    """(N,) metres of (N, 3) points above the mean of the nearest cell that has ground points."""
    if not ground.any():
        raise SystemExit("no point is labelled ground: heights are unknown")
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
    level = mean.reshape(shape)[tuple(nearest)]
    return points[:, 2] - level.ravel()[index]


def _near(cells: Mask) -> Mask:
    return ndimage.maximum_filter(cells, 3, mode="constant", cval=False)


def _by_band(masks: list[Mask], distance: NDArray[np.floating]) -> Counts:
    inside = [(distance >= low) & (distance < high) for low, high in BANDS]
    return np.array([[np.count_nonzero(mask & band) for mask in masks] for band in inside])


def labelled_tiles(
    drive: Drive, queries: Queries, settings: LocalizeSettings
) -> tuple[QueryTiles, ...]:
    """The queries of a drive, once for each of ``DIGITS``.

    The points of a submap have three kinds, so two label tables distinguish nine groups: the kinds
    of each are one digit of the group's index.
    """
    name = drive.labels or ""
    table = settings.submap.labels[name]
    ground = table.ground + table.road
    members = {"building": table.building, "ground": ground, **MEMBERS[name]}
    tiles = []
    for digit in DIGITS:
        numbers: dict[int, tuple[int, ...]] = {0: (), 1: (), 2: ()}
        for group, its_numbers in members.items():
            numbers[GROUPS.index(group) // digit % 3] += its_numbers
        asked = LabelTable(building=numbers[1], ground=numbers[2], moving=table.moving)
        submap = settings.submap.model_copy(update={"labels": {name: asked}})
        tiles.append(query_tiles(drive, queries, 0.0, submap, settings.query))
    return tuple(tiles)


def grouped(tiles: tuple[QueryTiles, ...], query: int) -> tuple[Submap, NDArray[np.intp]]:
    """The submap of a query without labels, and the (N,) index into ``GROUPS`` of each point."""
    index: NDArray[np.intp] | int = 0
    for digit, some in zip(DIGITS, tiles, strict=True):
        submap = some.submap(query)
        if submap.kind is None:
            raise SystemExit(f"{some.drive.name}: its points have no labels")
        kind = np.where(submap.kind == GROUND, 2, 0)
        index = index + digit * np.where(submap.kind == BUILDING, 1, kind)
    return replace(submap, kind=None), np.asarray(index)


class Scores(NamedTuple):
    """The scores of one tile, or of all tiles of a drive.

    Attributes:
        cells: As ``score_cells`` returns it.
        points: As ``score_points`` returns it.
        false: As ``false_cells`` returns it.
        graded: As ``graded`` returns it.
    """

    cells: Counts
    points: Counts
    false: Counts
    graded: Graded


def score_tile(tile: QueryTile, submap: Submap, group: NDArray[np.intp]) -> Scores:
    """The scores of a tile, from its submap and the (N,) groups of the points."""
    height = heights(submap.points, group == GROUPS.index("ground"))
    tall = (height > LOW_M) & (height < HIGH_M)
    xy = rotate(submap.points[tall, :2].astype(np.float64), tile.rotation)
    size, resolution = tile.size, tile.resolution
    column = np.floor(xy[:, 0] / resolution + size / 2).astype(np.int64)
    row = np.floor(size / 2 - xy[:, 1] / resolution).astype(np.int64)
    inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
    pixel, xy, group = (row * size + column)[inside], xy[inside], group[tall][inside]
    key = group * size**2 + pixel
    points = np.bincount(key, minlength=len(GROUPS) * size**2).reshape(-1, size, size)
    wall = tile.wall >= CALLED
    truth = points[GROUPS.index("building")] > 0
    centre = (np.arange(size) + 0.5 - size / 2) * resolution
    distance = np.hypot(centre[:, None], centre[None, :])
    building = group == GROUPS.index("building")
    return Scores(
        score_cells(wall, truth, distance),
        score_points(wall.ravel()[pixel], building, np.hypot(*xy.T)),
        false_cells(wall, truth, points),
        graded(tile.wall, truth),
    )


def score_drive(
    drive: Drive, submap_m: float, every_m: float, settings: LocalizeSettings
) -> tuple[int, Scores]:
    """The number of query tiles of a drive, and their scores together."""
    unknown = HeadingKnowledge("unknown")
    tiles = labelled_tiles(drive, Queries(submap_m, every_m, heading=unknown), settings)
    count, scores = len(tiles[0]), []
    for query, rotation in enumerate(tiles[0].rotation.tolist()):
        submap, group = grouped(tiles, query)
        scores.append(score_tile(make_tile(submap, rotation, settings.query), submap, group))
    cells, points, false, parts = zip(*scores, strict=True)
    columns = [np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Graded)]
    return count, Scores(sum(cells), sum(points), sum(false), Graded(*columns))


def simulated(data: Path, work: Path, seed: int) -> Path:
    """A simulated drive of 400 m with an HDL-64E through the world of Oxford's map."""
    folder = work / f"oxford_hdl64_{seed}"
    if not folder.exists():
        where = open_city(city(data / "oxford" / "oxford.osm", work / "oxford"))
        route = open_trajectory("route", where, 400.0, seed)
        simulate(where, route, folder, "hdl64", load_settings(SimulateSettings, "simulate"))
    return folder


def report(scores: dict[float, tuple[int, Scores]]) -> None:
    """Print the tables, by the length of the submaps, metres."""
    names = {submap_m: f"{submap_m:.0f} m" if submap_m else "single scan" for submap_m in scores}
    head(
        *("submap", "tiles", "range m", "truth cells", "wall cells"),
        *("cell precision", "cell recall", "point precision", "point recall"),
    )
    for submap_m, (count, found) in scores.items():
        for (low, high), cell, point in zip(BANDS, found.cells, found.points, strict=True):
            band = "all" if (low, high) == BANDS[-1] else f"{low}-{high}"
            counts = f"{count}", band, f"{cell[2]}", f"{cell[0]}"
            row(names[submap_m], *counts, *rates(cell), *rates(point))
    print()
    head("submap", "cell recall", "cell precision", "from evidence")
    for submap_m, (_, found) in scores.items():
        for recall in RECALLS:
            precision, least = found.graded.precision_at(recall)
            row(names[submap_m], f"{recall:.2f}", f"{precision:.3f}", f"{least:.2f}")
    print()
    head("submap", "false wall cells", *GROUPS, "nothing")
    for submap_m, (_, found) in scores.items():
        total = found.false.sum()
        shares = (f"{share:.2f}" for share in found.false / max(total, 1))
        row(names[submap_m], f"{total}", *shares)


def rates(counts: Counts) -> list[str]:
    """Precision and recall of the (4,) counts of ``score_cells``, as text."""
    called, right, truth, found = counts.tolist()
    precision = f"{right / called:.3f}" if called else "-"
    return [precision, f"{found / truth:.3f}" if truth else "-"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("drive", type=Path, nargs="?")
    parser.add_argument("--table", help="meaning of the labels; the drive's own by default")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--seed", type=int, default=1, help="of the simulated drive's route")
    parser.add_argument("--submap", type=float, nargs="+", default=[0.0, 20.0], help="metres")
    parser.add_argument("--every", type=float, default=10.0, help="metres")
    given = parser.parse_args()
    drive = open_drive(given.drive or simulated(given.data, given.work, given.seed))
    # Localization has no table for simulated labels; their numbers are SemanticKITTI's.
    own = "semantickitti" if drive.labels == "simulated" else drive.labels
    drive = replace(drive, labels=given.table or own)
    if drive.labels not in LABELS:
        raise SystemExit(f"{drive.name}: labels of {drive.labels}; give --table {'|'.join(LABELS)}")
    settings = load_recipe()
    print(stamp(), end="\n\n")
    print(f"{drive.name}, labels of {drive.labels}. {REQUIRED}\n")
    report({m: score_drive(drive, m, given.every, settings) for m in given.submap})


if __name__ == "__main__":
    main()
