"""What a command shows: notes, the recipe that was used, and the next command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from maptile_loc.types import Localization

NOTHING = 3
"""Exit status of a command that found no position."""
BEST = 5
"""Candidates of a scan that are printed, at most."""


def say_notes(notes: Iterable[str]) -> None:
    """Print notes, one line each."""
    for note in notes:
        click.echo(f"note: {note}")


def say_recipe(config: str) -> None:
    """Print which recipe file was used."""
    from maptile_loc.config import find_recipe

    click.echo(f"recipe: {find_recipe(config)}")


def say_next(*words: str | Path) -> None:
    """Print the command that usually comes next."""
    click.echo(f"next: maptile {shlex.join(str(word) for word in words)}")


def end_with_nothing(why: str) -> NoReturn:
    """End a command that localized nothing: a last line with the reason, and status ``NOTHING``."""
    click.echo(f"nothing localized: {why}", err=True)
    sys.exit(NOTHING)


def in_words(found: Localization, most: int) -> Iterator[str]:
    """The best candidates of the first ``most`` queries, a line each."""
    import numpy as np

    table = found.candidates
    if table is None or not table.size:
        return
    for number, rows in enumerate(table[:most]):
        rows = rows[np.isfinite(rows[:, 0])]
        for rank, (east, north, heading, log_score) in enumerate(rows[:BEST], 1):
            latitude, longitude = found.raster.projection.inverse(np.array([east, north]))
            yield (
                f"scan {found.frame[number]}, {rank}: {latitude:.6f}, {longitude:.6f}, heading "
                f"{np.degrees(heading):.1f} deg, probability {np.exp(log_score):.3f}"
            )
        left = 1 - np.exp(rows[:, 3]).sum()
        yield f"scan {found.frame[number]}, elsewhere: probability {max(left, 0):.3f}"
