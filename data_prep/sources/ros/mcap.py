"""MCAP files, whole or as a recorder left them that was stopped halfway.

A file is a sequence of records; messages are in chunks or by themselves. Everything is found from
the records themselves, never from the summary at the end, which recorders may write in part or not
at all. The layout is that of the specification (https://mcap.dev/spec, MIT).
"""

from __future__ import annotations

import heapq
import os
import struct
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple
from weakref import finalize

from lz4.frame import LZ4FrameDecompressor

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdDecompressor
    from backports.zstd import ZstdError as ZstdError

MAGIC = b"\x89MCAP0\r\n"
"""First bytes of a file."""
SCHEMA = 3
"""Kind of a record that names the type of messages."""
CHANNEL = 4
"""Kind of a record that names a topic."""
MESSAGE = 5
"""Kind of a message."""
CHUNK = 6
"""Kind of a record of packed records."""
INDEX = 7
"""Kind of a record, behind a chunk, that lists the messages of one channel in it."""
END = (2, 15)
"""Kinds of records after which no message follows: footer and end of the data."""
MAX_CHUNK = 1 << 30
"""Largest chunk, bytes, unpacked."""
LARGEST_HEAD = 64
"""Bytes of a chunk that hold its own head: no name of a compression is long."""

_HEAD = struct.Struct("<BQ")
"""Head of a record: kind, length."""
_MESSAGE = struct.Struct("<HIQQ")
"""Begin of a message: channel, number, times of record and of publication."""
_CHUNK = struct.Struct("<QQQI")
"""Begin of a chunk: times of its first and last message, size unpacked, checksum."""


class Channel(NamedTuple):
    """A stream of messages: its topic, the type of its messages, and how they are encoded."""

    topic: str
    msgtype: str
    encoding: str


class Entry(NamedTuple):
    """A chunk, or a message outside of chunks.

    Attributes:
        first_ns: Time of its first message, nanoseconds.
        last_ns: Time of its last one.
        offset: Its first byte in the file, behind the record's head.
        size: Its bytes.
        packed: Whether it is a chunk.
        channels: Numbers of the channels of its messages.
    """

    first_ns: int
    last_ns: int
    offset: int
    size: int
    packed: bool
    channels: frozenset[int]


