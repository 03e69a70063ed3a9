"""Candidates from a model of cells: its likeliest places, searched closely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_prep.city import City
from data_prep.geometry import Array
from maptile_loc.coarse.near import NearSearch
from maptile_loc.coarse.settings import CellsSettings
from maptile_loc.coarse.turning import best_apart, spaced_turns, turned_tiles
from maptile_loc.models.cells import CellsModel
from maptile_loc.models.published import read_model
from maptile_loc.result import Candidates, QueryTile
from maptile_loc.view import ViewSettings, tile_from_query

PER_TURN = 4
"""Places that a tile of unknown heading is asked for at each turn."""
APART_M = 10.0


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
        search: NearSearch,
        settings: CellsSettings,
        device: str = "cpu",
    ) -> None:
        """Read a published model, whose answers ``search`` looks at; ``device`` is cpu or cuda.

        Raises:
            MaptileError: No model of cells there, a damaged one, or one of another city.
        """
        model, card = read_model(folder, city, CellsModel)
        self._model = model.to(device=device, memory_format=torch.channels_last)
        self._view = ViewSettings.model_validate(card["view"])
        self._reference, self._search, self._settings = city.reference, search, settings
        self.area_km2 = city.raster.area_km2

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north and turn of the likeliest places, best first; arguments as below."""
        asked = np.zeros(1)
        if self._model.heading == "known":
            step = np.radians(self._settings.heading_step_deg)
            asked = spaced_turns(turns, log_prior, step)
        count = self._settings.places
        with torch.inference_mode():
            seen = turned_tiles(tile_from_query(tile, self._view), asked).to(self._model.device)
            offset, score = self._model.top(seen, count if len(asked) == 1 else PER_TURN)
        places = self._reference + offset.double().cpu().numpy()
        turn = np.broadcast_to(asked[:, None], score.shape)
        found = np.column_stack([places.reshape(-1, 2), turn.ravel()])
        return found[best_apart(found[:, :2], score.flatten().cpu().numpy(), count, APART_M)]

    def candidates(self, tile: QueryTile, turns: Array, log_prior: Array) -> Candidates:
        """The best places near those that the model names; arguments as for ``Matcher``."""
        starts = self.starts(tile, turns, log_prior)
        any_turn = self._model.heading == "unknown"
        reach = np.pi if any_turn else np.radians(self._settings.heading_step_deg)
        return self._search.candidates(tile, starts, turns, log_prior, reach)
