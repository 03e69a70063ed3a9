"""Simulated drives: a vehicle with LiDARs in a world like the map, in Oxford RobotCar's files.

The way: trajectory -> world around it -> rays -> scans; and the same trajectory with the errors of
an INS, a GPS and visual odometry. ``gps/rtk.csv`` alone is exact.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import pydantic
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.city.folder import City
from data_prep.city.raster import ATTRIBUTION
from data_prep.drive import Times
from data_prep.errors import MaptileError
from data_prep.files import swapped_folder, write_json, write_text
from data_prep.geometry import NED_TO_FLU, Array, interpolate_se3, se3_from_xyzrpy
from data_prep.settings import Settings
from data_prep.simulate.lidar import SENSORS, Lidar, LidarNoise, brightness, seen
from data_prep.simulate.navigation import NavigationNoise, correlated, write_navigation
from data_prep.simulate.scene.kinds import LABEL, WorldSettings
from data_prep.simulate.scene.terrain import Terrain
from data_prep.simulate.scene.world import World, build_world
from data_prep.simulate.trajectory import (
    Trajectory,
    trajectory_from_gps,
    trajectory_from_ins,
    trajectory_from_route,
)
from data_prep.sources.robotcar import EXTRINSICS

__all__ = [
    "SENSORS",
    "SimulateSettings",
    "Trajectory",
    "simulate",
    "trajectory_from_gps",
    "trajectory_from_ins",
    "trajectory_from_route",
]

CAMERA_HEIGHT_M = 1.6
"""Of the vehicle frame's origin, the stereo camera, above the ground."""

_RAYS_AT_ONCE = 300_000
_MOVING_M_S = 0.3


class SimulateSettings(Settings):
    """How a drive is simulated.

    Attributes:
        seed: All randomness comes from it.
        world: How far the world is from the map.
        lidar: What keeps the scans from being exact.
        navigation: What keeps INS, GPS and visual odometry from being exact.
        sway_deg: Standard deviation of the vehicle's roll and pitch, degrees.
        keep_standing: Whether scans are also taken while the vehicle stands still.
        labels: Which sensors' scans get a file beside them that says what each point hit:
            ``spinning`` LiDARs on the roof, ``all`` (a run of LMS has a hundred thousand scans), or
            ``none``.
    """

    seed: int = 0
    world: WorldSettings = WorldSettings()
    lidar: LidarNoise = LidarNoise()
    navigation: NavigationNoise = NavigationNoise()
    sway_deg: float = pydantic.Field(default=0.4, ge=0)
    keep_standing: bool = False
    labels: Literal["spinning", "all", "none"] = "spinning"


def simulate(
    city: City, trajectory: Trajectory, folder: Path, sensor: str, settings: SimulateSettings
) -> None:
    """Drive along ``trajectory`` and write what was recorded as a run of Oxford RobotCar.

    Scans are taken only while the vehicle moves; odometry, INS and GPS go on while it stands.

    Args:
        city: The map; the world is made from it.
        trajectory: The exact path.
        folder: The run's folder; appears whole or not at all, and replaces an older simulated one.
        sensor: One of ``SENSORS``.
        settings: How.

    Raises:
        MaptileError: The sensor is unknown; ``folder`` is there and no simulated drive; it cannot
            be written.
    """
    if sensor not in SENSORS:
        raise MaptileError(f"no sensor {sensor}; there are {', '.join(SENSORS)}")
    if folder.exists() and not (folder / "world.json").is_file() and any(folder.iterdir()):
        raise MaptileError(f"{folder}: exists and is no simulated drive; choose another name")
    stretches = [
        trajectory.poses[trajectory.segment == s, :2] for s in np.unique(trajectory.segment)
    ]
    world = build_world(city, stretches, settings.world, settings.seed)
    poses = vehicle_poses(trajectory, world.terrain, settings)
    with swapped_folder(folder) as new:
        scans = {
            lidar.name: _record(lidar, trajectory, poses, world, new, settings)
            for lidar in SENSORS[sensor]
        }
        write_navigation(
            new, trajectory, poses, city.raster.projection, settings.navigation, settings.seed
        )
        _write_extrinsics(new / "extrinsics", SENSORS[sensor])
        write_json(
            new / "world.json",
            {
                "simulated": True,
                "attribution": ATTRIBUTION,
                "city": city.name,
                "city_content_hash": city.content_hash,
                "trajectory": trajectory.source,
                "length_m": round(trajectory.length_m(), 1),
                "stretches": len(stretches),
                "nudged_m": round(trajectory.nudged_m, 2),
                "sensor": sensor,
                "scans": scans,
                "things": world.counts,
                "settings": settings.model_dump(mode="json"),
                "made_by": f"maptile-loc {version('maptile-loc')}",
            },
        )
        write_text(new / "README.txt", _README.format(city=city.name, attribution=ATTRIBUTION))


