"""Simulated drives: a vehicle with LiDARs in a world like the map, in Oxford RobotCar's files.

A world is built around the trajectory and scanned by casting rays. INS, GPS and visual odometry
record the same trajectory with errors; only ``gps/rtk.csv`` is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pydantic
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.city.raster import ATTRIBUTION
from data_prep.cluster import Workers, connected
from data_prep.drive import Times
from data_prep.files import swapped_folder, write_json, write_text
from data_prep.geometry import Array, se3_from_xyzrpy
from data_prep.locks import locked
from data_prep.progress import Progress, silent
from data_prep.settings import NotNegative, Settings
from data_prep.simulate.lidar import Lidar, LidarNoise, brightness, lidars_of, measure
from data_prep.simulate.navigation import NavigationNoise, correlated, write_navigation
from data_prep.simulate.scene.rays import Scene
from data_prep.simulate.scene.surfaces import SURFACE_LABELS
from data_prep.simulate.scene.terrain import Terrain
from data_prep.simulate.scene.world import build_world
from data_prep.simulate.scene.world_settings import WorldSettings
from data_prep.simulate.sensors import CAMERA_HEIGHT_M
from data_prep.simulate.sweeps import Sweeps, cast
from data_prep.simulate.trajectory import Trajectory
from data_prep.sources.formats.robotcar_tables import EXTRINSICS
from data_prep.standing import MADE_FROM, Keep, Origin, Product, check_standing, known_as

_RAYS_AT_ONCE = 300_000
"""Rays are cast in batches of about this number."""

_MOVING_M_S = 0.3
"""A slower vehicle counts as standing, metres per second."""

_HALF_WHEELBASE_M = 1.35
"""Half of the distance between the vehicle's axles, metres."""

_HALF_TRACK_M = 0.75
"""Half of the distance between its left and right wheels, metres."""

_SWAY_S = 0.7
"""Time constant of the vehicle's sway, seconds."""


class SimulateSettings(Settings):
    """How a drive is simulated.

    Attributes:
        seed: Seed of all random draws.
        world: How far the world differs from the map.
        lidar: Errors of the scans.
        navigation: Errors of INS, GPS and visual odometry.
        sway_deg: Standard deviation of the vehicle's roll and pitch relative to the road, degrees.
        keep_standing: Whether scans are also taken while the vehicle stands still.
        every_m: Metres of travel between two scans of a spinning LiDAR; 0: every scan is kept.
        labels: Which LiDARs also record a label file per scan, with the class of each point:
            ``spinning`` (those on the roof), ``all`` (for an LMS, a hundred thousand files per
            run) or ``none``.
    """

    seed: int = 0
    world: WorldSettings = WorldSettings()
    lidar: LidarNoise = LidarNoise()
    navigation: NavigationNoise = NavigationNoise()
    sway_deg: float = pydantic.Field(default=0.4, ge=0)
    keep_standing: bool = False
    every_m: NotNegative = 0.0
    labels: Literal["spinning", "all", "none"] = "spinning"


def simulate(
    city: City,
    trajectory: Trajectory,
    folder: Path,
    sensor: str,
    settings: SimulateSettings,
    progress: Progress = silent,
    force: bool = False,
    cluster: str | None = None,
) -> None:
    """Drive along a trajectory and write the recordings as a run of Oxford RobotCar.

    Scans are taken only while the vehicle moves; odometry, INS and GPS also record while it stands.

    Args:
        city: The map that the world is made from.
        trajectory: The exact path, in the map frame of ``city``.
        folder: The run's folder. It appears whole or not at all, and replaces an older simulated
            drive of the same city and recording.
        sensor: One of ``sensors.SENSORS``.
        settings: How the drive is simulated.
        progress: Called with the step ``simulate``, the scans written and all scans.
        force: Replace whatever stands at ``folder``.
        cluster: Whose workers cast the rays, as of ``cluster.connected``; None: this process. The
            files do not depend on it.

    Raises:
        MaptileError: The sensor is unknown; ``folder`` holds something else, or is written by
            another run; it cannot be written; or there is no such cluster.
    """
    with locked(folder):
        keep = check_standing(folder, Product("world.json", _origin(city, trajectory)), force)
        with connected(cluster) as workers:
            _simulate(city, trajectory, folder, sensor, settings, progress, keep, workers)


