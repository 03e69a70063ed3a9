"""Runs a function that is interrupted at every one of its file operations, for tests."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

from data_prep.errors import MaptileError

How = Literal["kill", "fail", "fail from there on"]

CHANGES = {f"os.{name}" for name in ("mkdir", "rename", "link", "symlink", "remove", "rmdir")}
CHANGES |= {"os.chmod", "os.utime", "ctypes.dlsym"}
"""Audit events that Python raises right before it changes the file system. The last one precedes
the only system call that Python has no function for."""
READS = {"open", "os.listdir"}
"""Audit events that precede a read (or a write into an open file), which may fail too."""

SUCCEEDED, REFUSED, CRASHED, UNTOUCHED = range(4)
"""Exit codes of the child process: finished although one operation failed; ended in a
``MaptileError``; ended in any other exception; finished before the operation to interrupt."""


def interruptions(action: Callable[[], None], how: How) -> Iterator[int]:
    """Interrupt ``action`` at its first file operation, then at its second, and so on.

    Every run takes place in a forked process. ``kill`` ends it with SIGKILL right before the
    operation (a change), ``fail`` makes the operation raise, ``fail from there on`` also all later
    ones.

    Yields:
        After each run, the exit code of the process: one of the codes above, or -SIGKILL. Ends
        once a run was too short to be interrupted.
    """
    for at in itertools.count(1):
        child = os.fork()
        if child == 0:
            _run(action, at, how)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == UNTOUCHED:
            return
        yield code


def _run(action: Callable[[], None], at: int, how: How) -> None:
    count = 0

    def interrupt(event: str, _: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in (CHANGES if how == "kill" else CHANGES | READS):
            return
        count += 1
        if count == at and how == "kill":
            signal.raise_signal(signal.SIGKILL)
        if count == at or (count > at and how == "fail from there on"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    sys.addaudithook(interrupt)
    try:
        action()
    except MaptileError:
        os._exit(REFUSED)
    except BaseException:
        os._exit(CRASHED)
    os._exit(SUCCEEDED if count >= at else UNTOUCHED)
