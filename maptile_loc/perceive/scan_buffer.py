"""The latest scans of a vehicle, from which a tile is made that ends at the last one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import ScanBlock
from data_prep.geometry import Array, rotate, se2_from_se3, se3_inverse
from maptile_loc.perceive.labels import LabelTable
from maptile_loc.perceive.query_tile import QuerySettings, View, make_views, put_together
from maptile_loc.perceive.submap import Submap, SubmapSettings, moved, usable
from maptile_loc.types import QueryTile

FEW_SCANS = 4
"""Groups of up to this many scans are those of a spinning LiDAR, which sees enough by itself."""


@dataclass(frozen=True, eq=False)
class KeptScan:
    """One scan in its own vehicle frame.

    Attributes:
        pose: (4, 4) vehicle -> the odometry's frame.
        travelled: Metres travelled at its time.
        points: (N, 3) float32 metres, compensated for the vehicle's motion during the scan.
        origin: (3,) float32, the sensor's position in the vehicle frame, metres.
        kind: (N,) uint8, class of each point, or None.
    """

    pose: Array
    travelled: float
    points: NDArray[np.float32]
    origin: NDArray[np.float32]
    kind: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class Group:
    """Consecutive scans.

    Attributes:
        scans: The scans, in the order of time.
        view: What they show around the vehicle at the last one; None if it is not found yet.
    """

    scans: list[KeptScan]
    view: View | None = None

    def since(self, travelled: float) -> Group:
        """The scans from some metres of travel on."""
        if self.scans[0].travelled >= travelled:
            return self
        return Group([scan for scan in self.scans if scan.travelled >= travelled])


def submap_of(scans: Sequence[KeptScan]) -> Submap:
    """The scans in the vehicle frame at the last one."""
    count = np.array([len(scan.points) for scan in scans])
    relative = se3_inverse(scans[-1].pose) @ np.stack([scan.pose for scan in scans])
    rotation = relative[:, :3, :3].astype(np.float32)
    shift = relative[:, :3, 3].astype(np.float32)
    kinds = [scan.kind for scan in scans if scan.kind is not None]
    return Submap(
        moved(np.concatenate([scan.points for scan in scans]), rotation, shift, count),
        np.repeat(np.arange(len(scans), dtype=np.int32), count),
        np.einsum("sij,sj->si", rotation, np.stack([s.origin for s in scans])) + shift,
        np.concatenate(kinds) if len(kinds) == len(scans) else None,
    )


class ScanBuffer:
    """The scans of the last metres of travel, thinned as they arrive.

    As soon as a group of scans of a spinning LiDAR has ``tile.group_points`` points, what it shows
    is found: so a tile takes the time of one group, however long its submap is. What a line scanner
    shows is found for all scans at once: its groups lack the ground, and the upper edge of the
    view, that the scans around them show.

    Args:
        submap_m: Metres of travel that are kept; 0: the last scan.
        settings: How scans are thinned.
        tile: How they become a tile.
        table: Meaning of the scans' labels, or None.
    """

    def __init__(
        self,
        submap_m: float,
        settings: SubmapSettings,
        tile: QuerySettings,
        table: LabelTable | None = None,
    ) -> None:
        self._submap_m, self._settings, self._table = submap_m, settings, table
        self._tile = tile
        self._groups: deque[Group] = deque()
        self._next_m: dict[tuple[int, ...], float] = {}
        self._last: KeptScan | None = None

    def clear(self) -> None:
        """Forget all scans: the motion since them is unknown."""
        self._groups.clear()
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

        A scan that is not wanted is used by the next tile only if it is the last one.

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
        self._last = new = KeptScan(pose, travelled, points, scan.origin[0], kind)
        self._drop(travelled - self._submap_m)
        if self.wants(scan, travelled):
            sensor = _sensor(scan)
            most = self._settings.max_points / len({*self._next_m, sensor})
            spacing = max(self._settings.spacing_m, self._submap_m * len(scan.points) / most)
            self._next_m[sensor] = travelled + spacing
            self._keep(new)

    def _drop(self, since_m: float) -> None:
        """Drop old scans: those of a view all at once."""
        while self._groups and self._groups[0].scans[0].travelled < since_m:
            first = self._groups[0]
            if first.view is None and len(first.scans) > 1:
                first.scans.pop(0)
            else:
                self._groups.popleft()

    def _keep(self, new: KeptScan) -> None:
        """Append a scan to the last group, or begin one."""
        if not self._groups or self._groups[-1].view is not None:
            self._groups.append(Group([]))
        scans = self._groups[-1].scans
        scans.append(new)
        if len(scans) > FEW_SCANS:
            return
        if sum(len(scan.points) for scan in scans) >= self._tile.group_points:
            view = next(make_views(submap_of(scans), 0.0, self._tile))  # one group
            self._groups[-1] = Group(scans, view)

    def recent(self, last_m: float = math.inf) -> list[Group]:
        """The scans of the last metres of travel; the last scan is always among them."""
        last = self._last
        assert last is not None, "a tile needs a scan"
        groups = [group.since(last.travelled - last_m) for group in self._groups]
        if not groups or last not in groups[-1].scans:
            going_on = groups.pop().scans if groups and groups[-1].view is None else []
            groups.append(Group([*going_on, last]))
        return [group for group in groups if any(len(scan.points) for scan in group.scans)]

    @property
    def has_points(self) -> bool:
        """Whether any scan of the next tile has a point."""
        return self._last is not None and bool(self.recent())

    def forget(self, last_m: float) -> None:
        """Drop all scans but those of the last metres of travel."""
        if self._last is not None:
            since = self._last.travelled - last_m
            groups = (group.since(since) for group in self._groups)
            self._groups = deque(group for group in groups if group.scans)

    def tile(self, rotation: float, last_m: float = math.inf) -> QueryTile:
        """The tile around the vehicle at the last scan.

        Args:
            rotation: Radians by which it is turned counter-clockwise, as in ``make_tile``.
            last_m: Only scans of the last metres of travel.
        """
        views: list[View] = []
        for group in self.recent(last_m):
            if group.view is None and group.scans[-1] is self._last:
                views.extend(make_views(submap_of(group.scans), rotation, self._tile))
                continue
            found = (
                [group.view] if group.view else make_views(submap_of(group.scans), 0.0, self._tile)
            )
            pose = self._pose_of(group, rotation)
            views.extend(view.moved(pose, self._tile.resolution) for view in found)
        return put_together(views, rotation, self._tile)

    def _pose_of(self, group: Group, rotation: float) -> Array:
        """(3,) pose of a group's view in the tile: x, y, metres, and turn, radians."""
        assert self._last is not None
        x, y, turn = se2_from_se3(se3_inverse(self._last.pose) @ group.scans[-1].pose)
        return np.array([*rotate(np.array([x, y]), rotation), turn + rotation])


def _sensor(scan: ScanBlock) -> tuple[int, ...]:
    """The sensor of a scan: its position on the vehicle, centimetres."""
    return tuple(np.round(scan.origin[0] * 100).astype(int).tolist())
