"""The local map of LiDAR odometry: the surfaces that the latest scans of a segment have seen."""

from __future__ import annotations

import numpy as np

from data_prep.geometry import Array, se3_inverse
from maptile_loc.odometry.odometry_settings import OdometrySettings
from maptile_loc.odometry.register import Fit, register
from maptile_loc.odometry.sweep import ScanParts
from maptile_loc.odometry.velocity import motion_size
from maptile_loc.odometry.voxels import VoxelMap

_MIN_AGREE = 0.7
"""A scan is accepted if at least this share of the points near a surface lies on it."""

_SPARSE_SHARE = 0.2
"""Replaces ``OdometrySettings.min_share`` while the map is sparse: few points have a surface."""

_SPARSE_AGREE = 0.6
"""Replaces ``_MIN_AGREE`` while the map is sparse."""

_SPARSE_SCANS = 5
"""A map of fewer scans is sparse."""

_INSERT_M = 0.2
"""A scan is inserted if the vehicle moved at least this far since the last one, metres."""

_INSERT_RAD = 0.03
"""A scan is inserted, too, if the vehicle turned at least this angle since the last one, radians.

Inserting all scans of a standing vehicle would let the map drift."""

_FORGET_RANGES = 1.5
"""Parts of the map farther away than this times ``OdometrySettings.max_range_m`` are dropped,
each time when the vehicle has moved half of ``max_range_m``."""


class LocalMap:
    """Voxel maps of standing objects and of the ground, to which scans are registered."""

    def __init__(self, settings: OdometrySettings) -> None:
        self._settings = settings
        self._far_m = _FORGET_RANGES * settings.max_range_m
        self._standing = VoxelMap(settings.voxel_m, 2 * self._far_m, ground=False)
        self._ground = VoxelMap(2 * settings.voxel_m, 2 * self._far_m, ground=True)
        self._inserted: Array | None = None
        self._cleared = np.zeros(3)
        self._insertions = 0

    def fit(self, scan: ScanParts, guess: Array, guess_std_m: float | None = None) -> Fit:
        """Return the pose at which a scan fits the map; see ``register``.

        Args:
            scan: Points in the vehicle frame, metres.
            guess: (4, 4) vehicle -> map.
            guess_std_m: Standard deviation of the guess's position as a prior, metres; None: none.
        """
        standing, ground = scan.thinned(self._settings.max_points)
        pairs = [(self._standing, standing), (self._ground, ground)]
        return register(pairs, guess, guess_std_m)

    def accepts(self, fit: Fit) -> bool:
        """Return whether enough points lie on surfaces and the position is well determined."""
        sparse = self._insertions < _SPARSE_SCANS
        min_share = _SPARSE_SHARE if sparse else self._settings.min_share
        min_agree = _SPARSE_AGREE if sparse else _MIN_AGREE
        good = fit.share >= min_share and fit.agree >= min_agree
        return good and fit.std_m <= self._settings.max_std_m

    def insert(self, scan: ScanParts, pose: Array) -> None:
        """Add the points of a scan at a (4, 4) pose, unless the vehicle has hardly moved."""
        if self._inserted is not None:
            metres, turn = motion_size(se3_inverse(self._inserted) @ pose)
            if metres < _INSERT_M and turn < _INSERT_RAD:
                return
        for surfaces, points in ((self._standing, scan.standing), (self._ground, scan.ground)):
            surfaces.insert(pose[:3, :3] @ points + pose[:3, 3:])
        self._inserted = pose
        self._insertions += 1
        if np.linalg.norm(pose[:3, 3] - self._cleared) > self._far_m - self._settings.max_range_m:
            self._cleared = pose[:3, 3]
            self._standing.keep_within(self._cleared, self._far_m)
            self._ground.keep_within(self._cleared, self._far_m)
