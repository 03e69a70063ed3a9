"""Statistics of scans around the walls of a map, as ``realism.py`` prints them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scan_shapes import SEEN_M, ground_height
from scipy.ndimage import gaussian_filter1d

from data_prep.city.folder import City
from data_prep.drive import Drive
from data_prep.geometry import Array

LEAST_M = 6.0
"""Shortest wall that is used, metres."""


@dataclass(frozen=True)
class Wall:
    """A wall of the map, with the outside on the right.

    Attributes:
        a: (2,) east, north of its first end.
        along: (2,) unit vector to its other end.
        outward: (2,) unit normal, out of the building.
        length: Metres.
    """

    a: Array
    along: Array
    outward: Array
    length: float

    def local(self, xy: Array) -> tuple[Array, Array]:
        """(N,) metres along the wall, and out of it, of (N, 2) points in the map frame."""
        return (xy - self.a) @ self.along, (xy - self.a) @ self.outward


def walls_in_sight(city: City, path: Array) -> list[Wall]:
    """The walls that are visible from a trajectory on the map, up to ``SEEN_M`` away.

    Args:
        city: The city.
        path: (S, 2) points of the trajectory, map frame.
    """
    buildings = np.asarray(city.buildings().geometry.values, object)
    tree = shapely.STRtree(buildings)
    walls = []
    for polygon in buildings[
        tree.query(shapely.LineString(path), predicate="dwithin", distance=SEEN_M)
    ]:
        ring = shapely.get_coordinates(shapely.orient_polygons(polygon).exterior)
        for a, b in itertools.pairwise(ring):
            length = float(np.hypot(*(b - a)))
            along = (b - a) / max(length, 1e-9)
            outward = np.array([along[1], -along[0]])
            near = path[np.argmin(np.hypot(*(path - (a + b) / 2).T))]
            sight = shapely.LineString([(a + b) / 2 + 0.5 * outward, near])
            hidden = len(tree.query(sight, predicate="intersects")) > 0
            faces = (near - a) @ outward > 2 and sight.length < SEEN_M
            if length >= LEAST_M and faces and not hidden:
                walls.append(Wall(a, along, outward, length))
    return walls


def wall_statistics(
    drive: Drive, scans: NDArray[np.int64], city: City, off: Array
) -> dict[str, float]:
    """How the points of scans are distributed around the map's walls, and how much is visible.

    In each scan, each wall is moved to the line with the most points near it. So the errors of the
    map, of the INS and of the motion during a sweep do not count.

    Args:
        drive: A drive with truth.
        scans: Numbers of the scans that are used.
        city: The city.
        off: (2,) shift of the truth to the map, metres.
    """
    clouds, path = _in_the_map(drive, scans, city, off)
    walls = walls_in_sight(city, path)
    aside: list[Array] = []
    beside = [np.zeros(int(wall.length)) for wall in walls]
    for cloud in clouds:
        high = cloud[(cloud[:, 2] > 1.0) & (cloud[:, 2] < 5.0), :2]
        for wall, met in zip(walls, beside, strict=True):
            s, t = wall.local(high)
            local = (s > 0.5) & (s < wall.length - 0.5) & (np.abs(t) < 3.5)
            s, t = s[local], _from_the_wall(s[local], t[local])
            met += np.bincount(s[np.abs(t) < 0.3].astype(int), minlength=len(met))[: len(met)]
            if np.count_nonzero(np.abs(t) < 0.3) > 100:
                aside.append(t[np.abs(t) < 2])
    t = np.concatenate(aside)
    bounds = (-2.0, -0.5, -0.15, -0.05, 0.05, 0.15, 0.5, 2.0)
    behind = ("0.5-2 m behind", "15-50 cm behind", "5-15 cm behind")
    names = (*behind, "within 5 cm of", "5-15 cm before", "15-50 cm before", "0.5-2 m before")
    share = 100 * np.histogram(t, bounds)[0] / len(t)
    inner = np.concatenate([met[1:-1] for met in beside])
    return {
        "metres of the map's walls in sight": float(len(inner)),
        "of these seen by 100 points or more, %": 100 * float((inner >= 100).mean()),
    } | {f"points {n} a wall, %": float(v) for n, v in zip(names, share, strict=True)}


def _from_the_wall(s: Array, t: Array) -> Array:
    """(N,) distances from the line with the most points, from (N,) metres along and across."""
    edges = np.arange(-1.5, 1.525, 0.05)
    smooth = gaussian_filter1d(np.histogram(t, edges)[0].astype(float), 1.5)
    t = t - (edges[np.argmax(smooth)] + 0.025)
    for width in (0.4, 0.25, 0.15, 0.1):
        on = np.abs(t) < width
        if np.count_nonzero(on) < 10:
            break
        slope, height = np.polyfit(s[on], t[on], 1)
        t = t - np.clip(slope, -0.1, 0.1) * (s - s[on].mean()) - (height + slope * s[on].mean())
    return t


def _in_the_map(
    drive: Drive, scans: NDArray[np.int64], city: City, off: Array
) -> tuple[list[Array], Array]:
    """(N, 3) points of each scan, east, north and height, and (S, 2) positions of the scans."""
    projection = city.raster.projection
    assert drive.truth is not None
    clouds, path = [], []
    for scan in scans.tolist():
        block = drive.scans.read(scan, scan + 1)
        latitude, longitude, heading = (v[0] for v in drive.truth.at(block.t_ns))
        if not np.isfinite(latitude):
            continue
        heading = heading + projection.convergence(latitude, longitude)
        points = block.points[np.hypot(*block.points[:, :2].T) < SEEN_M + 5].astype(np.float64)
        turn = np.exp(1j * heading) * (points[:, 0] + 1j * points[:, 1])
        here = projection.forward(np.array([latitude]), np.array([longitude]))[0] + off
        path.append(here)
        height = points[:, 2] - ground_height(points)
        clouds.append(np.column_stack([turn.real + here[0], turn.imag + here[1], height]))
    return clouds, np.array(path)
