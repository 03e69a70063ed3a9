"""Score the wall evidence of query tiles against labelled points; prints markdown tables.

Run: python benchmarks/walls.py [DRIVE] [--table NAME] [--work FOLDER] [--data DATA]
                                [--seed N] [--submap M ...] [--every M]

DRIVE is any drive whose points have labels; without one, a drive with an HDL-64E is simulated in
the city of Oxford's map. Tiles are made without the labels, each turned by a random angle.

What is counted, in each tile:

- Height is that above the nearest cell (2 m) with points labelled ground, not what ``make_tile``
  takes for it. Points 1 to 20 m high count, all others do not exist here.
- A truth cell is a cell of the tile with at least one point labelled building. A wall cell is one
  with evidence of at least 0.5.
- Cells: precision is the share of wall cells with a truth cell among themselves and their eight
  neighbours; recall the share of truth cells with a wall cell among those nine.
- Evidence is a weight and not a yes or no: the second table has the precision at each recall, where
  the least evidence that a wall cell has to have is such that just this recall is reached.
- Points: a point is called building where its cell is a wall cell. Precision is the share of those
  that are labelled building; recall the share of building points so called.
- Range is from the vehicle at the query to the cell's centre, or to the point.
- A false wall cell is put down to the label that most of its points have; "nothing" has none.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from stamp import stamp

from data_prep.city.folder import CitySettings, open_city, prepare_city
from data_prep.drive import Drive
from data_prep.geometry import rotate
from data_prep.osm.footprints import OsmSource
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import open_trajectory
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.perceive.labels import BUILDING, GROUND, LABELS, ROAD, LabelTable
from maptile_loc.perceive.query_tile import make_tile
from maptile_loc.perceive.plan import QueryPlan, plan_queries
from maptile_loc.perceive.submap import Submap, SubmapSettings, build_submap
from maptile_loc.pipeline import HeadingKnowledge, LocalizeSettings, tile_rotations
from maptile_loc.types import Queries, QueryTile

ROOT = Path(__file__).parent.parent
Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

CALLED = 0.5
LOW_M, HIGH_M = 1.0, 20.0
GROUND_CELL_M = 2.0
BANDS = ((0, 10), (10, 20), (20, 30), (30, 50), (0, 100))
"""Ranges in metres; the last one holds every cell of a tile."""
RECALLS = (0.80, 0.85, 0.90)
REQUIRED = "Required of cells, over all ranges: precision 0.92 at recall 0.85."

GROUPS = ("other", "building", "ground", "vegetation", "trunk or pole", "fence", "car", "person")
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
"""Label numbers of the groups that are not in ``maptile_loc.labels``; what is missing is other."""


def score_cells(wall: Mask, truth: Mask, distance: NDArray[np.floating]) -> Counts:
    """(bands, 4): wall cells, the right ones of them, truth cells, the found ones of them.

    Args:
        wall: (S, S), which cells are called wall.
        truth: (S, S), which cells hold a wall.
        distance: (S, S) metres from the vehicle.
    """
    right, found = wall & _near(truth), truth & _near(wall)
    return _by_band([wall, right, truth, found], distance)


def score_points(called: Mask, building: Mask, distance: NDArray[np.floating]) -> Counts:
    """(bands, 4) as ``score_cells``, of (N,) points called building and labelled building."""
    both = called & building
    return _by_band([called, both, building, both], distance)


@dataclass(frozen=True)
class Graded:
    """Cells by their evidence.

    Attributes:
        evidence: (N,) of the cells that have any.
        right: (N,) bool, which of them have a truth cell among their nine.
        best: (M,) of each truth cell, the greatest evidence among its nine.
    """

    evidence: NDArray[np.float32]
    right: Mask
    best: NDArray[np.float32]

    def precision_at(self, recall: float) -> tuple[float, float]:
        """The precision, and the least evidence of a wall cell, where ``recall`` is just reached.

        Not a number where no evidence reaches it.
        """
        least = np.sort(self.best)[::-1][max(math.ceil(recall * len(self.best)) - 1, 0)]
        if least <= 0:
            return math.nan, math.nan
        return float(self.right[self.evidence >= least].mean()), float(least)


def graded(evidence: NDArray[np.float32], truth: Mask) -> Graded:
    """(S, S) evidence and (S, S) truth cells, cell by cell."""
    some = evidence > 0
    best = ndimage.maximum_filter(evidence, 3, mode="constant", cval=0.0)
    return Graded(evidence[some], _near(truth)[some], best[truth])


def false_cells(wall: Mask, truth: Mask, points: Counts) -> Counts:
    """(G + 1,) false wall cells by the group of most of their points; the last: without points.

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
        raise SystemExit("no point is labelled ground: heights are not known")
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


