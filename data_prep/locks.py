"""Locks of folders and files that a process writes: two runs never write to the same one.

The lock of ``OUT`` is the hidden file ``.OUT.lock`` beside it, with a record lock of the system
(POSIX ``fcntl``). The system releases it when the process ends, however it ends, and child
processes do not inherit it. A file that a killed process left is taken over, and removed at the
end of the next run.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN
from pathlib import Path

from data_prep.errors import MaptileError
from data_prep.files import check_name, write_error

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_BYTE = 1 << 30
"""Windows: the byte that is locked; it lies behind the text, which others may therefore read."""

_HELD: dict[Path, tuple[int, int]] = {}
"""The thread that holds each lock of this process, and how often."""

_GUARD = threading.Lock()
"""Protects ``_HELD``."""


_PAUSE_S = 0.02
"""Seconds between two attempts to take a lock that is waited for."""


@contextmanager
def locked(path: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of ``path``, a folder or file to be written, while the block runs.

    The thread that holds it may take it again. Where the system cannot lock (some network file
    systems), the block runs without.

    Args:
        path: The folder or file.
        patience_s: Longest time to wait for another process or thread that holds it, seconds.

    Raises:
        MaptileError: Another process or thread holds it, the folder around ``path`` cannot be
            written, or its name is not UTF-8.
    """
    check_name(path)
    target = Path(os.path.realpath(path))
    until = time.monotonic() + patience_s
    depth, file = _claim(path, target, until), None
    own = threading.get_ident()
    try:
        if not depth:
            file = _acquire(path, target.with_name(f".{target.name}.lock"), until)
        yield
    finally:
        with _GUARD:
            if depth:
                _HELD[target] = own, depth
            else:
                del _HELD[target]
        if file is not None:
            _release(file, target.with_name(f".{target.name}.lock"))


def _claim(path: Path, target: Path, until: float) -> int:
    """Make the lock this thread's, among those of the process; how often it was before."""
    own = threading.get_ident()
    while True:
        with _GUARD:
            holder, depth = _HELD.get(target, (own, 0))
            if holder == own:
                _HELD[target] = own, depth + 1
                return depth
        if time.monotonic() > until:
            raise MaptileError(f"{path}: another thread of this program is writing it; wait for it")
        time.sleep(_PAUSE_S)


def _acquire(path: Path, lock: Path, until: float) -> int | None:
    """Descriptor of the lock's file, which this process holds; None where nothing can be locked."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        while True:
            file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                taken = _try(file)
                if not taken and time.monotonic() > until:
                    raise MaptileError(_busy(path, file))
                if taken and _is_same(file, lock):
                    _write_holder(file)
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # the holder before removed it in between, or holds it
            if not taken:
                time.sleep(_PAUSE_S)
    except OSError as error:
        raise write_error(path, error) from error


def _try(file: int) -> bool:
    """Take the lock; False where another process holds it."""
    try:
        if sys.platform == "win32":
            os.lseek(file, _BYTE, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (EACCES, EAGAIN)
    return True


def _release(file: int, lock: Path) -> None:
    # On Windows an open file cannot be removed, and a file that another process opens may stay.
    if sys.platform == "win32":
        os.close(file)
    with suppress(OSError):
        lock.unlink()
    if sys.platform != "win32":
        os.close(file)


def _is_same(file: int, lock: Path) -> bool:
    """Whether the open file still has the lock's name."""
    try:
        return os.path.samestat(os.fstat(file), lock.stat())
    except OSError:
        return False


def _write_holder(file: int) -> None:
    os.truncate(file, 0)
    os.lseek(file, 0, os.SEEK_SET)
    about = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.write(file, json.dumps(about).encode("ascii"))


def _busy(path: Path, file: int) -> str:
    """The message about a lock that another process holds."""
    who = "another run"
    with suppress(OSError, ValueError, KeyError, TypeError):
        os.lseek(file, 0, os.SEEK_SET)
        about = json.loads(os.read(file, 1000))
        who = f"another run (process {int(about['pid'])}, since {about['since']})"
    return f"{path}: {who} is writing it; wait for it to end, or choose another name"
