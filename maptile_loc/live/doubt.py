"""Whether queries contradict the predicted position of a live vehicle, and for how long."""

from __future__ import annotations

import numpy as np

from data_prep.geometry import Array
from maptile_loc.search.engine.settings import TrackSettings
from maptile_loc.types import Fixes

HIDDEN = 3.0
"""The newest scans are searched by themselves if the submap is this many times as long."""


class Doubt:
    """The metres of travel over which queries contradict the predicted position.

    Args:
        settings: ``track`` of the recipe.
        few_walls_m2: A whole tile with less wall evidence says nothing.
        area_km2: The area that a search of the whole map covers, km2. The larger it is, the less
            probable is each position to a tile that shows nothing.

    Attributes:
        metres: Of travel; 0 where the last query agrees.
    """

    def __init__(self, settings: TrackSettings, few_walls_m2: float, area_km2: float) -> None:
        self.settings, self.few_walls_m2 = settings, few_walls_m2
        self.least_newest = (1 - settings.doubt_newest) / max(area_km2, 1e-6)
        self.metres = 0.0

    @property
    def suspected(self) -> bool:
        """Whether the vehicle is no longer localized."""
        return self.metres > self.settings.suspect_m

    @property
    def searched(self) -> bool:
        """Whether the whole map is searched."""
        return self.metres > self.settings.doubt_m

    def newest_m(self, metres: float, submap_m: float) -> float:
        """Metres of travel whose scans are searched by themselves, too; 0: none are.

        After a jump, most of a long submap still fits the predicted position.

        Args:
            metres: Of travel since the last query.
            submap_m: Length of the submap.
        """
        newest = max(metres, self.settings.doubt_m)
        return newest if submap_m >= HIDDEN * newest else 0.0

    def compare(self, whole: Fixes, newest: Fixes | None, pose: Array, metres: float) -> None:
        """Take note of a query.

        Args:
            whole: What was found near the predicted position with the whole tile.
            newest: The same with the tile of the newest scans; None: they were not searched.
            pose: (3,) the predicted pose.
            metres: Of travel since the last query.
        """
        track = self.settings
        least = track.agrees if self.metres > 0 else 1 - track.doubt
        shows = whole.wall_m2 >= self.few_walls_m2
        contradicts = shows and self._probability(whole, pose) < least
        if newest is not None and len(newest.candidates.poses):
            contradicts |= self._probability(newest, pose) < self.least_newest
        if shows or contradicts:
            self.metres = self.metres + metres if contradicts else 0.0

    def _probability(self, fixes: Fixes, pose: Array) -> float:
        """That the vehicle is near the predicted pose, by a query alone."""
        found = fixes.candidates
        gap = np.hypot(*(found.poses[:, :2] - pose[:2]).T)
        return float(np.exp(found.log_scores[gap < self.settings.near_m]).sum())
