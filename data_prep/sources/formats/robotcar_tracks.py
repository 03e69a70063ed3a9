"""Tracks of Oxford RobotCar: odometry from visual odometry, heading and truth from INS or RTK.

All poses are of the vehicle frame (the stereo camera), x forward, y left, z up.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyproj
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.counted import counted
from data_prep.drive import MAX_BRIDGED_GAP_NS, HeadingTrack, PoseTrack, TruthTrack
from data_prep.errors import MaptileError
from data_prep.geometry import (
    Array,
    interpolate_angle,
    se3,
    se3_from_xyzrpy,
    se3_inverse,
    true_heading_from_ins_yaw,
    wrap_angle,
)
from data_prep.sources.formats.common import said_of_gaps
from data_prep.sources.formats.robotcar_tables import Ins, Vo

LEVEL_OVER_M = 25.0
"""Distance over which roll and pitch of visual odometry return to level, metres.

Of 25, 50, 100 and 200 m, it gives the roll and pitch nearest to the INS's on the loop runs."""

MAX_SIDEWAYS_M_PER_S = 3.0
"""Rows of visual odometry with a larger sideways velocity are rejected, m/s.

The camera is 2 m ahead of the rear axle and reaches 1.3 m/s in the sharpest turns."""

MIN_COURSE_M = 2.0
"""Shortest motion within a second that defines a direction of travel, metres."""

METRES_PER_DEGREE = 111_320.0
"""Length of a degree of latitude, metres."""


def odometry_from_vo(vo: Vo, notes: list[str]) -> PoseTrack:
    """Chain the rows of visual odometry into a track whose z is up.

    A gap of up to ``MAX_BRIDGED_GAP_NS`` is bridged with the mean velocity and turn rate of the
    rows beside it; a longer one starts a new segment. Rows with a sideways jump (another object
    filled the picture) are rejected, which leaves a gap.

    Chained alone, the attitude drifts by 10 to 20 degrees within kilometres. Roll and pitch are
    therefore pulled, over ``LEVEL_OVER_M`` metres, towards the attitude in which the vehicle
    travels horizontally; the camera itself looks down by 2 to 3 degrees.

    Args:
        vo: Rows sorted by time.
        notes: Lines about gaps and rejected rows are appended.

    Raises:
        MaptileError: Every row jumps sideways.
    """
    rate = _twist_rate(vo)
    jumps = np.abs(rate[:, 1]) > MAX_SIDEWAYS_M_PER_S
    if jumps.all():
        raise MaptileError("vo.csv: every row jumps sideways; x must be forward, in metres")
    if jumps.any():
        notes.append(f"vo.csv: {counted(int(jumps.sum()), 'row')} with a jump sideways; left out")
        vo = Vo(vo.older_ns[~jumps], vo.newer_ns[~jumps], vo.motion[~jumps])
        rate = rate[~jumps]
    level = _level_attitude(vo.motion)
    up = level[2]
    attitude, position, t = level, np.zeros(3), int(vo.older_ns[0])
    track = [(t, attitude, position, 0)]
    bridged = lost = 0
    for i, motion in enumerate(vo.motion):
        gap = int(vo.older_ns[i]) - t
        if gap < 0:  # overlaps the row before
            continue
        if gap > MAX_BRIDGED_GAP_NS:
            lost += 1
        elif gap > 0:
            step = 0.5 * (rate[i - 1] + rate[i]) * (gap / 1e9)
            half = Rotation.from_rotvec(0.5 * (step[3:] @ up) * up).as_matrix()
            position = position + attitude @ half @ step[:3]
            attitude = attitude @ half @ half
            bridged += 1
        if gap > 0:
            track.append((int(vo.older_ns[i]), attitude, position, lost))
        position = position + attitude @ motion[:3, 3]
        attitude = _pulled_level(attitude @ motion[:3, :3], up, math.hypot(*motion[:3, 3]))
        t = int(vo.newer_ns[i])
        track.append((t, attitude, position, lost))
    _note_gaps(bridged, lost, notes)
    times, attitudes, positions, segments = zip(*track, strict=True)
    poses = se3(Rotation.from_matrix(np.stack(attitudes)), np.stack(positions))
    return PoseTrack(np.array(times, np.int64), poses, np.array(segments, np.int32))


def heading_from_ins(ins: Ins, lever: Array) -> HeadingTrack | None:
    """Headings of the vehicle frame in the rows that have an attitude; None where none has.

    Args:
        ins: Rows of ins.csv or rtk.csv.
        lever: (4, 4) INS -> vehicle frame, as ``find_extrinsics`` returns it.
    """
    heading = true_heading_from_ins_yaw(_yaw(_vehicle_in_ned(ins, lever)))[ins.aligned]
    return HeadingTrack(ins.t_ns[ins.aligned], heading) if len(heading) else None


