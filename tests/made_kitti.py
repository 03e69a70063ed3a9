"""Minimal trees in the layouts of the KITTI data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from data_prep.geometry import wrap_angle

SECOND = 1_000_000_000
NOON = 1_317_038_400 * SECOND  # 2011-09-26 12:00:00

CAMERA_IN_FRONT = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
"""A camera's right, down and forward in a frame of x forward, y left, z up."""

# KITTI-360: the camera is 1.5 m ahead of the GPS/IMU, 0.1 m right of it and 0.6 m above it, in its
# frame of x forward, y right, z down; and 0.8 m ahead of the Velodyne, 0.3 m left, 0.2 m below.
POSE_CAMERA = np.column_stack([[[0, 0, 1], [1, 0, 0], [0, 1, 0]], [1.5, 0.1, -0.6]])
VELODYNE_CAMERA = np.column_stack([CAMERA_IN_FRONT, [0.8, 0.3, -0.2]])
VELODYNE = np.array([0.7, -0.4, 0.8])
"""Resulting position of the Velodyne in the vehicle frame; their axes are parallel."""

KARLSRUHE = (49.0112, 8.4229)
TURN = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
"""A quarter turn to the left: the rotation of the calibration of KITTI raw."""

SHIFT = np.array([-0.8, 0.3, -0.8])
"""The translation of that calibration, IMU to Velodyne."""

RADIUS, LATITUDE, LONGITUDE = 6378137.0, np.radians(48.9843445), np.radians(8.4295857)


def stamp(t_ns: int) -> str:
    seconds, nanoseconds = divmod(t_ns - NOON, SECOND)
    hours, seconds = divmod(seconds, 3600)
    clock = f"{12 + hours:02d}:{seconds // 60:02d}:{seconds % 60:02d}"
    return f"2011-09-26 {clock}.{nanoseconds:09d}"


def write_stamps(file: Path, t_ns: Sequence[int | None], end: str = "\n") -> None:
    """A line per time; an empty one for None."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join("" if t is None else stamp(t) for t in t_ns) + end, "ascii")


def tenths(count: int) -> list[int]:
    return [NOON + SECOND // 10 * i for i in range(count)]


def write_points(file: Path, rows: object) -> Path:
    """Rows of x, y, z, with a reflectance of a half where there is none."""
    rows = np.asarray(rows, "<f4").reshape(-1, np.shape(rows)[-1] if np.size(rows) else 4)
    if rows.shape[1] == 3:
        rows = np.column_stack([rows, np.full(len(rows), 0.5, "<f4")])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(rows.tobytes())
    return file


def write_labels(file: Path, labels: Sequence[int], instance: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((np.asarray(labels, "<u4") | instance << 16).astype("<u4").tobytes())
    return file


def numbers(matrix: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in np.asarray(matrix)[:3, :4].ravel())


def mercator(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """(N,) degrees -> (N, 2) in the world of KITTI-360, by its published formulas."""

    def plane(phi: np.ndarray, lam: np.ndarray) -> np.ndarray:
        scale = np.cos(LATITUDE) * RADIUS
        return scale * np.stack([lam, np.log(np.tan(np.pi / 4 + phi / 2))], axis=-1)

    here = plane(np.radians(latitude), np.radians(longitude))
    return here - plane(np.array(LATITUDE), np.array(LONGITUDE))


def imu_pose(xyz: Sequence[float], heading: float, roll: float = 0, pitch: float = 0) -> np.ndarray:
    """(4, 4) GPS/IMU (x forward, y right, z down) in the world (x east, y north, z up).

    Roll lifts the left side, pitch lowers the front.
    """
    c, s = np.cos(heading), np.sin(heading)
    yaw = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(pitch), np.sin(pitch)
    yaw = yaw @ [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    c, s = np.cos(roll), np.sin(roll)
    pose = np.eye(4)
    pose[:3, :3] = yaw @ [[1, 0, 0], [0, c, -s], [0, s, c]] @ np.diag([1, -1, -1])
    pose[:3, 3] = xyz
    return pose


def write_scan(drive: Path, number: int, rows: object) -> Path:
    folder = drive / "velodyne_points" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{number:010d}.bin"
    file.write_bytes(np.asarray(rows, "<f4").tobytes())
    return file


def write_calibration(day: Path, rotation: np.ndarray = TURN, shift: np.ndarray = SHIFT) -> None:
    text = ["calib_time: 25-May-2012 16:47:16"]
    text += [
        f"{k}: " + " ".join(f"{v:e}" for v in m.ravel()) for k, m in (("R", rotation), ("T", shift))
    ]
    day.mkdir(parents=True, exist_ok=True)
    (day / "calib_imu_to_velo.txt").write_text("\n".join(text) + "\n", "ascii")


def write_oxts(drive: Path, rows: Sequence[Sequence[float]], t_ns: Sequence[int]) -> None:
    folder = drive / "oxts" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    write_stamps(drive / "oxts" / "timestamps.txt", t_ns)
    for i, row in enumerate(rows):
        (folder / f"{i:010d}.txt").write_text(" ".join(map(str, row)) + "\n", "ascii")


def oxts_row(
    yaw: float,
    forward: float = 0.0,
    left: float = 0.0,
    up: float = 0.0,
    turn: float = 0.0,
    roll: float = 0.0,
    pitch: float = 0.0,
    place: tuple[float, float] = KARLSRUHE,
) -> list[float]:
    """The 30 numbers; the leftward velocity has the data set's sign, positive to the right."""
    east = forward * math.cos(yaw) - left * math.sin(yaw)
    north = forward * math.sin(yaw) + left * math.cos(yaw)
    velocity = [north, east, forward, -left, up]
    rates = [0.0, 0.0, turn, 0.0, 0.0, turn]
    return [
        *place,
        112.8,
        roll,
        pitch,
        float(wrap_angle(yaw)),
        *velocity,
        *([0.0] * 6),
        *rates,
        0.5,
        0.07,
        4,
        10,
        4,
        4,
        0,
    ]


