"""The queries of a drive: at which scans it is localized."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from maptile_loc.types import Queries


@dataclass(frozen=True)
class QueryPlan:
    """At which scans a drive is localized, with the travel and segment of every scan.

    Attributes:
        scan: (Q,) int64, index of the scan at each query.
        travelled: (S,) metres travelled at each scan since the start of the drive.
        segment: (S,) int32, odometry segment of each scan, -1 where the odometry does not cover it.
    """

    scan: NDArray[np.int64]
    travelled: Array
    segment: NDArray[np.int32]


def plan_queries(drive: Drive, queries: Queries) -> QueryPlan:
    """The scans at which to localize: one per ``every_m`` metres of travel; 0 m: every scan.

    Raises:
        MaptileError: The drive has no scans, or no odometry although metres of travel are needed.
    """
    t_ns, every_m = drive.scans.t_ns, queries.every_m
    moving = every_m > 0 or queries.submap_m > 0
    if len(t_ns) == 0:
        raise MaptileError(f"{drive.name}: no scans in it (or none between --start and --end)")
    if drive.odometry is None:
        if moving:
            raise MaptileError(
                f"{drive.name}: no odometry, so metres of travel are not known; "
                "make one from its scans (lidar_odometry), or use --submap 0 --every 0"
            )
        unknown = np.zeros(len(t_ns))
        return QueryPlan(np.arange(len(t_ns)), unknown, np.full(len(t_ns), -1, np.int32))
    odometry = drive.odometry
    seconds = (odometry.t_ns - t_ns[0]) / 1e9
    travelled = np.interp((t_ns - t_ns[0]) / 1e9, seconds, odometry.travelled())
    segment = odometry.segment_at(t_ns)
    usable = np.flatnonzero(segment >= 0) if moving else np.arange(len(t_ns))
    if len(usable) == 0:
        raise MaptileError(
            f"{drive.name}: its odometry covers none of the scans; are both on the same clock?"
        )
    if every_m > 0:
        # The first usable scan of every stretch of every_m metres, from each segment's start.
        begins = np.diff(segment[usable], prepend=-1) > 0
        start = travelled[usable][begins][np.cumsum(begins) - 1]
        stretch = np.floor((travelled[usable] - start) / every_m)
        usable = usable[begins | (np.diff(stretch, prepend=-1) > 0)]
    return QueryPlan(usable.astype(np.int64), travelled, segment)
