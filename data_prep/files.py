"""Files and folders that appear whole or not at all, also when a process is killed."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, EINVAL, EMLINK, ENOSPC, ENOSYS, ENOTDIR, ENOTSUP, EPERM, EXDEV
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_prep.errors import MaptileError
from data_prep.regular import read_regular_text

if sys.platform != "win32":
    import fcntl

_NEW = ".new"
"""Suffix of a hidden folder that is being written or, after an exchange, of the old folder."""
_OLD = ".previous"
"""Suffix of an old folder that was moved aside, where the system cannot exchange two folders."""
_AT_FDCWD = -100
"""Linux: relative paths count from the current folder."""
_RENAME_EXCHANGE = 2
"""Linux: the flag of ``renameat2`` that exchanges two names in one step."""
_NO_EXCHANGE = (ENOSYS, EINVAL, ENOTSUP)
"""Errors of ``renameat2`` where the kernel or the file system cannot exchange."""
_NO_HARD_LINKS = (EPERM, ENOTSUP, ENOSYS, EMLINK)
"""Errors of ``link`` where a file cannot have another hard link; copying it is possible."""


@contextmanager
def atomic_file(path: Path, tidy: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which is renamed to ``path`` if the block succeeds.

    The temporary name has the suffix of ``path``: some libraries choose the format by it. It also
    has the number of this process, so that the next call can remove what a killed process left.
    Missing parent folders are made.

    Args:
        path: The file.
        tidy: Call ``remove_leftovers``, which reads the names of all files in the folder.

    Raises:
        MaptileError: The file cannot be written (disk full, no permission, ...). The temporary
            file is removed, and an older ``path`` is left as it was.
    """
    token = f"{os.getpid()}-{uuid4().hex[:8]}"
    temporary = path.with_name(f".{path.stem}-{token}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if tidy:
            remove_leftovers(path.parent, path)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def swapped_folder(folder: Path, keep: Callable[[str], bool] | None = None) -> Iterator[Path]:
    """Yield an empty folder beside ``folder``, which replaces ``folder`` if the block succeeds.

    One system call (``renameat2`` with ``RENAME_EXCHANGE``) replaces the folder. At any time, also
    after the process is killed, ``folder`` is therefore the complete old or the complete new one.
    Kept entries are linked into the new folder before that call, so they are always in ``folder``.
    The next call, or ``finish_swap``, removes the hidden folders of a killed process. If ``folder``
    is a symbolic link, the folder that it points to is replaced.

    Two renames do the same where the file system cannot exchange two folders, or the system is not
    Linux. If the process is killed between the two, ``folder`` is missing until ``finish_swap``
    moves the old one back.

    Args:
        folder: The folder to make or to replace. Missing parents are made.
        keep: Called with the name of each entry of an older ``folder``, right before the swap;
            entries for which it returns True are in the new folder too, unless the block wrote an
            entry of that name. Files are hard-linked (copied where the file system has no hard
            links), symbolic links stay links. By default nothing is kept.

    Raises:
        MaptileError: As ``ensure_replaceable``, or a file cannot be written or linked; an older
            ``folder`` is left as it was.
    """
    ensure_replaceable(folder)
    finish_swap(folder)
    target = _real(folder)
    new = _hidden(target, _NEW)
    try:
        new.mkdir()
        with _claimed(new):
            yield new
            if target.exists():
                _link_kept(target, new, keep or (lambda _: False))
                _replace(target, new)
            else:
                new.rename(target)
    except OSError as error:
        raise write_error(folder, error) from error
    except MaptileError as error:
        raise MaptileError(str(error).replace(str(new), str(folder))) from error
    finally:
        finish_swap(target)


def finish_swap(folder: Path) -> None:
    """Clean up after a process that was killed while it replaced ``folder``.

    If ``folder`` is missing and an old one was moved aside, the old one is moved back. Other hidden
    folders of a killed process are removed; those that another process is writing stay. Readers
    call this if ``folder`` is missing. ``swapped_folder`` calls it at its start and end.
    """
    target = _real(folder)
    pattern = re.compile(rf"\.{re.escape(target.name)}-[0-9a-f]{{8}}({_NEW}|{_OLD})")
    with suppress(OSError):
        for path in sorted(target.parent.iterdir()):
            if not pattern.fullmatch(path.name):
                continue
            with _claimed(path) as is_leftover:
                if not is_leftover:
                    continue
                if path.suffix == _OLD:
                    # Succeeds only if there is no folder, or an empty one.
                    with suppress(OSError):
                        path.rename(target)
                        continue
                shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folder: Path, path: Path | None = None) -> None:
    """Remove the temporary files of killed processes: those of ``path``, or of all files."""
    stem, suffix = (".+", ".*") if path is None else map(re.escape, (path.stem, path.suffix))
    pattern = re.compile(rf"\.{stem}-([0-9]+)-[0-9a-f]{{8}}\.tmp{suffix}")
    for entry in folder.iterdir():
        match = pattern.fullmatch(entry.name)
        if match and not _runs(int(match[1])):
            with suppress(OSError):
                entry.unlink()


