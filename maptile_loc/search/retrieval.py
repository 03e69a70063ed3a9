"""Candidates by retrieval: the map's views that are most like the tile, searched closely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_prep.city.folder import City
from data_prep.files import atomic_file
from data_prep.geometry import Array
from data_prep.progress import Progress, silent, tracked
from maptile_loc.models.descriptor import DescriptorModel
from maptile_loc.render.routes import BESIDE_M
from maptile_loc.render.vector_map import render_exact, vector_map
from maptile_loc.render.view import ViewSettings, tile_from_query
from maptile_loc.search.engine.locator import ModelLocator
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.settings import RetrievalSettings
from maptile_loc.search.engine.turning import best_apart, spaced_turns, turned_tiles
from maptile_loc.types import QueryTile

BATCH = 256


class RetrievalLocator(ModelLocator[DescriptorModel]):
    """A descriptor model, and the descriptors of a city's places."""

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        settings: RetrievalSettings,
        device: str = "cpu",
    ) -> None:
        """As for every ``ModelLocator``; the model may be of whichever city.

        Where this city has a folder its places' descriptors are kept there, in ``descriptors/``.

        Raises:
            MaptileError: The city has no roads; and as every ``ModelLocator`` does.
        """
        reach = np.radians(settings.heading_step_deg)
        super().__init__(folder, city, search, DescriptorModel, reach, device)
        self.settings = settings
        key = f"{self.card['weights']['sha256'][:12]}-{city.content_hash[:12]}-{settings.every_m:g}"
        kept = city.folder / "descriptors" / f"{key}.safetensors" if city.folder else None
        if kept is not None and kept.is_file():
            database = load_file(kept, device=device)
        else:
            database = describe(self.model, self.view, city, settings.every_m)
            if kept is not None:
                kept.parent.mkdir(exist_ok=True)
                with atomic_file(kept) as path:
                    save_file({name: value.cpu() for name, value in database.items()}, path)
        self._database, self._places = database["descriptors"], database["places"]

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north and turn of the most similar views, best first."""
        asked = spaced_turns(turns, log_prior, np.radians(self.settings.heading_step_deg))
        with torch.inference_mode():
            seen = turned_tiles(tile_from_query(tile, self.view), asked)
            descriptors = self.model(seen.to(self.model.device))
            similar, turn = (self._database @ descriptors.T).max(1)
            # More than are needed, as those next to the best are much like it.
            score, index = similar.topk(min(len(similar), 40 * self.settings.places))
        places = self.reference + self._places[index].double().cpu().numpy()
        found = np.column_stack([places, asked[turn[index].cpu().numpy()]])
        apart = self.settings.apart_m
        return found[best_apart(places, score.cpu().numpy(), self.settings.places, apart)]


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
    world = city_map.exact_world()
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
