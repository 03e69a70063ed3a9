"""What a file of ``models/`` exports: one kind of model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from data_prep.geometry import Array
from data_prep.settings import Settings
from maptile_loc.models.parts.tile_model import TileModel

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Blueprint:
    """What every kind needs to make a model for a city.

    Attributes:
        positions: (P, 2) float64, where training tiles lie, metres from the reference.
        weights: (P,) float64, their relative frequency.
        common: The arguments of ``TileModel``.
        relative_from: Share of the training after which MapNet's relative term counts.
    """

    positions: Array
    weights: Array
    common: dict[str, Any]
    relative_from: float


@dataclass(frozen=True)
class ModelKind(Generic[S]):
    """One kind of model.

    Attributes:
        name: The ``kind`` of recipes and cards.
        method: The ``--method`` of ``maptile localize`` that uses its answers.
        network: Class of its models; no other kind has the same.
        recipe: The top-level keys of a recipe that this kind adds to those of all models. Kinds
            may share a key, if it has the same type and default in each.
        make: Makes an untrained model from the keys of ``recipe`` and a ``Blueprint``; its weights
            are drawn by torch's global generator.
        bound: Whether a model is valid only for the city that it was trained on.
        paired: Whether it is trained on pairs (a view of a disguised world, the map's own view)
            instead of tuples along a route.
    """

    name: str
    method: str
    network: type[TileModel]
    recipe: type[S]
    make: Callable[[S, Blueprint], TileModel]
    bound: bool = True
    paired: bool = False
