"""Localize simulated structure from motion, by the density of its points; prints a table.

Run: python benchmarks/photos.py [DATA] [--work FOLDER] [--metres M]

A camera looks ahead along a route through the world of Oxford's map, with one photograph per metre.
Some of the points that its rays meet become points of a COLMAP model, in a frame of its own: with
the probability that a matcher finds them again (high for textured walls, low for asphalt), and with
the error of a triangulation from the last photographs; some are wrong. Occlusion in the earlier
photographs is not tested. The cameras' own poses, and so the odometry, are exact. The heading is
unknown; submaps are 50 m long.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from inputs import city
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.drive import Times
from data_prep.files import swapped_folder
from data_prep.geometry import Array, interpolate_se3
from data_prep.simulate.record import SimulateSettings, vehicle_poses
from data_prep.simulate.scene.surfaces import Surface
from data_prep.simulate.scene.world import World, build_world
from data_prep.simulate.trajectory import open_trajectory
from maptile_loc import api
from maptile_loc.config import load_settings

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

RAYS = (10, 30, 100, 300, 1000)
"""Rays of each photograph, which may become points."""

FOUND_AGAIN = {
    **dict.fromkeys(("building", "fence", "trunk"), 0.8),
    **dict.fromkeys(("leaf", "pole", "person"), 0.5),
    "car": 0.7,
    "ground": 0.4,
    "inside": 0.2,
    "road": 0.15,
    "glass": 0.1,
}
"""Probability that a ray becomes a point, by the kind of object that it meets."""

WIDE = 1.0
"""Half the width of a photograph, in focal lengths."""

HIGH = 0.6
"""Half the height of a photograph, in focal lengths."""

FAR_M = 60.0
"""Largest distance of a point, metres."""

TRACK = 5.0
"""Mean number of photographs, one per metre, in which a point is found before the last one."""

OFF_RAD = 0.5 / 700
"""Angular error of a ray, radians: half a pixel."""

LEAST_ANGLE_DEG = 1.5
"""Smallest angle between the rays to a point, degrees; COLMAP drops points with less."""

WRONG = 0.02
"""Share of points that are matched wrongly."""

FLU_TO_CAMERA = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
"""Rotation from the vehicle's axes to the camera's."""

TILT = Rotation.from_euler("xyz", [0.3, 0.2, 1.1])
"""Rotation of the model's frame, which may be any."""


@dataclass(frozen=True)
class Camera:
    """The photographs of a route.

    Attributes:
        t_ns: (N,) times.
        poses: (N, 4, 4) vehicle frame -> map frame.
        world: The world that they show.
    """

    t_ns: Times
    poses: Array
    world: World


