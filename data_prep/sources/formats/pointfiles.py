"""Point clouds out of .ply, .pcd, .las, .laz and .bin files, with every size checked.

Open3D would fill what a cut-off file lacks with zeros without a word, and allocate whatever a
header claims; the tests compare with it on sound files.

Labels are a property (PLY) or field (PCD) of whole numbers called label, semantic, class or
classification, also as CloudCompare writes it (scalar_Label), or the classes of LAS where one of
them is more than "never classified" (0) and "unassigned" (1).

Times are a property or field offset_ns, offset_time, t, time, timestamp or gps_time, or the GPS
time of LAS: whole numbers are nanoseconds, others seconds. They count only where they can be
nothing else: they spread over the time of one sweep (5 to 300 ms), and are near 0 (then they are
relative to the cloud's time) or near the cloud's own time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.sources.formats.las_files import read_las
from data_prep.sources.storage.tree import Node

Points = NDArray[np.floating]
Columns = dict[str, NDArray[np.generic]]
"""x, y and z, and what there is of "label" and "time": (N,) each."""

LABEL_NAMES = ("label", "semantic", "class", "classification")
TIME_NAMES = ("offset_ns", "offset_time", "t", "time", "timestamp", "gps_time")
_SWEEP_NS = (5_000_000, 300_000_000)

_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error)
_PLY_TYPES = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_PLY_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}


@dataclass(frozen=True)
class Cloud:
    """The points of a file.

    Attributes:
        points: (N, 3) metres, float32 or float64, in the file's own frame.
        label: (N,) int32, the file's own numbers of what points belong to; None without.
        seconds: (N,) float32, when each point was measured, relative to the cloud's time; None
            where that is not clear.
    """

    points: Points
    label: NDArray[np.int32] | None = None
    seconds: NDArray[np.float32] | None = None


def read_cloud(node: Node, t_ns: int | None = None) -> Cloud:
    """Read a file of points.

    Args:
        node: A file whose suffix is one of .ply, .pcd, .bin, .las and .laz.
        t_ns: The time of the cloud, in nanoseconds since 1970, where it is known.

    Raises:
        MaptileError: The file cannot be read, is cut short, or is not of its format.
    """
    kind = node.suffix.lower()[1:]
    try:
        data = node.read_bytes()
        if kind == "bin":
            return Cloud(_bin(data))
        if kind in ("las", "laz"):
            points, classes, times = read_las(data)
            label = classes.astype(np.int32) if (classes > 1).any() else None
            return Cloud(points, label, None if times is None else _seconds(times, t_ns))
        columns = {"ply": _ply, "pcd": _pcd}[kind](data)
        points = np.stack([columns[name].astype(np.float64) for name in "xyz"], axis=1)
        return Cloud(
            points,
            _labels(columns["label"]) if "label" in columns else None,
            _seconds(columns["time"], t_ns) if "time" in columns else None,
        )
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaptileError(
            f"{node}: not readable as a {kind} point cloud ({reason}); copy it again"
        ) from None


def _labels(values: NDArray[np.generic]) -> NDArray[np.int32] | None:
    """(N,) whole numbers; None where they are none. What has no number (NaN) is 0."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0, values)
        if (values != np.rint(values)).any():
            return None
    if len(values) and not -(2**31) <= values.min() <= values.max() < 2**31:
        return None
    return values.astype(np.int32)


