"""The recipe of a localization: the settings of all its steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

from data_prep.errors import MaptileError
from data_prep.settings import Positive, Settings
from maptile_loc.config import load_settings
from maptile_loc.fuse.gnss import GnssSettings
from maptile_loc.fuse.motion import FuseSettings
from maptile_loc.fuse.window import WindowSettings
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.perceive.detector import cached_detector
from maptile_loc.perceive.query_tile import QuerySettings
from maptile_loc.perceive.submap import SubmapSettings
from maptile_loc.perceive.walls import FEATURES
from maptile_loc.score.align import AlignSettings
from maptile_loc.score.settings import EvidenceSettings, LikelihoodSettings
from maptile_loc.search import METHODS
from maptile_loc.search.engine.method import Method
from maptile_loc.search.engine.settings import SearchSettings, TrackSettings

RECIPE = "LocalizeRecipe"
"""Name of the class of a whole recipe."""


class LocalizeSettings(Settings):
    """The sections of a localization recipe that every method reads."""

    odometry: OdometrySettings = OdometrySettings()
    submap: SubmapSettings = SubmapSettings()
    query: QuerySettings = QuerySettings()
    evidence: EvidenceSettings = EvidenceSettings()
    likelihood: LikelihoodSettings = LikelihoodSettings()
    search: SearchSettings = SearchSettings()
    align: AlignSettings = AlignSettings()
    fuse: FuseSettings = FuseSettings()
    gnss: GnssSettings = GnssSettings()
    track: TrackSettings = TrackSettings()
    pgo: WindowSettings = WindowSettings()
    known_heading_std_deg: Positive = 1.0

    def method(self, name: str) -> Settings:
        """The section of search method ``name``."""
        section: Settings = getattr(self, name)
        return section


def load_recipe(config: str | Path = "localize", overrides: Sequence[str] = ()) -> LocalizeSettings:
    """Read a localization recipe.

    Args:
        config: A name in ``configs/``, or a YAML file.
        overrides: ``key.subkey=value`` strings.

    Raises:
        MaptileError: No such recipe, or a key or value that does not fit.
    """
    return load_settings(recipe_class(), config, overrides)


def with_profile(settings: LocalizeSettings, folder: str | Path | None) -> LocalizeSettings:
    """Return a recipe whose walls are found by the detector of a sensor profile.

    Args:
        settings: The recipe; it may name a profile itself (``query.wall.profile``).
        folder: Folder of the profile; None: the one that the recipe names, if any.

    Raises:
        MaptileError: The folder holds no detector, or a damaged one; the recipe names another.
    """
    named = settings.query.wall.profile
    found = named if folder is None else folder
    if found is None:
        return settings
    found = Path(found).resolve()
    if named is not None and named.resolve() != found:
        raise MaptileError(f"sensor profile {found}: the recipe names {named}; give one of both")
    cached_detector(found, FEATURES)
    wall = settings.query.wall.model_copy(update={"profile": found})
    query = settings.query.model_copy(update={"wall": wall})
    return settings.model_copy(update={"query": query})


def __getattr__(name: str) -> type[LocalizeSettings]:
    """Make ``LocalizeRecipe`` when it is first used, also by pickle in another process."""
    if name == RECIPE:
        return recipe_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def recipe_class() -> type[LocalizeSettings]:
    """The class of a whole localization recipe: ``LocalizeSettings`` and a section per method."""
    sections: dict[str, Any] = {}
    for name in METHODS.names():
        method: Method = METHODS.load(name)
        sections[name] = (method.settings, method.settings())
    made: type[LocalizeSettings] = pydantic.create_model(
        RECIPE, __base__=LocalizeSettings, __module__=__name__, **sections
    )
    return made
