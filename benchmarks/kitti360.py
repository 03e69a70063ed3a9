"""Localize the labelled frames of KITTI-360 drive 0000 by themselves and in submaps of 80 m.

Run: python benchmarks/kitti360.py [DATA] [--work FOLDER] [--heading known|unknown|prior:DEG]

DATA is the folder of real data (default: ../shared/data). The frames become a generic drive in
FOLDER: each cloud loses its position and stays aligned to east and north, so the known heading is 0
(the data's Mercator frame is true to north everywhere) and tells nothing of the place. Odometry is
the difference of the positions. The clouds hold only points labelled building or road, and few of
them: figures on them are an upper bound for whole scans. Rows "without" make no use of the labels.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
from numpy.typing import NDArray
from stamp import stamp

from data_prep.city.folder import open_city
from data_prep.files import read_json, swapped_folder
from data_prep.geometry import Array, Projection
from data_prep.sources import open_drive
from maptile_loc.config import load_settings
from maptile_loc.pipeline import LocalizeSettings
from maptile_loc.report.files import read_result
from maptile_loc.run import RunOptions, parse_heading, run

ROOT = Path(__file__).parent.parent
ORIGIN = np.array([48.9843445]), np.array([8.4295857])
RADIUS_M = 6_378_137.0
"""The data set's plane: spherical Mercator, scaled by the cosine of its origin's latitude."""
ROAD = 7
SENSOR_HEIGHT_M = 1.73
FRAME_NS = 100_000_000
START_NS = 1_300_000_000_000_000_000
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("label", "u1")])
SOURCE = np.dtype([(name, "<f8") for name in "xyz"] + [("intensity", "<f4"), ("label", "u1")])
COLUMNS = ("recall_1m", "recall_2m", "recall_5m", "median_m")
TRIALS = {0.0: (0.85, 0.92), 80.0: (0.95, 0.99)}
"""Submap length in metres: the recall within 1 m and within 5 m that is required."""


def mercator(latitude: Array, longitude: Array) -> Array:
    """(N,) degrees -> (N, 2) metres in the plane of the data set's clouds."""

    def plane(latitude: Array, longitude: Array) -> Array:
        north = np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
        return np.stack([np.radians(longitude), north], axis=-1)

    scale = RADIUS_M * np.cos(np.radians(ORIGIN[0]))
    return scale * (plane(latitude, longitude) - plane(*ORIGIN))


