"""A drive that a recorder is writing: its scans and its odometry, as they arrive.

The folder has the layout of a generic drive: ``clouds/`` with files named by their time in
nanoseconds, and optionally ``odometry.tum``, to which lines are appended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.drive import ScanBlock
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_from_quaternion
from data_prep.regular import open_regular
from data_prep.sources.clouds import SUFFIXES
from data_prep.sources.formats.gnss_files import GnssTable
from data_prep.sources.formats.tum import NEW_SEGMENT, check_size, pose_in, times_ns
from data_prep.sources.points.bin_layout import column_names
from data_prep.sources.points.pointfiles import layout_of_files, read_cloud

_LOG = logging.getLogger(__name__)

_POLL_S = 0.05
"""Seconds between two looks at the folder."""

_SETTLED_S = 0.2
"""The newest cloud is complete when its file has not grown for this time, seconds."""


def arriving(
    folder: Path, idle_s: float | None = None, columns: tuple[str, ...] | None = None
) -> Iterator[ScanBlock]:
    """Yield the scans of a recording in the order of time, each as soon as its file is complete.

    Args:
        folder: The recording; ``clouds/`` may still be missing.
        idle_s: End after this time without a new scan, seconds; None: never.
        columns: Names of the columns of .bin clouds; None: each by its contents.

    Raises:
        MaptileError: The recording is no folder, or a cloud's name is not its time.
    """
    if not folder.is_dir():
        raise MaptileError(f"{folder}: no such folder; name the one that the recorder writes to")
    columns = column_names(columns) if columns else None
    last_ns, quiet_since = -1, time.monotonic()
    while idle_s is None or time.monotonic() - quiet_since < idle_s:
        waiting = sorted(item for item in _clouds(folder / "clouds") if item[0] > last_ns)
        for number, (t_ns, path) in enumerate(waiting):
            newest = number == len(waiting) - 1
            if newest and not _settled(path):
                break
            last_ns, quiet_since = t_ns, time.monotonic()
            try:
                layout = layout_of_files([path], columns) if path.suffix == ".bin" else None
                cloud = read_cloud(path, t_ns, layout)
            except MaptileError as error:
                _LOG.warning("left out: %s", error)
                continue
            yield ScanBlock.single(t_ns, cloud.points, seconds=cloud.seconds)
            quiet_since = time.monotonic()  # those that came meanwhile are not late
        time.sleep(_POLL_S)


def _clouds(folder: Path) -> Iterator[tuple[int, Path]]:
    """Time and path of every cloud in a folder."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.suffix.lower() not in SUFFIXES:
            continue
        if not path.stem.isdecimal():
            raise MaptileError(
                f"{path}: name each cloud by its time in nanoseconds, as in 1317384506407123456.ply"
            )
        yield int(path.stem), path


def _settled(path: Path) -> bool:
    """Whether a file has not grown for a while."""
    try:
        return time.time() - path.stat().st_mtime > _SETTLED_S
    except OSError:
        return False


class Tail:
    """The lines that are appended to a file, each with a time.

    Args:
        path: The file; it may still be missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._number = 0
        self._rest = b""
        self._last_ns = -1
        self._left_out = False

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the text of each whole line since the last call."""
        if not self._path.is_file():
            return
        with open_regular(self._path) as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._number += 1
            yield self._number, line.decode("ascii", "replace").strip()

    def is_later(self, t_ns: int) -> bool:
        """Whether a line is later than all before; those that are not are left out."""
        later = t_ns > self._last_ns
        self._last_ns = max(t_ns, self._last_ns)
        if not later and not self._left_out:
            self._left_out = True
            _LOG.warning("%s: lines that are not later than those before are left out", self._path)
        return later


class GnssTail(Tail):
    """The lines that are appended to a ``gnss.csv``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._table: GnssTable | None = None

    def new(self) -> Iterator[tuple[int, float, float, float]]:
        """Yield the positions since the last call: time (ns), latitude, longitude, std_m.

        Raises:
            MaptileError: A column is missing, or a line is no position.
        """
        for number, line in self.lines():
            if self._table is None:
                self._table = GnssTable(self._path, line.split(","))
                continue
            position = self._table.row(number, line.split(","))
            if position is not None and self.is_later(position[0]):
                yield position


class OdometryTail(Tail):
    """The lines that are appended to an ``odometry.tum``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._restart = False

    def new(self) -> Iterator[tuple[int, Array, bool]]:
        """Yield the poses since the last call: time (ns), (4, 4) pose, whether a segment starts.

        Raises:
            MaptileError: A line is not a pose.
        """
        for number, line in self.lines():
            self._restart |= line == NEW_SEGMENT
            found = pose_in(self._path, number, line)
            if found is None:
                continue
            time_of_pose, numbers = found
            t_ns, row = int(times_ns(self._path, [time_of_pose])[0]), np.array([numbers])
            check_size(self._path, row)
            if self.is_later(t_ns):
                yield t_ns, se3_from_quaternion(row[:, :3], row[:, 3:])[0], self._restart
                self._restart = False
