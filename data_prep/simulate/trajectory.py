"""Trajectories of simulated vehicles: those of real drives, or routes along a city's roads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from data_prep.city.folder import City
from data_prep.drive import MAX_BRIDGED_GAP_NS, Drive, Times
from data_prep.errors import MaptileError
from data_prep.geometry import (
    Array,
    se3_from_xyzrpy,
    se3_inverse,
    wrap_angle,
)
from data_prep.simulate.clearance import BuildingDistance
from data_prep.simulate.gps_vo import fuse
from data_prep.simulate.road_walk import drive_times, road_walk
from data_prep.sources import detect_format, open_drive
from data_prep.sources.formats.robotcar_tables import (
    find_extrinsics,
    read_gps,
    read_ins,
    read_vo,
)
from data_prep.sources.storage.archives import is_archive
from data_prep.sources.storage.tree import open_tree

ROUTE = "a route of"
"""Begin of the ``source`` of a random route."""
MARGIN_M = 30.0
"""Distance that a trajectory keeps from the map's edge by default, metres."""

_SHORTEST_M = 30.0
"""Shorter segments of a trajectory inside the map are dropped, metres."""

_RATE_HZ = 50
"""Poses per second of a trajectory."""

_ROUTE_START_NS = 1_700_000_000_000_000_000
"""Time of the first pose of a route, nanoseconds since 1970."""

_INS_SMOOTH_S = 2.0
"""Standard deviation of the Gaussian that spreads the jumps of an INS's position, seconds."""


@dataclass(frozen=True)
class Trajectory:
    """The exact path of a simulated vehicle.

    Attributes:
        t_ns: (N,) int64, strictly increasing.
        poses: (N, 3) float64 east, north (map frame, metres) and heading (radians counter-clockwise
            from grid east) of the vehicle frame.
        segment: (N,) int32, non-decreasing; there is no motion between two segments.
        source: What the trajectory was made from, in words; a route begins with ``ROUTE``.
        nudged_m: Largest displacement that keeps the path out of the map's buildings, metres.
    """

    t_ns: Times
    poses: Array
    segment: NDArray[np.int32]
    source: str
    nudged_m: float

    @property
    def is_route(self) -> bool:
        """Whether it is a random route, and follows no recording."""
        return self.source.startswith(ROUTE)

    def speed(self) -> Array:
        """Return (N,) speeds, metres per second: the higher of those before and after each pose.

        Between two segments it is 0.
        """
        step = np.linalg.norm(np.diff(self.poses[:, :2], axis=0), axis=1)
        step /= np.diff(self.t_ns) / 1e9
        step[np.diff(self.segment) != 0] = 0.0
        return np.maximum(np.append(step, 0.0), np.insert(step, 0, 0.0))

    def travelled(self) -> Array:
        """Return (N,) metres travelled within the segments, up to each pose."""
        step = np.linalg.norm(np.diff(self.poses[:, :2], axis=0), axis=1)
        return np.cumsum(np.insert(step * (np.diff(self.segment) == 0), 0, 0.0))

    def length_m(self) -> float:
        """Return the metres travelled within the segments."""
        return float(self.travelled()[-1])


def open_trajectory(
    trajectory: str, city: City, length_m: float, seed: int, outside: bool = False
) -> Trajectory:
    """Return the trajectory that a user names.

    Args:
        trajectory: ``route``, the path of a drive of any format with a truth, or the path of an
            ins.csv, rtk.csv or gps.csv of Oxford RobotCar; a gps.csv needs ``../vo/vo.csv``.
        city: The map.
        length_m: Length of a route, metres.
        seed: Seed of a route.
        outside: Whether a recorded trajectory continues where it leaves the map.

    Raises:
        MaptileError: The name is none of these, or the trajectory does not lie in the city.
    """
    margin_m = None if outside else MARGIN_M
    if trajectory == "route":
        if not 10 <= length_m <= 1e6:
            raise MaptileError(f"a route of {length_m:g} m: give 10 m to 1000 km")
        return trajectory_from_route(city, length_m, seed)
    path = Path(trajectory)
    if not path.is_file() or is_archive(path):
        tree = open_tree(path)
        if not tree.is_dir() and detect_format(tree) is None:
            raise MaptileError(
                f"{trajectory}: no such file; name a drive, an ins.csv, a gps.csv, or say route"
            )
        return trajectory_from_drive(open_drive(path), city, margin_m)
    if path.name == "gps.csv":
        return trajectory_from_gps(path, path.parent.parent / "vo" / "vo.csv", city, margin_m)
    return trajectory_from_ins(path, city, margin_m)


