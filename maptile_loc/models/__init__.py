"""The kinds of models: one file per kind, found by the registry below.

A file of this folder exports its kind as ``KIND``, a ``parts.kind.ModelKind``. Adding a kind is
adding one file: recipes, training, cards and the search find it here.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maptile_loc.models.parts.kind import ModelKind
    from maptile_loc.models.parts.tile_model import TileModel


@cache
def kinds() -> dict[str, ModelKind[Any]]:
    """All kinds of models by name: the ``KIND`` of each module of this folder."""
    modules = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    found = [import_module(f"{__name__}.{name}").KIND for name in sorted(modules)]
    return {kind.name: kind for kind in found}


def kind_of(model: TileModel) -> ModelKind[Any]:
    """The kind whose network ``model`` is."""
    return next(kind for kind in kinds().values() if kind.network is type(model))
