"""ROS bags: ROS 1 .bag, ROS 2 folders, .db3 and .mcap files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import Drive, PoseTrack, ScanBlock, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_from_quaternion
from data_prep.sources import Source
from data_prep.sources.formats.common import scan_block, unbridged
from data_prep.sources.formats.tum import pose_track
from data_prep.sources.packets import ouster, velodyne
from data_prep.sources.packets.spool import spooled
from data_prep.sources.ros.bag import FOLDER_FILE, SUFFIXES, Bag, Message, Topic, stamps, vector
from data_prep.sources.ros.gnss import read_topics
from data_prep.sources.ros.pointcloud2 import CloudError, Points, livox_points, points_of
from data_prep.sources.ros.transforms import FrameTree, plain
from data_prep.sources.storage.tree import Node

CLOUD = "sensor_msgs/msg/PointCloud2"
"""Type of point clouds."""
LIVOX = ("livox_ros_driver/msg/CustomMsg", "livox_ros_driver2/msg/CustomMsg")
"""Types of Livox's own point clouds."""
ODOMETRY = "nav_msgs/msg/Odometry"
"""Type of odometry."""
TRANSFORMS = "tf2_msgs/msg/TFMessage"
"""Type of transforms."""
OLD_TRANSFORMS = "tf/msg/tfMessage"
"""The same in old bags."""
VELODYNE = "velodyne_msgs/msg/VelodyneScan"
"""Type of a Velodyne's raw packets."""
OUSTER = ("ouster_ros/msg/PacketMsg", "ouster_sensor_msgs/msg/PacketMsg")
"""Types of an Ouster's raw packets."""
STORED = ([".db3"], [".mcap"])
"""Suffixes of the files of a ROS 2 bag, which may be packed (.db3.zstd)."""
BASES = ("base_link", "base_footprint", "base", "vehicle", "ego_vehicle", "imu_link")
"""Names of the vehicle's frame, in the order in which they are looked for."""
FIXED = ("odom", "camera_init", "map", "world")
"""Names of the frame in which odometry is given as a transform, likewise."""
MAX_MOUNT_M = 100.0
"""No sensor is mounted farther from the vehicle's origin, metres."""
MAX_SHIFT_M = 1e8
"""No transform on Earth shifts by more, metres."""


@dataclass(frozen=True)
class BagScans:
    """The point clouds of a bag, sorted by time.

    Attributes:
        bag: The open bag.
        t_ns: (S,) time of each scan.
        record_ns: (S,) when it was recorded.
        which: (S,) index of its topic.
        mounts: (K, 4, 4) pose of each topic's sensor in the vehicle's frame.
        sensors: K names of topics.
        types: K types of their messages.
        timed: Whether the points of all topics have times.
    """

    bag: Bag
    t_ns: Times
    record_ns: Times
    which: NDArray[np.int8]
    mounts: Array
    sensors: tuple[str, ...]
    types: tuple[str, ...]
    timed: bool

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        wanted = range(len(self.t_ns))[start:stop]
        place = {(self.sensors[self.which[k]], int(self.t_ns[k])): k for k in wanted}
        found: dict[int, Points] = {}
        if len(wanted):
            records = self.record_ns[wanted.start : wanted.stop]
            span = int(records.min()), int(records.max()) + 1
            for message in self.bag.messages(self.sensors, *span):
                t_ns, _ = measured(self.bag, message)
                scan = place.get((message.topic, t_ns))
                if scan is not None and scan not in found:
                    found[scan] = decode(self.bag, message, self.types[self.which[scan]], t_ns)
        none = Points(np.zeros((0, 3)), np.zeros(0), "")
        clouds = [found.get(scan, none) for scan in wanted]
        seconds = [np.zeros(len(one.xyz)) if one.seconds is None else one.seconds for one in clouds]
        return scan_block(
            self.t_ns[wanted.start : wanted.stop],
            [one.xyz for one in clouds],
            self.mounts,
            self.which[wanted.start : wanted.stop],
            seconds if self.timed else None,
        )


