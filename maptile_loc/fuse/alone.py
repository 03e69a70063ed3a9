"""The estimates of queries by themselves, before anything is fused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_prep.geometry import Array
from maptile_loc.fuse.certainty import likely_reason, make_estimates
from maptile_loc.fuse.motion import FuseSettings
from maptile_loc.search.engine.settings import SearchSettings
from maptile_loc.types import Candidates, Estimates, Fixes


def candidate_table(found: Sequence[Candidates]) -> Array:
    """The candidates of Q queries as one array, best first.

    Returns:
        (Q, K, 4) float64 east, north (metres), heading (radians), log-score; NaN where a query has
        fewer than K.
    """
    most = max((len(one.poses) for one in found), default=0)
    table = np.full((len(found), most, 4), np.nan)
    for row, one in zip(table, found, strict=True):
        order = np.argsort(-one.log_scores, kind="stable")
        row[: len(order)] = np.column_stack([one.poses, one.log_scores])[order]
    return table


def coarse_fixes(
    found: Sequence[Candidates], fixes: Sequence[Fixes], settings: SearchSettings
) -> list[Fixes]:
    """The candidates of Q queries before alignment, with the covariance of the search's grid."""
    spread = [settings.distinct_m / 2] * 2 + [np.radians(settings.heading_step_deg)]
    grid = np.diag(np.square(spread))
    return [
        Fixes(candidates, np.tile(grid, (len(candidates.poses), 1, 1)), fix.wall_m2)
        for candidates, fix in zip(found, fixes, strict=True)
    ]


def best_candidates(fixes: Sequence[Fixes], settings: FuseSettings) -> Estimates:
    """The estimates of queries by themselves: the most probable candidate of each."""
    count = len(fixes)
    poses, covariance = np.full((count, 3), np.nan), np.full((count, 3, 3), np.nan)
    score, alike = np.zeros(count), np.zeros(count, bool)
    for number, (candidates, spread, _) in enumerate(fixes):
        if len(candidates.poses):
            best = int(candidates.log_scores.argmax())
            poses[number], covariance[number] = candidates.poses[best], spread[best]
            probability = np.exp(candidates.log_scores)
            score[number] = probability[best]
            alike[number] = 2 * (probability.sum() - probability[best]) > 1 - probability[best]
    wall_m2 = np.array([fix.wall_m2 for fix in fixes])
    reason = likely_reason(wall_m2, alike, np.full(count, np.inf), settings)
    return make_estimates(poses, covariance, score, reason, settings)
