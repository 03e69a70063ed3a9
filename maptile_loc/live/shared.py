"""Maps that are ready to be searched, shared by all vehicles on them."""

from __future__ import annotations

import threading
from pathlib import Path
from weakref import WeakValueDictionary

from data_prep.city.folder import City
from data_prep.progress import Progress, silent
from maptile_loc.map_search import MapSearch, prepare_search
from maptile_loc.recipe import LocalizeSettings
from maptile_loc.search.engine.area import Area

_ENGINES: WeakValueDictionary[tuple[str, ...], MapSearch] = WeakValueDictionary()
"""Maps that are in use, by city and settings."""

_LOCK = threading.Lock()


def shared_search(
    city: City,
    settings: LocalizeSettings,
    method: str = "match",
    area: Area | None = None,
    model: Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> MapSearch:
    """The map of a city, ready to be searched; one copy for all that search it in the same way.

    The arguments are those of ``prepare_search``. The copy lives as long as it is used.

    Raises:
        MaptileError: As ``prepare_search``.
    """
    asked = (
        method,
        area.shape.wkb_hex if area else "",
        str(model),
        device,
        settings.model_dump_json(),
    )
    key = (city.content_hash, str(city.path), *asked)
    with _LOCK:
        found = _ENGINES.get(key)
        if found is None:
            found = prepare_search(city, settings, method, area, model, device, progress)
            _ENGINES[key] = found
    return found