def trajectory_from_drive(
    drive: Drive, city: City, margin_m: float | None = MARGIN_M
) -> Trajectory:
    """Return the truth of a drive, interpolated linearly.

    Args:
        drive: A drive with a truth.
        city: The map.
        margin_m: Distance from the map's edge to keep, metres; None follows the truth everywhere.

    Raises:
        MaptileError: The drive has no truth, or it lies outside the map.
    """
    if drive.truth is None:
        raise MaptileError(f"{drive.name}: no truth in this drive, so no path to follow")
    step = 1_000_000_000 // _RATE_HZ
    t_ns = np.arange(drive.truth.t_ns[0], drive.truth.t_ns[-1] + 1, step)
    latitude, longitude, heading = drive.truth.at(t_ns)
    known = np.isfinite(latitude)
    latitude, longitude, heading = latitude[known], longitude[known], heading[known]
    projection = city.raster.projection
    heading = wrap_angle(heading + projection.convergence(latitude, longitude))
    poses = np.column_stack([projection.forward(latitude, longitude), heading])
    return _finish(t_ns[known], poses, city, margin_m, f"truth of {drive.name}")


def trajectory_from_ins(path: Path, city: City, margin_m: float | None = MARGIN_M) -> Trajectory:
    """Return the trajectory of an ins.csv of Oxford RobotCar.

    The INS corrects its position in jumps of up to half a metre. A vehicle does not jump: the
    difference between position and integrated velocity is smoothed over seconds.

    Args:
        path: The file; extrinsics are searched for as for a run.
        city: The map.
        margin_m: Distance from the map's edge to keep, metres; None follows the file everywhere.

    Raises:
        MaptileError: The file cannot be read, or the trajectory lies outside the map.
    """
    ins = read_ins(path)
    projection = city.raster.projection
    position = projection.forward(ins.latitude, ins.longitude)
    convergence = projection.convergence(ins.latitude, ins.longitude)
    seconds = np.diff(ins.t_ns)[:, None] / 1e9
    turn = np.exp(1j * convergence)
    velocity = (ins.velocity[:, 1] + 1j * ins.velocity[:, 0]) * turn
    steps = np.stack([velocity.real, velocity.imag], axis=1)
    steps = (steps[1:] + steps[:-1]) / 2 * seconds
    dead_reckoned = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    position = dead_reckoned + gaussian_filter1d(
        position - dead_reckoned, _INS_SMOOTH_S * _RATE_HZ, axis=0, mode="nearest"
    )
    lever = find_extrinsics(path.parent.parent, "ins")
    attitude = se3_from_xyzrpy(np.concatenate([np.zeros_like(ins.rpy), ins.rpy], axis=1))
    vehicle = attitude @ se3_inverse(lever)  # axes north, east, down, around the INS
    position += np.stack([vehicle[:, 1, 3], vehicle[:, 0, 3]], axis=1)
    yaw = np.arctan2(vehicle[:, 1, 0], vehicle[:, 0, 0])
    poses = np.column_stack([position, wrap_angle(np.pi / 2 - yaw + convergence)])
    return _finish(ins.t_ns, poses, city, margin_m, f"{path.name} of {_run_name(path)}")


