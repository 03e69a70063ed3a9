"""Search with a trained model: the model gives positions, whose surroundings are searched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import torch

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.files import read_json
from data_prep.geometry import Array
from maptile_loc.render.look import look_of_card
from maptile_loc.score.evidence import Evidence
from maptile_loc.search.engine.method import SearchTask
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.types import Candidates, QueryTile

if TYPE_CHECKING:
    from maptile_loc.models.parts.tile_model import TileModel

M = TypeVar("M", bound="TileModel")


class ModelLocator(ABC, Generic[M]):
    """A published model, and the search of the squares around its positions.

    Attributes:
        area_km2: Area of the part of the map that the model's answers come from.
        card: The model's card.
    """

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        expected: type[M],
        reach_rad: float,
        device: str,
    ) -> None:
        """Read the model in ``folder``.

        Args:
            folder: The published model.
            city: The city whose map is searched.
            search: Searches the square around each position of the model.
            expected: Class that the model must have.
            reach_rad: Largest difference from the model's heading that is searched, radians.
            device: "cpu" or "cuda".

        Raises:
            MaptileError: There is no model, it is not of the ``expected`` class, is damaged, or is
                bound to another city.
        """
        from maptile_loc.models.parts.published import (
            read_model,  # Lightning takes seconds to import
        )

        model, self.card = read_model(folder, city, expected)
        self.model = model.to(device=device, memory_format=torch.channels_last)
        self.look = look_of_card(self.card)
        self.reference, self.search, self.reach_rad = city.reference, search, reach_rad
        area = search.area
        self.area_km2 = city.raster.area_km2 if area is None else area.shape.area / 1e6

    @abstractmethod
    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north and turn of the squares to search; arguments as in ``candidates``."""

    def candidates(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Candidates:
        """Candidates near the model's positions; arguments as in ``Search.candidates``."""
        starts = self.starts(tile, turns, log_prior)
        return self.search.candidates(tile, evidence, starts, turns, log_prior, self.reach_rad)


def near_search(task: SearchTask) -> NearSearch:
    """The search of squares around positions, for a task."""
    return NearSearch(task.fields, task.tile_size_m, task.settings, task.device, task.area)


def model_folder(task: SearchTask, method: str) -> Path:
    """The folder of the task's model; by default the city's newest one for ``method``.

    Raises:
        MaptileError: The city has none.
    """
    return task.model or newest_model(task.city, method)


def newest_model(city: City, method: str) -> Path:
    """The folder of the city's newest model for ``method``.

    Raises:
        MaptileError: There is none.
    """
    from maptile_loc.models.parts.published import CARD

    home = city.folder / "models" if city.folder is not None else None
    cards = [] if home is None else sorted(home.glob(f"*/{CARD}"))
    fitting = [card for card in cards if read_json(card).get("method") == method]
    if not fitting:
        raise MaptileError(
            f"{home or city.name}: no trained model for --method {method}; train one with: maptile "
            f"train {city.folder or 'CITY'}, or name one with --model"
        )
    return max(fitting, key=lambda card: card.stat().st_mtime_ns).parent
