"""What a city's training tiles are made from: its vectors, or its raster."""

from __future__ import annotations

from torch.utils.data import Dataset

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from maptile_loc.learn.settings import DataSettings
from maptile_loc.learn.tiles.rendered import PairedBatches, RenderedBatches
from maptile_loc.learn.tiles.windows import WindowBatches, WindowMap, window_map
from maptile_loc.models.parts.tile_model import Batch, Heading
from maptile_loc.render.vector_map import VectorMap, vector_map

Supply = VectorMap | WindowMap
"""Its ``positions()`` are where its tiles lie."""

TRAINING_STREAM = 0
"""Stream of random numbers of the training batches."""
VALIDATION_STREAM = 1
"""Stream of random numbers of the validation batches."""
LABELLED_STREAM = 2
"""Stream of random numbers of the tuples that an adaptation mixes with those of a drive."""
JUDGED_STREAM = 3
"""Stream of random numbers of the tuples that measure the error before and after adaptation."""


def supply(city: City, settings: DataSettings) -> Supply:
    """The map of a city as its training tiles need it.

    Raises:
        MaptileError: The city has no road, or nothing at all.
    """
    if settings.windows is not None:
        return window_map(city, settings.windows)
    return vector_map(city)


def batches(
    source: Supply,
    settings: DataSettings,
    heading: Heading,
    seed: int,
    stream: int,
    paired: bool = False,
) -> Dataset[Batch]:
    """Batches of tuples of one city; arguments as of ``RenderedBatches``.

    Args:
        source: The city's map.
        settings: The tiles and tuples.
        heading: Whether tiles are north-up or turned at random.
        seed: Of all randomness.
        stream: Of random numbers, one of this module's.
        paired: Whether a tuple is a vehicle's view and the map's own.

    Raises:
        MaptileError: Windows of the map cannot be paired: they are the map's own already.
    """
    if isinstance(source, VectorMap):
        kind = PairedBatches if paired else RenderedBatches
        return kind(source, settings, heading, seed, stream)
    if paired:
        raise MaptileError("data.windows: a descriptor is trained on rendered views; leave it out")
    held_out = stream in (VALIDATION_STREAM, JUDGED_STREAM)
    return WindowBatches(source, settings, heading, seed, stream, held_out)
