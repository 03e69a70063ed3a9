"""What a search method is, and what it is built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.progress import Progress, silent
from data_prep.settings import Settings
from maptile_loc.score.evidence import Evidence
from maptile_loc.score.fields import LikelihoodFields
from maptile_loc.search.engine.area import Area
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.types import Candidates, Fixes, QueryTile


class Search(Protocol):
    """A search that is ready to find the candidates of query tiles on one map.

    Attributes:
        area_km2: The area that is searched, km2.
    """

    area_km2: float

    def candidates(
        self, tile: QueryTile, evidence: Evidence, turns: Array, log_prior: Array
    ) -> Candidates:
        """Up to K candidates for a tile, best first.

        Args:
            tile: The query tile; north-up where the heading is known.
            evidence: Its evidence, at the resolution of the likelihood fields.
            turns: (T,) radians by which the tile may have to be turned counter-clockwise to be
                north-up; [0] where the heading is known.
            log_prior: (T,) log-probability of each turn.

        Returns:
            Poses with the heading ``tile.rotation`` plus a turn, and their log-probabilities. What
            these leave over is the probability that the tile is nowhere on the map.
        """
        ...


@runtime_checkable
class Regressor(Protocol):
    """A search whose model answers with a pose before anything is searched.

    Attributes:
        unit_m: Metres by which the model normalises offsets, the mean of both axes.
    """

    unit_m: float

    def regress(
        self, tile: QueryTile, before: QueryTile | None, turns: Array, log_prior: Array
    ) -> Fixes:
        """The model's own pose of a tile, as its only candidate.

        Args:
            tile: All but ``before``: as in ``Search.candidates``.
            before: The tile of the query before, where odometry connects the two.
            turns: (T,) radians.
            log_prior: (T,) log-probability of each.

        Returns:
            The pose with its covariance (NaN where the model estimates none), and the logarithm of
            its probability (-inf where the model estimates none).
        """
        ...


@dataclass(frozen=True)
class SearchTask:
    """What a search is built for.

    Attributes:
        city: The city, whose folder may hold models.
        fields: The likelihood fields of its map.
        tile_size_m: Side of the query tiles, metres.
        settings: What all methods share.
        device: "cpu" or "cuda".
        area: Where the vehicle is known to be; None: anywhere on the map.
        model: Folder of the model to use; None for the city's newest model of the method.
        progress: Is called while the search is prepared.
    """

    city: City
    fields: LikelihoodFields
    tile_size_m: float
    settings: SearchSettings
    device: str = "cpu"
    area: Area | None = None
    model: Path | None = None
    progress: Progress = silent


@dataclass(frozen=True)
class Method:
    """An entry of the registry ``search``.

    Attributes:
        settings: Class of the method's own section in a localization recipe.
        build: Makes the search for a task, with the method's settings.
    """

    settings: type[Settings]
    build: Callable[[SearchTask, Any], Search]
