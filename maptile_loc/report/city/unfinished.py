"""The state of a city report that is not finished: an interrupted one goes on from there."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.errors import MaptileError
from data_prep.files import atomic_file
from data_prep.regular import open_regular

UNFINISHED = "unfinished.npz"
"""Name of the file in the folder of the report; it is gone when the report is finished."""
KEEP_EVERY_S = 20.0
"""Seconds between two states on disk: a report that is killed loses no more."""

Arrays = Mapping[str, NDArray[Any]]


class Unfinished:
    """Keeps the arrays of a measurement on disk while they fill.

    Args:
        path: The file; None: nothing is kept.
        key: What the measurement depends on; a state with another key is not used.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key = path, key
        self._kept = time.monotonic()

    def resume(self, arrays: Arrays) -> int:
        """Fill ``arrays`` from the file; returns the number of tiles that are done, 0 if none."""
        if self._path is None or not self._path.is_file():
            return 0
        try:
            with open_regular(self._path) as file, np.load(file, allow_pickle=False) as stored:
                if str(stored["key"]) != self._key:
                    return 0
                fitting = {name: stored[name] for name in arrays}
                if any(fitting[name].shape != values.shape for name, values in arrays.items()):
                    return 0
                done = int(stored["done"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, MaptileError):
            return 0  # damaged: the measurement begins again
        for name, values in arrays.items():
            values[...] = fitting[name]
        return done

    def keep(self, arrays: Arrays, done: int, now: bool = False) -> None:
        """Write the state if the last one is old, or ``now``.

        Raises:
            MaptileError: It cannot be written.
        """
        if self._path is None or not (now or time.monotonic() - self._kept >= KEEP_EVERY_S):
            return
        with atomic_file(self._path) as temporary, temporary.open("wb") as file:
            content: dict[str, Any] = {"key": np.array(self._key), "done": np.array(done), **arrays}
            np.savez(file, **content)
        self._kept = time.monotonic()
