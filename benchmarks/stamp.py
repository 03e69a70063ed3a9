"""Tables of benchmarks: their rows, and when, of which commit and where they were measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path


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