def measured(bag: Bag, message: Message) -> tuple[int, str]:
    """When a message was measured, nanoseconds, and in which frame.

    Without a stamp, the time is that of the record.
    """
    head = bag.header(message)
    return head.t_ns or message.record_ns, head.frame


def decode(bag: Bag, message: Message, type: str, t_ns: int) -> Points:
    """The points of a message."""
    try:
        if type in LIVOX:
            return livox_points(message.raw, bag.header(message).end, bag.ros1)
        return points_of(bag.decode(message, type), t_ns)
    except CloudError as error:
        raise MaptileError(f"{bag.path}: {message.topic} at {t_ns} ns: {error}") from None


def is_bag(path: Node) -> bool:
    """Return whether ``path`` is a bag: one of its files, or the folder of a ROS 2 bag."""
    if not isinstance(path, Path):
        return False
    if path.suffix in SUFFIXES and path.is_file():
        return True
    # Other folders have a metadata.yaml, too.
    described = (path / FOLDER_FILE).is_file()
    return described and any(child.suffixes[:1] in STORED for child in path.iterdir())


def open_bag(path: Node, names: tuple[str, ...] | None) -> Drive:
    """Open the drive in a bag.

    Args:
        path: The bag.
        names: Names of topics: of point clouds, odometry and GNSS; None: chosen by their types.

    Raises:
        MaptileError: The bag is damaged, holds no point cloud, or has no such topic.
    """
    if not isinstance(path, Path):
        raise MaptileError(f"{path}: unpack the archive; a bag is read from a file")
    bag = Bag(path)
    notes = [] if bag.whole else ["the recorder was stopped halfway: what it wrote is used"]
    topics = {topic.name: topic for topic in bag.topics}
    unknown = sorted(set(names or ()) - set(topics))
    if unknown:
        raise MaptileError(f"{path}: no topic {', '.join(unknown)}; there are {', '.join(topics)}")
    used = [topic for topic in topics.values() if names is None or topic.name in names]
    packets = [topic for topic in used if topic.type in (VELODYNE, *OUSTER)]
    if packets and not any(topic.type in (CLOUD, *LIVOX) for topic in used):
        return _of_packets(bag, packets, used, list(topics.values()), notes)
    clouds = _cloud_topics(path, used, list(topics.values()), notes, names is not None)
    index = _index(bag, clouds)
    tree = _frames(bag, list(topics.values()))
    odometry, base = _odometry(bag, used, list(topics.values()), notes)
    base = base or next((frame for frame in BASES if frame in tree), None)
    mounts = []
    for topic, frame in zip(clouds, index.frames, strict=True):
        mount = np.eye(4) if base is None else _mounted(bag.path, tree, frame, base)
        if mount is None:
            notes.append(
                f"{topic.name}: tf_static does not connect {frame} and {base}; the sensor's frame "
                "is taken to be the vehicle's"
            )
            mount = np.eye(4)
        mounts.append(mount)
    timed = all(index.clocks)
    clocks = zip(clouds, index.clocks, strict=True)
    notes += [f"{topic.name}: times of points: {clock}" for topic, clock in clocks if clock]
    if not timed:
        notes.append("points have no times: clouds are used as they are")
    scans = BagScans(
        bag,
        index.t_ns,
        index.record_ns,
        index.which,
        np.array(mounts),
        tuple(topic.name for topic in clouds),
        tuple(topic.type for topic in clouds),
        timed,
    )
    gnss = read_topics(bag, used, topics.values(), notes)
    odometry = unbridged(odometry, scans.t_ns, notes)
    name = path.resolve().stem
    return Drive(name, "rosbag", scans, odometry, None, None, tuple(notes), gnss=gnss)


SOURCE = Source(
    looked_for="ROS bag (.bag, .db3, .mcap, or a folder with metadata.yaml)",
    recognises=is_bag,
    open=open_bag,
    priority=65,
    suffixes=SUFFIXES,
)


