"""NMEA 0183: positions in a receiver's sentences GGA and RMC.

A sentence is ``$`` + talker and type + fields separated by commas + ``*`` + checksum, the exclusive
or of all bytes between ``$`` and ``*`` in two hexadecimal digits. A sentence without a right
checksum is left out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import reduce
from operator import xor
from typing import NamedTuple

import numpy as np

from data_prep.drive import GnssTrack
from data_prep.errors import MaptileError
from data_prep.sources.formats.common import in_time, said_of_rows
from data_prep.sources.storage.tree import Node

HDOP_M = 5.0
"""Standard deviation of a position at a horizontal dilution of precision of 1, metres."""

_SENTENCE = re.compile(r"\$([A-Z]{2}(GGA|RMC),[^*$]*)\*([0-9A-Fa-f]{2})")
"""A sentence of one of the two kinds, anywhere in a line."""

_ANGLE = re.compile(r"(\d{2,3})(\d{2}(?:\.\d*)?)")
"""Degrees and minutes."""

_CLOCK = re.compile(r"(\d{2})(\d{2})(\d{2})(?:\.(\d{1,9}))?")
"""Hours, minutes, seconds."""

_DATE = re.compile(r"(\d{2})(\d{2})(\d{2})")
"""Day, month, year without its century."""

_HALF_DAY = timedelta(hours=12)
"""Times that differ by more belong to different days."""


class Position(NamedTuple):
    """What one sentence states.

    Attributes:
        clock_ns: Time of the day (UTC), nanoseconds.
        day: The date, where the sentence has one.
        latitude, longitude: Degrees; NaN where the receiver has no position.
        std_m: Standard deviation, metres; NaN where it is not stated.
        kind: "GGA" or "RMC".
    """

    clock_ns: int
    day: date | None
    latitude: float
    longitude: float
    std_m: float
    kind: str


def checksum(content: str) -> int:
    """The checksum of what is between ``$`` and ``*``."""
    return reduce(xor, content.encode("ascii", "replace"), 0)


def parse(text: str) -> Position | None:
    """The position in a line with a GGA or RMC sentence; None where there is none, or a wrong one.

    A receiver without a fix states no position: the result has NaN.
    """
    match = _SENTENCE.search(text)
    if match is None or checksum(match[1]) != int(match[3], 16):
        return None
    kind, fields = match[2], match[1].split(",")
    first = 2 if kind == "GGA" else 3
    if len(fields) < (9 if kind == "GGA" else 10):
        return None
    clock = _clock(fields[1])
    if clock is None:
        return None
    fixed = fields[6] not in ("", "0") if kind == "GGA" else fields[2] == "A"
    latitude = _degrees(fields[first], fields[first + 1], "NS", 90.0)
    longitude = _degrees(fields[first + 2], fields[first + 3], "EW", 180.0)
    if not fixed or math.isnan(latitude + longitude):
        latitude = longitude = math.nan
    std_m = HDOP_M * _number(fields[8]) if kind == "GGA" else math.nan
    std_m = std_m if std_m > 0 else math.nan
    day = _day(fields[9]) if kind == "RMC" else None
    return Position(clock, day, latitude, longitude, std_m, kind)


def read_nmea(path: Node, notes: list[str]) -> GnssTrack | None:
    """Read a log of sentences; their times are UTC, and their dates those of the RMC sentences.

    Args:
        path: The log.
        notes: Lines about sentences that are left out are appended.

    Returns:
        The positions; None where there is none.

    Raises:
        MaptileError: The file cannot be read, has no right sentence, or no date.
    """
    try:
        lines = path.read_bytes().decode("ascii", "replace").splitlines()
    except OSError as error:
        raise MaptileError(f"{path}: cannot read this file ({error.strerror})") from None
    found = [position for line in lines if (position := parse(line)) is not None]
    asked = sum("GGA" in line or "RMC" in line for line in lines)
    if not found:
        raise MaptileError(f"{path}: no GGA or RMC sentence with a right checksum")
    if asked > len(found):
        notes.append(
            f"{path.name}: {asked - len(found)} of {asked} sentences have a wrong checksum or "
            "fields; left out"
        )
    times = dated(found)
    if times is None:
        raise MaptileError(f"{path}: no RMC sentence with a date; log RMC besides GGA")
    return track(times, found, path.name, notes)


def dated(found: list[Position]) -> list[int] | None:
    """Nanoseconds since 1970 of each position; None where none has a date.

    A position without a date has that of the nearest one before it that has one, else after it; a
    clock that falls back by more than half a day is in the next day.
    """
    known = next((n for n, one in enumerate(found) if one.day is not None), None)
    if known is None:
        return None
    midnight = datetime(1970, 1, 1, tzinfo=UTC)
    times: list[int] = []
    last = found[known]
    for one in [*reversed(found[:known]), *found[known:]]:
        assert last.day is not None
        day = one.day or last.day
        if one.day is None:
            step = timedelta(microseconds=(one.clock_ns - last.clock_ns) // 1000)
            day += timedelta(days=int(step < -_HALF_DAY) - int(step > _HALF_DAY))
        last = one._replace(day=day)
        since = datetime.combine(day, time(), UTC) - midnight
        times.append(since.days * 86_400 * 10**9 + one.clock_ns)
    return [*reversed(times[:known]), *times[known:]]


def track(
    times: Iterable[int], found: Iterable[Position], name: str, notes: list[str]
) -> GnssTrack | None:
    """The track of positions at times, nanoseconds; None where no position is known.

    Of sentences at one time, the one that states its accuracy is used.
    """
    best: dict[int, Position] = {}
    order: list[int] = []
    for t_ns, one in zip(times, found, strict=True):
        if math.isnan(one.latitude) or not 0 <= t_ns < 2**63:
            continue
        if t_ns not in best:
            order.append(t_ns)
        if t_ns not in best or math.isnan(best[t_ns].std_m):
            best[t_ns] = one
    if not order:
        return None
    t_ns_all = np.array(order, np.int64)
    kept = in_time(t_ns_all)
    notes += said_of_rows(name, len(order), len(kept))
    rows = [best[order[index]] for index in kept.tolist()]
    latitude, longitude, std_m = (
        np.array([getattr(row, key) for row in rows]) for key in ("latitude", "longitude", "std_m")
    )
    return GnssTrack(t_ns_all[kept], latitude, longitude, std_m)


def _clock(text: str) -> int | None:
    """Nanoseconds since midnight of ``hhmmss.sss``."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (int(match[n]) for n in (1, 2, 3))
    if hours > 23 or minutes > 59 or seconds > 60:
        return None
    whole = 3600 * hours + 60 * minutes + seconds
    return whole * 10**9 + int((match[4] or "0").ljust(9, "0"))


def _day(text: str) -> date | None:
    """The date of ``ddmmyy``, from 1980 to 2079."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    day, month, year = (int(match[n]) for n in (1, 2, 3))
    try:
        return date(year + (1900 if year >= 80 else 2000), month, day)
    except ValueError:
        return None


def _degrees(text: str, side: str, sides: str, most: float) -> float:
    """Degrees of ``(d)ddmm.mmm`` and a side, "N" or "S", "E" or "W"; NaN where they are none."""
    match = _ANGLE.fullmatch(text)
    if match is None or side not in sides or side == "" or float(match[2]) >= 60:
        return math.nan
    degrees = int(match[1]) + float(match[2]) / 60
    if degrees > most:
        return math.nan
    return degrees if side == sides[0] else -degrees


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
