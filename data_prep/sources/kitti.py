"""KITTI raw: a drive folder (velodyne_points/, oxts/) inside its date folder with the calibration.

The vehicle frame is that of the GPS/IMU: x forward, y left, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import cumulative_trapezoid
from scipy.spatial.transform import Rotation

from data_prep.drive import Drive, HeadingTrack, PoseTrack, ScanBlock, Times, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3, se3_inverse, true_heading_from_oxts_yaw
from data_prep.sources.common import (
    MAX_BRIDGED_GAP_NS,
    file_numbers,
    increasing,
    read_records,
    scan_block,
)
from data_prep.sources.tree import Node

SENSORS = ("velodyne",)


@dataclass(frozen=True)
class Oxts:
    """Rows of oxts/data: the GPS/IMU frame (x forward, y left, z up) in the world.

    Attributes:
        t_ns: (N,) strictly increasing.
        latitude, longitude, altitude: (N,) degrees WGS 84, metres.
        rpy: (N, 3) roll, pitch, yaw in radians; yaw counter-clockwise from true east.
        velocity: (N, 3) m/s east, north, up.
        yaw_rate: (N,) rad/s about the upward axis.
    """

    t_ns: Times
    latitude: Array
    longitude: Array
    altitude: Array
    rpy: Array
    velocity: Array
    yaw_rate: Array


@dataclass(frozen=True)
class KittiScans:
    """The Velodyne scans of a drive that are there; file numbers are kept.

    Attributes:
        folder: velodyne_points/data.
        t_ns: (S,) time of each scan.
        number: (S,) number of its file.
        mount: (4, 4) Velodyne -> vehicle frame.
        sensors: ("velodyne",).
    """

    folder: Node
    t_ns: Times
    number: NDArray[np.int64]
    mount: Array
    sensors: tuple[str, ...] = SENSORS

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        t_ns = self.t_ns[start:stop]
        files = (f"{number:010d}.bin" for number in self.number[start:stop].tolist())
        # float32 rows of x, y, z, reflectance
        clouds = [
            np.frombuffer(read_records(self.folder, file, 16), "<f4").reshape(-1, 4)[:, :3]
            for file in files
        ]
        return scan_block(t_ns, clouds, self.mount[None], np.zeros(len(t_ns), np.int8))


def is_kitti(path: Node) -> bool:
    """Whether ``path`` looks like a drive of KITTI raw."""
    return (path / "velodyne_points" / "data").is_dir()


def open_kitti(path: Node, sensors: tuple[str, ...] | None = None) -> Drive:
    """Open a drive of KITTI raw.

    Odometry integrates the velocities and the yaw rate of oxts/, never its positions.

    Args:
        path: The drive's folder, such as 2011_09_26/2011_09_26_drive_0005_sync.
        sensors: Nothing but ("velodyne",).

    Raises:
        MaptileError: Scans, time stamps or calibration are missing or damaged.
    """
    unknown = set(sensors or SENSORS) - set(SENSORS)
    if unknown:
        raise MaptileError(f"{path}: no sensor {', '.join(sorted(unknown))}; known is velodyne")
    notes: list[str] = []
    scans = _open_scans(path, notes)
    odometry = heading = truth = None
    if (path / "oxts" / "data").is_dir():
        oxts = read_oxts(path / "oxts", notes)
        odometry = odometry_from_oxts(oxts, notes)
        yaw = true_heading_from_oxts_yaw(oxts.rpy[:, 2])
        heading = HeadingTrack(oxts.t_ns, yaw)
        truth = TruthTrack(oxts.t_ns, oxts.latitude, oxts.longitude, yaw)
    else:
        notes.append(f"no odometry, heading and truth: {path / 'oxts' / 'data'} is missing")
    return Drive(path.resolve().name, "kitti", scans, odometry, heading, truth, tuple(notes))


# --- files ---------------------------------------------------------------------------------------


def read_timestamps(path: Node) -> Times:
    """(N,) int64 nanoseconds since 1970 of lines like "2011-09-26 13:04:32.349659964", exactly.

    Raises:
        MaptileError: The file is missing, or a line is no time.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
        stamps = [
            np.datetime64(line.strip().replace(" ", "T"), "ns") for line in lines if line.strip()
        ]
        return np.array(stamps, "datetime64[ns]").astype(np.int64)
    except FileNotFoundError:
        raise MaptileError(f"{path}: no such file; it comes with the drive's archive") from None
    except (OSError, ValueError):
        raise MaptileError(
            f"{path}: not a list of times such as 2011-09-26 13:04:32.349659964"
        ) from None


