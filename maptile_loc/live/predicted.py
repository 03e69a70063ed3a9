"""Poses between two queries, predicted from the first one by odometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.city.raster import MapRaster
from data_prep.geometry import Array
from maptile_loc.fuse.certainty import likely_reason, make_estimates
from maptile_loc.fuse.filter import Belief, Held
from maptile_loc.fuse.motion import FuseSettings
from maptile_loc.live.carried import steps_to
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.types import Estimates


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a vehicle after one query, until the next one.

    Attributes:
        at: The vehicle's motion at the query.
        held: What the filter holds there.
        wall_m2: Wall evidence of the query's tile, square metres.
        begun_m: Metres travelled where the segment of the odometry begins.
        submap_m: Length of a query's submap, metres.
    """

    at: Motion
    held: Held
    wall_m2: float
    begun_m: float
    submap_m: float

    def travelled(self, at: Motion) -> float:
        """Metres of travel that the position at a later time is based on."""
        return at.travelled - self.begun_m

    def belief(self, at: Motion, settings: FuseSettings) -> Belief:
        """What is most probable at a later time."""
        poses, covariance = self._ahead([at], settings)
        return self.held.belief._replace(pose=poses[0], covariance=covariance[0])

    def estimates(
        self, motions: Sequence[Motion], raster: MapRaster, settings: FuseSettings
    ) -> Estimates:
        """The estimates at N later times, in the same segment of the odometry.

        Args:
            motions: The vehicle's motion at these times.
            raster: The map, outside of which no vehicle is localized.
            settings: Noise, and limits.
        """
        poses, covariance = self._ahead(motions, settings)
        count, belief = len(motions), self.held.belief
        travelled = np.array([self.travelled(one) for one in motions])
        wall_m2, alike = np.full(count, self.wall_m2), np.full(count, belief.alike)
        reason = likely_reason(wall_m2, alike, travelled, settings)
        score = np.full(count, belief.score)
        found = make_estimates(poses, covariance, score, reason, settings)
        outside = np.isfinite(poses[:, 0]) & ~raster.inside(poses[:, :2])
        found.localized[outside] = False
        found.protection_m[outside] = np.inf
        found.reason[outside] = "off_map"
        return found

    def _ahead(self, motions: Sequence[Motion], settings: FuseSettings) -> tuple[Array, Array]:
        """(N, 3) poses and their (N, 3, 3) covariances; at the query's own pose, the query's."""
        belief = self.held.belief
        poses = np.tile(belief.pose, (len(motions), 1))
        covariance = np.tile(belief.covariance, (len(motions), 1, 1))
        here = self.at.pose
        later = np.array([not np.array_equal(one.pose, here) for one in motions], bool)
        if later.any() and np.isfinite(belief.pose[0]):
            moving = [one for one, is_later in zip(motions, later, strict=True) if is_later]
            steps = steps_to(self.at, moving, self.submap_m, settings)
            poses[later], covariance[later] = self.held.ahead(steps, settings)
        return poses, covariance


def unknown_estimates(count: int) -> Estimates:
    """N estimates of which nothing is known, as of scans without odometry."""
    return Estimates(
        poses=np.full((count, 3), np.nan),
        covariance=np.full((count, 3, 3), np.nan),
        score=np.zeros(count),
        localized=np.zeros(count, bool),
        protection_m=np.full(count, np.inf),
        reason=np.full(count, "no_odometry", "U16"),
    )
