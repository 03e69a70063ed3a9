"""Packets of a Velodyne or an Ouster: a .pcap file, for the latter with its .json."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import numpy as np

from data_prep.drive import Drive
from data_prep.errors import MaptileError
from data_prep.sources import Source
from data_prep.sources.packets import ouster, velodyne
from data_prep.sources.packets.spool import spooled
from data_prep.sources.storage.tree import Node

SUFFIXES = (".pcap",)
"""Suffixes of recordings."""
EXAMINED = 2000
"""Packets that are examined to know the sensor."""

_ORDERS = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}
"""Byte order by the first bytes of a file."""
_HEADS = (42, 46, 44, 58)
"""Bytes before the content of a UDP packet: Ethernet, with VLAN, Linux's own, with fewer."""


def is_pcap(path: Node) -> bool:
    """Return whether ``path`` is a file of packets."""
    return isinstance(path, Path) and path.suffix.lower() in SUFFIXES and path.is_file()


def open_pcap(path: Node) -> Drive:
    """Open a recording of packets; its scans are decoded into a temporary file.

    Args:
        path: The file.

    Raises:
        MaptileError: The file is damaged, of another sensor, or of positions only; the library
            that decodes it is not installed; or an Ouster's metadata are missing.
    """
    if not isinstance(path, Path):
        raise MaptileError(f"{path}: unpack the archive; packets are read from a file")
    sizes = _sizes(path)
    metadata = ouster.find_metadata(path)
    held = {size - head: n for size, n in sizes.items() for head in _HEADS}
    if velodyne.DATA_BYTES in held:
        scans = spooled(path, velodyne.decode_pcap(path), "velodyne", np.eye(4))
    elif metadata is not None:
        scans = spooled(path, ouster.decode(path, metadata), "ouster", np.eye(4))
    elif velodyne.POSITION_BYTES in held:
        raise MaptileError(
            f"{path}: a Velodyne's positions only, no points; record its port 2368, too"
        )
    else:
        raise MaptileError(
            f"{path}: no packets of a Velodyne; for those of an Ouster, put the sensor's metadata "
            f"({path.stem}.json) beside it"
        )
    notes = (
        "no odometry: packets have none",
        "points have times: clouds are motion-compensated",
    )
    return Drive(path.resolve().stem, "pcap", scans, None, None, None, notes)


SOURCE = Source(
    looked_for="packets of a Velodyne or an Ouster (.pcap)",
    recognises=is_pcap,
    open=lambda path, _: open_pcap(path),
    priority=66,
    sensors=("velodyne", "ouster"),
    suffixes=SUFFIXES,
)


def _sizes(path: Path) -> Counter[int]:
    """How many of the first packets have which size on the wire."""
    sizes: Counter[int] = Counter()
    try:
        with path.open("rb") as file:
            order = _ORDERS.get(file.read(24)[:4])
            while order is not None and sizes.total() < EXAMINED:
                head = file.read(16)
                if len(head) < 16:
                    break
                kept, size = struct.unpack(f"{order}II", head[8:])
                file.seek(kept, 1)
                sizes[size] += 1
    except OSError as error:
        raise MaptileError(f"{path}: cannot read this file ({error.strerror})") from None
    if order is None:
        raise MaptileError(
            f"{path}: not a .pcap file of packets; convert a .pcapng by: editcap -F pcap IN OUT"
        )
    return sizes
