"""Rays that are cast at the surfaces of a simulated world."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from data_prep.geometry import Array
from data_prep.simulate.scene.facades import Facades
from data_prep.simulate.scene.surfaces import Surface

_INSIDE_REFLECTANCE = 0.3
"""Reflectance of the inside of a building, as a multiple of that of its walls."""


@dataclass(frozen=True)
class Hits:
    """What N rays hit.

    Attributes:
        distance: (N,) float32 metres, infinite where a ray hits nothing.
        kind: (N,) uint8, the ``Surface`` that is hit; arbitrary where nothing is.
        reflectance: (N,) float32, 0 to 1.
        cosine: (N,) float32, cosine of the angle between ray and surface normal, 0 to 1.
    """

    distance: NDArray[np.float32]
    kind: NDArray[np.uint8]
    reflectance: NDArray[np.float32]
    cosine: NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """The surfaces of a world: V vertices of T triangles. Objects can be sent to other processes.

    Attributes:
        vertices: (V, 3) float32: metres east and north of ``origin``, and the height above the
            mean ground.
        triangles: (T, 3) uint32, the numbers of their vertices.
        origin: (2,) east, north in the map frame, metres.
        kind: (T,) uint8, ``Surface`` of each triangle.
        reflectance: (T,) float32, 0 to 1.
        wall: (T,) int32, row of ``facades`` that each triangle belongs to, -1 where to none.
        facades: The patterns of the buildings' walls.
    """

    vertices: NDArray[np.float32]
    triangles: NDArray[np.uint32]
    origin: Array
    kind: NDArray[np.uint8]
    reflectance: NDArray[np.float32]
    wall: NDArray[np.int32]
    facades: Facades

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_raycasting"}

    @cached_property
    def _raycasting(self) -> Any:
        """The triangles as Open3D casts rays at them."""
        scene = o3d.t.geometry.RaycastingScene()
        scene.add_triangles(
            o3d.core.Tensor.from_numpy(self.vertices), o3d.core.Tensor.from_numpy(self.triangles)
        )
        return scene

    def cast(
        self, origins: NDArray[np.floating], directions: NDArray[np.floating], threads: int = 0
    ) -> Hits:
        """Return what N rays hit.

        Args:
            origins: (N, 3) east, north in the map frame and height, metres.
            directions: (N, 3) unit vectors.
            threads: Threads that cast them; 0: as many as there are cores.
        """
        rays = np.empty((len(origins), 6), np.float32)
        rays[:, :2] = origins[:, :2] - self.origin
        rays[:, 2] = origins[:, 2]
        rays[:, 3:] = directions
        answer = self._raycasting.cast_rays(o3d.core.Tensor.from_numpy(rays), threads)
        distance = answer["t_hit"].numpy()
        hit = np.isfinite(distance)
        triangle = np.where(hit, answer["primitive_ids"].numpy(), 0)
        normals = answer["primitive_normals"].numpy()
        cosine = np.abs(np.einsum("ij,ij->i", normals, rays[:, 3:]))
        kind, reflectance = self.kind[triangle], self.reflectance[triangle]
        wall = self.wall[triangle]
        at = np.flatnonzero(hit & (wall >= 0))
        ray = rays[at]
        point = ray[:, :3] + distance[at, None] * ray[:, 3:]
        further, met = self.facades.meet(wall[at], point, ray[:, 3:])
        distance[at] += further
        kind[at] = met
        reflectance[at[met == Surface.INSIDE]] *= _INSIDE_REFLECTANCE
        return Hits(distance, kind, reflectance, cosine)
