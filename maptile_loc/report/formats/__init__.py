"""Output formats of a trajectory: each file writes one, and every result has them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from data_prep.registry import Registry
from maptile_loc.types import Localization


@dataclass(frozen=True)
class OutputFormat:
    """One output format.

    Attributes:
        file_name: Name of its file in a result's folder.
        write: Writes the final stage of a localized drive to a path.
    """

    file_name: str
    write: Callable[[Localization, Path], None]


FORMATS = Registry("maptile_loc.report.formats", "FORMAT", "output format")
"""All formats. A new one is a file in this folder that exports ``FORMAT``, an ``OutputFormat``."""


@cache
def output_formats() -> tuple[OutputFormat, ...]:
    """Return every format, in alphabetical order of the modules."""
    return tuple(FORMATS.all().values())
