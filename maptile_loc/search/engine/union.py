"""Search with several models: the surroundings of all positions that they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.errors import MaptileError
from data_prep.geometry import Array
from maptile_loc.score.evidence import Evidence
from maptile_loc.search.engine.locator import ModelLocator
from maptile_loc.search.engine.method import Search
from maptile_loc.types import Candidates, QueryTile

if TYPE_CHECKING:
    Locators = tuple[ModelLocator[Any], ...]


class UnionLocator:
    """The search of the squares around the positions of several models.

    Attributes:
        area_km2: Area of the whole map, from which the models' answers come.
        locators: The models, each with its own search.
    """

    def __init__(self, searches: Sequence[Search]) -> None:
        """Put searches together.

        Args:
            searches: At least one, each by a model.

        Raises:
            MaptileError: One of them has no model that gives positions.
        """
        self.locators: Locators = tuple(one for one in searches if isinstance(one, ModelLocator))
        if len(self.locators) < len(searches):
            raise MaptileError("only methods by models can be put together: cells+retrieval")
        self.area_km2 = self.locators[0].area_km2

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north and turn of the squares to search; arguments as in ``candidates``."""
        return np.concatenate([one.starts(tile, turns, log_prior) for one in self.locators])

    def candidates(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Candidates:
        """Candidates near the positions of all models; arguments as in ``Search.candidates``."""
        starts, search = self.starts(tile, turns, log_prior), self.locators[0].search
        reach_rad = max(one.reach_rad for one in self.locators)
        return search.candidates(tile, evidence, starts, turns, log_prior, reach_rad)
