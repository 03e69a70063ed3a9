"""Points of .las and .laz files, with every size checked before memory is allocated.

The layout is that of ASPRS's LAS specification 1.4 (R15) and of LASzip's record ("laszip encoded").
The points of .laz are unpacked by lazrs. It does not check the sizes that a file declares, so they
are checked here first, chunk by chunk.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lazrs
import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.sources.points.thinning import Data, kept, release

MAX_PACKED_POINTS = 50_000_000
"""Largest number of points of a .laz: a few bytes can declare any number."""

POINTS_AT_ONCE = 500_000
"""Number of points that are unpacked at once."""

_MAX_RECORD_BYTES = 1024
"""Largest size of a point, bytes, with extra bytes."""

_RECORD_BYTES = (20, 28, 26, 34, 57, 63, 30, 36, 38, 59, 67)
"""Size of a point in point formats 0 to 10, bytes, without extra bytes."""

_TIMED = (1, 3, 4, 5, 6, 7, 8, 9, 10)
"""Point formats with GPS times."""

_FIRST_EXTENDED = 6
"""First point format in which classes have 8 bits rather than 5."""

_VLR_HEAD_BYTES = 54
"""Size of the head of a variable length record."""

_LASZIP = (b"laszip encoded", 22204)
"""User and number of LASzip's record."""

_ITEM_BYTES = {6: 20, 7: 8, 8: 6, 9: 29, 10: 30, 11: 6, 12: 8, 13: 29}
"""Size of an item of a point, by its kind in LASzip's record."""

_EXTRA_BYTES = (0, 14)
"""Kinds of items of any size."""

_LAYERS = {10: 9, 11: 1, 12: 2, 13: 1}
"""Number of layers of an item, by its kind; an item of extra bytes has a layer per byte."""

_ONE_CHUNK = 1
"""Compressor that packs all points as one chunk."""

_CHUNKED = 2
"""Compressor that packs points in chunks."""

_LAYERED = 3
"""Compressor that packs points in chunks of layers."""

_CHUNKS_VARY = 2**32 - 1
"""Chunk size that stands for chunks of various sizes."""


@dataclass(frozen=True)
class _Header:
    """The header of a file, checked against the file's size.

    Attributes:
        format: Point format, 0 to 10.
        record: Size of an unpacked point, bytes.
        count: Number of points.
        start: Offset of the points, bytes.
        packed: LASzip's record, or None where the points are not compressed.
        scale: (3,) metres per unit of x, y, z.
        offset: (3,) metres, added to x, y, z.
    """

    format: int
    record: int
    count: int
    start: int
    packed: bytes | None
    scale: Array
    offset: Array


def read_las(data: Data) -> tuple[Array, NDArray[np.uint8], Array | None]:
    """Read the points of a .las or .laz file.

    Args:
        data: The content of the file.

    Returns:
        (N, 3) points, metres; (N,) ASPRS classes; (N,) GPS times in seconds, or None in a point
        format without times. N is the number of points that are kept (``thinning``).

    Raises:
        ValueError, struct.error: The file is cut short, or not of its format.
    """
    header = _header(data)
    timed = header.format in _TIMED
    extended = header.format >= _FIRST_EXTENDED
    fields = {
        "x": ("<i4", 0),
        "y": ("<i4", 4),
        "z": ("<i4", 8),
        "class": ("u1", 16 if extended else 15),
        **({"time": ("<f8", 22 if extended else 20)} if timed else {}),
    }
    kinds, offsets = zip(*fields.values(), strict=True)
    record = np.dtype(
        {"names": [*fields], "formats": kinds, "offsets": offsets, "itemsize": header.record}
    )
    chosen = kept(header.count)
    size = header.count if chosen is None else len(chosen)
    points = np.empty((size, 3))
    label = np.empty(size, np.uint8)
    time = np.empty(size) if timed else None
    start = first = 0
    for every in _records(data, header, record):
        rows = every
        if chosen is not None:
            low, high = np.searchsorted(chosen, [first, first + len(every)])
            rows = every[chosen[low:high] - first]
        first += len(every)
        part = slice(start, start + len(rows))
        for axis, name in enumerate("xyz"):
            points[part, axis] = rows[name] * header.scale[axis] + header.offset[axis]
        label[part] = rows["class"] if extended else rows["class"] & 31
        if time is not None:
            time[part] = rows["time"]
        start += len(rows)
        del rows, every
        if header.packed is None:
            release(data, header.start + first * header.record)
    return points, label, time


