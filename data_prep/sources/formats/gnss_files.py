"""GNSS of generic drives: ``gnss.csv``, or a log of NMEA sentences."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np

from data_prep.drive import GnssTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.sources.formats.common import in_time, said_of_rows
from data_prep.sources.formats.nmea import read_nmea
from data_prep.sources.storage.tree import Node, file_names

TABLE = "gnss.csv"
"""Name of the table."""

LOG = ".nmea"
"""Suffix of a log of NMEA sentences."""

COLUMNS = ("t_ns", "latitude", "longitude")
"""Columns that the table needs; ``std_m`` may be missing."""

MOST_DEGREES = {"latitude": 90.0, "longitude": 180.0}
"""Largest magnitude of a coordinate, degrees."""


def check_degrees(path: Node, rows: Mapping[str, Array]) -> None:
    """Check the positions of a table.

    Args:
        path: Its file, for the error.
        rows: Its columns, ``latitude`` and ``longitude`` among them, degrees.

    Raises:
        MaptileError: A coordinate is out of its range.
    """
    for name in MOST_DEGREES:
        wrong = rows[name][np.abs(rows[name]) > MOST_DEGREES[name]]
        if len(wrong):
            raise MaptileError(f"{path}: {name} is {wrong[0]:g}, expected {_range_of(name)}")


def find_gnss(folder: Node, notes: list[str]) -> GnssTrack | None:
    """The GNSS of a generic drive; None where it has none.

    Args:
        folder: The drive's folder.
        notes: Lines about rows that are left out are appended.

    Raises:
        MaptileError: A file is damaged, or there are several logs.
    """
    if (folder / TABLE).is_file():
        return read_gnss(folder / TABLE, notes)
    logs = [name for name in sorted(file_names(folder)) if name.lower().endswith(LOG)]
    if len(logs) > 1:
        raise MaptileError(f"{folder}: several logs, {', '.join(logs)}; keep one of them")
    return read_nmea(folder / logs[0], notes) if logs else None


def read_gnss(path: Node, notes: list[str]) -> GnssTrack | None:
    """Read a table of t_ns, latitude, longitude (degrees) and std_m (metres).

    The columns may have any order and letters of any case; others are ignored. ``std_m`` may be
    missing or blank. Rows without a position are left out, as receivers without a fix write them.

    Args:
        path: The file.
        notes: A line about rows with a wrong time stamp is appended.

    Returns:
        The positions; None where no row has one.

    Raises:
        MaptileError: The file cannot be read, a column is missing, or a value is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as CSV ({reason})") from None
    table = GnssTable(path, rows[0] if rows else [])
    found = [one for number, row in enumerate(rows[1:], 2) if (one := table.row(number, row))]
    if not found:
        return None
    times = np.array([one[0] for one in found], np.int64)
    kept = in_time(times)
    notes += said_of_rows(path.name, len(found), len(kept))
    values = np.array([one[1:] for one in found])[kept]
    return GnssTrack(times[kept], *(np.ascontiguousarray(column) for column in values.T))


class GnssTable:
    """The rows of a ``gnss.csv``.

    Args:
        path: The file, for error messages.
        header: Its first row.

    Raises:
        MaptileError: A column is missing.
    """

    def __init__(self, path: Node, header: Sequence[str]) -> None:
        self._path = path
        self._names = [name.strip().lower() for name in header]
        missing = [name for name in COLUMNS if name not in self._names]
        if missing:
            raise MaptileError(
                f"{path}: line 1: no column {', '.join(missing)}; expected "
                "t_ns,latitude,longitude,std_m"
            )

    def row(self, number: int, row: Sequence[str]) -> tuple[int, float, float, float] | None:
        """The time (ns), latitude, longitude (degrees) and std_m of line ``number``.

        None where the receiver has no position: a cell is missing, blank or NaN.

        Raises:
            MaptileError: A value is none.
        """
        cells = dict.fromkeys(COLUMNS, "")
        cells |= {name: cell.strip() for name, cell in zip(self._names, row, strict=False)}
        if not all(cells[name] for name in COLUMNS):
            return None
        t_ns = self._time(number, cells["t_ns"])
        latitude = self._degrees(number, "latitude", cells["latitude"])
        longitude = self._degrees(number, "longitude", cells["longitude"])
        stated = cells.get("std_m", "")
        std_m = self._number(number, "std_m", stated) if stated else math.nan
        if math.isnan(latitude + longitude):
            return None
        return t_ns, latitude, longitude, std_m if 0 < std_m < math.inf else math.nan

    def _time(self, number: int, text: str) -> int:
        try:
            t_ns = int(text)
        except ValueError:
            t_ns = -1
        if not 0 <= t_ns < 2**63:
            raise self._wrong(number, "t_ns", text, "a whole number of nanoseconds")
        return t_ns

    def _degrees(self, number: int, name: str, text: str) -> float:
        value = self._number(number, name, text)
        if abs(value) > MOST_DEGREES[name]:
            raise self._wrong(number, name, text, _range_of(name))
        return value

    def _number(self, number: int, name: str, text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise self._wrong(number, name, text, "a number") from None

    def _wrong(self, number: int, name: str, text: str, expected: str) -> MaptileError:
        return MaptileError(
            f"{self._path}: line {number}: {name} is {text[:40]!r}, expected {expected}"
        )


def _range_of(name: str) -> str:
    """The values that a coordinate may have, for error messages."""
    return f"degrees from -{MOST_DEGREES[name]:g} to {MOST_DEGREES[name]:g}"