def _simulate(
    city: City,
    trajectory: Trajectory,
    folder: Path,
    sensor: str,
    settings: SimulateSettings,
    progress: Progress,
    keep: Keep,
    workers: Workers,
) -> None:
    lidars = lidars_of(sensor)
    segments = [
        trajectory.poses[trajectory.segment == s, :2] for s in np.unique(trajectory.segment)
    ]
    world = build_world(city, segments, settings.world, settings.seed)
    poses = vehicle_poses(trajectory, world.terrain, settings)
    times = {lidar.name: _scan_times(lidar, trajectory, settings) for lidar in lidars}
    total, done = sum(map(len, times.values())), 0
    about = trajectory, poses, world.scene
    with swapped_folder(folder, keep) as new:
        progress("simulate", 0, total)
        for lidar in lidars:
            t_us = times[lidar.name]
            for scans in _record(lidar, t_us, *about, new, settings, workers):
                done += scans
                progress("simulate", done, total)
        write_navigation(
            new, trajectory, poses, city.raster.projection, settings.navigation, settings.seed
        )
        _write_extrinsics(new / "extrinsics", lidars)
        scans_of = {name: len(t_us) for name, t_us in times.items()}
        made = _about(city, trajectory, sensor, scans_of, world.counts, settings)
        write_json(new / "world.json", made)
        write_text(new / "README.txt", _README.format(city=city.name, attribution=ATTRIBUTION))


def _about(
    city: City,
    trajectory: Trajectory,
    sensor: str,
    scans: dict[str, int],
    counts: dict[str, int],
    settings: SimulateSettings,
) -> dict[str, Any]:
    """Return the content of a drive's world.json: how it was made.

    Args:
        city: The map.
        trajectory: The exact path.
        sensor: One of ``sensors.SENSORS``.
        scans: Number of scans by LiDAR.
        counts: Number of objects by kind, as in ``World.counts``.
        settings: How the drive was simulated.
    """
    return {
        "simulated": True,
        "attribution": ATTRIBUTION,
        "city": city.name,
        "city_content_hash": city.content_hash,
        "trajectory": trajectory.source,
        MADE_FROM: _origin(city, trajectory),
        "length_m": round(trajectory.length_m(), 1),
        "stretches": len(np.unique(trajectory.segment)),
        "nudged_m": round(trajectory.nudged_m, 2),
        "sensor": sensor,
        "scans": scans,
        "things": counts,
        "settings": settings.model_dump(mode="json"),
        "made_by": f"maptile-loc {version('maptile-loc')}",
    }


def _origin(city: City, trajectory: Trajectory) -> Origin:
    """What a drive is made from: the city and, unless it is a route, the recording followed."""
    recorded = {} if trajectory.is_route else {"trajectory": [trajectory.source]}
    return {"city": known_as(city.path, city.content_hash), **recorded}


_README = """\
A simulated drive, made by maptile-loc in the file format of the Oxford RobotCar data set. Nothing
in it was measured. The world is made from the map of {city}: {attribution}.
gps/rtk.csv is the exact path; gps/ins.csv, gps/gps.csv and vo/vo.csv have errors like real ones.
A folder <sensor>_labels has a file per scan: what each point hit, little-endian uint32, with the
numbers of SemanticKITTI (building 50, road 40, terrain 72, vegetation 70, trunk 71, fence 51,
pole 80, car 10, person 30, anything else 99).
world.json states how the drive was made.
"""
"""Text of the drive's README.txt."""


def vehicle_poses(trajectory: Trajectory, terrain: Terrain, settings: SimulateSettings) -> Array:
    """Return the exact poses of a vehicle that stands on the road and sways.

    Args:
        trajectory: N positions and headings.
        terrain: The ground and the roads.
        settings: ``seed`` and ``sway_deg`` are used.

    Returns:
        (N, 4, 4) poses of the vehicle frame (x forward, y left, z up) in the map frame with the
        height above the mean ground as z, metres.
    """
    rng = np.random.default_rng([settings.seed, *b"sway"])
    seconds = (trajectory.t_ns - trajectory.t_ns[0]) / 1e9
    sway = np.radians(settings.sway_deg) * correlated(seconds, _SWAY_S, 2, rng)
    xy, heading = trajectory.poses[:, :2], trajectory.poses[:, 2]
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1) * _HALF_WHEELBASE_M
    left = ahead[:, ::-1] * (-1, 1) * (_HALF_TRACK_M / _HALF_WHEELBASE_M)
    front, rear, right_, left_ = (
        terrain.road_height(xy + aside) for aside in (ahead, -ahead, -left, left)
    )
    values = np.zeros((len(seconds), 6))
    values[:, :2] = xy
    values[:, 2] = (front + rear + right_ + left_) / 4 + CAMERA_HEIGHT_M
    values[:, 3] = np.arctan((left_ - right_) / (2 * _HALF_TRACK_M)) + sway[:, 0]
    values[:, 4] = np.arctan((rear - front) / (2 * _HALF_WHEELBASE_M)) + sway[:, 1]
    values[:, 5] = heading
    return se3_from_xyzrpy(values)


# --- Scans --------------------------------------------------------------------------------------


