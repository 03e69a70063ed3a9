"""Localize a vehicle on OpenStreetMap, from its point clouds.

    import maptile_loc as ml

    city = ml.prepare_city("oxford.osm", "city/oxford")
    drive = ml.open_drive("robotcar/2014-11-28-12-07-13")
    found = ml.localize(city, drive)
    found.to_geodataframe(); found.plot(); found.save("out"); found.evaluate(drive.truth)

Names are imported when they are first used, so that ``import maptile_loc`` takes no time.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from data_prep.city.folder import City as City
    from data_prep.drive import Drive as Drive
    from data_prep.drive import ScanBlock as ScanBlock
    from data_prep.errors import MaptileError as MaptileError
    from data_prep.osm.source import OsmSource as OsmSource
    from data_prep.progress import Progress as Progress
    from maptile_loc.api import adapt as adapt
    from maptile_loc.api import evaluate as evaluate
    from maptile_loc.api import localize as localize
    from maptile_loc.api import open_city as open_city
    from maptile_loc.api import open_drive as open_drive
    from maptile_loc.api import prepare_city as prepare_city
    from maptile_loc.api import simulate as simulate
    from maptile_loc.api import train as train
    from maptile_loc.fleet.drives import DriveResult as DriveResult
    from maptile_loc.fleet.drives import localize_fleet as localize_fleet
    from maptile_loc.live.localizer import Localizer as Localizer
    from maptile_loc.towns.locate import locate as locate
    from maptile_loc.types import Candidates as Candidates
    from maptile_loc.types import Estimates as Estimates
    from maptile_loc.types import Fix as Fix
    from maptile_loc.types import HeadingKnowledge as HeadingKnowledge
    from maptile_loc.types import Localization as Localization
    from maptile_loc.types import Queries as Queries
    from maptile_loc.types import QueryTile as QueryTile
    from maptile_loc.types import ScanPoses as ScanPoses

_HOME = {
    **dict.fromkeys(
        (
            *("prepare_city", "open_city", "open_drive", "localize"),
            *("train", "adapt", "simulate", "evaluate"),
        ),
        "maptile_loc.api",
    ),
    **dict.fromkeys(
        (
            *("Candidates", "Estimates", "Fix", "HeadingKnowledge"),
            *("Localization", "Queries", "QueryTile", "ScanPoses"),
        ),
        "maptile_loc.types",
    ),
    **dict.fromkeys(("DriveResult", "localize_fleet"), "maptile_loc.fleet.drives"),
    "City": "data_prep.city.folder",
    "Drive": "data_prep.drive",
    "Localizer": "maptile_loc.live.localizer",
    "locate": "maptile_loc.towns.locate",
    "ScanBlock": "data_prep.drive",
    "MaptileError": "data_prep.errors",
    "OsmSource": "data_prep.osm.source",
    "Progress": "data_prep.progress",
}

__all__ = ["__version__", *_HOME]

for _package in ("maptile_loc", "data_prep"):
    logging.getLogger(_package).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used; ``__version__`` is read from the metadata."""
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'maptile_loc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("maptile-loc")
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
