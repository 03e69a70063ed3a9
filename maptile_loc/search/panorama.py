"""The map's depth panoramas are compared at all headings; squares around the best are searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from data_prep.city.folder import City
from data_prep.geometry import Array, wrap_angle
from data_prep.progress import Progress, silent
from data_prep.settings import Count, Positive, Settings
from maptile_loc.render.look import in_look
from maptile_loc.search.engine.locator import model_folder, near_search
from maptile_loc.search.engine.method import Method
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.turning import best_apart
from maptile_loc.search.retrieval import DescriptorLocator, RetrievalSettings
from maptile_loc.types import QueryTile

if TYPE_CHECKING:
    from maptile_loc.models.panorama import PanoramaModel as PanoramaModel

COMPARED = 8192
"""Views that a panorama is compared with at a time."""


class PanoramaSettings(Settings):
    """How the map's panoramas are made and queried.

    Attributes:
        every_m: Metres of road between two panoramas, which lie on both sides of it.
        places: Positions of the most similar panoramas whose surroundings are searched, at most.
        apart_m: Smallest distance between two of these positions, metres.
        shortlist: Most similar panoramas from which the positions are taken, per position.
    """

    every_m: Positive = 2.5
    places: Count = 96
    apart_m: Positive = 10.0
    shortlist: Count = 40


class PanoramaLocator(DescriptorLocator["PanoramaModel"]):
    """A panorama model, and the descriptors of a city's panoramas."""

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        settings: PanoramaSettings,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> None:
        """Read a model of any city, and describe the panoramas of this one.

        Arguments and errors as in ``DescriptorLocator``.
        """
        from maptile_loc.models.panorama import PanoramaModel

        laid = RetrievalSettings(every_m=settings.every_m)
        super().__init__(folder, city, search, PanoramaModel, laid, 0.0, device, progress)
        self.chosen = settings
        self.reach_rad = 2 * np.pi / self.model.shifts

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north (metres) and turn (radians) of the most similar panoramas.

        Only shifts next to one of ``turns`` count.
        """
        shift = wrap_angle(np.arange(self.model.shifts) * self.reach_rad)
        away = np.abs(wrap_angle(shift[:, None] - turns)).min(1)
        allowed = np.flatnonzero(away <= self.reach_rad / 2 + 1e-6)
        with torch.inference_mode():
            seen = self.model(in_look(tile, self.look)[None].to(self.model.device))
            best = [
                self.model.similarity(seen, part)[0][:, allowed].max(1)
                for part in torch.split(self._database, COMPARED)
            ]
            similar = torch.cat([part.values for part in best])
            turn = torch.cat([part.indices for part in best])
            count = self.chosen.shortlist * self.chosen.places
            score, index = similar.topk(min(len(similar), count))
        places = self.reference + self._places[index].double().cpu().numpy()
        found = np.column_stack([places, shift[allowed[turn[index].cpu().numpy()]]])
        kept = best_apart(places, score.cpu().numpy(), self.chosen.places, self.chosen.apart_m)
        return found[kept]


METHOD = Method(
    PanoramaSettings,
    lambda task, settings: PanoramaLocator(
        model_folder(task, "panorama"),
        task.city,
        near_search(task),
        settings,
        task.device,
        task.progress,
    ),
)
