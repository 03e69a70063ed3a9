"""ROS bags: KITTI drive 0005 in bags of three kinds and layouts, and the speed of a large bag.

    python benchmarks/bags.py --data ../shared/data --work /tmp/bags [--gigabytes 10] [--packed lz4]

The first part localizes the drive from its own files and from bags, with an unknown heading, and
prints how far the trajectories are apart. The second writes a made-up bag of PointCloud2, reads all
of it, prints the speed and the memory, and deletes it.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from inputs import KITTI, city

import maptile_loc as ml
from data_prep.drive import Drive
from data_prep.sources.formats.common import read_records
from data_prep.sources.formats.kitti_files import VelodyneScans, turning

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from made_bag import BagMaker

KINDS = ("ros1", "db3", "mcap")
LAYOUTS: dict[str, tuple[list[tuple[str, str, int]], int, bool]] = {
    "packed": ([("x", "<f4", 0), ("y", "<f4", 4), ("z", "<f4", 8), ("time", "<f4", 12)], 16, False),
    "padded": ([("x", "<f4", 0), ("y", "<f4", 4), ("z", "<f4", 8), ("time", "<f4", 20)], 48, False),
    "double": ([("time", "<f8", 0), ("z", "<f8", 8), ("y", "<f8", 16), ("x", "<f8", 24)], 32, True),
}
"""Fields with types and offsets, bytes per point, and whether numbers are big-endian."""
POINTS = 131_072
"""Points of a scan of the large bag."""


def records(xyz: np.ndarray, seconds: np.ndarray, layout: str) -> np.ndarray:
    """(N,) records of points in a layout."""
    fields, size, _ = LAYOUTS[layout]
    names, formats, offsets = zip(*fields, strict=True)
    spec: dict[str, Any] = {"names": names, "formats": formats, "offsets": offsets}
    table = np.zeros(len(xyz), np.dtype({**spec, "itemsize": size}))
    for axis, column in zip("xyz", xyz.T, strict=True):
        table[axis] = column
    table["time"] = seconds
    return table


def write_kitti(drive: Drive, folder: Path, kind: str, layout: str) -> Path:
    """A bag of the drive's scans, odometry and mounting."""
    scans, odometry = drive.scans, drive.odometry
    assert isinstance(scans, VelodyneScans) and scans.turn_s is not None and odometry is not None
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with BagMaker(folder, kind) as bag:
        first = int(odometry.t_ns[0]) - 1
        bag.transform("/tf_static", first, "base_link", "velodyne", scans.mount)
        for t_ns, pose in zip(odometry.t_ns.tolist(), odometry.poses, strict=True):
            bag.odometry("/odom", t_ns, pose, "base_link")
        for t_ns, name, turn in zip(scans.t_ns.tolist(), scans.names, scans.turn_s, strict=True):
            rows = np.frombuffer(read_records(scans.folder, f"{name}.bin", 16), "<f4")
            rows = rows.reshape(-1, 4)
            table = records(rows[:, :3], turning(rows, float(turn)), layout)
            bag.cloud("/points", t_ns, "velodyne", table, big=LAYOUTS[layout][2])
    return bag.path


def arrays(drive: Drive) -> Iterator[tuple[str, np.ndarray]]:
    """All that an estimate depends on."""
    block = drive.scans.read(0, len(drive.scans.t_ns))
    assert drive.odometry is not None and block.seconds is not None
    yield from {
        "times": drive.scans.t_ns,
        "points": block.points,
        "seconds": block.seconds,
        "origin": block.origin,
        "odometry": drive.odometry.poses,
    }.items()


def compare_kitti(data: Path, work: Path) -> None:
    """Print the differences between the drive and its bags."""
    own = ml.open_drive(data / KITTI)
    where = city(data / KITTI.parent / "2011_09_26_drive_0005.osm", work / "karlsruhe")
    found = ml.localize(where, own, heading="unknown").trajectory
    expected = dict(arrays(own))
    for kind, (first, layout) in ((k, pair) for k in KINDS for pair in enumerate(LAYOUTS)):
        path = write_kitti(own, work / f"{kind}-{layout}", kind, layout)
        drive = ml.open_drive(path)
        apart = [f"{n} {np.abs(a - expected[n]).max():.1e}" for n, a in arrays(drive)]
        if KINDS.index(kind) == first:  # each kind and each layout once
            here = ml.localize(where, drive, heading="unknown").trajectory
            metres = np.hypot(*(here.poses - found.poses)[:, :2].T).max()
            apart.append(f"trajectory {metres:.1e} m")
        print(f"{kind:5} {layout:7} largest differences: {', '.join(apart)}", flush=True)


def measure(work: Path, kind: str, gigabytes: float, packed: str | None) -> None:
    """Write a large bag, read it, and print speed and memory; a small one is read before."""
    rng = np.random.default_rng(0)
    xyz = rng.uniform(-50, 50, (POINTS, 3)).astype("<f4")
    table = records(xyz, np.linspace(0, 0.1, POINTS), "padded")
    count = int(gigabytes * 1e9 / table.nbytes)
    shutil.rmtree(work, ignore_errors=True)
    for name, scans in (("small", 2), ("large", count)):
        (work / name).mkdir(parents=True)
        with BagMaker(work / name, kind, packed) as bag:
            for k in range(scans):
                bag.cloud("/points", 1_700_000_000_000_000_000 + k * 10**8, "lidar", table)
        if name == "small":  # the modules are loaded, and the buffers made
            ml.open_drive(bag.path).scans.read(0, 2)
    size = sum(f.stat().st_size for f in [bag.path, *bag.path.glob("*")] if f.is_file())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, used = time.perf_counter(), time.process_time()  # of user and system
    scans = ml.open_drive(bag.path).scans
    opened = time.perf_counter() - start
    points = sum(len(scans.read(k, k + 1).points) for k in range(len(scans.t_ns)))
    took, used = time.perf_counter() - start, time.process_time() - used
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert points == count * POINTS
    shutil.rmtree(work)
    speed = f"{size / 1e6 / took:.0f} MB/s; {size / 1e6 / used:.0f} per CPU second"
    print(
        f"{kind:5} {packed or 'plain'} {size / 1e9:.1f} GB, {count} scans: opened in {opened:.1f} "
        f"s, all read in {took:.1f} s ({speed}), peak memory +{more:.0f} MiB, "
        f"load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the folder of real data; without it no KITTI")
    parser.add_argument("--work", type=Path, required=True, help="folder for bags and cities")
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--kinds", nargs="*", default=KINDS, help="of the large bag")
    parser.add_argument("--packed", choices=["lz4", "bz2"], help="how a ROS 1 bag is packed")
    given = parser.parse_args()
    for kind in given.kinds:
        measure(given.work / "large", kind, given.gigabytes, given.packed)
    if given.data is not None:
        compare_kitti(given.data, given.work)


if __name__ == "__main__":
    main()
