"""A city as blocks: its footprints, extruded by their heights, without texture, roofs or ground."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import open3d as o3d
import shapely
from numpy.typing import NDArray

from data_prep.city.folder import City
from data_prep.errors import MaptileError
from data_prep.geometry import Array
from data_prep.simulate.scene.houses import Houses, WallPlanes
from data_prep.simulate.scene.meshes import panels
from data_prep.simulate.scene.surfaces import Surface
from data_prep.simulate.scene.world import drawn_heights
from data_prep.simulate.scene.world_settings import WorldSettings

STRAIGHT_M = 0.1
"""Corners of a footprint that deviate less from a straight wall are left out, metres."""

NOTHING = -1
"""Face of a ray that meets no wall."""


@dataclass(frozen=True)
class Blocks:
    """The walls of a city, to cast rays at. Flat roofs are above the eye, so they are left out.

    Attributes:
        walls: The W walls; a wall is a face. Coordinates of the map frame, foot at height 0.
        footprints: (B,) polygons of the buildings in the map frame.
        origin: (2,) east, north of the scene's origin in the map frame, metres.
        scene: Open3D ray casting scene, two triangles per wall, relative to ``origin``.
    """

    walls: WallPlanes
    footprints: NDArray[Any]
    origin: Array
    scene: Any

    def cast(
        self, origins: NDArray[np.floating], rays: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Return where rays end.

        Args:
            origins: (N, 3) east, north in the map frame and height above the ground, metres.
            rays: (N, 3) directions of any length.

        Returns:
            (N,) float32, distance in lengths of the ray, infinite where it meets nothing; and (N,)
            int32, the row of ``walls`` that it meets, or ``NOTHING``.
        """
        both = np.empty((len(origins), 6), np.float32)
        both[:, :2] = origins[:, :2] - self.origin
        both[:, 2] = origins[:, 2]
        both[:, 3:] = rays
        answer = self.scene.cast_rays(o3d.core.Tensor.from_numpy(both))
        distance = answer["t_hit"].numpy()
        face = (answer["primitive_ids"].numpy() // 2).astype(np.int32)
        return distance, np.where(np.isfinite(distance), face, np.int32(NOTHING))

    def free(self, positions: Array) -> NDArray[np.bool_]:
        """Return (N,) whether (N, 2) positions, map frame, are outside all buildings."""
        result = np.ones(len(positions), bool)
        tree = shapely.STRtree(self.footprints)
        result[tree.query(shapely.points(positions), predicate="intersects")[0]] = False
        return result


def extruded(city: City, seed: int) -> Blocks:
    """Return the blocks of a city, with known heights, or else drawn ones.

    Args:
        city: The map.
        seed: Of the heights that are drawn, as those of simulated worlds are.

    Raises:
        MaptileError: The city has no buildings.
    """
    table = city.buildings()
    if table.empty:
        raise MaptileError(f"{city.name}: has no buildings to extrude")
    footprints = np.asarray(table.geometry.values, object)
    drawn = drawn_heights(footprints, WorldSettings(), np.random.default_rng(seed))
    known = table["height"].to_numpy(np.float64)
    return blocks(footprints, np.where(np.isnan(known), drawn, known), city.raster.centre)


def blocks(footprints: NDArray[Any], height: Array, origin: Array) -> Blocks:
    """Return the blocks of (B,) footprints in the map frame with (B,) heights, metres.

    Args:
        footprints: Polygons or multipolygons.
        height: Above the ground, metres.
        origin: (2,) east, north near the footprints, metres.
    """
    plain = shapely.simplify(footprints, STRAIGHT_M)
    nothing = np.zeros(len(plain))
    walls = WallPlanes.of(Houses(plain, height, nothing, nothing))
    mesh = panels(
        walls.a - origin,
        walls.b - origin,
        walls.foot,
        walls.foot + walls.height,
        np.zeros(len(walls.a)),
        Surface.BUILDING,
    )
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(mesh.vertices.astype(np.float32)),
        o3d.core.Tensor.from_numpy(mesh.triangles.astype(np.uint32)),
    )
    return Blocks(walls, plain, origin, scene)
