"""Candidates from a MapNet: the one place that the network takes the tile to be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data_prep.city import City
from data_prep.errors import MaptileError
from data_prep.files import read_json
from data_prep.geometry import Array, wrap_angle
from maptile_loc.coarse.settings import MatchSettings
from maptile_loc.models.mapnet import MapNet
from maptile_loc.models.published import CARD, read_model
from maptile_loc.result import Candidates, QueryTile
from maptile_loc.view import ViewSettings, tile_from_query

# How far from north-up a tile may be for a model of known headings.
_NORTH_UP_RAD = np.radians(20.0)
# Log-probability of a regressor's place before the map is looked at there: it is off by tens of
# metres, so the place is one among thousands, and the rows of walls fit some of those by chance.
_LOG_PRIOR = -12.0


class MapNetLocator:
    """A trained model of one city.

    Attributes:
        area_km2: The area that its answers come from: the whole map.
        heading: "known" or "unknown": what the model was trained for.
        weighed: False: the log-scores do not know yet how well the tile fits the map there.
    """

    weighed = False

    def __init__(
        self,
        model: MapNet,
        view: ViewSettings,
        city: City,
        folder: Path,
        device: str,
        match: MatchSettings,
    ) -> None:
        self._nowhere_per_m2 = match.nowhere_per_m2
        self._model = model.to(device=device, memory_format=torch.channels_last)
        self._view, self._reference, self._folder = view, city.reference, folder
        self.area_km2 = city.raster.area_km2
        self.heading: str = model.heading

    @classmethod
    def load(
        cls,
        model_folder: Path,
        city: City,
        device: str = "cpu",
        match: MatchSettings | None = None,
    ) -> MapNetLocator:
        """Read a published model; ``device`` is cpu or cuda, ``match`` has the odds of nowhere.

        Raises:
            MaptileError: No model there, a damaged one, or one of another city.
        """
        model, card = read_model(model_folder, city, MapNet)
        view = ViewSettings.model_validate(card["view"])
        return cls(model, view, city, model_folder, device, match or MatchSettings())

    def candidates(self, tile: QueryTile, turns: Array, log_prior: Array) -> Candidates:
        """The one place of ``tile``; its score says nothing, for a regressor does not doubt.

        Args:
            tile: North-up where the heading is known.
            turns: (T,) radians by which the tile may have to be turned counter-clockwise to be
                north-up.
            log_prior: (T,) log-probability of each.

        Raises:
            MaptileError: The model was trained for known headings, and this one is not known.
        """
        north_up(self.heading, turns, self._folder)
        with torch.inference_mode():
            seen = tile_from_query(tile, self._view)[None].to(self._model.device)
            offset, angle = self._model.pose(seen)
        east, north = self._reference + offset[0].double().cpu().numpy()
        turn = float(angle[0]) if self.heading == "unknown" else float(turns[np.argmax(log_prior)])
        pose = np.array([[east, north, wrap_angle(tile.rotation + turn)]])
        # As for the search: rows of walls fit by chance, the better the more there are.
        walls = float(tile.wall.sum()) * tile.resolution**2
        return Candidates(pose, np.full(1, _LOG_PRIOR - self._nowhere_per_m2 * walls))


def north_up(heading: str, turns: Array, folder: Path) -> None:
    """Refuse to turn tiles for a model that was trained for a known ``heading``.

    Raises:
        MaptileError: One of (T,) ``turns`` is too far from north-up.
    """
    if heading == "known" and np.abs(wrap_angle(turns)).max() > _NORTH_UP_RAD:
        raise MaptileError(
            f"{folder}: trained for known headings; use --heading known, or train with "
            "--set heading=unknown"
        )


def default_model(city: City, method: str) -> Path:
    """The folder of the city's newest model of ``method``.

    Raises:
        MaptileError: There is none.
    """
    home = city.folder / "models" if city.folder is not None else None
    cards = [] if home is None else sorted(home.glob(f"*/{CARD}"))
    fitting = [card for card in cards if read_json(card).get("method") == method]
    if not fitting:
        raise MaptileError(
            f"{home or city.name}: no trained model for --method {method}; train one with: maptile "
            f"train {city.folder or 'CITY'}, or name one with --model"
        )
    return max(fitting, key=lambda card: card.stat().st_mtime_ns).parent
