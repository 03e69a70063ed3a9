"""The latest GNSS samples of a live vehicle, with where the odometry has it at each."""

from __future__ import annotations

import logging
import math

import numpy as np

from data_prep.city.raster import MapRaster
from data_prep.errors import MaptileError
from data_prep.geometry import se2_between, se2_from_se3
from maptile_loc.fuse.gnss import GnssSettings, GnssWindow
from maptile_loc.fuse.gnss_windows import OFF_MAP, STILL_S
from maptile_loc.odometry.pose_buffer import Motion, PoseBuffer

_LOG = logging.getLogger(__name__)

WAIT_NS = 2_000_000_000
"""A sample that the odometry does not reach within this time is left out, nanoseconds."""


class GnssBuffer:
    """The samples of the last seconds.

    Args:
        raster: The map.
        settings: How long samples are kept.
    """

    def __init__(self, raster: MapRaster, settings: GnssSettings) -> None:
        self._raster, self._settings = raster, settings
        self._waiting: list[tuple[int, float, float, float]] = []
        self._samples: list[tuple[int, float, float, float, float, float, float, int]] = []
        self._last_ns = -1

    def add(self, t_ns: int, latitude: float, longitude: float, std_m: float) -> None:
        """Append a sample.

        Raises:
            MaptileError: Its time is not later than that of the sample before, or it is no
                position.
        """
        if t_ns <= self._last_ns:
            raise MaptileError(f"GNSS at {t_ns} ns: not after the sample before, {self._last_ns}")
        if not (abs(latitude) <= 90 and abs(longitude) <= 180):
            raise MaptileError(
                f"GNSS at {t_ns} ns: {latitude}, {longitude} are no latitude and longitude"
            )
        if self._last_ns < 0 and self._raster.far_from(np.array([latitude]), np.array([longitude])):
            _LOG.warning("the GNSS lies %s", OFF_MAP)
        self._last_ns = t_ns
        east, north = self._raster.projection.forward(latitude, longitude).tolist()
        if math.isfinite(east + north):  # the map frame reaches there
            self._waiting.append((t_ns, east, north, std_m if std_m > 0 else math.nan))

    def forget_motion(self) -> None:
        """Wait for another odometry: where the one before had the vehicle means nothing in it."""
        self._waiting = [*(one[:4] for one in self._samples), *self._waiting]
        self._samples = []

    def placed(self, poses: PoseBuffer, now_ns: int, moving: bool) -> bool:
        """Look up where the vehicle was at the samples that came since; whether there are any.

        Args:
            poses: The odometry.
            now_ns: The time; later samples wait, and those of long ago are dropped.
            moving: Whether there is an odometry at all; without one, samples count as they are.
        """
        oldest = now_ns - round(1e9 * self._settings.window_s)
        self._samples = [one for one in self._samples if one[0] >= oldest]
        waiting, new = [], False
        for sample in self._waiting:
            motion = poses.at(sample[0]) if moving else Motion(np.eye(4), 0.0, 0)
            if sample[0] > now_ns or (motion is None and sample[0] > now_ns - WAIT_NS):
                waiting.append(sample)
            elif motion is not None and sample[0] >= oldest:
                x, y, heading = se2_from_se3(motion.pose).tolist()
                self._samples.append((*sample, x, y, heading, motion.segment))
                new = True
        self._waiting = waiting
        return new

    def window(self, at: Motion, now_ns: int, moving: bool) -> GnssWindow | None:
        """The samples that the odometry links with the vehicle's motion at a time.

        Args:
            at: The motion.
            now_ns: The time, nanoseconds.
            moving: As for ``placed``.
        """
        oldest = now_ns if moving else now_ns - round(1e9 * STILL_S)
        kept = [
            one
            for one in self._samples
            if (one[7] == at.segment if moving else one[0] >= oldest) and one[0] <= now_ns
        ]
        if not kept:
            return None
        rows = np.array([one[1:7] for one in kept])
        local = se2_between(se2_from_se3(at.pose)[None], rows[:, 3:])[:, :2]
        if not moving:
            local = np.zeros_like(local)
        seconds = np.array([(one[0] - now_ns) / 1e9 for one in kept])
        return GnssWindow(local, rows[:, :2], rows[:, 2], seconds)
