"""What a query found, carried forward along the odometry."""

from __future__ import annotations

import numpy as np

from data_prep.geometry import se2_from_se3
from maptile_loc.fuse.motion import (
    POSE,
    SIZE,
    FuseSettings,
    Steps,
    initial_states,
    make_steps,
    move,
)
from maptile_loc.odometry.pose_buffer import Motion
from maptile_loc.types import Candidates, Fixes


def steps_between(begin: Motion, end: Motion, submap_m: float, settings: FuseSettings) -> Steps:
    """The odometry between two motions of one segment: the step number 1."""
    poses = se2_from_se3(np.stack([begin.pose, end.pose]))
    metres = np.array([begin.travelled, end.travelled])
    return make_steps(poses, np.zeros(2, np.int32), metres, submap_m, settings)


def carried(fixes: Fixes, steps: Steps, settings: FuseSettings) -> Fixes:
    """The candidates of an earlier query, moved along step number 1 of the odometry."""
    if len(fixes.candidates.poses) == 0:
        return fixes
    states = initial_states(fixes.candidates.poses)
    covariance = np.tile(np.eye(SIZE), (len(states), 1, 1))
    covariance[:, POSE, POSE] = fixes.covariance
    moved, jacobian, noise = move(states, steps, 1, settings)
    spread = jacobian @ covariance @ np.swapaxes(jacobian, 1, 2) + noise
    candidates = Candidates(moved[:, POSE], fixes.candidates.log_scores)
    return fixes._replace(candidates=candidates, covariance=spread[:, POSE, POSE])
