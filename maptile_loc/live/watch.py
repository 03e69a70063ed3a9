"""A drive that a recorder is writing: its scans and its odometry, as they arrive.

The folder has the layout of a generic drive: ``clouds/`` with files named by their time in
nanoseconds, and optionally ``odometry.tum``, to which lines are appended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from data_prep.drive import ScanBlock
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_from_quaternion
from data_prep.regular import open_regular
from data_prep.sources.clouds import SUFFIXES
from data_prep.sources.formats.gnss_files import GnssTable
from data_prep.sources.formats.tum import check_size
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
    """The lines that are appended to a file.

    Args:
        path: The file; it may still be missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._rest = b""

    def lines(self) -> Iterator[str]:
        """Yield the whole lines since the last call, without the blanks around them."""
        if not self._path.is_file():
            return
        with open_regular(self._path) as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield line.decode("ascii", "replace").strip()


class GnssTail(Tail):
    """The lines that are appended to a ``gnss.csv``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._table: GnssTable | None = None
        self._number = 0

    def new(self) -> Iterator[tuple[int, float, float, float]]:
        """Yield the positions since the last call: time (ns), latitude, longitude, std_m.

        Raises:
            MaptileError: A column is missing, or a line is no position.
        """
        for line in self.lines():
            self._number += 1
            if self._table is None:
                self._table = GnssTable(self._path, line.split(","))
                continue
            position = self._table.row(self._number, line.split(","))
            if position is not None:
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
        for text in self.lines():
            if text.startswith("#"):
                self._restart |= text == "# segment"
            elif text:
                yield (*self._pose(text), self._restart)
                self._restart = False

    def _pose(self, line: str) -> tuple[int, Array]:
        try:
            first, *rest = line.split()
            values = np.array(rest, np.float64)
            t_ns = int(Decimal(first) * 1_000_000_000)
            if values.shape != (7,) or not np.isfinite(values).all() or not values[3:].any():
                raise ValueError(line)
            check_size(self._path, values[None])
        except (ValueError, OverflowError, InvalidOperation):
            raise MaptileError(
                f"{self._path}: expected lines of eight numbers, t x y z qx qy qz qw, not: {line}"
            ) from None
        return t_ns, se3_from_quaternion(values[None, :3], values[None, 3:])[0]
