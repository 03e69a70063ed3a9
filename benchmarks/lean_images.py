"""Lean images: does a network find a pose in views without texture? Prints tables of the tasks.

Run: python benchmarks/lean_images.py [CITY] [--work FOLDER] [--task A B C code] [--steps N]
                                      [--images edges faces depth ...] [--area M] [--grid M]
                                      [--pitches N]

The protocol is that of Lean Images for Geo-Localization (under review at ICLR 2020; see also
Kadosh, Moses and Shamir, On the role of geometry in geo-localization, Computational Visual Media 7,
2021). Views at eye level of the city's footprints, extruded by their heights, are rendered at a
grid of poses: x and y M metres apart, yaw 5 degrees, pitch 3 degrees. Poses inside buildings are
discarded, as are views with fewer than 8 edges or without a skyline. A network learns the pose.

- *A*: images that it learned. 1nn, 3nn: the right sample is the nearest, or one of the nearest
  three, of the regressed pose.
- *B*: the same, learned with the poses of other images.
- *C*: images at the middles of the grid's cells. D: Manhattan distance between the cell of the
  regressed pose and the right one, in steps of the grid.
- *code*: 17-bit numbers of the samples are learned in place of poses.

CITY is a city folder (default: Oxford); the area is at the middle of its map. A and C share a
training, so the default, three types of images and A, B, C, is six trainings of N = 7,000 batches,
each about 8 minutes on 2 idle cores. What is done stays in FOLDER and is not done again; an
interrupted training resumes.

docs/lean-images.md says what differs from the paper. ``tiles`` are tiles of the map, which have no
pitch: x, y and yaw are what is called 4D there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from inputs import city as prepared
from lean.grid import PoseGrid
from lean.images import IMAGES
from lean.protocol import TASKS, Study
from lean.tables import print_tables
from stamp import stamp

from data_prep.city.folder import City, open_city
from data_prep.errors import MaptileError

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

LEAN = ("edges", "faces", "depth")
"""Types of images without --images."""


def pose_grid(city: City, area_m: float, step_m: float, pitches: int) -> PoseGrid:
    """A grid of poses at the middle of a city's map.

    Raises:
        MaptileError: The step does not divide the area's side, or the map is smaller.
    """
    cells = area_m / step_m
    if cells < 1 or cells != round(cells):
        raise MaptileError(f"--grid {step_m:g}: the area of {area_m:g} m is no multiple of it")
    west, south = city.raster.centre - area_m / 2
    if not city.raster.inside([[west, south], [west + area_m, south + area_m]]).all():
        raise MaptileError(f"--area {area_m:g}: the map of {city.name} is smaller")
    return PoseGrid(float(west), float(south), area_m, step_m, pitches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path, nargs="?")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "lean_images")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=["A", "B", "C"])
    parser.add_argument("--images", nargs="+", choices=IMAGES, default=LEAN)
    parser.add_argument("--steps", type=int, default=7000, help="batches of each training")
    parser.add_argument("--area", type=float, default=400.0, help="side of the area, metres")
    parser.add_argument("--grid", type=float, default=20.0, help="step of the grid, metres")
    parser.add_argument("--pitches", type=int, default=6, help="from 0, 3 degrees apart")
    given = parser.parse_args()
    source = ROOT.parent / "shared" / "data" / "oxford" / "oxford.osm"
    try:
        city = open_city(given.city or prepared(source, given.work / "oxford"))
        grid = pose_grid(city, given.area, given.grid, given.pitches)
        study = Study(city, grid, given.work, given.steps)
        results = {}
        for training in dict.fromkeys(TASKS[task] for task in given.task):
            for images in given.images:
                print(f"{images}, {training}", file=sys.stderr, flush=True)
                results[images, training] = study.result(images, training)
    except MaptileError as error:
        sys.exit(f"error: {error}")
    print(f"{stamp()}; {given.steps} batches per training\n")
    print_tables(grid, results)


if __name__ == "__main__":
    main()
