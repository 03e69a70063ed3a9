"""Tables of benchmarks: their rows; when, of which commit and where; the memory that was used."""

from __future__ import annotations

import datetime
import os
import platform
import resource
import subprocess
import threading
from pathlib import Path
from types import TracebackType


def stamp() -> str:
    """One line for the head of a table."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    python = platform.python_version()
    return f"{datetime.date.today()}, commit {commit or 'unknown'}, {machine}, Python {python}"


def head(*texts: str) -> None:
    """Print a table's head."""
    row(*texts)
    print("|" + "---|" * len(texts))


def row(*texts: str) -> None:
    """Print a row."""
    print("| " + " | ".join(texts) + " |", flush=True)


def peak_mb() -> float:
    """The most memory that this process ever had."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where ru_maxrss is the parent's if that had more
        return float(status.read_text().partition("VmHWM:")[2].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def anonymous_mb() -> float:
    """The memory of this process that no file backs, MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition("RssAnon:")[2].split()[0]) / 1e3


class AnonymousPeak:
    """Context that measures by how much the memory that no file backs grows (Linux).

    Attributes:
        mb: The peak above what it was on entry, MB, sampled every 10 ms.
    """

    def __enter__(self) -> AnonymousPeak:
        self.mb, self._before, self._done = 0.0, anonymous_mb(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.mb = max(self.mb, anonymous_mb() - self._before)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
