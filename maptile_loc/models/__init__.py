"""The kinds of models: one file per kind, found by the registry below.

A file of this folder exports its kind as ``KIND``, a ``parts.kind.ModelKind``. Adding a kind is
adding one file: recipes, training, cards and the search find it here.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from data_prep.registry import Registry

if TYPE_CHECKING:
    from maptile_loc.models.parts.kind import ModelKind
    from maptile_loc.models.parts.tile_model import TileModel


@cache
def kinds() -> dict[str, ModelKind[Any]]:
    """All kinds of models by name: the ``KIND`` of each module of this folder."""
    found = Registry(__name__, "KIND", "kind of model").all()
    return {kind.name: kind for kind in found.values()}


def kind_of(model: TileModel) -> ModelKind[Any]:
    """The kind whose network ``model`` is."""
    return next(kind for kind in kinds().values() if kind.network is type(model))
