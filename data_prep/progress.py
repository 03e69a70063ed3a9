"""Progress of long work, reported to a callback: the packages themselves print nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """A callback that long work calls after each part of a step."""

    def __call__(self, step: str, done: int, total: int) -> None:
        """Take note that ``done`` of ``total`` parts of ``step`` ("localize", ...) are finished."""
        ...


def silent(step: str, done: int, total: int) -> None:
    """Ignore progress: the default callback."""


def tracked(parts: Iterable[T], step: str, total: int, progress: Progress) -> Iterator[T]:
    """Yield ``parts``, reporting to ``progress`` before the first and after each of them."""
    progress(step, 0, total)
    for done, part in enumerate(parts, 1):
        yield part
        progress(step, done, total)
