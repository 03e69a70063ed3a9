"""The local cloud of a query: its scans, put together in the vehicle frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.drive import Drive, PoseTrack, ScanBlock, Times, from_sensors
from data_prep.geometry import se3_inverse
from data_prep.settings import Count, Positive, Settings
from maptile_loc.perceive.labels import LABELS, MOVING, LabelTable, kinds
from maptile_loc.perceive.plan import QueryPlan
from maptile_loc.types import Queries


class SubmapSettings(Settings):
    """How scans are put together.

    Attributes:
        spacing_m: Scans are thinned to one of each sensor per this many metres of travel, so that
            a vehicle that stands still adds nothing.
        max_points: Scans are thinned further until a submap has about this number of points, so
            that not every scan of a spinning LiDAR is read.
        max_range_m: Points farther from their sensor are left out.
        labels: Meaning of the label numbers of each data set; labels without a table are ignored.
    """

    spacing_m: Positive = 0.1
    max_points: Count = 1_500_000
    max_range_m: Positive = 60.0
    labels: Mapping[str, LabelTable] = LABELS


@dataclass(frozen=True)
class Submap:
    """A local cloud in the vehicle frame at the query.

    Attributes:
        points: (N, 3) float32, x forward, y left, z up, metres.
        scan: (N,) int32, index of each point's scan.
        origin: (S, 3) float32, position of each scan's sensor, in the same frame.
        kind: (N,) uint8, class of each point (``labels.BUILDING`` ...); None without labels.
    """

    points: NDArray[np.float32]
    scan: NDArray[np.int32]
    origin: NDArray[np.float32]
    kind: NDArray[np.uint8] | None = None


def build_submap(
    drive: Drive, plan: QueryPlan, query: int, queries: Queries, settings: SubmapSettings
) -> Submap:
    """Put together the scans around query number ``query``.

    The window is ``queries.submap_m`` metres of travel, centred on the query. It is shorter at the
    ends of the drive and of an odometry segment; 0 m is the one scan.

    Args:
        drive: Scans and odometry.
        plan: The drive's queries.
        query: Index of the query in the plan.
        queries: Length of the window.
        settings: How scans are thinned, and what labels mean.
    """
    centre = int(plan.scan[query])
    if queries.submap_m == 0:
        return _local(drive, drive.scans.read(centre, centre + 1), centre, settings)
    metres = plan.travelled - plan.travelled[centre]
    near = (plan.segment == plan.segment[centre]) & (np.abs(metres) <= queries.submap_m / 2)
    window = np.flatnonzero(near)
    start, stop = int(window[0]), int(window[-1]) + 1
    here = len(drive.scans.read(centre, centre + 1).points)
    sensors = len(drive.scans.sensors)
    spacing = max(settings.spacing_m, queries.submap_m * here * sensors / settings.max_points)
    bins = np.floor(plan.travelled[start:stop] / spacing).astype(np.int64)
    runs = _runs(_keep(bins, sensors) + start, centre)
    return _local(drive, _together([drive.scans.read(*run) for run in runs]), centre, settings)


def _together(blocks: list[ScanBlock]) -> ScanBlock:
    offsets = np.cumsum([0] + [len(block.t_ns) for block in blocks[:-1]]).astype(np.int32)
    seconds = [block.seconds for block in blocks if block.seconds is not None]
    # Labels are used only if every scan has them.
    label = [block.label for block in blocks if block.label is not None]
    return ScanBlock(
        t_ns=np.concatenate([block.t_ns for block in blocks]),
        points=np.concatenate([block.points for block in blocks]),
        scan=np.concatenate([b.scan + offset for b, offset in zip(blocks, offsets, strict=True)]),
        origin=np.concatenate([block.origin for block in blocks]),
        seconds=np.concatenate(seconds) if seconds else None,
        label=np.concatenate(label) if len(label) == len(blocks) else None,
    )


def _keep(bins: NDArray[np.int64], per_bin: int) -> NDArray[np.int64]:
    """Indices of the first ``per_bin`` scans of each run of equal ``bins``."""
    new = np.concatenate([[True], np.diff(bins) > 0])
    rank = np.arange(len(bins)) - np.flatnonzero(new)[np.cumsum(new) - 1]
    return np.flatnonzero(rank < per_bin)


def _runs(kept: NDArray[np.int64], centre: int) -> list[tuple[int, int]]:
    """Consecutive indices as (start, stop) ranges; ``centre`` is kept too."""
    kept = np.union1d(kept, [centre])
    breaks = np.flatnonzero(np.diff(kept) > 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(kept, breaks)]


def _local(drive: Drive, block: ScanBlock, centre: int, settings: SubmapSettings) -> Submap:
    """Bring the scans of ``block`` into the vehicle frame at scan ``centre``."""
    use, kind = usable(block, settings.max_range_m, settings.labels.get(drive.labels or ""))
    # Several times faster than points[use].
    points, scan = np.compress(use, block.points, axis=0), np.compress(use, block.scan)
    if drive.odometry is None:
        return Submap(points, scan, block.origin, kind)
    poses = drive.odometry.at(np.append(block.t_ns, drive.scans.t_ns[centre]))
    relative = se3_inverse(poses[-1]) @ poses[:-1]
    count = np.bincount(scan, minlength=len(block.t_ns))
    if block.seconds is not None:
        velocity, turn = _motion(block.t_ns, drive.odometry)
        points += block.seconds[use, None] * moved(points, turn, velocity, count)
    rotation = relative[:, :3, :3].astype(np.float32)
    shift = relative[:, :3, 3].astype(np.float32)
    return Submap(
        moved(points, rotation, shift, count),
        scan,
        np.einsum("sij,sj->si", rotation, block.origin) + shift,
        kind,
    )


def usable(
    block: ScanBlock, max_range_m: float, table: LabelTable | None
) -> tuple[NDArray[np.bool_], NDArray[np.uint8] | None]:
    """Which of a block's points are used, and the classes of these.

    Args:
        block: The scans.
        max_range_m: Points farther from their sensor are not used, metres.
        table: Meaning of the labels; None: they are ignored.

    Returns:
        (N,) bool, False for far points and those on moving objects; (M,) uint8, or None.
    """
    x, y, z = from_sensors(block.points, block.scan, block.origin)
    use = x * x + y * y + z * z <= max_range_m**2
    if block.label is None or table is None:
        return use, None
    kind = kinds(block.label, table)
    use &= kind != MOVING
    return use, kind[use]


def moved(
    points: NDArray[np.float32],
    matrix: NDArray[np.float32],
    shift: NDArray[np.float32],
    count: NDArray[np.int64],
) -> NDArray[np.float32]:
    """(N, 3) points, transformed by the matrix and shift of their scan; ``count`` per scan."""
    x, y, z = points.T
    result = np.empty(points.shape, np.float32, order="F")  # later steps work by column
    for i in range(3):
        # One coefficient at a time: a matrix per point would take three times the memory.
        a, b, c, d = (
            column if len(count) == 1 else np.repeat(column, count)
            for column in (*matrix[:, i].T, shift[:, i])
        )
        result[:, i] = a * x + b * y + c * z + d
    return result


def _motion(t_ns: Times, odometry: PoseTrack) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The vehicle's velocity during each of (S,) scans, taken as constant.

    Returns:
        (S, 3) velocity, m/s in the vehicle frame, and (S, 3, 3) skew-symmetric matrices of the
        angular velocity (rad/s): matrix times point is the point's velocity by rotation.
    """
    half = 50_000_000
    here = se3_inverse(odometry.at(t_ns))
    begin, end = (here @ odometry.at(t_ns + d) for d in (-half, half))
    segment = odometry.segment_at(t_ns - half)
    # Where the odometry ends, the motion is unknown and is not compensated.
    known = (segment >= 0) & (segment == odometry.segment_at(t_ns + half))
    per_second = np.where(known, 1e9 / (2 * half), 0.0)[:, None]
    velocity = per_second * (end[:, :3, 3] - begin[:, :3, 3])
    turned = se3_inverse(begin)[:, :3, :3] @ end[:, :3, :3]
    x, y, z = (per_second * Rotation.from_matrix(turned).as_rotvec()).T
    zero = np.zeros_like(x)
    turn = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    return velocity.astype(np.float32), turn.astype(np.float32)
