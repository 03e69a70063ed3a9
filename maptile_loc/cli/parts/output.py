"""What a command writes: one run at a time, and a true last line when it is interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click


class Interrupted(click.ClickException):
    """Ctrl-C or SIGTERM ended the command; the message says what stands now."""


@contextmanager
def writing(
    path: Path, mark: str = "", lock: bool = True, again: str = "starts again"
) -> Iterator[None]:
    """Hold the lock of what a command writes, and say what stands there if it is interrupted.

    Args:
        path: The folder or file.
        mark: The file in the folder by which a finished thing is known; "" for a file.
        lock: Whether to take the lock; False where the API takes it for as long.
        again: What the same command does then: starts again, or goes on.

    Raises:
        Interrupted: The block was interrupted.
        MaptileError: Another run holds the lock.
    """
    from data_prep.locks import locked

    marked = path / mark if mark else path
    before = _identity(marked)
    try:
        if lock:
            with locked(path):
                yield
        else:
            yield
    except (KeyboardInterrupt, click.Abort):
        after = _identity(marked)
        if after is None:
            text = f"nothing finished was written; the same command {again}"
        elif after == before:
            text = f"stands as it was before; the same command {again}"
        else:
            text = "the new one is complete"
        raise Interrupted(f"{path}: {text}") from None


def _identity(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None where it is missing."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns
