"""Writing files so that an interrupted run leaves no half file behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any
from uuid import uuid4

from data_prep.errors import MaptileError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` once the block succeeds.

    The temporary name keeps the suffix, for libraries that choose the format by it. Missing parent
    folders are made.

    Raises:
        MaptileError: The file cannot be written (disk full, no permission, ...); the temporary
            file is removed and an older ``path`` is left as it was.
    """
    temporary = path.with_name(f".{path.stem}-{uuid4().hex[:8]}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(path: Path, keep: Iterable[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that replaces ``path`` once the block succeeds.

    Args:
        path: The folder to make.
        keep: Names in an older ``path`` that move over into the new one.

    Raises:
        MaptileError: As ``atomic_file``; an older ``path`` is left as it was.
    """
    temporary = path.with_name(f".{path.name}-{uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            old = path.with_name(f".{path.name}-{uuid4().hex[:8]}.old")
            path.replace(old)
            try:
                temporary.replace(path)
            except OSError:
                old.replace(path)
                raise
            for name in keep:
                (old / name).replace(path / name)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error
    except MaptileError as error:
        raise MaptileError(str(error).replace(str(temporary), str(path))) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


def write_error(path: Path, error: OSError) -> MaptileError:
    """Return the one line that tells a user why ``path`` could not be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    advice = "free some space" if error.errno in (ENOSPC, EDQUOT) else "choose another place"
    return MaptileError(f"{path}: cannot write: {reason}; nothing was left half written, {advice}")


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MaptileError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise MaptileError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise MaptileError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value
