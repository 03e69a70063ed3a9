"""Candidates from a model of cells: its likeliest places, searched closely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_prep.city import City
from data_prep.geometry import Array
from maptile_loc.coarse.mapnet import north_up
from maptile_loc.coarse.near import NearSearch
from maptile_loc.coarse.settings import CellsSettings, MatchSettings
from maptile_loc.likelihood import LikelihoodFields
from maptile_loc.models.cells import CellsModel
from maptile_loc.models.published import read_model
from maptile_loc.result import Candidates, QueryTile
from maptile_loc.view import ViewSettings, tile_from_query


class CellsLocator:
    """A trained model of one city, and the city's map to search its answers on.

    Attributes:
        area_km2: The area that its answers come from: the whole map.
        weighed: True: the log-scores know how well the tile fits the map.
    """

    weighed = True

    def __init__(
        self,
        folder: Path,
        city: City,
        fields: LikelihoodFields,
        tile_size_m: float,
        settings: CellsSettings,
        match: MatchSettings,
        device: str = "cpu",
    ) -> None:
        """Read a published model; ``device`` is cpu or cuda.

        Raises:
            MaptileError: No model of cells there, a damaged one, or one of another city.
        """
        model, card = read_model(folder, city, CellsModel)
        self._model = model.to(device=device, memory_format=torch.channels_last)
        self._view = ViewSettings.model_validate(card["view"])
        self._reference, self._folder, self._places = city.reference, folder, settings.places
        self._search = NearSearch(fields, tile_size_m, match, settings.radius_m, device)
        self.area_km2 = city.raster.area_km2

    def places(self, tile: QueryTile) -> Array:
        """(K, 2) east and north of the likeliest places for ``tile``, best first."""
        with torch.inference_mode():
            seen = tile_from_query(tile, self._view)[None].to(self._model.device)
            offset, _ = self._model.top(seen, self._places)
        found: Array = self._reference + offset[0].double().cpu().numpy()
        return found

    def candidates(self, tile: QueryTile, turns: Array, log_prior: Array) -> Candidates:
        """The best places near those that the model names; arguments as for ``Matcher``.

        Raises:
            MaptileError: The model was trained for known headings, and this one is not known.
        """
        north_up(self._model.heading, turns, self._folder)
        return self._search.candidates(tile, self.places(tile), turns, np.asarray(log_prior))
