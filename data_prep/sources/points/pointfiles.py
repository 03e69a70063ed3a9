"""Point clouds in .ply, .pcd, .las, .laz, .bin and .e57 files, with every size checked.

Open3D is not used: it fills the missing part of a cut-off file with zeros silently, and allocates
any size that a header declares. The tests compare with it on sound files.

Labels are a property (PLY) or field (PCD) of whole numbers named label, semantic, class or
classification, also with CloudCompare's prefix (scalar_Label), or the classes of LAS where one of
them is above "never classified" (0) and "unassigned" (1).

Times are a property or field offset_ns, offset_time, t, time, timestamp or gps_time, or the GPS
time of LAS: whole numbers are nanoseconds, others seconds. They are used only if they are
unambiguous: they spread over the duration of one sweep (5 to 300 ms), and are near 0 (relative to
the cloud's time) or near the cloud's own time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.sources.points.bin_layout import Layout, LayoutError, layout_of, layout_of_all
from data_prep.sources.points.e57_files import NotInstalledError, read_e57
from data_prep.sources.points.las_files import las_count, read_las
from data_prep.sources.points.thinning import Data, content_of, kept, lines_kept, rows_kept
from data_prep.sources.storage.tree import Node

Points = NDArray[np.floating]
"""(N, 3) points, metres."""

Columns = dict[str, NDArray[np.generic]]
"""Columns "x", "y" and "z", and "label" and "time" where they exist, (N,) each."""

LABEL_NAMES = ("label", "semantic", "class", "classification")
"""Names of a column of labels, in order of preference."""

TIME_NAMES = ("offset_ns", "offset_time", "t", "time", "timestamp", "gps_time")
"""Names of a column of times, in order of preference."""

_SWEEP_NS = (5_000_000, 300_000_000)
"""Shortest and longest duration of a sweep, nanoseconds."""

_MAX_HEADER_BYTES = 65536
"""Longest header of a .pcd."""

_MAX_UNPACKED_BYTES = 256 << 20
"""Largest unpacked size of a compressed .pcd, bytes: unpacking it takes seconds."""

_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error)
"""Exceptions that damage in a file causes."""

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
"""numpy's names of the types of PLY."""

_PLY_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}
"""numpy's byte order of the encodings of PLY."""


@dataclass(frozen=True)
class Cloud:
    """The points of a file.

    Attributes:
        points: (N, 3) metres, float32 or float64, in the file's own frame.
        label: (N,) int32, class number of each point in the file's own table; None without.
        seconds: (N,) float32, time of each point relative to the cloud's time; None where the file
            has no times, or they are ambiguous.
        count: Number of points of the file; N, unless it is thinned (``thinning``).
    """

    points: Points
    label: NDArray[np.int32] | None = None
    seconds: NDArray[np.float32] | None = None
    count: int = 0


def said_of_thinning(cloud: Cloud) -> list[str]:
    """A note on a cloud that is thinned; none if it is not."""
    points = len(cloud.points)
    if cloud.count <= points:
        return []
    return [f"a cloud of {cloud.count:,} points is thinned to {points:,}"]


def layout_of_files(files: Sequence[Node], columns: Sequence[str] | None = None) -> Layout:
    """The layout of some .bin files of one drive; see ``layout_of_all``.

    Args:
        files: The files, one or more.
        columns: Names of their columns; None: unknown.

    Raises:
        MaptileError: A file cannot be read, or the layout cannot be decided.
    """
    try:
        return layout_of_all([content_of(file) for file in files], columns)
    except OSError as error:
        raise MaptileError(f"{files[0].parent}: cannot read a cloud ({error.strerror})") from None
    except LayoutError as error:
        raise MaptileError(f"{files[0]}: not readable as a bin point cloud: {error}") from None