def _of_packets(
    bag: Bag, packets: list[Topic], used: list[Topic], every: list[Topic], notes: list[str]
) -> Drive:
    """The drive in a bag that holds a sensor's raw packets."""
    best = max(packets, key=lambda topic: (topic.type == VELODYNE, topic.messages))
    tree = _frames(bag, every)
    odometry, base = _odometry(bag, used, every, notes)
    base = base or next((frame for frame in BASES if frame in tree), None)
    frame = bag.header(next(bag.messages([best.name]))).frame if best.type == VELODYNE else ""
    mount = None if base is None else _mounted(bag.path, tree, frame, base)
    if mount is None:
        mount = np.eye(4)
        notes.append(f"{best.name}: the sensor's frame is taken to be the vehicle's")
    if best.type == VELODYNE:
        arrived = (
            (stamps(packet.stamp) or message.record_ns, packet.data.tobytes())
            for message in bag.messages([best.name])
            for packet in bag.decode(message, VELODYNE).packets
        )
        decoded = velodyne.decode_packets(bag.path, arrived)
    else:
        decoded = ouster.decode(bag.path, None)
    notes.append(f"{best.name}: raw packets, decoded; their points have times")
    scans = spooled(bag.path, decoded, best.name, mount)
    odometry = unbridged(odometry, scans.t_ns, notes)
    return Drive(bag.path.resolve().stem, "rosbag", scans, odometry, None, None, tuple(notes))


def _cloud_topics(
    path: Path, used: list[Topic], every: list[Topic], notes: list[str], named: bool
) -> list[Topic]:
    """The topics of point clouds to use; where none is named, the one with the most messages."""
    clouds = [topic for topic in used if topic.type in (CLOUD, *LIVOX)]
    if not clouds:
        kinds = ", ".join(sorted({topic.type for topic in every})) or "nothing"
        raise MaptileError(f"{path}: no topic with point clouds among those used; it has {kinds}")
    if named or len(clouds) == 1:
        return clouds
    best = max(clouds, key=lambda topic: topic.messages)
    rest = ", ".join(topic.name for topic in clouds if topic is not best)
    notes.append(f"point clouds of {best.name}; others are {rest} (--topics NAME,... changes it)")
    return [best]


@dataclass(frozen=True)
class _Index:
    """Where the scans are in a bag; S scans of K topics, sorted by time."""

    t_ns: Times
    record_ns: Times
    which: NDArray[np.int8]
    frames: list[str]
    clocks: list[str]


def _index(bag: Bag, clouds: list[Topic]) -> _Index:
    """Read the times of all scans, and of each topic the first scan with points."""
    number = {topic.name: k for k, topic in enumerate(clouds)}
    times: list[int] = []
    records: list[int] = []
    which: list[int] = []
    for message in bag.heads(number):
        times.append(measured(bag, message)[0])
        records.append(message.record_ns)
        which.append(number[message.topic])
    frames, clocks = [""] * len(clouds), [""] * len(clouds)
    for k, topic in enumerate(clouds):
        for message in bag.messages([topic.name]):
            t_ns, frames[k] = measured(bag, message)
            points = decode(bag, message, topic.type, t_ns)
            clocks[k] = points.clock
            if len(points.xyz):  # an empty one has no times to learn from
                break
    t_ns_all, record, kind = (np.array(part, np.int64) for part in (times, records, which))
    order = np.lexsort((kind, t_ns_all))
    again = (np.diff(t_ns_all[order], prepend=-1) == 0) & (np.diff(kind[order], prepend=-1) == 0)
    order = order[~again]
    return _Index(t_ns_all[order], record[order], kind[order].astype(np.int8), frames, clocks)


def _frames(bag: Bag, topics: list[Topic]) -> FrameTree:
    """The transforms of ``tf_static``."""
    tree = FrameTree()
    for message in bag.messages(_transforms(topics, "tf_static")):
        for one in bag.decode(message, TRANSFORMS).transforms:
            tree.add(one.header.frame_id, one.child_frame_id, _pose(one.transform))
    return tree


