"""The look of training tiles, which query tiles are given: a vehicle's view, or the map's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maptile_loc.render.view import ViewSettings, tile_from_query
from maptile_loc.render.window import MapWindowSettings, window_from_query
from maptile_loc.types import QueryTile

Look = ViewSettings | MapWindowSettings
"""What the tiles of a model show."""


def in_look(query: QueryTile, look: Look) -> Tensor:
    """(C, S, S) float32: a query tile as the model's training tiles look."""
    if isinstance(look, MapWindowSettings):
        return window_from_query(query, look)
    return tile_from_query(query, look)


def look_of_card(card: Mapping[str, Any]) -> Look:
    """The look that a model's card states, under ``windows`` or ``view``."""
    if "windows" in card:
        return MapWindowSettings.model_validate(card["windows"])
    return ViewSettings.model_validate(card["view"])


def card_of_look(look: Look) -> dict[str, Any]:
    """The keys of a card that state a look: the inverse of ``look_of_card``."""
    name = "windows" if isinstance(look, MapWindowSettings) else "view"
    return {name: look.model_dump(mode="json")}
