"""A classifier of cells gives the likeliest positions; the squares around them are searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
import torch

from data_prep.city.folder import City
from data_prep.geometry import Array
from data_prep.settings import Count, Positive, Settings
from maptile_loc.render.look import in_look
from maptile_loc.search.engine.locator import ModelLocator, model_folder, near_search
from maptile_loc.search.engine.method import Method
from maptile_loc.search.engine.near import NearSearch
from maptile_loc.search.engine.turning import best_apart, spaced_turns, turned_tiles
from maptile_loc.types import QueryTile

if TYPE_CHECKING:
    from maptile_loc.models.classifier import CellsModel as CellsModel


class CellsSettings(Settings):
    """How the model's answers are used.

    Attributes:
        heading_step_deg: Step between the headings at which the model sees a tile, degrees, where
            the heading is unknown and the model was trained for known headings.
        places: Positions whose surroundings are searched, at most.
        per_turn: Positions that are taken per heading, where the model sees several.
        apart_m: Smallest distance between two of these positions, metres.
    """

    heading_step_deg: Positive = 5.0
    places: Count = 96
    per_turn: Count = 4
    apart_m: Positive = 10.0


class CellsLocator(ModelLocator["CellsModel"]):
    """A trained classifier of one city, and the search around its positions."""

    def __init__(
        self,
        folder: Path,
        city: City,
        search: NearSearch,
        settings: CellsSettings,
        device: str = "cpu",
    ) -> None:
        """Read a model; arguments and errors as in ``ModelLocator``."""
        from maptile_loc.models.classifier import CellsModel

        super().__init__(folder, city, search, CellsModel, np.pi, device)
        if self.model.heading == "known":
            self.reach_rad = np.radians(settings.heading_step_deg)
        self.settings = settings
        self.allowed = None
        if search.area is not None:
            places = self.reference + self.model.centre.double().cpu().numpy()
            half = self.model.side.double().cpu().numpy() / 2
            corner = np.column_stack([half, half])
            reached = shapely.intersects(
                search.area.shape, shapely.box(*(places - corner).T, *(places + corner).T)
            )
            self.allowed = torch.from_numpy(reached).to(self.model.device)

    def starts(self, tile: QueryTile, turns: Array, log_prior: Array) -> Array:
        """(K, 3) east, north (metres) and turn (radians) of the likeliest positions, best first."""
        asked = np.zeros(1)
        if self.model.heading == "known":
            step = np.radians(self.settings.heading_step_deg)
            asked = spaced_turns(turns, log_prior, step)
        count = self.settings.places
        with torch.inference_mode():
            seen = turned_tiles(in_look(tile, self.look), asked).to(self.model.device)
            each = count if len(asked) == 1 else self.settings.per_turn
            offset, score = self.model.top(seen, each, self.allowed)
        places = self.reference + offset.double().cpu().numpy()
        turn = np.broadcast_to(asked[:, None], score.shape)
        found = np.column_stack([places.reshape(-1, 2), turn.ravel()])
        return found[
            best_apart(found[:, :2], score.flatten().cpu().numpy(), count, self.settings.apart_m)
        ]


METHOD = Method(
    CellsSettings,
    lambda task, settings: CellsLocator(
        model_folder(task, "cells"), task.city, near_search(task), settings, task.device
    ),
)