def read_cloud(node: Node, t_ns: int | None = None, layout: Layout | None = None) -> Cloud:
    """Read a file of points.

    Args:
        node: A file whose suffix is one of .ply, .pcd, .bin, .las, .laz and .e57.
        t_ns: The time of the cloud, in nanoseconds since 1970, or None.
        layout: That of a .bin; None: by its contents.

    Raises:
        MaptileError: The file cannot be read, is cut short, or is not of its format.
    """
    kind = node.suffix.lower()[1:]
    try:
        if kind == "e57":
            points = read_e57(node)
            chosen = kept(len(points))
            return Cloud(points if chosen is None else points[chosen], count=len(points))
        data = content_of(node)
        if kind == "bin":
            return _bin(data, layout or layout_of(data), t_ns)
        if kind in ("las", "laz"):
            points, classes, times = read_las(data)
            label = classes.astype(np.int32) if (classes > 1).any() else None
            seconds = None if times is None else _seconds(times, t_ns)
            return Cloud(points, label, seconds, las_count(data))
        columns, count = {"ply": _ply, "pcd": _pcd}[kind](data)
        with np.errstate(invalid="ignore"):  # damaged numbers are not finite
            points = np.stack([columns[name].astype(np.float64) for name in "xyz"], axis=1)
        return _cloud(points, columns, t_ns, count)
    except (LayoutError, NotInstalledError) as error:
        raise MaptileError(f"{node}: not readable as a {kind} point cloud: {error}") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaptileError(
            f"{node}: not readable as a {kind} point cloud ({reason}); copy it again"
        ) from None


def _cloud(points: Points, columns: Columns, t_ns: int | None, count: int) -> Cloud:
    """A cloud with the labels and times that there are among the columns."""
    return Cloud(
        points,
        _labels(columns["label"]) if "label" in columns else None,
        _seconds(columns["time"], t_ns) if "time" in columns else None,
        count,
    )


def _labels(values: NDArray[np.generic]) -> NDArray[np.int32] | None:
    """Return (N,) int32 class numbers, 0 for NaN; None where a value is no int32 number."""
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), 0, values)
        if (values != np.rint(values)).any():
            return None
    if len(values) and not -(2**31) <= values.min() <= values.max() < 2**31:
        return None
    return values.astype(np.int32)


def _seconds(values: NDArray[np.generic], t_ns: int | None) -> NDArray[np.float32] | None:
    """(N,) seconds relative to the cloud's time ``t_ns``; None where they are ambiguous."""
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
            with np.errstate(invalid="ignore"):
                relative = values.astype(np.int64 if whole else np.float64) - origin
            relative = relative / per_second
            return np.where(np.isfinite(relative), relative, 0).astype(np.float32)
    return None


def _roles(names: Sequence[str]) -> dict[str, str]:
    """Names of a file's fields by role: "x", "y", "z", "label" and "time"."""
    plain = {name.lower().removeprefix("scalar_"): name for name in reversed(names)}
    roles = {axis: axis if axis in names else plain.get(axis, "") for axis in "xyz"}
    missing = [axis for axis, name in roles.items() if not name]
    if missing:
        raise ValueError(f"no field {', '.join(missing)}")
    if "s" in plain:  # s and t are texture coordinates
        plain.pop("t", None)
    for role, known in (("label", LABEL_NAMES), ("time", TIME_NAMES)):
        found = next((plain[name] for name in known if name in plain), None)
        if found is not None:
            roles[role] = found
    return roles


def _bin(data: Data, layout: Layout, t_ns: int | None) -> Cloud:
    """The points of a file without a header."""
    if not layout.fits(len(data)):
        raise ValueError(f"{len(data)} bytes are no whole number of points in {layout}: cut short")
    row = np.dtype([("row", layout.kind, (layout.columns,))])
    count = len(data) // row.itemsize
    if layout.blocks:
        table, chosen = layout.table(data), kept(count)
        table = table if chosen is None else table[chosen]
    else:
        table = rows_kept(data, 0, row, count)["row"]
    columns: Columns = {
        role: table[:, layout.names.index(name)] for role, name in _roles(layout.names).items()
    }
    points = np.stack([table[:, layout.names.index(axis)] for axis in "xyz"], axis=1)
    return _cloud(points, columns, t_ns, count)


def _ply(data: Data) -> tuple[Columns, int]:
    end = data.find(b"end_header", 0, _MAX_HEADER_BYTES)
    lines = data[: max(end, 0)].decode("ascii", "replace").splitlines()
    if end < 0 or not lines or lines[0].strip() != "ply":
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
    start = data.find(b"\n", end) + 1 or len(data)  # the end of the line of end_header
    if encoding == "ascii":
        return _from_text(data, start, fields, count), count
    return _from_rows(data, start, np.dtype(fields), count), count


