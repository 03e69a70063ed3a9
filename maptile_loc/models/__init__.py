"""Models: each file is one kind of network, with its recipe and how it is made for a city."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from data_prep.registry import Registry

if TYPE_CHECKING:
    from maptile_loc.models.parts.kind import ModelKind
    from maptile_loc.models.parts.tile_model import TileModel

MODELS = Registry("maptile_loc.models", "KIND", "model")
"""All models. A new one is a file in this folder that exports ``KIND``, a ``ModelKind``."""


@cache
def kinds() -> dict[str, ModelKind[Any]]:
    """All kinds of models by their name in recipes and cards."""
    return {kind.name: kind for kind in MODELS.all().values()}


def kind_of(model: TileModel) -> ModelKind[Any]:
    """The kind whose network ``model`` is."""
    return next(kind for kind in kinds().values() if kind.network is type(model))