def ride(where: City, metres: float, settings: SimulateSettings) -> Camera:
    """The photographs of a route of ``metres``, one per metre."""
    route = open_trajectory("route", where, metres, 3)
    world = build_world(where, [route.poses[:, :2]], settings.world, settings.seed)
    step = np.linalg.norm(np.diff(route.poses[:, :2], axis=0), axis=1)
    travelled = np.insert(np.cumsum(step), 0, 0.0)
    sample = np.searchsorted(travelled, np.arange(1.0, travelled[-1] - 1.0))
    t_ns = np.unique(route.t_ns[sample] // 1000 * 1000)
    poses = vehicle_poses(route, world.terrain, settings)
    return Camera(t_ns, interpolate_se3(route.t_ns, poses, t_ns), world)


def structure(camera: Camera, rays: int) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
    """(P, 3) points in the map frame, and (P,) the first and last photographs that show each."""
    rng = np.random.default_rng(rays)
    share = np.array([FOUND_AGAIN[kind.name.lower()] for kind in Surface])
    photo = np.repeat(np.arange(len(camera.poses)), rays)
    picture = rng.uniform(-1, 1, (len(photo), 2)) * [WIDE, HIGH]
    local = np.column_stack([np.ones(len(photo)), picture])
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    ray = np.einsum("nij,nj->ni", camera.poses[photo, :3, :3], local)
    origin = camera.poses[photo, :3, 3]
    hits = camera.world.scene.cast(origin, ray)
    length = np.minimum(1 + rng.geometric(1 / TRACK, len(photo)), photo)
    # The camera moves nearly straight ahead: points at the side are triangulated best.
    far = np.minimum(hits.distance, FAR_M)
    angle = length * np.sqrt(1 - local[:, 0] ** 2) / np.maximum(far, 1.0)
    kept = (far < FAR_M) & (rng.random(len(photo)) < share[hits.kind])
    kept &= (length >= 2) & (angle > np.radians(LEAST_ANGLE_DEG))
    blur = OFF_RAD * far / np.maximum(angle, np.radians(LEAST_ANGLE_DEG))
    distance = far + rng.standard_normal(len(photo)) * blur
    distance *= np.where(rng.random(len(photo)) < WRONG, rng.uniform(0.3, 1.5, len(photo)), 1.0)
    points = origin + distance[:, None] * ray
    return points[kept], (photo - length)[kept], photo[kept]


def write_model(camera: Camera, rays: int, folder: Path) -> int:
    """Write a model as COLMAP does, and return its number of points."""
    points, first, last = structure(camera, rays)
    start = camera.poses[0, :3, 3]
    length = last - first + 1
    point = np.repeat(np.arange(len(points)), length)
    photo = np.arange(len(point)) - np.repeat(np.cumsum(length) - length - first, length)
    order = np.argsort(photo, kind="stable")
    seen = np.split(point[order] + 1, np.cumsum(np.bincount(photo, minlength=len(camera.poses))))
    with swapped_folder(folder) as new:
        with (new / "points3D.txt").open("w") as file:
            for number, xyz in enumerate(TILT.apply(points - start).tolist(), 1):
                file.write(f"{number} {xyz[0]:.4f} {xyz[1]:.4f} {xyz[2]:.4f} 90 90 90 0.5 1 0\n")
        with (new / "images.txt").open("w") as file:
            for number, (t_ns, pose) in enumerate(zip(camera.t_ns, camera.poses, strict=True), 1):
                turn = FLU_TO_CAMERA @ pose[:3, :3].T @ TILT.inv().as_matrix()
                shift = -turn @ TILT.apply(pose[:3, 3] - start)
                quaternion = Rotation.from_matrix(turn).as_quat()[[3, 0, 1, 2]]
                values = " ".join(f"{value:.9f}" for value in [*quaternion, *shift])
                file.write(f"{number} {values} 1 {t_ns // 1000}.jpg\n")
                file.write(" ".join(f"1 1 {n}" for n in seen[number - 1].tolist()) + "\n")
    return len(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--metres", type=float, default=600.0)
    given = parser.parse_args()
    where = city(given.data / "oxford" / "oxford.osm", given.work / "oxford")
    opened = open_city(where)
    camera = ride(opened, given.metres, load_settings(SimulateSettings, "simulate"))
    print(stamp(), end="\n\n")
    head("points a metre", "stage", "n", "<= 2 m", "<= 5 m", "median m", "localized", "> 10 m off")
    for rays in RAYS:
        model = given.work / f"photos_{rays}"
        density = write_model(camera, rays, model) / len(camera.poses)
        found = api.localize(opened, model, heading="unknown")
        truth = camera.poses[np.searchsorted(camera.t_ns, found.t_ns), :2, 3]
        for stage in ("aligned", "smoothed"):
            answer = found.stages[stage]
            error = np.hypot(*(answer.poses[:, :2] - truth).T)
            error[np.isnan(error)] = np.inf
            wrong = np.count_nonzero(error[answer.localized] > 10)
            within = [f"{np.mean(error <= limit):.2f}" for limit in (2, 5)]
            counts = [f"{answer.localized.sum()}", f"{wrong}"]
            row(
                f"{density:.0f}",
                stage,
                f"{len(error)}",
                *within,
                f"{np.median(error):.2f}",
                *counts,
            )


if __name__ == "__main__":
    main()
