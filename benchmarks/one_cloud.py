"""Single real clouds: where the best candidate is, and what probability it has.

    python benchmarks/one_cloud.py --data ../shared/data --work /tmp/clouds [--scans 1]

Each cloud is localized by itself, without odometry, heading or time, as by
``maptile localize CITY CLOUD``: the file of a scan is copied out of its data set.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from inputs import city
from stamp import head, row, stamp

import maptile_loc as ml

RIGHT_M = 10.0
"""A candidate nearer to the truth is right, metres."""
KITTI360 = "kitti360_0009"
"""Folder of the drive of KITTI-360."""
RADAR = "radar_robotcar/2019-01-10-14-36-48-radar-oxford-10k-partial"
"""Folder of the run of Radar RobotCar."""


class Cloud(NamedTuple):
    """A file, its map, and where it was taken: latitude and longitude."""

    name: str
    file: Path
    map: Path
    place: tuple[float, float]


def spread(count: int, scans: int) -> list[int]:
    """Numbers of scans evenly over a drive, its first one first."""
    return np.unique(np.linspace(0, count - 1, scans).round().astype(int)).tolist()


def clouds(data: Path, work: Path, scans: int) -> Iterator[Cloud]:
    """The clouds of all data sets."""
    for name in ("00", "05", "06", "08"):
        folder = data / "kitti_odometry/sequences" / name
        with (folder / "truth.csv").open(encoding="ascii") as file:
            rows = [[float(word) for word in line[:3]] for line in list(csv.reader(file))[1:]]
        for number in spread(len(rows), scans):
            frame, *place = rows[number]
            file = folder / f"velodyne/{int(frame):06d}.bin"
            where = data / f"kitti_odometry/maps/{name}.tif"
            yield Cloud(f"KITTI odometry {name}, {file.stem}", file, where, (place[0], place[1]))
    drive = ml.open_drive(data / KITTI360)
    files = sorted((data / KITTI360).glob("data_3d_raw/*/velodyne_points/data/*.bin"))
    assert drive.truth is not None
    latitude, longitude, _ = drive.truth.at(drive.scans.t_ns)
    for number in spread(len(files), scans):
        place = float(latitude[number]), float(longitude[number])
        name = f"KITTI-360 0009, {files[number].stem}"
        yield Cloud(name, files[number], data / KITTI360 / "map.tif", place)
    oxford = city(data / "oxford/oxford.osm", work / "oxford")
    with (data / "radar_robotcar/poses_mapmatched.csv").open(encoding="ascii") as file:
        places = {line[0]: (float(line[1]), float(line[2])) for line in list(csv.reader(file))[1:]}
    files = sorted((data / RADAR / "velodyne_left").glob("*.bin"))
    files = [one for one in files if one.stem in places]
    for number in spread(len(files), scans):
        file = files[number]
        yield Cloud(f"Radar RobotCar, {file.stem}", file, oxford, places[file.stem])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of real data")
    parser.add_argument("--work", type=Path, required=True, help="folder for copies and a city")
    parser.add_argument("--scans", type=int, default=1, help="of each drive, evenly over it")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    print(stamp(), end="\n\n")
    head("cloud", "searched", "first candidate off by", "its probability", "right one", "seconds")
    for cloud in clouds(given.data, given.work, given.scans):
        copy = given.work / f"alone-{cloud.file.name}"
        shutil.copyfile(cloud.file, copy)
        begun = time.perf_counter()
        found = ml.localize(cloud.map, copy)
        seconds = time.perf_counter() - begun
        copy.unlink()
        truth = np.array(found.raster.projection.forward(*cloud.place)).ravel()
        assert found.candidates is not None
        table = found.candidates[0]
        off = np.hypot(*(table[:, :2] - truth).T)
        right = np.flatnonzero(off < RIGHT_M)
        row(
            cloud.name,
            f"{found.search_area_km2:.1f} km2",
            f"{off[0]:.1f} m",
            f"{np.exp(table[0, 3]):.3f}",
            f"rank {right[0] + 1}" if len(right) else "not among them",
            f"{seconds:.0f}",
        )


if __name__ == "__main__":
    main()