def _seconds(values: NDArray[np.generic], t_ns: int | None) -> NDArray[np.float32] | None:
    """(N,) seconds relative to the cloud's time ``t_ns``; None where that is not clear."""
    whole = values.dtype.kind in "iu"
    known = values if whole else values[np.isfinite(values)]
    if not len(known):
        return None
    per_second = 1_000_000_000 if whole else 1
    low, high = known.min().item(), known.max().item()
    if not _SWEEP_NS[0] <= (high - low) * (1_000_000_000 // per_second) <= _SWEEP_NS[1]:
        return None
    for origin_ns in (0,) if t_ns is None else (0, t_ns):
        origin = origin_ns if whole else origin_ns / 1e9
        if max(abs(low - origin), abs(high - origin)) <= per_second:
            relative = values.astype(np.int64 if whole else np.float64) - origin
            relative = relative / per_second
            return np.where(np.isfinite(relative), relative, 0).astype(np.float32)
    return None


def _roles(names: Sequence[str]) -> dict[str, str]:
    """Which of a file's fields are x, y, z, "label" and "time"."""
    roles = {name: name for name in "xyz"}
    plain = {name.lower().removeprefix("scalar_"): name for name in reversed(names)}
    if "s" in plain:  # s and t are a place in a texture
        plain.pop("t", None)
    for role, known in (("label", LABEL_NAMES), ("time", TIME_NAMES)):
        found = next((plain[name] for name in known if name in plain), None)
        if found is not None:
            roles[role] = found
    return roles


def _bin(data: bytes) -> Points:
    """KITTI's layout: float32 rows of x, y, z, reflectance."""
    if len(data) % 16:
        raise ValueError(f"{len(data)} bytes are not a multiple of 16: cut short")
    return np.frombuffer(data, "<f4").reshape(-1, 4)[:, :3]


def _ply(data: bytes) -> Columns:
    head, found, body = data.partition(b"end_header")
    lines = head.decode("ascii", "replace").splitlines()
    if not found or not lines or lines[0].strip() != "ply":
        raise ValueError("no ply header")
    encoding, element, count, fields = "", "", 0, []
    for words in (line.split() for line in lines[1:] if line.strip()):
        if words[0] == "format":
            encoding = words[1]
        elif words[0] == "element":
            if not element and words[1] != "vertex":
                raise ValueError("its first element is not vertex")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[0] == "property" and element == "vertex":
            fields.append((words[2], _PLY_ORDER[encoding] + _PLY_TYPES[words[1]]))
    newline = body.find(b"\n") + 1  # the rest of the line end_header stands on
    if encoding == "ascii":
        return _from_text(body[newline:], fields, count)
    return _from_rows(body[newline:], np.dtype(fields), count)


def _pcd(data: bytes) -> Columns:
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = data.find(b"\n", start)
        if end < 0 or start > 65536:
            raise ValueError("no pcd header")
        words = data[start:end].decode("ascii", "replace").split()
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
        start = end + 1
    names = header["FIELDS"]
    repeats = [int(n) for n in header.get("COUNT", ["1"] * len(names))]
    if not all(0 < n < 10_000 for n in repeats):
        raise ValueError("COUNT out of range")
    if not set(header["TYPE"]) <= {"F", "I", "U"}:
        raise ValueError("unknown TYPE")
    # A padding field is named "_", and may come more than once; of several values none is wanted.
    names = [
        f"_{i}" if name == "_" or repeat > 1 else name
        for i, (name, repeat) in enumerate(zip(names, repeats, strict=True))
    ]
    count = int(header["POINTS"][0]) if "POINTS" in header else _product(header)
    kinds = [
        f"<{kind.lower()}{size}" for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)
    ]
    body, encoding = data[start:], header["DATA"][0]
    if encoding == "ascii":
        columns = [
            (name if i == 0 else f"{name}.{i}", kind)
            for name, kind, repeat in zip(names, kinds, repeats, strict=True)
            for i in range(repeat)
        ]
        return _from_text(body, columns, count)
    dtype = np.dtype(
        [(name, kind, (n,)) for name, kind, n in zip(names, kinds, repeats, strict=True)]
    )
    if encoding == "binary":
        return _from_rows(body, dtype, count)
    if encoding == "binary_compressed":
        return _from_columns(body, dtype, count)
    raise ValueError(f"unknown encoding {encoding}")


def _product(header: dict[str, list[str]]) -> int:
    return int(header["WIDTH"][0]) * int(header["HEIGHT"][0])


def _from_text(body: bytes, fields: list[tuple[str, str]], count: int) -> Columns:
    names = [name for name, _ in fields]
    words = body.split(maxsplit=count * len(names))[: count * len(names)]
    if count < 0 or len(words) < count * len(names):
        raise ValueError(f"fewer than the {count} points that its header names: cut short")
    columns: Columns = {}
    for role, name in _roles(names).items():
        column = np.array(words[names.index(name) :: len(names)], dtype="S").astype(np.float64)
        if role == "time" and fields[names.index(name)][1][-2] in "iu":
            column = np.rint(column).astype(np.int64)
        columns[role] = column
    return columns


def _from_rows(body: bytes, dtype: np.dtype[np.void], count: int) -> Columns:
    if count < 0 or count * dtype.itemsize > len(body):
        raise ValueError(f"fewer than the {count} points that its header names: cut short")
    rows = np.frombuffer(body, dtype, count)
    return {role: rows[name].reshape(count) for role, name in _roles(dtype.names or ()).items()}


def _from_columns(body: bytes, dtype: np.dtype[np.void], count: int) -> Columns:
    packed, size = np.frombuffer(body[:8], "<u4").tolist()
    if size != count * dtype.itemsize or packed > len(body) - 8:
        raise ValueError(f"fewer than the {count} points that its header names: cut short")
    data = _unpack_lzf(body[8 : 8 + packed], size)
    columns: Columns = {}
    for role, name in _roles(dtype.names or ()).items():
        field, offset = dtype.fields[name][:2]  # type: ignore[index]
        columns[role] = np.frombuffer(data, field.base, count, offset * count)
    return columns


def _unpack_lzf(data: bytes, size: int) -> bytes:
    """Undo LZF: runs of literal bytes, and references to what was written before."""
    out = bytearray()
    at = 0
    while at < len(data) and len(out) <= size:
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += data[at]
            at += 1
        length += 2
        source = len(out) - ((control & 31) << 8) - data[at] - 1
        at += 1
        if source < 0:
            raise ValueError("damaged compressed data")
        seen = out[source : source + length]
        out += (seen * (length // len(seen) + 1))[:length]
    if len(out) != size:
        raise ValueError("damaged compressed data")
    return bytes(out)
