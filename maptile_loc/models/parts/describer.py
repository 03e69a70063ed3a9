"""The descriptors of a map's own views, kept in the folder of the city."""

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
from maptile_loc.render.map_views import COMPACT_M, Database, along_roads, on_grid
from maptile_loc.render.vector_map import render_exact, vector_map
from maptile_loc.render.view import ViewSettings

if TYPE_CHECKING:
    from maptile_loc.models.descriptor import DescriptorModel
    from maptile_loc.models.panorama import PanoramaModel

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
        every_m: Metres of road between the views; of a grid, its spacing.
        database: Where the views lie.
        compact_m: Largest distance from a road on a compact grid, metres.
    """

    model: DescriptorModel | PanoramaModel
    view: ViewSettings
    card: Mapping[str, Any]
    every_m: float
    database: Database = "roads"
    compact_m: float = COMPACT_M

    @property
    def key(self) -> str:
        """What the descriptors depend on, besides the map."""
        laid = {"roads": "", "grid": "grid_", "compact": f"compact{self.compact_m:g}_"}
        return f"{self.card['weights']['sha256'][:12]}-{laid[self.database]}{self.every_m:g}"

    def of_map(self, city: City, progress: Progress = silent) -> dict[str, Tensor]:
        """The descriptors of the map's views, as ``describe`` returns them.

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
            found = describe(
                *(self.model, self.view, city, self.every_m),
                *(progress, self.database, self.compact_m),
            )
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
    model: DescriptorModel | PanoramaModel,
    view: ViewSettings,
    city: City,
    every_m: float,
    progress: Progress = silent,
    database: Database = "roads",
    compact_m: float = COMPACT_M,
) -> dict[str, Tensor]:
    """The descriptors of the map's own views.

    Args:
        model: The descriptor.
        view: The view that it was trained on.
        city: The city to describe.
        every_m: Metres of road between the views; of a grid, its spacing.
        progress: Is called after each batch of views.
        database: Where the views lie.
        compact_m: Largest distance from a road on a compact grid, metres.

    Returns:
        ``descriptors`` (N, D) unit vectors and ``places`` (N, 2) metres from the city's reference.
    """
    city_map = vector_map(city)
    world = city_map.exact_world(roads="road" in view.channels)
    generator = torch.Generator().manual_seed(0)
    if database == "roads":
        views = along_roads(city_map, every_m, view.travel_m)
    else:
        near_m = compact_m if database == "compact" else None
        views = on_grid(city_map, world, every_m, view.travel_m, near_m)
    parts = list(zip(*(torch.split(every, BATCH) for every in views), strict=True))
    descriptors = []
    for paths, centre in tracked(parts, "describe the map", len(parts), progress):
        tiles = render_exact(world, paths, centre, view, generator)
        with torch.inference_mode():
            descriptors.append(model.of_map(tiles.to(model.device)))
    return {
        "descriptors": torch.cat(descriptors),
        "places": views.centre.contiguous().to(model.device),
    }
