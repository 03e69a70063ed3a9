"""Progress of a command: bars on a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from data_prep.progress import Progress

EVERY_S = 10.0
"""Seconds between two lines, and before the first one."""
LEAST_SHARE = 0.02
"""Share of a step that has to be done before the time that is left is estimated."""


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Context manager with a progress callback that shows steps on standard error."""
    with _bars() if sys.stderr.isatty() else _lines() as show:
        yield show


@contextmanager
def _bars() -> Iterator[Progress]:
    """One bar per step."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in bars:
            for bar in bars.values():
                bar.close()
            bars[step] = tqdm(total=total, desc=step)
        bar = bars[step]
        if bar.total != total:
            bar.reset(total)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


@contextmanager
def _lines() -> Iterator[Progress]:
    """A line every ``EVERY_S`` seconds, also while a step reports nothing."""
    state = Lines(time.monotonic())
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(EVERY_S):
            click.echo(state.line(time.monotonic()), err=True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield state.show
    finally:
        ended.set()
        thread.join()


class Lines:
    """The state of a command's progress, as a line of text.

    Args:
        now: The time, seconds of any clock.
    """

    def __init__(self, now: float) -> None:
        self._begun = now
        self._step, self._done, self._total, self._first = "", 0, 0, 0
        self._since = now

    def show(self, step: str, done: int, total: int) -> None:
        """Take note of progress; see ``data_prep.progress.Progress``."""
        if step != self._step:
            self._step, self._first, self._since = step, done, time.monotonic()
        self._done, self._total = done, total

    def line(self, now: float) -> str:
        """What is done at a time, how long it took, and about how long the step still takes."""
        text = f"{now - self._begun:.0f} s"
        if not self._step:
            return f"{text}: at work"
        text += f": {self._step} {self._done}"
        if not self._total:
            return text
        text += f" of {self._total} ({100 * self._done / self._total:.0f} %)"
        made = self._done - self._first
        if made < LEAST_SHARE * self._total:
            return text
        left = (now - self._since) * (self._total - self._done) / made
        return f"{text}, about {_duration(left)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
