"""The latest scans of a vehicle, from which a submap is made that ends at the last one."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import ScanBlock
from data_prep.geometry import Array, se3_inverse
from maptile_loc.perceive.labels import LabelTable
from maptile_loc.perceive.submap import Submap, SubmapSettings, moved, usable


@dataclass
class KeptScan:
    """One scan in its own vehicle frame.

    Attributes:
        t_ns: Its time, nanoseconds.
        pose: (4, 4) vehicle -> the odometry's frame.
        travelled: Metres travelled at its time.
        points: (N, 3) float32 metres, compensated for the vehicle's motion during the scan.
        origin: (3,) float32, the sensor's position in the vehicle frame, metres.
        kind: (N,) uint8, class of each point, or None.
    """

    t_ns: int
    pose: Array
    travelled: float
    points: NDArray[np.float32]
    origin: NDArray[np.float32]
    kind: NDArray[np.uint8] | None


class ScanBuffer:
    """The scans of the last metres of travel, thinned as they arrive.

    Args:
        submap_m: Metres of travel that are kept; 0: the last scan.
        settings: How scans are thinned.
        table: Meaning of the scans' labels, or None.
    """

    def __init__(
        self, submap_m: float, settings: SubmapSettings, table: LabelTable | None = None
    ) -> None:
        self._submap_m, self._settings, self._table = submap_m, settings, table
        self._kept: deque[KeptScan] = deque()
        self._next_m: dict[tuple[int, ...], float] = {}
        self._last: KeptScan | None = None

    def clear(self) -> None:
        """Forget all scans: the motion since them is unknown."""
        self._kept.clear()
        self._next_m.clear()
        self._last = None

    def wants(self, scan: ScanBlock, travelled: float) -> bool:
        """Whether a submap needs a scan.

        One scan of each sensor is kept per ``spacing_m``, or per the distance at which a submap of
        scans like this one has ``max_points``.

        Args:
            scan: One scan.
            travelled: Metres travelled at its time.
        """
        return self._submap_m > 0 and travelled >= self._next_m.get(_sensor(scan), -math.inf)

    def add(self, scan: ScanBlock, pose: Array, velocity: Array, travelled: float) -> None:
        """Append a scan, and drop those that are too far back.

        A scan that is not wanted is used by the next submap only if it is the last one.

        Args:
            scan: One scan.
            pose: (4, 4) of the vehicle at its time.
            velocity: (6,) of the vehicle, metres and radians per second, in its own frame.
            travelled: Metres travelled at its time.
        """
        use, kind = usable(scan, self._settings.max_range_m, self._table)
        points = np.compress(use, scan.points, axis=0)
        if scan.seconds is not None and velocity.any():
            linear, angular = velocity[:3].astype(np.float32), velocity[3:].astype(np.float32)
            points = points + scan.seconds[use, None] * (np.cross(angular, points) + linear)
        origin = scan.origin[0]
        new = KeptScan(int(scan.t_ns[0]), pose, travelled, points, origin, kind)
        self._last = new
        while self._kept and self._kept[0].travelled < travelled - self._submap_m:
            self._kept.popleft()
        if self.wants(scan, travelled):
            sensor = _sensor(scan)
            most = self._settings.max_points / len({*self._next_m, sensor})
            spacing = max(self._settings.spacing_m, self._submap_m * len(scan.points) / most)
            self._next_m[sensor] = travelled + spacing
            self._kept.append(new)

    @property
    def has_points(self) -> bool:
        """Whether any scan of the submap has a point."""
        scans = [*self._kept] if self._last is None else [*self._kept, self._last]
        return any(len(scan.points) for scan in scans)

    def forget(self, last_m: float) -> None:
        """Drop all scans but those of the last metres of travel."""
        while self._kept and self._last is not None:
            if self._kept[0].travelled >= self._last.travelled - last_m:
                break
            self._kept.popleft()

    def submap(self, last_m: float = math.inf) -> Submap:
        """The scans in the vehicle frame at the last one; this one is always among them.

        Args:
            last_m: Only scans of the last metres of travel.
        """
        last = self._last
        assert last is not None, "a submap needs a scan"
        recent = [scan for scan in self._kept if scan.travelled >= last.travelled - last_m]
        scans = recent if recent and recent[-1] is last else [*recent, last]
        count = np.array([len(scan.points) for scan in scans])
        relative = se3_inverse(last.pose) @ np.stack([scan.pose for scan in scans])
        rotation = relative[:, :3, :3].astype(np.float32)
        shift = relative[:, :3, 3].astype(np.float32)
        kinds = [scan.kind for scan in scans if scan.kind is not None]
        return Submap(
            moved(np.concatenate([scan.points for scan in scans]), rotation, shift, count),
            np.repeat(np.arange(len(scans), dtype=np.int32), count),
            np.einsum("sij,sj->si", rotation, np.stack([s.origin for s in scans])) + shift,
            np.concatenate(kinds) if len(kinds) == len(scans) else None,
        )


def _sensor(scan: ScanBlock) -> tuple[int, ...]:
    """The sensor of a scan: its position on the vehicle, centimetres."""
    return tuple(np.round(scan.origin[0] * 100).astype(int).tolist())