def _pcd(data: Data) -> tuple[Columns, int]:
    header, start = _pcd_header(data)
    names = header["FIELDS"]
    repeats = [int(n) for n in header.get("COUNT", ["1"] * len(names))]
    if not all(0 < n < 10_000 for n in repeats):
        raise ValueError("COUNT out of range")
    types = [kind.lower() for kind in header["TYPE"]]
    if not set(types) <= {"f", "i", "u"}:
        raise ValueError("unknown TYPE")
    # Padding is named "_" and may occur repeatedly; fields of several values are not used either.
    names = [
        f"_{i}" if name == "_" or repeat > 1 else name
        for i, (name, repeat) in enumerate(zip(names, repeats, strict=True))
    ]
    count = int(header["POINTS"][0]) if "POINTS" in header else _product(header)
    kinds = [f"<{kind}{size}" for kind, size in zip(types, header["SIZE"], strict=True)]
    encoding = header["DATA"][0].lower()
    if encoding == "ascii":
        columns = [
            (name if i == 0 else f"{name}.{i}", kind)
            for name, kind, repeat in zip(names, kinds, repeats, strict=True)
            for i in range(repeat)
        ]
        return _from_text(data, start, columns, count), count
    dtype = np.dtype(
        [(name, kind, (n,)) for name, kind, n in zip(names, kinds, repeats, strict=True)]
    )
    if encoding == "binary":
        return _from_rows(data, start, dtype, count), count
    if encoding == "binary_compressed":
        return _from_columns(data, start, dtype, count), count
    raise ValueError(f"unknown encoding {encoding}")


def _pcd_header(data: Data) -> tuple[dict[str, list[str]], int]:
    """The words of each line of a .pcd's header by the first one, and where the points begin."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = data.find(b"\n", start)
        if end < 0 or start > _MAX_HEADER_BYTES:
            raise ValueError("no pcd header")
        words = data[start:end].decode("ascii", "replace").split()
        if words and not words[0].startswith("#"):
            header[words[0].upper()] = words[1:]
        start = end + 1
    return header, start


def _product(header: dict[str, list[str]]) -> int:
    return int(header["WIDTH"][0]) * int(header["HEIGHT"][0])


def _from_text(data: Data, start: int, fields: list[tuple[str, str]], count: int) -> Columns:
    names = [name for name, _ in fields]
    if kept(count) is None:
        words = data[start:].split(maxsplit=max(count, 0) * len(names))[: count * len(names)]
    else:
        lines = lines_kept(data, start, count)
        words = b" ".join(lines).split()
        count = len(lines)
    if count < 0 or len(words) != count * len(names):
        raise ValueError(f"fewer than the {count} points in its header: cut short")
    columns: Columns = {}
    for role, name in _roles(names).items():
        column = np.array(words[names.index(name) :: len(names)], dtype="S").astype(np.float64)
        if role == "time" and fields[names.index(name)][1][-2] in "iu":
            column = np.rint(column).astype(np.int64)
        columns[role] = column
    return columns


def _from_rows(data: Data, start: int, dtype: np.dtype[np.void], count: int) -> Columns:
    if count < 0 or count * dtype.itemsize > len(data) - start:
        raise ValueError(f"fewer than the {count} points in its header: cut short")
    rows = rows_kept(data, start, dtype, count)
    return {role: rows[name].reshape(len(rows)) for role, name in _roles(dtype.names or ()).items()}


def _from_columns(data: Data, start: int, dtype: np.dtype[np.void], count: int) -> Columns:
    packed, size = np.frombuffer(data[start : start + 8], "<u4").tolist()
    if size > _MAX_UNPACKED_BYTES:
        raise ValueError(f"{count} compressed points; save it with DATA binary, or split it")
    if size != count * dtype.itemsize or packed > len(data) - start - 8:
        raise ValueError(f"fewer than the {count} points in its header: cut short")
    unpacked = _unpack_lzf(data[start + 8 : start + 8 + packed], size)
    chosen = kept(count)
    columns: Columns = {}
    for role, name in _roles(dtype.names or ()).items():
        field, offset = dtype.fields[name][:2]  # type: ignore[index]
        column = np.frombuffer(unpacked, field.base, count, offset * count)
        columns[role] = column if chosen is None else column[chosen]
    return columns


def _unpack_lzf(data: bytes, size: int) -> bytes:
    """Decompress LZF: runs of literal bytes, and references to bytes written before."""
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
