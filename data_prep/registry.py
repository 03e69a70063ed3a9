"""Registries: packages in which each module is one entry and exports what it is.

Names and one-line summaries are read without importing the entries, so that a command line can list
them quickly.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_prep.errors import MaptileError


@dataclass(frozen=True)
class Registry:
    """The entries of one package: its modules, but not its sub-packages.

    Attributes:
        package: Name of the package, such as ``maptile_loc.search``.
        attribute: Name of the object that each entry exports.
        noun: What an entry is, for messages: "method".
    """

    package: str
    attribute: str
    noun: str

    def names(self) -> tuple[str, ...]:
        """The names of all entries, sorted; nothing is imported."""
        path = importlib.import_module(self.package).__path__
        return tuple(
            sorted(module.name for module in pkgutil.iter_modules(path) if not module.ispkg)
        )

    def summary(self, name: str) -> str:
        """The first line of the docstring of entry ``name``, read without importing the entry.

        It is "" where there is no such entry or it has no docstring.
        """
        spec = find_spec(f"{self.package}.{name}")
        if spec is None or spec.origin is None:
            return ""
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
        return (text or "").partition("\n")[0]

    def load(self, name: str) -> Any:
        """The object that entry ``name`` exports.

        Raises:
            MaptileError: There is no such entry.
        """
        if name not in self.names():
            known = ", ".join(self.names())
            raise MaptileError(f"no {self.noun} named {name!r}; there are: {known}")
        return getattr(importlib.import_module(f"{self.package}.{name}"), self.attribute)

    def all(self) -> dict[str, Any]:
        """The objects of all entries, by the names of their modules."""
        return {name: self.load(name) for name in self.names()}
