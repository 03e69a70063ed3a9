"""Output formats of a trajectory: one module per format, nothing else.

A module exports ``FORMAT``, an ``OutputFormat``. Every result has one file per format.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from maptile_loc.types import Localization


@dataclass(frozen=True)
class OutputFormat:
    """One output format.

    Attributes:
        file_name: Name of its file in a result's folder.
        summary: What the file holds, in one line.
        write: Writes the final stage of a localized drive to a path.
    """

    file_name: str
    summary: str
    write: Callable[[Localization, Path], None]


@cache
def output_formats() -> tuple[OutputFormat, ...]:
    """Return the format of every module in this folder, in alphabetical order of the modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(module.FORMAT for module in modules)