def grouped(
    drive: Drive, plan: QueryPlan, query: int, submap_m: float, settings: SubmapSettings
) -> tuple[Submap, NDArray[np.intp]]:
    """The unlabelled submap of a query, and (N,) the index into ``GROUPS`` of each point.

    A submap tells three kinds apart, so two of them tell nine groups: one per digit in base 3.
    """
    name = drive.labels or ""
    table = settings.labels[name]
    members = {"building": table.building, "ground": table.ground, **MEMBERS[name]}
    index = np.zeros(0, np.intp)
    for place in (1, 3):
        digits: dict[int, tuple[int, ...]] = {1: (), 2: ()}
        for group, numbers in members.items():
            digit = GROUPS.index(group) // place % 3
            digits[digit] = digits.get(digit, ()) + numbers
        asked = LabelTable(building=digits[1], ground=digits[2], moving=table.moving)
        answer = build_submap(drive, plan, query, Queries(submap_m=submap_m), settings.model_copy(update={"labels": {name: asked}}))
        if answer.kind is None:
            raise SystemExit(f"{drive.name}: its points have no labels")
        digit_of = np.where(
            answer.kind == BUILDING, 1, np.where(np.isin(answer.kind, (GROUND, ROAD)), 2, 0)
        )
        index = digit_of * place + (index if len(index) else 0)
    return replace(answer, kind=None), index


def score_tile(
    tile: QueryTile, submap: Submap, group: NDArray[np.intp]
) -> tuple[Counts, Counts, Counts, Graded]:
    """A tile and its submap: ``score_cells``, ``score_points``, ``false_cells``, ``graded``."""
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
    return (
        score_cells(wall, truth, distance),
        score_points(wall.ravel()[pixel], building, np.hypot(*xy.T)),
        false_cells(wall, truth, points),
        graded(tile.wall, truth),
    )


def score_drive(
    drive: Drive, submap_m: float, every_m: float, settings: LocalizeSettings
) -> tuple[int, Counts, Counts, Counts, Graded]:
    """How many tiles, and what ``score_tile`` says of all of them."""
    plan = plan_queries(drive, Queries(submap_m=submap_m, every_m=every_m))
    turned = tile_rotations(drive, plan, HeadingKnowledge(kind="unknown"), 0.0, 0)
    scores = []
    for query, rotation in enumerate(turned.tolist()):
        submap, group = grouped(drive, plan, query, submap_m, settings.submap)
        scores.append(score_tile(make_tile(submap, rotation, settings.query), submap, group))
    cells, points, false, parts = zip(*scores, strict=True)
    columns = [np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Graded)]
    return len(turned), sum(cells), sum(points), sum(false), Graded(*columns)


def simulated(data: Path, work: Path, seed: int) -> Path:
    """A simulated drive of 400 m with an HDL-64E through the world of Oxford's map."""
    folder, city = work / f"oxford_hdl64_{seed}", work / "oxford"
    if not city.exists():
        source = OsmSource(path=data / "oxford" / "oxford.osm")
        prepare_city(source, city, CitySettings(name=city.name))
    if not folder.exists():
        opened = open_city(city)
        way = open_trajectory("route", opened, 400.0, seed)
        simulate(opened, way, folder, "hdl64", load_settings(SimulateSettings, "simulate"))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("drive", type=Path, nargs="?")
    parser.add_argument("--table", help="whose numbers the labels are; the drive's own by default")
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
    heads = ["submap", "tiles", "range m", "truth cells", "wall cells"]
    heads += ["cell precision", "cell recall", "point precision", "point recall"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    curve, mix = io.StringIO(), io.StringIO()
    for submap_m in given.submap:
        tiles, cells, points, false, grades = score_drive(drive, submap_m, given.every, settings)
        name = f"{submap_m:.0f} m" if submap_m else "single scan"
        for (low, high), cell, point in zip(BANDS, cells, points, strict=True):
            band = "all" if (low, high) == BANDS[-1] else f"{low}-{high}"
            row = [name, f"{tiles}", band, f"{cell[2]}", f"{cell[0]}", *_rates(cell)]
            print("| " + " | ".join([*row, *_rates(point)]) + " |", flush=True)
        for recall in RECALLS:
            precision, least = grades.precision_at(recall)
            curve.write(f"| {name} | {recall:.2f} | {precision:.3f} | {least:.2f} |\n")
        shares = [f"{share:.2f}" for share in false / max(false.sum(), 1)]
        mix.write("| " + " | ".join([name, f"{false.sum()}", *shares]) + " |\n")
    heads = ["submap", "cell recall", "cell precision", "from evidence"]
    print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    print(curve.getvalue(), end="")
    heads = ["submap", "false wall cells", *GROUPS, "nothing"]
    print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    print(mix.getvalue(), end="")


def _rates(counts: Counts) -> list[str]:
    called, right, truth, found = counts.tolist()
    precision = f"{right / called:.3f}" if called else "-"
    return [precision, f"{found / truth:.3f}" if truth else "-"]


if __name__ == "__main__":
    main()