def _record(
    lidar: Lidar,
    t_us: Times,
    trajectory: Trajectory,
    poses: Array,
    scene: Scene,
    folder: Path,
    settings: SimulateSettings,
    workers: Workers,
) -> Iterator[int]:
    """Write the scans of one LiDAR, and yield the number of scans of each batch written.

    Args:
        lidar: The LiDAR.
        t_us: (S,) microseconds, the middles of the sweeps.
        trajectory: The times of ``poses``.
        poses: (N, 4, 4) exact poses of the vehicle frame.
        scene: The surfaces to scan.
        folder: The run's folder.
        settings: ``seed``, ``lidar`` and ``labels`` are used.
        workers: They cast the rays.
    """
    rng = np.random.default_rng([settings.seed, *lidar.name.encode()])
    beam: NDArray[np.floating] = lidar.directions
    if not lidar.planar:
        beam = beam.astype(np.float32)
    (folder / lidar.name).mkdir()
    labelled = settings.labels == "all" or (settings.labels == "spinning" and not lidar.planar)
    if labelled:
        (folder / f"{lidar.name}_labels").mkdir()
    batch = max(1, _RAYS_AT_ONCE // len(lidar.directions))
    batches = [t_us[start : start + batch] for start in range(0, len(t_us), batch)]
    reach = lidar.half_sweep_us if settings.lidar.sweep else 0
    sweeps = Sweeps(lidar, reach, trajectory.t_ns, poses, scene, workers.threads)
    for times, hits in zip(batches, workers.each(cast, sweeps, batches), strict=True):
        ranges, visible = measure(hits, lidar, settings.lidar, rng)
        met = np.flatnonzero(visible)
        values = np.empty((len(met), 4), beam.dtype)
        values[:, :3] = beam[met % len(beam)] * ranges[met, None]
        values[:, :3] += lidar.starts[met % len(beam)]
        values[:, 3] = 255 * hits.reflectance[met] * brightness(hits.cosine[met])
        counts = visible.reshape(len(times), -1).sum(axis=1)
        _write_scans(folder / lidar.name, lidar, times, values, counts)
        if labelled:
            label = SURFACE_LABELS[hits.kind[met]]
            _write_labels(folder / f"{lidar.name}_labels", times, label, counts)
        yield len(times)
    listing = "".join(f"{t} 1\n" for t in t_us.tolist())
    (folder / f"{lidar.name}.timestamps").write_text(listing, encoding="ascii")


def _scan_times(lidar: Lidar, trajectory: Trajectory, settings: SimulateSettings) -> Times:
    """Return (S,) microseconds, the middles of the sweeps of a LiDAR."""
    times = []
    for s in np.unique(trajectory.segment):
        inside = trajectory.t_ns[trajectory.segment == s]
        first = inside[0] // 1000 + lidar.phase_us + lidar.half_sweep_us + 1
        times.append(np.arange(first, inside[-1] // 1000 - lidar.half_sweep_us, lidar.period_us))
    t_us = np.concatenate(times)
    seconds = (trajectory.t_ns - trajectory.t_ns[0]) / 1e9
    at = (t_us * 1000 - trajectory.t_ns[0]) / 1e9
    if settings.every_m and not lidar.planar:
        travelled = np.interp(at, seconds, trajectory.travelled())
        _, first = np.unique(np.floor(travelled / settings.every_m), return_index=True)
        t_us, at = t_us[first], at[first]
    if settings.keep_standing:
        return t_us
    return t_us[np.interp(at, seconds, trajectory.speed()) > _MOVING_M_S]


def _write_scans(
    folder: Path, lidar: Lidar, t_us: Times, values: NDArray[np.floating], counts: NDArray[np.int64]
) -> None:
    """Write a file per scan.

    Args:
        folder: The LiDAR's folder.
        lidar: Decides the format.
        t_us: (S,) microseconds, the names of the files.
        values: (N, 4) x, y, z (metres, sensor frame) and reflectance (0 to 255) of all points.
        counts: (S,) number of points per scan.
    """
    columns = values[:, [0, 1, 3]].astype("<f8") if lidar.planar else values.astype("<f4")
    for t, rows in zip(t_us.tolist(), np.split(columns, np.cumsum(counts[:-1])), strict=True):
        # LMS: (x, y, reflectance) triples; Velodyne: all x, then all y, all z, all intensities.
        content = rows.tobytes() if lidar.planar else rows.T.tobytes()
        with (folder / f"{t}.bin").open("wb") as file:
            file.write(content)


def _write_labels(
    folder: Path, t_us: Times, label: NDArray[np.uint32], counts: NDArray[np.int64]
) -> None:
    """Write a label file per scan: (N,) labels of all points, (S,) ``counts`` per scan."""
    for t, part in zip(t_us.tolist(), np.split(label, np.cumsum(counts[:-1])), strict=True):
        with (folder / f"{t}.label").open("wb") as file:
            file.write(part.tobytes())


def _write_extrinsics(folder: Path, lidars: tuple[Lidar, ...]) -> None:
    """Write a file per sensor: x y z (metres) roll pitch yaw (radians), vehicle frame, z down."""
    folder.mkdir()
    mounts = EXTRINSICS | {lidar.name: lidar.mount for lidar in lidars}
    for name, values in {"stereo": (0.0,) * 6, **mounts}.items():
        (folder / f"{name}.txt").write_text(" ".join(f"{value:g}" for value in values) + "\n")
