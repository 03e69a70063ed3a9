"""MCAP with ROS 2 messages: poses, GNSS fixes, path, query tiles and candidates, for Foxglove.

The frame ``map`` has x east, y north (grid) and its origin at the map's centre, as in the TUM file;
``base_link`` is the drive's vehicle frame. Both lie in the plane: z, roll and pitch are 0, and so
are their variances. The metadata record ``rosbag2`` holds the origin, the CRS and the attribution.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.stores import ros2_humble as ros

from data_prep.city.raster import ATTRIBUTION
from data_prep.geometry import Array, se2_compose
from maptile_loc.report.formats import OutputFormat
from maptile_loc.report.trajectory import local_origin, scan_rows, stretches
from maptile_loc.types import Localization, QueryTile

TOPICS = {
    "/pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/fix": "sensor_msgs/msg/NavSatFix",
    "/path": "nav_msgs/msg/Path",
    "/tile": "nav_msgs/msg/OccupancyGrid",
    "/candidates": "geometry_msgs/msg/PoseArray",
}
"""Topics and their message types."""

STORE = get_typestore(Stores.ROS2_HUMBLE)
"""The message definitions; they are the same in later ROS 2 versions."""

PLANAR = np.ix_([0, 1, 5], [0, 1, 5])
"""x, y and yaw among the six components of a ROS pose."""

LATEST_NS = (1 << 31) * 1_000_000_000
"""Times of ROS messages are before this one, nanoseconds."""

SEEN = 0.5
"""Cells of a tile that are observed less than this are unknown."""


class Message(NamedTuple):
    """One message: its topic, the index of its scan, and its content."""

    topic: str
    scan: int
    content: Any


def write(found: Localization, path: Path) -> None:
    """Write the localized scans as messages on ``TOPICS``.

    ``/fix`` has every scan, without status where it is not localized; ``/pose`` and ``/tf`` have
    the localized ones, ``/path`` each stretch of them at its start. ``/candidates`` has those of
    every query, ``/tile`` the query tiles that the result keeps, each at its query's pose. Messages
    have the times of the scans; where ROS cannot express these, since the first scan.
    """
    t_ns = message_times(scan_rows(found).t_ns)
    east, north = local_origin(found.raster).tolist()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        bag = Path(folder) / path.stem
        writer = Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP)
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        about = {"crs": " ".join(found.raster.crs.to_string().split()), "attribution": ATTRIBUTION}
        for key, value in {**about, "origin": f"east {east:.1f} north {north:.1f}"}.items():
            writer.set_custom_data(key, value)
        try:
            with writer:
                topics = {
                    topic: writer.add_connection(topic, kind, typestore=STORE)
                    for topic, kind in TOPICS.items()
                }
                for topic, scan, content in messages(found, t_ns):
                    data = STORE.serialize_cdr(content, TOPICS[topic])
                    writer.write(topics[topic], int(t_ns[scan]), data)
        except ImportError as error:  # the writer looks up its own version on the disk
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error
        (bag / f"{bag.name}.mcap").replace(path)


def message_times(t_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S,) times of scans, ns; since the first one where ROS cannot express them."""
    held = len(t_ns) == 0 or (t_ns.min() >= 0 and t_ns.max() < LATEST_NS)
    return t_ns if held else t_ns - t_ns.min()


def messages(found: Localization, t_ns: NDArray[np.int64]) -> Iterator[Message]:
    """All messages, in the order of the scans.

    Args:
        found: The localized drive.
        t_ns: (S,) times of the messages of each scan.
    """
    rows, raster = scan_rows(found), found.raster
    origin, localized = np.append(local_origin(raster), 0.0), rows.localized & rows.has_pose
    local = rows.poses - origin
    poses = [_pose(pose) for pose in local]
    degrees, enu = np.full((len(local), 2), np.nan), np.zeros((len(local), 3, 3))
    known = rows.has_pose
    if known.any():
        degrees[known] = np.column_stack(raster.projection.inverse(rows.poses[known, :2]))
        enu[known, :2, :2] = _in_true_axes(
            rows.covariance[known, :2, :2], raster.projection.convergence(*degrees[known].T)
        )
    starts = {run.start: run for run in stretches(localized)}
    for scan, stamp in enumerate(map(_time, t_ns.tolist())):
        head = ros.std_msgs__msg__Header(stamp, "map")
        if scan in starts:
            yield Message("/path", scan, _path(head, poses, t_ns, starts[scan]))
        sure = bool(localized[scan])
        yield Message("/fix", scan, _navsatfix(stamp, sure, degrees[scan], enu[scan]))
        if sure:
            yield Message("/pose", scan, _uncertain(head, poses[scan], rows.covariance[scan]))
            yield Message("/tf", scan, _transform(head, poses[scan]))
        query = int(rows.query[scan])
        if query < 0:
            continue
        if found.candidates is not None:
            chosen = found.candidates[query, :, :3] - origin
            listed = [_pose(one) for one in chosen[np.isfinite(chosen[:, 0])]]
            content = ros.geometry_msgs__msg__PoseArray(head, listed)
            yield Message("/candidates", scan, content)
        if query in found.tiles and known[scan]:
            yield Message("/tile", scan, _grid(head, found.tiles[query], local[scan]))


