"""Recordings of a simulated vehicle's INS, GPS and visual odometry, in Oxford RobotCar's files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pydantic
import pyproj
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from data_prep.drive import Times
from data_prep.geometry import (
    NED_TO_FLU,
    Array,
    Projection,
    interpolate_se3,
    se3,
    se3_from_xyzrpy,
    se3_inverse,
    utm_crs,
)
from data_prep.settings import Settings
from data_prep.simulate.trajectory import Trajectory
from data_prep.sources.formats.robotcar_tables import EXTRINSICS

_ALTITUDE_M = 60.0
"""Altitude in the GPS file, metres; the simulated world has none."""

_GEOID_M = 46.5
"""Height of the geoid above the ellipsoid, metres: the altitudes in the INS file include it."""

_INS_WANDER_S = 60.0
"""Time constant of the INS's errors, seconds."""

_INS_ATTITUDE = (0.3, 0.3, 0.6)
"""Standard deviations of changing roll, pitch, yaw errors, multiples of ``ins_heading_deg``."""

_INS_CONSTANT_YAW = 0.8
"""Standard deviation of the constant yaw error, the same multiple; 0.6^2 + 0.8^2 = 1."""

_DOUBTFUL = 2.45
"""Position errors above this multiple of ``ins_m`` are reported as doubtful: 5 % of them are."""

_GPS_WANDER_S = 40.0
"""Time constant of the GPS's errors, seconds."""

_VO_SCALE_M = 100.0
"""Distance constant of the change of the odometry's scale error, metres."""

_VO_TURN_M = 300.0
"""Distance constant of the change of the odometry's turn rate error, metres."""


class NavigationNoise(Settings):
    """Errors of INS, GPS and visual odometry; zeros make them exact.

    Attributes:
        ins_m: Standard deviation of the INS's position, east and north alike, metres; the error
            has a correlation time of a minute.
        ins_heading_deg: Standard deviation of the INS's heading, degrees; a part of the error is
            constant.
        gps_m: Standard deviation of the GPS's position, east and north alike, metres, apart from
            jumps.
        gps_jumps_per_km: Number of times per kilometre that the GPS jumps away for 1 to 12 s.
        gps_jump_m: Standard deviation of a jump, east and north alike, metres.
        vo_scale: Scale error of the visual odometry (0.015: lengths are 1.5 % too large).
        vo_turn_rad_per_km: Heading drift of the visual odometry, radians per kilometre.
        vo_breaks_per_km: Number of times per kilometre that it loses up to a second of frames.
    """

    ins_m: float = pydantic.Field(default=1.0, ge=0)
    ins_heading_deg: float = pydantic.Field(default=0.4, ge=0)
    gps_m: float = pydantic.Field(default=1.2, ge=0)
    gps_jumps_per_km: float = pydantic.Field(default=3.0, ge=0)
    gps_jump_m: float = pydantic.Field(default=12.0, ge=0)
    vo_scale: float = 0.015
    vo_turn_rad_per_km: float = pydantic.Field(default=0.19, ge=0)
    vo_breaks_per_km: float = pydantic.Field(default=0.5, ge=0)


def correlated(at: Array, scale: float, columns: int, rng: np.random.Generator) -> Array:
    """Return noise of a first-order Gauss-Markov process with unit variance.

    Values at a distance d have the correlation exp(-d / scale).

    Args:
        at: (N,) increasing, seconds or metres.
        scale: Correlation time or length, in the unit of ``at``.
        columns: Number of independent processes.
        rng: Draws the noise.

    Returns:
        (N, columns) float64.
    """
    white = rng.normal(0, 1, (len(at), columns))
    kept = np.exp(-np.diff(at) / scale)
    fresh = np.sqrt(1 - kept**2)
    values = white.copy()
    for i in range(1, len(at)):
        values[i] = kept[i - 1] * values[i - 1] + fresh[i - 1] * white[i]
    return values


