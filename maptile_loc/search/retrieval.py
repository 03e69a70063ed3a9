"""The most similar views of the map are retrieved; the squares around them are searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_prep.city.folder import City
from data_prep.files import atomic_file
from data_prep.geometry import Array
from data_prep.progress import Progress, silent, tracked
from data_prep.settings import Count, Positive, Settings
from maptile_loc.render.look import in_look
from maptile_loc.render.routes import BESIDE_M
from maptile_loc.render.vector_map import render_exact, vector_map
from maptile_loc.render.view import ViewSettings
from maptile_loc.search.engine.locator import ModelLocator, model_folder, near_search
from maptile_loc.search.engine.method import Method
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.turning import best_apart, spaced_turns, turned_tiles
from maptile_loc.types import QueryTile

if TYPE_CHECKING:
    from maptile_loc.models.descriptor import DescriptorModel

BATCH = 256


class RetrievalSettings(Settings):
    """How the map's descriptors are made and queried.

    Attributes:
        every_m: Metres of road between two views of the database, which lie on both sides of it.
        heading_step_deg: Step between the headings at which a tile is looked up, degrees, where the
            heading is unknown.
        places: Positions of the most similar views whose surroundings are searched, at most.
        apart_m: Smallest distance between two of these positions, metres.
        shortlist: Most similar views from which the positions are taken, per position.
    """

    every_m: Positive = 2.5
    heading_step_deg: Positive = 10.0
    places: Count = 96
    apart_m: Positive = 10.0
    shortlist: Count = 40


class RetrievalLocator(ModelLocator["DescriptorModel"]):
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
        """Read a model of any city, and describe the views of this one.

        The descriptors are kept in the city's folder, in ``descriptors/``, if it has one. Arguments
        as in ``ModelLocator``.

        Raises:
            MaptileError: The city has no roads; or as ``ModelLocator`` raises.
        """
        reach = np.radians(settings.heading_step_deg)
        from maptile_loc.models.descriptor import DescriptorModel

        super().__init__(folder, city, search, DescriptorModel, reach, device)
        self.settings = settings
        key = f"{self.card['weights']['sha256'][:12]}-{city.content_hash[:12]}-{settings.every_m:g}"
        kept = city.folder / "descriptors" / f"{key}.safetensors" if city.folder else None
        database = _kept(kept, device)
        if database is None:
            assert isinstance(self.look, ViewSettings)  # descriptors are trained on nothing else
            database = describe(self.model, self.look, city, settings.every_m, progress)
            if kept is not None:
                kept.parent.mkdir(exist_ok=True)
                with atomic_file(kept) as path:
                    save_file({name: value.cpu() for name, value in database.items()}, path)
        self._database, self._places = database["descriptors"], database["places"]
        if search.area is not None:
            places = self.reference + self._places.double().cpu().numpy()
            within = torch.from_numpy(search.area.within(places)).to(self._places.device)
            if within.any():  # else the nearest part of the area is searched
                self._database, self._places = self._database[within], self._places[within]

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


def _kept(path: Path | None, device: str) -> dict[str, Tensor] | None:
    """The descriptors that were kept in a file; None if it is missing or damaged."""
    if path is None or not path.is_file():
        return None
    try:
        database = load_file(path, device=device)
    except (OSError, SafetensorError):
        return None
    shapes = [tuple(database[name].shape) for name in sorted(database)]
    whole = sorted(database) == ["descriptors", "places"] and all(len(s) == 2 for s in shapes)
    return database if whole and shapes[0][0] == shapes[1][0] and shapes[1][1] == 2 else None


def describe(
    model: DescriptorModel,
    view: ViewSettings,
    city: City,
    every_m: float,
    progress: Progress = silent,
) -> dict[str, Tensor]:
    """The descriptors of the map's own views along all roads.

    Args:
        model: The descriptor.
        view: The view that it was trained on.
        city: The city to describe.
        every_m: Metres of road between the views.
        progress: Is called after each batch of views.

    Returns:
        ``descriptors`` (N, D) unit vectors and ``places`` (N, 2) metres from the city's reference.
    """
    city_map = vector_map(city)
    roads, half = city_map.roads, len(city_map.roads.start) // 2
    world = city_map.exact_world(roads="road" in view.channels)
    generator = torch.Generator().manual_seed(0)
    length = roads.length()[:half]
    counted = torch.where(city_map.weights[:half] > 0, length, 0).cumsum(0)
    marks = torch.arange(every_m / 2, max(float(counted[-1]), every_m), every_m)
    pieces = torch.searchsorted(counted, marks).clamp_max(half - 1)
    descriptors, places = [], []
    parts = torch.split(pieces, BATCH)
    for some in tracked(parts, "describe the map", len(parts), progress):
        aside = roads.aside(some, BESIDE_M, generator)
        at = roads.routes(some, aside, 1, (0.0, 0.0), view.travel_m, generator)
        tiles = render_exact(world, at.paths[:, 0], at.centre[:, 0], view, generator)
        with torch.inference_mode():
            descriptors.append(model(tiles.to(model.device)))
        places.append(at.centre[:, 0])
    return {
        "descriptors": torch.cat(descriptors),
        "places": torch.cat(places).to(model.device),
    }


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