def _runs(process: int) -> bool:
    """Whether a process of this number runs; True where that cannot be known."""
    if sys.platform == "win32":
        return True  # there, signal 0 would end it
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def ensure_replaceable(folder: Path) -> None:
    """Check that ``swapped_folder`` can make or replace ``folder``, before long work is done.

    Missing parents are made.

    Raises:
        MaptileError: ``folder`` is a file or a mount point, this process is in it, or its parent
            cannot be written to.
    """
    target = _real(folder)
    check_outside(folder)
    if target.is_mount():
        raise MaptileError(
            f"{folder}: a mount point, which cannot be replaced as a whole; choose a folder inside "
            f"it, such as {target / 'new'}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR))
        trial = _hidden(target, _NEW)
        trial.mkdir()
        trial.rmdir()
    except OSError as error:
        raise write_error(folder, error) from error


def check_outside(folder: Path) -> None:
    """Refuse a folder that holds the current one: the shell would stay in what was replaced.

    Raises:
        MaptileError: It does.
    """
    with suppress(FileNotFoundError):
        here = Path.cwd().resolve()
        if _real(folder) in (here, *here.parents):
            raise MaptileError(
                f"{folder}: you are in this folder, which is replaced as a whole; choose a folder "
                "inside it, such as out"
            )


def ensure_folder(path: Path) -> None:
    """Make ``path`` a folder that can be written to, before long work is done for it.

    Raises:
        MaptileError: It is something else, or cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        trial = path / f".{uuid4().hex[:8]}.tmp"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise write_error(path, error) from error


def check_name(path: Path) -> None:
    """Refuse a path that is not UTF-8: GDAL and GeoParquet can neither read nor write it.

    Raises:
        MaptileError: It is not.
    """
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        raise MaptileError(
            f"{ascii(str(path))[1:-1]}: this name, or that of a folder above it, is not UTF-8; "
            "rename it, or set a UTF-8 locale (LANG=C.UTF-8)"
        ) from None


def write_error(path: Path, error: OSError) -> MaptileError:
    """Return the one-line error that says why ``path`` could not be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = "free some space" if error.errno in (ENOSPC, EDQUOT) else "choose another folder"
    return MaptileError(f"{path}: cannot write: {reason}; no half-written file is left, {advice}")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as indented JSON, whole or not at all; NaN becomes null."""
    write_text(path, json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        MaptileError: The file is missing, or holds no JSON object.
    """
    try:
        content = json.loads(read_regular_text(path))
    except FileNotFoundError:
        raise MaptileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise MaptileError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise MaptileError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def check_version(path: Path, found: object, supported: int, remedy: str) -> None:
    """Check the version of a file format.

    Args:
        path: The file or folder, for the message.
        found: The version that it states.
        supported: The only version that this maptile-loc reads.
        remedy: How to make the file again, as the end of the message.

    Raises:
        MaptileError: ``found`` is no version, a newer one (the remedy is then to update, or
            ``remedy``) or an older one.
    """
    if not isinstance(found, int):
        raise MaptileError(f"{path}: damaged (no format version); {remedy}")
    versions = f"(format {found}, this one reads format {supported})"
    if found > supported:
        raise MaptileError(
            f"{path}: made by a newer maptile-loc {versions}; update maptile-loc, or {remedy}"
        )
    if found < supported:
        raise MaptileError(f"{path}: made by an older maptile-loc {versions}; {remedy}")


def _without_nan(value: Any) -> Any:
    """Return ``value`` with None instead of NaN, in nested lists and dictionaries too."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def _real(folder: Path) -> Path:
    """Return ``folder`` as an absolute path without symbolic links."""
    return Path(os.path.realpath(folder))


def _hidden(folder: Path, suffix: str) -> Path:
    """Return a fresh hidden name beside ``folder``."""
    return folder.with_name(f".{folder.name}-{uuid4().hex[:8]}{suffix}")


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Lock a folder while the block runs; yield True if this process holds the lock.

    The system releases the locks of a killed process. So a hidden folder without a lock is a
    leftover. Where folders cannot be locked (Windows, some network file systems), leftovers stay.
    """
    descriptor = None
    try:
        if sys.platform != "win32":
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = descriptor is not None
    except OSError:
        locked = False
    try:
        yield locked
    finally:
        if descriptor is not None:
            with suppress(OSError):
                # A forked process may hold a copy of the descriptor, and with it the lock.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _link_kept(old: Path, new: Path, keep: Callable[[str], bool]) -> None:
    """Link the entries of ``old`` that are kept into ``new``; take over the folder's mode."""
    shutil.copymode(old, new)
    for entry in old.iterdir():
        if keep(entry.name) and not os.path.lexists(new / entry.name):
            link_tree(entry, new / entry.name)


def link_tree(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to the file ``source``, or a folder of links to its files."""
    if source.is_dir() and not source.is_symlink():
        if source.is_mount():
            raise OSError(EXDEV, os.strerror(EXDEV))
        target.mkdir()
        for entry in source.iterdir():
            link_tree(entry, target / entry.name)
        shutil.copystat(source, target)
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        shutil.copy2(source, target, follow_symlinks=False)


def _replace(folder: Path, new: Path) -> None:
    """Give the name ``folder`` to ``new``; the old folder gets a hidden name."""
    if _exchange(folder, new):
        return
    old = _hidden(folder, _OLD)
    with _claimed(folder):
        folder.rename(old)
        try:
            new.rename(folder)
        except BaseException:
            old.rename(folder)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot do that."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _NO_EXCHANGE:
        return False
    raise OSError(error, os.strerror(error))
