"""What a command shows: progress, notes, the recipe that was used, and the next command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from data_prep.progress import Progress


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Context manager with a progress callback that draws one bar per step, on a terminal only."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in bars:
            for bar in bars.values():
                bar.close()
            bars[step] = tqdm(total=total, desc=step, disable=None)
        bar = bars[step]
        if bar.total != total:
            bar.reset(total)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


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
