"""ROS bags made of given clouds and poses, with rosbags' own writers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.rosbag2 import Writer as Writer2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

STORE1, STORE2 = get_typestore(Stores.ROS1_NOETIC), get_typestore(Stores.ROS2_HUMBLE)
STORE1.register(
    get_types_from_msg("geometry_msgs/TransformStamped[] transforms", "tf2_msgs/msg/TFMessage")
)
for store in (STORE1, STORE2):
    sentence = "std_msgs/Header header\nstring sentence"
    store.register(get_types_from_msg(sentence, "nmea_msgs/msg/Sentence"))
CLOUD, ODOMETRY = "sensor_msgs/msg/PointCloud2", "nav_msgs/msg/Odometry"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
KINDS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}


class BagMaker:
    """Writes a bag of one of three kinds: ros1, db3 or mcap.

    ``packed`` names a compression of ROS 1 (lz4, bz2), or what of a ROS 2 bag is packed (file,
    message).
    """

    def __init__(self, folder: Path, kind: str, packed: str | None = None) -> None:
        self.kind = kind
        self.ros1 = kind == "ros1"
        self.types = (STORE1 if self.ros1 else STORE2).types
        if self.ros1:
            self.path = folder / "drive.bag"
            self.writer: Any = Writer1(self.path)
        else:
            self.path = folder / kind
            plugin = StoragePlugin.MCAP if kind == "mcap" else StoragePlugin.SQLITE3
            self.writer = Writer2(self.path, version=9, storage_plugin=plugin)
        self.connections: dict[str, Any] = {}
        if packed is not None and self.ros1:
            self.writer.set_compression(Writer1.CompressionFormat[packed.upper()])
        elif packed is not None:
            mode = CompressionMode[packed.upper()]
            self.writer.set_compression(mode, CompressionFormat.ZSTD)

    def __enter__(self) -> BagMaker:
        self.writer.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.writer.close()

    def write(self, topic: str, type: str, t_ns: int, message: Any) -> None:
        if topic not in self.connections:
            store = STORE1 if self.ros1 else STORE2
            self.connections[topic] = self.writer.add_connection(topic, type, typestore=store)
        raw = (
            STORE1.serialize_ros1(message, type)
            if self.ros1
            else STORE2.serialize_cdr(message, type)
        )
        self.writer.write(self.connections[topic], t_ns, raw)

    def header(self, t_ns: int, frame: str) -> Any:
        stamp = self.types["builtin_interfaces/msg/Time"](
            sec=t_ns // 1_000_000_000, nanosec=t_ns % 1_000_000_000
        )
        more = {"seq": 0} if self.ros1 else {}
        return self.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame, **more)

    def cloud(self, topic: str, t_ns: int, frame: str, table: np.ndarray, **how: Any) -> None:
        """A PointCloud2 of (N,) or (H, W) records; ``padding``: bytes at the end of each row."""
        padding, big = how.get("padding", 0), how.get("big", False)
        if big:
            swapped = [(name, kind.newbyteorder(">")) for name, kind in _fields(table)]
            offsets = [table.dtype.fields[name][1] for name, _ in swapped]
            shape = {"names": [n for n, _ in swapped], "formats": [k for _, k in swapped]}
            size = table.dtype.itemsize
            table = table.astype(np.dtype({**shape, "offsets": offsets, "itemsize": size}))
        rows = table if table.ndim == 2 else table[None]
        height, width = rows.shape
        step = rows.dtype.itemsize
        field = self.types["sensor_msgs/msg/PointField"]
        fields = [
            field(name, table.dtype.fields[name][1], KINDS[kind.str[1:]], 1)
            for name, kind in _fields(table)
        ]
        data = b"".join(row.tobytes() + b"\xff" * padding for row in rows)
        message = self.types[CLOUD](
            header=self.header(t_ns, frame),
            height=height,
            width=width,
            fields=fields,
            is_bigendian=big,
            point_step=step,
            row_step=step * width + padding,
            data=np.frombuffer(data, np.uint8),
            is_dense=False,
        )
        self.write(topic, CLOUD, how.get("record_ns", t_ns), message)

    def odometry(self, topic: str, t_ns: int, pose: np.ndarray, frame: str) -> None:
        position, rotation = self.parts(pose)
        geometry = "geometry_msgs/msg/"
        with_covariance = self.types[f"{geometry}PoseWithCovariance"](
            pose=self.types[f"{geometry}Pose"](position, rotation), covariance=np.zeros(36)
        )
        zero = self.types[f"{geometry}Vector3"](0.0, 0.0, 0.0)
        twist = self.types[f"{geometry}TwistWithCovariance"](
            twist=self.types[f"{geometry}Twist"](zero, zero), covariance=np.zeros(36)
        )
        message = self.types[ODOMETRY](self.header(t_ns, "odom"), frame, with_covariance, twist)
        self.write(topic, ODOMETRY, t_ns, message)

    def transform(self, topic: str, t_ns: int, parent: str, child: str, pose: np.ndarray) -> None:
        position, rotation = self.parts(pose)
        geometry = "geometry_msgs/msg/"
        moved = self.types[f"{geometry}Transform"](
            self.types[f"{geometry}Vector3"](position.x, position.y, position.z), rotation
        )
        stamped = self.types[f"{geometry}TransformStamped"](self.header(t_ns, parent), child, moved)
        self.write(topic, TRANSFORMS, t_ns, self.types[TRANSFORMS]([stamped]))

    def position(self, topic: str, t_ns: int, fix: tuple[float, float], std_m: float) -> None:
        """A NavSatFix at latitude, longitude; without a fix where the latitude is NaN."""
        kind = "sensor_msgs/msg/NavSatFix"
        status = self.types["sensor_msgs/msg/NavSatStatus"](
            status=-1 if np.isnan(fix[0]) else 0, service=1
        )
        message = self.types[kind](
            header=self.header(t_ns, "gps"),
            status=status,
            latitude=fix[0],
            longitude=fix[1],
            altitude=50.0,
            position_covariance=np.diag([std_m**2, std_m**2, 4 * std_m**2]).ravel(),
            position_covariance_type=2 if std_m > 0 else 0,
        )
        self.write(topic, kind, t_ns, message)

    def sentence(self, topic: str, t_ns: int, text: str) -> None:
        """A sentence of NMEA 0183."""
        kind = "nmea_msgs/msg/Sentence"
        self.write(topic, kind, t_ns, self.types[kind](self.header(t_ns, "gps"), text))

    def parts(self, pose: np.ndarray) -> tuple[Any, Any]:
        x, y, z, w = (float(v) for v in Rotation.from_matrix(pose[:3, :3]).as_quat())
        position = self.types["geometry_msgs/msg/Point"](*(float(v) for v in pose[:3, 3]))
        return position, self.types["geometry_msgs/msg/Quaternion"](x, y, z, w)


def _fields(table: np.ndarray) -> list[tuple[str, np.dtype]]:
    return [(name, table.dtype.fields[name][0]) for name in table.dtype.names]
