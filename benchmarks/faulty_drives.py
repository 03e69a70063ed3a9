"""Drives whose recordings are degraded: broken sensors, clocks and maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from disturbances import ChosenScans, disturbed
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from data_prep.city.folder import City
from data_prep.city.raster import BUILDING, MapRaster
from data_prep.drive import Drive, ScanBlock, ScanSource, Times

FAULTS = (
    *("none", "dropped scans", "frozen scans", "clock jump", "odometry gap", "blinded"),
    *("extrinsics", "half the houses"),
)
"""The faults, in the order of the table."""

DROPPED = 0.4
"""Share of the scans that are lost."""
FROZEN = 0.15
"""Share of the drive during which the sensor repeats its last scan."""
JUMP_S = (0.2, 1.0)
"""Least and largest jump of the clock of the scans, seconds."""
TURN_DEG = 2.0
"""Turn of the sensor against its calibration, about an axis drawn at random, degrees."""


@dataclass(frozen=True)
class TurnedScans:
    """The scans of another source, turned about the vehicle's origin.

    Attributes:
        source: The other source.
        turn: (3, 3) rotation.
    """

    source: ScanSource
    turn: NDArray[np.float32]

    @property
    def t_ns(self) -> Times:
        """(S,) times of the scans."""
        return self.source.t_ns

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors."""
        return self.source.sensors

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive)."""
        block = self.source.read(start, stop)
        return replace(block, points=(block.points @ self.turn.T).astype(np.float32))


def degraded(city: City, drive: Drive, fault: str, seed: int) -> tuple[City, Drive]:
    """A city and a drive with one fault; the drive keeps its truth, headings and odometry."""
    rng = np.random.default_rng([seed, FAULTS.index(fault)])
    count = len(drive.scans.t_ns)
    every, t_ns = np.arange(count), drive.scans.t_ns
    if fault == "dropped scans":
        kept = np.flatnonzero(rng.random(count) >= DROPPED)
        return city, _chosen(drive, kept, t_ns[kept])
    if fault == "frozen scans":
        length = int(FROZEN * count)
        begin = int(rng.integers(1, count - length))
        index = every.copy()
        index[begin : begin + length] = begin - 1
        return city, _chosen(drive, index, t_ns)
    if fault == "clock jump":
        begin = int(rng.integers(count // 4, 3 * count // 4))
        jump = int(rng.uniform(*JUMP_S) * 1e9)
        return city, _chosen(drive, every, t_ns + jump * (every >= begin))
    if fault in ("odometry gap", "blinded"):
        case = disturbed(drive, city.raster, fault, seed)
        assert case is not None
        return city, replace(drive, scans=case.drive.scans, odometry=case.drive.odometry)
    if fault == "extrinsics":
        axis = rng.normal(size=3)
        turn = Rotation.from_rotvec(np.radians(TURN_DEG) * axis / np.linalg.norm(axis))
        scans = TurnedScans(drive.scans, turn.as_matrix().astype(np.float32))
        return city, replace(drive, scans=scans)
    if fault == "half the houses":
        raster = without_houses(city.raster, rng)
        return replace(city, raster=raster, folder=None), drive
    return city, drive


def without_houses(raster: MapRaster, rng: np.random.Generator) -> MapRaster:
    """The map without half of its blocks of houses that touch each other."""
    number, count = ndimage.label(raster.data[BUILDING])
    gone = np.concatenate([[False], rng.random(count) < 0.5])
    data = np.array(raster.data)
    data[BUILDING][gone[number]] = 0
    return replace(raster, data=data)


def _chosen(drive: Drive, index: NDArray[np.int64], t_ns: Times) -> Drive:
    """The drive with chosen scans at given times; nothing else changes."""
    return replace(drive, scans=ChosenScans(drive.scans, index, t_ns, np.zeros(len(index), bool)))