@dataclass
class McapFile:
    """An open file.

    Attributes:
        path: The file.
        channels: Channels by their numbers.
        counts: Number of messages by channel.
        whole: Whether it ends as it should.

    Raises:
        ValueError: It is no MCAP file, or damaged.
    """

    path: Path
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    whole: bool = False
    _schemas: dict[int, str] = field(default_factory=dict)
    _entries: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file = os.open(self.path, os.O_RDONLY)
        finalize(self, os.close, self._file)
        self._size, at = os.fstat(self._file).st_size, len(MAGIC)
        if os.pread(self._file, at, 0) != MAGIC:
            raise ValueError("it does not begin as an MCAP file")
        while at + _HEAD.size <= self._size:
            kind, length = _HEAD.unpack(self._read(at, _HEAD.size))
            at += _HEAD.size
            if kind in END:
                self.whole = True
                break
            if kind == 0 or at + length > self._size:
                break
            self._enter(kind, at, length)
            at += length
        self._entries.sort()
        self._latest = list(accumulate((one.last_ns for one in self._entries), max))

    def messages(
        self,
        topics: Collection[str],
        start: int | None = None,
        stop: int | None = None,
        most: int | None = None,
    ) -> Iterator[tuple[str, int, bytes]]:
        """Yield topic, record time (ns) and bytes of the messages, in the order of record times.

        Args:
            topics: Names.
            start: First record time, nanoseconds; None: the beginning.
            stop: Record time at which to stop, nanoseconds; None: the end.
            most: Bytes of each message that are needed; None: all.

        Raises:
            ValueError: The file is damaged.
        """
        wanted = {number for number, one in self.channels.items() if one.topic in topics}
        low, high = start or 0, (1 << 64) if stop is None else stop
        first = bisect_left(self._latest, low)  # until there, all messages are older
        last = bisect_left(self._entries, high, key=lambda one: one.first_ns)
        waiting: list[tuple[int, int, int, bytes]] = []
        count = 0
        for entry in (*(self._entries[k] for k in range(first, last)), None):
            if entry is not None and not wanted & entry.channels:
                continue
            while waiting and (entry is None or waiting[0][0] < entry.first_ns):
                t_ns, _, channel, raw = heapq.heappop(waiting)
                yield self.channels[channel].topic, t_ns, raw
            if entry is None:
                return
            for channel, t_ns, raw in self._messages_of(entry, most):
                if channel in wanted and low <= t_ns < high:
                    heapq.heappush(waiting, (t_ns, count, channel, raw))
                    count += 1

    def _messages_of(self, entry: Entry, most: int | None) -> Iterator[tuple[int, int, bytes]]:
        if not entry.packed:
            size = entry.size if most is None else min(entry.size, _MESSAGE.size + most)
            data = self._read(entry.offset, size)
            channel, _, t_ns, _ = _MESSAGE.unpack_from(data)
            yield channel, t_ns, data[_MESSAGE.size :]
            return
        if most is not None:
            _, packing, begin = _chunk_head(self._read(entry.offset, min(entry.size, LARGEST_HEAD)))
            if not packing:
                yield from self._heads_of(entry, begin, most)
                return
        chunk = _unpacked(self._read(entry.offset, entry.size))
        for kind, at, end in _records(chunk):
            if kind == MESSAGE:
                channel, _, t_ns, _ = _MESSAGE.unpack_from(chunk, at)
                begin = at + _MESSAGE.size
                yield channel, t_ns, chunk[begin : end if most is None else min(end, begin + most)]

    def _heads_of(self, chunk: Entry, begin: int, most: int) -> Iterator[tuple[int, int, bytes]]:
        """The first bytes of the messages in a chunk that is not compressed."""
        at, stop = chunk.offset + begin, chunk.offset + chunk.size
        while at < stop:
            kind, length = _HEAD.unpack(self._read(at, _HEAD.size))
            at += _HEAD.size
            if at + length > stop:
                raise ValueError("a record reaches beyond its chunk")
            if kind == MESSAGE:
                data = self._read(at, min(length, _MESSAGE.size + most))
                channel, _, t_ns, _ = _MESSAGE.unpack_from(data)
                yield channel, t_ns, data[_MESSAGE.size :]
            at += length

    def _read(self, at: int, size: int) -> bytes:
        data = os.pread(self._file, size, at)
        if len(data) < size:
            raise ValueError("cut short")
        return data

    def _enter(self, kind: int, at: int, length: int) -> None:
        """Note one record of the file."""
        if kind in (SCHEMA, CHANNEL):
            self._define(kind, self._read(at, length))
        elif kind == MESSAGE:
            channel, _, t_ns, _ = _MESSAGE.unpack(self._read(at, _MESSAGE.size))
            self.counts[channel] += 1
            self._entries.append(Entry(t_ns, t_ns, at, length, False, frozenset([channel])))
        elif kind == CHUNK:
            first, last, _, _ = _CHUNK.unpack(self._read(at, _CHUNK.size))
            counts = self._index(at + length)
            if not counts or not counts.keys() <= self.channels.keys():
                counts = self._scan(self._read(at, length))
            self.counts += counts
            self._entries.append(Entry(first, last, at, length, True, frozenset(counts)))

    def _index(self, at: int) -> Counter[int]:
        """Number of messages by channel, from the records behind a chunk; empty without."""
        counts: Counter[int] = Counter()
        while at + _HEAD.size + 6 <= self._size:
            kind, length = _HEAD.unpack(self._read(at, _HEAD.size))
            if kind != INDEX:
                break
            channel, used = struct.unpack("<HI", self._read(at + _HEAD.size, 6))
            counts[channel] += used // 16
            at += _HEAD.size + length
        return +counts

    def _scan(self, data: bytes) -> Counter[int]:
        """Number of messages by channel in a chunk, whose channels are noted."""
        counts: Counter[int] = Counter()
        chunk = _unpacked(data)
        for kind, at, end in _records(chunk):
            if kind in (SCHEMA, CHANNEL):
                self._define(kind, chunk[at:end])
            elif kind == MESSAGE:
                counts[_MESSAGE.unpack_from(chunk, at)[0]] += 1
        return counts

    def _define(self, kind: int, data: bytes) -> None:
        """Note a schema or a channel."""
        (number,) = struct.unpack_from("<H", data)
        if kind == SCHEMA:
            self._schemas[number] = _text(data, 2)
        else:
            (schema,) = struct.unpack_from("<H", data, 2)
            topic, kind_name = _text(data, 4), self._schemas.get(schema, "")
            if kind_name.count("/") == 1:  # as in ROS 1
                kind_name = kind_name.replace("/", "/msg/")
            encoding = _text(data, 8 + len(topic.encode()))
            self.channels[number] = Channel(topic, kind_name, encoding)


def _records(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Kind, first byte and end of the records in a chunk."""
    at = 0
    while at < len(data):
        kind, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + length > len(data):
            raise ValueError("a record reaches beyond its chunk")
        yield kind, at, at + length
        at += length


def _text(data: bytes, at: int) -> str:
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + length].decode("utf-8", "replace")


def _chunk_head(data: bytes) -> tuple[int, str, int]:
    """Size of a chunk's records, unpacked, how they are compressed, and where they begin."""
    kind = _text(data, _CHUNK.size)
    return _CHUNK.unpack_from(data)[2], kind, _CHUNK.size + 4 + len(kind.encode()) + 8


def _unpacked(data: bytes) -> bytes:
    """The records of a chunk."""
    size, kind, at = _chunk_head(data)
    if size > MAX_CHUNK:
        raise ValueError(f"a chunk of {size} bytes")
    if kind == "":
        chunk = data[at:]
    elif kind == "lz4":
        chunk = LZ4FrameDecompressor().decompress(data[at:], max_length=size + 1)
    elif kind == "zstd":
        chunk = ZstdDecompressor().decompress(data[at:], max_length=size + 1)
    else:
        raise ValueError(f"a chunk is compressed by {kind}")
    if len(chunk) != size:
        raise ValueError("a chunk has another size than it states")
    return bytes(chunk)
