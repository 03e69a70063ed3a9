"""Candidates by retrieval: the map's views that are most like the tile, searched closely."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from data_prep.city import City
from data_prep.files import atomic_file
from data_prep.geometry import Array, wrap_angle
from maptile_loc.coarse.near import NearSearch
from maptile_loc.coarse.settings import MatchSettings, RetrievalSettings
from maptile_loc.datamodule import exact_world, map_view, training_ground
from maptile_loc.likelihood import LikelihoodFields
from maptile_loc.models.published import read_model
from maptile_loc.models.retrieval import DescriptorModel
from maptile_loc.result import Candidates, QueryTile
from maptile_loc.view import ViewSettings, tile_from_query
from maptile_loc.world import DisguiseSettings

BATCH = 256


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
        fields: LikelihoodFields,
        tile_size_m: float,
        settings: RetrievalSettings,
        match: MatchSettings,
        device: str = "cpu",
    ) -> None:
        """Read a published model, of whichever city, and describe this one's places.

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
        self._reference = city.reference
        self._search = NearSearch(fields, tile_size_m, match, settings.radius_m, device)
        self.area_km2 = city.raster.area_km2

    def places(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 2) east and north of the most similar places, best first; arguments as below."""
        seen = tile_from_query(tile, self._view)[None]
        asked = self._turns(turns, log_prior)
        with torch.inference_mode():
            descriptors = self._model(_turned(seen, asked).to(self._model.device))
            similar = (self._database @ descriptors.T).amax(1)
            # More than are needed, as those next to the best are much like it.
            count = min(len(similar), 40 * self._settings.places)
            found = self._places[similar.topk(count).indices].cpu()
        kept: list[int] = []
        away = torch.cdist(found, found)
        for index in range(count):
            if (
                len(kept) < self._settings.places
                and not (away[index, kept] < self._settings.apart_m).any()
            ):
                kept.append(index)
        centres: Array = self._reference + found[kept].double().numpy()
        return centres

    def candidates(self, tile: QueryTile, turns: Array, log_prior: Array) -> Candidates:
        """The best places near the most similar views; arguments as for ``Matcher``."""
        return self._search.candidates(tile, self.places(tile, turns, log_prior), turns, log_prior)

    def _turns(self, turns: Array, log_prior: Array) -> Array:
        """Those of the turns, some degrees apart, that are to be looked up."""
        step = np.radians(self._settings.heading_step_deg)
        likely = turns[np.argsort(-log_prior, kind="stable")]
        kept: list[float] = []
        for turn in likely:
            if not (np.abs(wrap_angle(np.array(kept) - turn)) < 0.75 * step).any():
                kept.append(float(turn))
        return np.array(kept)


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
    for some in tqdm(torch.split(pieces, BATCH), desc="describe the map", disable=None, leave=False):
        at = roads.routes(some, torch.zeros(len(some)), 1, (0.0, 0.0), view.travel_m, generator)
        tiles = map_view(world, at.paths[:, 0], at.centre[:, 0], view, generator)
        with torch.inference_mode():
            descriptors.append(model(tiles.to(model.device)))
        places.append(at.centre[:, 0])
    return {
        "descriptors": torch.cat(descriptors),
        "places": torch.cat(places).to(model.device),
    }


def _turned(tile: Tensor, turns: Array) -> Tensor:
    """(T, 3, S, S): a tile (1, 3, S, S) turned counter-clockwise by (T,) radians."""
    if len(turns) == 1 and math.isclose(turns[0], 0.0, abs_tol=1e-9):
        return tile
    turn = torch.tensor(turns, dtype=torch.float32)
    c, s, zero = torch.cos(turn), torch.sin(turn), torch.zeros_like(turn)
    # Maps the output's (x right, y down) to where in the input it comes from.
    rows = torch.stack([torch.stack([c, -s, zero], 1), torch.stack([s, c, zero], 1)], 1)
    grid = functional.affine_grid(rows, [len(turns), *tile.shape[1:]], align_corners=False)
    every = tile.expand(len(turns), -1, -1, -1)
    return functional.grid_sample(every, grid, align_corners=False)
