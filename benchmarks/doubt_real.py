"""How many right fixes of real drives are called localized, and how far they are to be trusted.

Run: python benchmarks/doubt_real.py [DATA] [--work FOLDER]

KITTI 0005 and KITTI-360 0009 are localized scan by scan, with known and unknown headings; Radar
RobotCar, which has neither heading nor odometry, in submaps of 50 m along LiDAR odometry, against
poses that were matched with the map (good to about a metre). The map's constant shift is removed.
The columns are those of doubt.py.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from doubt import KEPT, STAGES, Judged, figures
from inputs import KITTI
from inputs import city as prepared
from stamp import head, row, stamp

import maptile_loc as ml
from data_prep.drive import Drive, TruthTrack
from maptile_loc.report.metrics import compare

ROOT = Path(__file__).parent.parent
KITTI360 = Path("kitti360_0009", "data_3d_raw", "2013_05_28_drive_0009_sync")
"""The drive of KITTI-360, in the folder of real data; labels lie elsewhere and are not used."""


def matched_truth(file: Path) -> TruthTrack:
    """The poses in a table of time (microseconds), latitude, longitude and heading (degrees)."""
    table = pd.read_csv(file)
    return TruthTrack(
        table["timestamp"].to_numpy(np.int64) * 1000,
        table["latitude"].to_numpy(np.float64),
        table["longitude"].to_numpy(np.float64),
        np.radians(table["heading_deg_ccw_from_east"].to_numpy(np.float64)),
    )


def drives(data: Path, work: Path) -> Iterator[tuple[str, Path, Drive, float, float, list[str]]]:
    """Name, city, drive, lengths of submaps and between queries, and kinds of heading of each."""
    both = ["known", "unknown"]
    karlsruhe = prepared(data / KITTI.parent / "2011_09_26_drive_0005.osm", work / "karlsruhe")
    yield "KITTI 0005, single scans", karlsruhe, ml.open_drive(data / KITTI), 0.0, 0.0, both
    plane = data / "kitti360_0009" / "map.tif"
    yield "KITTI-360 0009, single scans", plane, ml.open_drive(data / KITTI360), 0.0, 0.0, both
    oxford = prepared(data / "oxford" / "oxford.osm", work / "oxford")
    radar = data / "radar_robotcar"
    truth = matched_truth(radar / "poses_mapmatched.csv")
    drive = replace(ml.open_drive(radar), truth=truth)
    yield "Radar RobotCar, 50 m", oxford, drive, 50.0, 2.0, ["unknown"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "doubt")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print(f"{stamp()}\n")
    columns = ("n", "right", "localized", "> 10 m off", "availability", "position", "pose", KEPT)
    head("drive", "heading", "stage", *columns, "protected", "level m", "<= 10 m")
    for name, city, drive, submap_m, every_m, kinds in drives(given.data, given.work):
        for heading in kinds:
            found = ml.localize(city, drive, heading=heading, submap_m=submap_m, every_m=every_m)
            assert drive.truth is not None
            comparison = compare(found, drive.truth)
            moved = comparison.truth + np.append(comparison.shift, 0.0)
            one = Judged(name, "", found, moved, comparison.truth, comparison.counted, {})
            for stage in STAGES:
                row(name, heading, stage, *figures([one], stage))


if __name__ == "__main__":
    main()