def trajectory_from_gps(
    gps_path: Path, vo_path: Path, city: City, margin_m: float | None = MARGIN_M
) -> Trajectory:
    """Return the trajectory of a gps.csv and a vo.csv of Oxford RobotCar, fused.

    Args:
        gps_path: The GPS file.
        vo_path: The visual odometry of the same run.
        city: The map.
        margin_m: Distance from the map's edge to keep, metres; None follows the files everywhere.

    Raises:
        MaptileError: A file cannot be read, or the trajectory lies outside the map.
    """
    gps, vo = read_gps(gps_path), read_vo(vo_path)
    t_ns, poses = fuse(gps, vo, city.raster.projection)
    source = f"{gps_path.name} and {vo_path.name} of {_run_name(gps_path)}"
    return _finish(t_ns, poses, city, margin_m, source)


def trajectory_from_route(city: City, length_m: float, seed: int = 0) -> Trajectory:
    """Return a random route along the city's roads; see ``road_walk``.

    Args:
        city: The map.
        length_m: Length of the route, metres.
        seed: Seed of the route.

    Raises:
        MaptileError: The map has no roads inside its edge.
    """
    rng = np.random.default_rng([seed, *b"route"])
    xy, heading = road_walk(city, length_m, MARGIN_M, rng)
    seconds = drive_times(xy, heading)
    grid = np.arange(0, seconds[-1], 1 / _RATE_HZ)
    poses = np.column_stack(
        [np.interp(grid, seconds, column) for column in (xy[:, 0], xy[:, 1], heading)]
    )
    poses[:, 2] = wrap_angle(poses[:, 2])
    t_ns = _ROUTE_START_NS + np.round(grid * 1e9).astype(np.int64)
    return _finish(t_ns, poses, city, 0.0, f"{ROUTE} {length_m:.0f} m (seed {seed})")


def _run_name(path: Path) -> str:
    """Return the name of the run's folder, two above the file."""
    return path.resolve().parent.parent.name


def _finish(
    t_ns: Times, poses: Array, city: City, margin_m: float | None, source: str
) -> Trajectory:
    """Return the part of a path inside the map, moved out of the map's buildings.

    Args:
        t_ns: (N,) nanoseconds; a longer gap than 2 s separates two segments.
        poses: (N, 3) east, north (map frame, metres) and heading (radians).
        city: The map.
        margin_m: Distance from the map's edge to keep, metres; None keeps all poses.
        source: What the path was made from, in words.

    Raises:
        MaptileError: Less than 30 m of the path are inside the map.
    """
    inside = np.ones(len(poses), bool)
    if margin_m is not None:
        inside = city.raster.inside(poses[:, :2], margin_m)
    apart = np.append(np.diff(t_ns) > MAX_BRIDGED_GAP_NS, True)
    starts = np.flatnonzero(
        inside & (np.insert(~inside[:-1], 0, True) | np.insert(apart[:-1], 0, True))
    )
    stops = np.flatnonzero(inside & (np.append(~inside[1:], True) | apart)) + 1
    buildings = BuildingDistance(city.raster)
    kept: list[tuple[Times, Array]] = []
    nudged = 0.0
    for start, stop in zip(starts, stops, strict=True):
        part = poses[start:stop]
        if np.linalg.norm(np.diff(part[:, :2], axis=0), axis=1).sum() < _SHORTEST_M:
            continue
        moved = buildings.keep_out(part)
        nudged = max(nudged, float(np.hypot(*(moved - part)[:, :2].T).max()))
        kept.append((t_ns[start:stop], moved))
    if not kept:
        raise MaptileError(
            f"{source}: no {_SHORTEST_M:.0f} m of it lie inside the map of {city.name}; "
            "choose the city of the drive"
        )
    segment = np.repeat(np.arange(len(kept)), [len(times) for times, _ in kept])
    return Trajectory(
        np.concatenate([times for times, _ in kept]),
        np.concatenate([moved for _, moved in kept]),
        segment.astype(np.int32),
        source,
        nudged,
    )
