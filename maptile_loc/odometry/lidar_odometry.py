"""Odometry from a drive's own scans, for drives that come without.

Each scan is fitted to a map of what the scans before it saw, from where the vehicle would be had it
kept its motion. A scan that does not fit, or only after no possible motion, is left out; after some
of those in a row, or two seconds, a new segment begins: a jump is never passed off as a motion.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pydantic
from scipy.spatial.transform import Rotation

from data_prep.drive import MAX_BRIDGED_GAP_NS, Drive, PoseTrack
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3, se3_inverse
from data_prep.settings import Positive, Settings
from maptile_loc.odometry.register import Fit, register
from maptile_loc.odometry.sweep import Parts, Sweep, in_plane, moments, parts, sweep
from maptile_loc.odometry.voxels import VoxelMap

_FEWEST_POINTS, _FEWEST_STANDING = 100, 30
_PLANAR_SCANS = 100
_PATIENCE = 3

# A fit is good if so many of the points that have a surface lie on it; the map of a few scans is
# sparse, so that few points have one.
_AGREE = 0.7
_FIRST_SHARE, _FIRST_SCANS = 0.2, 5

# The first motion of a segment is searched from speeds so many metres per scan apart.
_GUESS_M, _GUESSED_M, _BACKWARD_M_S = 2.0, 30.0, 5.0
_TURNS, _CLEARLY, _SURELY = 2, 0.97, 0.8

# How far a motion is from the one before: usually (standard deviation), and at most.
_STEADY_NS = 80_000_000  # over a shorter time the error of a pose would pass for speed
_STEADY_M, _STEADY_M_S2 = 0.05, 1.5
_JUMP_M, _JUMP_M_S2 = 0.3, 12.0
_JUMP_RAD, _JUMP_RAD_S, _JUMP_RAD_S2 = 0.05, 1.5, 3.0

_INSERT_M, _INSERT_RAD = 0.2, 0.03
_FORGET_EVERY = 20
_STILL_M, _STILL_RAD = 0.02, 0.004


class OdometrySettings(Settings):
    """How motion is found from scans.

    Attributes:
        min_range_m: Nearer points are left out: the vehicle itself.
        max_range_m: Farther points are left out.
        thin_m: Scans are thinned to a point per voxel of this size.
        voxel_m: Size of the map's voxels; of those of the ground twice that.
        max_points: At most so many points of a scan are fitted, and a third as many of the ground.
        min_share: A scan fits where at least this share of its points lies on the map's surfaces.
        max_std_m: It tells the motion where its position is known at least as well as this.
        max_speed_m_s: No vehicle is faster.
        level_over_m: Roll and pitch, which drift, are drawn level over so many metres of travel:
            on average a vehicle is level.
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


def lidar_odometry(
    drive: Drive,
    settings: OdometrySettings,
    progress: Callable[[int], object] = lambda scans: None,
) -> PoseTrack:
    """Find how a vehicle moved from its scans alone.

    The same scans give the same poses, on any number of threads, and whatever the order of the
    points in a scan (but for rounding).

    Args:
        drive: Where the points have times the motion within a scan is undone. Scans of several
            sensors are taken together, a round of them at a time.
        settings: How.
        progress: Called with the number of scans done since the last call.

    Returns:
        A pose for each scan, or round of scans, that fits; every segment begins level.

    Raises:
        MaptileError: The scans lie in planes (those of a push-broom sensor cannot be fitted to one
            another), hold too few points, or do not tell how the vehicle moved.
    """
    tracker = _Tracker(settings)
    planar = 0
    for block in moments(drive.scans):
        lies = in_plane(block)
        planar += int(lies.sum())
        if planar >= _PLANAR_SCANS and not tracker.started:
            break
        seen = sweep(block, ~lies, settings.min_range_m, settings.max_range_m)
        tracker.add(int(block.t_ns[0]), seen)
        progress(len(block.t_ns))
    if not tracker.started:
        raise MaptileError(f"{drive.name}: no odometry from its scans: {_why(planar)}")
    track = tracker.track()
    if len(drive.scans.t_ns) > 1 and not (np.diff(track.segment) == 0).any():
        raise MaptileError(
            f"{drive.name}: no odometry from its scans: no two of them fit together (open ground "
            "with nothing on it, or too far apart)"
        )
    return track


def _why(planar: int) -> str:
    if planar:
        return (
            "each lies in a plane, as those of a push-broom LiDAR do, and cannot be fitted to the "
            "next"
        )
    return f"none has {_FEWEST_POINTS} points within range"


# --- motion --------------------------------------------------------------------------------------


