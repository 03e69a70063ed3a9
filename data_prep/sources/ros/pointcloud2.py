"""Points of ``sensor_msgs/PointCloud2`` and of Livox's own messages, with a time per point."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array

TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
"""NumPy types of the numbers that stand for types in a PointField."""
TIME_FIELDS = ("t", "time", "timestamp", "offset_time", "time_offset", "stamp")
"""Names of the field that has a point's time."""
UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds per unit in which times may be."""
SCAN_S = (0.004, 1.5)
"""A scan takes this many seconds."""
ABSOLUTE_S = 1e8
"""Times of this many seconds or more are since 1970, not since the scan."""
LIVOX_BYTES = 19
"""Bytes of a point of ``livox_ros_driver*/CustomMsg`` in ROS 1; in ROS 2 it is padded to 20."""


class CloudError(ValueError):
    """A cloud that is not what it states; the text says what is wrong with it."""


class Points(NamedTuple):
    """The points of a cloud in the frame of its sensor.

    Attributes:
        xyz: (N, 3) float32 or float64 metres; not finite where there was no return.
        seconds: (N,) float64 since the cloud's own time, or None.
        clock: What their times were taken to be, such as ``t in ns since the scan``; "" for none.
    """

    xyz: NDArray[np.floating]
    seconds: Array | None
    clock: str


def points_of(cloud: Any, t_ns: int) -> Points:
    """The points of a decoded PointCloud2, organised or not, of any order and type of fields.

    Args:
        cloud: The message.
        t_ns: Its time.

    Raises:
        CloudError: It has no x, y, z, or less data than it states.
    """
    table = structured(cloud)
    name = next((name for name in TIME_FIELDS if name in (table.dtype.names or ())), None)
    with np.errstate(invalid="ignore", over="ignore"):  # damaged numbers are not finite
        xyz = _coordinates(table)
        if name is None:
            return Points(xyz, None, "")
        seconds, clock = point_times(table[name].astype(np.float64), t_ns, name)
    return Points(xyz, seconds, clock)


def _coordinates(table: NDArray[Any]) -> NDArray[np.floating]:
    """(N, 3) of fields x, y, z: float32 where no field has more precision, else float64."""
    columns = [table[axis] for axis in ("x", "y", "z")]
    exact = all(np.can_cast(column.dtype, np.float32) for column in columns)
    xyz: NDArray[np.floating] = np.empty((len(table), 3), np.float32 if exact else np.float64)
    for k, column in enumerate(columns):
        xyz[:, k] = column
    return xyz


def structured(cloud: Any) -> NDArray[Any]:
    """(N,) records of the fields of a decoded PointCloud2.

    Raises:
        CloudError: It has no x, y, z, or less data than it states.
    """
    order = ">" if cloud.is_bigendian else "<"
    fields = {f.name: f for f in cloud.fields if f.datatype in TYPES and f.name}
    missing = [name for name in ("x", "y", "z") if name not in fields]
    if missing:
        raise CloudError(f"a cloud without a field {', '.join(missing)}")
    kinds = {name: np.dtype(order + TYPES[f.datatype]) for name, f in fields.items()}
    if any(f.offset + kinds[name].itemsize > cloud.point_step for name, f in fields.items()):
        raise CloudError(f"a cloud whose fields reach beyond its {cloud.point_step} byte points")
    record = np.dtype(
        {
            "names": list(fields),
            "formats": list(kinds.values()),
            "offsets": [f.offset for f in fields.values()],
            "itemsize": cloud.point_step,
        }
    )
    width, height = int(cloud.width), int(cloud.height)
    used, row = width * record.itemsize, max(int(cloud.row_step), width * record.itemsize)
    data: NDArray[np.uint8] = np.ascontiguousarray(cloud.data).view(np.uint8)
    if height and len(data) < (height - 1) * row + used:
        raise CloudError(f"a cloud of {len(data)} bytes that states {height} x {width} points")
    if height == 1 or row == used:
        return np.frombuffer(data[: height * used], record)
    rows = np.stack([data[k * row : k * row + used] for k in range(height)])
    return np.frombuffer(rows.tobytes(), record)


def livox_points(raw: bytes, begin: int, ros1: bool) -> Points:
    """The points of a Livox CustomMsg.

    Args:
        raw: The message.
        begin: Bytes of its header.
        ros1: Whether it is serialised as in ROS 1.

    Raises:
        CloudError: It is cut short.
    """
    # A time base (8 bytes), the number of points (4), an id (1), reserved bytes (3), the number of
    # points again, the points. In ROS 2 numbers are aligned, counted from the fifth byte.
    at = begin if ros1 else (begin - 4 + 7) // 8 * 8 + 4
    at, size = at + 20, LIVOX_BYTES if ros1 else LIVOX_BYTES + 1
    count = int(np.frombuffer(raw, "<u4", 1, at - 4)[0]) if len(raw) >= at else -1
    if count < 0 or len(raw) < at + count * size - (size - LIVOX_BYTES):
        raise CloudError("a Livox message that is cut short")
    padded = raw[at : at + count * size].ljust(count * size, b"\0")
    record = np.dtype(
        {
            "names": ["offset_time", "x", "y", "z"],
            "formats": ["<u4", "<f4", "<f4", "<f4"],
            "offsets": [0, 4, 8, 12],
            "itemsize": size,
        }
    )
    table = np.frombuffer(padded, record)
    with np.errstate(invalid="ignore"):
        xyz = _coordinates(table)
    return Points(xyz, table["offset_time"] * 1e-9, "offset_time in ns since the scan")


def point_times(values: Array, t_ns: int, name: str) -> tuple[Array | None, str]:
    """Seconds since the scan's own time, and in words what the values were taken to be.

    The unit is the one in which they last as long as a scan does; values of a date are since 1970.

    Args:
        values: (N,) as stored.
        t_ns: Time of the scan, nanoseconds.
        name: Of the field.

    Returns:
        (N,) seconds; None if no unit fits, as where all values are equal.
    """
    finite = np.isfinite(values)
    usual = values if finite.all() else values[finite]
    first, last = (usual.min(), usual.max()) if len(usual) else (0.0, 0.0)
    for unit, size in UNITS.items():
        if SCAN_S[0] <= float(last - first) * size <= SCAN_S[1]:
            since_1970 = float(first) * size >= ABSOLUTE_S
            seconds = (values - t_ns * (1e-9 / size)) * size if since_1970 else values * size
            origin = "since 1970" if since_1970 else "since the scan"
            return np.where(finite, seconds, 0.0), f"{name} in {unit} {origin}"
    return None, ""
