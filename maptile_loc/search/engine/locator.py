"""What all models have in common as a coarse method: they name places, which are then searched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, TypeVar

import torch

from data_prep.city.folder import City
from data_prep.geometry import Array
from maptile_loc.models.parts.published import read_model
from maptile_loc.models.parts.tile_model import TileModel
from maptile_loc.render.view import ViewSettings
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.types import Candidates, QueryTile

M = TypeVar("M", bound=TileModel)


class ModelLocator(ABC, Generic[M]):
    """A published model, and a city's map to search what it names on.

    Attributes:
        area_km2: The area that its answers come from: the whole map.
        weighed: True: the log-scores know how well the tile fits the map.
        card: The model's.
    """

    weighed = True

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        expected: type[M],
        reach_rad: float,
        device: str,
    ) -> None:
        """Read the model in ``folder``; ``device`` is cpu or cuda.

        ``search`` looks about each of its places, at headings up to ``reach_rad`` from its own.

        Raises:
            MaptileError: No model there, not of the ``expected`` class, a damaged one, or one that
                is bound to another city.
        """
        model, self.card = read_model(folder, city, expected)
        self.model = model.to(device=device, memory_format=torch.channels_last)
        self.view = ViewSettings.model_validate(self.card["view"])
        self.reference, self.search, self.reach_rad = city.reference, search, reach_rad
        self.area_km2 = city.raster.area_km2

    @abstractmethod
    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north and turn of what is to be searched; arguments as for ``Matcher``."""

    def candidates(self, tile: QueryTile, turns: Array, log_prior: Array) -> Candidates:
        """The best places near those that the model names; arguments as for ``Matcher``."""
        starts = self.starts(tile, turns, log_prior)
        return self.search.candidates(tile, starts, turns, log_prior, self.reach_rad)