def circle(
    count: int, radius: float, yaw: float, left: float = 0.0, roll: float = 0.0, pitch: float = 0.0
) -> list[list[float]]:
    """Rows at 10 Hz of a left turn at 5 m/s, plus ``left`` m/s sideways; positions are constant."""
    turn = 5.0 / radius
    return [oxts_row(yaw + turn * 0.1 * i, 5.0, left, 0.0, turn, roll, pitch) for i in range(count)]


def write_calibration_360(root: Path) -> None:
    folder = root / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"image_0{i}: {numbers(POSE_CAMERA + 0.01 * i)}" for i in range(4)]
    (folder / "calib_cam_to_pose.txt").write_text("\n".join(lines) + "\n", "ascii")
    (folder / "calib_cam_to_velo.txt").write_text(numbers(VELODYNE_CAMERA) + "\n", "ascii")


def write_poses_360(root: Path, name: str, poses: Mapping[int, np.ndarray]) -> Path:
    file = root / "data_poses" / name / "poses.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{i} {numbers(pose)} \n" for i, pose in poses.items()), "ascii")
    return file


def write_kitti360(
    root: Path,
    poses: Mapping[int, np.ndarray],
    scans: Mapping[int, object],
    times: Sequence[int | None],
    name: str = "2013_05_28_drive_0000_sync",
) -> Path:
    """A drive in its published layout; returns its folder."""
    folder = root / "data_3d_raw" / name
    for number, rows in scans.items():
        write_points(folder / "velodyne_points/data" / f"{number:010d}.bin", rows)
    write_stamps(folder / "velodyne_points/timestamps.txt", times)
    write_calibration_360(root)
    write_poses_360(root, name, poses)
    return folder


def write_sequence(
    root: Path,
    poses: Sequence[np.ndarray] | None,
    scans: Mapping[int, object],
    seconds: Sequence[float],
    camera: np.ndarray,
    name: str = "00",
) -> Path:
    """A sequence of KITTI odometry with poses of its left camera; returns its folder."""
    folder = root / "sequences" / name
    for number, rows in scans.items():
        write_points(folder / "velodyne" / f"{number:06d}.bin", rows)
    (folder / "times.txt").write_text("".join(f"{t:e}\n" for t in seconds), "ascii")
    lines = [f"P{i}: {numbers(np.eye(4))}" for i in range(4)] + [f"Tr: {numbers(camera)}"]
    (folder / "calib.txt").write_text("\n".join(lines) + "\n", "ascii")
    if poses is not None:
        (root / "poses").mkdir(exist_ok=True)
        text = "".join(f"{numbers(pose)}\n" for pose in poses)
        (root / "poses" / f"{name}.txt").write_text(text, "ascii")
    return folder


def zipped(archive: Path, root: Path, *parts: str) -> None:
    """An archive of some files and folders of ``root``, by their names there."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with ZipFile(archive, "w", ZIP_DEFLATED) as out:
        for part in parts:
            for file in sorted([root / part, *(root / part).rglob("*")]):
                out.write(file, file.relative_to(root))