def _velocity(motion: Array, seconds: float) -> Array:
    """(6,) steady velocity and turn rate, in the vehicle's frame, that make a (4, 4) motion."""
    turn = Rotation.from_matrix(motion[:3, :3]).as_rotvec()
    travel = Rotation.from_rotvec(-0.5 * turn).apply(motion[:3, 3])
    return np.concatenate([travel, turn]) / seconds


def _moved(velocity: Array, seconds: float) -> Array:
    """(4, 4) motion of a steady velocity; the inverse of ``_velocity``."""
    travel, turn = velocity[:3] * seconds, Rotation.from_rotvec(velocity[3:] * seconds)
    return se3(turn, Rotation.from_rotvec(velocity[3:] * (0.5 * seconds)).apply(travel))


def _size(motion: Array) -> tuple[float, float]:
    """Metres and radians of a (4, 4) motion."""
    turn = Rotation.from_matrix(motion[:3, :3]).magnitude()
    return float(np.linalg.norm(motion[:3, 3])), float(turn)


class _Tracker:
    """Fits scans to the map of a segment, one after the other."""

    def __init__(self, settings: OdometrySettings) -> None:
        self._settings = settings
        self._t_ns: list[int] = []
        self._poses: list[Array] = []
        self._segment: list[int] = []
        self._misses = 0

    @property
    def started(self) -> bool:
        return bool(self._t_ns)

    def add(self, t_ns: int, seen: Sweep) -> None:
        """Fit the scan of a moment, leave it out, or begin a segment with it."""
        if len(seen.points) < _FEWEST_POINTS:
            return
        if not self._t_ns or t_ns - self._t_ns[-1] > MAX_BRIDGED_GAP_NS:
            self._begin(t_ns, seen)
            return
        pose = self._second(t_ns, seen) if self._is_first() else self._next(t_ns, seen)
        if pose is not None:
            self._append(t_ns, pose, self._segment[-1])
            return
        self._misses += 1
        if self._misses == _PATIENCE:
            self._begin(t_ns, seen)

    def track(self) -> PoseTrack:
        """The poses found, each segment going on where the last one ended."""
        segment = np.array(self._segment, np.int32)
        first = np.flatnonzero(np.diff(segment)) + 1
        pieces: list[Array] = []
        start = np.eye(4)
        for poses in np.split(np.stack(self._poses), first):
            pieces.append(start @ levelled(held(poses), self._settings.level_over_m))
            start = _upright(pieces[-1][-1])
        return PoseTrack(np.array(self._t_ns, np.int64), np.concatenate(pieces), segment)

    def _append(self, t_ns: int, pose: Array, segment: int) -> None:
        self._t_ns.append(t_ns)
        self._poses.append(pose)
        self._segment.append(segment)
        self._misses = 0

    def _is_first(self) -> bool:
        return len(self._segment) < 2 or self._segment[-2] != self._segment[-1]

    def _begin(self, t_ns: int, seen: Sweep) -> None:
        self._append(t_ns, np.eye(4), self._segment[-1] + 1 if self._segment else 0)
        self._first = seen

    def _second(self, t_ns: int, seen: Sweep) -> Array | None:
        """Find the first motion of a segment, trying one speed after the other."""
        if len(parts(seen.points, self._settings.thin_m).standing) < _FEWEST_STANDING:
            return None
        seconds = (t_ns - self._t_ns[-1]) / 1e9
        reach = self._settings.max_speed_m_s * seconds
        ahead = np.arange(0.0, min(reach, _GUESSED_M) + _GUESS_M, _GUESS_M)
        back = -ahead[(ahead > 0) & (ahead < _BACKWARD_M_S * seconds + _GUESS_M)]
        steps = np.concatenate([ahead, back])
        fits: list[Fit] = []
        for step in steps[np.argsort(np.abs(steps), kind="stable")].tolist():
            motion = np.eye(4)
            motion[0, 3] = step
            for _ in range(_TURNS):
                fit = self._pair(seen, motion, seconds)
                motion = fit.pose
            metres, turn = _size(motion)
            slow = metres <= reach + _JUMP_M and turn <= _JUMP_RAD_S * seconds + _JUMP_RAD
            if slow and self._fits(fit):
                fits.append(fit)
                if fit.share >= _SURELY:
                    break
        if not fits:
            return None
        enough = _CLEARLY * max(fit.share for fit in fits)
        chosen = next(fit for fit in fits if fit.share >= enough)
        self._pair(seen, chosen.pose, seconds)
        self._insert(self._undone(seen, _velocity(chosen.pose, seconds)), chosen.pose)
        return chosen.pose

    def _pair(self, seen: Sweep, motion: Array, seconds: float) -> Fit:
        """Fit the second scan to the first, each undone with a motion from one to the other."""
        velocity = _velocity(motion, seconds)
        self._standing = VoxelMap(self._settings.voxel_m, ground=False)
        self._ground = VoxelMap(2 * self._settings.voxel_m, ground=True)
        self._inserted: Array | None = None
        self._insertions = 0
        self._insert(self._undone(self._first, velocity), np.eye(4))
        return self._fit(self._undone(seen, velocity), motion)

    def _next(self, t_ns: int, seen: Sweep) -> Array | None:
        """Fit a scan from where the last motion leads."""
        seconds = (t_ns - self._t_ns[-1]) / 1e9
        velocity = self._last_velocity()
        guess = self._poses[-1] @ _moved(velocity, seconds)
        undone = self._undone(seen, velocity)
        fit = self._fit(undone, guess, _STEADY_M + _STEADY_M_S2 * seconds**2)
        metres, turn = _size(se3_inverse(guess) @ fit.pose)
        jumps = (
            metres > _JUMP_M + _JUMP_M_S2 * seconds**2
            or turn > _JUMP_RAD + _JUMP_RAD_S2 * seconds**2
        )
        if jumps or not self._fits(fit):
            return None
        self._insert(undone, fit.pose)
        return fit.pose

    def _last_velocity(self) -> Array:
        before = len(self._t_ns) - 2
        while (
            before > 0
            and self._segment[before - 1] == self._segment[-1]
            and self._t_ns[-1] - self._t_ns[before] < _STEADY_NS
        ):
            before -= 1
        motion = se3_inverse(self._poses[before]) @ self._poses[-1]
        return _velocity(motion, (self._t_ns[-1] - self._t_ns[before]) / 1e9)

    def _undone(self, seen: Sweep, velocity: Array) -> Parts:
        return parts(seen.still(velocity), self._settings.thin_m)

    def _fit(self, seen: Parts, guess: Array, guess_std_m: float | None = None) -> Fit:
        some = seen.thinned(self._settings.max_points)
        pairs = [(self._standing, some.standing), (self._ground, some.ground)]
        return register(pairs, guess, guess_std_m)

    def _fits(self, fit: Fit) -> bool:
        sparse = self._insertions < _FIRST_SCANS
        min_share = _FIRST_SHARE if sparse else self._settings.min_share
        good = fit.share >= min_share and fit.agree >= _AGREE
        return good and fit.std_m <= self._settings.max_std_m

    def _insert(self, seen: Parts, pose: Array) -> None:
        if self._inserted is not None:
            metres, turn = _size(se3_inverse(self._inserted) @ pose)
            # A vehicle that stands sees the same again; adding it would let the map drift.
            if metres < _INSERT_M and turn < _INSERT_RAD:
                return
        turned = pose[:3, :3].T
        self._standing.insert(seen.standing @ turned + pose[:3, 3])
        self._ground.insert(seen.ground @ turned + pose[:3, 3])
        self._inserted = pose
        self._insertions += 1
        if self._insertions % _FORGET_EVERY == 0:
            far_m = 1.5 * self._settings.max_range_m
            self._standing.keep_within(pose[:3, 3], far_m)
            self._ground.keep_within(pose[:3, 3], far_m)


