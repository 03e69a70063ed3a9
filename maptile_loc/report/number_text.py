"""Numbers as text for tables and captions."""

from __future__ import annotations

UNKNOWN = "–"
"""Text of an unknown number."""


def percent(value: float | None) -> str:
    """Return a share, 0..1, in percent."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def number(value: float | None, unit: str) -> str:
    """Return a number with its unit."""
    return UNKNOWN if value is None else f"{value:.2f}{'' if unit == '°' else ' '}{unit}"


def length(metres: float) -> str:
    """Return a length in metres or kilometres."""
    return f"{metres:.1f} m" if metres < 1000 else f"{metres / 1000:.1f} km"
