"""Messages of a ROS 1 bag, found by the indexes behind its chunks and read by themselves.

The layout is that of the bag format 2.0 (http://wiki.ros.org/Bags/Format/2.0).
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from bz2 import BZ2Decompressor
from collections.abc import Collection, Iterator
from heapq import merge
from typing import Any

from lz4.frame import LZ4FrameDecompressor

MAX_CHUNK = 1 << 30
"""Largest chunk, bytes, unpacked."""
MESSAGE = b"\x02"
"""Kind of a record that is a message."""
CONNECTION = b"\x07"
"""Kind of a record that describes a topic; it may stand before the first message of the topic."""
UNPACKERS: dict[bytes, Any] = {b"bz2": BZ2Decompressor, b"lz4": LZ4FrameDecompressor}
"""Decompressors by the names in the heads of chunks."""

_LENGTH = struct.Struct("<I")
"""Length of a record's head, and of its data."""


class Ros1Messages:
    """The messages of an open bag.

    Args:
        reader: The open ``rosbags.rosbag1.Reader``: its connections, chunks and indexes are used.
    """

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._unpacked: tuple[int, bytes] = (-1, b"")

    def read(
        self,
        topics: Collection[str],
        start: int | None = None,
        stop: int | None = None,
        most: int | None = None,
    ) -> Iterator[tuple[str, int, bytes]]:
        """Yield topic, record time (ns) and bytes of messages, in the order of record times.

        Args:
            topics: Names.
            start: First record time, nanoseconds; None: the beginning.
            stop: Record time at which to stop, nanoseconds; None: the end.
            most: Bytes of each message that are needed; None: all.

        Raises:
            ValueError: The file is damaged.
        """
        names = {one.id: one.topic for one in self._reader.connections if one.topic in topics}
        indexes = []
        for number in names:
            index = self._reader.indexes[number]
            first = 0 if start is None else bisect_left(index, (start,))
            last = len(index) if stop is None else bisect_left(index, (stop,))
            indexes.append(index[first:last])
        for t_ns, chunk, offset in merge(*indexes):
            number, raw = self._message(chunk, offset, most)
            if number not in names:
                raise ValueError("an index and its chunk contradict each other")
            yield names[number], t_ns, raw

    def _message(self, chunk: int, offset: int, most: int | None) -> tuple[int, bytes]:
        """Number of the topic and (first) bytes of the message at an offset in a chunk."""
        kind = b""
        while kind in (b"", CONNECTION):
            (size,) = _LENGTH.unpack(self._bytes(chunk, offset, 4))
            head = _fields(self._bytes(chunk, offset + 4, size))
            (length,) = _LENGTH.unpack(self._bytes(chunk, offset + 4 + size, 4))
            begin, kind = offset + 8 + size, head.get(b"op", b"none")
            offset = begin + length
        if kind != MESSAGE:
            raise ValueError("an index leads to no message")
        whole = length if most is None else min(length, most)
        return _LENGTH.unpack(head[b"conn"])[0], self._bytes(chunk, begin, whole)

    def _bytes(self, chunk: int, offset: int, size: int) -> bytes:
        """Bytes of a chunk, unpacked."""
        where = self._reader.chunks[chunk]
        if self._unpacked[0] == chunk:
            data = self._unpacked[1][offset : offset + size]
        else:
            kind = self._kind(chunk)
            if kind != b"none":
                packed = os.pread(self._reader.bio.fileno(), where.datasize, where.datapos)
                self._unpacked = chunk, _unpacked(packed, kind)
                return self._bytes(chunk, offset, size)
            inside = min(size, where.datasize - offset)
            data = os.pread(self._reader.bio.fileno(), max(inside, 0), where.datapos + offset)
        if len(data) < size:
            raise ValueError("a record reaches beyond its chunk")
        return data

    def _kind(self, chunk: int) -> bytes:
        """How a chunk is packed."""
        file = self._reader.bio.fileno()
        (size,) = _LENGTH.unpack(os.pread(file, 4, chunk))
        return _fields(os.pread(file, size, chunk + 4))[b"compression"]


def _fields(head: bytes) -> dict[bytes, bytes]:
    """The values in the head of a record by their names."""
    found, at = {}, 0
    while at < len(head):
        (size,) = _LENGTH.unpack_from(head, at)
        name, _, value = head[at + 4 : at + 4 + size].partition(b"=")
        found[name] = value
        at += 4 + size
    return found


def _unpacked(data: bytes, kind: bytes) -> bytes:
    unpacker = UNPACKERS[kind]()
    unpacked: bytes = unpacker.decompress(data, max_length=MAX_CHUNK)
    if not unpacker.eof:
        raise ValueError("a chunk is cut short, or too large")
    return unpacked
