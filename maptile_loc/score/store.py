"""Files that keep what was computed of a map for the next run.

Each array is a file of its own, written whole or not at all, with a checksum. A file that is
damaged is made again. When the files exceed a limit, those that were not used for longest are
removed. They are safe to delete at any time.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.city.folder import CACHE
from data_prep.errors import MaptileError
from data_prep.files import atomic_file, remove_leftovers
from data_prep.locks import locked

Bytes = NDArray[np.uint8]

SUFFIX = ".fields"
"""Suffix of the files."""

SUM_BYTES = 4
"""Length of the checksum at the end of a file."""

SPARE = 0.9
"""Share of the limit to which the files are reduced when they exceed it."""

PATIENCE_S = 120.0
"""Longest time to wait for another process that makes the same array, seconds."""

_LOG = logging.getLogger(__name__)


class FieldStore:
    """The files of one map with one set of settings, in a folder that may hold others.

    Args:
        root: The folder of all files, to which the limit applies.
        made_of: What the arrays follow from; any text.
        limit_gb: Largest size of all files, GB.

    Raises:
        OSError: The folder cannot be written.
    """

    def __init__(self, root: Path, made_of: str, limit_gb: float) -> None:
        self.root, self._limit = root, limit_gb * 1e9
        self.folder = root / hashlib.sha256(made_of.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.folder}: not writable")
        remove_leftovers(self.folder)
        self._size = float(sum(size for _, size, _ in self._files()))

    def get(self, name: str, count: int, make: Callable[[], NDArray[Any]]) -> Bytes:
        """The bytes of an array, mapped from its file; made and written if there is none.

        When two processes ask for it at once, one makes it.

        Args:
            name: Name of the array.
            count: Its number of bytes.
            make: Makes it.
        """
        path = self.folder / f"{name}{SUFFIX}"
        found = _read(path, count)
        if found is not None:
            return found
        made: Bytes | None = None
        try:
            with locked(path, PATIENCE_S):
                found = _read(path, count)
                if found is None:
                    made = np.ascontiguousarray(make()).view(np.uint8).ravel()
                    self._write(path, made)
        except MaptileError as error:
            if made is None:
                made = np.ascontiguousarray(make()).view(np.uint8).ravel()
            _LOG.debug("not kept: %s", error)
        if found is not None:
            return found
        assert made is not None
        return made

    def _write(self, path: Path, values: Bytes) -> None:
        with atomic_file(path, tidy=False) as temporary, temporary.open("wb") as file:
            file.write(values.data)
            file.write(zlib.crc32(values.data).to_bytes(SUM_BYTES, "little"))
        self._size += values.nbytes + SUM_BYTES
        if self._size > self._limit:
            self._reduce(path)

    def _reduce(self, newest: Path) -> None:
        """Remove the files that were not used for longest; others may do so at the same time."""
        files = sorted(self._files())
        self._size = float(sum(size for _, size, _ in files))
        for _, size, path in files:
            if self._size <= SPARE * self._limit:
                break
            if path != newest:
                with suppress(OSError):
                    path.unlink()
                self._size -= size

    def _files(self) -> list[tuple[int, int, Path]]:
        """Time of the last use (ns), size and path of every file."""
        found = []
        for path in self.root.glob(f"*/*{SUFFIX}"):
            with suppress(OSError):
                about = path.stat()
                found.append((about.st_mtime_ns, about.st_size, path))
        return found


def _read(path: Path, count: int) -> Bytes | None:
    """The bytes of a file, mapped; None if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size != count + SUM_BYTES:
                return None
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        values: Bytes = np.frombuffer(mapped, np.uint8)
        if values[count:].tobytes() != zlib.crc32(values[:count].data).to_bytes(4, "little"):
            return None
        with suppress(OSError):
            os.utime(path)
        return values[:count]
    except (OSError, ValueError):
        return None


def open_store(
    city: Path | None, content_hash: str, made_of: str, limit_gb: float
) -> FieldStore | None:
    """The store of a city: in its folder, or in the user's cache where that cannot be written.

    Args:
        city: The city's folder; None for a bare raster.
        content_hash: Hash of the map's content.
        made_of: What else the arrays follow from.
        limit_gb: Largest size of all files, GB.

    Returns:
        The store; None where neither folder can be written.
    """
    made_of = f"{content_hash} {made_of}"
    if city is not None:
        with suppress(OSError):
            return FieldStore(city / CACHE, made_of, limit_gb)
    with suppress(OSError, RuntimeError):
        return FieldStore(user_cache(), made_of, limit_gb)
    return None


def user_cache() -> Path:
    """The folder for files of this program that are safe to delete, as the system has it.

    Raises:
        RuntimeError: The user has no home folder.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "maptile-loc" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "maptile-loc"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "maptile-loc"
