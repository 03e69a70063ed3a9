"""Minimal runs in the layout of Oxford RobotCar, written from its description only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj

START = 1_403_774_724_292_807  # microseconds, as in the data set
NO_LEVER = "0 0 0 0 0 0"


def euler(roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Rz(yaw) Ry(pitch) Rx(roll), spelled out."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a), math.sin(a)) for a in (roll, pitch, yaw))
    rx = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    ry = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    rz = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return rz @ ry @ rx


def angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Roll, pitch and yaw of ``euler``."""
    roll = math.atan2(rotation[2, 1], rotation[2, 2])
    pitch = -math.asin(rotation[2, 0])
    return roll, pitch, math.atan2(rotation[1, 0], rotation[0, 0])


def write_scan(run: Path, sensor: str, microseconds: int, rows: object, dtype: str = "<f8") -> Path:
    (run / sensor).mkdir(parents=True, exist_ok=True)
    file = run / sensor / f"{microseconds}.bin"
    file.write_bytes(np.asarray(rows, dtype).tobytes())
    return file


def write_list(run: Path, sensor: str, stamps: Sequence[int], end: str = "\n") -> None:
    (run / f"{sensor}.timestamps").write_text("\n".join(f"{t} 1" for t in stamps) + end, "ascii")


def write_extrinsics(folder: Path, sensor: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{sensor}.txt").write_text(text, "ascii")


def write_csv(file: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(",".join(str(value) for value in row) for row in rows)]
    file.write_text("\n".join(lines) + "\n", "ascii")


INS_HEADER = (
    "timestamp,ins_status,latitude,longitude,altitude,northing,easting,down,utm_zone,"
    "velocity_north,velocity_east,velocity_down,roll,pitch,yaw"
)
RTK_HEADER = INS_HEADER.replace("ins_status,", "")
VO_HEADER = "source_timestamp,destination_timestamp,x,y,z,roll,pitch,yaw"
TO_UTM = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32630", always_xy=True)


@dataclass
class Fix:
    """A row of ins.csv or rtk.csv."""

    us: int
    latitude: float
    longitude: float
    yaw: float = 0.0
    roll: float = 0.0
    pitch: float = 0.0
    status: str = "INS_SOLUTION_GOOD"

    def row(self, status: bool) -> list[object]:
        east, north = TO_UTM.transform(self.longitude, self.latitude)
        return [
            self.us,
            *([self.status] if status else []),
            f"{self.latitude:.6f}",
            f"{self.longitude:.6f}",
            110.5,
            f"{north:.6f}",
            f"{east:.6f}",
            -110.5,
            "30U",
            *(0.1, 0.2, 0.0, self.roll, self.pitch, self.yaw),
        ]


def write_ins(run: Path, fixes: Sequence[Fix]) -> None:
    write_csv(run / "gps/ins.csv", INS_HEADER, [fix.row(True) for fix in fixes])


def write_rtk(run: Path, fixes: Sequence[Fix]) -> None:
    write_csv(run / "gps/rtk.csv", RTK_HEADER, [fix.row(False) for fix in fixes])


def write_vo(
    run: Path, us: Sequence[int], poses: Sequence[np.ndarray], keep: object = None
) -> None:
    """Poses (4, 4) of the vehicle (x forward, y right, z down) at times ``us`` in a fixed frame."""
    rows = []
    for i in range(1, len(us)):
        motion = np.linalg.inv(poses[i - 1]) @ poses[i]
        rows.append([us[i], us[i - 1], *motion[:3, 3], *angles(motion[:3, :3])])
    rows = rows if keep is None else [rows[i] for i in keep]  # type: ignore[attr-defined]
    write_csv(run / "vo/vo.csv", VO_HEADER, rows)


def ned_pose(x: float, y: float, yaw: float, pitch: float = 0.0) -> np.ndarray:
    """A vehicle on the plane: x ahead of the start, y to its right, yaw clockwise from above."""
    pose = np.eye(4)
    pose[:3, :3] = euler(0, pitch, yaw)
    pose[:2, 3] = x, y
    return pose


def left_circle(angle: float, radius: float, pitch: float = 0.0) -> np.ndarray:
    return ned_pose(radius * math.sin(angle), -radius * (1 - math.cos(angle)), -angle, pitch=pitch)