def write_navigation(
    folder: Path,
    trajectory: Trajectory,
    poses: Array,
    projection: Projection,
    noise: NavigationNoise,
    seed: int,
) -> None:
    """Write gps/ins.csv, gps/gps.csv, gps/rtk.csv, vo/vo.csv and stereo.timestamps.

    Args:
        folder: The run's folder.
        trajectory: Times and segments of ``poses``.
        poses: (N, 4, 4) exact poses of the vehicle frame (z up) in the map frame, metres.
        projection: The map frame.
        noise: The errors.
        seed: Seed of the errors.
    """
    (folder / "gps").mkdir()
    (folder / "vo").mkdir()
    streams = {name: np.random.default_rng([seed, *name.encode()]) for name in ("ins", "gps", "vo")}
    ins = _InsTrack.at(_ticks(trajectory, 20_000), trajectory, poses, projection)
    _write_ins(folder / "gps/ins.csv", ins, noise, streams["ins"])
    rtk = _InsTrack.at(_ticks(trajectory, 100_000), trajectory, poses, projection)
    _table(folder / "gps/rtk.csv", {"timestamp": rtk.t_us, **rtk.columns()})
    gps = _InsTrack.at(_ticks(trajectory, 200_000), trajectory, poses, projection)
    _write_gps(folder / "gps/gps.csv", gps, noise, streams["gps"])
    _write_vo(folder, trajectory, poses, noise, streams["vo"])


