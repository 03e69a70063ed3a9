"""Compare query tiles of a drive with renders at the same positions: a table, and a picture.

Run: python benchmarks/renders.py CITY DRIVE [--picture FILE] [--every METRES]

Models are trained on renders. Here, renders are made at the drive's true positions and along its
true trajectory, in worlds that differ from the map as in training. The more similar the two rows of
the table, the better a trained model fits the drive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.city.raster import ATTRIBUTION
from data_prep.drive import Times
from data_prep.geometry import Array
from data_prep.sources import open_drive
from maptile_loc.learn.settings import DataSettings
from maptile_loc.learn.tile_sequence import see
from maptile_loc.learn.tiles.rendered import RenderedBatches
from maptile_loc.pipeline import drive_tiles
from maptile_loc.recipe import load_recipe
from maptile_loc.render.vector_map import vector_map
from maptile_loc.render.view import PLAIN_CHANNELS, ViewSettings, render
from maptile_loc.report.metrics import MARGIN_M, truth_in_map
from maptile_loc.types import Queries

POINTS = 41
"""Points of the trajectory of a render."""

SHOWN = 10
"""Pairs of tiles in the picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("city", type=Path)
    parser.add_argument("drive", type=Path)
    parser.add_argument("--picture", type=Path, help="PNG to draw")
    parser.add_argument("--every", type=float, default=60.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    city, drive, view = (
        open_city(given.city),
        open_drive(given.drive),
        ViewSettings(channels=PLAIN_CHANNELS),
    )
    if drive.truth is None:
        raise SystemExit(f"{given.drive}: no truth, so the positions of renders are unknown")
    queries = Queries(view.travel_m, given.every)
    seen = see(drive_tiles(city, drive, queries, load_recipe()), view)
    position = truth_in_map(drive.truth, city.raster, seen.t_ns)[:, :2]
    track = truth_in_map(drive.truth, city.raster, drive.scans.t_ns)[:, :2]
    inside = city.raster.inside(position, MARGIN_M)
    tiles = torch.from_numpy(seen.tiles[inside])
    paths = trajectories(drive.scans.t_ns, track, seen.t_ns[inside], view.travel_m) - city.reference
    rendered = renders(city, position[inside] - city.reference, paths, view)
    print(stamp(), end="\n\n")
    names = ("wall, mean", "wall where seen", "share with walls", "ground", "observed")
    head("tiles", "n", *names)
    for name, some_tiles in (("query", tiles), ("render", rendered)):
        wall, ground, observed = some_tiles.unbind(1)
        some = wall > 0.1
        figures = (
            wall.mean(),
            wall[some].mean(),
            some.float().mean(),
            ground.mean(),
            observed.mean(),
        )
        row(name, f"{len(some_tiles)}", *(f"{float(figure):.3f}" for figure in figures))
    if given.picture is not None:
        draw(tiles, rendered, given.picture)


def trajectories(times: Times, track: Array, t_ns: Times, travel_m: float) -> Array:
    """(Q, P, 2) points of the true trajectory around each query.

    Args:
        times: (N,) times of the trajectory.
        track: (N, 2) east, north of the trajectory; NaN where it is unknown.
        t_ns: (Q,) times of the queries.
        travel_m: Length of each part, metres: half of it before the query, half after it.
    """
    known = np.isfinite(track[:, 0])
    times, track = times[known], track[known]
    travelled = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(track, axis=0).T))])
    at = np.interp(t_ns, times, travelled)[:, None] + np.linspace(-0.5, 0.5, POINTS) * travel_m
    return np.stack([np.interp(at, travelled, track[:, axis]) for axis in (0, 1)], -1)


def renders(city: City, positions: Array, paths: Array, view: ViewSettings) -> torch.Tensor:
    """(Q, 3, S, S) renders in worlds as in training.

    Args:
        city: The city.
        positions: (Q, 2) metres from the city's reference.
        paths: (Q, P, 2) points of the trajectory around each, likewise.
        view: Size and noise of the renders.
    """
    batches = RenderedBatches(vector_map(city), DataSettings(), "known", 0, 0)
    worlds = batches.worlds(0)
    generator = torch.Generator().manual_seed(0)
    which = torch.arange(len(positions)) % len(worlds.cells)
    centre = torch.from_numpy(positions.astype(np.float32))
    path = torch.from_numpy(paths.astype(np.float32))
    return render(worlds, which, path, centre, torch.zeros(len(positions)), view, generator)


def draw(queries: torch.Tensor, rendered: torch.Tensor, path: Path) -> None:
    """Draw pairs of tiles, queries above: walls red, ground green, observed blue."""
    figure = Figure(figsize=(SHOWN, 2.5), dpi=90)
    axes = figure.subplots(2, SHOWN)
    for column, number in enumerate(np.linspace(0, len(queries) - 1, SHOWN).astype(int)):
        for line, tiles in zip(axes, (queries, rendered), strict=True):
            line[column].imshow(tiles[number].permute(1, 2, 0).numpy())
            line[column].set_axis_off()
    figure.text(
        0.01, 0.93, "query tiles (above), renders at the same positions (below)", fontsize=8
    )
    figure.text(0.99, 0.01, ATTRIBUTION, fontsize=6, ha="right")
    figure.subplots_adjust(0.01, 0.05, 0.99, 0.9, 0.05, 0.05)
    figure.savefig(path)


if __name__ == "__main__":
    main()
