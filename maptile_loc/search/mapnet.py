"""A MapNet regresses the position; the squares around it are searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.geometry import Array, wrap_angle
from data_prep.settings import Count, Positive, Settings
from maptile_loc.render.look import in_look
from maptile_loc.search.engine.locator import ModelLocator, model_folder, near_search
from maptile_loc.search.engine.method import Method
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.types import Candidates, Fixes, QueryTile

if TYPE_CHECKING:
    from maptile_loc.models.regressor import MapNet as MapNet

NORTH_UP_RAD = np.radians(20.0)
"""Largest turn at which a tile is still north-up for a model of known headings."""


class MapNetSettings(Settings):
    """How a regressor's answer, which may be tens of metres off, is used.

    Attributes:
        squares: Squares on each side of the block that is searched around the answer; each is
            ``2 search.radius_m`` wide.
        heading_deg: Largest difference from the regressed heading that is searched, degrees, where
            the heading is unknown.
    """

    squares: Count = 5
    heading_deg: Positive = 30.0


class MapNetLocator(ModelLocator["MapNet"]):
    """A trained regressor of one city, and the search around its answer."""

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        settings: MapNetSettings,
        device: str = "cpu",
    ) -> None:
        """Read a model; arguments and errors as in ``ModelLocator``."""
        from maptile_loc.models.regressor import MapNet

        super().__init__(folder, city, search, MapNet, np.radians(settings.heading_deg), device)
        self.folder, self.squares = folder, settings.squares
        self.unit_m = float(self.model.deviation.mean())

    def regress(
        self, tile: QueryTile, before: QueryTile | None, turns: Array, log_prior: Array
    ) -> Fixes:
        """The model's own pose; arguments and result as in ``Regressor``.

        The heading's standard deviation is ``heading_deg``.

        Raises:
            MaptileError: As ``starts``.
        """
        north_up(self.model.heading, turns, self.folder)
        seen = [in_look(one, self.look)[None] for one in (tile, before) if one is not None]
        with torch.inference_mode():
            answer = self.model.answer(*(one.to(self.model.device) for one in seen))
        offset, angle, spread, probability = (one[0].double().cpu().numpy() for one in answer)
        known = self.model.heading == "known"
        turn = turns[np.argmax(log_prior)] if known else float(angle)
        pose = np.append(self.reference + offset, wrap_angle(tile.rotation + turn))
        covariance = np.zeros((1, 3, 3))
        covariance[0, :2, :2] = spread
        covariance[0, 2, 2] = self.reach_rad**2
        with np.errstate(divide="ignore"):
            log_score = np.log(probability)
        return Fixes(Candidates(pose[None], np.array([log_score])), covariance)

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north of the squares' centres (metres) and the turn of the tile (radians).

        The turn is the network's; of a model that was trained for known headings, it is the most
        probable of ``turns``.

        Raises:
            MaptileError: The model was trained for known headings, and one of ``turns`` is far from
                north-up.
        """
        north_up(self.model.heading, turns, self.folder)
        with torch.inference_mode():
            seen = in_look(tile, self.look)[None].to(self.model.device)
            offset, angle = self.model.pose(seen)
        place = self.reference + offset[0].double().cpu().numpy()
        known = self.model.heading == "known"
        turn = turns[np.argmax(log_prior)] if known else float(angle[0])
        count, step = self.squares, 2 * self.search.settings.radius_m
        aside = (np.arange(count) - (count - 1) / 2) * step
        east, north = np.meshgrid(place[0] + aside, place[1] + aside)
        return np.column_stack([east.ravel(), north.ravel(), np.full(count**2, turn)])


def north_up(heading: str, turns: Array, folder: Path) -> None:
    """Refuse turns of the tile if the model was trained for known headings.

    Raises:
        MaptileError: ``heading`` is "known" and one of (T,) ``turns`` is far from north-up.
    """
    if heading == "known" and np.abs(wrap_angle(turns)).max() > NORTH_UP_RAD:
        raise MaptileError(
            f"{folder}: trained for known headings; use --heading known, or train with "
            "--set heading=unknown"
        )


METHOD = Method(
    MapNetSettings,
    lambda task, settings: MapNetLocator(
        model_folder(task, "mapnet"), task.city, near_search(task), settings, task.device
    ),
)
