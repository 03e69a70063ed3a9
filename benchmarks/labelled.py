"""Drives whose points have labels, by the name of their data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from inputs import city

from data_prep.city.folder import open_city
from data_prep.files import swapped_folder
from data_prep.geometry import se3_from_quaternion
from data_prep.simulate.record import SimulateSettings, simulate
from data_prep.simulate.trajectory import open_trajectory
from maptile_loc.config import load_settings
from maptile_loc.perceive.labels import LABELS, LabelTable

ROUTE_M = 400.0
"""Length of the simulated route, metres."""

KITTI360 = "2013_05_28_drive_0009_sync"
"""Name of the drive of KITTI-360."""

MCD = LabelTable(
    building=(2,),
    ground=(6, 10, 13, 16, 18, 19),
    vegetation=(25,),
    fence=(7,),
    pole=(9, 15, 22, 24),
    car=(1, 26, 27, 28),
    person=(14,),
    unlabelled=(0, 11),
)
"""Label numbers of MCD; they fit the heights of the points. Noise (11) counts as no label."""

TABLES: Mapping[str, LabelTable] = {"simulated": LABELS["semantickitti"], "mcd": MCD}
"""Tables of labels that localization does not have."""


def simulated(source: Path, work: Path, seed: int) -> list[Path]:
    """A drive with an HDL-64E through the world of Oxford's map, in ``source``."""
    folder = work / f"oxford_hdl64_{seed}"
    if not folder.exists():
        where = open_city(city(source / "oxford.osm", work / "oxford"))
        route = open_trajectory("route", where, ROUTE_M, seed)
        simulate(where, route, folder, "hdl64", load_settings(SimulateSettings, "simulate"))
    return [folder]


def kitti360(source: Path, work: Path, seed: int) -> list[Path]:
    """The drive of KITTI-360 in ``source``, joined with its labels by links in ``work``."""
    drive = Path("data_3d_raw", KITTI360)
    links = {part: part for part in (Path("calibration"), Path("data_poses"))}
    links |= {
        drive / "velodyne_points": drive / "velodyne_points",
        drive / "labels": Path("labels"),
    }
    for link, target in links.items():
        made = work / source.name / link
        made.parent.mkdir(parents=True, exist_ok=True)
        if not made.exists():
            made.symlink_to((source / target).resolve())
    return [work / source.name / drive]


def kitti_odometry(source: Path, work: Path, seed: int) -> list[Path]:
    """The sequences of KITTI odometry in ``source``."""
    return sorted((source / "sequences").iterdir())


def mcd(source: Path, work: Path, seed: int) -> list[Path]:
    """The scans of MCD in ``source``, turned so that z is up, as a generic drive in ``work``.

    The axes of every scan are east, north and up, so that its odometry is a mere shift. Points
    without a return are left out.
    """
    folder = work / source.name
    if folder.exists():
        return [folder]
    calibration = yaml.safe_load((source / "hhs_calib.yaml").read_text("utf-8"))
    mount = np.array(calibration["body"]["os_sensor"]["T"])
    rows = pd.read_csv(source / "pose_inW.csv").set_index("num")
    clouds = sorted((source / "clouds").iterdir())
    rows = rows.loc[[int(cloud.stem) for cloud in clouds]]
    t_ns = np.round(rows["t"].to_numpy() * 1e9).astype(np.int64)
    lidar = se3_from_quaternion(rows[list("xyz")], rows[["qx", "qy", "qz", "qw"]]) @ mount
    with swapped_folder(folder) as new:
        (new / "clouds").mkdir()
        (new / "labels").mkdir()
        for cloud, time, pose in zip(clouds, t_ns, lidar, strict=True):
            points = np.fromfile(cloud, "<f4").reshape(-1, 4)
            label = np.fromfile(source / "labels" / f"{cloud.stem}.label", "<u4")
            returned = points[:, :3].any(axis=1)
            points[:, :3] = points[:, :3] @ pose[:3, :3].T
            points[returned].tofile(new / "clouds" / f"{time}.bin")
            label[returned].tofile(new / "labels" / f"{time}.label")
        (new / "labels.txt").write_text("mcd\n", "ascii")
        shift = dict(zip("xyz", (lidar[:, :3, 3] - lidar[0, :3, 3]).T, strict=True))
        still = dict.fromkeys(("qx", "qy", "qz"), 0.0) | {"qw": 1.0}
        pd.DataFrame({"t_ns": t_ns, **shift, **still}).to_csv(new / "odometry.csv", index=False)
    return [folder]


class LabelledSet(NamedTuple):
    """A data set with labels.

    Attributes:
        source: Its folder in the folder of real data.
        every_m: Metres between queries; 0 where each scan is one.
        paths: The paths of its drives, by its folder, the work folder, and a seed.
    """

    source: str
    every_m: float
    paths: Callable[[Path, Path, int], list[Path]]


SETS: Mapping[str, LabelledSet] = {
    "simulated": LabelledSet("oxford", 10.0, simulated),
    "kitti360_0009": LabelledSet("kitti360_0009", 0.0, kitti360),
    "kitti_odometry": LabelledSet("kitti_odometry", 0.0, kitti_odometry),
    "mcd_kth": LabelledSet("mcd_kth", 0.0, mcd),
}
"""The data sets by their names."""