def read_oxts(folder: Node, notes: list[str]) -> Oxts:
    """Read oxts/timestamps.txt and oxts/data/*.txt (30 numbers each).

    Raises:
        MaptileError: The time stamps are missing, or a file does not hold its 30 numbers.
    """
    times = read_timestamps(folder / "timestamps.txt")
    numbers = file_numbers(folder / "data", r"(\d{10})\.txt")
    numbers = numbers[numbers < len(times)]
    if len(numbers) < len(times):
        notes.append(f"oxts: {len(times) - len(numbers)} of {len(times)} rows are not there")
    rows = np.array([_read_row(folder / "data" / f"{i:010d}.txt") for i in numbers]).reshape(-1, 30)
    keep = increasing(times[numbers])
    rows, t_ns = rows[keep], times[numbers][keep]
    if not len(rows):
        raise MaptileError(f"{folder / 'data'}: no file that timestamps.txt has a line for")
    return Oxts(
        t_ns=t_ns,
        latitude=rows[:, 0],
        longitude=rows[:, 1],
        altitude=rows[:, 2],
        rpy=rows[:, 3:6],
        velocity=rows[:, [7, 6, 10]],
        yaw_rate=rows[:, 22],
    )


def _read_row(path: Node) -> list[float]:
    try:
        row = [float(value) for value in path.read_text(encoding="ascii").split()]
    except (OSError, ValueError):
        row = []
    if len(row) != 30 or not np.isfinite(row).all():
        raise MaptileError(f"{path}: expected 30 numbers; copy or download it again")
    return row


def read_transform(path: Node) -> Array:
    """(4, 4) of a calibration file with the lines "R: 9 numbers" and "T: 3 numbers".

    Raises:
        MaptileError: The file is missing or lacks a line.
    """
    try:
        text = path.read_text(encoding="ascii")
        rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        rotation = np.array(rows["R"].split(), np.float64).reshape(3, 3)
        return se3(
            Rotation.from_matrix(rotation), np.array(rows["T"].split(), np.float64).reshape(3)
        )
    except FileNotFoundError:
        raise MaptileError(
            f"{path}: no such file; unpack the calibration archive (..._calib.zip) of that day"
        ) from None
    except (OSError, ValueError, KeyError):
        raise MaptileError(f"{path}: expected lines R: (9 numbers) and T: (3 numbers)") from None


# --- scans and tracks ----------------------------------------------------------------------------


def _open_scans(path: Node, notes: list[str]) -> KittiScans:
    folder = path / "velodyne_points"
    times = read_timestamps(folder / "timestamps.txt")
    numbers = file_numbers(folder / "data", r"(\d{10})\.bin")
    known = numbers[numbers < len(times)]
    if len(known) < len(numbers):
        notes.append(f"velodyne: {len(numbers) - len(known)} scans have no time stamp; left out")
    if len(known) < len(times):
        notes.append(f"velodyne: {len(times) - len(known)} of {len(times)} scans are not there")
    if not len(known):
        raise MaptileError(f"{folder / 'data'}: no scan (<number>.bin) with a time stamp")
    order = np.argsort(times[known], kind="stable")
    mount = se3_inverse(read_transform(path.resolve().parent / "calib_imu_to_velo.txt"))
    return KittiScans(folder / "data", times[known][order], known[order], mount)


def odometry_from_oxts(oxts: Oxts, notes: list[str]) -> PoseTrack:
    """Integrate velocity and yaw rate into a track that starts at the origin, facing x.

    The velocity along and across the vehicle comes from east, north and yaw: the sign of the
    file's own leftward velocity contradicts them. Roll and pitch are the file's (gravity gives
    them), so that z is up.
    """
    seconds = (oxts.t_ns - oxts.t_ns[0]) / 1e9
    yaw = oxts.rpy[:, 2]
    east, north, up = oxts.velocity.T
    forward = east * np.cos(yaw) + north * np.sin(yaw)
    left = -east * np.sin(yaw) + north * np.cos(yaw)
    turned = cumulative_trapezoid(oxts.yaw_rate, seconds, initial=0.0)
    velocity = np.stack(
        [
            forward * np.cos(turned) - left * np.sin(turned),
            forward * np.sin(turned) + left * np.cos(turned),
            up,
        ],
        axis=1,
    )
    position = cumulative_trapezoid(velocity, seconds, axis=0, initial=0.0)
    attitude = Rotation.from_euler("xyz", np.column_stack([oxts.rpy[:, :2], turned]))
    gap = np.diff(oxts.t_ns) > MAX_BRIDGED_GAP_NS
    if gap.any():
        notes.append(
            f"oxts: {gap.sum()} gaps of more than 2 s; the odometry has {gap.sum() + 1} pieces"
        )
    segment = np.concatenate([[0], np.cumsum(gap)]).astype(np.int32)
    return PoseTrack(oxts.t_ns, se3(attitude, position), segment)
