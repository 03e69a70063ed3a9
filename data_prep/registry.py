"""Registries: folders in which each file is one entry and exports what it is.

Names and one-line summaries are read without importing the entries, so that a command line can list
them quickly.
"""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from data_prep.errors import MaptileError


@dataclass(frozen=True)
class Registry:
    """The entries of one package.

    Attributes:
        package: Name of the package, ``maptile_loc.search``.
        folder: Its folder. Every module in it is an entry; packages in it are not.
        attribute: Name of the object that each entry exports.
        noun: The kind of entry, for messages: "method".
    """

    package: str
    folder: Path
    attribute: str
    noun: str

    def names(self) -> tuple[str, ...]:
        """The names of all entries, sorted; nothing is imported."""
        return _names(self.folder)

    def summary(self, name: str) -> str:
        """The first line of an entry's docstring, without its full stop; nothing is imported."""
        return _summary(self.folder / f"{name}.py")

    def load(self, name: str) -> Any:
        """The object that entry ``name`` exports.

        Raises:
            MaptileError: There is no such entry.
        """
        if name not in self.names():
            known = ", ".join(self.names())
            raise MaptileError(f"no {self.noun} named {name!r}; there are: {known}")
        return getattr(importlib.import_module(f"{self.package}.{name}"), self.attribute)


@cache
def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__"))


@cache
def _summary(file: Path) -> str:
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")
