"""Settings of LiDAR odometry."""

from __future__ import annotations

import pydantic

from data_prep.settings import Positive, Settings


class OdometrySettings(Settings):
    """How the vehicle's motion is found from its scans.

    Attributes:
        min_range_m: Points closer to their sensor are ignored, metres: the vehicle itself.
        max_range_m: Points farther from their sensor are ignored, metres.
        thin_m: Scans are thinned to one point per voxel of this size, metres.
        voxel_m: Size of the local map's voxels, metres; those of the ground are twice as large.
        max_points: Most points per scan that are registered, besides a third as many of the ground.
        min_share: A scan is accepted if at least this share of its points lies on the local map's
            surfaces.
        max_std_m: A scan is accepted if the standard deviation of its position is at most this,
            metres, in the horizontal direction that is known worst.
        max_speed_m_s: Highest speed of a vehicle, metres per second.
        level_over_m: Roll and pitch, which drift, decay to zero over this distance, metres: on
            average a vehicle is level.
    """

    min_range_m: Positive = 2.5
    max_range_m: Positive = 80.0
    thin_m: Positive = 0.25
    voxel_m: Positive = 1.0
    max_points: int = pydantic.Field(default=4000, ge=300)
    min_share: float = pydantic.Field(default=0.5, ge=0, le=1)
    max_std_m: Positive = 0.3
    max_speed_m_s: Positive = 60.0
    level_over_m: Positive = 200.0