def las_count(data: Data) -> int:
    """Number of points of a .las or .laz file; raises as ``read_las``."""
    return _header(data).count


def _header(data: Data) -> _Header:
    if data[:4] != b"LASF":
        raise ValueError("no las header")
    size, start, vlrs, kind, record = struct.unpack_from("<HIIBH", data, 94)
    (count,) = struct.unpack_from("<I", data, 107)
    if data[25] >= 4:
        (count,) = struct.unpack_from("<Q", data, 247)
    scale, offset = np.frombuffer(data, "<f8", 6, 131).reshape(2, 3)
    if not (np.isfinite([scale, offset]).all() and (np.abs([scale, offset]) < 1e15).all()):
        raise ValueError("the scale of its coordinates is invalid")
    packed, point_format = bool(kind & 0x80), kind & 0x3F
    if point_format >= len(_RECORD_BYTES):
        raise ValueError(f"unknown point format {point_format}")
    if not _RECORD_BYTES[point_format] <= record <= _MAX_RECORD_BYTES:
        raise ValueError(f"points of {record} bytes in point format {point_format}")
    if not size <= start <= len(data):
        raise ValueError("its points begin after its end: cut short")
    if packed and count > MAX_PACKED_POINTS:
        raise ValueError(f"{count} packed points are more than {MAX_PACKED_POINTS}")
    if not packed and count > (len(data) - start) // record:
        raise ValueError(f"{count} points do not fit into the file: cut short")
    zipped = _find_laszip(data[:start], size, vlrs) if packed else None
    return _Header(point_format, record, count, start, zipped, scale, offset)


