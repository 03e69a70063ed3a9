"""Candidates by retrieval: the map's views that are most like the tile, searched closely."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from data_prep.city import City
from data_prep.files import atomic_file
from data_prep.geometry import Array
from maptile_loc.coarse.near import NearSearch
from maptile_loc.coarse.settings import RetrievalSettings
from maptile_loc.coarse.turning import best_apart, spaced_turns, turned_tiles
from maptile_loc.datamodule import DataSettings, exact_world, map_view, training_ground
from maptile_loc.models.published import read_model
from maptile_loc.models.retrieval import DescriptorModel
from maptile_loc.result import Candidates, QueryTile
from maptile_loc.view import ViewSettings, tile_from_query
from maptile_loc.world import DisguiseSettings

BATCH = 256
BESIDE_M = DataSettings().beside_m


class RetrievalLocator:
    """A descriptor model, and the descriptors of a city's places.

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
        settings: RetrievalSettings,
        device: str = "cpu",
    ) -> None:
        """Read a published model, of whichever city, and describe this one's places.

        ``search`` looks at its answers; ``device`` is cpu or cuda.

        Where the city has a folder the descriptors are kept there, in ``descriptors/``.

        Raises:
            MaptileError: No descriptor model there or a damaged one; the city has no roads.
        """
        model, card = read_model(folder, city, DescriptorModel)
        self._model = model.to(device=device, memory_format=torch.channels_last)
        self._view = ViewSettings.model_validate(card["view"])
        self._settings = settings
        key = f"{card['weights']['sha256'][:12]}-{city.content_hash[:12]}-{settings.every_m:g}"
        kept = city.folder / "descriptors" / f"{key}.safetensors" if city.folder else None
        if kept is not None and kept.is_file():
            database = load_file(kept, device=device)
        else:
            database = describe(self._model, self._view, city, settings.every_m)
            if kept is not None:
                kept.parent.mkdir(exist_ok=True)
                with atomic_file(kept) as path:
                    save_file({name: value.cpu() for name, value in database.items()}, path)
        self._database, self._places = database["descriptors"], database["places"]
        self._reference, self._search = city.reference, search
        self.area_km2 = city.raster.area_km2

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north and turn of the most similar views, best first; arguments as below."""
        asked = spaced_turns(turns, log_prior, np.radians(self._settings.heading_step_deg))
        with torch.inference_mode():
            seen = turned_tiles(tile_from_query(tile, self._view), asked)
            descriptors = self._model(seen.to(self._model.device))
            similar, turn = (self._database @ descriptors.T).max(1)
            # More than are needed, as those next to the best are much like it.
            score, index = similar.topk(min(len(similar), 40 * self._settings.places))
        places = self._reference + self._places[index].double().cpu().numpy()
        found = np.column_stack([places, asked[turn[index].cpu().numpy()]])
        apart = self._settings.apart_m
        return found[best_apart(places, score.cpu().numpy(), self._settings.places, apart)]

    def candidates(self, tile: QueryTile, turns: Array, log_prior: Array) -> Candidates:
        """The best places near the most similar views; arguments as for ``Matcher``."""
        starts = self.starts(tile, turns, log_prior)
        reach = np.radians(self._settings.heading_step_deg)
        return self._search.candidates(tile, starts, turns, log_prior, reach)


def describe(
    model: DescriptorModel, view: ViewSettings, city: City, every_m: float
) -> dict[str, Tensor]:
    """The map's views along all its roads.

    Returns:
        ``descriptors`` (N, D) unit vectors and ``places`` (N, 2) metres from the city's reference.
    """
    ground = training_ground(city)
    roads, half = ground.roads, len(ground.roads.start) // 2
    world = exact_world(ground, DisguiseSettings())
    generator = torch.Generator().manual_seed(0)
    length = roads.length()[:half]
    counted = torch.where(ground.weights[:half] > 0, length, 0).cumsum(0)
    marks = torch.arange(every_m / 2, max(float(counted[-1]), every_m), every_m)
    pieces = torch.searchsorted(counted, marks).clamp_max(half - 1)
    descriptors, places = [], []
    for some in tqdm(
        torch.split(pieces, BATCH), desc="describe the map", disable=None, leave=False
    ):
        aside = roads.aside(some, BESIDE_M, generator)
        at = roads.routes(some, aside, 1, (0.0, 0.0), view.travel_m, generator)
        tiles = map_view(world, at.paths[:, 0], at.centre[:, 0], view, generator)
        with torch.inference_mode():
            descriptors.append(model(tiles.to(model.device)))
        places.append(at.centre[:, 0])
    return {
        "descriptors": torch.cat(descriptors),
        "places": torch.cat(places).to(model.device),
    }
