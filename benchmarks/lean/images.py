"""The images at poses: views at eye level, or tiles of the map; kept on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.files import finish_swap, read_json, swapped_folder, write_json
from data_prep.geometry import Array
from data_prep.progress import Progress, silent, tracked
from lean.grid import PoseGrid
from maptile_loc.render.extruded import Blocks, extruded
from maptile_loc.render.eye_level import Camera, eye_views
from maptile_loc.render.window import MapWindowSettings, cut_windows, window_planes

CAMERA = Camera(size_px=48, field_rad=math.radians(60), height_m=1.7)
"""The camera. The paper's is as high; its size and angle of view are not published."""

FAR_M = 100.0
"""Depth from which on depth images are black, metres."""

FEWEST_EDGES = 8
"""Views with fewer edges are discarded, as in the paper."""

TILES = MapWindowSettings(look="filled", size_px=48, resolution=1.5)
"""Map tiles: buildings and roads, the direction of view upwards."""

IMAGES = {
    "edges": ("eye", (0,)),
    "faces": ("eye", (1,)),
    "depth": ("eye", (2,)),
    "edges+faces": ("eye", (0, 1)),
    "edges+faces+depth": ("eye", (0, 1, 2)),
    "tiles": ("tiles", (0, 1)),
}
"""Types of images: where they come from, and which of its channels."""

BATCH = 256
"""Poses that are rendered at a time."""

Pictures = Callable[[Array], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
"""(N, 4) poses -> (N, C, S, S) images, and (N,) whether they are kept."""


class ImageSet(NamedTuple):
    """Images and where they were taken.

    Attributes:
        images: (N, C, S, S) uint8, mapped from disk.
        units: (N, 4) poses in the grid's units.
    """

    images: NDArray[np.uint8]
    units: Array


class Kept(NamedTuple):
    """The images of a grid: those of its samples, and those of the middles of its cells."""

    known: ImageSet
    between: ImageSet


def kept_images(
    city: City, source: str, grid: PoseGrid, folder: Path, progress: Progress = silent
) -> Kept:
    """Return the images of a grid, rendered if ``folder`` does not hold them yet.

    Args:
        city: The city.
        source: ``eye`` (edges, faces, depth) or ``tiles`` (building, road).
        grid: The poses.
        folder: Where the images are kept.
        progress: Is called after each batch of poses.

    Raises:
        MaptileError: All poses are inside buildings or have no valid image.
    """
    made_from = {"city": city.content_hash, "source": source, **asdict(grid)}
    finish_swap(folder)
    if not (folder / "made.json").is_file() or read_json(folder / "made.json") != made_from:
        blocks = extruded(city, seed=0)
        pictures = map_tiles(city) if source == "tiles" else lean_views(blocks)
        with swapped_folder(folder) as new:
            for name, units in (("known", grid.samples()), ("between", grid.midpoints())):
                _write(new / name, pictures, grid, _free(units, grid, blocks), progress)
            write_json(new / "made.json", made_from)
    return Kept(_read(folder / "known"), _read(folder / "between"))


def lean_views(blocks: Blocks) -> Pictures:
    """Views at eye level: edges, faces, depth. Without a skyline or edges, they are discarded."""

    def pictures(poses: Array) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        views = eye_views(blocks, CAMERA, poses)
        near = np.clip(1 - views.depth / FAR_M, 0, 1)
        images = np.stack([views.edge, views.facade, near], axis=1) * 255
        kept = (views.edge_count() >= FEWEST_EDGES) & views.has_skyline()
        return images.astype(np.uint8), kept

    return pictures


def map_tiles(city: City) -> Pictures:
    """Tiles of the map: buildings and roads. All are kept, and the pitch has no meaning."""
    planes = window_planes(city.raster, TILES)

    def pictures(poses: Array) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        centre = torch.from_numpy(city.raster.pixel_from_world(poses[:, :2]))
        angle = torch.from_numpy(poses[:, 2] - np.pi / 2).float()
        tiles = cut_windows(planes, city.raster.resolution, centre, angle, TILES)
        return (tiles.numpy() * 255).astype(np.uint8), np.ones(len(poses), bool)

    return pictures


def _free(units: Array, grid: PoseGrid, blocks: Blocks) -> Array:
    """The poses outside buildings."""
    positions, number = np.unique(grid.poses(units)[:, :2], axis=0, return_inverse=True)
    return np.compress(blocks.free(positions)[number], units, axis=0)


def _write(
    folder: Path, pictures: Pictures, grid: PoseGrid, units: Array, progress: Progress
) -> None:
    folder.mkdir()
    parts = [units[at : at + BATCH] for at in range(0, len(units), BATCH)]
    valid, shape = [], (0,)
    with (folder / "images.raw").open("wb") as file:
        for part in tracked(parts, folder.name, len(parts), progress):
            images, kept = pictures(grid.poses(part))
            file.write(images[kept].tobytes())
            valid.append(part[kept])
            shape = images.shape[1:]
    if not sum(map(len, valid)):
        raise MaptileError("no valid image in the area; choose another city or a larger area")
    np.save(folder / "units.npy", np.concatenate(valid))
    write_json(folder / "shape.json", {"shape": list(shape)})


def _read(folder: Path) -> ImageSet:
    units = np.load(folder / "units.npy")
    shape = (len(units), *read_json(folder / "shape.json")["shape"])
    return ImageSet(np.memmap(folder / "images.raw", np.uint8, "r", shape=shape), units)
