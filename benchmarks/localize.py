"""Localize the real KITTI drive and Oxford drives with simulated LiDAR; prints a markdown table.

Run: python benchmarks/localize.py [DATA] [--work FOLDER] [--mapnet MINUTES]

DATA is the folder of real data (default: ../shared/data). What is prepared, simulated and trained
stays in FOLDER and is not made twice. Each row is what `maptile localize` writes to metrics.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stamp import stamp

from data_prep.city import CitySettings, open_city, prepare_city
from data_prep.files import read_json
from data_prep.osm import OsmSource
from data_prep.simulate import SimulateSettings, simulate
from data_prep.trajectory import open_trajectory
from maptile_loc.config import load_settings
from maptile_loc.localize import LocalizeSettings
from maptile_loc.run import RunOptions, run
from maptile_loc.train import ModelSettings, train

ROOT = Path(__file__).parent.parent
KITTI = Path("kitti_raw/2011_09_26/2011_09_26_drive_0005_sync")
RUNS = {
    "loop 2014-06-26-09-24-58": "robotcar/2014-06-26-09-24-58/gps/ins.csv",
    "full 2014-11-28-12-07-13": "robotcar/2014-11-28-12-07-13/gps/gps.csv",
}
COLUMNS = ("recall_1m", "recall_2m", "recall_5m", "median_m", "mean_m", "heading_recall_1deg")


def city(source: Path, folder: Path) -> Path:
    if not folder.exists():
        prepare_city(OsmSource(path=source), folder, CitySettings(name=folder.name))
    return folder


def drive(trajectory: Path, where: Path, folder: Path) -> Path:
    if not folder.exists():
        opened = open_city(where)
        path = open_trajectory(str(trajectory), opened, 0.0, 0)
        simulate(opened, path, folder, "robotcar", load_settings(SimulateSettings, "simulate"))
    return folder


def row(name: str, options: RunOptions, out: Path) -> None:
    run(options, load_settings(LocalizeSettings, "localize"), out)
    metrics = read_json(out / "metrics.json")
    for stage in ("aligned", "smoothed"):
        print(cells(name, stage, metrics["stages"][stage], metrics), flush=True)
    removed = metrics["bias_removed"]["aligned"]
    print(cells(name, "aligned, map bias removed", removed, metrics), flush=True)
    outside = f"{metrics['outside_localized']} of {metrics['outside_queries']}"
    print(f"| {name} | outside the map called localized | {outside} |" + " |" * 8)


def cells(name: str, stage: str, figures: dict[str, Any], metrics: dict[str, Any]) -> str:
    values = ["-" if figures[key] is None else f"{figures[key]:.2f}" for key in COLUMNS]
    counts = [f"{figures['frames']}", f"{figures['localized']}"]
    speed = f"{metrics['query_seconds_median']:.2f}"
    return "| " + " | ".join([name, stage, *counts, *values, speed]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument(
        "--mapnet", type=float, default=0.0, help="minutes of training; 0: leave out"
    )
    given = parser.parse_args()
    print(stamp(), end="\n\n")
    heads = ["drive", "stage", "queries", "localized", *COLUMNS, "s/query"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))

    karlsruhe = city(
        given.data / KITTI.parent / "2011_09_26_drive_0005.osm", given.work / "karlsruhe"
    )
    oxford = city(given.data / "oxford" / "oxford.osm", given.work / "oxford")
    kitti = given.data / KITTI
    row("KITTI 0005", RunOptions(karlsruhe, kitti, every_m=5), given.work / "out_kitti")
    row("KITTI 0005 on Oxford", RunOptions(oxford, kitti, every_m=5), given.work / "out_elsewhere")
    if given.mapnet:
        settings = load_settings(ModelSettings, "mapnet")
        train(open_city(oxford), settings, minutes=given.mapnet, device="auto")
    for name, trajectory in RUNS.items():
        folder = drive(given.data / trajectory, oxford, given.work / name.replace(" ", "_"))
        for method in ("match", "mapnet") if given.mapnet else ("match",):
            out = given.work / f"out_{method}_{name.split()[0]}"
            row(f"Oxford {name}, {method}", RunOptions(oxford, folder, method=method), out)


if __name__ == "__main__":
    main()
