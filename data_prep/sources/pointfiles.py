"""Point clouds out of .ply, .pcd, .las and .bin files, with every size checked against the file.

Open3D would fill what a cut-off file lacks with zeros without a word, and allocate whatever a
header claims; the tests compare with it on sound files.
"""

from __future__ import annotations

import io
import struct

import laspy
import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.sources.tree import Node

Points = NDArray[np.floating]

_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
    laspy.LaspyException,
)
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


def read_points(path: Node) -> Points:
    """(N, 3) points of a file, metres, float32 or float64, in the file's own frame.

    Raises:
        MaptileError: The file cannot be read, is cut short, or is not of its format.
    """
    read = {".ply": _ply, ".pcd": _pcd, ".bin": _bin, ".las": _las}[path.suffix.lower()]
    try:
        return read(path.read_bytes())
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MaptileError(
            f"{path}: not readable as a {path.suffix[1:]} point cloud ({reason}); copy it again"
        ) from None


def _bin(data: bytes) -> Points:
    """KITTI's layout: float32 rows of x, y, z, reflectance."""
    if len(data) % 16:
        raise ValueError(f"{len(data)} bytes are not a multiple of 16: cut short")
    return np.frombuffer(data, "<f4").reshape(-1, 4)[:, :3]


def _ply(data: bytes) -> Points:
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
        return _from_text(body[newline:], [name for name, _ in fields], count)
    return _from_rows(body[newline:], np.dtype(fields), count)


def _pcd(data: bytes) -> Points:
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
    count = int(header["POINTS"][0]) if "POINTS" in header else _product(header)
    kinds = [
        f"<{kind.lower()}{size}" for kind, size in zip(header["TYPE"], header["SIZE"], strict=True)
    ]
    body, encoding = data[start:], header["DATA"][0]
    if encoding == "ascii":
        columns = [
            name if i == 0 else f"{name}.{i}"
            for name, repeat in zip(names, repeats, strict=True)
            for i in range(repeat)
        ]
        return _from_text(body, columns, count)
    # A padding field is named "_", and may come more than once.
    fields = [
        (f"_{i}" if name == "_" else name, kind, (repeat,))
        for i, (name, kind, repeat) in enumerate(zip(names, kinds, repeats, strict=True))
    ]
    dtype = np.dtype(fields)
    if encoding == "binary":
        return _from_rows(body, dtype, count)
    if encoding == "binary_compressed":
        return _from_columns(body, dtype, count)
    raise ValueError(f"unknown encoding {encoding}")


def _las(data: bytes) -> Points:
    with laspy.open(io.BytesIO(data)) as reader:
        header = reader.header
        needed = header.offset_to_point_data + header.point_count * header.point_format.size
        if needed > len(data):
            raise ValueError(f"{header.point_count} points do not fit into the file: cut short")
        las = reader.read()
    return np.stack([las.x, las.y, las.z], axis=1).astype(np.float64)


def _product(header: dict[str, list[str]]) -> int:
    return int(header["WIDTH"][0]) * int(header["HEIGHT"][0])


def _from_text(body: bytes, columns: list[str], count: int) -> Points:
    wanted = [columns.index(name) for name in "xyz"]
    words = body.split(maxsplit=count * len(columns))[: count * len(columns)]
    if count < 0 or len(words) < count * len(columns):
        raise ValueError(f"fewer than the {count} points that its header names: cut short")
    table = np.array(words, dtype="S").reshape(count, len(columns))[:, wanted]
    return table.astype(np.float64) if count else np.empty((0, 3))


def _from_rows(body: bytes, dtype: np.dtype[np.void], count: int) -> Points:
    if count < 0 or count * dtype.itemsize > len(body):
        raise ValueError(f"fewer than the {count} points that its header names: cut short")
    rows = np.frombuffer(body, dtype, count)
    return np.stack([rows[name].reshape(count).astype(np.float64) for name in "xyz"], axis=1)


def _from_columns(body: bytes, dtype: np.dtype[np.void], count: int) -> Points:
    packed, size = np.frombuffer(body[:8], "<u4").tolist()
    if size != count * dtype.itemsize or packed > len(body) - 8:
        raise ValueError(f"fewer than the {count} points that its header names: cut short")
    data = _unpack_lzf(body[8 : 8 + packed], size)
    columns = []
    for name in "xyz":
        field, offset = dtype.fields[name][:2]  # type: ignore[index]
        columns.append(np.frombuffer(data, field.base, count, offset * count).astype(np.float64))
    return np.stack(columns, axis=1)


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