_README = """\
A simulated drive, made by maptile-loc in the file format of the Oxford RobotCar data set. Nothing
in it was measured. The world is made from the map of {city}: {attribution}.
gps/rtk.csv is the exact path; gps/ins.csv, gps/gps.csv and vo/vo.csv have errors like real ones.
A folder <sensor>_labels has a file per scan: what each point hit, little-endian uint32, with the
numbers of SemanticKITTI (building 50, road 40, terrain 72, vegetation 70, trunk 71, fence 51,
pole 80, car 10, person 30, anything else 99).
world.json tells how the drive was made.
"""


def vehicle_poses(trajectory: Trajectory, terrain: Terrain, settings: SimulateSettings) -> Array:
    """(N, 4, 4) exact poses of the vehicle frame (x forward, y left, z up) on the road."""
    rng = np.random.default_rng([settings.seed, *b"sway"])
    seconds = (trajectory.t_ns - trajectory.t_ns[0]) / 1e9
    sway = np.radians(settings.sway_deg) * correlated(seconds, 0.7, 2, rng)
    xy, heading = trajectory.poses[:, :2], trajectory.poses[:, 2]
    uphill = terrain.gradient(xy)
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    left = ahead[:, ::-1] * (-1, 1)
    values = np.zeros((len(seconds), 6))
    values[:, :2] = xy
    values[:, 2] = terrain.height(xy) - terrain.kerb_m + CAMERA_HEIGHT_M
    values[:, 3] = np.arctan(np.sum(uphill * left, axis=1)) + sway[:, 0]
    values[:, 4] = -np.arctan(np.sum(uphill * ahead, axis=1)) + sway[:, 1]
    values[:, 5] = heading
    return se3_from_xyzrpy(values)


# --- Scans --------------------------------------------------------------------------------------


