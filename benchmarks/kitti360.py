"""Localize the labelled frames of KITTI-360 drive 0000 one by one and in submaps of 80 m.

Run: python benchmarks/kitti360.py [DATA] [--work FOLDER] [--heading known|unknown|prior:DEG]

DATA is the folder of real data (default: ../shared/data). The frames become a generic drive in
FOLDER. Each cloud loses its position and stays aligned to east and north, so that the known heading
is 0 and contains no information about the position (the data's Mercator frame is true to north
everywhere). Odometry is the difference of the positions. The clouds contain only points labelled
building or road, and few of them: the figures are an upper bound for whole scans. Rows "without" do
not use the labels.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyproj
from numpy.typing import NDArray
from stamp import head, row, stamp

from data_prep.drive import Drive
from data_prep.files import swapped_folder
from data_prep.geometry import Array, Projection
from maptile_loc import api
from maptile_loc.report.metrics import Metrics
from maptile_loc.types import Localization

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

ORIGIN = np.array([48.9843445]), np.array([8.4295857])
"""Latitude and longitude of the origin of the data's plane, degrees."""

RADIUS_M = 6_378_137.0
"""Radius of the sphere of the data's plane: Mercator, scaled by the cosine of the origin's
latitude."""

ROAD = 7
"""Label number of roads."""

SENSOR_HEIGHT_M = 1.73
"""Height of the sensor above the road, metres."""

FRAME_NS = 100_000_000
"""Time between two frames, nanoseconds."""

START_NS = 1_300_000_000_000_000_000
"""Time of frame 0, nanoseconds: any."""

POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("label", "u1")])
"""A point of the files that are written."""

SOURCE = np.dtype([(name, "<f8") for name in "xyz"] + [("intensity", "<f4"), ("label", "u1")])
"""A point of the data set's files."""

COLUMNS = ("recall_1m", "recall_2m", "recall_5m", "median_m")
"""Metrics that are printed."""

TRIALS = {0.0: (0.85, 0.92), 80.0: (0.95, 0.99)}
"""Recall within 1 m and within 5 m that is required, by the length of the submaps, metres."""


def mercator(latitude: Array, longitude: Array) -> Array:
    """(N, 2) metres in the plane of the data set's clouds, from (N,) degrees."""

    def plane(latitude: Array, longitude: Array) -> Array:
        north = np.log(np.tan(np.pi / 4 + np.radians(latitude) / 2))
        return np.stack([np.radians(longitude), north], axis=-1)

    scale = RADIUS_M * np.cos(np.radians(ORIGIN[0]))
    return scale * (plane(latitude, longitude) - plane(*ORIGIN))


def read_frame(path: Path) -> NDArray[np.void]:
    """The (N,) points of one frame, of type ``SOURCE``."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    count = int(head.partition(b"element vertex ")[2].split()[0])
    return np.frombuffer(body, SOURCE, count)


def write_drive(source: Path, folder: Path) -> None:
    """Write the data in ``source`` (clouds/, poses.csv) as a generic drive to ``folder``."""
    poses = pd.read_csv(source / "poses.csv")
    latitude, longitude = poses["latitude"].to_numpy(), poses["longitude"].to_numpy()
    t_ns = START_NS + poses["frame"].to_numpy(np.int64) * FRAME_NS
    # Metres on the ground: those of the Mercator plane are slightly longer or shorter.
    around = f"+proj=tmerc +lat_0={latitude.mean()} +lon_0={longitude.mean()} +ellps=WGS84"
    track = Projection(pyproj.CRS(around)).forward(latitude, longitude)
    height = np.zeros(len(poses))
    position = mercator(latitude, longitude)
    with swapped_folder(folder) as new:
        (new / "clouds").mkdir()
        for i, frame in enumerate(poses["frame"]):
            points = read_frame(source / "clouds" / f"{frame:010d}.ply")
            xyz = np.stack([points[name] for name in "xyz"], axis=1)
            xyz[:, :2] -= position[i]
            near_road = (points["label"] == ROAD) & (np.hypot(xyz[:, 0], xyz[:, 1]) < 15.0)
            height[i] = np.median(xyz[near_road, 2]) + SENSOR_HEIGHT_M
            xyz[:, 2] -= height[i]
            write_cloud(new / "clouds" / f"{frame:010d}.ply", xyz, points["label"])
        names = [f"{frame:010d}.ply" for frame in poses["frame"]]
        xyz = np.column_stack([track - track[0], height - height[0]])
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


def metrics_row(metrics: Metrics, part: str) -> str:
    """The aligned stage's cells of a table: the number of queries and ``COLUMNS``."""
    figures = metrics[part]["aligned"]
    return " | ".join([f"{figures['frames']}", *(f"{figures[key]:.3f}" for key in COLUMNS)])


def whole_submaps_row(found: Localization, drive: Drive, submap_m: float) -> str:
    """The same of the queries whose submap is not cut short by an end of the drive."""
    assert drive.odometry is not None and drive.truth is not None
    aligned = found.stages["aligned"]
    travelled = drive.odometry.travelled()
    inner = (travelled >= submap_m / 2) & (travelled <= travelled[-1] - submap_m / 2)
    latitude, longitude, _ = drive.truth.at(drive.scans.t_ns)
    off = aligned.poses[:, :2] - found.raster.projection.forward(latitude, longitude)
    error = np.hypot(off[inner, 0], off[inner, 1])
    values = [f"{np.mean(error <= limit):.3f}" for limit in (1, 2, 5)] + [f"{np.median(error):.3f}"]
    return " | ".join([f"{inner.sum()}", *values])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--heading", default="known")
    given = parser.parse_args()
    source, folder = given.data / "kitti360_0000", given.work / "kitti360_0000"
    if not folder.exists():
        write_drive(source, folder)
    city, drive = api.open_city(source / "map.tif"), api.open_drive(folder)
    print(stamp(), end="\n\n")
    head("query", "labels", "aligned", "n", *COLUMNS, "required <= 1 m, <= 5 m")
    for submap_m, required in TRIALS.items():
        name = f"submap {submap_m:.0f} m" if submap_m else "single frame"
        for labels, overrides in (("used", ()), ("without", ("submap.labels={}",))):
            found = api.localize(
                *(city, drive),
                heading=given.heading,
                submap_m=submap_m,
                every_m=0.0,
                overrides=overrides,
            )
            metrics = found.evaluate(drive.truth)
            limits = f"{required[0]:.2f}, {required[1]:.2f}" if labels == "used" else ""
            row(name, labels, "as it is", metrics_row(metrics, "stages"), limits)
            row(name, labels, "map bias removed", metrics_row(metrics, "bias_removed"), limits)
            if submap_m and labels == "used":
                whole = whole_submaps_row(found, drive, submap_m)
                row(name, labels, "whole submaps only", whole, limits)


if __name__ == "__main__":
    main()
