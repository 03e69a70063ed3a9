"""The descriptors of a map's own views along its roads, kept in the folder of the city."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.files import atomic_file
from data_prep.progress import Progress, silent, tracked
from maptile_loc.render.routes import BESIDE_M
from maptile_loc.render.vector_map import render_exact, vector_map
from maptile_loc.render.view import ViewSettings

if TYPE_CHECKING:
    from maptile_loc.models.descriptor import DescriptorModel

BATCH = 256
"""Views that are described at a time."""
FOLDER = "descriptors"
"""The folder of kept descriptors in a city's."""


@dataclass(frozen=True)
class Describer:
    """A descriptor, and the views of maps that it is asked for.

    Attributes:
        model: The descriptor.
        view: The view that it was trained on.
        card: Its card, whose digest of the weights is read.
        every_m: Metres of road between the views.
    """

    model: DescriptorModel
    view: ViewSettings
    card: Mapping[str, Any]
    every_m: float

    @property
    def key(self) -> str:
        """What the descriptors depend on, besides the map."""
        return f"{self.card['weights']['sha256'][:12]}-{self.every_m:g}"

    def of_map(self, city: City, progress: Progress = silent) -> dict[str, Tensor]:
        """The descriptors of the map's views along all roads, as ``describe`` returns them.

        They are kept in the city's folder, if it has one that can be written.

        Raises:
            MaptileError: The city has no roads.
        """
        device = str(self.model.device)
        weights, every = self.key.split("-")
        name = f"{weights}-{city.content_hash[:12]}-{every}.safetensors"
        kept = None if city.folder is None else city.folder / FOLDER / name
        found = _kept(kept, device)
        if found is None:
            found = describe(self.model, self.view, city, self.every_m, progress)
            if kept is not None:
                with suppress(OSError, MaptileError):
                    kept.parent.mkdir(exist_ok=True)
                    with atomic_file(kept) as path:
                        save_file({name: value.cpu() for name, value in found.items()}, path)
        return found


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
