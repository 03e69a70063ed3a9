"""What a query found, carried forward along the odometry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.geometry import se2_from_se3
from maptile_loc.fuse.motion import (
    POSE,
    SIZE,
    FuseSettings,
    Steps,
    initial_states,
    move,
    steps_from,
)
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.types import Candidates, Fixes


def steps_to(
    begin: Motion, ends: Sequence[Motion], submap_m: float, settings: FuseSettings
) -> Steps:
    """The odometry from one motion to each of N others of its segment."""
    poses = se2_from_se3(np.stack([begin.pose, *(end.pose for end in ends)]))
    metres = np.array([end.travelled for end in ends]) - begin.travelled
    return steps_from(poses[0], poses[1:], metres, submap_m, settings)


def carried(fixes: Fixes, steps: Steps, settings: FuseSettings) -> Fixes:
    """The candidates of an earlier query, moved along the first one of the steps."""
    if len(fixes.candidates.poses) == 0:
        return fixes
    states = initial_states(fixes.candidates.poses)
    covariance = np.tile(np.eye(SIZE), (len(states), 1, 1))
    covariance[:, POSE, POSE] = fixes.covariance
    moved, jacobian, noise = move(states, steps, 0, settings)
    spread = jacobian @ covariance @ np.swapaxes(jacobian, 1, 2) + noise
    candidates = Candidates(moved[:, POSE], fixes.candidates.log_scores)
    return fixes._replace(candidates=candidates, covariance=spread[:, POSE, POSE])
