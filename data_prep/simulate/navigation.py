"""What a simulated vehicle's INS, GPS and visual odometry record, in Oxford RobotCar's files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

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
from data_prep.sources.formats.robotcar_tables import EXTRINSICS

if TYPE_CHECKING:
    from data_prep.simulate.trajectory import Trajectory

_GROUND_ALTITUDE_M = 60.0
_ELLIPSOID_ABOVE_SEA_M = 46.5


class NavigationNoise(Settings):
    """The errors of INS, GPS and visual odometry; zeros make them exact.

    Attributes:
        ins_m: Standard deviation of the INS's position, east and north alike; it wanders.
        ins_heading_deg: Standard deviation of the INS's heading; part of it stays.
        gps_m: Standard deviation of the GPS's position, besides its jumps.
        gps_jumps_per_km: How often the GPS jumps away for a few seconds.
        gps_jump_m: Standard deviation of where it jumps to.
        vo_scale: By how much visual odometry exaggerates the way (0.015: 1.5 %).
        vo_turn_rad_per_km: How far its heading drifts.
        vo_breaks_per_km: How often it loses frames, up to a second of them.
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
    """(N, columns) noise of unit variance at (N,) increasing ``at``, forgotten over ``scale``.

    A first-order Gauss-Markov process; ``at`` may be seconds or metres.
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
        trajectory: The times and stretches of ``poses``.
        poses: (N, 4, 4) exact poses of the vehicle frame, z up.
        projection: The map frame.
        noise: The errors.
        seed: Of the errors.
    """
    (folder / "gps").mkdir()
    (folder / "vo").mkdir()
    streams = {what: np.random.default_rng([seed, *what.encode()]) for what in ("ins", "gps", "vo")}
    ins = _Ins.at(_ticks(trajectory, 20_000), trajectory, poses, projection)
    _write_ins(folder / "gps/ins.csv", ins, noise, streams["ins"])
    rtk = _Ins.at(_ticks(trajectory, 100_000), trajectory, poses, projection)
    _table(folder / "gps/rtk.csv", {"timestamp": rtk.t_us, **rtk.columns()})
    gps = _Ins.at(_ticks(trajectory, 200_000), trajectory, poses, projection)
    _write_gps(folder / "gps/gps.csv", gps, noise, streams["gps"])
    _write_vo(folder, trajectory, poses, noise, streams["vo"])


