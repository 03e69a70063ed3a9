"""GNSS of generic drives: ``gnss.csv``, or a log of NMEA sentences."""

from __future__ import annotations

import csv
import io
import math
from itertools import zip_longest

import numpy as np

from data_prep.drive import GnssTrack
from data_prep.errors import MaptileError
from data_prep.sources.formats.common import in_time, said_of_rows
from data_prep.sources.formats.nmea import read_nmea
from data_prep.sources.storage.tree import Node, file_names

TABLE = "gnss.csv"
"""Name of the table."""

LOG = ".nmea"
"""Suffix of a log of NMEA sentences."""

COLUMNS = ("t_ns", "latitude", "longitude")
"""Columns that the table needs; ``std_m`` may be missing."""


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
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        reason = " ".join(str(error).split())
        raise MaptileError(f"{path}: not readable as CSV ({reason})") from None
    names = [name.strip().lower() for name in rows[0]] if rows else []
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise MaptileError(
            f"{path}: line 1: no column {', '.join(missing)}; expected t_ns,latitude,longitude,"
            "std_m"
        )
    t_ns: list[int] = []
    values: list[tuple[float, float, float]] = []
    for number, row in enumerate(rows[1:], 2):
        cells = {name: cell.strip() for name, cell in zip_longest(names, row, fillvalue="")}
        if not all(cells[name] for name in COLUMNS):
            continue
        t_ns.append(_time(path, number, cells["t_ns"]))
        values.append(
            (
                _degrees(path, number, "latitude", cells["latitude"], 90.0),
                _degrees(path, number, "longitude", cells["longitude"], 180.0),
                _std(path, number, cells.get("std_m", "")),
            )
        )
    known = [n for n, (latitude, longitude, _) in enumerate(values) if latitude == latitude]
    known = [n for n in known if values[n][1] == values[n][1]]
    if not known:
        return None
    times = np.array([t_ns[n] for n in known], np.int64)
    kept = in_time(times)
    notes += said_of_rows(path.name, len(known), len(kept))
    table = np.array([values[n] for n in known])[kept]
    return GnssTrack(times[kept], *(np.ascontiguousarray(column) for column in table.T))


def _time(path: Node, number: int, text: str) -> int:
    try:
        t_ns = int(text)
    except ValueError:
        t_ns = -1
    if not 0 <= t_ns < 2**63:
        raise _wrong(path, number, "t_ns", text, "a whole number of nanoseconds")
    return t_ns


def _degrees(path: Node, number: int, name: str, text: str, most: float) -> float:
    value = _number(path, number, name, text)
    if abs(value) > most:
        raise _wrong(path, number, name, text, f"degrees from -{most:g} to {most:g}")
    return value


def _std(path: Node, number: int, text: str) -> float:
    """A standard deviation, metres; NaN where it is not stated, or not positive."""
    value = _number(path, number, "std_m", text) if text else math.nan
    return value if 0 < value < math.inf else math.nan


def _number(path: Node, number: int, name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _wrong(path, number, name, text, "a number") from None


def _wrong(path: Node, number: int, name: str, text: str, expected: str) -> MaptileError:
    return MaptileError(f"{path}: line {number}: {name} is {text[:40]!r}, expected {expected}")
