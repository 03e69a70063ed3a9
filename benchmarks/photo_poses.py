"""Poses of simulated photographs in 6 degrees of freedom; prints a table.

Run: python benchmarks/photo_poses.py [DATA] [--work FOLDER] [--metres M] [--photos N]

A camera drives along a route through the world of Oxford's map (photos.py), whose heights are all
known here. The map search localizes its COLMAP model; its smoothed poses, level and at the camera's
height, are the priors of N photographs. The photographs' lines are paired with the edges of the
extruded footprints, and PnP with RANSAC finds their poses (maptile_loc/photo).

Worlds: ``map``, no difference from the map; ``houses``, only windows, bays and roofs; ``world``,
all differences, on flat ground. "prior" is the search's pose, "photo" that of the photographs, for
those that have one; errors are medians.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import geopandas as gpd
import numpy as np
from inputs import city
from numpy.typing import NDArray
from photos import Camera, ride, write_model
from stamp import head, row, stamp

from data_prep.city.folder import City, open_city
from data_prep.errors import MaptileError
from data_prep.geometry import Array, se3_from_xyzrpy, se3_inverse
from data_prep.simulate.record import SimulateSettings
from data_prep.simulate.scene.world import World, drawn_heights
from data_prep.simulate.scene.world_settings import WorldSettings
from maptile_loc import api
from maptile_loc.config import load_settings
from maptile_loc.photo.camera import PhotoCamera
from maptile_loc.photo.lines import image_lines
from maptile_loc.photo.pose import PhotoSettings, photo_pose
from maptile_loc.photo.wireframe import wireframe
from maptile_loc.render.extruded import extruded

ROOT = Path(__file__).parent.parent
"""Root of the repository."""

CAMERA = PhotoCamera(640, 400, 320.0)
"""The camera of the photographs, as wide as the one of photos.py."""

RAYS = 300
"""Rays of each photograph, which may become points of the COLMAP model."""

AMBIENT = 0.4
"""Brightness of a surface that is seen at grazing incidence, as a share of the greatest."""

NOISE = 2.0
"""Standard deviation of a pixel's noise, of 255."""

FLAT = {"slope": 0.0, "garden_slope": 0.0}
"""Settings of a world on flat ground."""

NOTHING = {
    name: 0.0
    for name, field in WorldSettings.model_fields.items()
    if isinstance(field.default, float)
}
"""Settings of a world that does not differ from the map."""

HOUSES = {
    name: WorldSettings.model_fields[name].default
    for name in ("relief_m", "glass", "dark", "bays_per_100m", "eaves_m", "roof_deg")
}
"""Settings of houses with windows, bays, eaves and gabled roofs."""


@dataclass(frozen=True, repr=False)
class Surveyed(City):
    """A city with a height of every building."""

    def buildings(self) -> gpd.GeoDataFrame:
        """The table of buildings, whose missing heights are drawn."""
        table = super().buildings()
        rng = np.random.default_rng(0)
        drawn = drawn_heights(table.geometry.to_numpy(), WorldSettings(), rng)
        return table.assign(height=table["height"].fillna(dict(enumerate(drawn))))


def photograph(world: World, pose: Array, seed: int) -> NDArray[np.uint8]:
    """(H, W) grey image: reflectance times cosine, sky white, with noise."""
    rays = CAMERA.rays(pose).reshape(-1, 3)
    hits = world.cast(np.broadcast_to(pose[:3, 3], rays.shape), rays)
    bright = np.sqrt(hits.reflectance * (AMBIENT + (1 - AMBIENT) * hits.cosine))
    grey = 255 * np.where(np.isfinite(hits.distance), 0.9 * bright, 1.0)
    grey += np.random.default_rng(seed).normal(0, NOISE, len(grey))
    return np.clip(grey, 0, 255).astype(np.uint8).reshape(CAMERA.height, CAMERA.width)


def priors(where: City, camera: Camera, folder: Path) -> tuple[NDArray[np.int64], Array]:
    """Return the photographs that the map search localizes, and (N, 4, 4) level priors of them."""
    write_model(camera, RAYS, folder)
    found = api.localize(where, folder, heading="unknown")
    answer = found.stages["smoothed"]
    poses = answer.poses[answer.localized]
    rows = np.searchsorted(camera.t_ns, found.t_ns[answer.localized])
    flat = np.zeros((len(poses), 6))
    flat[:, :2], flat[:, 5] = poses[:, :2], poses[:, 2]
    flat[:, 2] = np.median(camera.poses[:, 2, 3])
    return rows, se3_from_xyzrpy(flat)


def errors(poses: Array, truth: Array) -> Array:
    """(N, 4) horizontal and vertical errors, metres; of the heading and of the axes, degrees."""
    between = se3_inverse(truth) @ poses
    level = np.hypot(*(poses[:, :2, 3] - truth[:, :2, 3]).T)
    upright = np.abs(poses[:, 2, 3] - truth[:, 2, 3])
    heading = np.arctan2(between[:, 1, 0], between[:, 0, 0])
    trace = np.trace(between[:, :3, :3], axis1=1, axis2=2)
    turn = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    return np.column_stack([level, upright, np.degrees(np.abs(heading)), np.degrees(turn)])


def run(
    name: str, where: City, metres: float, photos: int, world: dict[str, float], work: Path
) -> None:
    """Print the rows of a world.

    Raises:
        MaptileError: No photograph is localized by the map search.
    """
    settings = load_settings(SimulateSettings, "simulate")
    changed = {"world": settings.world.model_copy(update=world)}
    camera = ride(where, metres, settings.model_copy(update=changed))
    rows, prior = priors(where, camera, work / f"photo_poses_{name}")
    if not len(rows):
        raise MaptileError(f"{name}: the map search localized none of the photographs")
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(photos, len(rows))).round().astype(int))
    blocks = extruded(where, 0)
    frame = wireframe(blocks)
    found = []
    for number in chosen:
        lines = image_lines(photograph(camera.world, camera.poses[rows[number]], int(number)))
        found.append(photo_pose(lines, blocks, frame, CAMERA, prior[number], PhotoSettings()))
    has = np.array([one is not None for one in found])
    truth = camera.poses[rows[chosen]]
    poses = np.array([one.pose for one in found if one is not None]).reshape(-1, 4, 4)
    for kind, answer, kept in (
        ("prior, all", prior[chosen], slice(None)),
        ("prior of those below", prior[chosen][has], has),
        ("photo", poses, has),
    ):
        off = errors(answer, truth[kept])
        if not len(off):
            row(name, kind, "0", *["-"] * 7)
            continue
        medians = [f"{value:.2f}" for value in np.median(off, axis=0)]
        within = [f"{np.mean(off[:, 0] <= limit):.2f}" for limit in (0.5, 1, 2)]
        row(name, kind, f"{len(off)}", *medians, *within)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", default=ROOT.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=ROOT / "runs")
    parser.add_argument("--metres", type=float, default=600.0)
    parser.add_argument("--photos", type=int, default=100, help="at most N photographs per world")
    given = parser.parse_args()
    opened = open_city(city(given.data / "oxford" / "oxford.osm", given.work / "oxford"))
    where = Surveyed(**{one.name: getattr(opened, one.name) for one in fields(opened)})
    print(stamp(), end="\n\n")
    columns = ("level m", "height m", "heading deg", "turn deg", "<= 0.5 m", "<= 1 m", "<= 2 m")
    head("world", "pose", "n", *columns)
    try:
        for name, world in (("map", NOTHING), ("houses", NOTHING | HOUSES), ("world", FLAT)):
            run(name, where, given.metres, given.photos, world, given.work)
    except MaptileError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
