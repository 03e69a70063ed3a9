"""ROS bags: ROS 1 ``.bag``, and ROS 2 folders, ``.db3`` and ``.mcap`` files, without ROS.

Only messages of types that this project knows are decoded, by definitions of its own: those that a
file holds are not used.
"""

from __future__ import annotations

import struct
import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import numpy as np
from rosbags.rosbag1 import Reader as Reader1
from rosbags.rosbag1 import ReaderError as Error1
from rosbags.rosbag2 import Reader as Reader2
from rosbags.rosbag2 import ReaderError as Error2
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from data_prep.errors import MaptileError
from data_prep.regular import check_regular
from data_prep.sources.ros.mcap import McapFile, ZstdError
from data_prep.sources.ros.ros1 import Ros1Messages

ROS1_SUFFIX = ".bag"
"""Suffix of ROS 1 bags."""
MCAP_SUFFIX = ".mcap"
"""Suffix of files that may be read though their recorder did not close them."""
SUFFIXES = (ROS1_SUFFIX, ".db3", MCAP_SUFFIX)
"""Suffixes of single files that are bags."""
FOLDER_FILE = "metadata.yaml"
"""Name of the file that makes a folder a ROS 2 bag."""

_UNREADABLE = (
    *(Error1, Error2, OSError, ValueError, KeyError, IndexError, EOFError, struct.error),
    *(RuntimeError, AssertionError, MemoryError, OverflowError, ZstdError, apsw.Error),
)
"""What the library raises on a file that is damaged."""
HEAD_BYTES = 4096
"""First bytes of a message that hold its header."""


class Header(NamedTuple):
    """What messages with a time begin with.

    Attributes:
        t_ns: Time of the measurement, nanoseconds since 1970; 0 where the writer left it out.
        frame: Name of the frame that the measurement is in.
        end: Bytes of the message up to here.
    """

    t_ns: int
    frame: str
    end: int


class Topic(NamedTuple):
    """A named stream of messages.

    Attributes:
        name: Such as ``/velodyne_points``.
        type: Such as ``sensor_msgs/msg/PointCloud2``.
        messages: Number of messages.
    """

    name: str
    type: str
    messages: int


class Message(NamedTuple):
    """A message as it is stored.

    Attributes:
        topic: Name of its topic.
        record_ns: When it was recorded, nanoseconds since 1970.
        raw: Its bytes.
    """

    topic: str
    record_ns: int
    raw: bytes