def _ticks(trajectory: Trajectory, period_us: int) -> Times:
    """(N,) microseconds: evenly in each stretch; the last step is made to reach its end."""
    ticks = []
    for s in np.unique(trajectory.segment):
        inside = trajectory.t_ns[trajectory.segment == s]
        first, last = -(-inside[0] // 1000), inside[-1] // 1000
        ticks.append(np.append(np.arange(first, last - period_us // 2, period_us), last))
    return np.concatenate(ticks)


# --- INS, RTK and GPS ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ins:
    """The INS's frame (x forward, y right, z down) in the world.

    Attributes:
        t_us: (N,) microseconds.
        east_north: (N, 2) metres in the map frame.
        velocity: (N, 2) metres per second to true north and east.
        rpy: (N, 3) roll, pitch, yaw in radians; yaw clockwise from true north.
        projection: The map frame.
    """

    t_us: Times
    east_north: Array
    velocity: Array
    rpy: Array
    projection: Projection

    @classmethod
    def at(cls, t_us: Times, trajectory: Trajectory, poses: Array, projection: Projection) -> _Ins:
        """Exact, at (N,) microseconds."""
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
        """Columns from latitude to yaw."""
        place = _place(self.east_north, self.projection, _ELLIPSOID_ABOVE_SEA_M)
        return {
            **place,
            "velocity_north": self.velocity[:, 0],
            "velocity_east": self.velocity[:, 1],
            "velocity_down": np.zeros(len(self.t_us)),
            "roll": self.rpy[:, 0],
            "pitch": self.rpy[:, 1],
            "yaw": self.rpy[:, 2] % (2 * np.pi),
        }


def _velocities(t_ns: Times, xy: Array) -> Array:
    """(N, 2) metres per second; a step of over a second is a gap, and is not looked across."""
    seconds = (t_ns - t_ns[0]) / 1e9
    pieces = np.split(np.arange(len(t_ns)), np.flatnonzero(np.diff(seconds) > 1) + 1)
    return np.concatenate([np.gradient(xy[i], seconds[i], axis=0) for i in pieces])


def _place(
    east_north: Array, projection: Projection, above_sea: float
) -> dict[str, NDArray[np.generic]]:
    latitude, longitude = projection.inverse(east_north)
    crs = utm_crs(float(latitude[0]), float(longitude[0]))
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    easting, northing = to_utm.transform(longitude, latitude)
    altitude = np.full(len(latitude), _GROUND_ALTITUDE_M + above_sea)
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


def _write_ins(path: Path, ins: _Ins, noise: NavigationNoise, rng: np.random.Generator) -> None:
    seconds = (ins.t_us - ins.t_us[0]) / 1e6
    wander = noise.ins_m * correlated(seconds, 60.0, 2, rng)
    angles = np.radians(noise.ins_heading_deg) * correlated(seconds, 60.0, 3, rng)
    stays = np.radians(noise.ins_heading_deg) * rng.normal()
    shares = np.array([0.3, 0.3, 0.6])
    wrong = replace(
        ins,
        east_north=ins.east_north + wander,
        rpy=ins.rpy + angles * shares + np.array([0.0, 0.0, 0.8 * stays]),
    )
    # About one in twenty.
    doubtful = np.hypot(*wander.T) > 2.45 * max(noise.ins_m, 1e-9)
    status = np.where(doubtful, "INS_BAD_GPS_AGREEMENT", "INS_SOLUTION_GOOD")
    _table(path, {"timestamp": ins.t_us, "ins_status": status, **wrong.columns()})


def _write_gps(path: Path, gps: _Ins, noise: NavigationNoise, rng: np.random.Generator) -> None:
    seconds = (gps.t_us - gps.t_us[0]) / 1e6
    error = noise.gps_m * correlated(seconds, 40.0, 2, rng)
    travelled = _travelled(gps.east_north)
    away = np.zeros(len(seconds), bool)
    for _ in range(rng.poisson(noise.gps_jumps_per_km * travelled[-1] / 1000)):
        start = rng.choice(seconds)
        during = (seconds >= start) & (seconds < start + rng.uniform(1, 12))
        error[during] += rng.normal(0, noise.gps_jump_m, 2)
        away |= during
    place = _place(gps.east_north + error, gps.projection, 0.0)
    sigma = np.where(away, rng.uniform(3, 40, len(away)), rng.uniform(1.5, 4.5, len(away)))
    columns = {
        "timestamp": gps.t_us,
        "num_satellites": np.where(away, 4, 7),
        "latitude": place["latitude"],
        "longitude": place["longitude"],
        "altitude": place["altitude"],
        "latitude_sigma": sigma,
        "longitude_sigma": 0.7 * sigma,
        "altitude_sigma": 2 * sigma,
    }
    rest = {name: place[name] for name in ("northing", "easting", "down", "utm_zone")}
    _table(path, {**columns, **rest})


def _travelled(xy: Array) -> Array:
    return np.insert(np.cumsum(np.hypot(*np.diff(xy, axis=0).T)), 0, 0.0)


# --- Visual odometry ----------------------------------------------------------------------------


def _write_vo(
    folder: Path,
    trajectory: Trajectory,
    poses: Array,
    noise: NavigationNoise,
    rng: np.random.Generator,
) -> None:
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
        wobble = correlated(travelled, 100.0, 1, rng)
        motion[:, :3, 3] *= 1 + noise.vo_scale + 0.3 * noise.vo_scale * wobble
    if drift:
        rate = drift * (rng.choice([-1, 1]) + 0.5 * correlated(travelled, 300.0, 1, rng)[:, 0])
        # Per frame besides: some 0.03 degrees at walking pace.
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
    """(N,) rows lost: up to a second at a time, never at the ends of a stretch."""
    lost = np.zeros(len(metres), bool)
    for _ in range(rng.poisson(per_km * metres[joined].sum() / 1000)):
        start = int(rng.integers(len(metres)))
        stop = start + int(rng.integers(1, 16))
        if start > 0 and joined[start - 1 : stop + 1].all() and stop < len(metres):
            lost[start:stop] = True
    return lost


def _table(path: Path, columns: dict[str, NDArray[np.generic]]) -> None:
    table = pd.DataFrame(columns)
    for name in table.columns:
        if table[name].dtype.kind == "f":
            digits = 9 if name in ("latitude", "longitude") else 6
            table[name] = table[name].map(f"{{:.{digits}f}}".format)
    table.to_csv(path, index=False)
