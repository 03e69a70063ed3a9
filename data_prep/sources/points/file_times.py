"""Times in the names of files: seconds to nanoseconds, as recorders write them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from data_prep.drive import Times

UNITS_NS = (1_000_000_000, 1_000_000, 1_000, 1)
"""Nanoseconds per second, millisecond, microsecond and nanosecond."""
DATES_NS = (946_684_800 * 10**9, 4_102_444_800 * 10**9)
"""Times since 1970 that are dates: 2000 to 2100."""
LONGEST_GAP_NS = 3_600 * 10**9
"""The scans of a drive are less than an hour apart, most of them."""
LEAST_NS = 1_000_000_000
"""Numbers that are all smaller are frame numbers, not nanoseconds."""
PARTS = re.compile(r"(\d{9,10})([._])(\d{1,9})")
"""Seconds, and decimals behind a point, or parts of a second behind an underscore."""
FRACTIONS = ((1_000_000, 3), (1_000, 6), (1, 9))
"""Nanoseconds per millisecond, microsecond and nanosecond, and the most digits of their number in a
second: the parts of some scans have as many."""


def times_in_names(stems: Sequence[str]) -> Times | None:
    """(N,) nanoseconds that names without suffixes state; None if they are no times.

    Whole numbers are in the unit in which they are dates and the scans less than an hour apart;
    where there is no such unit, they are nanoseconds of a clock of its own.
    """
    if not stems:
        return None
    parts = [PARTS.fullmatch(stem) for stem in stems]
    if all(parts):
        found = [match for match in parts if match]
        digits = max(len(match[3]) for match in found)
        unit = next(unit for unit, most in FRACTIONS if digits <= most)
        return np.array([_joined(match, unit) for match in found], np.int64)
    if not all(stem.isascii() and stem.isdigit() and len(stem) < 20 for stem in stems):
        return None
    numbers = sorted(int(stem) for stem in stems)
    gap = int(np.median(np.diff(numbers))) if len(numbers) > 1 else 0
    for unit in UNITS_NS:
        dated = DATES_NS[0] <= numbers[0] * unit and numbers[-1] * unit <= DATES_NS[1]
        if dated and gap * unit <= LONGEST_GAP_NS:
            return np.array([int(stem) * unit for stem in stems], np.int64)
    if LEAST_NS <= numbers[-1] < 2**63:
        return np.array([int(stem) for stem in stems], np.int64)
    return None


def _joined(name: re.Match[str], unit: int) -> int:
    """Nanoseconds of a name with two numbers, the second one in a unit or as decimals."""
    part = int(name[3].ljust(9, "0")) if name[2] == "." else int(name[3]) * unit
    return int(name[1]) * 1_000_000_000 + part