def _mounted(path: Path, tree: FrameTree, frame: str, base: str) -> Array | None:
    """(4, 4) pose of a sensor's frame in the vehicle's; None where nothing connects them.

    Raises:
        MaptileError: It is no rigid motion, or no sensor is that far from its vehicle.
    """
    mount = tree.pose(frame, base)
    if mount is None:
        return None
    if not np.isfinite(mount).all():
        raise MaptileError(
            f"{path}: a transform of tf_static between {frame} and {base} is no rigid motion; "
            "correct it, or record the bag without it"
        )
    away = np.abs(mount[:3, 3]).max()
    if away > MAX_MOUNT_M:
        raise MaptileError(
            f"{path}: tf_static puts {frame} {away:.3g} m from {base}, farther than any sensor on "
            "its vehicle; correct it, or record the bag without it"
        )
    return mount


def _transforms(topics: list[Topic], ending: str) -> list[str]:
    """Names of the topics with transforms whose name has this ending."""
    kinds = (TRANSFORMS, OLD_TRANSFORMS)
    return [one.name for one in topics if one.type in kinds and one.name.endswith(ending)]


def _pose(transform: Any) -> Array:
    """(4, 4) of a decoded Transform; NaN where it is no rigid motion."""
    shift, rotation = vector(transform.translation), vector(transform.rotation)
    if not rotation.any():  # never set
        rotation = np.array([0.0, 0.0, 0.0, 1.0])
    near = (np.abs(shift) < MAX_SHIFT_M).all() and (np.abs(rotation) < 2).all()
    if not near or rotation @ rotation < 0.5:
        return np.full((4, 4), np.nan)
    pose: Array = se3_from_quaternion(shift[None], rotation[None])[0]
    return pose


@dataclass
class _Poses:
    """Poses of a frame as they are read."""

    frame: str
    t_ns: list[int] = field(default_factory=list)
    rows: list[Array] = field(default_factory=list)

    def track(self, path: Path, notes: list[str]) -> PoseTrack | None:
        """The track; None where there are fewer than two poses."""
        if len(self.t_ns) < 2:
            return None
        times = np.array(self.t_ns, np.int64)
        return pose_track(path, times, np.array(self.rows), np.zeros(len(times), np.int32), notes)


def _odometry(
    bag: Bag, used: list[Topic], every: list[Topic], notes: list[str]
) -> tuple[PoseTrack | None, str | None]:
    """The odometry of a bag, and the name of the frame whose poses it has."""
    topics = [topic for topic in used if topic.type == ODOMETRY]
    if topics:
        best = max(topics, key=lambda topic: topic.messages)
        if len(topics) > 1:
            rest = ", ".join(topic.name for topic in topics if topic is not best)
            notes.append(f"odometry of {best.name}; others are {rest}")
        poses = _Poses("")
        for message in bag.messages([best.name]):
            content = bag.decode(message, ODOMETRY)
            poses.frame = content.child_frame_id or poses.frame
            poses.t_ns.append(stamps(content.header.stamp) or message.record_ns)
            pose = content.pose.pose
            poses.rows.append(np.concatenate([vector(pose.position), vector(pose.orientation)]))
        return poses.track(bag.path, notes), plain(poses.frame) or None
    moved = _of_transforms(bag, every)
    if moved is None:
        notes.append("no odometry: neither nav_msgs/Odometry nor a transform from odom or map")
        return None, None
    notes.append(f"odometry: the transforms of {moved.frame} in tf")
    return moved.track(bag.path, notes), moved.frame


def _of_transforms(bag: Bag, topics: list[Topic]) -> _Poses | None:
    """The poses that ``tf`` gives the vehicle's frame in one of the frames ``FIXED``."""
    moving: dict[tuple[str, str], _Poses] = {}
    for message in bag.messages(_transforms(topics, "tf")):
        for transform in bag.decode(message, TRANSFORMS).transforms:
            parent, child = plain(transform.header.frame_id), plain(transform.child_frame_id)
            if parent in FIXED and child not in FIXED:
                poses = moving.setdefault((parent, child), _Poses(child))
                poses.t_ns.append(stamps(transform.header.stamp) or message.record_ns)
                at = transform.transform
                poses.rows.append(np.concatenate([vector(at.translation), vector(at.rotation)]))
    if not moving:
        return None
    counts = Counter({edge: len(poses.t_ns) for edge, poses in moving.items()})
    return moving[max(counts, key=lambda edge: (-FIXED.index(edge[0]), counts[edge]))]
