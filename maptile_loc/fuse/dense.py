"""A pose per scan: odometry between the queries of a drive, bent so that it meets their poses.

Along the metres travelled, the odometry's position and heading are random walks, a heading error
turns all that follows, and the errors of scale and turn keep their values between two queries. Such
an error is a Gaussian process. Given its value at both queries, its mean and covariance between
them are a Brownian bridge in closed form (Barfoot, Tong and Sarkka, Batch continuous-time
trajectory estimation as exactly sparse Gaussian process regression, RSS 2014, section III; Karatzas
and Shreve, Brownian motion and stochastic calculus, section 5.6.B).
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from data_prep.geometry import Array, se2_between, se2_compose, wrap_angle
from maptile_loc.fuse.certainty import make_estimates, worst_std
from maptile_loc.fuse.motion import FuseSettings
from maptile_loc.odometry.scan_motion import ScanMotion
from maptile_loc.types import Estimates, ScanPoses

SCANS_AT_ONCE = 8192
"""Scans that are worked on at a time, so that memory does not grow with the drive."""

STILL_MPS = 0.01
"""Metres of travel that a second counts as at least: the odometry of a vehicle that stands still
has noise, too."""

ACCELERATION = 2.0, 2.0, 0.5
"""Standard deviations of the acceleration where the odometry is extrapolated: metres per second
squared, twice, and radians per second squared."""

SURE = 3.0
"""A jump within this many standard deviations of both queries is none."""


def scan_poses(
    queries: Estimates, scan: NDArray[np.int64], motion: ScanMotion, settings: FuseSettings
) -> ScanPoses:
    """The poses of all S scans, from those of the Q queries that some of them made.

    Scans between two queries of one segment follow the odometry, bent so that it meets both. Before
    a segment's first query and after its last one they follow the odometry alone. Where a query has
    a pose, its scan has the same one, to the last bit.

    Args:
        queries: Estimates of the Q queries.
        scan: (Q,) index of each query's scan, ascending.
        motion: The odometry at all scans.
        settings: Noise of the odometry, and limits.

    Returns:
        The poses. NaN, with a reason, where the odometry does not reach, where it jumps against
        both queries around a scan, and in segments in which no query has a pose.
    """
    count = len(motion.t_ns)
    blocks = [
        _block(np.arange(start, min(start + SCANS_AT_ONCE, count)), queries, scan, motion, settings)
        for start in range(0, count, SCANS_AT_ONCE)
    ]
    columns = {
        field.name: np.concatenate([getattr(block, field.name) for block in blocks])
        for field in fields(Estimates)
    }
    posed = queries.has_pose
    for name, column in columns.items():
        column[scan[posed]] = getattr(queries, name)[posed]
    query = np.full(count, -1, np.int32)
    query[scan] = np.arange(len(scan))
    return ScanPoses(**columns, frame=np.arange(count), t_ns=motion.t_ns, query=query)


def _block(
    scans: NDArray[np.int64],
    queries: Estimates,
    scan: NDArray[np.int64],
    motion: ScanMotion,
    settings: FuseSettings,
) -> Estimates:
    """The estimates of some scans (N,), those of queries included."""
    segment = motion.segment[scans]
    posed = np.flatnonzero(queries.has_pose & (motion.segment[scan] >= 0))
    ends = scan[posed]
    poses, covariance = np.full((len(scans), 3), np.nan), np.full((len(scans), 3, 3), np.nan)
    score, reason = np.zeros(len(scans)), np.full(len(scans), "no_odometry", "U16")
    # Without a pose around, the reason is that of the segment's query before, or of the one after.
    for near in (np.searchsorted(scan, scans), np.searchsorted(scan, scans, side="right") - 1):
        own = np.clip(near, 0, len(scan) - 1)
        same = (segment >= 0) & (motion.segment[scan[own]] == segment)
        reason[same] = queries.reason[own[same]]
    if not len(posed):
        return make_estimates(poses, covariance, score, reason, settings)
    before = np.searchsorted(ends, scans, side="right") - 1
    after = np.searchsorted(ends, scans, side="left")
    reached = [
        (segment >= 0) & (index == near) & (motion.segment[ends[near]] == segment)
        for index, near in ((i, np.clip(i, 0, len(posed) - 1)) for i in (before, after))
    ]
    between = reached[0] & reached[1]
    sure = np.zeros(len(scans), bool)
    for one, index in ((reached[0] & ~between, before), (reached[1] & ~between, after)):
        query = posed[index[one]]
        poses[one], covariance[one] = _continued(queries, query, scan, scans[one], motion, settings)
        score[one], reason[one] = queries.score[query], queries.reason[query]
        sure[one] = queries.localized[query]
    begin, end = posed[before[between]], posed[after[between]]
    bent, spread = _bridged(queries, begin, end, scan, scans[between], motion, settings)
    poses[between], covariance[between] = bent, spread
    less = np.where(queries.score[begin] <= queries.score[end], begin, end)
    score[between] = np.where(np.isfinite(bent[:, 0]), queries.score[less], 0.0)
    own, other = queries.reason[less], queries.reason[begin + end - less]
    jump = np.where(np.isnan(bent[:, 0]), "no_odometry", own)
    reason[between] = np.where(jump == "", other, jump)
    sure[between] = queries.localized[begin] & queries.localized[end]
    found = make_estimates(poses, covariance, score, reason, settings)
    found.reason[sure & found.has_pose & ~found.localized] = "drift"
    return found


def _continued(
    queries: Estimates,
    query: NDArray[np.int64],
    scan: NDArray[np.int64],
    scans: NDArray[np.int64],
    motion: ScanMotion,
    settings: FuseSettings,
) -> tuple[Array, Array]:
    """(N, 3) poses of scans by the odometry from one query each, and (N, 3, 3) covariances."""
    poses, arm, metres = _predicted(queries, query, scan, scans, motion)
    turned = _carried(arm)
    grown = turned @ queries.covariance[query] @ np.swapaxes(turned, 1, 2)
    grown += _drift(arm, metres, arm, metres, settings)
    beyond = motion.beyond_s[scans, None] ** 2 / 2 * np.array(ACCELERATION)
    grown[:, range(3), range(3)] += beyond**2
    return poses, grown


def _bridged(
    queries: Estimates,
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    scan: NDArray[np.int64],
    scans: NDArray[np.int64],
    motion: ScanMotion,
    settings: FuseSettings,
) -> tuple[Array, Array]:
    """(N, 3) poses of scans between the queries ``begin`` and ``end``, and (N, 3, 3) covariances.

    The errors of the two queries are correlated, but it is not known how much: the covariance is
    the smallest bound of its form that holds for every correlation. For any x, y and share t of 0
    to 1, Cov(x + y) <= Cov(x) / (1 - t) + Cov(y) / t.

    NaN where the odometry jumps from one to the other.
    """
    poses, arm, metres = _predicted(queries, begin, scan, scans, motion)
    goal, whole, length = _predicted(queries, begin, scan, scan[end], motion)
    error = queries.poses[end] - goal
    error[:, 2] = wrap_angle(error[:, 2])
    still = length == 0
    total = _drift(whole, length, whole, length, settings) + still[:, None, None] * np.eye(3)
    shared = _drift(arm, metres, whole, length, settings)
    gain = shared @ np.linalg.inv(total)
    poses += (gain @ error[..., None])[..., 0]
    poses[:, 2] = wrap_angle(poses[:, 2])

    share = metres / np.where(still, 1.0, length)
    rest = _carried(arm) - gain @ _carried(whole)
    covariance = _drift(arm, metres, arm, metres, settings) - gain @ np.swapaxes(shared, 1, 2)
    for matrix, query, part in ((rest, begin, 1 - share), (gain, end, share)):
        weight = np.divide(1.0, part, out=np.zeros_like(part), where=part > 0)[:, None, None]
        covariance += weight * (matrix @ queries.covariance[query] @ np.swapaxes(matrix, 1, 2))

    spread = worst_std(queries.covariance[begin]) + worst_std(queries.covariance[end])
    limit = settings.jump_m + settings.jump_share * length + SURE * spread
    jumps = np.hypot(error[:, 0], error[:, 1]) > limit
    poses[jumps], covariance[jumps] = np.nan, np.nan
    return poses, covariance


def _predicted(
    queries: Estimates,
    query: NDArray[np.int64],
    scan: NDArray[np.int64],
    scans: NDArray[np.int64],
    motion: ScanMotion,
) -> tuple[Array, Array, Array]:
    """Where the odometry leads from one query each.

    Returns:
        (N, 3) poses of the scans, (N, 2) their positions from the query (east, north, metres), and
        (N,) metres travelled in between.
    """
    start = scan[query]
    moved = se2_between(motion.poses[start], motion.poses[scans])
    poses = se2_compose(queries.poses[query], moved)
    seconds = np.abs(motion.t_ns[scans] - motion.t_ns[start]) / 1e9
    metres = np.abs(motion.travelled[scans] - motion.travelled[start]) + STILL_MPS * seconds
    return poses, poses[:, :2] - queries.poses[query, :2], metres


def _carried(arm: Array) -> Array:
    """(N, 3, 3) how an error of a pose moves what is (N, 2) metres east and north of it."""
    matrix = np.tile(np.eye(3), (len(arm), 1, 1))
    matrix[:, :2, 2] = _aside(arm)
    return matrix


def _aside(arm: Array) -> Array:
    """(N, 2) vectors turned to the left by a right angle."""
    return np.stack([-arm[:, 1], arm[:, 0]], axis=1)


def _drift(arm: Array, metres: Array, far: Array, length: Array, settings: FuseSettings) -> Array:
    """(N, 3, 3) covariance of the odometry's error at a position with that farther on.

    Positions are seen from the query where the error is zero. With p(u) the position after u
    metres, a heading error that arises there moves p(m) by J (p(m) - p(u)), where J turns to the
    left. Integrated over u, with p(u) taken on the straight line to the nearer position.

    Args:
        arm: (N, 2) metres east and north of the nearer position.
        metres: (N,) travelled to it.
        far: (N, 2) the farther position.
        length: (N,) metres travelled to it, not less.
        settings: Noise of the odometry.
    """
    near, away = _aside(arm), _aside(far)
    walk, turn = np.radians(settings.walk_deg) ** 2, np.radians(settings.turn_deg_per_m) ** 2
    heading, both = walk * metres, turn * metres * length
    result = np.zeros((len(arm), 3, 3))
    levers = heading[:, None] * (away / 2 - near / 6) + both[:, None] / 4 * away
    result[:, :2, :2] = near[:, :, None] * levers[:, None]
    result[:, :2, :2] += settings.scale**2 * arm[:, :, None] * far[:, None]
    result[:, [0, 1], [0, 1]] += settings.walk_m**2 * metres[:, None]
    result[:, :2, 2] = (heading + both)[:, None] / 2 * near
    result[:, 2, :2] = heading[:, None] * (away - near / 2) + both[:, None] / 2 * away
    result[:, 2, 2] = heading + both
    return result