def _record(
    lidar: Lidar,
    trajectory: Trajectory,
    poses: Array,
    world: World,
    folder: Path,
    settings: SimulateSettings,
) -> int:
    """Write the scans of one LiDAR; returns how many."""
    rng = np.random.default_rng([settings.seed, *lidar.name.encode()])
    t_us = _scan_times(lidar, trajectory, settings.keep_standing)
    mount = NED_TO_FLU @ se3_from_xyzrpy(lidar.mount)
    beam: NDArray[np.floating] = lidar.directions
    if not lidar.planar:
        beam = beam.astype(np.float32)
    (folder / lidar.name).mkdir()
    labelled = settings.labels == "all" or (settings.labels == "spinning" and not lidar.planar)
    if labelled:
        (folder / f"{lidar.name}_labels").mkdir()
    batch = max(1, _RAYS_AT_ONCE // len(lidar.directions))
    with tqdm(total=len(t_us), desc=lidar.name, unit="scan", file=sys.stderr, disable=None) as bar:
        for start in range(0, len(t_us), batch):
            times = t_us[start : start + batch]
            reach = lidar.half_sweep_us if settings.lidar.sweep else 0
            ends = [
                interpolate_se3(trajectory.t_ns, poses, (times + d) * 1000) @ mount
                for d in (-reach, reach)
            ]
            origins, directions = _rays(lidar, ends[0], ends[1])
            hits = world.cast(origins, directions)
            ranges, visible = seen(hits, lidar, settings.lidar, rng)
            met = np.flatnonzero(visible)
            values = np.empty((len(met), 4), beam.dtype)
            values[:, :3] = beam[met % len(beam)] * ranges[met, None]
            values[:, 3] = 255 * hits.reflectance[met] * brightness(hits.cosine[met])
            counts = visible.reshape(len(times), -1).sum(axis=1)
            _write_scans(folder / lidar.name, lidar, times, values, counts)
            if labelled:
                label = LABEL[hits.kind[met]]
                _write_labels(folder / f"{lidar.name}_labels", times, label, counts)
            bar.update(len(times))
    listing = "".join(f"{t} 1\n" for t in t_us.tolist())
    (folder / f"{lidar.name}.timestamps").write_text(listing, encoding="ascii")
    return len(t_us)


def _scan_times(lidar: Lidar, trajectory: Trajectory, keep_standing: bool) -> Times:
    """(S,) microseconds of the scans, the middles of their sweeps."""
    times = []
    for s in np.unique(trajectory.segment):
        inside = trajectory.t_ns[trajectory.segment == s]
        first = inside[0] // 1000 + lidar.phase_us + lidar.half_sweep_us + 1
        times.append(np.arange(first, inside[-1] // 1000 - lidar.half_sweep_us, lidar.period_us))
    t_us = np.concatenate(times)
    if keep_standing:
        return t_us
    seconds = (trajectory.t_ns - trajectory.t_ns[0]) / 1e9
    speed = np.interp((t_us * 1000 - trajectory.t_ns[0]) / 1e9, seconds, trajectory.speed())
    return t_us[speed > _MOVING_M_S]


def _rays(
    lidar: Lidar, begin: Array, end: Array
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """(S * B, 3) origins and unit directions of S sweeps, between their first and last poses."""
    share = ((lidar.when + 1) / 2)[None, :, None]
    origins = begin[:, None, :3, 3] + share * (end - begin)[:, None, :3, 3]
    directions = _turned(lidar, begin)
    directions += share.astype(np.float32) * (_turned(lidar, end) - directions)
    directions /= np.sqrt(np.einsum("sbi,sbi->sb", directions, directions))[..., None]
    return origins.reshape(-1, 3), directions.reshape(-1, 3)


def _turned(lidar: Lidar, poses: Array) -> NDArray[np.float32]:
    """(S, B, 3) the beams in the map frame; by hand, as BLAS is slow at so small a matrix."""
    x, y, z = (np.ascontiguousarray(axis, np.float32) for axis in lidar.directions.T)
    result = np.empty((len(poses), len(x), 3), np.float32)
    for turned, pose in zip(result, poses.astype(np.float32), strict=True):
        for i in range(3):
            turned[:, i] = x * pose[i, 0] + y * pose[i, 1] + z * pose[i, 2]
    return result


def _write_scans(
    folder: Path, lidar: Lidar, t_us: Times, values: NDArray[np.floating], counts: NDArray[np.int64]
) -> None:
    """Values are (N, 4): x, y, z, reflectance of all scans, ``counts`` of them to each."""
    columns = values[:, [0, 1, 3]].astype("<f8") if lidar.planar else values.astype("<f4")
    for t, rows in zip(t_us.tolist(), np.split(columns, np.cumsum(counts[:-1])), strict=True):
        # LMS: (x, y, reflectance) triples; Velodyne: all x, then all y, all z, all intensities.
        content = rows.tobytes() if lidar.planar else rows.T.tobytes()
        with (folder / f"{t}.bin").open("wb") as file:
            file.write(content)


def _write_labels(
    folder: Path, t_us: Times, label: NDArray[np.uint32], counts: NDArray[np.int64]
) -> None:
    """(N,) labels of the points of all scans, ``counts`` of them to each."""
    for t, part in zip(t_us.tolist(), np.split(label, np.cumsum(counts[:-1])), strict=True):
        with (folder / f"{t}.label").open("wb") as file:
            file.write(part.tobytes())


def _write_extrinsics(folder: Path, lidars: tuple[Lidar, ...]) -> None:
    folder.mkdir()
    mounts = EXTRINSICS | {lidar.name: lidar.mount for lidar in lidars}
    for name, values in {"stereo": (0.0,) * 6, **mounts}.items():
        (folder / f"{name}.txt").write_text(" ".join(f"{value:g}" for value in values) + "\n")