def _time(t_ns: int) -> ros.builtin_interfaces__msg__Time:
    return ros.builtin_interfaces__msg__Time(*divmod(t_ns, 1_000_000_000))


def _pose(pose: Array) -> ros.geometry_msgs__msg__Pose:
    """A (3,) pose as a geometry_msgs/Pose."""
    x, y, heading = pose.tolist()
    turn = 0.0, 0.0, float(np.sin(heading / 2)), float(np.cos(heading / 2))
    return ros.geometry_msgs__msg__Pose(
        ros.geometry_msgs__msg__Point(x, y, 0.0),
        ros.geometry_msgs__msg__Quaternion(*turn),
    )


def _uncertain(
    head: ros.std_msgs__msg__Header, pose: ros.geometry_msgs__msg__Pose, covariance: Array
) -> ros.geometry_msgs__msg__PoseWithCovarianceStamped:
    """A pose with its (3, 3) covariance as a PoseWithCovarianceStamped."""
    spread = np.zeros((6, 6))
    spread[PLANAR] = covariance
    kind = ros.geometry_msgs__msg__PoseWithCovariance
    return ros.geometry_msgs__msg__PoseWithCovarianceStamped(head, kind(pose, spread.ravel()))


def _transform(
    head: ros.std_msgs__msg__Header, pose: ros.geometry_msgs__msg__Pose
) -> ros.tf2_msgs__msg__TFMessage:
    """A pose as the transform of ``base_link`` in ``map``."""
    at, turn = pose.position, pose.orientation
    shift = ros.geometry_msgs__msg__Vector3(at.x, at.y, at.z)
    moved = ros.geometry_msgs__msg__Transform(shift, turn)
    stamped = ros.geometry_msgs__msg__TransformStamped(head, "base_link", moved)
    return ros.tf2_msgs__msg__TFMessage([stamped])


def _navsatfix(
    stamp: ros.builtin_interfaces__msg__Time, localized: bool, degrees: Array, covariance: Array
) -> ros.sensor_msgs__msg__NavSatFix:
    """A position as a NavSatFix: (2,) degrees, (3, 3) covariance in true east, north, up."""
    kind, status = ros.sensor_msgs__msg__NavSatFix, ros.sensor_msgs__msg__NavSatStatus
    known = bool(np.isfinite(covariance).all() and np.isfinite(degrees).all())
    return kind(
        ros.std_msgs__msg__Header(stamp, "base_link"),
        status(status.STATUS_FIX if localized else status.STATUS_NO_FIX, 0),
        float(degrees[0]),
        float(degrees[1]),
        np.nan,
        covariance.ravel() if known else np.zeros(9),
        kind.COVARIANCE_TYPE_KNOWN if known else kind.COVARIANCE_TYPE_UNKNOWN,
    )


def _path(
    head: ros.std_msgs__msg__Header,
    poses: list[ros.geometry_msgs__msg__Pose],
    t_ns: NDArray[np.int64],
    run: slice,
) -> ros.nav_msgs__msg__Path:
    """The poses of a stretch of scans as a Path."""
    header = ros.std_msgs__msg__Header
    stamped = ros.geometry_msgs__msg__PoseStamped
    listed = [
        stamped(header(_time(when), "map"), pose)
        for when, pose in zip(t_ns[run].tolist(), poses[run], strict=True)
    ]
    return ros.nav_msgs__msg__Path(head, listed)


def _grid(
    head: ros.std_msgs__msg__Header, tile: QueryTile, pose: Array
) -> ros.nav_msgs__msg__OccupancyGrid:
    """A query tile as an OccupancyGrid: wall evidence in percent, -1 where nothing was observed.

    Args:
        head: The message's header.
        tile: The tile, whose axes are the vehicle's, turned back by ``tile.rotation``.
        pose: (3,) the vehicle's pose.
    """
    half = tile.size * tile.resolution / 2
    corner = se2_compose(se2_compose(pose, [0.0, 0.0, -tile.rotation]), [-half, -half, 0.0])
    percent = np.round(100 * np.clip(tile.wall, 0, 1))
    cells = np.where(tile.observed < SEEN, -1, percent).astype(np.int8)
    info = ros.nav_msgs__msg__MapMetaData(
        head.stamp, tile.resolution, tile.size, tile.size, _pose(corner)
    )
    return ros.nav_msgs__msg__OccupancyGrid(head, info, cells[::-1].ravel())


def _in_true_axes(covariance: Array, convergence: Array) -> Array:
    """(N, 2, 2) covariances of grid axes in those of true east and north."""
    c, s = np.cos(convergence), np.sin(convergence)
    turn = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], -2)
    return np.asarray(turn @ covariance @ np.swapaxes(turn, 1, 2), np.float64)


FORMAT = OutputFormat("trajectory.mcap", write)
