"""Numbers of the page as base64 of little-endian integers, which a browser reads fast."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["i4", "u4", "u2", "u1"]
"""Types of integers: signed or unsigned, and bytes."""

MISSING: dict[Kind, int] = {"i4": -(2**31), "u4": 2**32 - 1, "u2": 2**16 - 1, "u1": 2**8 - 1}
"""The integer of each type that stands for NaN and infinity."""


def packed(values: ArrayLike, kind: Kind, step: float) -> dict[str, Any]:
    """Return (N,) numbers as ``kind``, ``step`` and ``data``: base64 of N integers.

    A number is its integer times ``step``: half of that is the largest error. Numbers beyond the
    reach of the type become its largest or smallest integer.

    Args:
        values: (N,) numbers; NaN and infinity become ``MISSING``.
        kind: Type of the integers.
        step: Resolution, in the unit of ``values``.
    """
    numbers = np.asarray(values, np.float64)
    limits = np.iinfo(kind)
    low, high = (limits.min + 1, limits.max) if kind == "i4" else (0, limits.max - 1)
    known = np.isfinite(numbers)
    whole = np.full(len(numbers), MISSING[kind], np.int64)
    whole[known] = np.clip(np.round(numbers[known] / step), low, high).astype(np.int64)
    data = base64.b64encode(whole.astype(f"<{kind}").tobytes()).decode("ascii")
    return {"kind": kind, "step": step, "data": data}