def read_frame(path: Path) -> NDArray[np.void]:
    """The points of one frame, (N,) of ``SOURCE``."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    count = int(head.partition(b"element vertex ")[2].split()[0])
    return np.frombuffer(body, SOURCE, count)


def write_drive(source: Path, folder: Path) -> None:
    """Turn ``source`` (clouds/, poses.csv) into a generic drive."""
    poses = pd.read_csv(source / "poses.csv")
    latitude, longitude = poses["latitude"].to_numpy(), poses["longitude"].to_numpy()
    t_ns = START_NS + poses["frame"].to_numpy(np.int64) * FRAME_NS
    # Metres as a wheel would count them, which those of the Mercator plane are not quite.
    around = f"+proj=tmerc +lat_0={latitude.mean()} +lon_0={longitude.mean()} +ellps=WGS84"
    way = Projection(pyproj.CRS(around)).forward(latitude, longitude)
    height = np.zeros(len(poses))
    places = mercator(latitude, longitude)
    with swapped_folder(folder) as new:
        (new / "clouds").mkdir()
        for i, frame in enumerate(poses["frame"]):
            points = read_frame(source / "clouds" / f"{frame:010d}.ply")
            xyz = np.stack([points[name] for name in "xyz"], axis=1)
            xyz[:, :2] -= places[i]
            near_road = (points["label"] == ROAD) & (np.hypot(xyz[:, 0], xyz[:, 1]) < 15.0)
            height[i] = np.median(xyz[near_road, 2]) + SENSOR_HEIGHT_M
            xyz[:, 2] -= height[i]
            write_cloud(new / "clouds" / f"{frame:010d}.ply", xyz, points["label"])
        names = [f"{frame:010d}.ply" for frame in poses["frame"]]
        xyz = np.column_stack([way - way[0], height - height[0]])
        still = dict.fromkeys(("qx", "qy", "qz"), 0.0) | {"qw": 1.0}
        odometry = {"x": xyz[:, 0], "y": xyz[:, 1], "z": xyz[:, 2], **still}
        truth = {"latitude": latitude, "longitude": longitude, "heading": 0.0}
        for name, columns in {
            "timestamps": {"file": names},
            "odometry": odometry,
            "heading": {"heading": 0.0},
            "truth": truth,
        }.items():
            pd.DataFrame({"t_ns": t_ns, **columns}).to_csv(new / f"{name}.csv", index=False)


def write_cloud(path: Path, xyz: Array, label: NDArray[np.uint8]) -> None:
    """Write a PLY file with labels."""
    rows = np.empty(len(xyz), POINT)
    rows["x"], rows["y"], rows["z"] = xyz.T
    rows["label"] = label
    head = io.StringIO()
    head.write(f"ply\nformat binary_little_endian 1.0\nelement vertex {len(rows)}\n")
    head.write("property float x\nproperty float y\nproperty float z\nproperty uchar label\n")
    head.write("end_header\n")
    path.write_bytes(head.getvalue().encode() + rows.tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--heading", default="known")
    given = parser.parse_args()
    source = given.data / "kitti360_0000"
    drive = given.work / "kitti360_0000"
    if not drive.exists():
        write_drive(source, drive)
    settings = load_recipe()
    blind = settings.submap.model_copy(update={"labels": {}})
    print(stamp(), end="\n\n")
    heads = ["query", "labels", "aligned", "n", *COLUMNS, "required <= 1 m, <= 5 m"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for submap_m, required in TRIALS.items():
        options = RunOptions(
            source / "map.tif",
            drive,
            method="match",
            heading=parse_heading(given.heading),
            submap_m=submap_m,
            every_m=0.0,
        )
        name = f"submap {submap_m:.0f} m" if submap_m else "single frame"
        limits = f"{required[0]:.2f}, {required[1]:.2f}"
        out = given.work / f"out_kitti360_{submap_m:.0f}m"
        run(options, settings, out)
        report([name, "used"], limits, out)
        if submap_m:
            row = whole(options.drive, options.city, submap_m, out)
            print(f"| {name} | used | whole submaps only | {row} | {limits} |", flush=True)
        out = out.with_name(f"{out.name}_blind")
        run(options, settings.model_copy(update={"submap": blind}), out)
        report([name, "without"], "", out)


def whole(drive_folder: Path, city: Path, submap_m: float, out: Path) -> str:
    """The aligned recalls of the queries whose submap is not cut short by an end of the drive."""
    drive, raster = open_drive(drive_folder), open_city(city).raster
    assert drive.odometry is not None and drive.truth is not None
    aligned = read_result(out, raster).stages["aligned"]
    travelled = drive.odometry.travelled()
    inner = (travelled >= submap_m / 2) & (travelled <= travelled[-1] - submap_m / 2)
    latitude, longitude, _ = drive.truth.at(drive.scans.t_ns)
    off = aligned.poses[:, :2] - raster.projection.forward(latitude, longitude)
    error = np.hypot(off[inner, 0], off[inner, 1])
    values = [f"{np.mean(error <= limit):.3f}" for limit in (1, 2, 5)] + [f"{np.median(error):.3f}"]
    return " | ".join([f"{inner.sum()}", *values])


def report(names: list[str], limits: str, out: Path) -> None:
    """Print the rows of a run."""
    metrics = read_json(out / "metrics.json")
    for part, words in (("stages", "as it is"), ("bias_removed", "map bias removed")):
        figures = metrics[part]["aligned"]
        values = [f"{figures[key]:.3f}" for key in COLUMNS]
        row = [*names, words, f"{figures['frames']}", *values, limits]
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
