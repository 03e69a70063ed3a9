"""Files that users name: only regular files are opened, and one size limit holds for all.

A named pipe would block until somebody writes to it, and a device may never end.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from data_prep.errors import MaptileError

MAX_FILE_BYTES = 2 << 30
"""Size limit, in bytes (2 GiB), of a file that is read whole, plain or in an archive."""

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
"""Tests of a file's mode, and what they find."""


def check_regular(path: Path, most: int | None = None) -> None:
    """Check a file that a library is to open by its name; a missing file is left to the library.

    Args:
        path: The file; a folder passes, too.
        most: Largest size, bytes; None for files that are read piece by piece.

    Raises:
        MaptileError: It is a named pipe, a socket or a device, or too large.
    """
    try:
        about = path.stat()
    except (OSError, ValueError):
        return
    _check(path, about, most)


def open_regular(path: Path | str, most: int | None = None) -> IO[bytes]:
    """Open a regular file for reading; never waits for the other end of a pipe.

    Raises:
        OSError: It cannot be opened.
        MaptileError: As ``check_regular``.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError:
        check_regular(Path(path))  # a socket cannot even be opened
        raise
    file = os.fdopen(descriptor, "rb")
    try:
        _check(path, os.fstat(descriptor), most)
    except MaptileError:
        file.close()
        raise
    return file


def read_regular(path: Path | str, most: int = MAX_FILE_BYTES) -> bytes:
    """Read a regular file whole; raises as ``open_regular``."""
    with open_regular(path, most) as file:
        return file.read()


def read_regular_text(path: Path, encoding: str = "utf-8") -> str:
    """Read a regular file as text; raises as ``open_regular``, and ValueError for wrong bytes."""
    text = read_regular(path).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def too_large(path: object, size: int, most: int = MAX_FILE_BYTES) -> MaptileError:
    """The error of a file that is larger than the limit."""
    return MaptileError(
        f"{path} has {size} bytes; more than {most} bytes are not read at once, so split it"
    )


def _check(path: Path | str, about: os.stat_result, most: int | None) -> None:
    kind = next((text for test, text in _KINDS if test(about.st_mode)), None)
    if kind is not None:
        raise MaptileError(f"{path}: {kind}, not a file; write its content to a file first")
    if most is not None and about.st_size > most:
        raise too_large(path, about.st_size, most)
