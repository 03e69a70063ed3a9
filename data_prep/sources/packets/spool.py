"""Scans that are decoded once, one after the other, and kept in an unnamed temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from data_prep.drive import ScanBlock, Times
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.sources.formats.common import scan_block

_POINT = np.dtype([("xyz", "<f4", 3), ("seconds", "<f4")])
"""A point as it is kept."""


class Decoded(NamedTuple):
    """A scan.

    Attributes:
        t_ns: Its time, nanoseconds.
        xyz: (N, 3) metres, frame of the sensor: x forward, y left, z up.
        seconds: (N,) time of each point, relative to that of the scan.
    """

    t_ns: int
    xyz: NDArray[Any]
    seconds: NDArray[Any]


@dataclass(frozen=True)
class SpooledScans:
    """Scans in a temporary file, sorted by time.

    Attributes:
        t_ns: (S,) time of each scan.
        begin: (S,) first point of each in the file.
        count: (S,) number of its points.
        sensors: Name of the sensor.
        mount: (4, 4) sensor -> vehicle frame.
    """

    t_ns: Times
    begin: NDArray[np.int64]
    count: NDArray[np.int64]
    sensors: tuple[str, ...]
    mount: Array
    _file: int = field(repr=False)

    def read(self, start: int, stop: int) -> ScanBlock:
        """Read scans ``start`` to ``stop`` (exclusive); see ``ScanSource``."""
        t_ns = self.t_ns[start:stop]
        size = _POINT.itemsize
        tables = [
            np.frombuffer(os.pread(self._file, count * size, begin * size), _POINT)
            for begin, count in zip(
                self.begin[start:stop].tolist(), self.count[start:stop].tolist(), strict=True
            )
        ]
        which = np.zeros(len(t_ns), np.int8)
        seconds = [table["seconds"] for table in tables]
        return scan_block(t_ns, [one["xyz"] for one in tables], self.mount[None], which, seconds)


def spooled(path: Path, scans: Iterable[Decoded], sensor: str, mount: Array) -> SpooledScans:
    """Decode all scans of a recording.

    Args:
        path: The recording, for error messages.
        scans: Its scans, decoded as they are asked for.
        sensor: Name of the sensor.
        mount: (4, 4) sensor -> vehicle frame.

    Raises:
        MaptileError: The packets cannot be decoded, or there is no scan.
    """
    times, counts = [], []
    with tempfile.TemporaryFile() as target:
        try:
            for t_ns, xyz, seconds in scans:
                table = np.zeros(len(xyz), _POINT)
                table["xyz"], table["seconds"] = xyz, seconds
                target.write(table.tobytes())
                times.append(t_ns)
                counts.append(len(table))
        except MaptileError:
            raise
        except Exception as error:  # the decoders' own, and those of packets that are damaged
            reason = " ".join(str(error).split()) or type(error).__name__
            raise MaptileError(f"{path}: its packets cannot be decoded: {reason[:300]}") from None
        target.flush()
        file = os.dup(target.fileno())
    if not sum(counts):
        os.close(file)
        raise MaptileError(f"{path}: no packet with points in it; record those of the LiDAR itself")
    t_ns_all, count = np.array(times, np.int64), np.array(counts, np.int64)
    order = np.argsort(t_ns_all, kind="stable")
    begin = np.cumsum(count) - count
    found = SpooledScans(t_ns_all[order], begin[order], count[order], (sensor,), mount, file)
    finalize(found, os.close, file)
    return found
