"""What stands at a path that is to be written: nothing finished is replaced without being asked.

A finished thing is replaced by the same kind of thing made from the same source, whatever its
settings; anything else only by force.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.errors import MaptileError
from data_prep.files import check_outside, read_json
from data_prep.regular import open_regular

KINDS: dict[str, tuple[str, str, Any]] = {
    "city.json": ("city folder", "format", "maptile-city"),
    "world.json": ("simulated drive", "simulated", True),
    "run.json": ("result", "final", None),
    "model.json": ("model", "format", "maptile-model"),
    "report.json": ("city report", "places", None),
    "detector.json": ("sensor profile", "adapted", None),
    "towns.json": ("index of towns", "towns", None),
}
"""Kinds of things by the file that marks them: name, and a key of that file with its value (None
for any)."""
MADE_FROM = "made_from"
"""Key of the marking file that states what a thing was made from."""
_REMEDY = "choose another name, or add --force (in Python, force=True)"
"""End of a message about something that is not replaced."""
_END_BYTES = 1 << 20
"""Number of bytes at either end of a file that are compared."""
LISTED = 3
"""Number of a folder's entries that a message lists."""

Origin = Mapping[str, Sequence[str]]
"""What a thing is made from: by role (city, drive, source), the names by which it is known. Two
sources are the same if they share one of these; the first is shown."""
Keep = Callable[[str], bool]
"""Whether an entry of an older folder stays when it is replaced."""


@dataclass(frozen=True)
class Product:
    """A folder that is to be written.

    Attributes:
        mark: The file that marks it, a key of ``KINDS``.
        made_from: What it is made from; empty where that is unknown.
        keep: Which entries of an older one of its kind stay.
        begun: Names of files that an unfinished run leaves in an otherwise empty folder.
    """

    mark: str
    made_from: Origin
    keep: Keep = lambda _: False
    begun: Collection[str] = ()


def known_as(path: Path | None, *others: str) -> list[str]:
    """The names by which a source is known: its full path, of a file a digest, and others."""
    if path is None:
        return [*others]
    return [str(path.resolve()), *([digest_of(path)] if path.is_file() else []), *others]


def digest_of(path: Path) -> str:
    """SHA-256 of a file's size and of both its ends, by which it is known after it was moved."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(str(size).encode())
        for start in (0, max(size - _END_BYTES, 0)):
            file.seek(start)
            digest.update(file.read(_END_BYTES))
    return f"sha256 {digest.hexdigest()}"


def check_standing(folder: Path, product: Product, force: bool = False) -> Keep:
    """Check that ``folder`` may become ``product``, before long work is done.

    Args:
        folder: The folder, which need not exist.
        product: What is to be written to it.
        force: Whether the user asked to replace whatever stands there.

    Returns:
        Which entries of the folder stay, for ``swapped_folder``: of the same kind, as the product
        says; of another kind, none; of a folder that no command made, all but what was begun.

    Raises:
        MaptileError: It is no folder, holds the current one, or is or holds a folder that the
            product is made from; or another kind of thing stands there, or one made from another
            source, and ``force`` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise MaptileError(
            f"{folder}: cannot write: a file stands there; choose another folder, or remove it"
        )
    if not folder.exists():
        return product.keep
    check_outside(folder)
    _check_apart(folder, product.made_from)
    found = kind_of(folder)
    if found is None:
        entries = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        if not force and (others := sorted(set(entries) - set(product.begun))):
            more = "" if len(others) <= LISTED else f" and {len(others) - LISTED} more"
            holds = f"{', '.join(others[:LISTED])}{more}"
            raise MaptileError(
                f"{folder}: exists and is no {KINDS[product.mark][0]} (it holds {holds}); {_REMEDY}"
            )
        return lambda name: name not in product.begun or product.keep(name)
    mark, content = found
    made_from = content.get(MADE_FROM)
    if mark == product.mark and _same(made_from, product.made_from):
        return product.keep
    if not force:
        raise _refused(folder, f"a {KINDS[mark][0]}{_source(made_from)}", product)
    return product.keep if mark == product.mark else lambda _: False


def _check_apart(folder: Path, made_from: Origin) -> None:
    """Refuse a folder that is, or holds, one that is read, whatever the user asked for."""
    target = folder.resolve()
    for role, (first, *_) in made_from.items():
        source = Path(first)
        if source.is_absolute() and source.is_dir() and target in (source, *source.parents):
            found = kind_of(source)
            kind = role if found is None else KINDS[found[0]][0]
            what = f"is the {kind}" if target == source else f"holds the {kind} {source.name},"
            raise MaptileError(f"{folder}: {what} that is read; choose another folder")


def kind_of(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The marking file of the thing that stands in a folder, and its content; None without one.

    The content is empty if the file is damaged.
    """
    for mark, (_, key, value) in KINDS.items():
        if not (folder / mark).is_file():
            continue
        try:
            content = read_json(folder / mark)
        except MaptileError:
            return mark, {}
        if key in content and value in (None, content[key]):
            return mark, content
    return None


def _same(stated: Any, made_from: Origin) -> bool:
    """Whether two things were made from the same; also where that is unknown of one of them."""
    if not isinstance(stated, dict):
        return True
    shared = [role for role in made_from if isinstance(stated.get(role), list)]
    return all(any(name in stated[role] for name in made_from[role]) for role in shared)


def _source(made_from: Any) -> str:
    """What a thing was made from, as the end of a phrase."""
    if not isinstance(made_from, dict) or not made_from:
        return ""
    parts = (
        f"{role} {names[0]}"
        for role, names in made_from.items()
        if isinstance(names, list | tuple) and names
    )
    return f" made from {', '.join(parts)}"


def _refused(folder: Path, what: str, product: Product) -> MaptileError:
    name = KINDS[product.mark][0]
    return MaptileError(
        f"{folder}: {what} stands there, and is not replaced by a {name}"
        f"{_source(dict(product.made_from))}; {_REMEDY}"
    )