def _find_laszip(head: bytes, at: int, vlrs: int) -> bytes:
    """Return the data of LASzip's variable length record.

    Args:
        head: The file up to its first point.
        at: Byte at which the first variable length record begins.
        vlrs: Number of these records.

    Raises:
        ValueError: None of them is LASzip's.
    """
    for _ in range(min(vlrs, len(head) // _VLR_HEAD_BYTES)):
        user, record, length = struct.unpack_from("<2x16sHH", head, at)
        at += _VLR_HEAD_BYTES
        if (user.rstrip(b"\0"), record) == _LASZIP:
            return head[at : at + length]
        at += length
    raise ValueError("no record of LASzip")


def _records(data: Data, header: _Header, record: np.dtype[np.void]) -> Iterator[NDArray[np.void]]:
    """The points, ``POINTS_AT_ONCE`` at a time."""
    unpack = None if header.packed is None or not header.count else _unpacker(data, header)
    for first in range(0, header.count, POINTS_AT_ONCE):
        count = min(POINTS_AT_ONCE, header.count - first)
        if unpack is None:
            yield np.frombuffer(data, record, count, header.start + first * header.record)
            continue
        rows = bytearray(count * header.record)
        _run(unpack.decompress_many, rows)
        yield np.frombuffer(rows, record)


def _unpacker(data: Data, header: _Header) -> lazrs.LasZipDecompressor:
    """A decompressor at the first point, after all sizes in the file are checked.

    Its memory depends on the number of chunks, the sizes of their layers and the number of extra
    bytes. Each is bounded by the file's size or by ``_MAX_RECORD_BYTES``.
    """
    assert header.packed is not None
    compressor, chunk_size = struct.unpack_from("<H10xI", header.packed)
    (items,) = struct.unpack_from("<H", header.packed, 32)
    layers = record = 0
    for i in range(items):
        kind, size = struct.unpack_from("<HH", header.packed, 34 + 6 * i)
        if kind not in _EXTRA_BYTES and _ITEM_BYTES.get(kind) != size:
            raise ValueError(f"damaged record of LASzip (item {kind} of {size} bytes)")
        record += size
        layers += _LAYERS.get(kind, size)
    if record != header.record or compressor not in (_ONE_CHUNK, _CHUNKED, _LAYERED):
        raise ValueError("damaged record of LASzip")
    if compressor != _ONE_CHUNK:
        sizes = _chunk_sizes(data, header, chunk_size)
        if compressor == _LAYERED:
            _check_layers(data, header, layers, sizes)
    stream = _stream(data)
    stream.seek(header.start)
    return _run(lazrs.LasZipDecompressor, stream, header.packed)


def _stream(data: Data) -> Any:
    """The content as a stream with a position of its own."""
    return io.BytesIO(data) if isinstance(data, bytes) else io.BufferedReader(_Mapped(data))


class _Mapped(io.RawIOBase):
    """A mapped file as a stream."""

    def __init__(self, data: Data) -> None:
        self._data, self._at = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        self._at = max(origin + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        part = self._data[self._at : self._at + len(view)]
        view[: len(part)] = part
        self._at += len(part)
        return len(part)


def _chunk_sizes(data: Data, header: _Header, chunk_size: int) -> list[int]:
    """The number of points in each chunk, checked to add up to the header's."""
    chunks = _check_chunk_table(data, header, chunk_size)
    if chunk_size == _CHUNKS_VARY:
        stream = _stream(data)
        stream.seek(header.start)
        table = _run(lazrs.read_chunk_table, stream, _run(lazrs.LazVlr, header.packed))
        sizes = [points for points, _ in table]
        while sizes and sizes[-1] == 0:  # a last chunk that was begun, but left empty
            sizes.pop()
    else:
        sizes = [chunk_size] * (chunks - 1) + [header.count - chunk_size * (chunks - 1)]
    if sum(sizes) != header.count or min(sizes, default=0) < 1:
        raise ValueError("its chunks do not add up to the number of points in its header")
    return sizes


def _check_chunk_table(data: Data, header: _Header, chunk_size: int) -> int:
    """The number of chunks in a file's table, checked, because memory is allocated for it."""
    (at,) = struct.unpack_from("<q", data, header.start)
    if at <= header.start:  # the offset is at the end if the writer could not seek back
        (at,) = struct.unpack_from("<q", data, len(data) - 8)
    if not header.start + 8 <= at <= len(data) - 8:
        raise ValueError("its table of chunks is not in the file: cut short")
    (chunks,) = struct.unpack_from("<I", data, at + 4)
    expected = -(-header.count // max(chunk_size, 1))
    if chunk_size == _CHUNKS_VARY:
        expected = chunks
    # A chunk begins with an unpacked point, which bounds the number of chunks.
    if chunks != expected or chunks > len(data) // header.record:
        raise ValueError("its table of chunks does not fit its points")
    return int(chunks)


def _check_layers(data: Data, header: _Header, layers: int, sizes: list[int]) -> None:
    """Check the number of points and the sizes of the layers that each chunk declares."""
    at = header.start + 8
    for points in sizes:
        at += header.record
        (count,) = struct.unpack_from("<I", data, at)
        total = int(np.frombuffer(data, "<u4", layers, at + 4).sum(dtype=np.uint64))
        at += 4 + 4 * layers + total
        if count != points or at > len(data):
            raise ValueError("a chunk of points does not fit into the file: cut short")


def _run(call: Any, *values: Any) -> Any:
    """Call lazrs; its errors and its panics (not an Exception) become a ValueError."""
    try:
        return call(*values)
    except lazrs.LazrsError as error:
        raise ValueError(str(error)) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("damaged compressed points") from None