def truth_from_ins(ins: Ins, lever: Array, notes: list[str]) -> TruthTrack | None:
    """Positions and headings of the vehicle frame in the good rows; None where none is good.

    Args:
        ins: Rows of ins.csv or rtk.csv.
        lever: (4, 4) INS -> vehicle frame, as ``find_extrinsics`` returns it.
        notes: A line about rows that are left out is appended.
    """
    good = ins.good
    if not good.all():
        notes.append(
            f"truth: {np.mean(~good):.1%} of the INS rows are not INS_SOLUTION_GOOD; left out"
        )
    if not good.any():
        return None
    vehicle = _vehicle_in_ned(ins, lever)
    north, east = vehicle[:, 0, 3], vehicle[:, 1, 3]
    longitude, latitude, _ = pyproj.Geod(ellps="WGS84").fwd(
        ins.longitude, ins.latitude, np.degrees(np.arctan2(east, north)), np.hypot(east, north)
    )
    heading = true_heading_from_ins_yaw(_yaw(vehicle))
    return TruthTrack(
        ins.t_ns[good], np.asarray(latitude)[good], np.asarray(longitude)[good], heading[good]
    )


def straighten_rtk(rtk: Ins, ins: Ins | None, notes: list[str]) -> Ins:
    """Correct the RTK's yaw by the multiple of 90 degrees that aligns it with the motion.

    Args:
        rtk: Rows of rtk.csv.
        ins: Rows of ins.csv; its yaw replaces the motion where the vehicle never moves.
        notes: A line about the correction, or why it was impossible, is appended.

    Returns:
        The rows with the corrected yaw.
    """
    course, known = _course(rtk)
    if not known.any() and ins is not None:
        course = interpolate_angle(ins.t_ns, ins.rpy[:, 2], rtk.t_ns)
        known = np.ones(len(course), bool)
    if not known.any():
        notes.append("rtk.csv: the vehicle never moves, so its yaw could not be checked")
        return rtk
    off = rtk.rpy[known, 2] - course[known]
    mean = np.arctan2(np.median(np.sin(off)), np.median(np.cos(off)))
    turn = np.round(mean / (np.pi / 2)) * (np.pi / 2)
    if turn:
        notes.append(f"rtk.csv: yaw is {np.degrees(turn):.0f} degrees off the motion; corrected")
    rpy = np.column_stack([rtk.rpy[:, :2], wrap_angle(rtk.rpy[:, 2] - turn)])
    return replace(rtk, rpy=rpy)


# --- visual odometry -----------------------------------------------------------------------------


def _twist_rate(vo: Vo) -> Array:
    """(N, 6) velocity (m/s) and turn rate (rad/s) of each row, in the vehicle frame halfway."""
    turn = Rotation.from_matrix(vo.motion[:, :3, :3]).as_rotvec()
    travel = Rotation.from_rotvec(-0.5 * turn).apply(vo.motion[:, :3, 3])
    seconds = (vo.newer_ns - vo.older_ns) / 1e9
    return np.concatenate([travel, turn], axis=1) / seconds[:, None]


def _level_attitude(motion: Array) -> Array:
    """(3, 3) attitude whose pitch makes the median direction of travel horizontal."""
    moving = np.abs(motion[:, 0, 3]) > 0.1
    if not moving.any():
        return np.eye(3)
    pitch = np.median(np.arctan(motion[moving, 2, 3] / motion[moving, 0, 3]))
    return Rotation.from_euler("y", pitch).as_matrix()


def _pulled_level(attitude: Array, up: Array, metres: float) -> Array:
    """``attitude`` turned about a horizontal axis, so that the vehicle's ``up`` tilts less.

    The tilt decays exponentially, by 1 / e within ``LEVEL_OVER_M`` metres of travel.
    """
    x, y, _ = attitude @ up
    tilt = math.hypot(x, y)
    if tilt < 1e-9:
        return attitude
    angle = math.asin(min(tilt, 1.0)) * (1 - math.exp(-metres / LEVEL_OVER_M))
    c, s, ax, ay = math.cos(angle), math.sin(angle), y / tilt, -x / tilt
    turn = np.array(
        [
            [c + ax * ax * (1 - c), ax * ay * (1 - c), ay * s],
            [ax * ay * (1 - c), c + ay * ay * (1 - c), -ax * s],
            [-ay * s, ax * s, c],
        ]
    )
    return turn @ attitude


def _note_gaps(bridged: int, lost: int, notes: list[str]) -> None:
    if bridged:
        notes.append(f"vo.csv: {bridged} gaps of up to 2 s bridged with the velocity beside them")
    if lost:
        notes.append(said_of_gaps("vo.csv", lost))


# --- INS and RTK ---------------------------------------------------------------------------------


def _vehicle_in_ned(ins: Ins, lever: Array) -> Array:
    """(N, 4, 4) vehicle frame -> north, east, down axes with their origin in the INS."""
    attitude = se3_from_xyzrpy(np.concatenate([np.zeros_like(ins.rpy), ins.rpy], axis=1))
    return attitude @ se3_inverse(lever)


def _yaw(vehicle: Array) -> Array:
    return np.arctan2(vehicle[:, 1, 0], vehicle[:, 0, 0])


def _course(ins: Ins) -> tuple[Array, NDArray[np.bool_]]:
    """(N,) direction of travel, radians clockwise from north, and (N,) whether it is defined.

    It is computed from positions: the axes of the RTK file's velocities are as doubtful as its yaw.
    """
    seconds = (ins.t_ns - ins.t_ns[0]) / 1e9
    degrees = np.stack([ins.latitude, ins.longitude * np.cos(np.radians(ins.latitude))])
    north, east = (
        np.interp(seconds + 0.5, seconds, metres) - np.interp(seconds - 0.5, seconds, metres)
        for metres in degrees * METRES_PER_DEGREE
    )
    return np.arctan2(east, north), np.hypot(north, east) > MIN_COURSE_M