class Bag:
    """An open bag; messages are read from the file on request.

    Args:
        path: A ``.bag``, ``.db3`` or ``.mcap`` file, or a ROS 2 folder.

    Raises:
        MaptileError: The file is damaged, was not closed by its recorder, or is no bag.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.ros1 = path, path.suffix == ROS1_SUFFIX
        for file in path.iterdir() if path.is_dir() else (path,):
            check_regular(file)
        self._reader: Any = None
        self._ros1: Ros1Messages | None = None
        self._mcap: McapFile | None = None
        try:
            if path.suffix == MCAP_SUFFIX and path.is_file():
                self._mcap = McapFile(path)
                self.ros1 = any(one.encoding == "ros1" for one in self._mcap.channels.values())
            else:
                self._reader = Reader1(path) if self.ros1 else Reader2(path)
                self._reader.open()
                self._ros1 = Ros1Messages(self._reader) if self.ros1 else None
        except _UNREADABLE as error:
            raise self._damaged(error) from None
        if self._reader is not None:
            weakref.finalize(self, self._reader.close)

    @property
    def whole(self) -> bool:
        """Whether the recorder closed the file."""
        return self._mcap is None or self._mcap.whole

    @property
    def topics(self) -> list[Topic]:
        """All topics that have messages, sorted by name."""
        counts: Counter[tuple[str, str]] = Counter()
        if self._mcap is not None:
            for number, channel in self._mcap.channels.items():
                counts[channel.topic, channel.msgtype] += self._mcap.counts[number]
        else:
            for one in self._reader.connections:
                counts[one.topic, one.msgtype] += one.msgcount
        return [Topic(*key, count) for key, count in sorted(counts.items()) if count]

    def messages(
        self, topics: Collection[str], start: int | None = None, stop: int | None = None
    ) -> Iterator[Message]:
        """The messages of some topics in the order of their record times.

        Args:
            topics: Names.
            start: First record time, nanoseconds; None: the beginning.
            stop: Record time at which to stop, nanoseconds; None: the end.

        Raises:
            MaptileError: The file is damaged.
        """
        yield from self._stored(topics, start, stop, None)

    def heads(self, topics: Collection[str]) -> Iterator[Message]:
        """The messages of some topics, of each at least the first ``HEAD_BYTES``; see ``messages``.

        Where the file allows it, the rest is not read.
        """
        yield from self._stored(topics, None, None, HEAD_BYTES)

    def _stored(
        self, topics: Collection[str], start: int | None, stop: int | None, most: int | None
    ) -> Iterator[Message]:
        try:
            found: Iterator[tuple[str, int, bytes]]
            if (own := self._ros1) is not None:
                found = own.read(topics, start, stop, most)
            elif self._mcap is not None:
                found = self._mcap.messages(topics, start, stop, most)
            elif most is not None and (files := self._plain_files()):
                found = chain.from_iterable(_heads_of(one, topics, most) for one in files)
            else:
                wanted = [one for one in self._reader.connections if one.topic in topics]
                stored = self._reader.messages(wanted, start, stop) if wanted else ()
                found = ((one.topic, record_ns, raw) for one, record_ns, raw in stored)
            for message in found:
                yield Message(*message)
        except _UNREADABLE as error:
            raise self._damaged(error) from None

    def _plain_files(self) -> list[Any]:
        """The library's readers of the files of a ROS 2 bag; none where messages are compressed."""
        storage = self._reader.storage
        if getattr(storage.metadata, "compression_mode", None) == "message":
            return []
        return list(getattr(storage, "storages", [storage]))

    def header(self, message: Message) -> Header:
        """The header that a message begins with.

        Raises:
            MaptileError: The message is cut short.
        """
        raw = message.raw
        try:
            if self.ros1:
                _, seconds, nanoseconds, length = struct.unpack_from("<4I", raw)
                begin = 16
                end = begin + length
            else:
                order = "<" if raw[1] & 1 else ">"
                seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", raw, 4)
                begin = 16
                end = begin + length
                length -= 1  # with a zero at its end
            frame = raw[begin : begin + length].decode("utf-8", "replace")
            if end > len(raw):
                raise struct.error("cut short")
        except (struct.error, IndexError):
            raise MaptileError(f"{self.path}: a message of {message.topic} is cut short") from None
        return Header(seconds * 1_000_000_000 + nanoseconds, frame, end)

    def decode(self, message: Message, type: str) -> Any:
        """The content of a message of a standard type.

        Raises:
            MaptileError: The bytes are not those of such a message.
        """
        try:
            if self.ros1:
                return _store(True).deserialize_ros1(message.raw, type)
            return _store(False).deserialize_cdr(message.raw, type)
        except (SerdeError, AssertionError, *_UNREADABLE) as error:
            reason = " ".join(str(error).split()) or "other bytes than expected"
            raise MaptileError(
                f"{self.path}: a message of {message.topic} is no {type}: {reason}"
            ) from None

    def _damaged(self, error: BaseException) -> MaptileError:
        reason = " ".join(str(error).split()) or type(error).__name__
        repair = "rosbag reindex" if self.ros1 else "ros2 bag reindex"
        return MaptileError(
            f"{self.path}: not readable as a bag: {reason}; copy it again, or, if the recorder was "
            f"stopped halfway, repair it with {repair}"
        )


def _heads_of(storage: Any, topics: Collection[str], most: int) -> Iterator[tuple[str, int, bytes]]:
    """Topic, record time and first bytes of the messages in one file of a ROS 2 bag."""
    if Path(storage.path).suffix == MCAP_SUFFIX:
        yield from McapFile(Path(storage.path)).messages(topics, most=most)
        return
    names = {one.id: one.topic for one in storage.connections if one.topic in topics}
    marks = ",".join("?" * len(names))
    listed = f"SELECT rowid, topic_id, timestamp FROM messages WHERE topic_id IN ({marks})"
    for row, topic, t_ns in storage.dbconn.execute(f"{listed} ORDER BY timestamp", tuple(names)):
        with storage.dbconn.blob_open("main", "messages", "data", row, False) as content:
            yield names[topic], t_ns, content.read(most)


@cache
def _store(ros1: bool) -> Any:
    """The definitions of the messages that are known."""
    store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
    sentence = "std_msgs/Header header\nstring sentence"
    store.register(get_types_from_msg(sentence, "nmea_msgs/msg/Sentence"))
    if ros1:
        transforms = "geometry_msgs/TransformStamped[] transforms"
        store.register(get_types_from_msg(transforms, "tf2_msgs/msg/TFMessage"))
    packet, scan = "velodyne_msgs/msg/VelodynePacket", "velodyne_msgs/msg/VelodyneScan"
    store.register(get_types_from_msg("time stamp\nuint8[1206] data", packet))
    packets = "std_msgs/Header header\nvelodyne_msgs/VelodynePacket[] packets"
    store.register(get_types_from_msg(packets, scan))
    return store


def stamps(stamp: Any) -> int:
    """Nanoseconds of a decoded time stamp."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def vector(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(3,) or (4,) of a decoded vector or quaternion: x y z (w)."""
    names = [name for name in ("x", "y", "z", "w") if hasattr(value, name)]
    numbers = np.array([getattr(value, name) for name in names], np.float64)
    numbers[np.isnan(numbers)] = np.nan  # a signalling one would be a warning wherever it is used
    return numbers
