"""The most similar views of the map are retrieved; the squares around them are searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from data_prep.settings import Count, Positive, Settings
from maptile_loc.render.look import in_look
from maptile_loc.render.map_views import COMPACT_M, Database
from maptile_loc.render.view import ViewSettings
from maptile_loc.search.engine.locator import ModelLocator, model_folder, near_search
from maptile_loc.search.engine.method import Method
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.turning import best_apart, spaced_turns, turned_tiles
from maptile_loc.types import QueryTile

if TYPE_CHECKING:
    from maptile_loc.models.descriptor import DescriptorModel as DescriptorModel
    from maptile_loc.models.panorama import PanoramaModel as PanoramaModel

D = TypeVar("D", bound="DescriptorModel | PanoramaModel")


class RetrievalSettings(Settings):
    """How the map's descriptors are made and queried.

    Attributes:
        database: Where the map's views lie: along the roads; on a uniform grid over the whole map;
            or ``compact``, on those positions of this grid that are near a road.
        compact_m: Largest distance from a road there, metres.
        every_m: Metres of road between two views of the database, which lie on both sides of it; of
            a grid, its spacing.
        heading_step_deg: Step between the headings at which a tile is looked up, degrees, where the
            heading is unknown.
        places: Positions of the most similar views whose surroundings are searched, at most.
        apart_m: Smallest distance between two of these positions, metres.
        shortlist: Most similar views from which the positions are taken, per position.
    """

    database: Database = "roads"
    compact_m: Positive = COMPACT_M
    every_m: Positive = 2.5
    heading_step_deg: Positive = 10.0
    places: Count = 96
    apart_m: Positive = 10.0
    shortlist: Count = 40


class DescriptorLocator(ModelLocator[D]):
    """A model that describes views, and the descriptors of a city's views."""

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        expected: type[D],
        settings: RetrievalSettings,
        reach_rad: float,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> None:
        """Read a model of any city, and describe the views of this one.

        The descriptors are kept in the city's folder, in ``descriptors/``, if it has one. Arguments
        as in ``ModelLocator``; ``settings`` say where the views lie.

        Raises:
            MaptileError: The city has no roads; or as ``ModelLocator`` raises.
        """
        from maptile_loc.models.parts.describer import Describer

        super().__init__(folder, city, search, expected, reach_rad, device)
        self.settings = settings
        assert isinstance(self.look, ViewSettings)  # descriptors are trained on nothing else
        how = settings.every_m, settings.database, settings.compact_m
        database = Describer(self.model, self.look, self.card, *how).of_map(city, progress)
        self._database, self._places = database["descriptors"], database["places"]
        if search.area is not None:
            places = self.reference + self._places.double().cpu().numpy()
            within = torch.from_numpy(search.area.within(places)).to(self._places.device)
            if within.any():  # else the nearest part of the area is searched
                self._database, self._places = self._database[within], self._places[within]


class RetrievalLocator(DescriptorLocator["DescriptorModel"]):
    """A descriptor model, and the descriptors of a city's views."""

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        settings: RetrievalSettings,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> None:
        """Read a model and describe the views; arguments and errors as in ``DescriptorLocator``."""
        from maptile_loc.models.descriptor import DescriptorModel

        reach = np.radians(settings.heading_step_deg)
        super().__init__(folder, city, search, DescriptorModel, settings, reach, device, progress)

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north (metres) and turn (radians) of the most similar views, best first."""
        asked = spaced_turns(turns, log_prior, np.radians(self.settings.heading_step_deg))
        with torch.inference_mode():
            seen = turned_tiles(in_look(tile, self.look), asked)
            descriptors = self.model(seen.to(self.model.device))
            similar, turn = (self._database @ descriptors.T).max(1)
            # The views next to the best one are much like it.
            count = self.settings.shortlist * self.settings.places
            score, index = similar.topk(min(len(similar), count))
        places = self.reference + self._places[index].double().cpu().numpy()
        found = np.column_stack([places, asked[turn[index].cpu().numpy()]])
        apart = self.settings.apart_m
        return found[best_apart(places, score.cpu().numpy(), self.settings.places, apart)]


METHOD = Method(
    RetrievalSettings,
    lambda task, settings: RetrievalLocator(
        model_folder(task, "retrieval"),
        task.city,
        near_search(task),
        settings,
        task.device,
        task.progress,
    ),
)