def _ticks(trajectory: Trajectory, period_us: int) -> Times:
    """Return (N,) microseconds at a period in each segment, and at the end of each segment."""
    ticks = []
    for s in np.unique(trajectory.segment):
        inside = trajectory.t_ns[trajectory.segment == s]
        first, last = -(-inside[0] // 1000), inside[-1] // 1000
        ticks.append(np.append(np.arange(first, last - period_us // 2, period_us), last))
    return np.concatenate(ticks)


# --- INS, RTK and GPS ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _InsTrack:
    """N poses of the INS's frame (x forward, y right, z down).

    Attributes:
        t_us: (N,) microseconds.
        east_north: (N, 2) metres in the map frame.
        velocity: (N, 2) metres per second to true north and true east.
        rpy: (N, 3) roll, pitch, yaw, radians; yaw clockwise from true north.
        projection: The map frame.
    """

    t_us: Times
    east_north: Array
    velocity: Array
    rpy: Array
    projection: Projection

    @classmethod
    def at(
        cls, t_us: Times, trajectory: Trajectory, poses: Array, projection: Projection
    ) -> _InsTrack:
        """Return the exact track of the INS at the times ``t_us``.

        Args:
            t_us: (N,) microseconds.
            trajectory: Its M times are those of ``poses``.
            poses: (M, 4, 4) vehicle frame -> map frame, metres; they are interpolated.
            projection: The map frame.
        """
        mount = NED_TO_FLU @ se3_from_xyzrpy(EXTRINSICS["ins"])
        t_ns = t_us * 1000
        ins = interpolate_se3(trajectory.t_ns, poses, t_ns) @ mount
        latitude, longitude = projection.inverse(ins[:, :2, 3])
        convergence = projection.convergence(latitude, longitude)
        speed = _velocities(t_ns, ins[:, :2, 3])
        # Grid east, north, up -> true north, east, down.
        c, s = np.cos(convergence), np.sin(convergence)
        zero, one = np.zeros_like(c), np.ones_like(c)
        turn = np.array([[-s, c, zero], [c, s, zero], [zero, zero, -one]]).transpose(2, 0, 1)
        rpy = Rotation.from_matrix(turn @ ins[:, :3, :3]).as_euler("xyz")
        true = np.einsum("nij,nj->ni", turn[:, :2, :2], speed)
        return cls(t_us, ins[:, :2, 3], true, rpy, projection)

    def columns(self) -> dict[str, NDArray[np.generic]]:
        """Return the columns of an ins.csv from latitude to yaw, by name, (N,) each."""
        return {
            **_position_columns(self.east_north, self.projection, _ALTITUDE_M + _GEOID_M),
            "velocity_north": self.velocity[:, 0],
            "velocity_east": self.velocity[:, 1],
            "velocity_down": np.zeros(len(self.t_us)),
            "roll": self.rpy[:, 0],
            "pitch": self.rpy[:, 1],
            "yaw": self.rpy[:, 2] % (2 * np.pi),
        }


def _velocities(t_ns: Times, xy: Array) -> Array:
    """Return (N, 2) velocities, metres per second: the derivative of (N, 2) positions ``xy``.

    No difference is taken across a gap of more than a second.
    """
    seconds = (t_ns - t_ns[0]) / 1e9
    pieces = np.split(np.arange(len(t_ns)), np.flatnonzero(np.diff(seconds) > 1) + 1)
    return np.concatenate([np.gradient(xy[i], seconds[i], axis=0) for i in pieces])


def _position_columns(
    east_north: Array, projection: Projection, altitude_m: float
) -> dict[str, NDArray[np.generic]]:
    """Return the columns from latitude to utm_zone of a navigation file, (N,) each."""
    latitude, longitude = projection.inverse(east_north)
    crs = utm_crs(float(latitude[0]), float(longitude[0]))
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    easting, northing = to_utm.transform(longitude, latitude)
    altitude = np.full(len(latitude), altitude_m)
    band = "CDEFGHJKLMNPQRSTUVWXX"[int((latitude[0] + 80) // 8)]
    return {
        "latitude": latitude,
        "longitude": longitude,
        "altitude": altitude,
        "northing": np.asarray(northing),
        "easting": np.asarray(easting),
        "down": -altitude,
        "utm_zone": np.full(len(latitude), f"{int((longitude[0] + 180) // 6) % 60 + 1}{band}"),
    }


def _write_ins(
    path: Path, ins: _InsTrack, noise: NavigationNoise, rng: np.random.Generator
) -> None:
    """Write an ins.csv with errors in position and attitude."""
    seconds = (ins.t_us - ins.t_us[0]) / 1e6
    wander = noise.ins_m * correlated(seconds, _INS_WANDER_S, 2, rng)
    angles = np.radians(noise.ins_heading_deg) * correlated(seconds, _INS_WANDER_S, 3, rng)
    constant = np.radians(noise.ins_heading_deg) * rng.normal()
    shares = np.array(_INS_ATTITUDE)
    wrong = replace(
        ins,
        east_north=ins.east_north + wander,
        rpy=ins.rpy + angles * shares + np.array([0.0, 0.0, _INS_CONSTANT_YAW * constant]),
    )
    doubtful = np.hypot(*wander.T) > _DOUBTFUL * max(noise.ins_m, 1e-9)
    status = np.where(doubtful, "INS_BAD_GPS_AGREEMENT", "INS_SOLUTION_GOOD")
    _table(path, {"timestamp": ins.t_us, "ins_status": status, **wrong.columns()})


def _write_gps(
    path: Path, gps: _InsTrack, noise: NavigationNoise, rng: np.random.Generator
) -> None:
    """Write a gps.csv with errors that change slowly, and with jumps; it reports its accuracy."""
    seconds = (gps.t_us - gps.t_us[0]) / 1e6
    error = noise.gps_m * correlated(seconds, _GPS_WANDER_S, 2, rng)
    travelled = _travelled(gps.east_north)
    away = np.zeros(len(seconds), bool)
    for _ in range(rng.poisson(noise.gps_jumps_per_km * travelled[-1] / 1000)):
        start = rng.choice(seconds)
        during = (seconds >= start) & (seconds < start + rng.uniform(1, 12))
        error[during] += rng.normal(0, noise.gps_jump_m, 2)
        away |= during
    position = _position_columns(gps.east_north + error, gps.projection, _ALTITUDE_M)
    sigma = np.where(away, rng.uniform(3, 40, len(away)), rng.uniform(1.5, 4.5, len(away)))
    columns = {
        "timestamp": gps.t_us,
        "num_satellites": np.where(away, 4, 7),
        "latitude": position["latitude"],
        "longitude": position["longitude"],
        "altitude": position["altitude"],
        "latitude_sigma": sigma,
        "longitude_sigma": 0.7 * sigma,
        "altitude_sigma": 2 * sigma,
    }
    rest = {name: position[name] for name in ("northing", "easting", "down", "utm_zone")}
    _table(path, {**columns, **rest})


def _travelled(xy: Array) -> Array:
    """Return (N,) metres travelled along (N, 2) positions."""
    return np.insert(np.cumsum(np.hypot(*np.diff(xy, axis=0).T)), 0, 0.0)


# --- Visual odometry ----------------------------------------------------------------------------


def _write_vo(
    folder: Path,
    trajectory: Trajectory,
    poses: Array,
    noise: NavigationNoise,
    rng: np.random.Generator,
) -> None:
    """Write vo/vo.csv, the motion from frame to frame with errors, and stereo.timestamps."""
    t_us = _ticks(trajectory, 62_500)
    listing = "".join(f"{t} 1\n" for t in t_us.tolist())
    (folder / "stereo.timestamps").write_text(listing, encoding="ascii")
    frames = interpolate_se3(trajectory.t_ns, poses, t_us * 1000)
    motion = se3_inverse(frames[:-1]) @ frames[1:]
    metres = np.linalg.norm(motion[:, :3, 3], axis=1)
    joined = np.diff(t_us) < 100_000
    joined &= ~_breaks(metres, joined, noise.vo_breaks_per_km, rng)
    on_road = np.where(joined, metres, 0.0)
    travelled = np.cumsum(on_road)
    drift = noise.vo_turn_rad_per_km / 1000
    if noise.vo_scale:
        wobble = correlated(travelled, _VO_SCALE_M, 1, rng)
        motion[:, :3, 3] *= 1 + noise.vo_scale + 0.3 * noise.vo_scale * wobble
    if drift:
        rate = drift * (rng.choice([-1, 1]) + 0.5 * correlated(travelled, _VO_TURN_M, 1, rng)[:, 0])
        # Independent noise per frame: about 0.03 degrees at walking pace.
        shake = 2 * drift * np.sqrt(on_road) * rng.normal(0, 1, len(on_road))
        turn = Rotation.from_rotvec((rate * on_road + shake)[:, None] * np.array([0.0, 0.0, 1.0]))
        motion = motion @ se3(turn, np.zeros((len(on_road), 3)))
    ned = (NED_TO_FLU @ motion @ NED_TO_FLU)[joined]
    angles = Rotation.from_matrix(ned[:, :3, :3]).as_euler("xyz")
    names = ("x", "y", "z", "roll", "pitch", "yaw")
    values = np.concatenate([ned[:, :3, 3], angles], axis=1)
    rows = dict(zip(names, values.T, strict=True))
    newer, older = t_us[1:][joined], t_us[:-1][joined]
    columns = {"source_timestamp": newer, "destination_timestamp": older, **rows}
    pd.DataFrame(columns).to_csv(folder / "vo/vo.csv", index=False, float_format="%.9e")


def _breaks(
    metres: Array, joined: NDArray[np.bool_], per_km: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Return (N,) which rows are lost: up to a second at a time, never at the ends of a segment.

    Args:
        metres: (N,) length of each row's motion.
        joined: (N,) False where the motion is across two segments.
        per_km: Expected number of losses per kilometre.
        rng: Draws them.
    """
    lost = np.zeros(len(metres), bool)
    for _ in range(rng.poisson(per_km * metres[joined].sum() / 1000)):
        start = int(rng.integers(len(metres)))
        stop = start + int(rng.integers(1, 16))
        if start > 0 and joined[start - 1 : stop + 1].all() and stop < len(metres):
            lost[start:stop] = True
    return lost


def _table(path: Path, columns: dict[str, NDArray[np.generic]]) -> None:
    """Write a CSV file: 9 decimals of degrees, 6 of other floats."""
    table = pd.DataFrame(columns)
    for name in table.columns:
        if table[name].dtype.kind == "f":
            digits = 9 if name in ("latitude", "longitude") else 6
            table[name] = table[name].map(f"{{:.{digits}f}}".format)
    table.to_csv(path, index=False)