# --- tracks --------------------------------------------------------------------------------------


def held(poses: Array) -> Array:
    """(N, 4, 4) poses that stay exactly where they are while the vehicle stands."""
    result = poses.copy()
    for i in range(1, len(poses)):
        metres, turn = _size(se3_inverse(result[i - 1]) @ poses[i])
        if metres < _STILL_M and turn < _STILL_RAD:
            result[i] = result[i - 1]
    return result


def levelled(poses: Array, over_m: float) -> Array:
    """(N, 4, 4) poses with roll and pitch drawn level over ``over_m`` metres of travel."""
    motions = se3_inverse(poses[:-1]) @ poses[1:]
    drawn = [_upright(poses[0])]
    for motion in motions:
        pose = drawn[-1] @ motion
        share = 1 - np.exp(-np.linalg.norm(motion[:3, 3]) / over_m)
        up = pose[:3, 2]
        axis = np.cross(up, [0.0, 0.0, 1.0])
        sine = np.linalg.norm(axis)
        if sine > 1e-9:
            turn = Rotation.from_rotvec(axis / sine * (share * np.arctan2(sine, up[2])))
            pose[:3, :3] = turn.as_matrix() @ pose[:3, :3]
        drawn.append(pose)
    return np.stack(drawn)


def _upright(pose: Array) -> Array:
    """The (4, 4) pose without its roll and pitch."""
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    return se3(Rotation.from_euler("z", yaw), pose[:3, 3])
