"""Packets of Velodyne's LiDARs, decoded by velodyne-decoder (BSD-3-Clause)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import MaptileError
from data_prep.sources.packets.spool import Decoded

DATA_BYTES = 1206
"""Size of a packet of points."""
POSITION_BYTES = 512
"""Size of a packet of positions."""


def decoder(path: Path) -> Any:
    """Return the module that decodes.

    Raises:
        MaptileError: It is not installed.
    """
    try:
        import velodyne_decoder
    except ImportError:
        raise MaptileError(
            f"{path}: packets of a Velodyne; to read them: pip install 'maptile-loc[velodyne]'"
        ) from None
    return velodyne_decoder


def decode_pcap(path: Path) -> Iterator[Decoded]:
    """Yield the scans in a .pcap file."""
    for stamp, points in decoder(path).read_pcap(str(path), as_pcl_structs=True):
        yield _decoded(stamp, points)


def decode_packets(path: Path, packets: Iterable[tuple[int, bytes]]) -> Iterator[Decoded]:
    """Yield the scans of packets with the times (ns) at which they arrived."""
    module = decoder(path)
    stream = module.StreamDecoder(module.Config())
    for t_ns, data in packets:
        done = stream.decode(t_ns * 1e-9, data, True)
        if done is not None:
            yield _decoded(*done)
    done = stream.finish(True)
    if done is not None:
        yield _decoded(*done)


def _decoded(stamp: Any, points: Any) -> Decoded:
    xyz = np.stack([points[axis] for axis in "xyz"], axis=-1)
    return Decoded(round(stamp.device * 1e9), xyz, points["time"])
