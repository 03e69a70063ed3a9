"""Whether GNSS agrees with the walls: while it contradicts them, it is left out."""

from __future__ import annotations

import logging
import math

import numpy as np

from data_prep.geometry import Array
from maptile_loc.fuse.gnss import GnssSettings, GnssWindow, differences

_LOG = logging.getLogger(__name__)

NEARER = 0.7
"""GNSS agrees again where it is nearer than this share of the limits."""

LEAST = 3
"""Fewest samples that are judged."""


class GnssWatch:
    """Compares GNSS with positions that the walls alone are sure of.

    GNSS contradicts them if most of its latest samples agree with each other, and lie far from the
    position, or elsewhere than they usually do.

    Args:
        settings: Limits.
    """

    def __init__(self, settings: GnssSettings) -> None:
        self._settings = settings
        self.trusted = True
        """Whether GNSS is used."""
        self._usual: Array | None = None
        self._last_s = self._apart_s = -math.inf

    def judge(self, window: GnssWindow | None, pose: Array, std_m: float, now_s: float) -> None:
        """Compare a sure position with the samples near it.

        Args:
            window: The samples; None where there are none.
            pose: (3,) east, north, heading.
            std_m: Standard deviation of its position in the worst direction, metres.
            now_s: Its time, seconds.
        """
        settings, since = self._settings, now_s - self._last_s
        if window is None:
            return
        near = np.argsort(np.abs(window.seconds), kind="stable")
        late = int((np.abs(window.seconds) <= settings.recent_s).sum())
        latest = near[: max(late, min(settings.recent, len(near)))]
        if len(latest) < LEAST or np.abs(window.seconds).min() > settings.age_s:
            return
        self._last_s = now_s
        away = differences(window, pose)[latest]
        middle = np.median(away, axis=0)
        alike = np.hypot(*(away - middle).T) < settings.alike_m
        if alike.mean() < settings.alike:
            self._apart_s = now_s
            return
        far = math.hypot(*middle) / (settings.astray_m + 2 * std_m)
        if self._usual is not None:
            moved = math.hypot(*(middle - self._usual)) / (settings.jump_m + 2 * std_m)
            far = max(far, moved)
        kept = math.exp(-since / settings.bias_s)
        if self.trusted and far > 1:
            self.trusted = False
            _LOG.warning("GNSS is %.0f m from the position: left out", math.hypot(*middle))
        elif self.trusted:
            usual = middle if self._usual is None else self._usual
            self._usual = kept * usual + (1 - kept) * middle
        elif self._usual is not None:
            self._usual = kept * self._usual
        if far > NEARER:
            self._apart_s = now_s
        elif not self.trusted and now_s - self._apart_s >= settings.again_s:
            self.trusted = True
            _LOG.info("GNSS agrees with the position again: used")
